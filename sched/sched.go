// Package sched picks the member that serves a new connection. Every scheduler is a small immutable type: what
// changes between picks (whose turn it is, how many connections each member has, who is available) is handed in, so
// that a pick can be repeated, tested and explained without taking a turn.
//
//	round-robin                 everyone in turn, whatever the weight
//	weighted-round-robin        turns by weight, spread evenly over the cycle
//	least-connections           the fewest connections
//	weighted-least-connections  the fewest connections for its weight
//	fastest                     the shortest handshake for its connections and weight
//	two-choices                 the less loaded of two drawn at random by weight
//	source-hash                 the client's hash; a change of one member moves its own clients and no other's
//	maglev                      the client's hash; shares exact, a change of one member moves a few of the others' clients
//	first                       the first in the pool's order
//	random                      at random by weight
//
// Members come and go far more often than a pool's configuration changes, so a scheduler is made for weights and asked
// with a Bitmap of who is available. The choice of a member that is available does not depend on the others: round
// robins and hashes pick as if all were available, and only what would have gone to a missing member is spread over
// the others by weight. A member that could not take the connection is skipped the same way: its bit is cleared and the
// same input asked again.
package sched

import (
	"errors"
	"fmt"
	"math/bits"
)

// Member is what a scheduler is made from.
type Member struct {
	// Weight is the member's part of the connections; 0 takes none.
	Weight uint32
	// ID is the member wherever it stands in the pool and in every process, see Identity. The hash schedulers read it,
	// and no two members may have the same; to the others it may be 0.
	ID uint64
}

// Options are the settings of schedulers that have some. The zero value is the default of each.
type Options struct {
	// TableSize is the number of slots of maglev and source-hash: a prime, at least twice the members, at most
	// MaxTableSize. 0 is DefaultTableSize of the members that have a weight.
	TableSize int
	// HalfLife is the time in milliseconds in which fastest halves a handshake time that is not renewed.
	// 0 is DefaultHalfLife.
	HalfLife uint32
}

// Candidate is a member of the pool at the time of a pick. A scheduler reads the fields that its Needs name.
type Candidate struct {
	Weight  uint32 // as in Member, but of now
	Active  uint32 // connections over all workers
	Latency uint32 // smoothed handshake time in microseconds, 0 unknown
	Age     uint32 // milliseconds since Latency was last renewed
}

// Input is what a pick depends on.
type Input struct {
	// Turn counts the picks of the pool, over all workers. A pick that is repeated without a member keeps its turn.
	Turn uint64
	// Hash identifies the client, every bit of it alike: HashInput makes one.
	Hash uint64
	// Random is a number in which every bit is as likely 0 as 1. Mix of a counter will do.
	Random uint64
	// Available says who may be picked. Nil is everyone; members beyond its end are not available.
	Available Bitmap
	// Candidates are the members in the order of New. Schedulers whose Needs name none of its fields do not look at it.
	Candidates []Candidate
}

// Needs says which inputs a scheduler reads, so that the caller prepares no others.
type Needs uint8

// The inputs. The last three are fields of the candidates.
const (
	NeedsTurn Needs = 1 << iota
	NeedsHash
	NeedsRandom
	NeedsWeight
	NeedsActive
	NeedsLatency // with Age
)

// None is returned when no member with a weight is available.
const None = -1

// Scheduler picks among the members it was made for. It is immutable and may be used by all workers.
type Scheduler interface {
	// Pick returns the index of a member, or None. It depends on in alone, and does not keep or change it.
	Pick(in *Input) int
	Needs() Needs
}

// Drawer is a Scheduler that compares two candidates and needs no other. A caller may ask for them first and fill in
// only these; Pick with the same input then looks at no others.
type Drawer interface {
	Scheduler
	// Draw returns two indexes, the same twice where only one member is available, or None twice.
	Draw(in *Input) (a, b int)
}

// The errors of New.
var (
	ErrUnknown   = errors.New("unknown scheduler")
	ErrTableSize = errors.New("table size")
	ErrIdentity  = errors.New("two members have the same identity")
	ErrMembers   = errors.New("too many members")
)

type kind struct {
	name    string
	weights bool
	make    func([]Member, Options) (Scheduler, error)
}

var kinds = []kind{
	{"round-robin", false, func(m []Member, _ Options) (Scheduler, error) { return newRoundRobin(m), nil }},
	{"weighted-round-robin", true, func(m []Member, _ Options) (Scheduler, error) { return newWeightedRoundRobin(m), nil }},
	{"least-connections", false, func([]Member, Options) (Scheduler, error) { return leastConnections{}, nil }},
	{"weighted-least-connections", true, func([]Member, Options) (Scheduler, error) { return weightedLeastConnections{}, nil }},
	{"fastest", true, func(_ []Member, o Options) (Scheduler, error) { return newFastest(o), nil }},
	{"two-choices", true, func(m []Member, _ Options) (Scheduler, error) { return newTwoChoices(m), nil }},
	{"source-hash", true, newSourceHash},
	{"maglev", true, newMaglev},
	{"first", false, func(m []Member, _ Options) (Scheduler, error) { return newFirst(m), nil }},
	{"random", true, func(m []Member, _ Options) (Scheduler, error) { return newRandom(m), nil }},
}

// Names are the schedulers, as the configuration names them.
func Names() []string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

// UsesWeights reports whether the named scheduler looks at weights other than 0.
func UsesWeights(name string) bool {
	for _, k := range kinds {
		if k.name == name {
			return k.weights
		}
	}
	return false
}

// New makes the named scheduler for members. It takes time: about that of table size × its logarithm for the hash
// schedulers.
func New(name string, members []Member, o Options) (Scheduler, error) {
	for _, k := range kinds {
		if k.name == name {
			return k.make(members, o)
		}
	}
	return nil, fmt.Errorf("%w %q", ErrUnknown, name)
}

// scale maps x, evenly, to 0 … n-1.
func scale(x uint64, n int) int {
	hi, _ := bits.Mul64(x, uint64(n))
	return int(hi)
}

// eligible are the members with a weight.
func eligible(members []Member) Bitmap {
	b := NewBitmap(len(members))
	for i, m := range members {
		if m.Weight > 0 {
			b.Set(i)
		}
	}
	return b
}
