package ctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sluice/engine"
	"sluice/rings"
)

// driver is a NIC's driver with what it lets itself be told.
type driver struct {
	now       rings.RSS
	queues    int
	fields    func(rings.HashFields) bool // nil: all are taken
	noKey     bool
	noTable   bool
	sets      int
	silent    bool // takes fields and does not do it
	unplugged bool
}

// newDriver is one as it is after boot.
func newDriver(queues, size, key int) *driver {
	d := &driver{queues: queues, now: rings.RSS{Function: rings.RSSToeplitz, Key: make([]byte, key), Fields: map[rings.FlowType]rings.HashFields{}}}
	for i := range d.now.Key {
		d.now.Key[i] = byte(31*i + 7)
	}
	for i := range size {
		d.now.Indirection = append(d.now.Indirection, uint32(i%queues))
	}
	for _, t := range rings.FlowTypes {
		d.now.Fields[t] = rings.HashSource | rings.HashDestination | rings.HashSourcePort | rings.HashDestPort
	}
	return d
}

// drivers are RSSControl by name of the interface.
type drivers map[string]*driver

func (ds drivers) of(ifname string) (*driver, error) {
	d := ds[ifname]
	if d == nil || d.unplugged {
		return nil, fmt.Errorf("%w: operation not supported", rings.ErrRefused)
	}
	return d, nil
}

func (ds drivers) Read(ifname string) (rings.RSS, error) {
	d, err := ds.of(ifname)
	if err != nil {
		return rings.RSS{}, err
	}
	r := d.now
	r.Key, r.Indirection = slices.Clone(r.Key), slices.Clone(r.Indirection)
	r.Fields = map[rings.FlowType]rings.HashFields{}
	for t, f := range d.now.Fields {
		r.Fields[t] = f
	}
	return r, nil
}

func (ds drivers) SetFields(ifname string, t rings.FlowType, fields rings.HashFields) error {
	d, err := ds.of(ifname)
	if err != nil {
		return err
	}
	if d.fields != nil && !d.fields(fields) {
		return fmt.Errorf("%w: fields %s: invalid argument", rings.ErrRefused, fields)
	}
	d.sets++
	if !d.silent {
		d.now.Fields[t] = fields
	}
	return nil
}

func (ds drivers) SetHash(ifname string, function, transform uint32, key []byte) error {
	d, err := ds.of(ifname)
	if err != nil {
		return err
	}
	if d.noKey || len(key) != len(d.now.Key) {
		return fmt.Errorf("%w: key: operation not supported", rings.ErrRefused)
	}
	d.sets++
	d.now.Function, d.now.Transform, d.now.Key = function, transform, slices.Clone(key)
	return nil
}

func (ds drivers) SetIndirection(ifname string, table []uint32) error {
	d, err := ds.of(ifname)
	if err != nil {
		return err
	}
	if d.noTable || table != nil && len(table) != len(d.now.Indirection) {
		return fmt.Errorf("%w: table: operation not supported", rings.ErrRefused)
	}
	d.sets++
	for i := range d.now.Indirection {
		d.now.Indirection[i] = uint32(i % d.queues)
		if table != nil {
			if int(table[i]) >= d.queues {
				return errors.New("a queue that there is not")
			}
			d.now.Indirection[i] = table[i]
		}
	}
	return nil
}

const steerFile = `
ports:
  - {name: outside, interface: eth1, mac: 02:00:00:00:01:01, addresses: [172.16.10.1/24, "fd00:172::1/64"]}
  - {name: inside, interface: eth2, mac: 02:00:00:00:01:02, addresses: [192.168.20.254/24, "fd00:192::1/64"]}
neighbours:
  - {address: 192.168.20.1, mac: 02:00:00:00:14:01, port: inside}
  - {address: "fd00:192::2", mac: 02:00:00:00:14:02, port: inside}
pools:
  - {name: web, members: [{address: 192.168.20.1:8080}]}
  - {name: web6, members: [{address: "[fd00:192::2]:8080"}]}
virtual-servers:
  - {name: web, address: 10.10.1.100:80, protocol: tcp, pool: web}
  - {name: dns, address: 10.10.1.100:53, protocol: udp, pool: web}
  - {name: web6, address: "[fd00:10::100]:80", protocol: tcp, pool: web6}
`

