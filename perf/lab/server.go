package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Server is a real server running in this process, inside the namespace of a host. The lab closes it.
type Server struct {
	Connections atomic.Int64 // accepted; for UDP always 0
	Requests    atomic.Int64 // HTTP requests, datagrams or transfers
	Errors      atomic.Int64 // transfers that broke off, answers that could not be sent

	addr  net.Addr
	once  sync.Once
	close func() error // stops serving and waits
	err   error
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.addr }

// Close stops the server and cuts its connections. It may be called again.
func (s *Server) Close() error {
	s.once.Do(func() { s.err = s.close() })
	return s.err
}

// HTTPServer answers every request with the identity and a newline. The header X-Server holds the identity, X-Client
// the address and port from which the connection came.
func HTTPServer(h *Host, addr, identity string) (*Server, error) {
	ln, err := h.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{addr: ln.Addr()}
	hs := &http.Server{
		ReadHeaderTimeout: 30 * time.Second,
		// What clients do to their connections is the test's business, not the log's.
		ErrorLog: log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.Connections.Add(1)
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.Requests.Add(1)
			w.Header().Set("X-Server", identity)
			w.Header().Set("X-Client", r.RemoteAddr)
			fmt.Fprintln(w, identity)
		}),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		hs.Serve(ln) // returns http.ErrServerClosed
	}()
	s.close = func() error {
		err := hs.Close()
		<-done
		return err
	}
	return s, h.lab.own(s)
}

// UDPEcho answers every datagram with the identity, one space and the datagram.
func UDPEcho(h *Host, addr, identity string) (*Server, error) {
	pc, err := h.ListenPacket("udp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{addr: pc.LocalAddr()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		prefix := copy(buf, identity+" ")
		for {
			n, from, err := pc.ReadFrom(buf[prefix:])
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case err != nil: // an ICMP error of an earlier answer
				s.Errors.Add(1)
				continue
			}
			s.Requests.Add(1)
			if _, err := pc.WriteTo(buf[:prefix+n], from); err != nil {
				s.Errors.Add(1)
			}
		}
	}()
	s.close = func() error {
		err := pc.Close()
		<-done
		return err
	}
	return s, h.lab.own(s)
}

// TransferServer serves the bulk transfers of Transfer.
func TransferServer(h *Host, addr string) (*Server, error) {
	ln, err := h.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{addr: ln.Addr()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				s.Errors.Add(1)
				time.Sleep(10 * time.Millisecond) // out of descriptors, for instance
				continue
			}
			s.Connections.Add(1)
			wg.Go(func() {
				defer conn.Close()
				if err := serveTransfer(ctx, conn); err != nil {
					s.Errors.Add(1)
					return
				}
				s.Requests.Add(1)
			})
		}
	})
	s.close = func() error {
		cancel()
		err := ln.Close()
		wg.Wait()
		return err
	}
	return s, h.lab.own(s)
}
