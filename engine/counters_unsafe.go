package engine

import "unsafe"

const (
	lineBytes    = 64 // of the cache
	trafficBytes = unsafe.Sizeof(TrafficStats{})
)

// Two in a line.
var _ [lineBytes / 2]byte = [trafficBytes]byte{}

// makeTraffic makes n counters in lines of the cache that have nothing else.
func makeTraffic(n int) []TrafficStats {
	const more = 3 // a line before them, less a byte, and half a line behind, if n is odd
	p := unsafe.Pointer(unsafe.SliceData(make([]TrafficStats, n+more)))
	return unsafe.Slice((*TrafficStats)(unsafe.Add(p, -uintptr(p)%lineBytes)), n)
}
