package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

// The flags of every command that asks a running sluice.
func clientFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "socket", Usage: "control socket of the running sluice at `PATH`", Value: "/run/sluice/sluice.sock"},
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT` of the answer: table, wide or json", Value: "table"},
	}, more...)
}

// column is a column of a table over values of type T; wide columns show only with -o wide.
type column[T any] struct {
	title string
	wide  bool
	value func(*T) any
}

// list asks for path and prints the answer as the flags say.
func list[T any](c *cli.Context, path string, query url.Values, columns []column[T]) error {
	format := c.String("output")
	if format != "table" && format != "wide" && format != "json" {
		return usagef("no output format %q; there are table, wide and json", format)
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	rows := []T{}
	if err := ctl.Get(c.Context, c.String("socket"), path, &rows); err != nil {
		return err
	}
	if format == "json" {
		return printJSON(c.App.Writer, rows)
	}
	return printTable(c.App.Writer, rows, columns, format == "wide")
}

func printTable[T any](w io.Writer, rows []T, columns []column[T], wide bool) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	line := func(cell func(column[T]) string) {
		var cells []string
		for _, col := range columns {
			if wide || !col.wide {
				cells = append(cells, cell(col))
			}
		}
		fmt.Fprintln(tw, strings.TrimRight(strings.Join(cells, "\t"), "\t "))
	}
	line(func(col column[T]) string { return col.title })
	for i := range rows {
		line(func(col column[T]) string { return fmt.Sprint(col.value(&rows[i])) })
	}
	return tw.Flush()
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// noun is a command that lists when it stands alone.
func noun(name, usage string, flags []cli.Flag, show func(*cli.Context) error, more ...*cli.Command) *cli.Command {
	flags = append(slices.Clip(flags), watchFlag())
	action := func(c *cli.Context) error {
		if c.Args().Present() {
			return noCommand(c, name)
		}
		return watching(c, show)
	}
	return &cli.Command{
		Name: name, Usage: usage, Flags: flags, Action: action,
		Subcommands: append([]*cli.Command{{Name: "list", Usage: usage, Flags: flags, Action: action}}, more...),
	}
}
