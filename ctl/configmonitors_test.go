package ctl

import (
	"fmt"
	"strings"
	"testing"
)

// What is wrong with monitors and with what pools say about health, each at its place.
func TestMonitorProblems(t *testing.T) {
	const base = `ports: [{interface: eth1}]
monitors:
  - {name: a, type: tcp%s}
pools:
  - name: web
    members: [{address: 192.168.20.1:80}, {name: free, address: 192.168.20.2}]
%s
  - {name: six, members: [{address: "2001:db8::1"}]}
  - {name: sorry, members: [{address: 192.168.20.9}], all-down: %s}
virtual-servers:
  - {name: v, address: 10.10.1.100:80, protocol: tcp, pool: web%s}
  - {name: w, address: 10.10.1.100:81, protocol: tcp, pool: sorry}
  - {name: x, address: "[2001:db8::2]:81", protocol: tcp, pool: six}
`
	for _, c := range []struct{ monitor, pool, sorry, virtual, want string }{
		{", fall: 0", "", "drop", "", "3:32: monitors[0].fall: 0 is out of range: 1 to 1000"},
		{", interval: 1s", "", "drop", "", `3:36: monitors[0].interval: monitor "a": timeout 2s is longer than the interval 1s: lower the one or raise the other`},
		{", http: {path: /}", "", "drop", "", `3:26: monitors[0].http: monitor "a": settings of http have no effect in a monitor of type tcp`},
		{", source-v4: 10.10.1.100", "", "drop", "", `monitors[0].source-v4: 10.10.1.100 is the address of virtual server "v" (line 11)`},
		{", tcp: {expect: a, pattern: b}", "", "drop", "", `3:40: monitors[0].tcp.expect: monitor "a": expect and pattern are both set`},
		{", tcp: {pattern: '('}", "", "drop", "", "pattern: error parsing regexp"},
		{", interval: 3s, timeout: 4s, tcp: {pattern: '('}}\n  - {name: b, type: tcp, rise: 0", "", "drop", "", `3:49: monitors[0].timeout: monitor "a": timeout 4s is longer than the interval 3s`},
		{", mark: 4294967296", "", "drop", "", "out of range: 0 to 4294967295"},
		{", jitter: 0.7", "", "drop", "", "monitors[0].jitter: 0.7 is out of range: 0 to 0.5"},
		{"", "    monitors: [b]", "drop", "", `7:16: pools[0].monitors[0]: no monitor named "b"`},
		{"", "    monitors: [a, a]", "drop", "", "monitor a is already in line 7"},
		{"", "    monitors: [a]\n    monitors-needed: 2", "drop", "", "2 monitors are needed, and the pool has 1"},
		{"", "    monitors-needed: none", "drop", "", "want a number"},
		{"", "    passive: {rate: 1.5}", "drop", "", "1.5 is out of range: 0 to 1"},
		{"", "    passive: {hold-min: 10s, hold-max: 5s}", "drop", "", "7:40: pools[0].passive.hold-max: passive: longest hold-off 5s is out of range"},
		{"", "    all-down: pool", "drop", "", "which pool? (such as pool sorry)"},
		{"", "    all-down: open", "drop", "", `unknown all-down "open"; supported: drop, reset, fail-open, pool NAME`},
		{"", "    all-down: pool sory", "drop", "", `no pool named "sory" (did you mean "sorry"?)`},
		{"", "    all-down: pool sorry", "pool web", "", "lead round in a circle"},
		{"", "    all-down: pool web", "drop", "", "lead round in a circle"},
		{"", "    all-down: pool six", "drop", "", `it stands in for pool "web", and has members of another family than virtual server "v"`},
		{"", "    all-down: pool sorry\n    scheduler: maglev", "drop", ", table-full: forward", "does not hash clients"},
		{"", "    monitors: [a]", "pool web", "", `7:16: pools[0].monitors[0]: which port of member "free" (line 6)?`},
	} {
		_, err := Parse("f", fmt.Appendf(nil, base, c.monitor, c.pool, c.sorry, c.virtual))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v:\n%v\nwant %s", c, err, c.want)
		}
	}
	f, err := Parse("f", fmt.Appendf(nil, base, ", port: 8080", "    monitors: [a]\n    passive: {}\n    all-down: pool sorry", "fail-open", ""))
	if err != nil {
		t.Fatal(err)
	}
	if p := f.Pools[0]; p.Passive.Consecutive != 5 || f.Pools[1].Passive.Enabled() || p.AllDown != (AllDown{AllDownPool, "sorry"}) || len(f.Warnings()) != 0 {
		t.Errorf("%+v, %q", p, f.Warnings())
	}
	// What stands in for a pool is served where the pool is.
	ends := fmt.Sprint(f.ends())
	for _, want := range []string{"192.168.20.9 6 80", "192.168.20.9 6 81", "192.168.20.2 6 80"} {
		if !strings.Contains(ends, want) {
			t.Errorf("%s is not among %s", want, ends)
		}
	}
}
