package engine

import (
	"slices"
	"testing"
	"time"
)

// resting is an engine with a worker that has nothing to poll and no queues that want to be looked at, so that it sleeps as long as it may.
func resting(t *testing.T) *bench {
	bn := newBench(t, a4(1), 64, 1024)
	bn.clock = newClock(nil)
	w := bn.workers[0]
	w.runtime.polling, w.rx = PollAdaptive, nil
	return bn
}

// asleep waits until the worker sleeps.
func (b *bench) asleep() {
	b.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !b.workers[0].runtime.waker.sleeping.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatal("it does not sleep")
		}
	}
}

// activity is what the only worker did.
func (b *bench) activity() Activity {
	b.t.Helper()
	as, err := b.Activities(b.t.Context())
	if err != nil || len(as) != 1 {
		b.t.Fatal(as, err)
	}
	return as[0]
}

// An idle worker is left alone: it sleeps on while it is seen to live and has nothing new to tell of. Nothing is lost of what it did.
func TestSleepingWorkerIsLeftAlone(t *testing.T) {
	bn := resting(t)
	if err := bn.Start(); err != nil {
		t.Fatal(err)
	}
	w, p := bn.workers[0], &Pulse{}
	for range 3 { // the first answer is its own; a pause while it gives it is another reason to ask
		bn.asleep()
		bn.activity()
	}
	bn.asleep()
	before, beat := bn.activity(), w.runtime.beat.Load()
	for range 20 {
		time.Sleep(time.Millisecond)
		if !p.Lives(bn.Engine, time.Now()) {
			t.Error("a worker that sleeps is taken for dead")
		}
		a := bn.activity()
		if a.At <= before.At || a.Began != before.Began || a.Busy != before.Busy || a.RxPackets != before.RxPackets || a.LargestPause != 0 {
			t.Errorf("%+v after %+v", a, before)
		}
		before = a
	}
	if n := w.runtime.beat.Load(); n != beat {
		t.Errorf("it made %d steps", n-beat)
	}
	if err := bn.wait(t.Context(), w, func(w *worker) { // as packets would
		w.stats.Bursts++
		w.stats.RxPackets += 7
	}); err != nil {
		t.Fatal(err)
	}
	bn.asleep()
	if a := bn.activity(); a.RxPackets != before.RxPackets+7 {
		t.Errorf("%d packets, then %d", before.RxPackets, a.RxPackets)
	}
	if err := bn.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// One that neither makes steps nor sleeps is not alive, nor is one that sleeps for longer than it may.
func TestHungWorkerIsSeen(t *testing.T) {
	bn := resting(t)
	if err := bn.Start(); err != nil {
		t.Fatal(err)
	}
	w, p, now := bn.workers[0], &Pulse{}, time.Now()
	go1, hung := make(chan struct{}), make(chan struct{})
	done, err := bn.tell(t.Context(), w, func(*worker) {
		close(hung)
		<-go1
	})
	if err != nil {
		t.Fatal(err)
	}
	<-hung
	if !p.Lives(bn.Engine, now) {
		t.Error("it is dead at the first sight")
	}
	if p.Lives(bn.Engine, now.Add(time.Second)) {
		t.Error("a worker that hangs lives")
	}
	close(go1)
	<-done
	bn.asleep()
	if !p.Lives(bn.Engine, now.Add(2*time.Second)) {
		t.Error("it has made a step since")
	}
	w.runtime.waker.wake()
	time.Sleep(10 * time.Millisecond)
	bn.asleep()
	if !p.Lives(bn.Engine, now.Add(3*time.Second)) || !p.Lives(bn.Engine, now.Add(3*time.Second+sleepBelieved-1)) {
		t.Error("it sleeps")
	}
	if p.Lives(bn.Engine, now.Add(3*time.Second+sleepBelieved)) {
		t.Error("it sleeps for longer than it may")
	}
	if err := bn.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A connection ends in time while its worker sleeps, which looks when something may end and not more often.
func TestConnectionsEndWhileAsleep(t *testing.T) {
	spec := a4(1)
	for i := range spec.Virtuals {
		spec.Virtuals[i].Timeouts = DefaultTimeouts
		spec.Virtuals[i].Timeouts.UDPUnanswered = 700
	}
	bn := newBench(t, spec, 64, 1024)
	bn.clock = newClock(nil)
	bn.now = bn.clock.millis(bn.clock.nanos())
	only(t, bn.send(outside, packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, udp: true, sport: 4000, dport: 53}.build(t)), inside)
	w := bn.workers[0]
	w.runtime.polling, w.rx = PollAdaptive, nil
	active := func() (n int64) {
		for i := range bn.Config().virtuals {
			if s := bn.Config().virtuals[i].shared; s != nil {
				n += s.active.Load()
			}
		}
		return n
	}
	if n := active(); n != 1 {
		t.Fatalf("%d connections", n)
	}
	began := time.Now()
	if err := bn.Start(); err != nil {
		t.Fatal(err)
	}
	for active() > 0 && time.Since(began) < 10*time.Second {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(began)
	if err := bn.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took < 600*time.Millisecond || took > longSleep-300*time.Millisecond { // a busy machine is slow, but not so slow
		t.Errorf("it ended after %v", took)
	}
	if n := w.stats.Sleeps; n == 0 || n > 5 {
		t.Errorf("%d sleeps", n)
	}
}

// What a worker does without letting go of its core it does in its turn among the other messages.
func TestBriefMessages(t *testing.T) {
	stayAnywhere(t)
	bn := newBench(t, a4(1), 64, 1024)
	bn.clock = newClock(nil)
	w := bn.workers[0]
	w.runtime.polling = PollBusy
	if err := bn.Start(); err != nil {
		t.Fatal(err)
	}
	type seen struct {
		n  int
		on bool
	}
	const messages = 500
	var got, want []seen
	var last chan struct{}
	for i := range messages {
		brief := i%3 != 0
		f := func(w *worker) { got = append(got, seen{i, w.runtime.stay.on}) }
		last = make(chan struct{})
		m := message{apply: f, done: last}
		if brief {
			m = message{brief: f, done: last}
		}
		if err := bn.give(t.Context(), w, m); err != nil {
			t.Fatal(err)
		}
		want = append(want, seen{i, false})
	}
	<-last
	held := 0
	if err := bn.wait(t.Context(), w, func(*worker) {
		for i := range got {
			if got[i].on {
				if i%3 == 0 {
					t.Errorf("message %d was applied by a worker that held on", i)
				}
				held++
				got[i].on = false
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("other messages, or another order: %v", got)
	}
	if held == 0 {
		t.Error("it let go for each")
	}
	if err := bn.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}
