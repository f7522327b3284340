package engine

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"sluice/flow"
)

func prefixes(t testing.TB, texts ...string) (out []netip.Prefix) {
	t.Helper()
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// The longest prefix that holds a source decides, as going over all of them says.
func TestAccess(t *testing.T) {
	for name, v := range map[string]VirtualSpec{
		"deny":  {Deny: prefixes(t, "10.0.0.0/8", "10.1.2.3/32", "2001:db8::/32"), Allow: nil},
		"allow": {Allow: prefixes(t, "10.0.0.0/8", "::/0")},
		"both":  {Allow: prefixes(t, "0.0.0.0/0", "10.1.0.0/16", "10.1.2.0/25", "2001:db8:1::/48"), Deny: prefixes(t, "10.0.0.0/8", "10.1.2.0/24", "10.1.2.3/32", "::/0")},
	} {
		a, err := v.compileAccess()
		if err != nil {
			t.Fatal(err)
		}
		naive := func(source netip.Addr) bool {
			best, permitted := -1, len(v.Allow) == 0
			for permit, list := range map[bool][]netip.Prefix{true: v.Allow, false: v.Deny} {
				for _, p := range list {
					if p.Contains(source) && p.Bits() > best {
						best, permitted = p.Bits(), permit
					}
				}
			}
			return permitted
		}
		rnd := rand.New(rand.NewPCG(1, 2))
		seen := map[bool]int{}
		for range 5000 {
			b := [4]byte{byte(9 + rnd.IntN(2)), byte(rnd.IntN(3)), byte(rnd.IntN(4)), byte(rnd.IntN(256) & (rnd.IntN(2)*255 | 3))}
			source := netip.AddrFrom4(b)
			if rnd.IntN(3) == 0 {
				source = netip.AddrFrom16([16]byte{0x20, 1, 0x0d, byte(0xb8 - rnd.IntN(2)), 0, byte(rnd.IntN(2)), 15: b[3]})
			}
			got := a.permits(flow.AddrFrom(source))
			if got != naive(source) {
				t.Fatalf("%s: %s is permitted: %v", name, source, got)
			}
			seen[got]++
		}
		if seen[true] == 0 || seen[false] == 0 {
			t.Errorf("%s: %v", name, seen)
		}
	}
	twice := VirtualSpec{Name: "v", Allow: prefixes(t, "10.0.0.0/8"), Deny: prefixes(t, "10.0.0.0/8")}
	if _, err := twice.compileAccess(); err == nil {
		t.Error("a prefix that is allowed and denied")
	}
}

// put has another specification in force.
func (b *bench) put(spec Spec) {
	b.t.Helper()
	cfg, err := NewConfig(spec, b.dict)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.Apply(b.t.Context(), cfg); err != nil {
		b.t.Fatal(err)
	}
}

// A source that may not gets no connection, keeps those that it has, and is counted; so it is with a virtual server that is
// disabled, and with a source that is too quick.
func TestRefusedSources(t *testing.T) {
	spec := a4(2)
	b := newBench(t, spec, 1000, 1024)
	from := func(ip string, port uint16, flags string) []byte {
		p := fromClient(port, flags)
		p.src = netip.MustParseAddr(ip)
		return p.build(t)
	}
	only(t, b.sendTo(0, outside, from("10.7.0.1", 1, "S")), inside)
	spec.Generation++
	spec.Virtuals[0].Deny = prefixes(t, "10.7.0.0/16")
	b.put(spec)
	only(t, b.sendTo(1, outside, from("10.7.0.1", 1, "A")), inside)
	b.drops(outside, from("10.7.0.1", 2, "S"), SourceDenied)
	only(t, b.sendTo(0, outside, from("10.8.0.1", 2, "S")), inside)
	if e := b.Config().Explain(flow.TCP, netip.MustParseAddrPort("10.7.0.1:9"), netip.AddrPortFrom(vip, 80)); e.Decision != DecideDrop || e.Reason != "source_denied" {
		t.Errorf("%+v", e)
	}

	spec.Generation++
	spec.Virtuals[0].Deny, spec.Virtuals[0].ResetRefused = nil, true
	b.put(spec)
	id := b.Config().Virtuals()[0].ID
	if err := b.SetVirtual(id, true); err != nil {
		t.Fatal(err)
	}
	if got := only(t, b.sendTo(0, outside, from("10.7.0.1", 3, "S")), outside); got[47]&4 == 0 || b.stats().Refused[VirtualDisabled] != 1 {
		t.Errorf("no RST: %x", got)
	}
	only(t, b.sendTo(1, outside, from("10.7.0.1", 1, "A")), inside)
	if err := b.SetVirtual(id, false); err != nil {
		t.Fatal(err)
	}
	only(t, b.sendTo(0, outside, from("10.7.0.1", 3, "S")), inside)
	spec.Generation++
	spec.Virtuals[0].ResetRefused, spec.Virtuals[0].Disabled = false, true
	b.put(spec)
	b.drops(outside, from("10.7.0.1", 4, "S"), VirtualDisabled)
	if err := b.SetVirtual(99, true); err == nil {
		t.Error("a virtual server that there is not was disabled")
	}

	spec.Generation++
	spec.Virtuals[0].Disabled, spec.Virtuals[0].SourceRate = false, 5
	spec.Sources.Bits4, spec.Sources.Bits6 = 24, 64
	fresh := newBench(t, spec, 1000, 1024)
	for second := range 3 {
		for _, net := range []string{"10.7.0", "10.7.1"} {
			for i := range 9 {
				frame := from(fmt.Sprintf("%s.%d", net, i), uint16(100+10*second), "S")
				if i < 5 {
					only(t, fresh.sendTo(i&1, outside, frame), inside)
				} else {
					fresh.drops(outside, frame, SourceRate)
				}
			}
		}
		fresh.now += 1000
	}
	fresh.close()
	b.close()
}

// Many workers at once count every source exactly, whatever others do; more sources than fit are let through.
func TestSourceRates(t *testing.T) {
	const limit, workers, tries = 10, 4, 30
	s := new(sourceRates)
	var wait sync.WaitGroup
	var taken [2000]atomic.Int32
	hash := func(i int) uint64 { return pickSeed.Hash(&flow.Key{Src: flow.Addr{Lo: uint64(i)}}) }
	for w := range workers {
		wait.Go(func() {
			now := uint64(5000 + w) // clocks differ by a little
			for range tries {
				for i := range taken {
					if s.take(hash(i), limit, now) {
						taken[i].Add(1)
					}
				}
			}
		})
	}
	wait.Wait()
	for i := range taken {
		if n := taken[i].Load(); n != limit {
			t.Errorf("source %d has %d", i, n)
		}
	}
	if !s.take(hash(0), limit, 6000) || !s.take(hash(0), limit, 5999) {
		t.Error("the next second has not begun")
	}
	for range limit - 2 { // a clock behind counts in the second that another has begun
		if !s.take(hash(0), limit, 5999) {
			t.Error("not all of the second")
		}
	}
	if s.take(hash(0), limit, 6001) {
		t.Error("more than the limit")
	}
	for i := range 200_000 { // a flood of sources
		s.take(hash(1_000_000+i), limit, 7000)
	}
	if !s.take(hash(5_000_000), limit, 7000) {
		t.Error("an innocent source is shut out by a flood of others")
	}
	if n := testing.AllocsPerRun(1000, func() { s.take(hash(7), limit, 8000) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
