package main

import (
	"context"
	"strings"
	"testing"

	"sluice/perf/lab"
)

// A client whose veth leaves checksums to a device that is not there: what it sends is found, said once with what to do, and
// mended; with verify it is dropped by name.
func TestPartialChecksums(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 1}, settings{})
	b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	b.serve(dnsPort, func(h *lab.Host, addr, identity string) (*lab.Server, error) { return lab.UDPEcho(h, addr, identity) })
	offload(t, b.Client, "eth0", "tx-checksum-ip-generic", true)
	d := b.start()
	const warning = "packets arrive with checksums that their sender left to a device: they are computed here"
	for f, vip := range b.vips(bulkPort) {
		b.move(vip, 4<<20, uint64(f))
		conn := must(b.Client.Dial(t.Context(), "udp", b.vips(dnsPort)[f].String()))(t)
		defer conn.Close()
		if _, err := datagram(conn, "mended", waitTime); err != nil {
			t.Errorf("%s: %v", vip, err)
		}
	}
	if s := b.totals(); s.Recomputed < 1000 || s.Dropped != 0 {
		t.Errorf("%+v, dropped %v", s, b.drops())
	}
	eventually(t, "the warning is in the log", func() bool { return strings.Contains(d.log.String(), warning) })
	text := b.configText(settings{})
	b.write(strings.Replace(text, "interface: outside", "interface: outside, checksum: verify", 1))
	reload := func() {
		t.Helper()
		if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 0 {
			t.Fatalf("reload: %s", r.stderr)
		}
	}
	reload()
	dial := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), listenTime)
		defer cancel()
		conn, err := b.Client.Dial(ctx, "tcp", b.vips(bulkPort)[0].String())
		if err == nil {
			conn.Close()
		}
		return err
	}
	if dial() == nil || b.drops()["partial_checksum"] == 0 {
		t.Errorf("verify: dropped %v", b.drops())
	}
	offload(t, b.Client, "eth0", "tx-checksum-ip-generic", false)
	eventually(t, "with the offload off", func() bool { return dial() == nil })
	if n := strings.Count(d.log.String(), warning); n != 1 {
		t.Errorf("said %d times:\n%s", n, d.log)
	}
	d.stop()
}
