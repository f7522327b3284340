package rings

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fullPool is a pool of all frames of a region.
func fullPool(r *Region) *Pool {
	p := NewPool(r.Frames())
	for i := range r.Frames() {
		p.Put(uint64(i * r.FrameSize()))
	}
	return p
}

// memRig is a Mem in random use. All that is sent is numbered, so that loss, reordering and mixing up show.
type memRig struct {
	region  *Region
	pool    *Pool
	q       *Mem
	wire    *Wire
	r       *rand.Rand
	hand    []Desc
	sent    uint64 // by the wire
	got     uint64 // by us
	echoed  uint64 // by us, as far as the ring took it
	arrived uint64 // at the wire
}

func newMemRig(seed uint64, frames, ring int) *memRig {
	m := &memRig{region: NewHeapRegion(frames, 2048), r: rand.New(rand.NewPCG(seed, 0))}
	m.pool = fullPool(m.region)
	m.q, m.wire = NewMem(m.region, ring)
	// The indices wrap during the test.
	startAt(0xffffffff-200, &m.q.fill, &m.wire.fill)
	startAt(0xffffffff-300, &m.wire.rx, &m.q.rx)
	startAt(0xffffffff-400, &m.q.tx, &m.wire.tx)
	startAt(0xffffffff-500, &m.wire.completion, &m.q.completion)
	return m
}

// numbered is a packet that says its number and has a length of its own.
func numbered(i uint64) []byte {
	b := make([]byte, 8+i%97)
	binary.LittleEndian.PutUint64(b, i)
	for j := 8; j < len(b); j++ {
		b[j] = uint8(i)
	}
	return b
}

func (m *memRig) check(t *testing.T, after string) {
	t.Helper()
	h := m.q.Held()
	if h.Fill < 0 || h.Rx < 0 || h.Tx < 0 || m.pool.Len()+h.Sum()+len(m.hand) != m.region.Frames() {
		t.Fatalf("after %s: %d free, %+v held, %d in hand, of %d", after, m.pool.Len(), h, len(m.hand), m.region.Frames())
	}
}

// act does one thing by chance.
func (m *memRig) act(t *testing.T) {
	t.Helper()
	switch m.r.IntN(8) {
	case 0:
		m.q.Refill(m.pool)
		m.check(t, "Refill")
	case 1:
		if m.wire.Send(numbered(m.sent)) {
			m.sent++
		}
		m.check(t, "Send")
	case 2:
		var packets [][]byte
		for i := range uint64(m.r.IntN(20)) {
			packets = append(packets, numbered(m.sent+i))
		}
		m.sent += uint64(m.wire.SendBurst(packets))
		m.check(t, "SendBurst")
	case 3:
		burst := make([]Desc, m.r.IntN(20))
		for _, d := range burst[:m.q.Receive(burst)] {
			if !bytes.Equal(m.region.Packet(d), numbered(m.got)) {
				t.Fatalf("packet %d is % x", m.got, m.region.Packet(d))
			}
			if d.Addr != m.region.Base(d.Addr)+Headroom {
				t.Fatalf("packet at %#x", d.Addr)
			}
			m.got++
			m.hand = append(m.hand, d)
		}
		m.check(t, "Receive")
	case 4:
		n := m.q.Transmit(m.hand)
		m.hand = m.hand[n:]
		m.echoed += uint64(n)
		m.check(t, "Transmit")
	case 5:
		m.q.Flush()
		m.check(t, "Flush")
	case 6:
		m.recv(t)
		m.check(t, "Recv")
	case 7:
		m.q.Reclaim(m.pool)
		m.check(t, "Reclaim")
	}
}

func (m *memRig) recv(t *testing.T) {
	t.Helper()
	m.wire.Recv(func(packet []byte) {
		if !bytes.Equal(packet, numbered(m.arrived)) {
			t.Fatalf("packet %d comes back as % x", m.arrived, packet)
		}
		m.arrived++
	})
}

// close closes the Mem in whatever state it is in; every frame must come back.
func (m *memRig) close(t *testing.T) {
	t.Helper()
	for _, d := range m.hand {
		m.pool.Put(m.region.Base(d.Addr))
	}
	m.hand = nil
	before := m.q.Stats()
	if err := m.q.Close(m.pool); err != nil {
		t.Fatal(err)
	}
	if err := m.region.Audit(m.pool); err != nil {
		t.Fatal(err)
	}
	if err := m.q.Close(m.pool); err != nil {
		t.Fatal(err)
	}
	if n := m.q.Refill(m.pool) + m.q.Receive(make([]Desc, 8)) + m.q.Transmit(make([]Desc, 8)) + m.q.Reclaim(m.pool); n != 0 {
		t.Errorf("a closed queue moved %d frames", n)
	}
	if m.q.Held().Sum() != 0 || m.region.Audit(m.pool) != nil {
		t.Errorf("a closed queue holds %+v", m.q.Held())
	}
	if after := m.q.Stats(); after != before || after.RxPackets != m.got || after.TxPackets != m.echoed {
		t.Errorf("counters %+v before Close, %+v after; %d received, %d sent", before, after, m.got, m.echoed)
	}
}

