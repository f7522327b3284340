package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"sluice/perf/lab"
)

// UDP datagrams of 60,000 bytes, which the kernels at both ends send in parts, go both ways.
func TestLargeDatagrams(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{engine: "workers: 2"})
	b.serve(dnsPort, func(h *lab.Host, addr, identity string) (*lab.Server, error) { return lab.UDPEcho(h, addr, identity) })
	d := b.start()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const rounds, size = 20, 60_000
	for _, vip := range b.vips(dnsPort) {
		lost := 0
		for range rounds {
			ctx, cancel := context.WithTimeout(t.Context(), waitTime)
			conn := must(b.Client.Dial(ctx, "udp", vip.String()))(t)
			said := make([]byte, size)
			for i := range said {
				said[i] = byte(rnd.Uint32())
			}
			if _, err := conn.Write(said); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
			got := make([]byte, 1<<16)
			n, err := conn.Read(got)
			if err != nil {
				lost++ // a ring that is full for a moment costs a datagram
			} else if n <= size || !bytes.Equal(got[n-size:n], said) {
				t.Errorf("%s: %d bytes came back, other ones", vip, n)
			}
			conn.Close()
			cancel()
		}
		if lost > rounds/4 {
			t.Errorf("%s: %d of %d datagrams were lost; dropped %v", vip, lost, rounds, b.drops())
		}
		t.Logf("%s: %d of %d datagrams of %d bytes came back, dropped %v", vip, rounds-lost, rounds, size, b.drops())
	}
	if s := b.totals(); s.ToServer < rounds*40 || s.ToClient < rounds*40 || s.ToHost != 0 {
		t.Errorf("%+v", s)
	}
	d.stop()
}
