package engine

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"sluice/flow"
)

// saved is what a killed engine leaves: the records of each worker's table.
func (b *bench) saved() (all [][]flow.Record) {
	b.t.Helper()
	capacity := b.opt.Capacity
	for _, mem := range b.opt.Tables {
		file := alignedMemory(flow.HeaderSize + flow.Size(capacity))
		h := flow.Header{Capacity: capacity, Secret: b.opt.Secret}
		h.Put(file)
		copy(file[flow.HeaderSize:], mem)
		_, records, err := flow.ReadFile(file)
		if err != nil {
			b.t.Fatal(err)
		}
		all = append(all, records)
	}
	return all
}

// restored is a dictionary that was read back entry by entry.
func restored(t *testing.T, from *Dictionary) *Dictionary {
	t.Helper()
	d := NewDictionary()
	for _, e := range from.Entries(0) {
		if !d.Restore(e) {
			t.Fatalf("%+v does not fit", e)
		}
	}
	return d
}

// successor is an engine that has adopted what old left.
func (b *bench) successor(t *testing.T, spec Spec, capacity int, ports []int) (*bench, Adoption) {
	t.Helper()
	next := newBenchFrom(t, spec, capacity, 1024, restored(t, b.dict), b.now+50)
	var a Adoption
	for _, records := range b.saved() {
		next.Adopt(records, ports, &a)
	}
	next.check()
	return next, a
}

// check holds the counts of an engine against its tables.
func (b *bench) check() {
	b.t.Helper()
	if err := b.consistent(); err != nil {
		b.t.Fatal(err)
	}
}

// serverOf opens a connection from port and returns the number of the member that it went to.
func (b *bench) serverOf(port uint16) int {
	b.t.Helper()
	got := only(b.t, b.send(outside, fromClient(port, "S").build(b.t)), inside)
	return int(got[33])
}

// established opens a connection and completes its handshake.
func (b *bench) established(port uint16) int {
	b.t.Helper()
	server := b.serverOf(port)
	sa := fromServer(server, port, "SA")
	sa.ack = 1001
	only(b.t, b.send(inside, sa.build(b.t)), outside)
	only(b.t, b.send(outside, ackOf(port).build(b.t)), inside)
	return server
}

func ackOf(port uint16) packet {
	p := fromClient(port, "A")
	p.seq, p.ack = 1001, 9001
	return p
}

var samePorts = []int{outside, inside, host}

// Another number of workers: each connection goes to the worker that owns its packets now, with its counts, which go
// back to zero when it expires.
func TestAdoptOtherWorkers(t *testing.T) {
	for _, workers := range [][2]int{{1, 3}, {3, 1}, {2, 5}} {
		old := newBench(t, a4(workers[0]), 1000, 1024)
		servers := map[uint16]int{}
		for port := uint16(100); port < 220; port++ {
			if port%3 == 0 {
				servers[port] = old.serverOf(port)
				continue
			}
			servers[port] = old.established(port)
		}
		next, a := old.successor(t, a4(workers[1]), 1000, samePorts)
		if a != (Adoption{Adopted: 120}) {
			t.Fatalf("workers %v: %+v", workers, a)
		}
		for i, w := range next.workers {
			if w.table.Len() == 0 {
				t.Errorf("workers %v: worker %d has none", workers, i)
			}
		}
		half := int32(0)
		for _, w := range next.workers {
			for _, n := range w.half.virtual {
				half += n
			}
		}
		if half != 40 {
			t.Errorf("workers %v: %d half-open, want 40", workers, half)
		}
		for port, server := range servers {
			if port%3 == 0 {
				continue
			}
			at := int(port) % workers[1]
			out := only(t, next.sendTo(at, outside, ackOf(port).build(t)), inside)
			if int(out[33]) != server {
				t.Fatalf("port %d went to server %d, was with %d", port, out[33], server)
			}
			p := fromServer(server, port, "A")
			p.seq, p.ack = 9001, 1001
			only(t, next.sendTo(at, inside, p.build(t)), outside)
		}
		next.now += uint64(DefaultTimeouts.Established) + 2000
		for range 400 {
			next.Step(next.now)
		}
		next.check()
		for id, active := range next.dict.shared {
			if n := active.active.Load(); n != 0 {
				t.Errorf("workers %v: node %d has %d connections at the end", workers, id, n)
			}
		}
		if s := next.stats(); s.Closed != 120 || s.Dropped() != 0 {
			t.Errorf("workers %v: %+v", workers, s)
		}
		old.close()
		next.close()
	}
}

