package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"sluice/perf/gen"
	"sluice/perf/result"
)

// LatencyOptions are those of Latency.
type LatencyOptions struct {
	Loads   []string // idle, half, 90
	Polling []string // of the product: busy, adaptive, interrupt
	Cores   []string // with no load: awake, asleep
	Rate    int      // probes per second
	Loss    float64  // of the loss-free rate that the loads are parts of
}

// loadParts are the parts of the loss-free rate.
var loadParts = map[string]float64{"idle": 0, "half": 0.5, "90": 0.9}

// latencyCarriers are those that real clients and servers can talk through.
var latencyCarriers = append([]string{"sluice"}, latencyPeers...)

// latencyPeers are those of them that ratios are given to.
var latencyPeers = []string{"forward", "forward-inline", "nftables", "nftables-inline", "haproxy"}

// latencyRoom is how many connections a carrier must be able to hold.
const latencyRoom = 1 << 18

func secondsOf(n, rate int) time.Duration {
	return time.Duration(n) * time.Second / time.Duration(rate)
}

// stayAwake keeps cores from sleeping deeply while the file is open (Documentation/power/pm_qos_interface.rst): what is
// compared is the way of a packet, not how long an idle virtual core takes to be woken by its host.
func stayAwake() (release func(), err error) {
	f, err := os.OpenFile("/dev/cpu_dma_latency", os.O_WRONLY, 0)
	if err != nil {
		return func() {}, err
	}
	if _, err := f.Write([]byte{0, 0, 0, 0}); err != nil {
		return func() {}, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

// Latency measures round trips of real sockets through carriers.
func Latency(ctx context.Context, o Options, l LatencyOptions, rec *result.Recorder) (_ Modes, err error) {
	if o.Install {
		install(ctx, &o)
	}
	// The collector's threads would be in the probes' way, and there is little garbage.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	b, err := openBed(ctx, &o)
	if err != nil {
		return nil, err
	}
	defer func() { err = b.end(ctx, rec, err) }()
	o.begin(l.plan(&o))
	modes := Modes{}
	free := map[string]float64{} // loss-free rate by carrier, found once
	for run := range o.Runs {
		if err := b.anchor(ctx, rec, "before"); err != nil {
			return modes, err
		}
		for _, k := range l.cases() {
			if err := b.latencyCase(ctx, &l, k, run, free, rec, modes); err != nil {
				return modes, err
			}
		}
		if err := b.anchor(ctx, rec, "after"); err != nil {
			return modes, err
		}
	}
	return modes, nil
}

// latencyCase is one table of round trips that are compared.
type latencyCase struct {
	proto, load string
	// polls: the client looks for its answer again and again, and gives its core to no one but the server meanwhile. So nobody
	// has to be woken on a core that has gone to other work: on a virtual machine that takes an interrupt between cores, longer
	// than all the rest, and on a kernel without preemption as long as the work takes.
	polls  bool
	asleep bool // cores that have nothing to do sleep, as they do where nobody has forbidden it
}

func (l *LatencyOptions) cases() (out []latencyCase) {
	for _, proto := range []string{"udp", "tcp"} {
		for _, load := range l.Loads {
			if load != "idle" {
				out = append(out, latencyCase{proto: proto, load: load})
				continue
			}
			for _, cores := range l.Cores {
				asleep := cores == "asleep"
				out = append(out, latencyCase{proto: proto, load: load, asleep: asleep})
				if !asleep { // a client that polls has a core that never sleeps, nor has it time for a generator
					out = append(out, latencyCase{proto: proto, load: load, polls: true})
				}
			}
		}
	}
	return out
}

// name of what a carrier does in a way of its own, if it has several.
func (k latencyCase) name(carrier, way string) string {
	s := fmt.Sprintf("%s/proto=%s", carrier, k.proto)
	if k.polls {
		s += "/client=polling"
	}
	s += "/load=" + k.load
	if k.asleep {
		s += "/cores=asleep"
	}
	return s + way
}

// otherCore is the way of a carrier that works on the client's core, with the carriers' own core taken: as the product takes it
// when it polls without a pause, so that the rest of the machine disturbs both alike.
const otherCore = "/other-core=busy"

// ways are those of a carrier in this case.
func (k latencyCase) ways(l *LatencyOptions, c carrier) (out []string) {
	switch {
	case c.name == "sluice":
		for _, polling := range l.Polling {
			out = append(out, "/polling="+polling)
		}
		return out
	case strings.HasSuffix(c.name, "-inline") && k.load == "idle" && !k.asleep && slices.Contains(l.Polling, "busy"):
		return []string{"", otherCore}
	}
	return []string{""}
}

// latencyCase takes every carrier, in each of its ways, through one case.
func (b *bed) latencyCase(ctx context.Context, l *LatencyOptions, k latencyCase, run int, free map[string]float64, rec *result.Recorder, modes Modes) error {
	if !k.asleep {
		release, err := stayAwake()
		if err != nil {
			modes["idle"] = "cores may sleep: " + err.Error()
		}
		defer release()
	}
	of := map[string]result.Metrics{}
	list, without := k.turn(b.opt, run)
	for _, c := range without {
		rec.Skip(k.name(c.name, ""), "a proxy carries no packets of a generator: it is measured idle")
	}
	for _, c := range list {
		for _, way := range k.ways(l, c) {
			name := k.name(c.name, way)
			b.opt.step("run %d of %d: %s", run+1, b.opt.Runs, name)
			m, err := b.latency(ctx, l, c, way, k, free, modes)
			if absent(err) {
				rec.Skip(name, err.Error())
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			of[name] = m
			rec.Add(name, m)
		}
	}
	for _, polling := range l.Polling {
		name, ratios := k.name("sluice", "/polling="+polling), result.Metrics{}
		for _, peer := range latencyPeers {
			p := of[k.name(peer, otherCore)]
			if p == nil || polling != "busy" {
				p = of[k.name(peer, "")]
			}
			if m := of[name]; m != nil && p != nil {
				ratios[result.Ratio("p50", peer)] = m["p50_us"] / p["p50_us"]
				ratios[result.Ratio("p99", peer)] = m["p99_us"] / p["p99_us"]
			}
		}
		if len(ratios) > 0 {
			rec.Add(name, ratios)
		}
	}
	return nil
}

func (b *bed) latency(ctx context.Context, l *LatencyOptions, c carrier, way string, k latencyCase, free map[string]float64, modes Modes) (_ result.Metrics, err error) {
	s := setup{core: b.opt.CarrierCore, connections: latencyRoom, confined: k.load == "idle"}
	if polling, is := strings.CutPrefix(way, "/polling="); is {
		s.polling = polling
	}
	proto := k.proto
	r, err := c.up(ctx, b, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.down()) }()
	key := c.name
	if s.polling != "" {
		key += "/polling=" + s.polling
	}
	modes[c.name] = r.mode()
	background := b.load(gen.Load{Flows: 1000})
	if part := loadParts[k.load]; part > 0 {
		if err := b.fill(ctx, c, r, background); err != nil {
			return nil, err
		}
		if free[key] == 0 {
			best, err := b.lossFree(ctx, c, r, background, requests, 300_000, l.Loss)
			if err != nil {
				return nil, err
			}
			free[key] = best.rate
		}
		if free[key] == 0 {
			return nil, errAbsent{errors.New("no rate was free of loss: another program has the core")}
		}
		background.Rate = int(part * free[key])
	}
	stop, err := b.echo(proto)
	if err != nil {
		return nil, err
	}
	defer stop()
	to := netip.AddrPortFrom(b.VIP4, udpPort)
	if c.direct {
		to = netip.AddrPortFrom(b.ServerAddr4[0], udpPort)
	}
	if proto == "tcp" {
		to = netip.AddrPortFrom(to.Addr(), tcpPort)
	}
	finish := func() (sample, error) { return sample{}, nil }
	if background.Rate > 0 {
		finish = b.behind(ctx, c, r, background, b.opt.Window+settling)
		sleep(ctx, settling)
	}
	if way == otherCore {
		release, err := b.occupy(s.core)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	used, at := cpuTime(r.tasks()), time.Now()
	p, err := b.roundTrips(ctx, to, k, l.Rate, b.opt.Window)
	cpu := 100 * (cpuTime(r.tasks()) - used).Seconds() / time.Since(at).Seconds()
	behind, errLoad := finish()
	if err := errors.Join(err, errLoad); err != nil {
		return nil, err
	}
	m := p.percentiles()
	if len(r.tasks()) > 0 {
		m["cpu_percent"] = cpu
	}
	m["loss_percent"] = 100 * float64(p.lost) / float64(max(1, p.sent))
	if background.Rate > 0 {
		m["load_mpps"], m["load_loss_percent"] = behind.offered/1e6, 100*behind.loss
	}
	return m, nil
}

// behind sends a load in the background; the result waits for its end.
func (b *bed) behind(ctx context.Context, c carrier, r running, load gen.Load, long time.Duration) func() (sample, error) {
	type outcome struct {
		s   sample
		err error
	}
	done := make(chan outcome, 1)
	load.Length = long
	go func() {
		s, err := b.paced(ctx, c, r, load, requests)
		done <- outcome{s, err}
	}()
	return func() (sample, error) {
		o := <-done
		return o.s, o.err
	}
}
