package rings

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// chainRig is a queue for chains in random use, with what its packets should be.
type chainRig struct {
	*memRig
	want  map[uint64][]byte // by address of the head: the packet in hand
	sentB [][]byte          // by the wire, not received
	echo  [][]byte          // given to the queue, not at the wire
}

func newChainRig(seed uint64) *chainRig {
	m := newMemRig(seed, 500, 128)
	m.region.MakeChains()
	m.q.multi, m.wire.multi = true, true
	return &chainRig{memRig: m, want: map[uint64][]byte{}}
}

func (c *chainRig) packet() []byte {
	b := make([]byte, 1+c.r.IntN([]int{100, 2000, 9000}[c.r.IntN(3)]))
	for i := range b {
		b[i] = byte(c.r.Uint32())
	}
	return b
}

func (c *chainRig) step() error {
	switch c.r.IntN(8) {
	case 0, 1:
		p := c.packet()
		var sizes []int
		for left := len(p); left > 0 && len(sizes) < c.r.IntN(6); {
			n := 1 + c.r.IntN(min(left, 1792))
			sizes = append(sizes, n)
			left -= n
		}
		if c.wire.SendChain(p, sizes) {
			c.sentB = append(c.sentB, p)
		}
	case 2:
		var burst [7]Desc
		for _, d := range burst[:c.q.Receive(burst[:1+c.r.IntN(7)])] {
			p := c.sentB[0]
			c.sentB = c.sentB[1:]
			c.hand, c.want[d.Addr] = append(c.hand, d), p
		}
	case 3:
		n := min(len(c.hand), c.r.IntN(8))
		taken := c.q.Transmit(c.hand[:n])
		for _, d := range c.hand[:taken] {
			c.echo = append(c.echo, c.want[d.Addr])
			delete(c.want, d.Addr)
		}
		c.hand = c.hand[taken:]
		c.q.Flush()
	case 4:
		var err error
		c.wire.Recv(func(p []byte) {
			if !bytes.Equal(p, c.echo[0]) {
				err = fmt.Errorf("%d bytes were sent, not what %d were", len(p), len(c.echo[0]))
			}
			c.echo = c.echo[1:]
		})
		c.q.Reclaim(c.pool)
		if err != nil {
			return err
		}
	case 5:
		if len(c.hand) > 0 { // drop
			c.region.Free(c.pool, c.hand[0].Addr)
			delete(c.want, c.hand[0].Addr)
			c.hand = c.hand[1:]
		}
	case 6:
		if len(c.hand) > 0 { // cut
			d := &c.hand[0]
			n := 1 + c.r.IntN(len(c.want[d.Addr]))
			c.want[d.Addr] = c.want[d.Addr][:n]
			*d = c.region.Shorten(c.pool, *d, uint32(n))
		}
	case 7:
		p := c.packet()
		if d, ok := c.region.Scatter(c.pool, p); ok {
			c.hand, c.want[d.Addr] = append(c.hand, d), p
		}
	}
	c.q.Refill(c.pool)
	return c.check()
}

func (c *chainRig) check() error {
	whole := make([]byte, 1<<16)
	for _, d := range c.hand {
		p := c.want[d.Addr]
		if got := c.region.Gather(whole, d); !bytes.Equal(got, p) {
			return fmt.Errorf("%d bytes in hand are not the %d that came", len(got), len(p))
		}
		if behind, n := c.region.Tail(d.Addr); int(d.Len+n) != len(p) || (behind > 0) != c.region.Chained(d.Addr) {
			return fmt.Errorf("%d bytes, and %d in %d frames behind: %d", d.Len, n, behind, len(p))
		}
	}
	if sum := c.pool.Len() + c.q.Held().Sum() + len(c.hand) + c.region.Links(); sum != c.region.Frames() {
		return fmt.Errorf("%d frames in %d", sum, c.region.Frames())
	}
	return nil
}

