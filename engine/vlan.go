package engine

import (
	"cmp"
	"fmt"
	"slices"

	"sluice/rewrite"
	"sluice/rings"
)

// A port may be a VLAN of another port (VLANSpec), whose queues it has. Everything between receive and transmit knows only
// ports: connections remember them, so that the same tuple in another VLAN is on the wrong side.
//
//	frame of queue of port 0 ──tags 10──▶ port 3 ──▶ look up … rewrite ──▶ port 4 ──tags 20──▶ queue of port 1
//	                           enterVLAN                                   leaveVLAN
//
// The tags stay in the frame in between; the descriptor says how many of them named the port that it came in by, and these
// are taken off or replaced when it leaves. That is done by batches and only where there are VLANs at all, so that a plain
// packet does not pay for it.

// VLANSpec makes a port a VLAN of another one. The zero value is a port of its own.
type VLANSpec struct {
	Parent int              // index of that port in Ports
	Tags   rewrite.VLANTags // the tags of its frames
}

// lane is how a port's frames are told by their tags, and what they leave with.
type lane struct {
	parent uint16 // whose queues it has; itself for one that is no VLAN
	tags   rewrite.VLANTags
	trunk  bool // it has VLANs: frames with other tags are nobody's
	bare   bool // frames leave without any tag
	// single has, of a trunk, the VLAN of frames with one tag, or whose outer tag alone says it: its port plus one by the id.
	single []uint16
}

// lanePort is a VLAN as frames find it: a port, and the key of its tags.
type lanePort struct {
	key  uint64
	port uint16
}

// laneKey is that of n tags on a port.
func laneKey(parent uint16, tags *[2]uint16, n int) uint64 {
	k := uint64(parent)<<32 | uint64(n)<<24 | uint64(tags[0]&rewrite.VLANMask)<<12
	if n == 2 {
		k |= uint64(tags[1] & rewrite.VLANMask)
	}
	return k
}

// compileVLANs makes lanes, if a port is a VLAN.
func (c *Config) compileVLANs() error {
	if !slices.ContainsFunc(c.Ports, func(p PortSpec) bool { return p.VLAN.Tags.N > 0 }) {
		return nil
	}
	c.lanes = make([]lane, len(c.Ports))
	for i := range c.Ports {
		c.lanes[i].parent = uint16(i)
	}
	for i := range c.Ports {
		v := &c.Ports[i].VLAN
		if v.Tags.N == 0 {
			continue
		}
		if v.Parent < 0 || v.Parent >= len(c.Ports) || c.Ports[v.Parent].VLAN.Tags.N > 0 || v.Tags.N > 2 {
			return fmt.Errorf("port %s: VLANs are one or two tags on a port that is no VLAN", c.Ports[i].Name)
		}
		c.lanes[i] = lane{parent: uint16(v.Parent), tags: v.Tags}
		c.lanes[v.Parent].trunk, c.lanes[v.Parent].bare = true, true
		if parent := &c.lanes[v.Parent]; parent.single == nil {
			parent.single = make([]uint16, rewrite.VLANMask+1)
		}
		if v.Tags.N == 1 {
			c.lanes[v.Parent].single[v.Tags.IDs[0]&rewrite.VLANMask] = uint16(i) + 1
		}
		c.lanePorts = append(c.lanePorts, lanePort{laneKey(uint16(v.Parent), &v.Tags.IDs, int(v.Tags.N)), uint16(i)})
	}
	if c.Host != nil {
		c.lanes[c.Host.Port].bare = true // the kernel has no VLANs there
	}
	slices.SortFunc(c.lanePorts, func(a, b lanePort) int { return cmp.Compare(a.key, b.key) })
	for i := range c.lanePorts[1:] {
		if a, b := c.lanePorts[i], c.lanePorts[i+1]; a.key == b.key {
			return fmt.Errorf("ports %s and %s are the same VLAN", c.Ports[a.port].Name, c.Ports[b.port].Name)
		}
	}
	return nil
}

// vlan finds the port whose VLAN has these tags on a port: both of them go before the outer one alone.
func (c *Config) vlan(parent uint16, tags *[2]uint16, n int) (uint16, bool) {
	if n == 2 {
		key := laneKey(parent, tags, n)
		if i, ok := slices.BinarySearchFunc(c.lanePorts, key, func(p lanePort, key uint64) int { return cmp.Compare(p.key, key) }); ok {
			return c.lanePorts[i].port, true
		}
	}
	port := c.lanes[parent].single[tags[0]&rewrite.VLANMask]
	return port - 1, port != 0
}

// The descriptor of a frame on its way through the engine says in Options how many of its tags are its port's.
const (
	tagShift = 20
	tagMask  = 3 << tagShift
)

// enterVLAN finds the port of a frame with tags, which arrived on port, and notes how many tags that says. It reports false
// for tags that are no VLAN's of the port.
func (w *worker) enterVLAN(d *rings.Desc, port *uint16) bool {
	if w.cfg.lanes == nil {
		return true
	}
	l := &w.cfg.lanes[*port]
	if l.tags.N == 0 { // else another worker has found it
		tags, n := rewrite.Tags(w.region.Packet(*d))
		if !l.trunk || n == 0 || tags[0]&rewrite.VLANMask == 0 { // a tag with id 0 is only a priority (IEEE 802.1Q section 6.9)
			return true
		}
		found, ok := w.cfg.vlan(*port, &tags, n)
		if !ok {
			return false
		}
		*port, l = found, &w.cfg.lanes[found]
	}
	d.Options = d.Options&placedBit | uint32(l.tags.N)<<tagShift
	return true
}

// leaveVLAN gives the frames of a batch the tags that they leave a port with, and returns those for which that could be done.
func (w *worker) leaveVLAN(batch []rings.Desc, port int) []rings.Desc {
	l, kept := &w.cfg.lanes[port], 0
	to := &l.tags
	for i := range batch {
		d := &batch[i]
		own := int(d.Options&tagMask) >> tagShift
		d.Options = 0
		if l.bare {
			own = 2
		}
		h := w.region.Head(d.Addr)
		switch tagged, more := rewrite.HasTags(h); { // nearly always there is one at most, here and there
		case tagged && !more && to.N == 1:
			rewrite.ReplaceTag(h, to.IDs[0])
		case tagged && !more && to.N == 0 && own > 0:
			rewrite.DropTag(h)
			d.Addr, d.Len = d.Addr+rewrite.TagLen, d.Len-rewrite.TagLen
		case !tagged && to.N == 1 && to.TPID == 0 && d.Addr-w.region.Base(d.Addr) >= rewrite.TagLen:
			d.Addr, d.Len = d.Addr-rewrite.TagLen, d.Len+rewrite.TagLen
			rewrite.AddTag(w.region.Head(d.Addr), to.IDs[0])
		case !tagged && to.N == 0:
		case !w.retag(d, own, to):
			w.lose(*d, VLANTags)
			continue
		}
		if kept != i {
			batch[kept] = *d
		}
		kept++
	}
	return batch[:kept]
}

// retag gives a frame, of which the outermost own tags are those of the port that it comes from, those of another.
func (w *worker) retag(d *rings.Desc, own int, to *rewrite.VLANTags) bool {
	base := w.region.Base(d.Addr)
	head := int(d.Addr - base)
	frame := w.region.Frame(d.Addr)[:head+int(d.Len)]
	start, r := rewrite.Retag(frame, head, own, to)
	if r != rewrite.Done {
		return false
	}
	d.Addr, d.Len = base+uint64(start), uint32(len(frame)-start)
	return true
}
