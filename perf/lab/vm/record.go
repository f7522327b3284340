package vm

import (
	"fmt"
	"strings"
)

// Plan is what a guest does.
type Plan struct {
	FrameSize int  `json:"frame_size"` // engine.frame-size
	RingSize  int  `json:"ring_size"`  // engine.ring-size; 0 is the default
	Full      bool `json:"full"`       // also the steps that need zero-copy to say something
	// Small adds a start with frames of 2048 bytes, which are too small for the driver's zero-copy mode.
	Small bool `json:"small"`
	// Channels, if not 0, adds a start with as many queues, more than there are workers.
	Channels int `json:"channels"`
	// VLAN adds a start with tagged datagrams, with the driver's VLAN stripping on and off.
	VLAN bool `json:"vlan"`
	// TakeoverRefused says that the kernel has no takeover, so that the running sluice has to carry on.
	TakeoverRefused bool `json:"takeover_refused"`
	// Only, if not empty, is the one step that is done.
	Only string `json:"only"`
}

// Steps of a plan, in order.
const (
	StepBoot     = "boot"
	StepFirst    = "first start"
	StepSecond   = "second start"
	StepKill     = "kill -9 and restart"
	StepTake     = "takeover"
	StepFlap     = "link down and up"
	StepSmall    = "frames too small for zero-copy"
	StepVLAN     = "VLAN tags"
	StepChannels = "more queues than workers"
)

// Record is one fact that a guest reports. Of the pointers one is set.
type Record struct {
	Step     string    `json:"step"`
	UptimeMS int64     `json:"uptime_ms"` // of the guest
	Boot     *Boot     `json:"boot,omitempty"`
	Start    *Start    `json:"start,omitempty"`
	Move     *Move     `json:"move,omitempty"`
	State    *State    `json:"state,omitempty"`
	Stop     *Stop     `json:"stop,omitempty"`
	Failed   string    `json:"failed,omitempty"` // the guest could not do the step
	Killed   *Killed   `json:"killed,omitempty"`
	Handover *Handover `json:"handover,omitempty"`
	VLAN     *VLAN     `json:"vlan,omitempty"`
	End      bool      `json:"end,omitempty"` // nothing follows
}

// Boot is the machine as the guest finds it.
type Boot struct {
	Kernel string `json:"kernel"`
	CPUs   int    `json:"cpus"`
	NICs   []NIC  `json:"nics"`
}

// NIC is an interface as its driver describes it.
type NIC struct {
	Name     string   `json:"name"`
	Driver   string   `json:"driver"`
	Queues   int      `json:"queues"`
	Features []string `json:"features"` // offloads that are on
}

// Start is a sluice that serves.
type Start struct {
	ServingMS int64 `json:"serving_ms"` // after the start of the process
	ReadyMS   int64 `json:"ready_ms"`   // until every member has its next hop
}

// Move is data that went through sluice, both ways.
type Move struct {
	Protocol string `json:"protocol"` // tcp | udp
	Family   int    `json:"family"`   // 4 | 6
	Seed     uint64 `json:"seed"`
	Size     int64  `json:"size"`     // payload bytes each way that were to be moved
	Sent     int64  `json:"sent"`     // to the server
	Received int64  `json:"received"` // from the server
	// SHA-256 as the receivers computed them, hexadecimal.
	SentSum     string `json:"sent_sum"`
	ReceivedSum string `json:"received_sum"`
	Lost        int    `json:"lost"` // datagrams that were sent again
	MS          int64  `json:"ms"`
	Error       string `json:"error,omitempty"`
}

// State is what a running sluice and the drivers show after traffic.
type State struct {
	Ports   []Port   `json:"ports"`
	Workers []Worker `json:"workers"`
	Drops   []Drop   `json:"drops"` // only reasons that occurred
	// Queues has, for each port, the packets that the driver counted on each receive queue since the start of sluice.
	Queues map[string][]uint64 `json:"queues"`
}

// Port, Worker and Drop are what is judged of the answers of sluice port, worker and drop with -o json.
type Port struct {
	Name      string `json:"name"`
	Queues    int    `json:"queues"`
	XDP       string `json:"xdp"`
	Mode      string `json:"mode"`
	Note      string `json:"note"`
	State     string `json:"state"`
	Received  uint64 `json:"received"`
	Sent      uint64 `json:"sent"`
	RingFull  uint64 `json:"ring_full"`
	FillEmpty uint64 `json:"fill_empty"`
	Invalid   uint64 `json:"invalid"`
}

// Worker is one line of sluice worker.
type Worker struct {
	Worker    int      `json:"worker"`
	Queues    []string `json:"queues"`
	Received  uint64   `json:"received"`
	HandedOut uint64   `json:"handed_out"`
	HandedIn  uint64   `json:"handed_in"`
	Sent      uint64   `json:"sent"`
}

