package engine

// yielding is how an adaptive worker shares its core while it looks for packets and finds none: whoever else is ready to run there,
// a server most often, has its turn soon instead of when the worker's slice ends, and what it sends comes as one burst.
// Where nobody is ready, a look costs 0.2 us more. The first looks are without: an answer that comes at once, to an idle balancer, would
// wait for whatever the program's other threads do on that core.
//
// A program that computes without a pause keeps the core for a whole slice each time, some 4 ms, with packets waiting. After such a
// turn the worker gives none for a hundred times as long: it spins, sleeps, and is woken, and the scheduler puts whoever slept
// before such a program. So at most a hundredth of the time is lost to it. No slice is as long as a tenth of a second: what is has
// stopped the process or the machine, which says nothing about the next turn.
type yielding struct {
	refused uint64 // no turns until then; nanoseconds since boot
}

const (
	firstTurn = 12_000 // nanoseconds without packets until others have a turn

	longTurn = 3e6 // nanoseconds; a server's are shorter, but for some
	refusals = 100 // times a long turn
	mostTurn = 1e8 // that is counted
)

// may reports whether the worker gives others a turn now.
func (y *yielding) may(now uint64) bool { return now >= y.refused }

// took notes a turn.
func (y *yielding) took(began, ended uint64) {
	if turn := ended - began; turn >= longTurn {
		y.refused = ended + refusals*min(turn, mostTurn)
	}
}

var giveWay = yieldCore // a variable for tests

// yield gives others a turn while there is nothing to do, since the time idle; now is when the step began. The time is neither busy nor a pause. Not for a
// worker that goes before others on its core: it has it as good as for itself.
func (w *worker) yield(c *clock, idle, now uint64) {
	y := &w.runtime.yielding
	if now-idle < firstTurn || w.runtime.priority.high || !y.may(now) {
		return
	}
	giveWay()
	ended := c.nanos()
	y.took(now, ended)
	w.runtime.activity.last = ended
}
