package ctl

import (
	"fmt"
	"time"

	"sluice/engine"
)

// Persistence sends a client's connections to the member that had its last one.
type Persistence struct {
	Name             string
	Type             PersistenceType
	Prefix4, Prefix6 int
	Timeout          time.Duration
	Entries          int // all workers together
	EntriesFull      EntriesFull
	OnDown           OnMember
	OnFull           OnMember
	OnDrain          OnDrain
	LowerPriority    LowerPriority
}

// Words of persistence.
type (
	PersistenceType string
	EntriesFull     string
	OnMember        string
	OnDrain         string
	LowerPriority   string
)

// The words themselves.
const (
	SourceAddress PersistenceType = "source-address"

	EntriesEvict   EntriesFull = "evict"
	EntriesForward EntriesFull = "forward"
	EntriesRefuse  EntriesFull = "refuse"

	MemberMove   OnMember = "move"
	MemberKeep   OnMember = "keep"
	MemberRefuse OnMember = "refuse"

	DrainPlace OnDrain = "place"
	DrainMove  OnDrain = "move"

	LowerReturn LowerPriority = "return"
	LowerKeep   LowerPriority = "keep"
)

var persistenceKeys = mapping[Persistence]{what: "a persistence", later: []string{"cookie", "header", "mirror"}, keys: []configKey[Persistence]{
	nameKey("", "shop", "Name of the persistence, unique.", func(p *Persistence) *string { return &p.Name }),
	wordKey(keyDoc{name: "type", def: string(SourceAddress), example: string(SourceAddress), text: "What tells clients apart. source-address: the source address, as far as the prefix goes."},
		[]PersistenceType{SourceAddress}, []PersistenceType{"destination-address", "cookie", "hash", "sip", "ssl"}, func(p *Persistence) *PersistenceType { return &p.Type }),
	numberKey(keyDoc{name: "prefix-v4", def: "32", example: "24", text: "How many bits of an IPv4 address make a client. With other prefix lengths than before, a reload begins with no entries."}, 1, 32, func(p *Persistence) *int { return &p.Prefix4 }),
	numberKey(keyDoc{name: "prefix-v6", def: "128", example: "64", text: "How many bits of an IPv6 address make a client."}, 1, 128, func(p *Persistence) *int { return &p.Prefix6 }),
	durationKey(keyDoc{name: "timeout", def: "5m", example: "30m", text: "How long after its last new connection a client is remembered."},
		time.Second, maxDuration, func(p *Persistence) *time.Duration { return &p.Timeout }),
	numberKey(keyDoc{name: "entries", def: "65536", example: "1000000", text: "How many clients are remembered, all workers together; each worker has its share. The memory for it, some 60 bytes each, is taken at start, and by a reload that changes the sum over all persistences or the number of workers, which puts other workers in the place of those that run."},
		1, 10_000_000, func(p *Persistence) *int { return &p.Entries }),
	wordKey(keyDoc{name: "entries-full", def: string(EntriesEvict), example: "forward", text: "What happens when there is no room for another client: evict forgets the one that has not come for longest, of those that came only once if there are such; forward schedules the new one without remembering it; refuse refuses it."},
		[]EntriesFull{EntriesEvict, EntriesForward, EntriesRefuse}, nil, func(p *Persistence) *EntriesFull { return &p.EntriesFull }),
	wordKey(keyDoc{name: "on-down", def: string(MemberMove), example: "keep", text: "What happens to a client whose member is down, disabled, or without a next hop: move gives it another member for good; keep gives each of its connections another member until its own is back; refuse refuses them until then. The client of a member that is no longer configured always moves."},
		[]OnMember{MemberMove, MemberKeep, MemberRefuse}, nil, func(p *Persistence) *OnMember { return &p.OnDown }),
	wordKey(keyDoc{name: "on-full", def: string(MemberMove), example: "keep", text: "What happens to a client whose member has as many connections, or new ones this second, as it may, or cannot take this one because the client's port is in use there: as with on-down. A port that is in use moves nobody."},
		[]OnMember{MemberMove, MemberKeep, MemberRefuse}, nil, func(p *Persistence) *OnMember { return &p.OnFull }),
	wordKey(keyDoc{name: "on-drain", def: string(DrainPlace), example: "move", text: "What happens to a client whose member drains, or has weight 0: place goes on sending it there, move gives it another member."},
		[]OnDrain{DrainPlace, DrainMove}, nil, func(p *Persistence) *OnDrain { return &p.OnDrain }),
	wordKey(keyDoc{name: "lower-priority", def: string(LowerReturn), example: "keep", text: "What happens to a client whose member has a lower priority, or is of a pool that is fallen back to, when a higher one takes connections again: return moves it there with its next connection, keep leaves it where it is."},
		[]LowerPriority{LowerReturn, LowerKeep}, nil, func(p *Persistence) *LowerPriority { return &p.LowerPriority }),
}}

