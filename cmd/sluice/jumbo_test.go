package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

const jumboMTU = 9000

// needJumbo skips where the kernel has no packets of several frames.
func jumboBed(t *testing.T, queues int, s settings) *bed {
	t.Helper()
	return newBed(t, lab.TwoArmOptions{Servers: 2, Queues: queues, MTU: jumboMTU}, s)
}

// serveJumbo has TCP transfers and UDP echoes served.
func (b *bed) serveJumbo() {
	b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	b.serve(dnsPort, func(h *lab.Host, addr, identity string) (*lab.Server, error) { return lab.UDPEcho(h, addr, identity) })
}

// echoes sends datagrams of size bytes, which do not come in parts, and compares the answers. Some may be lost on a busy machine.
func (b *bed) echoesOf(vip netip.AddrPort, rounds, size int) {
	b.t.Helper()
	rnd := rand.New(rand.NewPCG(uint64(size), 1))
	lost := 0
	for range rounds {
		ctx, cancel := context.WithTimeout(b.t.Context(), waitTime)
		conn := must(b.Client.Dial(ctx, "udp", vip.String()))(b.t)
		said := make([]byte, size)
		for i := range said {
			said[i] = byte(rnd.Uint32())
		}
		_, err := conn.Write(said)
		ok(b.t, err)
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		got := make([]byte, 1<<16)
		switch n, err := conn.Read(got); {
		case err != nil:
			lost++
		case n <= size || !bytes.Equal(got[n-size:n], said):
			b.t.Errorf("%s: %d bytes came back, other ones", vip, n)
		}
		conn.Close()
		cancel()
	}
	if lost > rounds/4 {
		b.t.Errorf("%s: %d of %d datagrams of %d bytes were lost, dropped %v", vip, lost, rounds, size, b.drops())
	}
}

// Packets of 9,000 bytes, between kernels at both ends.
func TestJumboFrames(t *testing.T) {
	b := jumboBed(t, 2, settings{engine: "workers: 2"})
	b.serveJumbo()
	d := b.start()
	for i, vip := range b.vips(bulkPort) {
		before := b.totals()
		start := time.Now()
		b.move(vip, 16<<20, uint64(i))
		t.Logf("took %s", time.Since(start))
		after := b.totals()
		t.Logf("%s: %+v", vip, after)
		_ = before
		b.echoesOf(b.vips(dnsPort)[i], 20, 8900)
	}
	for _, p := range query[[]ctl.PortView](b, "port") {
		t.Logf("%+v", p)
	}
	d.stop()
	_ = fmt.Sprint
	_ = strings.Join
	var _ sync.Mutex
}
