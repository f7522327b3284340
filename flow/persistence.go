package flow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
)

// Persistence remembers which member a client was given, so that its next connection goes there too. A client is a masked
// address, and belongs to one of several kinds of persistence, each with its own time, bound and age lists:
//
//	client, kind ──hash──▶ slots ──tag──▶ entry ◀── lists of its kind: used once │ used again, each the oldest first
//
// Slots are open addressing with linear probing, at most half full, and without tombstones: what follows a slot that becomes
// free moves up. Entries stay where they are. Nothing is scanned: an entry whose time is over is found at the old end of a
// list, or when it is looked up. Where there is no more room the oldest of those that were used only once goes first, so that
// a flood of clients that come once does not drive out the ones that come back.
//
// A Persistence belongs to one worker. Its memory is given by the caller and holds no Go pointers. An entry is published by
// one store of its state word, after everything else of it, changed by one, and retired by one: whatever a killed process
// leaves, ReadPersistence finds each entry whole or not at all. Slots and lists in it are never trusted.
type Persistence struct {
	secret  Secret
	slots   []uint32 // tag in the upper 8 bits, index of an entry in the others; 0 is empty
	entries []persistenceEntry
	free    uint32 // entries that were given back, chained by next
	fresh   uint32 // entries from here on have never been used
	live    int
	lists   []persistenceLists // by kind
	hand    int                // of Expire
}

// persistenceEntry has what a look-up compares first.
type persistenceEntry struct {
	client Addr // masked
	state  uint64
	used   uint64 // milliseconds
	kind   uint32
	prev   uint32 // in its list; next also chains free entries
	next   uint32
	_      uint32
}

// The state word: the node in the upper half, then the check of what does not change and the node, then bits.
const (
	persistenceLive  = 1 << 0
	persistenceAgain = 1 << 1 // in the list of those that were used again
	persistenceCheck = 16
	persistenceNode  = 32
)

const (
	persistenceIndexBits = 24
	persistenceIndexMask = 1<<persistenceIndexBits - 1

	persistenceHeader    = 64
	persistenceEntrySize = 48
	persistenceMagic     = "sluicepe"
	// persistenceLayout changes whenever the entry or the header does.
	persistenceLayout = 1
)

// MaxPersistence is the largest number of entries in one table.
const MaxPersistence = 1<<persistenceIndexBits - 2

// PersistenceRule is what holds for the entries of one kind. The zero value has them all removed.
type PersistenceRule struct {
	Timeout uint64 // milliseconds after the last use
	Limit   int    // entries
}

// PersistenceConfig is the geometry of a table.
type PersistenceConfig struct {
	Capacity int // entries
	Secret   Secret
}

// PersistenceEntry is a copy of an entry.
type PersistenceEntry struct {
	Client Addr // masked
	Kind   uint32
	Node   uint32
	Used   uint64 // milliseconds
	Again  bool   // it was used after it was made
}

// PersistenceSize is how many bytes of memory a table for capacity entries needs.
func PersistenceSize(capacity int) int {
	if capacity < 1 {
		return 0
	}
	return persistenceHeader + 4*persistenceSlots(capacity) + (capacity+1)*persistenceEntrySize
}

// TableSize is the bytes of a worker's memory: its connection table and, behind it, its persistence table.
func TableSize(connections, persistence int) int {
	if persistence < 1 {
		return Size(connections)
	}
	return persistenceAt(connections) + PersistenceSize(persistence)
}

// persistenceAt is where the persistence table begins in a worker's memory.
func persistenceAt(connections int) int { return (Size(connections) + 63) &^ 63 }

// PersistenceMemory is the part of a worker's memory behind the connection table.
func PersistenceMemory(mem []byte, connections int) []byte {
	return mem[min(len(mem), persistenceAt(connections)):]
}

func persistenceSlots(capacity int) int { return 1 << bits.Len(uint(2*capacity-1)) }

// NewPersistence makes a table in mem, which must be zeroed, at least PersistenceSize bytes, and aligned to 8 bytes.
func NewPersistence(mem []byte, cfg PersistenceConfig) (*Persistence, error) {
	p, err := layPersistence(mem, cfg)
	if err != nil {
		return nil, err
	}
	copy(mem, persistenceMagic)
	binary.LittleEndian.PutUint32(mem[8:], persistenceLayout)
	binary.LittleEndian.PutUint32(mem[12:], uint32(cfg.Capacity))
	return p, nil
}

func layPersistence(mem []byte, cfg PersistenceConfig) (*Persistence, error) {
	if cfg.Capacity < 1 || cfg.Capacity > MaxPersistence {
		return nil, fmt.Errorf("a persistence table holds 1 to %d entries, not %d", MaxPersistence, cfg.Capacity)
	}
	p := &Persistence{secret: cfg.Secret, fresh: 1}
	return p, p.lay(mem, cfg.Capacity)
}

