package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// ICMP errors about connections at SNAT addresses, from routers and from both ends, about packets of both directions, whatever
// worker receives them: outside and inside they are those about the packets that were sent.
func TestSNATErrors(t *testing.T) {
	for _, workers := range []int{1, 4} {
		for _, c := range errorCases() {
			t.Run(fmt.Sprintf("%d-%s", workers, c.name), func(t *testing.T) {
				b := newBench(t, oneArm(workers, 1024, 65535), 1000, 1024)
				defer b.close()
				rnd := rand.New(rand.NewPCG(3, uint64(workers)))
				anywhere := func(frame []byte) []byte {
					t.Helper()
					return only(t, b.sendTo(rnd.IntN(workers), outside, frame), outside)
				}
				snat := snat4
				if c.request.src.Is6() {
					snat = snat6
				}
				for port := range uint16(20) {
					request := c.request
					request.srcMAC, request.dstMAC, request.sport = clientMAC, outsideMAC, 4003+port
					toServer := anywhere(request.build(t))
					_, server, sport, dport := tuple(t, toServer)
					toServer = toServer[14:]
					member := int(server.AsSlice()[len(server.AsSlice())-1])
					answer := c.answer
					answer.srcMAC, answer.dstMAC, answer.src, answer.dst, answer.sport, answer.dport = serverMAC(member), outsideMAC, server, snat, dport, sport
					toClient := anywhere(answer.build(t))[14:]
					request.ttl, answer.ttl = 63, 63
					sent, answered := request.build(t)[14:], answer.build(t)[14:]
					for _, size := range []int{c.header + 8, len(sent)} {
						for _, from := range []struct{ src, becomes netip.Addr }{{c.farRouter, c.farRouter}, {server, c.virtual}} {
							e := tooBig{serverMAC(member), outsideMAC, from.src, snat, 64, toServer[:size]}
							want := tooBig{outsideMAC, clientMAC, from.becomes, request.src, 63, sent[:size]}.build(t)
							if got := anywhere(e.build(t)); !bytes.Equal(got, want) {
								t.Fatalf("from %s\n%x, want\n%x", from.src, got, want)
							}
						}
						for _, from := range []struct{ src, becomes netip.Addr }{{c.nearRouter, c.nearRouter}, {request.src, snat}} {
							e := tooBig{clientMAC, outsideMAC, from.src, c.virtual, 64, toClient[:size]}
							want := tooBig{outsideMAC, serverMAC(member), from.becomes, server, 63, answered[:size]}.build(t)
							if got := anywhere(e.build(t)); !bytes.Equal(got, want) {
								t.Fatalf("from %s\n%x, want\n%x", from.src, got, want)
							}
						}
					}
				}
				// About nobody's packet: the kernel's, whose address it may be.
				stray := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: snat, dst: c.server, sport: 6, dport: 7, udp: true, payload: "unknown"}
				e := tooBig{serverMAC(1), outsideMAC, c.farRouter, snat, 64, stray.build(t)[14 : 14+c.header+8]}
				only(t, b.sendTo(rnd.IntN(workers), outside, e.build(t)), host)
				if s := b.stats(); s.Errors != 160 || s.Dropped() != 0 || s.ToHost != 1 {
					t.Errorf("%+v", s)
				}
			})
		}
	}
}

