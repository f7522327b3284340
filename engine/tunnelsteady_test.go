package engine

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"sluice/flow"
	"sluice/rewrite"
)

// tunnelSpecs are tunnels of all kinds, each family in each, with all policies, on ports with tags and without, and where next to
// nothing fits.
func tunnelSpecs() map[string]Spec {
	specs := map[string]Spec{
		"ipip": tunnelled(1, rewrite.IPIP, false), "ipip-crossed": tunnelled(1, rewrite.IPIP, true),
		"gue": tunnelled(1, rewrite.GUE, false), "gue-crossed": tunnelled(1, rewrite.GUE, true),
	}
	change := func(name, from string, f func(*Spec)) {
		s := specs[from]
		s.Ports, s.Pools = slices.Clone(s.Ports), slices.Clone(s.Pools)
		f(&s)
		specs[name] = s
	}
	policy := func(df rewrite.DFPolicy, sum TunnelChecksum) func(*Spec) {
		return func(s *Spec) {
			for i := range s.Pools {
				s.Pools[i].Tunnel.DF, s.Pools[i].Tunnel.Checksum = df, sum
			}
		}
	}
	change("ipip-set", "ipip-crossed", policy(rewrite.SetDF, ChecksumAuto))
	change("ipip-clear", "ipip", policy(rewrite.ClearDF, ChecksumAuto))
	change("gue-clear-sum", "gue", policy(rewrite.ClearDF, ChecksumOn))
	change("gue-crossed-sum", "gue-crossed", policy(rewrite.CopyDF, ChecksumOn))
	change("gue-crossed-nosum", "gue-crossed", policy(rewrite.SetDF, ChecksumOff))
	change("ipip-small", "ipip-clear", func(s *Spec) { s.Ports[inside].MTU = 96 })
	change("gue-small", "gue-crossed", func(s *Spec) { s.Ports[inside].MTU = 128 })
	specs["ipip-vlan"] = onVLANs(tunnelled(1, rewrite.IPIP, false), [2][]uint16{{clientTag}, {20}})
	specs["gue-crossed-vlan"] = onVLANs(tunnelled(1, rewrite.GUE, true), [2][]uint16{{clientTag}, {20}})
	specs["gue-qinq"] = onVLANs(tunnelled(1, rewrite.GUE, false), [2][]uint16{{clientTag}, {30, 40}})
	return specs
}

// clientTag is that of the frames from clients, where ports are VLANs.
const clientTag = 10

// elsewhereInTunnels gives the one pool another encapsulation, and all members links that take less.
func elsewhereInTunnels(s *Spec) {
	s.Ports = slices.Clone(s.Ports)
	s.Ports[inside].MTU -= 20
	s.Pools[0].Tunnel.Kind = 1 - s.Pools[0].Tunnel.Kind
	s.Pools[0].Tunnel.Port++
}

// uncovered is the frame of what a frame has in a tunnel, or else the frame.
func (b *twins) uncovered(f []byte) []byte {
	var outer rewrite.Packet
	var k flow.Key
	if v := rewrite.Parse(f, &outer, &k); v != rewrite.OK && v != rewrite.NoPorts {
		return f // part of a packet
	}
	at := int(outer.L4)
	if outer.Proto == flow.UDP {
		at += 8 + 4
	}
	etherType := uint16(0x0800)
	if f[at]>>4 == 6 {
		etherType = 0x86dd
	}
	inner := append(binary.BigEndian.AppendUint16(slices.Clone(f[:12]), etherType), f[at:outer.End]...)
	if outer.L3 > 14 {
		inner = withTags(inner, []uint16{clientTag})
	}
	return inner
}

// What goes into tunnels by the shorter way is what may: regular, with hops left, of a size that fits, of a connection that goes on
// and is encapsulated as the headers are. Of what may not, nothing has changed when the longer way gets it.
func TestSteadyTunnel(t *testing.T) {
	for _, kind := range []rewrite.TunnelKind{rewrite.IPIP, rewrite.GUE} {
		for _, crossed := range []bool{false, true} {
			b := newBench(t, tunnelled(1, kind, crossed), 100, 1024)
			for _, v6 := range []bool{false, true} {
				steadyTunnelCases(t, b, v6, 1500-tunnelOverhead(kind, v6 != crossed))
			}
			b.close()
		}
	}
}

