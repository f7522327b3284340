package ctl

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// maxDuration is how far a flow's clock, 32 bits of milliseconds read as signed differences, may look ahead
// (24 days), with room to spare.
const maxDuration = 7 * 24 * time.Hour

// textKey is a key whose value is read by parse. The other constructors below add ranges to it.
func textKey[T, V any](doc keyDoc, parse func(text string) (V, error), field func(*T) *V) configKey[T] {
	return configKey[T]{doc: doc, text: func(s scalar, into *T) error {
		v, err := parse(s.text)
		if err == nil {
			*field(into) = v
		}
		return err
	}, show: func(from *T, at string, emit func(Setting)) { emit(Setting{at, valueText(*field(from))}) }}
}

// wordKey is a key with a fixed set of values. later are words of releases to come.
func wordKey[T any, W ~string](doc keyDoc, allowed []W, later []W, field func(*T) *W) configKey[T] {
	names := make([]string, len(allowed))
	for i, w := range allowed {
		names[i] = string(w)
	}
	doc.kind, doc.limits = "word", strings.Join(names, ", ")
	for i, w := range later {
		if i > 0 {
			doc.later += ", "
		}
		doc.later += string(w)
	}
	return textKey(doc, func(text string) (W, error) {
		if slices.Contains(allowed, W(text)) {
			return W(text), nil
		}
		// client-end takes a length: prefix/24.
		if base, _, _ := strings.Cut(text, "/"); slices.Contains(later, W(base)) {
			return "", wrong("%s %s is not in this release; supported: %s", doc.name, shorten(text), doc.limits)
		}
		w := wrong("unknown %s %q; supported: %s", doc.name, shorten(text), doc.limits)
		if near := nearest(text, names); near != "" {
			w.orUse("did you mean %q?", near)
		}
		return "", w
	}, field)
}

// numberKey is a key with a whole number from lo to hi.
func numberKey[T any](doc keyDoc, lo, hi int, field func(*T) *int) configKey[T] {
	doc.kind, doc.limits, doc.number = "number", fmt.Sprintf("%d to %d", lo, hi), true
	return textKey(doc, func(text string) (int, error) { return parseNumber(text, lo, hi) }, field)
}

// autoNumberKey is a number or the word auto, which is 0.
func autoNumberKey[T any](doc keyDoc, lo, hi int, field func(*T) *int) configKey[T] {
	doc.kind, doc.limits, doc.def = "number or auto", fmt.Sprintf("auto, %d to %d", lo, hi), "auto"
	k := textKey(doc, func(text string) (int, error) {
		if text == "auto" {
			return 0, nil
		}
		return parseNumber(text, lo, hi)
	}, field)
	number := k.show
	k.show = func(from *T, at string, emit func(Setting)) {
		if *field(from) == 0 {
			emit(Setting{at, "auto"})
			return
		}
		number(from, at, emit)
	}
	return k
}

// choiceKey is one of a few numbers.
func choiceKey[T any](doc keyDoc, allowed []int, field func(*T) *int) configKey[T] {
	doc.kind, doc.limits, doc.number = "number", strings.ReplaceAll(strings.Trim(fmt.Sprint(allowed), "[]"), " ", ", "), true
	return textKey(doc, func(text string) (int, error) {
		v, err := parseNumber(text, 0, 1<<30)
		if err == nil && !slices.Contains(allowed, v) {
			err = wrong("%d is not one of %s", v, doc.limits)
		}
		return v, err
	}, field)
}

func parseNumber(text string, lo, hi int) (int, error) {
	v, err := strconv.Atoi(text)
	digits := strings.TrimPrefix(text, "-")
	// A leading zero is octal to some readers of YAML and decimal to others.
	if digits == "" || strings.Trim(digits, "0123456789") != "" || len(digits) > 1 && digits[0] == '0' {
		return 0, wrong("want a number in decimal digits, found %q", shorten(text))
	}
	if err != nil || v < lo || v > hi {
		return 0, wrong("%s is out of range: %d to %d", shorten(text), lo, hi)
	}
	return v, nil
}

