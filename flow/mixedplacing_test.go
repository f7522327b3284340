package flow

import (
	"math/rand/v2"
	"testing"
)

// A MixedPlacing comes to what the hash of any tuple does, of whichever family.
func TestMixedPlacing(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 8))
	for range 3000 {
		secret := Secret{r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64()}
		var fast, slow scratch
		buckets := make([]bucket, 1+r.IntN(1000))
		keys := make([]Key, r.IntN(Burst+1))
		p := newMixedPlacing(&secret, buckets, &fast)
		for i := range keys {
			k := &keys[i]
			*k = Key{Src: AddrFrom4(r.Uint32()), Dst: AddrFrom4(r.Uint32()), Ports: r.Uint32(), Proto: uint8(r.Uint32())}
			if r.IntN(2) == 0 {
				k.Src, k.Dst = Addr{r.Uint64(), r.Uint64()}, Addr{r.Uint64(), r.Uint64()}
			}
			p.Note(i, k)
		}
		if hashEach(&secret, buckets, keys, &slow, 0); fast != slow {
			t.Fatalf("%+v are placed at\n%+v, not\n%+v", keys, fast, slow)
		}
	}
}
