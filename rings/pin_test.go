package rings

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestProgramSystemPins uses the places that engines use, which others may be using at the same time.
func TestProgramSystemPins(t *testing.T) {
	programNetns(t)
	port := programVeth(t, netlink.Veth{}).Attrs().Index
	p, err := AttachProgram(ProgramConfig{Ifindex: port, Queues: 1})
	if err != nil {
		t.Fatal(err)
	}
	closeForTest(t, p, false)
	if p.Pinned() == "" {
		t.Skipf("no pins here: %q", p.Notes())
	}
	all, err := ListPinned()
	if err != nil {
		t.Fatal(err)
	}
	for _, pin := range all {
		if pin.Path != p.Pinned() {
			continue
		}
		if !pin.Alive || pin.Interface != "port" {
			t.Errorf("%+v", pin)
		}
		if err := Release(pin); err != nil {
			t.Fatal(err)
		}
		if err := Release(pin); err != nil {
			t.Errorf("second release: %v", err)
		}
		return
	}
	t.Errorf("%+v has no %s", all, p.Pinned())
}

// TestProgramReleasedUnderEngine releases the port of a living engine, whose end then must not touch the pin of
// the next one.
func TestProgramReleasedUnderEngine(t *testing.T) {
	programNetns(t)
	port := programVeth(t, netlink.Veth{}).Attrs().Index
	s := testPins(t, true)
	engine := attachForTest(t, s, AttachAuto)
	all, err := s.list()
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	if err := s.release(all[0]); err != nil {
		t.Fatal(err)
	}
	if isAttached(t, port) {
		t.Error("still attached after the release")
	}
	next := attachForTest(t, s, AttachAuto)
	closeForTest(t, engine, true)
	if all, err = s.list(); err != nil || len(all) != 1 || !all[0].Alive || !isAttached(t, port) {
		t.Errorf("the end of the released engine hurt the next: %+v, %v", all, err)
	}
	closeForTest(t, next, true)
	checkNoPins(t, s)
}

// TestProgramDeadPins leaves a pin whose namespace goes away.
func TestProgramDeadPins(t *testing.T) {
	needBPF(t)
	s := testPins(t, true)
	leave := programNetns(t)
	programVeth(t, netlink.Veth{})
	closeForTest(t, attachForTest(t, s, AttachAuto), false)
	leave()
	var all []Pinned
	for range 3000 { // the kernel takes namespaces down in its own time
		var err error
		if all, err = s.list(); err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		if !all[0].Alive {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if all[0].Alive || all[0].Interface != "" {
		t.Errorf("the pin still lives: %+v", all[0])
	}
	if err := s.release(all[0]); err != nil {
		t.Fatal(err)
	}
	checkNoPins(t, s)
}

// TestProgramReplacesDeadPin starts on an interface that was made anew with the index of one that is gone.
func TestProgramReplacesDeadPin(t *testing.T) {
	programNetns(t)
	port := programVeth(t, netlink.Veth{})
	s := testPins(t, false)
	closeForTest(t, attachForTest(t, s, AttachAuto), false)
	if err := netlink.LinkDel(port); err != nil {
		t.Fatal(err)
	}
	index := port.Attrs().Index
	programVeth(t, netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: index}})
	p := attachForTest(t, s, AttachAuto)
	if p.Adopted() || p.ifindex != index || len(p.Notes()) == 0 || !strings.Contains(p.Notes()[0], "gone") {
		t.Errorf("adopted %v, index %d, notes %q", p.Adopted(), p.ifindex, p.Notes())
	}
	closeForTest(t, p, true)
	checkNoPins(t, s)
}

func TestPinNames(t *testing.T) {
	for name, want := range map[string]bool{"4026531840-7": true, "4026531840": false, "7-x": false, "07-1": false, "1-2-3": false, "": false} {
		p := Pinned{Path: filepath.Join("/sys/fs/bpf/sluice", name)}
		if got := p.parse(); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	for _, path := range []string{"/etc/1-2", "/sys/fs/bpf/1-2", "/sys/fs/bpf/sluice/x"} {
		if err := systemPins.release(Pinned{Path: path}); err == nil || !strings.Contains(err.Error(), "not a pinned") {
			t.Errorf("release of %s: %v", path, err)
		}
	}
}
