package monitor

import (
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// complete are the defaults of each type with what they leave to be set.
func complete(t Type) Monitor {
	return testMonitor(t, func(m *Monitor) {
		switch t {
		case UDP:
			m.UDP.Send = "x"
		case DNS:
			m.DNS.Name = "a.example"
		case Exec:
			m.Exec.Argv = []string{"/bin/true"}
		}
	})
}

func TestDefaultsAreValid(t *testing.T) {
	for _, typ := range Types {
		m := complete(typ)
		if _, err := NewProber(m); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		typ  Type
		edit func(*Monitor)
		want string
	}{
		{TCP, func(m *Monitor) { m.Name = "" }, "name is empty"},
		{TCP, func(m *Monitor) { m.Type = "ftp" }, `type "ftp" is unknown; known: icmp tcp http https udp dns exec`},
		{TCP, func(m *Monitor) { m.Interval = time.Millisecond }, "interval 1ms is out of range: 100ms to 24h0m0s"},
		{TCP, func(m *Monitor) { m.DownInterval = 25 * time.Hour }, "down interval 25h0m0s is out of range"},
		{TCP, func(m *Monitor) { m.Timeout = 6 * time.Second }, "timeout 6s is longer than the interval 5s: lower the one or raise the other"},
		{TCP, func(m *Monitor) { m.DownInterval = time.Second }, "timeout 2s is longer than the interval 1s"},
		{TCP, func(m *Monitor) { m.Timeout = 0 }, "timeout 0s is shorter than 10ms"},
		{TCP, func(m *Monitor) { m.Jitter = 0.6 }, "jitter 0.6 is out of range: 0 to 0.5"},
		{TCP, func(m *Monitor) { m.Jitter = math.NaN() }, "jitter NaN is out of range"},
		{TCP, func(m *Monitor) { m.Rise = 0 }, "rise 0 is out of range: 1 to 1000"},
		{TCP, func(m *Monitor) { m.Fall = 1001 }, "fall 1001 is out of range: 1 to 1000"},
		{TCP, func(m *Monitor) { m.HTTP.Path = "/" }, "settings of http have no effect in a monitor of type tcp"},
		{HTTP, func(m *Monitor) { m.TLS.SkipVerify = true }, "settings of tls have no effect in a monitor of type http"},
		{TCP, func(m *Monitor) { m.Path.Source4 = netip.MustParseAddr("::1") }, "source-v4 ::1 is not a unicast address of that family"},
		{TCP, func(m *Monitor) { m.Path.Source6 = netip.MustParseAddr("ff02::1") }, "source-v6 ff02::1 is not a unicast address of that family"},
		{TCP, func(m *Monitor) { m.Path.Interface = "a/b" }, `"a/b" is not an interface name`},
		{ICMP, func(m *Monitor) { m.ICMP.Size = 8 }, "size 8 is out of range: 16 to 65000 bytes"},
		{ICMP, func(m *Monitor) { m.Port = 8 }, "port 8: icmp has no ports"},
		{TCP, func(m *Monitor) { m.TCP.Expect, m.TCP.Pattern = "a", "b" }, "expect and pattern are both set"},
		{TCP, func(m *Monitor) { m.TCP.Pattern = "a(" }, "pattern: error parsing regexp"},
		{TCP, func(m *Monitor) { m.TCP.Expect, m.TCP.Limit = "a", 0 }, "limit 0 is out of range: 1 to 1048576 bytes"},
		{TCP, func(m *Monitor) { m.TCP.Expect, m.TCP.Limit = "abc", 2 }, "expect has 3 bytes, more than the limit of 2 bytes"},
		{UDP, func(m *Monitor) { m.UDP.Send = "" }, "send has 0 bytes: a udp monitor sends 1 to 65507"},
		{UDP, func(m *Monitor) { m.UDP.Reset = true }, "reset is for tcp"},
		{HTTP, func(m *Monitor) { m.HTTP.Version = "3" }, `version "3" is unknown; known: 1.1, 2, auto`},
		{HTTP, func(m *Monitor) { m.HTTP.Version = HTTPAuto }, "version auto needs TLS"},
		{HTTP, func(m *Monitor) { m.HTTP.Method = "GET /" }, `method "GET /" is not a word`},
		{HTTP, func(m *Monitor) { m.HTTP.Method = "CONNECT" }, "method CONNECT asks for a tunnel"},
		{HTTP, func(m *Monitor) { m.HTTP.Path = "index.html" }, `path "index.html": want one that begins with one /`},
		{HTTP, func(m *Monitor) { m.HTTP.Path = "/a b" }, `path "/a b": want`},
		{HTTP, func(m *Monitor) { m.HTTP.Path = "//evil/" }, `path "//evil/": want`},
		{HTTP, func(m *Monitor) { m.HTTP.Host = "a b" }, `host "a b" is not a host`},
		{HTTP, func(m *Monitor) { m.HTTP.Headers = []Header{{"A:", "b"}} }, `header "A:": the name has a character`},
		{HTTP, func(m *Monitor) { m.HTTP.Headers = []Header{{"A", "b\r\nC: d"}} }, "header A: the value has a character"},
		{HTTP, func(m *Monitor) { m.HTTP.Headers = []Header{{"host", "b"}} }, "header host is set by the monitor"},
		{HTTP, func(m *Monitor) { m.HTTP.Status = nil }, "status is empty"},
		{HTTP, func(m *Monitor) { m.HTTP.Status = []StatusRange{{300, 200}} }, "status 300-200 is not a range from 100 to 599"},
		{HTTP, func(m *Monitor) { m.HTTP.Pattern, m.HTTP.BodyLimit = "a", 0 }, "body limit 0 is out of range"},
		{HTTP, func(m *Monitor) { m.HTTP.Pattern, m.HTTP.Method = "a", "HEAD" }, "the answer to HEAD has no body"},
		{HTTPS, func(m *Monitor) { m.TLS.CertFile = "a" }, "a client certificate needs both"},
		{HTTPS, func(m *Monitor) { m.TLS.SkipVerify, m.TLS.CAFile = true, "a" }, "a CA file has no effect"},
		{DNS, func(m *Monitor) { m.DNS.Name = "" }, `"" is not a domain name`},
		{DNS, func(m *Monitor) { m.DNS.Name = "a..b" }, `"a..b" is not a domain name`},
		{DNS, func(m *Monitor) { m.DNS.QueryType = "AXFR" }, `query type "AXFR" is unknown`},
		{DNS, func(m *Monitor) { m.DNS.RCode = "OK" }, `rcode "OK" is unknown`},
		{DNS, func(m *Monitor) { m.DNS.Answer = netip.MustParseAddr("::1") }, "answer ::1 is not of the family of query type A"},
		{DNS, func(m *Monitor) { m.DNS.QueryType, m.DNS.Answer = "MX", netip.MustParseAddr("::1") }, "only A and AAAA records have addresses"},
		{Exec, func(m *Monitor) { m.Exec.Argv = nil }, "argv is empty"},
		{Exec, func(m *Monitor) { m.Exec.Argv = []string{"true"} }, `program "true": want an absolute path`},
		{Exec, func(m *Monitor) { m.Exec.Argv = []string{"/bin/true", "a\x00"} }, "has a zero byte"},
		{Exec, func(m *Monitor) { m.Exec.Env = []string{"A"} }, `environment "A": want NAME=value`},
		{Exec, func(m *Monitor) { m.Exec.Env = []string{"SLUICE_PORT=1"} }, "names that begin with SLUICE_ are the monitor's"},
	} {
		m := complete(c.typ)
		c.edit(&m)
		err := m.Validate()
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "monitor ") {
			t.Errorf("%s: %v, want %q", c.typ, err, c.want)
		}
		if _, perr := NewProber(m); perr == nil {
			t.Errorf("%s: NewProber takes what Validate refuses with %q", c.typ, c.want)
		}
	}
}

