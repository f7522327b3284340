package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
	"sluice/rewrite"
)

var (
	tunnelSrc4 = netip.MustParseAddr("192.168.20.254")
	tunnelSrc6 = netip.MustParseAddr("fd00:192:168:20::254")
)

// tunnelled is direct, with members of either family behind tunnels of a kind: crossed has virtual servers of the one family
// served by members of the other.
func tunnelled(workers int, kind rewrite.TunnelKind, crossed bool) Spec {
	s := direct(workers)
	s.ICMPRate = 1000
	s.Ports[outside].Addr4, s.Ports[outside].Addr6 = netip.MustParseAddr("172.16.10.1"), netip.MustParseAddr("fd00:172:16:10::1")
	s.Ports[inside].Addr4, s.Ports[inside].Addr6 = tunnelSrc4, tunnelSrc6
	for i := range s.Ports {
		s.Ports[i].MTU = 1500
	}
	for i := range s.Pools {
		s.Pools[i].Tunnel = TunnelSpec{Kind: kind, Port: 6081}
	}
	if kind == rewrite.GUE {
		s.Pools[0].Tunnel.Port = 0
	}
	s.Pools = append(s.Pools[:2:2], s.Pools[2])
	for i := range s.Virtuals {
		v := &s.Virtuals[i]
		v.Mode, v.Pool = Tunnel, 0
		if v.Addr.Is6() != crossed {
			v.Pool = 1
		}
	}
	return s
}

// carried takes what gopacket reads of a tunnel's frame apart: the outer header, and the inner packet with the Ethernet header of
// the frame.
type carried struct {
	src, dst netip.Addr
	ttl, tos uint8
	df       bool
	sport    uint16 // of GUE
	dport    uint16
	inner    []byte // a frame
}

func readTunnel(t testing.TB, frame []byte) (c carried) {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	var proto layers.IPProtocol
	var body []byte
	switch l := p.NetworkLayer().(type) {
	case *layers.IPv4:
		if sum16(l.Contents) != 0xffff || int(l.Length) != len(frame)-14 {
			t.Fatalf("outer header %x", l.Contents)
		}
		c = carried{ttl: l.TTL, tos: l.TOS, df: l.Flags&layers.IPv4DontFragment != 0}
		proto, body = l.Protocol, l.Payload
	case *layers.IPv6:
		c = carried{ttl: l.HopLimit, tos: l.TrafficClass, df: true}
		proto, body = l.NextHeader, l.Payload
	default:
		t.Fatalf("not a tunnel: %x", frame)
	}
	s, d := p.NetworkLayer().NetworkFlow().Endpoints()
	c.src, _ = netip.AddrFromSlice(s.Raw())
	c.dst, _ = netip.AddrFromSlice(d.Raw())
	if proto == layers.IPProtocolUDP {
		c.sport, c.dport = binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:])
		if int(binary.BigEndian.Uint16(body[4:])) != len(body) || body[8] != 0 || body[10]|body[11] != 0 {
			t.Fatalf("UDP and GUE headers %x", body[:12])
		}
		if sum := body[6] | body[7]; sum == 0 && c.dst.Is6() {
			t.Fatal("no checksum over IPv6")
		} else if sum != 0 {
			pseudo := append(append(slices.Clone(s.Raw()), d.Raw()...), 0, 17, byte(len(body)>>8), byte(len(body)))
			if sum16(append(pseudo, body...)) != 0xffff {
				t.Fatal("wrong UDP checksum")
			}
		}
		proto, body = layers.IPProtocol(body[9]), body[12:]
	}
	etherType := uint16(0x0800)
	switch proto {
	case layers.IPProtocolIPv6:
		etherType = 0x86dd
	case layers.IPProtocolIPv4:
	default:
		t.Fatalf("carries protocol %d", proto)
	}
	c.inner = append(binary.BigEndian.AppendUint16(slices.Clone(frame[:12]), etherType), body...)
	return c
}

