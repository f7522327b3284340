package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"sluice/perf/gen"
	"sluice/perf/result"
)

// External is a tester's place: two interfaces of this machine with something in between that carries, by cables to another
// machine or by veths to another namespace. The generator sends out of In, and the sink counts at Out; what carries is
// brought up by somebody else.
type External struct {
	In, Out string           // interfaces of this namespace, at the clients' and at the servers' end
	To      netip.Addr       // the virtual server, of UDP port 53; IPv4
	Router  net.HardwareAddr // where packets to it go: the carrier's interface at In
	Name    string           // of what carries, for the cases
}

// outside is a carrier that is nobody's child.
type outside struct{}

func (outside) mode() string    { return "brought up by others" }
func (outside) tasks() []string { return nil }
func (outside) down() error     { return nil }

// LinkExternal measures what is carried between two given interfaces. The carrier must send packets to 198.18.0.0/15 to In.
func LinkExternal(ctx context.Context, o Options, l LinkOptions, e External, rec *result.Recorder) (_ Modes, err error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	in, err := net.InterfaceByName(e.In)
	if err != nil {
		return nil, fmt.Errorf("--in %s: %w", e.In, err)
	}
	if _, err = net.InterfaceByName(e.Out); err != nil {
		return nil, fmt.Errorf("--out %s: %w", e.Out, err)
	}
	here := func(f func() error) error { return f() }
	b := &bed{opt: &o, calm: raiseSession(), to: e.To, clientIf: e.In, serverIf: e.Out, atClients: here, atServers: here}
	b.target = gen.Target{SrcMAC: in.HardwareAddr, DstMAC: e.Router}
	if b.live, err = gen.OpenLive(e.In); err != nil {
		return nil, errors.Join(err, b.calm())
	}
	defer func() {
		o.failed(ctx, rec, err)
		err = errors.Join(err, b.live.Close(), b.calm())
	}()
	c := carrier{name: e.Name, up: func(context.Context, *bed, setup) (running, error) { return outside{}, nil }}
	l.Modes = slices.Clone(l.Modes[:1])
	o.begin(l.externalPlan(&o))
	modes := Modes{}
	for run := range o.Runs {
		for _, k := range l.cases() {
			name := c.name + "/" + k.name()
			o.step("run %d of %d: %s", run+1, o.Runs, name)
			load := b.load(gen.Load{Flows: k.flows, Sizes: frameSizes[k.size], Rate: l.Rate})
			m, err := b.carried(ctx, &l, k, c, load, modes)
			if err != nil {
				return modes, fmt.Errorf("%s: %w", name, err)
			}
			delete(m, "mpps_per_core") // its cores are not ours to see
			rec.Add(name, m)
		}
	}
	return modes, nil
}
