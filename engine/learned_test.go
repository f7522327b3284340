package engine

import (
	"net"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// Answers follow a client to another MAC address on the word of a packet that proves to be its own: by its place in the window, or by its
// tag. What is guessed does not draw them away, nor does a datagram, which proves nothing, nor an ICMP error.
func TestLearnedMAC(t *testing.T) {
	b := newBench(t, everything(1), 100, 1024)
	defer b.close()
	other := net.HardwareAddr{2, 0, 0, 0, 0x66, 0x66}
	for _, proto := range []uint8{6, 17, 132} {
		client := anyWire{from: clientMAC, to: outsideMAC, src: clientIP, dst: vip, sport: 4003, dport: 80, proto: proto, ttl: 64}
		if proto == 132 { // a DATA chunk
			client.chunks = []byte{0, 3, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}
		}
		c := connection{client: client}
		number := func(p anyWire, side int) anyWire { c.number(&p, side); return p }
		got := only(t, b.send(outside, number(client, 0).frames(t)[0]), inside)
		_, mac, _, dst, _, dport := client.readWire(t, got)
		server := anyWire{from: mac, to: insideMAC, src: dst, dst: clientIP, sport: dport, dport: 4003, proto: proto, ttl: 64}
		answersTo := func(what string, want net.HardwareAddr) {
			t.Helper()
			if _, to, _, _, _, _ := server.readWire(t, only(t, b.send(inside, number(server, 1).frames(t)[0]), outside)); to.String() != want.String() {
				t.Errorf("protocol %d, %s: the answer goes to %s", proto, what, to)
			}
		}
		answersTo("at first", clientMAC)
		b.send(outside, number(client, 0).frames(t)[0])
		answersTo("open", clientMAC)
		forged := client
		forged.from = other
		forged.tcp = layers.TCP{ACK: true, Seq: c.next[0] + 1<<29, Ack: c.next[1], Window: 1000}
		if proto == 132 {
			forged.tcp.Seq = 12345678
		}
		b.send(outside, forged.frames(t)[0])
		answersTo("after what is not the client's", clientMAC)
		quoted := server
		quoted.src, quoted.sport, quoted.ttl = vip, 80, 63
		c.number(&quoted, 1)
		b.send(outside, about(t, other, outsideMAC, clientIP, vip, 64, 3, 3, 0, quoted.whole(t)))
		answersTo("after an ICMP error", clientMAC)
		moved := client
		moved.from = other
		b.send(outside, number(moved, 0).frames(t)[0])
		want := other
		if proto == 17 {
			want = clientMAC
		}
		answersTo("after the client's own word", want)
	}
}
