package ctl

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/ctl/monitor"
	"sluice/flow"
)

// init registers -update unless another test file of this package has, which it then shares.
func init() {
	if flag.Lookup("update") == nil {
		flag.Bool("update", false, "rewrite the expected results")
	}
}

func updating() bool { return flag.Lookup("update").Value.String() == "true" }

func TestExample(t *testing.T) {
	f, err := Load("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	mac := func(s string) net.HardwareAddr { m, _ := net.ParseMAC(s); return m }
	end, addr := netip.MustParseAddrPort, netip.MustParseAddr
	times := Timeouts{30 * time.Second, time.Hour, 2 * time.Minute, 2 * time.Second, time.Minute, 5 * time.Second, 10 * time.Second, 10 * time.Minute, 30 * time.Second, time.Hour, 30 * time.Second, 2 * time.Second}
	dns := times
	dns.UDP = 10 * time.Second
	sctp := times
	sctp.SCTPEstablished = 5 * time.Minute
	ping, banner, page := monitor.Default(monitor.ICMP), monitor.Default(monitor.TCP), monitor.Default(monitor.HTTPS)
	echo, zone, script := monitor.Default(monitor.UDP), monitor.Default(monitor.DNS), monitor.Default(monitor.Exec)
	ping.Name, ping.Path = "ping", monitor.Path{Source4: addr("192.168.20.254"), Source6: addr("fd00:192:168:20::254"), Interface: "eth2"}
	banner.Name, banner.Port, banner.TCP.Expect = "banner", 22, "SSH-2.0"
	page.Name, page.Port = "page", 443
	page.HTTP.Path, page.HTTP.Host, page.HTTP.Headers = "/health", "www.example.org", []monitor.Header{{Name: "X-Check", Value: "sluice"}}
	page.HTTP.Status, page.HTTP.Pattern = []monitor.StatusRange{{First: 200, Last: 299}, {First: 304, Last: 304}}, "status=ready"
	page.TLS = monitor.TLSOptions{CAFile: "/etc/sluice/ca.pem", ServerName: "www.example.org", CertFile: "/etc/sluice/c.pem", KeyFile: "/etc/sluice/c.key"}
	echo.Name, echo.Port, echo.UDP.Send, echo.UDP.Expect = "echo", 7, "ping\r\n", "ping"
	zone.Name, zone.Port, zone.DNS.Name, zone.DNS.Answer = "zone", 53, "www.example.org", addr("192.0.2.1")
	script.Name, script.Exec = "script", monitor.ExecOptions{Argv: []string{"/usr/local/bin/check", "--fast"}, Env: []string{"LANG=C"}}
	plainTunnel := Tunnel{Encapsulation: IPIP, Port: 6080, DF: DFCopy, Checksum: TunnelChecksumAuto}
	want := &File{
		Name: "testdata/example.yaml",
		Engine: Engine{
			Driver: DriverXSK, Mode: BindAuto, Workers: 2, Cores: []int{1, 2}, Polling: PollingAdaptive,
			BusyPoll: BusyPoll{false, 20 * time.Microsecond, 64}, Connections: 262144, FrameSize: 2048, RingSize: 512,
			TxBudget: 64, HoldTime: 10 * time.Second, AfterHold: AfterHoldPass, ClientEnd: ClientEndAddressPort, Steering: SteeringAuto,
			HostPort: true, HugePages: HugePagesAuto, OutOfWindow: OutOfWindowForward, SourcePrefix4: 32, SourcePrefix6: 64, ICMPRate: 1000,
			KeepConnections: true,
		},
		Timeouts: times,
		Control: Control{Socket: "/run/sluice/sluice.sock", Group: "sluice", AdminGroup: "adm", Listen: end("192.168.20.254:8443"), Metrics: end("127.0.0.1:9090"),
			TLS: ControlTLS{"/etc/sluice/api.crt", "/etc/sluice/api.key", "/etc/sluice/clients.crt", []string{"ops.example.org"}}},
		Log: Log{LogInfo, LogText},
		Ports: []Port{
			{"outside", "eth1", 0, mac("02:00:00:00:01:01"), []netip.Prefix{netip.MustParsePrefix("172.16.10.1/24")},
				[]VLAN{{"red", 10, 0, "eth1.10", mac("02:00:00:00:01:0a"), []netip.Prefix{netip.MustParsePrefix("172.16.11.1/24")}}}, ChecksumAuto, JumboAuto},
			{"inside", "eth2", 0, mac("02:00:00:00:01:02"), []netip.Prefix{netip.MustParsePrefix("192.168.20.254/24")}, nil, ChecksumAuto, JumboAuto},
		},
		Neighbours: []Neighbour{{addr("192.168.20.1"), mac("02:00:00:00:14:01"), "inside"}},
		Routes:     []Route{{netip.MustParsePrefix("0.0.0.0/0"), addr("172.16.10.55")}},
		Monitors:   []monitor.Monitor{ping, banner, page, echo, zone, script},
		SNATPools:  []SNATPool{{Name: "out", Addresses: []netip.Addr{addr("192.168.20.200"), addr("192.168.20.201")}, Ports: flow.PortRange{First: 1024, Last: 65535}, Port: "inside", AddressHandling: AddressManaged}},
		Pools: []Pool{
			{Name: "web", Scheduler: RoundRobin, Hash: Hash{false, 32, 128}, HalfLife: 2 * time.Second, MinimumActive: 1, Members: []Member{
				{Name: "s1", Address: end("192.168.20.1:80"), Weight: 1}, {Name: "s2", Address: end("192.168.20.2:80"), Weight: 1},
				{Name: "s3", Address: end("192.168.20.3:8080"), Weight: 1}, {Name: "s4", Address: end("192.168.20.4:80"), Weight: 0, SNAT: "out"},
			}, Monitors: []string{"ping", "banner", "page", "echo", "script"}, Passive: monitor.DefaultPassive(), AllDown: AllDown{Policy: AllDownDrop},
				OnDown: OnDownKeep, StartUp: StartUpUp, Tunnel: plainTunnel},
			{Name: "resolvers", Scheduler: WeightedRoundRobin, Hash: Hash{false, 32, 128}, HalfLife: 2 * time.Second, MinimumActive: 1, Members: []Member{
				{Name: "192.168.20.1", Address: netip.AddrPortFrom(addr("192.168.20.1"), 0), Weight: 3},
				{Name: "192.168.20.2", Address: netip.AddrPortFrom(addr("192.168.20.2"), 0), Weight: 1},
			}, Monitors: []string{"zone"}, MonitorsNeeded: monitor.Any, AllDown: AllDown{AllDownPool, "spare"}, OnDown: OnDownKeep, StartUp: StartUpChecking, Tunnel: plainTunnel},
			{Name: "spare", Scheduler: RoundRobin, Hash: Hash{false, 32, 128}, HalfLife: 2 * time.Second, MinimumActive: 1, Members: []Member{
				{Name: "r3", Address: netip.AddrPortFrom(addr("192.168.20.3"), 0), Weight: 1},
			}, AllDown: AllDown{Policy: AllDownDrop}, OnDown: OnDownKeep, StartUp: StartUpUp, Tunnel: plainTunnel},
			{Name: "far", Scheduler: RoundRobin, Hash: Hash{false, 32, 128}, HalfLife: 2 * time.Second, MinimumActive: 1, Members: []Member{
				{Name: "f1", Address: netip.AddrPortFrom(addr("192.168.20.9"), 0), Weight: 1},
			}, AllDown: AllDown{Policy: AllDownDrop}, OnDown: OnDownKeep, StartUp: StartUpUp,
				Tunnel: Tunnel{Encapsulation: GUE, Port: 6080, Sources: []netip.Addr{addr("192.168.20.254")}, DF: DFCopy, Checksum: TunnelChecksumAuto}},
		},
		Persistences: []Persistence{{Name: "shop", Type: SourceAddress, Prefix4: 32, Prefix6: 128, Timeout: 5 * time.Minute, Entries: 65536,
			EntriesFull: EntriesEvict, OnDown: MemberMove, OnFull: MemberMove, OnDrain: DrainPlace, LowerPriority: LowerReturn}},
		VirtualServers: []VirtualServer{
			{Name: "web", Address: end("10.10.1.100:80"), Protocol: TCP, Pool: "web", Mode: ModeNAT, Port: "outside", AddressHandling: AddressManaged,
				Unmatched: UnmatchedDrop, Echo: EchoKernel, Timeouts: times, MidStream: MidStreamDrop, Refused: RefusedDrop, TableFull: TableFullRefuse, SNAT: "out", Hairpin: HairpinSNAT, Persistence: "shop"},
			{Name: "dns", Address: end("10.10.1.100:53"), Protocol: UDP, Pool: "resolvers", Mode: ModeNAT, Port: "outside", AddressHandling: AddressManaged,
				Unmatched: UnmatchedDrop, Echo: EchoKernel, Timeouts: dns, MidStream: MidStreamDrop, Refused: RefusedDrop, TableFull: TableFullRefuse, Hairpin: HairpinRefuse},
			{Name: "signalling", Address: end("10.10.1.100:2905"), Protocol: SCTP, Pool: "resolvers", Mode: ModeNAT, Port: "outside", AddressHandling: AddressManaged,
				Unmatched: UnmatchedDrop, Echo: EchoKernel, Timeouts: sctp, MidStream: MidStreamDrop, Refused: RefusedDrop, TableFull: TableFullRefuse, Hairpin: HairpinRefuse},
			{Name: "edge", Address: end("10.10.1.101:443"), Protocol: TCP, Pool: "far", Mode: ModeTunnel, Port: "outside", AddressHandling: AddressManaged,
				Unmatched: UnmatchedDrop, Echo: EchoKernel, Timeouts: times, MidStream: MidStreamDrop, Refused: RefusedDrop, TableFull: TableFullRefuse, Hairpin: HairpinForward},
		},
	}
	for i, texts := range [][]string{{"10.10.1.100:80"}, {"10.10.1.100:53"}, {"10.10.1.100:2905", "10.10.1.101:2905,2910-2919", "10.20.0.0/16:2905"}, {"10.10.1.101:443"}} {
		v := &want.VirtualServers[i]
		for j, text := range texts {
			e, err := parseEnds(text)
			if err != nil {
				t.Fatal(err)
			}
			if j == 0 {
				v.ends = e
			} else {
				v.moreEnds = append(v.moreEnds, e)
			}
		}
		address := v.Address
		v.completeEnds()
		if v.Address != address {
			t.Errorf("%s begins at %s, want %s", v.Name, v.Address, address)
		}
	}
	last := &want.VirtualServers[2]
	last.Allow, last.Deny, last.SourceRate, last.Withdraw = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}, []netip.Prefix{netip.MustParsePrefix("172.16.66.0/24")}, 20, true
	last.Hook = []string{"/usr/local/bin/tell-routers", "--fast"}
	if got := fmt.Sprint(f.VirtualServers[2].Destinations); got != "[10.10.1.100:2905 10.10.1.101:2905 10.10.1.101:2910-2919 10.20.0.0/16:2905]" {
		t.Error(got)
	}
	if w := f.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	if line, column := f.Position("virtual-servers[1].pool"); line != 188 || column != 11 {
		t.Errorf("virtual-servers[1].pool at %d:%d", line, column)
	}
	if line, column := f.Position("virtual-servers[1].unmatched"); line != 185 || column != 5 {
		t.Errorf("a key that is not written is at %d:%d, want the entry around it", line, column)
	}
	if f.Pool("resolvers") != &f.Pools[1] || f.Port("inside") != &f.Ports[1] || f.VirtualServer("dns") != &f.VirtualServers[1] || f.Pool("x") != nil {
		t.Error("finding by name")
	}
	if got := f.Pools[1].Members[0].Target(53); got != end("192.168.20.1:53") {
		t.Errorf("target without a port: %s", got)
	}
	if got := f.Pools[0].Members[2].Target(80); got != end("192.168.20.3:8080") {
		t.Errorf("target with a port: %s", got)
	}
	f.where, f.warnings = nil, nil
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got  %+v\nwant %+v", f, want)
	}
}

