package flow

import (
	"encoding/binary"
	"testing"
)

// fuzzSegment reads a segment from 8 bytes: flags; side (bit 0), whether the numbers are absolute (bits 1 and 2), large
// payload (bit 3) and scale (upper half); 16 bits of sequence number and of acknowledgement; length; window. Numbers
// are mostly small offsets from what the record holds: those drawn evenly would nearly always be outside.
func fuzzSegment(r *Record, b []byte) (Side, Segment) {
	side := Side(b[1] & 1)
	s := Segment{
		Flags: b[0], Scale: b[1] >> 4, Len: uint32(b[6]) << (b[1] & 8), Window: uint16(b[7]) << (b[1] & 8),
		Seq: uint32(int32(int16(binary.BigEndian.Uint16(b[2:])))), Ack: uint32(int32(int16(binary.BigEndian.Uint16(b[4:])))),
	}
	if s.Scale == 15 {
		s.Scale = NoScale
	}
	if b[1]&2 == 0 {
		s.Seq += r.Win[side].End
	} else {
		s.Seq *= 0x10001
	}
	if b[1]&4 == 0 {
		s.Ack += r.Win[side^1].End
	} else {
		s.Ack *= 0x10001
	}
	return side, s
}

// FuzzTrackTCP: whatever comes, the state is a state, a segment outside changes nothing, and only RSTs and FINs of both
// ends close.
func FuzzTrackTCP(f *testing.F) {
	const (
		ack      = "\x10\xf0\x00\x00\x00\x00\x00\xff"
		fin      = "\x11\xf0\x00\x00\x00\x00\x00\xff"
		finBack  = "\x11\xf1\x00\x00\x00\x00\x00\xff"
		open     = "\x02\xf6\x00\x00\x00\x00\x00\xff" + "\x12\xf1\x00\x00\x00\x00\x00\xff" + ack
		another  = "\x02\xf2\x01\x00\x00\x00\x00\xff"
		answered = "\x12\xf1\x00\x00\x00\x00\x00\xff"
		rst      = "\x04\xf0\x00\x00\x00\x00\x00\xff"
	)
	f.Add(uint8(0), []byte(open+fin+finBack+ack))
	f.Add(uint8(0), []byte(open+another+answered+rst))
	f.Add(uint8(1), []byte(open+fin+rst))
	f.Add(uint8(2), []byte(open+finBack+fin))
	f.Fuzz(func(t *testing.T, how uint8, in []byte) {
		if len(in) < 8 {
			return
		}
		r := tcpRecord()
		r.Start, r.packetsLo, r.VS = 0x01020304, [2]uint32{5, 6}, 7 // not the tracker's
		side, s := fuzzSegment(&r, in)
		reset, fins := false, uint8(0)
		if oneSided := how&1 != 0; how&2 == 0 || oneSided {
			s.Flags = s.Flags&^(FlagFIN|FlagRST|FlagACK) | FlagSYN
			r.BeginTCP(&s)
		} else {
			s.Flags = s.Flags&^(FlagSYN|FlagRST) | FlagACK
			r.AdoptTCP(side, &s)
			fins |= s.Flags & FlagFIN << side
		}
		for in = in[8:]; len(in) >= 8; in = in[8:] {
			side, s := fuzzSegment(&r, in)
			before, j := r, Outside
			if how&1 != 0 {
				side = FromClient
				j = r.TrackClient(&s)
				sameSteadyClient(t, &before, &r, &s, j)
			} else {
				j = r.TrackTCP(side, &s)
				sameSteady(t, &before, &r, side, &s, j)
			}
			if j > Changed {
				t.Fatalf("judgement %d", j)
			}
			if state := r.TCPState(); state < TCPSynSent || state > TCPClosed {
				t.Fatalf("state %d", state)
			}
			// To start anew, and a SYN-ACK over a noted SYN does, may end in the same state.
			anew := s.Flags&FlagSYN != 0 || before.state&synNote != r.state&synNote
			name := judgementNames[j]
			if err := consistent(name, &before, &r); err != nil && !(anew && j != Outside) {
				t.Fatalf("%+v: %v", s, err)
			}
			if j != Outside {
				reset = reset || s.Flags&FlagRST != 0
				fins |= s.Flags & FlagFIN << side
			}
			if r.TCPState() == TCPClosed && !reset && fins != 3 {
				t.Fatalf("closed without RST and FINs by %+v", s)
			}
			const others = 0xffff<<checkShift | 0xff<<protoShift | liveBit | halfOpenBit
			if r.Start != before.Start || r.packetsLo != before.packetsLo || r.VS != before.VS || r.state&others != before.state&others {
				t.Fatalf("%+v changed what is not the tracker's:\n%+v\n%+v", s, before, r)
			}
		}
	})
}
