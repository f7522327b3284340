package ctl

import (
	"math"
	"testing"
	"time"

	"sluice/engine"
)

func TestRates(t *testing.T) {
	var r rates
	at := 100 * time.Second
	sample := func(n int, began, at, busy time.Duration, packets uint64, largest time.Duration) {
		r.add([]engine.Activity{{Worker: n, Began: began, At: at, Busy: busy, RxPackets: packets, LargestPause: largest, PauseEnd: at}})
	}
	want := func(what string, packets, busy float64, largest, end time.Duration) {
		t.Helper()
		p, b, l := r.worker(0)
		if math.Abs(p-packets) > 1e-6 || math.Abs(b-busy) > 1e-9 || l != (pause{largest, end}) {
			t.Errorf("%s: %v packets a second, busy %v, pause %+v", what, p, b, l)
		}
	}
	want("nothing known", 0, 0, 0, 0)
	sample(0, 1, at, 0, 1000, 0)
	want("one sample has no rate", 0, 0, 0, 0)
	at += 2 * time.Second
	sample(0, 1, at, time.Second/2, 5000, 3*time.Millisecond)
	pauseAt := at
	want("two samples", 2000, 0.25, 3*time.Millisecond, pauseAt)
	at += time.Second
	sample(0, 2, at, 9*time.Second, 90000, 0) // another worker of the same number
	want("another worker", 0, 0, 3*time.Millisecond, pauseAt)
	for range pauseMemory - 2 {
		at += time.Second
		sample(0, 2, at, 9*time.Second, 90000, time.Millisecond)
	}
	want("remembered for a minute", 0, 0, 3*time.Millisecond, pauseAt)
	last := at
	at += time.Second
	sample(0, 2, at, 10*time.Second, 90000, 0)
	want("and no longer", 0, 1, time.Millisecond, last)
	sample(1, 2, at, 0, 0, 0)
	want("gone", 0, 0, 0, 0)
}

func TestWallTime(t *testing.T) {
	if d := time.Since(wallTime(0)); d <= 0 || d > 100*365*24*time.Hour {
		t.Errorf("booted %v ago", d)
	}
}
