package ctl

import (
	"sluice/engine"
)

func (c Checksum) compile() engine.SumPolicy {
	switch c {
	case ChecksumTrust:
		return engine.SumTrust
	case ChecksumVerify:
		return engine.SumVerify
	case ChecksumRecompute:
		return engine.SumRecompute
	}
	return engine.SumAuto
}

// tellPartial says once for each port, and setting, that packets with partial checksums arrive on it, and what to do.
func (s *Server) tellPartial() {
	for _, port := range s.engine.PartialPorts() {
		if port >= len(s.file.Ports) {
			continue
		}
		p := &s.file.Ports[port]
		subject, text := "checksums of "+p.Name, ""
		switch p.Checksum {
		case ChecksumAuto:
			text = "packets arrive with checksums that their sender left to a device: they are computed here, which costs time; turn the offload off at the sender's end of the link (ethtool -K DEV tx off)"
		case ChecksumVerify:
			text = "packets arrive with checksums that their sender left to a device, and are dropped (partial_checksum); turn the offload off at the sender's end of the link (ethtool -K DEV tx off), or set checksum: auto for the port"
		}
		if text == "" || s.complaints[subject] == text {
			continue
		}
		s.complain(subject, text)
		s.log.Warn(text, "port", p.Name, "interface", s.ifaces[port].name)
	}
}
