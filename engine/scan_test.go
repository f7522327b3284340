package engine

import (
	"fmt"
	"sync"
	"testing"

	"sluice/flow"
)

// Lists are whole while workers change: every connection is in each of them, once, and a deletion finds what moves.
func TestListsWhileScaling(t *testing.T) {
	const conns = 6000
	s := newScaleBench(t, 2, 4*conns, func(s *scaleBench) uint64 { return s.now }) // nothing expires
	for port := uint16(1); port <= conns; port++ {
		s.serverOf(port)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	var wg sync.WaitGroup
	lists, changed := make([]int, 3), make([]int, 3)
	for n := range lists {
		wg.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				before := s.seated()[0].runtime.generation
				seen := map[flow.Key]int{}
				if n == 2 { // as an export, where one that moves may come twice
					if err := s.EachConnection(t.Context(), nil, func(c *Conn) bool { seen[c.ClientKey()]++; return true }); err != nil {
						t.Error(err)
						return
					}
				} else {
					list, err := s.Connections(t.Context(), 1<<20, nil)
					if err != nil {
						t.Error(err)
						return
					}
					if len(list) != conns {
						t.Errorf("a list has %d connections, there are %d", len(list), conns)
					}
					for i := range list {
						seen[list[i].ClientKey()]++
					}
				}
				if len(seen) != conns {
					t.Errorf("list %d has %d of %d connections", n, len(seen), conns)
					return
				}
				lists[n]++
				if s.seated()[0].runtime.generation != before {
					changed[n]++
				}
			}
		})
	}
	for round := range 40 {
		s.scale([]int{1, 3, 2, 4}[round%4], 4*conns)
	}
	close(over)
	wg.Wait() // the last lists are to find all of them as well
	// What one asks to be deleted is, wherever it is by then.
	wg.Go(func() {
		for round := range 8 {
			s.scale([]int{1, 3, 2, 4}[round%4], 4*conns)
		}
	})
	n, err := s.DeleteConnections(t.Context(), 1<<20, false, func(c *Conn) bool { return c.CPort%2 == 0 })
	wg.Wait()
	left, listErr := s.Connections(t.Context(), 1<<20, nil)
	if err != nil || listErr != nil || n != conns/2 || len(left) != conns/2 {
		t.Errorf("%d were deleted and %d are left, of %d: %v %v", n, len(left), conns, err, listErr)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range lists {
		if lists[i] == 0 || changed[i] == 0 {
			t.Errorf("%v lists, during %v of which workers changed", lists, changed)
		}
	}
	t.Log(fmt.Sprint(lists), "lists, workers changed during", changed)
	s.close()
}

// Between the steps of any two workers during a scaling a list has every connection, those in flight too.
func TestListsBetweenSteps(t *testing.T) {
	const conns = 500
	moving, lists, frozen := false, 0, 0
	s := newScaleBench(t, 1, 2*conns, func(s *scaleBench) uint64 {
		if !moving {
			return s.now
		}
		for _, w := range s.seated() {
			w.step(s.now)
			if w.leaving != nil {
				frozen += w.leaving.unmoved
			}
			list, err := s.Connections(t.Context(), 1<<20, nil)
			if err != nil || len(list) != conns {
				t.Errorf("a list has %d connections, there are %d: %v", len(list), conns, err)
			}
			lists++
		}
		return s.now
	})
	for port := uint16(1); port <= conns; port++ {
		s.serverOf(port)
	}
	for _, workers := range []int{2, 4, 3, 1, 2} {
		moving = true
		s.scale(workers, 2*conns)
		moving = false
		for range 20 {
			s.Step(s.now)
		}
	}
	if lists < 10 || frozen == 0 {
		t.Errorf("%d lists, while %d frames with connections were under way", lists, frozen)
	}
	s.close()
}
