//go:build !amd64

package engine

// fetch has no instruction for it here: loads that nobody waits for would cost more than they save.
func (w *worker) fetch() {}
