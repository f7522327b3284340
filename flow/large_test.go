package flow

import (
	"bufio"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// resident is the process's resident memory in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(v, "kB")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Skip("the kernel does not tell the resident memory")
	return 0
}

// collections runs the collector some times and returns the least duration of a collection and of its pause: what it
// has to do takes that long at least, and only other programs make it longer.
func collections() (duration, pause time.Duration) {
	const rounds = 21
	runtime.GC()
	var took []time.Duration
	for range rounds {
		start := time.Now()
		runtime.GC()
		took = append(took, time.Since(start))
	}
	var s debug.GCStats
	debug.ReadGCStats(&s)
	return slices.Min(took), slices.Min(s.Pause[:rounds])
}

// Ten million live connections in one table: filled, each found from both sides, expired; in less than 1.8 GiB, and the
// garbage collector does not notice.
func TestTenMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 1.6 GB and some seconds")
	}
	const n = 10_000_000
	debug.FreeOSMemory()
	gcBefore, pauseBefore := collections()
	before := resident(t)
	tab := newTable(t, n, testNodes)
	start := time.Now()
	stage := func(name string) {
		d := time.Since(start)
		t.Logf("%-10s %6.2f s, %4.0f ns a connection", name, d.Seconds(), float64(d.Nanoseconds())/n)
		start = time.Now()
	}
	for i := range uint32(n) {
		rec := begun(i)
		if _, res := tab.Insert(&rec, TCP, 0, 30_000+uint64(i%600_000)); res != Inserted {
			t.Fatalf("connection %d: result %d", i, res)
		}
	}
	stage("filled")
	rss := resident(t) - before
	t.Logf("resident: %.0f MiB, %.1f bytes a connection", float64(rss)/(1<<20), float64(rss)/n)
	if limit := int64(1800 * (1 << 30) / 1000); rss > limit || rss < n*recordSize {
		t.Errorf("%d bytes resident, at most %d", rss, limit)
	}
	start = time.Now()
	var keys [Burst]Key
	var refs [Burst]Ref
	for i := uint32(0); i < n; i += Burst {
		for k := range keys {
			rec := conn(i + uint32(k))
			rec.state = TCP << protoShift
			if keys[k] = rec.ClientKey(); k&1 != 0 {
				keys[k] = tab.ServerKey(&rec)
			}
		}
		tab.LookupBurst(keys[:], refs[:])
		for k, r := range refs {
			if r == 0 || r.Side() != Side(k&1) || number(tab.Record(r.Index())) != i+uint32(k) {
				t.Fatalf("connection %d is found as %d", i+uint32(k), r)
			}
		}
	}
	stage("looked up")
	gcLive, pauseLive := collections()
	t.Logf("a collection takes %v with none, %v with ten million; its pause %v and %v", gcBefore, gcLive, pauseBefore, pauseLive)
	// Scanning 1.6 GB would take hundreds of milliseconds; the factor and the slack are for a busy machine.
	if gcLive > 4*gcBefore+5*time.Millisecond || pauseLive > 4*pauseBefore+time.Millisecond {
		t.Error("the collector notices the connections")
	}
	start = time.Now()
	expired := 0
	for now := uint64(0); tab.Len() > 0; now += 100 {
		if now > 2_000_000 {
			t.Fatalf("%d never expire", tab.Len())
		}
		for tab.Expire(now, 1024, func(r *Record) uint64 { return 30_000 + uint64(number(r)%600_000) }, func(*Record) { expired++ }) == 1024 {
		}
	}
	stage("expired")
	if expired != n {
		t.Errorf("%d of %d expired", expired, n)
	}
}
