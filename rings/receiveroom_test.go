package rings

import (
	"strings"
	"testing"
)

func TestReceiveRoom(t *testing.T) {
	for _, c := range []struct {
		driver         string
		frame, mtu     int
		room           int
		refused, wants string
	}{
		{"veth", 2048, 1500, 1792, "", ""},
		{"virtio_net", 2048, 1770, 1792, "", ""},
		{"virtio_net", 2048, 1771, 1792, "at most 1792 bytes", "set engine.frame-size to 4096"},
		{"igb", 2048, 1500, 1024, "at most 1024 bytes into frames of 2048, and the MTU of 1500 needs 1522", "set engine.frame-size to 4096"},
		{"igc", 2048, 1002, 1024, "", ""},
		{"igb", 4096, 1500, 3072, "", ""},
		{"ixgbe", 4096, 9000, 3072, "at most 3072 bytes", "lower the MTU to 3050"},
		{"ice", 4096, 9000, 3840, "at most 3840 bytes", "lower the MTU to 3818"},
	} {
		if room := receiveRoom(c.driver, c.frame); room != c.room {
			t.Errorf("%s, frames of %d: room for %d bytes, not %d", c.driver, c.frame, room, c.room)
		}
		err := roomRefusal(c.driver, c.frame, c.mtu)
		if (err == nil) != (c.refused == "") {
			t.Errorf("%s, frames of %d, MTU %d: %v", c.driver, c.frame, c.mtu, err)
		} else if err != nil && (!strings.Contains(err.Error(), c.refused) || !strings.Contains(err.Error(), c.wants)) {
			t.Errorf("%s, frames of %d, MTU %d: %q says not %q and %q", c.driver, c.frame, c.mtu, err, c.refused, c.wants)
		}
	}
}
