package rings

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
)

// startAt moves a ring's indices to base, as if base slots had passed.
func startAt[T any](base uint32, producer, consumer *ring[T]) {
	producer.producer.Store(base)
	producer.consumer.Store(base)
	for _, r := range []*ring[T]{producer, consumer} {
		r.local, r.cached = base, base
	}
}

// ringBases are where a ring of 8 slots may stand: at its start, and such that its indices wrap at 2^32 early, in the
// middle and at the end of what the tests do with it.
var ringBases = []uint32{0, 5, 1<<31 - 3, 0xffffffff, 0xfffffffe, 0xfffffff8, 0xfffffff0}

func TestRingFullAndEmpty(t *testing.T) {
	for _, base := range ringBases {
		in, out := newRing[int](8)
		startAt(base, &in, &out)
		for round := range 3 {
			if got := out.filled(1); got != 0 {
				t.Fatalf("base %#x round %d: an empty ring has %d", base, round, got)
			}
			for i := range 8 {
				if got := in.room(1); got < 1 {
					t.Fatalf("base %#x round %d: no room for slot %d", base, round, i)
				}
				in.put(round*8 + i)
			}
			if got := out.filled(1); got != 0 {
				t.Fatalf("base %#x: %d slots are seen before publish", base, got)
			}
			if got := in.room(1); got != 0 {
				t.Fatalf("base %#x: a full ring has room for %d", base, got)
			}
			in.publish()
			if got := in.unseen(); got != 8 {
				t.Fatalf("base %#x: %d unseen, not 8", base, got)
			}
			if got := out.filled(8); got != 8 {
				t.Fatalf("base %#x: a full ring has %d", base, got)
			}
			for i := range 8 {
				if got := out.get(); got != round*8+i {
					t.Fatalf("base %#x: slot %d holds %d, not %d", base, i, got, round*8+i)
				}
			}
			if got := in.room(1); got != 0 {
				t.Fatalf("base %#x: room for %d before release", base, got)
			}
			out.release()
			if got := in.room(8); got != 8 {
				t.Fatalf("base %#x: room for %d after release", base, got)
			}
			if got := in.unseen(); got != 0 {
				t.Fatalf("base %#x: %d unseen in an empty ring", base, got)
			}
		}
	}
}

// TestRingCached: the other side's word is read only when what is known of it does not suffice.
func TestRingCached(t *testing.T) {
	for _, base := range ringBases {
		in, out := newRing[int](8)
		startAt(base, &in, &out)
		if got := in.room(3); got != 8 {
			t.Fatalf("base %#x: room for %d of 8", base, got)
		}
		for i := range 6 {
			in.put(i)
		}
		in.publish()
		if got := out.filled(4); got != 6 {
			t.Fatalf("base %#x: %d filled, not 6", base, got)
		}
		for range 4 {
			out.get()
		}
		out.release()
		// Two free slots are known, so a want of two does not look; a want of three finds six.
		if got := in.room(2); got != 2 || in.cached != base {
			t.Errorf("base %#x: room(2) is %d, cached %#x", base, got, in.cached)
		}
		if got := in.room(3); got != 6 || in.cached != base+4 {
			t.Errorf("base %#x: room(3) is %d, cached %#x", base, got, in.cached)
		}
		for i := range 3 {
			in.put(i)
		}
		in.publish()
		if got := out.filled(2); got != 2 || out.cached != base+6 {
			t.Errorf("base %#x: filled(2) is %d, cached %#x", base, got, out.cached)
		}
		if got := out.filled(3); got != 5 || out.cached != base+9 {
			t.Errorf("base %#x: filled(3) is %d, cached %#x", base, got, out.cached)
		}
		// Nobody gets more than the ring has, whatever is wanted.
		if got := in.room(^uint32(0)); got != 3 {
			t.Errorf("base %#x: room for %d, not 3", base, got)
		}
		if got := out.filled(^uint32(0)); got != 5 {
			t.Errorf("base %#x: %d filled, not 5", base, got)
		}
	}
}