// flagKey is true or false.
func flagKey[T any](doc keyDoc, field func(*T) *bool) configKey[T] {
	doc.kind, doc.limits, doc.number = "flag", "true, false", true
	return textKey(doc, func(text string) (bool, error) {
		if text != "true" && text != "false" {
			return false, wrong("want true or false, found %q", shorten(text))
		}
		return text == "true", nil
	}, field)
}

// durationKey is a time from lo to hi, in whole units of lo, or of a millisecond where 0 is allowed.
func durationKey[T any](doc keyDoc, lo, hi time.Duration, field func(*T) *time.Duration) configKey[T] {
	doc.kind, doc.limits = "duration", fmt.Sprintf("%s to %s", plainDuration(lo), plainDuration(hi))
	unit := lo
	if lo == 0 {
		unit = time.Millisecond
	}
	return textKey(doc, func(text string) (time.Duration, error) {
		v, err := time.ParseDuration(text)
		switch {
		case err != nil && text != "" && strings.Trim(text, "0123456789") == "":
			return 0, wrong("the duration %s has no unit", shorten(text)).orUse("such as %ss or %sms", shorten(text), shorten(text))
		case err != nil && strings.HasSuffix(text, "d"):
			return 0, wrong("want a duration, found %q", shorten(text)).orUse("the largest unit is h: 24h, 168h")
		case err != nil:
			return 0, wrong("want a duration, found %q", shorten(text)).orUse("such as 500ms, 30s or 1h30m")
		case v < lo || v > hi:
			return 0, wrong("%s is out of range: %s", shorten(text), doc.limits)
		case v%unit != 0:
			return 0, wrong("%s is finer than %s", shorten(text), plainDuration(unit))
		}
		return v, nil
	}, field)
}

// plainDuration is d without zero minutes and seconds: 168h, not 168h0m0s; us, not µs.
func plainDuration(d time.Duration) string {
	s := strings.ReplaceAll(d.String(), "µ", "u")
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// scalarsKey is a key with a list of scalars.
func scalarsKey[T, V any](doc keyDoc, item configKey[V], field func(*T) *[]V) configKey[T] {
	doc.limits = item.doc.limits
	return configKey[T]{doc: doc, tree: func(d *decoder, n ast.Node, at string, into *T) {
		eachItem(d, &doc, n, at, func(n ast.Node, at string) {
			var v V
			before := len(d.errs)
			if decodeScalar(d, &item, n, at, &v); len(d.errs) == before {
				*field(into) = append(*field(into), v)
			}
		})
	}, show: func(from *T, at string, emit func(Setting)) {
		var items []string
		for _, v := range *field(from) {
			items = append(items, valueText(v))
		}
		emit(Setting{at, "[" + strings.Join(items, ", ") + "]"})
	}}
}

// parseName reads a name as the command line, metrics and logs can carry it without quoting.
func parseName(text string) (string, error) {
	const others = "._-:[]"
	bad := strings.IndexFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(others, r)
	})
	switch {
	case text == "":
		return "", wrong("the name is empty")
	case len(text) > 64:
		return "", wrong("the name has %d characters, at most 64 are allowed", len(text))
	case bad >= 0:
		return "", wrong("the name %q may only have letters, digits and %s", text, others)
	}
	return text, nil
}

// parseInterface holds to the kernel's own rule (dev_valid_name in net/core/dev.c).
func parseInterface(text string) (string, error) {
	switch {
	case text == "" || text == "." || text == "..":
		return "", wrong("%q is not an interface name", text)
	case len(text) > 15:
		return "", wrong("the interface name %q has %d characters, the kernel allows 15", shorten(text), len(text))
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' }):
		return "", wrong("the interface name %q has a character that the kernel does not allow", text)
	}
	return text, nil
}

func parseSocket(text string) (string, error) {
	switch {
	case !filepath.IsAbs(text) || strings.HasSuffix(text, "/"):
		return "", wrong("want the absolute path of a socket, found %q", shorten(text))
	case len(text) > 107: // sun_path of struct sockaddr_un, less its final zero
		return "", wrong("the path has %d bytes, a socket's may have 107", len(text))
	case strings.ContainsRune(text, 0):
		return "", wrong("the path has a zero byte")
	}
	return text, nil
}

