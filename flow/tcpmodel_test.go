package flow

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"
)

// Two TCP endpoints with a tracker between them. Lines lose, delay and duplicate on both sides of the tracker. The
// endpoints count in 64-bit offsets: 0 is the SYN, data starts at 1, the FIN comes after it.

type modelEnd struct {
	side       Side
	isn        uint32
	scale      uint8 // its own; NoScale: no option
	shiftOut   uint8 // of the windows it announces, once both sent SYNs
	shiftIn    uint8 // of those it receives
	total      uint64
	una, next  uint64 // first not acknowledged, first not sent
	edge       uint64 // may send up to here
	synced     bool   // has the other's SYN
	peerISN    uint32
	received   uint64 // next offset expected
	read       uint64
	gaps       [][2]uint64 // received out of order
	finAt      uint64      // offset of the other's FIN, once seen
	buffer     uint64
	segment    uint64
	retransmit int // when
	delayed    int // segments not acknowledged yet
	abort      uint64
	aborted    bool
	duplicates int // acknowledgements that bring nothing
}

type modelEvent struct {
	at, order int
	to        int // 0, 1: endpoint; 2, 3: tracker, from that endpoint
	seg       Segment
}

type modelQueue []modelEvent

func (q modelQueue) Len() int { return len(q) }
func (q modelQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q modelQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *modelQueue) Push(x any)   { *q = append(*q, x.(modelEvent)) }
func (q *modelQueue) Pop() any {
	x := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return x
}

type model struct {
	t        *testing.T
	rng      *rand.Rand
	end      [2]modelEnd
	queue    modelQueue
	now      int
	order    int
	loss     float64
	double   float64
	rec      Record
	begun    bool
	judged   int // segments of the endpoints
	steady   int // of those, the ones that are told at a glance
	attacks  int
	hits     int
	expected float64 // hits by chance
}

const (
	modelDelay  = 10 // one way to the tracker, and from it
	modelJitter = 5  // less than half of that: nothing is older than a window
	modelRTO    = 100
)

func newModel(t *testing.T, rng *rand.Rand) *model {
	m := &model{t: t, rng: rng, rec: tcpRecord(), double: 0.02}
	if rng.IntN(4) != 0 {
		m.loss = 0.1 * rng.Float64()
	}
	for i := range m.end {
		e := &m.end[i]
		*e = modelEnd{
			side: Side(i), isn: rng.Uint32(), scale: uint8(rng.IntN(15)), total: rng.Uint64N(1 << rng.IntN(18)),
			edge: 1, finAt: 1 << 63, buffer: 500 + rng.Uint64N(1<<(8+rng.IntN(13))), segment: 40 + rng.Uint64N(1421), abort: 1 << 63,
		}
		if rng.IntN(3) == 0 {
			e.isn = -rng.Uint32N(1 << (1 + rng.IntN(18))) // wraps in the course
		}
		if rng.IntN(4) == 0 {
			e.scale = NoScale
		}
		if e.scale != NoScale {
			e.buffer = max(e.buffer, 4<<e.scale) // smaller ones would read as 0
		}
		if rng.IntN(8) == 0 {
			e.abort = 1 + rng.Uint64N(e.total+1)
		}
	}
	return m
}

func (e *modelEnd) end() uint64  { return e.total + 2 } // offset after the FIN
func (e *modelEnd) closed() bool { return e.una == e.end() && e.received > e.finAt }

// window is what the endpoint announces.
func (e *modelEnd) window(syn bool) uint16 {
	free := e.buffer - min(e.buffer, e.received-e.read)
	if syn {
		return uint16(min(free, 65535))
	}
	return uint16(min(free>>e.shiftOut, 65535))
}

