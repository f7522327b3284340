package engine

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"sluice/flow"
	"sluice/rewrite"
)

// FuzzEveryMode takes what TestEveryMode sends, in every mode, with and without tags, by one worker and by three, and changes it at
// will: every packet has one end, every count is right, and what came with right checksums leaves with right ones.
func FuzzEveryMode(f *testing.F) {
	modes := everyModes()
	settings := func(n uint8) (m everyMode, workers, tags int) {
		rest := int(n) / len(modes)
		return modes[int(n)%len(modes)], 1 + rest%2*2, rest / 2 % 3
	}
	for n := range len(modes) * 6 {
		m, workers, tags := settings(uint8(n))
		b := newEveryBed(f, m, workers, tags, rand.New(rand.NewPCG(uint64(n), 6)))
		b.size, b.keep = 160, true
		for range 3 {
			b.connection()
		}
		f.Add(uint8(n), b.kept)
		b.close()
	}
	f.Fuzz(func(t *testing.T, n uint8, in []byte) {
		m, workers, tags := settings(n)
		b := newEveryBed(t, m, workers, tags, rand.New(rand.NewPCG(0, 0)))
		held := false // a part whose sum is wrong may wait for its first, and leave with a packet that came with a right one
		for frames := 0; len(in) > 3 && frames < 100; frames++ {
			port, worker, size := int(in[0]&1), int(in[0]>>1)%workers, int(binary.BigEndian.Uint16(in[1:]))
			in = in[3:]
			frame := in[:min(size, len(in), 1600)]
			in = in[len(frame):]
			right := rightSums(frame)
			held = held || !right && isPart(frame)
			if !b.wire(worker, port).Send(frame) {
				t.Fatal("the wire is full")
			}
			for range 4 {
				b.Step(b.now)
			}
			for i := range workers * 3 {
				b.wire(i/3, i%3).Recv(func(g []byte) {
					if i%3 != host && right && !held && !rightSums(g) {
						t.Fatalf("%s: %x\nhas become\n%x", m.name, frame, g)
					}
				})
			}
		}
		b.Step(b.now)
		if err := b.sums(); err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		b.close()
	})
}

// rightSums reports whether a packet is one, and its checksums, as far as they can be computed of what is there, are right.
func rightSums(b []byte) bool {
	var p rewrite.Packet
	var k flow.Key
	v := rewrite.Parse(b, &p, &k)
	return v.IsPacket() && rewrite.Verify(b, &p, v == rewrite.Fragment) == rewrite.SumsRight
}

// isPart reports whether a packet is part of a datagram.
func isPart(b []byte) bool {
	var p rewrite.Packet
	var k flow.Key
	return rewrite.Parse(b, &p, &k) == rewrite.Fragment
}
