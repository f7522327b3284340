package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/rings"
)

// The successor's side of a takeover; takeoverwire.go has the whole.

// ErrNobody is returned by a takeover where there is nobody to take over from.
var ErrNobody = errors.New("no sluice runs in this network namespace that could be taken over from; start without --takeover")

// errPredecessorGone: the predecessor has ended before it gave its state. It was killed, and is adopted like any other.
var errPredecessorGone = errors.New("the running sluice ended before it had handed over")

// Takeover goes on in the place of the sluice that runs in this network namespace, with f, which must have the same ports and
// memory. After an error that one carries on. If it is killed meanwhile, its connections are adopted as by Start.
func Takeover(ctx context.Context, f *File, log *slog.Logger) (*Server, error) {
	s, err := takeOver(ctx, f, log)
	if errors.Is(err, errPredecessorGone) {
		log.Warn("starting in its place", "reason", err)
		return Start(ctx, f, log)
	}
	return s, err
}

// taking is a takeover under way.
type taking struct {
	*Server
	conn     *takeoverConn
	fds      map[string]int // received and not taken yet
	offer    takeoverOffer
	decision *rings.Decision
	rest     *engine.Pause
	own      listeners // of the API
	store    *tableStore
}

func takeOver(ctx context.Context, f *File, log *slog.Logger) (_ *Server, err error) {
	s, err := newServer(f, log)
	if err != nil {
		return nil, err
	}
	if s.nics, err = kernelNICs(); err != nil {
		return nil, err
	}
	log.Info("cores", "workers", s.plan.workers, "cores", fmt.Sprint(s.plan.cores), "why", s.plan.why)
	t := &taking{Server: s, fds: map[string]int{}}
	if err := t.dial(); err != nil {
		return nil, err
	}
	defer t.conn.Close()
	defer func() {
		for _, fd := range t.fds {
			_ = unix.Close(fd)
		}
		if err != nil {
			err = t.giveUp(err)
		}
	}()
	if err := t.ask(); err != nil {
		return nil, err
	}
	if err := t.prepare(ctx); err != nil {
		return nil, err
	}
	if err := t.take(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// dial connects to the running sluice.
func (t *taking) dial() error {
	base, err := stateBase()
	if err != nil {
		return err
	}
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: takeoverPath(base), Net: "unixpacket"})
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return ErrNobody
	case err != nil:
		return fmt.Errorf("reach the running sluice%s: %w", rootHint(err), err)
	}
	if t.conn, err = newTakeoverConn(c); err != nil {
		return errors.Join(err, c.Close())
	}
	return nil
}

// ask greets, and receives all descriptors and the offer.
func (t *taking) ask() error {
	hello := takeoverMessage{Type: msgHello, Protocol: takeoverProtocol, Layout: engine.Layout(), Version: Version}
	if err := t.conn.send(hello); err != nil {
		return fmt.Errorf("greet the running sluice: %w", err)
	}
	for last := false; !last; {
		m, fds, err := t.conn.receive(offerTime)
		if err != nil {
			return t.explain(err)
		}
		if m.Type != msgDescriptors || len(fds) != len(m.Names) {
			closeAll(fds)
			return fmt.Errorf("the running sluice sends %q with %d descriptors for %d names", m.Type, len(fds), len(m.Names))
		}
		for i, name := range m.Names {
			t.fds[name] = fds[i]
		}
		last = m.Last
	}
	fd, err := t.fd(fdOffer)
	if err != nil {
		return err
	}
	b, err := readMemory(fd)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &t.offer); err != nil {
		return fmt.Errorf("read the offer of the running sluice: %w", err)
	}
	if fd, err = t.fd(fdDecision); err != nil {
		return err
	}
	if t.decision, err = rings.ImportDecision(fd); err != nil {
		return err
	}
	if t.file.Engine.Frames == 0 { // auto: what there is, whatever number a start would come to
		t.plan.frames = t.offer.Frames
	}
	if err := differences(t.offer.Fixed, t.fixedSettings(t.plan.workers)); err != nil {
		return fmt.Errorf("%w\n%s: a takeover keeps ports, queues, workers and memory; take over with the same values, and reload afterwards what a reload can change", err, t.file.Name)
	}
	return nil
}

