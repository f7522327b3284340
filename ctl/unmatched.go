package ctl

import "sluice/engine"

func (u Unmatched) compile() engine.Unmatched {
	switch u {
	case UnmatchedHost:
		return engine.UnmatchedHost
	case UnmatchedReset:
		return engine.UnmatchedReset
	}
	return engine.UnmatchedDrop
}

// checkUnmatched refuses answers where none are allowed.
func (v *validator) checkUnmatched(s *VirtualServer, at string) {
	if s.Unmatched == UnmatchedReset && !s.Mode.transparent() && v.file.Engine.ICMPRate == 0 && v.where["engine.icmp-rate"] != (position{}) {
		v.errorf(at+".unmatched", "the engine answers nothing with engine.icmp-rate 0; allow some, or write drop or host")
	}
}