// TestRingModel compares random use with a slice, across the wrap of the indices.
func TestRingModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	in, out := newRing[int](16)
	startAt(0xffffffff-1000, &in, &out)
	var model, hidden []int // published, and put but not yet published
	taken, next := 0, 0     // got but not yet released
	for range 20000 {
		switch r.IntN(4) {
		case 0:
			want := uint32(1 + r.IntN(16))
			room := int(in.room(want))
			free := 16 - len(model) - len(hidden) - taken
			if room > free || room < min(free, int(want)) {
				t.Fatalf("room %d of %d free, wanted %d", room, free, want)
			}
			some := make([]int, r.IntN(room+1))
			for i := range some {
				some[i] = next
				next++
			}
			hidden = append(hidden, some...)
			if r.IntN(2) == 0 {
				in.putAll(some)
				break
			}
			for _, v := range some {
				in.put(v)
			}
		case 1:
			in.publish()
			model, hidden = append(model, hidden...), nil
		case 2:
			want := uint32(1 + r.IntN(16))
			n := int(out.filled(want))
			if n > len(model) || n < min(len(model), int(want)) {
				t.Fatalf("filled %d of %d, wanted %d", n, len(model), want)
			}
			some := make([]int, r.IntN(n+1))
			if r.IntN(2) == 0 {
				out.getAll(some)
			} else {
				for i := range some {
					some[i] = out.get()
				}
			}
			for _, got := range some {
				if got != model[0] {
					t.Fatalf("got %d, not %d", got, model[0])
				}
				model = model[1:]
				taken++
			}
		case 3:
			out.release()
			taken = 0
		}
	}
	if next < 2000 {
		t.Errorf("only %d slots: the indices have not wrapped", next)
	}
}

// TestRingConcurrent has a producer and a consumer on threads of their own. The slots are pairs whose halves must
// agree, and under -race any access that is not ordered by the indices is reported.
func TestRingConcurrent(t *testing.T) {
	total := uint64(300000)
	if testing.Short() {
		total = 30000
	}
	type pair struct{ a, b uint64 }
	in, out := newRing[pair](64)
	startAt(0xffffffff-1000, &in, &out)
	go func() {
		for i := uint64(0); i < total; {
			n := min(uint64(in.room(1)), total-i, 1+i%17)
			if n == 0 {
				runtime.Gosched()
				continue
			}
			for range n {
				in.put(pair{i, ^i})
				i++
			}
			in.publish()
		}
	}()
	for i := uint64(0); i < total; {
		n := out.filled(1)
		if n == 0 {
			runtime.Gosched()
			continue
		}
		for range n {
			if got := out.get(); got.a != i || got.b != ^i {
				t.Errorf("slot %d holds %+v", i, got)
				return
			}
			i++
		}
		out.release()
	}
}

// kernelOffsets has the producer, consumer and flags words and the slots where struct xdp_ring has them: on cache
// lines of their own, slots last (net/xdp/xsk_queue.h).
var kernelOffsets = offsets{producer: 0, consumer: 64, flags: 128, desc: 192}

func TestRingOver(t *testing.T) {
	const size = 16
	mem := make([]byte, 192+size*16)
	// The kernel's end and ours, over the same memory.
	in, err := ringOver[Desc](mem, kernelOffsets, size, true)
	if err != nil {
		t.Fatal(err)
	}
	out, err := ringOver[Desc](mem, kernelOffsets, size, false)
	if err != nil {
		t.Fatal(err)
	}
	startAt(0xfffffffc, &in, &out)
	for i := range uint64(200) {
		if in.room(1) == 0 {
			t.Fatalf("no room for slot %d", i)
		}
		in.put(Desc{Addr: i << 32, Len: uint32(i), Options: uint32(^i)})
		in.publish()
		if out.filled(1) != 1 {
			t.Fatalf("slot %d is not seen", i)
		}
		if got := out.get(); got != (Desc{Addr: i << 32, Len: uint32(i), Options: uint32(^i)}) {
			t.Fatalf("slot %d holds %+v", i, got)
		}
		out.release()
	}
	in.flags.Store(0x01020304)
	if got := mem[128:132]; !slices.Equal(got, []byte{4, 3, 2, 1}) {
		t.Errorf("flags lie elsewhere: % x", got)
	}
	// struct xdp_desc: addr, len, options.
	in.put(Desc{Addr: 0x1122334455667788, Len: 0x99aabbcc, Options: 0xddeeff00})
	at := 192 + int((in.local-1)%size)*16
	want := []byte{0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xcc, 0xbb, 0xaa, 0x99, 0x00, 0xff, 0xee, 0xdd}
	if got := mem[at : at+16]; !slices.Equal(got, want) {
		t.Errorf("descriptor is % x", got)
	}
	// A ring that has been in use is taken up where it stands, by either side.
	in.publish()
	again, err := ringOver[Desc](mem, kernelOffsets, size, true)
	if err != nil {
		t.Fatal(err)
	}
	if again.local != in.local || again.room(size) != size-1 {
		t.Errorf("producer stands at %#x with room for %d", again.local, again.room(size))
	}
	reader, err := ringOver[Desc](mem, kernelOffsets, size, false)
	if err != nil {
		t.Fatal(err)
	}
	if reader.filled(1) != 1 || reader.get().Addr != 0x1122334455667788 {
		t.Error("the consumer does not find what is on the ring")
	}
}