// The example writes every key with its default, so a file without them must come out the same.
func TestDefaults(t *testing.T) {
	full, err := Load("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := Load("testdata/minimal.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := full.Engine
	want.Workers, want.Cores = 0, nil
	if !reflect.DeepEqual(f.Engine, want) {
		t.Errorf("engine: got %+v, want %+v", f.Engine, want)
	}
	if f.Timeouts != full.Timeouts || f.Log != full.Log || f.Control.Socket != full.Control.Socket {
		t.Errorf("got %+v %+v %+v", f.Timeouts, f.Log, f.Control)
	}
	if f.Control.Metrics.IsValid() {
		t.Errorf("metrics are on: %s", f.Control.Metrics)
	}
	if p := f.Ports[0]; p.Name != "eth1" || p.Queues != 0 || p.MAC != nil || p.Addresses != nil {
		t.Errorf("port: %+v", p)
	}
}

func TestAnchors(t *testing.T) {
	f, err := Load("testdata/ipv6.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if w := f.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	m := f.Pools[0].Members
	if m[0].Name != "[2001:db8:20::1]:8080" || m[1].Name != "2001:db8:20::2" || m[1].Address.Port() != 0 || m[1].Weight != 1 {
		t.Errorf("members %+v", m)
	}
	v := f.VirtualServers
	if v[1].Name != "web6-tls" || v[1].Pool != "web6" || v[1].Address.Port() != 443 {
		t.Errorf("merged: %+v", v[1])
	}
	for i := range v {
		if got := v[i].Timeouts; got.TCPEstablished != 10*time.Minute || got.UDP != time.Minute {
			t.Errorf("%s: timeouts %+v", v[i].Name, got)
		}
	}
	if v[0].Port != "eth1" || v[2].Port != "eth2" {
		t.Errorf("ports %s %s", v[0].Port, v[2].Port)
	}
}

// broken.yaml has its expected problems in comments at its end.
func TestBroken(t *testing.T) {
	const path, mark = "testdata/broken.yaml", "# want "
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var text, want, got []string
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, mark); ok {
			want = append(want, strings.TrimSpace(rest))
		} else {
			text = append(text, line)
		}
	}
	_, err = Parse("broken.yaml", data)
	var all Errors
	if !errors.As(err, &all) {
		t.Fatalf("got %v", err)
	}
	for _, e := range all {
		got = append(got, strings.TrimPrefix(e.Error(), "broken.yaml:"))
	}
	if updating() {
		out := strings.Join(text, "") + mark + strings.Join(got, "\n"+mark) + "\n"
		if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("missing: %s", w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("not expected: %s", g)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	if _, err := Load("testdata/absent.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if _, err := Load("testdata"); err == nil {
		t.Error("a directory was loaded")
	}
	_, err := Load("/dev/zero")
	if err == nil || !strings.Contains(err.Error(), "larger than 16 MiB") {
		t.Errorf("endless: %v", err)
	}
}

func TestErrorForm(t *testing.T) {
	_, err := Parse("sluice.yaml", []byte("ports:\n- interface: eth1\n  queues: 0\n"))
	var e *Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	if got, want := err.Error(), "sluice.yaml:3:11: ports[0].queues: 0 is out of range: 1 to 1024"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := e.Excerpt(), "  3 |   queues: 0\n    |           ^"; got != want {
		t.Errorf("excerpt:\n%s\nwant\n%s", got, want)
	}
	if got, want := (&Error{Line: 1, Column: 3, Source: "a\tb"}).Excerpt(), "  1 | a\tb\n    |  \t^"; got != want {
		t.Errorf("a tab in the line: %q, want %q", got, want)
	}
	if got := (&Error{File: "f", Message: "m"}).Error(); got != "f: m" {
		t.Errorf("without a place: %s", got)
	}
	if got := (&Error{Line: 1, Column: 9, Source: "abc"}).Excerpt(); got != "" {
		t.Errorf("beyond the line: %q", got)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"web", "round-robin", "busy-poll", "outside", "inside"}
	for written, want := range map[string]string{
		"wbe": "web", "Web": "web", "we": "", "busy_poll": "busy-poll", "roundrobin": "round-robin",
		"outsdie": "outside", "insid": "inside", "database": "", "": "", strings.Repeat("x", 1000): "",
	} {
		if got := nearest(written, names); got != want {
			t.Errorf("%q: got %q, want %q", written, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "ab", 2}, {"ab", "", 2}, {"ab", "ba", 1}, {"kitten", "sitting", 3}, {"abcd", "acbd", 1}} {
		if got := edits(c.a, c.b); got != c.want {
			t.Errorf("edits(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
