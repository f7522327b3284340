package ctl

import (
	"context"
	"fmt"
	"time"

	"sluice/engine"
	"sluice/rings"
)

// ReplayReport is what became of a capture. Every packet read is one of a port's In; every one of those is Passed,
// Malformed, HeadersCut, TooLarge or Engine. What the engine took is Engine.ToServer, ToClient, ToHost or in Drops.
type ReplayReport struct {
	Packets   uint64    `json:"packets"`
	First     time.Time `json:"first,omitzero"`
	Last      time.Time `json:"last,omitzero"`
	Truncated uint64    `json:"truncated"` // captured only in part; replayed with zeros, and cut again
	Backwards uint64    `json:"backwards"` // earlier than a packet before them

	Ports          []ReplayPort  `json:"ports"` // the host port last, if there is one
	Engine         ReplayEngine  `json:"engine"`
	Drops          []DropView    `json:"drops"` // only those that happened
	VirtualServers []VirtualView `json:"virtual_servers"`
	Members        []MemberView  `json:"members"`
	Left           int           `json:"connections_left"`
	Connections    []ConnView    `json:"connections,omitempty"`
}

// ReplayPort is a port's part in a replay. Bytes are those of frames, as long as they were on the wire.
type ReplayPort struct {
	Name       string `json:"name"`
	In         uint64 `json:"in"`
	InBytes    uint64 `json:"in_bytes"`
	Passed     uint64 `json:"passed"`      // left to the kernel by the XDP program's rules
	Malformed  uint64 `json:"malformed"`   // so too, because the headers do not fit
	HeadersCut uint64 `json:"headers_cut"` // not replayed: the capture has not all headers
	TooLarge   uint64 `json:"too_large"`   // not replayed: larger than a frame, or than jumbo frames can be
	Engine     uint64 `json:"engine"`      // taken by the engine
	Out        uint64 `json:"out"`
	OutBytes   uint64 `json:"out_bytes"`
}

// ReplayEngine is the engine's counters.
type ReplayEngine struct {
	Received uint64 `json:"received"`
	Bytes    uint64 `json:"bytes"`
	ToServer uint64 `json:"to_server"`
	ToClient uint64 `json:"to_client"`
	ToHost   uint64 `json:"to_host"`
	Dropped  uint64 `json:"dropped"`
	Sent     uint64 `json:"sent"`
	Opened   uint64 `json:"opened"`
	Closed   uint64 `json:"closed"`
	Answered uint64 `json:"answered,omitempty"` // with a RST or an ICMP error
	Unsent   uint64 `json:"unsent,omitempty"`   // frames of those dropped that were lost on their way out, and are counted as going on too
	Waiting  int    `json:"waiting,omitempty"`  // parts of datagrams, at the end, for their first part
}

func newReplayReport(f *File, t *topology) *ReplayReport {
	r := &ReplayReport{Drops: []DropView{}}
	for i := range f.Ports {
		r.Ports = append(r.Ports, ReplayPort{Name: f.Ports[i].Name})
	}
	if t.host != nil {
		r.Ports = append(r.Ports, ReplayPort{Name: HostPortName})
	}
	return r
}

func (r *ReplayReport) portNames() (names []string) {
	for i := range r.Ports {
		names = append(names, r.Ports[i].Name)
	}
	return names
}

func (r *ReplayReport) count(port int, p *rings.CapturedPacket) {
	r.Packets++
	r.Ports[port].In++
	r.Ports[port].InBytes += uint64(p.Length)
}

// Total sums the ports.
func (r *ReplayReport) Total() ReplayPort {
	t := ReplayPort{Name: "total"}
	for _, p := range r.Ports {
		t.In += p.In
		t.InBytes += p.InBytes
		t.Passed += p.Passed
		t.Malformed += p.Malformed
		t.HeadersCut += p.HeadersCut
		t.TooLarge += p.TooLarge
		t.Engine += p.Engine
		t.Out += p.Out
		t.OutBytes += p.OutBytes
	}
	return t
}

// complete takes the engine's part of the report, and checks that no packet is without a fate.
func (r *replay) complete(ctx context.Context, opt ReplayOptions) error {
	snaps, err := r.engine.Snapshots(ctx)
	if err != nil {
		return err
	}
	s := &snaps[0].Stats
	report := r.report
	report.Engine = ReplayEngine{
		Received: s.RxPackets, Bytes: s.RxBytes, ToServer: s.ToServer, ToClient: s.ToClient, ToHost: s.ToHost,
		Dropped: s.Dropped(), Answered: s.Answered, Unsent: s.Unsent, Waiting: snaps[0].Waiting, Sent: s.TxPackets, Opened: s.Opened, Closed: s.Closed,
	}
	for _, d := range Drops(s) {
		if d.Count != 0 {
			report.Drops = append(report.Drops, d)
		}
	}
	views := &Server{assembly: assembly{file: r.file, engine: r.engine}} // only these are read
	report.VirtualServers, report.Members = views.virtualViews(snaps), views.memberViews(snaps)
	report.Left = snaps[0].Connections
	if opt.Connections > 0 {
		conns, err := r.engine.Connections(ctx, opt.Connections, nil)
		if err != nil {
			return err
		}
		for i := range conns {
			report.Connections = append(report.Connections, connView(&conns[i]))
		}
	}
	return report.account(s, uint64(snaps[0].Waiting))
}

// account checks the sums: the report would be wrong silently otherwise. waiting are parts of datagrams whose first part the
// capture does not have.
func (r *ReplayReport) account(s *engine.Stats, waiting uint64) error {
	t := r.Total()
	switch {
	case t.In != r.Packets || t.In != t.Passed+t.Malformed+t.HeadersCut+t.TooLarge+t.Engine:
		return fmt.Errorf("packets are unaccounted for on the ports: %+v", t)
	case t.Engine != s.RxPackets || t.Out != s.TxPackets:
		return fmt.Errorf("the ports gave %d packets and got %d, the engine took %d and sent %d", t.Engine, t.Out, s.RxPackets, s.TxPackets)
	case s.RxPackets != s.ToServer+s.ToClient+s.ToHost+s.Answered+waiting+s.Dropped()-s.Unsent:
		return fmt.Errorf("packets are unaccounted for in the engine: %+v", *s)
	}
	return nil
}
