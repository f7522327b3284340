package sched

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

var hashSchedulers = []string{"maglev", "source-hash"}

func slotsOf(t testing.TB, name string, members []Member, size int) []uint16 {
	t.Helper()
	s, err := New(name, members, Options{TableSize: size})
	if err != nil {
		t.Fatal(err)
	}
	return s.(*hashTable).slots
}

func shares(slots []uint16, members int) []int {
	count := make([]int, members)
	for _, i := range slots {
		count[i]++
	}
	return count
}

// Maglev at the default table size: every share within 1% of its part, up to 1000 members and beyond.
func TestMaglevShares(t *testing.T) {
	for _, n := range []int{3, 100, 655, 656, 1000, 4000} {
		slots := slotsOf(t, "maglev", equal(n), 0)
		fair, worst := float64(len(slots))/float64(n), 0.0
		for _, c := range shares(slots, n) {
			worst = max(worst, math.Abs(float64(c)/fair-1))
		}
		t.Logf("%d members, %d slots: within %.2f%%", n, len(slots), 100*worst)
		if worst > 0.01 {
			t.Errorf("%d members, %d slots: a share is %.2f%% off", n, len(slots), 100*worst)
		}
	}
}

// Weights are normalised: whatever their size, everyone is within a slot of its part, and no one with a weight is
// without.
func TestMaglevWeights(t *testing.T) {
	rng := rand.New(rand.NewPCG(41, 42))
	for range 50 {
		members := equal(1 + rng.IntN(100))
		var sum float64
		for i := range members {
			members[i].Weight = rng.Uint32() >> rng.IntN(33)
			if i == 0 {
				members[i].Weight |= 1
			}
			sum += float64(members[i].Weight)
		}
		const size = 8191
		count := shares(slotsOf(t, "maglev", members, size), len(members))
		raised := 0.0 // slots for those whose part is less than one
		for i, m := range members {
			if part := float64(m.Weight) / sum * size; m.Weight > 0 && part < 1 {
				raised++
				if count[i] != 1 {
					t.Errorf("weight %d of %.0f has %d slots, not its one", m.Weight, sum, count[i])
				}
			}
		}
		for i, m := range members {
			part := float64(m.Weight) / sum * size
			if part >= 1 && (float64(count[i]) > part+1 || float64(count[i]) < part-1-raised) || m.Weight == 0 && count[i] > 0 {
				t.Errorf("weight %d of %.0f has %d slots of %d, want %.1f", m.Weight, sum, count[i], size, part)
			}
		}
	}
}

// moved is the part of the slots of members that stayed which changed hands among them.
func moved(before, after []uint16, gone int) float64 {
	stayed, changed := 0, 0
	for s := range before {
		if int(before[s]) == gone {
			continue
		}
		if stayed++; before[s] != after[s] {
			changed++
		}
	}
	return float64(changed) / float64(stayed)
}

// When one of 1000 leaves for good (a new table), at most 2% of the clients of the others move with maglev, and none
// with source-hash. The same table serves for the one that comes.
func TestDisruption(t *testing.T) {
	for _, n := range []int{10, 100, 1000} {
		for _, name := range hashSchedulers {
			members := equal(n)
			before := slotsOf(t, name, members, 0)
			worst := 0.0
			for _, gone := range []int{0, n / 3, n - 1} {
				without := slices.Clone(members)
				without[gone].Weight = 0
				worst = max(worst, moved(before, slotsOf(t, name, without, len(before)), gone))
			}
			t.Logf("%s: one of %d leaves, %d slots: %.2f%% of the others' slots change hands", name, n, len(before), 100*worst)
			if limit := map[string]float64{"maglev": 0.02}[name]; worst > limit {
				t.Errorf("%s: one of %d leaves and %.2f%% of the others' slots change hands", name, n, 100*worst)
			}
		}
	}
}

