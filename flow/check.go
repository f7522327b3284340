package flow

import "fmt"

// Check reads the whole table and reports the first thing in it that contradicts another. It is for tests and for a table
// under suspicion: it allocates, and takes a second for millions of connections.
func (t *Table) Check() error {
	if err := t.checkBuckets(); err != nil {
		return err
	}
	if err := t.checkRecords(); err != nil {
		return err
	}
	return t.checkLists()
}

// checkBuckets: each entry has a tag and names a connection; each bucket counts those of its tuples that live elsewhere.
func (t *Table) checkBuckets() error {
	entries, away := 0, map[uint64]int{}
	for b := range t.buckets {
		bk := &t.buckets[b]
		for s := range slots {
			r, tag := bk.refs[s], bk.tag(s)
			if (r == 0) != (tag == 0) || r == 0 && bk.isSecond(s) {
				return fmt.Errorf("bucket %d slot %d has tag %d and reference %d", b, s, tag, r)
			}
			if r == 0 {
				continue
			}
			entries++
			if r.Index() >= t.fresh || !t.records[r.Index()].Live() {
				return fmt.Errorf("bucket %d slot %d names record %d, which is free", b, s, r.Index())
			}
			if bk.isSecond(s) {
				away[t.other(uint64(b), tag)]++
			}
		}
	}
	for b := range t.buckets {
		if n := t.buckets[b].overflow(); int(n) != away[uint64(b)] {
			return fmt.Errorf("bucket %d counts %d tuples in their secondary buckets, there are %d", b, n, away[uint64(b)])
		}
	}
	if entries != 2*t.live {
		return fmt.Errorf("%d entries for %d connections", entries, t.live)
	}
	return nil
}

// checkRecords: each connection is whole and found by both its tuples.
func (t *Table) checkRecords() error {
	live := 0
	for i := uint32(1); i < t.fresh; i++ {
		r := &t.records[i]
		if !r.Live() {
			continue
		}
		live++
		if uint16(r.state>>checkShift) != r.immutable(r.state) {
			return fmt.Errorf("record %d has changed since it was made", i)
		}
		ck, sk := r.ClientKey(), t.ServerKey(r)
		if c, s := t.Lookup(&ck), t.Lookup(&sk); c != ref(i, FromClient) || s != ref(i, FromServer) {
			return fmt.Errorf("record %d is found as %d and %d by its tuples", i, c, s)
		}
	}
	if live != t.live {
		return fmt.Errorf("%d connections are counted, there are %d", t.live, live)
	}
	return nil
}

// checkLists: each used record is in exactly one list, that of a tick if it is a connection and the free one if not.
func (t *Table) checkLists() error {
	listed := make([]bool, t.fresh)
	n := 0
	put := func(i uint32, live bool) error {
		if i >= t.fresh || listed[i] || t.records[i].Live() != live {
			return fmt.Errorf("record %d of %d is in two lists or in the wrong one", i, t.fresh-1)
		}
		listed[i] = true
		n++
		return nil
	}
	for slot, head := range t.wheel.heads {
		if filled := t.wheel.filled[slot>>6]>>(slot&63)&1 != 0; filled != (head != 0) {
			return fmt.Errorf("tick %d begins with record %d, its bit is %t", slot, head, filled)
		}
		end := endMark | uint32(slot)
		prev := end
		for i := head; i != 0 && i&endMark == 0; prev, i = i, t.links[i].next {
			if err := put(i, true); err != nil {
				return err
			}
			if t.links[i].prev != prev {
				return fmt.Errorf("record %d follows %d, but was put after %d", i, prev, t.links[i].prev)
			}
		}
		if last := t.wheel.tails[slot]; head == 0 && last != 0 || head != 0 && (last != prev || t.links[last].next != end) {
			return fmt.Errorf("tick %d ends with record %d, its last is taken to be %d", slot, prev, last)
		}
	}
	if n != t.live {
		return fmt.Errorf("%d connections have a timer, there are %d", n, t.live)
	}
	for j := range t.spare.n {
		if err := put(t.spare.ring[(t.spare.top-j)%spareSize], false); err != nil {
			return err
		}
	}
	for i := t.free; i != 0; i = t.links[i].next {
		if err := put(i, false); err != nil {
			return err
		}
	}
	if used := int(t.fresh) - 1; n != used {
		return fmt.Errorf("%d of %d used records are in a list", n, used)
	}
	return nil
}