// Whatever is done with chains, they carry what they should, and every frame is in one place.
func TestChains(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := newChainRig(seed)
	for i := range 30_000 {
		if err := c.step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	if s := c.q.Stats(); s.RxPackets < 1000 || s.TxPackets < 1000 {
		t.Errorf("%+v", s)
	}
	for _, d := range c.hand {
		c.region.Free(c.pool, d.Addr)
	}
	if err := c.q.Close(c.pool); err != nil {
		t.Fatal(err)
	}
	if err := c.region.Audit(c.pool); err != nil {
		t.Fatal(err)
	}
}

// chainOf puts descriptors on a ring as a kernel would, one for each size.
func chainOf(w *Wire, more bool, sizes ...uint32) {
	for i, n := range sizes {
		d := Desc{Addr: w.fill.get() + Headroom, Len: n}
		if i < len(sizes)-1 || more {
			d.Options = unix.XDP_PKT_CONTD
		}
		w.rx.put(d)
	}
	w.fill.release()
	w.rx.publish()
}

// A packet whose last descriptors are not there yet stays on the ring, with what is in front of it taken.
func TestChainIncomplete(t *testing.T) {
	c := newChainRig(1)
	c.q.Refill(c.pool)
	var burst [8]Desc
	chainOf(c.wire, false, 100, 10)
	chainOf(c.wire, true, 1792, 1792)
	if n := c.q.Receive(burst[:]); n != 1 || burst[0].Len != 100 || burst[0].Options != 0 {
		t.Fatalf("%d: %+v", n, burst[0])
	}
	c.region.Free(c.pool, burst[0].Addr)
	if n := c.q.Receive(burst[:]); n != 0 {
		t.Fatalf("half a packet: %d", n)
	}
	if h := c.q.Held(); h.Rx != 2 || h.Sum() != 126 {
		t.Fatalf("%+v", h)
	}
	chainOf(c.wire, false, 7)
	if n := c.q.Receive(burst[:]); n != 1 {
		t.Fatalf("the whole packet: %d", n)
	}
	if behind, bytes := c.region.Tail(burst[0].Addr); behind != 2 || bytes != 1799 {
		t.Errorf("%d frames of %d bytes behind", behind, bytes)
	}
	c.region.Free(c.pool, burst[0].Addr)
	if err := c.check(); err != nil {
		t.Error(err)
	}
}

// A descriptor that the kernel did not have is left out, and what it was part of is no packet; no frame is taken twice.
func TestChainForeign(t *testing.T) {
	for at := range 3 {
		c := newChainRig(2)
		c.q.Refill(c.pool)
		chainOf(c.wire, false, 1000, 1000, 1000)
		chainOf(c.wire, false, 50)
		held := make([]uint8, c.region.Frames())
		for i := range uint32(4) {
			if d := c.wire.rx.slots[(c.q.rx.local+i)&c.q.rx.mask]; int(i) != at {
				held[d.Addr/2048] = 1
			}
		}
		var burst [8]Desc
		out, n, foreign := c.region.takeChains(&c.q.rx, burst[:], held)
		if out != 2 || n != 3 || foreign != 1 || burst[0].Len != 0 || burst[1].Len != 50 {
			t.Fatalf("descriptor %d: %d packets of %d frames, %d foreign: %+v", at, out, n, foreign, burst[:2])
		}
		if behind, _ := c.region.Tail(burst[0].Addr); behind != 1 {
			t.Errorf("descriptor %d: %d frames behind", at, behind)
		}
		for i, h := range held {
			if h != 0 {
				t.Errorf("frame %d is still the kernel's", i)
			}
		}
	}
}

// A ring takes a packet whole or not at all.
func TestChainRingFull(t *testing.T) {
	c := newChainRig(3)
	p := make([]byte, 9000)
	for {
		d, ok := c.region.Scatter(c.pool, p)
		if !ok {
			t.Fatal("out of frames before the ring was full")
		}
		if c.q.Transmit([]Desc{d}) == 0 {
			if behind, _ := c.region.Tail(d.Addr); behind != 5 {
				t.Errorf("%d frames behind the head of a packet that was not taken", behind)
			}
			c.region.Free(c.pool, d.Addr)
			break
		}
	}
	if h := c.q.Held(); h.Tx != 128/6*6 {
		t.Errorf("%+v", h)
	}
	if _, ok := c.region.Scatter(c.pool, make([]byte, MaxBuffers*1792+1)); ok {
		t.Error("a packet of more frames than the kernel sends")
	}
	c.q.Flush()
	if n := c.wire.Recv(nil); n != 128/6 {
		t.Errorf("%d packets at the wire", n)
	}
}

func TestCheckChains(t *testing.T) {
	for _, c := range []struct {
		frame, mtu int
		ok         bool
	}{{2048, 9000, true}, {2048, 32234, true}, {2048, 32235, false}, {4096, 32235, true}, {4096, 65513, true}, {4096, 65514, false}} {
		if err := CheckChains(c.frame, c.mtu); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
