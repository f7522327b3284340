package flow

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// fragmentModel is the naive reference of Fragments: a byte map per datagram, lists and maps.
type fragmentModel struct {
	cfg  FragmentsConfig
	all  []*modelDatagram // oldest first
	dead []uint64
	held int
}

type modelDatagram struct {
	key            FragmentKey
	started        uint64
	seen           []bool
	size           int
	known, refused bool
	value          uint64
	waits          []uint64
}

func (m *fragmentModel) find(k FragmentKey, now uint64) *modelDatagram {
	for i, d := range m.all {
		if d.key != k {
			continue
		}
		if d.started+m.cfg.Timeout > now {
			return d
		}
		m.removeAt(i)
		break
	}
	if len(m.all) == m.cfg.Datagrams {
		m.removeAt(0)
	}
	d := &modelDatagram{key: k, started: now, size: -1}
	m.all = append(m.all, d)
	return d
}

func (m *fragmentModel) removeAt(i int) {
	m.dead = append(m.dead, m.all[i].waits...)
	m.all = slices.Delete(m.all, i, i+1)
}

func (m *fragmentModel) refuse(d *modelDatagram) {
	d.refused = true
	m.dead = append(m.dead, d.waits...)
	d.waits = nil
}

// enter notes bytes one by one.
func (m *fragmentModel) enter(d *modelDatagram, from, to int, more bool) FragmentResult {
	if d.refused {
		return FragmentRefused
	}
	for len(d.seen) < to {
		d.seen = append(d.seen, false)
	}
	count := 0
	for _, s := range d.seen[from:to] {
		if s {
			count++
		}
	}
	last := -1
	for i, s := range d.seen {
		if s {
			last = i
		}
	}
	switch {
	case count == to-from:
		return FragmentDuplicate
	case count > 0:
		m.refuse(d)
		return FragmentOverlaps
	}
	after := slices.Clone(d.seen)
	for i := from; i < to; i++ {
		after[i] = true
	}
	runs := 0
	for i, s := range after {
		if s && (i == 0 || !after[i-1]) {
			runs++
		}
	}
	if runs > maxRanges {
		return FragmentTooMany
	}
	if more && d.size >= 0 && to >= d.size || !more && (d.size >= 0 || last >= to) {
		m.refuse(d)
		return FragmentOverlaps
	}
	if !more {
		d.size = to
	}
	d.seen = after
	return FragmentKnown
}

func (m *fragmentModel) finish(d *modelDatagram) {
	if d.size >= 0 && !slices.Contains(d.seen[:d.size], false) {
		m.removeAt(slices.Index(m.all, d))
	}
}

func (m *fragmentModel) later(k FragmentKey, from, to int, more bool, desc, now uint64) (uint64, FragmentResult) {
	d := m.find(k, now)
	waits := !d.known && !d.refused
	if waits && (m.held == m.cfg.Waiting || len(d.waits) == m.cfg.PerDatagram) {
		return 0, FragmentTooMany
	}
	if r := m.enter(d, from, to, more); r != FragmentKnown {
		return 0, r
	}
	if waits {
		d.waits = append(d.waits, desc)
		m.held++
		return 0, FragmentWaits
	}
	m.finish(d)
	return d.value, FragmentKnown
}

