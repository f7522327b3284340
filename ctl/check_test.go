package ctl

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// A host that lacks many things is told of the first ones and how many there are.
func TestBoundedErrors(t *testing.T) {
	var errs []error
	for i := range maxHostProblems {
		errs = append(errs, fmt.Errorf("problem %d: %w", i, errors.ErrUnsupported))
	}
	if boundedErrors(nil) != nil {
		t.Error("an error of nothing")
	}
	if err := boundedErrors(errors.Join(errs...)); strings.Count(err.Error(), "\n") != maxHostProblems-1 || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v", err)
	}
	lines := strings.Split(boundedErrors(errors.Join(append(errs, errs...)...)).Error(), "\n")
	if len(lines) != maxHostProblems+1 || lines[maxHostProblems] != "20 more problems are not listed; mend these first" || lines[0] != "problem 0: unsupported operation" {
		t.Errorf("%q", lines)
	}
}

// A check of a host looks at all that does not need the other, and says where each problem stands.
func TestCheckReportsAll(t *testing.T) {
	f, err := Parse("f", []byte(`control: {group: no-such-group-here}
ports: [{interface: nope0}, {interface: nope1}]
monitors:
  - {name: a, type: exec, exec: {command: [/nope]}}
  - {name: b, type: https, tls: {ca-file: /nope}}
pools: [{name: p, monitors: [a, b], members: [{address: 192.168.20.1}]}]
virtual-servers:
  - {name: v, protocol: tcp, pool: p, address: 10.0.0.1:80, hook: [/nope]}
`))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Check(false)
	if err == nil {
		t.Fatal("it is good")
	}
	for _, want := range []string{
		"f:2:21: ports[0].interface: no interface nope0", "f:2:41: ports[1].interface: no interface nope1", "f:1:18: control.group: there is no group",
		"f:4:34: monitors[0].exec.command: ", "f:5:43: monitors[1].tls.ca-file: ", "f:8:61: virtual-servers[0].hook: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not said: %s\n%v", want, err)
		}
	}
}
