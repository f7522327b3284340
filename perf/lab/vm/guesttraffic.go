package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sluice/perf/lab"
)

// Ports of the virtual servers.
const (
	bulkPort = 9000 // TCP
	echoPort = 5300 // UDP
)

const (
	// moveTime bounds one transfer or echo session.
	moveTime = 4 * time.Minute
	// answerTime is how long an answer to a datagram may take before it is sent again.
	answerTime = 3 * time.Second
	// answerTries bounds how often.
	answerTries = 20
	datagram    = 1400 // bytes of payload
	// echoName is what the echo server puts in front of its answers, with a space.
	echoName = "member"
)

// serve starts a server for transfers and one for datagrams at every member's address.
func (g *guest) serve() error {
	for _, a := range append(members4[:len(members4):len(members4)], members6...) {
		addr := netip.MustParseAddr(a)
		if _, err := lab.TransferServer(g.server, netip.AddrPortFrom(addr, bulkPort).String()); err != nil {
			return err
		}
		if _, err := lab.UDPEcho(g.server, netip.AddrPortFrom(addr, echoPort).String(), echoName); err != nil {
			return err
		}
	}
	return nil
}

// counted counts the payload that a connection has moved.
type counted struct {
	net.Conn
	moved *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.moved.Add(int64(n))
	return n, err
}

// CloseWrite keeps the half-close within reach of lab.Transfer.
func (c counted) CloseWrite() error { return c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// transfers moves size bytes both ways on n TCP connections at once, half of them IPv6, and reports each.
func (g *guest) transfers(ctx context.Context, n int, size int64, moved *atomic.Int64) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { g.report(Record{Move: g.transfer(ctx, i, size, moved)}) })
	}
	wg.Wait()
}

func (g *guest) transfer(ctx context.Context, i int, size int64, moved *atomic.Int64) *Move {
	ctx, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	m := &Move{Protocol: "tcp", Family: 4, Seed: uint64(i), Size: size}
	vip := vip4
	if i%2 == 1 {
		m.Family, vip = 6, vip6
	}
	start := time.Now()
	conn, err := g.client.Dial(ctx, "tcp", netip.AddrPortFrom(vip, bulkPort).String())
	if err != nil {
		m.Error = err.Error()
		return m
	}
	defer conn.Close()
	r, err := lab.Transfer(ctx, counted{conn, moved}, size, m.Seed)
	m.MS = time.Since(start).Milliseconds()
	if m.Sent, m.Received = r.Sent, r.Received; err != nil {
		m.Error = err.Error()
		return m
	}
	m.SentSum, m.ReceivedSum = hex.EncodeToString(r.SentSum[:]), hex.EncodeToString(r.ReceivedSum[:])
	return m
}

// echoes has n clients send datagrams, one after the other, and reports each client.
func (g *guest) echoes(ctx context.Context, n, datagrams int) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { g.report(Record{Move: g.echo(ctx, i, datagrams)}) })
	}
	wg.Wait()
}

// echo sends datagrams of random bytes, numbered by their first byte, and hashes the answers in order. The server's
// digest is that of what it sends back.
func (g *guest) echo(ctx context.Context, i, datagrams int) *Move {
	ctx, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	m := &Move{Protocol: "udp", Family: 4, Seed: uint64(i), Size: int64(datagrams) * datagram}
	vip := vip4
	if i%2 == 1 {
		m.Family, vip = 6, vip6
	}
	start := time.Now()
	conn, err := g.client.Dial(ctx, "udp", netip.AddrPortFrom(vip, echoPort).String())
	if err != nil {
		m.Error = err.Error()
		return m
	}
	defer conn.Close()
	sum := sha256.New()
	for payload := range datagramsOf(m.Seed, datagrams) {
		answer, lost, err := ask(ctx, conn, payload)
		m.Lost += lost
		m.Sent += int64(len(payload))
		if err != nil {
			m.Error = fmt.Sprintf("after %d bytes: %v", m.Received, err)
			break
		}
		sum.Write(answer)
		m.Received += int64(len(answer))
	}
	m.MS = time.Since(start).Milliseconds()
	m.ReceivedSum = hex.EncodeToString(sum.Sum(nil))
	m.SentSum = m.ReceivedSum // an echo: it was received there to come back
	return m
}

// datagramsOf yields the payloads of an echo session, each numbered by its first byte.
func datagramsOf(seed uint64, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		random := rand.NewChaCha8([32]byte{0: byte(seed), 1: 'u'})
		buf := make([]byte, datagram)
		for i := range n {
			random.Read(buf)
			buf[0] = byte(i)
			if !yield(buf) {
				return
			}
		}
	}
}

// ask sends a datagram until its answer comes, and returns the answer without the server's name.
func ask(ctx context.Context, conn net.Conn, payload []byte) (answer []byte, lost int, err error) {
	buf := make([]byte, 65536)
	for lost = range answerTries {
		if _, err := conn.Write(payload); err != nil {
			return nil, lost, err
		}
		deadline := time.Now().Add(answerTime)
		if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
			deadline = d
		}
		if err := conn.SetReadDeadline(deadline); err != nil {
			return nil, lost, err
		}
		for {
			n, err := conn.Read(buf)
			if err != nil {
				break // no answer in time
			}
			a, ok := bytes.CutPrefix(buf[:n], []byte(echoName+" "))
			if ok && len(a) > 0 && a[0] == payload[0] { // else a late answer to an earlier one
				return a, lost, nil
			}
		}
		if ctx.Err() != nil {
			return nil, lost, ctx.Err()
		}
	}
	return nil, lost, fmt.Errorf("no answer to datagram %d, sent %d times", payload[0], answerTries)
}
