package ctl

import (
	"errors"
	"fmt"
	"math/bits"
	"reflect"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"sluice/engine"
	"sluice/rings"
)

// Steering has NICs deliver packets on queues of the workers that own them: on client-side ports the source is hashed, on
// server-side ports the destination, with our key, and the table leads from the hash to the owner's queue. What a driver
// does not take is handed over between workers instead. Nothing of it is relied on, and no start fails because of it:
//
//	1 note what there is            before anything is changed, for a successor (state.go)
//	2 fields, key, table            each as far as the driver takes it
//	3 read back, compute            which packets of which connections will arrive where (steershare.go)
//
// What was there before is put back at the end, by the next start, or by `sluice port release`.

// nics are the interfaces of this host.
type nics struct {
	rings.RSSControl
	// find gives the name of the interface with that index and MAC now, "" if it is gone.
	find func(index int, mac [6]byte) string
}

func kernelNICs() (*nics, error) {
	control, err := rings.KernelRSS()
	return &nics{control, func(index int, mac [6]byte) string {
		l, err := netlink.LinkByIndex(index)
		if err != nil || !slices.Equal(l.Attrs().HardwareAddr, mac[:]) {
			return ""
		}
		return l.Attrs().Name
	}}, err
}

// steeredPort is a port as steering looks at it.
type steeredPort struct {
	name           string
	iface          *iface
	client, server bool // where packets come from: to virtual addresses, from members
	targets        []target
}

// target is where connections lead on a port: the virtual server that clients send to, the member that answers.
type target struct {
	flow   rings.FlowType
	addr   endpoint
	member bool
}

// steering is what was achieved on a port.
type steering struct {
	Text  string  // for people
	Share float64 // of its packets, that is expected to be handed over
}

// fields are what is to be hashed on a port. On one that has both sides requests come first: their answers are handed over.
func (p *steeredPort) fields(end ClientEnd) rings.HashFields {
	switch {
	case p.client && end == ClientEndAddress:
		return rings.HashSource
	case p.client:
		return rings.HashSource | rings.HashSourcePort
	case end == ClientEndAddress:
		return rings.HashDestination
	}
	return rings.HashDestination | rings.HashDestPort
}

// flows are the types of packets of the port's connections.
func (p *steeredPort) flows() (out []rings.FlowType) {
	for _, t := range p.targets {
		if !slices.Contains(out, t.flow) {
			out = append(out, t.flow)
		}
	}
	slices.Sort(out)
	return out
}

// steeredPorts says for every port which side it has.
func (f *File) steeredPorts(ifaces []iface, ways func(addr endpoint) (port int, ok bool)) []steeredPort {
	out := make([]steeredPort, len(f.Ports))
	for i := range out {
		out[i] = steeredPort{name: f.Ports[i].Name, iface: &ifaces[i]}
	}
	for i := range f.VirtualServers {
		v := &f.VirtualServers[i]
		to := target{flow: flowType(v.Protocol, v.Address), addr: v.Address}
		for j := range out {
			out[j].targets = append(out[j].targets, to)
		}
		f.eachServing(v, func(pool *Pool) {
			for j := range pool.Members {
				from := target{addr: pool.Members[j].Target(v.Address.Port()), member: true}
				from.flow = flowType(v.Protocol, from.addr)
				if port, ok := ways(from.addr); ok {
					out[port].targets = append(out[port].targets, from)
					out[port].server = true
				}
			}
		})
	}
	// Clients come from where members are not. If members are everywhere, they come to the ports of virtual servers.
	everywhere := !slices.ContainsFunc(out, func(p steeredPort) bool { return !p.server })
	for i := range out {
		p := &out[i]
		p.client = !p.server || everywhere && slices.ContainsFunc(f.VirtualServers, func(v VirtualServer) bool {
			n, ok := f.portNumber(v.Port)
			return ok && f.physical(n) == i
		})
		if !p.client {
			p.targets = slices.DeleteFunc(p.targets, func(t target) bool { return !t.member })
		}
	}
	return out
}

// steer has the NIC of a port deliver as cfg has bins owned.
func (n *nics) steer(p *steeredPort, cfg *engine.Config, end ClientEnd, workers int, note func(rings.RSS) error) steering {
	random := 1 - 1/float64(workers) // what is handed over if queues have nothing to do with owners
	ifname, want := p.iface.name, p.fields(end)
	now, err := n.Read(ifname)
	if err != nil {
		return steering{fmt.Sprintf("none (%v)", err), random}
	}
	if err := note(now); err != nil {
		return steering{fmt.Sprintf("none (%v)", err), random}
	}
	var refusals []error
	try := func(err error) bool {
		if err != nil {
			refusals = append(refusals, err)
		}
		return err == nil
	}
	hashed := 0
	for _, t := range p.flows() {
		if now.Fields[t] == want || try(n.SetFields(ifname, t, want)) {
			hashed++
		}
	}
	if hashed > 0 { // else a key of ours is of no use
		key := engine.RSSKey(len(now.Key))
		switch {
		case len(key) == 0:
			try(fmt.Errorf("%w: it shows no hash key", rings.ErrRefused))
		case now.Function != rings.RSSToeplitz || now.Transform != 0 || !slices.Equal(now.Key, key):
			try(n.SetHash(ifname, rings.RSSToeplitz, 0, key))
		}
		size := len(now.Indirection)
		if bits.OnesCount(uint(size)) != 1 {
			try(fmt.Errorf("%w: its table has %d entries, which is no power of two", rings.ErrRefused, size))
		} else if table := cfg.RSSTable(size, p.iface.queues); !slices.Equal(now.Indirection, table) {
			try(n.SetIndirection(ifname, table))
		}
	}
	if now, err = n.Read(ifname); err != nil {
		return steering{fmt.Sprintf("none (%v)", err), random}
	}
	requests, answers := p.shares(&now, cfg, workers)
	return p.judge(requests, answers, random, refusals)
}

