package main

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"sluice/ctl"
)

// ledger is every counter that a packet between the client's wire and the members meets, each at one place:
//
//	stack, generator ─▶ client's eth0 ─▶ XDP program ─▶ ring ─▶ engine ─▶ servers, clients, kernel
//	                        │ vethFull      │ passed      │ ringFull   │ drops
//	                                        │ held        │ fillEmpty
type ledger struct {
	stack    uint64 // what the client's kernel sent by itself; the generator's frames pass beside that counter
	vethFull uint64 // found no room at the balancer's end of the wire
	passed   uint64 // to the balancer's kernel: neighbour discovery and the like
	held     uint64 // dropped by the program because no engine served
	ringFull uint64
	noFrame  uint64 // the fill ring was empty
	outside  uint64 // received by the engine, by port
	others   uint64
	sent     uint64
	totals   ctl.TotalsView
	drops    map[string]uint64
}

// gsoSegs is the offset of gso_segs in struct __sk_buff (include/uapi/linux/bpf.h).
const gsoSegs = 164

// stackCounter counts what the client's kernel sends on its own, in a program at the egress hook: frames of AF_XDP
// sockets do not come by there. A buffer that the kernel will cut into segments later counts as so many.
func stackCounter(b *bed) func() uint64 {
	b.t.Helper()
	count := must(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}))(b.t)
	b.t.Cleanup(func() { count.Close() })
	program := must(ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, gsoSegs, asm.Word),
		asm.JNE.Imm(asm.R2, 0, "add"),
		asm.Mov.Imm(asm.R2, 1),
		asm.LoadMapValue(asm.R1, count.FD(), 0).WithSymbol("add"),
		asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, -1), // TCX_NEXT
		asm.Return(),
	}}))(b.t)
	b.t.Cleanup(func() { program.Close() })
	ok(b.t, b.Client.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		l, err := link.AttachTCX(link.TCXOptions{Interface: eth0.Attrs().Index, Program: program, Attach: ebpf.AttachTCXEgress})
		if err == nil {
			b.t.Cleanup(func() { l.Close() })
		}
		return err
	}))
	return func() (n uint64) {
		ok(b.t, count.Lookup(uint32(0), &n))
		return n
	}
}

// read takes all counters once.
func (f *flood) read() (l ledger) {
	t := f.t
	t.Helper()
	ok(t, f.Client.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err == nil {
			l.vethFull = eth0.Attrs().Statistics.TxDropped
		}
		return err
	}))
	var ports []ctl.PortView
	ok(t, ctl.Get(t.Context(), f.socket, "/v1/ports", &ports))
	for _, p := range ports {
		l.sent += p.Sent
		if p.Name != "outside" {
			l.others += p.Received
			continue
		}
		l.passed, l.held, l.ringFull, l.noFrame, l.outside = p.Passed, p.Held, p.RingFull, p.FillEmpty, p.Received
	}
	var drops []ctl.DropView
	ok(t, ctl.Get(t.Context(), f.socket, "/v1/drops", &drops))
	l.drops = map[string]uint64{}
	for _, d := range drops {
		if d.Count > 0 {
			l.drops[d.Reason] = d.Count
		}
	}
	l.totals = f.totals()
	l.stack = f.stack()
	return l
}

// quiet reads the counters when they have come to rest.
func (f *flood) quiet() (l ledger) {
	f.t.Helper()
	l = f.read()
	for deadline := time.Now().Add(4 * waitTime); ; {
		time.Sleep(150 * time.Millisecond)
		next := f.read()
		if reflect.DeepEqual(next, l) {
			return next
		}
		if l = next; time.Now().After(deadline) {
			f.t.Fatalf("the counters do not come to rest: %+v", l)
		}
	}
}

