package ctl

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// Captures and what must come out of them are built here by gopacket alone: nothing of ours takes part but the
// addresses, which are those of testdata/replay/*.yaml.

var (
	clientMAC  = net.HardwareAddr{2, 0, 0, 0, 0x10, 0x55}
	outsideMAC = net.HardwareAddr{2, 0, 0, 0, 1, 1}
	insideMAC  = net.HardwareAddr{2, 0, 0, 0, 1, 2}
	kernelMAC  = net.HardwareAddr{2, 0, 0, 0, 1, 0xff}
	client4    = netip.MustParseAddr("172.16.10.55")
	client6    = netip.MustParseAddr("fd00:172:16:10::55")
	virtual4   = netip.MustParseAddr("10.10.1.100")
	virtual6   = netip.MustParseAddr("fd00:10:10:1::100")
	virtualApp = netip.MustParseAddrPort("10.10.1.101:80")
)

const (
	outside = iota
	inside
	hostPort
)

var portNames = []string{"outside", "inside", HostPortName}

func server4(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 20, byte(i)}) }
func server6(i int) netip.Addr {
	a := netip.MustParseAddr("fd00:192:168:20::").As16()
	a[15] = byte(i)
	return netip.AddrFrom16(a)
}

// madeUp is the MAC that the documentation promises for a neighbour without an entry.
func madeUp(a netip.Addr) net.HardwareAddr {
	b := a.AsSlice()
	return append(net.HardwareAddr{2, 1}, b[len(b)-4:]...)
}

// wirePacket describes a frame.
type wirePacket struct {
	srcMAC, dstMAC net.HardwareAddr
	src, dst       netip.AddrPort
	udp            bool
	flags          string // of TCP: any of S A F R P
	seq, ack       uint32
	ttl            uint8 // 0: 64
	payload        []byte
	tags           []uint16 // VLAN
	service        bool     // the outer tag is 802.1ad
	untold         bool     // tags have no priority
	length         int      // of the frame, padding included; 0: that of a packet, or the least
	raw            []byte   // the whole frame, instead of all the above
	damage         func([]byte)
}

func (p wirePacket) build(t testing.TB) []byte {
	t.Helper()
	if p.raw != nil {
		return p.raw
	}
	eth := &layers.Ethernet{SrcMAC: p.srcMAC, DstMAC: p.dstMAC}
	all, next := []gopacket.SerializableLayer{eth}, &eth.EthernetType
	for _, id := range p.tags {
		*next = layers.EthernetTypeDot1Q
		tag := &layers.Dot1Q{VLANIdentifier: id, Priority: 3}
		if p.untold {
			tag.Priority = 0
		}
		if p.service && next == &eth.EthernetType {
			*next = layers.EthernetTypeQinQ
		}
		all, next = append(all, tag), &tag.Type
	}
	proto, ttl := layers.IPProtocolTCP, uint8(64)
	if p.udp {
		proto = layers.IPProtocolUDP
	}
	if p.ttl != 0 {
		ttl = p.ttl
	}
	src, dst := p.src.Addr().AsSlice(), p.dst.Addr().AsSlice()
	var network gopacket.NetworkLayer
	if p.src.Addr().Is6() {
		*next = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, HopLimit: ttl, TrafficClass: 8, FlowLabel: 0x12345, NextHeader: proto, SrcIP: src, DstIP: dst}
		all, network = append(all, ip), ip
	} else {
		*next = layers.EthernetTypeIPv4
		ip := &layers.IPv4{Version: 4, TOS: 8, TTL: ttl, Id: uint16(p.seq), Flags: layers.IPv4DontFragment, Protocol: proto, SrcIP: src, DstIP: dst}
		all, network = append(all, ip), ip
	}
	if p.udp {
		u := &layers.UDP{SrcPort: layers.UDPPort(p.src.Port()), DstPort: layers.UDPPort(p.dst.Port())}
		_ = u.SetNetworkLayerForChecksum(network)
		all = append(all, u)
	} else {
		tcp := p.tcp()
		_ = tcp.SetNetworkLayerForChecksum(network)
		all = append(all, tcp)
	}
	buf := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, options, append(all, gopacket.Payload(p.payload))...); err != nil {
		t.Fatal(err)
	}
	b := buf.Bytes()
	if p.length != 0 {
		b = append(b, make([]byte, max(0, p.length-len(b)))...)[:p.length]
	}
	if p.damage != nil {
		p.damage(b)
	}
	return b
}

func (p wirePacket) tcp() *layers.TCP {
	tcp := &layers.TCP{SrcPort: layers.TCPPort(p.src.Port()), DstPort: layers.TCPPort(p.dst.Port()), Seq: p.seq, Ack: p.ack, Window: 64240}
	for _, f := range p.flags {
		switch f {
		case 'S':
			tcp.SYN = true
			tcp.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}},
				{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2}}
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
	return tcp
}

// toServer is what must become of a packet from the client, toClient of one from the server.
func (p wirePacket) toServer(server netip.AddrPort, mac net.HardwareAddr) *wirePacket {
	p.srcMAC, p.dstMAC, p.dst = insideMAC, mac, server
	return p.hop()
}

func (p wirePacket) toClient(virtual netip.AddrPort) *wirePacket {
	p.srcMAC, p.dstMAC, p.src = outsideMAC, clientMAC, virtual
	return p.hop()
}

// toKernel changes the destination MAC and nothing else.
func (p wirePacket) toKernel() *wirePacket {
	p.dstMAC = kernelMAC
	return &p
}

func (p wirePacket) hop() *wirePacket {
	if p.ttl == 0 {
		p.ttl = 64
	}
	p.ttl--
	return &p
}

// event is one packet of a capture and what must come of it: a packet on a port, or nothing.
type event struct {
	at   time.Duration
	port int
	in   wirePacket
	cut  int // bytes captured; 0: all
	out  *wirePacket
	to   int
	more [][]byte // further frames there
}

var captureStart = time.Date(2024, 5, 17, 12, 0, 0, 123456789, time.UTC)

// ngFile writes events as a pcapng file: what goes in, or what must come out.
func ngFile(t testing.TB, events []event, names []string, out bool) []byte {
	t.Helper()
	var b bytes.Buffer
	options := pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "sluice"}}
	w, err := pcapgo.NewNgWriterInterface(&b, pcapgo.NgInterface{Name: names[0], LinkType: layers.LinkTypeEthernet}, options)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names[1:] {
		if _, err := w.AddInterface(pcapgo.NgInterface{Name: n, LinkType: layers.LinkTypeEthernet}); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range events {
		p, port := &e.in, e.port
		if out {
			p, port = e.out, e.to
		}
		if p == nil {
			continue
		}
		data := p.build(t)
		ci := gopacket.CaptureInfo{Timestamp: captureStart.Add(e.at), Length: len(data), CaptureLength: len(data), InterfaceIndex: port}
		if e.cut != 0 {
			ci.CaptureLength = e.cut
		}
		if err := w.WritePacket(ci, data[:ci.CaptureLength]); err != nil {
			t.Fatal(err)
		}
		for _, data := range e.more {
			if ci.Length, ci.CaptureLength = len(data), len(data); !out {
				break
			}
			if err := w.WritePacket(ci, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// plainFile writes what goes in as a pcap file with microseconds.
func plainFile(t testing.TB, events []event) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		data := e.in.build(t)
		ci := gopacket.CaptureInfo{Timestamp: captureStart.Add(e.at), Length: len(data), CaptureLength: len(data)}
		if err := w.WritePacket(ci, data); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}
