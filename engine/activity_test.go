package engine

import (
	"slices"
	"testing"
	"time"
)

// A worker's time is told from one reading of the clock a step.
func TestActivity(t *testing.T) {
	const us, ms = 1000, 1_000_000
	a := activity{began: 5, last: 5}
	now := uint64(5)
	step := func(gap uint64, found bool) { // gap after a step that found something or not
		a.found = found
		now += gap
		a.next(now)
	}
	step(10*us, true)
	step(20*us, false)
	now += 5 * ms // asleep
	a.last = now
	step(90*us, true)
	if a.busy != 100*us || a.Sum != 0 || a.largest != 90*us || a.largestAt != now {
		t.Fatalf("%+v", a)
	}
	step(100*us, false) // just no pause
	if a.Sum != 0 || a.largest != 100*us {
		t.Errorf("%+v", a)
	}
	step(101*us, false)
	step(2*ms, true)
	step(2*ms+1, false)
	long := now
	step(10*us, false)
	step(7e9, true)
	if want := [7]uint64{1, 0, 2, 0, 0, 0, 1}; a.Classes != want {
		t.Errorf("classes %v, want %v", a.Classes, want)
	}
	if a.Sum != 101*us+4*ms+1+7e9 || a.busy != 100*us+2*ms+7e9 || a.largest != 7e9 || a.largestAt <= long {
		t.Errorf("%+v", a)
	}
	if n := testing.AllocsPerRun(100, func() { step(200*us, true) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A worker that is kept from its loop says for how long and when, once; one that sleeps does not.
func TestPauseIsSeen(t *testing.T) {
	for _, polling := range []Polling{PollBusy, PollAdaptive, PollInterrupt} {
		bn := newBench(t, a4(1), 64, 512)
		bn.clock = newClock(nil)
		bn.workers[0].runtime.polling = polling
		if err := bn.Start(); err != nil {
			t.Fatal(err)
		}
		began := bn.clock.nanos()
		bn.activity()
		before := bn.clock.nanos()
		if err := bn.wait(t.Context(), bn.workers[0], func(*worker) { time.Sleep(30 * time.Millisecond) }); err != nil {
			t.Fatal(err)
		}
		// The gap is told by the step after it, so two messages: the second is applied after such a step.
		if err := bn.wait(t.Context(), bn.workers[0], func(*worker) {}); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			a := bn.activity()
			if a.LargestPause >= 30*time.Millisecond {
				if end := uint64(a.PauseEnd); end < before+30e6 || end > bn.clock.nanos() {
					t.Errorf("%v: the pause ended at %d, it began after %d", polling, end, before)
				}
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%v: the pause was not seen: %+v", polling, a)
			}
		}
		a := bn.activity()
		if a.Busy != 0 || a.RxPackets != 0 || uint64(a.Began) > began+uint64(time.Second) {
			t.Errorf("%v: nothing came, but %+v", polling, a)
		}
		if err := bn.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		bn.close()
	}
}

// The share of time in steps that found work is that of a worker without pause under load, and none without.
func TestBusyShare(t *testing.T) {
	bn := newBench(t, a4(1), 64, 2048)
	defer bn.close()
	bn.clock = newClock(nil)
	if err := bn.Start(); err != nil {
		t.Fatal(err)
	}
	share := func(load bool) float64 {
		before, err := bn.Activities(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		frame := fromServer(1, 9, "A").build(t) // to the host
		for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
			if !load {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			bn.wire(0, inside).Send(frame)
			bn.wire(0, host).Recv(nil)
		}
		after, err := bn.Activities(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if load == (after[0].RxPackets == before[0].RxPackets) {
			t.Errorf("received %d packets", after[0].RxPackets-before[0].RxPackets)
		}
		return float64(after[0].Busy-before[0].Busy) / float64(after[0].At-before[0].At)
	}
	if s := share(false); s != 0 {
		t.Errorf("busy share %.3f without a packet", s)
	}
	if s := share(true); s <= 0 || s > 1 {
		t.Errorf("busy share %.3f under load", s)
	}
	if err := bn.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkActivity is what it costs to know, a step.
func BenchmarkActivity(b *testing.B) {
	a := activity{}
	now := uint64(0)
	for b.Loop() {
		now += 5000
		a.found = now&8192 == 0
		a.next(now)
	}
}

// BenchmarkObserved runs the pipeline with the loop's clock alone, and with the accounting of time beside it, in turns of a
// few bursts each, and reports the ratio of their medians: noise of the machine meets both.
func BenchmarkObserved(b *testing.B) {
	const flows, turn = 1000, 16
	bn := newBench(b, a4(1), flows+flows/4+16, 2048)
	defer bn.close()
	var frames [2][][]byte
	for i := range flows {
		c2s, s2c := establish(b, bn, i)
		frames[0], frames[1] = append(frames[0], c2s), append(frames[1], s2c)
	}
	clock, w := newClock(nil), bn.workers[0]
	clock.given = func() uint64 { return bn.now }
	at := 0
	burst := func(observed bool) {
		for d := range frames {
			bn.wire(0, d).SendBurst(frames[d][at : at+burstSize/2])
		}
		if at += burstSize / 2; at+burstSize/2 > flows {
			at = 0
		}
		w.control()
		now := clock.nanos()
		if observed {
			w.runtime.activity.next(now)
			w.runtime.activity.found = w.step(clock.millis(now))
		} else {
			w.step(clock.millis(now))
		}
		bn.wire(0, inside).Recv(nil)
		bn.wire(0, outside).Recv(nil)
	}
	var took [2][]time.Duration
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		for range turn {
			burst(i&1 == 1)
		}
		took[i&1] = append(took[i&1], time.Since(begin))
	}
	if len(took[1]) == 0 {
		return
	}
	for i := range took {
		slices.Sort(took[i])
	}
	median := func(i int) float64 { return float64(took[i][len(took[i])/2]) / (turn * burstSize) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(0), "ns/packet-without")
	b.ReportMetric(median(1), "ns/packet-with")
	b.ReportMetric(median(1)/median(0), "ratio")
}
