package sched

import (
	"fmt"
	"math"
	"slices"
)

// hashTable is what maglev and source-hash look a client up in; they differ in how they fill it.
//
// A client whose member is not available looks at further slots, which follow from its hash, and takes the first whose
// member is. So it stays with that one while others come and go; those of a missing member are spread over the others
// by their shares; nobody else moves; and when the member is back, its clients are too. After that many misses that
// hardly anyone can be there, rendezvous decides by the same rules.
type hashTable struct {
	slots    []uint16
	fallback rendezvous
}

func (t *hashTable) Needs() Needs { return NeedsHash }

func (t *hashTable) Pick(in *Input) int {
	if len(t.slots) == 0 {
		return None
	}
	x := in.Hash
	for range probes {
		if i := int(t.slots[scale(x, len(t.slots))]); in.available(i) {
			return i
		}
		x = Mix(x)
	}
	return t.fallback.pick(in.Hash, in, None)
}

// tableSizes are the primes that follow the powers of two: one step doubles the table.
var tableSizes = []int{65537, 131101, 262147, 524309, 1048583, 2097169, 4194319}

// TableSizes are the primes that DefaultTableSize chooses from.
func TableSizes() []int { return slices.Clone(tableSizes) }

// MaxTableSize is the largest table.
const MaxTableSize = 4194319

// slotsPerMember keeps the shares of members of equal weight within 1% with maglev, whose counts of slots differ by
// one.
const slotsPerMember = 100

// DefaultTableSize is the least of TableSizes with 100 slots for each member: 65537 up to 655 members, 131101 up to
// 1311, 524309 up to 5243. A pool that grows over such a limit gets a new table, and most clients move; who cannot have
// that sets the size.
func DefaultTableSize(members int) int {
	for _, size := range tableSizes {
		if members <= size/slotsPerMember {
			return size
		}
	}
	return MaxTableSize
}

// newHashTable checks the settings and has fill set the slots to positions in order, the members with a weight by
// identity. So a table does not depend on the order of the configuration.
func newHashTable(members []Member, o Options, fill func(slots []uint16, order []Member)) (Scheduler, error) {
	if len(members) > math.MaxUint16+1 {
		return nil, fmt.Errorf("%w: %d, and a hash table takes %d", ErrMembers, len(members), math.MaxUint16+1)
	}
	var order []uint16
	for i, m := range members {
		if m.Weight > 0 {
			order = append(order, uint16(i))
		}
	}
	slices.SortFunc(order, func(a, b uint16) int {
		if members[a].ID < members[b].ID {
			return -1
		}
		return 1
	})
	sorted := make([]Member, len(order))
	for k, i := range order {
		sorted[k] = members[i]
		if k > 0 && sorted[k].ID == sorted[k-1].ID {
			return nil, fmt.Errorf("%w: numbers %d and %d of the pool", ErrIdentity, min(order[k-1], i)+1, max(order[k-1], i)+1)
		}
	}
	size := o.TableSize
	if size == 0 {
		size = DefaultTableSize(len(order))
	}
	if err := CheckTableSize(size, len(order)); err != nil {
		return nil, err
	}
	if len(order) == 0 {
		return &hashTable{}, nil
	}
	t := &hashTable{make([]uint16, size), newRendezvous(members)}
	fill(t.slots, sorted)
	for s, k := range t.slots {
		t.slots[s] = order[k]
	}
	return t, nil
}

// CheckTableSize reports, wrapped in ErrTableSize, why a table for a number of members cannot have a size.
func CheckTableSize(size, members int) error {
	switch {
	case size < 2 || size > MaxTableSize:
		return fmt.Errorf("%w %d: from 2 to %d", ErrTableSize, size, MaxTableSize)
	case !isPrime(size):
		next := size
		for !isPrime(next) && next < MaxTableSize {
			next++
		}
		return fmt.Errorf("%w %d is not a prime: %d is the next; usual are %v", ErrTableSize, size, next, tableSizes)
	case size < 2*members:
		return fmt.Errorf("%w %d is too small for %d members: at least %d, for even shares %d", ErrTableSize, size, members, 2*members, DefaultTableSize(members))
	}
	return nil
}

func isPrime(n int) bool {
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return n >= 2
}

// walk is the order in which a member wants the slots: a permutation, because the number of slots is a prime.
type walk struct{ at, step uint32 }

func newWalk(id uint64, size int) walk {
	return walk{uint32(scale(Mix(id), size)), 1 + uint32(scale(Mix(^id), size-1))}
}

func (w *walk) next(size uint32) {
	if w.at += w.step; w.at >= size {
		w.at -= size
	}
}