// fd takes a descriptor out of those that were received.
func (t *taking) fd(name string) (int, error) {
	fd, ok := t.fds[name]
	if !ok {
		return -1, fmt.Errorf("the running sluice has not sent its %s", name)
	}
	delete(t.fds, name)
	return fd, nil
}

// explain makes an error of what the other end did.
func (t *taking) explain(err error) error {
	var failed *errFailed
	switch {
	case errors.As(err, &failed):
		return fmt.Errorf("the running sluice (process %d) refuses and carries on: %w; %s", t.conn.peer.Pid, err, restartHint(int(t.conn.peer.Pid)))
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return errPredecessorGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the running sluice (process %d) does not answer", t.conn.peer.Pid)
	}
	return fmt.Errorf("takeover: %w", err)
}

// prepare does everything that can be done while the predecessor serves.
func (t *taking) prepare(ctx context.Context) error {
	if err := t.inheritState(); err != nil {
		return err
	}
	for _, e := range t.offer.Dictionary {
		if !t.dict.Restore(e) {
			return fmt.Errorf("the dictionary of the running sluice contradicts itself at %+v", e)
		}
	}
	t.inheritDraining()
	if err := t.inheritHost(); err != nil {
		return err
	}
	t.inheritJumbo()
	if err := t.resolveMore(); err != nil {
		return err
	}
	if err := t.awaitHops(ctx); err != nil {
		return err
	}
	t.generation, t.tableSize = t.offer.Generation, t.offer.TableSize // connections are where its bins are
	cfg, rules, err := t.compile(t.plan.workers)                      // without tables: ids are noted when the predecessor rests
	if err != nil {
		return err
	}
	if err := t.inheritMemory(); err != nil {
		return err
	}
	if err := t.inheritPorts(rules); err != nil {
		return err
	}
	opt := t.seats(t.plan, t.memory)
	opt.Region, opt.Secret, opt.Successor = t.region, t.secret, true
	if t.engine, err = engine.New(opt, cfg, t.dict); err != nil {
		return err
	}
	if t.rest, err = t.engine.StartPaused(); err != nil {
		return err
	}
	return t.inheritListeners()
}

