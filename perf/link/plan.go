package link

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// A plan is what a scenario is going to do, counted by the same functions that its loops go by: the steps of its progress, and how long they
// should take. What carriers need to come up was measured on a 2-core virtual machine of 3.5 GHz; the samples take the time that they are told to.
type plan struct {
	samples, anchors int // of all repetitions; each is a step
	runs             int
	time             time.Duration
	again            bool // samples that others on the machine disturb are taken again
}

const (
	// sampleTime is what a sample takes besides its window: the generator's beginning, rings that fill, the counters' coming to rest.
	sampleTime = liveSetup + settling + 80*time.Millisecond
	pacedTime  = liveSetup + 30*time.Millisecond
	fillTime   = 100 * time.Millisecond // besides the packets
	// How many windows a search of the loss-free rate takes: from one that is near, for whole TCP lives, and for loads of latency.
	searchWindows, lifeWindows, loadWindows = 9, 12, 15
)

// upTime is what a carrier takes to come up and go down, with a table for so many connections.
func upTime(name string, connections int) time.Duration {
	switch {
	case strings.HasPrefix(name, "sluice"):
		return 330*time.Millisecond + time.Duration(connections)*300*time.Nanosecond
	case name == "rings", strings.HasPrefix(name, "asavie"):
		return 230 * time.Millisecond
	case strings.HasPrefix(name, "haproxy"):
		return 60 * time.Millisecond
	}
	return 20 * time.Millisecond
}

func (p *plan) add(n int, each time.Duration) {
	p.samples, p.time = p.samples+n, p.time+time.Duration(n)*each
}

// repeat makes a plan of one repetition that of all, with two anchors each.
func (p *plan) repeat(o *Options) {
	p.runs, p.again = o.Runs, !o.Quick
	p.samples, p.anchors = p.samples*o.Runs, 2*o.Runs
	p.time = time.Duration(o.Runs) * (p.time + 2*(upTime("forward-inline", 0)+sampleTime+o.Window))
}

// begin tells it.
func (o *Options) begin(p plan) {
	count := func(n int, what string) string {
		if n != 1 {
			what += "s"
		}
		return fmt.Sprintf("%d %s", n, what)
	}
	text := count(p.samples, "sample")
	if p.anchors > 0 {
		text += fmt.Sprintf(" and %d anchors", p.anchors)
	}
	text += " in " + count(p.runs, "repetition")
	if p.again {
		text += "; longer where others disturb samples, which are then taken again"
	}
	o.Progress.Begin(p.samples+p.anchors, p.time, text)
}

// CheckLink says what is wrong with the options of Link.
func CheckLink(o *Options, l *LinkOptions) error {
	have := map[string]bool{}
	if len(l.Flows) > 0 {
		for _, c := range carriers() {
			have[c.name] = !c.proxy
		}
	}
	for _, name := range httpCarriers {
		have[name] = have[name] || l.HTTP
	}
	if !l.HTTP && len(l.Flows) == 0 {
		return errors.New("nothing to measure: --flows is empty, and HTTP is left out")
	}
	for _, name := range o.Carriers {
		if c, ok := carrierNamed(name); ok && c.proxy && !l.HTTP {
			return fmt.Errorf("--carriers: %s carries HTTP alone, which is left out; --no-http=false brings it in", name)
		}
	}
	scenario := "link"
	if len(l.Flows) == 0 {
		scenario += " over HTTP alone"
	}
	if err := o.checkCarriers(scenario, func(name string) bool { return have[name] }); err != nil {
		return err
	}
	overHTTP := l.HTTP && (len(o.Carriers) == 0 || slices.ContainsFunc(o.Carriers, func(name string) bool { return slices.Contains(httpCarriers, name) }))
	if p := l.plan(o); p.samples == 0 && !overHTTP {
		return errors.New("nothing to measure: none of --carriers carries any of --directions in any of --modes")
	}
	return nil
}

// CheckLatency says what is wrong with the options of Latency.
func CheckLatency(o *Options, l *LatencyOptions) error {
	if err := o.checkCarriers("latency", func(name string) bool { return slices.Contains(latencyCarriers, name) }); err != nil {
		return err
	}
	if l.plan(o).samples == 0 {
		return errors.New("nothing to measure: --carriers has only proxies, which carry no load of a generator, and --loads has no idle")
	}
	return nil
}

// CheckConnections says what is wrong with the options of Connections.
func CheckConnections(o *Options) error {
	return o.checkCarriers("connections", func(name string) bool { return slices.Contains(connectionCarriers, name) })
}

