package vm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"sluice/perf/lab"
)

// The kernel unpacks the archive with its own code; here GNU or BSD cpio, or bsdtar, must agree.
func TestArchive(t *testing.T) {
	var b bytes.Buffer
	a := &archive{w: &b}
	a.add("bin", modeDir|0o755, nil)
	a.add("bin/tool", modeFile|0o755, []byte("12345"))
	a.add("empty", modeFile|0o644, nil)
	a.close()
	if a.err != nil || b.Len()%4 != 0 {
		t.Fatalf("%v; %d bytes", a.err, b.Len())
	}
	text := b.String()
	for _, want := range []string{"070701", "bin/tool\x00", "12345\x00", "TRAILER!!!\x00"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in the archive", want)
		}
	}
	if strings.Count(text, "070701") != 4 {
		t.Errorf("%d headers, not 4", strings.Count(text, "070701"))
	}
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("no cpio(1) to judge the archive")
	}
	dir := t.TempDir()
	cmd := exec.Command(cpio, "-idm", "--quiet")
	cmd.Dir, cmd.Stdin = dir, &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(dir, "bin/tool"))
	if info, e := os.Stat(filepath.Join(dir, "bin/tool")); err != nil || e != nil || string(got) != "12345" || info.Mode().Perm() != 0o755 {
		t.Errorf("unpacked %q, %v, %v", got, err, e)
	}
}