// untagged is a frame without its tags and padding.
func untagged(f []byte) []byte {
	for f[12] == 0x81 && f[13] == 0 {
		f = append(slices.Clone(f[:12]), f[16:]...)
	}
	if f[12] == 0x86 {
		return f[:54+int(binary.BigEndian.Uint16(f[18:]))]
	}
	return f[:14+int(binary.BigEndian.Uint16(f[16:]))]
}

// Packets of every protocol reach one member each, always the same one, whole but for a hop, inside a packet from our address to
// the member's: IPIP and GUE, each family over each. GUE's source port tells connections apart.
func TestTunnel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for _, kind := range []rewrite.TunnelKind{rewrite.IPIP, rewrite.GUE} {
		for _, crossed := range []bool{false, true} {
			for workers := 1; workers <= 3; workers += 2 {
				rng := rand.New(rand.NewPCG(seed, uint64(workers)))
				b := newBench(t, tunnelled(workers, kind, crossed), 4000, 1024)
				sports := map[uint16]bool{}
				for i := range uint16(200) {
					f := anyClientPacket(t, rng, 1024+i)
					first := carried{}
					for n := range 2 {
						out := b.sendTo(rng.IntN(workers), outside, f)
						if len(out[inside]) != 1 || len(out[outside])+len(out[host]) != 0 {
							t.Fatalf("packet %d: %v out of %x; %+v", i, out, f, b.stats())
						}
						got := readTunnel(t, out[inside][0])
						plain := untagged(f)
						v6 := plain[12] == 0x86
						member := got.dst.AsSlice()[len(got.dst.AsSlice())-1]
						if want := hopped(plain, mac(serverMAC(int(member))), mac(insideMAC)); !bytes.Equal(got.inner, want) {
							t.Fatalf("inside is\n%x, want\n%x", got.inner, want)
						}
						src, tos, df := tunnelSrc4, plain[15], v6 || plain[20]&0x40 != 0
						if v6 {
							tos = plain[14]<<4 | plain[15]>>4
						}
						if v6 != crossed {
							src = tunnelSrc6
						}
						port := uint16(0)
						if kind == rewrite.GUE {
							if port = 6080; v6 != crossed {
								port = 6081
							}
							sports[got.sport] = true
							if got.sport < 49152 {
								t.Fatalf("source port %d", got.sport)
							}
						}
						if got.src != src || got.ttl != 64 || got.tos != tos || src.Is4() && got.df != df || got.dport != port {
							t.Fatalf("outer %+v, want from %s, tos %#x, df %v, port %d", got, src, tos, df, port)
						}
						if n == 0 {
							first = got
						} else if got.dst != first.dst || got.sport != first.sport {
							t.Fatalf("%+v, then %+v", first, got)
						}
					}
				}
				if kind == rewrite.GUE && len(sports) < 90 {
					t.Errorf("%d source ports for 200 connections", len(sports))
				}
				if s := b.stats(); s.Dropped() != 0 || s.ToServer != 400 || s.ToClient != 0 {
					t.Errorf("%+v", s)
				}
				b.check()
				b.close()
			}
		}
	}
}

// tunnelOverhead is what a tunnel adds.
func tunnelOverhead(kind rewrite.TunnelKind, v6 bool) int {
	n := 20
	if v6 {
		n = 40
	}
	if kind == rewrite.GUE {
		n += 12
	}
	return n
}

