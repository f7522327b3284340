package ctl

import (
	"errors"
	"strings"
	"testing"
)

// twoPorts is the least a file needs; rows below it start in line 2.
const twoPorts = "ports: [{interface: eth1}, {interface: eth2}]\n"

// Each row is a text, and for each of its problems the beginning of the message.
func TestProblems(t *testing.T) {
	pool := "pools: [{name: p, members: [{address: 192.168.20.1}]}]\n"
	vs := func(address string) string {
		return twoPorts + pool + "virtual-servers:\n  - {name: v, protocol: tcp, pool: p, address: " + address + "}\n"
	}
	two := func(first, second string) string {
		return twoPorts + pool + "virtual-servers:\n" +
			"  - {name: a, protocol: tcp, pool: p, " + first + "}\n  - {name: b, protocol: tcp, pool: p, " + second + "}\n"
	}
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"empty", "", []string{"1:1: the configuration is empty"}},
		{"comment only", "# nothing\n", []string{"1:1: the configuration is empty"}},
		{"null", "null\n", []string{"1:1: the configuration is empty"}},
		{"scalar", "web\n", []string{`1:1: want the keys of the file, found "web"`}},
		{"list", "- a\n", []string{"1:1: want the keys of the file, found a list"}},
		{"byte order mark", "\ufeff" + twoPorts + "lgo: 1\n", []string{`2:1: lgo: the file has no such key (did you mean "log"?)`}},
		{"carriage returns", "ports:\r\n  - interface: eth1\r\n    queues: x\r\n", []string{`3:13: ports[0].queues: want a number in decimal digits, found "x"`}},
		{"not UTF-8", "ports:\n  - interface: é\xff\n", []string{"2:17: the file is not UTF-8 text"}},
		{"zero byte", twoPorts + "log: \x00\n", []string{"2:6: control character U+0000"}},
		{"tab", "ports:\n\t- interface: eth1\n", []string{"2:1: a tab in the indentation (YAML is indented with spaces)"}},
		{"second document", twoPorts + "---\n" + twoPorts, []string{"2:1: a second YAML document"}},
		{"document marks", "---\n" + twoPorts + "...\n", nil},
		{"directive", "%YAML 1.1\n---\n" + twoPorts, []string{"1:1: YAML directives"}},
		{"tag", twoPorts + "log: !!map {level: info}\n", []string{"2:6: log: want the keys of the log, found a YAML tag"}},
		{"unclosed", "ports: [\n", []string{"1:8: sequence end token ']' not found"}},
		{"duplicate key", twoPorts + "log: {}\nports: []\n", []string{"3:1: ports: given twice, first on line 1"}},
		{"duplicate key below", "ports:\n  - interface: eth1\n    interface: eth2\n", []string{"3:5: ports[0].interface: given twice, first on line 2"}},
		{"merge is no duplicate", "ports:\n  - &a {interface: eth1, queues: 2}\n  - {interface: eth2, <<: *a}\n", nil},
		{"merge of a list", twoPorts + "log: {<<: [{level: warn}, {format: json}]}\n", nil},
		{"merge of a scalar", twoPorts + "log: {<<: 5}\n", []string{`2:11: log: want the keys of the log, found "5"`}},
		{"unknown alias", twoPorts + "log: *a\n", []string{"2:6: no anchor &a before this alias"}},
		{"alias of itself", twoPorts + "log: &a {level: *a}\n", []string{"2:17: no anchor &a before this alias"}},
		{"too deep, flow", twoPorts + "log: " + strings.Repeat("[", 1000) + strings.Repeat("]", 1000), []string{"2:37: nested deeper than 32 levels"}},
		{"too deep, block", twoPorts + "log:\n  " + strings.Repeat("- ", 1000) + "x\n", []string{"3:65: nested deeper than 32 levels"}},
		{"wrong type", "ports: 5\n", []string{`1:8: ports: want a list, found "5"`}},
		{"empty list", "ports: []\n", []string{"1:1: ports: the list is empty"}},
		{"null list", "ports:\n", []string{"1:1: ports: the list is empty"}},
		{"null section", twoPorts + "engine:\n", nil},
		{"null scalar", twoPorts + "log: {level: }\n", []string{"2:7: log.level: no value; want word: debug, info, warn, error"}},
		{"list for a scalar", twoPorts + "log: {level: [info]}\n", []string{"2:14: log.level: want word: debug, info, warn, error, found a list"}},
		{"null entry", "ports:\n  -\n  - interface: eth1\n", []string{"2:4: ports[0]: interface is missing"}},
		{"no ports", "log: {}\n", []string{"1:1: ports is missing"}},
		{"key elsewhere", twoPorts + "busy-poll: {}\n", []string{"2:1: busy-poll: the file has no such key (there is engine.busy-poll)"}},
		{"later key", twoPorts + "cluster: []\n", []string{"2:1: cluster: cluster is not in this release"}},
		{"odd key", twoPorts + "\"a b\": 1\n\"\": 1\n5: 1\n", []string{`2:1: "a b": the file has no such key`, `3:1: "": the file has no such key`, "4:1: 5: the file has no such key"}},
		{"interface with a slash", "ports: [{interface: a/b}]\n", []string{`1:21: ports[0].interface: the interface name "a/b" has a character`}},
		{"same interface", "ports: [{interface: a}, {name: b, interface: a}]\n", []string{"1:46: ports[1].interface: interface a is already in line 1"}},
		{"interface that is no name", "ports: [{interface: a@b}, {name: b, interface: b@c}]\n", []string{`1:21: ports[0].interface: the name "a@b" may only have letters, digits and ._-:[] (give the port a name)`}},
		{"octal", twoPorts + "engine: {connections: 0100000}\n", []string{`2:23: engine.connections: want a number in decimal digits, found "0100000"`}},
		{"huge", twoPorts + "engine: {connections: 99999999999999999999}\n", []string{"2:23: engine.connections: 99999999999999999999 is out of range"}},
		{"underscores", twoPorts + "engine: {connections: 1_000_000}\n", []string{"2:23: engine.connections: want a number in decimal digits"}},
		{"flag", twoPorts + "engine: {host-port: yes}\n", []string{`2:21: engine.host-port: want true or false, found "yes"`}},
		{"cores", twoPorts + "engine: {cores: 5}\n", []string{`2:17: engine.cores: want a list of numbers, or auto, found "5"`}},
		{"core", twoPorts + "engine: {cores: [1, x]}\n", []string{`2:21: engine.cores[1]: want a number in decimal digits, found "x"`}},
		{"too few cores", twoPorts + "engine: {cores: [1], workers: 2, polling: busy}\n", []string{"2:31: engine.workers: 2 workers on 1 cores cannot all poll busily"}},
		{"too few frames", twoPorts + "engine: {frames: 1000}\n", []string{"2:18: engine.frames: 1000 frames do not fill the rings: 2 queues with ring-size 512 need at least 1024"}},
		{"fine duration", twoPorts + "timeouts: {udp: 1500us}\n", []string{"2:17: timeouts.udp: 1500us is finer than 1ms"}},
		{"socket length", twoPorts + "control: {socket: /" + strings.Repeat("x", 107) + "}\n", []string{"2:19: control.socket: the path has 108 bytes"}},
		{"IPv6 in brackets", vs("[2001:db8::1]:80"), []string{"4:"}},
		{"IPv6 as a list", vs("[2001:db8::1]"), []string{"4:48: virtual-servers[0].address: want address: ip:ports, [ip]:ports or prefix:ports; ports with commas, ranges, or any, found a list (an IPv6 address in brackets is written in quotes)"}},
		{"IPv4 in IPv6", vs(`"[::ffff:10.0.0.1]:80"`), []string{"4:48: virtual-servers[0].address: ::ffff:10.0.0.1 is an IPv4 address in IPv6 form (write 10.0.0.1)"}},
		{"zone", vs(`"[fe80::1%eth0]:80"`), []string{"4:48: virtual-servers[0].address: fe80::1%eth0 has a zone"}},
		{"family", vs(`"[2001:db8::1]:80"`), []string{`4:36: virtual-servers[0].pool: virtual server "v" ([2001:db8::1]:80) is IPv6, and member "192.168.20.1" of pool "p" (line 2) is IPv4`}},
		{"no port", vs("10.0.0.1"), []string{"4:48: virtual-servers[0].address: the port is missing (such as 10.0.0.1:80)"}},
		{"port 0", vs("10.0.0.1:0"), []string{"4:48: virtual-servers[0].address: port 0 cannot be used"}},
		{"port range", vs("10.0.0.1:90-80"), []string{`4:57: virtual-servers[0].address: ports 90-80 are not a range (first-last, such as 8000-8999)`}},
		{"port list", vs(`"10.0.0.1:80,x"`), []string{`4:61: virtual-servers[0].address: "x" is not a port; want 1 to 65535 (or a range`}},
		{"each port of a list", vs(`"10.0.0.1:80,5-3,99999,0"`), []string{`4:61: virtual-servers[0].address: ports 5-3 are not a range`, `4:65: virtual-servers[0].address: "99999" is not a port`, `4:71: virtual-servers[0].address: "0" is not a port`}},
		{"each range that overlaps", two("address: 10.1.0.0/16:80-90", `address: "10.1.0.0/16:70-85,95,88-99", addresses: ["10.1.0.0/16:1-80"]`),
			[]string{"5:48: virtual-servers[1].address: tcp 10.1.0.0/16:70-85 overlaps", "5:48: virtual-servers[1].address: tcp 10.1.0.0/16:88-99", "5:90: virtual-servers[1].addresses[0]: tcp 10.1.0.0/16:1-80 overlaps"}},
		{"port twice", vs(`"10.0.0.1:80,443,80"`), []string{`4:48: virtual-servers[0].address: tcp 10.0.0.1:80 is given twice, first as 10.0.0.1:80 in line 4`}},
		{"ranges overlap", vs(`"10.0.0.1:80-90,85-99"`), []string{`4:48: virtual-servers[0].address: tcp 10.0.0.1:85-99 is given twice, first as 10.0.0.1:80-90 in line 4`}},
		{"prefix without a port", vs("10.0.0.0/8"), []string{"4:48: virtual-servers[0].address: the port is missing (such as 10.0.0.0/8:any)"}},
		{"IPv6 prefix without brackets", vs(`"2001:db8::/32:80"`), []string{"4:48: virtual-servers[0].address: want ip:port, found \"2001:db8::/32:80\" (an IPv6 address or prefix is written in brackets"}},
		{"prefix with host bits", vs("10.1.2.3/8:80"), []string{"4:48: virtual-servers[0].address: 10.1.2.3/8 has bits set beyond its length (the network is 10.0.0.0/8)"}},
		{"prefix of one address", vs("10.1.2.3/32:80"), []string{"4:48: virtual-servers[0].address: 10.1.2.3/32 is one address (write 10.1.2.3 without the length)"}},
		{"multicast prefix", vs("224.0.0.0/4:80"), []string{"4:48: virtual-servers[0].address: 224.0.0.0/4 holds no address of one machine"}},
		{"prefix twice", two("address: 10.1.0.0/16:80", "address: 10.1.0.0/16:80"), []string{`5:48: virtual-servers[1].address: tcp 10.1.0.0/16:80 is already virtual server "a", in line 4`}},
		{"ranges of two overlap", two(`address: 10.1.0.0/16:80-90`, `addresses: ["10.1.0.0/16:90-91"]`),
			[]string{`5:51: virtual-servers[1].addresses[0]: tcp 10.1.0.0/16:90-91 overlaps 10.1.0.0/16:80-90 of virtual server "a", in line 4`}},
		{"any twice", two("address: 10.1.0.0/16:any", "address: 10.1.0.0/16:1-65535"), []string{`5:48: virtual-servers[1].address: tcp 10.1.0.0/16:any is already virtual server "a", in line 4`}},
		{"prefix with two fates", two("address: 10.1.0.0/16:80", "address: 10.1.0.0/16:81, unmatched: host"), []string{"5:75: virtual-servers[1].unmatched: unmatched is host here and drop in"}},
		{"two families", two(`address: 10.1.0.0/16:80, addresses: ["[2001:db8::]/32:80"]`, "address: 10.0.0.1:80"), []string{`4:76: virtual-servers[0].addresses[0]: want ip:port, found "[2001:db8::]/32:80"`}},
		{"an address of two families", two(`address: 10.1.0.0/16:80, addresses: ["[2001:db8::/32]:80"]`, "address: 10.0.0.1:80"), []string{"4:76: virtual-servers[0].addresses[0]: [2001:db8::/32]:80 is IPv6, and 10.1.0.0/16:80 is IPv4: a virtual server has one family"}},
		{"port too large", vs("10.0.0.1:65536"), []string{`4:48: virtual-servers[0].address: "65536" is not a port`}},
		{"unspecified", vs("0.0.0.0:80"), []string{"4:48: virtual-servers[0].address: a virtual server cannot have the unspecified address"}},
		{"this network", vs("0.1.2.3:80"), []string{"4:48: virtual-servers[0].address: a virtual server cannot have an address of 0.0.0.0/8"}},
		{"loopback", vs("127.0.0.1:80"), []string{"4:48: virtual-servers[0].address: a virtual server cannot have a loopback address"}},
		{"broadcast", vs("255.255.255.255:80"), []string{"4:48: virtual-servers[0].address: a virtual server cannot have the broadcast address"}},
		{"link-local", vs("169.254.1.1:80"), []string{"4:48: virtual-servers[0].address: a virtual server cannot have a link-local address"}},
		{"member is virtual", vs("192.168.20.1:80"), []string{`2:39: pools[0].members[0].address: 192.168.20.1 is the address of virtual server "v" (line 4)`}},
		{"subnet broadcast", strings.ReplaceAll(vs("172.16.10.255:80"), "eth1", "eth1, addresses: [172.16.10.1/24]"),
			[]string{"4:48: virtual-servers[0].address: 172.16.10.255 is the broadcast address of a port's network"}},
		{"unmatched differs", two("address: 10.0.0.1:80", "address: 10.0.0.1:81, unmatched: host"),
			[]string{`5:72: virtual-servers[1].unmatched: unmatched is host here and drop in virtual server "a" (line 4), which has the same address 10.0.0.1`}},
		{"unmatched without answers", "engine: {icmp-rate: 0}\n" + vs("10.0.0.1:80, unmatched: reset"),
			[]string{"5:72: virtual-servers[0].unmatched: the engine answers nothing with engine.icmp-rate 0; allow some, or write drop or host"}},
		{"port differs", two("address: 10.0.0.1:80", "address: 10.0.0.1:81, port: eth2"), []string{"5:67: virtual-servers[1].port: port is eth2 here and eth1 in"}},
		{"handling differs", two("address: 10.0.0.1:80", "address: 10.0.0.1:81, address-handling: external"),
			[]string{"5:79: virtual-servers[1].address-handling: address-handling is external here and managed in"}},
		{"mid-stream and SCTP", strings.Replace(vs("10.0.0.1:80, mid-stream: adopt"), "tcp", "sctp", 1), []string{"4:74: virtual-servers[0].mid-stream: an SCTP association"}},
		{"one-packet and SCTP", strings.Replace(vs("10.0.0.1:80, one-packet: true"), "tcp", "sctp", 1), []string{"4:74: virtual-servers[0].one-packet: SCTP has associations"}},
		{"reset-on-expiry and SCTP", strings.Replace(vs("10.0.0.1:80, reset-on-expiry: true"), "tcp", "sctp", 1), []string{"4:79: virtual-servers[0].reset-on-expiry: an SCTP association"}},
		{"TCP and UDP", two("address: 10.0.0.1:80", "address: 10.0.0.1:80, <<: {mode: nat}"), []string{`5:48: virtual-servers[1].address: tcp 10.0.0.1:80 is already virtual server "a", in line 4`}},
		{"members alike", strings.ReplaceAll(vs("10.0.0.1:80"), "{address: 192.168.20.1}", "{address: 192.168.20.1}, {address: 192.168.20.1:80}"),
			[]string{`4:36: virtual-servers[0].pool: with port 80, member "192.168.20.1:80" of pool "p" (line 2) is the same as one without a port`}},
		{"member name twice", twoPorts + "pools: [{name: p, members: [{name: a, address: 10.0.0.1}, {name: a, address: 10.0.0.2}]}]\n",
			[]string{"2:66: pools[0].members[1].name: member a is already in line 2"}},
		{"neighbour twice", twoPorts + "neighbours:\n  - &n {address: 10.0.0.1, mac: 02:00:00:00:00:01, port: eth1}\n  - *n\n",
			[]string{"3:18: neighbours[1].address: 10.0.0.1 on this port is already in line 3"}},
		{"route family", twoPorts + "routes: [{prefix: 10.0.0.0/8, via: 2001:db8::1}]\n", []string{"2:36: routes[0].via: 2001:db8::1 is IPv6, and prefix 10.0.0.0/8 is IPv4"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f", []byte(c.text))
			var got Errors
			if err != nil && !errors.As(err, &got) {
				t.Fatalf("not an Errors: %v", err)
			}
			if len(got) != len(c.want) {
				t.Fatalf("%d problems, want %d:\n%v", len(got), len(c.want), err)
			}
			for i, e := range got {
				if !strings.HasPrefix(e.Error(), "f:"+c.want[i]) {
					t.Errorf("got  %s\nwant f:%s", e, c.want[i])
				}
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	vs := "virtual-servers: [{name: v, protocol: tcp, pool: p, address: 10.0.0.1:80}]\n"
	pool := "pools: [{name: p, members: [{address: 192.168.20.1}]}]\n"
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"none", twoPorts + pool + vs, nil},
		{"nothing to do", twoPorts, []string{"1:1: virtual-servers: no virtual server"}},
		{"pool not used", twoPorts + "pools: [{name: p, members: [{address: 192.168.20.1}]}, {name: q, members: [{address: 192.168.20.1}]}]\n" + vs,
			[]string{`2:56: pools[1]: no virtual server uses pool "q"`}},
		{"all weights 0", twoPorts + "pools: [{name: p, members: [{address: 192.168.20.1, weight: 0}]}]\n" + vs, []string{"2:9: pools[0]: all members have weight 0"}},
		{"weights not used", twoPorts + "pools: [{name: p, members: [{address: 192.168.20.1, weight: 2}]}]\n" + vs, []string{"2:61: pools[0].members[0].weight: scheduler round-robin does not look at weights"}},
		{"metrics for all", twoPorts + pool + vs + "control: {metrics: 0.0.0.0:9090}\n", []string{"4:20: control.metrics: metrics are served on 0.0.0.0:9090"}},
		{"cores shared", twoPorts + pool + vs + "engine: {cores: [1], workers: 3}\n", []string{"4:31: engine.workers: 3 workers share 1 cores"}},
		{"unanswered", twoPorts + pool + vs + "timeouts: {udp: 1s}\n", []string{"4:1: timeouts.udp-unanswered: longer than udp"}},
		{"timeout of another protocol", twoPorts + pool + strings.Replace(vs, "pool: p", "pool: p, timeouts: {udp: 1s}", 1),
			[]string{"3:69: virtual-servers[0].timeouts.udp: has no effect: the virtual server's protocol is tcp"}},
		{"timeouts of other protocols for sctp", twoPorts + pool + strings.NewReplacer("tcp", "sctp", "pool: p", "pool: p, timeouts: {sctp-init: 1s, tcp-closed: 1s}").Replace(vs),
			[]string{"3:92: virtual-servers[0].timeouts.tcp-closed: has no effect: the virtual server's protocol is sctp"}},
		{"own address", "ports: [{interface: eth1, addresses: [10.0.0.1/24]}]\n" + pool + vs, []string{`3:62: virtual-servers[0].address: 10.0.0.1 is the own address of port "eth1"`}},
		{"route to nowhere", "ports: [{interface: eth1, addresses: [10.0.1.1/24]}]\nroutes: [{prefix: 0.0.0.0/0, via: 10.0.2.1}]\n" + pool + vs,
			[]string{"2:35: routes[0].via: 10.0.2.1 is on no port's network"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Parse("f", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			got := f.Warnings()
			if len(got) != len(c.want) {
				t.Fatalf("got %q, want %q", got, c.want)
			}
			for i, w := range got {
				if !strings.HasPrefix(w, "f:"+c.want[i]) {
					t.Errorf("got  %s\nwant f:%s", w, c.want[i])
				}
			}
		})
	}
}