// steerBed is a Server as far as steering looks at it, over drivers eth1 and eth2.
func steerBed(t *testing.T, text string, workers int, ds drivers) *Server {
	t.Helper()
	f, err := Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{assembly: assembly{file: f, log: slog.New(slog.DiscardHandler), plan: &plan{workers: workers}}}
	for i := range f.Ports {
		queues := 1
		if d := ds[f.Ports[i].Interface]; d != nil {
			queues = d.queues
		}
		s.ifaces = append(s.ifaces, iface{name: f.Ports[i].Interface, index: i + 1, mac: [6]byte(f.Ports[i].MAC), queues: queues})
	}
	s.nics = &nics{ds, func(index int, mac [6]byte) string {
		if ds[f.Ports[index-1].Interface] == nil {
			return ""
		}
		return f.Ports[index-1].Interface
	}}
	s.state = &kernelState{path: filepath.Join(t.TempDir(), "net.json"), nics: s.nics}
	return s
}

func (s *Server) steerNow(t *testing.T) {
	t.Helper()
	top, err := s.file.offline()
	if err != nil {
		t.Fatal(err)
	}
	spec := s.file.spec(top, s.plan.workers, 1)
	spec.RSSTableSize = s.nics.smallestTable(s.ifaces)
	cfg, err := engine.NewConfig(spec, engine.NewDictionary())
	if err != nil {
		t.Fatal(err)
	}
	s.steer(cfg)
}

func TestSteering(t *testing.T) {
	four := func(f rings.HashFields) bool { return f == 0xf0 }
	for _, c := range []struct {
		name    string
		change  func(ds drivers)
		workers int
		want    [2]string // prefix, by port
		share   [2]float64
		touched bool // the first port's key and table
	}{
		{"takes all", func(drivers) {}, 4, [2]string{"full", "full"}, [2]float64{}, true},
		{"three workers", func(drivers) {}, 3, [2]string{"full", "full"}, [2]float64{}, true},
		{"one worker", func(drivers) {}, 1, [2]string{"not needed", "not needed"}, [2]float64{}, false},
		{"small tables", func(ds drivers) { *ds["eth1"], *ds["eth2"] = *newDriver(4, 128, 40), *newDriver(4, 64, 52) }, 3, [2]string{"full", "full"}, [2]float64{}, true},
		{"more queues than workers", func(ds drivers) { *ds["eth1"] = *newDriver(8, 512, 52) }, 3, [2]string{"full", "full"}, [2]float64{}, true},
		{"four fields or none", func(ds drivers) { ds["eth1"].fields, ds["eth2"].fields = four, four }, 4,
			[2]string{"none (driver refuses: fields sf: invalid argument)", "none (driver refuses: fields dn: invalid argument)"}, [2]float64{0.75, 0.75}, false},
		{"no fields by destination", func(ds drivers) { ds["eth2"].fields = four }, 2, [2]string{"full", "none (driver refuses: fields dn"}, [2]float64{0, 0.5}, true},
		{"no key", func(ds drivers) { ds["eth1"].noKey = true }, 2, [2]string{"none (driver refuses: key", "full"}, [2]float64{0.5, 0}, false},
		// With our key the whole tuple's hash is the client's with that of the virtual server, constant for each, over it: of
		// three, two are on the wrong side.
		{"says yes and does nothing", func(ds drivers) { ds["eth1"].silent = true }, 2, [2]string{"none", "full"}, [2]float64{0.667, 0}, true},
		{"nothing at all", func(ds drivers) { delete(ds, "eth1"); delete(ds, "eth2") }, 2,
			[2]string{"none (driver refuses: operation not supported)", "none (driver refuses"}, [2]float64{0.5, 0.5}, false},
		{"an odd table", func(ds drivers) { *ds["eth1"] = *newDriver(4, 96, 40) }, 3, [2]string{"none (driver refuses: its table has 96", "full"}, [2]float64{0.67, 0}, true},
		{"fewer queues than workers", func(ds drivers) { *ds["eth1"] = *newDriver(2, 256, 40) }, 4, [2]string{"partly: ", "full"}, [2]float64{0.5, 0}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ds := drivers{"eth1": newDriver(4, 256, 40), "eth2": newDriver(4, 256, 40)}
			c.change(ds)
			before := map[string]rings.RSS{}
			for name := range ds {
				before[name], _ = ds.Read(name)
			}
			s := steerBed(t, steerFile, c.workers, ds)
			s.steerNow(t)
			for i, got := range s.steerings {
				if !strings.HasPrefix(got.Text, c.want[i]) || math.Abs(got.Share-c.share[i]) > 0.05 {
					t.Errorf("port %d: %+v, want %s and %.2f", i, got, c.want[i], c.share[i])
				}
			}
			if d := ds["eth1"]; d != nil && reflect.DeepEqual(before["eth1"].Key, d.now.Key) == c.touched {
				t.Errorf("the key is %x", d.now.Key)
			}
			if err := s.restoreAll(); err != nil {
				t.Fatal(err)
			}
			for name := range ds {
				if now, _ := ds.Read(name); !reflect.DeepEqual(now, before[name]) {
					t.Errorf("%s was not put back: %+v, was %+v", name, now, before[name])
				}
			}
		})
	}
}

