package engine

import (
	"net"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
	"sluice/rings"
)

// The addresses of the classic figure: client 172.16.10.55, virtual 10.10.1.100:80, servers 192.168.20.1-4.
const (
	outside = iota
	inside
	host
)

var (
	clientMAC  = net.HardwareAddr{2, 0, 0, 0, 0x10, 0x55}
	outsideMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	insideMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	hostMAC    = net.HardwareAddr{2, 0, 0, 0, 0, 3}
	clientIP   = netip.MustParseAddr("172.16.10.55")
	clientIP6  = netip.MustParseAddr("fd00:172:16:10::55")
	vip        = netip.MustParseAddr("10.10.1.100")
	vip6       = netip.MustParseAddr("fd00:10:10:1::100")
)

func serverIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 20, byte(i)}) }
func serverMAC(i int) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, 0x20, byte(i)}
}

func mac(m net.HardwareAddr) [6]byte { return [6]byte(m) }

// a4 is the configuration of the figure, with UDP and IPv6 beside it.
func a4(workers int) Spec {
	members := func(v6 bool, port uint16) (m []MemberSpec) {
		for i := 1; i <= 4; i++ {
			addr := serverIP(i)
			if v6 {
				a := netip.MustParseAddr("fd00:192:168:20::").As16()
				a[15] = byte(i)
				addr = netip.AddrFrom16(a)
			}
			m = append(m, MemberSpec{Name: addr.String(), Addr: addr, Port: port, Weight: 1, Hop: Hop{Port: inside, MAC: mac(serverMAC(i)), OK: true}})
		}
		return m
	}
	return Spec{
		Workers: workers,
		Ports:   []PortSpec{{Name: "outside", MAC: mac(outsideMAC)}, {Name: "inside", MAC: mac(insideMAC)}, {Name: "host", MAC: mac(hostMAC)}},
		Host:    &HostSpec{Port: host, MAC: mac(hostMAC)},
		Pools: []PoolSpec{
			{Name: "web", Scheduler: "round-robin", Members: members(false, 80)},
			{Name: "web6", Scheduler: "round-robin", Members: members(true, 8080)},
			{Name: "dns", Scheduler: "round-robin", Members: members(false, 5353)},
		},
		Virtuals: []VirtualSpec{
			{Name: "web", Addr: vip, Port: 80, Proto: flow.TCP, Pool: 0},
			{Name: "web6", Addr: vip6, Port: 80, Proto: flow.TCP, Pool: 1},
			{Name: "dns", Addr: vip, Port: 53, Proto: flow.UDP, Pool: 2},
			{Name: "dns6", Addr: vip6, Port: 53, Proto: flow.UDP, Pool: 1},
		},
	}
}

// bench is an engine over memory rings, stepped by the test.
type bench struct {
	*Engine
	t     testing.TB
	dict  *Dictionary
	wires []*rings.Wire // by worker*3 + port
	n     int
	now   uint64
}

func alignedMemory(size int) []byte {
	b := make([]byte, size+64)
	off := int(-uintptr(unsafe.Pointer(&b[0])) & 63)
	return b[off : off+size]
}

func newBench(t testing.TB, spec Spec, capacity, framesPerWorker int) *bench {
	t.Helper()
	return newBenchFrom(t, spec, capacity, framesPerWorker, NewDictionary(), 1000)
}

// newBenchFrom goes on with the ids of dict at the time now.
func newBenchFrom(t testing.TB, spec Spec, capacity, framesPerWorker int, dict *Dictionary, now uint64) *bench {
	t.Helper()
	return newBenchOver(t, rings.NewHeapRegion(framesPerWorker*max(spec.Workers, 1), 2048), spec, capacity, dict, now)
}

// newBenchOver has its frames in region, and if that has chains, queues that take them. Its options may be changed.
func newBenchOver(t testing.TB, region *rings.Region, spec Spec, capacity int, dict *Dictionary, now uint64, change ...func(*Options)) *bench {
	t.Helper()
	n, newQueue := max(spec.Workers, 1), rings.NewMem
	if region.Chains() {
		newQueue = rings.NewMemChains
	}
	b := &bench{t: t, dict: dict, n: n, now: now}
	cfg, err := NewConfig(spec, b.dict)
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{Region: region, Capacity: capacity, Secret: flow.Secret{0x8f3a1d5b7c9e2046, 0x1b873593cc9e2d51, 0xe6546b64a5b2c3d7, 0x2545f4914f6cdd1d}, Clock: func() uint64 { return b.now },
		Persistence: PersistenceCapacity(spec.Persistences, n)}
	for range n {
		var qs []PortQueue
		for p := range spec.Ports {
			if spec.Ports[p].VLAN.Tags.N > 0 { // has those of its parent
				b.wires = append(b.wires, nil)
				continue
			}
			q, wire := newQueue(region, 256)
			b.wires = append(b.wires, wire)
			qs = append(qs, PortQueue{Port: p, Queue: q, TxOnly: p == host})
		}
		opt.Workers = append(opt.Workers, qs)
		opt.Tables = append(opt.Tables, alignedMemory(flow.TableSize(capacity, opt.Persistence)))
	}
	for _, f := range change {
		f(&opt)
	}
	if b.Engine, err = New(opt, cfg, b.dict); err != nil {
		t.Fatal(err)
	}
	b.Step(b.now) // fill rings
	return b
}

