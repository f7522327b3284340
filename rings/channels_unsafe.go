package rings

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolChannels is struct ethtool_channels (include/uapi/linux/ethtool.h).
type ethtoolChannels struct {
	cmd                                    uint32
	maxRx, maxTx, maxOther, maxCombined    uint32
	rxCount, txCount, otherCount, combined uint32
}

const ethtoolGChannels = 0x3c

// Channels is how many receive and transmit queues an interface uses, as its driver says (ethtool -l). A driver
// that does not say has one of each.
func Channels(ifname string) (rx, tx int, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("open a socket to ask %s for its queues: %w", ifname, err)
	}
	defer unix.Close(fd)
	c := ethtoolChannels{cmd: ethtoolGChannels}
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], ifname)
	req.data = unsafe.Pointer(&c)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	switch errno {
	case 0:
		return int(max(1, c.rxCount+c.combined)), int(max(1, c.txCount+c.combined)), nil
	case unix.EOPNOTSUPP:
		return 1, 1, nil
	}
	return 0, 0, fmt.Errorf("ask %s for its queues: %w", ifname, errno)
}
