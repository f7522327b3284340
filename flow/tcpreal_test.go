package flow_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"sluice/flow"
	"sluice/perf/lab"
)

// TestTCPOfTheKernel lets two kernels talk through a router, with and without lines that lose before and behind
// it, and judges what the router saw: all of it is inside, and all connections end.
func TestTCPOfTheKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		without(t, "needs root to create network namespaces")
	}
	for _, lossy := range []bool{false, true} {
		t.Run(fmt.Sprintf("lossy=%v", lossy), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			ta, err := lab.NewTwoArm(ctx, lab.TwoArmOptions{Servers: 1})
			check(t, err)
			defer ta.Lab.Close()
			check(t, ta.Forward(true))
			if lossy {
				for _, h := range []*lab.Host{ta.Client, ta.Balancer, ta.Switch, ta.Servers[0]} {
					if err := h.Do(narrow); err != nil {
						without(t, "needs the kernel's token bucket filter (CONFIG_NET_SCH_TBF): %v", err)
					}
				}
			}
			capture, err := ta.Balancer.Capture(ta.Inside, 1<<20)
			check(t, err)
			addr := fmt.Sprintf("%s:%d", ta.ServerAddr4[0], 7000)
			server, err := lab.TransferServer(ta.Servers[0], addr)
			check(t, err)
			for i, n := range []int64{0, 1, 100_000, 1_000_000, 8_000_000} {
				conn, err := ta.Client.Dial(ctx, "tcp", addr)
				check(t, err)
				_, err = lab.Transfer(ctx, conn, n, uint64(i))
				check(t, err)
				conn.Close()
			}
			awaitEnds(t, capture, 5)
			check(t, server.Close())
			check(t, capture.Close())
			if n := capture.Dropped(); n > 0 {
				t.Fatalf("%d frames above the limit of the capture", n)
			}
			judge(t, capture.Frames(), lossy)
		})
	}
}

// awaitEnds waits until a capture has the ends of all connections: FINs of both sides, and an acknowledgement of each.
func awaitEnds(t *testing.T, capture *lab.Capture, conns int) {
	t.Helper()
	type end struct {
		port layers.TCPPort // the client's
		from bool           // the client
	}
	const limit = 30 * time.Second
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		fins, acked := map[end]uint32{}, map[end]bool{}
		for _, f := range capture.Frames() {
			tcp, ok := gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.NoCopy).Layer(layers.LayerTypeTCP).(*layers.TCP)
			if !ok {
				continue
			}
			mine, other := end{tcp.SrcPort, true}, end{tcp.SrcPort, false}
			if tcp.SrcPort == 7000 {
				mine, other = end{tcp.DstPort, false}, end{tcp.DstPort, true}
			}
			if tcp.FIN {
				fins[mine] = tcp.Seq + uint32(len(tcp.Payload)) + 1
			}
			if next, ended := fins[other]; ended && tcp.ACK && tcp.Ack == next {
				acked[other] = true
			}
		}
		if len(acked) == 2*conns {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not after %s: all %d connections have ended, of %d sides the FIN is acknowledged", limit, conns, len(acked))
		}
	}
}

// without skips, or fails where the lab is required.
func without(t *testing.T, reason string, args ...any) {
	t.Helper()
	if os.Getenv("SLUICE_LAB") == "require" {
		t.Fatalf(reason+", and SLUICE_LAB=require", args...)
	}
	t.Skipf(reason, args...)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// narrow gives all lines out of a host a queue that TCP overruns again and again.
func narrow() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Type() != "veth" {
			continue
		}
		attrs := netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
		if err := netlink.QdiscAdd(&netlink.Tbf{QdiscAttrs: attrs, Rate: 20e6, Buffer: 20_000, Limit: 40_000}); err != nil {
			return fmt.Errorf("%s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// judge runs the tracker over captured frames.
func judge(t *testing.T, frames []lab.CapturedFrame, lossy bool) {
	recs := map[layers.TCPPort]*flow.Record{}
	segments, scaled, again := 0, 0, 0
	for _, f := range frames {
		p := gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.NoCopy)
		tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok {
			continue
		}
		seg := flow.Segment{Seq: tcp.Seq, Ack: tcp.Ack, Len: uint32(len(tcp.Payload)), Window: tcp.Window, Flags: tcp.Contents[13], Scale: flow.NoScale}
		for _, o := range tcp.Options {
			if o.OptionType == layers.TCPOptionKindWindowScale {
				seg.Scale = o.OptionData[0]
				scaled++
			}
		}
		side, port := flow.FromClient, tcp.SrcPort
		if tcp.SrcPort == 7000 {
			side, port = flow.FromServer, tcp.DstPort
		}
		segments++
		r := recs[port]
		if r == nil {
			r = new(flow.Record)
			r.BeginTCP(&seg)
			recs[port] = r
			continue
		}
		before := *r
		if seg.Len > 0 && int32(seg.Seq-r.Win[side].End) < 0 {
			again++
		}
		if j := r.TrackTCP(side, &seg); j == flow.Outside {
			t.Errorf("segment %d is outside: %v of %v: %+v\n%+v", segments, side, before.TCPState(), seg, before)
		}
	}
	for port, r := range recs {
		if r.TCPState() != flow.TCPClosed {
			t.Errorf("the connection from %d ends in %v: %+v", port, r.TCPState(), *r)
		}
	}
	if len(recs) != 5 || scaled == 0 {
		t.Errorf("%d connections, %d scales", len(recs), scaled)
	}
	if lossy && again == 0 {
		t.Error("nothing was lost")
	}
	t.Logf("%d segments, %d of them retransmissions", segments, again)
}