func (b *bench) wire(worker, port int) *rings.Wire { return b.wires[worker*len(b.Config().Ports)+port] }

// send delivers frame on a port and returns what comes out, by port.
func (b *bench) send(port int, frame []byte) (out [3][][]byte) { return b.sendTo(0, port, frame) }

func (b *bench) sendTo(worker, port int, frame []byte) (out [3][][]byte) {
	b.t.Helper()
	if !b.wire(worker, port).Send(frame) {
		b.t.Fatal("the wire is full")
	}
	for range 4 {
		b.Step(b.now)
	}
	for w := range b.n {
		for p := range 3 {
			b.wire(w, p).Recv(func(packet []byte) { out[p] = append(out[p], append([]byte(nil), packet...)) })
		}
	}
	b.Step(b.now)
	if err := b.Audit(); err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) stats() (s Stats) {
	snaps, err := b.Snapshots(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	for i := range snaps {
		s.Add(&snaps[i].Stats)
	}
	return s
}

func (b *bench) close() {
	b.t.Helper()
	if err := b.Close(); err != nil {
		b.t.Error(err)
	}
}

// packet describes a frame to be built by gopacket.
type packet struct {
	srcMAC, dstMAC net.HardwareAddr
	src, dst       netip.Addr
	sport, dport   uint16
	udp            bool
	flags          string // of TCP: any of S A F R P
	seq, ack       uint32
	ttl            uint8
	payload        string
	vlan           uint16
	noChecksum     bool // UDP over IPv4
}

func (p packet) build(t testing.TB) []byte {
	t.Helper()
	var ls []gopacket.SerializableLayer
	eth := &layers.Ethernet{SrcMAC: p.srcMAC, DstMAC: p.dstMAC, EthernetType: layers.EthernetTypeIPv4}
	if p.src.Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
	}
	ls = append(ls, eth)
	if p.vlan != 0 {
		ls = append(ls, &layers.Dot1Q{VLANIdentifier: p.vlan, Type: eth.EthernetType})
		eth.EthernetType = layers.EthernetTypeDot1Q
	}
	proto := layers.IPProtocolTCP
	if p.udp {
		proto = layers.IPProtocolUDP
	}
	ttl := p.ttl
	if ttl == 0 {
		ttl = 64
	}
	var net4 gopacket.NetworkLayer
	if p.src.Is6() {
		ip := &layers.IPv6{Version: 6, HopLimit: ttl, NextHeader: proto, SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice()}
		ls, net4 = append(ls, ip), ip
	} else {
		ip := &layers.IPv4{Version: 4, IHL: 5, TTL: ttl, Protocol: proto, SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice(), Id: 7}
		ls, net4 = append(ls, ip), ip
	}
	if p.udp {
		u := &layers.UDP{SrcPort: layers.UDPPort(p.sport), DstPort: layers.UDPPort(p.dport)}
		_ = u.SetNetworkLayerForChecksum(net4)
		ls = append(ls, u)
	} else {
		tcp := &layers.TCP{SrcPort: layers.TCPPort(p.sport), DstPort: layers.TCPPort(p.dport), Seq: p.seq, Ack: p.ack, Window: 64000}
		for _, f := range p.flags {
			switch f {
			case 'S':
				tcp.SYN = true
			case 'A':
				tcp.ACK = true
			case 'F':
				tcp.FIN = true
			case 'R':
				tcp.RST = true
			case 'P':
				tcp.PSH = true
			}
		}
		_ = tcp.SetNetworkLayerForChecksum(net4)
		ls = append(ls, tcp)
	}
	ls = append(ls, gopacket.Payload(p.payload))
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	b := buf.Bytes()
	if p.noChecksum {
		off := 14 + 20 + 6
		b[off], b[off+1] = 0, 0
	}
	return b
}

func fromClient(sport uint16, flags string) packet {
	return packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: sport, dport: 80, flags: flags, seq: 1000}
}

func fromServer(i int, dport uint16, flags string) packet {
	return packet{srcMAC: serverMAC(i), dstMAC: insideMAC, src: serverIP(i), dst: clientIP, sport: 80, dport: dport, flags: flags, seq: 9000}
}