// A packet that does not fit with the tunnel's headers: with DF, and in IPv6, the client is told what does, exactly; without, it
// goes in parts, which are it when they are put together.
func TestTunnelTooBig(t *testing.T) {
	for _, kind := range []rewrite.TunnelKind{rewrite.IPIP, rewrite.GUE} {
		for _, crossed := range []bool{false, true} {
			b := newBench(t, tunnelled(1, kind, crossed), 100, 1024)
			for _, v6 := range []bool{false, true} {
				mtu := 1500 - tunnelOverhead(kind, v6 != crossed)
				p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 7, dport: 53, udp: true}
				header := 28
				if v6 {
					p.src, p.dst, header = clientIP6, vip6, 48
				}
				at := func(size int, df bool) []byte {
					p.payload = strings.Repeat("y", size-header)
					f := p.build(t)
					if df && !v6 {
						f[20] |= 0x40
						f[24], f[25] = 0, 0
						binary.BigEndian.PutUint16(f[24:], ^sum16(f[14:34]))
					}
					return f
				}
				if got := only(t, b.send(outside, at(mtu, true)), inside); len(got) != 1514 {
					t.Errorf("a packet that fits makes %d bytes", len(got))
				}
				if said := readError(t, only(t, b.send(outside, at(mtu+1, true)), outside)); said.mtu != mtu {
					t.Errorf("told %+v, want %d", said, mtu)
				}
				if v6 {
					continue
				}
				for _, size := range []int{mtu + 1, 1500, 1700} {
					f := at(size, false)
					out := b.send(outside, f)
					if len(out[inside]) != 2 || len(out[outside]) != 0 {
						t.Fatalf("%d bytes: %d frames; %+v", size, len(out[inside]), b.stats())
					}
					var parts [][]byte
					for _, g := range out[inside] {
						if len(g) > 1514 {
							t.Errorf("a part of %d bytes", len(g)-14)
						}
						parts = append(parts, readTunnel(t, g).inner)
					}
					whole := joined(t, parts)
					if want := hopped(f, [6]byte(whole[:6]), mac(insideMAC)); !bytes.Equal(whole, want) {
						t.Fatalf("%d bytes, put together\n%x, want\n%x", size, whole, want)
					}
				}
			}
			if s := b.stats(); s.Dropped() != 0 {
				t.Errorf("%+v", s)
			}
			b.close()
		}
	}
}

// With df: clear a packet that must not be cut goes on in outer packets that are: put together, they are the tunnel's packet.
func TestTunnelClearDF(t *testing.T) {
	for _, kind := range []rewrite.TunnelKind{rewrite.IPIP, rewrite.GUE} {
		s := tunnelled(1, kind, false)
		s.Pools[0].Tunnel.DF, s.Pools[0].Tunnel.Checksum = rewrite.ClearDF, ChecksumOn
		s.Ports[inside].MTU = 600
		b := newBench(t, s, 100, 1024)
		p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 7, dport: 80, flags: "S", payload: strings.Repeat("z", 1460)}
		f := p.build(t)
		f[20] |= 0x40
		f[24], f[25] = 0, 0
		binary.BigEndian.PutUint16(f[24:], ^sum16(f[14:34]))
		out := b.send(outside, f)
		if len(out[inside]) != 3 {
			t.Fatalf("%d frames; %+v", len(out[inside]), b.stats())
		}
		for _, g := range out[inside] {
			if len(g) > 614 {
				t.Errorf("an outer part of %d bytes", len(g)-14)
			}
		}
		c := readTunnel(t, joined(t, out[inside]))
		if want := hopped(f, mac(serverMAC(1)), mac(insideMAC)); c.df || !bytes.Equal(c.inner, want) {
			t.Errorf("inside is\n%x, want\n%x", c.inner, want)
		}
		b.close()
	}
}

