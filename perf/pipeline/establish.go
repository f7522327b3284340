package pipeline

import (
	"fmt"

	"sluice/flow"
	"sluice/rings"
)

// establish opens every connection by the packets of a real one: a handshake, or a request and its answer. Where the
// engine sent the first packet to says what the server answers from. The engine must not be running.
//
// The clock goes on by a minute while they are opened, so that their timers are spread as those of traffic that comes
// all the time, and each connection is then seen once more, so that none ends.
//
// between, if given, is told now and then how many are open, and ends the work by an error.
func (b *bed) establish(between func(done int) error) error {
	b.answers = make([]tuple, b.connections)
	const spread = 59_000 // milliseconds: the idle time of UDP, nearly
	began := b.clock.base.Load()
	for from := 0; from < b.connections; from += burst {
		n := min(burst, b.connections-from)
		b.clock.base.Store(began + spread*int64(from)/int64(b.connections))
		if err := b.open(uint32(from), n); err != nil {
			return err
		}
		if err := paused(between, from, from); err != nil {
			return err
		}
	}
	b.clock.base.Store(began + spread)
	for from := 0; from < b.connections; from += burst {
		n := min(burst, b.connections-from)
		if err := b.touch(uint32(from), n); err != nil {
			return err
		}
		if err := paused(between, from, b.connections); err != nil {
			return err
		}
	}
	for _, fs := range b.feeds {
		for _, f := range fs { // what was forwarded until now is not of the measurement
			f.lane.sent, f.lane.received = 0, 0
		}
	}
	return nil
}

// pause is how many connections lie between two calls of what establish is given.
const pause = 1 << 14

func paused(between func(int) error, at, done int) error {
	if between == nil || at%pause != 0 {
		return nil
	}
	return between(done)
}

// open opens connections [from, from+n), at most a burst.
func (b *bed) open(from uint32, n int) error {
	owners := b.ownersOf(from, n)
	all := func(int) bool { return true }
	isTCP := func(i int) bool { return (from+uint32(i))&1 == 0 }
	answered := 0
	b.deliver(outside, owners, all, func(i int, head []byte) { b.first(head, from+uint32(i), uint16(i)) })
	b.collect(inside, func(frame []byte) {
		if b.mode.tunnel {
			frame = uncover(frame)
		}
		t, id := readHead(frame)
		if int(id) < n {
			b.answers[from+uint32(id)] = t.reversed()
			answered++
		}
	})
	if answered != n {
		return fmt.Errorf("%d of the connections from %d on were not opened", n-answered, from)
	}
	if !b.mode.oneSided {
		b.deliver(inside, owners, all, func(i int, head []byte) {
			b.answer(head, from+uint32(i), segment{flags: flow.FlagSYN | flow.FlagACK, seq: serverISN, ack: clientISN + 1}, b.smallest(from+uint32(i)))
		})
		if got := b.collect(outside, nil); got != n {
			return fmt.Errorf("%d of the connections from %d on were not answered", n-got, from)
		}
	}
	b.deliver(outside, owners, isTCP, func(i int, head []byte) { b.request(head, from+uint32(i), b.smallest(from+uint32(i))) })
	if got, want := b.collect(inside, nil), (n+1)/2; got != want {
		return fmt.Errorf("%d of the connections from %d on were not established", want-got, from)
	}
	for i, o := range owners {
		b.owned[o] = append(b.owned[o], from+uint32(i))
	}
	return nil
}

// touch sends a packet each way on connections [from, from+n).
func (b *bed) touch(from uint32, n int) error {
	owners := b.ownersOf(from, n)
	all := func(int) bool { return true }
	b.deliver(outside, owners, all, func(i int, head []byte) { b.request(head, from+uint32(i), b.smallest(from+uint32(i))) })
	got := b.collect(inside, nil)
	if b.mode.oneSided {
		if got != n {
			return fmt.Errorf("%d of %d packets of the connections from %d on were not forwarded", n-got, n, from)
		}
		return nil
	}
	b.deliver(inside, owners, all, func(i int, head []byte) { b.reply(head, from+uint32(i), b.smallest(from+uint32(i))) })
	if got += b.collect(outside, nil); got != 2*n {
		return fmt.Errorf("%d of %d packets of the connections from %d on were not forwarded", 2*n-got, 2*n, from)
	}
	return nil
}

// ownersOf is where a NIC delivers what belongs to connections [from, from+n).
func (b *bed) ownersOf(from uint32, n int) []int {
	owners := make([]int, n)
	if b.workers == 1 {
		return owners
	}
	for i := range owners {
		k := b.flowKey(from + uint32(i))
		owners[i] = b.engine.Config().Owner(&k, 0)
	}
	return owners
}

// deliver gives packets to a port, each to its worker, and lets the engine work on them.
func (b *bed) deliver(port int, owners []int, which func(i int) bool, write func(i int, head []byte)) {
	var heads [burst * rings.LongHeadLen]byte
	size := b.headLen()
	var lengths [burst]uint16
	for w := range b.feeds {
		n := 0
		for i, o := range owners {
			if o != w || !which(i) {
				continue
			}
			head := heads[n*size : (n+1)*size]
			write(i, head)
			lengths[n] = b.mode.tag(port, head, sentLen(head))
			n++
		}
		b.feeds[w][port].wire.SendHeads(heads[:], size, lengths[:n])
	}
	// Flush takes packets off the wire as they are sent; while connections are opened they are looked at first.
	b.hold(true)
	b.engine.Step(b.clock.now())
	b.hold(false)
}

func (b *bed) hold(on bool) {
	for _, fs := range b.feeds {
		for _, f := range fs {
			f.hold = on
		}
	}
}

// collect takes what the engine has sent on a port.
func (b *bed) collect(port int, f func(frame []byte)) (n int) {
	for w := range b.feeds {
		n += b.feeds[w][port].wire.Recv(f)
	}
	return n
}

// first is the first packet of the client of connection i.
func (b *bed) first(head []byte, i uint32, id uint16) {
	t, proto := b.tuple(i)
	writeHead(head, outsideMAC, clientMAC, t, segment{proto: proto, v6: b.isV6(i), flags: flow.FlagSYN, seq: clientISN, id: id}, b.smallest(i))
}

// request is a packet of the client of connection i, an IP packet of n bytes.
func (b *bed) request(head []byte, i uint32, n int) {
	t, proto := b.tuple(i)
	writeHead(head, outsideMAC, clientMAC, t, segment{proto: proto, v6: b.isV6(i), flags: flow.FlagACK, seq: clientISN + 1, ack: serverISN + 1}, n)
}

// reply is a packet of the server.
func (b *bed) reply(head []byte, i uint32, n int) {
	b.answer(head, i, segment{flags: flow.FlagACK, seq: serverISN + 1, ack: clientISN + 1}, n)
}

func (b *bed) answer(head []byte, i uint32, s segment, n int) {
	_, s.proto = b.tuple(i)
	s.v6 = b.isV6(i)
	writeHead(head, insideMAC, serverMAC, b.answers[i], s, n)
}
