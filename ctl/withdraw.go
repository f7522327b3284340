package ctl

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"

	"sluice/ctl/monitor"
	"sluice/engine"
)

// A virtual server with withdraw-when-down has its addresses taken off their port while every member that could serve it is down
// by its monitors, or forced off: routers and other hosts then send clients elsewhere. Members that are drained or disabled still
// have connections, and keep the address. An address that several virtual servers have is withdrawn when all of them are down. Of
// prefixes, and of addresses that are external, only hooks are told.

// prepareHooks looks for the programs.
func (f *File) prepareHooks() error {
	var errs []error
	for i := range f.VirtualServers {
		hook := f.VirtualServers[i].Hook
		if len(hook) == 0 {
			continue
		}
		info, err := os.Stat(hook[0])
		if err == nil && (info.IsDir() || info.Mode()&0o111 == 0) {
			err = fmt.Errorf("program %s is not executable", hook[0])
		}
		if err != nil {
			errs = append(errs, f.problem(fmt.Sprintf("virtual-servers[%d].hook", i), err))
		}
	}
	return errors.Join(errs...)
}

// reach is an address or prefix where clients come to, on a port.
type reach struct {
	netip.Prefix
	port string
}

// withdrawals are the addresses and prefixes of the file that are withdrawn.
func (s *Server) withdrawals() map[reach]bool {
	h := s.health
	down := map[reach]bool{}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range s.file.VirtualServers {
		v := &s.file.VirtualServers[i]
		up := !v.Withdraw || h.serves(s.file, v, func(m *memberHealth) bool {
			return m.verdict == monitor.Up && (m.order == nil || m.order.Action != OrderForceOff)
		})
		for _, d := range v.Destinations {
			r := reach{d.Prefix, v.Port}
			if was, known := down[r]; up {
				down[r] = false
			} else if !known {
				down[r] = true
			} else {
				down[r] = was
			}
		}
	}
	maps.DeleteFunc(down, func(_ reach, down bool) bool { return !down })
	return down
}

// followDown withdraws the addresses of virtual servers that have gone down, and puts back those of which one is up again.
func (s *Server) followDown() {
	now := s.withdrawals()
	if maps.Equal(now, s.withdrawn) {
		return
	}
	if err := s.placeAddresses(); err != nil {
		s.log.Error("the addresses of virtual servers that are down could not be changed", "error", err)
	}
}

// withdraw makes out what is withdrawn, says what has changed, and tells hooks.
func (s *Server) withdraw() {
	before := s.withdrawn
	s.mu.Lock()
	s.withdrawn = s.withdrawals()
	s.mu.Unlock()
	wanted := map[hook]string{}
	for i := range s.file.VirtualServers {
		v := &s.file.VirtualServers[i]
		said := map[reach]bool{}
		for _, d := range v.Destinations {
			r := reach{d.Prefix, v.Port}
			if said[r] {
				continue
			}
			said[r] = true
			is, was := s.withdrawn[r], before[r]
			if is && !was {
				s.log.Warn("withdrawn: every member is down", "virtual_server", v.Name, "address", addressText(d))
			} else if was && !is {
				s.log.Info("announced again", "virtual_server", v.Name, "address", addressText(d))
			}
			if len(v.Hook) > 0 {
				h := hook{virtual: v.Name, address: addressText(d), port: v.Port, command: strings.Join(v.Hook, "\x00")}
				if n, ok := s.file.portNumber(v.Port); ok {
					h.ifname = s.ifaceOf(n).name
				}
				wanted[h] = HookAnnounce
				if is {
					wanted[h] = HookWithdraw
				}
			}
		}
	}
	if s.hooks == nil {
		s.hooks = newHookRunner(s.log)
	}
	s.hooks.keep(wanted) // first: what a reload has given another name or program is announced after it was withdrawn
	for h, event := range wanted {
		s.hooks.tell(h, event)
	}
}

// announced are the addresses of v that are to be on its port.
func (s *Server) announced(v *VirtualServer) (out []netip.Addr) {
	for _, a := range v.addresses() {
		if !s.withdrawn[reach{netip.PrefixFrom(a, a.BitLen()), v.Port}] {
			out = append(out, a)
		}
	}
	return out
}

// endHooks tells the hooks that nothing is served any more, and waits for them.
func (s *Server) endHooks() {
	if s.hooks == nil {
		return
	}
	s.hooks.keep(nil)
	if !s.hooks.wait(stopTimeout) {
		s.log.Warn("hooks still run and are killed", "after", stopTimeout)
	}
}

// addressText is the address or prefix of a destination without brackets.
func addressText(d engine.Destination) string { return strings.Trim(d.Host(), "[]") }
