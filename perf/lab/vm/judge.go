package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"sluice/perf/lab"
)

// Judge says what in the records of a scenario is not as it must be. No problems mean: every step was done, all data is
// intact by the digests that are computed here again, sluice bound as it must, every queue had traffic, and every stop
// accounted for all frames.
func Judge(s Scenario, records []Record) []error {
	j := &judge{s: s, sums: map[Move][2]string{}}
	if len(records) == 0 {
		return []error{fmt.Errorf("the guest reported nothing")}
	}
	byStep := map[string][]Record{}
	for _, r := range records {
		byStep[r.Step] = append(byStep[r.Step], r)
		if r.Failed != "" {
			j.wrong(r.Step, "%s", r.Failed)
		}
	}
	if !records[len(records)-1].End {
		j.wrong(records[len(records)-1].Step, "the guest's program did not come to its end")
	}
	j.boot(byStep[StepBoot])
	for _, step := range s.Plan.steps() {
		j.step(step, byStep[step])
	}
	return j.problems
}

// steps are those that a plan has after boot.
func (p Plan) steps() []string {
	if p.Only != "" {
		return []string{p.Only}
	}
	steps := []string{StepFirst, StepSecond, StepKill, StepTake}
	if p.Full {
		steps = append(steps, StepFlap)
	}
	if p.VLAN {
		steps = append(steps, StepVLAN)
	}
	if p.Small {
		steps = append(steps, StepSmall)
	}
	if p.Channels > 0 {
		steps = append(steps, StepChannels)
	}
	return steps
}

// load is how much a step moves: TCP connections and echo sessions, half of each IPv6.
type load struct {
	conns             int
	size              int64 // payload bytes each way
	echoes, datagrams int
}

// sessions is the load of a step. Where every queue must have traffic there are so many connections that chance leaves
// none out.
func sessions(step string) load {
	switch step {
	case StepKill, StepTake: // long ones, in the middle of which something happens
		return load{conns: 8, size: 1 << 20}
	case StepChannels:
		return load{conns: 96, size: 32 << 10, echoes: 8, datagrams: 10}
	}
	return load{conns: 32, size: 96 << 10, echoes: 8, datagrams: 20}
}

type judge struct {
	s        Scenario
	sums     map[Move][2]string // expected SHA-256 to and from the server
	problems []error
}

func (j *judge) wrong(step, format string, args ...any) {
	j.problems = append(j.problems, fmt.Errorf("%s: %s", step, fmt.Sprintf(format, args...)))
}

func (j *judge) boot(records []Record) {
	for _, r := range records {
		if r.Boot == nil {
			continue
		}
		if len(r.Boot.NICs) != 2 {
			j.wrong(StepBoot, "%d NICs under test, not 2", len(r.Boot.NICs))
		}
		for _, n := range r.Boot.NICs {
			if n.Driver != j.s.Driver || n.Queues != j.s.Queues {
				j.wrong(StepBoot, "%s is %s with %d queues, not %s with %d", n.Name, n.Driver, n.Queues, j.s.Driver, j.s.Queues)
			}
			// QEMU's hubs leave virtio none to offer.
			if (j.s.Driver == "igb" || j.s.Taps()) && !slices.Contains(n.Features, "rx-checksum") {
				j.wrong(StepBoot, "%s does not check receive checksums, so that nothing is seen of it: %v", n.Name, n.Features)
			}
		}
		return
	}
	j.wrong(StepBoot, "no report of the machine")
}

