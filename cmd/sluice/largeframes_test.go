package main

import (
	"testing"

	"sluice/perf/lab"
)

// Frames beyond 2,048 bytes: with an MTU of 3,400 on all links, and frames that hold it, the kernels' segments cross whole.
func TestLargeFrames(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2, MTU: 3400}, settings{engine: "workers: 2, frame-size: 4096"})
	b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	b.serve(dnsPort, lab.UDPEcho)
	d := b.start()
	capture := must(b.Servers[0].Capture("eth0", 20_000))(t)
	for f, vip := range b.vips(bulkPort) {
		b.transferred(b.Client, vip)
		b.echoes(b.vips(dnsPort)[f], 3_300, 4)
		b.echoes(b.vips(dnsPort)[f], 60_000, 4)
	}
	ok(t, capture.Close())
	large := [2]int{}
	for _, f := range capture.Frames() {
		if len(f.Data) > 3000 {
			large[map[bool]int{false: 0, true: 1}[f.Outgoing]]++
		}
	}
	if s := b.totals(); large[0] < 1000 || large[1] < 1000 || s.Split != 0 || s.ICMPSent != 0 || s.Opened < 10 {
		t.Errorf("%v frames of more than 3000 bytes, %+v, dropped %v", large, s, b.drops())
	}
	d.stop()
}
