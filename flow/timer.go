package flow

// wheel is the table's timers: a ring of lists, one per tick. A record sits in one list, chained through links, behind
// those that were armed for the tick before it: a list is also the order of eviction, and there the newest goes last.
// Nothing is done per packet: when a record's tick comes, its owner says when it really ends, counted from when
// it was last seen, and it is armed anew if that has not come yet.
//
// A deadline further away than the ring reaches waits in the last tick and is looked at again there.
type wheel struct {
	heads  [wheelSlots]uint32
	tails  [wheelSlots]uint32
	filled [wheelSlots / 64]uint64 // a bit per list that is not empty
	cursor uint64                  // tick whose list is being worked through
}

const (
	tickShift  = 8 // a tick is 256 ms
	wheelSlots = 4096
)

func (w *wheel) reset(now uint64) { w.cursor = now >> tickShift }

// arm puts record i into the list of its deadline's tick.
func (w *wheel) arm(links []link, i uint32, deadline uint64) {
	tick := deadline>>tickShift + 1 // not before the deadline
	if tick <= w.cursor {
		tick = w.cursor + 1
	}
	if tick >= w.cursor+wheelSlots {
		tick = w.cursor + wheelSlots - 1
	}
	slot := tick & (wheelSlots - 1)
	end := endMark | uint32(slot)
	last := w.tails[slot]
	if last == 0 {
		links[i] = link{next: end, prev: end}
		w.heads[slot] = i
		w.filled[slot>>6] |= 1 << (slot & 63)
	} else {
		links[i] = link{next: end, prev: last}
		links[last].next = i
	}
	w.tails[slot] = i
}

// endMark in prev says that the record is the first of its list, in next that it is the last; the list's number is in
// the low bits.
const endMark = 1 << 31

func (w *wheel) disarm(links []link, i uint32) {
	l := links[i]
	first, last := l.prev&endMark != 0, l.next&endMark != 0
	switch slot := (l.prev | l.next) & (wheelSlots - 1); {
	case first && last:
		w.heads[slot], w.tails[slot] = 0, 0
		w.filled[slot>>6] &^= 1 << (slot & 63)
	case first:
		w.heads[l.prev&(wheelSlots-1)] = l.next
		links[l.next].prev = l.prev
	case last:
		w.tails[l.next&(wheelSlots-1)] = l.prev
		links[l.prev].next = l.next
	default:
		links[l.prev].next, links[l.next].prev = l.next, l.prev
	}
}

// Expire works through at most budget records whose tick has come. deadline tells, for each, when it ends
// (milliseconds, as now); a record that has ended is passed to expired and then removed. It returns how many
// records it looked at; fewer than budget means that all ticks up to now are done.
func (t *Table) Expire(now uint64, budget int, deadline func(*Record) uint64, expired func(*Record)) int {
	w := &t.wheel
	looked, fetched, first := 0, 0, 0
	for w.cursor <= now>>tickShift {
		slot := w.cursor & (wheelSlots - 1)
		for i := w.heads[slot]; i != 0; i = w.heads[slot] {
			if looked == budget {
				return looked
			}
			if looked >= fetched {
				first, fetched = looked, looked+t.fetchExpiring(i, min(budget-looked, expireAhead))
			}
			at := looked - first
			looked++
			t.fetchNext()
			r := &t.records[i]
			if end := deadline(r); end > now {
				w.disarm(t.links, i)
				w.arm(t.links, i, end)
				continue
			}
			expired(r)
			t.removeFetched(i, at)
		}
		if w.cursor == now>>tickShift {
			return looked // stay: arm puts records at least one tick further
		}
		w.cursor++
	}
	return looked
}

// expireAhead is how many records are asked for at a time before they are looked at.
const expireAhead = 32

