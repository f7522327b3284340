package ctl

import (
	"net/http"
	"sync"
	"time"
)

// working counts what of an API asks the engine. http.Server.Close ends connections, not handlers; the engine must not be taken apart
// under one that has not noticed yet.
type working struct {
	mu     sync.Mutex
	n      int
	closed bool
	idle   chan struct{} // closed when nobody is left; nil before close
}

// enter reports whether there is still something to ask; then leave must be called.
func (w *working) enter() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.n++
	return true
}

func (w *working) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n--; w.n == 0 && w.closed {
		close(w.idle)
	}
}

// workingTime is how long a stop waits for those inside. They end sooner: their connections are closed, and workers answer.
const workingTime = askTimeout

// close lets nobody in any more, waits for those inside, and reports whether they have ended in time.
func (w *working) close() bool {
	w.mu.Lock()
	if !w.closed {
		w.closed, w.idle = true, make(chan struct{})
		if w.n == 0 {
			close(w.idle)
		}
	}
	w.mu.Unlock()
	select {
	case <-w.idle:
		return true
	case <-time.After(workingTime):
		return false
	}
}

// around counts what h does.
func (w *working) around(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !w.enter() {
			panic(http.ErrAbortHandler) // its connection is closed
		}
		defer w.leave()
		h.ServeHTTP(rw, r)
	})
}
