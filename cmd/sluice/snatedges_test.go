package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/perf/lab"
)

// Through full NAT on the two-arm network: path MTU discovery where a link behind a router on either side is small, datagrams of
// 60,000 bytes in parts, and traceroute, of both families.
func fullNATBed(t *testing.T) *bed {
	t.Helper()
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{})
	b.write(b.fullNATText())
	return b
}

func (b *bed) fullNATText() string {
	text := b.configText(settings{engine: "workers: 2"})
	text = strings.Replace(text, "pools:\n", "snat-pools: [{name: out, addresses: [192.168.20.200, \"fd00:192:168:20::200\"]}]\npools:\n", 1)
	return strings.ReplaceAll(text, "protocol:", "mode: fullnat, snat: out, protocol:")
}

func TestFullNATPathMTU(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			b := fullNATBed(t)
			client, listener, servers := b.Client, b.Servers[0], []netip.Addr{b.ServerAddr4[0], b.ServerAddr6[0]}
			if side == "client" {
				client = must(b.BehindClient(1280))(t).Far
			} else {
				far := must(b.BehindServer(1280))(t)
				text := b.fullNATText()
				for i, a := range []netip.Addr{far.Addr4, far.Addr6} {
					text = strings.Replace(text, `"`+servers[i].String()+`"`, `"`+a.String()+`"`, 1)
					servers[i] = a
				}
				b.write(text)
				listener = far.Far
			}
			b.before = b.hostState(false)
			for i := range servers {
				must(lab.TransferServer(listener, netip.AddrPortFrom(servers[i], bulkPort).String()))(t)
			}
			d := b.start()
			for i, vip := range b.vips(bulkPort) {
				before := b.totals()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				conn := must(client.Dial(ctx, "tcp", vip.String()))(t)
				_, err := lab.Transfer(ctx, conn, 4<<20, uint64(i))
				conn.Close()
				cancel()
				after := b.totals()
				if err != nil {
					t.Fatalf("%s: %v\ndropped: %v, %+v", vip, err, b.drops(), after)
				}
				if after.ICMPErrors == before.ICMPErrors {
					t.Errorf("%s: no ICMP error was translated", vip)
				}
			}
			d.stop()
		})
	}
}

// As the kernel sends them, and as the network may: the parts of what the client sends are cut here and sent in other orders.
func TestFullNATLargeDatagrams(t *testing.T) {
	b := fullNATBed(t)
	b.serve(dnsPort, func(h *lab.Host, addr, identity string) (*lab.Server, error) { return lab.UDPEcho(h, addr, identity) })
	d := b.start()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const rounds, size = 6, 60_000
	for f, vip := range b.vips(dnsPort) {
		conn := must(b.Client.Dial(t.Context(), "udp", vip.String()))(t)
		defer conn.Close()
		ok(t, conn.(*net.UDPConn).SetReadBuffer(4<<20))
		raw := rawIP(t, b.Client, vip.Addr())
		for _, order := range []string{"in order", "reversed", "shuffled"} {
			lost := 0
			for round := range rounds {
				said := make([]byte, size)
				for i := range said {
					said[i] = byte(rnd.Uint32())
				}
				if order == "in order" {
					if _, err := conn.Write(said); err != nil {
						t.Fatal(err)
					}
				} else {
					from := conn.LocalAddr().(*net.UDPAddr).AddrPort()
					parts := datagramParts(from, vip, said, uint32(1000*f+100*len(order)+round))
					if order == "reversed" {
						slices.Reverse(parts)
					} else {
						rnd.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
					}
					for _, part := range parts {
						ok(t, raw(part))
					}
				}
				_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
				got := make([]byte, 1<<16)
				n, err := conn.Read(got)
				if err != nil {
					lost++ // a ring that is full for a moment costs a datagram
				} else if n <= size || !bytes.Equal(got[n-size:n], said) {
					t.Errorf("%s, %s: %d bytes came back, other ones", vip, order, n)
				}
			}
			if lost > rounds/2 {
				t.Errorf("%s, %s: %d of %d datagrams were lost; dropped %v", vip, order, lost, rounds, b.drops())
			}
		}
	}
	if s := b.totals(); s.ToHost != 0 || s.ToServer < 6*rounds/2*40 || s.ToClient < 6*rounds/2*40 {
		t.Errorf("%+v, dropped %v", s, b.drops())
	}
	d.stop()
}

