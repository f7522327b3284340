package rings

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/ethtool_netlink_generated.h; Documentation/networking/ethtool-netlink.rst says what they are.
const (
	ethtoolVersion   = 1
	ethtoolMsgRSSGet = 38
	ethtoolMsgRSSSet = 48

	ethtoolHeaderDevName = 2

	rssHeader      = 1
	rssFunction    = 3
	rssIndirection = 4
	rssKey         = 5
	rssTransform   = 6
	rssFlowHash    = 8

	nlaTypeMask = 0x3fff // of an attribute, without the flags nested and byte order (include/uapi/linux/netlink.h)
)

// netlinkRSS speaks ethtool's generic netlink family.
type netlinkRSS struct {
	id      uint16 // of the family
	setsRSS bool
}

func ethtoolFamily() (*netlinkRSS, error) {
	f, err := netlink.GenlFamilyGet("ethtool")
	if err != nil {
		return nil, fmt.Errorf("find ethtool netlink: %w", err)
	}
	n := &netlinkRSS{id: f.ID}
	for _, op := range f.Ops {
		n.setsRSS = n.setsRSS || op.ID == ethtoolMsgRSSSet
	}
	return n, nil
}

// genericHeader is struct genlmsghdr: command, version, and two bytes that must be 0, which those of nl.Genlmsg need not be.
type genericHeader [4]byte

// Len is in bytes.
func (genericHeader) Len() int { return len(genericHeader{}) }

// Serialize gives the bytes.
func (h genericHeader) Serialize() []byte { return h[:] }

// request is a message about an interface.
func (n *netlinkRSS) request(command uint8, ifname string, flags int, attrs ...*nl.RtAttr) ([][]byte, error) {
	req := nl.NewNetlinkRequest(int(n.id), flags)
	req.AddData(genericHeader{command, ethtoolVersion, 0, 0})
	header := nl.NewRtAttr(rssHeader|unix.NLA_F_NESTED, nil)
	header.AddRtAttr(ethtoolHeaderDevName, nl.ZeroTerminated(ifname))
	req.AddData(header)
	for _, a := range attrs {
		req.AddData(a)
	}
	return req.Execute(unix.NETLINK_GENERIC, 0)
}

// Read asks for all of it.
func (n *netlinkRSS) Read(ifname string) (RSS, error) {
	msgs, err := n.request(ethtoolMsgRSSGet, ifname, 0)
	if err != nil {
		return RSS{}, refused("read RSS", ifname, err)
	}
	if len(msgs) != 1 || len(msgs[0]) < len(genericHeader{}) {
		return RSS{}, fmt.Errorf("read RSS of %s: %d answers", ifname, len(msgs))
	}
	r, err := parseRSS(msgs[0][len(genericHeader{}):])
	if err != nil {
		return RSS{}, fmt.Errorf("read RSS of %s: %w", ifname, err)
	}
	return r, nil
}

var errShortAttribute = errors.New("an attribute of the answer has a wrong length")

// parseRSS reads the attributes of an answer.
func parseRSS(b []byte) (r RSS, err error) {
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return r, err
	}
	for _, a := range attrs {
		switch a.Attr.Type & nlaTypeMask {
		case rssFunction:
			err = number32(a.Value, &r.Function)
		case rssTransform:
			err = number32(a.Value, &r.Transform)
		case rssKey:
			r.Key = append([]byte(nil), a.Value...)
		case rssIndirection:
			if len(a.Value)%4 != 0 {
				return r, errShortAttribute
			}
			for v := a.Value; len(v) > 0; v = v[4:] {
				r.Indirection = append(r.Indirection, binary.NativeEndian.Uint32(v))
			}
		case rssFlowHash:
			r.Fields, err = parseFields(a.Value)
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

func number32(b []byte, into *uint32) error {
	if len(b) != 4 {
		return errShortAttribute
	}
	*into = binary.NativeEndian.Uint32(b)
	return nil
}

// parseFields reads the fields of each flow type, unsigned integers of 4 or 8 bytes (NLA_UINT). Only the types that
// connections have are kept.
func parseFields(b []byte) (map[FlowType]HashFields, error) {
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil, err
	}
	out := map[FlowType]HashFields{}
	for _, a := range attrs {
		t := FlowType(a.Attr.Type & nlaTypeMask)
		if t < FlowTCP4 || t > FlowSCTP6 {
			continue
		}
		switch len(a.Value) {
		case 4:
			out[t] = HashFields(binary.NativeEndian.Uint32(a.Value))
		case 8:
			out[t] = HashFields(binary.NativeEndian.Uint64(a.Value))
		default:
			return nil, errShortAttribute
		}
	}
	return out, nil
}

func (n *netlinkRSS) set(what, ifname string, attrs ...*nl.RtAttr) error {
	if _, err := n.request(ethtoolMsgRSSSet, ifname, unix.NLM_F_ACK, attrs...); err != nil {
		return refused(what, ifname, err)
	}
	return nil
}

// SetFields sets what is hashed of one type of packet.
func (n *netlinkRSS) SetFields(ifname string, t FlowType, fields HashFields) error {
	nest := nl.NewRtAttr(rssFlowHash|unix.NLA_F_NESTED, nil)
	nest.AddRtAttr(int(t), nl.Uint32Attr(uint32(fields)))
	return n.set(fmt.Sprintf("set the hash fields of %s to %s", t, fields), ifname, nest)
}

// SetHash sets function, transform and key.
func (n *netlinkRSS) SetHash(ifname string, function, transform uint32, key []byte) error {
	var attrs []*nl.RtAttr
	if function != 0 {
		attrs = append(attrs, nl.NewRtAttr(rssFunction, nl.Uint32Attr(function)))
	}
	if len(key) > 0 {
		attrs = append(attrs, nl.NewRtAttr(rssKey, key))
	}
	// Most drivers know no transform and refuse even none.
	if now, err := n.Read(ifname); err == nil && now.Transform != transform {
		attrs = append(attrs, nl.NewRtAttr(rssTransform, nl.Uint32Attr(transform)))
	}
	return n.set("set the hash key", ifname, attrs...)
}

// SetIndirection sets the table.
func (n *netlinkRSS) SetIndirection(ifname string, table []uint32) error {
	value := make([]byte, 0, 4*len(table))
	for _, q := range table {
		value = binary.NativeEndian.AppendUint32(value, q)
	}
	return n.set("set the indirection table", ifname, nl.NewRtAttr(rssIndirection, value))
}
