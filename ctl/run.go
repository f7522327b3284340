package ctl

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/flow"
)

// Server is a running sluice: the engine and what keeps it in step with the kernel around it.
//
//	lock ─▶ interfaces ─▶ host port ─▶ routes, neighbours ─▶ programs and sockets ─▶ engine ─▶ virtual addresses ─▶ API
//
// Virtual addresses come last and go first: while they are there, somebody answers for them.
type Server struct {
	assembly
	access  *access
	certs   *tls.Config // of control.listen; nil: it is off
	shots   sharedSnapshots
	state   *kernelState
	health  *health
	saved   *savedTables
	drain   draining
	spec    engine.Spec // that the engine's configuration was compiled from
	nics    *nics
	rates   rates
	pulse   engine.Pulse
	threads confinement
	turned  time.Time // when the goroutine of watch had its last turn

	forwarding forwarding

	placed map[placedAddress]bool // managed virtual addresses
	// withdrawn are those that are taken off while their members are down; hooks are told.
	withdrawn map[reach]bool
	hooks     *hookRunner
	due       []announcement // of them
	dict      *engine.Dictionary
	ways      map[netip.Addr]way
	host      *engine.HostSpec
	api       *api
	// captures ends the capture that goes on.
	captures captureEnd
	began    time.Time
	// mu guards what requests of the API read: file, plan, interfaces, queues, what drains, steering, next hops that are lost. Only the goroutine of
	// watch changes it, so it reads without the lock.
	mu        sync.RWMutex
	steered   *steered
	steerings []steering // what was achieved, by port
	tableSize int        // of the smallest indirection table, if bins are dealt out to suit it
	// requests are run by the goroutine of watch, one at a time.
	requests   chan func(context.Context)
	scaling    chan scaled // the outcome of the scaling that runs, if one does
	generation uint64      // of the configuration
	lastRules  []string
	lastHops   string
	links      atomic.Pointer[[]string] // state of each port
	past       []portPast               // by port of the file
	planned    int                      // receive queues that the memory was made for
	lookAgain  bool                     // something could not be done yet
	resteer    bool                     // a port has other queues, whose NIC has not been told
	hops       map[netip.Addr]engine.Hop
	told       map[netip.Addr]bool // whether a member had a next hop when it was last said
	lost       map[netip.Addr]lostHop
	complaints map[string]string // what was said, by subject
	managed    time.Time         // of the last manageAgain
	alive      atomic.Int64      // when all workers had made a step, nanoseconds after began

	heirs *heirs
	// successor is the process that has taken over, 0 while there is none; successorErr says that it has ended since.
	successor    int
	successorErr error
	resting      *engine.Pause // the engine, then
}

func newSecret() flow.Secret {
	var s flow.Secret
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(b[i*8:])
	}
	return s
}

// newServer looks at the host for a file and changes nothing: a start and a takeover begin with it.
func newServer(f *File, log *slog.Logger) (_ *Server, err error) {
	s := &Server{assembly: assembly{file: f, log: log}, dict: engine.NewDictionary(), began: time.Now(),
		drain: newDraining(), requests: make(chan func(context.Context)), health: newHealth(log)}
	if s.ifaces, err = f.interfaces(); err != nil {
		return nil, err
	}
	if s.plan, err = f.plan(s.ifaces); err != nil {
		return nil, err
	}
	if err = f.privileges(s.ifaces, s.plan); err != nil {
		return nil, err
	}
	if err = f.prepareMonitors(); err != nil {
		return nil, err
	}
	if s.access, s.certs, err = f.prepareControl(); err != nil {
		return nil, err
	}
	if err = f.checkLocalPorts(); err != nil {
		return nil, err
	}
	if s.vlans, err = f.vlanInterfaces(s.ifaces); err != nil {
		return nil, err
	}
	if s.ways, err = f.ways(s.reach()); err != nil {
		return nil, err
	}
	s.warn(nil, f) // those of the file alone are said by who has read it
	return s, nil
}

// Start brings everything up. On an error nothing stays behind.
func Start(ctx context.Context, f *File, log *slog.Logger) (_ *Server, err error) {
	s, err := newServer(f, log)
	if err != nil {
		return nil, err
	}
	if s.state, err = lockState(); err != nil {
		return nil, err
	}
	log.Info("cores", "workers", s.plan.workers, "cores", fmt.Sprint(s.plan.cores), "why", s.plan.why)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.giveUp())
		}
	}()
	if s.health.orders, err = loadOrders(strings.TrimSuffix(s.state.path, ".json")); err != nil {
		return nil, err
	}
	if err = s.readSteering(); err != nil {
		return nil, err
	}
	if err = s.loadTables(); err != nil {
		return nil, err
	}
	kept, err := loadPersistence(strings.TrimSuffix(s.state.path, ".json"), s.dict)
	if err != nil {
		log.Warn("entries of persistence that an earlier sluice has left are set aside", "reason", err)
	}
	s.saved.entries = append(s.saved.entries, kept...)
	if err = s.prepare(ctx); err != nil {
		return nil, err
	}
	cfg, rules, err := s.compile(s.plan.workers)
	if err != nil {
		return nil, err
	}
	if err = s.open(rules); err != nil {
		return nil, err
	}
	s.steer(cfg)
	setProcs(s.plan.workers)
	s.keepClear(s.plan.cores)
	if err = s.start(cfg, s.dict, s.adopt); err != nil {
		return nil, errors.Join(err, s.stopEngine())
	}
	if err = s.placeAddresses(); err != nil {
		return nil, errors.Join(err, s.stopEngine())
	}
	if err = s.health.begin(f, s.engine); err != nil {
		return nil, errors.Join(err, s.health.end(), s.stopEngine())
	}
	if s.api, err = s.listen(); err != nil {
		return nil, errors.Join(err, s.health.end(), s.stopEngine())
	}
	if err = s.expectHeirs(ctx); err != nil {
		s.api.close(&s.captures)
		return nil, errors.Join(err, s.health.end(), s.stopEngine())
	}
	return s, nil
}

