// Command nictest proves sluice on real NIC drivers in an emulated machine; see perf/lab/vm. The same binary is process 1
// of that machine. `make nic-test` builds what it needs and runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"sluice/perf/lab/vm"
)

// totalTime bounds a run of everything.
const totalTime = 10 * time.Minute

func main() {
	if os.Getpid() == 1 {
		fmt.Fprintln(os.Stderr, "nictest: the guest ends:", vm.Init())
		return
	}
	os.Exit(run())
}

func run() int {
	cache := flag.String("cache", ".cache/nictest", "`directory` for packages and kernels")
	sluice := flag.String("sluice", "bin/sluice", "the static `binary` under test")
	only := flag.String("only", "", "run only the scenario `name`")
	step := flag.String("step", "", "do only the `step` of that name")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, totalTime)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "nictest:", err)
		return 1
	}
	start := time.Now()
	o := vm.Options{Cache: *cache, Sluice: *sluice, Init: self, Log: func(format string, args ...any) {
		fmt.Printf("%5.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}}
	failed, ran := 0, 0
	for _, s := range vm.Scenarios() {
		if *only != "" && s.Name != *only {
			continue
		}
		ran++
		s.Plan.Only = *step
		if s.Taps() {
			if err := vm.CheckTaps(ctx); err != nil {
				if os.Getenv("SLUICE_LAB") == "require" {
					return skip(err)
				}
				fmt.Printf("%s: with one queue instead of %d: %v\n", s.Name, s.Queues, err)
				s.Queues = 1
			}
		}
		records, err := vm.Run(ctx, s, o)
		if errors.Is(err, vm.ErrUnavailable) {
			return skip(err)
		}
		saveRecords(filepath.Join(*cache, "records-"+s.Name+".json"), records)
		problems := vm.Judge(s, records)
		if err != nil {
			problems = append(problems, err)
		}
		for _, p := range problems {
			fmt.Printf("FAIL %s: %v\n", s.Name, p)
		}
		if len(problems) > 0 {
			failed++
			continue
		}
		fmt.Printf("ok   %s: %s\n", s.Name, vm.Summary(records))
	}
	switch {
	case ran == 0:
		fmt.Fprintf(os.Stderr, "nictest: there is no scenario %q\n", *only)
		return 2
	case failed > 0:
		fmt.Printf("%d of %d scenarios failed; consoles and records are in %s\n", failed, ran, *cache)
		return 1
	}
	return 0
}

// saveRecords keeps what the guest reported, for a look at single sessions.
func saveRecords(path string, records []vm.Record) {
	text, err := json.MarshalIndent(records, "", " ")
	if err == nil {
		err = os.WriteFile(path, text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nictest:", err)
	}
}

// skip says why nothing was tested; where lab tests are required that is a failure.
func skip(err error) int {
	fmt.Println("nic-test skipped:", err)
	if os.Getenv("SLUICE_LAB") == "require" {
		fmt.Println("FAIL: SLUICE_LAB=require")
		return 1
	}
	return 0
}