// A member and a virtual server that the new configuration lacks: what is established goes on both ways, new connections
// do not come.
func TestAdoptDraining(t *testing.T) {
	for _, workers := range []int{1, 2} {
		old := newBench(t, a4(workers), 1000, 1024)
		gone := map[uint16]int{}
		for port := uint16(100); port < 108; port++ {
			gone[port] = old.established(port)
		}
		spec := a4(workers)
		spec.Virtuals = spec.Virtuals[1:] // without web
		spec.Virtuals = append(spec.Virtuals[:1:1], spec.Virtuals[2:]...)
		spec.Pools[0].Members = spec.Pools[0].Members[1:] // and without server 1
		removed := old.dict.virtual(Entry{Kind: "virtual", Addr: vip, Port: 80, Proto: flow.TCP})
		node := old.dict.node("web", serverIP(1), 80)
		spec.Draining = Draining{
			Nodes:    map[uint32]DrainingNode{node: {Hop: Hop{Port: inside, MAC: mac(serverMAC(1)), OK: true}}},
			Virtuals: map[uint32]VirtualSpec{removed: {Addr: vip}},
		}
		next, a := old.successor(t, spec, 1000, samePorts)
		if a != (Adoption{Adopted: len(gone)}) {
			t.Fatalf("%+v", a)
		}
		for port, server := range gone {
			got := only(t, next.send(outside, ackOf(port).build(t)), inside)
			want := ackOf(port)
			want.srcMAC, want.dstMAC, want.dst, want.ttl = insideMAC, serverMAC(server), serverIP(server), 63
			if !bytes.Equal(got, want.build(t)) {
				t.Fatalf("port %d\n%x, want\n%x", port, got, want.build(t))
			}
			ans := fromServer(server, port, "A")
			ans.seq, ans.ack = 9001, 1001
			got = only(t, next.send(inside, ans.build(t)), outside)
			ans.srcMAC, ans.dstMAC, ans.src, ans.ttl = outsideMAC, clientMAC, vip, 63
			if !bytes.Equal(got, ans.build(t)) {
				t.Fatalf("answer to port %d\n%x, want\n%x", port, got, ans.build(t))
			}
		}
		if out := next.send(outside, fromClient(300, "S").build(t)); len(out[0])+len(out[1])+len(out[2]) != 0 {
			t.Error("a new connection to a virtual server that is gone")
		}
		if s := next.stats(); s.Drops[NoVirtualServer] != 1 || s.Dropped() != 1 || s.Opened != 0 {
			t.Errorf("%+v", s)
		}
		next.now += uint64(DefaultTimeouts.Established) + 2000
		for range 50 {
			next.Step(next.now)
		}
		next.check()
		if n := next.dict.shared[node].active.Load(); n != 0 {
			t.Errorf("the member that drains has %d connections at the end", n)
		}
		old.close()
		next.close()
	}
}

// Ports keep their connections when the file lists them in another order; those of a port that is gone are counted.
func TestAdoptPortsRenumbered(t *testing.T) {
	old := newBench(t, a4(1), 100, 1024)
	defer old.close()
	for port := uint16(100); port < 110; port++ {
		old.established(port)
	}
	spec := a4(1)
	spec.Ports[outside], spec.Ports[inside] = spec.Ports[inside], spec.Ports[outside]
	for i := range spec.Pools {
		for j := range spec.Pools[i].Members {
			spec.Pools[i].Members[j].Hop.Port = outside // where inside is now
		}
	}
	next, a := old.successor(t, spec, 100, []int{inside, outside, host})
	defer next.close()
	if a != (Adoption{Adopted: 10}) {
		t.Fatalf("%+v", a)
	}
	only(t, next.send(inside, ackOf(105).build(t)), outside)
	if out := next.send(outside, ackOf(105).build(t)); len(out[0])+len(out[1]) != 0 || next.stats().Drops[WrongSide] != 1 {
		t.Error("a packet on the wrong port was forwarded")
	}
	for name, c := range map[string]struct {
		ports []int
		want  Adoption
	}{
		"client's port is gone":   {[]int{-1, inside, host}, Adoption{Strange: 10}},
		"server's port is gone":   {[]int{outside, -1, host}, Adoption{Strange: 10}},
		"port that never existed": {[]int{outside}, Adoption{Unsound: 10}},
	} {
		other, a := old.successor(t, a4(1), 100, c.ports)
		if a != c.want {
			t.Errorf("%s: %+v", name, a)
		}
		other.close()
	}
}

