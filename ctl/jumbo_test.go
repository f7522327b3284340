package ctl

import (
	"strings"
	"testing"

	"sluice/rings"
)

// Which ports are opened for packets of several frames, and what is said where an MTU would need them.
func TestWantsJumbo(t *testing.T) {
	if err := rings.ProbeMultiBuffer(); err != nil {
		t.Skip(err)
	}
	for _, c := range []struct {
		jumbo   Jumbo
		driver  Driver
		frame   int
		mtu     int
		want    bool
		refused string // an error of jumbo: on
		trouble string
	}{
		{JumboAuto, DriverXSK, 2048, 1500, false, "", ""},
		{JumboAuto, DriverXSK, 2048, 1770, false, "", ""},
		{JumboAuto, DriverXSK, 2048, 1771, true, "", ""},
		{JumboAuto, DriverXSK, 4096, 3000, false, "", ""},
		{JumboAuto, DriverXSK, 2048, 9000, true, "", ""},
		{JumboOn, DriverXSK, 2048, 1500, true, "", ""},
		{JumboOff, DriverXSK, 2048, 9000, false, "", "set jumbo: auto"},
		{JumboAuto, DriverXSK, 2048, 40000, false, "", "engine.frame-size to 4096"},
		{JumboOn, DriverXSK, 2048, 40000, false, "engine.frame-size to 4096", "engine.frame-size to 4096"},
		{JumboOn, DriverXSK, 4096, 40000, true, "", ""},
		{JumboAuto, DriverAsavie, 2048, 9000, false, "", "use driver xsk"},
		{JumboOn, DriverAsavie, 2048, 1500, false, "use driver xsk", ""},
	} {
		f := &File{Engine: Engine{FrameSize: c.frame, Driver: c.driver}}
		p := &Port{Jumbo: c.jumbo}
		got, err := f.wantsJumbo(p, c.mtu)
		if got != c.want || (err != nil) != (c.refused != "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
		text := f.jumboTrouble(p, &iface{mtu: c.mtu, jumbo: got})
		if (text != "") != (c.trouble != "") || !strings.Contains(text, c.trouble) {
			t.Errorf("%+v: %q", c, text)
		}
	}
	f := &File{Engine: Engine{FrameSize: 2048, Driver: DriverXSK}}
	if text := f.jumboTrouble(&Port{Jumbo: JumboAuto}, &iface{mtu: 9000}); !strings.Contains(text, "restart sluice") {
		t.Errorf("an MTU that was raised: %q", text)
	}
}
