package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sluice/perf/gen"
	"sluice/perf/result"
)

// ConnectionsOptions are those of Connections.
type ConnectionsOptions struct {
	Loss float64 // of whole TCP connections that is still none, 0 to 1
}

const (
	// fullTable is the table of the case that fills it: the kernel's own limit as a rule, which is the machine's and is not
	// lowered here.
	fullTable = 1 << 18
	roomyRate = 2 << 20 // connections: more than are opened within a sample and the time that they are kept
	fillRate  = 400_000
	// fillPackets are more than the table holds.
	fillPackets = fullTable + fullTable/4
)

// connectionKinds are the cases, each with what it does to a carrier.
var connectionKinds = []struct {
	name    string
	measure func(context.Context, *bed, carrier, running, ConnectionsOptions) (sample, error)
	room    int
	time    func(*Options) time.Duration // that it should take, for the plan
}{
	{"proto=udp/flows=new", udpNew, roomyRate, func(o *Options) time.Duration { return sampleTime + o.Window }},
	{"proto=tcp/flows=new/life=whole", tcpWhole, roomyRate, func(o *Options) time.Duration { return lifeWindows * (pacedTime + o.Window) }},
	{"proto=udp/flows=new/table=full", udpFull, fullTable, func(o *Options) time.Duration {
		return secondsOf(fillPackets, fillRate) + fillTime + sampleTime + o.Window
	}},
}

// connectionCarriers are those that keep connections.
var connectionCarriers = []string{"nftables", "nftables-inline", "sluice"}

// udpNew sends a datagram of every connection, as fast as the generator can.
func udpNew(ctx context.Context, b *bed, c carrier, r running, _ ConnectionsOptions) (sample, error) {
	return b.flatOut(ctx, c, r, b.load(gen.Load{}), requests)
}

// tcpWhole finds the rate at which connections live their whole lives: handshake, both FINs, last ACK.
func tcpWhole(ctx context.Context, b *bed, c carrier, r running, o ConnectionsOptions) (sample, error) {
	return b.lossFree(ctx, c, r, b.load(gen.Load{TCP: true}), lifetimes, 100_000, o.Loss)
}

// udpFull fills the table first, and then goes on.
func udpFull(ctx context.Context, b *bed, c carrier, r running, _ ConnectionsOptions) (sample, error) {
	load := b.load(gen.Load{Rate: fillRate, Packets: fillPackets})
	load.Length = settling + 2*secondsOf(load.Packets, load.Rate)
	if _, err := b.paced(ctx, c, r, load, requests); err != nil {
		return sample{}, err
	}
	return b.flatOut(ctx, c, r, b.load(gen.Load{FirstFlow: uint32(load.Packets)}), requests)
}

// Connections measures how many connections per second can be opened.
func Connections(ctx context.Context, o Options, k ConnectionsOptions, rec *result.Recorder) (_ Modes, err error) {
	if o.Install {
		install(ctx, &o)
	}
	b, err := openBed(ctx, &o)
	if err != nil {
		return nil, err
	}
	defer func() { err = b.end(ctx, rec, err) }()
	o.begin(connectionsPlan(&o))
	modes := Modes{}
	for run := range o.Runs {
		if err := b.anchor(ctx, rec, "before"); err != nil {
			return modes, err
		}
		for _, kind := range connectionKinds {
			rates := map[string]float64{}
			for _, c := range o.connectionsTurn(run) {
				name := c.name + "/" + kind.name
				o.step("run %d of %d: %s", run+1, o.Runs, name)
				r, err := c.up(ctx, b, setup{core: o.CarrierCore, connections: kind.room})
				if absent(err) {
					rec.Skip(name, err.Error())
					continue
				}
				if err != nil {
					return modes, fmt.Errorf("%s: %w", name, err)
				}
				modes[c.name] = r.mode()
				s, err := kind.measure(ctx, b, c, r, k)
				if err := errors.Join(err, s.mismatch, r.down()); err != nil {
					return modes, fmt.Errorf("%s: %w", name, err)
				}
				m := result.Metrics{"connections_per_second": s.rate}
				if len(r.tasks()) > 0 {
					m["cpu_percent"] = 100 * s.cpu
				}
				rates[c.name] = s.rate
				if s.share > 0 { // flat out
					m["core_percent"], m["connections_per_core_second"] = 100*s.share, s.rate/s.cpu
					rates[c.name] = s.rate / s.cpu
				}
				rec.Add(name, m)
			}
			m := result.Metrics{}
			for peer, v := range rates {
				if peer != "sluice" && v > 0 && rates["sluice"] > 0 {
					m[result.Ratio("", peer)] = rates["sluice"] / v
				}
			}
			if len(m) > 0 {
				rec.Add("sluice/"+kind.name, m)
			}
		}
		if err := b.anchor(ctx, rec, "after"); err != nil {
			return modes, err
		}
	}
	return modes, nil
}