// fetchExpiring asks memory for what the ends of up to n records touch, those from i on in their list, and returns how many
// there are: the records, then the buckets of both tuples. One after the other they would cost four misses each. What it
// has found out is in t.second: the client's place of record j at j, the server's at expireAhead+j. Those behind them in the list
// are for fetchNext.
func (t *Table) fetchExpiring(i uint32, n int) int {
	s := &t.second
	count := 0
	for ; count < n && i&endMark == 0; count++ {
		s.cand[count&(Burst-1)] = ref(i, FromClient)
		i = t.links[i].next
	}
	if t.chased != s.cand[0].Index() {
		prefetchRecords(t.records, s.cand[:count])
	}
	t.chase, t.chased = i, i
	translated := false
	for j := range count {
		j &= expireAhead - 1
		r := &t.records[s.cand[j].Index()]
		proto := uint64(r.Proto())
		client := t.secret.hash(r.Client, r.Virtual, uint64(Ports(r.CPort, r.VPort))<<8|proto)
		src, dst := r.Virtual, r.Client
		if r.toNode() {
			src = t.nodes[r.Node]
		}
		if r.SNAT != 0 {
			dst = t.nodes[r.SNAT]
		}
		server := t.secret.hash(src, dst, uint64(Ports(r.NPort, r.SPort))<<8|proto)
		if r.SNAT != 0 && t.ports != nil {
			s.cand[j+expireAhead] = Ref(t.ports.FetchHead(t.DestinationOf(r), uint8(r.SPort)))
			translated = true
		}
		s.bucket[j], s.tag[j] = t.place(client)
		s.bucket[j+expireAhead], s.tag[j+expireAhead] = t.place(server)
		if j&7 == 7 || j == count-1 {
			prefetchBuckets(t.buckets, s.bucket[j&^7:j+1])
			prefetchBuckets(t.buckets, s.bucket[expireAhead+j&^7:expireAhead+j+1])
		}
	}
	for j := 0; translated && j < count; j++ {
		if t.records[s.cand[j&(expireAhead-1)].Index()].SNAT != 0 {
			t.ports.FetchSet(uint32(s.cand[expireAhead+j&(expireAhead-1)]))
		}
	}
	return count
}

// fetchNext goes one record further in the list behind those that are worked through, and asks for that one: its link, which names the
// next, is on its way until the next call, as a record is worked through.
func (t *Table) fetchNext() {
	if i := t.chase; i&endMark == 0 {
		prefetchRecord(&t.records[i])
		i = t.links[i].next
		if t.chase = i; i&endMark == 0 {
			prefetchLinks(&t.links[i])
		}
	}
}

// removeFetched is Remove of the record that is in place at of those that fetchExpiring has asked for.
func (t *Table) removeFetched(i uint32, at int) {
	s := &t.second
	at &= expireAhead - 1
	if s.cand[at].Index() != i { // the list has changed meanwhile
		t.Remove(i)
		return
	}
	t.remove(i, place{s.bucket[at], s.tag[at]}, place{s.bucket[at+expireAhead], s.tag[at+expireAhead]})
}

// End is when r ends if it stays idle for timeout milliseconds after it was last seen, on the clock of now.
// The record keeps 32 bits of milliseconds: timeouts below 2^31 ms are told apart.
func (r *Record) End(now uint64, timeout uint32) uint64 {
	idle := uint32(now) - r.Seen
	if idle >= timeout {
		return now
	}
	return now + uint64(timeout-idle)
}

// Each calls f with up to limit live records, starting at index from, and returns the index to go on from, or 0
// when all have been seen. It looks at no more than limit*8 records, so that a worker can answer between bursts.
func (t *Table) Each(from uint32, limit int, f func(index uint32, r *Record)) uint32 {
	from = max(from, 1)
	for looked := 0; from < t.fresh; from++ {
		if limit == 0 || looked == 8*max(limit, 64) {
			return from
		}
		looked++
		if r := &t.records[from]; r.Live() {
			f(from, r)
			limit--
		}
	}
	return 0
}
