package main

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"sluice/ctl"
	"sluice/perf/lab"
)

// Without connections every datagram is scheduled by itself, from whatever port it comes, and every answer returns from
// the virtual address.
func TestOnePacket(t *testing.T) {
	const servers, sockets, each = 4, 4, 2500
	b := newBed(t, lab.TwoArmOptions{Servers: servers}, settings{})
	b.write(addKeys(addKeys(b.configText(settings{}), "dns", "one-packet: true"), "dns6", "one-packet: true"))
	echoes := b.serve(dnsPort, lab.UDPEcho)
	d := b.start()
	for f, vip := range b.vips(dnsPort) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		answers := map[string]int{}
		for i := range sockets {
			// A connected socket takes answers from the virtual address only.
			from := netip.AddrPortFrom([]netip.Addr{b.Client4, b.Client6}[f], uint16(firstUDPPort+i))
			conn := must(b.Client.DialFrom(t.Context(), "udp", from, vip.String()))(t)
			wg.Go(func() {
				defer conn.Close()
				for j := range each {
					who, err := datagram(conn, fmt.Sprintf("query %d.%d", i, j), waitTime)
					if err != nil {
						t.Errorf("%s: datagram %d of socket %d: %v", vip, j, i, err)
						return
					}
					mu.Lock()
					answers[who]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		t.Logf("%s: %v", vip, answers)
		for i := range servers {
			const turn = sockets * each / servers
			if name := fmt.Sprintf("server-%d", i+1); echoes[i][f].Requests.Load() != turn || answers[name] != turn {
				t.Errorf("%s: %s received %d datagrams and answered %d, its turn is %d", vip, name, echoes[i][f].Requests.Load(), answers[name], turn)
			}
		}
		if conns := query[[]ctl.ConnView](b, "conn", "list"); len(conns) != 0 {
			t.Errorf("%s: %d connections in the table: %+v", vip, len(conns), conns[0])
		}
	}
	const all = 2 * sockets * each
	want := ctl.TotalsView{Received: 2 * all, ToServer: all, ToClient: all, Sent: 2 * all}
	if got := b.totals(); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	d.stop()
}