// Configure sets the rules, by kind. Entries beyond a smaller limit, or of a kind that has no rule any more, go as Expire
// comes to them. It allocates when there are more kinds than before.
func (p *Persistence) Configure(rules []PersistenceRule) {
	for len(p.lists) < len(rules) {
		p.lists = append(p.lists, persistenceLists{})
	}
	for i := range p.lists {
		p.lists[i].rule = PersistenceRule{}
		if i < len(rules) {
			p.lists[i].rule = rules[i]
		}
	}
}

// Len is the number of entries, Cap how many fit.
func (p *Persistence) Len() int { return p.live }

// Cap is how many entries fit.
func (p *Persistence) Cap() int { return len(p.entries) - 1 }

// Count is the number of entries of a kind.
func (p *Persistence) Count(kind uint32) int {
	if int(kind) >= len(p.lists) {
		return 0
	}
	return p.lists[kind].count
}

// place is the first slot of a client and its tag.
func (p *Persistence) place(client Addr, kind uint32) (slot uint32, tag uint32) {
	h := p.secret.Hash(&Key{Src: client, Ports: kind})
	return uint32(h) & uint32(len(p.slots)-1), uint32(h>>56) << persistenceIndexBits
}

// slot finds the slot of a client, or the empty one where it would be.
func (p *Persistence) slot(client Addr, kind uint32) (at uint32, tag uint32, found bool) {
	mask := uint32(len(p.slots) - 1)
	for at, tag = p.place(client, kind); p.slots[at] != 0; at = (at + 1) & mask {
		if p.slots[at]&^persistenceIndexMask != tag {
			continue
		}
		if e := &p.entries[p.slots[at]&persistenceIndexMask]; e.client == client && e.kind == kind {
			return at, tag, true
		}
	}
	return at, tag, false
}

// Find is the entry of a client, or 0. One whose time is over is removed.
func (p *Persistence) Find(client Addr, kind uint32, now uint64) uint32 {
	at, _, found := p.slot(client, kind)
	if !found {
		return 0
	}
	i := p.slots[at] & persistenceIndexMask
	if p.over(i, now) {
		p.Remove(i)
		return 0
	}
	return i
}

// Peek is a copy of the entry of a client, if there is one whose time is not over. It changes nothing.
func (p *Persistence) Peek(client Addr, kind uint32, now uint64) (PersistenceEntry, bool) {
	at, _, found := p.slot(client, kind)
	if !found || p.over(p.slots[at]&persistenceIndexMask, now) {
		return PersistenceEntry{}, false
	}
	return p.copy(p.slots[at] & persistenceIndexMask), true
}

func (p *Persistence) copy(i uint32) PersistenceEntry {
	e := &p.entries[i]
	return PersistenceEntry{Client: e.client, Kind: e.kind, Node: uint32(e.state >> persistenceNode), Used: e.used, Again: e.state&persistenceAgain != 0}
}

// over reports whether the time of entry i is over.
func (p *Persistence) over(i uint32, now uint64) bool {
	e := &p.entries[i]
	return int(e.kind) >= len(p.lists) || e.used+p.lists[e.kind].rule.Timeout <= now
}

// Node is the member of an entry.
func (p *Persistence) Node(i uint32) uint32 { return uint32(p.entries[i].state >> persistenceNode) }

// Assign gives an entry to another member.
func (p *Persistence) Assign(i, node uint32) {
	e := &p.entries[i]
	p.publish(e, node, e.state&persistenceAgain)
}

// Use begins the time of an entry anew.
func (p *Persistence) Use(i uint32, now uint64) {
	e := &p.entries[i]
	l := &p.lists[e.kind]
	l.leave(p.entries, i)
	e.used = now
	p.publish(e, p.Node(i), persistenceAgain)
	l.join(p.entries, i)
}

// Room reports whether an entry of a kind could be made without another giving way.
func (p *Persistence) Room(kind uint32) bool {
	return int(kind) < len(p.lists) && p.lists[kind].count < p.lists[kind].rule.Limit && (p.free != 0 || int(p.fresh) < len(p.entries))
}

// Evict removes the entry of a kind that was used least recently, of those that were used only once if there are such. It
// reports whether there was one.
func (p *Persistence) Evict(kind uint32) bool {
	if int(kind) >= len(p.lists) {
		return false
	}
	i := p.lists[kind].oldest()
	p.Remove(i)
	return i != 0
}

