package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/perf/lab"
)

// Path MTU discovery through the engine, of the kernels' own TCP, which sets DF: a link behind routers, on either side, is
// smaller than what both ends believe, and only a router's ICMP error tells. Without its translation every full segment is
// lost.
func TestPathMTU(t *testing.T) {
	for _, c := range []struct {
		side string
		mtu  int
	}{{"client", 1280}, {"client", 1000}, {"server", 1280}, {"server", 1000}} {
		t.Run(fmt.Sprintf("%s-%d", c.side, c.mtu), func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{engine: "workers: 2"})
			client, servers := b.Client, []netip.Addr{b.ServerAddr4[0], b.ServerAddr6[0]}
			listener := b.Servers[0]
			if c.side == "client" {
				client = must(b.BehindClient(c.mtu))(t).Far
			} else {
				far := must(b.BehindServer(c.mtu))(t)
				text := b.configText(settings{engine: "workers: 2"})
				text = strings.Replace(text, `"`+servers[0].String()+`"`, `"`+far.Addr4.String()+`"`, 1)
				servers[0] = far.Addr4
				if far.Addr6.IsValid() {
					text = strings.Replace(text, `"`+servers[1].String()+`"`, `"`+far.Addr6.String()+`"`, 1)
				}
				servers[1] = far.Addr6
				b.write(text)
				listener = far.Far
			}
			b.before = b.hostState(false) // there are routes to that host now
			families := b.vips(bulkPort)
			if c.mtu < 1280 {
				families = families[:1]
			}
			for i := range families {
				must(lab.TransferServer(listener, netip.AddrPortFrom(servers[i], bulkPort).String()))(t)
			}
			d := b.start()
			for i, vip := range families {
				before := b.totals()
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				conn := must(client.Dial(ctx, "tcp", vip.String()))(t)
				r, err := lab.Transfer(ctx, conn, 8<<20, uint64(i))
				conn.Close()
				after := b.totals()
				if err != nil {
					t.Fatalf("%s: %v\ndropped: %v, %+v", vip, err, b.drops(), after)
				}
				if after.ICMPErrors == before.ICMPErrors {
					t.Errorf("%s: no ICMP error was translated", vip)
				}
				t.Logf("%s: 8 MiB each way in %s, %d ICMP errors, dropped %v", vip, r.Elapsed.Round(time.Millisecond), after.ICMPErrors-before.ICMPErrors, b.drops())
			}
			// The kernel goes on answering echo requests itself.
			for _, vip := range families {
				for seq := range uint16(50) {
					ok(t, ping(client, vip.Addr(), seq))
				}
			}
			d.stop()
		})
	}
}
