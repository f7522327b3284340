package ctl

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// The door bounds connections, so that whoever keeps many, or opens many, takes neither memory nor time that others need:
//
//	accept, at most acceptRate a second ─▶ more than maxGuests? ─▶ close the oldest idle one of who has the most ─▶ http.Server
//
// Whoever holds idle connections therefore loses them, and an operator gets in always.
const (
	maxGuests   = 256
	acceptRate  = 1000 // a second
	acceptBurst = 256

	headerTime  = 5 * time.Second // for a request's header, and for a TLS handshake
	readTime    = 10 * time.Second
	writeTime   = 30 * time.Second // for an answer that is no stream
	idleTime    = time.Minute
	headerBytes = 16 << 10
)

// door is a listener.
type door struct {
	net.Listener
	access *access // nil: nobody is asked who he is
	log    *slog.Logger
	pace   *rate.Limiter
	closed context.Context
	close  context.CancelFunc

	mu     sync.Mutex
	guests map[*guest]bool
	turned uint64 // connections that were closed for others
}

// guest is a connection.
type guest struct {
	net.Conn
	door    *door
	peer    peer
	since   time.Time
	serving atomic.Int32 // requests that are being answered
	trust   trust        // of one over TLS
	once    sync.Once
}

func newDoor(ln net.Listener, a *access, log *slog.Logger) *door {
	d := &door{Listener: ln, access: a, log: log, pace: rate.NewLimiter(acceptRate, acceptBurst), guests: map[*guest]bool{}}
	d.closed, d.close = context.WithCancel(context.Background())
	return d
}

// Accept is net.Listener's.
func (d *door) Accept() (net.Conn, error) {
	for {
		if err := d.pace.Wait(d.closed); err != nil {
			return nil, net.ErrClosed
		}
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		g := &guest{Conn: c, door: d, since: time.Now()}
		if u, ok := c.(*net.UnixConn); ok && d.access != nil {
			if g.peer, err = d.access.local(u); err != nil {
				d.log.Warn("a client was turned away", "reason", err)
				_ = c.Close()
				continue
			}
		} else if host, _, err := net.SplitHostPort(c.RemoteAddr().String()); err == nil {
			g.peer.name = host // until its certificate says more
		}
		if victim := d.admit(g); victim != nil {
			_ = victim.Close()
		}
		return g, nil
	}
}

// Close is net.Listener's.
func (d *door) Close() error {
	d.close()
	return d.Listener.Close()
}

// admit enters a guest and names one that has to go for it, if there are too many; of who has the most, the oldest that is not
// being answered.
func (d *door) admit(g *guest) (victim *guest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guests[g] = true
	if len(d.guests) <= maxGuests {
		return nil
	}
	count := map[string]int{}
	for o := range d.guests {
		if o.serving.Load() == 0 {
			count[o.peer.name]++
		}
	}
	for o := range d.guests {
		if o.serving.Load() != 0 {
			continue
		}
		if victim == nil || count[o.peer.name] > count[victim.peer.name] ||
			count[o.peer.name] == count[victim.peer.name] && o.since.Before(victim.since) {
			victim = o
		}
	}
	delete(d.guests, victim) // there is one: fewer requests have a place (apiguard.go) than there may be guests
	d.turned++
	return victim
}

// Close is net.Conn's.
func (g *guest) Close() error {
	g.once.Do(func() {
		g.door.mu.Lock()
		delete(g.door.guests, g)
		g.door.mu.Unlock()
	})
	return g.Conn.Close()
}

type guestKey struct{}

// server serves h to those who come in by d, with tls if that is not nil.
func (d *door) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, DisableGeneralOptionsHandler: true, ReadHeaderTimeout: headerTime, ReadTimeout: readTime, WriteTimeout: writeTime, IdleTimeout: idleTime, MaxHeaderBytes: headerBytes,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug), // what clients do wrong
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if t, ok := c.(*tls.Conn); ok {
				c = t.NetConn()
			}
			g, ok := c.(*guest)
			if !ok {
				panic(fmt.Sprintf("a connection of type %T has not come by the door", c))
			}
			if d.access != nil && g.peer.role != "" {
				ctx = context.WithValue(ctx, peerKey{}, g.peer)
			}
			return context.WithValue(ctx, guestKey{}, g)
		},
	}
}

// busy keeps the connection of a request until done is called.
func busy(ctx context.Context) (done func()) {
	g, ok := ctx.Value(guestKey{}).(*guest)
	if !ok {
		return func() {}
	}
	g.serving.Add(1)
	return func() { g.serving.Add(-1) }
}
