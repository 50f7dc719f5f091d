package api

import (
	"math"
	"net/netip"
	"sync"
	"time"
)

// Limits of failed authentication. (Specification 08, section 7.)
const (
	maxAuthFailures   = 20
	authFailureWindow = time.Minute
)

// Bounds of what is kept per address or token. Making room leaves enough of it
// that the next time is far away.
const (
	maxTracked  = 16_384
	keptTracked = maxTracked / 2
)

// failures counts bearer failures per address and shuts an address out for a
// minute after 20 of them in a minute.
type failures struct {
	mu   sync.Mutex
	seen map[netip.Addr]*failure
}

type failure struct {
	since time.Time
	count int
	until time.Time
}

// blocked returns how long the address is still shut out, 0 when it is not.
func (f *failures) blocked(addr netip.Addr, now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.seen[addr]
	if e == nil || !now.Before(e.until) {
		return 0
	}
	return e.until.Sub(now)
}

// note counts one failure of the address.
func (f *failures) note(addr netip.Addr, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.seen = make(map[netip.Addr]*failure)
	}
	e := f.seen[addr]
	if e == nil {
		f.forget(now)
		e = &failure{since: now}
		f.seen[addr] = e
	}
	if now.Sub(e.since) >= authFailureWindow {
		e.since, e.count = now, 0
	}
	e.count++
	if e.count >= maxAuthFailures {
		e.until, e.since, e.count = now.Add(authFailureWindow), now, 0
	}
}

// forget makes room when there is none: entries that say nothing any more go,
// and, when that is not enough, some others.
func (f *failures) forget(now time.Time) {
	if len(f.seen) < maxTracked {
		return
	}
	for addr, e := range f.seen {
		if now.Sub(e.since) >= authFailureWindow && !now.Before(e.until) {
			delete(f.seen, addr)
		}
	}
	for addr := range f.seen {
		if len(f.seen) <= keptTracked {
			return
		}
		delete(f.seen, addr)
	}
}

// limiter is a token bucket per key: so many requests a second, and bursts of
// twice what comes in the time the rate is meant for.
type limiter struct {
	rate  float64
	burst float64

	mu      sync.Mutex
	buckets map[string]*bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

// newLimiter returns a limiter of rate requests per second, with bursts of twice
// that. It is nil, which admits everything, when rate is not positive.
func newLimiter(rate float64) *limiter {
	return newLimiterPer(time.Second, rate)
}

// newLimiterPer is newLimiter for n requests in a time other than a second.
func newLimiterPer(d time.Duration, n float64) *limiter {
	if n <= 0 {
		return nil
	}
	return &limiter{rate: n / d.Seconds(), burst: max(1, 2*n), buckets: make(map[string]*bucket)}
}

// allow takes one token of the key's bucket. When there is none it returns how
// long until there will be.
func (l *limiter) allow(key string, now time.Time) (time.Duration, bool) {
	if l == nil {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	if b == nil {
		l.forget(now)
		b = &bucket{tokens: l.burst, at: now}
		l.buckets[key] = b
	}
	if d := now.Sub(b.at); d > 0 {
		b.tokens = math.Min(l.burst, b.tokens+d.Seconds()*l.rate)
		b.at = now
	}
	if b.tokens < 1 {
		return time.Duration((1 - b.tokens) / l.rate * float64(time.Second)), false
	}
	b.tokens--
	return 0, true
}

// forget makes room when there is none: buckets that are full again go, and some
// others when that is not enough.
func (l *limiter) forget(now time.Time) {
	if len(l.buckets) < maxTracked {
		return
	}
	for key, b := range l.buckets {
		if b.tokens+now.Sub(b.at).Seconds()*l.rate >= l.burst {
			delete(l.buckets, key)
		}
	}
	for key := range l.buckets {
		if len(l.buckets) <= keptTracked {
			return
		}
		delete(l.buckets, key)
	}
}