// TestRingOverFill is a ring of plain addresses.
func TestRingOverFill(t *testing.T) {
	mem := make([]byte, 192+4*8)
	in, err := ringOver[uint64](mem, kernelOffsets, 4, true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(4) {
		in.put(0xa0 + i)
	}
	for i := range 4 {
		if mem[192+i*8] != 0xa0+byte(i) {
			t.Errorf("slot %d is % x", i, mem[192+i*8:192+i*8+8])
		}
	}
}

func TestRingOverRefused(t *testing.T) {
	mem := make([]byte, 192+16*16)
	for name, c := range map[string]struct {
		size int
		off  offsets
		mem  []byte
	}{
		"no slots":               {0, kernelOffsets, mem},
		"negative":               {-16, kernelOffsets, mem},
		"not a power of two":     {12, kernelOffsets, mem},
		"too many slots":         {32, kernelOffsets, mem},
		"a byte short":           {16, kernelOffsets, mem[:len(mem)-1]},
		"no memory":              {16, kernelOffsets, nil},
		"slots outside":          {16, offsets{0, 64, 1 << 40, 128}, mem},
		"slots wrap around":      {16, offsets{0, 64, ^uint64(0) - 255, 128}, mem},
		"producer outside":       {16, offsets{uint64(len(mem)) - 3, 64, 192, 128}, mem},
		"producer wraps around":  {16, offsets{^uint64(0) - 3, 64, 192, 128}, mem},
		"consumer outside":       {16, offsets{0, uint64(len(mem)), 192, 128}, mem},
		"consumer wraps around":  {16, offsets{0, ^uint64(0) - 3, 192, 128}, mem},
		"flags outside":          {16, offsets{0, 64, 192, 1 << 20}, mem},
		"flags wrap around":      {16, offsets{0, 64, 192, ^uint64(0) - 3}, mem},
		"size of the whole int":  {1 << 62, kernelOffsets, mem},
		"size overflows in slot": {1 << 60, kernelOffsets, mem},
	} {
		if _, err := ringOver[Desc](c.mem, c.off, c.size, true); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestHandoff: what is put is got, in order, once; a full ring refuses.
func TestHandoff(t *testing.T) {
	h := NewHandoff(8)
	startAt(0xfffffffd, &h.in, &h.out)
	var burst, got [16]Desc
	for i := range burst {
		burst[i] = Desc{Addr: uint64(i), Len: uint32(i)}
	}
	if !h.Empty() || h.Len() != 0 || h.Get(got[:]) != 0 {
		t.Error("a new ring is not empty")
	}
	if n := h.Put(burst[:]); n != 8 {
		t.Errorf("put %d of 16 into 8", n)
	}
	if n := h.Put(burst[:1]); n != 0 {
		t.Errorf("put %d into a full ring", n)
	}
	if h.Empty() || h.Len() != 8 || h.HalfFree() {
		t.Errorf("holds %d", h.Len())
	}
	if n := h.Get(got[:3]); n != 3 || !slices.Equal(got[:3], burst[:3]) || h.HalfFree() {
		t.Errorf("got %d: %v", n, got[:3])
	}
	if n := h.Put(burst[8:]); n != 3 {
		t.Errorf("put %d into 3 free slots", n)
	}
	if n := h.Get(got[:]); n != 8 || !slices.Equal(got[:8], burst[3:11]) || !h.HalfFree() {
		t.Errorf("got %d: %v", n, got[:8])
	}
	if h.Put(nil) != 0 || h.Get(nil) != 0 || !h.Empty() {
		t.Error("empty bursts move something")
	}
}

// TestHandoffStress passes descriptors between two threads and back, as workers pass frames: a descriptor is in one
// ring or with one side at a time, and each comes as often as it was sent, in order.
func TestHandoffStress(t *testing.T) {
	total := 1000000
	if testing.Short() {
		total = 50000
	}
	const size, frames = 128, 512
	there, back := NewHandoff(size), NewHandoff(frames)
	startAt(0xffffffff-50000, &there.in, &there.out)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var burst [32]Desc
		for seen := 0; seen < total; {
			n := there.Get(burst[:1+seen%len(burst)])
			if n == 0 {
				runtime.Gosched()
				continue
			}
			for _, d := range burst[:n] {
				if d.Len != uint32(seen) || d.Options != ^uint32(seen) {
					t.Errorf("descriptor %d is %+v", seen, d)
				}
				seen++
			}
			if put := back.Put(burst[:n]); put != n {
				t.Errorf("the way back, large enough for all, took %d of %d", put, n)
				return
			}
		}
	}()
	pool := NewPool(frames)
	for i := range uint64(frames) {
		pool.Put(i)
	}
	held := make([]bool, frames) // by the other side
	var burst [32]Desc
	sent, returned, refused := 0, 0, 0
	for returned < total {
		n := 0
		for n < 1+sent%len(burst) && sent+n < total {
			addr, ok := pool.Get()
			if !ok {
				break
			}
			burst[n] = Desc{Addr: addr, Len: uint32(sent + n), Options: ^uint32(sent + n)}
			n++
		}
		put := there.Put(burst[:n])
		for i, d := range burst[:n] {
			if i >= put {
				pool.Put(d.Addr)
				continue
			}
			held[d.Addr] = true
		}
		sent += put
		refused += n - put
		got := back.Get(burst[:])
		for _, d := range burst[:got] {
			if d.Len != uint32(returned) || d.Options != ^uint32(returned) || !held[d.Addr] {
				t.Fatalf("descriptor %d comes back as %+v, held %v", returned, d, held[d.Addr])
			}
			held[d.Addr] = false
			pool.Put(d.Addr)
			returned++
		}
		if put+got == 0 {
			runtime.Gosched()
		}
	}
	<-done
	if pool.Len() != frames || slices.Contains(held, true) || !there.Empty() || !back.Empty() {
		t.Errorf("%d of %d frames are free, rings hold %d and %d", pool.Len(), frames, there.Len(), back.Len())
	}
	t.Logf("%d sent, %d refused by a full ring", sent, refused)
}

// Values put backwards are those put one by one from the last to the first, wherever the ring wraps.
func TestPutBackwards(t *testing.T) {
	const size = 32
	for at := range uint32(size) {
		for n := range size + 1 {
			values := make([]uint64, n)
			for i := range values {
				values[i] = uint64(i + 1)
			}
			fast, _ := newRing[uint64](size)
			slow, _ := newRing[uint64](size)
			fast.local, slow.local = at-5, at-5
			fast.putBackwards(values)
			for _, v := range slices.Backward(values) {
				slow.put(v)
			}
			if !slices.Equal(fast.slots, slow.slots) || fast.local != slow.local {
				t.Fatalf("%d values from slot %d: %v up to %d, not %v up to %d", n, at, fast.slots, fast.local, slow.slots, slow.local)
			}
		}
	}
}

// A ring without slots, which nobody makes, takes nothing; and nobody can make one, or one whose size is no power of two.
func TestRingWithoutSlots(t *testing.T) {
	done := make(chan bool, 1)
	go func() {
		var r ring[uint64]
		r.putBackwards([]uint64{1, 2, 3})
		(&Wire{}).complete(3)
		done <- r.local == 0
	}()
	select {
	case nothing := <-done:
		if !nothing {
			t.Error("something was put into it")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("whoever puts something into it does not come back")
	}
	for _, size := range []int{0, -8, 3, 12} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a ring of %d slots was made", size)
				}
			}()
			newRing[uint64](size)
		}()
	}
}
