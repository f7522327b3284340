package rings

import (
	"bytes"
	"testing"
)

// SendHeads writes the beginning of each packet and no more, and stops where the rings do.
func TestMemSendHeads(t *testing.T) {
	m := newMemRig(1, 4, 4)
	for i := range m.region.Bytes() {
		m.region.Bytes()[i] = 0xee
	}
	if n := m.wire.SendHeads(make([]byte, HeadLen), HeadLen, []uint16{60}); n != 0 {
		t.Errorf("%d packets were sent into an empty fill ring", n)
	}
	m.q.Refill(m.pool)
	heads := make([]byte, 6*HeadLen)
	for i := range heads {
		heads[i] = byte(i / HeadLen)
	}
	lengths := []uint16{60, 1514, 64, 2048 - Headroom, 60, 60}
	if n := m.wire.SendHeads(heads, HeadLen, lengths); n != 4 {
		t.Fatalf("%d packets were sent with four frames", n)
	}
	var got [8]Desc
	if n := m.q.Receive(got[:]); n != 4 {
		t.Fatalf("%d packets came", n)
	}
	for i, d := range got[:4] {
		b := m.region.Packet(d)
		head := min(len(b), HeadLen)
		if len(b) != int(lengths[i]) || !bytes.Equal(b[:head], bytes.Repeat([]byte{byte(i)}, head)) {
			t.Errorf("packet %d is %d bytes: % x", i, len(b), b[:head])
		}
		if rest := b[head:]; !bytes.Equal(rest, bytes.Repeat([]byte{0xee}, len(rest))) {
			t.Errorf("packet %d: what the frame held has been written over", i)
		}
		m.pool.Put(m.region.Base(d.Addr))
	}
	m.q.Refill(m.pool)
	if n := m.wire.SendHeads(heads, HeadLen, []uint16{60, 2048 - Headroom + 1, 60}); n != 1 {
		t.Errorf("%d packets were sent up to one that does not fit", n)
	}
	if err := m.q.Close(m.pool); err != nil {
		t.Fatal(err)
	}
	if err := m.region.Audit(m.pool); err != nil {
		t.Error(err)
	}
}

// Long heads are written as a whole.
func TestMemSendLongHeads(t *testing.T) {
	m := newMemRig(1, 4, 4)
	m.q.Refill(m.pool)
	heads := make([]byte, 3*LongHeadLen)
	for i := range heads {
		heads[i] = byte(i / 7)
	}
	if n := m.wire.SendHeads(heads, LongHeadLen, []uint16{74, 200, LongHeadLen}); n != 3 {
		t.Fatalf("%d packets were sent", n)
	}
	var got [8]Desc
	if n := m.q.Receive(got[:]); n != 3 {
		t.Fatalf("%d packets came", n)
	}
	for i, d := range got[:3] {
		b := m.region.Packet(d)
		head := min(len(b), LongHeadLen)
		if !bytes.Equal(b[:head], heads[i*LongHeadLen:i*LongHeadLen+head]) {
			t.Errorf("packet %d begins with % x", i, b[:head])
		}
		m.pool.Put(m.region.Base(d.Addr))
	}
	if err := m.q.Close(m.pool); err != nil {
		t.Fatal(err)
	}
}