// Whatever changes of a member with source-hash, slots go to it or come from it, and never from one other to another.
func TestSourceHashStability(t *testing.T) {
	rng := rand.New(rand.NewPCG(43, 44))
	for range 100 {
		members := equal(2 + rng.IntN(60))
		for i := range members {
			members[i].Weight = rng.Uint32N(20)
		}
		k := rng.IntN(len(members))
		members[k].Weight = 3
		members[(k+1)%len(members)].Weight = 5
		before := slotsOf(t, "source-hash", members, 2039)
		for _, w := range []uint32{0, 1, 2, 4, 30, 1000} {
			after := slices.Clone(members)
			after[k].Weight = w
			for s, i := range slotsOf(t, "source-hash", after, 2039) {
				if i == before[s] {
					continue
				}
				if w < 3 && int(before[s]) != k || w > 3 && int(i) != k {
					t.Fatalf("weight of %d from 3 to %d: slot %d goes from %d to %d", k, w, s, before[s], i)
				}
			}
		}
	}
}

// The shares of source-hash are by weight as far as chance has it: the head of its file says how far.
func TestSourceHashShares(t *testing.T) {
	for _, c := range []struct {
		members int
		std     float64
	}{{4, 0.008}, {100, 0.04}, {1000, 0.09}} {
		slots := slotsOf(t, "source-hash", equal(c.members), 0)
		fair, sum := float64(len(slots))/float64(c.members), 0.0
		for _, x := range shares(slots, c.members) {
			sum += (float64(x)/fair - 1) * (float64(x)/fair - 1)
		}
		std := math.Sqrt(sum / float64(c.members))
		t.Logf("%d members, %d slots: standard deviation %.1f%% of a share", c.members, len(slots), 100*std)
		if std > c.std {
			t.Errorf("%d members, %d slots: standard deviation %.1f%% of a share", c.members, len(slots), 100*std)
		}
	}
	weights := []uint32{1, 2, 5, 0, 12, 100}
	slots := slotsOf(t, "source-hash", weighing(weights...), 131101)
	for i, x := range shares(slots, len(weights)) {
		if part := float64(weights[i]) / 120 * 131101; math.Abs(float64(x)-part) > 0.05*part {
			t.Errorf("weight %d of 120 has %d of 131101 slots, want %.0f", weights[i], x, part)
		}
	}
}

// A table follows from the members, not from their order.
func TestHashTableOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(45, 46))
	for _, name := range hashSchedulers {
		members := equal(50)
		for i := range members {
			members[i].Weight = uint32(i % 5)
		}
		before := slotsOf(t, name, members, 4093)
		shuffled := slices.Clone(members)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for s, i := range slotsOf(t, name, shuffled, 4093) {
			if shuffled[i] != members[before[s]] {
				t.Fatalf("%s: slot %d depends on the order of members", name, s)
			}
		}
	}
}

