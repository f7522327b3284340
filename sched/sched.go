// Package sched picks the member that serves a new connection. Every scheduler is a small pure type: what
// changes between picks (whose turn it is, how many connections each member has) is handed in, so that a pick can
// be repeated, tested and explained without taking a turn.
package sched

import (
	"errors"
	"fmt"
)

// Candidate is a member that may be picked, as a scheduler sees it.
type Candidate struct {
	Weight uint32 // 0 takes no new connection
	Active uint32 // its connections over all workers; only where Needs says so
}

// Input is what a pick depends on.
type Input struct {
	// Turn counts the picks of the pool, over all workers. Only where Needs says so.
	Turn uint64
	// Hash identifies the client.
	Hash uint64
	// Candidates are the members in the order of the scheduler's making; Active is filled in before the pick.
	Candidates []Candidate
}

// Needs says which inputs a scheduler reads, so that the caller prepares no others.
type Needs uint8

// The inputs that cost something to prepare.
const (
	NeedsTurn Needs = 1 << iota
	NeedsActive
)

// None is returned when there is no candidate with a weight.
const None = -1

// Scheduler picks among the candidates it was made for. It is immutable and may be used by all workers.
type Scheduler interface {
	// Pick returns the index of a candidate, or None.
	Pick(in *Input) int
	Needs() Needs
}

// ErrUnknown is returned for a scheduler that does not exist.
var ErrUnknown = errors.New("unknown scheduler")

// Names are the schedulers, as the configuration names them.
func Names() []string {
	return []string{"round-robin", "weighted-round-robin", "least-connections"}
}

// New makes the named scheduler for members with the given weights.
func New(name string, weights []uint32) (Scheduler, error) {
	switch name {
	case "round-robin":
		return newRoundRobin(weights), nil
	case "weighted-round-robin":
		return newWeightedRoundRobin(weights), nil
	case "least-connections":
		return leastConnections{}, nil
	}
	return nil, fmt.Errorf("%w %q", ErrUnknown, name)
}
