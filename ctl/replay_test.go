package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// replayCase is a capture in testdata/replay: NAME.pcapng or .pcap goes in, NAME.out.pcapng must come out byte for
// byte, NAME.json is the report. Both captures are built by gopacket; -update writes what was built, never what the
// engine sent, so that it cannot make a wrong packet right.
type replayCase struct {
	name   string
	config string
	plain  bool // a pcap file
	events []event
}

func replayCases(t testing.TB) []replayCase {
	http := newPath(client4, virtual4, server4(1), 4003, 80, 80).http(0)
	tagged := newPath(client4, virtual4, server4(1), 4003, 80, 80)
	tagged.tags = []uint16{100}
	double := newPath(client6, virtual6, server6(1), 4003, 80, 80)
	double.tags = []uint16{100, 200}
	six := append(newPath(client6, virtual6, server6(1), 4003, 80, 80).http(0), newPath(client6, virtual6, server6(1), 4003, 53, 53).dns(t, time.Second)...)
	app := newPath(client4, virtual4, server4(1), 4003, 80, 8080)
	app.virtual = virtualApp
	var plain []event
	for i := range 5 {
		plain = append(plain, newPath(client4, virtual4, server4(i%4+1), uint16(4003+i), 80, 80).http(time.Duration(i) * time.Millisecond)[0])
	}
	return []replayCase{
		{name: "figures", config: "a4.yaml", events: figures()},
		{name: "http", config: "a4.yaml", events: http},
		{name: "dns", config: "a4.yaml", events: newPath(client4, virtual4, server4(1), 5353, 53, 53).dns(t, 0)},
		{name: "ipv6", config: "a4.yaml", events: six},
		{name: "port", config: "a4.yaml", events: app.http(0)},
		{name: "vlan", config: "a4.yaml", events: append(tagged.http(0), double.http(time.Second)...)},
		{name: "drops", config: "a4.yaml", events: drops(t)},
		{name: "passes", config: "a4.yaml", events: passes(t)},
		{name: "idle", config: "a4.yaml", events: idle(t)},
		{name: "partial", config: "a4.yaml", events: partial()},
		{name: "plain", config: "a4.yaml", plain: true, events: plain},
		{name: "demo", config: "demo.yaml", events: demo(t)},
		{name: "routers", config: "routers.yaml", events: routedThrough()},
		{name: "walls", config: "walls.yaml", events: learnedThrough()},
		{name: "forward", config: "forward.yaml", events: forwardedThrough()},
		{name: "past", config: "past.yaml", events: past(t)},
	}
}

func (c *replayCase) path(suffix string) string {
	return filepath.Join("testdata", "replay", c.name+suffix)
}

func (c *replayCase) input() string {
	if c.plain {
		return c.path(".pcap")
	}
	return c.path(".pcapng")
}

func (c *replayCase) load(t testing.TB) *File {
	t.Helper()
	f, err := Load(filepath.Join("testdata", "replay", c.config))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// golden compares with a file, or writes it.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if updating() {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; write it with: go test ./ctl -run Replay -update", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from what the test made (go test -update writes it anew)", path)
	}
}

