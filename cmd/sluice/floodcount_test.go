package main

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
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

// markTime is how long a mark is waited for before another is sent: it may have been dropped on a ring that was full.
const markTime = 500 * time.Millisecond

// quietTime bounds the search for a moment without packets under way.
const quietTime = 6 * waitTime

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

// counter is one of those that the sums are made of. Gauges, and what tells of connections rather than of packets, are
// none: they move by themselves when timers run out.
type counter struct {
	name  string
	value *uint64
}

func (l *ledger) counters() []counter {
	return []counter{
		{stackCount, &l.stack}, {"wire full", &l.vethFull}, {"to the kernel before the engine", &l.passed}, {"held", &l.held},
		{"ring full", &l.ringFull}, {"no frame", &l.noFrame}, {outsideCount, &l.outside}, {othersCount, &l.others}, {sentCount, &l.sent},
		{receivedCount, &l.totals.Received}, {toServerCount, &l.totals.ToServer}, {toClientCount, &l.totals.ToClient},
		{"to the kernel", &l.totals.ToHost}, {"dropped", &l.totals.Dropped},
		{"answered", &l.totals.Answered}, {"made", &l.totals.Made}, {"unsent", &l.totals.Unsent},
	}
}

// Names of the counters that a mark moves.
const (
	stackCount    = "client's kernel"
	outsideCount  = "received outside"
	othersCount   = "received elsewhere"
	sentCount     = "sent"
	receivedCount = "received"
	toServerCount = "to servers"
	toClientCount = "to clients"
)

// markMoves is what a mark and its answer add to the counters.
var markMoves = map[string]uint64{
	stackCount: 1, outsideCount: 1, othersCount: 1, sentCount: 2, receivedCount: 2, toServerCount: 1, toClientCount: 1,
}

// moves is what the counters say, by name, without those that are 0.
func (l ledger) moves() map[string]uint64 {
	m := map[string]uint64{}
	for _, c := range l.counters() {
		if *c.value > 0 {
			m[c.name] = *c.value
		}
	}
	for reason, n := range l.drops {
		if n > 0 {
			m["dropped as "+reason] = n
		}
	}
	return m
}

// mark sends a datagram to a member and waits until it has come back.
func (f *flood) mark() error {
	f.marks++
	text := fmt.Sprintf("mark %d", f.marks)
	_ = f.marker.SetDeadline(time.Now().Add(markTime))
	if _, err := f.marker.Write([]byte(text)); err != nil {
		return err
	}
	for buf := make([]byte, 64); ; {
		n, err := f.marker.Read(buf)
		if err != nil {
			return fmt.Errorf("%s does not come back: %w", text, err)
		}
		if strings.HasSuffix(string(buf[:n]), " "+text) { // else one that was given up
			return nil
		}
	}
}

// quiet reads the counters at a moment when no packet is on its way from one of them to another. It takes two readings
// and lets a mark travel from the client to a member and back between them. Wire, ring and engine keep the order, so
// what was sent before the mark is counted before its answer is here. If the readings differ by the mark and by nothing
// else, then nothing was under way at the first, and nothing has happened between the first counter that was read
// and the last. That holds however long a reading takes or a packet waits, and it needs no rest longer than a reading: a client that
// still sends a packet again now and then is no obstacle.
func (f *flood) quiet() ledger {
	f.t.Helper()
	begin := time.Now()
	first := f.read()
	for {
		before := f.read()
		err := f.mark()
		after := f.read()
		if err == nil && maps.Equal(after.since(before).moves(), markMoves) {
			return after
		}
		if took := time.Since(begin); took > quietTime {
			f.t.Fatalf("no moment without packets under way in %s: with a mark (%v) there moved last %v, where a mark alone moves %v; in all %v",
				took.Round(time.Millisecond), err, after.since(before).moves(), markMoves, after.since(first).moves())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// since is what was counted after before.
func (l ledger) since(before ledger) ledger {
	was := before.counters()
	for i, c := range l.counters() {
		*c.value -= *was[i].value
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
	unsent := l.totals.Unsent // those count as forwarded too
	if received := l.outside + l.others; received != l.totals.Received || received != forwarded+l.totals.Answered+l.totals.Dropped-unsent {
		f.t.Errorf("%s: the engine received %d (%d) packets, forwarded %d and dropped %d", what, received, l.totals.Received, forwarded, l.totals.Dropped-unsent)
	}
	if l.sent != forwarded+l.totals.Answered+l.totals.Made-unsent {
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
