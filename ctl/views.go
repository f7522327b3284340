package ctl

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// The views are what the API answers and the command line prints. Times are milliseconds, sizes bytes; MAC and IP
// addresses are written as people write them.

// CounterView is a service's counters.
type CounterView struct {
	Connections   int64  `json:"connections"` // entries now: one that is closed stays for a moment (timeouts), and no limit counts it
	Opened        uint64 `json:"opened"`      // since the start
	ClientPackets uint64 `json:"client_packets"`
	ClientBytes   uint64 `json:"client_bytes"`
	ServerPackets uint64 `json:"server_packets"`
	ServerBytes   uint64 `json:"server_bytes"`
}

func countersOf(s *engine.ServiceStats) CounterView {
	return CounterView{
		Connections: s.Active, Opened: s.Opened,
		ClientPackets: s.Packets[flow.FromClient], ClientBytes: s.Bytes[flow.FromClient],
		ServerPackets: s.Packets[flow.FromServer], ServerBytes: s.Bytes[flow.FromServer],
	}
}

// VirtualView is a virtual server.
type VirtualView struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
	Pool     string `json:"pool"`
	State    string `json:"state,omitempty"` // up | down (no member takes connections) | disabled (ordered)
	Since    string `json:"since,omitempty"` // of a state that is not up; RFC 3339
	Cause    string `json:"cause,omitempty"` // of such a state: the order, or what keeps each member out
	// Withdrawn says that its addresses are off their port, because every member is down.
	Withdrawn bool `json:"withdrawn,omitempty"`
	// The limits; one that is left out is none.
	ConnectionLimit int `json:"connection_limit,omitempty"`
	RateLimit       int `json:"rate_limit,omitempty"` // new connections a second
	HalfOpenLimit   int `json:"half_open_limit,omitempty"`
	SourceRateLimit int `json:"source_rate_limit,omitempty"` // new connections a second of a source prefix
	CounterView
}

// PoolView is a pool.
type PoolView struct {
	Name      string `json:"name"`
	Scheduler string `json:"scheduler"`
	Members   int    `json:"members"`
	Usable    int    `json:"usable"` // members that take new connections

	SlowStartMS int64 `json:"slow_start_ms,omitempty"` // how long a member that comes up takes part with a growing share; 0: it does so in full
	CounterView
}

// MemberView is a member of a pool.
type MemberView struct {
	Pool    string `json:"pool"`
	Name    string `json:"name"`
	Address string `json:"address"`
	Weight  uint32 `json:"weight"`
	// FileWeight is the weight in the file, where an operator has ordered another.
	FileWeight *int `json:"file_weight,omitempty"`

	Priority        int `json:"priority,omitempty"`         // the highest takes the connections; left out: 0
	ConnectionLimit int `json:"connection_limit,omitempty"` // left out: none
	RateLimit       int `json:"rate_limit,omitempty"`       // new connections a second; left out: none
	// SlowStartMS is how much of the pool's slow-start is left, in which the member takes part with a growing share.
	SlowStartMS int64 `json:"slow_start_left_ms,omitempty"`

	State   string `json:"state"`             // active | checking | down | draining (ordered, or gone from the file) | disabled (ordered, or weight 0) | forced-off | no-neighbour
	Verdict string `json:"verdict,omitempty"` // of the monitors: checking | up | down
	Cause   string `json:"cause,omitempty"`   // of the state
	Since   string `json:"since,omitempty"`   // RFC 3339
	Changes uint64 `json:"changes,omitempty"` // of the verdict
	Port    string `json:"port"`
	MAC     string `json:"mac,omitempty"`
	CounterView
}

// ConnView is a connection: the nine lines of the classic connection table, then what is known beside them.
type ConnView struct {
	ClientSideClient string `json:"client_side_client"`
	ClientSideServer string `json:"client_side_server"`
	ServerSideClient string `json:"server_side_client"`
	ServerSideServer string `json:"server_side_server"`
	VirtualAddress   string `json:"virtual_address"`
	NodeAddress      string `json:"node_address"`
	Protocol         string `json:"protocol"`
	ClientSequence   uint32 `json:"client_sequence"`
	ServerSequence   uint32 `json:"server_sequence"`

	State         string `json:"state"`
	Forwarding    string `json:"forwarding,omitempty"` // routed | ipip | gue; empty where addresses are translated
	OneSided      bool   `json:"one_sided,omitempty"`  // answers go past us, and are not counted
	VirtualServer string `json:"virtual_server"`
	Pool          string `json:"pool"`
	Member        string `json:"member"`
	ClientMAC     string `json:"client_mac"`
	ClientPort    string `json:"client_port"`
	ServerPort    string `json:"server_port"`
	Worker        int    `json:"worker"`
	AgeMS         uint32 `json:"age_ms"`
	IdleMS        uint32 `json:"idle_ms"`
	ExpiresMS     uint64 `json:"expires_ms"`
	ClientPackets uint64 `json:"client_packets"`
	ClientBytes   uint64 `json:"client_bytes"`
	ServerPackets uint64 `json:"server_packets"`
	ServerBytes   uint64 `json:"server_bytes"`
}

