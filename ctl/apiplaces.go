package ctl

import (
	"context"
	"fmt"
	"net/http"
	"sync"
)

// places bounds how many requests of a kind are under way. A quarter of them is for administrators alone, so that readers, however many
// they are, never keep one out; one reader has a quarter, one administrator half of them at most.
//
//	|  reader's most  |                 |                 |  administrators |
//	|----------- all readers together ------------------|
//	|------ administrator's most -------|
type places struct {
	what, todo string
	total      chan struct{}
	readers    chan struct{} // of these

	mu sync.Mutex
	of map[string]*share
}

// share are the places of one peer, and how many requests hold or want one.
type share struct {
	places chan struct{}
	users  int
}

func newPlaces(what string, n int, todo string) places {
	return places{what: what, todo: todo, total: make(chan struct{}, n), readers: make(chan struct{}, n-max(1, n/4)), of: map[string]*share{}}
}

// use is the share of a peer, until done is called.
func (p *places) use(who peer) (s *share, done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s = p.of[who.name]; s == nil {
		most := cap(p.total) / 4
		if who.role == RoleAdmin {
			most = cap(p.total) / 2
		}
		s = &share{places: make(chan struct{}, max(1, most))}
		p.of[who.name] = s
	}
	s.users++
	return s, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if s.users--; s.users == 0 {
			delete(p.of, who.name)
		}
	}
}

// enter waits for a place, or says why there is none.
func (p *places) enter(ctx context.Context, who peer) (leave func(), code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	s, done := p.use(who)
	var held []chan struct{}
	give := func() {
		for _, places := range held {
			<-places
		}
		done()
	}
	take := func(places chan struct{}) bool {
		select {
		case places <- struct{}{}:
			held = append(held, places)
			return true
		default:
		}
		select {
		case places <- struct{}{}:
			held = append(held, places)
			return true
		case <-ctx.Done():
			return false
		}
	}
	if !take(s.places) {
		give()
		return nil, http.StatusTooManyRequests, retryLater{maxWait, fmt.Errorf("%s has %d %s under way, which is all that it may have: %s", who.name, cap(s.places), p.what, p.todo)}
	}
	if who.role != RoleAdmin && !take(p.readers) {
		give()
		return nil, http.StatusTooManyRequests, retryLater{maxWait, fmt.Errorf("readers have %d %s under way, which is all that they may have: %s", cap(p.readers), p.what, p.todo)}
	}
	if !take(p.total) {
		give()
		return nil, http.StatusServiceUnavailable, retryLater{maxWait, fmt.Errorf("%d %s are under way, which is all that the engine answers at once: try again in a second", cap(p.total), p.what)}
	}
	return give, 0, nil
}
