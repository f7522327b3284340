package ctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/rings"
)

// A takeover goes over a unix socket of packets, /run/sluice/net-<inode>.takeover, which only root may use. Each message is
// a JSON object, with descriptors beside it; what is large is in memory that one of them names.
//
//	successor                              predecessor
//	  reads its file, looks at the host
//	  hello     ─────────────────────────▶ same version of the protocol, same layout of memory?
//	            ◀───────── descriptors ... all descriptors, the offer among them
//	  maps everything, compiles, loads its XDP programs, starts its threads
//	  prepared  ─────────────────────────▶ brings its workers to rest
//	            ◀────────────────── state  what is in no shared memory
//	  imports it, notes its ids
//	  decides "taken over"
//	  workers go on
//	  took      ─────────────────────────▶ ends, without touching anything
//	  puts its XDP programs into the links
//
// Either may say "failed" instead, and either may be killed. The decision is one word in shared memory, made by a
// compare-and-swap: the successor decides "taken over" when it has everything, the predecessor "carry on" when it has waited
// long enough or the other is gone. So they agree at every instant, and until the decision nothing has happened that
// cannot be taken back: the predecessor cuts the dictionary to its length, and its workers go on from where they rested.
//
// The lock of the namespace is a lock on an open file, which the successor gets with the other descriptors: from then on it is
// held as long as either lives. If the predecessor is killed before it has sent the state, the successor lets go of
// everything and starts as after any kill: it adopts the connections. If both are killed, or the successor after the
// decision, the next start does.

// takeoverProtocol changes whenever the messages or the offer do.
const takeoverProtocol = 1

// Bounds of a takeover. While the predecessor serves there is time: a driver may take many seconds to load an XDP program, and
// one that is killed is noticed at once. The pause is restTime and takeTime: in it packets wait on the rings.
const (
	greetTime   = 2 * time.Second
	offerTime   = 20 * time.Second // for the descriptors after "hello"
	prepareTime = time.Minute
	restTime    = 500 * time.Millisecond
	takeTime    = 1500 * time.Millisecond
	reportTime  = 5 * time.Second // for "took" after the decision
)

// The decisions.
const (
	decidedCarryOn = 1
	decidedTaken   = 2
)

// The types of messages.
const (
	msgHello       = "hello"
	msgDescriptors = "descriptors"
	msgPrepared    = "prepared"
	msgState       = "state"
	msgTook        = "took"
	msgFailed      = "failed"
)

type takeoverMessage struct {
	Type     string   `json:"type"`
	Protocol int      `json:"protocol,omitempty"`  // hello
	Layout   string   `json:"layout,omitempty"`    // hello
	Version  string   `json:"version,omitempty"`   // hello
	Names    []string `json:"names,omitempty"`     // descriptors: what each is
	Last     bool     `json:"last,omitempty"`      // descriptors: there are no more
	PausedAt int64    `json:"paused_at,omitempty"` // state: nanoseconds of CLOCK_MONOTONIC
	RestedAt int64    `json:"rested_at,omitempty"` // state: when all workers rested
	Reason   string   `json:"reason,omitempty"`    // failed
}

// takeoverOffer is what a successor must know, and what its file must agree with.
type takeoverOffer struct {
	Fixed      []Setting // what both must have the same
	Generation uint64
	Secret     [4]uint64
	Dictionary []engine.Entry
	Nodes      map[uint32]string             // in use: the members' names
	Virtuals   map[uint32]engine.VirtualSpec // in use, as far as they are known
	Ends       []rings.MemberRule
	State      kernelState
	Host       *hostOffer
	Jumbo      []bool // by port, the host port's last
	Frames     int
	TableSize  int    // of the smallest indirection table, by which bins are dealt out
	Pages      string // of the frames
	Tables     []tableOffer
	Store      *storeOffer
	Programs   []rings.ProgramHandover
	Notes      [][]string // of the queues, by port
	Socket     string
	Metrics    string
	Listen     string
	Verdicts   []verdictNote // of monitors
}

type hostOffer struct {
	Index, Queues, MTU   int
	EngineMAC, KernelMAC [6]byte
}

type tableOffer struct {
	Pages string
	Path  string // of its file in the store
}

type storeOffer struct {
	Dir                      string
	Generation, Made, Logged int
	Boot                     [16]byte
}

// Names of descriptors.
const (
	fdDecision   = "decision"
	fdOffer      = "offer"
	fdRegion     = "region"
	fdLock       = "lock"
	fdDictionary = "dictionary"
	fdControl    = "control"
	fdMetrics    = "metrics"
	fdRemote     = "remote"
)

func fdTable(worker int) string       { return fmt.Sprintf("table/%d", worker) }
func fdLink(port int) string          { return fmt.Sprintf("link/%d", port) }
func fdCounters(port int) string      { return fmt.Sprintf("counters/%d", port) }
func fdQueue(port, q int) string      { return fmt.Sprintf("queue/%d/%d", port, q) }
func takeoverPath(base string) string { return base + ".takeover" }

// stateBase is the path of what belongs to the network namespace, without its ending.
func stateBase() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", fmt.Errorf("find the network namespace: %w", err)
	}
	return filepath.Join(StateDir, fmt.Sprintf("net-%d", st.Ino)), nil
}

// takeoverConn is one end.
type takeoverConn struct {
	*net.UnixConn
	peer *unix.Ucred
}

// newTakeoverConn refuses a peer that is neither root nor of our own user.
func newTakeoverConn(c *net.UnixConn) (*takeoverConn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, fmt.Errorf("ask who is at the other end: %w", credErr)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("process %d of user %d may not take over", cred.Pid, cred.Uid)
	}
	return &takeoverConn{c, cred}, nil
}

