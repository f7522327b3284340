package engine

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"sluice/rings"
)

// Counters go to a successor by name, so that a version with others can take over: what only the predecessor has ends with it, what
// only the successor has begins at 0.
//
//	state:   for each type its counters' names, in the order of its fields    ...    their values, wherever one of the type is
//
// All are numbers of 8 bytes. An array by Reason has the reasons' names, which keep when reasons come and go.

// counterTypes are the types whose values are in a state.
var counterTypes = []reflect.Type{reflect.TypeFor[Stats](), reflect.TypeFor[ServiceStats](), reflect.TypeFor[PersistenceStats](), reflect.TypeFor[rings.QueueStats]()}

// counterNames are the counters of a type, in the order of encoding/binary.
func counterNames(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		switch {
		case f.Anonymous:
			names = append(names, counterNames(f.Type)...)
		case f.Type.Kind() == reflect.Array:
			for j := range f.Type.Len() {
				if f.Type.Len() == int(numReasons) {
					names = append(names, f.Name+" "+Reason(j).String())
				} else {
					names = append(names, fmt.Sprint(f.Name, " ", j))
				}
			}
		default:
			names = append(names, f.Name)
		}
	}
	return names
}

// counterNames writes the names of all types.
func (e *encoder) counterNames() {
	for _, t := range counterTypes {
		e.text(strings.Join(counterNames(t), "\n"))
	}
}

// counters writes values of the types: a pointer to one, or a slice.
func (e *encoder) counters(v any) { e.fixed(v) }

// counterMap says for each of the predecessor's counters which one it is here; -1: none.
type counterMap struct {
	to   []int
	here int // how many there are here
}

// counterNames reads what the encoder's wrote.
func (d *decoder) counterNames() {
	d.maps = map[reflect.Type]counterMap{}
	for _, t := range counterTypes {
		index := map[string]int{}
		for i, name := range counterNames(t) {
			index[name] = i
		}
		m := counterMap{here: len(index)}
		for name := range strings.Lines(d.text()) {
			i, ok := index[strings.TrimSuffix(name, "\n")]
			switch {
			case !ok:
				i = -1
			case slices.Contains(m.to, i):
				d.fail("it names %q of %s twice", name, t.Name())
			}
			m.to = append(m.to, i)
		}
		if len(m.to) == 0 {
			d.fail("it names no counters of %s", t.Name())
		}
		for _, gauge := range gauges {
			if i, ok := index[gauge]; ok && !slices.Contains(m.to, i) {
				d.fail("it does not say how many are %s of %s", gauge, t.Name())
			}
		}
		d.maps[t] = m
	}
}

// gauges are numbers of what is there now, which cannot begin at 0 where there is something.
var gauges = []string{"Active", "Entries"}

// counters reads the values of v: a pointer to one of the types, or a slice of them.
func (d *decoder) counters(v any) {
	t, n := reflect.TypeOf(v).Elem(), 1
	if reflect.TypeOf(v).Kind() == reflect.Slice {
		n = reflect.ValueOf(v).Len()
	}
	m := d.maps[t]
	theirs := d.take(n * 8 * len(m.to))
	if d.err != nil {
		return
	}
	ours := make([]byte, n*8*m.here)
	for at := 0; at < len(ours); at += 8 * m.here {
		for i, j := range m.to {
			if j >= 0 {
				copy(ours[at+8*j:][:8], theirs[8*i:])
			}
		}
		theirs = theirs[8*len(m.to):]
	}
	if _, err := binary.Decode(ours, binary.LittleEndian, v); err != nil {
		d.fail("%v", err)
	}
}
