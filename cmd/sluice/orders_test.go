package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sluice/perf/lab"
)

// inOrder puts the parts of a datagram into one of the orders in which networks deliver them.
func inOrder(parts [][]byte, order string, rnd *rand.Rand) [][]byte {
	switch order {
	case "reversed":
		slices.Reverse(parts)
	case "shuffled":
		rnd.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	}
	return parts
}

// orderedEcho answers datagrams from h with the same, in parts in the order that their first byte says. Frames go where those to via do.
func orderedEcho(t *testing.T, h *lab.Host, at netip.AddrPort, via netip.Addr) {
	t.Helper()
	pc := must(h.ListenPacket("udp", at.String()))(t)
	t.Cleanup(func() { pc.Close() })
	ok(t, pc.(*net.UDPConn).SetReadBuffer(4<<20))
	raw := rawIP(t, h, via)
	go func() {
		rnd := rand.New(rand.NewPCG(1, 1))
		buf := make([]byte, 1<<16)
		for id := uint32(1); ; id++ {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			to := from.(*net.UDPAddr).AddrPort()
			for _, part := range inOrder(datagramParts(at, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), slices.Clone(buf[:n]), id), orders[buf[0]], rnd) {
				if raw(part) != nil {
					return
				}
			}
		}
	}()
}

var orders = []string{"in order", "reversed", "shuffled"}

// Datagrams of 60,000 bytes, cut here and sent in parts in order, reversed and shuffled, arrive whole, and so do answers whose parts the
// server sends in that order, through nat and full NAT, of both families.
func TestDatagramOrders(t *testing.T) {
	for _, mode := range []string{"nat", "fullnat"} {
		t.Run(mode, func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{engine: "workers: 2"})
			if mode == "fullnat" {
				b.write(b.fullNATText())
			}
			orderedEcho(t, b.Servers[0], netip.AddrPortFrom(b.ServerAddr4[0], dnsPort), b.Client4)
			orderedEcho(t, b.Servers[0], netip.AddrPortFrom(b.ServerAddr6[0], dnsPort), b.Client6)
			d := b.start()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			const rounds, size = 5, 60_000
			for f, vip := range b.vips(dnsPort) {
				conn := must(b.Client.Dial(t.Context(), "udp", vip.String()))(t)
				defer conn.Close()
				ok(t, conn.(*net.UDPConn).SetReadBuffer(4<<20))
				raw := rawIP(t, b.Client, vip.Addr())
				for kind, order := range orders {
					lost := 0
					for round := range rounds {
						said := make([]byte, size)
						for i := range said {
							said[i] = byte(rnd.Uint32())
						}
						said[0] = byte(kind)
						from := conn.LocalAddr().(*net.UDPAddr).AddrPort()
						for _, part := range inOrder(datagramParts(from, vip, said, uint32(1+1000*f+100*kind+round)), order, rnd) {
							ok(t, raw(part))
						}
						_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
						got := make([]byte, 1<<16)
						n, err := conn.Read(got)
						if err != nil {
							lost++ // a ring that is full for a moment costs a datagram
						} else if !bytes.Equal(got[:n], said) {
							t.Errorf("%s, %s: %d bytes came back, other ones", vip, order, n)
						}
					}
					if lost > rounds/2 {
						t.Errorf("%s, %s: %d of %d datagrams were lost; dropped %v", vip, order, lost, rounds, b.drops())
					}
				}
			}
			if s := b.totals(); s.ToHost != 0 {
				t.Errorf("%+v, dropped %v", s, b.drops())
			}
			d.stop()
		})
	}
}

// mss-clamp of routers and of the kernel's routes: a link of 1280 bytes behind routers that filter ICMP stalls transfers of IPv4, unless
// SYNs are clamped.
func TestMSSClampRouted(t *testing.T) {
	for _, c := range []struct {
		name, virtual, member string
		stalls                bool
	}{
		{"router", "mode: router, pool: routersFAMILY", ", snat: provider-PORT", true},
		{"router-clamped", "mode: router, pool: routersFAMILY, mss-clamp: 1240", ", snat: provider-PORT", false},
		{"forward-clamped", "mode: forward, mss-clamp: 1240", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, r := routersBed(t, 2, 1280)
			ok(t, r.Balancer.DefaultRoute(r.Router4[0].String()))
			b.before = b.hostState(false)
			for _, h := range []*lab.Host{r.Router[0], r.Router[1], r.Edge} {
				for _, chain := range []string{"output", "forward"} {
					must(h.Run(t.Context(), "nft", "add table ip quiet; add chain ip quiet "+chain+" { type filter hook "+chain+" priority 0; }; add rule ip quiet "+chain+" icmp type destination-unreachable drop"))(t)
				}
			}
			b.write(b.routersText(r, "workers: 2", c.virtual, c.member, "on-down: keep"))
			b.serving(r.Site)
			d := b.start()
			b.stallsOrNot(r.Host, c.stalls)
			if s := b.totals(); s.ICMPErrors != 0 {
				t.Errorf("%+v", s)
			}
			d.stop()
		})
	}
}

// serving has the site take transfers.
func (b *bed) serving(site *lab.Host) {
	b.t.Helper()
	must(lab.TransferServer(site, b.vips(bulkPort)[0].String()))(b.t)
}

// stallsOrNot sees a transfer of IPv4 stall, or end well.
func (b *bed) stallsOrNot(from *lab.Host, stalls bool) {
	b.t.Helper()
	limit := time.Minute
	if stalls {
		limit = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), limit)
	defer cancel()
	conn := must(from.Dial(ctx, "tcp", b.vips(bulkPort)[0].String()))(b.t)
	defer conn.Close()
	if _, err := lab.Transfer(ctx, conn, 4<<20, 1); (err != nil) != stalls {
		b.t.Fatalf("%v; dropped %v, %+v", err, b.drops(), b.totals())
	}
}
