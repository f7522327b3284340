package rings

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// programConfig is the configuration that the XDP program reads, over the memory of its map. User space writes,
// the program reads; each field is one aligned word, so a store needs no system call and is never seen half.
type programConfig struct{ c *classifyConfig }

func (p programConfig) setHeartbeat(ns uint64)  { atomic.StoreUint64(&p.c.Heartbeat, ns) }
func (p programConfig) setHold(ns uint64)       { atomic.StoreUint64(&p.c.HoldNs, ns) }
func (p programConfig) setWildcard(bits uint32) { atomic.StoreUint32(&p.c.Wildcard, bits) }
func (p programConfig) wildcard() uint32        { return atomic.LoadUint32(&p.c.Wildcard) }

func (p programConfig) setAfterHoldPass(pass bool) {
	var v uint32
	if pass {
		v = 1
	}
	atomic.StoreUint32(&p.c.AfterHoldPass, v)
}

// programConfigOver lays the configuration over memory, which must be aligned to 8 bytes.
func programConfigOver(b []byte) programConfig {
	if len(b) < int(unsafe.Sizeof(classifyConfig{})) || uintptr(unsafe.Pointer(&b[0]))%8 != 0 {
		panic("rings: configuration memory is too small or not aligned")
	}
	return programConfig{(*classifyConfig)(unsafe.Pointer(&b[0]))}
}

// mapProgramConfig maps the memory of the configuration map. The mapping outlives the map's descriptor.
func mapProgramConfig(m *ebpf.Map) ([]byte, error) {
	b, err := unix.Mmap(m.FD(), 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the configuration of the XDP program (needs Linux 5.5): %w", err)
	}
	return b, nil
}
