package flowfabric

import (
	"context"
	"runtime"
	"sync"
)

// maxCallsInFlight bounds how many batches of one collector are under way at
// once: a further call starts beside a running one only for a full batch.
const maxCallsInFlight = 4

// maxCallBytes bounds the payloads of one batch, so that it fits the bulk limit
// of 16 MiB also in base64. An item over it goes alone.
const maxCallBytes = 8 << 20

// collector sends items to the store in batches without adding delay: while one
// call is in flight the next items collect and then go together, at most 100 of
// them. Each caller gets its own item's answer. (Decision D20.)
type collector[A, R any] struct {
	send func(ctx context.Context, items []A) ([]Item[R], error)
	// size is the payload of an item in bytes.
	size func(A) int
	// life ends the calls in flight when it ends; nil when nothing does.
	life context.Context

	mu     sync.Mutex
	queue  []*pending[A, R]
	active int
	calls  sync.WaitGroup
	spare  sync.Pool
}

// pending is one caller's item.
type pending[A, R any] struct {
	ctx  context.Context
	args A
	done chan Item[R] // of one slot: the answer never blocks the sender
}

// do hands args in and waits for the answer. When ctx ends first it returns
// ctx's error at once; an item already sent runs its course.
func (c *collector[A, R]) do(ctx context.Context, args A) (R, error) {
	var zero R
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	p, _ := c.spare.Get().(*pending[A, R])
	if p == nil {
		p = &pending[A, R]{done: make(chan Item[R], 1)}
	}
	p.ctx, p.args = ctx, args
	c.enqueue(p)
	select {
	case answer := <-p.done:
		var none A
		p.ctx, p.args = nil, none
		c.spare.Put(p)
		return answer.Result, answer.Err
	case <-ctx.Done(): // p is left to its call
		return zero, ctx.Err()
	}
}

func (c *collector[A, R]) enqueue(p *pending[A, R]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, p)
	if c.active == 0 || (len(c.queue) >= MaxBatchItems && c.active < maxCallsInFlight) {
		c.active++
		c.calls.Add(1)
		go c.run()
	}
}

// run sends batches until nothing waits.
func (c *collector[A, R]) run() {
	defer c.calls.Done()
	var batch []*pending[A, R]
	for {
		runtime.Gosched() // lets callers that are about to hand in an item do so
		batch = c.next(batch[:0])
		if len(batch) == 0 {
			return
		}
		c.deliver(batch)
		clear(batch)
	}
}

// next takes up to 100 items whose callers still wait, or ends the run.
func (c *collector[A, R]) next(batch []*pending[A, R]) []*pending[A, R] {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken, bytes := 0, 0
	for taken < len(c.queue) && len(batch) < MaxBatchItems {
		p := c.queue[taken]
		if p.ctx.Err() == nil {
			bytes += c.size(p.args)
			if bytes > maxCallBytes && len(batch) > 0 {
				break
			}
			batch = append(batch, p)
		}
		taken++
	}
	rest := copy(c.queue, c.queue[taken:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	if len(batch) == 0 {
		c.active--
	}
	return batch
}

func (c *collector[A, R]) deliver(batch []*pending[A, R]) {
	items := make([]A, len(batch))
	for i, p := range batch {
		items[i] = p.args
	}
	ctx := context.WithoutCancel(batch[0].ctx)
	end := func() {}
	if c.life != nil {
		ctx, end = endedBy(ctx, c.life)
	}
	answers, err := c.send(ctx, items)
	end()
	if err == nil && len(answers) != len(items) {
		err = NewError(CodeInternal, "batch of %d answered with %d items", len(items), len(answers))
	}
	if err != nil && c.life != nil && c.life.Err() != nil && isContextError(err) {
		err = context.Cause(c.life)
	}
	for i, p := range batch {
		if err != nil {
			p.done <- Item[R]{Err: err}
			continue
		}
		p.done <- answers[i]
	}
}
