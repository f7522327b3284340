package engine

import "time"

// clock is read once a step, through the vDSO.
type clock struct {
	nanos func() uint64 // since boot (CLOCK_MONOTONIC)
	given func() uint64 // milliseconds instead of nanos, for tests and replay; nil otherwise
}

func newClock(given func() uint64) clock {
	start := time.Now()
	var base uint64
	if ns, err := monotonicNow(); err == nil {
		base = ns
	}
	return clock{nanos: func() uint64 { return base + uint64(time.Since(start)) }, given: given}
}

// millis is the time of a step that began at now, in milliseconds.
func (c *clock) millis(now uint64) uint64 {
	if c.given != nil {
		return c.given()
	}
	return now / 1e6
}

// micros is the time now, in microseconds.
func (c *clock) micros() uint64 {
	if c.given != nil {
		return c.given() * 1000
	}
	return c.nanos() / 1e3
}

// MonotonicClock is milliseconds since boot.
func MonotonicClock() func() uint64 {
	c := newClock(nil)
	return func() uint64 { return c.millis(c.nanos()) }
}
