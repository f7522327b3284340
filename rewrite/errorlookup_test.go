package rewrite

import (
	"net/netip"
	"slices"
	"testing"

	"sluice/flow"
)

// TestErrorLookup takes errors through a connection table as the engine does: from a router on the way to the member,
// from the member, from a router on the way to the client; in nat, in full NAT, and for pings. The tuple that ReadQuote
// gives finds the record on the side that the error comes from, and the record has what TranslateError needs.
func TestErrorLookup(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, proto := range []uint8{flow.TCP, flow.UDP, flow.SCTP, flow.ICMP} {
			for _, snat := range []bool{false, true} {
				testErrorLookup(t, v6, proto, snat)
			}
		}
	}
}

func testErrorLookup(t *testing.T, v6 bool, proto uint8, snat bool) {
	t.Helper()
	names := [5]string{"172.16.10.55", "10.10.1.100", "192.168.20.1", "192.168.20.250", "203.0.113.9"}
	if v6 {
		names = [5]string{"fd00:172:16:10::55", "2001:db8::100", "fd00:192:168:20::1", "fd00:192:168:20::250", "2001:db8:9::1"}
	}
	var a [5]flow.Addr
	for i := range a {
		a[i] = flow.AddrFrom(netip.MustParseAddr(names[i]))
	}
	client, virtual, member, pool, router := a[0], a[1], a[2], a[3], a[4]
	if v6 && proto == flow.ICMP {
		proto = flow.ICMPv6
	}
	rec := flow.Record{Client: client, Virtual: virtual, CPort: 40000, VPort: 443, SPort: 40000, NPort: 8443, Node: 1}
	if proto == flow.ICMP || proto == flow.ICMPv6 {
		rec.VPort, rec.NPort = 0, 0
	}
	clientSide := Ends{Src: client, Dst: virtual, SrcPort: rec.CPort, DstPort: rec.VPort}
	serverSide := Ends{Src: client, Dst: member, SrcPort: rec.SPort, DstPort: rec.NPort}
	if snat {
		rec.SNAT, rec.SPort = 2, 50001
		serverSide.Src, serverSide.SrcPort = pool, 50001
	}
	rec.L3Diff, rec.L4Diff = EndsDiff(&clientSide, &serverSide, proto)
	table, err := flow.New(make([]byte, flow.Size(16)+64)[:flow.Size(16)], flow.Config{Capacity: 16, Nodes: []flow.Addr{{}, member, pool}}, 0)
	must(t, err)
	made, result := table.Insert(&rec, proto, 0, 1000)
	if result != flow.Inserted {
		t.Fatalf("not inserted: %d", result)
	}
	packet := func(e Ends, kind uint8) testPacket {
		return basicPacket(v6, proto).withEnds(e).with(func(p *testPacket) {
			p.src, p.dst, p.sport, p.dport = e.Src.Netip(), e.Dst.Netip(), e.SrcPort, e.DstPort
			p.mac, p.dataSum, p.kind = L2{}, proto != flow.TCP && proto != flow.UDP, kind
		})
	}
	request, reply := uint8(8), uint8(0)
	if v6 {
		request, reply = 128, 129
	}
	fromClient, fromServer := clientSide, serverSide.Reverse() // as they arrive
	toServer, toClient := serverSide, clientSide.Reverse()     // as they leave, and are quoted
	for _, c := range []struct {
		name         string
		from         flow.Addr
		about        testPacket
		side         flow.Side
		to           Ends // of the quoted packet, as its sender knows it
		source, dest flow.Addr
	}{
		{"router before the member", router, packet(toServer, request), flow.FromServer, fromClient, router, client},
		{"the member", member, packet(toServer, request), flow.FromServer, fromClient, virtual, client},
		{"router before the client", router, packet(toClient, reply), flow.FromClient, fromServer, router, member},
		{"the client", client, packet(toClient, reply), flow.FromClient, fromServer, serverSide.Src, member},
	} {
		for _, quoted := range []int{28, 1000} {
			e := basicError(v6, proto)
			e.inner, e.outer.src, e.outer.dst = c.about, c.from.Netip(), c.about.src
			if v6 {
				quoted += 20
			}
			e.quoted = min(quoted, len(c.about.build(t))-etherLen)
			frame := exact(e.build(t))
			p, _ := parsed(t, frame, NoPorts)
			var q Quote
			var k flow.Key
			if why := ReadQuote(frame, &p, &q, &k); why != Done {
				t.Fatalf("%s: %q", c.name, why)
			}
			ref := table.Lookup(&k)
			if ref == 0 || ref.Index() != made.Index() || ref.Side() != c.side {
				t.Fatalf("%s, protocol %d, SNAT %v: found %d, side %d, by %+v", c.name, proto, snat, ref.Index(), ref.Side(), k)
			}
			// What the engine has: the record, and the addresses of its ids.
			r := table.Record(ref.Index())
			to := Ends{Src: r.Client, Dst: r.Virtual, SrcPort: r.CPort, DstPort: r.VPort}
			if ref.Side() == flow.FromClient {
				sk := table.ServerKey(r)
				to = EndsOf(&sk)
			}
			if to != c.to {
				t.Fatalf("%s: %+v, not %+v", c.name, to, c.to)
			}
			TranslateError(frame, &p, &q, &L2{2, 6: 4}, &to, false)
			want := e
			want.outer.mac, want.outer.src, want.outer.dst = L2{2, 6: 4}, c.source.Netip(), c.dest.Netip()
			want.outer.ttl--
			want.inner = c.about.with(func(p *testPacket) {
				p.src, p.dst, p.sport, p.dport = to.Src.Netip(), to.Dst.Netip(), to.SrcPort, to.DstPort
			})
			if proto == flow.SCTP && quoted < 1000 {
				want.oldSum, want.oldSumAt = c.about.transport(t, nil)[8:12], 8
			}
			if b := want.build(t); !slices.Equal(frame, b) {
				t.Fatalf("%s, protocol %d, SNAT %v\nis   % x\nwant % x", c.name, proto, snat, frame, b)
			}
		}
	}
}
