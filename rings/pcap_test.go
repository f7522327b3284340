package rings

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"
)

var _ Queue = (*Pcap)(nil)

// TestPcap takes packets from a capture through a queue into another capture.
func TestPcap(t *testing.T) {
	at := time.Unix(1700000000, 123456789)
	frames := [][]byte{bytes.Repeat([]byte{1}, 60), bytes.Repeat([]byte{2}, 1792), bytes.Repeat([]byte{3}, 1793), bytes.Repeat([]byte{4}, 100), {}}
	lengths := []int{60, 1792, 1793, 500, 0} // the fourth is cut
	var in bytes.Buffer
	w, err := NewCaptureWriter(&in, []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range frames {
		if err := w.Write(i%2, at.Add(time.Duration(i)), f, lengths[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	c, err := NewCapture(&in)
	if err != nil {
		t.Fatal(err)
	}

	region := NewHeapRegion(8, 2048)
	pool := NewPool(region.Frames())
	for i := range region.Frames() {
		pool.Put(uint64(i * region.FrameSize()))
	}
	q := NewPcap(region, 4)
	var p CapturedPacket
	if err := c.Read(&p); err != nil {
		t.Fatal(err)
	}
	if err := q.Deliver(&p); !errors.Is(err, ErrNoFrame) {
		t.Errorf("deliver before the first refill: %v", err)
	}
	var out bytes.Buffer
	if w, err = NewCaptureWriter(&out, []string{"x", "y"}); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		if p.Number != i+1 || p.Interface != i%2 || p.Name != []string{"a", "b"}[i%2] || !p.Time.Equal(at.Add(time.Duration(i))) ||
			p.Length != lengths[i] || p.Truncated() != (i == 3) || !bytes.Equal(p.Data, frames[i]) {
			t.Errorf("packet %d: %+v", i, p)
		}
		q.Refill(pool)
		err := q.Deliver(&p)
		if i == 2 {
			if !errors.Is(err, ErrTooLarge) {
				t.Errorf("a packet larger than a frame: %v", err)
			}
		} else {
			burst := make([]Desc, 4)
			if n := q.Receive(burst); err != nil || n != 1 || int(burst[0].Len) != lengths[i] {
				t.Fatalf("packet %d: %v, %d received, %+v", i, err, n, burst[0])
			}
			if got := region.Packet(burst[0]); !bytes.Equal(got[:len(frames[i])], frames[i]) || len(bytes.Trim(got[len(frames[i]):], "\x00")) != 0 {
				t.Errorf("packet %d: % x", i, got)
			}
			q.Transmit(burst[:1])
			q.Flush()
			if n, size, err := q.Drain(w, 1, p.Time, &p); n != 1 || size != lengths[i] || err != nil {
				t.Errorf("packet %d: %d packets and %d bytes drained, %v", i, n, size, err)
			}
			q.Reclaim(pool)
		}
		if held := q.Held().Sum() + pool.Len(); held != region.Frames() {
			t.Errorf("after packet %d: %d frames", i, held)
		}
		if err := c.Read(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(q.Close(pool), region.Audit(pool), w.Flush()); err != nil {
		t.Fatal(err)
	}
	if c, err = NewCapture(&out); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 1, 3, 4} {
		if err := c.Read(&p); err != nil || p.Name != "y" || !p.Time.Equal(at.Add(time.Duration(i))) || p.Length != lengths[i] || !bytes.Equal(p.Data, frames[i]) {
			t.Errorf("packet %d came out as %+v, %v", i, p, err)
		}
	}
	if err := c.Read(&p); err != io.EOF {
		t.Errorf("behind the last packet: %v", err)
	}
}

func TestCaptureWriterRefuses(t *testing.T) {
	if _, err := NewCaptureWriter(io.Discard, nil); err == nil {
		t.Error("a capture without ports")
	}
	w, err := NewCaptureWriter(io.Discard, []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(1, time.Unix(0, 0), nil, 0); err == nil {
		t.Error("a packet on a port that is not there")
	}
}