func steadyTunnelCases(t *testing.T, b *bench, v6 bool, most int) {
	t.Helper()
	w := b.workers[0]
	segment := func(flags string, size int) []byte {
		p := fromClient(4003, flags)
		if v6 {
			p.src, p.dst = clientIP6, vip6
		}
		p.seq, p.ack = 1001, 1
		if flags == "S" {
			p.seq, p.ack = 1000, 0
		}
		p.payload = strings.Repeat("x", max(0, size-40-20*b2i(v6)))
		return p.build(t)
	}
	b.send(outside, segment("S", 0))
	b.send(outside, segment("A", 0))
	ttl, seq := 14+8-b2i(v6), 14+20+4+20*b2i(v6)
	for _, c := range []struct {
		name   string
		frame  []byte
		change func([]byte) []byte
		port   int
		want   bool
	}{
		{"an acknowledgement", segment("A", 0), nil, outside, true},
		{"data", segment("PA", 400), nil, outside, true},
		{"as much as fits", segment("A", most), nil, outside, true},
		{"a byte too much", segment("A", most+1), nil, outside, false},
		{"the last hop", segment("A", 0), func(f []byte) []byte { f[ttl] = 1; return f }, outside, false},
		{"the last hop but one", segment("A", 0), func(f []byte) []byte { f[ttl] = 2; return f }, outside, true},
		{"a FIN", segment("FA", 0), nil, outside, false},
		{"no acknowledgement", segment("P", 0), nil, outside, false},
		{"far ahead", segment("A", 0), func(f []byte) []byte { f[seq] ^= 0x60; return f }, outside, false},
		{"another port", segment("A", 0), nil, inside, false},
	} {
		frame := c.frame
		if c.change != nil {
			frame = c.change(frame)
		}
		addr, _ := w.pool.Get()
		w.descs[0].Addr, w.descs[0].Len, w.ports[0] = addr+256, uint32(len(frame)), uint16(c.port)
		copy(w.region.Packet(w.descs[0]), frame)
		if v := rewrite.Parse(frame, &w.pkts[0], &w.keys[0]); v != rewrite.OK {
			t.Fatalf("%s: %d", c.name, v)
		}
		ref := w.table.Lookup(&w.keys[0])
		rec := w.table.Record(ref.Index())
		before, stats, id, descs := *rec, w.stats, w.outerID, w.descs[0]
		got := w.steadyTunnel(0, ref, rec)
		if got != c.want {
			t.Errorf("%s, IPv6 %v, at most %d: %v", c.name, v6, most, got)
		}
		if !got {
			if *rec != before || w.stats != stats || w.outerID != id || w.descs[0] != descs || !bytes.Equal(w.region.Packet(descs), frame) {
				t.Errorf("%s: something has changed", c.name)
			}
			w.pool.Put(addr)
			continue
		}
		b.Step(b.now)
		only(t, b.take(), inside)
	}
}

// FuzzSteadyTunnels has a fuzzer choose what a client sends into tunnels, and how they are: both ways come to the same.
func FuzzSteadyTunnels(f *testing.F) {
	specs := tunnelSpecs()
	var names []string
	for name := range specs {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		in := []byte{}
		c := client(new(specs[name]), outside)
		for range 8 {
			_, first := c(f, rand.New(rand.NewPCG(uint64(i), 1)))
			in = append(binary.BigEndian.AppendUint16(in, uint16(len(first))), first...)
		}
		f.Add(uint8(i), in)
	}
	f.Fuzz(func(t *testing.T, n uint8, in []byte) {
		s := specs[names[int(n)%len(names)]]
		s.Ports = slices.Clone(s.Ports)
		for i := range s.Ports {
			s.Ports[i].Checksum = SumTrust // the slow one takes no samples
		}
		b := newTwins(t, s, outside, uint64(n))
		defer b.slow.close()
		defer b.close()
		for frames := 0; len(in) > 2 && frames < 50; frames++ {
			size := int(binary.BigEndian.Uint16(in) & 0x7ff)
			in = in[2:]
			frame := in[:min(size, len(in), 1700)]
			in = in[len(frame):]
			b.play(outside, frame)
			b.now += uint64(size & 7)
		}
	})
}
