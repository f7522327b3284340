package ctl

import (
	"context"
	"sync"
	"time"

	"sluice/engine"
)

// snapshotGap is the least time between two snapshots of the workers for the API. Each costs a worker a microsecond or more, so
// ten thousand requests a second must not have as many.
const snapshotGap = 20 * time.Millisecond

// sharedSnapshots gives every request a snapshot that began after the request came, and many the same one. A lone request does
// not wait.
type sharedSnapshots struct {
	take func(context.Context) ([]engine.Snapshot, error)

	mu   sync.Mutex
	next *sharedShot // has not begun
	last time.Time   // when the last one began
}

type sharedShot struct {
	done  chan struct{}
	snaps []engine.Snapshot
	err   error
}

// get is a snapshot that nobody changes.
func (s *sharedSnapshots) get(ctx context.Context) ([]engine.Snapshot, error) {
	s.mu.Lock()
	shot := s.next
	if shot == nil {
		shot = &sharedShot{done: make(chan struct{})}
		s.next = shot
		go s.run(shot, s.last.Add(snapshotGap))
	}
	s.mu.Unlock()
	select {
	case <-shot.done:
		return shot.snaps, shot.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// run takes the snapshot at that time, for all that have come until then.
func (s *sharedSnapshots) run(shot *sharedShot, at time.Time) {
	time.Sleep(time.Until(at))
	s.mu.Lock()
	s.next, s.last = nil, time.Now()
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	shot.snaps, shot.err = s.take(ctx)
	close(shot.done)
}
