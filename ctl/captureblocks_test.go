package ctl

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// Wherever a file is cut off, and in whatever portions it came, what is passed on can be read to its end; all of it is passed on whole.
func TestWholeBlocks(t *testing.T) {
	var file bytes.Buffer
	out, err := pcapgo.NewNgWriter(&file, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		if err := out.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(int64(n), 0), CaptureLength: n, Length: n}, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	head := bytes.NewBuffer(nil)
	if _, err := pcapgo.NewNgWriter(head, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	whole, last := file.Bytes(), 0
	for cut := range len(whole) + 1 {
		var got bytes.Buffer
		b := &wholeBlocks{w: &got}
		for rest := whole[:cut]; len(rest) > 0; {
			n := 1 + rand.IntN(min(len(rest), 200))
			if m, err := b.Write(rest[:n]); m != n || err != nil {
				t.Fatalf("%d, %v", m, err)
			}
			rest = rest[n:]
		}
		if cut == len(whole) && !bytes.Equal(got.Bytes(), whole) || !bytes.HasPrefix(whole, got.Bytes()) || got.Len() < last {
			t.Fatalf("%d bytes of %d became %d", cut, len(whole), got.Len())
		}
		last = got.Len()
		if last < 60 { // not even the interface
			continue
		}
		in, err := pcapgo.NewNgReader(bytes.NewReader(got.Bytes()), pcapgo.DefaultNgReaderOptions)
		for err == nil {
			_, _, err = in.ReadPacketData()
		}
		if err != io.EOF {
			t.Fatalf("%d bytes: %v", last, err)
		}
	}
	if _, err := (&wholeBlocks{w: io.Discard}).Write(make([]byte, 8)); err == nil {
		t.Error("a block of 0 bytes was taken")
	}
}
