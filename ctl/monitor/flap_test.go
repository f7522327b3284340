package monitor

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestFlapStorm: 100 members change ten times a second for 60 s, while the configuration changes. Each verdict is
// compared with a naive reading of all results of that pair.
func TestFlapStorm(t *testing.T) {
	const seed = 3
	random, order := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
	results := map[string]string{}
	s := &script{lasts: 2 * time.Millisecond}
	s.result = func(pair string, n int) Result {
		r := string("+-?"[min(random.IntN(21)/10, 2)])
		if strings.HasPrefix(pair, "still") {
			r = "+"
		}
		results[pair] += r
		return outcomes(r)(pair, 0)
	}
	verdicts := map[string][]Verdict{}
	o := Options{Seed: seed, OnMonitor: func(e Event) {
		name := e.Member + "/" + e.Monitor
		verdicts[name] = append(verdicts[name], e.To)
	}}
	total := 0
	bubble(t, o, s, func(t *testing.T, c *Checker) {
		mon := steady(func(m *Monitor) {
			m.Interval, m.Timeout, m.Jitter, m.Rise, m.Fall = 100*time.Millisecond, 100*time.Millisecond, 0.5, 1, 2
		})
		var members []Member
		for i := range 100 {
			members = append(members, testMember(fmt.Sprintf("flap%02d", i), mon), testMember(fmt.Sprintf("still%02d", i), mon))
		}
		for range 60 {
			same := *mon
			for i := range members {
				members[i].Monitors = []*Monitor{&same}
			}
			order.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
			ok(t, c.Apply(members))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		for _, m := range members {
			name := m.Name + "/tcp"
			var want []Verdict
			now := Checking
			row := strings.ReplaceAll(results[name], "?", "")
			for i := range row {
				next := now
				if row[i] == '+' {
					next = Up
				} else if i > 0 && row[i-1] == '-' {
					next = Down
				}
				if next != now {
					want, now = append(want, next), next
				}
			}
			total += len(want)
			// The last one may still be on its way.
			if got := verdicts[name]; !slices.Equal(got, want) {
				t.Fatalf("seed %d: %s: %s\ngives %v\nwant  %v", seed, name, results[name], got, want)
			}
			if strings.HasPrefix(name, "still") && len(want) != 1 {
				t.Errorf("%s changed %d times", name, len(want))
			}
		}
		if st := c.Statistics(); st.Waiting > 0 || st.Events > 0 {
			t.Errorf("%+v", st)
		}
	})
	t.Logf("%d changes of verdict", total)
	if total < 100*60*2 {
		t.Errorf("only %d changes: no storm", total)
	}
}
