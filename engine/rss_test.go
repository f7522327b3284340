package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"testing"
)

// microsoftKey and the vectors are those of Microsoft's "Verifying the RSS Hash Calculation".
var microsoftKey = []byte{
	0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
	0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
}

// modelHash is the definition taken literally: a register of the whole key, shifted by a bit for each bit of input.
func modelHash(key, input []byte) uint32 {
	register := append([]byte(nil), key...)
	var out [4]byte
	for _, b := range input {
		for bit := 7; bit >= 0; bit-- {
			if b>>bit&1 == 1 {
				for i := range out {
					out[i] ^= register[i]
				}
			}
			for i := range register {
				register[i] <<= 1
				if i+1 < len(register) {
					register[i] |= register[i+1] >> 7
				}
			}
		}
	}
	return binary.BigEndian.Uint32(out[:])
}

func TestRSSHash(t *testing.T) {
	for _, c := range []struct {
		src, dst     string
		ip, withPort uint32
	}{
		{"66.9.149.187:2794", "161.142.100.80:1766", 0x323e8fc2, 0x51ccc178},
		{"199.92.111.2:14230", "65.69.140.83:4739", 0xd718262a, 0xc626b0ea},
		{"24.19.198.95:12898", "12.22.207.184:38024", 0xd2d0a5de, 0x5c2b394a},
		{"38.27.205.30:48228", "209.142.163.6:2217", 0x82989176, 0xafc7327f},
		{"153.39.163.191:44251", "202.188.127.2:1303", 0x5d1809c5, 0x10e828a2},
		{"[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x2cc18cd5, 0x40207d3d},
		{"[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0x0f0c461c, 0xdde51bbf},
		{"[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251", "[fe80::200:f8ff:fe21:67cf]:38024", 0x4b61e985, 0x02d1feef},
	} {
		src, dst := netip.MustParseAddrPort(c.src), netip.MustParseAddrPort(c.dst)
		addrs := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
		all := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(bytes.Clone(addrs), src.Port()), dst.Port())
		for name, hash := range map[string]func(key, input []byte) uint32{"RSSHash": RSSHash, "the model": modelHash} {
			if a, b := hash(microsoftKey, addrs), hash(microsoftKey, all); a != c.ip || b != c.withPort {
				t.Errorf("%s of %s > %s: %08x %08x, want %08x %08x", name, c.src, c.dst, a, b, c.ip, c.withPort)
			}
		}
	}
	for _, n := range []int{40, 52} {
		if key := RSSKey(n); len(key) != n || binary.BigEndian.Uint16(key) != toeplitzKey || !bytes.Equal(key[:n-2], key[2:]) {
			t.Errorf("key of %d bytes: %x", n, key)
		}
	}
}

// Fields of a packet that a NIC may hash, in the letters of ethtool.
type modelFields struct{ s, d, f, n bool }

// modelNIC picks the queue of a frame as hardware does, from its bytes alone.
type modelNIC struct {
	key    []byte
	table  []uint32
	fields modelFields
}

func (m *modelNIC) hash(frame []byte) uint32 {
	src, dst, l4 := frame[26:30], frame[30:34], frame[34:]
	if binary.BigEndian.Uint16(frame[12:]) == 0x86dd {
		src, dst, l4 = frame[22:38], frame[38:54], frame[54:]
	}
	var input []byte
	for _, f := range []struct {
		on    bool
		bytes []byte
	}{{m.fields.s, src}, {m.fields.d, dst}, {m.fields.f, l4[:2]}, {m.fields.n, l4[2:4]}} {
		if f.on {
			input = append(input, f.bytes...)
		}
	}
	return modelHash(m.key, input)
}

func (m *modelNIC) queue(frame []byte) int { return int(m.table[int(m.hash(frame))&(len(m.table)-1)]) }

// modelClients are connections of both protocols and both families.
func modelClients(n int) (out []packet) {
	for i := range n {
		p := fromClient(uint16(1024+977*i), "S")
		p.src = netip.AddrFrom4([4]byte{10, byte(i * 7), byte(i * 31), byte(i*13 + 1)})
		if i&2 != 0 {
			p.dst = vip6
			a := clientIP6.As16()
			binary.BigEndian.PutUint64(a[6:], uint64(i)*0x9e3779b97f4a7c15)
			p.src = netip.AddrFrom16(a)
		}
		if i&1 != 0 {
			p.udp, p.dport = true, 53
		}
		out = append(out, p)
	}
	return out
}

// passThrough has connections opened, answered and continued through NICs, and returns how many packets the model says
// arrive at another worker than their owner, and how many there were.
func passThrough(t *testing.T, bn *bench, nic [2]*modelNIC, clients []packet) (strays, packets uint64) {
	owner := &modelNIC{key: nic[0].key, table: nic[0].table, fields: modelFields{s: true, f: true}} // by the client's end
	deliver := func(port int, frame []byte, by int) (out [3][][]byte) {
		queue := nic[port].queue(frame)
		packets++
		if queue != by {
			strays++
		}
		return bn.sendTo(queue, port, frame)
	}
	for i, p := range clients {
		syn := p.build(t)
		by := owner.queue(syn)
		out := deliver(outside, syn, by)[inside]
		if len(out) != 1 {
			t.Fatalf("client %d: %d packets to members", i, len(out))
		}
		a := packet{srcMAC: serverMAC(1), dstMAC: insideMAC, dst: p.src, dport: p.sport, udp: p.udp, flags: "SA", seq: 9000, ack: 1001}
		f := out[0]
		if p.src.Is6() {
			a.src, a.sport = netip.AddrFrom16([16]byte(f[38:54])), binary.BigEndian.Uint16(f[56:])
		} else {
			a.src, a.sport = netip.AddrFrom4([4]byte(f[30:34])), binary.BigEndian.Uint16(f[36:])
		}
		if got := deliver(inside, a.build(t), by)[outside]; len(got) != 1 {
			t.Fatalf("client %d: %d answers", i, len(got))
		}
		p.flags, p.seq, p.ack = "A", 1001, 9001
		if got := deliver(outside, p.build(t), by)[inside]; len(got) != 1 {
			t.Fatalf("client %d: not continued", i)
		}
	}
	return strays, packets
}

// A NIC that hashes the client's end with our key, through our table, leaves nothing to be handed over.
func TestSteeredNothingIsHandedOver(t *testing.T) {
	for workers := 1; workers <= 8; workers++ {
		for _, size := range []int{64, 128, 256, 512} {
			t.Run(fmt.Sprintf("workers=%d/table=%d", workers, size), func(t *testing.T) {
				spec := a4(workers)
				spec.RSSTableSize = size
				bn := newBench(t, spec, 256, 1024)
				defer bn.close()
				key, table := RSSKey(40), bn.Config().RSSTable(size, workers)
				nic := [2]*modelNIC{{key, table, modelFields{s: true, f: true}}, {key, table, modelFields{d: true, n: true}}}
				strays, packets := passThrough(t, bn, nic, modelClients(48))
				s := bn.stats()
				if strays != 0 || s.HandedOut != 0 || s.HandedIn != 0 || s.RxPackets != packets || s.Opened != 48 {
					t.Errorf("%d handed over, the model says %d; %d packets of %d received, %d connections", s.HandedOut, strays, s.RxPackets, packets, s.Opened)
				}
				snaps, err := bn.Snapshots(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range snaps { // and every worker has its part
					if n.RxPackets == 0 {
						t.Errorf("worker %d received nothing", n.Worker)
					}
				}
			})
		}
	}
}

// A NIC that hashes all four fields, as some can do nothing else, delivers at random: all but one of so many are handed over,
// exactly those that the model says.
func TestFourFieldsAreHandedOver(t *testing.T) {
	all := modelFields{true, true, true, true}
	for workers := 1; workers <= 8; workers++ {
		bn := newBench(t, a4(workers), 512, 1024)
		key, table := RSSKey(40), bn.Config().RSSTable(256, workers)
		strays, packets := passThrough(t, bn, [2]*modelNIC{{key, table, all}, {key, table, all}}, modelClients(120))
		got := bn.stats().HandedOut
		n, p := float64(packets), 1-1/float64(workers)
		if got != strays || math.Abs(float64(got)-n*p) > 5*math.Sqrt(3*n*p*(1-p)) { // three packets of a connection go together
			t.Errorf("%d workers: %d of %d handed over, the model says %d, theory %.0f", workers, got, packets, strays, n*p)
		}
		bn.close()
	}
}

// The table leads every bin to a queue of its owner, if that has one, and uses all queues alike.
func TestRSSTable(t *testing.T) {
	for workers := 1; workers <= 8; workers++ {
		for queues := 1; queues <= 16; queues++ {
			spec := a4(workers)
			cfg, err := NewConfig(spec, NewDictionary())
			if err != nil {
				t.Fatal(err)
			}
			used := make([]int, queues)
			for i, q := range cfg.RSSTable(256, queues) {
				owner := int(cfg.owners.worker[i])
				if owner < queues && int(q)%workers != owner {
					t.Fatalf("%d workers, %d queues: bin %d of worker %d is on queue %d", workers, queues, i, owner, q)
				}
				used[q]++
			}
			for q, n := range used {
				if queues >= workers && n == 0 || n > 256 {
					t.Errorf("%d workers, %d queues: queue %d is in %d entries", workers, queues, q, n)
				}
			}
		}
	}
}