func (m *model) send(e *modelEnd, from, to uint64, flags uint8) {
	s := Segment{Seq: e.isn + uint32(from), Flags: flags, Scale: NoScale}
	if from == 0 && flags&FlagRST == 0 {
		s.Flags |= FlagSYN
		if s.Scale = e.scale; e.synced && e.shiftOut != e.scale {
			s.Scale = NoScale // the other end sent none (RFC 7323 section 2.2)
		}
		from = 1
	}
	if to == e.end() && flags&FlagRST == 0 && to > from {
		s.Flags |= FlagFIN
		to--
	}
	if to > from {
		s.Len = uint32(to - from)
	}
	if e.synced {
		s.Flags |= FlagACK
		s.Ack = e.peerISN + uint32(e.received)
		e.delayed = 0
	}
	s.Window = e.window(s.Flags&FlagSYN != 0)
	m.carry(2+int(e.side), s)
}

// carry brings a segment one hop on, or does not.
func (m *model) carry(to int, s Segment) {
	for {
		if m.rng.Float64() >= m.loss {
			m.order++
			heap.Push(&m.queue, modelEvent{m.now + modelDelay + m.rng.IntN(modelJitter), m.order, to, s})
		}
		if m.rng.Float64() >= m.double {
			return
		}
	}
}

// transmit sends what the window allows.
func (m *model) transmit(e *modelEnd) {
	if !e.synced && e.side == FromServer {
		return
	}
	if e.next == 0 {
		m.send(e, 0, 1, 0)
		e.next, e.retransmit = 1, m.now+modelRTO
	}
	if e.una == 0 {
		return // the handshake first
	}
	for e.next < e.end() && e.next < e.edge {
		to := min(e.next+e.segment, e.edge, e.end())
		if to < e.end() && to > e.total+1 {
			to = e.total + 1
		}
		m.send(e, e.next, to, FlagPSH*uint8(m.rng.IntN(2)))
		e.next = to
		e.retransmit = m.now + modelRTO
		if e.next > e.abort {
			m.send(e, e.next, e.next, FlagRST)
			e.aborted = true
			return
		}
	}
}

// timer sends again, or probes a window that stays shut.
func (m *model) timer(e *modelEnd) {
	if e.aborted || m.now < e.retransmit || !e.synced && e.side == FromServer {
		return
	}
	e.retransmit = m.now + modelRTO
	switch {
	case e.una < e.next:
		to := min(max(e.una+e.segment, 1), e.next)
		if e.una == 0 {
			to = 1
		}
		m.send(e, e.una, to, 0)
	case e.next < e.end() && e.next >= e.edge && e.una > 0:
		if m.rng.IntN(2) == 0 {
			m.send(e, e.next-1, e.next-1, 0)
			break
		}
		m.send(e, e.next, e.next+1, 0) // with a byte, or the FIN
		e.next++
	default:
		m.send(e, e.next-1, e.next-1, 0) // keepalive
	}
}

func (m *model) receive(e *modelEnd, s *Segment) {
	if e.aborted {
		if s.Flags&FlagRST == 0 && s.Flags&FlagACK != 0 {
			m.carry(2+int(e.side), Segment{Seq: s.Ack, Flags: FlagRST, Scale: NoScale})
		}
		return
	}
	if s.Flags&FlagRST != 0 {
		if e.synced && s.Seq == e.peerISN+uint32(e.received) {
			e.aborted = true
		} else if e.synced {
			m.send(e, e.next, e.next, 0) // challenge
		}
		return
	}
	first := !e.synced
	if s.Flags&FlagSYN != 0 {
		switch {
		case e.synced && e.una == 0:
			m.send(e, 0, 1, 0) // the answer again
			return
		case e.synced:
			m.send(e, e.next, e.next, 0) // challenge
			return
		}
		e.synced, e.peerISN, e.received, e.read = true, s.Seq, 1, 1
		if e.scale != NoScale && s.Scale != NoScale {
			e.shiftOut, e.shiftIn = e.scale, s.Scale
		}
	} else if first {
		return
	}
	window := uint64(s.Window)
	if s.Flags&FlagSYN == 0 {
		window <<= e.shiftIn
	}
	if s.Flags&FlagACK != 0 {
		ack := e.una + uint64(int64(int32(s.Ack-e.isn-uint32(e.una))))
		if ack > e.next {
			return
		}
		if ack == e.una && s.Len == 0 && e.una < e.next {
			if e.duplicates++; e.duplicates == 3 && e.una > 0 {
				m.send(e, e.una, min(e.una+e.segment, e.next), 0) // fast retransmit
			}
		}
		if ack > e.una {
			e.una, e.duplicates = ack, 0
			e.retransmit = m.now + modelRTO
		}
		e.edge = max(e.edge, ack+window)
	}
	m.take(e, s)
	m.transmit(e)
	if first && e.delayed > 0 {
		m.send(e, e.next, e.next, 0)
	}
}

