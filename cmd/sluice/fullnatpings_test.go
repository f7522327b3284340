package main

import (
	"fmt"
	"net/netip"
	"testing"

	"sluice/perf/lab"
)

// Pings in parts get their answers through full NAT: the later parts of those have no identifier that says whose they are, and the
// SNAT address is one of the host's. Its own, and the SNAT addresses, are pinged as before.
func TestFullNATLargePings(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{})
	b.write(b.fullNATText() + fmt.Sprintf(`  - {name: pings, address: "%s:any", mode: fullnat, snat: out, protocol: icmp, pool: all}
  - {name: pings6, address: "[%s]:any", mode: fullnat, snat: out, protocol: icmp, pool: all6}
`, b.VIP4, b.VIP6))
	d := b.start()
	for _, to := range []netip.Addr{b.VIP4, b.VIP6, b.Outside4, b.Outside6} {
		for _, size := range []int{56, 2000, 20000} {
			if answered, err := pingSize(b.Client, to, size, true); err != nil || !answered {
				t.Errorf("%s: a ping of %d bytes is not answered (%v)", to, size, err)
			}
		}
	}
	for _, to := range []string{"192.168.20.200", "fd00:192:168:20::200", b.Inside4.String(), b.Inside6.String()} {
		if answered, err := pingSize(b.Servers[0], netip.MustParseAddr(to), 2000, true); err != nil || !answered {
			t.Errorf("%s is not answered (%v)", to, err)
		}
	}
	d.stop()
}
