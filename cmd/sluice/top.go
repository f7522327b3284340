package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/gdamore/tcell/v2"
	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

func topCommand() *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "show rates on a screen that is refreshed: virtual servers, members, workers",
		UsageText: "sluice top [--interval D]",
		Description: "Keys: p packets, b bits, o opened connections, c connections, n name (what the tables are sorted by), r the other way round, " +
			"space stands still, q quits.",
		Flags: append(connectFlags(), &cli.DurationFlag{Name: "interval", Usage: "time between two looks: `D`, 100ms or more", Value: time.Second}),
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if d := c.Duration("interval"); d < 100*time.Millisecond || d > time.Hour {
				return usagef("--interval %s is not between 100ms and 1h", d)
			}
			cl, err := client(c)
			if err != nil {
				return err
			}
			defer cl.Close()
			var first ctl.StatsView // before the screen is another: an error stays on it
			if err := cl.Get(c.Context, "/v1/stats", &first); err != nil {
				return err
			}
			if terminalOf(os.Stdout) == nil {
				return errors.New("top needs a terminal; elsewhere use sluice worker --watch, or --watch of another list")
			}
			screen, err := tcell.NewScreen()
			if err != nil {
				return fmt.Errorf("the terminal (TERM=%s) cannot be used: %w", os.Getenv("TERM"), err)
			}
			return runTop(c.Context, screen, &first, follow(cl, c.Duration("interval")))
		},
	}
}

// look is what a source of looks has found.
type look struct {
	stats *ctl.StatsView
	err   error
}

// source sends looks until ctx ends.
type source func(ctx context.Context, looks chan<- look)

// follow is the stream of an engine; of one that has gone it waits for the next.
func follow(cl *ctl.Client, every time.Duration) source {
	path := "/v1/stats?" + url.Values{"watch": {every.String()}}.Encode()
	return func(ctx context.Context, looks chan<- look) {
		send := func(l look) error {
			select {
			case looks <- l:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for ctx.Err() == nil {
			err := ctl.Stream(ctx, cl, path, func(v *ctl.StatsView) error { return send(look{stats: v}) })
			if send(look{err: err}) != nil {
				return
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
}

// runTop draws until a key or ctx ends it. However it ends, a panic included, the terminal is as it was.
func runTop(ctx context.Context, screen tcell.Screen, first *ctl.StatsView, from source) error {
	if err := screen.Init(); err != nil {
		return fmt.Errorf("set up the terminal: %w", err)
	}
	defer screen.Fini()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	looks, events := make(chan look), make(chan tcell.Event)
	go from(ctx, looks)
	go screen.ChannelEvents(events, ctx.Done())
	t := newTop()
	t.add(first)
	for {
		t.draw(screen)
		select {
		case <-ctx.Done():
			return nil
		case l := <-looks:
			if t.err = l.err; l.stats != nil && !t.still {
				t.add(l.stats)
			}
		case e := <-events:
			switch e := e.(type) {
			case *tcell.EventResize:
				screen.Sync()
			case *tcell.EventKey:
				if t.key(e) {
					return nil
				}
			}
		}
	}
}
