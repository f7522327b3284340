package rings

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
)

// randomPacket goes between the addresses and ports that matter to testRules.
func randomPacket(rnd *rand.Rand) testPacket {
	pick := func(from ...int) int { return from[rnd.IntN(len(from))] }
	addrs := []string{"10.10.1.1", "10.10.1.100", "10.10.1.101", "10.10.1.102", "10.10.1.103", "10.10.1.200",
		"192.168.20.1", "192.168.20.2", "192.168.20.3", "172.16.10.55", "169.254.3.3"}
	p := testPacket{
		v6: rnd.IntN(2) == 0, src: addrs[rnd.IntN(len(addrs))], dst: addrs[rnd.IntN(len(addrs))],
		proto: pick(protoTCP, protoTCP, protoTCP, protoUDP, protoUDP, protoSCTP, protoICMP, protoGRE),
		sport: pick(80, 8080, 8081, 40000), dport: pick(80, 81, 443, 5000, 5011, 20000, 40000, 50000),
		icmp: uint8(pick(0, 2, 3, 4, 5, 8, 11, 12, 128, 129)), id: pick(1, 20000, 40000),
		fragment: rnd.IntN(6) == 0, offset: 0, options: rnd.IntN(3), mac: byte(pick(0, 0, 0, 0, 0, 0, 0, 1)),
	}
	if p.fragment {
		p.offset = pick(0, 7)
	}
	if rnd.IntN(3) > 0 {
		p.quoted = addrs[rnd.IntN(len(addrs))]
	}
	if rnd.IntN(3) == 0 {
		p.tags = append(p.tags, layers.EthernetTypeDot1Q)
	}
	for range pick(0, 0, 1, 3) {
		p.extensions = append(p.extensions, uint8(pick(0, 43, 60)))
	}
	return p
}

// Prefixes: all, and some of more lengths than one value of the table holds, that hold some of randomPacket's addresses.
var (
	everything   = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	somePrefixes = func() (out []netip.Prefix) {
		for bits := 8; bits < 32; bits++ {
			out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, 99, 98}), bits).Masked())
			out = append(out, netip.PrefixFrom(toV6("10.99.99.98"), bits+96).Masked())
		}
		for _, p := range []string{"192.168.20.0/31", "10.10.1.200/30", "172.16.0.0/12", "10.10.1.0/31"} {
			prefix := netip.MustParsePrefix(p).Masked()
			out = append(out, prefix, netip.PrefixFrom(toV6(prefix.Addr().String()), prefix.Bits()+96).Masked())
		}
		return out
	}()
)

// TestClassifierRandom compares Classify with the naive reading of the rules; no kernel takes part.
func TestClassifierRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, prefixes := range [][]netip.Prefix{nil, everything, somePrefixes} {
		rules := testRules(false)
		rules.Prefixes = prefixes
		c, err := NewClassifier(rules)
		if err != nil {
			t.Fatal(err)
		}
		for range 10000 {
			p := randomPacket(rnd)
			if got, want := c.Classify(p.build(t)), naiveVerdict(rules, p); !sameAction(got, want) {
				t.Fatalf("%+v: %s, want %s", p, got, want)
			}
		}
	}
}

// TestClassifyMutated runs damaged frames through the program, which run compares with Classify.
func TestClassifyMutated(t *testing.T) {
	needBPF(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, prefixes := range [][]netip.Prefix{nil, everything, somePrefixes} {
		rules := testRules(false)
		rules.Prefixes = prefixes
		c := newClassifier(t, ProgramConfig{Rules: rules})
		for range 5000 {
			frame := randomPacket(rnd).build(t)
			for range rnd.IntN(4) {
				frame[12+rnd.IntN(min(len(frame), 60)-12)] = byte(rnd.IntN(256))
			}
			frame = frame[:max(14, len(frame)-rnd.IntN(30)*rnd.IntN(2))]
			c.run(t, frame[:len(frame):len(frame)])
		}
	}
}

// TestClassifierShort has frames that no kernel lets reach the program.
func TestClassifierShort(t *testing.T) {
	c, err := NewClassifier(testRules(true))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 14 {
		if got := c.Classify(make([]byte, n)); got != ActionMalformed {
			t.Errorf("%d bytes: %s", n, got)
		}
	}
	if _, err := NewClassifier(Rules{Members: []MemberRule{{}}}); err == nil {
		t.Error("rules that the program refuses")
	}
}
