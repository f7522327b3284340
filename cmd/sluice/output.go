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

// defaultSocket is where a running sluice is asked, unless its file says otherwise.
const defaultSocket = "/run/sluice/sluice.sock"

// connectFlags say which running sluice is asked.
func connectFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "socket", Usage: "control socket of the running sluice at `PATH`", Value: defaultSocket},
		&cli.StringFlag{Name: "server", Usage: "a sluice elsewhere, at `HOST:PORT` (control.listen), in the place of --socket"},
		&cli.StringFlag{Name: "cert", Usage: "client certificate for --server: `FILE`, PEM"},
		&cli.StringFlag{Name: "key", Usage: "its private key: `FILE`, PEM"},
		&cli.StringFlag{Name: "ca", Usage: "CA of the server's certificate: `FILE`, PEM; without it the host's CAs"},
	}
}

// The flags of every command that asks a running sluice.
func clientFlags(more ...cli.Flag) []cli.Flag {
	return append(append(connectFlags(),
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT` of the answer: table, wide or json", Value: "table"}), more...)
}

// orderFlags are those of commands that change something: their answer is a line, or JSON.
func orderFlags(more ...cli.Flag) []cli.Flag {
	return append(append(connectFlags(),
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT` of the answer: table or json", Value: "table"}), more...)
}

// client is a client of the sluice that the flags name.
func client(c *cli.Context) (*ctl.Client, error) {
	r := ctl.Remote{Server: c.String("server"), CertFile: c.String("cert"), KeyFile: c.String("key"), CAFile: c.String("ca")}
	switch {
	case r.Server == "" && (r.CertFile != "" || r.KeyFile != "" || r.CAFile != ""):
		return nil, usagef("--cert, --key and --ca are for --server HOST:PORT")
	case r.Server == "":
		return ctl.NewClient(c.String("socket")), nil
	case c.IsSet("socket"):
		return nil, usagef("--socket and --server name two sluices; leave one out")
	case r.CertFile == "" || r.KeyFile == "":
		return nil, usagef("--server needs a client certificate and its key: --cert FILE --key FILE")
	}
	return ctl.NewRemoteClient(r)
}

// fetch has the sluice that the flags name answer path.
func fetch(c *cli.Context, path string, v any) error {
	cl, err := client(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	return cl.Get(c.Context, path, v)
}

// outputFormat is the value of --output, one of formats.
func outputFormat(c *cli.Context, formats ...string) (string, error) {
	f := c.String("output")
	if slices.Contains(formats, f) {
		return f, nil
	}
	list := strings.Join(formats[:len(formats)-1], ", ") + " and " + formats[len(formats)-1]
	if near := nearest(f, formats); near != "" {
		return "", usagef("no output format %q; did you mean %q? There are %s", f, near, list)
	}
	return "", usagef("no output format %q; there are %s", f, list)
}

// column is a column of a table over values of type T; wide columns show only with -o wide.
type column[T any] struct {
	title string
	wide  bool
	value func(*T) any
}

// list asks for path and prints the answer as the flags say.
func list[T any](c *cli.Context, path string, query url.Values, columns []column[T]) error {
	return listSome(c, path, query, columns, func(*T) bool { return true }, "")
}

// listSome is list with only those rows in tables that show wants; where that leaves none, it says so in words. Programs get all.
func listSome[T any](c *cli.Context, path string, query url.Values, columns []column[T], show func(*T) bool, none string) error {
	format, err := outputFormat(c, "table", "wide", "json")
	if err != nil {
		return err
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	rows := []T{}
	if err := fetch(c, path, &rows); err != nil {
		return err
	}
	if format == "json" {
		return printJSON(c.App.Writer, rows)
	}
	rows = slices.DeleteFunc(rows, func(v T) bool { return !show(&v) })
	if len(rows) == 0 && none != "" {
		_, err := fmt.Fprintln(c.App.Writer, none)
		return err
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
