package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"sluice/perf/gen"
	"sluice/perf/lab"
	"sluice/perf/result"
)

// Options are those of all scenarios. The zero value of a list means all there is.
type Options struct {
	Program  string // the sluice to measure
	Runs     int
	Quick    bool
	Carriers []string
	Progress *result.Progress
	// Cores of the generator and of the carrier.
	GeneratorCore, CarrierCore int
	Window                     time.Duration // of one sample
	Install                    bool          // Debian packages that are missing
	Verify                     bool          // checksums at the far ends; slower
}

const (
	servers = 4
	udpPort = 53
	tcpPort = 80

	// workerNice is the priority of the carrier under test, whoever it is: that of a machine of its own.
	workerNice = -20
	// settling is what a sample waits before its window: rings fill, caches warm.
	settling = 150 * time.Millisecond
	// liveSetup is what the generator takes to begin.
	liveSetup = 40 * time.Millisecond
	startTime = 20 * time.Second
	stopTime  = 10 * time.Second
)

// bed is the lab with its generator.
type bed struct {
	*lab.Line
	opt    *Options
	live   *gen.Live
	target gen.Target // without its port
	to     netip.Addr // the virtual server
	direct netip.Addr // a server that is no member, for HTTP
	dir    string     // for configurations
	// The far ends: interfaces, and how to get to their namespaces.
	clientIf, serverIf   string
	atClients, atServers func(func() error) error
	calm                 func() error
}

// Missing says why nothing can be measured here, or is nil.
func Missing() error {
	switch {
	case os.Geteuid() != 0:
		return errors.New("needs root: it makes network namespaces and opens AF_XDP sockets")
	case runtime.NumCPU() < 2:
		return errors.New("needs two cores, one for the generator and one for what is measured")
	}
	return nil
}

func openBed(ctx context.Context, o *Options) (_ *bed, err error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	b := &bed{opt: o, calm: raiseSession()}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.dir, err = os.MkdirTemp("", "sluice-perf-"); err != nil {
		return nil, err
	}
	if b.Line, err = lab.NewLine(ctx, servers); err != nil {
		return nil, err
	}
	b.to, b.clientIf, b.serverIf, b.atClients, b.atServers = b.VIP4, "eth0", "eth0", b.Client.Do, b.Servers.Do
	if err := b.atClients(func() (err error) { b.live, err = gen.OpenLive(b.clientIf); return err }); err != nil {
		return nil, err
	}
	if err := b.addDirect(); err != nil {
		return nil, err
	}
	if b.target.SrcMAC, err = b.Client.MAC("eth0"); err != nil {
		return nil, err
	}
	b.target.DstMAC, err = b.Balancer.MAC(b.Outside)
	return b, err
}

// addDirect adds the server that HTTP by carriers that do not translate goes to. If it were a member, what is left there of the clients' closed connections (TIME_WAIT)
// would meet connections through others from the same ports, for which the client has other timestamps and sequence numbers, as it knows
// them by another address: each would be tried again after a second (tcp_timewait_state_process, net/ipv4/tcp_minisocks.c).
func (b *bed) addDirect() error {
	b.direct = netip.MustParseAddr("192.168.20.200")
	if err := b.Servers.Addr("eth0", netip.PrefixFrom(b.direct, lab.ServerNet.Bits()).String()); err != nil {
		return err
	}
	mac, err := b.Servers.MAC("eth0")
	if err != nil {
		return err
	}
	return b.Balancer.Neighbour(b.Inside, b.direct, mac)
}

func (b *bed) close() error {
	var errs []error
	if b.live != nil {
		errs = append(errs, b.live.Close())
	}
	if b.Line != nil {
		errs = append(errs, b.Lab.Close())
	}
	if err := errors.Join(append(errs, os.RemoveAll(b.dir), b.calm())...); err != nil {
		return fmt.Errorf("%w: %w", ErrLeft, err)
	}
	return nil
}

// ErrLeft is in the error of a scenario that could not put everything back as it was.
var ErrLeft = errors.New("something is left of the lab, which the next run of a scenario with one takes down")

// end takes everything down after a scenario that ended with err, and marks the record of one that ended by it.
func (b *bed) end(ctx context.Context, rec *result.Recorder, err error) error {
	b.opt.failed(ctx, rec, err)
	return errors.Join(err, b.close())
}

// failed marks the record of a scenario that an error has ended, other than that of an interrupt.
func (o *Options) failed(ctx context.Context, rec *result.Recorder, err error) {
	if err != nil && ctx.Err() == nil {
		rec.Fail(o.Progress.Now(), err)
	}
}

// sink puts a new sink at the far ends.
func (b *bed) sink(answer bool) (*gen.Sink, error) {
	s, err := gen.NewSink(gen.SinkConfig{Clients: lab.Sources, Servers: lab.ServerNet, Answer: answer, Verify: b.opt.Verify})
	if err != nil {
		return nil, err
	}
	err = b.atServers(func() error { return s.AttachServers(b.serverIf) })
	if err == nil {
		err = b.atClients(func() error { return s.AttachClients(b.clientIf) })
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// load completes what a generator shall send to the virtual server.
func (b *bed) load(l gen.Load) gen.Load {
	l.Target, l.Sources = b.target, lab.Sources
	port := uint16(udpPort)
	if l.TCP {
		port = tcpPort
	}
	l.To = netip.AddrPortFrom(b.to, port)
	return l
}

// wanted reports whether a carrier was asked for.
func (o *Options) wanted(name string) bool {
	return len(o.Carriers) == 0 || slices.Contains(o.Carriers, name)
}

func (o *Options) step(format string, args ...any) { o.Progress.Step(format, args...) }