func connView(c *engine.Conn) ConnView {
	at := func(a flow.Addr, port uint16) string { return netip.AddrPortFrom(a.Netip(), port).String() }
	v := ConnView{
		ClientSideClient: at(c.Client, c.CPort), ClientSideServer: at(c.Record.Virtual, c.VPort),
		ServerSideClient: at(c.Server.Dst, c.SPort), ServerSideServer: at(c.Server.Src, c.NPort),
		VirtualAddress: c.Record.Virtual.Netip().String(), NodeAddress: c.NodeAddr.Netip().String(),
		Protocol: protocolName(c.Proto()), State: "open",
		ClientSequence: c.Win[flow.FromClient].End, ServerSequence: c.Win[flow.FromServer].End,
		Forwarding: engine.Forwarding(&c.Record), OneSided: c.OneSided(),
		VirtualServer: c.Virtual, Pool: c.Pool, Member: c.Member, ClientMAC: macString(c.ClientMAC),
		ClientPort: c.Ports[0], ServerPort: c.Ports[1], Worker: c.Worker,
		AgeMS: c.AgeMS, IdleMS: c.IdleMS, ExpiresMS: c.LeftMS,
		ClientPackets: c.Packets(flow.FromClient), ClientBytes: c.Bytes(flow.FromClient),
		ServerPackets: c.Packets(flow.FromServer), ServerBytes: c.Bytes(flow.FromServer),
	}
	switch {
	case c.Proto() == flow.TCP:
		v.State = c.TCPState().String()
		if c.OneSided() {
			v.ServerSequence = c.Win[flow.FromClient].Ack // as the client says
		}
	case c.Proto() == flow.SCTP:
		v.State = c.SCTPState().String()
		v.ClientSequence, v.ServerSequence = 0, 0 // numbers are per stream; what is kept there are tags
	case !c.Replied() && !c.OneSided():
		v.State = "unanswered"
	}
	return v
}

// ConnStates are the words of ConnView.State.
func ConnStates() []string {
	out := []string{"open", "unanswered"}
	for s := flow.TCPSynSent; s <= flow.TCPClosed; s++ {
		out = append(out, s.String())
	}
	for s := flow.SCTPInitSent; s <= flow.SCTPClosed; s++ {
		if !slices.Contains(out, s.String()) {
			out = append(out, s.String())
		}
	}
	return out
}

