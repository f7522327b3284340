package rings

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// answer is what the kernel says to a request to read, as net/ethtool/rss.c puts it together.
func answer(fields func(flows *nl.RtAttr)) []byte {
	var out []byte
	header := nl.NewRtAttr(rssHeader|unix.NLA_F_NESTED, nil)
	header.AddRtAttr(ethtoolHeaderDevName, nl.ZeroTerminated("eth1"))
	flows := nl.NewRtAttr(rssFlowHash|unix.NLA_F_NESTED, nil)
	fields(flows)
	table := make([]byte, 0, 16)
	for _, q := range []uint32{0, 1, 2, 3} {
		table = binary.NativeEndian.AppendUint32(table, q)
	}
	for _, a := range []*nl.RtAttr{
		header, nl.NewRtAttr(rssIndirection, table), nl.NewRtAttr(rssFunction, nl.Uint32Attr(RSSToeplitz)),
		nl.NewRtAttr(rssTransform, nl.Uint32Attr(1)), nl.NewRtAttr(rssKey, []byte{0x6d, 0x5a, 0x6d, 0x5a, 0x6d}), flows,
	} {
		out = append(out, a.Serialize()...)
	}
	return out
}

func TestParseRSS(t *testing.T) {
	b := answer(func(flows *nl.RtAttr) {
		flows.AddRtAttr(2, nl.Uint32Attr(uint32(HashSource))) // IPv4 without ports: not one of ours
		flows.AddRtAttr(int(FlowTCP4), nl.Uint32Attr(uint32(HashSource|HashSourcePort)))
		flows.AddRtAttr(int(FlowUDP6), nl.Uint64Attr(uint64(HashDestination)))
	})
	got, err := parseRSS(b)
	want := RSS{
		Function: RSSToeplitz, Transform: 1, Key: []byte{0x6d, 0x5a, 0x6d, 0x5a, 0x6d}, Indirection: []uint32{0, 1, 2, 3},
		Fields: map[FlowType]HashFields{FlowTCP4: HashSource | HashSourcePort, FlowUDP6: HashDestination},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	bad := answer(func(flows *nl.RtAttr) { flows.AddRtAttr(int(FlowTCP4), []byte{1, 2}) })
	if got, err := parseRSS(bad); err == nil {
		t.Errorf("a number of two bytes: %+v", got)
	}
	for n := 0; n < len(b); n += 4 { // messages are padded to 4 bytes; whatever is cut off, nothing is invented
		if got, err := parseRSS(b[:n]); err == nil && len(got.Indirection) != 0 && len(got.Indirection) != 4 {
			t.Errorf("cut to %d bytes: %+v", n, got)
		}
	}
}

func TestHashFieldsString(t *testing.T) {
	for f, want := range map[HashFields]string{
		0: "none", HashSource | HashSourcePort: "sf", HashDestination | HashDestPort: "dn",
		HashSource | HashDestination | HashSourcePort | HashDestPort: "sdfn", HashSource | 1<<1: "s+0x2",
	} {
		if got := f.String(); got != want {
			t.Errorf("%#x: %s, want %s", uint64(f), got, want)
		}
	}
}

func TestRxfh(t *testing.T) {
	ne := binary.NativeEndian
	b := rxfh(2, []uint32{7, 9}, RSSToeplitz, 0, []byte{1, 2, 3})
	if ne.Uint32(b) != unix.ETHTOOL_SRSSH || ne.Uint32(b[8:]) != 2 || ne.Uint32(b[12:]) != 3 || b[16] != 1 || len(b) != 24+8+3 ||
		ne.Uint32(b[24:]) != 7 || ne.Uint32(b[28:]) != 9 || !bytes.Equal(b[32:], []byte{1, 2, 3}) {
		t.Errorf("% x", b)
	}
	if b := rxfh(rxfhKeepTable, nil, 0, 0, nil); ne.Uint32(b[8:]) != 0xffffffff || len(b) != 24 {
		t.Errorf("% x", b)
	}
}

// What the kernel here has are drivers without RSS. They refuse; a message that the kernel cannot read it refuses in another
// way, so what is refused as not supported was understood.
func TestRSSOfTheKernel(t *testing.T) {
	defer programNetns(t)()
	programVeth(t, netlink.Veth{})
	family, err := ethtoolFamily()
	if err != nil {
		t.Fatal(err)
	}
	controls := map[string]RSSControl{"ioctl": ioctlRSS{}}
	if family.setsRSS {
		controls["netlink"] = family
	} else {
		t.Log("this kernel sets RSS by the ioctl only; netlink needs Linux 6.17")
	}
	refusedBy := func(name, what string, err error) {
		if !errors.Is(err, ErrRefused) || !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%s: %s: %v", name, what, err)
		}
	}
	for name, c := range controls {
		_, err := c.Read("port")
		refusedBy(name, "read", err)
		for _, f := range FlowTypes {
			refusedBy(name, "fields", c.SetFields("port", f, HashSource|HashSourcePort))
		}
		refusedBy(name, "function", c.SetHash("port", RSSToeplitz, 0, nil))
		if err := c.SetHash("port", RSSToeplitz, 0, make([]byte, 40)); !errors.Is(err, ErrRefused) { // or: a key of another length
			t.Errorf("%s: key: %v", name, err)
		}
		refusedBy(name, "table", c.SetIndirection("port", []uint32{0, 0}))
		refusedBy(name, "default table", c.SetIndirection("port", nil))
		if _, err := c.Read("nothere"); !errors.Is(err, unix.ENODEV) || errors.Is(err, ErrRefused) {
			t.Errorf("%s: an interface that does not exist: %v", name, err)
		}
	}
	if !family.setsRSS {
		return
	}
	for what, a := range map[string]*nl.RtAttr{
		"an attribute that there is not": nl.NewRtAttr(200, []byte{1, 0, 0, 0}),
		"a function without a bit":       nl.NewRtAttr(rssFunction, nl.Uint32Attr(0)),
		"an empty key":                   nl.NewRtAttr(rssKey, nil),
		"a table for START_CONTEXT":      nl.NewRtAttr(7, nl.Uint32Attr(0)),
	} {
		if err := family.set(what, "port", a); err == nil || errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%s: %v", what, err)
		}
	}
	nest := nl.NewRtAttr(rssFlowHash|unix.NLA_F_NESTED, nil)
	nest.AddRtAttr(int(FlowTCP4), nl.Uint32Attr(1<<20))
	if err := family.set("fields that there are not", "port", nest); err == nil || errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("fields that there are not: %v", err)
	}
	control, err := KernelRSS()
	if err != nil || reflect.TypeOf(control) != reflect.TypeOf(family) {
		t.Errorf("%T, %v", control, err)
	}
}
