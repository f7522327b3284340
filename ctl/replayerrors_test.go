package ctl

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

func loadReplay(t testing.TB) *File {
	t.Helper()
	c := replayCase{config: "a4.yaml"}
	return c.load(t)
}

func TestReplayRefuses(t *testing.T) {
	f := loadReplay(t)
	figure, plain := ngFile(t, figures(), portNames[:2], false), plainFile(t, figures())
	linkType := func(file []byte, at int) []byte {
		b := bytes.Clone(file)
		binary.LittleEndian.PutUint16(b[at:], uint16(layers.LinkTypeLinuxSLL))
		return b
	}
	third := figures()
	third[1].port = 2
	twice := figures()
	for _, tt := range []struct {
		name string
		in   []byte
		want string
		done uint64 // packets replayed before the error
	}{
		{name: "nothing", want: "empty"},
		{name: "three bytes", in: []byte{0xd4, 0xc3, 0xb2}, want: "was it cut"},
		{name: "text", in: []byte("GET / HTTP/1.1\r\n"), want: "not a pcap or pcapng file"},
		{name: "half a head", in: plain[:20], want: "was it cut"},
		{name: "half a pcapng head", in: figure[:20], want: "was it cut"},
		{name: "damaged gzip", in: []byte{0x1f, 0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, want: "gzip"},
		{name: "pcap version", in: append(append([]byte{}, plain[:4]...), append([]byte{9}, plain[5:]...)...), want: "version 9"},
		{name: "cut pcap", in: plain[:len(plain)-1], want: "packet 2 of the capture", done: 1},
		{name: "cut pcapng", in: figure[:len(figure)-1], want: "packet 2 of the capture", done: 1},
		{name: "link type", in: linkType(plain, 20), want: "not Ethernet"},
		{name: "link type of pcapng", in: linkType(figure, bytes.Index(figure, []byte("outside"))-12), want: "not Ethernet"},
		{name: "three ports", in: ngFile(t, third, []string{"a", "b", "c"}, false), want: "interface 2 (c) of the capture is not a port: testdata/replay/a4.yaml has 2 (outside, inside)", done: 1},
		{name: "place and name", in: ngFile(t, twice, []string{"inside", "other"}, false), want: "both be port inside", done: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			report, err := Replay(t.Context(), f, bytes.NewReader(tt.in), &out, ReplayOptions{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrUnaccounted) {
				t.Fatalf("%v, want %q", err, tt.want)
			}
			if tt.done > 0 && (report == nil || report.Packets != tt.done || len(readPackets(t, out.Bytes())) != int(tt.done)) {
				t.Errorf("report %+v", report)
			}
		})
	}
}

func TestReplayInterfaces(t *testing.T) {
	f, err := Parse("ports.yaml", bytes.ReplaceAll(mustRead(t, filepath.Join("testdata", "replay", "a4.yaml")), []byte("interface: inside"), []byte("interface: eth9")))
	if err != nil {
		t.Fatal(err)
	}
	swapped := figures()
	swapped[0].port, swapped[1].port = 1, 0
	first := ngFile(t, figures()[:1], portNames[:2], false)
	later := figures()[1:]
	later[0].port = 0
	for name, in := range map[string][]byte{
		"names":        ngFile(t, figures(), portNames[:2], false),
		"interface":    ngFile(t, figures(), []string{"outside", "eth9"}, false),
		"other order":  ngFile(t, swapped, []string{"inside", "outside"}, false),
		"other names":  ngFile(t, figures(), []string{"lan1", "lan2"}, false),
		"no names":     ngFile(t, figures(), []string{"", ""}, false),
		"unused third": ngFile(t, figures(), portNames, false),
		"two sections": append(first, ngFile(t, later, []string{"inside"}, false)...),
		"gzip":         zipped(t, ngFile(t, figures(), portNames[:2], false)),
		"merged":       ngFile(t, figures(), []string{"outside", "inside", "outside"}, false),
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if _, err := Replay(t.Context(), f, bytes.NewReader(in), &out, ReplayOptions{}); err != nil {
				t.Fatal(err)
			}
			if want := ngFile(t, figures(), portNames, true); !bytes.Equal(out.Bytes(), want) {
				comparePackets(t, out.Bytes(), want)
				t.Error("other bytes")
			}
		})
	}
}

