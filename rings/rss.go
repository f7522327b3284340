package rings

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// RSS is how an interface spreads what it receives over its queues: a hash over fields of the packet, by a key, picks an
// entry of a table, and that is the queue. A part that the driver does not report is empty.
type RSS struct {
	Function    uint32 // a bit, as RSSToeplitz
	Transform   uint32 // of the input before it is hashed, as symmetric hashing uses; 0: none
	Key         []byte
	Indirection []uint32 // queues
	Fields      map[FlowType]HashFields
}

// RSSToeplitz is the Toeplitz hash function (ETH_RSS_HASH_TOP, include/linux/ethtool.h).
const RSSToeplitz = 1 << 0

// FlowType is a kind of packet that hash fields are set for, numbered as in ETHTOOL_A_FLOW_* (Linux 6.17,
// include/uapi/linux/ethtool_netlink_generated.h).
type FlowType uint16

// The flow types that connections have.
const (
	FlowTCP4  FlowType = 4
	FlowTCP6  FlowType = 5
	FlowUDP4  FlowType = 6
	FlowUDP6  FlowType = 7
	FlowSCTP4 FlowType = 8
	FlowSCTP6 FlowType = 9
)

// FlowTypes lists them.
var FlowTypes = []FlowType{FlowTCP4, FlowTCP6, FlowUDP4, FlowUDP6, FlowSCTP4, FlowSCTP6}

func (t FlowType) String() string {
	switch t {
	case FlowTCP4:
		return "tcp4"
	case FlowTCP6:
		return "tcp6"
	case FlowUDP4:
		return "udp4"
	case FlowUDP6:
		return "udp6"
	case FlowSCTP4:
		return "sctp4"
	case FlowSCTP6:
		return "sctp6"
	}
	return fmt.Sprintf("flow type %d", uint16(t))
}

// HashFields is a set of fields of a packet (RXH_*, include/uapi/linux/ethtool.h).
type HashFields uint64

// The fields that tell connections apart.
const (
	HashSource      HashFields = 1 << 4 // IP address
	HashDestination HashFields = 1 << 5
	HashSourcePort  HashFields = 1 << 6 // bytes 0 and 1 of the transport header
	HashDestPort    HashFields = 1 << 7 // bytes 2 and 3
)

// String is in the letters of ethtool: s and d for addresses, f and n for ports.
func (f HashFields) String() string {
	out := ""
	for _, l := range []struct {
		field  HashFields
		letter string
	}{{HashSource, "s"}, {HashDestination, "d"}, {HashSourcePort, "f"}, {HashDestPort, "n"}} {
		if f&l.field != 0 {
			out += l.letter
			f &^= l.field
		}
	}
	if f != 0 {
		out += fmt.Sprintf("+%#x", uint64(f))
	}
	if out == "" {
		return "none"
	}
	return out
}

// RSSControl reads and sets RSS. What a driver does not know or does not want is an error that wraps ErrRefused.
type RSSControl interface {
	Read(ifname string) (RSS, error)
	SetFields(ifname string, t FlowType, fields HashFields) error
	// SetHash sets function, transform and key. The key must be as long as the one that Read reports.
	SetHash(ifname string, function, transform uint32, key []byte) error
	// SetIndirection sets the table, as long as the one that Read reports; nil has the driver spread evenly again.
	SetIndirection(ifname string, table []uint32) error
}

// ErrRefused is wrapped by errors of drivers.
var ErrRefused = errors.New("driver refuses")

// refused makes an error of a driver's answer.
func refused(what, ifname string, err error) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%s of %s: %w", what, ifname, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s of %s (CAP_NET_ADMIN is needed): %w", what, ifname, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrRefused, what, err)
}

// KernelRSS is the kernel's RSSControl: ethtool netlink, which can set RSS from Linux 6.17 on, before that the ioctl.
func KernelRSS() (RSSControl, error) {
	family, err := ethtoolFamily()
	if err != nil || !family.setsRSS {
		return ioctlRSS{}, nil
	}
	return family, nil
}
