package gen_test

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/perf/gen"
	"sluice/perf/lab"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// line is a lab whose balancer routes with the kernel, and a live generator at its client.
func line(t *testing.T) (*lab.Line, *gen.Live, gen.Target) {
	t.Helper()
	if os.Geteuid() != 0 {
		const reason = "needs root to create network namespaces"
		if os.Getenv("SLUICE_LAB") == "require" {
			t.Fatalf("%s, and SLUICE_LAB=require", reason)
		}
		t.Skip(reason)
	}
	l, err := lab.NewLine(context.Background(), 4)
	ok(t, err)
	t.Cleanup(func() { ok(t, l.Lab.Close()) })
	var g *gen.Live
	ok(t, l.Client.Do(func() (err error) { g, err = gen.OpenLive("eth0"); return err }))
	t.Cleanup(func() { ok(t, g.Close()) })
	ok(t, l.Balancer.GRO(l.Outside, true))
	ok(t, l.Balancer.GRO(l.Inside, true))
	ok(t, l.Balancer.Gateway(netip.PrefixFrom(l.VIP4, 32), l.ServerAddr4[0]))
	ok(t, l.Balancer.Sysctl("net.ipv4.ip_forward", "1"))
	var target gen.Target
	target.SrcMAC, err = l.Client.MAC("eth0")
	ok(t, err)
	target.DstMAC, err = l.Balancer.MAC(l.Outside)
	ok(t, err)
	target.To = netip.AddrPortFrom(l.VIP4, 53)
	return l, g, target
}

// ours passes over what the client's kernel says by itself, which is IPv6 and ARP.
func ours(f lab.CapturedFrame) bool {
	return !f.Outgoing && len(f.Data) > 34 && f.Data[12] == 0x08 && f.Data[13] == 0x00
}

// What the live generator sends reads as what it should be by a parser that is not ours, and is as much as it says.
func TestLivePackets(t *testing.T) {
	l, g, target := line(t)
	for name, c := range map[string]struct {
		load    gen.Load
		sources int
	}{
		"flows":   {gen.Load{Flows: 7, InTurn: true}, 7},
		"random":  {gen.Load{Flows: 3}, 3},
		"new":     {gen.Load{}, 320},
		"go on":   {gen.Load{FirstFlow: 1 << 31}, 320},
		"sizes":   {gen.Load{Flows: 5, Sizes: gen.IMIX}, 5},
		"large":   {gen.Load{Flows: 5, Sizes: []int{1514}}, 5},
		"SYNs":    {gen.Load{TCP: true}, 320},
		"one SYN": {gen.Load{TCP: true, Flows: 1}, 1},
	} {
		capture, err := l.Balancer.Capture(l.Outside, 1000)
		ok(t, err)
		load := c.load
		load.Target, load.Sources, load.Packets, load.Rate, load.Length = target, lab.Sources, 320, 20_000, 10*time.Second
		r, err := g.Run(context.Background(), load, 0)
		ok(t, err)
		if r.Sent != 320 {
			t.Errorf("%s: sent %d", name, r.Sent)
		}
		count := func() (n int) {
			for _, f := range capture.Frames() {
				if ours(f) {
					n++
				}
			}
			return n
		}
		for deadline := time.Now().Add(5 * time.Second); count() < 320 && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
		}
		ok(t, capture.Close())
		sources, bytes, lengths := map[netip.AddrPort]int{}, 0, map[int]int{}
		for _, f := range capture.Frames() {
			if !ours(f) {
				continue
			}
			bytes += len(f.Data)
			lengths[len(f.Data)]++
			p := gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.Default)
			if err := p.ErrorLayer(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if wrong, err := gen.Checksums(p); err != nil || wrong > 0 {
				t.Fatalf("%s: %d wrong checksums, %v, of %s", name, wrong, err, p)
			}
			ip := p.NetworkLayer().(*layers.IPv4)
			src, _ := netip.AddrFromSlice(ip.SrcIP)
			port := uint16(0)
			switch l4 := p.TransportLayer().(type) {
			case *layers.TCP:
				if port = uint16(l4.SrcPort); !l4.SYN || l4.ACK || !load.TCP {
					t.Fatalf("%s: %s", name, p)
				}
			case *layers.UDP:
				if port = uint16(l4.SrcPort); load.TCP || int(l4.Length)+34 != len(f.Data) {
					t.Fatalf("%s: %s", name, p)
				}
			}
			if !lab.Sources.Contains(src) || port < 0x8000 || ip.DstIP.String() != l.VIP4.String() || int(ip.Length)+14 != len(f.Data) {
				t.Fatalf("%s: %s", name, p)
			}
			sources[netip.AddrPortFrom(src, port)]++
		}
		if len(sources) != c.sources || bytes != int(r.Bytes) {
			t.Errorf("%s: %d sources, want %d; %d bytes of %d", name, len(sources), c.sources, bytes, r.Bytes)
		}
		if name == "sizes" && (lengths[60] != 180 || lengths[590] != 120 || lengths[1514] != 20) {
			t.Errorf("sizes: %v", lengths)
		}
	}
}