// In a smaller table the established connections are kept, the half-open ones make room.
func TestAdoptSmaller(t *testing.T) {
	old := newBench(t, a4(1), 100, 1024)
	defer old.close()
	for port := uint16(100); port < 130; port++ {
		old.serverOf(port)
	}
	for port := uint16(200); port < 230; port++ {
		old.established(port)
	}
	next, a := old.successor(t, a4(1), 32, samePorts)
	defer next.close()
	if a != (Adoption{Adopted: 32, NoRoom: 28}) {
		t.Errorf("%+v", a)
	}
	left, _ := next.Connections(t.Context(), 100, func(c *Conn) bool { return !c.HalfOpen() })
	if len(left) != 30 {
		t.Errorf("%d of 30 established connections were kept", len(left))
	}
}

// A record left between the segment that establishes and the end of its being half open counts as established.
func TestAdoptSettles(t *testing.T) {
	old := newBench(t, a4(1), 100, 1024)
	defer old.close()
	old.serverOf(100)
	w := old.workers[0]
	r := w.table.Record(1)
	r.TrackTCP(flow.FromServer, &flow.Segment{Seq: 9000, Ack: 1001, Flags: flow.FlagSYN | flow.FlagACK, Window: 64000, Scale: flow.NoScale})
	r.TrackTCP(flow.FromClient, &flow.Segment{Seq: 1001, Ack: 9001, Flags: flow.FlagACK, Window: 64000})
	if !r.HalfOpen() || r.TCPState() != flow.TCPEstablished {
		t.Fatal("not the moment that was meant")
	}
	next, a := old.successor(t, a4(1), 100, samePorts)
	defer next.close()
	if a.Adopted != 1 || next.workers[0].table.Record(1).HalfOpen() || next.workers[0].evict() {
		t.Errorf("%+v: it is half open still", a)
	}
}

// Ids mean what they meant, whatever the new configuration's order; a dictionary that contradicts itself is refused.
func TestDictionaryRestore(t *testing.T) {
	old := newBench(t, a4(1), 100, 1024)
	defer old.close()
	server := old.established(100)
	spec := a4(1)
	spec.Pools[0], spec.Pools[2] = spec.Pools[2], spec.Pools[0]
	for i := range spec.Virtuals {
		spec.Virtuals[i].Pool = []int{2, 1, 0, 1}[i]
	}
	for i, j := 0, len(spec.Virtuals)-1; i < j; i, j = i+1, j-1 {
		spec.Virtuals[i], spec.Virtuals[j] = spec.Virtuals[j], spec.Virtuals[i]
	}
	next, _ := old.successor(t, spec, 100, samePorts)
	defer next.close()
	conns, err := next.Connections(t.Context(), 10, nil)
	if err != nil || len(conns) != 1 || conns[0].Virtual != "web" || conns[0].Pool != "web" || conns[0].Member != serverIP(server).String() {
		t.Errorf("%v, %+v", err, conns)
	}
	for _, bad := range []Entry{
		{Kind: "node", ID: 99, Pool: "web", Addr: serverIP(9), Port: 80}, {Kind: "virtual", ID: 1, Addr: vip, Port: 9999, Proto: 6},
		{Kind: "other", ID: 1}, {Kind: "node", ID: 2, Pool: "web", Addr: serverIP(1), Port: 80},
	} {
		if restored(t, old.dict).Restore(bad) {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// Noise instead of records is counted, and nothing of it enters.
func TestAdoptNoise(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	b := newBench(t, a4(2), 100, 1024)
	defer b.close()
	size := flow.HeaderSize + flow.Size(10_000)
	file := alignedMemory(size)
	h := flow.Header{Capacity: 10_000}
	h.Put(file)
	for i := flow.HeaderSize; i < size; i++ {
		file[i] = byte(rng.Uint32())
	}
	_, records, err := flow.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var a Adoption
	b.Adopt(records, samePorts, &a)
	if a.Adopted+a.Doubled+a.NoRoom+a.Strange != 0 || a.Unsound < 4000 {
		t.Errorf("%+v", a)
	}
	b.check()
}
