package engine

import (
	"testing"
	"time"

	"sluice/rings"
)

// What a worker is asked while it sleeps it answers as of now, not as of when it went to sleep.
func TestSleeperAnswersAsOfNow(t *testing.T) {
	bn := newBench(t, a4(1), 64, 1024)
	bn.clock = newClock(nil)
	bn.now = bn.clock.millis(bn.clock.nanos())
	only(t, bn.send(outside, packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, udp: true, sport: 4000, dport: 53}.build(t)), inside)
	w := bn.workers[0]
	w.runtime.polling, w.rx = PollAdaptive, nil
	if err := bn.Start(); err != nil {
		t.Fatal(err)
	}
	bn.asleep()
	const slept = 600 * time.Millisecond
	time.Sleep(slept)
	var conns []Conn
	var now uint64
	if err := bn.wait(t.Context(), w, func(w *worker) {
		w.scan(1, &conns)
		now = bn.clock.millis(bn.clock.nanos())
		if now-w.now > uint64(slept/time.Millisecond)/2 {
			t.Errorf("its clock is %d ms behind", now-w.now)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if len(conns) != 1 || time.Duration(conns[0].IdleMS)*time.Millisecond < slept/2 {
		t.Errorf("connections %+v: the only one has been idle for %v", conns, slept)
	}
	if err := bn.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A worker that has frames to give back, for which there was no room or which were not there, looks again soon: nothing wakes it for that.
func TestWorkerThatOwesFramesLooksAgain(t *testing.T) {
	bn := newBench(t, a4(2), 64, 1024)
	w := bn.workers[0]
	p := &w.peers[bn.workers[1].slot]
	if limit := w.sleepLimit(); limit != longSleep {
		t.Fatalf("with nothing to do it sleeps for %v", limit)
	}
	owed := p.owed
	for _, c := range []struct {
		name string
		set  func()
		want time.Duration
	}{
		{"less than a burst is owed", func() { p.owed = burstSize - 1 }, longSleep},
		{"a burst is owed", func() { p.owed = burstSize }, sleepTime},
		{"the peer ends", func() { p.retired = true }, longSleep},
		{"the peer goes on", func() { p.retired, p.owed = false, owed }, longSleep},
	} {
		c.set()
		if limit := w.sleepLimit(); limit != c.want {
			t.Errorf("%s: it sleeps for %v, not %v", c.name, limit, c.want)
		}
	}
	// The way of a frame with connections back to a worker that leaves is full.
	d := w.in[0]
	d.Addr, d.Len, d.Options = 0, 0, uint32(bn.workers[1].slot)
	for p.out.HalfFree() { // nobody takes them out: what they are is of no matter
		free := d
		free.Options = freeKind
		p.out.Put([]rings.Desc{free})
	}
	w.unreturned = append(w.unreturned, d)
	if w.returnBoxes(); len(w.unreturned) != 1 {
		t.Fatal("it went back through a ring without room")
	}
	if limit := w.sleepLimit(); limit != sleepTime {
		t.Errorf("it sleeps for %v while another waits for the frame", limit)
	}
}
