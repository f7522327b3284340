package ctl

import (
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"sluice/engine"
)

// accessKeys are the keys of a virtual server about who may open connections to it, and about what others are told of it.
var accessKeys = []configKey[VirtualServer]{
	sourcesKey("allow", "everybody", "[10.0.0.0/8, 192.0.2.7]", "Sources that may open connections. Of allow and deny the longest prefix that holds a source decides; what is in none may if allow is not given.",
		func(v *VirtualServer) *[]netip.Prefix { return &v.Allow }),
	sourcesKey("deny", "nobody", "[10.66.0.0/16]", "Sources that may not; their packets are dropped, whatever refused says, and counted as source_denied. Connections that are there go on.",
		func(v *VirtualServer) *[]netip.Prefix { return &v.Deny }),
	numberKey(keyDoc{name: "source-rate-limit", def: "0", example: "20", text: "How many new connections a source prefix may open in a second, over all workers; engine.source-prefix-v4 and -v6 are its lengths. With one-packet, datagrams. More are refused, and counted as source_rate. 0 is no limit. Counted exactly for some ten thousand prefixes in a second; when far more come, some are not counted."},
		0, engine.MaxSourceRate, func(v *VirtualServer) *int { return &v.SourceRate }),
	flagKey(keyDoc{name: "withdraw-when-down", def: "false", example: "true", text: "Take its addresses off the port while every member that could serve it is down by its monitors, or forced off, so that routers and others send clients elsewhere. An address that several virtual servers have is withdrawn when all of them are down and have this."},
		func(v *VirtualServer) *bool { return &v.Withdraw }),
	scalarsKey(keyDoc{name: "hook", kind: "list of texts", example: "[/usr/local/bin/tell-routers, --fast]", text: "A program, by its absolute path, and its arguments, that is run for each address and prefix when it is announced (at a start as well) and when it is withdrawn (at a stop as well), one event after the other. It has 10 seconds, no shell, no capabilities, and in its environment nothing but PATH, SLUICE_EVENT (announce or withdraw), SLUICE_VIRTUAL, SLUICE_ADDRESS, SLUICE_PORT and SLUICE_INTERFACE (of the port). Its end is logged, with the first line that it writes."},
		anyTextKey(keyDoc{}, func(s *string) *string { return s }), func(v *VirtualServer) *[]string { return &v.Hook }),
}

// sourcesKey is a list of prefixes and addresses.
func sourcesKey(name, otherwise, example, text string, field func(*VirtualServer) *[]netip.Prefix) configKey[VirtualServer] {
	return scalarsKey(keyDoc{name: name, kind: "list of prefixes", otherwise: otherwise, example: example, text: text},
		textKey(keyDoc{kind: "prefix", limits: "an address, or a prefix with no bits beyond its length"}, parseSource, func(p *netip.Prefix) *netip.Prefix { return p }), field)
}

// parseSource reads a prefix, or an address, which is a prefix of its own.
func parseSource(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), checkUsable(a)
	}
	return parseNetwork(text)
}

// checkAccess checks the keys of accessKeys.
func (v *validator) checkAccess(s *VirtualServer, at string) {
	first := map[netip.Prefix]string{}
	for _, list := range []struct {
		key     string
		sources []netip.Prefix
	}{{"allow", s.Allow}, {"deny", s.Deny}} {
		for i, p := range list.sources {
			key := at + "." + list.key + "[" + strconv.Itoa(i) + "]"
			if before, ok := first[p]; ok {
				v.errorf(key, "%s is already in line %d", p, v.line(before))
				continue
			}
			first[p] = key
			if s.Address.IsValid() && p.Addr().Is4() != s.Address.Addr().Is4() {
				v.errorf(key, "%s is %s, and virtual server %q (%s) is %s", p, familyOf(p.Addr()), s.Name, s.Address, familyOf(s.Address.Addr()))
			}
		}
	}
	if len(s.Hook) > 0 {
		switch {
		case !filepath.IsAbs(s.Hook[0]):
			v.errorf(at+".hook", "program %q: want an absolute path", shorten(s.Hook[0]))
		case strings.ContainsRune(strings.Join(s.Hook, ""), 0):
			v.errorf(at+".hook", "an argument has a zero byte")
		}
	}
	if !s.Withdraw {
		return
	}
	p := v.file.Pool(s.Pool)
	switch {
	case p != nil && len(p.Monitors) == 0 && !p.Passive.Enabled():
		v.warn(at+".withdraw-when-down", "has no effect: pool %q has no monitors, so that its members are never down", s.Pool)
	case len(s.Hook) == 0 && (s.AddressHandling == AddressExternal || len(s.addresses()) == 0 && len(s.Destinations) > 0):
		v.warn(at+".withdraw-when-down", "has no effect: no address is sluice's to withdraw, and there is no hook to tell")
	}
}
