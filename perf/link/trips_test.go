package link

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An answer that has come with late ones of others, in one read, is taken at once, wherever it stands among them; parts of one are put together.
func TestLateAnswersOfStream(t *testing.T) {
	answer := func(n byte) []byte {
		b := make([]byte, probeSize)
		b[0] = n
		return b
	}
	for late := range 4 {
		for _, part := range []int{0, 1, probeSize - 1} {
			ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			limit := unix.NsecToTimeval(int64(probeLimit))
			if err := unix.SetsockoptTimeval(ends[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
				t.Fatal(err)
			}
			trips := newTrips(ends[0], 1000, time.Second)
			trips.out[0] = 9
			var sent []byte
			for n := range late {
				sent = append(sent, answer(byte(n))...)
			}
			sent = append(sent, answer(9)...)
			whole := len(sent) - part
			if _, err := unix.Write(ends[1], sent[:whole]); err != nil {
				t.Fatal(err)
			}
			if part > 0 {
				time.AfterFunc(5*time.Millisecond, func() { _, _ = unix.Write(ends[1], sent[whole:]) })
			}
			if !trips.receive() {
				t.Errorf("%d late answers, the last %d bytes after them: not seen", late, part)
			}
			unix.Close(ends[0])
			time.Sleep(time.Millisecond)
			unix.Close(ends[1])
		}
	}
}

// What has come of an answer when its time is over is the beginning of the next read.
func TestAnswerInPartsTooLate(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	limit := unix.NsecToTimeval(int64(10 * time.Millisecond))
	if err := unix.SetsockoptTimeval(ends[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	trips := newTrips(ends[0], 1000, time.Second)
	if _, err := unix.Write(ends[1], make([]byte, probeSize-1)); err != nil {
		t.Fatal(err)
	}
	if trips.receive() {
		t.Fatal("a part is taken for an answer")
	}
	trips.out[0] = 1
	next := make([]byte, 1+probeSize)
	next[1] = 1
	if _, err := unix.Write(ends[1], next); err != nil {
		t.Fatal(err)
	}
	if !trips.receive() {
		t.Error("the answer after one that came in parts is not seen")
	}
}

// An answer that never comes is waited for as long as it may take, though signals end each read before the socket would: outside the
// loop the runtime asks a thread for a pause every 10 ms, by a signal.
func TestNoAnswer(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	limit := unix.NsecToTimeval(int64(probeLimit))
	if err := unix.SetsockoptTimeval(ends[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() { done <- newTrips(ends[0], 1000, time.Second).receive() }()
	select {
	case found := <-done:
		if found {
			t.Error("an answer, of nobody")
		}
	case <-time.After(20 * probeLimit):
		_ = unix.Shutdown(ends[0], unix.SHUT_RDWR)
		<-done
		t.Errorf("it waits longer than %v", 20*probeLimit)
	}
}

// The loop survives answers that come late, several in one read: with the race detector as well, for which fewer functions may be called in it.
func TestLoopWithLateAnswers(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	limit := unix.NsecToTimeval(int64(probeLimit))
	if err := unix.SetsockoptTimeval(ends[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer unix.Close(ends[1])
		var kept []byte
		for i := 0; ; i++ {
			probe := make([]byte, probeSize)
			if n, err := unix.Read(ends[1], probe); err != nil || n != probeSize {
				return
			}
			if kept = append(kept, probe...); i == 0 {
				continue // until the next
			}
			if _, err := unix.Write(ends[1], kept); err != nil {
				return
			}
			kept = nil
		}
	}()
	trips := newTrips(ends[0], 100, probeLimit+100*time.Millisecond)
	done := make(chan bool)
	go func() { trips.loop(); close(done) }()
	<-done
	if trips.sent < 2 || trips.lost != 1 || trips.err != 0 {
		t.Errorf("%d sent, %d lost (%v), want one lost", trips.sent, trips.lost, trips.err)
	}
	trips.stop()
}

// A run ends when the carrier has died in the middle.
func TestCarrierDies(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	if err := unix.SetNonblock(ends[0], true); err != nil {
		t.Fatal(err)
	}
	trips := newTrips(ends[0], 1000, time.Second)
	done := make(chan bool)
	go func() { trips.loop(); close(done) }()
	select {
	case <-done:
	case <-time.After(8 * mostLost * probeLimit):
		trips.stop()
		<-done
	}
	if trips.lost != mostLost || trips.err != unix.ETIMEDOUT {
		t.Errorf("%d lost (%v), want the end after %d", trips.lost, trips.err, mostLost)
	}
}
