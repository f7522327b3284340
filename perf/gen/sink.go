package gen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// SinkConfig says what a Sink does with the generator's packets.
type SinkConfig struct {
	Clients netip.Prefix // the generator's sources, IPv4
	Servers netip.Prefix // where the translated packets go
	// Answer sends datagrams back, and carries TCP connections through their whole lives.
	Answer bool
	// Verify checks the checksums of packets of up to 128 bytes. It costs the core that delivers them.
	Verify bool
}

// Sink counts the generator's packets at the far ends, before the kernel's stack there, and ends or answers them
// (bpf/sink.c). Its work is done by the core that delivers the packets: about 0.1 us each.
type Sink struct {
	objs  sinkObjects
	links []link.Link
}

// EndCounts are the counters of one end.
type EndCounts struct {
	Packets, Bytes uint64
	Translated     uint64 // whose other address is a server's own, not the virtual one
	Wrong          uint64 // with a wrong checksum, with Verify
	SYNs, FINs     uint64
	Ends           uint64 // TCP segments that are neither: at the servers' end, lives that are over
	Resets         uint64
}

// SinkCounts are all counters of a sink.
type SinkCounts struct {
	Requests EndCounts // at the servers' end
	Answers  EndCounts // at the clients' end
}

// NewSink loads the programs.
func NewSink(cfg SinkConfig) (*Sink, error) {
	spec, err := loadSink()
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]any{
		"client_net": network(cfg.Clients.Masked().Addr()), "client_mask": mask(cfg.Clients),
		"server_net": network(cfg.Servers.Masked().Addr()), "server_mask": mask(cfg.Servers),
		"answer": flag(cfg.Answer), "verify": flag(cfg.Verify),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("sink: %s: %w", name, err)
		}
	}
	s := &Sink{}
	if err := spec.LoadAndAssign(&s.objs, nil); err != nil {
		return nil, fmt.Errorf("load the sink: %w", err)
	}
	return s, nil
}

// network is an IPv4 address as it lies in a packet.
func network(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func mask(p netip.Prefix) uint32 {
	return binary.NativeEndian.Uint32(net.CIDRMask(p.Bits(), 32))
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// AttachServers puts the sink at the servers' end, an interface of the calling thread's network namespace.
func (s *Sink) AttachServers(ifname string) error { return s.attach(ifname, s.objs.SluiceServer) }

// AttachClients puts the sink at the clients' end.
func (s *Sink) AttachClients(ifname string) error { return s.attach(ifname, s.objs.SluiceClient) }

func (s *Sink) attach(ifname string, program *ebpf.Program) error {
	i, err := net.InterfaceByName(ifname)
	if err != nil {
		return fmt.Errorf("sink on %s: %w", ifname, err)
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: i.Index, Program: program, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return fmt.Errorf("sink on %s (needs Linux 6.6): %w", ifname, err)
	}
	s.links = append(s.links, l)
	return nil
}

// Counts reads the counters.
func (s *Sink) Counts() (c SinkCounts, err error) {
	var cores [][2 * endCounters]uint64
	if err := s.objs.Counters.Lookup(uint32(0), &cores); err != nil {
		return c, fmt.Errorf("read the sink: %w", err)
	}
	for _, n := range cores {
		c.Requests.add(n[:endCounters])
		c.Answers.add(n[endCounters:])
	}
	return c, nil
}

const endCounters = 8 // COUNTERS of sink.c

func (e *EndCounts) add(n []uint64) {
	for i, p := range []*uint64{&e.Packets, &e.Bytes, &e.Translated, &e.Wrong, &e.SYNs, &e.FINs, &e.Ends, &e.Resets} {
		*p += n[i]
	}
}

// Close takes the sink away.
func (s *Sink) Close() error {
	var errs []error
	for _, l := range s.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(append(errs, s.objs.Close())...)
}
