package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
)

// A virtual server on an address of the host itself takes more from the host than its ports: what comes to the address by a port
// and is for no virtual server goes where unmatched says: to nobody, but for unmatched: host. The file cannot tell, as it seldom has the host's
// addresses, so whatever looks at the host says so: check, run, reload and doctor.

// OwnVirtual is an address of the host that a virtual server takes.
type OwnVirtual struct {
	Address   netip.Addr
	Interface string // that has it
	Virtual   string // name of the virtual server
	Key       string // of the address in the file
	Unmatched Unmatched
	Whole     bool // all ports of the virtual server's protocol are taken, so that unmatched changes little
	Managed   bool
}

// text says what is lost, and mend what to do about it.
func (o *OwnVirtual) text() string {
	what := "unmatched is " + string(o.Unmatched) + ": the host cannot be reached there by any port of sluice but for its virtual servers, not even by ssh"
	if o.Whole {
		what = "virtual server " + o.Virtual + " takes all its ports: the host cannot be reached there by any port of sluice, not even by ssh"
	}
	return fmt.Sprintf("%s is this host's own address (on %s), and %s", o.Address, o.Interface, what)
}

func (o *OwnVirtual) mend() string {
	m := "give the virtual server an address of its own, or set unmatched: host"
	if o.Whole {
		m = "give the virtual server an address of its own, or only the ports that it is for, with unmatched: host"
	}
	if o.Managed {
		m += " and address-handling: external"
	}
	return m
}

// HostWarnings are remarks about a valid file that take a look at this host, in the form of Warnings.
func (f *File) HostWarnings() ([]string, error) {
	own, err := f.ownVirtuals()
	var out []string
	for i := range own {
		line, column := f.Position(own[i].Key)
		e := Error{File: f.Name, Line: line, Column: column, Key: own[i].Key, Message: own[i].text(), Hint: own[i].mend()}
		out = append(out, e.Error())
	}
	return out, err
}

// ownVirtuals are the addresses of this host that virtual servers take from it. One that the file gives to a port is said by the
// check of the file.
func (f *File) ownVirtuals() (out []OwnVirtual, err error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	note, readable := noteHere()
	said := map[netip.Addr]bool{}
	for _, a := range f.ownAddresses() {
		said[a] = true
	}
	for i := range f.VirtualServers {
		v := &f.VirtualServers[i]
		if v.Mode.transparent() {
			continue // the host's own addresses pass
		}
		for j, d := range v.Destinations {
			a := d.Prefix.Addr()
			whole := d.AnyPort() && (v.Protocol == TCP || v.Protocol == AnyProtocol)
			if !d.IsAddress() || said[a] || v.Unmatched == UnmatchedHost && !whole {
				continue
			}
			for _, k := range list {
				if ip, ok := netip.AddrFromSlice(k.IP); !ok || ip.Unmap() != a {
					continue
				}
				n := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == k.LinkIndex })
				if n < 0 {
					continue // it has gone meanwhile
				}
				link := links[n].Attrs()
				bits, size := k.Mask.Size()
				// Who may not read the note goes by the form: we place addresses alone, without their network.
				placed := bits == size && !readable && v.AddressHandling == AddressManaged
				for _, p := range note.Addresses {
					placed = placed || p.Address == a && p.Index == link.Index && bytes.Equal(link.HardwareAddr, p.MAC[:])
				}
				if placed {
					continue
				}
				said[a] = true
				out = append(out, OwnVirtual{a, link.Name, v.Name, fmt.Sprintf("virtual-servers[%d]%s", i, v.endKeys[j]), v.Unmatched, whole, v.AddressHandling == AddressManaged})
				break
			}
		}
	}
	return out, nil
}

// noteHere is what an engine, one that runs or was killed, has noted of this network namespace; it is inherited if there is one.
// It is readable if there is none.
func noteHere() (s kernelState, readable bool) {
	base, err := stateBase()
	if err != nil {
		return s, false
	}
	b, err := os.ReadFile(base + ".json")
	if err != nil {
		return s, os.IsNotExist(err)
	}
	if json.Unmarshal(b, &s) != nil {
		s = kernelState{}
	}
	s.inherited = true
	return s, true
}

// warn logs the warnings of a file that are given, and those that take a look at this host; it returns them all.
func (s *Server) warn(list []string, f *File) []string {
	own, err := f.HostWarnings()
	if err != nil {
		s.log.Warn("the addresses of this host could not be compared with those of virtual servers", "error", err)
	}
	list = append(list[:len(list):len(list)], own...)
	for _, w := range list {
		s.log.Warn("configuration", "warning", w)
	}
	return list
}
