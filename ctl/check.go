package ctl

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"sluice/flow"
)

// Check validates all that a start would, and changes nothing: interfaces and their queues, the way to every member,
// workers, cores and memory. It returns what a start would take, a line each. Offline leaves this host out of it.
func (f *File) Check(offline bool) ([]string, error) {
	if offline {
		if _, _, err := f.Offline(); err != nil {
			return nil, err
		}
		return []string{"this host's interfaces and routes were not looked at"}, nil
	}
	// What does not need the other is all looked at before anything is refused.
	ifaces, err := f.interfaces()
	_, _, controlErr := f.prepareControl()
	errs := []error{err, f.prepareMonitors(), controlErr, f.checkLocalPorts()}
	var p *plan
	var vlans []iface
	var ways map[netip.Addr]way
	if err == nil {
		p, err = f.plan(ifaces)
		errs = append(errs, err)
		if vlans, err = f.vlanInterfaces(ifaces); err == nil {
			ways, err = f.ways(f.reach(ifaces, vlans))
		}
		errs = append(errs, err)
	}
	if err := boundedErrors(errors.Join(errs...)); err != nil {
		return nil, err
	}
	var out []string
	for i := range ifaces {
		line := fmt.Sprintf("port %s: %s, %s, MTU %d", f.Ports[i].Name, ifaces[i].name, counted(ifaces[i].queues, "queue"), ifaces[i].mtu)
		if ifaces[i].jumbo {
			line += ", packets of several frames"
		}
		out = append(out, line)
		if text := f.jumboTrouble(&f.Ports[i], &ifaces[i]); text != "" {
			out = append(out, "warning: port "+f.Ports[i].Name+": "+text)
		}
	}
	f.eachVLAN(func(n, _ int, v *VLAN, p *Port, _ string) {
		i := &vlans[n-f.firstVLAN()]
		out = append(out, fmt.Sprintf("VLAN %s: %s on port %s, MTU %d", v.Name, i.name, p.Name, i.mtu))
	})
	out = append(out, fmt.Sprintf("%s, cores %v (%s)", counted(p.workers, "worker"), p.cores, p.why))
	tables, frames := f.memory(p)
	out = append(out,
		fmt.Sprintf("connection table: %d connections of all workers together, %s", f.Engine.Connections, mebibytes(p.workers*flow.Size(f.tableCapacity(p.workers)))))
	if p.persistence > 0 {
		out = append(out, fmt.Sprintf("persistence: %d clients, %s", p.workers*p.persistence, mebibytes(tables-p.workers*flow.Size(f.tableCapacity(p.workers)))))
	}
	out = append(out,
		fmt.Sprintf("frames: %d of %d bytes, %s, registered with %d sockets", p.frames, f.Engine.FrameSize, mebibytes(frames), f.sockets(ifaces, p)))
	out = append(out, f.lacking(ifaces, p)...)
	own, err := f.HostWarnings()
	if err != nil {
		return nil, err
	}
	for _, w := range own {
		out = append(out, "warning: "+w)
	}
	out = append(out, fmt.Sprintf("addresses of members: %d, of which %d are reached by the kernel's routes and %d by neighbours of the file", len(f.memberAddrs()), len(ways), len(f.memberAddrs())-len(ways)))
	return out, nil
}

// maxHostProblems is how many problems of a host one answer lists: a route that is missing may be that of every member.
const maxHostProblems = 20

// boundedErrors leaves out what is beyond that, and says how many.
func boundedErrors(err error) error {
	if err == nil {
		return nil
	}
	lines := strings.Split(err.Error(), "\n") // of joined errors each has one
	n := len(lines) - maxHostProblems
	if n <= 0 {
		return err
	}
	return fmt.Errorf("%s\n%d more problems are not listed; mend these first", strings.Join(lines[:maxHostProblems], "\n"), n)
}

func (f *File) memory(p *plan) (tables, frames int) {
	return p.workers * f.tableSize(p.workers), p.frames * f.Engine.FrameSize
}

func mebibytes(n int) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// sockets is how many AF_XDP sockets a start opens.
func (f *File) sockets(ifaces []iface, p *plan) int {
	n := 0
	for i := range ifaces {
		n += ifaces[i].queues
	}
	if f.Engine.HostPort {
		n += p.workers
	}
	return n
}

// lacking is a warning when this process may not do what a start needs: it is no fault of the file, and sluice run may be
// given more.
func (f *File) lacking(ifaces []iface, p *plan) []string {
	if err := f.privileges(ifaces, p); err != nil {
		return []string{"warning: " + err.Error()}
	}
	return nil
}

// counted is a number of things in words.
func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
