package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sluice/flow"
	"sluice/rings"
)

// outcomes: every packet that a worker has received, or was handed, has one outcome there; and what goes on has left, or is said to
// be lost on its way out. The engine is at rest.
func (b *bench) outcomes() error {
	var sum Stats
	for _, w := range b.workers {
		s := &w.stats
		sum.Add(s)
		waiting := uint64(w.fragments.table.Held()) // parts of datagrams whose first has not come
		if in, out := s.RxPackets+s.HandedIn, s.ToServer+s.ToClient+s.ToHost+s.HandedOut+s.Answered+s.Dropped()-s.Unsent+waiting; in != out {
			return fmt.Errorf("worker %d: %d packets in, %d have an end or wait: %+v", w.id, in, out, *s)
		}
	}
	if sum.HandedOut != sum.HandedIn {
		return fmt.Errorf("%d packets handed over, %d taken", sum.HandedOut, sum.HandedIn)
	}
	if on, left := sum.ToServer+sum.ToClient+sum.ToHost+sum.Answered+sum.Made, sum.TxPackets+sum.Unsent; on != left {
		return fmt.Errorf("%d packets go on, %d have left or are lost: %+v", on, left, sum)
	}
	return nil
}

// Whatever becomes of a packet on its way out, it has one outcome: with next links of any MTU, rings that are full because nobody
// empties them, links that are down, hardly any free frames, and workers that stand still, in every mode, with and without tags. Among them are packets for no virtual server, which are answered up to a limit.
func TestOneOutcome(t *testing.T) {
	seen := map[Reason]uint64{}
	var split, resets, refused uint64
	for n, m := range everyModes() {
		for workers := 1; workers <= 3; workers += 2 {
			for tags := range 3 {
				seed := uint64(time.Now().UnixNano())
				s := adverse(t, m, workers, tags, rand.New(rand.NewPCG(seed, uint64(n))))
				if t.Failed() {
					t.Fatalf("%s, %d workers, %d tags, seed %d", m.name, workers, tags, seed)
				}
				split += s.Split
				resets += s.Resets - (s.Answered - s.ICMPSent - s.Echoes) // those to the ends of connections
				refused += s.Refused[NoVirtualServer]
				for why, n := range s.Drops {
					seen[Reason(why)] += n
				}
			}
		}
	}
	for _, why := range []Reason{TooBig, TxFull, PortDown, HandoffFull, NoVirtualServer, UnmatchedRate} {
		if seen[why] == 0 {
			t.Errorf("nothing was dropped for %s", why)
		}
	}
	if split == 0 || resets == 0 || refused == 0 {
		t.Errorf("%d packets left in parts, %d RSTs were made, %d packets for nobody were answered", split, resets, refused)
	}
}

var unmatched4 = netip.MustParseAddr("10.10.1.120")

// adverse has an engine in mode m take the packets of some connections under such conditions.
func adverse(t *testing.T, m everyMode, workers, tags int, r *rand.Rand) Stats {
	usual := newEveryBed(t, m, workers, tags, r)
	usual.keep = true
	for range 6 {
		usual.connection()
	}
	usual.close()
	frames, spec := framesOf(usual.kept), usual.spec
	spec.Ports = slices.Clone(spec.Ports)
	spec.Virtuals = append(slices.Clone(spec.Virtuals), VirtualSpec{Name: "unmatched", Addr: unmatched4, Port: 80, Proto: flow.TCP, Pool: len(spec.Pools), Unmatched: UnmatchedReset})
	spec.Pools = append(slices.Clone(spec.Pools), PoolSpec{Name: "unmatched", Scheduler: "round-robin", Members: a4(1).Pools[0].Members[:1]})
	spec.ICMPRate = 60 // so that some of what is for nobody has no answer
	for range 30 {
		p := unmatchedPacket(r)
		p.src, p.dst, p.ext = clientIP, unmatched4, nil
		for _, f := range p.randomCuts(t, r).frames(t) {
			if len(usual.tags[m.client]) > 0 {
				f = withTags(f, usual.tags[m.client])
			}
			frames = append(frames, keptFrame{m.client, r.IntN(workers), f})
		}
	}
	for i := range spec.Virtuals {
		spec.Virtuals[i].Timeouts.Established, spec.Virtuals[i].ResetExpired = 3000, true
	}
	b := newBenchOver(t, rings.NewHeapRegion(768*workers, 2048), spec, 100, NewDictionary(), 1000, func(o *Options) {
		o.Handoff = 64
		if workers > 1 { // sends what it has by another's queue
			last := o.Workers[workers-1]
			o.Workers[workers-1] = slices.DeleteFunc(last, func(q PortQueue) bool { return q.Port == inside })
		}
	})
	defer b.close()
	for _, f := range frames { // most connections are there
		b.wire(f.worker, f.port).Send(f.bytes)
		for range 4 {
			b.Step(b.now)
		}
		b.empty()
	}
	for range 8 {
		b.now += uint64(r.IntN(3000))
		mtu := []int{68, 100, 576, 1280, 1500}[r.IntN(5)]
		for i := range spec.Ports {
			spec.Ports[i].MTU, spec.Ports[i].Down = mtu, r.IntN(6) == 0
		}
		cfg, err := NewConfig(spec, b.dict)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Apply(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		give := b.occupy(r)
		for range 8 {
			still := r.IntN(2*workers) - workers // nobody, every other time
			for range 40 {
				f := frames[r.IntN(len(frames))]
				for range 1 + r.IntN(4) {
					b.wire(r.IntN(workers), f.port).Send(f.bytes)
				}
				for i, w := range b.workers {
					if i != still {
						w.step(b.now)
					}
				}
			}
			if r.IntN(4) == 0 {
				b.empty()
			}
		}
		give()
		b.now += uint64(r.IntN(2) * 4000) // now and then connections expire, which resets those of TCP
		for range 30 {
			b.empty()
			b.Step(b.now)
		}
		if err := errors.Join(b.outcomes(), b.consistent()); err != nil {
			t.Error(err)
		}
	}
	return b.stats()
}

// occupy takes free frames of some workers, all but a few, until the function that it returns is called.
func (b *bench) occupy(r *rand.Rand) (give func()) {
	held := make([][]uint64, len(b.workers))
	for i, w := range b.workers {
		if r.IntN(2) == 0 {
			continue
		}
		for most := r.IntN(40); w.pool.Len() > most; {
			addr, _ := w.pool.Get()
			held[i] = append(held[i], addr)
		}
	}
	return func() {
		for i, w := range b.workers {
			for _, addr := range held[i] {
				w.pool.Put(addr)
			}
		}
	}
}

type keptFrame struct {
	port, worker int
	bytes        []byte
}

// framesOf are the frames that an everyBed has kept.
func framesOf(kept []byte) (frames []keptFrame) {
	for len(kept) > 3 {
		n := 3 + int(kept[1])<<8 + int(kept[2])
		frames = append(frames, keptFrame{int(kept[0] & 1), int(kept[0] >> 1), bytes.Clone(kept[3:n])})
		kept = kept[n:]
	}
	return frames
}

// empty takes all that has left.
func (b *bench) empty() {
	for _, w := range b.wires {
		if w != nil {
			w.Recv(func([]byte) {})
		}
	}
}
