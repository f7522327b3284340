package rings

import (
	"net/netip"
	"testing"
)

func TestProgramCost(t *testing.T) {
	needBPF(t)
	rules := Rules{Virtuals: []VirtualRule{{Addr: netip.MustParseAddr("10.10.1.100"), Proto: protoTCP, Port: 80}}}
	frame := testPacket{src: "1.2.3.4", dst: "10.10.1.100", proto: protoTCP, dport: 80}.build(t)
	if _, err := ProgramCost(rules, [][]byte{frame}, 1); err != nil { // the library keeps descriptors of its own from the first use
		t.Fatal(err)
	}
	checkDescriptors(t)
	took, err := ProgramCost(rules, [][]byte{frame, frame}, 1000)
	if err != nil || took <= 0 {
		t.Errorf("%v, %v", took, err)
	}
	if _, err := ProgramCost(Rules{Virtuals: []VirtualRule{{}}}, [][]byte{frame}, 1); err == nil {
		t.Error("rules that are wrong have a cost")
	}
}
