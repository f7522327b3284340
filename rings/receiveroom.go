package rings

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// A driver in zero-copy mode has the NIC write into our frames. Some NICs are told the size of a buffer in units of
// 1 KiB, rounded down; a longer packet goes on in the next frame, and these drivers hand up each piece as a packet of
// its own. Frames of 2048 bytes then carry 1024, and every full-sized packet arrives broken.
//
//	frame  │ 256 XDP headroom │ room for a packet, as the driver tells the NIC │
const xdpHeadroom = 256 // XDP_PACKET_HEADROOM (include/uapi/linux/bpf.h)

// kibibyteBuffers are the drivers whose NICs know the size of a buffer in KiB: igb_setup_srrctl, IGC_SRRCTL_BSIZEPKT,
// and of ixgbe the 82599 (ixgbe_configure_srrctl); its name does not tell it from its successors.
var kibibyteBuffers = map[string]bool{"igb": true, "igc": true, "ixgbe": true}

// linkOverhead is what comes on top of the MTU: the Ethernet header and two VLAN tags.
const linkOverhead = 14 + 2*4

// receiveRoom is the size of the largest packet, in bytes, that a driver in zero-copy mode receives into one frame.
func receiveRoom(driver string, frameSize int) int {
	room := frameSize - xdpHeadroom
	if kibibyteBuffers[driver] {
		room &^= 1<<10 - 1
	}
	return room
}

// roomRefusal is why a driver in zero-copy mode could not receive packets of the MTU into frames, or nil.
func roomRefusal(driver string, frameSize, mtu int) error {
	room := receiveRoom(driver, frameSize)
	if mtu+linkOverhead <= room {
		return nil
	}
	advice := fmt.Sprintf("lower the MTU to %d", room-linkOverhead)
	if frameSize < 4096 && mtu+linkOverhead <= receiveRoom(driver, 4096) {
		advice = "set engine.frame-size to 4096"
	}
	return fmt.Errorf("driver %s would receive packets of at most %d bytes into frames of %d, and the MTU of %d needs %d: %s",
		driver, room, frameSize, mtu, mtu+linkOverhead, advice)
}

// CheckChains tells why packets of an MTU do not come through in several frames, with what to do about it, or nil: in copy mode the
// kernel sends at most MaxBuffers frames as one packet, and a packet's length has 16 bits here.
func CheckChains(frameSize, mtu int) error {
	room := min(MaxBuffers*receiveRoom("", frameSize), 1<<16-1) - linkOverhead
	if mtu <= room {
		return nil
	}
	advice := fmt.Sprintf("lower the MTU to %d", room)
	if frameSize < 4096 && CheckChains(4096, mtu) == nil {
		advice = "set engine.frame-size to 4096"
	}
	return fmt.Errorf("packets of the MTU of %d take more than %d frames of %d bytes, or more than 65,535 bytes: %s", mtu, MaxBuffers, frameSize, advice)
}

// refusedRoom asks the kernel for an interface's driver and MTU. What it does not say refuses nothing.
func refusedRoom(cfg XSKConfig, frameSize int) error {
	l, err := netlink.LinkByIndex(cfg.Ifindex)
	if err != nil {
		return nil
	}
	driver, err := driverName(l.Attrs().Name)
	if err != nil {
		return nil
	}
	return roomRefusal(driver, frameSize, l.Attrs().MTU)
}

// CheckRoom tells why packets of an MTU do not fit frames of frameSize bytes, with what to do about it, or nil. In copy
// mode the kernel drops a packet that is longer than a frame without its headroom (xsk_rcv_check in net/xdp/xsk.c), whatever
// the driver.
func CheckRoom(driver string, zeroCopy bool, frameSize, mtu int) error {
	if zeroCopy {
		return roomRefusal(driver, frameSize, mtu)
	}
	room := receiveRoom("", frameSize)
	if mtu+linkOverhead <= room {
		return nil
	}
	advice := fmt.Sprintf("lower the MTU to %d", room-linkOverhead)
	if frameSize < 4096 && mtu+linkOverhead <= receiveRoom("", 4096) {
		advice = "set engine.frame-size to 4096"
	}
	return fmt.Errorf("frames of %d bytes take packets of at most %d, and the MTU of %d needs %d: %s", frameSize, room, mtu, mtu+linkOverhead, advice)
}
