package ctl

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sluice/ctl/monitor"
)

// completeMonitors takes back the defaults of what a file does not write: parts of other types of monitors, and passive
// monitoring, which is off then.
func (f *File) completeMonitors() {
	for i := range f.Monitors {
		m := &f.Monitors[i]
		written := func(part string) bool {
			_, ok := f.where[fmt.Sprintf("monitors[%d].%s", i, part)]
			return ok
		}
		if m.Type != monitor.ICMP && !written("icmp") {
			m.ICMP = monitor.ICMPOptions{}
		}
		if m.Type != monitor.TCP && !written("tcp") {
			m.TCP = monitor.Exchange{}
		}
		if m.Type != monitor.UDP && !written("udp") {
			m.UDP = monitor.Exchange{}
		}
		if m.Type != monitor.HTTP && m.Type != monitor.HTTPS && !written("http") {
			m.HTTP = monitor.HTTPOptions{}
		}
		if m.Type != monitor.HTTPS && !written("tls") {
			m.TLS = monitor.TLSOptions{}
		}
		if m.Type != monitor.DNS && !written("dns") {
			m.DNS = monitor.DNSOptions{}
		}
		if m.Type != monitor.Exec && !written("exec") {
			m.Exec = monitor.ExecOptions{}
		}
	}
	for i := range f.Pools {
		if _, ok := f.where[fmt.Sprintf("pools[%d].passive", i)]; !ok {
			f.Pools[i].Passive = monitor.PassiveConfig{}
		}
	}
}

// eachError calls f for every error of those joined.
func eachError(err error, f func(error)) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			eachError(e, f)
		}
	} else if err != nil {
		f(err)
	}
}

// problemKey is the key below at that a problem of a monitor is about: the first of its keys that is written, else the first.
func (f *File) problemKey(at string, err error) string {
	var p *monitor.Problem
	if !errors.As(err, &p) {
		return at
	}
	for _, k := range p.Keys {
		if _, written := f.where[at+"."+k]; written {
			return at + "." + k
		}
	}
	return at + "." + p.Keys[0]
}

func (v *validator) checkMonitors() {
	names := newUnique[string](v)
	known, list := map[string]int{}, []string{}
	refused := map[string]bool{} // a monitor with a key that was refused is not judged as well
	for _, e := range v.errs {
		if at, below, found := strings.Cut(e.Key, "]"); found && below != "" && strings.HasPrefix(at, "monitors[") {
			refused[at+"]"] = true
		}
	}
	for i := range v.file.Monitors {
		m, at := &v.file.Monitors[i], fmt.Sprintf("monitors[%d]", i)
		if m.Name != "" && names.check(m.Name, at+".name", "monitor") {
			known[m.Name] = i
			list = append(list, m.Name)
		}
		if !refused[at] {
			eachError(m.Validate(), func(err error) { v.errorf(v.file.problemKey(at, err), "%v", err) })
		}
		for key, a := range map[string]netip.Addr{"source-v4": m.Path.Source4, "source-v6": m.Path.Source6} {
			if first, ok := v.virtual[a]; ok && a.IsValid() {
				v.errorf(at+"."+key, "%s is the address of virtual server %q (line %d): answers to it would not reach the monitor", a,
					v.file.VirtualServers[first].Name, v.line(fmt.Sprintf("virtual-servers[%d].address", first)))
			}
			for _, p := range v.file.SNATPools {
				if a.IsValid() && slices.Contains(p.Addresses, a) {
					v.errorf(at+"."+key, "%s is an address of SNAT pool %q: answers to it would not reach the monitor", a, p.Name)
				}
			}
		}
	}
	used, ports := map[string]bool{}, v.file.servicePorts()
	for i := range v.file.Pools {
		v.checkHealth(&v.file.Pools[i], fmt.Sprintf("pools[%d]", i), known, list, used, ports)
	}
	v.checkStandIns()
	for name, i := range known {
		if !used[name] {
			v.warn(fmt.Sprintf("monitors[%d]", i), "no pool uses monitor %q", name)
		}
	}
}

