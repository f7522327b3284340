package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/perf/gen"
	"sluice/perf/lab"
)

// flood is a bed with a packet generator at the client's wire. The generator has core 0 and does there also the work of
// the balancer's receiving end; the engine has core 1. Client and servers run where they find room.
type flood struct {
	*bed
	d     *daemon
	gen   *gen.Generator
	hits  gen.Stream // datagrams of connections that are in the table
	syns  gen.Stream // from sources that are not there
	stack func() uint64
	moved atomic.Int64

	marker net.Conn // of a client of its own, to the echo of datagrams
	marks  int
	limit  int // loss-free rate of hits, packets per second
}

const (
	blackhole   = unix.RTN_BLACKHOLE
	floodCore   = 0
	engineCore  = 1
	workerNice  = -15
	hitFlows    = 64
	leastTable  = 1024
	largeTable  = 1 << 18
	floodVisits = 20 * time.Millisecond // between two new clients
	visitLimit  = 3 * time.Second
)

var floodSources = netip.MustParsePrefix("198.18.0.0/15")

func parseNet(p netip.Prefix) (net.IP, *net.IPNet, error) { return net.ParseCIDR(p.String()) }

func newFlood(t *testing.T) *flood {
	t.Helper()
	if runtime.NumCPU() < 2 {
		why := "needs a core for the generator and one for the engine"
		if os.Getenv("SLUICE_LAB") == "require" {
			t.Fatalf("%s, and SLUICE_LAB=require", why)
		}
		t.Skip(why)
	}
	// The generator keeps a P for itself most of the time.
	t.Cleanup(func(n int) func() { return func() { runtime.GOMAXPROCS(n) } }(runtime.GOMAXPROCS(runtime.NumCPU() + 4)))
	f := &flood{bed: newBed(t, lab.TwoArmOptions{Servers: 2}, settings{})}
	f.serve(webPort, lab.HTTPServer)
	f.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	f.serve(dnsPort, lab.UDPEcho) // for marks; the members' kernels drop the generator's datagrams before it
	f.marker = must(f.Client.Dial(t.Context(), "udp", netip.AddrPortFrom(f.VIP4, dnsPort).String()))(t)
	t.Cleanup(func() { f.marker.Close() })
	silence(f.bed, floodSources)
	f.stack = stackCounter(f.bed)
	f.syns = must(gen.NewSYNs(f.target(webPort), floodSources, 1))(t)
	f.hits = f.manyFlows(hitFlows)
	ok(t, f.Client.Do(func() (err error) {
		f.gen, err = gen.Open("eth0")
		return err
	}))
	t.Cleanup(func() { ok(t, f.gen.Close()) })
	return f
}

func (f *flood) target(port uint16) gen.Target {
	f.t.Helper()
	return gen.Target{
		SrcMAC: must(f.Client.MAC("eth0"))(f.t), DstMAC: must(f.Balancer.MAC(f.Outside))(f.t),
		To: netip.AddrPortFrom(f.VIP4, port),
	}
}

// manyFlows are datagrams of n clients, from one address.
func (f *flood) manyFlows(n int) gen.Stream {
	f.t.Helper()
	return must(gen.NewFlows(f.target(dnsPort), floodSources.Addr().Next(), n))(f.t)
}

// restart gives the engine a table of another size.
func (f *flood) restart(connections int) {
	f.t.Helper()
	if f.d != nil {
		f.d.stop()
	}
	f.write(f.configText(settings{engine: fmt.Sprintf("workers: 1, cores: [%d], connections: %d", engineCore, connections)}))
	f.d = f.start()
	f.prefer()
}

// prefer gives the engine's worker the priority that it would have on a machine of its own. At the same one as client
// and servers it gets its core late, and what is measured is the kernel's scheduler.
func (f *flood) prefer() {
	f.t.Helper()
	found := false
	eventually(f.t, "there is a thread of a worker", func() bool {
		for _, task := range must(filepath.Glob(fmt.Sprintf("/proc/%d/task/*", f.d.PID())))(f.t) {
			if name, _ := os.ReadFile(filepath.Join(task, "comm")); strings.HasPrefix(string(name), "sluice-w") {
				id := must(strconv.Atoi(filepath.Base(task)))(f.t)
				ok(f.t, unix.Setpriority(unix.PRIO_PROCESS, id, workerNice))
				found = true
			}
		}
		return found
	})
}

