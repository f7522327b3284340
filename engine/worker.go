// Package engine is where the stages meet: workers that take bursts of frames from queues, find each packet's
// connection, rewrite it and send it on.
//
// The walk of a burst, a function per stage:
//
//	1 control   between bursts: what has come through the channel            control.go
//	2 receive   refill first, then a burst from a queue or a handoff ring    worker.go
//	3 parse     frames to tuples; what cannot be read is dropped             worker.go
//	            with a look ahead, for each that is read at a glance and for portions of others: the table asks memory for its tuples
//	4 look up   tuples to records, the whole burst at once                   flow
//	5 steer     what has no record here and is another worker's goes to it   handoff.go
//	6 schedule  packets without a record: a member is chosen, or the kernel  schedule.go
//	7 rewrite   headers in place; the frame is put on its egress port        rewrite.go, change.go
//	8 transmit  a full batch per egress port, one wake-up                    transmit.go
//	9 reclaim   frames that have left come back; timers                      worker.go
//
// A worker is a goroutine locked to a thread pinned to a core. It alone touches its queues, free frames, table,
// timers and counters. Nothing is locked. It shares only what configurations point to (turns and connection counts,
// one atomic operation per new connection), handoff rings, and its channel.
package engine

import (
	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

const burstSize = flow.Burst

// PortQueue is a queue of a port that a worker serves.
type PortQueue struct {
	Port   int
	Number int // on its port; only a takeover tells queues apart by it
	Queue  rings.Queue
	// TxOnly queues are not received from.
	TxOnly bool
}

// worker is the state of one worker; see the package comment for who may touch it.
type worker struct {
	id    int     // for people: 0 to the number of workers
	slot  int     // its place in everybody's peers
	slots []uint8 // of the configuration's workers
	// launched says that it runs on a thread of its own; only Scale asks.
	launched bool
	cfg      *Config
	region   *rings.Region
	pool     *rings.Pool
	table    *flow.Table
	sources  *flow.SourcePorts // ports at SNAT addresses; nil until there are such
	rx       []PortQueue
	tx       []egress // by port
	peers    []peer   // by slot; the own entry and free slots are unused
	leaving  *leaving // nil but while another worker takes everything over
	// unreturned are the frames of workers that leave, whose connections are here now.
	unreturned []rings.Desc
	now        uint64 // milliseconds; the burst's clock
	stats      Stats
	virtual    counters // by virtual server id
	node       counters // by node id
	half       halfOpen
	tally      tally
	clients    clientCache
	fragments  fragments
	persist    *persist // nil where no configuration had persistence
	jumbo      *jumbo   // nil where no packet is larger than a frame
	runtime    runtimeState

	// The burst in hand. Entries [0, n) are valid; stages compact them.
	n          int
	opening    int    // packets that were parsed and begin a connection with a handshake
	tcpKnown   int    // of so many at the beginning it is known which are of TCP
	tcp        uint64 // a bit for each of these
	descs      [burstSize]rings.Desc
	ports      [burstSize]uint16 // where each packet arrived
	pkts       [burstSize]rewrite.Packet
	keys       [burstSize]flow.Key
	quotes     [burstSize]rewrite.Quote // of ICMP errors
	ahead      proposals
	refs       [burstSize]flow.Ref   // 0 after schedule: the packet is no longer in hand
	in         [burstSize]rings.Desc // from another worker
	one        [1]rings.Desc
	sentErrors answers
	outerID    uint16   // of the last packet that went into a tunnel
	capture    *capture // nil but while packets are captured
	sentEchoes answers
	sums       []sums      // by port
	checked    []SumPolicy // by port; nil: no packet's checksum is looked at but samples'
	// handedIn says that the burst comes from another worker, which has found its owner.
	handedIn bool
	placed   int // packets of the burst that have come with a note about their member
	// sentUnmatched are the answers to packets for no virtual server, RSTs and ICMP errors alike.
	sentUnmatched answers

	timeoutOf func(*flow.Record) uint64 // closures made once: Expire must not allocate
	expired   func(*flow.Record)
	evicted   func(*flow.Record)
}

// expiryBudget bounds the timers that one step looks at, so that a wave of expiries is spread over bursts. One for each
// connection that the step has opened comes on top: else a table that is fed with nothing but new connections would fill up.
const expiryBudget = 32

// sweepBudget bounds the records that a step of a table above its high-water mark looks at: each costs a cache miss.
const sweepBudget = 4

// step serves every queue and ring once and reports whether there was anything to do.
func (w *worker) step(now uint64) bool {
	busy := w.serve(now)
	w.settleCounts()
	return busy
}

func (w *worker) serve(now uint64) bool {
	w.now = now
	busy, opened := false, w.stats.Opened
	for i := range w.rx {
		q := &w.rx[i]
		if q.TxOnly {
			continue
		}
		q.Queue.Refill(w.pool)
		n := q.Queue.Receive(w.descs[:])
		if n == 0 {
			continue
		}
		busy = true
		w.stats.RxPackets += uint64(n)
		w.take(uint16(q.Port), n)
		w.process()
	}
	if len(w.peers) > 1 && w.receiveHandoffs() {
		busy = true
	}
	w.transmit()
	w.reclaim()
	if w.fragments.table.Len() > 0 {
		w.expireFragments()
	}
	if w.persist != nil && w.leaving == nil {
		w.agePersistence()
	}
	if w.leaving != nil {
		return w.leave() || busy // whoever gets a connection looks at its timer
	}
	if budget := expiryBudget + int(w.stats.Opened-opened); w.table.Expire(now, budget, w.timeoutOf, w.expired) == budget {
		busy = true
	}
	if w.endSome() {
		busy = true
	}
	if shrink := w.table.Shrink(); shrink < wholeTimeouts {
		w.table.Sweep(now, sweepBudget, w.timeoutOf, w.expired)
	}
	return busy
}

// portion is how many packets are parsed before their buckets are asked for. These come while the next portion is parsed; more
// at once than a processor has under way would make it wait.
const portion = 8

// take parses the n frames in w.descs, which arrived on port, into the burst, in place, and begins to look them up.
func (w *worker) take(port uint16, n int) {
	w.n, w.opening, w.handedIn = 0, 0, false
	in := w.descs[:n]
	if w.capture != nil {
		w.capture.arrive(w, port, in)
	}
	bytes := uint64(0)
	if w.jumbo != nil {
		bytes = w.tail(in)
	}
	w.ports = w.sums[port].ports
	w.stats.RxBytes += bytes + lengthOf(in)
	from, mixed := w.takePlain(in, port), w.checked == nil && w.capture == nil
	for from < n {
		if mixed {
			taken := w.takeMixed(in, from, port)
			if from += taken; from == n {
				return
			}
			mixed = taken > 0 && w.checked == nil // else the next ones are likely no better
		}
		first, to := w.n, min(from+portion, n)
		w.parseFrames(from, to, port)
		if from == 0 {
			w.mayLook(port)
		}
		if w.checked != nil {
			w.checkSums(first)
		}
		w.table.Hash(w.keys[:w.n], first)
		from = to
	}
}

// lengthOf is how many bytes d names.
func lengthOf(d []rings.Desc) (n uint64) {
	for ; len(d) >= 8; d = d[8:] {
		e := (*[8]rings.Desc)(d)
		n += uint64(e[0].Len) + uint64(e[1].Len) + uint64(e[2].Len) + uint64(e[3].Len) +
			uint64(e[4].Len) + uint64(e[5].Len) + uint64(e[6].Len) + uint64(e[7].Len)
	}
	for i := range d {
		n += uint64(d[i].Len)
	}
	return n
}

// takePlain parses and places packets that begin the burst as long as they are plain, all in one loop. It returns how many.
func (w *worker) takePlain(in []rings.Desc, port uint16) int {
	if w.checked != nil || len(in) == 0 || !rewrite.MayBePlain(w.region.Head(in[0].Addr)) {
		return 0
	}
	w.n, w.tcp = rewrite.ParseAndPlace(w.region.Bytes(), rewriteFrames(in), w.cfg.plainMost, w.pkts[:], w.keys[:], w.table.Placing())
	n := w.n
	if n == 0 {
		return 0
	}
	w.tcpKnown = n
	w.mayLook(port)
	if w.checked != nil { // from now on
		w.checkSums(0)
		w.table.Hash(w.keys[:w.n], 0)
	}
	return n
}

// mayLook counts a burst from port, and looks at its first packet when it is time for a sample.
func (w *worker) mayLook(port uint16) {
	if s := &w.sums[port]; s.in == 1 {
		w.sample(port)
	} else {
		s.in--
	}
}

// parseFrames parses the frames [from, to) of w.descs, which arrived on port, and adds them to the burst: it ends before from, or
// there, so that nothing is written over that is still to be read.
func (w *worker) parseFrames(from, to int, port uint16) {
	for from < to {
		if w.parsePlain(&w.descs[from&(burstSize-1)], port) {
			from++
			continue
		}
		if n := w.parseOpenings(from, to, port); n > 0 {
			from += n
			continue
		}
		regular := from
		for from < to && w.parseRegular(&w.descs[from&(burstSize-1)], port) {
			from++
		}
		if from == regular && from < to {
			w.parseGeneral(w.descs[from], port)
			from++
		}
	}
}

// parse adds one frame to the burst, or disposes of it.
func (w *worker) parse(d *rings.Desc, port uint16) {
	if !w.parsePlain(d, port) {
		w.parseAny(*d, port)
	}
}

// parsePlain is parse for a packet that is plain; it reports whether it is.
func (w *worker) parsePlain(d *rings.Desc, port uint16) bool {
	j := w.n & (burstSize - 1)
	if !rewrite.ParsePlain(w.region.Head(d.Addr), d.Len, w.cfg.plainMost, &w.pkts[j], &w.keys[j]) {
		return false
	}
	w.descs[j], w.ports[j] = *d, port
	w.n++
	return true
}

// parseAny is parse for a packet that is not plain.
func (w *worker) parseAny(d rings.Desc, port uint16) {
	if !w.parseRegular(&d, port) {
		w.parseGeneral(d, port)
	}
}

// parseGeneral is parse for whatever arrives.
func (w *worker) parseGeneral(d rings.Desc, port uint16) {
	j := w.n & (burstSize - 1)
	if w.checked == nil && rewrite.ParsePlainError(w.region.Packet(d), &w.pkts[j], &w.quotes[j], &w.keys[j]) {
		if w.relates(d, port) {
			w.descs[j], w.ports[j] = d, port
			w.n++
		}
		return
	}
	v := w.read(d, &w.pkts[j], &w.keys[j])
	if w.pkts[j].VLAN != 0 && !w.enterVLAN(&d, &port) {
		w.drop(d, VLANUnknown)
		return
	}
	if w.capture != nil {
		w.capture.entered(w, d, port)
	}
	if v != rewrite.OK {
		if !w.unusual(v, d, port, &w.keys[j]) {
			return
		}
	}
	w.descs[j], w.ports[j] = d, port
	if w.pkts[j].Opens {
		w.opening++
	}
	w.n++
}

// unusual deals with what is not a plain TCP, UDP or SCTP packet. It reports whether the packet stays in hand.
func (w *worker) unusual(v rewrite.Verdict, d rings.Desc, port uint16, k *flow.Key) bool {
	if w.checked != nil && !w.handedIn && v.IsPacket() {
		if p := &w.pkts[w.n&(burstSize-1)]; (v == rewrite.Fragment || p.ICMP == rewrite.ICMPError) && !w.checkSum(d, p, port, v == rewrite.Fragment) {
			return false // others are looked at with their burst
		}
	}
	switch v {
	case rewrite.NoPorts:
		if w.pkts[w.n&(burstSize-1)].ICMP == rewrite.ICMPError {
			return w.readError(d, port)
		}
		return true // has no connection; schedule knows what to do
	case rewrite.Fragment:
		return w.fragment(d, port, &w.pkts[w.n&(burstSize-1)], k)
	case rewrite.NotIP:
		w.drop(d, NotIP)
	case rewrite.Truncated:
		w.drop(d, Truncated)
	case rewrite.BadLength:
		w.drop(d, BadLength)
	case rewrite.ExtensionLimit:
		w.drop(d, ExtensionHeaders)
	default:
		w.drop(d, BadHeader)
	}
	return false
}

// process takes the burst from look-up to its egress ports.
func (w *worker) process() {
	if w.n > 0 {
		missed := w.table.Find(w.keys[:w.n], w.refs[:])
		if missed > 0 && !w.handedIn && w.cfg.owners.workers > 1 {
			missed = w.steer()
		}
		if w.leaving != nil {
			w.passOn()
		}
		if w.placed > 0 {
			w.takePlaces()
		}
		w.schedule(missed)
		if w.persist != nil {
			w.settlePlaces()
		}
	}
	w.tcpKnown = 0
	if w.fragments.n > 0 {
		w.passParts()
	}
}

// drop ends a packet: its reason is counted and its frames are free.
func (w *worker) drop(d rings.Desc, why Reason) {
	w.stats.Drops[why]++
	if w.capture != nil {
		w.capture.dropped(w, d.Addr, why)
	}
	w.region.Free(w.pool, d.Addr)
}

// reclaim takes back sent frames from every queue.
func (w *worker) reclaim() {
	for i := range w.rx {
		w.rx[i].Queue.Reclaim(w.pool)
	}
}

// release is called for a connection that leaves the table.
func (w *worker) release(r *flow.Record) {
	w.retire(r)
	if holds(r) {
		w.runtime.counts.add(r, -1)
	}
}

// retire is release but for the shared numbers of connections.
func (w *worker) retire(r *flow.Record) {
	w.stats.Closed++
	if r.HalfOpen() {
		w.settled(r)
	}
	w.exit(r)
}