// take puts the payload in its place and acknowledges at once or later.
func (m *model) take(e *modelEnd, s *Segment) {
	start := e.received + uint64(int64(int32(s.Seq-e.peerISN-uint32(e.received))))
	if s.Flags&FlagSYN != 0 {
		start++
		e.delayed = 1
	}
	end := start + uint64(s.Len)
	if s.Flags&FlagFIN != 0 {
		e.finAt = end
		end++
	}
	if e.received > e.finAt+1 {
		m.t.Fatal("data after FIN") // a fault of the model
	}
	ordered := int64(start) <= int64(e.received) && int64(end) >= int64(e.received)
	if int64(end) > int64(e.received) && (int64(start) <= int64(e.received) || start < e.received+e.buffer) {
		// What lies beyond the buffer is cut off.
		limit := max(e.read+e.buffer, e.received)
		if end > limit && end != e.finAt+1 {
			end = limit
		}
		if end > start {
			e.gaps = append(e.gaps, [2]uint64{start, end})
		}
		for i := 0; i < len(e.gaps); i++ {
			if int64(e.gaps[i][0]) <= int64(e.received) {
				e.received = max(e.received, e.gaps[i][1])
				e.gaps[i] = e.gaps[len(e.gaps)-1]
				e.gaps = e.gaps[:len(e.gaps)-1]
				i = -1
			}
		}
	}
	if s.Len == 0 && s.Flags&(FlagFIN|FlagSYN) == 0 && ordered && start == e.received {
		return
	}
	if m.rng.IntN(8) != 0 {
		e.read = e.received
	}
	if e.delayed++; !ordered || e.delayed >= 2 || s.Flags&FlagFIN != 0 {
		m.send(e, e.next, e.next, 0)
	}
}

// track is the tracker's turn.
func (m *model) track(side Side, s *Segment) {
	m.attack()
	m.judged++
	switch {
	case !m.begun:
		if s.Flags&FlagSYN == 0 || side != FromClient {
			return
		}
		m.begun = true
		m.rec.BeginTCP(s)
	default:
		before := m.rec
		j := m.rec.TrackTCP(side, s)
		if sameSteady(m.t, &before, &m.rec, side, s, j) {
			m.steady++
		}
		// A SYN may come late, and a RST inexact: the ends do not heed them either.
		if heeded := s.Flags&FlagRST == 0 && (s.Flags&FlagSYN == 0 || before.TCPState() <= TCPSynReceived); heeded && j == Outside {
			m.t.Fatalf("%d from %d: %v\n%+v\n%+v", m.now, side, j, *s, before)
		}
		if err := consistent(judgementNames[j], &before, &m.rec); err != nil {
			m.t.Fatal(err)
		}
	}
	m.carry(int(side^1), *s)
}