// step judges one run of sluice.
func (j *judge) step(step string, records []Record) {
	moves := map[string]int{}
	states, stops, starts, kills, handovers, tags := 0, 0, 0, 0, 0, 0
	for _, r := range records {
		switch {
		case r.Move != nil:
			j.move(step, r.Move)
			moves[fmt.Sprintf("%s IPv%d", r.Move.Protocol, r.Move.Family)]++
		case r.State != nil:
			states++
			j.state(step, r.State)
		case r.Stop != nil:
			stops++
			j.stop(step, r.Stop)
		case r.Start != nil:
			starts++
		case r.Killed != nil:
			kills++
			if r.Killed.MovedBefore == 0 {
				j.wrong(step, "nothing had moved before the kill")
			}
		case r.VLAN != nil:
			tags++
			if v := r.VLAN; v.Sent == 0 || v.Stripped != 0 || v.Kept != v.Sent {
				j.wrong(step, "%s", r)
			}
		case r.Handover != nil:
			handovers++
			if h := r.Handover; h.MovedBefore == 0 || h.MovedAfter == 0 || h.ExitCode != 0 {
				j.wrong(step, "%s", r)
			} else if refused := h.ServingMS == 0; refused != j.s.Plan.TakeoverRefused || refused && !strings.Contains(strings.Join(h.Refused, "\n"), "Linux 6.4") {
				j.wrong(step, "%s; a takeover needs Linux 6.4", r)
			}
		}
	}
	l := sessions(step)
	want := map[string]int{"tcp IPv4": l.conns / 2, "tcp IPv6": l.conns / 2, "udp IPv4": l.echoes / 2, "udp IPv6": l.echoes / 2}
	for kind, n := range want {
		rounds := 1
		if step == StepTake && n > 0 { // as many rounds as it took
			rounds = max(1, moves[kind]/n)
		}
		if moves[kind] != n*rounds {
			j.wrong(step, "%d sessions of %s were reported, not %d", moves[kind], kind, n)
		}
	}
	once := func(in string) int {
		if step == in {
			return 1
		}
		return 0
	}
	if starts != 1 || states != 1 || stops != 1 || kills != once(StepKill) || handovers != once(StepTake) || tags != once(StepVLAN) {
		j.wrong(step, "reported %d starts, %d states, %d stops, %d kills, %d handovers and %d VLANs", starts, states, stops, kills, handovers, tags)
	}
}

// move compares a session with what it had to move, computed here.
func (j *judge) move(step string, m *Move) {
	key := Move{Protocol: m.Protocol, Size: m.Size, Seed: m.Seed}
	sums, ok := j.sums[key] // sessions come again in every step
	if !ok {
		sums[0], sums[1] = expectedSums(m)
		j.sums[key] = sums
	}
	sent, received := sums[0], sums[1]
	switch {
	case m.Error != "":
		j.wrong(step, "%s", m)
	case m.Sent != m.Size || m.Received != m.Size:
		j.wrong(step, "%s IPv%d: %d and %d of %d bytes", m.Protocol, m.Family, m.Sent, m.Received, m.Size)
	case m.SentSum != sent || m.ReceivedSum != received:
		j.wrong(step, "%s IPv%d: SHA-256 %s to the server and %s from it, not %s and %s", m.Protocol, m.Family, m.SentSum, m.ReceivedSum, sent, received)
	case m.Protocol == "udp" && m.Lost*10 > int(m.Size/datagram):
		j.wrong(step, "udp IPv%d: %d datagrams of %d were lost", m.Family, m.Lost, m.Size/datagram)
	}
}

func expectedSums(m *Move) (sent, received string) {
	if m.Protocol == "udp" {
		h := sha256.New()
		for d := range datagramsOf(m.Seed, int(m.Size/datagram)) {
			h.Write(d)
		}
		sum := hex.EncodeToString(h.Sum(nil))
		return sum, sum
	}
	a, b := lab.TransferSums(m.Size, m.Seed)
	return hex.EncodeToString(a[:]), hex.EncodeToString(b[:])
}

// refusal is how sluice begins to say why a port is not in zero-copy mode.
const refusal = "zero-copy refused: "

