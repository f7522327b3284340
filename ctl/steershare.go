package ctl

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// endpoint is an address and port.
type endpoint = netip.AddrPort

// flowType is what a NIC calls packets of a protocol to or from an address.
func flowType(p Protocol, a endpoint) rings.FlowType {
	v4 := a.Addr().Is4()
	switch {
	case p == UDP && v4:
		return rings.FlowUDP4
	case p == UDP:
		return rings.FlowUDP6
	case p == SCTP && v4:
		return rings.FlowSCTP4
	case p == SCTP:
		return rings.FlowSCTP6
	case v4:
		return rings.FlowTCP4
	}
	return rings.FlowTCP6
}

// hashInput is what a NIC hashes of a packet: the fields in the order source, destination, source port, destination port, in
// network byte order. ok is false for fields that are more than that.
func hashInput(fields rings.HashFields, src, dst endpoint) (input []byte, ok bool) {
	const known = rings.HashSource | rings.HashDestination | rings.HashSourcePort | rings.HashDestPort
	if fields&^known != 0 {
		return nil, false
	}
	if fields&rings.HashSource != 0 {
		input = append(input, src.Addr().AsSlice()...)
	}
	if fields&rings.HashDestination != 0 {
		input = append(input, dst.Addr().AsSlice()...)
	}
	if fields&rings.HashSourcePort != 0 {
		input = binary.BigEndian.AppendUint16(input, src.Port())
	}
	if fields&rings.HashDestPort != 0 {
		input = binary.BigEndian.AppendUint16(input, dst.Port())
	}
	return input, true
}

// samples is how many connections the shares are computed from, for each target.
const samples = 2048

// shares computes, with what the driver reports, which part of the requests and of the answers that arrive on the port will
// be handed over: of random clients, those whose queue is not their owner's. A port without requests or answers has -1.
// What cannot be computed is taken for random.
func (p *steeredPort) shares(r *rings.RSS, cfg *engine.Config, workers int) (requests, answers float64) {
	type count struct{ all, strays float64 }
	var of [2]count
	rng := rand.New(rand.NewPCG(0x5b1ce, 1))
	for _, t := range p.targets {
		c := &of[0]
		if t.member {
			c = &of[1]
		}
		for range samples {
			client := randomClient(rng, t.addr.Addr().Is4())
			src, dst := client, t.addr
			if t.through {
				dst = randomClient(rng, t.addr.Addr().Is4())
			}
			if t.member {
				src, dst = dst, src
			}
			c.all++
			input, ok := hashInput(r.Fields[t.flow], src, dst)
			if !ok || t.translated || r.Function != rings.RSSToeplitz || r.Transform != 0 || len(r.Key) == 0 || len(r.Indirection) == 0 {
				c.strays += 1 - 1/float64(workers)
				continue
			}
			queue := r.Indirection[int(engine.RSSHash(r.Key, input))%len(r.Indirection)]
			owner := cfg.ClientOwner(client.Addr(), client.Port())
			if t.through {
				k := flow.Key{Src: flow.AddrFrom(src.Addr()), Dst: flow.AddrFrom(dst.Addr()), Ports: flow.Ports(src.Port(), dst.Port()), Proto: t.proto}
				owner = cfg.Owner(&k, p.index)
			}
			if int(queue)%workers != owner {
				c.strays++
			}
		}
	}
	share := func(c count) float64 {
		if c.all == 0 {
			return -1
		}
		return c.strays / c.all
	}
	return share(of[0]), share(of[1])
}

func randomClient(rng *rand.Rand, v4 bool) endpoint {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], rng.Uint64())
	binary.BigEndian.PutUint64(b[8:], rng.Uint64())
	addr := netip.AddrFrom16(b)
	if v4 {
		addr = netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrPortFrom(addr, uint16(1024+rng.IntN(64512)))
}