// send runs the generator; rate 0 is flat out.
func (f *flood) send(s gen.Stream, rate int, long time.Duration) gen.Result {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), long)
	defer cancel()
	return must(f.gen.Run(ctx, s, rate, floodCore))(f.t)
}

// lossFree finds the largest rate of hits, in packets per second, of which nothing is lost before the engine or in it.
func (f *flood) lossFree() int {
	f.t.Helper()
	for range attempts {
		if rate := f.searchLossFree(); rate > 0 {
			f.t.Logf("loss-free rate of hits: %d/s", rate)
			return rate
		}
		time.Sleep(5 * time.Second) // the machine stood still
	}
	f.t.Fatalf("%d packets a second are not carried without loss, in %d attempts", leastRate, attempts)
	return 0
}

// leastRate is the least rate, in packets per second, that a flood is worth its name at.
const leastRate = 1000

// searchLossFree returns 0 if there is no rate of use.
func (f *flood) searchLossFree() int {
	const step, start = 500 * time.Millisecond, 50_000
	holds := func(rate int) bool {
		for range 2 { // another program of the machine may have had the core
			before := f.quiet()
			r := f.send(f.hits, rate, step)
			l := f.quiet().since(before)
			f.t.Logf("hits at %d/s: sent %d (%.0f/s), lost %d before the engine, dropped %v", rate, r.Sent, r.Rate(), l.before(), l.drops)
			if l.before() == 0 && l.totals.Dropped == 0 && r.Rate() >= 0.95*float64(rate) {
				return true
			}
		}
		return false
	}
	low, high := 0, start
	for holds(high) {
		low, high = high, 2*high
	}
	for low == 0 { // a machine that is busy, or slow
		if high /= 2; high < leastRate {
			return 0
		}
		if holds(high) {
			low, high = high, 2*high
		}
	}
	for range 2 {
		if mid := (low + high) / 2; holds(mid) {
			low = mid
		} else {
			high = mid
		}
	}
	return low
}

// window runs a load and returns the bytes per second that the transfers moved under it, and whether that is a measurement:
// not if the load was none, or this program was not there to look.
func (f *flood) window(s gen.Stream, rate int, long time.Duration) (moved float64, r gen.Result, good bool) {
	const settling = 200 * time.Millisecond
	type sample struct {
		at    time.Time
		moved int64
	}
	begin := make(chan sample, 1)
	go func() {
		time.Sleep(settling)
		begin <- sample{time.Now(), f.moved.Load()}
	}()
	r = f.send(s, rate, long+settling)
	first := <-begin
	took := time.Since(first.at)
	return float64(f.moved.Load()-first.moved) / took.Seconds(), r, took > long/2 && !starved(r)
}

// compared is what became of transfers under a flood, and under as many hits in turn with it.
type compared struct {
	hits, syns    []float64 // bytes per second, by window
	disturbed     int       // pairs of windows that are not among them: the generator did not get its core
	sent, flooded uint64
	skipped       uint64
}

// ratio is of at least one pair.
func (c *compared) ratio() float64 { return median(c.syns) / median(c.hits) }

// compare runs windows in pairs until so many are good for a judgement, and more of them, up to most, while the
// flood looks worse than it may.
func (f *flood) compare(rate, pairs, most int, long time.Duration, flooding *atomic.Bool) (c compared) {
	for i := 0; i < most && (len(c.hits) < pairs || c.ratio() < leastShare); i++ {
		hits, r1, good1 := f.window(f.hits, rate, long)
		flooding.Store(true)
		syns, r2, good2 := f.window(f.syns, rate, long)
		flooding.Store(false)
		c.sent, c.skipped, c.flooded = c.sent+r1.Sent+r2.Sent, c.skipped+r1.Skipped+r2.Skipped, c.flooded+r2.Sent
		if !good1 || !good2 {
			c.disturbed++
			continue
		}
		c.hits, c.syns = append(c.hits, hits), append(c.syns, syns)
	}
	return c
}

