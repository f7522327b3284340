package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDialErrors(t *testing.T) {
	l := open(t)
	a, _ := pair(t, l)
	for _, c := range []struct {
		network, addr string
		want          error
		limit         time.Duration
	}{
		{"tcp", "10.0.0.2:1", unix.ECONNREFUSED, time.Minute},
		{"tcp", "[fd00::2]:1", unix.ECONNREFUSED, time.Minute},
		{"tcp", "192.0.2.1:1", unix.ENETUNREACH, time.Minute},
		{"tcp", "10.0.0.9:1", context.DeadlineExceeded, 300 * time.Millisecond}, // nobody answers ARP; the kernel gives up after 3 s
	} {
		ctx, cancel := context.WithTimeout(context.Background(), c.limit)
		conn, err := a.Dial(ctx, c.network, c.addr)
		if !errors.Is(err, c.want) {
			t.Errorf("dial %s: %v %v, want %v", c.addr, conn, err, c.want)
		}
		cancel()
	}
	for _, c := range [][2]string{{"tcp", "localhost:1"}, {"tcp4", "[fd00::2]:1"}, {"tcp6", "10.0.0.2:1"}, {"unix", "10.0.0.2:1"}, {"tcp", "[fe80::1%eth0]:1"}} {
		if conn, err := a.Dial(context.Background(), c[0], c[1]); err == nil {
			t.Errorf("dial %s: %v", c, conn)
		}
	}
	if _, err := a.Listen("udp", "10.0.0.1:1"); err == nil {
		t.Error("listen udp succeeds")
	}
	if _, err := a.ListenPacket("udp", "10.9.9.9:1"); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("listen on a foreign address: %v", err)
	}
}

func TestDialFrom(t *testing.T) {
	l := open(t)
	a, b := pair(t, l)
	ok(t, a.Addr("eth0", "10.0.0.77/24"))
	ln := must(b.Listen("tcp", ":7000"))(t)
	defer ln.Close()
	for _, c := range []struct{ local, remote string }{
		{"10.0.0.77:4003", "10.0.0.2:7000"}, {"10.0.0.77:0", "10.0.0.2:7000"}, {"[fd00::1]:4003", "[fd00::2]:7000"},
	} {
		local := netip.MustParseAddrPort(c.local)
		conn := must(a.DialFrom(context.Background(), "tcp", local, c.remote))(t)
		peer := must(ln.Accept())(t)
		got := peer.RemoteAddr().(*net.TCPAddr).AddrPort()
		if got.Addr().Unmap() != local.Addr() || local.Port() != 0 && got.Port() != local.Port() {
			t.Errorf("connection from %s, want %s", got, local)
		}
		conn.Close()
		peer.Close()
	}
}

// Thousands of connections, many at once, none from another namespace: the server sees the client's address only.
func TestManyConnections(t *testing.T) {
	l := open(t)
	a, b := pair(t, l)
	const workers, each = 16, 250
	s := must(HTTPServer(b, "10.0.0.2:80", "x"))(t)
	var wg sync.WaitGroup
	start := time.Now()
	for range workers {
		wg.Go(func() {
			client := a.HTTPClient(false)
			for range each {
				resp, err := client.Get("http://10.0.0.2")
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if from := resp.Header.Get("X-Client"); err != nil || string(body) != "x\n" || !strings.HasPrefix(from, "10.0.0.1:") {
					t.Errorf("%q %v from %s", body, err, from)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d connections in %s", workers*each, time.Since(start))
	if s.Connections.Load() != workers*each || s.Requests.Load() != workers*each {
		t.Errorf("%d connections, %d requests, want %d", s.Connections.Load(), s.Requests.Load(), workers*each)
	}
}

func TestTransfer(t *testing.T) {
	l := open(t)
	a, b := pair(t, l)
	s := must(TransferServer(b, "10.0.0.2:9000"))(t)
	sizes := []int64{0, 1, transferChunk, transferChunk + 1, 256 << 20}
	if testing.Short() {
		sizes[len(sizes)-1] = 16 << 20
	}
	for _, n := range sizes {
		conn := must(a.Dial(context.Background(), "tcp", "10.0.0.2:9000"))(t)
		r, err := Transfer(context.Background(), conn, n, 42)
		if err != nil || r.Sent != n || r.Received != n || n > 0 && r.SentSum == r.ReceivedSum {
			t.Errorf("%d bytes: %+v %v", n, r, err)
		}
		conn.Close()
		t.Logf("%d bytes each way in %s", n, r.Elapsed)
	}
	eventually(t, "all transfers counted", func() bool { return s.Requests.Load() == int64(len(sizes)) })
	if s.Errors.Load() != 0 {
		t.Errorf("%d errors", s.Errors.Load())
	}
}

func TestTransferEnds(t *testing.T) {
	l := open(t)
	a, b := pair(t, l)
	s := must(TransferServer(b, "10.0.0.2:9000"))(t)
	conn := must(a.Dial(context.Background(), "tcp", "10.0.0.2:9000"))(t)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := Transfer(ctx, conn, 1<<40, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("transfer past its context: %v", err)
	}
	// A server that goes away is an error, at once.
	conn2 := must(a.Dial(context.Background(), "tcp", "10.0.0.2:9000"))(t)
	defer conn2.Close()
	time.AfterFunc(100*time.Millisecond, func() { s.Close() })
	if r, err := Transfer(context.Background(), conn2, 1<<40, 1); err == nil {
		t.Errorf("transfer with a closed server: %+v", r)
	}
}

// The check of a transfer finds a wrong byte and says where, in either direction.
func TestTransferFindsCorruption(t *testing.T) {
	for _, c := range []struct {
		upload bool
		at     int
		want   string
	}{{false, 1000, "byte 1000 is"}, {true, 16 + 1000, "the server received SHA-256"}} {
		client, server := tcpPair(t)
		go serveTransfer(context.Background(), flip{server, c.upload, c.at, new(int)})
		_, err := Transfer(context.Background(), client, 5000, 3)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("upload %v: %v, want %q", c.upload, err, c.want)
		}
	}
}

// flip changes one byte of what the server reads (upload) or writes.
type flip struct {
	*net.TCPConn
	upload bool
	at     int
	seen   *int
}

func (f flip) corrupt(p []byte) []byte {
	if i := f.at - *f.seen; i >= 0 && i < len(p) {
		p[i] ^= 1
	}
	*f.seen += len(p)
	return p
}

func (f flip) Read(p []byte) (int, error) {
	n, err := f.TCPConn.Read(p)
	if f.upload {
		f.corrupt(p[:n])
	}
	return n, err
}

func (f flip) Write(p []byte) (int, error) {
	if !f.upload {
		p = f.corrupt(bytes.Clone(p))
	}
	return f.TCPConn.Write(p)
}

// tcpPair is a connection over the loopback of this machine, so that the test needs no root.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	ln := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer ln.Close()
	a = must(net.Dial("tcp", ln.Addr().String()))(t).(*net.TCPConn)
	b = must(ln.Accept())(t).(*net.TCPConn)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}
