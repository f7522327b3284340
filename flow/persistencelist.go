package flow

import (
	"cmp"
	"slices"
)

// persistenceLists are the entries of one kind of persistence by age, in two lists: those that were used once, and those that
// were used again. Each is in the order of use, so that its first entry is the one whose time is over first. Entries that come
// from elsewhere, when workers are scaled, may stand out of order: their time ends all the same, where they are looked up.
type persistenceLists struct {
	rule  PersistenceRule
	ends  [2]persistenceEnds // once, again
	count int
}

type persistenceEnds struct{ first, last uint32 }

func (l *persistenceLists) of(e *persistenceEntry) *persistenceEnds {
	return &l.ends[e.state/persistenceAgain&1]
}

// join puts an entry at the young end of its list.
func (l *persistenceLists) join(entries []persistenceEntry, i uint32) {
	e := &entries[i]
	ends := l.of(e)
	e.prev, e.next = ends.last, 0
	if ends.last == 0 {
		ends.first = i
	} else {
		entries[ends.last].next = i
	}
	ends.last = i
	l.count++
}

// leave takes an entry out of its list.
func (l *persistenceLists) leave(entries []persistenceEntry, i uint32) {
	e := &entries[i]
	ends := l.of(e)
	if e.prev == 0 {
		ends.first = e.next
	} else {
		entries[e.prev].next = e.next
	}
	if e.next == 0 {
		ends.last = e.prev
	} else {
		entries[e.next].prev = e.prev
	}
	l.count--
}

// oldest is the entry that gives way to another, or 0.
func (l *persistenceLists) oldest() uint32 {
	if i := l.ends[0].first; i != 0 {
		return i
	}
	return l.ends[1].first
}

// ended is an entry that is to go, or 0.
func (l *persistenceLists) ended(entries []persistenceEntry, now uint64) uint32 {
	for _, ends := range l.ends {
		if i := ends.first; i != 0 && entries[i].used+l.rule.Timeout <= now {
			return i
		}
	}
	if l.count > l.rule.Limit {
		return l.oldest()
	}
	return 0
}

// sortPersistence puts entries into the order in which they were used.
func sortPersistence(list []PersistenceEntry) {
	slices.SortFunc(list, func(a, b PersistenceEntry) int { return cmp.Compare(a.Used, b.Used) })
}
