package ctl

import "testing"

// The end of a capture is that of no other: the next may begin before the former has left the list.
func TestCaptureEndIsOfItsOwn(t *testing.T) {
	var e captureEnd
	first := e.begin(CaptureView{Who: "first"})
	if !e.stop() {
		t.Fatal("there is one to stop")
	}
	second := e.begin(CaptureView{Who: "second"})
	e.end(first)
	if l := e.list(); len(l) != 1 || l[0].Who != "second" {
		t.Fatalf("%+v, want the second", l)
	}
	e.end(second)
	if len(e.list()) != 0 || e.stop() {
		t.Error("none goes on")
	}
}
