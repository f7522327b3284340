package flow

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// A script is a connection as the tracker sees it, a segment a line, with what is expected of it:
//
//	c SEW 0+10 ack 1 win 1000 ws 7 > changed syn-sent
//
// is a segment from the client (s: from the server) with SYN, ECE and CWR, relative sequence number 0, 10 bytes of
// payload, an acknowledgement (which sets ACK), a window (65535 by default) and a window scale; then the judgement and
// the state after it. Numbers are relative to the initial sequence number of their side; one after = is absolute. The
// judgement "begin" is for a SYN that starts a connection, over a reusable one if there is one; "adopt" is for a segment
// without an entry. # starts a comment.
type script struct {
	name     string
	oneSided bool
	lines    string
}

type scriptLine struct {
	text      string
	side      Side
	seg       Segment
	abs       bool
	judgement string
	state     string
}

func parseLine(text string) (*scriptLine, error) {
	l := &scriptLine{text: text, seg: Segment{Window: 65535, Scale: NoScale}}
	left, right, ok := strings.Cut(text, ">")
	f, want := strings.Fields(left), strings.Fields(right)
	if !ok || len(f) < 3 || len(f)%2 == 0 || len(want) != 2 {
		return nil, fmt.Errorf("not a line: %q", text)
	}
	l.judgement, l.state = want[0], want[1]
	if f[0] == "s" {
		l.side = FromServer
	}
	bits := map[rune]uint8{'F': FlagFIN, 'S': FlagSYN, 'R': FlagRST, 'P': FlagPSH, 'A': FlagACK, 'E': 1 << 6, 'W': 1 << 7, '.': 0}
	for _, c := range f[1] {
		bit, ok := bits[c]
		if !ok {
			return nil, fmt.Errorf("flag %c in %q", c, text)
		}
		l.seg.Flags |= bit
	}
	seq, length, _ := strings.Cut(f[2], "+")
	if seq, l.abs = strings.CutPrefix(seq, "="); length == "" {
		length = "0"
	}
	var err error
	set := func(to *uint32, word string) {
		n, e := strconv.ParseInt(word, 10, 64)
		if e != nil {
			err = fmt.Errorf("%q: %w", text, e)
		}
		*to = uint32(n)
	}
	set(&l.seg.Seq, seq)
	set(&l.seg.Len, length)
	for i := 3; i < len(f); i += 2 {
		var n uint32
		set(&n, f[i+1])
		switch f[i] {
		case "ack":
			l.seg.Ack = n
			l.seg.Flags |= FlagACK
		case "win":
			l.seg.Window = uint16(n)
		case "ws":
			l.seg.Scale = uint8(n)
		default:
			return nil, fmt.Errorf("%q in %q", f[i], text)
		}
	}
	return l, err
}

func parseScript(t *testing.T, s *script) (lines []*scriptLine) {
	t.Helper()
	for text := range strings.Lines(s.lines) {
		text, _, _ = strings.Cut(text, "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		l, err := parseLine(text)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	return lines
}

// at is the line's segment with initial sequence numbers base.
func (l *scriptLine) at(base [2]uint32) *Segment {
	s := l.seg
	if !l.abs {
		s.Seq += base[l.side]
	}
	if s.Flags&FlagACK != 0 {
		s.Ack += base[l.side^1]
	}
	return &s
}

// bases puts the wrap of sequence numbers, and of their sign, before, at and after every number of the script: the
// client's against the server's in step and out of step.
func bases(lines []*scriptLine) (all [][2]uint32) {
	var points [2][]uint32
	for _, l := range lines {
		if !l.abs {
			points[l.side] = append(points[l.side], l.seg.Seq, l.seg.end())
		}
		if l.seg.Flags&FlagACK != 0 {
			points[l.side^1] = append(points[l.side^1], l.seg.Ack)
		}
	}
	seen := map[[2]uint32]bool{}
	for _, top := range []uint32{0, 1 << 31} {
		for side := range points {
			for _, p := range points[side] {
				for _, d := range []uint32{0, 1, ^uint32(0)} {
					for _, other := range []uint32{4000000000, top - p, 1<<31 - 1, 77} {
						var b [2]uint32
						b[side], b[side^1] = top-p+d, other
						if !seen[b] {
							seen[b] = true
							all = append(all, b)
						}
					}
				}
			}
		}
	}
	return all
}

func tcpRecord() Record { return Record{state: liveBit | uint64(TCP)<<protoShift} }

func (s *script) run(lines []*scriptLine, base [2]uint32) error {
	r := tcpRecord()
	for _, l := range lines {
		seg, before := l.at(base), r
		var got string
		switch {
		case l.judgement == "begin":
			if got = l.judgement; r.TCPState() != TCPNone && !r.Reusable() {
				got = "kept"
			}
			r.BeginTCP(seg)
		case l.judgement == "adopt":
			got = l.judgement
			r.AdoptTCP(l.side, seg)
		case s.oneSided:
			got = judgementNames[r.TrackClient(seg)]
		default:
			got = judgementNames[r.TrackTCP(l.side, seg)]
		}
		if got != l.judgement || r.TCPState().String() != l.state {
			return fmt.Errorf("initial sequence numbers %d: %s: got %s %v\n%+v", base, l.text, got, r.TCPState(), r)
		}
		if plain := seg.Flags&(FlagSYN|FlagACK|FlagFIN|FlagRST) == FlagSYN; plain && l.side == FromClient && got == "outside" && r.Reusable() {
			return fmt.Errorf("initial sequence numbers %d: %s: but the entry is reusable", base, l.text)
		}
		if err := consistent(got, &before, &r); err != nil {
			return fmt.Errorf("initial sequence numbers %d: %s: %w", base, l.text, err)
		}
	}
	return nil
}

var judgementNames = map[Judgement]string{Outside: "outside", Inside: "inside", Changed: "changed"}

// consistent holds what is true of every judgement.
func consistent(j string, before, after *Record) error {
	b, a := *before, *after
	moved := b.TCPState() != a.TCPState()
	if j == "outside" {
		b.state, a.state = b.state&^synNote, a.state&^synNote // a SYN may be noted
		if a != b {
			return fmt.Errorf("outside, but changed:\n%+v\n%+v", b, a)
		}
	}
	if j == "inside" && moved || j == "changed" && !moved {
		return fmt.Errorf("%s: %v to %v", j, b.TCPState(), a.TCPState())
	}
	return nil
}

func TestTCPScripts(t *testing.T) {
	names := map[string]bool{}
	for _, s := range tcpScripts {
		if names[s.name] {
			t.Errorf("two scripts %q", s.name)
		}
		names[s.name] = true
		t.Run(s.name, func(t *testing.T) {
			lines := parseScript(t, &s)
			for _, base := range bases(lines) {
				if err := s.run(lines, base); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A script that does not say what happens is found out.
func TestTCPScriptFails(t *testing.T) {
	for _, lines := range []string{
		"c S 0 > begin established", "c S 0 > begin syn-sent\nc A 1 ack 1 > inside syn-sent",
		"c S 0 > begin syn-sent\nc S 5 > begin syn-sent",
	} {
		s := script{name: "wrong", lines: lines}
		if err := s.run(parseScript(t, &s), [2]uint32{}); err == nil {
			t.Errorf("passed:\n%s", lines)
		}
	}
	for _, line := range []string{"", "c S > begin syn-sent", "c X 0 > inside closed", "c S 0 ack > inside closed", "c S 0 win x > inside closed", "c S 0 mss 1 > inside closed"} {
		if _, err := parseLine(line); err == nil {
			t.Errorf("%q is taken for a line", line)
		}
	}
}
