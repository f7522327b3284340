package monitor

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestJitter: no interval is out of bounds, their mean is right, and a seed repeats them.
func TestJitter(t *testing.T) {
	var runs [3][]time.Time
	for i, seed := range []uint64{1, 1, 2} {
		s := &script{}
		bubble(t, Options{Seed: seed}, s, func(t *testing.T, c *Checker) {
			mon := steady(func(m *Monitor) { m.Jitter = 0.2 })
			ok(t, c.Apply([]Member{testMember("a", mon)}))
			time.Sleep(2000 * time.Second)
			runs[i] = s.began("a/tcp")
		})
		least, most := time.Hour, time.Duration(0)
		for j := 1; j < len(runs[i]); j++ {
			gap := runs[i][j].Sub(runs[i][j-1])
			least, most = min(least, gap), max(most, gap)
		}
		if least < 800*time.Millisecond || most > 1200*time.Millisecond || least > 810*time.Millisecond || most < 1190*time.Millisecond {
			t.Errorf("seed %d: intervals from %v to %v", seed, least, most)
		}
		if n := len(runs[i]); n < 1980 || n > 2020 {
			t.Errorf("seed %d: %d probes in 2000 s", seed, n)
		}
	}
	if !slices.Equal(runs[0], runs[1]) {
		t.Error("the same seed gives other times")
	}
	if slices.Equal(runs[0], runs[2]) {
		t.Error("another seed gives the same times")
	}
}

func TestDownInterval(t *testing.T) {
	s := &script{result: outcomes("+---+")}
	bubble(t, Options{}, s, func(t *testing.T, c *Checker) {
		ok(t, c.Apply([]Member{testMember("a", steady(func(m *Monitor) { m.Rise, m.Fall, m.DownInterval = 1, 2, 5*time.Second }))}))
		time.Sleep(20 * time.Second)
		b := s.began("a/tcp")
		for i, want := range []int{1, 1, 5, 5, 1, 1} {
			if gap := b[i+1].Sub(b[i]); gap != time.Duration(want)*time.Second {
				t.Errorf("interval %d is %v, want %d s", i, gap, want)
			}
		}
	})
}

// TestThousands: 5,000 pairs with 64 places. Never more at once, no herd, and the rate of each is kept.
func TestThousands(t *testing.T) {
	s := &script{lasts: 30 * time.Millisecond} // 64 places do 2,133 probes/s, 5,000 pairs at 5 s need 1,000
	bubble(t, Options{}, s, func(t *testing.T, c *Checker) {
		mon := steady(func(m *Monitor) { m.Interval, m.Jitter = 5*time.Second, 0.1 })
		var members []Member
		for i := range 5000 {
			members = append(members, testMember(fmt.Sprintf("m%04d", i), mon))
		}
		ok(t, c.Apply(members))
		const duration = 5 * time.Minute
		begin := time.Now()
		time.Sleep(duration)
		st := c.Statistics()
		if s.peak() > 64 || st.Peak != s.peak() {
			t.Errorf("%d probes at once, the checker says %d", s.peak(), st.Peak)
		}
		if want := 5000 * int(duration/mon.Interval); int(st.Started) < want*99/100 || int(st.Started) > want*101/100 {
			t.Errorf("%d probes, want %d", st.Started, want)
		}
		perSlice := make([]int, duration/(100*time.Millisecond)+1)
		for _, m := range members {
			b := s.began(m.Name + "/tcp")
			if n := len(b); n < 55 || n > 65 {
				t.Fatalf("%s has %d probes in 60 intervals", m.Name, n)
			}
			for _, at := range b {
				perSlice[at.Sub(begin)/(100*time.Millisecond)]++
			}
		}
		if most := slices.Max(perSlice); most > 180 {
			t.Errorf("%d probes within 100 ms, on average 100", most)
		}
		first := slices.Max(perSlice[:45]) // after 4.5 s the second ones begin, with jitter
		if first > 105 {
			t.Errorf("in the first interval %d probes within 100 ms: they are not spread", first)
		}
		t.Logf("%d probes, at most %d at once, within 100 ms at most %d (in the first interval %d), latest %v",
			st.Started, st.Peak, slices.Max(perSlice), first, st.Latest)
	})
}

// TestOverload: with too few places all pairs get a fair share, and it shows.
func TestOverload(t *testing.T) {
	s := &script{lasts: time.Second}
	bubble(t, Options{Limit: 10}, s, func(t *testing.T, c *Checker) {
		var members []Member
		for i := range 100 { // 10 probes/s are done, 100 are due
			members = append(members, testMember(fmt.Sprintf("m%02d", i), steady(nil)))
		}
		ok(t, c.Apply(members))
		time.Sleep(100 * time.Second)
		st := c.Statistics()
		if s.peak() != 10 || st.Started < 980 || st.Started > 1010 || st.Waiting < 80 || st.Latest < 8*time.Second {
			t.Errorf("at most %d at once, %+v", s.peak(), st)
		}
		for _, m := range members {
			if n := len(s.began(m.Name + "/tcp")); n < 9 || n > 11 {
				t.Errorf("%s has %d probes of 1000", m.Name, n)
			}
		}
		ok(t, c.Apply(members[:5])) // those that wait for a place go, too
		time.Sleep(2 * time.Second)
		if st := c.Statistics(); st.Waiting != 0 || st.Running > 5 {
			t.Errorf("after removal: %+v", st)
		}
	})
}