// ICMP errors of routers about the outer packet become errors about what was inside, for the client: too big with what the tunnel
// leaves, everything that means that the member is not reached as host unreachable. The client finds the packet that it sent.
func TestTunnelErrors(t *testing.T) {
	for _, kind := range []rewrite.TunnelKind{rewrite.IPIP, rewrite.GUE} {
		for _, crossed := range []bool{false, true} {
			for workers := 1; workers <= 3; workers += 2 {
				for _, c := range errorCases() {
					b := newBench(t, tunnelled(workers, kind, crossed), 1000, 1024)
					request := c.request
					request.srcMAC, request.dstMAC = clientMAC, outsideMAC
					request.payload = strings.Repeat("q", 1300)
					sent := request.build(t)
					outer := only(t, b.send(outside, sent), inside)
					v6 := request.src.Is6()
					over := netip.MustParseAddr("192.168.21.1")
					src := tunnelSrc4
					if v6 != crossed {
						over, src = netip.MustParseAddr("fd00:192:168:21::1"), tunnelSrc6
					}
					for worker := range workers {
						e := tooBig{serverMAC(1), insideMAC, over, src, 64, outer[14:min(len(outer), 14+548)]}.build(t)
						got := only(t, b.sendTo(worker, inside, e), outside)
						said := readError(t, got)
						want := 1280 - tunnelOverhead(kind, v6 != crossed)
						if v6 {
							want = max(want, 1280)
						}
						if said.mtu != want {
							t.Fatalf("told %d, want %d", said.mtu, want)
						}
						ip := 20
						if v6 {
							ip = 40
						}
						quoted := got[14+ip+8:]
						if !bytes.Equal(quoted, sent[14:][:len(quoted)]) || len(quoted) < ip+8 {
							t.Fatalf("%s: quoted\n%x, sent\n%x", c.name, quoted, sent[14:])
						}
						if tuple, _ := netip.AddrFromSlice(gopacket.NewPacket(got, layers.LayerTypeEthernet, gopacket.Default).NetworkLayer().NetworkFlow().Dst().Raw()); tuple != request.src {
							t.Fatalf("for %s", tuple)
						}
						if !bytes.Equal(got[:12], append(slices.Clone([]byte(clientMAC)), outsideMAC...)) {
							t.Fatalf("to %x", got[:12])
						}
					}
					if s := b.stats(); s.Errors != uint64(workers) || s.ToHost != 0 || s.Dropped() != 0 {
						t.Errorf("%+v", s)
					}
					b.close()
				}
			}
		}
	}
}

// An error that quotes no more than the tunnel's headers says nothing of a connection, nor does one about somebody else's tunnel,
// or a connection that there is not: the kernel gets them, and nothing is told to any client.
func TestTunnelErrorsOfOthers(t *testing.T) {
	b := newBench(t, tunnelled(1, rewrite.IPIP, false), 100, 1024)
	defer b.close()
	outer := only(t, b.send(outside, fromClient(4003, "S").build(t)), inside)
	router := netip.MustParseAddr("192.168.21.1")
	other := slices.Clone(outer)
	other[33]++ // another member
	stranger := slices.Clone(outer)
	stranger[14+20+20+1]++ // another client's port
	unrelated := slices.Clone(outer)
	unrelated[14+20]++ // not IP inside
	for name, quoted := range map[string][]byte{"8 bytes": outer[14:42], "another member": other[14:], "a stranger": stranger[14:], "not IP": unrelated[14:]} {
		e := tooBig{serverMAC(1), insideMAC, router, tunnelSrc4, 64, quoted}.build(t)
		if out := b.send(inside, e); len(out[host]) != 1 || len(out[outside]) != 0 {
			t.Errorf("%s: %v", name, out)
		}
	}
}

