package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// cut makes parts of a frame whose packet has no options or extension headers, each with at most size bytes of payload.
func cut(frame []byte, id uint32, size int) (parts [][]byte) {
	v6 := frame[12] == 0x86
	header := 34
	if v6 {
		header = 54
	}
	payload := frame[header:]
	for at := 0; at < len(payload); at += size {
		n := min(size, len(payload)-at)
		more := at+n < len(payload)
		part := slices.Clone(frame[:header])
		if v6 {
			field := uint16(at)
			if more {
				field |= 1
			}
			ext := binary.BigEndian.AppendUint16([]byte{frame[20], 0}, field)
			part = append(part, binary.BigEndian.AppendUint32(ext, id)...)
			part[20] = 44
			binary.BigEndian.PutUint16(part[18:], uint16(8+n))
		} else {
			field := uint16(at / 8)
			if more {
				field |= 0x2000
			}
			binary.BigEndian.PutUint16(part[16:], uint16(20+n))
			binary.BigEndian.PutUint16(part[18:], uint16(id))
			binary.BigEndian.PutUint16(part[20:], field)
			binary.BigEndian.PutUint16(part[24:], 0)
			binary.BigEndian.PutUint16(part[24:], ^sum16(part[14:34]))
		}
		parts = append(parts, append(part, payload[at:at+n]...))
	}
	return parts
}

// joined puts parts together, as gopacket reads them, into the frame that they are parts of.
func joined(t testing.TB, parts [][]byte) []byte {
	t.Helper()
	whole := make([]byte, 1<<16)
	end, filled, header := 0, 0, 0
	for _, b := range parts {
		p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
		at, part := 0, []byte(nil)
		if ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4); ok {
			if sum16(ip.Contents) != 0xffff {
				t.Fatalf("wrong header checksum: %x", b)
			}
			header, at, part = 34, int(ip.FragOffset)*8, ip.Payload
			if at == 0 {
				copy(whole, b[:34])
				whole[20], whole[21] = 0, 0
			}
		} else {
			f, ok := p.Layer(layers.LayerTypeIPv6Fragment).(*layers.IPv6Fragment)
			if !ok {
				t.Fatalf("not a part: %x", b)
			}
			header, at, part = 54, int(f.FragmentOffset)*8, f.Payload
			if at == 0 {
				copy(whole, b[:54])
				whole[20] = byte(f.NextHeader)
			}
		}
		copy(whole[header+at:], part)
		end, filled = max(end, header+at+len(part)), filled+len(part)
	}
	if filled != end-header {
		t.Fatalf("%d bytes in parts, the last ends at %d", filled, end-header)
	}
	if header == 34 {
		binary.BigEndian.PutUint16(whole[16:], uint16(end-14))
		whole[24], whole[25] = 0, 0
		binary.BigEndian.PutUint16(whole[24:], ^sum16(whole[14:34]))
	} else {
		binary.BigEndian.PutUint16(whole[18:], uint16(end-54))
	}
	return whole[:end]
}

// Datagrams of 60,000 bytes, both ways and both families, their parts in order, reversed and shuffled, arriving at any
// worker: put together behind the engine they are, byte by byte, what a whole packet would have become.
func TestFragments(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	big := strings.Repeat("a datagram that is large. ", 60000/26)
	for _, workers := range []int{1, 3} {
		for _, c := range errorCases() {
			if !c.request.udp {
				continue
			}
			for _, order := range []string{"in order", "reversed", "shuffled"} {
				t.Run(fmt.Sprintf("%s %d %s", c.name, workers, order), func(t *testing.T) {
					b := newBench(t, answering(workers, 0), 1000, 1024)
					defer b.close()
					id := uint32(7)
					pass := func(p packet, from, to int) []byte {
						parts := cut(p.build(t), id, 1400)
						id++
						switch order {
						case "reversed":
							slices.Reverse(parts)
						case "shuffled":
							rnd.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
						}
						var got [][]byte
						for _, part := range parts {
							out := b.sendTo(rnd.IntN(workers), from, part)
							if len(out[from])+len(out[host]) != 0 {
								t.Fatal("a part went elsewhere")
							}
							got = append(got, out[to]...)
						}
						if len(got) != len(parts) {
							t.Fatalf("%d of %d parts came out, dropped %v", len(got), len(parts), b.stats().Drops)
						}
						for _, part := range got { // joined takes the headers of the first
							addresses := [2]int{26, 34}
							if part[12] == 0x86 {
								addresses = [2]int{22, 54}
							}
							at, end := addresses[0], addresses[1]
							if !bytes.Equal(part[:14], got[0][:14]) || !bytes.Equal(part[at:end], got[0][at:end]) {
								t.Fatalf("a part is addressed otherwise: %x, another %x", part[:54], got[0][:54])
							}
						}
						return joined(t, got)
					}
					for round := range 3 {
						request, answer := c.request, c.answer
						request.srcMAC, request.dstMAC, request.payload = clientMAC, outsideMAC, big
						request.sport = uint16(5000 + round)
						got := pass(request, outside, inside)
						server := int(got[33])
						if c.request.src.Is6() {
							server = int(got[53])
						}
						want := request
						want.srcMAC, want.dstMAC, want.ttl, want.dport = insideMAC, serverMAC(server), 63, c.answer.sport
						want.dst = serverIP(server)
						if c.request.src.Is6() {
							want.dst = a4(1).Pools[1].Members[server-1].Addr
						}
						whole := want.build(t)
						if v4 := c.request.src.Is4(); v4 { // the id is the datagram's
							binary.BigEndian.PutUint16(whole[18:], uint16(id-1))
							whole[24], whole[25] = 0, 0
							binary.BigEndian.PutUint16(whole[24:], ^sum16(whole[14:34]))
						}
						if !bytes.Equal(got, whole) {
							t.Fatalf("the request came out as another: %x, want %x", got[:60], whole[:60])
						}
						answer.srcMAC, answer.dstMAC, answer.payload = serverMAC(server), insideMAC, big
						answer.src, answer.dport = want.dst, request.sport
						got = pass(answer, inside, outside)
						back := answer
						back.srcMAC, back.dstMAC, back.ttl, back.src, back.sport = outsideMAC, clientMAC, 63, c.virtual, 53
						whole = back.build(t)
						if c.request.src.Is4() {
							binary.BigEndian.PutUint16(whole[18:], uint16(id-1))
							whole[24], whole[25] = 0, 0
							binary.BigEndian.PutUint16(whole[24:], ^sum16(whole[14:34]))
						}
						if !bytes.Equal(got, whole) {
							t.Fatalf("the answer came out as another: %x, want %x", got[:60], whole[:60])
						}
					}
					s := b.stats()
					if s.Dropped() != 0 || s.Opened != 3 || s.HandedIn != s.HandedOut {
						t.Errorf("%+v", s)
					}
				})
			}
		}
	}
}

