package engine

import (
	"encoding/binary"
	"reflect"
	"slices"
	"testing"
	"unsafe"

	"sluice/flow"
)

func (c *counters) equal(o *counters) bool {
	return slices.Equal(c.traffic, o.traffic) && slices.Equal(c.connections, o.connections)
}

// However counters grow, nothing that was counted is lost, and what packets count never lies in two lines of the cache, nor in one with what
// somebody else counts.
func TestCountersGrow(t *testing.T) {
	var c counters
	n := 0
	for _, more := range []int{1, 1, 1, 2, 3, 5, 7, 1, 64, 300, 4000, 1} {
		n += more
		c.grow(n)
		c.grow(n - 1) // does nothing
		if c.len() != n || len(c.traffic) != n || len(c.connections) != n {
			t.Fatalf("counters for %d and %d ids, not %d", len(c.traffic), len(c.connections), n)
		}
		if at := uintptr(unsafe.Pointer(&c.traffic[0])); at%64 != 0 {
			t.Fatalf("%d counters begin at %#x", n, at)
		}
		for id := range n {
			c.count(uint32(id), flow.FromClient, 100+id)
			c.count(uint32(id), flow.FromServer, id)
			c.connections[id].Opened++
			c.connections[id].Active--
		}
	}
	was := c.appendTo(nil)
	if s := was[0]; s.Packets != [2]uint64{12, 12} || s.Bytes != [2]uint64{1200, 0} || s.Opened != 12 || s.Active != -12 {
		t.Errorf("%+v", s)
	}
	var sum counters
	sum.grow(n + 1)
	sum.set(was)
	sum.add(&c)
	for id, s := range sum.appendTo(nil) {
		var twice ServiceStats
		if id < n {
			twice = was[id]
			twice.Add(&was[id])
		}
		if s != twice {
			t.Fatalf("id %d: %+v, not %+v", id, s, twice)
		}
	}
}

// What is written of a service, and named to a successor, does not depend on where its parts lie.
func TestServiceStatsNamed(t *testing.T) {
	want := []string{"Opened", "Active", "Answered", "Refused", "Unanswered", "Packets 0", "Packets 1", "Bytes 0", "Bytes 1"}
	if got := counterNames(reflect.TypeFor[ServiceStats]()); !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
	var out encoder
	out.counters([]ServiceStats{{ConnectionStats{1, 2, 3, 4, 5}, TrafficStats{[2]uint64{6, 7}, [2]uint64{8, 9}}}})
	for i := range 9 {
		if n := binary.LittleEndian.Uint64(out.b[8*i:]); n != uint64(i+1) {
			t.Errorf("word %d is %d", i, n)
		}
	}
	if len(out.b) != 72 {
		t.Errorf("%d bytes", len(out.b))
	}
}