// All parts of datagrams reach one member, each in a packet of its own, parts that do not fit in several.
func TestTunnelFragments(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for workers := 1; workers <= 3; workers += 2 {
		b := newBench(t, tunnelled(workers, rewrite.GUE, false), 1000, 2048)
		for i := range 30 {
			p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: uint16(1024 + i), dport: 53, udp: true, payload: strings.Repeat("parts of it", 1000+rng.IntN(3000))}
			if i%2 == 1 {
				p.src, p.dst = clientIP6, vip6
			}
			whole := p.build(t)
			size := 1480
			if i%2 == 1 {
				size = 1400 // the most that fits is 1448
			}
			parts := cut(whole, uint32(i), size)
			rng.Shuffle(len(parts), func(a, b int) { parts[a], parts[b] = parts[b], parts[a] })
			var got [][]byte
			var to carried
			for _, part := range parts {
				for _, g := range b.sendTo(rng.IntN(workers), outside, part)[inside] {
					c := readTunnel(t, g)
					if to.src.IsValid() && (c.dst != to.dst || c.sport != to.sport) {
						t.Fatalf("parts in %+v and %+v", to, c)
					}
					to, got = c, append(got, c.inner)
				}
			}
			if len(got) < len(parts) {
				t.Fatalf("%d frames of %d parts; %+v", len(got), len(parts), b.stats())
			}
			back := joined(t, got)
			if want := hopped(whole, [6]byte(back[:6]), mac(insideMAC)); !bytes.Equal(back[14:], want[14:]) && i%2 == 1 || !bytes.Equal(back[34:], want[34:]) {
				t.Fatalf("put together\n%x, want\n%x", back[:60], want[:60])
			}
		}
		if s := b.stats(); s.Dropped() != 0 {
			t.Errorf("%+v", s)
		}
		b.close()
	}
}

// A RST to the member of a connection that expires goes through the tunnel; ICMP errors about answers do as well.
func TestTunnelCarriesToMember(t *testing.T) {
	s := tunnelled(1, rewrite.IPIP, true)
	for i := range s.Virtuals {
		s.Virtuals[i].ResetExpired = true
	}
	b := newBench(t, s, 100, 1024)
	defer b.close()
	only(t, b.send(outside, fromClient(4003, "S").build(t)), inside)
	p := fromClient(4003, "PA")
	p.seq, p.ack, p.payload = 1001, 7777, "hello"
	only(t, b.send(outside, p.build(t)), inside)
	answer := packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: vip, dst: clientIP, sport: 80, dport: 4003, flags: "A", seq: 7777, ack: 1006, payload: "answer"}
	e := tooBig{clientMAC, outsideMAC, netip.MustParseAddr("172.16.11.1"), vip, 64, answer.build(t)[14:]}.build(t)
	c := readTunnel(t, only(t, b.send(outside, e), inside))
	if want := hopped(e, mac(serverMAC(1)), mac(insideMAC)); !bytes.Equal(c.inner, want) {
		t.Errorf("inside is\n%x, want\n%x", c.inner, want)
	}
	b.now += uint64(DefaultTimeouts.Established) + 2000
	for range 4 {
		b.Step(b.now)
	}
	out := b.take()
	if len(out[inside]) != 1 || len(out[outside]) != 1 {
		t.Fatalf("%v", out)
	}
	want := packet{srcMAC: insideMAC, dstMAC: serverMAC(1), src: clientIP, dst: vip, sport: 4003, dport: 80, flags: "RA", seq: 1006, ack: 7777}
	if c = readTunnel(t, out[inside][0]); !bytes.Equal(c.inner, hopped(rstFrame(t, want), mac(serverMAC(1)), mac(insideMAC))) {
		t.Errorf("a RST of %x", c.inner)
	}
}

