package result

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// golden is the form that readers of --json rely on; it changes only on purpose.
const golden = `{
  "scenario": "pipeline",
  "host": {
    "cpu": "a CPU",
    "cores": 2,
    "memory_bytes": 1024,
    "kernel": "Linux 6.18",
    "go": "go1.26 amd64",
    "huge_pages": "0",
    "governor": "performance",
    "virtualisation": "KVM",
    "load": "0.1",
    "sluice": "0.1.0",
    "date": "2026-01-02T03:04:05Z",
    "driver": "mem",
    "commands": [
      "sluice perf pipeline"
    ]
  },
  "results": [
    {
      "case": "nat/flows=1000000/workers=1",
      "metrics": {
        "mpps": 20,
        "ns_per_packet": 50
      },
      "samples": {
        "mpps": [
          25,
          20,
          10
        ],
        "ns_per_packet": [
          40,
          50,
          100
        ]
      }
    }
  ],
  "skipped": [
    {
      "case": "nat/flows=10000000/workers=1",
      "reason": "no memory"
    }
  ]
}
`

func record() *File {
	r := NewRecorder("pipeline", Host{
		CPU: "a CPU", Cores: 2, MemoryBytes: 1024, Kernel: "Linux 6.18", Go: "go1.26 amd64", HugePages: "0", Governor: "performance",
		Virtualisation: "KVM", Load: "0.1", Sluice: "0.1.0", Date: "2026-01-02T03:04:05Z", Driver: "mem", Commands: []string{"sluice perf pipeline"},
	})
	for _, ns := range []float64{40, 50, 100} {
		r.Add("nat/flows=1000000/workers=1", Metrics{"ns_per_packet": ns})
		r.Add("nat/flows=1000000/workers=1", Metrics{"mpps": 1000 / ns})
	}
	r.Skip("nat/flows=10000000/workers=1", "no memory")
	r.Skip("nat/flows=10000000/workers=1", "no memory")
	return r.File()
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := record().Write(&b); err != nil {
		t.Fatal(err)
	}
	if b.String() != golden {
		t.Errorf("the form has changed:\n%s", &b)
	}
	name := filepath.Join(t.TempDir(), "a.json")
	if err := record().WriteFile(name); err != nil {
		t.Fatal(err)
	}
	if back, err := ReadFile(name); err != nil || !reflect.DeepEqual(back, record()) {
		t.Errorf("read back %+v, %v", back, err)
	}
	// The least that the form asks for is enough.
	least := &File{}
	if err := json.Unmarshal([]byte(`{"scenario":"x","host":{},"results":[{"case":"a","metrics":{"mpps":1}}]}`), least); err != nil {
		t.Fatal(err)
	}
	if v := least.Results[0].Values("mpps"); len(v) != 1 || v[0] != 1 {
		t.Errorf("values without samples: %v", v)
	}
}

func TestMedianAndSpread(t *testing.T) {
	for _, c := range []struct {
		in     []float64
		median float64
		spread string
	}{
		{nil, 0, ""}, {[]float64{3}, 3, ""}, {[]float64{1, 100, 2}, 2, "±4900%"}, {[]float64{4, 1, 2, 3}, 2.5, "±60%"}, {[]float64{10, 10, 11}, 10, "±10%"},
	} {
		if got := Median(c.in); got != c.median {
			t.Errorf("median of %v is %v, not %v", c.in, got, c.median)
		}
		if got := FormatSpread(c.in); got != c.spread {
			t.Errorf("spread of %v is %q, not %q", c.in, got, c.spread)
		}
	}
	in := []float64{3, 1, 2}
	Median(in)
	if !reflect.DeepEqual(in, []float64{3, 1, 2}) {
		t.Error("the median has sorted its argument")
	}
}

func fileOf(metric string, samples ...float64) *File {
	r := NewRecorder("x", Host{})
	for _, v := range samples {
		r.Add("a", Metrics{metric: v})
	}
	return r.File()
}

