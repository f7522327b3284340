package pipeline

import (
	"errors"
	"fmt"

	"sluice/flow"
	"sluice/perf/result"
	"sluice/rings"
)

// rules measures the XDP program, which decides for every packet whether it is ours, as its rules grow: n virtual servers,
// each with an address of its own, and as many members. The kernel runs it, on no interface.
func (s *session) rules(list []int) error {
	type set struct {
		name   string
		rules  rings.Rules
		frames [][]byte
	}
	var sets []set
	for _, n := range list {
		if n < 1 || n > MostRules {
			return fmt.Errorf("%d rules: curves go from 1 to %d", n, MostRules)
		}
		c := set{name: fmt.Sprintf("program/rules=%d", n)}
		for i := range uint32(n) {
			c.rules.Virtuals = append(c.rules.Virtuals, rings.VirtualRule{Addr: addr4(virtualBase + i), Proto: flow.TCP, Port: tcpService})
			c.rules.Members = append(c.rules.Members, rings.MemberRule{Addr: addr4(memberBase + i), Proto: flow.TCP, Port: tcpMember})
		}
		const samples = 64 // of the rules, requests and answers in turn
		for i := range uint32(samples) {
			at := uint32(uint64(i) * uint64(n) / samples)
			t := tuple{src: clientBase, dst: virtualBase + at, sport: 1024, dport: tcpService}
			if i&1 == 1 {
				t = tuple{src: memberBase + at, dst: clientBase, sport: tcpMember, dport: 1024}
			}
			f := make([]byte, rings.HeadLen)
			writeHead(f, outsideMAC, clientMAC, t, segment{proto: flow.TCP, flags: flow.FlagACK}, ipLen+tcpLen)
			c.frames = append(c.frames, f)
		}
		sets = append(sets, c)
	}
	for run := range s.opt.Runs {
		first := 0.0
		for i, c := range sets {
			if err := s.ctx.Err(); err != nil {
				return err
			}
			s.progress.Step("run %d of %d: %s", run+1, s.opt.Runs, c.name) // 10,000 rules take seconds to load
			const repeat = 4096
			took, err := rings.ProgramCost(c.rules, c.frames, repeat)
			if errors.Is(err, errors.ErrUnsupported) {
				s.rec.Skip(c.name, err.Error())
				continue
			}
			if err != nil {
				return err
			}
			ns := float64(took.Nanoseconds())
			if i == 0 {
				first = ns
			}
			s.rec.Add(c.name, result.Metrics{"ns_per_packet": ns, "to_first": ns / max(first, 1)})
		}
	}
	return nil
}