// Parts of datagrams to a virtual address and back to a SNAT address, in every order, at any worker: what gets through is, put
// together by gopacket, the datagram with both ends changed.
func TestSNATFragments(t *testing.T) {
	for _, workers := range []int{1, 4} {
		for _, v6 := range []bool{false, true} {
			b := newBench(t, oneArm(workers, 1024, 65535), 1000, 1024)
			rnd := rand.New(rand.NewPCG(4, uint64(workers)))
			client, to, snat, service := clientIP, vip, snat4, uint16(5353)
			if v6 {
				client, to, snat, service = clientIP6, vip6, snat6, 8080
			}
			payload := string(bytes.Repeat([]byte("0123456789abcdef"), 400))
			pass := func(p packet, id uint32) (parts [][]byte) {
				t.Helper()
				in := cut(p.build(t), id, 1000)
				rnd.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
				for _, part := range in {
					for port, frames := range b.sendTo(rnd.IntN(workers), outside, part) {
						if port != outside && len(frames) > 0 {
							t.Fatalf("port %d: %x", port, frames)
						}
						parts = append(parts, frames...)
					}
				}
				if len(parts) != len(in) {
					t.Fatalf("%d of %d parts leave; %+v", len(parts), len(in), b.stats())
				}
				return parts
			}
			for i := range uint16(30) {
				p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: client, dst: to, sport: 7000 + i, dport: 53, udp: true, payload: payload[i:]}
				got := joined(t, pass(p, uint32(100+i)))
				_, server, sport, _ := tuple(t, got)
				member := int(server.AsSlice()[len(server.AsSlice())-1])
				want := p
				want.srcMAC, want.dstMAC, want.src, want.dst, want.sport, want.dport, want.ttl = outsideMAC, serverMAC(member), snat, server, sport, service, 63
				sameDatagram(t, got, want)
				if bin := b.Config().owners.bin(flow.AddrFrom(client), p.sport); uint8(sport) != bin {
					t.Errorf("port %d, bin %d", sport, bin)
				}
				answer := packet{srcMAC: serverMAC(member), dstMAC: outsideMAC, src: server, dst: snat, sport: service, dport: sport, udp: true, payload: payload[:len(payload)-int(i)]}
				back := joined(t, pass(answer, uint32(900+i)))
				answer.srcMAC, answer.dstMAC, answer.src, answer.dst, answer.sport, answer.dport, answer.ttl = outsideMAC, clientMAC, to, client, 53, p.sport, 63
				sameDatagram(t, back, answer)
			}
			if s := b.stats(); s.Dropped() != 0 || s.ToHost != 0 {
				t.Errorf("%+v", s)
			}
			b.close()
		}
	}
}

// sameDatagram compares what is behind the identification and lengths of the IP header: ends, transport header with its checksum,
// and data.
func sameDatagram(t testing.TB, got []byte, want packet) {
	t.Helper()
	wire := want.build(t)
	from := 26
	if want.src.Is6() {
		from = 22
	}
	if !bytes.Equal(got[:12], wire[:12]) || !bytes.Equal(got[from:], wire[from:]) {
		t.Fatalf("%x, want\n%x", got[:64], wire[:64])
	}
}

// A client that finds no SNAT port gets a RST where refused is reset, as with every other limit.
func TestSNATExhaustedReset(t *testing.T) {
	s := oneArm(1, 1024, 1024+flow.PortBins-1) // a port for each bin
	for i := range s.Virtuals {
		s.Virtuals[i].ResetRefused = true
	}
	for i := range s.Pools {
		s.Pools[i].Members = s.Pools[i].Members[:1]
	}
	b := newBench(t, s, 1000, 1024)
	defer b.close()
	first := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 2000, dport: 80, flags: "S", seq: 7}
	only(t, b.send(outside, first.build(t)), outside)
	bin := b.Config().owners.bin(flow.AddrFrom(clientIP), 2000)
	second := first
	for second.sport++; b.Config().owners.bin(flow.AddrFrom(clientIP), second.sport) != bin; second.sport++ {
	}
	got := only(t, b.send(outside, second.build(t)), outside)
	want := packet{srcMAC: outsideMAC, dstMAC: clientMAC, src: vip, dst: clientIP, sport: 80, dport: second.sport, flags: "RA", ack: 8}
	p := gopacket.NewPacket(got, layers.LayerTypeEthernet, gopacket.Default)
	if tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP); !ok || !tcp.RST || tcp.Ack != 8 || uint16(tcp.DstPort) != want.dport || uint16(tcp.SrcPort) != 80 {
		t.Errorf("%v", p)
	}
	if s := b.stats(); s.Refused[SNATExhausted] != 1 || s.Dropped() != 0 || s.Opened != 1 || s.Answered != 1 {
		t.Errorf("%+v", s)
	}
}