// starved reports whether the generator has left out so much that what it did is no load of its rate. It goes before all
// others on its core: if it does not get that, the machine itself is shared.
func starved(r gen.Result) bool { return r.Skipped*5 > r.Sent+r.Skipped }

const (
	leastShare = 0.9
	floodConns = 4
	// pacedRate is that of each paced transfer, each way: together with the background less than the machine can do.
	pacedRate = 1.5e6
	// attempts bounds how often a step is measured that the machine may have disturbed. Its sums hold in each of them.
	attempts = 3
	// windowTime is how long a load is on while transfers are measured.
	windowTime = 600 * time.Millisecond
)

// judged measures a step until nothing is wrong with it, and with a loss-free rate measured anew after a failure: what
// the machine had left when the last one was found may be gone.
func (f *flood) judged(what string, measure func() (wrong string)) {
	f.t.Helper()
	for i := 1; ; i++ {
		wrong := measure()
		if wrong == "" {
			return
		}
		if i == attempts {
			f.t.Errorf("%s: %s, in each of %d attempts", what, wrong, attempts)
			return
		}
		f.t.Logf("%s: attempt %d: %s", what, i, wrong)
		f.restart(largeTable)
		f.limit = f.lossFree()
	}
}

// share floods at a part of the loss-free rate, in turn with as many hits, and compares.
func (f *flood) share(percent int) (wrong string) {
	t := f.t
	t.Helper()
	const pairs = 4
	rate := f.limit * percent / 100
	table := max(leastTable, int(float64(rate)*windowTime.Seconds())*pairs/10)
	f.restart(table)
	before := f.quiet()
	var v visits
	stopTransfers, stopVisits := f.transfers(floodConns, pacedRate), f.visit(&v)
	c := f.compare(rate, pairs, 3*pairs, windowTime, &v.on)
	inTable := f.totals().Connections
	stopVisits()
	stopTransfers()
	slices.Sort(v.took)
	all := len(v.took) + v.lost
	if len(c.hits) > 0 {
		t.Logf("%d%%, %d/s: transfers %.1f MB/s under hits, %.1f MB/s under the flood: %.1f%%",
			percent, rate, median(c.hits)/1e6, median(c.syns)/1e6, 100*c.ratio())
	}
	t.Logf("%d%%: %d SYNs over a table of %d, %d in it; generator left out %d of %d, in %d pairs of windows too much for a judgement, which %d are for",
		percent, c.flooded, table, inTable, c.skipped, c.sent+c.skipped, c.disturbed, len(c.hits))
	t.Logf("%d%%: %d of %d new clients connected within %s: median %s, 99%% %s, longest %s",
		percent, len(v.took), all, visitLimit, quantile(v.took, 0.5), quantile(v.took, 0.99), quantile(v.took, 1))
	f.balance(fmt.Sprintf("%d%%", percent), before, c.sent)

	// Transfers that take all they can get make an overload of any background. That is only shown: what they get is what
	// client, servers and generator leave each other of two cores. Its sums are not.
	before, stopTransfers = f.quiet(), f.transfers(floodConns, 0)
	greedyHits, r1, _ := f.window(f.hits, rate, windowTime)
	greedySYNs, r2, _ := f.window(f.syns, rate, windowTime)
	stopTransfers()
	t.Logf("%d%%: transfers that take what they get: %.0f MB/s under hits, %.0f MB/s under the flood; generator left out %d of %d",
		percent, greedyHits/1e6, greedySYNs/1e6, r1.Skipped+r2.Skipped, r1.Sent+r2.Sent+r1.Skipped+r2.Skipped)
	f.balance(fmt.Sprintf("%d%%, greedy", percent), before, r1.Sent+r2.Sent)

	switch {
	case len(c.hits) < pairs:
		return fmt.Sprintf("no judgement: the generator did not get its core in %d of %d pairs of windows, something outside has it", c.disturbed, c.disturbed+len(c.hits))
	case c.ratio() < leastShare:
		return fmt.Sprintf("transfers have %.1f%% of their throughput under the flood", 100*c.ratio())
	case len(v.took)*100 < all*99 || all == 0:
		return fmt.Sprintf("%d of %d new clients connected", len(v.took), all)
	case c.flooded < uint64(4*table):
		return fmt.Sprintf("no judgement: %d SYNs are too few to be a flood of a table of %d", c.flooded, table)
	}
	return ""
}