// Insert makes an entry for a client that has none, and returns 0 if there is no room.
func (p *Persistence) Insert(e PersistenceEntry) uint32 {
	if !p.Room(e.Kind) {
		return 0
	}
	at, tag, found := p.slot(e.Client, e.Kind)
	if found {
		return 0
	}
	i := p.free
	if i != 0 {
		p.free = p.entries[i].next
	} else {
		i = p.fresh
		p.fresh++
	}
	n := &p.entries[i]
	*n = persistenceEntry{client: e.Client, kind: e.Kind, used: e.Used}
	step()
	again := uint64(0)
	if e.Again {
		again = persistenceAgain
	}
	p.publish(n, e.Node, again)
	p.slots[at] = tag | i
	p.lists[e.Kind].join(p.entries, i)
	p.live++
	return i
}

// publish stores the state word of an entry.
func (p *Persistence) publish(e *persistenceEntry, node uint32, again uint64) {
	atomic.StoreUint64(&e.state, uint64(node)<<persistenceNode|uint64(e.check(node))<<persistenceCheck|again|persistenceLive)
	step()
}

// check is 16 bits of everything that makes an entry.
func (e *persistenceEntry) check(node uint32) uint16 {
	h := fold(e.client.Hi^0x9e3779b97f4a7c15, e.client.Lo^0xbf58476d1ce4e5b9)
	h = fold(h^uint64(e.kind)<<32^uint64(node), 0x94d049bb133111eb)
	return uint16(h) ^ uint16(h>>16) ^ uint16(h>>32) ^ uint16(h>>48)
}

// Remove removes an entry; 0 is none.
func (p *Persistence) Remove(i uint32) {
	if i == 0 || p.entries[i].state&persistenceLive == 0 {
		return
	}
	e := &p.entries[i]
	at, _, _ := p.slot(e.client, e.kind)
	p.lists[e.kind].leave(p.entries, i)
	atomic.StoreUint64(&e.state, 0)
	step()
	p.empty(at)
	e.next, p.free = p.free, i
	p.live--
}

// empty frees a slot; what is behind it and may stand before moves up, so that no search ends too early.
func (p *Persistence) empty(at uint32) {
	mask := uint32(len(p.slots) - 1)
	for next := (at + 1) & mask; p.slots[next] != 0; next = (next + 1) & mask {
		e := &p.entries[p.slots[next]&persistenceIndexMask]
		home, _ := p.place(e.client, e.kind)
		if (next-home)&mask >= (next-at)&mask { // its search passes the free slot
			p.slots[at] = p.slots[next]
			at = next
		}
	}
	p.slots[at] = 0
}

// Expire removes at most budget entries whose time is over, or that are beyond their kind's limit, and returns how many. Of
// each kind it looks at the oldest.
func (p *Persistence) Expire(now uint64, budget int) (n int) {
	for range p.lists {
		if p.hand++; p.hand >= len(p.lists) {
			p.hand = 0
		}
		for l := &p.lists[p.hand]; n < budget; n++ {
			i := l.ended(p.entries, now)
			if i == 0 {
				break
			}
			p.Remove(i)
		}
	}
	return n
}

// Each calls f with a copy of up to limit entries, from index from on, and returns the index to go on from, or 0 at the end. It
// looks at no more than limit*8. Entries whose time is over are among them until they are removed.
func (p *Persistence) Each(from uint32, limit int, f func(i uint32, e *PersistenceEntry)) uint32 {
	from = max(from, 1)
	for looked := 0; from < p.fresh; from++ {
		if limit == 0 || looked == 8*max(limit, 64) {
			return from
		}
		looked++
		if p.entries[from].state&persistenceLive != 0 {
			e := p.copy(from)
			f(from, &e)
			limit--
		}
	}
	return 0
}

// ErrNotPersistence is returned for memory that holds no persistence table that this version reads.
var ErrNotPersistence = errors.New("not a persistence table")

// ReadPersistence reads the entries that a table of an earlier process holds, each of them checked, the least recently used
// first. nodes bounds their nodes. mem may be empty: then there was none.
func ReadPersistence(mem []byte, nodes int) (out []PersistenceEntry, unsound int, err error) {
	if len(mem) == 0 {
		return nil, 0, nil
	}
	if len(mem) < persistenceHeader || string(mem[:8]) != persistenceMagic || binary.LittleEndian.Uint32(mem[8:]) != persistenceLayout {
		return nil, 0, ErrNotPersistence
	}
	p, err := layPersistence(mem, PersistenceConfig{Capacity: int(binary.LittleEndian.Uint32(mem[12:]))})
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrNotPersistence, err)
	}
	for i := 1; i < len(p.entries); i++ {
		e := &p.entries[i]
		state := atomic.LoadUint64(&e.state)
		if state&persistenceLive == 0 {
			continue
		}
		node := uint32(state >> persistenceNode)
		if uint16(state>>persistenceCheck) != e.check(node) || node == 0 || int64(node) >= int64(nodes) {
			unsound++
			continue
		}
		out = append(out, p.copy(uint32(i)))
	}
	sortPersistence(out)
	return out, unsound, nil
}