// attack sends a segment of someone who knows the addresses and ports but sees nothing.
func (m *model) attack() {
	state := m.rec.TCPState()
	if m.rng.IntN(2) != 0 || state < TCPSynReceived {
		return
	}
	m.attacks++
	s := Segment{Seq: m.rng.Uint32(), Ack: m.rng.Uint32(), Window: uint16(m.rng.Uint32()), Scale: uint8(m.rng.IntN(15)), Len: m.rng.Uint32N(2000)}
	s.Flags = [...]uint8{FlagACK, FlagACK | FlagFIN, FlagRST, FlagRST | FlagACK, FlagSYN, FlagSYN | FlagACK}[m.rng.IntN(6)]
	side := Side(m.rng.IntN(2))
	if s.Flags == FlagSYN {
		side = FromClient
		if state == TCPSynReceived {
			m.expected += synData / 4294967296.0
		}
	}
	wide := float64(m.rec.window(0)) + float64(m.rec.window(1)) + 2*slack
	m.expected += wide / 4294967296 * wide / 4294967296
	m.expected += 1.0 / (1 << 18) / 6 // a SYN-ACK against a noted SYN
	r := m.rec
	j := r.TrackTCP(side, &s)
	if j != Outside {
		m.hits++
		return
	}
	if err := consistent("outside", &m.rec, &r); err != nil {
		m.t.Fatal(err)
	}
	m.rec = r // with the note, if it was a SYN
}

// run goes on until both ends have closed. It reports false when the time is over.
func (m *model) run() bool {
	m.transmit(&m.end[0])
	for last := 0; last < 500000; {
		for i := range m.end {
			e := &m.end[i]
			if m.now >= last {
				m.timer(e)
				if e.synced && !e.aborted && e.read < e.received {
					e.read = e.received // and tells of the room
					m.send(e, e.next, e.next, 0)
				}
			}
		}
		if m.now >= last {
			last = m.now + modelRTO/2
		}
		if len(m.queue) == 0 {
			if (m.end[0].aborted || m.end[0].closed()) && (m.end[1].aborted || m.end[1].closed()) || m.gaveUp() {
				return true
			}
			m.now = last
			continue
		}
		if m.queue[0].at > last {
			m.now = last
			continue
		}
		ev := heap.Pop(&m.queue).(modelEvent)
		m.now = ev.at
		if ev.to >= 2 {
			m.track(Side(ev.to-2), &ev.seg)
		} else {
			m.receive(&m.end[ev.to], &ev.seg)
		}
	}
	return false
}

// gaveUp: an end that aborted tells the other only if that speaks.
func (m *model) gaveUp() bool { return m.end[0].aborted && m.end[1].aborted }

// Every segment of two endpoints that keep to the rules belongs to the connection, and it closes when they close.
func TestTCPModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	limit, least := 4*time.Second, 200
	if testing.Short() {
		limit = 500 * time.Millisecond
	}
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	judged, steady, attacks, hits, conns, resets, missed, expected := 0, 0, 0, 0, 0, 0, 0, 0.0
	for start := time.Now(); conns < least || time.Since(start) < limit; conns++ {
		m := newModel(t, rng)
		if !m.run() {
			t.Fatalf("connection %d does not end: %v\n%+v\n%+v", conns, m.rec.TCPState(), m.end[0], m.end[1])
		}
		if aborted := m.end[0].aborted || m.end[1].aborted; aborted {
			// The RST may be lost before the tracker, or overtake the data before it.
			resets++
			if m.rec.TCPState() != TCPClosed {
				missed++
			}
		} else if m.rec.TCPState() != TCPClosed {
			t.Fatalf("connection %d ends in %v\n%+v\n%+v\n%+v", conns, m.rec.TCPState(), m.rec, m.end[0], m.end[1])
		}
		judged += m.judged
		steady += m.steady
		attacks += m.attacks
		hits += m.hits
		expected += m.expected
	}
	t.Logf("%d connections, %d segments, %d resets of which %d missed, %d guesses of which %d hit; by chance %.2f",
		conns, judged, resets, missed, attacks, hits, expected)
	if steady < judged/10 {
		t.Errorf("only %d of %d segments are steady", steady, judged)
	}
	if missed > 5+resets/20 {
		t.Errorf("%d of %d resets missed", missed, resets)
	}
	if float64(hits) > 10+3*expected {
		t.Errorf("%d of %d guesses hit, by chance it would be %.2f", hits, attacks, expected)
	}
}