func mustRead(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func zipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestReplayClock has captures whose time goes back, stands, jumps by years, or is missing.
func TestReplayClock(t *testing.T) {
	f := loadReplay(t)
	c := newPath(client4, virtual4, server4(1), 4003, 80, 80)
	syn, answer := c.fromClient(0, "S", 1000, 0, nil), c.fromServer(0, "SA", 5000, 1001, nil)
	back := answer
	back.at = -time.Hour
	late := answer
	late.at = 40 * 365 * 24 * time.Hour
	late.out, late.to = late.in.toKernel(), hostPort
	for name, tt := range map[string]struct {
		events    []event
		backwards uint64
	}{
		"stands":      {[]event{syn, answer}, 0},
		"goes back":   {[]event{syn, back}, 1},
		"forty years": {[]event{syn, late}, 0},
	} {
		var out bytes.Buffer
		report, err := Replay(t.Context(), f, bytes.NewReader(ngFile(t, tt.events, portNames[:2], false)), &out, ReplayOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if report.Backwards != tt.backwards || report.First != captureStart || report.Last.Before(report.First) {
			t.Errorf("%s: %d packets went back, %s to %s", name, report.Backwards, report.First, report.Last)
		}
		comparePackets(t, out.Bytes(), ngFile(t, tt.events, portNames, true))
	}

	// A simple packet block has no time.
	frame := syn.in.build(t)
	b := ngFile(t, nil, portNames[:2], false)
	size := uint32(16 + (len(frame)+3)&^3)
	b = binary.LittleEndian.AppendUint32(b, 3)
	b = binary.LittleEndian.AppendUint32(b, size)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	b = append(b, frame...)
	b = append(b, make([]byte, int(size)-16-len(frame))...)
	b = binary.LittleEndian.AppendUint32(b, size)
	var out bytes.Buffer
	if _, err := Replay(t.Context(), f, bytes.NewReader(b), &out, ReplayOptions{}); err != nil {
		t.Fatal(err)
	}
	if p := readPackets(t, out.Bytes()); len(p) != 1 || !p[0].ci.Timestamp.Equal(time.Unix(0, 0)) {
		t.Errorf("without a time: %+v", p)
	}
}

// TestReplayPcapResolutions reads what every kind of pcap file holds of a time.
func TestReplayPcapResolutions(t *testing.T) {
	f := loadReplay(t)
	frame := figures()[0].in.build(t)
	for _, tt := range []struct {
		make func(*bytes.Buffer) *pcapgo.Writer
		unit time.Duration
	}{
		{func(b *bytes.Buffer) *pcapgo.Writer { return pcapgo.NewWriter(b) }, time.Microsecond},
		{func(b *bytes.Buffer) *pcapgo.Writer { return pcapgo.NewWriterNanos(b) }, time.Nanosecond},
	} {
		var in, out bytes.Buffer
		w := tt.make(&in)
		ci := gopacket.CaptureInfo{Timestamp: captureStart, Length: len(frame), CaptureLength: len(frame)}
		if err := errors.Join(w.WriteFileHeader(65535, layers.LinkTypeEthernet), w.WritePacket(ci, frame)); err != nil {
			t.Fatal(err)
		}
		if _, err := Replay(t.Context(), f, &in, &out, ReplayOptions{}); err != nil {
			t.Fatal(err)
		}
		if got, want := readPackets(t, out.Bytes())[0].ci.Timestamp, captureStart.Truncate(tt.unit); !got.Equal(want) {
			t.Errorf("in units of %s: %s, want %s", tt.unit, got, want)
		}
	}
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

func TestReplayEnds(t *testing.T) {
	f, in := loadReplay(t), ngFile(t, figures(), portNames[:2], false)
	broken := errors.New("broken")
	if _, err := Replay(t.Context(), f, bytes.NewReader(in), brokenWriter{broken}, ReplayOptions{}); !errors.Is(err, broken) || errors.Is(err, ErrUnaccounted) {
		t.Errorf("an output that cannot be written: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	report, err := Replay(ctx, f, bytes.NewReader(in), nil, ReplayOptions{})
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnaccounted) || report == nil {
		t.Errorf("cancelled: %v, %+v", err, report)
	}
}

// TestReplayCut cuts a capture at every byte: all packets before the cut count, and nothing else.
func TestReplayCut(t *testing.T) {
	f := loadReplay(t)
	for _, in := range [][]byte{ngFile(t, figures(), portNames[:2], false), plainFile(t, figures())} {
		for n := range in {
			report, err := Replay(t.Context(), f, bytes.NewReader(in[:n]), nil, ReplayOptions{})
			if errors.Is(err, ErrUnaccounted) || err == nil && report == nil || report != nil && report.Packets > 1 {
				t.Fatalf("cut at %d: %v, %+v", n, err, report)
			}
		}
	}
}

func FuzzReplay(f *testing.F) {
	for _, c := range replayCases(f) {
		if c.name == "demo" {
			continue // long, and nothing that the others do not have
		}
		in := ngFile(f, c.events, portNames[:2], false)
		if c.plain {
			in = plainFile(f, c.events)
		}
		f.Add(in)
	}
	file := loadReplay(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<14 {
			t.Skip("long")
		}
		var out bytes.Buffer
		report, err := Replay(t.Context(), file, bytes.NewReader(in), &out, ReplayOptions{Connections: 10})
		if errors.Is(err, ErrUnaccounted) || report == nil && err == nil {
			t.Fatal(err)
		}
		if report == nil {
			return
		}
		if sent := uint64(len(readPackets(t, out.Bytes()))); sent != report.Engine.Sent {
			t.Fatalf("%d packets in the output, %d sent", sent, report.Engine.Sent)
		}
	})
}
