package engine

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sluice/flow"
	"sluice/rings"
)

// message is what the control side sends to a worker. It is applied between bursts; when it has been, done is
// closed, so that the sender knows.
type message struct {
	apply func(w *worker)
	// brief is applied instead of apply, if there is one, by a worker that holds on to its core too (stay.go): nothing in it may block. One
	// that has to let go comes back only through another thread, and Go's monitor has asked a worker that spins for that long ago.
	brief func(w *worker)
	done  chan<- struct{}
}

func (m *message) do(w *worker) {
	if m.brief != nil {
		m.brief(w)
	} else {
		m.apply(w)
	}
	if m.done != nil {
		close(m.done)
	}
}

// runtimeState is the part of a worker that is not on the packet path.
type runtimeState struct {
	inbox   chan message
	gone    chan struct{} // closed when the worker has ended
	waker   *waker
	beat    atomic.Uint64 // steps made; the control side reads it to see that the worker lives
	rested  atomic.Uint64 // done of when it last went to sleep; for the control side too
	choice  choice
	peek    *peek         // an explanation is being made (explain.go); nil while packets are handled
	coming  coming        // the configuration that comes next
	micros  func() uint64 // microseconds on the clock of the worker's milliseconds
	counts  counts        // the dictionary's
	polling Polling
	secret  flow.Secret
	// Prefix lengths that half-open connections of a source are counted by.
	sourceBits4, sourceBits6 int
	partial                  atomic.Uint64 // bit n: partial checksums arrive on port n; for the control side
	core                     int
	nice                     int
	activity                 activity
	stay                     stay
	priority                 priority
	yielding                 yielding
	event                    [8]byte // what an eventfd tells; nobody looks at it
	generation               int     // how many scalings there were before it
	stopped                  bool
	ending                   ending
	wanted                   wanted
	wants                    atomic.Bool   // there are wanted ones; control looks
	unplaced                 int           // connections that other workers sent and that found no room
	fds                      []unix.PollFd // of a sleep
	givenClock               bool          // not the machine's: nobody knows how long a sleep is by it
}

// inboxSize is how many messages wait at most; a sender waits beyond it, the worker never.
const inboxSize = 64

// messagesPerStep bounds the time between two bursts.
const messagesPerStep = 4

// control applies what has come through the channel.
func (w *worker) control() {
	for range messagesPerStep {
		select {
		case m := <-w.runtime.inbox:
			m.do(w)
		default:
			return
		}
	}
}

// briefs applies what has come through the channel up to the first message that is not brief, which it returns.
func (w *worker) briefs() (m message, more bool) {
	for range messagesPerStep {
		select {
		case m = <-w.runtime.inbox:
			if m.brief == nil {
				return m, true
			}
			m.brief(w)
			if m.done != nil {
				close(m.done)
			}
		default:
			return m, false
		}
	}
	return m, false
}

// applyFrom applies a message and what has come after it.
func (w *worker) applyFrom(m *message) {
	m.do(w)
	w.control()
}

// applyConfig makes cfg the worker's configuration, whose workers sit in slots. It allocates: between bursts that is
// allowed.
func (w *worker) applyConfig(cfg *Config, slots []uint8, counts counts) {
	w.cfg, w.slots = cfg, slots
	w.table.SetNodes(cfg.addrs)
	w.runtime.counts = counts
	w.runtime.choice.apply(cfg)
	w.runtime.coming = coming{}
	w.configurePersistence()
	w.applySums()
	if cfg.hasSNAT {
		w.needPorts()
	}
	w.countFor(len(cfg.virtuals), len(cfg.nodes))
}

// countFor makes counters for so many ids of virtual servers and nodes, if there are fewer.
func (w *worker) countFor(virtuals, nodes int) {
	w.virtual.grow(virtuals)
	w.node.grow(nodes)
	w.tally.virtuals.grow(virtuals)
	w.tally.nodes.grow(nodes)
	for len(w.half.virtual) < virtuals {
		w.half.virtual = append(w.half.virtual, 0)
	}
}

// Snapshot is what one worker tells about itself between two bursts.
type Snapshot struct {
	Stats
	Worker      int
	Core        int // -1: not pinned
	Polling     Polling
	Busy        time.Duration // in steps that found work, in all
	Pauses      Pauses
	Leaving     bool // another worker takes everything over
	Connections int
	Capacity    int
	FreeFrames  int
	Waiting     int // parts of datagrams that wait for their first
	Datagrams   int // of which some parts have come and others have not
	Queues      []QueueSnapshot
	Virtual     []ServiceStats // by virtual server id
	Node        []ServiceStats // by node id, SNAT addresses among them
	// PortSets are the sets of SNAT ports in use: one for every SNAT address, place that connections go to, and bin. Of these
	// CrowdedSets have at most an eighth of their ports left.
	PortSets, CrowdedSets int
	Persistence           []PersistenceStats // by id of the persistence
}

// QueueSnapshot is a queue as its worker sees it.
type QueueSnapshot struct {
	Port  int
	Queue rings.Queue // only to be compared
	rings.QueueStats
	rings.Held
}

func (w *worker) snapshot(s *Snapshot) {
	s.Stats, s.Worker, s.Core, s.Leaving = w.stats, w.id, w.runtime.core, w.leaving != nil
	s.Polling, s.Busy, s.Pauses = w.runtime.polling, time.Duration(w.runtime.activity.busy), w.runtime.activity.Pauses
	s.Connections, s.Capacity, s.FreeFrames = w.table.Len(), w.table.Cap(), w.pool.Len()
	s.Waiting, s.Datagrams = w.fragments.table.Held(), w.fragments.table.Len()
	for i := range w.rx {
		q := &w.rx[i]
		s.Queues = append(s.Queues, QueueSnapshot{q.Port, q.Queue, q.Queue.Stats(), q.Queue.Held()})
	}
	if w.sources != nil {
		s.PortSets, s.CrowdedSets = w.sources.Sets(), w.sources.Crowded()
	}
	s.Persistence = w.persistenceStats()
	s.Virtual, s.Node = w.virtual.appendTo(s.Virtual), w.node.appendTo(s.Node)
}