func TestReplayGolden(t *testing.T) {
	for _, c := range append(replayCases(t), replayModeCases(t)...) {
		t.Run(c.name, func(t *testing.T) {
			in := ngFile(t, c.events, portNames[:2], false)
			if c.plain {
				in = plainFile(t, c.events)
				for i := range c.events { // the file holds microseconds
					at := captureStart.Add(c.events[i].at).Truncate(time.Microsecond)
					c.events[i].at = at.Sub(captureStart)
				}
			}
			golden(t, c.input(), in)
			want := ngFile(t, c.events, portNames, true)
			golden(t, c.path(".out.pcapng"), want)

			f := c.load(t)
			var out bytes.Buffer
			report, err := Replay(t.Context(), f, bytes.NewReader(in), &out, ReplayOptions{Connections: 100})
			if err != nil {
				t.Fatal(err)
			}
			comparePackets(t, out.Bytes(), want)
			if !bytes.Equal(out.Bytes(), want) {
				t.Error("the output is not, byte for byte, what was built independently")
			}
			j, err := json.MarshalIndent(report, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, c.path(".json"), append(j, '\n'))
			checkChecksums(t, out.Bytes())

			var again bytes.Buffer
			if _, err := Replay(t.Context(), f, bytes.NewReader(in), &again, ReplayOptions{}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), again.Bytes()) {
				t.Error("a second replay gives other bytes")
			}
			without, err := Replay(t.Context(), f, bytes.NewReader(in), nil, ReplayOptions{Connections: 100})
			if err != nil {
				t.Fatal(err)
			}
			if k, _ := json.MarshalIndent(without, "", "  "); !bytes.Equal(j, k) {
				t.Error("without an output the report is another")
			}
		})
	}
}

type capturedPacket struct {
	data []byte
	ci   gopacket.CaptureInfo
	name string
}

func readPackets(t testing.TB, file []byte) (out []capturedPacket) {
	t.Helper()
	r, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, ci, err := r.ReadPacketData()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		i, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, capturedPacket{data, ci, i.Name})
	}
}

// comparePackets says where two captures differ, in gopacket's words.
func comparePackets(t *testing.T, got, want []byte) {
	t.Helper()
	g, w := readPackets(t, got), readPackets(t, want)
	for i := range max(len(g), len(w)) {
		switch {
		case i >= len(g):
			t.Errorf("packet %d is missing: %s", i+1, describe(w[i]))
		case i >= len(w):
			t.Errorf("packet %d should not be there: %s", i+1, describe(g[i]))
		case !bytes.Equal(g[i].data, w[i].data) || g[i].name != w[i].name || !g[i].ci.Timestamp.Equal(w[i].ci.Timestamp) || g[i].ci.Length != w[i].ci.Length:
			t.Errorf("packet %d is %s\nwant %s", i+1, describe(g[i]), describe(w[i]))
		}
		if t.Failed() {
			return
		}
	}
}

func describe(p capturedPacket) string {
	return fmt.Sprintf("on %s at %s, %d bytes\n%s", p.name, p.ci.Timestamp.Format(time.RFC3339Nano), p.ci.Length,
		gopacket.NewPacket(p.data, layers.LayerTypeEthernet, gopacket.Default).Dump())
}

// checkChecksums verifies every checksum of a capture with two implementations that are not ours.
func checkChecksums(t *testing.T, file []byte) {
	t.Helper()
	whole := 0
	for i, p := range readPackets(t, file) {
		if p.ci.CaptureLength < p.ci.Length {
			continue
		}
		if isPart(p.data) {
			continue // the checksum covers what is in other parts
		}
		whole++
		wrong, err := verifyChecksums(p.data)
		if err != nil || len(wrong) > 0 {
			t.Errorf("packet %d: checksums, by gopacket: %v %+v", i+1, err, wrong)
		}
	}
	tool := needTshark(t)
	if tool == "" || whole == 0 {
		return
	}
	const good, bad = "tcp.checksum.status == 1 || udp.checksum.status == 1 || icmp.checksum.status == 1 || icmpv6.checksum.status == 1", "ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 || icmp.checksum.status == 0 || icmpv6.checksum.status == 0"
	if n := countPackets(t, tool, file, bad); n != 0 {
		t.Errorf("tshark finds %d packets with a bad checksum", n)
	}
	if n := countPackets(t, tool, file, good); n != whole {
		t.Errorf("tshark finds the checksums of %d packets good, of %d", n, whole)
	}
}

// isPart reports whether a frame has part of a datagram.
func isPart(frame []byte) bool {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4); ok {
		return ip.FragOffset != 0 || ip.Flags&layers.IPv4MoreFragments != 0
	}
	return p.Layer(layers.LayerTypeIPv6Fragment) != nil
}

