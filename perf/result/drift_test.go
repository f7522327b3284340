package result

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// Anchors that differ by more than a threshold are remarked for their repetition, either way, in the table and in the file; one whose
// second anchor is missing is not judged.
func TestDrift(t *testing.T) {
	r := NewRecorder("link", Host{})
	for i, pair := range [][2]float64{{2, 1.8}, {2, 1.5}, {2, 2.2}, {1.5, 2}, {2, 0}, {0, 0}, {2, -1}} {
		r.Add("anchor/before", Metrics{"mpps": pair[0]})
		if pair[1] >= 0 {
			r.Add("anchor/after", Metrics{"mpps": pair[1]})
		}
		r.Add("sluice/flows=1", Metrics{"mpps": float64(i + 1)})
	}
	f := r.File()
	var got []int
	for _, d := range f.Drift {
		got = append(got, d.Repetition)
	}
	if len(got) != 3 || got[0] != 2 || got[1] != 4 || got[2] != 5 || f.Drift[0].ChangePercent != -25 || f.Drift[0].Before != 2 || f.Drift[0].After != 1.5 {
		t.Fatalf("%+v", f.Drift)
	}
	const line = "repetition 2: the machine was not the same at its end, the anchor went from 2 to 1.50 Mpps (-25%). Ratios within the repetition still stand, its absolute figures do not; run again on a quiet machine"
	var table, file strings.Builder
	if err := errors.Join(f.WriteTable(&table), f.Write(&file)); err != nil {
		t.Fatal(err)
	}
	var back File
	if err := json.Unmarshal([]byte(file.String()), &back); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(table.String(), line+"\n") || len(back.Drift) != 3 || back.Drift[0].Note != line || len(back.Notes()) != 3 {
		t.Errorf("%s%s", &table, &file)
	}
	quiet := NewRecorder("link", Host{})
	quiet.Add("anchor/before", Metrics{"mpps": 2})
	quiet.Add("anchor/after", Metrics{"mpps": 1.9})
	if f := quiet.File(); f.Drift != nil || f.Notes() != nil {
		t.Errorf("%+v", f.Drift)
	}
}

// A run that an error has ended says so, on one line, and which error it was.
func TestFailed(t *testing.T) {
	r := NewRecorder("link", Host{})
	r.Add("sluice/flows=1", Metrics{"mpps": 1})
	r.Fail("run 2 of 3: sluice/flows=1", errors.New("it died\nof this"))
	f := r.File()
	notes := f.Notes()
	if len(notes) != 1 || !strings.HasPrefix(notes[0], `ended by an error at "run 2 of 3: sluice/flows=1" (it died; of this): every figure is of`) || f.Interrupted == "" {
		t.Errorf("%q", notes)
	}
}

func TestTaken(t *testing.T) {
	var away []time.Duration
	for i := range 100 {
		away = append(away, time.Duration(100-i)*time.Microsecond)
	}
	got := NewTaken(3, away, 200*time.Millisecond)
	if *got != (Taken{Core: 3, PerSecond: 500, P50us: 51, P99us: 100, LongestUs: 100, Percent: 2.525}) {
		t.Errorf("%+v", got)
	}
	const line = "core 3 was taken away from a loop that only reads the clock 500 times a second, half of them for up to 51 us, 99 of 100 for up to 100, longest 100 us"
	if got.String() != line {
		t.Error(got)
	}
	if none := NewTaken(1, nil, time.Second); none.PerSecond != 0 || !strings.Contains(none.String(), "core 1 was not taken away") {
		t.Error(none)
	}
	for scenario, want := range map[string]bool{"latency": true, "link": false} {
		var table strings.Builder
		if err := NewRecorder(scenario, Host{Taken: got}).File().WriteTable(&table); err != nil || strings.Contains(table.String(), line) != want {
			t.Errorf("%s: %v, %s", scenario, err, &table)
		}
	}
}

func TestUncertain(t *testing.T) {
	r := NewRecorder("pipeline", Host{})
	r.Add("nat", Metrics{"parse_ns": 4, "rings_ns": 2})
	r.Uncertain("nat", "parse_ns", 0.212)
	res := r.File().Find("nat")
	if got := res.Cell("parse_ns"); got != "4 ±21%" {
		t.Error(got)
	}
	if got := res.Cell("rings_ns"); got != "2" {
		t.Error(got)
	}
}

func TestAbout(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "about 1 second", 900 * time.Millisecond: "about 1 second", 7 * time.Second: "about 7 seconds", 21 * time.Second: "about 25 seconds", 90 * time.Second: "about 90 seconds",
		95 * time.Second: "about 2 minutes", 12*time.Minute + 20*time.Second: "about 12 minutes", 60 * time.Minute: "about 1 hour", 133 * time.Minute: "about 2 hours 10 minutes",
	} {
		if got := About(d); got != want {
			t.Errorf("%s is %s, not %s", d, got, want)
		}
	}
}

// The estimate is a line that stays, before the steps that it is about; steps that will not come are not waited for.
func TestProgressBegin(t *testing.T) {
	var b strings.Builder
	p := NewProgress(&b, false, 0)
	p.Step("install")
	p.Begin(4, 12*time.Minute, "4 samples")
	p.Step("first")
	p.Leave(2)
	p.Step("second")
	if got := b.String(); !strings.Contains(got, " install\nabout 12 minutes: 4 samples\n") || !strings.Contains(got, "[1/4] first\n") || !strings.Contains(got, "[2/2] second\n") {
		t.Errorf("%q", got)
	}
	var nobody *Progress
	nobody.Begin(1, time.Second, "")
	nobody.Leave(1)
}
