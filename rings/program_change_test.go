package rings

import (
	"testing"

	"github.com/vishvananda/netlink"
)

// A program whose interface is deleted knows it, also when another gets the index; it lets go of its pin, and what reads and
// writes its maps goes on until its end.
func TestProgramInterfaceGone(t *testing.T) {
	programNetns(t)
	port := programVeth(t, netlink.Veth{})
	s := testPins(t, true)
	p := attachForTest(t, s, AttachAuto)
	if !p.Attached() {
		t.Error("not attached at first")
	}
	l, err := netlink.LinkByIndex(port.Attrs().Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(l); err != nil {
		t.Fatal(err)
	}
	again := netlink.Veth{}
	again.LinkAttrs.Index = port.Attrs().Index
	programVeth(t, again)
	if p.Attached() {
		t.Error("attached to an interface that is gone")
	}
	for range 2 {
		if err := p.Detach(); err != nil {
			t.Fatal(err)
		}
	}
	checkNoPins(t, s)
	if err := p.SetRules(testRules(false)); err != nil {
		t.Error(err)
	}
	if _, err := p.Counters(); err != nil {
		t.Error(err)
	}
	next := attachForTest(t, s, AttachAuto)
	closeForTest(t, p, true)
	if !next.Attached() {
		t.Error("the end of the old program took the new one off")
	}
	closeForTest(t, next, true)
	checkNoPins(t, s)
}

// A program gets more queues: the counters, the pin and the sockets that there were go on.
func TestProgramResize(t *testing.T) {
	programNetns(t)
	port := programVeth(t, netlink.Veth{}).Attrs().Index
	s := testPins(t, true)
	p := attachForTest(t, s, AttachAuto)
	frame := make([]byte, 64)
	sendFrames(t, "far", frame, 3)
	before := attachedID(t, port)
	region, err := NewRegion(64, 2048, false)
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	fd := unboundSocket(t, region)
	if err := p.SetSocket(3, fd); err == nil {
		t.Error("a program for one queue takes a socket for the fourth")
	}
	if _, err := p.Resize(ProgramConfig{Interface: "port", Queues: 0}); err == nil || attachedID(t, port) != before {
		t.Errorf("no queue: %v", err)
	}
	next, err := p.Resize(ProgramConfig{Interface: "port", Queues: 4, Rules: testRules(false), Sockets: map[int]int{3: fd}})
	if err != nil {
		t.Fatal(err)
	}
	closeForTest(t, p, true)
	if id := attachedID(t, port); id == before || id == 0 || !next.Attached() || next.Pinned() == "" {
		t.Errorf("program %d is attached, before it was %d; pinned in %q", id, before, next.Pinned())
	}
	sendFrames(t, "far", frame, 2)
	if c, err := next.Counters(); err != nil || c.Passed != 5 {
		t.Errorf("%+v, %v: want 5 passed", c, err)
	}
	closeForTest(t, next, true)
	checkNoPins(t, s)
	if attachedID(t, port) != 0 {
		t.Error("still attached")
	}
}

func attachedID(t *testing.T, ifindex int) uint32 {
	t.Helper()
	_, id, err := attachedProgram(ifindex)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(id)
}
