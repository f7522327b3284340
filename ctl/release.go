package ctl

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"sluice/rings"
)

// ReleasePorts removes what a killed engine left: the XDP program of one interface, or, with an empty name, those of
// all interfaces of this network namespace and of namespaces that are gone, and the addresses, neighbours and host
// port that it noted. It refuses while an engine runs. It returns what it did, a line each.
func ReleasePorts(ifname string) (done []string, err error) {
	state, err := lockState()
	if err != nil {
		return nil, err
	}
	pins, err := rings.ListPinned()
	if err != nil {
		state.unlock()
		return nil, err
	}
	var errs []error
	found := false
	for _, p := range pins {
		if ifname != "" && p.Interface != ifname || ifname == "" && p.Alive && p.Interface == "" {
			continue // another namespace's
		}
		found = true
		if err := rings.Release(p); err != nil {
			errs = append(errs, err)
			continue
		}
		name := p.Interface
		if name == "" {
			name = fmt.Sprintf("interface %d of a namespace that is gone", p.Ifindex)
		}
		done = append(done, "released "+name)
	}
	restored, err := state.restoreSteering(ifname)
	errs = append(errs, err)
	for _, name := range restored {
		found = true
		done = append(done, "restored the steering of "+name)
	}
	if ifname != "" {
		state.unlock()
		if !found {
			errs = append(errs, fmt.Errorf("no program of sluice is pinned on %s", ifname))
		}
		return done, errors.Join(errs...)
	}
	for _, a := range state.Addresses {
		done = append(done, fmt.Sprintf("took %s off interface %d", a.Address, a.Index))
	}
	if state.HostPort {
		done = append(done, "removed the host port")
	}
	done = append(done, sweepDead()...)
	if effectiveCapabilities()&(1<<unix.CAP_SYS_ADMIN) != 0 {
		unmounted, err := rings.UnmountOwn()
		errs = append(errs, err)
		if unmounted {
			done = append(done, "unmounted "+rings.OwnBPFFS)
		}
	}
	return done, errors.Join(append(errs, state.release())...)
}