// Members come and go without a new table: the clients of a missing one go to the others by their shares, everyone
// else's stay, and when it is back so are they. Down to the last one.
func TestHashTableAvailability(t *testing.T) {
	for _, name := range hashSchedulers {
		const n, clients = 100, 40_000
		members := equal(n)
		for i := range members {
			members[i].Weight = uint32(1 + i%3)
		}
		s, err := New(name, members, Options{})
		if err != nil {
			t.Fatal(err)
		}
		count := shares(s.(*hashTable).slots, n)
		weights := make([]uint32, n)
		for i, c := range count {
			weights[i] = uint32(c)
		}
		in := Input{Available: without(n)}
		pick := func() (picks [clients]int) {
			for k := range picks {
				in.Hash = Mix(uint64(k) ^ 0x5ca1ab1e)
				picks[k] = s.Pick(&in)
			}
			return picks
		}
		rng := rand.New(rand.NewPCG(47, 48))
		order := rng.Perm(n)
		base := pick()
		last := base
		history := [][clients]int{base}
		for down, gone := range order[:n-1] {
			in.Available.Clear(gone)
			if d := down + 1; d > 3 && d%10 != 0 && d < 95 {
				continue
			}
			now := pick()
			history = append(history, now)
			spread := make([]int, n)
			for k := range now {
				if in.Available.Has(last[k]) && now[k] != last[k] {
					t.Fatalf("%s: client %d moved from %d to %d, and %d was there", name, k, last[k], now[k], last[k])
				}
				if now[k] != base[k] {
					spread[now[k]]++
				}
			}
			left := slices.Clone(weights)
			for _, i := range order[:down+1] {
				left[i] = 0
			}
			if down+1 == n-1 { // one left has no spread
				if spread[order[n-1]] == 0 {
					t.Errorf("%s: nobody went to the last", name)
				}
			} else if d := deviation(spread, left); math.Abs(d) > 4 && down+1 < 90 {
				t.Errorf("%s: %d of %d missing: their clients are spread %.1f standard deviations off", name, down+1, n, d)
			} else if down+1 >= 90 {
				// Rendezvous goes by weight, and source-hash's slots only about.
				for i, c := range spread {
					if left[i] == 0 {
						continue
					}
					sum := 0.0
					for _, j := range order[down+1:] {
						sum += float64(members[j].Weight)
					}
					all := 0
					for _, x := range spread {
						all += x
					}
					if want := float64(all) * float64(members[i].Weight) / sum; math.Abs(float64(c)-want) > 0.15*want {
						t.Errorf("%s: %d of %d missing: %d has got %d of their clients, want about %.0f", name, down+1, n, i, c, want)
					}
				}
			}
			last = now
		}
		// And back again, in the same steps.
		for h, down := len(history)-1, n-1; down > 0; down-- {
			if d := down; !(d > 3 && d%10 != 0 && d < 95) {
				if pick() != history[h] {
					t.Fatalf("%s: with %d missing clients are elsewhere on the way back", name, down)
				}
				h--
			}
			in.Available.Set(order[down-1])
		}
		if pick() != base {
			t.Errorf("%s: with all back, clients are elsewhere", name)
		}
	}
}

func TestTableSize(t *testing.T) {
	for _, size := range TableSizes() {
		if err := CheckTableSize(size, 1); err != nil {
			t.Error(err)
		}
	}
	if got := TableSizes(); got[0] != 65537 || got[len(got)-1] != MaxTableSize {
		t.Errorf("sizes %v", got)
	}
	for _, c := range []struct{ members, want int }{{0, 65537}, {655, 65537}, {656, 131101}, {1000, 131101}, {4000, 524309}, {5243, 524309}, {5244, 1048583}, {65536, MaxTableSize}} {
		if got := DefaultTableSize(c.members); got != c.want {
			t.Errorf("%d members get %d slots, want %d", c.members, got, c.want)
		}
	}
	for _, name := range hashSchedulers {
		for _, size := range []int{-1, 1, 4, 65536, 65539 * 3, MaxTableSize + 2, 7} {
			if _, err := New(name, equal(4), Options{TableSize: size}); !errors.Is(err, ErrTableSize) {
				t.Errorf("%s with a table of %d: %v", name, size, err)
			}
		}
		// The least: everyone has a slot.
		if count := shares(slotsOf(t, name, equal(5), 11), 5); name == "maglev" && slices.Min(count) < 2 {
			t.Errorf("11 slots for 5: %v", count)
		}
		members := equal(3)
		members[2].ID = members[0].ID
		if _, err := New(name, members, Options{}); !errors.Is(err, ErrIdentity) || err.Error() != "two members have the same identity: numbers 1 and 3 of the pool" {
			t.Errorf("%s with the same member twice: %v", name, err)
		}
		if _, err := New(name, make([]Member, 65537), Options{}); !errors.Is(err, ErrMembers) {
			t.Errorf("%s with 65537 members: %v", name, err)
		}
	}
	_, err := New("maglev", nil, Options{TableSize: 65536})
	if want := "table size 65536 is not a prime: 65537 is the next; usual are [65537 131101 262147 524309 1048583 2097169 4194319]"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	for n, want := range map[int]bool{-7: false, 0: false, 1: false, 2: true, 3: true, 4: false, 9: false, 65537: true, 65521 * 61: false} {
		if isPrime(n) != want {
			t.Errorf("%d is a prime: %v", n, !want)
		}
	}
}