// Parts that lead nowhere are dropped by their reason, none keeps a frame for long, and all are back at the end.
func TestFragmentReasons(t *testing.T) {
	b := newBench(t, a4(1), 1000, 2048)
	defer b.close()
	p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 999, dport: 53, udp: true, payload: strings.Repeat("x", 4000)}
	count := func(why Reason, want uint64) {
		t.Helper()
		if n := b.stats().Drops[why]; n != want {
			t.Errorf("%v: %d dropped, want %d", why, n, want)
		}
	}
	// The first part never comes.
	parts := cut(p.build(t), 1, 1400)
	for _, part := range parts[1:] {
		b.send(outside, part)
	}
	count(FragmentTimeout, 0)
	b.now += fragmentTimeout + 1
	b.Step(b.now)
	count(FragmentTimeout, 2)

	// One comes twice, with other bytes: no more of the datagram passes.
	parts = cut(p.build(t), 2, 1400)
	only(t, b.send(outside, parts[0]), inside)
	over := slices.Clone(parts[1])
	binary.BigEndian.PutUint16(over[20:], 0x2000|168)
	over[24], over[25] = 0, 0
	binary.BigEndian.PutUint16(over[24:], ^sum16(over[14:34]))
	b.send(outside, over)
	count(FragmentOverlap, 1)
	b.send(outside, parts[2])
	count(Fragmented, 1)

	// The transport header is not whole, so the rest has no first part either.
	tcp := fromClient(77, "S")
	tcp.payload = strings.Repeat("x", 200)
	tiny := cut(tcp.build(t), 4, 8)
	b.send(outside, tiny[5])
	b.send(outside, tiny[0])
	count(Fragmented, 3)
	b.send(outside, tiny[6])
	count(Fragmented, 4)

	// More than may wait.
	for i := range 2 * fragmentsWaiting {
		b.send(outside, cut(p.build(t), 100+uint32(i), 1400)[1])
	}
	if n := b.stats().Drops[FragmentFull]; n != fragmentsWaiting {
		t.Errorf("%d found no room, want %d", n, fragmentsWaiting)
	}
	// They wait until the end: close audits the frames.
	if n := b.Engine.workers[0].fragments.table.Held(); n != fragmentsWaiting {
		t.Errorf("%d wait", n)
	}
	if snaps, err := b.Snapshots(t.Context()); err != nil || snaps[0].Waiting != fragmentsWaiting || snaps[0].Datagrams < fragmentsWaiting {
		t.Errorf("%d parts of %d datagrams wait, it is said: %v", snaps[0].Waiting, snaps[0].Datagrams, err)
	}
	if s := b.stats(); s.Opened != 1 || s.ToHost != 0 {
		t.Errorf("%+v", s)
	}
}

// Parts of datagrams that are not ours go to the kernel, all of them and unchanged.
func TestFragmentsOfOthers(t *testing.T) {
	b := newBench(t, a4(3), 1000, 1024)
	defer b.close()
	p := packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: serverIP(1), dst: clientIP, sport: 4000, dport: 4001, udp: true, payload: strings.Repeat("x", 9000)}
	parts := cut(p.build(t), 1, 1400)
	slices.Reverse(parts)
	var got [][]byte
	for i, part := range parts {
		got = append(got, b.sendTo(i%3, inside, part)[host]...)
	}
	whole := joined(t, got)
	p.dstMAC = hostMAC
	want := p.build(t)
	binary.BigEndian.PutUint16(want[18:], 1)
	want[24], want[25] = 0, 0
	binary.BigEndian.PutUint16(want[24:], ^sum16(want[14:34]))
	if !bytes.Equal(whole, want) {
		t.Errorf("%x, want %x", whole[:60], want[:60])
	}
}

func TestFragmentsAllocations(t *testing.T) {
	b := newBench(t, a4(1), 1000, 2048)
	defer b.close()
	p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 999, dport: 53, udp: true, payload: strings.Repeat("x", 4000)}
	parts := cut(p.build(t), 1, 1400)
	if n := testing.AllocsPerRun(100, func() {
		for i := range parts { // the last ones first
			b.wire(0, outside).Send(parts[len(parts)-1-i])
			b.Engine.workers[0].step(b.now)
		}
		b.wire(0, inside).Recv(func([]byte) {})
		b.Engine.workers[0].step(b.now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if s := b.stats(); s.ToServer < 300 || s.Dropped() != 0 {
		t.Errorf("%+v", s)
	}
}