// TestFiles: what a monitor names is looked at when it is handed over.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	ok(t, os.WriteFile(empty, nil, 0o644))
	for _, c := range []struct {
		m    Monitor
		want string
	}{
		{testMonitor(HTTPS, func(m *Monitor) { m.TLS.CAFile = dir + "/nosuch" }), "read CA file: open "},
		{testMonitor(HTTPS, func(m *Monitor) { m.TLS.CAFile = empty }), "has no certificate in PEM form"},
		{testMonitor(HTTPS, func(m *Monitor) { m.TLS.CertFile, m.TLS.KeyFile = empty, empty }), "load client certificate"},
		{testMonitor(Exec, func(m *Monitor) { m.Exec.Argv = []string{dir + "/nosuch"} }), "no such file"},
		{testMonitor(Exec, func(m *Monitor) { m.Exec.Argv = []string{empty} }), "is not executable"},
		{testMonitor(Exec, func(m *Monitor) { m.Exec.Argv = []string{dir} }), "is not executable"},
	} {
		if _, err := NewProber(c.m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// TestEqual changes every field of a monitor, one after the other: none may be forgotten.
func TestEqual(t *testing.T) {
	a, b := Default(HTTP), Default(HTTP)
	b.HTTP.Headers, b.Exec.Argv = []Header{}, []string{}
	if !a.Equal(&b) {
		t.Error("an empty list is not the same as none")
	}
	n := 0
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		if v.Type() == reflect.TypeFor[netip.Addr]() {
			v.Set(reflect.ValueOf(netip.MustParseAddr("192.0.2.77")))
		} else if v.Kind() == reflect.Struct {
			for i := range v.NumField() {
				walk(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
			return
		}
		old := reflect.New(v.Type()).Elem()
		switch v.Kind() {
		case reflect.String:
			old.SetString(v.String())
			v.SetString("changed")
		case reflect.Int, reflect.Int64:
			old.SetInt(v.Int())
			v.SetInt(99)
		case reflect.Uint16, reflect.Uint32:
			v.SetUint(99)
		case reflect.Float64:
			old.SetFloat(v.Float())
			v.SetFloat(0.33)
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Slice:
			old.Set(v)
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		case reflect.Struct: // an address
		default:
			t.Fatalf("%s is of kind %v", path, v.Kind())
		}
		if n++; a.Equal(&b) {
			t.Errorf("%s does not count", path)
		}
		v.Set(old)
		if !a.Equal(&b) {
			t.Fatalf("%s was not put back", path)
		}
	}
	walk(reflect.ValueOf(&b).Elem(), "Monitor")
	if n < 40 {
		t.Errorf("only %d fields were tried", n)
	}
}

func TestParseStatus(t *testing.T) {
	for _, text := range []string{"200", "200-399", "200-299,304", "100-599"} {
		set, err := ParseStatus(text)
		if err != nil || FormatStatus(set) != text {
			t.Errorf("%s: %v %v", text, set, err)
		}
	}
	for _, text := range []string{"", "2xx", "99", "600", "300-200", "200-", "-200", "200,,300", "0200", "200-300-400", "+20"} {
		if set, err := ParseStatus(text); err == nil {
			t.Errorf("%q is %v", text, set)
		}
	}
}

// FuzzOneLine: a cause is printable, one line and bounded, whatever a server or a program says.
func FuzzOneLine(f *testing.F) {
	f.Add("a\nb\x1b[0m")
	f.Add(strings.Repeat("\u00e4", 150))
	f.Add(strings.Repeat("x", 199) + "\xff\xff")
	f.Fuzz(func(t *testing.T, text string) {
		line := oneLine(text)
		if len(line) > maxCause || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }) || strings.ToValidUTF8(line, "") != line {
			t.Errorf("%q", line)
		}
	})
}
