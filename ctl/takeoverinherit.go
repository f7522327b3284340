package ctl

import (
	"errors"
	"fmt"
	"net"
	"os"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// What a successor inherits, part by part.

// inheritState takes over the lock and the note of what is in the kernel.
func (t *taking) inheritState() error {
	base, err := stateBase()
	if err != nil {
		return err
	}
	fd, err := t.fd(fdLock)
	if err != nil {
		return err
	}
	state := t.offer.State
	state.path, state.inherited, state.lock = base+".json", true, os.NewFile(uintptr(fd), base+".lock")
	t.state = &state
	if !samePath(t.state.lock) {
		return errors.New("the lock of the running sluice is not that of this network namespace")
	}
	t.health.inherit(t.offer.Verdicts)
	t.health.orders, err = loadOrders(base)
	return err
}

// inheritDraining has everything drain that the predecessor has and the file has not.
func (t *taking) inheritDraining() {
	u := engine.NewInUse()
	for id := range t.offer.Nodes {
		u.Nodes[id] = true
	}
	for id := range t.offer.Virtuals {
		u.Virtuals[id] = true
	}
	for _, e := range t.offer.Ends {
		u.Ends[engine.ServerEnd(e)] = true
	}
	t.drainAdopted(u)
	for id, n := range t.drain.nodes {
		n.Name = t.offer.Nodes[id]
		t.drain.nodes[id] = n
	}
	for id := range t.drain.virtuals {
		t.drain.virtuals[id] = t.offer.Virtuals[id]
	}
}

// inheritHost goes on with the host port, which must be as it was.
func (t *taking) inheritHost() error {
	o := t.offer.Host
	if o == nil {
		return nil
	}
	l, err := net.InterfaceByName(hostEngineEnd)
	if err != nil || l.Index != o.Index {
		return fmt.Errorf("the host port %s is not the running sluice's any more: %w", hostEngineEnd, errors.Join(err))
	}
	t.host = &engine.HostSpec{Port: len(t.ifaces), MAC: o.KernelMAC}
	t.ifaces = append(t.ifaces, iface{name: hostEngineEnd, index: o.Index, mac: o.EngineMAC, queues: o.Queues, mtu: o.MTU})
	return nil
}

// resolveMore has next hops resolved that the predecessor did not need. Those that only it needs are kept for it.
func (t *taking) resolveMore() error {
	want := map[placedNeighbour]bool{}
	for _, n := range t.state.Neighbours {
		want[n] = true
	}
	for _, w := range t.ways {
		want[placedNeighbour{t.ifaceOf(w.port).index, w.via}] = true
	}
	return t.state.keepNeighbours(want)
}

// inheritMemory maps frames and tables.
func (t *taking) inheritMemory() (err error) {
	fd, err := t.fd(fdRegion)
	if err != nil {
		return err
	}
	if t.region, err = rings.ImportRegion(fd, t.plan.frames, t.file.Engine.FrameSize, rings.Pages(t.offer.Pages)); err != nil {
		return err
	}
	t.makeChains()
	t.secret = flow.Secret(t.offer.Secret)
	if o := t.offer.Store; o != nil {
		if fd, err = t.fd(fdDictionary); err != nil {
			return err
		}
		t.store = &tableStore{dir: o.Dir, generation: o.Generation, made: o.Made, logged: o.Logged, boot: o.Boot, log: t.log}
		t.store.dictionary = os.NewFile(uintptr(fd), t.store.path("dictionary", o.Generation))
	}
	for w := range t.plan.workers {
		if fd, err = t.fd(fdTable(w)); err != nil {
			return err
		}
		size := t.file.tableSize(t.plan.workers)
		if t.store != nil {
			size += flow.HeaderSize
		}
		m, err := rings.ImportMapping(fd, size)
		if err != nil {
			return fmt.Errorf("connection table of worker %d: %w", w, err)
		}
		table := tableMemory{Mapping: m, flows: m.Bytes}
		if w < len(t.offer.Tables) {
			table.Pages, table.path = rings.Pages(t.offer.Tables[w].Pages), t.offer.Tables[w].Path
		}
		if t.store != nil {
			table.flows = m.Bytes[flow.HeaderSize:]
		}
		t.memory = append(t.memory, table)
	}
	return nil
}

// inheritPorts maps the rings of all sockets, and loads programs for all ports that send to them.
func (t *taking) inheritPorts(rules []rings.Rules) error {
	for port := range t.ifaces {
		t.queues = append(t.queues, nil)
		for q := range t.ifaces[port].queues {
			fd, err := t.fd(fdQueue(port, q))
			if err != nil {
				return err
			}
			note := ""
			if port < len(t.offer.Notes) && q < len(t.offer.Notes[port]) {
				note = t.offer.Notes[port][q]
			}
			x, err := rings.ImportXSK(t.region, t.queueConfig(port, q, rings.BindAuto, port == len(t.file.Ports)), fd, note)
			if err != nil {
				if errors.Is(err, rings.ErrBoundRing) {
					err = fmt.Errorf("%w; %s", err, restartHint(int(t.conn.peer.Pid)))
				}
				return err
			}
			t.queues[port] = append(t.queues[port], openQueue{Queue: x, fd: x.FD(), mode: modeName(x.ZeroCopy()), note: note})
		}
	}
	for i := range t.file.Ports {
		if i >= len(t.offer.Programs) {
			return fmt.Errorf("the running sluice has no XDP program on port %s", t.file.Ports[i].Name)
		}
		h := t.offer.Programs[i]
		var errs [2]error
		h.Link, errs[0] = t.fd(fdLink(i))
		h.Counters, errs[1] = t.fd(fdCounters(i))
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
		cfg, _ := t.programConfig(i, rules[i])
		cfg.Sockets = map[int]int{}
		for q := range t.queues[i] {
			cfg.Sockets[q] = t.queues[i][q].fd
		}
		p, err := rings.SucceedProgram(cfg, h)
		if err != nil {
			return fmt.Errorf("port %s: %w", t.file.Ports[i].Name, err)
		}
		t.programs = append(t.programs, p)
	}
	return nil
}

// inheritListeners goes on with the predecessor's listeners where the file has the same, so that no request is refused, and
// opens others.
func (t *taking) inheritListeners() (err error) {
	c := &t.file.Control
	if t.offer.Socket == c.Socket {
		if t.own.control, err = t.listener(fdControl); err == nil {
			err = openTo(c.Socket, t.access.group)
		}
	} else {
		t.own.control, err = listenControl(c.Socket, t.access.group)
	}
	if err != nil {
		return err
	}
	if t.own.remote, err = t.tcpListener("control.listen", t.listenAddr(), t.offer.Listen, fdRemote); err != nil {
		return err
	}
	t.own.metrics, err = t.tcpListener("control.metrics", t.metricsAddr(), t.offer.Metrics, fdMetrics)
	return err
}

// tcpListener goes on with the predecessor's listener if it is the same, or opens another; none if addr is empty.
func (t *taking) tcpListener(key, addr, offered, name string) (net.Listener, error) {
	switch addr {
	case "":
		return nil, nil
	case offered:
		return t.listener(name)
	}
	return listenTCP(key, addr)
}

func (t *taking) listener(name string) (net.Listener, error) {
	fd, err := t.fd(name)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over the listener for %s: %w", name, err)
	}
	return ln, nil
}