// Connections keep their encapsulation over a takeover, a restart and a reload to another, and when their virtual server and
// member are gone.
func TestTunnelSurvives(t *testing.T) {
	b := newBench(t, tunnelled(2, rewrite.GUE, false), 1000, 1024)
	members := map[uint16]netip.Addr{}
	talk := func(b *bench, flags string) {
		t.Helper()
		for port := uint16(4000); port < 4020; port++ {
			p := fromClient(port, flags)
			if flags != "S" {
				p.seq, p.ack = 1001, 500
			}
			c := readTunnel(t, only(t, b.sendTo(int(port)%b.n, outside, p.build(t)), inside))
			if flags == "S" {
				members[port] = c.dst
			}
			if c.dport != 6080 || c.dst != members[port] {
				t.Fatalf("port %d: %+v", port, c)
			}
		}
	}
	talk(b, "S")
	talk(b, "A")
	ipip := tunnelled(2, rewrite.IPIP, false)
	b.apply(ipip)
	talk(b, "A")
	if c := readTunnel(t, only(t, b.send(outside, fromClient(5000, "S").build(t)), inside)); c.dport != 0 {
		t.Errorf("a new connection has the old encapsulation: %+v", c)
	}
	heir := b.takenOver(ipip)
	talk(heir, "A")
	next, a := heir.successor(t, tunnelled(1, rewrite.IPIP, false), 1000, []int{0, 1, 2})
	if a.Adopted != 21 || a.Unsound+a.Strange+a.Doubled != 0 {
		t.Fatalf("%+v", a)
	}
	talk(next, "A")
	nat := a4(1)
	nat.Ports[inside].Addr4 = tunnelSrc4
	nat.Draining = Draining{Nodes: map[uint32]DrainingNode{}, Virtuals: map[uint32]VirtualSpec{}}
	for i, m := range tunnelled(1, rewrite.IPIP, false).Pools[0].Members {
		nat.Draining.Nodes[next.id(0, i+1)] = DrainingNode{Pool: "web", Name: m.Name, Hop: m.Hop}
	}
	next.apply(nat)
	talk(next, "A")
	next.close()
}

// SYNs announce no more than fits, where that is set, both ways in nat; what is not a SYN is left alone.
func TestMSSClamp(t *testing.T) {
	syn := func(p packet, mss uint16) []byte {
		ls := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: p.srcMAC, DstMAC: p.dstMAC, EthernetType: layers.EthernetTypeIPv4}}
		var n gopacket.NetworkLayer
		if p.src.Is4() {
			ip := ip4(p.src, p.dst, layers.IPProtocolTCP, 64)
			ls, n = append(ls, ip), ip
		} else {
			ls[0].(*layers.Ethernet).EthernetType = layers.EthernetTypeIPv6
			ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice()}
			ls, n = append(ls, ip), ip
		}
		l := &layers.TCP{SrcPort: layers.TCPPort(p.sport), DstPort: layers.TCPPort(p.dport), Seq: p.seq, Ack: p.ack, SYN: true, ACK: strings.Contains(p.flags, "A"), Window: 1000,
			Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: binary.BigEndian.AppendUint16(nil, mss)}}}
		_ = l.SetNetworkLayerForChecksum(n)
		return frame(t, append(ls, l)...)
	}
	mssOf := func(f []byte) uint16 {
		t.Helper()
		p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
		l := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		s, d := p.NetworkLayer().NetworkFlow().Endpoints()
		n := len(l.Contents) + len(l.Payload)
		pseudo := append(append(slices.Clone(s.Raw()), d.Raw()...), 0, 6, byte(n>>8), byte(n))
		if sum16(append(append(pseudo, l.Contents...), l.Payload...)) != 0xffff {
			t.Error("wrong TCP checksum")
		}
		return binary.BigEndian.Uint16(l.Options[0].OptionData)
	}
	for _, c := range []struct {
		mode      Mode
		clamp     int
		announced uint16
		want, six uint16
	}{
		{NAT, 0, 1460, 1460, 1460}, {NAT, ClampAuto, 1460, 1360, 1340}, {NAT, 1200, 1460, 1200, 1200}, {NAT, 1200, 900, 900, 900},
		{FullNAT, ClampAuto, 1460, 1360, 1340}, {DirectReturn, ClampAuto, 1460, 1360, 1340}, {Tunnel, ClampAuto, 1460, 1340, 1300}, {Tunnel, 0, 1460, 1460, 1460},
	} {
		s := tunnelled(1, rewrite.IPIP, false)
		s.Ports[inside].MTU = 1400
		s.SNAT = []SNATSpec{{Name: "out", Addresses: []SNATAddress{snatAt(snat4.String(), 1024, 65535), snatAt(snat6.String(), 1024, 65535)}}}
		s.Virtuals = s.Virtuals[:2]
		for i := range s.Virtuals {
			s.Virtuals[i].Mode, s.Virtuals[i].MSSClamp = c.mode, c.clamp
			if c.mode == FullNAT {
				s.Virtuals[i].SNAT = "out"
			}
		}
		b := newBench(t, s, 100, 1024)
		for _, v6 := range []bool{false, true} {
			p, want := fromClient(4003, "S"), c.want
			if v6 {
				p.src, p.dst, want = clientIP6, vip6, c.six
			}
			for range 2 { // a SYN that is sent again as well
				got := only(t, b.send(outside, syn(p, c.announced)), inside)
				if c.mode == Tunnel {
					got = readTunnel(t, got).inner
				}
				if mss := mssOf(got); mss != want {
					t.Errorf("%+v, v6 %v: the member is told %d", c, v6, mss)
				}
				if c.mode > FullNAT {
					continue
				}
				src, dst, sport, dport := tuple(t, got)
				answer := packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: dst, dst: src, sport: dport, dport: sport, flags: "SA", seq: 9000, ack: 1001}
				for range 2 {
					if mss := mssOf(only(t, b.send(inside, syn(answer, c.announced)), outside)); mss != want {
						t.Errorf("%+v, v6 %v: the client is told %d", c, v6, mss)
					}
				}
			}
		}
		b.close()
	}
}