// persistenceKey is the key of a virtual server.
func persistenceKey() configKey[VirtualServer] {
	return textKey(keyDoc{name: "persistence", kind: "name", limits: "of a persistence", otherwise: "none", example: "shop", text: "Sends a client's connections to the member that had its last one. Virtual servers that name the same persistence share its entries: a client of one is sent to the same server, by its address, at the others. Not with one-packet or table-full: forward."},
		parseName, func(v *VirtualServer) *string { return &v.Persistence })
}

func (p *Persistence) spec() engine.PersistenceSpec {
	return engine.PersistenceSpec{
		Name: p.Name, Bits4: p.Prefix4, Bits6: p.Prefix6, Timeout: milliseconds(p.Timeout), Entries: p.Entries,
		Full: p.EntriesFull.compile(), OnDown: p.OnDown.compile(), OnFull: p.OnFull.compile(),
		MoveDraining: p.OnDrain == DrainMove, KeepLower: p.LowerPriority == LowerKeep,
	}
}

func (e EntriesFull) compile() engine.PersistenceFull {
	switch e {
	case EntriesForward:
		return engine.PersistencePass
	case EntriesRefuse:
		return engine.PersistenceRefuse
	}
	return engine.PersistenceEvict
}

func (o OnMember) compile() engine.PersistencePolicy {
	switch o {
	case MemberKeep:
		return engine.PersistenceKeep
	case MemberRefuse:
		return engine.PersistenceStay
	}
	return engine.PersistenceMove
}

// persistences are all of the file, for the engine.
func (f *File) persistences() (out []engine.PersistenceSpec) {
	for i := range f.Persistences {
		out = append(out, f.Persistences[i].spec())
	}
	return out
}

// persistenceCapacity is how many entries each worker has room for.
func (f *File) persistenceCapacity(workers int) int {
	return engine.PersistenceCapacity(f.persistences(), workers)
}

// checkPersistences checks the persistences and what names them.
func (v *validator) checkPersistences() {
	names := newUnique[string](v)
	index := map[string]int{}
	var list []string
	for i := range v.file.Persistences {
		p, at := &v.file.Persistences[i], fmt.Sprintf("persistences[%d]", i)
		if p.Name != "" && names.check(p.Name, at+".name", "persistence") {
			index[p.Name] = i
			list = append(list, p.Name)
		}
	}
	users := map[string][]int{}
	for i := range v.file.VirtualServers {
		s, at := &v.file.VirtualServers[i], fmt.Sprintf("virtual-servers[%d].persistence", i)
		if s.Persistence == "" {
			continue
		}
		if _, ok := index[s.Persistence]; !ok {
			v.reference(at, "persistence", s.Persistence, list)
			continue
		}
		switch {
		case s.OnePacket:
			v.errorf(at, "one-packet schedules every datagram by itself; remove one of the two")
		case s.TableFull == TableFullForward:
			v.errorf(at, "table-full: forward goes by the hash of the client alone; remove one of the two")
		}
		users[s.Persistence] = append(users[s.Persistence], i)
	}
	for _, name := range list {
		if len(users[name]) == 0 {
			v.warn(fmt.Sprintf("persistences[%d]", index[name]), "no virtual server uses persistence %q", name)
		}
		v.checkSharing(name, users[name])
	}
}

// checkSharing warns where virtual servers share a persistence and a client of one cannot go to the same server at the other.
func (v *validator) checkSharing(name string, users []int) {
	for _, i := range users[min(1, len(users)):] {
		a, b := v.file.Pool(v.file.VirtualServers[users[0]].Pool), v.file.Pool(v.file.VirtualServers[i].Pool)
		if a == nil || b == nil || a == b || len(a.Members) == 0 || len(b.Members) == 0 ||
			a.Members[0].Address.Addr().Is4() != b.Members[0].Address.Addr().Is4() { // clients of two families never meet
			continue
		}
		in := map[any]bool{}
		for j := range a.Members {
			in[a.Members[j].Address.Addr()] = true
		}
		for j := range b.Members {
			if m := &b.Members[j]; !in[m.Address.Addr()] {
				v.warn(fmt.Sprintf("virtual-servers[%d].persistence", i), "member %q of pool %q has an address that pool %q of virtual server %q has not: a client that goes there moves at the other, with the shared persistence %q",
					m.Name, b.Name, a.Name, v.file.VirtualServers[users[0]].Name, name)
				break
			}
		}
	}
}