func parseMAC(text string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(text)
	switch {
	case err != nil || len(mac) != 6:
		return nil, wrong("want a MAC address, found %q", shorten(text)).orUse("such as 02:00:00:00:01:01")
	case mac[0]&1 != 0:
		return nil, wrong("%s is a group address; want that of one station", mac)
	case [6]byte(mac) == [6]byte{}:
		return nil, wrong("the MAC address is zero")
	}
	return mac, nil
}

func parseAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		w := wrong("want an IP address, found %q", shorten(text))
		if ap, err := netip.ParseAddrPort(text); err == nil {
			w.orUse("without the port: %s", ap.Addr())
		} else if p, err := netip.ParsePrefix(text); err == nil {
			w.orUse("without the length: %s", p.Addr())
		}
		return a, w
	}
	return a, checkUsable(a)
}

// checkUsable refuses addresses that have no single meaning in a packet.
func checkUsable(a netip.Addr) error {
	if a.Is4In6() {
		return wrong("%s is an IPv4 address in IPv6 form", a).orUse("write %s", a.Unmap())
	}
	if a.Zone() != "" {
		return wrong("%s has a zone, which packets do not carry", a).orUse("write %s", a.WithZone(""))
	}
	return nil
}

// parseEnd reads ip:port or [ip]:port.
func parseEnd(text string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(text)
	switch {
	case err != nil:
		return ap, noEnd(text)
	case ap.Port() == 0:
		return ap, wrong("port 0 cannot be used; want 1 to 65535")
	}
	return ap, checkUsable(ap.Addr())
}

// noEnd says what is wrong with a text that is no ip:port.
func noEnd(text string) *problem {
	if a, err := netip.ParseAddr(text); err == nil {
		return wrong("the port is missing").orUse("such as %s", netip.AddrPortFrom(a.WithZone(""), 80))
	}
	w := wrong("want ip:port, found %q", shorten(text))
	colon := strings.LastIndexByte(text, ':')
	if colon < 0 {
		return w.orUse("such as 10.10.1.100:80 or [2001:db8::1]:80")
	}
	host, port := text[:colon], text[colon+1:]
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	switch {
	case host == "" && port != "":
		return w.orUse("such as 0.0.0.0:%s or 127.0.0.1:%s", shorten(port), shorten(port))
	case err != nil:
		return w.orUse("names are not looked up; such as 10.10.1.100:80 or [2001:db8::1]:80")
	case port == "*" || port == "any" || strings.Contains(port, "-") || strings.Contains(port, ","):
		return wrong("several ports, %q; want one", shorten(port))
	}
	return wrong("%q is not a port; want 1 to 65535", shorten(port))
}

// parseVirtual reads ip:port, or ip:any, whose port is 0.
func parseVirtual(text string) (netip.AddrPort, error) {
	host, found := strings.CutSuffix(text, ":any")
	if !found {
		return parseEnd(text)
	}
	if inner, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(inner, "]") {
		host = strings.TrimSuffix(inner, "]")
	} else if strings.Contains(host, ":") {
		return netip.AddrPort{}, wrong("want ip:any, found %q", shorten(text)).orUse("such as [%s]:any", shorten(host))
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, wrong("want ip:any, found %q", shorten(text)).orUse("such as 10.10.1.100:any or [2001:db8::1]:any")
	}
	return netip.AddrPortFrom(a, 0), checkUsable(a)
}

// parseTarget reads a member's address, whose port may be left out.
func parseTarget(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")); err == nil {
		return netip.AddrPortFrom(a, 0), checkUsable(a)
	}
	return parseEnd(text)
}

func parseMetrics(text string) (netip.AddrPort, error) {
	if text == "off" {
		return netip.AddrPort{}, nil
	}
	return parseEnd(text)
}

func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		w := wrong("want an address with its prefix length, found %q", shorten(text))
		if a, err := netip.ParseAddr(text); err == nil {
			w.orUse("such as %s", netip.PrefixFrom(a.WithZone(""), min(24, a.BitLen()-8)))
		}
		return p, w
	}
	return p, checkUsable(p.Addr())
}

func parseNetwork(text string) (netip.Prefix, error) {
	p, err := parsePrefix(text)
	if err == nil && p != p.Masked() {
		return p, wrong("%s has bits set beyond its length", p).orUse("the network is %s", p.Masked())
	}
	return p, err
}
