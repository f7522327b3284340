package rings

// Pool is a worker's stack of free frames: last in, first out, so that the frames in use are the few that are
// still in the cache. It belongs to one worker and is not safe for concurrent use. It never grows beyond the
// capacity it was made with, which is the number of frames in the Region, so Put cannot fail.
type Pool struct {
	free []uint64
}

// NewPool makes an empty pool that can hold capacity frames.
func NewPool(capacity int) *Pool {
	return &Pool{free: make([]uint64, 0, capacity)}
}

// Len is the number of free frames.
func (p *Pool) Len() int { return len(p.free) }

// Get takes one frame and returns the address of its first byte.
func (p *Pool) Get() (addr uint64, ok bool) {
	n := len(p.free)
	if n == 0 {
		return 0, false
	}
	addr = p.free[n-1]
	p.free = p.free[:n-1]
	return addr, true
}

// Put gives a frame back. addr is the address of the frame's first byte (see Region.Base), not of its packet.
func (p *Pool) Put(addr uint64) {
	p.free = append(p.free, addr)
}

// PutAll gives back many frames.
func (p *Pool) PutAll(addrs []uint64) {
	p.free = append(p.free, addrs...)
}

// Each calls f with every free frame, the one that was put last at the end: put in this order, a pool is the same.
func (p *Pool) Each(f func(addr uint64)) {
	for _, addr := range p.free {
		f(addr)
	}
}