func (j *judge) state(step string, s *State) {
	queues := j.s.Queues
	if step == StepChannels {
		queues = j.s.Plan.Channels
	}
	zeroCopy, reason := j.s.ZeroCopy, refusal+"the driver has none"
	if step == StepSmall {
		zeroCopy, reason = false, refusal+"driver "+j.s.Driver+" would receive"
	}
	for _, name := range []string{outside, inside} {
		i := slices.IndexFunc(s.Ports, func(p Port) bool { return p.Name == name })
		if i < 0 {
			j.wrong(step, "sluice port does not list %s", name)
			continue
		}
		p := s.Ports[i]
		if p.XDP != "native" {
			j.wrong(step, "%s: XDP is %s, not native (%s)", name, p.XDP, p.Note)
		}
		switch {
		case zeroCopy && (p.Mode != "zero-copy" || p.Note != ""):
			j.wrong(step, "%s: mode %s (%s), not zero-copy", name, p.Mode, p.Note)
		case !zeroCopy && (p.Mode != "copy" || !strings.Contains(p.Note, reason)):
			j.wrong(step, "%s: mode %s (%q), not copy with the reason", name, p.Mode, p.Note)
		}
		if p.State != "up" || p.Queues != queues || p.Received == 0 || p.Sent == 0 || p.Invalid != 0 {
			j.wrong(step, "%s is %s with %d queues, received %d, sent %d, invalid %d", name, p.State, p.Queues, p.Received, p.Sent, p.Invalid)
		}
		if j.s.Release == Bookworm && !strings.Contains(p.Note, "no XDP_MAX_TX_SKB_BUDGET") {
			j.wrong(step, "%s: the note does not name what Linux 6.1 lacks: %q", name, p.Note)
		}
		q := s.Queues[name]
		if len(q) != queues || step != StepKill && step != StepTake && slices.Contains(q, 0) {
			j.wrong(step, "%s: packets by queue %v: not every one of %d had some", name, q, queues)
		}
	}
	j.workers(step, s)
	l := sessions(step)
	for _, d := range s.Drops {
		// igb resets its link when it starts, and the kernel forgets who is there. The start waits for the members; the client is
		// asked for when the first answers to it come, and each session may lose one of those.
		if d.Reason == "no_neighbour" && j.s.Driver == "igb" && d.Count <= uint64(l.conns+l.echoes) {
			continue
		}
		// Of a burst some packets may find a ring full; any other reason is a mistake.
		if d.Reason != "tx_full" && d.Reason != "handoff_full" {
			j.wrong(step, "%d packets dropped: %s", d.Count, d.Reason)
		}
	}
}

// workers: each has received something and what was handed out was handed in.
func (j *judge) workers(step string, s *State) {
	want := min(j.s.Queues, cpus) // a worker per queue, at most one per core
	if len(s.Workers) != want {
		j.wrong(step, "%d workers, not %d", len(s.Workers), want)
	}
	var out, in uint64
	for _, w := range s.Workers {
		out, in = out+w.HandedOut, in+w.HandedIn
		if w.Received == 0 && step != StepKill && step != StepTake {
			j.wrong(step, "worker %d received nothing", w.Worker)
		}
	}
	// A TAP device sends a flow to the queue that it has answered from, so that there may be none.
	if len(s.Workers) > 1 && (out != in || out == 0 && !j.s.Taps()) {
		j.wrong(step, "%d packets handed out and %d in: the NIC does not hash the client's end, so there must be some", out, in)
	}
}

func (j *judge) stop(step string, s *Stop) {
	if s.ExitCode != 0 || !strings.Contains(s.Log, "msg=stopped") {
		j.wrong(step, "sluice run ended with code %d:\n%s", s.ExitCode, s.Log)
	}
}

// Summary is a line of figures about records that Judge found good.
func Summary(records []Record) string {
	var bytes, packets uint64
	sessions, stops := 0, 0
	kernel, modes := "", []string{}
	for _, r := range records {
		switch {
		case r.Boot != nil:
			kernel = r.Boot.Kernel
		case r.Move != nil:
			sessions++
			bytes += uint64(r.Move.Sent + r.Move.Received)
		case r.State != nil:
			for _, p := range r.State.Ports[:min(2, len(r.State.Ports))] {
				packets += p.Received
				if !slices.Contains(modes, p.Mode) {
					modes = append(modes, p.Mode)
				}
			}
		case r.Stop != nil:
			stops++
		}
	}
	return fmt.Sprintf("Linux %s, %s: %d sessions of %d bytes intact, %d packets received, %d stops with every frame", kernel, strings.Join(modes, " and "), sessions, bytes, packets, stops)
}
