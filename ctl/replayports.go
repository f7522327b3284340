package ctl

import (
	"fmt"
	"strings"

	"sluice/rings"
)

// portMapping says which port an interface of a capture is: the port with its name, or whose network interface has
// it; for other names, and for none, the port at the same place.
type portMapping struct {
	file   *File
	of     map[captureInterface]int
	claims map[capturePort]claim // the first interface that is the port
}

type captureInterface struct{ section, index int }
type capturePort struct{ section, port int }
type claim struct {
	index int
	named bool
}

func newPortMapping(f *File) portMapping {
	return portMapping{file: f, of: map[captureInterface]int{}, claims: map[capturePort]claim{}}
}

// port is the port of a packet. Several interfaces may be one port by their name, as a merged capture has them, but
// not by their place: that would be a guess.
func (m *portMapping) port(p *rings.CapturedPacket) (int, error) {
	i := captureInterface{p.Section, p.Interface}
	if port, ok := m.of[i]; ok {
		return port, nil
	}
	port, named := m.named(p.Name)
	if !named {
		port = p.Interface
	}
	if port >= len(m.file.Ports) {
		return 0, fmt.Errorf("packet %d: %s of the capture is not a port: %s has %d (%s); leave the interface out of the capture, or name it as its port",
			p.Number, p.Where(), m.file.Name, len(m.file.Ports), m.names())
	}
	place := capturePort{p.Section, port}
	other, taken := m.claims[place]
	if taken && !(named && other.named) {
		return 0, fmt.Errorf("packet %d: %s and interface %d of the capture would both be port %s; name both as their ports (%s)",
			p.Number, p.Where(), other.index, m.file.Ports[port].Name, m.names())
	}
	if !taken {
		m.claims[place] = claim{p.Interface, named}
	}
	m.of[i] = port
	return port, nil
}

// named finds the port by name; one that is called so comes before one whose interface is.
func (m *portMapping) named(name string) (port int, ok bool) {
	if name == "" {
		return 0, false
	}
	for i := range m.file.Ports {
		if m.file.Ports[i].Name == name {
			return i, true
		}
	}
	for i := range m.file.Ports {
		if m.file.Ports[i].Interface == name {
			return i, true
		}
	}
	return 0, false
}

func (m *portMapping) names() string {
	var names []string
	for i := range m.file.Ports {
		names = append(names, m.file.Ports[i].Name)
	}
	return strings.Join(names, ", ")
}