// TestFragmentsModel runs a table and its model side by side: parts in order, reversed, shuffled, twice, overlapping,
// datagrams that never end, time that passes.
func TestFragmentsModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	results := map[FragmentResult]int{}
	for range 60 {
		cfg := FragmentsConfig{
			Datagrams: 1 + r.IntN(12), Waiting: r.IntN(60), PerDatagram: r.IntN(40), Timeout: 1 + uint64(r.IntN(2000)), Secret: fileSecret,
		}
		f, err := NewFragments(cfg)
		if err != nil {
			t.Fatal(err)
		}
		m := &fragmentModel{cfg: cfg}
		now, desc := uint64(r.IntN(1000)), uint64(0)
		ends := r.IntN(3) > 0
		for step := range 3000 {
			if r.IntN(8) == 0 {
				now += uint64(r.IntN(300))
			}
			k := FragmentKey{Src: AddrFrom4(uint32(r.IntN(3))), Dst: AddrFrom4(9), ID: uint32(r.IntN(6)), Proto: UDP}
			what := fmt.Sprintf("step %d of %+v", step, cfg)
			switch r.IntN(40) {
			case 0, 1, 2, 3:
				n, more := 8*(1+r.IntN(3)), r.IntN(10) > 0
				value := r.Uint64()
				d := m.find(k, now)
				want, waits := m.enter(d, 0, n, more), []uint64(nil)
				if want == FragmentKnown {
					d.value, d.known, waits, d.waits = value, true, d.waits, nil
					m.held -= len(waits)
					m.finish(d)
				}
				got, w := f.First(&k, n, more, value, now)
				var taken []uint64
				for desc, ok := w.Next(); ok; desc, ok = w.Next() {
					taken = append(taken, desc)
				}
				if got != want || !slices.Equal(taken, waits) {
					t.Fatalf("%s: first part %d with %v, not %d with %v", what, got, taken, want, waits)
				}
				results[got]++
			case 4:
				if r.IntN(4) == 0 {
					m.refuse(m.find(k, now))
					f.Refuse(&k, now)
				}
			case 5:
				budget := r.IntN(3)
				n := 0
				for ; n < budget && len(m.all) > 0 && m.all[0].started+cfg.Timeout <= now; n++ {
					m.removeAt(0)
				}
				if got := f.Expire(now, budget); got != n {
					t.Fatalf("%s: %d expired, not %d", what, got, n)
				}
			case 6:
				checkReleased(t, what, f, m)
			default:
				// One time in four of no whole part, so that parts overlap.
				unit := 16
				if r.IntN(20) == 0 {
					unit = 8
				}
				from := unit * (1 + r.IntN(70))
				to := from + 16*(1+r.IntN(20)/19)
				more := !ends || r.IntN(30) > 0
				desc++
				v1, want := m.later(k, from, to, more, desc, now)
				v2, got := f.Later(&k, from, to-from, more, desc, now)
				if v1 != v2 || got != want {
					t.Fatalf("%s: part from %d to %d: %d %d, not %d %d", what, from, to, v2, got, v1, want)
				}
				results[got]++
			}
			if f.Len() != len(m.all) || f.Held() != m.held {
				t.Fatalf("%s: %d datagrams and %d descriptors, not %d and %d", what, f.Len(), f.Held(), len(m.all), m.held)
			}
		}
		f.ReleaseAll()
		for len(m.all) > 0 {
			m.removeAt(0)
		}
		checkReleased(t, "at the end", f, m)
		if f.Len() != 0 || f.Held() != 0 || m.held != 0 {
			t.Fatalf("%d datagrams and %d descriptors are left", f.Len(), f.Held())
		}
	}
	for r := FragmentKnown; r <= FragmentTooMany; r++ {
		if results[r] == 0 {
			t.Errorf("result %d was never seen: %v", r, results)
		}
	}
}

// checkReleased: what was kept in vain comes back, all of it and once. Its order is nobody's concern.
func checkReleased(t *testing.T, what string, f *Fragments, m *fragmentModel) {
	t.Helper()
	var got []uint64
	for desc, ok := f.Release(); ok; desc, ok = f.Release() {
		got = append(got, desc)
	}
	slices.Sort(got)
	slices.Sort(m.dead)
	if !slices.Equal(got, m.dead) {
		t.Fatalf("%s: released %v, not %v", what, got, m.dead)
	}
	m.held -= len(got)
	m.dead = nil
}

// TestFragmentsOrders: 60,000 bytes in parts of 1,480 and of 1,232 pass in order, reversed and shuffled, and nothing is
// left of them.
func TestFragmentsOrders(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1480, 1232} {
		f, err := NewFragments(FragmentsConfig{Datagrams: 2, Waiting: 64, PerDatagram: 64, Timeout: 1000})
		if err != nil {
			t.Fatal(err)
		}
		n := (60008 + size - 1) / size
		for round := range 1000 {
			order := r.Perm(n)
			switch round {
			case 0:
				slices.Sort(order)
			case 1:
				slices.Sort(order)
				slices.Reverse(order)
			}
			k := FragmentKey{ID: uint32(round), Proto: UDP}
			passed := 0
			for _, i := range order {
				length := min(size, 60008-i*size)
				more := i+1 < n
				if i == 0 {
					res, w := f.First(&k, length, more, 42, uint64(round))
					if res != FragmentKnown {
						t.Fatalf("first part: %d", res)
					}
					passed++
					for _, ok := w.Next(); ok; _, ok = w.Next() {
						passed++
					}
					continue
				}
				switch v, res := f.Later(&k, i*size, length, more, uint64(i), uint64(round)); {
				case res == FragmentKnown && v == 42:
					passed++
				case res != FragmentWaits:
					t.Fatalf("part %d: %d %d", i, v, res)
				}
			}
			if passed != n || f.Len() != 0 || f.Held() != 0 {
				t.Fatalf("%d of %d parts passed, %d datagrams and %d descriptors are left", passed, n, f.Len(), f.Held())
			}
		}
	}
}