func (s *Server) restoreAll() error {
	_, err := s.state.restoreSteering("")
	return err
}

// A table that was there before is put back as it was, the driver's own as the driver's own.
func TestSteeringPutsBack(t *testing.T) {
	ds := drivers{"eth1": newDriver(4, 256, 40), "eth2": newDriver(4, 256, 40)}
	for i := range ds["eth2"].now.Indirection {
		ds["eth2"].now.Indirection[i] = uint32(i / 64)
	}
	own, _ := ds.Read("eth2")
	s := steerBed(t, steerFile, 2, ds)
	s.steerNow(t)
	// A killed engine: its successor knows what the note says, and steers anew.
	var err error
	next := steerBed(t, steerFile, 4, ds)
	next.state = &kernelState{path: s.state.path, nics: s.nics, Steering: s.state.Steering}
	if b := readNote(t, s.state.path); !reflect.DeepEqual(b.Steering, s.state.Steering) {
		t.Fatalf("the note says %+v, not %+v", b.Steering, s.state.Steering)
	}
	if _, err = next.state.restoreSteering(""); err != nil {
		t.Fatal(err)
	}
	if now, _ := ds.Read("eth2"); !reflect.DeepEqual(now, own) {
		t.Errorf("%+v", now)
	}
	next.steerNow(t)
	if len(next.state.Steering) != 2 || !reflect.DeepEqual(next.state.Steering[1].Before, own) {
		t.Errorf("noted %+v", next.state.Steering)
	}
	// One port only, then one that is gone.
	if names, err := next.state.restoreSteering("eth1"); err != nil || !slices.Equal(names, []string{"eth1"}) || len(next.state.Steering) != 1 {
		t.Errorf("%v, %v", names, err)
	}
	delete(ds, "eth2")
	if names, err := next.state.restoreSteering(""); err != nil || len(names) != 0 || len(next.state.Steering) != 0 {
		t.Errorf("%v, %v", names, err)
	}
}

