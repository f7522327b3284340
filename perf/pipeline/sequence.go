package pipeline

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/klauspost/cpuid/v2"

	"sluice/flow"
	"sluice/rings"
)

// Patterns are the orders in which connections have their packets.
var Patterns = []string{"uniform", "zipf", "round"}

// Sizes are frame sizes with the check sequence; imix is 64, 594 and 1518 bytes 7 to 4 to 1.
var Sizes = []string{"64", "imix", "1500"}

// traffic is what is sent to a bed: a sequence for each port of each worker.
type traffic struct {
	seqs   [][ports]*sequence
	memory []rings.Mapping
}

// perConnection is how many packets the sequences of both directions have for each connection, on average.
const perConnection = 2

// sequenceLen is the number of packets of one direction: enough that both are much larger than the second-level cache, and
// that every connection has its turn.
func sequenceLen(connections int) int {
	n := max(1<<16, 4*max(cpuid.CPU.Cache.L2, 0)/(ports*rings.HeadLen), connections*perConnection/ports)
	return (n + burst - 1) / burst * burst
}

// trafficBytes is the memory that the sequences for the connections take.
func (s shape) trafficBytes() int { return ports * sequenceLen(s.connections) * s.headLen() }

// newTraffic builds packets on the connections of a bed. The same arguments give the same packets.
func (b *bed) newTraffic(pattern, size string) (_ *traffic, err error) {
	t := &traffic{}
	defer func() {
		if err != nil {
			_ = t.close()
		}
	}()
	for w, own := range b.owned {
		if own = b.withTraffic(own); len(own) == 0 && b.mode.proto != 0 {
			return nil, fmt.Errorf("worker %d has no connection of protocol %d", w, b.mode.proto)
		}
		if len(own) == 0 {
			return nil, fmt.Errorf("worker %d of %d owns none of %d connections", w, b.workers, b.connections)
		}
		var seqs [ports]*sequence
		for p := range ports {
			if p == inside && b.mode.oneSided {
				continue
			}
			random := rand.New(rand.NewPCG(uint64(b.connections), uint64(w*ports+p)))
			pick, err := picker(pattern, len(own), random)
			if err != nil {
				return nil, err
			}
			length, err := sizer(size, random)
			if err != nil {
				return nil, err
			}
			if b.mode.frame != nil {
				seqs[p] = b.newFrames(p, sequenceLen(len(own)), func() uint32 { return own[pick()] })
				continue
			}
			seqs[p], err = t.newSequence(sequenceLen(len(own)), b.headLen(), func(_ int, head []byte) uint16 {
				i := own[pick()]
				n := length()
				if n == 0 {
					n = b.smallest(i)
				}
				if p == outside {
					b.request(head, i, n)
				} else {
					b.reply(head, i, n)
				}
				return b.mode.tag(p, head, frameLen(n))
			})
			if err != nil {
				return nil, err
			}
		}
		t.seqs = append(t.seqs, seqs)
	}
	return t, nil
}

// newTrafficOfNew builds the first packets of n connections: SYNs and datagrams in turn, in random order, on the outside.
func (b *bed) newTrafficOfNew(n int) (_ *traffic, err error) {
	t := &traffic{}
	order := make([]uint32, (n+burst-1)/burst*burst)
	for i := range order {
		order[i] = uint32(i)
	}
	random := rand.New(rand.NewPCG(uint64(n), 5))
	random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	s, err := t.newSequence(len(order), b.headLen(), func(at int, head []byte) uint16 {
		b.first(head, order[at], 0)
		return b.mode.tag(outside, head, sentLen(head))
	})
	t.seqs = [][ports]*sequence{{outside: s}}
	return t, err
}

// withTraffic are those of the connections that the mode has packets for.
func (b *bed) withTraffic(own []uint32) (out []uint32) {
	if b.mode.proto == 0 {
		return own
	}
	for _, i := range own {
		if _, proto := b.tuple(i); proto == b.mode.proto {
			out = append(out, i)
		}
	}
	return out
}

