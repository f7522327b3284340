package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"sluice/perf/report"
	"sluice/perf/result"
)

func perfReportCommand() *cli.Command {
	return &cli.Command{
		Name: "report", Usage: "make one HTML page with drawings, and a Markdown table, of files of results",
		UsageText: "sluice perf report FILE.json … [-o REPORT.html] [--markdown REPORT.md]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "out", Aliases: []string{"o"}, Usage: "write the page to `FILE`; it needs no other", Value: "sluice-perf.html"},
			&cli.StringFlag{Name: "markdown", Usage: "write the tables to `FILE` instead of standard output"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usagef("report takes files of results: sluice perf report FILE.json …")
			}
			var files []*result.File
			for _, name := range c.Args().Slice() {
				f, err := result.ReadFile(name)
				if err != nil {
					return err
				}
				files = append(files, f)
			}
			return perfReport(c, files)
		},
	}
}

func perfReport(c *cli.Context, files []*result.File) error {
	var page, table bytes.Buffer
	if err := report.HTML(&page, files); err != nil {
		return err
	}
	if err := report.Markdown(&table, files); err != nil {
		return err
	}
	if err := os.WriteFile(c.String("out"), page.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if name := c.String("markdown"); name != "" {
		if err := os.WriteFile(name, table.Bytes(), 0o644); err != nil {
			return fmt.Errorf("write the table: %w", err)
		}
	} else if _, err := c.App.Writer.Write(table.Bytes()); err != nil {
		return err
	}
	written := c.String("out")
	if name := c.String("markdown"); name != "" {
		written += ", " + name
	}
	fmt.Fprintln(c.App.ErrWriter, "written:", written)
	return nil
}
