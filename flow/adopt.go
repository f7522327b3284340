package flow

// A table's memory outlives its process when it is a file. Buckets, timers and the list of free records in it are never
// trusted: only records are, each by itself, and everything else is made anew from them.

// Verdict of a stored record.
type stored uint8

const (
	storedFree stored = iota
	storedGood
	storedBad
)

// check validates a record as it was found in memory.
func (r *Record) check(nodes []Addr) stored {
	switch {
	case !r.Live():
		return storedFree
	case uint16(r.state>>checkShift) != r.immutable(r.Proto()), r.TCPState() > TCPClosed,
		int64(r.Node) >= int64(len(nodes)), int64(r.SNAT) >= int64(len(nodes)),
		r.Proto() == TCP && r.TCPState() == TCPNone, r.Proto() != TCP && r.TCPState() != TCPNone:
		return storedBad
	}
	return storedGood
}

// Adoption says what became of the records that were found.
type Adoption struct {
	Adopted int
	Bad     int // failed validation, or contradict another record
	Refused int // by the caller
	NoRoom  int // the new table is smaller
}

// Stored is the records in the memory of a table with the given capacity, made by an earlier process.
func Stored(mem []byte, capacity int) ([]Record, error) {
	var t Table
	if err := t.lay(mem, bucketsFor(capacity), capacity+1); err != nil {
		return nil, err
	}
	return t.records, nil
}

// Adopt enters the connections among records, which accept may change (ports by number) or refuse. deadline says when each
// ends. Records must not be this table's own memory.
func (t *Table) Adopt(records []Record, now uint64, accept func(*Record) bool, deadline func(*Record) uint64, a *Adoption) {
	for i := range records {
		switch records[i].check(t.nodes) {
		case storedBad:
			a.Bad++
			continue
		case storedFree:
			continue
		}
		rec := records[i]
		if !accept(&rec) {
			a.Refused++
			continue
		}
		t.adoptOne(&rec, now, deadline, a)
	}
}

// adoptOne enters a record that is valid in itself.
func (t *Table) adoptOne(rec *Record, now uint64, deadline func(*Record) uint64, a *Adoption) {
	ck, sk := rec.ClientKey(), t.ServerKey(rec)
	if t.Lookup(&ck) != 0 || t.Lookup(&sk) != 0 {
		a.Bad++
		return
	}
	i := t.take()
	if i == 0 {
		a.NoRoom++
		return
	}
	r := &t.records[i]
	*r = *rec
	r.state = 0
	if !t.enter(i, &ck, &sk) {
		t.give(i)
		a.NoRoom++
		return
	}
	t.wheel.arm(t.links, i, max(deadline(rec), now))
	t.publish(i, rec.state)
	a.Adopted++
}
