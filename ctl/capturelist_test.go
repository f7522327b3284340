package ctl

import "testing"

// The end of a capture is that of no other: the next may begin before the former has left the list.
func TestCaptureEndIsOfItsOwn(t *testing.T) {
	var e captureEnd
	first, _ := e.begin(CaptureView{Who: "first"})
	if !e.stop(endStopped) || first.why != endStopped {
		t.Fatal("there is one to stop")
	}
	second, _ := e.begin(CaptureView{Who: "second"})
	e.end(first)
	if l := e.list(); len(l) != 1 || l[0].Who != "second" {
		t.Fatalf("%+v, want the second", l)
	}
	e.end(second)
	if len(e.list()) != 0 || e.stop(endStopped) {
		t.Error("none goes on")
	}
	third, begun := e.begin(CaptureView{})
	if !begun || !e.stop(endTakeover) || !e.stop(endStopped) || third.why != endTakeover {
		t.Errorf("it was told %q first", third.why)
	}
	if _, begun := e.begin(CaptureView{}); begun {
		t.Error("one begins after a takeover")
	}
}
