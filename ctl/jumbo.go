package ctl

import (
	"errors"
	"fmt"
	"slices"

	"sluice/rings"
)

// Jumbo says whether packets on a port may be larger than a frame.
type Jumbo string

// The settings of Jumbo.
const (
	JumboAuto Jumbo = "auto"
	JumboOn   Jumbo = "on"
	JumboOff  Jumbo = "off"
)

var jumboKey = wordKey(keyDoc{name: "jumbo", def: "auto", example: "on", text: "Packets larger than a frame (engine.frame-size, less 256 bytes), in several frames each: Linux 6.6, and best a driver whose XDP takes several buffers. auto takes them if the port's MTU, when sluice starts, needs it; on in any case, so that the MTU may be raised while it runs; off never, and the kernel then drops what does not fit a frame. See docs/TUNING.md."},
	[]Jumbo{JumboAuto, JumboOn, JumboOff}, nil, func(p *Port) *Jumbo { return &p.Jumbo })

// wantsJumbo decides whether a port of that MTU is opened for packets of several frames.
func (f *File) wantsJumbo(p *Port, mtu int) (bool, error) {
	size := f.Engine.FrameSize
	if p.Jumbo == JumboOff || p.Jumbo != JumboOn && rings.CheckRoom("", false, size, mtu) == nil {
		return false, nil
	}
	err := rings.CheckChains(size, mtu)
	switch probe := rings.ProbeMultiBuffer(); {
	case f.Engine.Driver == DriverAsavie:
		err = errors.New("engine.driver asavie has no packets of several frames; use driver xsk, or jumbo: off")
	case errors.Is(probe, rings.ErrNoMultiBuffer):
		err = fmt.Errorf("%w; use jumbo: off, and an MTU that fits a frame", probe)
	}
	if p.Jumbo == JumboOn {
		return err == nil, err
	}
	return err == nil, nil
}

// jumboTrouble is why packets of a port's MTU do not come through although its setting does not forbid it, or "".
func (f *File) jumboTrouble(p *Port, i *iface) string {
	if i.jumbo {
		return ""
	}
	err := rings.CheckRoom("", false, f.Engine.FrameSize, i.mtu)
	if err == nil {
		return ""
	}
	text := fmt.Sprintf("packets that do not fit a frame are lost, the kernel drops them: %v", err)
	if p.Jumbo == JumboOff {
		return text + "; or set jumbo: auto for the port"
	}
	on := *p
	on.Jumbo = JumboOn
	if _, why := f.wantsJumbo(&on, i.mtu); why != nil {
		return fmt.Sprintf("%s; for packets of several frames: %v", text, why)
	}
	return text + "; or restart sluice, which then takes packets of several frames; with jumbo: on for the port this is not needed when its MTU changes"
}

// tellJumbo says once for each port that packets of its MTU do not come through.
func (s *Server) tellJumbo() {
	for i := range s.file.Ports {
		p := &s.file.Ports[i]
		subject, text := "jumbo frames of "+p.Name, s.file.jumboTrouble(p, &s.ifaces[i])
		switch {
		case text == "":
			delete(s.complaints, subject)
		case s.complaints[subject] != text:
			s.complain(subject, text)
			s.log.Warn(text, "port", p.Name, "interface", s.ifaces[i].name, "mtu", s.ifaces[i].mtu)
		}
	}
}

// largestMTU is what a veth takes (ETH_MAX_MTU, include/uapi/linux/if_ether.h).
const largestMTU = 65535

// anyJumbo reports whether one of the interfaces takes packets of several frames.
func anyJumbo(ifaces []iface) bool {
	return slices.ContainsFunc(ifaces, func(i iface) bool { return i.jumbo })
}

// makeChains gives the frames what packets of several frames need, if there can be any.
func (a *assembly) makeChains() {
	if anyJumbo(a.ifaces) {
		a.region.MakeChains()
	}
}

// inheritJumbo goes on with sockets as the predecessor has opened them, whatever the MTU is now. One that knows no jumbo
// frames has none.
func (t *taking) inheritJumbo() {
	for i := range t.ifaces {
		t.ifaces[i].jumbo = i < len(t.offer.Jumbo) && t.offer.Jumbo[i]
	}
}

// jumboPorts is what inheritJumbo needs.
func (s *Server) jumboPorts() []bool {
	out := make([]bool, len(s.ifaces))
	for i := range s.ifaces {
		out[i] = s.ifaces[i].jumbo
	}
	return out
}

// replaysJumbo reports whether a replay has packets of several frames: there is no MTU that would not need them.
func (f *File) replaysJumbo() bool {
	return slices.ContainsFunc(f.Ports, func(p Port) bool { return p.Jumbo != JumboOff })
}

// replayQueue is the queue of a port, or the host port, in a replay.
func (f *File) replayQueue(port int, r *rings.Region) *rings.Pcap {
	if port < len(f.Ports) && f.Ports[port].Jumbo == JumboOff || !r.Chains() {
		return rings.NewPcap(r, replayRing)
	}
	return rings.NewPcapChains(r, replayRing)
}
