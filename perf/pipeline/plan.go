package pipeline

import (
	"fmt"
	"time"
)

// What it takes to prepare a case, for each of its connections, measured on a 2-core virtual machine of 3.5 GHz: to open them, to build their
// packets, and to fill a Go map.
const (
	openTime    = 1200 * time.Nanosecond
	packetsTime = 700 * time.Nanosecond
	mapTime     = 500 * time.Nanosecond
	newPrepare  = 900 * time.Millisecond // of first packets
	// stagesFactor is how many times as long as asked for a profiled run takes, as the worker's speed is found first.
	stagesFactor = 1.65
	// Rules of the XDP program are loaded one by one.
	ruleTime, programTime = 220 * time.Microsecond, 200 * time.Millisecond
)

// expected is how long cases should take, each in every repetition, and what they are in words. Those that do not fit into memory take
// nothing.
func (o *Options) expected(all []point, rules []int) (d time.Duration, what string) {
	beds, maps := map[string]bool{}, map[string]bool{}
	cases := 0
	for i := range all {
		p := &all[i]
		if tooLarge(p, !beds[p.key()]) != "" {
			continue
		}
		cases++
		n := time.Duration(p.connections)
		// The engine has a warm-up, the generator, the floor and the Go map a third each.
		each := o.Duration*6/5 + 2*o.Duration/3
		if p.connections == Each {
			d += newPrepare
		} else {
			each += o.Duration / 3
			d += n * packetsTime
			if !beds[p.key()] {
				d += n * openTime
			}
			if !maps[mapKeyOf(p)] {
				d += n * mapTime
			}
		}
		beds[p.key()], maps[mapKeyOf(p)] = true, true
		d += time.Duration(o.Runs)*(each+10*time.Millisecond) + time.Duration(stagesFactor*float64(o.Stages))
	}
	for _, n := range rules {
		d += time.Duration(o.Runs) * (programTime + time.Duration(n)*ruleTime)
	}
	plural := func(n int, word string) string {
		if n != 1 {
			word += "s"
		}
		return fmt.Sprintf("%d %s", n, word)
	}
	return d, fmt.Sprintf("%s, %s of each", plural(cases+len(rules), "case"), plural(o.Runs, "repetition"))
}