// A tunnel without a source address is refused; explain says how the member is reached.
func TestTunnelSettings(t *testing.T) {
	s := tunnelled(1, rewrite.GUE, false)
	s.Ports[inside].Addr6 = netip.Addr{}
	if _, err := NewConfig(s, NewDictionary()); err == nil || !strings.Contains(err.Error(), "no source address") {
		t.Error(err)
	}
	s.Pools[1].Tunnel.Sources = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	b := newBench(t, s, 100, 1024)
	defer b.close()
	e := b.Config().Explain(flow.TCP, netip.AddrPortFrom(clientIP6, 4003), netip.AddrPortFrom(vip6, 80))
	if e.ToServer == nil || e.ToServer.Before != e.ToServer.After || e.ToClient != nil || e.Tunnel == nil || fmt.Sprint(*e.Tunnel) != "{gue 2001:db8::1 fd00:192:168:20::1 6081 1448}" {
		t.Errorf("%+v %+v", e, e.Tunnel)
	}
}

// Encapsulating, cutting, answering and translating errors take no memory.
func TestTunnelAllocates(t *testing.T) {
	b := newBench(t, tunnelled(1, rewrite.GUE, false), 4000, 2048)
	defer b.close()
	outer := only(t, b.send(outside, fromClient(4003, "S").build(t)), inside)
	e := tooBig{serverMAC(1), insideMAC, netip.MustParseAddr("192.168.21.1"), tunnelSrc4, 64, outer[14:]}.build(t)
	ack := fromClient(4003, "A")
	ack.seq, ack.ack = 1001, 1
	known := ack.build(t)
	big := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 9, dport: 53, udp: true, payload: strings.Repeat("p", 1472)}.build(t)
	refused := slices.Clone(big)
	refused[20] |= 0x40
	var fresh [][]byte
	for i := range uint16(1200) {
		fresh = append(fresh, fromClient(10000+i, "S").build(t))
	}
	next := 0
	if n := testing.AllocsPerRun(500, func() {
		b.wire(0, outside).SendBurst([][]byte{known, fresh[next], fresh[next+1], big, refused})
		b.wire(0, inside).Send(e)
		next += 2
		b.now += 10
		b.Step(b.now)
		b.wire(0, inside).Recv(nil)
		b.wire(0, outside).Recv(nil)
	}); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
	if s := b.stats(); s.Opened < 1000 || s.Errors < 500 || s.ICMPSent < 500 || s.Dropped() != 0 {
		t.Errorf("%+v", s)
	}
}