// Every packet of a paced load arrives and is answered, and every TCP connection lives its whole life, with right checksums
// all the way.
func TestSink(t *testing.T) {
	l, g, target := line(t)
	for _, answer := range []bool{false, true} {
		for _, tcp := range []bool{false, true} {
			s, err := gen.NewSink(gen.SinkConfig{Clients: lab.Sources, Servers: lab.ServerNet, Answer: answer, Verify: true})
			ok(t, err)
			ok(t, l.Servers.Do(func() error { return s.AttachServers("eth0") }))
			ok(t, l.Client.Do(func() error { return s.AttachClients("eth0") }))
			const packets = 2000
			_, err = g.Run(context.Background(), gen.Load{Target: target, Sources: lab.Sources, TCP: tcp, Packets: packets, Rate: 20_000, Length: 10 * time.Second}, 0)
			ok(t, err)
			want := gen.SinkCounts{Requests: gen.EndCounts{Packets: packets, Bytes: 60 * packets}}
			switch {
			case tcp && answer:
				want.Requests = gen.EndCounts{Packets: 3 * packets, Bytes: 3 * 60 * packets, SYNs: packets, FINs: packets, Ends: packets}
				want.Answers = gen.EndCounts{Packets: 2 * packets, Bytes: 2 * 60 * packets, SYNs: packets, FINs: packets}
			case tcp:
				want.Requests.SYNs = packets
			case answer:
				want.Answers = want.Requests
			}
			var c gen.SinkCounts
			for deadline := time.Now().Add(5 * time.Second); c != want && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
				c, err = s.Counts()
				ok(t, err)
			}
			if c != want {
				t.Errorf("answer %v, TCP %v: %+v, want %+v", answer, tcp, c, want)
			}
			ok(t, s.Close())
		}
	}
}

// The end of the context is the end of the run.
func TestLiveStops(t *testing.T) {
	_, g, target := line(t)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	r, err := g.Run(ctx, gen.Load{Target: target, Sources: lab.Sources, Length: time.Hour}, 0)
	if err != nil || r.Sent == 0 || time.Since(began) > 5*time.Second {
		t.Errorf("sent %d in %s, %v", r.Sent, time.Since(began), err)
	}
}

// What cannot be sent is refused.
func TestLiveErrors(t *testing.T) {
	if _, err := gen.OpenLive("no-such-if"); err == nil {
		t.Error("no error for an interface that is not there")
	}
	_, g, target := line(t)
	good := gen.Load{Target: target, Sources: lab.Sources, Length: time.Second}
	for name, change := range map[string]func(*gen.Load){
		"no length":      func(l *gen.Load) { l.Length = 0 },
		"a narrow net":   func(l *gen.Load) { l.Sources = netip.MustParsePrefix("198.18.0.0/16") },
		"negative flows": func(l *gen.Load) { l.Flows = -1 },
		"three sizes":    func(l *gen.Load) { l.Sizes = []int{60, 61, 62} },
		"a short frame":  func(l *gen.Load) { l.Sizes = []int{59} },
		"a long frame":   func(l *gen.Load) { l.Sizes = []int{1515} },
		"IPv6":           func(l *gen.Load) { l.To = netip.MustParseAddrPort("[fd00::1]:53") },
	} {
		load := good
		change(&load)
		if _, err := g.Run(context.Background(), load, 0); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