// An SCTP association through full NAT, of both families, wherever its packets arrive: ports and CRC32c are what gopacket makes.
func TestSNATSCTP(t *testing.T) {
	for _, workers := range []int{1, 3} {
		for _, v6 := range []bool{false, true} {
			spec := oneArm(workers, 1024, 65535)
			for i := range 2 {
				for j := range spec.Pools[i].Members {
					spec.Pools[i].Members[j].Port = sctpMemberPort
				}
			}
			spec.Virtuals = []VirtualSpec{{Name: "sig", Addr: vip, Port: sctpPort, Proto: flow.SCTP, Pool: 0, SNAT: "out", Mode: FullNAT},
				{Name: "sig6", Addr: vip6, Port: sctpPort, Proto: flow.SCTP, Pool: 1, SNAT: "out", Mode: FullNAT}}
			b := newBench(t, spec, 1000, 1024)
			rnd := rand.New(rand.NewPCG(5, uint64(workers)))
			client, to, snat := clientIP, vip, snat4
			if v6 {
				client, to, snat = clientIP6, vip6, snat6
			}
			for i := range uint16(12) {
				p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: client, dst: to, sport: 7000 + i, dport: sctpPort}
				var server netip.Addr
				var as uint16
				exchange := func(from flow.Side, tag, initTag uint32, kind uint8) {
					t.Helper()
					before, after := p, packet{srcMAC: outsideMAC, src: snat, sport: as, dst: server, dport: sctpMemberPort}
					if from == flow.FromServer {
						before = packet{srcMAC: serverMAC(1), dstMAC: outsideMAC, src: server, dst: snat, sport: sctpMemberPort, dport: as}
						after = packet{srcMAC: outsideMAC, dstMAC: clientMAC, src: to, dst: client, sport: sctpPort, dport: p.sport}
					}
					got := only(t, b.sendTo(rnd.IntN(workers), outside, sctpFrame(t, before, tag, initTag, kind, 0)), outside)
					l := gopacket.NewPacket(got, layers.LayerTypeEthernet, gopacket.Default)
					src, _ := netip.AddrFromSlice(l.NetworkLayer().NetworkFlow().Src().Raw())
					dst, _ := netip.AddrFromSlice(l.NetworkLayer().NetworkFlow().Dst().Raw())
					sctp := l.Layer(layers.LayerTypeSCTP).(*layers.SCTP)
					if from == flow.FromClient {
						if as == 0 {
							server, as = dst, uint16(sctp.SrcPort)
							after.dst, after.sport = server, as
						}
						after.dstMAC = got[:6]
					}
					wire := sctpFrame(t, after, tag, initTag, kind, 0)
					l3 := 34
					if v6 {
						l3 = 54
					}
					if src != after.src || dst != after.dst || !bytes.Equal(got[l3:], wire[l3:]) {
						t.Fatalf("chunk %d from side %d, %s > %s\n%x, want\n%x", kind, from, src, dst, got, wire)
					}
				}
				exchange(flow.FromClient, 0, sctpClientTag, flow.ChunkInit)
				exchange(flow.FromServer, sctpClientTag, sctpServerTag, flow.ChunkInitAck)
				exchange(flow.FromClient, sctpServerTag, 0, flow.ChunkData)
				exchange(flow.FromServer, sctpClientTag, 0, flow.ChunkData)
				if bin := b.Config().owners.bin(flow.AddrFrom(client), p.sport); uint8(as) != bin {
					t.Errorf("port %d, bin %d", as, bin)
				}
			}
			if s := b.stats(); s.Dropped() != 0 || s.Opened != 12 {
				t.Errorf("%+v", s)
			}
			b.close()
		}
	}
}

// One virtual server and many SNAT addresses: the tables of addresses have room for all.
func TestSNATManyAddresses(t *testing.T) {
	s := oneArm(1, 1024, 65535)
	s.SNAT[0].Addresses = s.SNAT[0].Addresses[:0]
	for i := range byte(200) {
		s.SNAT[0].Addresses = append(s.SNAT[0].Addresses, snatAt(netip.AddrFrom4([4]byte{10, 9, 0, i}).String(), 1024, 65535))
	}
	s.Virtuals = s.Virtuals[:1]
	b := newBench(t, s, 100, 1024)
	defer b.close()
	only(t, b.send(outside, fromClient(4000, "S").build(t)), outside)
}
