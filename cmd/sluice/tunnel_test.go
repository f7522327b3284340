package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/perf/lab"
)

// tunnelText is the configuration with every virtual server behind tunnels. crossed gives each family's virtual servers the
// members of the other.
func (b *bed) tunnelText(tunnel, rest string, crossed bool) string {
	text := b.directText("workers: 2", "mode: tunnel"+rest)
	if crossed {
		text = strings.NewReplacer("pool: all6,", "pool: all,", "pool: all,", "pool: all6,").Replace(text)
	}
	return strings.ReplaceAll(text, "    scheduler: round-robin\n", "    tunnel: {"+tunnel+"}\n")
}

// Members behind tunnels of every kind: IPIP and GUE, each family over each. This kernel has no device for them, so what is
// inside is taken out by raw and UDP sockets of the member's kernel, which has put together and checked what was outside, and
// goes back into it. Transfers of the kernels' own TCP arrive by SHA-256, large datagrams whole; the client learns by ICMP what
// fits, and no answer comes by the engine.
func TestTunnel(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{})
	ok(t, b.DirectReturn(b.Servers...))
	var ends []*lab.Decapsulator
	for _, s := range b.Servers {
		ends = append(ends, must(s.Decapsulate(6080))(t))
	}
	b.serveVIP(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	b.serveVIP(webPort, lab.HTTPServer)
	b.serveVIP(dnsPort, lab.UDPEcho)
	var d *daemon
	for i, encapsulation := range []string{"ipip", "gue"} {
		for _, crossed := range []bool{false, true} {
			b.write(b.tunnelText("encapsulation: "+encapsulation, "", crossed))
			if d == nil {
				d = b.start()
			} else if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 0 {
				t.Fatalf("reload: %s", r.stderr)
			}
			name := fmt.Sprintf("%s, crossed %v", encapsulation, crossed)
			capture := must(b.Servers[0].Capture("eth0", 4000))(t)
			other := ends[0].Packets[1-i].Load() + ends[1].Packets[1-i].Load()
			for f, vip := range b.vips(webPort) {
				seen := map[string]int{}
				for range 4 {
					who, err := ask(b.Client, vip, waitTime)
					if err != nil {
						t.Fatalf("%s: %s: %v; dropped %v", name, vip, err, b.drops())
					}
					seen[who]++
				}
				if len(seen) != 2 {
					t.Errorf("%s: %s: answers of %v", name, vip, seen)
				}
				b.echoes(b.vips(dnsPort)[f], 60_000, 4)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				conn := must(b.Client.Dial(ctx, "tcp", b.vips(bulkPort)[f].String()))(t)
				if _, err := lab.Transfer(ctx, conn, 16<<20, uint64(f)); err != nil {
					t.Fatalf("%s: %s: %v; dropped %v", name, vip, err, b.drops())
				}
				conn.Close()
				cancel()
			}
			ok(t, capture.Close())
			judgeTunnel(t, name, capture, encapsulation == "gue")
			if n := ends[0].Packets[1-i].Load() + ends[1].Packets[1-i].Load(); n != other {
				t.Errorf("%s: %d packets in the other encapsulation", name, n-other)
			}
		}
	}
	for i, e := range ends {
		if e.Refused.Load() != 0 || e.Packets[0].Load() < 1000 || e.Packets[1].Load() < 1000 {
			t.Errorf("server %d: %d in IP, %d in GUE, %d refused", i+1, e.Packets[0].Load(), e.Packets[1].Load(), e.Refused.Load())
		}
	}
	if s := b.totals(); s.ToClient != 0 || s.ICMPSent == 0 {
		t.Errorf("%+v", s)
	}
	d.stop()
}

// judgeTunnel has gopacket read what the engine has sent to a member: tunnels all, from its own address, with connections apart by
// GUE's source port.
func judgeTunnel(t *testing.T, name string, c *lab.Capture, gue bool) {
	t.Helper()
	n, sources := 0, map[layers.UDPPort]bool{}
	for _, f := range c.Frames() {
		if f.Outgoing {
			continue
		}
		p := gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.Default)
		if p.NetworkLayer() == nil {
			continue
		}
		if src := p.NetworkLayer().NetworkFlow().Src().String(); src != "192.168.20.254" && src != "fd00:192:168:20::254" {
			continue
		}
		if ip, is := p.NetworkLayer().(*layers.IPv4); is && (ip.Flags&layers.IPv4MoreFragments != 0 || ip.FragOffset != 0) {
			continue
		}
		switch l := p.Layers()[2].(type) {
		case *layers.UDP:
			if l.DstPort != 6080 || !gue {
				t.Errorf("%s: UDP to %d", name, l.DstPort)
			}
			sources[l.SrcPort] = true
		case *layers.IPv4, *layers.IPv6:
			if gue {
				t.Errorf("%s: %v", name, p)
			}
		default:
			continue // neighbours
		}
		n++
	}
	if n < 100 || gue && len(sources) < 2 {
		t.Errorf("%s: %d tunnel packets from %d ports", name, n, len(sources))
	}
}