// TestMemConservation uses a queue by chance and closes it at any moment.
func TestMemConservation(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	through := uint64(0)
	for i := range uint64(300) {
		r := rand.New(rand.NewPCG(seed+i, 1))
		ring := 1 << (1 + r.IntN(6))
		m := newMemRig(seed+i, 1+r.IntN(4*ring+10), ring)
		for range r.IntN(1000) {
			m.act(t)
		}
		through += m.arrived
		m.close(t)
	}
	if through < 1000 {
		t.Errorf("only %d packets went all the way", through)
	}
}

// TestMemNoReclaim: a wire that has nowhere to say that a packet is sent does not send it.
func TestMemNoReclaim(t *testing.T) {
	m := newMemRig(1, 64, 8)
	var burst [64]Desc
	for i := range burst {
		addr, _ := m.pool.Get()
		burst[i] = Desc{Addr: addr, Len: uint32(copy(m.region.Frame(addr), numbered(uint64(i))))}
	}
	m.hand = burst[:]
	for range 4 {
		n := m.q.Transmit(m.hand)
		m.hand = m.hand[n:]
		m.echoed += uint64(n)
		m.q.Flush()
		m.recv(t)
		m.check(t, "Recv without Reclaim")
	}
	if m.arrived != 8 || m.q.Held().Tx != 16 {
		t.Errorf("%d arrived, %+v held", m.arrived, m.q.Held())
	}
	if n := m.q.Reclaim(m.pool); n != 8 {
		t.Errorf("reclaimed %d, not 8", n)
	}
	m.recv(t)
	if m.arrived != 16 {
		t.Errorf("%d arrived after Reclaim", m.arrived)
	}
	m.close(t)
}

// TestMemRefuses: a packet is delivered whole or not at all.
func TestMemRefuses(t *testing.T) {
	m := newMemRig(1, 8, 8)
	if m.wire.Send([]byte{1}) || m.wire.SendBurst([][]byte{{1}}) != 0 {
		t.Error("sent without a frame to receive into")
	}
	m.q.Refill(m.pool)
	largest, larger := make([]byte, 2048-Headroom), make([]byte, 2048-Headroom+1)
	if m.wire.Send(larger) {
		t.Error("sent a packet larger than a frame")
	}
	if n := m.wire.SendBurst([][]byte{largest, larger, largest}); n != 1 {
		t.Errorf("sent %d, with a packet larger than a frame in second place", n)
	}
	var burst [8]Desc
	if n := m.q.Receive(burst[:]); n != 1 || burst[0].Len != uint32(len(largest)) {
		t.Errorf("received %d: %+v", n, burst[0])
	}
	if got := m.q.Stats().FillEmpty; got != 2 {
		t.Errorf("counted %d refusals by Send", got)
	}
	m.hand, m.got = burst[:1], 1
	m.close(t)
}

// TestMemConcurrent has the wire on a goroutine of its own.
func TestMemConcurrent(t *testing.T) {
	total := uint64(100000)
	if testing.Short() {
		total = 5000
	}
	m := newMemRig(1, 100, 32)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m.arrived < total {
			moved := 0
			if m.sent < total && m.wire.Send(numbered(m.sent)) {
				m.sent++
				moved++
			}
			moved += m.wire.Recv(func(packet []byte) {
				if !bytes.Equal(packet, numbered(m.arrived)) {
					t.Errorf("packet %d comes back as % x", m.arrived, packet)
				}
				m.arrived++
			})
			if moved == 0 {
				runtime.Gosched()
			}
		}
	}()
	burst := make([]Desc, 32)
	for running := true; running; {
		m.q.Refill(m.pool)
		n := m.q.Receive(burst)
		m.got += uint64(n)
		m.hand = append(m.hand, burst[:n]...)
		n = m.q.Transmit(m.hand)
		m.echoed += uint64(n)
		m.hand = m.hand[:copy(m.hand, m.hand[n:])]
		m.q.Flush()
		m.q.Reclaim(m.pool)
		// Held looks at the ring while the wire moves, but all frames are somewhere at any moment.
		m.check(t, "a round")
		select {
		case <-done:
			running = false
		default:
			if n == 0 {
				runtime.Gosched()
			}
		}
	}
	m.close(t)
}

