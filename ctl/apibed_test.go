package ctl

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// apiBed is a server whose engine runs on memory rings, with its API on a socket: everything of the control side that needs no
// network and no root.
type apiBed struct {
	*Server
	t      *testing.T
	socket string
	loop   *loop // the first port
}

// loop is a port whose far end is driven by the worker's own thread: each step it delivers a burst of datagrams of as many
// clients, while it is on.
type loop struct {
	*rings.Mem
	wire    *rings.Wire
	heads   []byte
	lengths []uint16
	on      atomic.Bool
	sent    atomic.Uint64 // the only writer is the worker
	want    atomic.Int64  // marks that were asked for
	marks   chan mark
	marked  int64
}

// mark is how far the worker was at a moment, noted by itself: whoever else would look might be held up between two looks.
type mark struct {
	sent   uint64
	at     time.Time
	waited time.Duration // for its core while it could run, in all (Documentation/scheduler/sched-stats.rst)
}

// mark has the worker note how far it is.
func (l *loop) mark() mark {
	l.want.Add(1)
	return <-l.marks
}

func (l *loop) note() {
	var run, wait, slices int64
	b, err := os.ReadFile("/proc/thread-self/schedstat")
	if err == nil {
		_, err = fmt.Sscan(string(b), &run, &wait, &slices)
	}
	if err != nil {
		panic(err)
	}
	l.marks <- mark{l.sent.Load(), time.Now(), time.Duration(wait)}
}

// ratesOf are packets a second from one mark to another: of the time without what the worker waited for its core, and of all of it.
func ratesOf(from, to mark) (own, wall float64) {
	n, took := float64(to.sent-from.sent), to.at.Sub(from.at)
	return n / (took - (to.waited - from.waited)).Seconds(), n / took.Seconds()
}

func (l *loop) Refill(p *rings.Pool) int {
	n := l.Mem.Refill(p)
	if want := l.want.Load(); want != l.marked {
		l.marked = want
		l.note()
	}
	if l.on.Load() {
		l.sent.Store(l.sent.Load() + uint64(l.wire.SendHeads(l.heads, rings.HeadLen, l.lengths)))
	}
	return n
}

func (l *loop) Flush() {
	l.Mem.Flush()
	l.wire.Recv(nil)
}

const apiBedConfig = `
engine: {host-port: false, connections: 20000}
timeouts: {udp-unanswered: 1h}
control: {socket: SOCKET}
ports:
  - {name: outside, interface: eth1, addresses: [172.16.10.1/24]}
  - {name: inside, interface: eth2, addresses: [192.168.20.254/24]}
pools:
  - {name: web, members: [{name: s1, address: 192.168.20.1:80}, {name: s2, address: 192.168.20.2:80}]}
  - {name: dns, members: [{name: s1, address: 192.168.20.1:53}]}
virtual-servers:
  - {name: web, address: 10.10.1.100:80, protocol: tcp, pool: web}
  - {name: dns, address: 10.10.1.100:53, protocol: udp, pool: dns}
`

// newAPIBed serves the configuration text, in which SOCKET is a path; cores are the worker's, or nil.
func newAPIBed(t *testing.T, text string, cores []int, polling engine.Polling) *apiBed {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "sluice.sock")
	f, err := Parse("sluice.yaml", []byte(strings.ReplaceAll(text, "SOCKET", socket)))
	must(err)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	s := &Server{assembly: assembly{file: f, log: log, plan: &plan{workers: 1, cores: cores, frames: 1024}}, dict: engine.NewDictionary(),
		began: time.Now(), drain: newDraining(), requests: make(chan func(context.Context)), health: newHealth(log)}
	s.access, s.certs, err = f.prepareControl()
	must(err)
	top, err := f.offline()
	must(err)
	s.spec = f.spec(top, 1, 1)
	cfg, err := s.health.compile(f, &s.spec, s.dict)
	must(err)
	s.region, err = rings.NewRegion(1024, 2048, false)
	must(err)
	table := make([]byte, flow.Size(f.Engine.Connections))
	b := &apiBed{Server: s, t: t, socket: socket}
	var queues []engine.PortQueue
	for port := range f.Ports {
		m, w := rings.NewMem(s.region, 128)
		l := &loop{Mem: m, wire: w, marks: make(chan mark, 1)}
		if port == 0 {
			b.loop = l
			l.heads, l.lengths = datagrams(t, 64)
		}
		s.queues = append(s.queues, []openQueue{{Queue: l, mode: "copy"}})
		queues = append(queues, engine.PortQueue{Port: port, Queue: l})
		s.ifaces = append(s.ifaces, iface{name: f.Ports[port].Interface, mac: top.ports[port].MAC, mtu: 1500, queues: 1})
	}
	s.engine, err = engine.New(engine.Options{Region: s.region, Workers: [][]engine.PortQueue{queues}, Tables: [][]byte{table}, Capacity: f.Engine.Connections,
		Cores: cores, Nice: nice(cores), Polling: polling, Secret: newSecret()}, cfg, s.dict)
	must(err)
	must(s.engine.Start())
	s.api, err = s.listen()
	must(err)
	t.Cleanup(func() {
		s.api.close(&s.captures)
		b.loop.on.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.engine.Stop(ctx); err != nil {
			t.Error(err)
			return // it may still use the memory
		}
		if err := s.engine.Close(); err != nil {
			t.Error(err)
		}
		if err := s.region.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// datagrams are n queries of as many clients to the virtual server dns, as rings.Wire.SendHeads takes them.
func datagrams(t *testing.T, n int) (heads []byte, lengths []uint16) {
	t.Helper()
	for i := range n {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{172, 16, 10, 55}, DstIP: net.IP{10, 10, 1, 100}}
		udp := &layers.UDP{SrcPort: layers.UDPPort(1024 + i), DstPort: 53}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		buf := gopacket.NewSerializeBuffer()
		err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0x10, 0x55}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 1, 1}, EthernetType: layers.EthernetTypeIPv4},
			ip, udp, gopacket.Payload(make([]byte, 18)))
		if err != nil {
			t.Fatal(err)
		}
		var head [rings.HeadLen]byte
		copy(head[:], buf.Bytes())
		heads, lengths = append(heads, head[:]...), append(lengths, uint16(len(buf.Bytes())))
	}
	if first := netip.AddrFrom4([4]byte(heads[30:34])); first != netip.MustParseAddr("10.10.1.100") || binary.BigEndian.Uint16(heads[36:]) != 53 {
		t.Fatalf("the datagrams go to %s", first)
	}
	return heads, lengths
}