func TestCompare(t *testing.T) {
	slow, fast := []float64{50, 51, 52, 53, 54}, []float64{25, 26, 27, 28, 29}
	for _, c := range []struct {
		name, metric, change string
		old, new             []float64
		worse                float64
	}{
		{"faster", "ns_per_packet", "-48.1%", slow, fast, -48.1},
		{"slower", "ns_per_packet", "+92.6%", fast, slow, 92.6},
		{"less is worse", "mpps", "-48.1%", slow, fast, 48.1},
		{"more is better", "mpps", "+92.6%", fast, slow, -92.6},
		{"the same", "ns_per_packet", "~", slow, slow, 0},
		{"noise", "ns_per_packet", "~", []float64{50, 10, 90, 30, 70}, []float64{52, 12, 88, 33, 71}, 4},
		{"too few to tell", "ns_per_packet", "~", []float64{10}, []float64{20}, 100},
		{"from nothing", "allocations_per_packet", "from 0", []float64{0, 0, 0, 0, 0}, []float64{1, 1, 1, 1, 1}, 100},
		{"about the surroundings", "generator_ns_per_packet", "+92.6%", fast, slow, 0},
	} {
		both, onlyOld, onlyNew := Compare(fileOf(c.metric, c.old...), fileOf(c.metric, c.new...))
		if len(both) != 1 || onlyOld != nil || onlyNew != nil {
			t.Fatalf("%s: %v %v %v", c.name, both, onlyOld, onlyNew)
		}
		if got := both[0]; got.Change() != c.change || math.Abs(got.Worse-c.worse) > 0.05 {
			t.Errorf("%s: %s, worse by %.2f, p=%.3f", c.name, got.Change(), got.Worse, got.P)
		}
	}
	a, b := fileOf("mpps", 1), fileOf("mpps", 1)
	b.Results[0].Case = "b"
	if both, onlyOld, onlyNew := Compare(a, b); len(both) != 0 || !reflect.DeepEqual(onlyOld, []string{"a"}) || !reflect.DeepEqual(onlyNew, []string{"b"}) {
		t.Errorf("different cases: %v %v %v", both, onlyOld, onlyNew)
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := record().WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ns/packet", "Mpps", "50 ±100%", "skipped nat/flows=10000000/workers=1: no memory"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}

// A case without some metrics has the others under their headings.
func TestTableWithGaps(t *testing.T) {
	r := NewRecorder("x", Host{})
	r.Add("anchor/before", Metrics{"mpps": 2})
	r.Add("a/with-a-long-name", Metrics{"p50_us": 10_000, "p99_us": 7, "p99_to_haproxy": 5})
	r.Add("anchor/after", Metrics{"mpps": 2})
	r.Add("b", Metrics{"p50_us": 1, "p50_to_haproxy": 3})
	var b strings.Builder
	if err := r.File().WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	for line, want := range map[int]map[string]string{1: {"Mpps": "2"}, 2: {"p50 us": "10000", "p99 us": "7", "p99 x haproxy": "5"}, 4: {"p50 us": "1", "p50 x haproxy": "3"}} {
		for title, value := range want {
			at := strings.Index(lines[0], title)
			if at < 0 || !strings.HasPrefix(lines[line][min(at, len(lines[line])):], value) {
				t.Errorf("%s is not under %s in\n%s", value, title, &b)
			}
		}
	}
}

// Cases of the XDP program have its time under a heading of its own, and in the file under the name that it always had.
func TestProgramHasAHeadingOfItsOwn(t *testing.T) {
	r := NewRecorder("scale", Host{})
	r.Add("nat/flows=1000/workers=1", Metrics{"ns_per_packet": 20})
	r.Add("program/rules=10", Metrics{"ns_per_packet": 51, "to_first": 1.02})
	f := r.File()
	var table, file strings.Builder
	if err := errors.Join(f.WriteTable(&table), f.Write(&file)); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(table.String(), "\n")
	if at := strings.Index(lines[0], "ns/run of XDP program"); at < 0 || !strings.HasPrefix(lines[2][at:], "51") || strings.Contains(lines[1], "51") || strings.Fields(lines[2])[1] != "51" {
		t.Errorf("%s", &table)
	}
	if strings.Contains(file.String(), "program_ns") || strings.Count(file.String(), "\"ns_per_packet\": 51") != 1 {
		t.Errorf("%s", &file)
	}
	if got := strings.Join(f.Columns(Main), " "); got != "ns_per_packet program_ns to_first" {
		t.Errorf("columns: %s", got)
	}
	both, _, _ := Compare(f, f)
	if len(both) != 3 || both[1].Metric != "program_ns" || both[1].NewMedian != 51 || len(both[1].New) != 1 || both[1].Ratio != 1 {
		t.Errorf("%+v", both)
	}
}

func TestWordsOf(t *testing.T) {
	r := NewRecorder("link", Host{})
	r.Add("nic-7/flows=1000", Metrics{"mpps": 1})
	r.Add("forward/flows=new/mode=generic", Metrics{"mpps": 1})
	r.Skip("http", "no wrk")
	r.Skip("sluice/flows=1/mode=zero-copy", "not here")
	p := NewRecorder("pipeline", Host{})
	p.Add("forward/flows=7/workers=1/new-word=1", Metrics{"ns_per_packet": 1})
	var got []string
	list := WordsOf([]*File{r.File(), p.File()})
	for _, w := range list {
		got = append(got, w.Word)
	}
	if want := "nic-7 forward forward sluice flows=N flows=new workers=N mode=generic mode=zero-copy"; strings.Join(got, " ") != want {
		t.Errorf("%q, not %q", got, want)
	}
	// The same word is one thing as a mode and another as a carrier.
	if list[1].Kind != ModeWord || list[2].Kind != CarrierWord || list[1].About == list[2].About {
		t.Errorf("%+v", list[1:3])
	}
	for _, c := range []struct {
		part string
		at   int
	}{{"nat", 1}, {"flows", 1}, {"flows=", 1}, {"flows=x", 1}, {"size=N", 1}, {"flows=1", 0}} {
		if w, ok := WordOf("pipeline", c.part, c.at); ok {
			t.Errorf("%q at %d is %+v", c.part, c.at, w)
		}
	}
}

func TestInterruptedFile(t *testing.T) {
	r := NewRecorder("link", Host{})
	r.Add("anchor/before", Metrics{"mpps": 1})
	r.Interrupt("run 1 of 3: sluice/flows=1")
	if r.File().Measured() {
		t.Error("an anchor alone is taken for a measurement")
	}
	r.Add("sluice/flows=1", Metrics{"mpps": 1})
	f := r.File()
	var table, file strings.Builder
	if err := errors.Join(f.WriteTable(&table), f.Write(&file)); err != nil || !f.Measured() {
		t.Fatal(err)
	}
	if !strings.Contains(file.String(), `"interrupted": "run 1 of 3: sluice/flows=1"`) || !strings.Contains(table.String(), `interrupted at "run 1 of 3: sluice/flows=1"`) {
		t.Errorf("%s%s", &file, &table)
	}
}

func TestFormatValue(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 3: "3", 1234.5: "1234", 123.4: "123", 12.34: "12.3", 1.234: "1.23", 0.001234: "0.0012", -0.5: "-0.50"} {
		if got := FormatValue(v); got != want {
			t.Errorf("%v is shown as %s, not %s", v, got, want)
		}
	}
}

func TestThisHost(t *testing.T) {
	h := ThisHost("1.2.3", "sluice perf x")
	if h.Cores < 1 || h.MemoryBytes < 1<<20 || !strings.HasPrefix(h.Kernel, "Linux ") || !strings.HasPrefix(h.Sluice, "1.2.3") || h.Date == "" ||
		h.CPU == "" || h.HugePages == "" || h.Governor == "" || h.Virtualisation == "" || len(h.Commands) != 1 {
		t.Errorf("%+v", h)
	}
	t.Logf("%+v", h)
}

func TestProgress(t *testing.T) {
	var b strings.Builder
	p := NewProgress(&b, false, 2)
	p.Step("first %d", 1)
	p.Step("second")
	p.Done()
	if got := b.String(); !strings.Contains(got, "[1/2] first 1\n") || !strings.Contains(got, "[2/2] second\n") {
		t.Errorf("%q", got)
	}
	if p.Now() != "second" {
		t.Errorf("it is at %q", p.Now())
	}
	(*Progress)(nil).Step("nobody listens")
	if got := (*Progress)(nil).Now(); got == "" {
		t.Error("nothing is no step")
	}
}
