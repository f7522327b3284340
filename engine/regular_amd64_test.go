package engine

import "testing"

// The same of what other processors, and older ones, go by.
func TestSteadyWaysInGo(t *testing.T) {
	defer func(v bool) { vectors = v }(vectors)
	vectors = false
	steadyWays(t)
}
