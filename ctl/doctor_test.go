package ctl

import (
	"math"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// goodFacts are of a host that has nothing to mend.
func goodFacts() *Facts {
	return &Facts{
		Release: "6.18.1", Capabilities: math.MaxUint64, MemlockLimit: 64 << 10, HugePageSize: 2 << 20, HugePages: 100,
		RPFilterAll: 0, ClockSource: "tsc", BPFFS: true, Cores: []int{0, 1, 2, 3}, Isolated: []int{2, 3},
		Siblings: map[int][]int{0: {0}, 1: {1}, 2: {2}, 3: {3}},
		Wants: Wants{File: true, Mode: BindAuto, FrameSize: 2048, HostPort: true, HugePages: true, Workers: 2, WorkerCores: []int{2, 3},
			Memlock: 100 << 20, Huge: 100 << 20},
		Ports: []PortFacts{{
			Name: "outside", Interface: "eth1", Up: true, Carrier: true, Driver: "ice", MTU: 1500, RX: 2, TX: 2,
			XDPKnown: true, XDPFeatures: xdpBasic | xdpRedirect | xdpZeroCopy, Indirection: []uint32{0, 1, 0, 1},
			Features: map[string]bool{"rx-gro": true, "tx-checksum-ip-generic": true, "rx-lro": false},
		}},
	}
}

func TestDoctorFindsNothing(t *testing.T) {
	r := Examine(goodFacts())
	for _, f := range r.Findings {
		if f.Level != LevelOK || f.Meaning != "" || f.Mend != "" {
			t.Errorf("%+v", f)
		}
	}
	if r.OK != len(r.Findings) || r.OK < 15 {
		t.Errorf("%d of %d are ok", r.OK, len(r.Findings))
	}
}

// Each thing that can be wrong is named by exactly one finding, with what it means and what mends it.
func TestDoctorJudges(t *testing.T) {
	without := func(bits ...int) func(*Facts) {
		return func(f *Facts) {
			for _, b := range bits {
				f.Capabilities &^= 1 << b
			}
		}
	}
	port := func(change func(*PortFacts)) func(*Facts) { return func(f *Facts) { change(&f.Ports[0]) } }
	for _, c := range []struct {
		name   string
		change func(*Facts)
		level  Level
		check  string
		mend   string // part of it
	}{
		{"old kernel", func(f *Facts) {
			f.Release = "5.4.0-100-generic"
			f.Ports[0].XDPFeatures = xdpBasic | xdpRedirect | xdpZeroCopy
		}, LevelFail, "kernel", "newer kernel"},
		{"strange kernel", func(f *Facts) { f.Release = "unknown" }, LevelWarn, "kernel", ""},
		{"no managed neighbours", func(f *Facts) { f.Release = "5.15.0" }, LevelNote, "managed-neighbours", "5.16"},
		{"no takeover", func(f *Facts) { f.Release = "6.3.9" }, LevelNote, "takeover", "6.4"},
		{"no transmit budget", func(f *Facts) { f.Release = "6.16.0" }, LevelNote, "tx-budget", "6.17"},
		{"no AF_XDP", func(f *Facts) { f.AFXDP = "address family not supported by protocol" }, LevelFail, "af-xdp", "CONFIG_XDP_SOCKETS"},
		{"no bpffs", func(f *Facts) { f.BPFFS = false }, LevelNote, "bpffs", "mount -t bpf"},
		{"slow clock", func(f *Facts) { f.ClockSource = "hpet" }, LevelWarn, "clock-source", "current_clocksource"},
		{"unknown clock", func(f *Facts) { f.ClockSource = "" }, LevelNote, "clock-source", ""},
		{"no CAP_NET_ADMIN", without(unix.CAP_NET_ADMIN), LevelFail, "capabilities", "root"},
		{"no CAP_BPF", without(unix.CAP_BPF, unix.CAP_SYS_ADMIN), LevelFail, "capabilities", "root"},
		{"CAP_SYS_ADMIN for CAP_BPF", without(unix.CAP_BPF), LevelOK, "capabilities", ""},
		{"no CAP_NET_RAW", without(unix.CAP_NET_RAW), LevelFail, "capabilities", "root"},
		{"no CAP_PERFMON", without(unix.CAP_PERFMON, unix.CAP_SYS_ADMIN), LevelFail, "capabilities", "root"},
		{"no place for tables", func(f *Facts) { f.Unkept = "no tmpfs" }, LevelNote, "keep-connections", "sluice prepare"},
		{"little locked memory", without(unix.CAP_IPC_LOCK), LevelFail, "memlock", "ulimit -l"},
		{"enough locked memory", func(f *Facts) { without(unix.CAP_IPC_LOCK)(f); f.MemlockLimit = 200 << 20 }, LevelOK, "memlock", ""},
		{"no limit", func(f *Facts) { without(unix.CAP_IPC_LOCK)(f); f.MemlockLimit = unix.RLIM_INFINITY }, LevelOK, "memlock", ""},
		{"few huge pages", func(f *Facts) { f.HugePages = 10 }, LevelNote, "huge-pages", "vm.nr_hugepages=50"},
		{"huge pages off", func(f *Facts) { f.HugePages, f.Wants.HugePages = 0, false }, LevelOK, "huge-pages", ""},
		{"forwarding", func(f *Facts) { f.Forward6 = true }, LevelNote, "ip-forward", "ip_forward=0"},
		{"strict for all", func(f *Facts) { f.RPFilterAll = 1 }, LevelWarn, "rp-filter", "all.rp_filter=0"},
		{"strict for all without a host port", func(f *Facts) { f.RPFilterAll, f.Wants.HostPort = 1, false }, LevelNote, "rp-filter", "all.rp_filter=2"},
		{"loose for all", func(f *Facts) { f.RPFilterAll = 2 }, LevelOK, "rp-filter", ""},
		{"no plan", func(f *Facts) {
			f.Wants.Problem, f.Wants.Workers, f.Wants.WorkerCores = "engine.workers: 9 workers", 0, nil
		}, LevelFail, "plan", "sluice check"},
		{"more workers than cores", func(f *Facts) { f.Cores, f.Wants.WorkerCores = []int{0}, nil }, LevelNote, "cores", "engine.workers"},
		{"threads of one core", func(f *Facts) { f.Siblings[2] = []int{2, 3} }, LevelWarn, "smt", "engine.cores"},
		{"cores not isolated", func(f *Facts) { f.Isolated = []int{3} }, LevelNote, "cpu-isolation", "domain,2 nohz_full=2"},
		{"busy cores not isolated", func(f *Facts) { f.Isolated, f.Wants.Busy = nil, true }, LevelWarn, "cpu-isolation", "domain,2,3"},

		{"no interface", port(func(p *PortFacts) { p.Problem = "there is no interface eth1" }), LevelFail, "interface", "ip link"},
		{"down", port(func(p *PortFacts) { p.Up = false }), LevelFail, "interface", "ip link set eth1 up"},
		{"no carrier", port(func(p *PortFacts) { p.Carrier = false }), LevelWarn, "interface", "cable"},
		{"another's program", port(func(p *PortFacts) { p.Program = 7 }), LevelFail, "xdp-program", "xdp off"},
		{"our program", port(func(p *PortFacts) { p.Program, p.Ours = 7, true }), LevelOK, "interface", ""},
		{"unknown driver", port(func(p *PortFacts) { p.XDPKnown = false }), LevelNote, "xdp-mode", "sluice port"},
		{"no native XDP", port(func(p *PortFacts) { p.XDPFeatures = 0; p.Features["rx-gro"] = false }), LevelWarn, "xdp-mode", "native XDP"},
		{"no native XDP, wanted", func(f *Facts) {
			f.Ports[0].XDPFeatures, f.Ports[0].Features["rx-gro"], f.Wants.Mode = xdpBasic, false, BindCopy
		}, LevelFail, "xdp-mode", "generic"},
		{"generic wanted", func(f *Facts) { f.Wants.Mode, f.Ports[0].Features["rx-gro"] = BindGeneric, false }, LevelNote, "xdp-mode", "auto"},
		{"no zero-copy", port(func(p *PortFacts) { p.XDPFeatures &^= xdpZeroCopy }), LevelNote, "xdp-mode", "zero-copy"},
		{"no zero-copy, wanted", func(f *Facts) { f.Ports[0].XDPFeatures, f.Wants.Mode = xdpBasic|xdpRedirect, BindZeroCopy }, LevelFail, "xdp-mode", "auto or copy"},
		{"MTU above a frame, no jumbo frames wanted", port(func(p *PortFacts) { p.MTU, p.Jumbo = 3000, JumboOff }), LevelFail, "mtu", "engine.frame-size to 4096"},
		{"MTU above any frame, no jumbo frames wanted", port(func(p *PortFacts) { p.MTU, p.Jumbo = 9000, JumboOff }), LevelFail, "mtu", "lower the MTU to 1770"},
		{"MTU above any frame, a kernel without jumbo frames", func(f *Facts) { f.Ports[0].MTU, f.NoMultiBuffer = 9000, "too old" }, LevelFail, "mtu", "lower the MTU to 1770"},
		{"jumbo frames", port(func(p *PortFacts) { p.MTU, p.XDPFeatures = 9000, p.XDPFeatures|xdpReceiveSG }), LevelOK, "mtu", ""},
		{"jumbo frames, and a driver without", port(func(p *PortFacts) { p.MTU = 9000 }), LevelWarn, "mtu", "lower the MTU to 1770"},
		{"jumbo frames without zero-copy", port(func(p *PortFacts) {
			p.MTU, p.XDPFeatures, p.ZeroCopySegments = 9000, p.XDPFeatures|xdpReceiveSG, 1
		}), LevelNote, "mtu", "lower the MTU to 1770"},
		{"jumbo frames beyond what a packet may have", port(func(p *PortFacts) { p.MTU = 60000 }), LevelFail, "mtu", "engine.frame-size to 4096"},
		{"jumbo frames, and a peer that sends larger ones", port(func(p *PortFacts) {
			p.MTU, p.XDPFeatures, p.Peer = 9000, p.XDPFeatures|xdpReceiveSG, &PeerFacts{Interface: "eth0", Features: map[string]bool{"tx-tcp-segmentation": true}}
		}), LevelWarn, "peer-segmentation", "ethtool -K eth0 tso off gso off"},
		{"frames too small for zero-copy", port(func(p *PortFacts) { p.Driver = "igb" }), LevelNote, "mtu", "4096"},
		{"large frames", func(f *Facts) { f.Ports[0].MTU, f.Wants.FrameSize = 3000, 4096 }, LevelOK, "mtu", ""},
		{"more rx than tx", port(func(p *PortFacts) { p.TX = 1 }), LevelFail, "queues", "ethtool -L eth1 rx 1 tx 1"},
		{"other queues than wanted", port(func(p *PortFacts) { p.Queues = 4 }), LevelFail, "queues", "combined 4"},
		{"fewer queues than workers", port(func(p *PortFacts) { p.RX, p.TX = 1, 1 }), LevelNote, "queues", "combined 2"},
		{"uneven queues", port(func(p *PortFacts) { p.RX, p.TX, p.Indirection = 3, 3, []uint32{0, 1, 2} }), LevelNote, "queues", "combined 2"},
		{"no RSS", port(func(p *PortFacts) { p.Indirection = nil }), LevelNote, "steering", ""},
		{"RSS to one queue", port(func(p *PortFacts) { p.Indirection = []uint32{1, 1} }), LevelWarn, "steering", "ethtool -X eth1 equal 2"},
		{"checksums of a veth", port(func(p *PortFacts) { p.Driver = "veth" }), LevelWarn, "tx-checksum", "ethtool -K eth1 tx off"},
		{"checksums of virtio", port(func(p *PortFacts) { p.Driver, p.Features["rx-checksum"] = "virtio_net", true }), LevelNote, "rx-checksum", "rx off"},
		{"checksums of the peer", port(func(p *PortFacts) {
			p.Peer = &PeerFacts{Interface: "eth0", Namespace: "client", Features: map[string]bool{"tx-checksum-sctp": true}}
		}), LevelWarn, "peer-tx-checksum", "ip netns exec client ethtool -K eth0 tx off"},
		{"unknown peer", port(func(p *PortFacts) { p.Peer = &PeerFacts{Unknown: true} }), LevelNote, "peer-tx-checksum", "tx off"},
		{"good peer", port(func(p *PortFacts) { p.Peer = &PeerFacts{Interface: "eth0", Features: map[string]bool{}} }), LevelOK, "offloads", ""},
		{"LRO", port(func(p *PortFacts) { p.Features["rx-lro"] = true }), LevelWarn, "lro", "lro off"},
		{"GRO in generic mode", func(f *Facts) { f.Ports[0].XDPFeatures = 0 }, LevelWarn, "gro", "gro off"},
		{"VLAN stripping", port(func(p *PortFacts) { p.Features["rx-vlan-hw-parse"] = true }), LevelNote, "vlan-stripping", "rxvlan off"},
		{"VLAN stripping with VLANs", port(func(p *PortFacts) { p.Features["rx-vlan-hw-parse"], p.VLANs = true, []string{"eth1.7"} }), LevelWarn, "vlan-stripping", "rxvlan off"},
		{"offloads unknown", port(func(p *PortFacts) { p.Features = nil }), LevelNote, "offloads", "ethtool -k"},
		{"strict port", port(func(p *PortFacts) { p.RPFilter = 1 }), LevelWarn, "rp-filter", "eth1.rp_filter=2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := goodFacts()
			c.change(f)
			r := Examine(f)
			i := slices.IndexFunc(r.Findings, func(x Finding) bool {
				return x.Check == c.check && x.Level == c.level && strings.Contains(x.Mend, c.mend)
			})
			if i < 0 {
				t.Fatalf("no %s %q in %+v", c.level, c.check, r.Findings)
			}
			if x := r.Findings[i]; x.Level != LevelOK && x.Meaning == "" || x.Level == LevelFail && x.Mend == "" {
				t.Errorf("what does it mean, and what mends it? %+v", x)
			}
			// Nothing else gets worse than it, but by what follows from it.
			for _, x := range r.Findings {
				if x.Level != LevelOK && x.Check != c.check && worse(x.Level, c.level) == x.Level && x.Level != c.level {
					t.Errorf("also: %+v", x)
				}
			}
			if n := r.OK + r.Notes + r.Warnings + r.Failures; n != len(r.Findings) {
				t.Errorf("%d findings, %d counted", len(r.Findings), n)
			}
		})
	}
}

func TestCoreList(t *testing.T) {
	for s, want := range map[string][]int{"": nil, "3": {3}, "0-2,8": {0, 1, 2, 8}, "x,1": {1}, "5-4": nil} {
		if got := coreList(s); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}
