package rings

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
)

// classifier runs the program on single frames and says how it counted them.
type classifier struct {
	*Program
	last ProgramCounters
	same *Classifier // with the same rules: it must decide the same
}

func newClassifier(t testing.TB, cfg ProgramConfig) *classifier {
	t.Helper()
	if cfg.HoldTime == 0 {
		cfg.HoldTime = time.Hour
	}
	cfg.Interface, cfg.Queues = "none", 1
	p, err := loadProgram(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.release() })
	p.Beat(monotonicNow())
	same, err := NewClassifier(cfg.Rules)
	if err != nil {
		t.Fatal(err)
	}
	return &classifier{Program: p, same: same}
}

// SetRules gives both the new rules.
func (c *classifier) SetRules(r Rules) error {
	if err := c.Program.SetRules(r); err != nil {
		return err
	}
	same, err := NewClassifier(r)
	if err == nil {
		c.same = same
	}
	return err
}

func (c *classifier) run(t testing.TB, frame []byte) string {
	t.Helper()
	action, err := c.objs.SluiceClassify.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		t.Fatalf("%d bytes: %v", len(frame), err)
	}
	now, err := c.Counters()
	if err != nil {
		t.Fatal(err)
	}
	was := c.last
	c.last = now
	for _, o := range []struct {
		name     string
		was, now uint64
		action   uint32
	}{
		{"pass", was.Passed, now.Passed, 2},
		{"redirect", was.Redirected, now.Redirected, 4},
		{"held", was.Held, now.Held, 1},
		{"wildcard pass", was.WildcardPassed, now.WildcardPassed, 2},
		{"after hold pass", was.AfterHoldPassed, now.AfterHoldPassed, 2},
		{"after hold drop", was.AfterHoldDropped, now.AfterHoldDropped, 1},
		{"malformed", was.MalformedPassed, now.MalformedPassed, 2},
	} {
		if o.now == o.was+1 {
			if action != o.action {
				t.Errorf("counted as %s, but the action is %d", o.name, action)
			}
			if a := c.same.Classify(frame); !sameAction(a, o.name) {
				t.Errorf("the program: %s, Classify: %s, frame %x", o.name, a, frame)
			}
			return o.name
		}
	}
	t.Fatalf("no counter moved; action %d", action)
	return ""
}

const verdictOurs, verdictPass = "held", "pass"

// sameAction compares what Classify says with how the program counted; what is ours depends on sockets and the
// heartbeat there.
func sameAction(a Action, counted string) bool {
	switch counted {
	case "pass":
		return a == ActionPass
	case "malformed":
		return a == ActionMalformed
	case "wildcard pass":
		return a == ActionWildcard
	case "held", "after hold drop":
		return a == ActionEngine
	}
	return a.Ours()
}

