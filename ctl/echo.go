package ctl

import "sluice/engine"

func (e Echo) compile() engine.Echo {
	switch e {
	case EchoEngine:
		return engine.EchoEngine
	case EchoOff:
		return engine.EchoOff
	case EchoWhileUp:
		return engine.EchoWhileUp
	}
	return engine.EchoKernel
}

// checkEcho refuses what a virtual server for ICMP makes idle.
func (v *validator) checkEcho(s *VirtualServer, at string) {
	if s.Protocol == ICMP && s.Echo != EchoKernel && s.Echo != "" {
		v.errorf(at+".echo", "virtual server %q is for icmp: its members answer echo requests, so echo has no effect; leave it out", s.Name)
	}
	if (s.Echo == EchoEngine || s.Echo == EchoWhileUp) && v.file.Engine.ICMPRate == 0 && v.where["engine.icmp-rate"] != (position{}) {
		v.errorf(at+".echo", "the engine answers no echo request with engine.icmp-rate 0; allow some, or write kernel or off")
	}
}