// verifyChecksums is gopacket's; TCP and UDP need to be told of the addresses, which are those of the header before: in a tunnel
// there are two.
func verifyChecksums(frame []byte) ([]gopacket.ChecksumMismatch, error) {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	var network gopacket.NetworkLayer
	for _, l := range p.Layers() {
		if n, ok := l.(gopacket.NetworkLayer); ok {
			network = n
		}
		if l, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := l.SetNetworkLayerForChecksum(network); err != nil {
				return nil, err
			}
		}
	}
	err, wrong := p.VerifyChecksums()
	return wrong, err
}

// needTshark is the path of tshark; where it is not installed only gopacket checks, and where the lab is required
// the test fails.
func needTshark(t *testing.T) string {
	t.Helper()
	tool, err := exec.LookPath("tshark")
	if err == nil {
		return tool
	}
	if os.Getenv("SLUICE_LAB") == "require" {
		t.Fatalf("tshark must be installed here: %v", err)
	}
	t.Logf("skipped: checksums by tshark, which is not installed (%v); gopacket has checked them", err)
	return ""
}

func countPackets(t *testing.T, tool string, file []byte, filter string) int {
	t.Helper()
	cmd := exec.Command(tool, "-r", "-", "-n", "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
		"-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE",
		"-T", "fields", "-e", "frame.number", "-Y", filter)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_CONFIG_HOME=") // nobody's preferences
	cmd.Stdin = bytes.NewReader(file)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v\n%s", err, stderr.String())
	}
	return len(strings.Fields(string(out)))
}

// TestReplayChecksumCheck shows that the checks would notice.
func TestReplayChecksumCheck(t *testing.T) {
	tool := needTshark(t)
	events := figures()
	events[0].out.damage = func(b []byte) { b[50] ^= 1 }
	file := ngFile(t, events, portNames, true)
	if wrong, err := verifyChecksums(readPackets(t, file)[0].data); err != nil || len(wrong) != 1 {
		t.Errorf("gopacket finds %d wrong checksums, %v", len(wrong), err)
	}
	if tool != "" {
		if n := countPackets(t, tool, file, "tcp.checksum.status == 0"); n != 1 {
			t.Errorf("tshark finds %d wrong checksums", n)
		}
	}
}

// TestReplayFigures says what the two figures say, in the words of the figures.
func TestReplayFigures(t *testing.T) {
	c := replayCase{name: "figures", config: "a4.yaml"}
	in, err := os.ReadFile(c.input())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	report, err := Replay(t.Context(), c.load(t), bytes.NewReader(in), &out, ReplayOptions{Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range readPackets(t, out.Bytes()) {
		q := gopacket.NewPacket(p.data, layers.LayerTypeEthernet, gopacket.Default)
		ip, tcp := q.NetworkLayer().NetworkFlow(), q.Layer(layers.LayerTypeTCP).(*layers.TCP)
		got = append(got, fmt.Sprintf("%s: %s:%d > %s:%d", p.name, ip.Src(), tcp.SrcPort, ip.Dst(), tcp.DstPort))
	}
	want := []string{"inside: 172.16.10.55:4003 > 192.168.20.1:80", "outside: 10.10.1.100:80 > 172.16.10.55:4003"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want %q", got, want)
	}
	if report.Left != 1 || len(report.Connections) != 1 {
		t.Fatalf("%d connections left, %d listed", report.Left, len(report.Connections))
	}
	l := report.Connections[0]
	nine := []any{l.ClientSideClient, l.ClientSideServer, l.ServerSideClient, l.ServerSideServer, l.VirtualAddress, l.NodeAddress, l.Protocol, l.ClientSequence, l.ServerSequence}
	if s := fmt.Sprint(nine); s != "[172.16.10.55:4003 10.10.1.100:80 172.16.10.55:4003 192.168.20.1:80 10.10.1.100 192.168.20.1 tcp 1001 5001]" {
		t.Error(s)
	}
}
