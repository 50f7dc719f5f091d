package benchmark

import (
	"math/rand/v2"
	"sync/atomic"
)

// payloadSpread is how many different payloads a pool gives before it repeats
// one: each begins one byte further into the same random bytes.
const payloadSpread = 64 << 10

// payloads gives random, incompressible payloads that cost nothing to make: all
// are windows on one random buffer.
type payloads struct {
	buffer []byte
	turn   atomic.Uint64
}

func newPayloads(largest int) *payloads {
	p := &payloads{buffer: make([]byte, largest+payloadSpread)}
	random := rand.NewChaCha8([32]byte{'f', 'l', 'o', 'w'})
	random.Read(p.buffer) // never fails
	return p
}

// next returns a payload of n bytes; it must not be written to.
func (p *payloads) next(n int) []byte {
	from := int(p.turn.Add(1) * 4099 % payloadSpread)
	return p.buffer[from : from+n : from+n]
}