// since is what was counted after before.
func (l ledger) since(before ledger) ledger {
	for _, p := range []struct {
		now *uint64
		was uint64
	}{
		{&l.stack, before.stack}, {&l.vethFull, before.vethFull}, {&l.passed, before.passed}, {&l.held, before.held},
		{&l.ringFull, before.ringFull}, {&l.noFrame, before.noFrame}, {&l.outside, before.outside}, {&l.others, before.others},
		{&l.sent, before.sent}, {&l.totals.Opened, before.totals.Opened}, {&l.totals.Received, before.totals.Received},
		{&l.totals.ToServer, before.totals.ToServer}, {&l.totals.ToClient, before.totals.ToClient}, {&l.totals.ToHost, before.totals.ToHost},
		{&l.totals.Dropped, before.totals.Dropped},
	} {
		*p.now -= p.was
	}
	drops := map[string]uint64{}
	for reason, n := range l.drops {
		if n -= before.drops[reason]; n > 0 {
			drops[reason] = n
		}
	}
	l.drops = drops
	return l
}

// before is what was lost on the way to the engine.
func (l *ledger) before() uint64 { return l.vethFull + l.held + l.ringFull + l.noFrame }

func (l *ledger) String() string {
	var drops []string
	for _, reason := range slices.Sorted(maps.Keys(l.drops)) {
		drops = append(drops, fmt.Sprintf("%s %d", reason, l.drops[reason]))
	}
	return fmt.Sprintf("wire full %d, held %d, ring full %d, no frame %d, to the kernel %d; engine received %d outside and %d elsewhere, forwarded %d to servers, %d to clients, %d to the kernel, dropped [%s], sent %d",
		l.vethFull, l.held, l.ringFull, l.noFrame, l.passed, l.outside, l.others,
		l.totals.ToServer, l.totals.ToClient, l.totals.ToHost, strings.Join(drops, ", "), l.sent)
}

// balance asserts that every packet is accounted for: generated is what the generator has sent since before.
func (f *flood) balance(what string, before ledger, generated uint64) {
	f.t.Helper()
	l := f.quiet().since(before)
	f.t.Logf("%s: generator sent %d, client's kernel %d; %s", what, generated, l.stack, &l)
	if offered, met := generated+l.stack, l.before()+l.passed+l.outside; offered != met {
		f.t.Errorf("%s: %d packets were sent, and %d are accounted for before the engine", what, offered, met)
	}
	forwarded := l.totals.ToServer + l.totals.ToClient + l.totals.ToHost
	unsent := l.drops["tx_full"] // those count as forwarded too
	if received := l.outside + l.others; received != l.totals.Received || received != forwarded+l.totals.Dropped-unsent {
		f.t.Errorf("%s: the engine received %d (%d) packets, forwarded %d and dropped %d", what, received, l.totals.Received, forwarded, l.totals.Dropped-unsent)
	}
	if l.sent != forwarded-unsent {
		f.t.Errorf("%s: %d packets were forwarded, %d found no room to be sent, and %d were sent", what, forwarded, unsent, l.sent)
	}
}

// usage is what the engine's process holds of the machine.
type usage struct {
	memory int // KiB resident
	files  int
}

func usageOf(t *testing.T, pid int) (u usage) {
	t.Helper()
	u.files = len(must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)))(t))
	for line := range strings.Lines(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)))(t))) {
		if rest, found := strings.CutPrefix(line, "VmRSS:"); found {
			_, err := fmt.Sscan(rest, &u.memory)
			ok(t, err)
		}
	}
	return u
}

// silence makes the members' kernels drop what comes from the flood's sources where it arrives: its answers would go
// nowhere, and the two loads that are compared end at the same place.
func silence(b *bed, from netip.Prefix) {
	b.t.Helper()
	_, dst, err := parseNet(from)
	ok(b.t, err)
	for _, h := range b.Servers {
		ok(b.t, h.Sysctl("net.ipv4.conf.eth0.rp_filter", "1"))
		ok(b.t, h.Do(func() error { return netlink.RouteAdd(&netlink.Route{Dst: dst, Type: blackhole}) }))
	}
}
