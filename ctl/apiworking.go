package ctl

import (
	"net/http"
	"sync"
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

// close lets nobody in any more and waits for those inside. They end soon: their connections are closed, and workers answer.
func (w *working) close() {
	w.mu.Lock()
	if !w.closed {
		w.closed, w.idle = true, make(chan struct{})
		if w.n == 0 {
			close(w.idle)
		}
	}
	w.mu.Unlock()
	<-w.idle
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