// TestAudit fails when it must.
func TestAudit(t *testing.T) {
	r := NewHeapRegion(4, 2048)
	pool := func(addrs ...uint64) *Pool {
		p := NewPool(8)
		p.PutAll(addrs)
		return p
	}
	for _, c := range []struct {
		name  string
		pools []*Pool
		want  string // in the error
	}{
		{"all", []*Pool{pool(0, 2048, 4096, 6144)}, ""},
		{"all, in two pools", []*Pool{pool(6144, 0), pool(), pool(4096, 2048)}, ""},
		{"no pools", nil, "4 of 4 frames are missing"},
		{"one missing", []*Pool{pool(0, 2048, 6144)}, "1 of 4 frames are missing"},
		{"twice in a pool", []*Pool{pool(0, 2048, 2048, 4096, 6144)}, "frame 1 is free twice"},
		{"twice instead of another", []*Pool{pool(0, 2048, 2048, 6144)}, "frame 1 is free twice"},
		{"in two pools", []*Pool{pool(0, 2048, 4096, 6144), pool(6144)}, "frame 3 is free twice"},
		{"behind the region", []*Pool{pool(0, 2048, 4096, 8192)}, "not the start of a frame"},
		{"far away", []*Pool{pool(0, 2048, 4096, ^uint64(0)-2047)}, "not the start of a frame"},
		{"inside a frame", []*Pool{pool(0, 2048, 4096+Headroom, 6144)}, "not the start of a frame"},
	} {
		err := r.Audit(c.pools...)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestPool(t *testing.T) {
	p := NewPool(4)
	if _, ok := p.Get(); ok || p.Len() != 0 {
		t.Error("a new pool is not empty")
	}
	p.PutAll([]uint64{1, 2})
	p.Put(3)
	var got []uint64
	for addr, ok := p.Get(); ok; addr, ok = p.Get() {
		got = append(got, addr)
	}
	if !slices.Equal(got, []uint64{3, 2, 1}) {
		t.Errorf("got %v, not last in, first out", got)
	}
}

func freeHugePages(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
	if err != nil {
		return 0 // a kernel without them
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRegion makes regions with and without huge pages asked for. Pages must not claim more than there is.
func TestRegion(t *testing.T) {
	checkDescriptors(t)
	const frames = 3 << 10 // 6 MB: three huge pages
	free := freeHugePages(t)
	t.Logf("%d huge pages are free", free)
	for _, c := range []struct {
		frames, size int
		huge         bool
	}{
		{1, 2048, false},
		{frames, 2048, false},
		{frames, 4096, true},
		{frames, 2048, true},
		{3, 4096, true}, // less than a huge page
	} {
		r, err := NewRegion(c.frames, c.size, c.huge)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		// Next best are transparent huge pages, which need a mount of our own and so may be refused.
		want := []Pages{PagesSmall}
		if c.huge {
			want = []Pages{PagesTransparent, PagesSmall}
			if free >= (c.frames*c.size+hugePageSize-1)/hugePageSize {
				want = []Pages{PagesHuge}
			}
		}
		if !slices.Contains(want, r.Pages()) {
			t.Errorf("%+v: got %q, not %q", c, r.Pages(), want)
		}
		if r.Frames() != c.frames || r.FrameSize() != c.size || len(r.Bytes()) != c.frames*c.size {
			t.Errorf("%+v: %d frames of %d in %d bytes", c, r.Frames(), r.FrameSize(), len(r.Bytes()))
		}
		last := uint64(c.frames-1) * uint64(c.size)
		frame := r.Frame(last + Headroom)
		if len(frame) != c.size || slices.Max(frame) != 0 || r.Base(last+uint64(c.size)-1) != last {
			t.Errorf("%+v: the last frame is %d bytes, not zero, or not at %#x", c, len(frame), last)
		}
		copy(r.Packet(Desc{Addr: last + Headroom, Len: 4}), "abcd")
		if string(r.Bytes()[last+Headroom:][:4]) != "abcd" {
			t.Errorf("%+v: a packet is not where its descriptor says", c)
		}
		if err := r.Audit(fullPool(r)); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		for range 2 {
			if err := r.Close(); err != nil {
				t.Errorf("%+v: close: %v", c, err)
			}
		}
	}
}

func TestRegionRefused(t *testing.T) {
	for _, c := range [][2]int{{0, 2048}, {-1, 2048}, {1, 0}, {1, 1024}, {1, 2049}, {1, 8192}} {
		if r, err := NewRegion(c[0], c[1], false); err == nil {
			t.Errorf("%d frames of %d: accepted", c[0], c[1])
			r.Close()
		}
	}
	r := NewHeapRegion(2, 2048)
	if r.Pages() != PagesHeap || r.Frames() != 2 {
		t.Errorf("%d frames in %q", r.Frames(), r.Pages())
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a packet behind the region is no panic")
			}
		}()
		r.Packet(Desc{Addr: 4000, Len: 97})
	}()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