// Steering follows workers and the setting, and is done once for each.
func TestSteeringFollows(t *testing.T) {
	ds := drivers{"eth1": newDriver(4, 256, 40), "eth2": newDriver(4, 256, 40)}
	before, _ := ds.Read("eth1")
	s := steerBed(t, steerFile, 2, ds)
	s.steerNow(t)
	sets := ds["eth1"].sets
	s.steerNow(t)
	if ds["eth1"].sets != sets {
		t.Error("set again without need")
	}
	s.plan = &plan{workers: 3}
	s.steerNow(t)
	if got := s.steerings; got[0].Text != "full" || got[1].Text != "full" || ds["eth1"].sets != sets+1 {
		t.Errorf("after scaling: %+v, %d sets", got, ds["eth1"].sets-sets)
	}
	s.file.Engine.Steering = SteeringOff
	s.steerNow(t)
	if now, _ := ds.Read("eth1"); !reflect.DeepEqual(now, before) || s.steerings[0].Text != "off" {
		t.Errorf("off: %+v, %+v", s.steerings, now)
	}
}

// On one arm requests are steered and answers are handed over; client-end: address needs no ports.
func TestSteeringSides(t *testing.T) {
	one := strings.ReplaceAll(steerFile, "port: inside", "port: outside")
	one = strings.ReplaceAll(one, `  - {name: inside, interface: eth2, mac: 02:00:00:00:01:02, addresses: [192.168.20.254/24, "fd00:192::1/64"]}`+"\n", "")
	one = strings.ReplaceAll(one, "addresses: [172.16.10.1/24,", `addresses: [192.168.20.254/24, "fd00:192::1/64", 172.16.10.1/24,`)
	ds := drivers{"eth1": newDriver(4, 256, 40), "eth2": newDriver(4, 256, 40)}
	s := steerBed(t, one, 2, ds)
	s.steerNow(t)
	if got := s.steerings[0]; got.Text != "half: answers are handed over" || math.Abs(got.Share-0.25) > 0.05 {
		t.Errorf("one arm: %+v", got)
	}
	ds = drivers{"eth1": newDriver(4, 256, 40), "eth2": newDriver(4, 256, 40)}
	lines := strings.Split(steerFile, "\n") // the inside first: virtual addresses are put there, clients come from outside all the same
	lines[2], lines[3] = lines[3], lines[2]
	s = steerBed(t, strings.Join(lines, "\n"), 2, ds)
	s.steerNow(t)
	if s.steerings[0].Text != "full" || s.steerings[1].Text != "full" || ds["eth2"].now.Fields[rings.FlowTCP4] != rings.HashDestination|rings.HashDestPort {
		t.Errorf("inside first: %+v, %v", s.steerings, ds["eth2"].now.Fields)
	}
	ds = drivers{"eth1": newDriver(4, 256, 40), "eth2": newDriver(4, 256, 40)}
	s = steerBed(t, "engine: {client-end: address}\n"+steerFile, 4, ds)
	s.steerNow(t)
	if s.steerings[0].Text != "full" || s.steerings[1].Text != "full" || ds["eth1"].now.Fields[rings.FlowTCP4] != rings.HashSource || ds["eth2"].now.Fields[rings.FlowTCP6] != rings.HashDestination {
		t.Errorf("client-end address: %+v, %v, %v", s.steerings, ds["eth1"].now.Fields, ds["eth2"].now.Fields)
	}
	if ds["eth1"].now.Fields[rings.FlowSCTP4] != 0xf0 {
		t.Error("packets that nobody serves were touched")
	}
}

func TestHashInput(t *testing.T) {
	src, dst := netip.MustParseAddrPort("1.2.3.4:258"), netip.MustParseAddrPort("5.6.7.8:772")
	for fields, want := range map[rings.HashFields][]byte{
		0xf0: {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4}, rings.HashSource | rings.HashSourcePort: {1, 2, 3, 4, 1, 2},
		rings.HashDestination | rings.HashDestPort: {5, 6, 7, 8, 3, 4}, 0: nil,
	} {
		if got, ok := hashInput(fields, src, dst); !ok || !slices.Equal(got, want) {
			t.Errorf("%s: %v %v", fields, got, ok)
		}
	}
	if _, ok := hashInput(rings.HashSource|2, src, dst); ok {
		t.Error("a MAC address is no field of ours")
	}
}

func readNote(t *testing.T, path string) (s kernelState) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	return s
}