// rawIP opens a socket for whole IP packets.
func rawIP(t testing.TB, h *lab.Host, to netip.Addr) func(packet []byte) error {
	t.Helper()
	family := unix.AF_INET
	if to.Is6() {
		family = unix.AF_INET6
	}
	fd := -1
	ok(t, h.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	}))
	t.Cleanup(func() { unix.Close(fd) })
	var at unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte(to.AsSlice()[:4])}
	if to.Is6() {
		at = &unix.SockaddrInet6{Addr: to.As16()}
	}
	return func(packet []byte) error { return unix.Sendto(fd, packet, 0, at) }
}

// datagramParts are the IP packets that carry a UDP datagram in parts of 1,400 bytes.
func datagramParts(from, to netip.AddrPort, payload []byte, id uint32) (parts [][]byte) {
	be := func(v int) []byte { return []byte{byte(v >> 8), byte(v)} }
	udp := slices.Concat(be(int(from.Port())), be(int(to.Port())), be(8+len(payload)), []byte{0, 0}, payload)
	pseudo := slices.Concat(from.Addr().AsSlice(), to.Addr().AsSlice(), []byte{0, 17}, be(len(udp)), udp)
	sum := internetChecksum(pseudo)
	if sum == 0 {
		sum = 0xffff
	}
	udp[6], udp[7] = byte(sum>>8), byte(sum)
	const size = 1400
	for at := 0; at < len(udp); at += size {
		data := udp[at:min(at+size, len(udp))]
		more := at+size < len(udp)
		if from.Addr().Is4() {
			field := at / 8
			if more {
				field |= 0x2000
			}
			h := slices.Concat([]byte{0x45, 0}, be(20+len(data)), be(int(id)), be(field), []byte{64, 17, 0, 0}, from.Addr().AsSlice(), to.Addr().AsSlice())
			parts = append(parts, append(h, data...)) // the kernel fills in the checksum
			continue
		}
		field := at
		if more {
			field |= 1
		}
		h := slices.Concat([]byte{0x60, 0, 0, 0}, be(8+len(data)), []byte{44, 64}, from.Addr().AsSlice(), to.Addr().AsSlice(), []byte{17, 0}, be(field), be(int(id>>16)), be(int(id)))
		parts = append(parts, append(h, data...))
	}
	return parts
}

// The engine is a hop of traceroute, and the member the next: it says that nobody listens at its port, and the client hears that
// from the virtual address.
func TestFullNATTraceroute(t *testing.T) {
	b := fullNATBed(t)
	d := b.start()
	for i, vip := range b.vips(dnsPort) {
		level, option, recverr := unix.IPPROTO_IP, unix.IP_TTL, unix.IP_RECVERR
		hop := b.Outside4
		if i == 1 {
			level, option, recverr = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_RECVERR
			hop = b.Outside6
		}
		conn := must(b.Client.Dial(t.Context(), "udp", vip.String()))(t)
		defer conn.Close()
		raw := must(conn.(syscall.Conn).SyscallConn())(t)
		set := func(option, n int) {
			t.Helper()
			var err error
			ok(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, n) }))
			ok(t, err)
		}
		set(recverr, 1)
		for ttl, want := range []netip.Addr{hop, vip.Addr()} {
			set(option, ttl+1)
			if _, err := conn.Write([]byte("how far")); err != nil {
				t.Fatal(err)
			}
			if from := offender(t, raw, level); from != want {
				t.Errorf("%s: hop %d is %s, want %s", vip, ttl+1, from, want)
			}
		}
	}
	if s := b.totals(); s.ICMPSent != 2 || s.ICMPErrors != 2 || s.Dropped != 0 {
		t.Errorf("%+v, dropped %v", s, b.drops())
	}
	d.stop()
}

// offender waits for an ICMP error on a socket and says who sent it (ip(7), IP_RECVERR).
func offender(t testing.TB, raw syscall.RawConn, level int) (from netip.Addr) {
	t.Helper()
	eventually(t, "an ICMP error", func() bool {
		oob := make([]byte, 512)
		n := 0
		_ = raw.Control(func(fd uintptr) {
			_, n, _, _, _ = unix.Recvmsg(int(fd), make([]byte, 512), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		})
		list, _ := unix.ParseSocketControlMessage(oob[:max(n, 0)])
		for _, m := range list {
			if int(m.Header.Level) != level {
				continue
			}
			// struct sock_extended_err has 16 bytes; the address of who sent the error follows.
			switch {
			case level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR && len(m.Data) >= 24:
				from, _ = netip.AddrFromSlice(m.Data[20:24])
			case level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR && len(m.Data) >= 40:
				from, _ = netip.AddrFromSlice(m.Data[24:40])
			}
		}
		return from.IsValid()
	})
	return from
}