// judge says what shares of the packets that will be handed over mean: of requests and of answers, negative if the port has
// none.
func (p *steeredPort) judge(requests, answers, random float64, refusals []error) steering {
	share, why := max(requests, answers), ""
	if p.client && p.server {
		share = (requests + answers) / 2
	}
	var texts []string
	for _, err := range refusals {
		text := strings.TrimPrefix(err.Error(), rings.ErrRefused.Error()+": ")
		if !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	if len(texts) > 0 {
		why = fmt.Sprintf(" (%v: %s)", rings.ErrRefused, strings.Join(texts, "; "))
	}
	switch {
	case share == 0:
		return steering{"full", 0}
	case p.client && p.server && requests == 0:
		return steering{"half: answers are handed over", share}
	case share > 0.9*random:
		return steering{"none" + why, share}
	}
	return steering{fmt.Sprintf("partly: %.0f%% are handed over%s", 100*share, why), share}
}

// evenly reports whether a table is the one that drivers begin with: entry i is queue i modulo their number.
func evenly(table []uint32, queues int) bool {
	for i, q := range table {
		if q != uint32(i%queues) {
			return false
		}
	}
	return true
}

// restore puts back what was there before; what is there already is left alone.
func (n *nics) restore(ifname string, before *rings.RSS, queues int) error {
	now, err := n.Read(ifname)
	if err != nil {
		return err
	}
	var errs []error
	for t, fields := range before.Fields {
		if now.Fields[t] != fields {
			errs = append(errs, n.SetFields(ifname, t, fields))
		}
	}
	if len(before.Key) > 0 && (!slices.Equal(now.Key, before.Key) || now.Function != before.Function || now.Transform != before.Transform) {
		errs = append(errs, n.SetHash(ifname, before.Function, before.Transform, before.Key))
	}
	if !slices.Equal(now.Indirection, before.Indirection) {
		table := before.Indirection
		if evenly(table, max(queues, 1)) {
			table = nil // so that it follows the number of queues again
		}
		errs = append(errs, n.SetIndirection(ifname, table))
	}
	return errors.Join(errs...)
}

// steer does so for all ports, if anything has changed since it was done last.
func (s *Server) steer(cfg *engine.Config) {
	want := steered{setting: s.file.Engine.Steering, workers: s.plan.workers, end: s.file.Engine.ClientEnd}
	on := want.setting == SteeringAuto && want.workers > 1
	want.ports = s.file.steeredPorts(s.ifaces, func(a endpoint) (int, bool) {
		if hop, ok := s.file.staticHop(a.Addr()); ok {
			return s.file.physical(hop.Port), true
		}
		w, ok := s.ways[a.Addr()]
		return s.file.physical(w.port), ok
	})
	if s.steered != nil && reflect.DeepEqual(*s.steered, want) {
		return
	}
	result := make([]steering, len(want.ports))
	for i := range want.ports {
		p := &want.ports[i]
		switch {
		case want.setting != SteeringAuto:
			result[i].Text = "off"
		case !on:
			result[i].Text = "not needed: there is one worker"
		default:
			result[i] = s.nics.steer(p, cfg, want.end, want.workers, func(before rings.RSS) error { return s.state.noteSteering(p.iface, before) })
			s.log.Info("steering", "port", p.name, "result", result[i].Text, "expected_handed_over", fmt.Sprintf("%.3f", result[i].Share))
		}
	}
	if !on {
		if _, err := s.state.restoreSteering(""); err != nil {
			s.log.Warn("the steering that was there before could not be put back", "error", err)
		}
	}
	s.mu.Lock()
	s.steered, s.steerings = &want, result
	s.mu.Unlock()
}

// readSteering puts back what a killed engine has changed, and looks at what the interfaces have.
func (s *Server) readSteering() (err error) {
	if s.nics, err = kernelNICs(); err != nil {
		return err
	}
	if _, err := s.state.restoreSteering(""); err != nil {
		s.log.Warn("the steering that an earlier sluice found could not be put back", "error", err)
	}
	if s.file.Engine.Steering == SteeringAuto {
		s.tableSize = s.nics.smallestTable(s.ifaces[:len(s.file.Ports)])
	}
	return nil
}

// steered is what steering was last done for.
type steered struct {
	setting Steering
	workers int
	end     ClientEnd
	ports   []steeredPort
}

// smallestTable is the size of the smallest indirection table that can tell fewer hashes apart than there are bins, 0 if
// there is none: bins are dealt out so that it suffices.
func (n *nics) smallestTable(ifaces []iface) (smallest int) {
	for i := range ifaces {
		r, err := n.Read(ifaces[i].name)
		size := len(r.Indirection)
		if err == nil && bits.OnesCount(uint(size)) == 1 && size < engine.Bins && (smallest == 0 || size < smallest) {
			smallest = size
		}
	}
	return smallest
}
