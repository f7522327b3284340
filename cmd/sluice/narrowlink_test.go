package main

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// end is that of a link: an interface of a host.
type end struct {
	host *lab.Host
	name string
}

// narrow makes a link, with all its ends, one of 1280 bytes.
func narrow(t *testing.T, ends ...end) {
	t.Helper()
	for _, e := range ends {
		must(e.host.Run(t.Context(), "ip", "link", "set", "dev", e.name, "mtu", "1280"))(t)
	}
}

// withoutDF has kernels send all IPv4 packets without DF, or as usual: of sockets that are made from then on.
func withoutDF(t *testing.T, on bool, hosts ...*lab.Host) {
	t.Helper()
	value := "0"
	if on {
		value = "1"
	}
	for _, h := range hosts {
		ok(t, h.Sysctl("net.ipv4.ip_no_pmtu_disc", value))
		must(h.Run(t.Context(), "ip", "route", "flush", "cache"))(t) // what ICMP errors have told
	}
}

// serving are servers of transfers and of echoes at addresses of a host, until they are closed.
func serving(t *testing.T, h *lab.Host, addrs ...netip.Addr) (stop func()) {
	t.Helper()
	var servers []*lab.Server
	for _, a := range addrs {
		servers = append(servers, must(lab.TransferServer(h, netip.AddrPortFrom(a, bulkPort).String()))(t),
			must(lab.UDPEcho(h, netip.AddrPortFrom(a, dnsPort).String(), "echo"))(t))
	}
	return func() {
		for _, s := range servers {
			_ = s.Close()
		}
	}
}

// transferred has 4 MiB each way arrive, of the kernels' own TCP.
func (b *bed) transferred(from *lab.Host, to netip.AddrPort) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	conn := must(from.Dial(ctx, "tcp", to.String()))(b.t)
	defer conn.Close()
	if _, err := lab.Transfer(ctx, conn, 4<<20, 1); err != nil {
		b.t.Fatalf("%s: %v; dropped %v, %+v", to, err, b.drops(), b.totals())
	}
}

// crosses has transfers and datagrams of 1,400 and 60,000 bytes go both ways over a link of 1280 bytes that is ours on one side: with
// DF, and of IPv6, their senders hear that from us; without DF what does not fit leaves in parts.
func (b *bed) crosses(client, server *lab.Host, addrs ...netip.Addr) {
	t := b.t
	t.Helper()
	near := b.Client
	b.Client = client
	defer func() { b.Client = near }()
	for _, plain := range []bool{false, true} {
		withoutDF(t, plain, client, server)
		stop := serving(t, server, addrs...)
		bulk, dns := b.vips(bulkPort), b.vips(dnsPort)
		for f := range bulk { // what routers have told of IPv6 is not forgotten
			if plain && f == 1 {
				break
			}
			before := b.totals()
			b.transferred(client, bulk[f])
			s := b.totals()
			if cut := plain && f == 0; cut != (s.Split > before.Split+1000) || cut != (s.ICMPSent == before.ICMPSent) {
				t.Errorf("%s, without DF %v: %d packets were cut, %d ICMP errors sent", bulk[f], plain, s.Split-before.Split, s.ICMPSent-before.ICMPSent)
			}
			b.echoes(dns[f], 1_400, 8)
			before = b.totals()
			b.echoes(dns[f], 60_000, 6)
			// The kernel cuts a large datagram by the link it knows of, and what of IPv4 it has cut has no DF.
			if s = b.totals(); f == 0 && plain && s.Split < before.Split+80 {
				t.Errorf("%s: of large datagrams %d parts were cut once more", dns[f], s.Split-before.Split)
			}
		}
		stop()
	}
	withoutDF(t, false, client, server)
	if drops := b.drops(); drops["too_big"] != 0 {
		t.Errorf("dropped %v", drops)
	}
}