// take is the pause, from here.
func (t *taking) take(ctx context.Context) error {
	if err := t.conn.send(takeoverMessage{Type: msgPrepared}); err != nil {
		return t.explain(err)
	}
	m, fds, err := t.conn.receive(restTime + takeTime)
	if err != nil {
		return t.explain(err)
	}
	if m.Type != msgState || len(fds) != 1 {
		closeAll(fds)
		return fmt.Errorf("the running sluice sends %q with %d descriptors, not its state", m.Type, len(fds))
	}
	clock := stopwatch{at: m.PausedAt}
	clock.until("rest", m.RestedAt)
	clock.until("state", monotonicNow())
	state, err := readMemory(fds[0])
	if err != nil {
		return err
	}
	if err := t.rest.Import(state); err != nil {
		return err
	}
	clock.until("import", monotonicNow())
	if t.tables = t.store; t.tables != nil {
		if err := t.noteIDs(); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !t.decision.Decide(decidedTaken) {
		return fmt.Errorf("the running sluice has not waited and carries on: this took %v", time.Duration(monotonicNow()-m.PausedAt))
	}
	before := t.engine.Beats()
	t.rest.Resume()
	t.awaitStep(before)
	paused := time.Duration(monotonicNow() - m.PausedAt)
	clock.until("workers", monotonicNow())
	_ = t.conn.send(takeoverMessage{Type: msgTook}) // if the predecessor is gone, so be it
	t.settleIn(ctx, paused, clock.parts)
	return nil
}

// stopwatch takes the parts of the pause.
type stopwatch struct {
	at    int64
	parts []any // for the log
}

func (c *stopwatch) until(part string, now int64) {
	c.parts = append(c.parts, part, time.Duration(now-c.at).Round(time.Microsecond))
	c.at = now
}

// awaitStep waits until every worker has begun a step.
func (t *taking) awaitStep(before []uint64) {
	for deadline := time.Now().Add(takeTime); time.Now().Before(deadline); time.Sleep(20 * time.Microsecond) {
		waiting := false
		for i, n := range t.engine.Beats() {
			waiting = waiting || n == before[i]
		}
		if !waiting {
			return
		}
	}
}

// settleIn does what can be done when packets go again. What fails is said, and does not end what serves: the next look at
// the kernel tries again.
func (t *taking) settleIn(ctx context.Context, paused time.Duration, parts []any) {
	s := t.Server
	connections, queues := 0, 0
	for _, n := range s.queues {
		queues += len(n)
	}
	if snaps, err := s.engine.Snapshots(ctx); err == nil {
		for i := range snaps {
			connections += snaps[i].Connections
		}
	}
	_ = t.decision.Close()
	s.log.Info(fmt.Sprintf("took over in %s, %d connections, %d queues", paused.Round(10*time.Microsecond), connections, queues), append([]any{"process", t.conn.peer.Pid}, parts...)...)
	if s.file.Control.Socket != t.offer.Socket {
		_ = os.Remove(t.offer.Socket)
	}
	// Not in the pause: it takes the kernel tens of milliseconds. Until then the predecessor's programs send to the same
	// sockets; workers know what is new before packets for it come.
	for _, p := range s.programs {
		if err := p.Replace(); err != nil {
			s.log.Error("the predecessor's XDP program stays; restart when it suits", "error", err)
		}
	}
	err := s.health.begin(s.file, s.engine)
	if err = errors.Join(err, s.health.reread(strings.TrimSuffix(s.state.path, ".json")), s.expectHeirs(ctx), s.resolveHops(), s.placeAddresses()); err != nil {
		s.log.Warn("taken over, but not all of it", "error", err)
	}
	if s.health.hasWeights() {
		s.lastHops = "" // one may have been ordered while this process prepared: compile them again
	}
	setProcs(s.plan.workers)
	s.keepClear(s.plan.cores)
	s.steer(s.engine.Config())
	s.api = s.serve(t.own)
}

// giveUp lets go of everything that is the predecessor's, which carries on, and tells it why.
func (t *taking) giveUp(reason error) error {
	if !errors.Is(reason, errPredecessorGone) {
		t.conn.fail(reason)
	}
	errs := []error{reason}
	switch {
	case t.rest != nil:
		errs = append(errs, t.rest.Leave())
	default:
		for _, list := range t.queues {
			for _, q := range list {
				errs = append(errs, q.Queue.(*rings.XSK).Leave())
			}
		}
	}
	for _, p := range t.programs {
		errs = append(errs, p.Close(false))
	}
	for _, m := range t.memory {
		errs = append(errs, m.Unmap())
	}
	errs = append(errs, t.store.close(false))
	if t.region != nil {
		errs = append(errs, t.region.Close())
	}
	if t.decision != nil {
		errs = append(errs, t.decision.Close())
	}
	if t.state != nil {
		errs = append(errs, t.state.lock.Close())
	}
	if t.own.control != nil && t.offer.Socket != t.file.Control.Socket {
		_ = os.Remove(t.file.Control.Socket)
	}
	for _, ln := range []net.Listener{t.own.control, t.own.remote, t.own.metrics} {
		if ln != nil {
			errs = append(errs, ln.Close())
		}
	}
	return errors.Join(errs...)
}