// maxDescriptors go with one message (the kernel's SCM_MAX_FD is 253).
const maxDescriptors = 200

const maxMessage = 64 << 10

func (c *takeoverConn) send(m takeoverMessage, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_ = c.SetWriteDeadline(time.Now().Add(greetTime))
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, oob, nil)
	return err
}

// sendAll sends descriptors by name, in as many messages as they need.
func (c *takeoverConn) sendAll(names []string, fds []int) error {
	for {
		n := min(len(fds), maxDescriptors)
		m := takeoverMessage{Type: msgDescriptors, Names: names[:n], Last: n == len(fds)}
		if err := c.send(m, fds[:n]...); err != nil || m.Last {
			return err
		}
		names, fds = names[n:], fds[n:]
	}
}

// fail tells the other end why it ends here.
func (c *takeoverConn) fail(reason error) {
	_ = c.send(takeoverMessage{Type: msgFailed, Reason: reason.Error()}) // or it sees the end
}

// errFailed is the reason that the other end gave.
type errFailed struct{ reason string }

func (e *errFailed) Error() string { return e.reason }

// receive waits for a message. A "failed" is an *errFailed, the end of the other an io.EOF.
func (c *takeoverConn) receive(limit time.Duration) (m takeoverMessage, fds []int, err error) {
	_ = c.SetReadDeadline(time.Now().Add(limit))
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*(maxDescriptors+50)))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return m, nil, err
	}
	if list, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for i := range list {
			if got, err := unix.ParseUnixRights(&list[i]); err == nil {
				fds = append(fds, got...)
			}
		}
	}
	switch err = json.Unmarshal(b[:n], &m); {
	case err != nil:
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("a message that is too long, or more descriptors than this process may have open (ulimit -n)")
	case m.Type == msgFailed:
		err = &errFailed{m.Reason}
	}
	if err != nil {
		closeAll(fds)
		return m, nil, err
	}
	return m, fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// dupOf duplicates the descriptor of a connection or listener, and leaves its mode as it is.
func dupOf(c syscall.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, dupErr := -1, error(nil)
	err = raw.Control(func(of uintptr) { fd, dupErr = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(err, dupErr)
}

// memoryFile makes a memfd with b in it.
func memoryFile(name string, b []byte) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make shared memory: %w", err)
	}
	for off := 0; off < len(b); {
		n, err := unix.Pwrite(fd, b[off:], int64(off))
		if err != nil {
			return -1, errors.Join(fmt.Errorf("write shared memory: %w", err), unix.Close(fd))
		}
		off += n
	}
	return fd, nil
}

// readMemory reads all of a memfd, and closes it.
func readMemory(fd int) ([]byte, error) {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	b := make([]byte, st.Size)
	for off := 0; off < len(b); {
		n, err := unix.Pread(fd, b[off:], int64(off))
		if err != nil || n == 0 {
			return nil, fmt.Errorf("read shared memory: %d of %d bytes: %w", off, len(b), err)
		}
		off += n
	}
	return b, nil
}

func monotonicNow() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // impossible: the clock is always there
	}
	return ts.Nano()
}

// fixedSettings are the values that an engine is built from: they must be the same before and after a takeover, as far as
// they are in the file, and what they came to on this host.
func (s *Server) fixedSettings(workers int) []Setting {
	kept := map[string]bool{}
	for _, k := range []string{
		"driver", "mode", "frame-size", "ring-size", "tx-budget", "connections", "client-end", "host-port", "keep-connections",
		"source-prefix-v4", "source-prefix-v6", "busy-poll.enabled", "busy-poll.timeout", "busy-poll.budget",
	} {
		kept["engine."+k] = true
	}
	var out []Setting
	for _, v := range s.file.Settings() {
		if kept[v.Path] {
			out = append(out, v)
		}
	}
	add := func(path string, v any) { out = append(out, Setting{path, fmt.Sprint(v)}) }
	add("engine.workers", workers)
	add("engine.frames", s.plan.frames)
	add("the sum of persistences[].entries, per worker,", s.plan.persistence)
	for i := range s.file.Ports {
		at := fmt.Sprintf("ports[%d].", i)
		add(at+"name", s.file.Ports[i].Name)
		add(at+"interface", s.ifaces[i].name)
		add(at+"ifindex", s.ifaces[i].index)
		add(at+"queues", s.ifaces[i].queues)
	}
	s.file.eachVLAN(func(n, _ int, v *VLAN, _ *Port, at string) {
		add(at+".name", v.Name)
		add(at+".id", v.ID)
		add(at+".inner", v.Inner)
		add(at+".ifindex", s.ifaceOf(n).index)
	})
	return out
}

// differences says what of two lists of settings differs.
func differences(running, wanted []Setting) error {
	have := map[string]string{}
	for _, v := range running {
		have[v.Path] = v.Value
	}
	var errs []error
	for _, v := range wanted {
		if old, ok := have[v.Path]; !ok || old != v.Value {
			errs = append(errs, fmt.Errorf("%s is %s in the running sluice and %s here", v.Path, orNothing(old, ok), v.Value))
		}
		delete(have, v.Path)
	}
	for _, v := range running {
		if _, left := have[v.Path]; left {
			errs = append(errs, fmt.Errorf("%s is %s in the running sluice and is not here", v.Path, v.Value))
		}
	}
	return errors.Join(errs...)
}

func orNothing(v string, ok bool) string {
	if !ok {
		return "not there"
	}
	return v
}