// newFrames builds n packets of a mode that makes its own, in pairs on the connections that pick says.
func (b *bed) newFrames(port, n int, pick func() uint32) *sequence {
	s := &sequence{}
	for at := 0; at < n; at += 2 {
		i := pick()
		s.frames = append(s.frames, b.mode.frame(b, port, at, i), b.mode.frame(b, port, at+1, i))
	}
	return s
}

// newSequence builds n packets.
func (t *traffic) newSequence(n, headLen int, write func(at int, head []byte) uint16) (*sequence, error) {
	m, err := rings.MapShared("sluice-perf-packets", n*headLen, true)
	if err != nil {
		return nil, err
	}
	t.memory = append(t.memory, m)
	s := &sequence{heads: m.Bytes[:n*headLen], headLen: headLen, lengths: make([]uint16, n)}
	for i := range n {
		s.lengths[i] = write(i, s.heads[i*headLen:(i+1)*headLen])
	}
	return s, nil
}

func (t *traffic) close() (err error) {
	for _, m := range t.memory {
		if e := m.Unmap(); e != nil {
			err = e
		}
	}
	t.memory = nil
	return err
}

// picker draws from n connections.
func picker(pattern string, n int, random *rand.Rand) (func() int, error) {
	switch pattern {
	case "uniform":
		return func() int { return random.IntN(n) }, nil
	case "zipf":
		if n == 1 {
			return func() int { return 0 }, nil
		}
		// The busy connections lie anywhere: a multiplication by an odd number that shares no factor shuffles them.
		z := rand.NewZipf(random, 1.1, 1, uint64(n-1))
		return func() int { return int(z.Uint64() * 7_368_787 % uint64(n)) }, nil
	case "round":
		at := -1
		return func() int { at = (at + 1) % n; return at }, nil
	}
	return nil, fmt.Errorf("no pattern %q; there are %s", pattern, strings.Join(Patterns, ", "))
}

// sizer gives lengths of IP packets; 0 is the smallest there is.
func sizer(size string, random *rand.Rand) (func() int, error) {
	switch size {
	case "64":
		return func() int { return 0 }, nil
	case "imix":
		mix := [12]int{7: 576, 8: 576, 9: 576, 10: 576, 11: 1500}
		return func() int { return mix[random.IntN(len(mix))] }, nil
	case "1500":
		return func() int { return 1500 }, nil
	}
	return nil, fmt.Errorf("no size %q; there are %s", size, strings.Join(Sizes, ", "))
}

// mapKey is the tuple of a packet in 13 bytes, as a key of a Go map.
type mapKey [13]byte

// goMap is the yardstick: a Go map with a key for each connection, asked for keys that it has.
type goMap struct {
	entries map[mapKey]uint32
	keys    []mapKey // in the order they are asked for
	at      int
}

// maxKeys bounds the sequence of keys; so many are larger than any cache that matters.
const maxKeys = 1 << 22

func newGoMap(n int, pattern string) (*goMap, error) {
	random := rand.New(rand.NewPCG(uint64(n), 11))
	pick, err := picker(pattern, n, random)
	if err != nil {
		return nil, err
	}
	g := &goMap{entries: make(map[mapKey]uint32, n), keys: make([]mapKey, min(max(1<<17, 2*n), maxKeys))}
	one := shape{virtuals: 1}
	for i := range uint32(n) {
		g.entries[keyOf(one.tuple(i))] = i + 1
	}
	for i := range g.keys {
		g.keys[i] = keyOf(one.tuple(uint32(pick())))
	}
	return g, nil
}

func keyOf(t tuple, proto uint8) (k mapKey) {
	for i, v := range [...]uint32{t.src, t.dst, uint32(t.sport)<<16 | uint32(t.dport)} {
		k[4*i], k[4*i+1], k[4*i+2], k[4*i+3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
	}
	k[12] = proto
	if proto != flow.TCP && proto != flow.UDP {
		panic("a connection of another protocol")
	}
	return k
}

// lookUp asks for n keys and returns how many were there.
func (g *goMap) lookUp(n int) (found int) {
	for range n {
		if g.entries[g.keys[g.at]] != 0 {
			found++
		}
		if g.at++; g.at == len(g.keys) {
			g.at = 0
		}
	}
	return found
}

func has(list []string, word string) bool { return slices.Contains(list, word) }