// Drop is one line of sluice drop.
type Drop struct {
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// Stop is the end of a sluice: with exit code 0 it has accounted for every frame.
type Stop struct {
	ExitCode int    `json:"exit_code"`
	MS       int64  `json:"ms"`
	Log      string `json:"log"` // all that it wrote
}

// Killed is a sluice that was ended by SIGKILL while data was moving.
type Killed struct {
	MovedBefore int64 `json:"moved_before"` // payload bytes
	ServingMS   int64 `json:"serving_ms"`   // from the kill until the next one served
	MovingMS    int64 `json:"moving_ms"`    // from the kill until data moved again
}

// Handover is a sluice that took over from a running one while data was moving.
type Handover struct {
	MovedBefore int64 `json:"moved_before"` // payload bytes before the second was started
	MovedAfter  int64 `json:"moved_after"`  // payload bytes after the first had ended
	ServingMS   int64 `json:"serving_ms"`   // from the first start of a second until one served
	EndedMS     int64 `json:"ended_ms"`     // until the first had ended
	PauseMS     int64 `json:"pause_ms"`     // the longest time in between in which no connection received anything
	ExitCode    int   `json:"exit_code"`    // of the first
	// Refused has the errors of those that could not take over, after which the first carried on: the kernel has no takeover,
	// or the machine was too slow for the bounds of one.
	Refused []string `json:"refused,omitempty"`
}

// VLAN is the tag of a datagram that came to a member. 0 is none.
type VLAN struct {
	Sent     int `json:"sent"`
	Stripped int `json:"stripped"` // with the NIC's VLAN stripping on
	Kept     int `json:"kept"`     // with it off
}

// String is the record in one line, for people.
func (r Record) String() string {
	head := fmt.Sprintf("%6.1fs %s: ", float64(r.UptimeMS)/1000, r.Step)
	switch {
	case r.Boot != nil:
		var nics []string
		for _, n := range r.Boot.NICs {
			nics = append(nics, fmt.Sprintf("%s %s %d queues", n.Name, n.Driver, n.Queues))
		}
		return head + fmt.Sprintf("Linux %s, %d CPUs; %s", r.Boot.Kernel, r.Boot.CPUs, strings.Join(nics, ", "))
	case r.Start != nil:
		return head + fmt.Sprintf("serves after %d ms, members are there after %d ms", r.Start.ServingMS, r.Start.ReadyMS)
	case r.Move != nil:
		return head + r.Move.String()
	case r.State != nil:
		return head + r.State.String()
	case r.Stop != nil:
		return head + fmt.Sprintf("stopped in %d ms with exit code %d", r.Stop.MS, r.Stop.ExitCode)
	case r.Killed != nil:
		return head + fmt.Sprintf("killed after %d bytes; serves again after %d ms, data moves after %d ms", r.Killed.MovedBefore, r.Killed.ServingMS, r.Killed.MovingMS)
	case r.Handover != nil:
		h := r.Handover
		if h.ServingMS == 0 {
			return head + fmt.Sprintf("not taken over after %d bytes, %d bytes followed: %s", h.MovedBefore, h.MovedAfter, strings.Join(h.Refused, "; "))
		}
		return head + fmt.Sprintf("taken over after %d bytes: serves after %d ms, the first ended after %d ms with exit code %d, %d tries before, data stood still for %d ms at most, %d bytes followed",
			h.MovedBefore, h.ServingMS, h.EndedMS, h.ExitCode, len(h.Refused), h.PauseMS, h.MovedAfter)
	case r.VLAN != nil:
		return head + fmt.Sprintf("VLAN %d comes to a member as %d with VLAN stripping and as %d without it", r.VLAN.Sent, r.VLAN.Stripped, r.VLAN.Kept)
	case r.Failed != "":
		return head + "FAILED: " + r.Failed
	}
	return head + "end"
}

func (m *Move) String() string {
	s := fmt.Sprintf("%s IPv%d %d bytes each way in %d ms", m.Protocol, m.Family, m.Received, m.MS)
	if m.Lost > 0 {
		s += fmt.Sprintf(", %d datagrams sent again", m.Lost)
	}
	if m.Error != "" {
		s += ": " + m.Error
	}
	return s
}

func (s *State) String() string {
	var parts []string
	for _, p := range s.Ports {
		part := fmt.Sprintf("%s %s %s rx %d tx %d", p.Name, p.XDP, p.Mode, p.Received, p.Sent)
		if q := s.Queues[p.Name]; q != nil {
			part += fmt.Sprintf(" queues %v", q)
		}
		if p.Note != "" {
			part += " (" + p.Note + ")"
		}
		parts = append(parts, part)
	}
	for _, w := range s.Workers {
		parts = append(parts, fmt.Sprintf("worker %d rx %d handed out %d in %d", w.Worker, w.Received, w.HandedOut, w.HandedIn))
	}
	for _, d := range s.Drops {
		parts = append(parts, fmt.Sprintf("dropped %s %d", d.Reason, d.Count))
	}
	return strings.Join(parts, "; ")
}