func median(list []float64) float64 {
	s := slices.Sorted(slices.Values(list))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// flatOut floods with all the generator can, and watches the engine come back.
func (f *flood) flatOut() (wrong string) {
	t := f.t
	t.Helper()
	// A transfer that met nothing but loss tries again after at most as long as that lasted (RFC 6298 5.5): the rest is us.
	const long, connectLimit, recoverLimit = 2 * time.Second, time.Second, 3 * time.Second
	f.restart(leastTable)
	before, stop := f.quiet(), f.transfers(floodConns, 0)
	calm, r0, _ := f.window(f.hits, 1, windowTime)
	held := usageOf(t, f.d.PID())
	moved, r, _ := f.window(f.syns, 0, long)
	end := time.Now()
	// Recovery: a client connects, and the transfers have half of what they had.
	connected := make(chan time.Duration, 1)
	go func() { connected <- f.firstConnect(end) }()
	recovered := time.Duration(0)
	for recovered == 0 && time.Since(end) < waitTime {
		at, from := time.Now(), f.moved.Load()
		time.Sleep(50 * time.Millisecond)
		if float64(f.moved.Load()-from)/time.Since(at).Seconds() > calm/2 {
			recovered = time.Since(end)
		}
	}
	connect := <-connected
	stop()
	after := usageOf(t, f.d.PID())
	t.Logf("flat out: %d SYNs, %.0f/s over a table of %d; transfers %.0f MB/s before, %.0f MB/s in the flood, recovered %s after it; a client connected %s after it; the engine's process held %+v, then %+v",
		r.Sent, r.Rate(), leastTable, calm/1e6, moved/1e6, recovered.Round(time.Millisecond), connect.Round(10*time.Microsecond), held, after)
	if after.memory > held.memory+16<<10 || after.files > held.files {
		t.Errorf("the engine's process held %+v before the flood and %+v after it", held, after)
	}
	f.balance("flat out", before, r0.Sent+r.Sent)
	switch {
	case connect > connectLimit:
		return fmt.Sprintf("a client connected only %s after the flood", connect)
	case recovered == 0 || recovered > recoverLimit:
		return fmt.Sprintf("the transfers recovered %s after the flood (0 is not)", recovered)
	}
	return ""
}

// firstConnect is how long after begin a client connects. One begins every 50 ms: a SYN that is lost among the transfers
// would be sent again only after a second.
func (f *flood) firstConnect(begin time.Time) time.Duration {
	ctx, cancel := context.WithTimeout(f.t.Context(), waitTime)
	defer cancel()
	first := make(chan time.Duration, 1)
	for {
		go func() {
			conn, err := f.Client.Dial(ctx, "tcp", netip.AddrPortFrom(f.VIP4, webPort).String())
			if err != nil {
				return
			}
			conn.Close()
			select {
			case first <- time.Since(begin):
			default:
			}
		}()
		select {
		case took := <-first:
			return took
		case <-ctx.Done():
			return time.Since(begin)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// A flood of SYNs from sources that do not exist, over a table of a tenth of them: established transfers and new clients
// go on, and every packet is accounted for.
func TestSYNFlood(t *testing.T) {
	f := newFlood(t)
	f.restart(largeTable)
	f.limit = f.lossFree()
	for _, percent := range []int{50, 80} {
		f.judged(fmt.Sprintf("%d%%", percent), func() string { return f.share(percent) })
	}
	f.judged("flat out", f.flatOut)
	f.d.stop() // and every frame is where it belongs
}