// TestFragmentsFlood: parts that lead nowhere displace each other; a datagram that flows between them passes.
func TestFragmentsFlood(t *testing.T) {
	f, err := NewFragments(FragmentsConfig{Datagrams: 64, Waiting: 32, PerDatagram: 4, Timeout: 30000})
	if err != nil {
		t.Fatal(err)
	}
	kept, released := 0, 0
	good := FragmentKey{ID: 1 << 20, Proto: UDP}
	for i := range 100000 {
		k := FragmentKey{ID: uint32(i), Proto: UDP}
		if _, r := f.Later(&k, 1480, 100, true, uint64(i), 1); r == FragmentWaits {
			kept++
		}
		for _, ok := f.Release(); ok; _, ok = f.Release() {
			released++
		}
		if i%100 == 0 { // a first part, and the last one 20 packets later
			good.ID++
			if r, _ := f.First(&good, 1480, true, uint64(i), 1); r != FragmentKnown {
				t.Fatalf("first part: %d", r)
			}
		}
		if i%100 == 20 {
			if v, r := f.Later(&good, 1480, 100, false, 0, 1); r != FragmentKnown || v != uint64(i-20) {
				t.Fatalf("last part: %d %d", v, r)
			}
		}
		if f.Len() > 64 || f.Held() > 32 {
			t.Fatalf("%d datagrams, %d descriptors", f.Len(), f.Held())
		}
	}
	if kept == 0 || kept-released != f.Held() {
		t.Errorf("%d kept, %d released, %d held", kept, released, f.Held())
	}
}

func TestNewFragments(t *testing.T) {
	for _, cfg := range []FragmentsConfig{
		{}, {Datagrams: 1}, {Datagrams: 1<<20 + 1, Timeout: 1}, {Datagrams: 1, Waiting: -1, Timeout: 1},
		{Datagrams: 1, Waiting: 1<<20 + 1, Timeout: 1}, {Datagrams: 1, PerDatagram: 0x10000, Timeout: 1}, {Datagrams: 1, PerDatagram: -1, Timeout: 1},
	} {
		if _, err := NewFragments(cfg); err != ErrFragments {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestFragmentsAllocations(t *testing.T) {
	f, err := NewFragments(FragmentsConfig{Datagrams: 16, Waiting: 16, PerDatagram: 4, Timeout: 10})
	if err != nil {
		t.Fatal(err)
	}
	id, now := uint32(0), uint64(0)
	if n := testing.AllocsPerRun(1000, func() {
		id++
		now++
		k := FragmentKey{ID: id, Proto: UDP}
		f.Later(&k, 1480, 8, true, 1, now)
		_, w := f.First(&k, 1480, true, 7, now)
		for _, ok := w.Next(); ok; _, ok = w.Next() {
		}
		f.Expire(now, 4)
		for _, ok := f.Release(); ok; _, ok = f.Release() {
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFragments(b *testing.B) {
	for _, size := range []int{2, 41} {
		b.Run(fmt.Sprintf("parts=%d", size), func(b *testing.B) {
			f, err := NewFragments(FragmentsConfig{Datagrams: 4096, Waiting: 1024, PerDatagram: 64, Timeout: 1000, Secret: fileSecret})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i += size {
				k := FragmentKey{ID: uint32(i), Proto: UDP}
				f.First(&k, 1480, true, 1, 0)
				for j := 1; j < size; j++ {
					f.Later(&k, j*1480, 1480, j+1 < size, 0, 0)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/part")
		})
	}
}
