package engine

import (
	"encoding/binary"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sluice/rings"
)

// What encoding/binary writes of a type are its counters, 8 bytes each, whose names are all different.
func TestCounterNames(t *testing.T) {
	for _, typ := range counterTypes {
		names := counterNames(typ)
		if n := binary.Size(reflect.New(typ).Interface()); n != 8*len(names) {
			t.Errorf("%s: %d bytes, %d names", typ, n, len(names))
		}
		sorted := slices.Sorted(slices.Values(names))
		if len(slices.Compact(sorted)) != len(names) {
			t.Errorf("%s: names that stand for two: %q", typ, names)
		}
	}
	names := counterNames(reflect.TypeFor[Stats]())
	for _, want := range []string{"RxPackets", "Drops no_member", "Refused " + Reason(numReasons-1).String()} {
		if !slices.Contains(names, want) {
			t.Errorf("%q is not among %q", want, names)
		}
	}
}

// written is a state of nothing but counters, whose names other has changed. The values of a type are numbered from 1000 on, or from each of from on.
func written(other func(reflect.Type, []string) []string, from map[reflect.Type][]int) decoder {
	var names, values encoder
	for _, t := range counterTypes {
		list := other(t, counterNames(t))
		names.text(strings.Join(list, "\n"))
		if from[t] == nil {
			from[t] = []int{1000}
		}
		for _, first := range from[t] {
			for i := range list {
				values.count(first + i)
			}
		}
	}
	return decoder{b: append(names.b, values.b...)}
}

// A predecessor with other counters, in another order, is understood.
func TestCountersOfOtherVersions(t *testing.T) {
	stats := reflect.TypeFor[Stats]()
	service := reflect.TypeFor[ServiceStats]()
	other := func(typ reflect.Type, names []string) []string {
		switch typ {
		case stats: // without one, with one that nobody knows, and backwards
			names = slices.DeleteFunc(names, func(n string) bool { return n == "Sleeps" })
			names[slices.Index(names, "Drops table_full")] = "Drops of_old"
			slices.Reverse(names)
		case service:
			names = slices.Insert(names, 0, "Before")
		}
		return names
	}
	in := written(other, map[reflect.Type][]int{service: {1000, 2000}})
	in.counterNames()
	s := Stats{Sleeps: 7}
	s.Drops[TableFull] = 7
	in.counters(&s)
	list := make([]ServiceStats, 2)
	in.counters(list)
	persisted := make([]PersistenceStats, 1)
	in.counters(persisted)
	var queue rings.QueueStats
	in.counters(&queue)
	if in.err != nil || len(in.b) != 0 {
		t.Fatal(in.err, len(in.b), "bytes are left")
	}
	last := uint64(1000 + len(counterNames(stats)) - 2)
	if s.RxPackets != last || s.RxBytes != last-1 || s.Refused[numReasons-1] != 1000 || s.Sleeps != 0 || s.Drops[TableFull] != 0 {
		t.Errorf("%+v", s)
	}
	if list[0].Opened != 1001 || list[0].Active != 1002 || list[1].Opened != 2001 || list[1].Bytes[1] != uint64(2000+len(counterNames(service))) {
		t.Errorf("%+v", list)
	}
	if persisted[0].Entries != 1000 || queue.RxPackets != 1000 || queue.WakeupErrors != uint64(1000+len(counterNames(reflect.TypeFor[rings.QueueStats]()))-1) {
		t.Errorf("%+v %+v", persisted, queue)
	}
}

// What is there now cannot begin at 0 beside connections that are taken over, and a name stands for one counter.
func TestCountersRefused(t *testing.T) {
	for name, other := range map[string]func([]string) []string{
		"says nothing": func([]string) []string { return nil },
		"without a gauge": func(names []string) []string {
			return slices.DeleteFunc(names, func(n string) bool { return n == "Active" || n == "Entries" })
		},
		"one twice": func(names []string) []string { return append(names, names[0]) },
	} {
		in := written(func(_ reflect.Type, names []string) []string { return other(names) }, map[reflect.Type][]int{})
		if in.counterNames(); in.err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A whole state of a predecessor that calls some of its counters otherwise is taken over: these begin at 0, and nothing else is lost.
func TestTakeoverFromOtherCounters(t *testing.T) {
	spec := a4(2)
	b := newBench(t, spec, 100, 1024)
	for port := uint16(100); port < 120; port++ {
		b.established(port)
	}
	p, err := b.Pause(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	state, err := p.Export(nil)
	if err != nil {
		t.Fatal(err)
	}
	for old, other := range map[string]string{"\nToClient\n": "\nToCustom\n", "Drops table_full": "Drops table_none"} {
		if strings.Count(string(state), old) != 1 {
			t.Fatalf("%q stands %d times in the state", old, strings.Count(string(state), old))
		}
		state = []byte(strings.Replace(string(state), old, other, 1))
	}
	next := b.heir(spec)
	if err := next.newPause(false).Import(state); err != nil {
		t.Fatal(err)
	}
	for i, w := range next.workers {
		want := b.workers[i].stats
		if want.ToClient == 0 {
			t.Fatal("nothing went to clients")
		}
		want.ToClient = 0
		if w.stats != want {
			t.Errorf("worker %d has\n%+v\nnot\n%+v", i, w.stats, want)
		}
		if !reflect.DeepEqual(w.virtual, b.workers[i].virtual) || !reflect.DeepEqual(w.node, b.workers[i].node) {
			t.Error("other counters of services")
		}
	}
	p.Resume()
	b.close()
}
