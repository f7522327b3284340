package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"sluice/engine"
)

// mode is a way of forwarding: what makes its configuration another than that of nat. What packets look like on the servers'
// side is not said here but seen, when connections are opened (establish.go).
type mode struct {
	name     string
	apply    func(*engine.Spec)
	timeouts engine.Timeouts // zero: the defaults
}

var modes = []mode{
	{name: "nat", apply: func(*engine.Spec) {}},
}

// Modes are the names of what can be measured.
func Modes() (names []string) {
	for _, m := range modes {
		names = append(names, m.name)
	}
	return names
}

func modeOf(name string) (mode, error) {
	i := slices.IndexFunc(modes, func(m mode) bool { return m.name == name })
	if i < 0 {
		return mode{}, fmt.Errorf("no mode %q; there are: %s", name, strings.Join(Modes(), ", "))
	}
	return modes[i], nil
}