// giveUp undoes a start that failed. What a killed engine left stays for another try: its connections can still be saved.
func (s *Server) giveUp() error {
	s.endHooks()
	if !s.state.inherited {
		return errors.Join(s.close(false), s.tables.close(true), s.state.release())
	}
	err := errors.Join(s.close(true), s.tables.close(false))
	s.state.unlock()
	return err
}

// loadTables opens the store of connection tables and reads what an earlier engine left in it.
func (s *Server) loadTables() error {
	s.saved = &savedTables{}
	if !s.file.Engine.KeepConnections {
		return nil
	}
	store, err := openTables(s.state, s.log)
	if err != nil {
		s.log.Warn("connections will not outlive this process", "reason", err)
		return nil
	}
	s.tables = store
	if s.saved, err = store.load(s.dict); err != nil {
		return err
	}
	s.drainAdopted(s.saved.inUse)
	return nil
}

// adopt gives the engine the connections of an earlier one, and puts the new tables in force.
func (s *Server) adopt() error {
	start := time.Now()
	var a engine.Adoption
	s.engine.AdoptPersistence(s.saved.entries, &a)
	if a.Entries > 0 {
		s.log.Info("adopted the persistence of an earlier sluice", "entries", a.Entries)
	}
	s.saved.entries = nil
	_ = os.Remove(persistencePath(strings.TrimSuffix(s.state.path, ".json"))) // from here on the tables have them
	if s.tables == nil {
		return nil
	}
	ports := s.saved.portsNow(s.file)
	for _, records := range s.saved.records {
		s.engine.Adopt(records, ports, &a)
	}
	if len(s.saved.records) > 0 {
		s.log.Info("adopted the connections of an earlier sluice", "connections", a.Adopted, "took", time.Since(start),
			"unsound", a.Unsound, "doubled", a.Doubled, "no_room", a.NoRoom, "port_gone", a.Strange)
	}
	return errors.Join(s.saved.unmap(), s.tables.ready(s.memory))
}

// prepare makes the host port and has the next hops resolved.
func (s *Server) prepare(ctx context.Context) error {
	if s.file.Engine.HostPort {
		mtu := 0
		for i := range s.ifaces {
			mtu = max(mtu, s.ifaces[i].mtu)
		}
		if anyJumbo(s.ifaces) {
			mtu = largestMTU // whatever the ports' MTUs become
		}
		s.state.HostPort = true
		if err := s.state.save(); err != nil {
			return err
		}
		port, host, err := makeHostPort(s.plan.workers, mtu)
		if err != nil {
			return err
		}
		host.Port, port.jumbo = len(s.ifaces), anyJumbo(s.ifaces)
		s.ifaces, s.host = append(s.ifaces, port), host
	}
	if _, err := s.topology(); err != nil { // which says where routes lead
		return err
	}
	if err := s.resolveHops(); err != nil {
		return err
	}
	return s.awaitHops(ctx)
}

func (s *Server) stopEngine() error {
	if s.engine == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return s.engine.Stop(ctx)
}

// Run serves until a successor has taken over, or until ctx ends; then shuts down: addresses off, so that nothing new comes; programs detached; workers
// stopped; sockets closed; every frame accounted for.
func (s *Server) Run(ctx context.Context) error {
	sampling, stop := context.WithCancel(ctx)
	var sampled sync.WaitGroup
	sampled.Go(func() { s.observe(sampling) })
	err := errors.Join(s.watch(ctx), s.health.end())
	stop()
	sampled.Wait()
	if s.successor != 0 {
		return s.leave()
	}
	s.heirs.close(true)
	s.api.close(&s.captures)
	return errors.Join(err, s.shutdown())
}

func (s *Server) shutdown() error {
	errs := []error{s.state.keepAddresses(nil)}
	s.endHooks()
	for _, p := range s.programs {
		errs = append(errs, p.Close(true))
	}
	errs = append(errs, s.stopEngine())
	if s.engine != nil {
		s.report()
		errs = append(errs, s.savePersistence())
	}
	errs = append(errs, s.close(false), s.tables.close(true))
	errs = append(errs, s.state.release())
	return errors.Join(errs...)
}

// report logs the totals of a stopped engine.
func (s *Server) report() {
	snaps, err := s.engine.Snapshots(context.Background())
	if err != nil {
		return
	}
	var sum engine.Stats
	for i := range snaps {
		sum.Add(&snaps[i].Stats)
	}
	s.log.Info("stopped", "received", sum.RxPackets, "sent", sum.TxPackets, "dropped", sum.Dropped(), "connections", sum.Opened)
}

// beatInterval is how often the programs are told that the workers live: several times in the least hold time.
const beatInterval = leastHold / 4

// SinceAlive is how long ago all workers were last seen to live. It stays below some beatIntervals, and grows once Run ends.
func (s *Server) SinceAlive() time.Duration {
	return time.Since(s.began) - time.Duration(s.alive.Load())
}

// beat tells the programs that the engine lives, as long as every worker does.
func (s *Server) beat() {
	now := time.Now()
	if !s.pulse.Lives(s.engine, now) {
		return
	}
	s.alive.Store(int64(now.Sub(s.began)))
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return
	}
	for _, p := range s.programs {
		p.Beat(uint64(ts.Nano()))
	}
}
