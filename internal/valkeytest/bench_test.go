package valkeytest

import "testing"

// BenchmarkTake takes a server and gives it back.
func BenchmarkTake(b *testing.B) {
	var p Pool
	defer p.Close()
	for b.Loop() {
		tb := &shortTest{TB: b}
		p.Take(tb)
		tb.end()
	}
}

// shortTest ends within a benchmark.
type shortTest struct {
	testing.TB
	cleanups []func()
}

func (t *shortTest) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

func (t *shortTest) end() {
	for _, f := range t.cleanups {
		f()
	}
}
