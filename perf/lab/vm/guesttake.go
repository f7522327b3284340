package vm

import (
	"context"
	"fmt"
	"os/exec"
	"sync/atomic"
	"time"
)

// takenOver starts a second sluice that takes over from the first, while transfers run: the first ends by itself, in order,
// and no transfer notices.
func (g *guest) takenOver(ctx context.Context) error {
	old, err := g.start()
	if err != nil {
		return err
	}
	if err := g.ready(ctx, old); err != nil {
		return err
	}
	var moved atomic.Int64
	var over atomic.Bool
	done := make(chan struct{})
	go func() { // in rounds, so that there are some at any moment
		defer close(done)
		for n := sessions(g.step); !over.Load() && ctx.Err() == nil; {
			g.transfers(ctx, n.conns, n.size, &moved)
		}
	}()
	defer over.Store(true)
	if err := until(ctx, "the transfers move", func() bool { return moved.Load() > 512<<10 }); err != nil {
		return err
	}
	h := &Handover{MovedBefore: moved.Load()}
	pause := longestPause(&moved)
	start := time.Now()
	d, err := g.successor(ctx, old, h)
	if err != nil && g.plan.TakeoverRefused {
		at := moved.Load()
		if err := until(ctx, "the transfers go on", func() bool { return moved.Load() > at+64<<10 }); err != nil {
			g.report(Record{Failed: err.Error()})
		}
		h.PauseMS = pause().Milliseconds()
		over.Store(true)
		<-done
		h.MovedAfter = moved.Load() - at
		return g.afterHandover(ctx, old, h)
	}
	if err != nil {
		return fmt.Errorf("%w\nthe first sluice:\n%s", err, old.log)
	}
	h.ServingMS = time.Since(start).Milliseconds()
	select {
	case <-old.Done():
	case <-time.After(stopTime):
		return fmt.Errorf("the first sluice has not ended after %s\n%s", stopTime, old.log)
	}
	h.EndedMS = time.Since(start).Milliseconds()
	ended := moved.Load()
	if err := old.Wait(); err != nil {
		h.ExitCode = 1
		if e, ok := err.(*exec.ExitError); ok {
			h.ExitCode = e.ExitCode()
		}
		g.report(Record{Failed: fmt.Sprintf("the first sluice: %v\n%s", err, old.log)})
	}
	if err := until(ctx, "the transfers go on", func() bool { return moved.Load() > ended }); err != nil {
		g.report(Record{Failed: err.Error()})
	}
	h.PauseMS = pause().Milliseconds()
	over.Store(true)
	<-done
	h.MovedAfter = moved.Load() - ended
	return g.afterHandover(ctx, d, h)
}

// afterHandover reports it, and ends the sluice that serves.
func (g *guest) afterHandover(ctx context.Context, d *daemon, h *Handover) error {
	g.report(Record{Handover: h})
	if err := g.state(ctx, nil); err != nil {
		g.report(Record{Failed: err.Error()})
	}
	return g.stop(d)
}

// takeTries is how often a takeover is begun.
const takeTries = 4

// successor takes over. The pause of a takeover is bounded by two seconds, in which an emulated machine on a busy host may not
// come to its end; then the predecessor must carry on, and it is tried again.
func (g *guest) successor(ctx context.Context, old *daemon, h *Handover) (*daemon, error) {
	for {
		d, err := g.start("--takeover")
		if err == nil {
			return d, nil
		}
		h.Refused = append(h.Refused, err.Error())
		select {
		case <-old.Done():
			return nil, fmt.Errorf("both have ended: %w", err)
		default:
		}
		if g.plan.TakeoverRefused || len(h.Refused) == takeTries || ctx.Err() != nil {
			return nil, err
		}
	}
}

// longestPause watches a counter of payload bytes until the returned function is called, which returns the longest time in
// which it stood still.
func longestPause(moved *atomic.Int64) func() time.Duration {
	stop, longest := make(chan struct{}), make(chan time.Duration)
	at, since := moved.Load(), time.Now()
	go func() {
		var pause time.Duration
		for ; ; time.Sleep(time.Millisecond) {
			pause = max(pause, time.Since(since)) // before the look, so that it is never too short
			if now := moved.Load(); now != at {
				at, since = now, time.Now()
			}
			select {
			case <-stop:
				longest <- pause
				return
			default:
			}
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-longest
	}
}