// A table with the most slots and a weight of 1, and one with the greatest weights, end.
func TestTableExtremes(t *testing.T) {
	if testing.Short() {
		t.Skip("builds tables of four million slots")
	}
	for _, name := range hashSchedulers {
		for _, weights := range [][]uint32{{1}, {1, 1}, {math.MaxUint32, 1}, {math.MaxUint32, math.MaxUint32}} {
			count := shares(slotsOf(t, name, weighing(weights...), MaxTableSize), len(weights))
			if len(weights) == 2 && weights[0] == weights[1] && math.Abs(float64(count[0])/MaxTableSize-0.5) > 0.01 {
				t.Errorf("%s %v: %v", name, weights, count)
			}
			if weights[0] > 1 && weights[len(weights)-1] == 1 && count[1] > 1 {
				t.Errorf("%s %v: %v", name, weights, count)
			}
		}
	}
}

// naiveOrder is a member's order of slots, written out.
func naiveOrder(id uint64, size int) []int {
	w := newWalk(id, size)
	var order []int
	for k := range size {
		order = append(order, (int(w.at)+k*int(w.step))%size)
	}
	return order
}

// naiveMaglev lets time pass unit by unit, and members, in the order of their identities, claim what is due.
func naiveMaglev(members []Member, size int) []int {
	slots := slices.Repeat([]int{None}, size)
	order := make([]int, 0)
	var sum uint64
	for i, m := range members {
		if sum += uint64(m.Weight); m.Weight > 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int {
		if members[a].ID < members[b].ID {
			return -1
		}
		return 1
	})
	claims := make([]int, len(members))
	at := make([]uint64, len(members)) // in 2^-40
	for left, now := size, uint64(0); left > 0; now++ {
		for _, i := range order {
			step := sum << 40 / uint64(members[i].Weight)
			if claims[i] == 0 && step < uint64(size)<<40 {
				at[i] = step / 2
			}
			for ; at[i] < (now+1)<<40 && left > 0; at[i] += min(step, uint64(size)<<40) {
				for _, s := range naiveOrder(members[i].ID, size) {
					if slots[s] == None {
						slots[s] = i
						left--
						break
					}
				}
				claims[i]++
			}
		}
	}
	return slots
}

// naiveSourceHash finds for every slot who comes first.
func naiveSourceHash(members []Member, size int) []int {
	slots := slices.Repeat([]int{None}, size)
	when := make([]float64, size)
	for i, m := range members {
		if m.Weight == 0 {
			continue
		}
		for k, s := range naiveOrder(m.ID, size) {
			offset := part(Mix(m.ID+1)) / float64(size)
			at := (-math.Log(1-float64(k)/float64(size)) + offset) * (1 / float64(m.Weight))
			if slots[s] == None || at < when[s] || at == when[s] && m.ID < members[slots[s]].ID {
				slots[s], when[s] = i, at
			}
		}
	}
	return slots
}

func FuzzHashTable(f *testing.F) {
	f.Add(uint64(1), []byte{1, 1, 1})
	f.Add(uint64(2), []byte{0, 5, 200, 1})
	f.Add(uint64(3), []byte{255, 1, 0, 0, 9, 9, 9, 128})
	f.Fuzz(func(t *testing.T, seed uint64, weights []byte) {
		const size = 127
		if len(weights) > size/2 {
			return
		}
		members := make([]Member, len(weights))
		total := 0
		for i, w := range weights {
			members[i] = Member{Weight: uint32(w), ID: Mix(seed + uint64(i))}
			total += int(w)
		}
		if total == 0 {
			return
		}
		compare := func(name string, want []int) {
			for s, i := range slotsOf(t, name, members, size) {
				if int(i) != want[s] {
					t.Fatalf("%s %v: slot %d belongs to %d, not to %d", name, weights, s, i, want[s])
				}
			}
		}
		compare("source-hash", naiveSourceHash(members, size))
		compare("maglev", naiveMaglev(members, size))
	})
}
