package rings

import (
	"errors"
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

const (
	ethtoolGDrvinfo  = 0x3
	ethtoolGChannels = 0x3c
)

// Channels is how many receive and transmit queues an interface uses, as its driver says (ethtool -l). A driver
// that does not say has one of each.
func Channels(ifname string) (rx, tx int, err error) {
	c := ethtoolChannels{cmd: ethtoolGChannels}
	err = ethtool(ifname, unsafe.Pointer(&c))
	switch {
	case err == nil:
		return int(max(1, c.rxCount+c.combined)), int(max(1, c.txCount+c.combined)), nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return 1, 1, nil
	}
	return 0, 0, fmt.Errorf("ask %s for its queues: %w", ifname, err)
}

// driverName is the name of an interface's driver (ethtool -i).
func driverName(ifname string) (string, error) {
	d := unix.EthtoolDrvinfo{Cmd: ethtoolGDrvinfo}
	if err := ethtool(ifname, unsafe.Pointer(&d)); err != nil {
		return "", fmt.Errorf("ask %s for its driver: %w", ifname, err)
	}
	return unix.ByteSliceToString(d.Driver[:]), nil
}

// ethtool makes a request of the older kind, by ioctl; request begins with its number.
func ethtool(ifname string, request unsafe.Pointer) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], ifname)
	req.data = request
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return errno
	}
	return nil
}
