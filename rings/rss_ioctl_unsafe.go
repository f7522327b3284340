package rings

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlRSS uses SIOCETHTOOL, which all kernels have. Buffers are built as bytes: struct ethtool_rxfh and the head of struct
// ethtool_rxnfc (include/uapi/linux/ethtool.h).
type ioctlRSS struct{}

const (
	rxfhSize      = 24 // struct ethtool_rxfh without what follows: table, then key
	rxfhTable     = 8  // offset of its number of entries; 0 is the driver's own table
	rxfhKey       = 12 // of the bytes of the key; 0 keeps it
	rxfhFunction  = 16 // 0 keeps it
	rxfhTransform = 17 // from Linux 6.8 on; reserved and 0 before
	rxfhKeepTable = 0xffffffff

	rxnfcSize     = 192
	rxnfcFlowType = 4
	rxnfcFields   = 8

	mostTable, mostKey = 1 << 16, 1 << 10 // what a driver is believed
)

// ioctlFlows are the numbers of the flow types in the ioctl (TCP_V4_FLOW …).
var ioctlFlows = map[FlowType]uint32{
	FlowTCP4: 1, FlowUDP4: 2, FlowSCTP4: 3, FlowTCP6: 5, FlowUDP6: 6, FlowSCTP6: 7,
}

// ethtoolBytes makes a request whose structure is built as bytes.
func ethtoolBytes(ifname string, request []byte) error {
	return ethtool(ifname, unsafe.Pointer(unsafe.SliceData(request)))
}

func (ioctlRSS) Read(ifname string) (r RSS, err error) {
	ne := binary.NativeEndian
	size := make([]byte, rxfhSize)
	ne.PutUint32(size, unix.ETHTOOL_GRSSH)
	if err := ethtoolBytes(ifname, size); err != nil {
		return r, refused("read RSS", ifname, err)
	}
	entries, key := ne.Uint32(size[rxfhTable:]), ne.Uint32(size[rxfhKey:])
	if entries > mostTable || key > mostKey {
		return r, fmt.Errorf("read RSS of %s: a table of %d entries and a key of %d bytes", ifname, entries, key)
	}
	all := make([]byte, rxfhSize+4*entries+key)
	ne.PutUint32(all, unix.ETHTOOL_GRSSH)
	ne.PutUint32(all[rxfhTable:], entries)
	ne.PutUint32(all[rxfhKey:], key)
	if err := ethtoolBytes(ifname, all); err != nil {
		return r, refused("read RSS", ifname, err)
	}
	r.Function, r.Transform = uint32(all[rxfhFunction]), uint32(all[rxfhTransform])
	at := all[rxfhSize:]
	for range entries {
		r.Indirection = append(r.Indirection, ne.Uint32(at))
		at = at[4:]
	}
	if key > 0 {
		r.Key = at
	}
	r.Fields = map[FlowType]HashFields{}
	for t, number := range ioctlFlows {
		flow := make([]byte, rxnfcSize)
		ne.PutUint32(flow, unix.ETHTOOL_GRXFH)
		ne.PutUint32(flow[rxnfcFlowType:], number)
		if ethtoolBytes(ifname, flow) == nil {
			r.Fields[t] = HashFields(ne.Uint64(flow[rxnfcFields:]))
		}
	}
	return r, nil
}

func (ioctlRSS) SetFields(ifname string, t FlowType, fields HashFields) error {
	number, ok := ioctlFlows[t]
	if !ok {
		return errors.New("there are no hash fields of " + t.String())
	}
	flow := make([]byte, rxnfcSize)
	binary.NativeEndian.PutUint32(flow, unix.ETHTOOL_SRXFH)
	binary.NativeEndian.PutUint32(flow[rxnfcFlowType:], number)
	binary.NativeEndian.PutUint64(flow[rxnfcFields:], uint64(fields))
	if err := ethtoolBytes(ifname, flow); err != nil {
		return refused(fmt.Sprintf("set the hash fields of %s to %s", t, fields), ifname, err)
	}
	return nil
}

// rxfh is the structure that sets what is given and keeps the rest.
func rxfh(entries uint32, table []uint32, function, transform uint32, key []byte) []byte {
	ne := binary.NativeEndian
	b := make([]byte, rxfhSize, rxfhSize+4*len(table)+len(key))
	ne.PutUint32(b, unix.ETHTOOL_SRSSH)
	ne.PutUint32(b[rxfhTable:], entries)
	ne.PutUint32(b[rxfhKey:], uint32(len(key)))
	b[rxfhFunction], b[rxfhTransform] = byte(function), byte(transform)
	for _, q := range table {
		b = ne.AppendUint32(b, q)
	}
	return append(b, key...)
}

func (ioctlRSS) SetHash(ifname string, function, transform uint32, key []byte) error {
	if err := ethtoolBytes(ifname, rxfh(rxfhKeepTable, nil, function, transform, key)); err != nil {
		return refused("set the hash key", ifname, err)
	}
	return nil
}

func (c ioctlRSS) SetIndirection(ifname string, table []uint32) error {
	now, err := c.Read(ifname) // the call sets the transform too
	if err != nil {
		return err
	}
	if err := ethtoolBytes(ifname, rxfh(uint32(len(table)), table, 0, now.Transform, nil)); err != nil {
		return refused("set the indirection table", ifname, err)
	}
	return nil
}