// checkCarriers refuses carriers that a scenario does not have.
func (o *Options) checkCarriers(scenario string, has func(name string) bool) error {
	list := namesOf(has)
	for _, name := range o.Carriers {
		if !slices.Contains(list, name) {
			return fmt.Errorf("--carriers: %s has no %q; it has %s", scenario, name, strings.Join(list, ", "))
		}
	}
	return nil
}

func carrierNamed(name string) (carrier, bool) {
	all := carriers()
	i := slices.IndexFunc(all, func(c carrier) bool { return c.name == name })
	if i < 0 {
		return carrier{}, false
	}
	return all[i], true
}

// turn is who meets a case in a repetition, in their order.
func (k linkCase) turn(o *Options, run int) []carrier {
	return slices.DeleteFunc(o.turn(run), func(c carrier) bool { return !k.carries(c) })
}

// sampleTime is what a carrier takes for the case, without coming up.
func (l *LinkOptions) sampleTime(o *Options, k linkCase) time.Duration {
	t := sampleTime + o.Window
	if k.flows > 0 {
		t += fillTime + secondsOf(2*k.flows, fillPace)
	}
	if l.Search {
		t += searchWindows * (pacedTime + o.Window)
	}
	return t
}

func (l *LinkOptions) plan(o *Options) (p plan) {
	for _, k := range l.cases() {
		for _, c := range k.turn(o, 0) {
			p.add(1, upTime(c.name, k.room())+l.sampleTime(o, k))
		}
	}
	if l.HTTP && httpMissing() == nil {
		for range o.placements() {
			for _, c := range o.httpTurn(0) {
				p.add(1, upTime(c.name, httpRoom)+time.Duration(len(httpKinds))*(o.httpSeconds()+50*time.Millisecond))
			}
			p.time += 100 * time.Millisecond // nginx, at each placement
		}
	}
	p.repeat(o)
	return p
}

// externalPlan is that of a carrier that others bring up.
func (l *LinkOptions) externalPlan(o *Options) (p plan) {
	for _, k := range l.cases() {
		p.add(1, l.sampleTime(o, k))
	}
	p.samples, p.time = p.samples*o.Runs, p.time*time.Duration(o.Runs)
	p.runs, p.again = o.Runs, !o.Quick
	return p
}

// httpMissing says which program HTTP cannot do without.
func httpMissing() error {
	for _, program := range []string{"nginx", "wrk", "taskset"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	return nil
}

// httpTurn is who carries HTTP in a repetition.
func (o *Options) httpTurn(run int) []carrier {
	return slices.DeleteFunc(o.turn(run), func(c carrier) bool { return !slices.Contains(httpCarriers, c.name) })
}

// httpSeconds is how long wrk asks, which knows only whole ones.
func (o *Options) httpSeconds() time.Duration { return max(time.Second, o.Window.Round(time.Second)) }

// turn is who meets a case of latency in a repetition, and whom it leaves out: proxies, which carry no packets of a generator.
func (k latencyCase) turn(o *Options, run int) (list []carrier, without []carrier) {
	for _, c := range o.turn(run) {
		switch {
		case !slices.Contains(latencyCarriers, c.name) || c.proxy && k.proto != "tcp":
		case c.proxy && k.load != "idle":
			without = append(without, c)
		default:
			list = append(list, c)
		}
	}
	return list, without
}

func (l *LatencyOptions) plan(o *Options) (p plan) {
	searched := map[string]bool{}
	search := time.Duration(0) // in the first repetition alone
	for _, k := range l.cases() {
		list, _ := k.turn(o, 0)
		for _, c := range list {
			for _, way := range k.ways(l, c) {
				t := upTime(c.name, latencyRoom) + o.Window
				if loadParts[k.load] > 0 {
					t += fillTime + 2*settling
					if c.name == "sluice" { // its counters have the probes too, so that they are waited for in vain
						t += agreement
					}
					if !searched[c.name+way] {
						searched[c.name+way] = true
						search += loadWindows * (pacedTime + o.Window)
					}
				}
				p.add(1, t)
			}
		}
	}
	p.repeat(o)
	p.time += search
	return p
}

// connectionsTurn is who keeps connections, in a repetition.
func (o *Options) connectionsTurn(run int) []carrier {
	return slices.DeleteFunc(o.turn(run), func(c carrier) bool { return !slices.Contains(connectionCarriers, c.name) })
}

func connectionsPlan(o *Options) (p plan) {
	for _, kind := range connectionKinds {
		for _, c := range o.connectionsTurn(0) {
			p.add(1, upTime(c.name, kind.room)+kind.time(o))
		}
	}
	p.repeat(o)
	return p
}
