package link

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sluice/perf/gen"
	"sluice/perf/result"
)

// LinkOptions are those of Link.
type LinkOptions struct {
	Flows      []int    // connections, 0 for every packet a new one; none: HTTP alone
	Sizes      []string // 64, imix, 1500
	Directions []string // one-way, both
	Modes      []string // of AF_XDP, for the product: auto, copy, generic, zero-copy
	Rate       int      // packets per second, 0 flat out
	Search     bool     // the loss-free rate too
	Loss       float64  // that is still loss-free, 0 to 1
	HTTP       bool     // the TCP part
	RingSize   int
}

// frameSizes are the words for sizes: frames with their check sequence, as they are counted on a wire.
var frameSizes = map[string][]int{"64": {60}, "imix": gen.IMIX, "1500": {1514}}

// SizeNames are the words for sizes.
func SizeNames() []string { return []string{"64", "imix", "1500"} }

// linkCase is a traffic that every carrier meets.
type linkCase struct {
	flows int
	size  string
	both  bool
	mode  string
}

func (k linkCase) name() string {
	n := "flows=new"
	if k.flows > 0 {
		n = fmt.Sprintf("flows=%d", k.flows)
	}
	if k.size != "64" {
		n += "/size=" + k.size
	}
	if k.both {
		n += "/direction=both"
	}
	if k.mode != "auto" {
		n += "/mode=" + k.mode
	}
	return n
}

func (k linkCase) delivery() delivery {
	if k.both {
		return answers
	}
	return requests
}

// carries reports whether a carrier can meet the case.
func (k linkCase) carries(c carrier) bool {
	product := strings.HasPrefix(c.name, "sluice")
	switch {
	case c.proxy, k.mode != "auto" && !product:
		return false
	case k.both && c.reflects: // there is nobody to answer
		return false
	}
	return true
}

// cases are all combinations of flows at the first size and direction, then other sizes and directions at 1000 flows, or
// the first number given.
func (o *LinkOptions) cases() (list []linkCase) {
	if len(o.Flows) == 0 {
		return nil
	}
	middle := o.Flows[0]
	if slices.Contains(o.Flows, 1000) {
		middle = 1000
	}
	first := linkCase{flows: middle, size: o.Sizes[0], both: o.Directions[0] == "both", mode: o.Modes[0]}
	for _, f := range o.Flows {
		k := first
		k.flows = f
		list = append(list, k)
	}
	for _, d := range o.Directions[1:] {
		k := first
		k.both = d == "both"
		list = append(list, k)
	}
	for _, s := range o.Sizes[1:] {
		k := first
		k.size = s
		list = append(list, k)
	}
	for _, m := range o.Modes[1:] {
		k := first
		k.mode = m
		list = append(list, k)
	}
	return list
}

// room is the table that a case needs.
func (k linkCase) room() int {
	if k.flows == 0 {
		return 2 << 20
	}
	return max(1<<18, 4*k.flows)
}

// Modes is how carriers really ran.
type Modes map[string]string

func (m Modes) String() string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, k+": "+m[k])
	}
	return strings.Join(list, " | ")
}

// Link measures what carriers carry, and records it.
func Link(ctx context.Context, o Options, l LinkOptions, rec *result.Recorder) (_ Modes, err error) {
	if o.Install {
		install(ctx, &o)
	}
	b, err := openBed(ctx, &o)
	if err != nil {
		return nil, err
	}
	defer func() { err = b.end(ctx, rec, err) }()
	o.begin(l.plan(&o))
	modes := Modes{}
	for run := range o.Runs {
		if err := b.anchor(ctx, rec, "before"); err != nil {
			return modes, err
		}
		for _, k := range l.cases() {
			if err := b.linkCase(ctx, &l, k, run, rec, modes); err != nil {
				return modes, err
			}
		}
		if l.HTTP {
			if err := b.http(ctx, run, rec, modes); err != nil {
				return modes, err
			}
		}
		if err := b.anchor(ctx, rec, "after"); err != nil {
			return modes, err
		}
	}
	return modes, nil
}

