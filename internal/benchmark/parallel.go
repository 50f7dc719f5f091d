package benchmark

import (
	"context"
	"sync"
)

// parallel runs do n times at once and waits for all. The first error cancels
// the others and is returned.
func parallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := do(ctx, i); err != nil {
				cancel(err) // only the first counts
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// share hands out the numbers 0..total in pieces.
type share struct {
	mu   sync.Mutex
	left int
}

// take returns up to n of what is left, 0 when nothing is.
func (s *share) take(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, s.left)
	s.left -= n
	return n
}

// next hands out one number, from the highest down; some is false when none is
// left.
func (s *share) next() (i int, some bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		return 0, false
	}
	s.left--
	return s.left, true
}