func TestClassifyOrder(t *testing.T) {
	needBPF(t)
	c := newClassifier(t, ProgramConfig{Rules: testRules(false)})
	w := newClassifier(t, ProgramConfig{Rules: testRules(true)})
	client, web := "172.16.10.55", "10.10.1.100"
	q, ad := layers.EthernetTypeDot1Q, layers.EthernetTypeQinQ
	for _, tt := range []struct {
		name string
		p    testPacket
		want string // of the wildcard's program too, unless nobody's
		any  bool   // nobody's: the wildcard takes it
	}{
		{name: "1 broadcast", p: testPacket{mac: 0xff, src: client, dst: web, proto: protoTCP, dport: 80}, want: verdictPass},
		{name: "1 multicast MAC", p: testPacket{mac: 0x33, src: client, dst: web, proto: protoTCP, dport: 80}, want: verdictPass},

		{name: "2 server", p: testPacket{src: client, dst: web, proto: protoTCP, dport: 80}, want: verdictOurs},
		{name: "2 one tag", p: testPacket{src: client, dst: web, proto: protoTCP, dport: 80, tags: []layers.EthernetType{q}}, want: verdictOurs},
		{name: "2 two tags", p: testPacket{src: client, dst: web, proto: protoTCP, dport: 80, tags: []layers.EthernetType{ad, q}}, want: verdictOurs},
		{name: "2 three tags", p: testPacket{src: client, dst: web, proto: protoTCP, dport: 80, tags: []layers.EthernetType{ad, q, q}}, want: verdictPass},
		{name: "2 unmatched port is the engine's", p: testPacket{src: client, dst: web, proto: protoTCP, dport: 81}, want: verdictOurs},
		{name: "2 unmatched protocol is the engine's", p: testPacket{src: client, dst: web, proto: protoGRE}, want: verdictOurs},
		{name: "2 ICMP is the kernel's", p: testPacket{src: client, dst: web, proto: protoICMP, icmp: 8}, want: verdictPass},
		{name: "2 ICMP fragment is the kernel's", p: testPacket{src: client, dst: web, proto: protoICMP, fragment: true, offset: 90}, want: verdictPass},
		{name: "2 ICMP of a member is the kernel's", p: testPacket{src: "192.168.20.2", dst: web, proto: protoICMP, icmp: 8}, want: verdictPass},
		{name: "2 ICMP error is the engine's", p: testPacket{src: client, dst: web, proto: protoICMP, icmp: 3}, want: verdictOurs},
		{name: "2 redirect is the kernel's", p: testPacket{src: client, dst: web, proto: protoICMP, icmp: 5}, want: verdictPass},
		{name: "5 ICMP error of a router about a packet to a member", p: testPacket{src: "192.168.21.1", dst: client, proto: protoICMP, icmp: 3, quoted: "192.168.20.1"}, want: verdictOurs},
		{name: "5 ICMP error of a router about another packet", p: testPacket{src: "192.168.21.1", dst: client, proto: protoICMP, icmp: 3, quoted: "192.168.21.9"}, want: verdictPass, any: true},
		{name: "3 ICMP error about a packet from a SNAT port", p: testPacket{src: "192.168.21.1", dst: "10.10.1.200", proto: protoICMP, icmp: 3, quoted: "192.168.20.9", quotedAs: protoTCP, quotedPort: 40001}, want: verdictOurs},
		{name: "3 ICMP error about a query with a SNAT id", p: testPacket{src: "192.168.21.1", dst: "10.10.1.200", proto: protoICMP, icmp: 3, quoted: "192.168.20.9", quotedAs: protoICMP, quotedPort: 40001}, want: verdictOurs},
		{name: "3 ICMP error about a packet from the host's own port", p: testPacket{src: "192.168.21.1", dst: "10.10.1.200", proto: protoICMP, icmp: 3, quoted: "192.168.20.9", quotedAs: protoTCP, quotedPort: 20000}, want: verdictPass},
		{name: "4 ICMP error to the host about a packet to a far end", p: testPacket{src: "192.168.21.1", dst: "10.10.1.1", proto: protoICMP, icmp: 3, quoted: "192.168.20.2"}, want: verdictOurs},
		{name: "4 ICMP error to a SNAT address about a packet to a far end", p: testPacket{src: "192.168.21.1", dst: "10.10.1.200", proto: protoICMP, icmp: 3, quoted: "192.168.20.2"}, want: verdictOurs},
		{name: "4 no ICMP error, to the host from a far end", p: testPacket{src: "192.168.20.2", dst: "10.10.1.1", proto: protoICMP, icmp: 8}, want: verdictPass},
		{name: "4 ICMP error to the host", p: testPacket{src: "192.168.21.1", dst: "10.10.1.1", proto: protoICMP, icmp: 3, quoted: "192.168.20.1"}, want: verdictPass},
		{name: "2 first fragment", p: testPacket{src: client, dst: web, proto: protoUDP, fragment: true}, want: verdictOurs},
		{name: "2 later fragment", p: testPacket{src: client, dst: web, proto: protoUDP, fragment: true, offset: 90}, want: verdictOurs},

		{name: "2 exact port", p: testPacket{src: client, dst: "10.10.1.101", proto: protoTCP, dport: 80}, want: verdictOurs},
		{name: "2 unmatched port is the host's", p: testPacket{src: client, dst: "10.10.1.101", proto: protoTCP, dport: 81}, want: verdictPass},
		{name: "2 unmatched protocol is the host's", p: testPacket{src: client, dst: "10.10.1.101", proto: protoUDP, dport: 80}, want: verdictPass},
		{name: "2 range first", p: testPacket{src: client, dst: "10.10.1.101", proto: protoUDP, dport: 5000}, want: verdictOurs},
		{name: "2 range last", p: testPacket{src: client, dst: "10.10.1.101", proto: protoUDP, dport: 5010}, want: verdictOurs},
		{name: "2 range after", p: testPacket{src: client, dst: "10.10.1.101", proto: protoUDP, dport: 5011}, want: verdictPass},
		{name: "2 any port", p: testPacket{src: client, dst: "10.10.1.101", proto: protoSCTP, dport: 7}, want: verdictOurs},
		{name: "2 protocol without ports", p: testPacket{src: client, dst: "10.10.1.101", proto: protoGRE}, want: verdictOurs},
		{name: "2 fragment, unmatched host", p: testPacket{src: client, dst: "10.10.1.101", proto: protoUDP, fragment: true, offset: 9}, want: verdictOurs},
		{name: "2 unmatched host before member", p: testPacket{src: "192.168.20.2", dst: "10.10.1.101", proto: protoUDP, dport: 1}, want: verdictPass},
		{name: "2 any protocol", p: testPacket{src: client, dst: "10.10.1.102", proto: protoGRE}, want: verdictOurs},
		{name: "2 any protocol, any port", p: testPacket{src: client, dst: "10.10.1.102", proto: protoUDP, dport: 9}, want: verdictOurs},
		{name: "2 ICMP by flag", p: testPacket{src: client, dst: "10.10.1.102", proto: protoICMP, icmp: 8}, want: verdictOurs},

		{name: "3 first", p: testPacket{src: client, dst: "10.10.1.200", proto: protoTCP, dport: 40000}, want: verdictOurs},
		{name: "3 last", p: testPacket{src: client, dst: "10.10.1.200", proto: protoUDP, dport: 49999}, want: verdictOurs},
		{name: "3 below", p: testPacket{src: client, dst: "10.10.1.200", proto: protoTCP, dport: 39999}, want: verdictPass},
		{name: "3 above", p: testPacket{src: client, dst: "10.10.1.200", proto: protoTCP, dport: 50000}, want: verdictPass},
		{name: "3 no ports", p: testPacket{src: client, dst: "10.10.1.200", proto: protoGRE}, want: verdictPass},
		{name: "3 fragment", p: testPacket{src: client, dst: "10.10.1.200", proto: protoUDP, fragment: true}, want: verdictOurs},
		{name: "3 on a virtual address", p: testPacket{src: client, dst: "10.10.1.103", proto: protoTCP, dport: 20000}, want: verdictOurs},
		{name: "3 on a virtual address, server", p: testPacket{src: client, dst: "10.10.1.103", proto: protoTCP, dport: 443}, want: verdictOurs},
		{name: "3 on a virtual address, neither", p: testPacket{src: client, dst: "10.10.1.103", proto: protoTCP, dport: 30000}, want: verdictPass},

		{name: "4 local", p: testPacket{src: client, dst: "10.10.1.1", proto: protoTCP, dport: 22}, want: verdictPass},
		{name: "4 member to local", p: testPacket{src: "192.168.20.1", sport: 8080, dst: "10.10.1.1", proto: protoTCP, dport: 33000}, want: verdictPass},

		{name: "5 member", p: testPacket{src: "192.168.20.1", sport: 8080, dst: client, proto: protoTCP, dport: 33000}, want: verdictOurs},
		{name: "5 member with tag", p: testPacket{src: "192.168.20.1", sport: 8080, dst: client, proto: protoTCP, tags: []layers.EthernetType{q}}, want: verdictOurs},
		{name: "5 other port", p: testPacket{src: "192.168.20.1", sport: 8081, dst: client, proto: protoTCP}, any: true},
		{name: "5 other protocol", p: testPacket{src: "192.168.20.1", sport: 8080, dst: client, proto: protoUDP}, any: true},
		{name: "5 fragment", p: testPacket{src: "192.168.20.1", dst: client, proto: protoTCP, fragment: true, offset: 5}, want: verdictOurs},
		{name: "5 any protocol", p: testPacket{src: "192.168.20.2", dst: client, proto: protoGRE}, want: verdictOurs},
		{name: "5 any port", p: testPacket{src: "192.168.20.3", sport: 4, dst: client, proto: protoUDP}, want: verdictOurs},

		{name: "7 transit", p: testPacket{src: client, dst: "172.16.99.1", proto: protoTCP, dport: 80}, any: true},
		{name: "7 transit ICMP", p: testPacket{src: client, dst: "172.16.99.1", proto: protoICMP, icmp: 8}, any: true},
		{name: "7 transit fragment", p: testPacket{src: client, dst: "172.16.99.1", proto: protoUDP, fragment: true}, any: true},
	} {
		for _, v6 := range []bool{false, true} {
			p := tt.p
			p.v6 = v6
			frame := p.build(t)
			want, wantWildcard := tt.want, tt.want
			if tt.any {
				want, wantWildcard = verdictPass, "wildcard pass"
			}
			if got := c.run(t, frame); got != want {
				t.Errorf("%s, IPv6 %v: %s, want %s", tt.name, v6, got, want)
			}
			if got := w.run(t, frame); got != wantWildcard {
				t.Errorf("%s, IPv6 %v, with wildcard: %s, want %s", tt.name, v6, got, wantWildcard)
			}
		}
	}
}