// A member two routers away, behind a link of 1280 bytes (1400 for IPv6, whose packets of 1280 have to fit with the tunnel's
// headers): ICMP errors about the tunnel's packets become the client's, errors about answers go to the member through the
// tunnel. Where routers filter ICMP, df: clear has the outer packets fragmented, and mss-clamp bounds what the member
// sends; without these nothing arrives.
func TestTunnelPathMTU(t *testing.T) {
	for _, c := range []struct {
		name, tunnel, rest string
		mtu                int
		filtered, stalls   bool
	}{
		{"ipip", "encapsulation: ipip", "", 1280, false, false},
		{"gue", "encapsulation: gue", "", 1400, false, false},
		{"filtered", "encapsulation: ipip", "", 1280, true, true},
		{"filtered but cleared and clamped", "encapsulation: gue, df: clear", ", mss-clamp: 1200", 1280, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{})
			far := must(b.BehindServer(c.mtu))(t)
			ok(t, b.DirectReturn(far.Far))
			must(far.Far.Decapsulate(6080))(t)
			b.before = b.hostState(false)
			text := strings.NewReplacer(`"`+b.ServerAddr4[0].String()+`"`, `"`+far.Addr4.String()+`"`, `"`+b.ServerAddr6[0].String()+`"`, `"`+far.Addr6.String()+`"`).Replace(b.tunnelText(c.tunnel, c.rest, false))
			if c.filtered {
				noICMP(t, b.Servers[0], far.Edge)
				text = strings.Replace(text, "workers: 2", "workers: 2, icmp-rate: 0", 1)
			}
			b.write(text)
			families := b.vips(bulkPort)
			if c.mtu < 1320 {
				families = families[:1]
			}
			for _, vip := range families {
				must(lab.TransferServer(far.Far, vip.String()))(t)
			}
			must(lab.UDPEcho(far.Far, b.vips(dnsPort)[0].String(), "far"))(t)
			d := b.start()
			for i, vip := range families {
				limit := time.Minute
				if c.stalls {
					limit = 3 * time.Second
				}
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				conn := must(b.Client.Dial(ctx, "tcp", vip.String()))(t)
				_, err := lab.Transfer(ctx, conn, 4<<20, uint64(i))
				conn.Close()
				cancel()
				s := b.totals()
				if (err != nil) != c.stalls {
					t.Fatalf("%s: %v; dropped %v, %+v", vip, err, b.drops(), s)
				}
				if !c.filtered && s.ICMPErrors < 2 || s.ToClient > s.ICMPErrors {
					t.Errorf("%s: %+v", vip, s)
				}
			}
			b.echoes(b.vips(dnsPort)[0], 20_000, 4)
			d.stop()
		})
	}
}

// noICMP makes routers send and forward no ICMP of IPv4, as a careless filter does. The engine has icmp-rate for itself.
func noICMP(t *testing.T, routers ...*lab.Host) {
	t.Helper()
	for _, h := range routers {
		_, err := h.Run(t.Context(), "ip", "rule", "add", "pref", "1", "ipproto", "icmp", "blackhole")
		ok(t, err)
	}
}

// mss-clamp in nat and fullnat: with a link of 1280 bytes behind the member's or the client's router, and routers that filter ICMP,
// transfers stall unless SYNs are clamped, both ways.
func TestMSSClamp(t *testing.T) {
	for _, c := range []struct {
		side, rest   string
		icmp, stalls bool
	}{
		{"server", "", false, true}, {"client", "", false, true},
		{"server", ", mss-clamp: 1240", false, false}, {"client", ", mss-clamp: 1240", false, false},
		{"server", ", mode: fullnat, snat: automap, mss-clamp: 1240", false, false},
		{"server", ", mode: fullnat, snat: automap", true, false}, // errors come to our own address
	} {
		t.Run(c.side+strings.ReplaceAll(c.rest, " ", ""), func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{})
			text := strings.ReplaceAll(b.configText(settings{}), ", pool: all}", ", pool: all"+c.rest+"}")
			client, listener, server := b.Client, b.Servers[0], b.ServerAddr4[0]
			if c.side == "client" {
				far := must(b.BehindClient(1280))(t)
				client = far.Far
				if !c.icmp {
					noICMP(t, b.Client, far.Edge)
				}
			} else {
				far := must(b.BehindServer(1280))(t)
				listener = far.Far
				text = strings.Replace(text, `"`+server.String()+`"`, `"`+far.Addr4.String()+`"`, 1)
				server = far.Addr4
				if !c.icmp {
					noICMP(t, b.Servers[0], far.Edge)
				}
			}
			b.write(text)
			b.before = b.hostState(false)
			must(lab.TransferServer(listener, netip.AddrPortFrom(server, bulkPort).String()))(t)
			d := b.start()
			limit := time.Minute
			if c.stalls {
				limit = 3 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			conn := must(client.Dial(ctx, "tcp", b.vips(bulkPort)[0].String()))(t)
			_, err := lab.Transfer(ctx, conn, 4<<20, 1)
			conn.Close()
			if (err != nil) != c.stalls {
				t.Fatalf("%v; dropped %v, %+v", err, b.drops(), b.totals())
			}
			if s := b.totals(); (s.ICMPErrors > 0) != c.icmp {
				t.Errorf("%+v", s)
			}
			d.stop()
		})
	}
}
