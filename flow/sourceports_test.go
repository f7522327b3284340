package flow

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"
)

func destination(i int) Destination {
	return Destination{Server: AddrFrom4(0xc0a81400 + uint32(i)), SNAT: uint32(7 + i&1), Port: 80, Proto: TCP}
}

type takenPort struct {
	Destination
	port uint16
}

// Against a model: a map of what is taken, and a count of what a bin has left. Every port that the model says is free can be
// had, none twice, none of another bin, none out of the range.
func TestSourcePortsModel(t *testing.T) {
	for _, r := range []PortRange{{1024, 65535}, {32768, 60999}, {1, 65535}, {5000, 5255}, {300, 1299}, {65535, 65535}} {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, uint64(r.First)))
		const capacity = 4000
		p := NewSourcePorts(capacity, Secret{seed, 2, 3, 4})
		model := map[takenPort]bool{}
		var list []takenPort
		inSet := map[Destination]int{}
		for range 60_000 {
			d, bin := destination(rng.IntN(3)), uint8(rng.IntN(6))
			of := d
			of.bin = bin
			switch {
			case rng.IntN(5) < 3 && len(list) < capacity:
				prefer := uint16(rng.Uint32())
				if rng.IntN(2) == 0 {
					prefer = prefer&^255 | uint16(bin)
				}
				wanted := uint8(prefer) == bin && prefer >= r.First && prefer <= r.Last && !model[takenPort{d, prefer}]
				port, ok := p.Take(d, bin, r, prefer)
				if free := naivePorts(r, bin) - inSet[of]; ok != (free > 0) {
					t.Fatalf("seed %d range %v bin %d: %v with %d free", seed, r, bin, ok, free)
				}
				if !ok {
					continue
				}
				if wanted && port != prefer {
					t.Fatalf("seed %d: %d was free and preferred, got %d", seed, prefer, port)
				}
				if uint8(port) != bin || port < r.First || port > r.Last || model[takenPort{d, port}] {
					t.Fatalf("seed %d range %v bin %d: port %d, taken %v", seed, r, bin, port, model[takenPort{d, port}])
				}
				model[takenPort{d, port}] = true
				list = append(list, takenPort{d, port})
				inSet[of]++
			case rng.IntN(4) == 0 && len(list) < capacity:
				port := uint16(rng.Uint32())
				of.bin = uint8(port)
				if free := p.Mark(d, port); free == model[takenPort{d, port}] {
					t.Fatalf("seed %d: mark says free %v", seed, free)
				} else if free {
					model[takenPort{d, port}] = true
					list = append(list, takenPort{d, port})
					if r.Contains(port) {
						inSet[of]++
					}
				}
			case len(list) > 0:
				i := rng.IntN(len(list))
				x := list[i]
				list[i] = list[len(list)-1]
				list = list[:len(list)-1]
				delete(model, x)
				p.Free(x.Destination, x.port)
				x.bin = uint8(x.port)
				if r.Contains(x.port) {
					inSet[x.Destination]--
				}
			}
		}
		seen := 0
		p.Each(func(d Destination, port uint16) {
			d.bin = 0
			if seen++; !model[takenPort{d, port}] {
				t.Fatalf("%v %d is not taken", d, port)
			}
		})
		if seen != len(model) {
			t.Fatalf("%d ports, want %d", seen, len(model))
		}
		for x := range model {
			p.Free(x.Destination, x.port)
			p.Free(x.Destination, x.port) // once too often does nothing
		}
		if p.Sets() != 0 || p.Crowded() != 0 {
			t.Errorf("%d sets, %d crowded when all ports are free", p.Sets(), p.Crowded())
		}
	}
}

func naivePorts(r PortRange, bin uint8) (n int) {
	for port := int(r.First); port <= int(r.Last); port++ {
		if uint8(port) == bin {
			n++
		}
	}
	return n
}

// All bins together give every port of a range once, and each bin warns before it has none left.
func TestSourcePortsExhaust(t *testing.T) {
	r := PortRange{32768, 60999}
	p, seen := NewSourcePorts(30_000, Secret{1, 2, 3, 4}), map[uint16]bool{}
	for bin := range PortBins {
		warned := false
		for n := 0; ; n++ {
			port, ok := p.Take(destination(1), uint8(bin), r, 0)
			if !ok {
				if n != r.Ports(uint8(bin)) || !warned {
					t.Fatalf("bin %d: %d ports, want %d; warned %v", bin, n, r.Ports(uint8(bin)), warned)
				}
				break
			}
			seen[port] = true
			warned = p.Crowded() > bin
			if left := r.Ports(uint8(bin)) - n - 1; warned != (left*8 <= r.Ports(uint8(bin))) {
				t.Fatalf("bin %d: warned %v with %d left", bin, warned, left)
			}
		}
	}
	if len(seen) != 28232 || p.Sets() != PortBins {
		t.Errorf("%d ports in %d sets", len(seen), p.Sets())
	}
	if size := unsafe.Sizeof(portSet{}); size != 64 {
		t.Errorf("a set has %d bytes", size)
	}
	// A freed port is the last to be given again.
	q := NewSourcePorts(10, Secret{})
	first, _ := q.Take(destination(1), 9, PortRange{1024, 65535}, 0)
	hold, _ := q.Take(destination(1), 9, PortRange{1024, 65535}, 0)
	q.Free(destination(1), first)
	for range 250 {
		port, ok := q.Take(destination(1), 9, PortRange{1024, 65535}, 0)
		if !ok || port == first || port == hold {
			t.Fatalf("port %d came again", port)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		port, _ := q.Take(destination(2), 3, PortRange{1024, 65535}, 0)
		q.Free(destination(2), port)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A port taken and given back, with so much of every bin in use.
func BenchmarkSourcePorts(b *testing.B) {
	r := PortRange{1024, 65535}
	for _, percent := range []int{0, 50, 90, 99} {
		b.Run(fmt.Sprintf("used=%d%%", percent), func(b *testing.B) {
			p := NewSourcePorts(1<<17, Secret{1, 2, 3, 4})
			rng := rand.New(rand.NewPCG(1, 2))
			d := destination(1)
			var ports []uint16
			for bin := range PortBins {
				for range 252 {
					port, _ := p.Take(d, uint8(bin), r, 0)
					ports = append(ports, port)
				}
			}
			rng.Shuffle(len(ports), func(i, j int) { ports[i], ports[j] = ports[j], ports[i] })
			for _, port := range ports[len(ports)*percent/100:] {
				p.Free(d, port)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if port, ok := p.Take(d, uint8(i), r, 0); ok {
					p.Free(d, port)
				}
			}
		})
	}
}
