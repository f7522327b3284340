package link

import (
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// echo answers on all addresses of the servers until the result is called.
func (b *bed) echo(proto string) (stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	for _, a := range b.ServerAddr4 {
		start := b.echoDatagrams
		if proto == "tcp" {
			start = b.echoStreams
		}
		end, err := start(a)
		if err != nil {
			return nil, err
		}
		stops = append(stops, end)
	}
	return stop, nil
}

func (b *bed) echoDatagrams(a netip.Addr) (stop func(), err error) {
	c, err := b.Servers.ListenPacket("udp", netip.AddrPortFrom(a, udpPort).String())
	if err != nil {
		return nil, err
	}
	fd, err := plainSocket(c.(*net.UDPConn))
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if b.ownThread() == nil {
			returnDatagrams(fd)
		}
	}()
	return func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // ENOTCONN, and the wait ends
		<-done
		unix.Close(fd)
	}, nil
}

func (b *bed) echoStreams(a netip.Addr) (stop func(), err error) {
	l, err := b.Servers.Listen("tcp", netip.AddrPortFrom(a, tcpPort).String())
	if err != nil {
		return nil, err
	}
	open := &streams{open: map[int]bool{}}
	open.Add(1)
	go func() {
		defer open.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if fd, err := plainSocket(c.(*net.TCPConn)); err == nil && open.add(fd) {
				go func() {
					defer open.done(fd)
					_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
					if b.ownThread() == nil {
						returnStream(fd)
					}
				}()
			}
		}
	}()
	return func() {
		l.Close()
		open.end()
	}, nil
}

// streams are the connections of an echo server.
type streams struct {
	sync.WaitGroup
	mu    sync.Mutex
	open  map[int]bool
	ended bool
}

// add reports whether the connection is to be answered; else it is closed.
func (s *streams) add(fd int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		unix.Close(fd)
		return false
	}
	s.open[fd] = true
	s.Add(1)
	return true
}

func (s *streams) done(fd int) {
	s.mu.Lock()
	delete(s.open, fd)
	unix.Close(fd)
	s.mu.Unlock()
	s.Done()
}

func (s *streams) end() {
	s.mu.Lock()
	s.ended = true
	for fd := range s.open {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // and its wait ends
	}
	s.mu.Unlock()
	s.Wait()
}