// checkHealth checks what a pool says about its members' health.
func (v *validator) checkHealth(p *Pool, at string, known map[string]int, list []string, used map[string]bool, ports map[string]uint16) {
	names := newUnique[string](v)
	for i, name := range p.Monitors {
		key := fmt.Sprintf("%s.monitors[%d]", at, i)
		m, ok := known[name]
		used[name] = true
		if !ok {
			v.reference(key, "monitor", name, list)
			continue
		}
		names.check(name, key, "monitor")
		v.checkProbedPort(p, at, key, &v.file.Monitors[m], ports)
	}
	if n := int(p.MonitorsNeeded); n > monitor.Any && n > len(p.Monitors) {
		v.errorf(at+".monitors-needed", "%d monitors are needed, and the pool has %d", n, len(p.Monitors))
	}
	eachError(p.Passive.Validate(), func(err error) { v.errorf(v.file.problemKey(at+".passive", err), "%v", err) })
	if p.Passive.EndEarly && len(p.Monitors) == 0 {
		v.warn(at+".passive.end-early", "has no effect: the pool has no monitors")
	}
	if p.AllDown.Policy == AllDownPool {
		v.checkFallback(p, at)
	}
}

// checkProbedPort refuses a monitor that would not know which port to probe.
func (v *validator) checkProbedPort(p *Pool, at, key string, m *monitor.Monitor, ports map[string]uint16) {
	if m.Port != 0 || m.Type == monitor.ICMP || m.Type == monitor.Exec || ports[p.Name] != 0 {
		return
	}
	for j := range p.Members {
		if a := p.Members[j].Address; a.IsValid() && a.Port() == 0 {
			v.errorf(key, "which port of member %q (line %d)? It has none of its own, and there is not one of its virtual servers: give the monitor or the member one",
				p.Members[j].Name, v.line(fmt.Sprintf("%s.members[%d].address", at, j)))
			return
		}
	}
}

// checkFallback refuses a pool that there is not, or that leads back.
func (v *validator) checkFallback(p *Pool, at string) {
	key := at + ".all-down"
	facts, ok := v.pools[p.AllDown.Pool]
	if !ok {
		v.reference(key, "pool", p.AllDown.Pool, v.poolNames)
		return
	}
	facts.used = true
	for n, next := 0, p; next.AllDown.Policy == AllDownPool; n++ {
		if facts, ok = v.pools[next.AllDown.Pool]; !ok {
			return
		}
		if next = &v.file.Pools[facts.index]; next == p || n > len(v.file.Pools) {
			v.errorf(key, "the pools that stand in for one another lead round in a circle")
			return
		}
	}
}

// checkStandIns refuses pools that cannot stand in for that of a virtual server.
func (v *validator) checkStandIns() {
	said := map[string]bool{}
	for i := range v.file.VirtualServers {
		s := &v.file.VirtualServers[i]
		v.file.eachServing(s, func(p *Pool) {
			facts, ok := v.pools[p.Name]
			if p.Name == s.Pool || !ok || !s.Address.IsValid() || said[p.Name] {
				return
			}
			key := fmt.Sprintf("pools[%d]", facts.index)
			if _, other := facts.family[!s.Address.Addr().Is4()]; other && s.Mode != ModeTunnel {
				said[p.Name] = true
				v.errorf(key, "it stands in for pool %q, and has members of another family than virtual server %q", s.Pool, s.Name)
			}
			if s.TableFull == TableFullForward && !v.hashes(p.Name) {
				said[p.Name] = true
				v.errorf(key, "it stands in for pool %q, and does not hash clients as virtual server %q with table-full: forward needs", s.Pool, s.Name)
			}
		})
	}
}

// servicePorts says for each pool which port the virtual servers have that use it; 0 if not one and the same.
func (f *File) servicePorts() map[string]uint16 {
	ports := map[string]uint16{}
	for i := range f.VirtualServers {
		v := &f.VirtualServers[i]
		f.eachServing(v, func(p *Pool) {
			if port, ok := ports[p.Name]; ok && port != v.onePort() {
				ports[p.Name] = 0
			} else {
				ports[p.Name] = v.onePort()
			}
		})
	}
	return ports
}

// eachServing calls visit for the pool of v and those that stand in for it.
func (f *File) eachServing(v *VirtualServer, visit func(*Pool)) {
	for n, p := 0, f.Pool(v.Pool); p != nil && n <= len(f.Pools); n++ {
		visit(p)
		if p.AllDown.Policy != AllDownPool {
			return
		}
		p = f.Pool(p.AllDown.Pool)
	}
}