func TestArchiveReportsWriteErrors(t *testing.T) {
	a := &archive{w: full{}}
	a.add("x", modeFile, []byte("x"))
	a.close()
	if a.err == nil {
		t.Error("a full disk went unnoticed")
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestParseDepends(t *testing.T) {
	got := parseDepends("linux-image-amd64\n  Depends: linux-base-amd64\n  Depends: linux-image-7.2.13+deb14-amd64\n |Depends: a\n  Depends: <virtual>\n    real\n")
	if want := []string{"linux-base-amd64", "linux-image-7.2.13+deb14-amd64"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestPerQueue(t *testing.T) {
	got := perQueue(map[string]uint64{"rx_queue_0_packets": 5, "rx_queue_2_packets": 7, "rx_queue_2_bytes": 900, "tx_queue_1_packets": 9, "rx_packets": 12})
	if !slices.Equal(got, []uint64{5, 0, 7}) {
		t.Errorf("igb: %v", got)
	}
	if got := perQueue(map[string]uint64{"rx0_packets": 3, "rx1_packets": 4}); !slices.Equal(got, []uint64{3, 4}) {
		t.Errorf("virtio: %v", got)
	}
	if got := perQueue(map[string]uint64{"rx_packets": 3}); got != nil {
		t.Errorf("no queues: %v", got)
	}
}

func TestReadRecords(t *testing.T) {
	quiet := func(string, ...any) {}
	got, err := readRecords(strings.NewReader("{\"step\":\"boot\",\"failed\":\"x\"}\r\n\n{\"step\":\"\",\"end\":true}"), quiet)
	if err != nil || len(got) != 2 || got[0].Failed != "x" || !got[1].End {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := readRecords(strings.NewReader("Kernel panic\n"), quiet); err == nil {
		t.Error("a line that is no record went unnoticed")
	}
}

// The machine must have no way to a network of the host.
func TestMachineHasNoNetwork(t *testing.T) {
	for _, m := range []struct {
		machine
		backend string
		with    string // of the devices under test
	}{
		{machine{driver: "igb"}, "hubport,", "igb,"},
		{machine{driver: "virtio_net"}, "hubport,", "iommu_platform=on"},
		{machine{driver: "virtio_net", taps: &network{}, queues: 4}, "tap,", "mq=on,vectors=10"},
	} {
		args := m.args()
		netdevs, with := 0, 0
		for i, a := range args {
			if a == "-netdev" {
				netdevs++
				if !strings.HasPrefix(args[i+1], m.backend) {
					t.Errorf("%s: -netdev %s", m.driver, args[i+1])
				}
				if m.taps != nil && !strings.Contains(args[i+1], "script=no,downscript=no") {
					t.Errorf("%s: a script would run: -netdev %s", m.driver, args[i+1])
				}
			}
			if a == "-net" || a == "-nic" {
				t.Errorf("%s: %s", m.driver, a)
			}
			if a == "-device" && strings.Contains(args[i+1], m.with) {
				with++
			}
		}
		if netdevs != 4 || with != 2 || !slices.Contains(args, "-nodefaults") {
			t.Errorf("%s: %d netdevs, %d devices with %s in %q", m.driver, netdevs, with, m.with, args)
		}
	}
}

// A machine is run again only if QEMU failed an assertion.
func TestAborted(t *testing.T) {
	for script, want := range map[string]bool{"kill -ABRT $$": true, "kill -KILL $$": false, "exit 1": false, "exit 0": false} {
		err := exec.Command("sh", "-c", script).Run()
		if err != nil {
			err = fmt.Errorf("wrapped: %w", errors.Join(err, nil))
		}
		if got := aborted(err); got != want {
			t.Errorf("%s: %v is %v, not %v", script, err, got, want)
		}
	}
}

func TestLongestPause(t *testing.T) {
	var moved atomic.Int64
	pause := longestPause(&moved)
	time.Sleep(50 * time.Millisecond)
	moved.Add(1)
	if got := pause(); got < 50*time.Millisecond {
		t.Errorf("stood still for %s, and %s were seen", 50*time.Millisecond, got)
	}
}

// good is what a guest reports when all is well.
func good(s Scenario) (all []Record) {
	add := func(step string, r Record) {
		r.Step = step
		all = append(all, r)
	}
	nic := NIC{Driver: s.Driver, Queues: s.Queues, Features: []string{"rx-checksum"}}
	add(StepBoot, Record{Boot: &Boot{Kernel: "7", CPUs: cpus, NICs: []NIC{nic, nic}}})
	for _, step := range s.Plan.steps() {
		add(step, Record{Start: &Start{}})
		l := sessions(step)
		for i := range l.conns {
			m := &Move{Protocol: "tcp", Family: 4 + i%2*2, Seed: uint64(i), Size: l.size, Sent: l.size, Received: l.size}
			to, from := lab.TransferSums(m.Size, m.Seed)
			m.SentSum, m.ReceivedSum = hex.EncodeToString(to[:]), hex.EncodeToString(from[:])
			add(step, Record{Move: m})
		}
		for i := range l.echoes {
			size := int64(l.datagrams * datagram)
			m := &Move{Protocol: "udp", Family: 4 + i%2*2, Seed: uint64(i), Size: size, Sent: size, Received: size}
			m.SentSum, m.ReceivedSum = expectedSums(m)
			add(step, Record{Move: m})
		}
		if step == StepKill {
			add(step, Record{Killed: &Killed{MovedBefore: 1}})
		}
		if step == StepTake {
			h := &Handover{MovedBefore: 1, MovedAfter: 1, ServingMS: 1}
			if s.Plan.TakeoverRefused {
				h.ServingMS, h.Refused = 0, []string{"Linux 6.4 or newer is needed"}
			}
			add(step, Record{Handover: h})
		}
		if step == StepVLAN {
			add(step, Record{VLAN: &VLAN{Sent: testVLAN, Kept: testVLAN}})
		}
		add(step, Record{State: goodState(s, step)})
		add(step, Record{Stop: &Stop{Log: "msg=stopped"}})
	}
	return append(all, Record{End: true})
}

func goodState(s Scenario, step string) *State {
	st := &State{Queues: map[string][]uint64{}}
	queues, mode, note := s.Queues, "zero-copy", ""
	if step == StepChannels {
		queues = s.Plan.Channels
	}
	switch {
	case step == StepSmall:
		mode, note = "copy", refusal+"driver "+s.Driver+" would receive at most"
	case !s.ZeroCopy:
		mode, note = "copy", refusal+"the driver has none; the kernel has no XDP_MAX_TX_SKB_BUDGET"
	}
	for _, name := range []string{outside, inside} {
		st.Ports = append(st.Ports, Port{Name: name, Queues: queues, XDP: "native", Mode: mode, Note: note, State: "up", Received: 9, Sent: 9})
		st.Queues[name] = slices.Repeat([]uint64{3}, queues)
	}
	for w := range min(s.Queues, cpus) {
		st.Workers = append(st.Workers, Worker{Worker: w, Received: 5, HandedOut: 2, HandedIn: 2})
	}
	return st
}

// TestJudge: a good report is good, and every way to spoil it is seen.
func TestJudge(t *testing.T) {
	for _, s := range Scenarios() {
		if problems := Judge(s, good(s)); len(problems) > 0 {
			t.Errorf("%s: %v", s.Name, problems)
		}
	}
	s := Scenarios()[0]
	s.Plan = Plan{VLAN: true}
	base, err := json.Marshal(good(s))
	if err != nil {
		t.Fatal(err)
	}
	// Each change spoils the first record of a kind in the first start.
	state := func(f func(*State)) func([]Record) []Record {
		return func(all []Record) []Record {
			for _, r := range all {
				if r.State != nil {
					f(r.State)
					break
				}
			}
			return all
		}
	}
	move := func(f func(*Move)) func([]Record) []Record {
		return func(all []Record) []Record {
			for _, r := range all {
				if r.Move != nil {
					f(r.Move)
					break
				}
			}
			return all
		}
	}
	handover := func(f func(*Handover)) func([]Record) []Record {
		return func(all []Record) []Record {
			for _, r := range all {
				if r.Handover != nil {
					f(r.Handover)
				}
			}
			return all
		}
	}
	vlan := func(f func(*VLAN)) func([]Record) []Record {
		return func(all []Record) []Record {
			for _, r := range all {
				if r.VLAN != nil {
					f(r.VLAN)
				}
			}
			return all
		}
	}
	without := func(is func(Record) bool) func([]Record) []Record {
		return func(all []Record) []Record {
			i := slices.IndexFunc(all, is)
			return slices.Delete(all, i, i+1)
		}
	}
	for name, spoil := range map[string]func([]Record) []Record{
		"nothing":                  func([]Record) []Record { return nil },
		"no end":                   func(all []Record) []Record { return all[:len(all)-1] },
		"a failure":                func(all []Record) []Record { return append([]Record{{Step: StepFirst, Failed: "x"}}, all...) },
		"no boot":                  without(func(r Record) bool { return r.Boot != nil }),
		"no start":                 without(func(r Record) bool { return r.Start != nil }),
		"no state":                 without(func(r Record) bool { return r.State != nil }),
		"no stop":                  without(func(r Record) bool { return r.Stop != nil }),
		"no kill":                  without(func(r Record) bool { return r.Killed != nil }),
		"no handover":              without(func(r Record) bool { return r.Handover != nil }),
		"nothing after a handover": handover(func(h *Handover) { h.MovedAfter = 0 }),
		"not taken over":           handover(func(h *Handover) { h.ServingMS = 0 }),
		"the first ended badly":    handover(func(h *Handover) { h.ExitCode = 1 }),
		"a session less":           without(func(r Record) bool { return r.Move != nil }),
		"no udp":                   without(func(r Record) bool { return r.Move != nil && r.Move.Protocol == "udp" }),
		"a skipped start":          func(all []Record) []Record { return append(all, Record{Step: StepSecond, Failed: "skipped"}) },
		"wrong sum":                move(func(m *Move) { m.SentSum = strings.Repeat("0", 64) }),
		"other sum":                move(func(m *Move) { m.ReceivedSum = strings.Repeat("0", 64) }),
		"short":                    move(func(m *Move) { m.Received-- }),
		"error":                    move(func(m *Move) { m.Error = "reset" }),
		"copy":                     state(func(s *State) { s.Ports[0].Mode = "copy" }),
		"generic":                  state(func(s *State) { s.Ports[1].XDP = "generic" }),
		"invalid":                  state(func(s *State) { s.Ports[1].Invalid = 1 }),
		"nothing sent":             state(func(s *State) { s.Ports[1].Sent = 0 }),
		"port missing":             state(func(s *State) { s.Ports = s.Ports[1:] }),
		"idle queue":               state(func(s *State) { s.Queues[outside][3] = 0 }),
		"queue missing":            state(func(s *State) { s.Queues[inside] = s.Queues[inside][1:] }),
		"no handoff":               state(func(s *State) { clear(s.Workers) }),
		"lost handoff":             state(func(s *State) { s.Workers[0].HandedOut++ }),
		"worker missing":           state(func(s *State) { s.Workers = s.Workers[1:] }),
		"no client":                state(func(s *State) { s.Drops = []Drop{{"no_neighbour", 41}} }),
		"drops":                    state(func(s *State) { s.Drops = []Drop{{"bad_length", 1}} }),
		"exit code": func(all []Record) []Record {
			for _, r := range all {
				if r.Stop != nil {
					r.Stop.ExitCode = 1
				}
			}
			return all
		},
		"no tags":             without(func(r Record) bool { return r.VLAN != nil }),
		"a tag not stripped":  vlan(func(v *VLAN) { v.Stripped = v.Sent }),
		"a tag lost":          vlan(func(v *VLAN) { v.Kept = 0 }),
		"no receive checksum": func(all []Record) []Record { all[0].Boot.NICs[1].Features = nil; return all },
		"other driver":        func(all []Record) []Record { all[0].Boot.NICs[0].Driver = "e1000"; return all },
	} {
		var all []Record
		if err := json.Unmarshal(base, &all); err != nil {
			t.Fatal(err)
		}
		if problems := Judge(s, spoil(all)); len(problems) == 0 {
			t.Errorf("%s: not seen", name)
		}
	}
}

func TestAddQueue(t *testing.T) {
	attr := func(kind uint16, value uint64, size int) syscall.NetlinkRouteAttr {
		b := binary.NativeEndian.AppendUint64(nil, value)
		if size == 4 {
			b = binary.NativeEndian.AppendUint32(nil, uint32(value))
		}
		return syscall.NetlinkRouteAttr{Attr: syscall.RtAttr{Type: kind}, Value: b}
	}
	counts := addQueue(nil, []syscall.NetlinkRouteAttr{attr(netdevAQstatsID, 1, 4), attr(netdevAQstatsType, typeRx, 4), attr(netdevAQstatsRxPacket, 1<<40, 8)})
	counts = addQueue(counts, []syscall.NetlinkRouteAttr{attr(netdevAQstatsID, 0, 4), attr(netdevAQstatsType, typeRx, 4), attr(netdevAQstatsRxPacket, 7, 4)})
	counts = addQueue(counts, []syscall.NetlinkRouteAttr{attr(netdevAQstatsID, 0, 4), attr(netdevAQstatsType, 1, 4), attr(netdevAQstatsRxPacket, 99, 4)})
	if !slices.Equal(counts, []uint64{7, 1 << 40}) {
		t.Errorf("%v", counts)
	}
}

// Every message of an answer is read: the list of all families has the one that lists them.
func TestDump(t *testing.T) {
	families := func(version byte) (names []string, err error) {
		req := nl.NewNetlinkRequest(nl.GENL_ID_CTRL, unix.NLM_F_DUMP)
		req.AddData(genlHeader{nl.GENL_CTRL_CMD_GETFAMILY, version, 0, 0})
		err = dump(req, func(m []byte) error {
			attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
			for _, a := range attrs {
				if a.Attr.Type == nl.GENL_CTRL_ATTR_FAMILY_NAME {
					names = append(names, nl.BytesToString(a.Value))
				}
			}
			return err
		})
		return names, err
	}
	names, err := families(nl.GENL_CTRL_VERSION)
	if err != nil || len(names) < 2 || !slices.Contains(names, "nlctrl") {
		t.Errorf("%q, %v", names, err)
	}
	// A type that no family has.
	if err := dump(nl.NewNetlinkRequest(0x3ff, unix.NLM_F_DUMP), func([]byte) error { return nil }); err == nil {
		t.Error("a refusal went unnoticed")
	}
}

func TestModuleNames(t *testing.T) {
	for path, want := range map[string]string{"/x/i2c-algo-bit.ko.xz": "i2c_algo_bit", "virtio_net.ko": "virtio_net"} {
		if got := moduleName(path); got != want {
			t.Errorf("%s: %s, not %s", path, got, want)
		}
	}
	for name, want := range map[string]bool{
		"./lib/modules/6.1/kernel/drivers/net/veth.ko": true, "./boot/vmlinuz-6.1": true,
		"./lib/modules/6.1/kernel/sound/soundcore.ko": false, "./usr/share/doc/drivers/net/README": false,
	} {
		if wanted(name) != want {
			t.Errorf("wanted(%s) is not %v", name, want)
		}
	}
	if _, err := dependencies([]byte("no ELF")); err == nil {
		t.Error("a file that is no module went unnoticed")
	}
}
