package rings

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
)

func TestRulesCompile(t *testing.T) {
	if n := binary.Size(ruleKeyLayout{}); n != ruleKeySize {
		t.Errorf("a key has %d bytes", n)
	}
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		name  string
		rules Rules
		want  ruleTable
	}{
		{name: "nothing", want: ruleTable{}},
		{
			name:  "a server of the engine's address needs no entry",
			rules: Rules{Virtuals: []VirtualRule{{Addr: a, Proto: 6, Port: 80}, {Addr: a, Proto: 6, Port: 81}}},
			want:  ruleTable{newRuleKey(kindAddress, a, 0, 0): {flags: addrVirtual}},
		},
		{
			name: "a server of the host's address does",
			rules: Rules{
				Virtuals:  []VirtualRule{{Addr: b, Proto: 6, Port: 80}, {Addr: b, Proto: 17, Port: 1, PortLast: 65535}},
				Addresses: []AddressRule{{Addr: b, UnmatchedHost: true}},
			},
			want: ruleTable{
				newRuleKey(kindAddress, b, 0, 0):  {flags: addrVirtual | addrUnmatchedHost},
				newRuleKey(kindService, b, 6, 80): {},
				newRuleKey(kindService, b, 17, 0): {},
			},
		},
		{
			name: "any protocol leaves nothing unmatched",
			rules: Rules{
				Virtuals:  []VirtualRule{{Addr: a}, {Addr: a, Proto: 6, Port: 80}},
				Addresses: []AddressRule{{Addr: a, UnmatchedHost: true}},
			},
			want: ruleTable{newRuleKey(kindAddress, a, 0, 0): {flags: addrVirtual}},
		},
		{
			name:  "ICMP is a flag",
			rules: Rules{Virtuals: []VirtualRule{{Addr: a, Proto: 1}, {Addr: b, Proto: 58}}},
			want: ruleTable{
				newRuleKey(kindAddress, a, 0, 0): {flags: addrVirtual | addrICMPEngine},
				newRuleKey(kindAddress, b, 0, 0): {flags: addrVirtual | addrICMPEngine},
			},
		},
		{
			name: "an address in all its roles",
			rules: Rules{
				Virtuals: []VirtualRule{{Addr: netip.MustParseAddr("::ffff:10.0.0.1"), Proto: 6, Port: 80}},
				SNAT:     []SNATRule{{Addr: a, First: 1000, Last: 2000, ICMPEngine: true}}, Local: []netip.Addr{a},
				Members: []MemberRule{{Addr: a}, {Addr: b, Proto: 6, Port: 8080}}, FarEnds: []netip.Addr{b},
			},
			want: ruleTable{
				newRuleKey(kindAddress, a, 0, 0): {
					flags: addrVirtual | addrSNAT | addrICMPEngine | addrLocal | addrMember | addrMemberAny, first: 1000, last: 2000,
				},
				newRuleKey(kindAddress, b, 0, 0):   {flags: addrMember | addrFarEnd},
				newRuleKey(kindMember, b, 6, 8080): {},
			},
		},
	} {
		got, _, err := tt.rules.compile()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		for k, v := range tt.want {
			if g, ok := got[k]; !ok || g != v {
				t.Errorf("%s: %+v is %+v (%v), want %+v", tt.name, k, g, ok, v)
			}
		}
		if len(got) != len(tt.want) {
			t.Errorf("%s: %d entries, want %d", tt.name, len(got), len(tt.want))
		}
	}
}

// ruleKeyLayout is what ruleKey must be without any padding.
type ruleKeyLayout struct {
	Addr        [16]byte
	Port        [2]byte
	Proto, Kind uint8
}

func TestRulesRefuse(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.1")
	for want, r := range map[string]Rules{
		"missing":            {Virtuals: []VirtualRule{{}}},
		"address is missing": {Members: []MemberRule{{}}},
		"local address":      {Local: []netip.Addr{{}}},
		"far end":            {FarEnds: []netip.Addr{{}}},
		"always goes to":     {Virtuals: []VirtualRule{{Addr: netip.MustParseAddr("fe80::1%eth1")}}},
		"240.0.0.1":          {SNAT: []SNATRule{{Addr: netip.MustParseAddr("240.0.0.1"), First: 1, Last: 2}}},
		"224.0.0.1":          {Addresses: []AddressRule{{Addr: netip.MustParseAddr("224.0.0.1")}}},
		"0 has no ports":     {Virtuals: []VirtualRule{{Addr: a, Port: 80}}},
		"47 has no ports":    {Members: []MemberRule{{Addr: a, Proto: 47, Port: 80}}},
		"90 to 80":           {Virtuals: []VirtualRule{{Addr: a, Proto: 6, Port: 90, PortLast: 80}}},
		"5 to 4":             {SNAT: []SNATRule{{Addr: a, First: 5, Last: 4}}},
		"0 to 4":             {SNAT: []SNATRule{{Addr: a, First: 0, Last: 4}}},
		"two ranges":         {SNAT: []SNATRule{{Addr: a, First: 1, Last: 4}, {Addr: a, First: 6, Last: 7}}},
	} {
		if _, _, err := r.compile(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", r, err, want)
		}
	}
}