// anchor is the same small measurement before and after, so that a machine that drifts is seen to.
func (b *bed) anchor(ctx context.Context, rec *result.Recorder, when string) error {
	b.opt.step("anchor %s", when)
	c := find("forward-inline")
	r, err := c.up(ctx, b, setup{core: b.opt.CarrierCore})
	if err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	s, err := b.flatOut(ctx, c, r, b.load(gen.Load{Flows: 1000}), requests)
	if err = errors.Join(err, r.down()); err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	rec.Add("anchor/"+when, result.Metrics{"mpps": s.rate / 1e6, "core_percent": 100 * s.share})
	return nil
}

// turn is the order of carriers in a repetition: another begins each time.
func (o *Options) turn(run int) []carrier {
	all := carriers()
	var list []carrier
	for i := range all {
		if c := all[(i+run)%len(all)]; o.wanted(c.name) {
			list = append(list, c)
		}
	}
	return list
}

func (b *bed) linkCase(ctx context.Context, l *LinkOptions, k linkCase, run int, rec *result.Recorder, modes Modes) error {
	load := b.load(gen.Load{Flows: k.flows, Sizes: frameSizes[k.size], Rate: l.Rate})
	rates, free := map[string]float64{}, map[string]float64{}
	for _, c := range k.turn(b.opt, run) {
		name := c.name + "/" + k.name()
		b.opt.step("run %d of %d: %s", run+1, b.opt.Runs, name)
		m, err := b.carried(ctx, l, k, c, load, modes)
		if absent(err) {
			rec.Skip(name, err.Error())
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		rates[c.name], free[c.name] = m["mpps"], m["loss_free_mpps"]
		if v, ok := m["mpps_per_core"]; ok { // what others took of the core is not the carrier's fault
			rates[c.name] = v
		}
		rec.Add(name, m)
	}
	for name := range rates {
		if !strings.HasPrefix(name, "sluice") {
			continue
		}
		m := result.Metrics{}
		for _, peer := range compared {
			if peer != name && rates[peer] > 0 {
				m[result.Ratio("", peer)] = rates[name] / rates[peer]
			}
			if peer != name && free[peer] > 0 {
				m[result.Ratio("loss_free", peer)] = free[name] / free[peer]
			}
		}
		rec.Add(name+"/"+k.name(), m)
	}
	return nil
}

// compared are the carriers that ratios are given to.
var compared = []string{"forward", "forward-inline", "nftables", "nftables-inline", "asavie", "asavie-ports", "rings"}

// carried brings a carrier up, measures it and takes it down.
func (b *bed) carried(ctx context.Context, l *LinkOptions, k linkCase, c carrier, load gen.Load, modes Modes) (_ result.Metrics, err error) {
	r, err := c.up(ctx, b, setup{core: b.opt.CarrierCore, connections: k.room(), mode: k.mode, ringSize: l.RingSize})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.down()) }()
	modes[modeKey(c.name, k.mode)] = r.mode()
	if err := b.fill(ctx, c, r, load); err != nil {
		return nil, err
	}
	s, err := b.flatOut(ctx, c, r, load, k.delivery())
	if err == nil {
		err = s.mismatch
	}
	if err != nil {
		return nil, err
	}
	m := result.Metrics{"mpps": s.rate / 1e6, "gbit_per_second": s.bits / 1e9, "core_percent": 100 * s.share}
	if s.cpu > 0 && l.Rate == 0 {
		m["mpps_per_core"] = s.rate / 1e6 / s.cpu
	}
	if l.Rate > 0 {
		m["loss_percent"] = 100 * s.loss
	}
	if l.Search {
		best, err := b.lossFree(ctx, c, r, load, k.delivery(), s.rate*0.8, l.Loss)
		if err == nil {
			err = best.mismatch
		}
		if err != nil {
			return nil, err
		}
		m["loss_free_mpps"] = best.rate / 1e6
	}
	return m, nil
}

func modeKey(name, mode string) string {
	if mode == "auto" || mode == "" {
		return name
	}
	return name + "/mode=" + mode
}
