package engine

import "sluice/flow"

// counters are those of virtual servers, or of nodes, by id. What every packet counts lies apart from what connections count, and in whole lines of
// the cache: with thousands of members a packet's counters are seldom in the first-level cache and often not in the second, so that it matters
// how many lines they are. Two members share one.
type counters struct {
	traffic     []TrafficStats // begins with a line, and has whole lines to itself: another worker's are in others
	connections []ConnectionStats
}

// len is how many ids there are counters for.
func (c *counters) len() int { return len(c.connections) }

// grow makes counters for n ids, if there are fewer.
func (c *counters) grow(n int) {
	if n <= c.len() {
		return
	}
	traffic := makeTraffic(n)
	copy(traffic, c.traffic)
	c.traffic = traffic
	c.connections = append(c.connections, make([]ConnectionStats, n-c.len())...)
}

// count adds a packet of n bytes from side.
func (c *counters) count(id uint32, side flow.Side, n int) {
	t := &c.traffic[id]
	t.Packets[side&1]++
	t.Bytes[side&1] += uint64(n)
}

// appendTo appends all of them, by id, to list.
func (c *counters) appendTo(list []ServiceStats) []ServiceStats {
	for id := range c.connections {
		list = append(list, ServiceStats{c.connections[id], c.traffic[id]})
	}
	return list
}

// set makes list, which is by id, that of the first ids. There are counters for all of it.
func (c *counters) set(list []ServiceStats) {
	for id := range list {
		c.connections[id], c.traffic[id] = list[id].ConnectionStats, list[id].TrafficStats
	}
}

// add adds those of o, which has no more ids.
func (c *counters) add(o *counters) {
	for id := range o.connections {
		c.connections[id].add(&o.connections[id])
		c.traffic[id].add(&o.traffic[id])
	}
}