func macString(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

func protocolName(p uint8) string {
	switch p {
	case flow.TCP:
		return "tcp"
	case flow.UDP:
		return "udp"
	case flow.SCTP:
		return "sctp"
	case flow.ICMP, flow.ICMPv6:
		return "icmp"
	case 0:
		return "any"
	}
	return fmt.Sprint(p)
}

// DropView is a drop reason and its count.
type DropView struct {
	Reason string `json:"reason"`
	Text   string `json:"text"`
	Count  uint64 `json:"count"`
	// Answered are packets that were refused for the reason with a RST or an ICMP error instead of being dropped.
	Answered uint64 `json:"answered,omitempty"`
}

// DropReasons are the words of DropView.Reason.
func DropReasons() (out []string) {
	for _, r := range engine.Reasons() {
		out = append(out, r.Name)
	}
	return out
}

// Drops lists every reason with its count.
func Drops(s *engine.Stats) []DropView {
	var out []DropView
	for i, r := range engine.Reasons() {
		out = append(out, DropView{r.Name, r.Text, s.Drops[i], s.Refused[i]})
	}
	return out
}

// WorkerView is a worker.
type WorkerView struct {
	Worker      int      `json:"worker"`
	Core        int      `json:"core"` // -1: not pinned
	Mode        string   `json:"mode"` // busy | adaptive | interrupt
	Queues      []string `json:"queues"`
	Connections int      `json:"connections"`
	Capacity    int      `json:"capacity"`
	FreeFrames  int      `json:"free_frames"`
	Received    uint64   `json:"received"`
	ToServer    uint64   `json:"to_server"`
	ToClient    uint64   `json:"to_client"`
	ToHost      uint64   `json:"to_host"`
	Sent        uint64   `json:"sent"`
	HandedOut   uint64   `json:"handed_out"`
	HandedIn    uint64   `json:"handed_in"`
	Answered    uint64   `json:"answered"` // packets that became a RST, an ICMP error or an echo reply
	Dropped     uint64   `json:"dropped"`
	Unsent      uint64   `json:"unsent"` // frames of those dropped that were lost on their way out, and are counted as going on too
	Sleeps      uint64   `json:"sleeps"`
	Waiting     int      `json:"waiting_parts"`        // of datagrams, for their first part
	Datagrams   int      `json:"fragmented_datagrams"` // of which some parts have come and others have not

	PacketsPerSecond float64 `json:"packets_per_second"` // received, over the last second
	BusyShare        float64 `json:"busy_share"`         // of the last second, in steps that found work: 0 to 1
	BusySeconds      float64 `json:"busy_seconds"`       // in all
	HandedShare      float64 `json:"handed_over_share"`  // of what was received: given to the worker that owns it
	// The largest gap between two steps while the worker was not asleep, in the last minute, and when it ended.
	LargestPauseUS int64  `json:"largest_pause_us"`
	LargestPauseAt string `json:"largest_pause_at,omitempty"`
}

// pollingNames are the words of the configuration.
var pollingNames = map[engine.Polling]string{
	engine.PollAdaptive: string(PollingAdaptive), engine.PollBusy: string(PollingBusy), engine.PollInterrupt: string(PollingInterrupt),
}

// PortView is a port.
type PortView struct {
	Name      string `json:"name"`
	Interface string `json:"interface"`
	MAC       string `json:"mac"`
	MTU       int    `json:"mtu"`
	Queues    int    `json:"queues"`
	Driver    string `json:"driver"`
	State     string `json:"state"` // up | down | no carrier | gone
	XDP       string `json:"xdp"`   // native | generic
	Mode      string `json:"mode"`  // zero-copy | copy
	Jumbo     bool   `json:"jumbo"` // packets may be larger than a frame
	Note      string `json:"note,omitempty"`
	Steering  string `json:"steering,omitempty"` // full, or what is missing and why
	// HandedOver is the share of its packets that steering is expected to leave to be handed over, from 0 to 1.
	HandedOver float64 `json:"expected_handed_over"`
	Received   uint64  `json:"received"`
	Sent       uint64  `json:"sent"`
	RingFull   uint64  `json:"ring_full"`
	FillEmpty  uint64  `json:"fill_empty"`
	Invalid    uint64  `json:"invalid"`
	Lost       uint64  `json:"lost"`   // on the rings of an interface that went away
	Passed     uint64  `json:"passed"` // by the XDP program, to the kernel
	Held       uint64  `json:"held"`   // by the XDP program, while no engine served the port
}

// StatusView is the engine as a whole.
type StatusView struct {
	Version    string       `json:"version"`
	PID        int          `json:"pid"`
	UptimeMS   int64        `json:"uptime_ms"`
	Generation uint64       `json:"generation"`
	File       string       `json:"file"`
	Workers    int          `json:"workers"`
	Totals     TotalsView   `json:"totals"`
	Memory     []MemoryView `json:"memory"`
	Changes    ChangesView  `json:"member_changes"`
}

// TotalsView sums all workers.
type TotalsView struct {
	Connections int    `json:"connections"`
	Opened      uint64 `json:"opened"`
	Received    uint64 `json:"received"`
	ToServer    uint64 `json:"to_server"`
	ToClient    uint64 `json:"to_client"`
	ToHost      uint64 `json:"to_host"`
	Sent        uint64 `json:"sent"`
	Answered    uint64 `json:"answered"` // packets that became a RST, an ICMP error or an echo reply
	Dropped     uint64 `json:"dropped"`
	Unsent      uint64 `json:"unsent"`        // frames of those dropped that were lost on their way out, and are counted as going on too
	Made        uint64 `json:"made"`          // frames sent beside packets received: RSTs to ends of connections, further parts of packets
	Ended       uint64 `json:"ended"`         // connections that ended because their member stopped serving
	Moved       uint64 `json:"moved"`         // connections that go through another router or firewall, because theirs stopped serving
	Evicted     uint64 `json:"evicted"`       // half-open or closing connections that gave way to new ones
	Resets      uint64 `json:"resets"`        // RSTs that the engine made
	OutOfWindow uint64 `json:"out_of_window"` // TCP segments outside their connection's window, dropped or not
	ICMPErrors  uint64 `json:"icmp_errors"`   // about connections, translated
	ICMPSent    uint64 `json:"icmp_sent"`     // ICMP errors that the engine made
	Split       uint64 `json:"split"`         // packets without DF that left in parts, as they were too big for the next link
	Echoes      uint64 `json:"echoes"`        // echo requests that the engine answered
	Recomputed  uint64 `json:"recomputed"`    // packets whose checksums were computed anew on arrival
}

// MemoryView is a piece of memory taken at start.
type MemoryView struct {
	What  string `json:"what"`
	Bytes int    `json:"bytes"`
	Kind  string `json:"kind"`
}

func (s *Server) virtualViews(snaps []engine.Snapshot) []VirtualView {
	out := []VirtualView{}
	for _, v := range s.engine.Config().Virtuals() {
		sum := sumService(snaps, virtualsOf, v.ID)
		out = append(out, VirtualView{
			Name: v.Name, Address: endsText(&v.VirtualSpec), Protocol: protocolName(v.Proto),
			Pool: v.PoolName, CounterView: countersOf(&sum),
			ConnectionLimit: v.Limit, RateLimit: v.Rate, HalfOpenLimit: v.HalfOpenLimit, SourceRateLimit: v.SourceRate,
		})
	}
	s.virtualStates(out)
	return out
}

func sumService(snaps []engine.Snapshot, of func(*engine.Snapshot) []engine.ServiceStats, id uint32) (sum engine.ServiceStats) {
	for i := range snaps {
		if list := of(&snaps[i]); int(id) < len(list) {
			sum.Add(&list[id])
		}
	}
	return sum
}

func nodesOf(n *engine.Snapshot) []engine.ServiceStats { return n.Node }

func virtualsOf(n *engine.Snapshot) []engine.ServiceStats { return n.Virtual }

func (s *Server) poolViews(snaps []engine.Snapshot) []PoolView {
	out := []PoolView{}
	for _, p := range s.engine.Config().Pools() {
		v := PoolView{Name: p.Name, Scheduler: p.Scheduler, Members: len(p.Members)}
		var sum engine.ServiceStats
		for i := range p.Members {
			m := sumService(snaps, nodesOf, p.Members[i].ID)
			sum.Add(&m)
			if m := &p.Members[i]; m.Weight > 0 && m.Hop.OK && m.State.Kind == engine.MemberUp {
				v.Usable++
			}
		}
		v.CounterView = countersOf(&sum)
		if of := s.file.Pool(p.Name); of != nil {
			v.SlowStartMS = of.SlowStart.Milliseconds()
		}
		out = append(out, v)
	}
	return out
}

func (s *Server) memberViews(snaps []engine.Snapshot) []MemberView {
	out := []MemberView{}
	for _, p := range s.engine.Config().Pools() {
		for i := range p.Members {
			m := &p.Members[i]
			sum := sumService(snaps, nodesOf, m.ID)
			v := MemberView{
				Pool: p.Name, Name: m.Name, Address: netip.AddrPortFrom(m.Addr, m.Port).String(), Weight: m.Weight,
				State: "active", Port: s.file.portName(m.Hop.Port), CounterView: countersOf(&sum),
				Priority: m.Priority, ConnectionLimit: m.Limit, RateLimit: m.Rate,
			}
			if m.Port == 0 {
				v.Address = m.Addr.String()
			}
			if m.Hop.OK {
				v.MAC = macString(m.Hop.MAC)
			}
			s.health.show(&v, m)
			if of := s.file.Pool(p.Name); of != nil && v.State == "active" {
				v.SlowStartMS = s.slowStartLeft(of, m)
			}
			if v.State == "no-neighbour" && s.health != nil { // a replay has nobody to ask
				since, cause := s.lostSince(m.Addr)
				v.Cause, v.Since = cause, since.UTC().Format(time.RFC3339)
			}
			out = append(out, v)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.drain.nodes)) {
		n, e := s.drain.nodes[id], s.drain.entries[id]
		sum := sumService(snaps, nodesOf, id)
		v := MemberView{Pool: n.Pool, Name: n.Name, Address: netip.AddrPortFrom(e.Addr, e.Port).String(), State: "draining", CounterView: countersOf(&sum)}
		if e.Port == 0 {
			v.Address = e.Addr.String()
		}
		out = append(out, v)
	}
	return out
}

func (s *Server) workerViews(snaps []engine.Snapshot) []WorkerView {
	out := []WorkerView{}
	for i := range snaps {
		n := &snaps[i]
		v := WorkerView{
			Worker: n.Worker, Core: n.Core, Queues: []string{}, Connections: n.Connections, Capacity: n.Capacity,
			FreeFrames: n.FreeFrames, Received: n.RxPackets, ToServer: n.ToServer, ToClient: n.ToClient, ToHost: n.ToHost,
			Sent: n.TxPackets, HandedOut: n.HandedOut, HandedIn: n.HandedIn, Answered: n.Answered, Dropped: n.Dropped(), Unsent: n.Unsent, Sleeps: n.Sleeps,
			Waiting: n.Waiting, Datagrams: n.Datagrams,
			Mode: pollingNames[n.Polling], BusySeconds: n.Busy.Seconds(), HandedShare: float64(n.HandedOut) / float64(max(n.RxPackets, 1)),
		}
		var largest pause
		v.PacketsPerSecond, v.BusyShare, largest = s.rates.worker(n.Worker)
		if v.LargestPauseUS = largest.length.Microseconds(); largest.length > 0 {
			v.LargestPauseAt = wallTime(largest.end).Format("2006-01-02T15:04:05.000Z07:00")
		}
		for _, q := range n.Queues {
			if q.Port < len(s.file.Ports) {
				v.Queues = append(v.Queues, fmt.Sprintf("%s/%d", s.file.Ports[q.Port].Name, s.queueNumber(q.Port, q.Queue)))
			}
		}
		out = append(out, v)
	}
	return out
}

// queueNumber is which queue of its port it is.
func (s *Server) queueNumber(port int, q rings.Queue) int {
	return slices.IndexFunc(s.queues[port], func(o openQueue) bool { return o.Queue == q })
}

func (s *Server) portViews(snaps []engine.Snapshot) []PortView {
	out := make([]PortView, len(s.ifaces))
	for i := range s.ifaces {
		f := &s.ifaces[i]
		v := &out[i]
		*v = PortView{Name: HostPortName, Interface: f.name, MAC: macString(f.mac), MTU: f.mtu, Jumbo: f.jumbo, Queues: f.queues, Driver: string(DriverXSK), State: "up"}
		if i < len(s.programs) {
			v.State, v.Queues = s.linkState(i), len(s.queues[i])
			v.Name, v.Driver, v.XDP = s.file.Ports[i].Name, string(s.file.Engine.Driver), s.programs[i].Mode().String()
			if c, err := s.programs[i].Counters(); err == nil {
				v.Passed, v.Held = c.Passed+c.MalformedPassed, c.Held
			}
			if i < len(s.past) {
				q, c := &s.past[i].queues, &s.past[i].program
				v.Received, v.Sent, v.RingFull, v.FillEmpty = q.RxPackets, q.TxPackets, q.RxRingFull, q.FillEmpty
				v.Invalid, v.Lost = q.RxInvalid+q.TxInvalid, q.TxLost
				v.Passed, v.Held = v.Passed+c.Passed+c.MalformedPassed, v.Held+c.Held
			}
			if !s.isOpen(i) {
				v.XDP = ""
			}
		}
		if i < len(s.steerings) {
			v.Steering, v.HandedOver = s.steerings[i].Text, s.steerings[i].Share
		}
		notes := map[string]bool{}
		for _, q := range s.queues[i] {
			v.Mode = q.mode
			if q.note != "" && !notes[q.note] {
				notes[q.note] = true
				v.Note = strings.TrimPrefix(v.Note+"; "+q.note, "; ")
			}
		}
	}
	for i := range snaps {
		for _, q := range snaps[i].Queues {
			v := &out[q.Port]
			v.Received += q.RxPackets
			v.Sent += q.TxPackets
			v.RingFull += q.RxRingFull
			v.FillEmpty += q.FillEmpty
			v.Invalid += q.RxInvalid + q.TxInvalid
		}
	}
	return append(out, s.vlanViews()...)
}

func (s *Server) memoryViews() []MemoryView {
	out := []MemoryView{{"frames", s.plan.frames * s.file.Engine.FrameSize, string(s.region.Pages())}}
	for i := range s.memory {
		out = append(out, MemoryView{fmt.Sprintf("connection table of worker %d", i), len(s.memory[i].flows), string(s.memory[i].Pages)})
	}
	return out
}
