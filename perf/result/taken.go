package result

import (
	"fmt"
	"slices"
	"time"
)

// Taken says how often, and for how long, a core was taken away from a loop that did nothing but read the clock: by the kernel's tick and
// other interrupts, by other programs, and on a virtual machine by the host. A packet that is on the core at such a moment waits as long.
type Taken struct {
	Core      int     `json:"core"`
	PerSecond float64 `json:"per_second"`
	P50us     float64 `json:"p50_us"` // half of the times were no longer
	P99us     float64 `json:"p99_us"`
	LongestUs float64 `json:"longest_us"`
	Percent   float64 `json:"percent"` // of the core's time, of all
}

// NewTaken sums up the times for which a core was away while a loop had it for so long.
func NewTaken(core int, away []time.Duration, long time.Duration) *Taken {
	t := &Taken{Core: core}
	if len(away) == 0 || long <= 0 {
		return t
	}
	away = slices.Sorted(slices.Values(away))
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	sum := time.Duration(0)
	for _, d := range away {
		sum += d
	}
	t.PerSecond, t.Percent = float64(len(away))/long.Seconds(), 100*float64(sum)/float64(long)
	t.P50us, t.P99us, t.LongestUs = us(away[len(away)/2]), us(away[min(len(away)-1, len(away)*99/100)]), us(away[len(away)-1])
	return t
}

// String is one line for people.
func (t *Taken) String() string {
	if t.PerSecond == 0 {
		return fmt.Sprintf("core %d was not taken away from a loop that only reads the clock", t.Core)
	}
	return fmt.Sprintf("core %d was taken away from a loop that only reads the clock %.0f times a second, half of them for up to %.0f us, 99 of 100 for up to %.0f, longest %.0f us",
		t.Core, t.PerSecond, t.P50us, t.P99us, t.LongestUs)
}