// In nat, full NAT and direct return, our link to the client's router, or to the member that is one, takes less than their own: neither
// end knows.
func TestNarrowLink(t *testing.T) {
	for _, c := range []struct{ name, side string }{
		{"nat", "client"}, {"nat", "server"}, {"fullnat", "client"}, {"fullnat", "server"},
	} {
		t.Run(c.name+"-"+c.side, func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{})
			client, server, addrs := b.Client, b.Servers[0], []netip.Addr{b.ServerAddr4[0], b.ServerAddr6[0]}
			text := b.configText(settings{engine: "workers: 2"})
			if c.name == "fullnat" {
				text = b.fullNATText()
			}
			if c.side == "client" {
				client = must(b.BehindClient(1500))(t).Far
				narrow(t, end{b.Client, "eth0"}, end{b.Balancer, b.Outside})
			} else {
				far := must(b.BehindServer(1500))(t)
				narrow(t, end{b.Balancer, b.Inside}, end{b.Switch, "lb"}, end{b.Switch, "srv1"}, end{server, "eth0"}, end{b.Switch, "br0"})
				server = far.Far
				for i, a := range []netip.Addr{far.Addr4, far.Addr6} {
					text = strings.Replace(text, `"`+addrs[i].String()+`"`, `"`+a.String()+`"`, 1)
					addrs[i] = a
				}
			}
			b.before = b.hostState(false)
			b.write(text)
			d := b.start()
			b.crosses(client, server, addrs...)
			d.stop()
		})
	}
}

// The same towards routers, with and without a change of the source, and by the kernel's routes.
func TestNarrowLinkRouted(t *testing.T) {
	for _, c := range []struct{ name, virtual, member string }{
		{"router-snat", "mode: router, pool: routersFAMILY", ", snat: provider-PORT"},
		{"router", "mode: router, pool: routersFAMILY", ""},
		{"forward-snat", "mode: forward, snat: provider-a", ""},
		{"forward", "mode: forward", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, r := routersBed(t, 2, 1500)
			for i, router := range r.Router {
				narrow(t, end{r.Balancer, r.Ports[i]}, end{router, "eth0"})
			}
			if strings.HasPrefix(c.name, "forward") {
				ok(t, r.Balancer.DefaultRoute(r.Router4[0].String()))
				ok(t, r.Balancer.DefaultRoute(r.Router6[0].String()))
			}
			b.before = b.hostState(false)
			b.write(b.routersText(r, "workers: 2", c.virtual, c.member, "on-down: keep"))
			d := b.start()
			b.crosses(r.Host, r.Site, r.Site4, r.Site6)
			d.stop()
		})
	}
}

// Between firewalls and the far balancer links take 1280 bytes. What the near host sends is too big for the firewall, which says so
// through the near balancer; what the far host sends for the far balancer, which says so itself. Neither firewall ever refuses a packet.
func TestNarrowLinkFirewalls(t *testing.T) {
	beds, s := sandwichBeds(t, 2)
	narrow(t, end{s.Balancer[1], "walls"}, end{s.Switch[1], "lb"}, end{s.Wall[0], "far"}, end{s.Wall[1], "far"},
		end{s.Switch[1], "wall-1"}, end{s.Switch[1], "wall-2"}, end{s.Switch[1], "br0"})
	var daemons [2]*daemon
	for side, b := range beds {
		b.before = b.hostState(false)
		b.write(b.wallsText(s, side, "workers: 2", "keep"))
		daemons[side] = b.start()
	}
	var seen [2][2]ctl.TotalsView
	for i, plain := range []bool{false, true} {
		withoutDF(t, plain, s.Host[:]...)
		for side, b := range beds {
			stop := serving(t, s.Host[1-side], s.Host4[1-side], s.Host6[1-side])
			for _, a := range []netip.Addr{s.Host4[1-side], s.Host6[1-side]}[:2-i] {
				b.transferred(s.Host[side], netip.AddrPortFrom(a, bulkPort))
				b.echoes(netip.AddrPortFrom(a, dnsPort), 1_400, 8)
				b.echoes(netip.AddrPortFrom(a, dnsPort), 60_000, 6)
			}
			stop()
		}
		seen[i] = [2]ctl.TotalsView{beds[0].totals(), beds[1].totals()}
	}
	if near, far := seen[0][0], seen[0][1]; near.ICMPErrors < 2 || near.ICMPSent != 0 || far.ICMPSent < 2 {
		t.Errorf("near %+v, far %+v", near, far)
	}
	if near, far := seen[1][0], seen[1][1]; near.ICMPErrors != seen[0][0].ICMPErrors || far.ICMPSent != seen[0][1].ICMPSent || far.Split < seen[0][1].Split+1000 || near.Split != 0 {
		t.Errorf("without DF: near %+v, far %+v", near, far)
	}
	for i, wall := range s.Wall {
		if _, refused := wallCounters(t, wall); refused != 0 {
			t.Errorf("firewall %d has refused %d packets", i+1, refused)
		}
	}
	for side, d := range daemons {
		d.stop()
		if state := beds[side].hostState(false); state != beds[side].before {
			t.Errorf("the host is not as it was; before:\n%safter:\n%s", beds[side].before, state)
		}
	}
}