// TestClassifyFamilies has the cases that only one family has, with wildcards to show that rule 1 is the first.
func TestClassifyFamilies(t *testing.T) {
	needBPF(t)
	c := newClassifier(t, ProgramConfig{Rules: testRules(true)})
	client, web := "172.16.10.55", "10.10.1.100"
	arp := make([]byte, 60)
	arp[12], arp[13] = 0x08, 0x06
	llc := make([]byte, 60)
	llc[13] = 38
	type c4 = testPacket
	for _, tt := range []struct {
		name  string
		p     testPacket
		frame []byte
		want  string
	}{
		{name: "ARP", frame: arp, want: verdictPass},
		{name: "802.3", frame: llc, want: verdictPass},
		{name: "multicast", p: c4{src: client, dst: "224.0.0.5", proto: protoUDP}, want: verdictPass},
		{name: "limited broadcast", p: c4{src: client, dst: "255.255.255.255", proto: protoUDP}, want: verdictPass},
		{name: "link-local", p: c4{src: client, dst: "169.254.1.1", proto: protoTCP}, want: verdictPass},
		{name: "beside link-local", p: c4{src: client, dst: "169.253.1.1", proto: protoTCP}, want: "wildcard pass"},
		{name: "options", p: c4{src: client, dst: "10.10.1.101", proto: protoTCP, dport: 80, options: 10}, want: verdictOurs},
		{name: "echo reply in the SNAT range", p: c4{src: client, dst: "10.10.1.200", proto: protoICMP, icmp: 0, id: 40001}, want: verdictOurs},
		{name: "echo request in the SNAT range", p: c4{src: client, dst: "10.10.1.200", proto: protoICMP, icmp: 8, id: 40001}, want: verdictPass},
		{name: "ICMPv6 number in IPv4", p: c4{src: client, dst: web, proto: 58}, want: verdictOurs},

		{name: "v6 multicast", p: c4{v6: true, src: client, dst: "ff02::5", proto: protoUDP}, want: verdictPass},
		{name: "v6 link-local", p: c4{v6: true, src: client, dst: "fe80::1", proto: protoTCP}, want: verdictPass},
		{name: "v6 end of link-local", p: c4{v6: true, src: client, dst: "febf::1", proto: protoTCP}, want: verdictPass},
		{name: "v6 beside link-local", p: c4{v6: true, src: client, dst: "fec0::1", proto: protoTCP}, want: "wildcard pass"},
		{name: "v6 mapped address is not the IPv4 one", p: c4{v6: true, src: client, dst: "::ffff:10.10.1.100", proto: protoTCP, dport: 80}, want: "wildcard pass"},
		{name: "v6 echo reply in the SNAT range", p: c4{v6: true, src: client, dst: "10.10.1.200", proto: protoICMP, icmp: 129, id: 40001}, want: verdictOurs},
		{name: "v6 neighbour solicitation", p: c4{v6: true, src: client, dst: "10.10.1.102", proto: protoICMP, icmp: 135}, want: verdictPass},
		{name: "v6 redirect in transit", p: c4{v6: true, src: client, dst: "172.16.99.1", proto: protoICMP, icmp: 137}, want: verdictPass},
		{name: "v6 MLDv2", p: c4{v6: true, src: client, dst: "172.16.99.1", proto: protoICMP, icmp: 143}, want: verdictPass},
		{name: "v6 ICMP 138", p: c4{v6: true, src: client, dst: "10.10.1.102", proto: protoICMP, icmp: 138}, want: verdictOurs},
		{name: "v6 extensions", p: c4{v6: true, src: client, dst: "10.10.1.101", proto: protoTCP, dport: 80, extensions: []uint8{0, 60, 43, 60}}, want: verdictOurs},
		{name: "v6 extensions, unmatched", p: c4{v6: true, src: client, dst: "10.10.1.101", proto: protoTCP, dport: 81, extensions: []uint8{0, 60, 43, 60}}, want: verdictPass},
		{name: "v6 six extensions", p: c4{v6: true, src: client, dst: "10.10.1.101", proto: protoTCP, dport: 81, extensions: []uint8{0, 60, 60, 60, 60, 60}}, want: verdictPass},
		{name: "v6 seven extensions", p: c4{v6: true, src: client, dst: "10.10.1.101", proto: protoTCP, dport: 81, extensions: []uint8{0, 60, 60, 60, 60, 60, 60}}, want: verdictOurs},
		{name: "v6 seven extensions to a local address", p: c4{v6: true, src: client, dst: "10.10.1.1", proto: protoTCP, dport: 81, extensions: []uint8{0, 60, 60, 60, 60, 60, 60}}, want: verdictPass},
		{name: "v6 neighbour solicitation behind extensions", p: c4{v6: true, src: client, dst: "10.10.1.102", proto: protoICMP, icmp: 135, extensions: []uint8{0, 60}}, want: verdictPass},
		{name: "v6 atomic fragment", p: c4{v6: true, src: client, dst: "10.10.1.101", proto: protoTCP, dport: 81, extensions: []uint8{44}}, want: verdictPass},
		{name: "v6 atomic fragment to a server", p: c4{v6: true, src: client, dst: "10.10.1.101", proto: protoTCP, dport: 80, extensions: []uint8{0, 44}}, want: verdictOurs},
		{name: "v6 fragment behind extensions", p: c4{v6: true, src: client, dst: "10.10.1.101", proto: protoTCP, fragment: true, offset: 4, extensions: []uint8{0, 60}}, want: verdictOurs},
	} {
		frame := tt.frame
		if frame == nil {
			frame = tt.p.build(t)
		}
		if got := c.run(t, frame); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestClassifyTruncated cuts frames at every length.
func TestClassifyTruncated(t *testing.T) {
	needBPF(t)
	c := newClassifier(t, ProgramConfig{Rules: testRules(false)})
	for _, tt := range []struct {
		p     testPacket
		ip    int // end of the IP header
		ports int // end of the ports
	}{
		{testPacket{src: "1.2.3.4", dst: "10.10.1.101", proto: protoTCP, dport: 81}, 34, 38},
		{testPacket{src: "1.2.3.4", dst: "10.10.1.101", proto: protoTCP, dport: 81, options: 3}, 46, 50},
		{testPacket{src: "1.2.3.4", dst: "10.10.1.101", proto: protoTCP, dport: 81, tags: []layers.EthernetType{0x88a8, 0x8100}}, 42, 46},
		{testPacket{v6: true, src: "1.2.3.4", dst: "10.10.1.101", proto: protoTCP, dport: 81}, 54, 58},
		{testPacket{v6: true, src: "1.2.3.4", dst: "10.10.1.101", proto: protoTCP, dport: 81, extensions: []uint8{0, 60}}, 54, 82},
	} {
		frame := tt.p.build(t)
		for n := 14; n <= len(frame); n++ {
			want := verdictPass // the host's port
			if n < tt.ip {
				want = "malformed"
			} else if n < tt.ports {
				want = verdictOurs // a virtual address: the engine counts it
			}
			if got := c.run(t, frame[:n:n]); got != want {
				t.Errorf("%+v cut at %d: %s, want %s", tt.p, n, got, want)
			}
		}
	}
	for _, bad := range []byte{0x35, 0x44, 0x65, 0x40} { // version and header length of IPv4
		frame := testPacket{src: "1.2.3.4", dst: "10.10.1.100", proto: protoTCP, dport: 80}.build(t)
		frame[14] = bad
		if got := c.run(t, frame); got != "malformed" {
			t.Errorf("IPv4 header begins with %#x: %s", bad, got)
		}
	}
}

// TestClassifyRandom compares the program with the naive reading of the rules, on random packets between the
// addresses and ports that matter.
func TestClassifyRandom(t *testing.T) {
	needBPF(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, wildcard := range []bool{false, true} {
		rules := testRules(wildcard)
		c := newClassifier(t, ProgramConfig{Rules: rules})
		for range 4000 {
			p := randomPacket(rnd)
			if got, want := c.run(t, p.build(t)), naiveVerdict(rules, p); got != want {
				t.Fatalf("%+v: %s, want %s", p, got, want)
			}
		}
	}
}

func TestClassifyHold(t *testing.T) {
	needBPF(t)
	server := testPacket{src: "1.2.3.4", dst: "10.10.1.100", proto: protoTCP, dport: 80}.build(t)
	transit := testPacket{src: "1.2.3.4", dst: "5.6.7.8", proto: protoTCP, dport: 80}.build(t)
	const hold = 10 * time.Second // what is checked within it takes far less
	ago := func(d time.Duration) uint64 { return monotonicNow() - uint64(d) }
	for _, passes := range []bool{false, true} {
		c := newClassifier(t, ProgramConfig{Rules: testRules(true), HoldTime: hold, AfterHoldPass: passes})
		after := map[bool]string{false: "after hold drop", true: "after hold pass"}[passes]
		region, err := NewRegion(64, 2048, false)
		if err != nil {
			t.Fatal(err)
		}
		defer region.Close()
		check := func(state, wantServer, wantTransit string) {
			t.Helper()
			for range 2 {
				if got := c.run(t, server); got != wantServer {
					t.Errorf("%s: server: %s, want %s", state, got, wantServer)
				}
				if got := c.run(t, transit); got != wantTransit {
					t.Errorf("%s: transit: %s, want %s", state, got, wantTransit)
				}
			}
		}
		c.Beat(monotonicNow())
		check("no socket", "held", "wildcard pass")
		c.Beat(ago(hold * 3 / 4))
		check("no socket, most of the hold is over", "held", "wildcard pass")
		c.Beat(ago(hold - 50*time.Millisecond))
		time.Sleep(100 * time.Millisecond)
		check("no socket, stale", after, "after hold pass")
		c.Beat(monotonicNow() + uint64(time.Second))
		check("beat ahead of the program's clock", "held", "wildcard pass")

		socket := unboundSocket(t, region)
		if err := c.SetSocket(0, socket); err != nil {
			t.Fatal(err)
		}
		check("socket", "redirect", "redirect")
		c.Beat(ago(hold + 50*time.Millisecond))
		check("socket, but workers hang", after, "after hold pass")
		c.Beat(monotonicNow())
		check("workers advance again", "redirect", "redirect")
		if err := c.ClearSocket(0); err != nil {
			t.Fatal(err)
		}
		check("socket cleared", "held", "wildcard pass")
		if err := c.ClearSocket(0); err != nil {
			t.Errorf("clear twice: %v", err)
		}
		if err := c.SetSocket(1, socket); err == nil {
			t.Error("a socket for a queue that is not there")
		}
	}
}

func BenchmarkClassify(b *testing.B) {
	c := newClassifier(b, ProgramConfig{Rules: testRules(false)})
	for _, tt := range []struct {
		name string
		p    testPacket
	}{
		{"server", testPacket{src: "1.2.3.4", dst: "10.10.1.100", proto: protoTCP, dport: 80}},
		{"server6", testPacket{v6: true, src: "1.2.3.4", dst: "10.10.1.100", proto: protoTCP, dport: 80}},
		{"exact", testPacket{src: "1.2.3.4", dst: "10.10.1.101", proto: protoTCP, dport: 80}},
		{"member", testPacket{src: "192.168.20.1", sport: 8080, dst: "1.2.3.4", proto: protoTCP}},
		{"nobody", testPacket{src: "1.2.3.4", dst: "5.6.7.8", proto: protoTCP}},
	} {
		b.Run(fmt.Sprintf("packet=%s", tt.name), func(b *testing.B) {
			frame := tt.p.build(b)
			_, each, err := c.objs.SluiceClassify.Benchmark(frame, max(b.N, 1000), nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(each.Nanoseconds()), "ns/op")
		})
	}
}
