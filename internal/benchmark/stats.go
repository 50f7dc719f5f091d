package benchmark

import (
	"math"
	"slices"
	"time"
)

// samples are measured durations in no order.
type samples []time.Duration

func (s *samples) add(d time.Duration) { *s = append(*s, d) }

// Percentiles are the latencies, in milliseconds, that half, 95 % and 99 % of
// the calls did not exceed.
type Percentiles struct {
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	Calls int     `json:"calls"`
}

// percentiles sorts the samples and reads the percentiles off them; all are zero
// without samples.
func (s samples) percentiles() Percentiles {
	slices.Sort(s)
	return Percentiles{P50: s.rank(0.50), P95: s.rank(0.95), P99: s.rank(0.99), Calls: len(s)}
}

// rank returns the nearest-rank percentile q of sorted samples, in milliseconds
// to three places.
func (s samples) rank(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(s)))) - 1
	return math.Round(float64(s[min(max(i, 0), len(s)-1)].Nanoseconds())/1e3) / 1e3
}

// rate is n per second of d, to one place; 0 when no time has passed.
func rate(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return math.Round(float64(n)/d.Seconds()*10) / 10
}
