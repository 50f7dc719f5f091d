package valkey

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// Bounds of one call of a batch function.
const (
	maxCallItems = flowfabric.MaxBatchItems
	maxCallBytes = 4 << 20
)

// flights is how many batches of one kind may be on their way at once. One would
// bind the throughput of a process to the round trip; with many, batches stay
// small and cost more.
const flights = 2

// batches are the writes that go together: while one of a kind is on its way the
// next ones collect, and go together when it returns, one call for each
// partition, all calls in one pipeline. There is no timer: what comes alone goes
// at once. (Specification 07, section 7.2.)
type batches struct {
	creates, completions, renewals batcher
}

func (b *batches) init(s *Store) {
	for _, kind := range []struct {
		b      *batcher
		fn     string
		stride int
	}{
		{&b.creates, fnCreate, createStride}, {&b.completions, fnComplete, completeStride}, {&b.renewals, fnRenew, renewStride},
	} {
		*kind.b = batcher{fn: kind.fn, stride: kind.stride, tag: s.tag, calls: s.calls, most: flights}
	}
}

// batchItem is one item of a batch function: its arguments, then its answer.
type batchItem struct {
	index  int // in the caller's batch
	part   uint16
	args   []string
	answer string
	err    error
	ticket *ticket
}

// size is about what the item takes on the wire.
func (it *batchItem) size() int {
	n := 0
	for _, a := range it.args {
		n += len(a)
	}
	return n
}

// ticket is what one caller has put in: its items, and a signal when all of them
// are answered.
type ticket struct {
	items     []batchItem
	args      []string // of all items; those behind used are of the next one
	used      int
	left      atomic.Int32
	abandoned atomic.Bool // the caller is gone: what has not been sent need not be
	done      chan struct{}
}

func newTicket(n, stride int) *ticket {
	return &ticket{items: make([]batchItem, 0, n), args: make([]string, 0, n*stride)}
}

// add makes an item of the arguments that were appended since the last one.
func (t *ticket) add(index int, part uint16) {
	args := t.args[t.used:len(t.args):len(t.args)]
	t.used = len(t.args)
	t.items = append(t.items, batchItem{index: index, part: part, args: args, ticket: t})
}

// batcher collects the items of one function.
type batcher struct {
	fn     string
	stride int
	tag    func(uint16) string
	calls  func(context.Context, []request) []answer
	most   int

	mu      sync.Mutex
	flying  int
	waiting []*batchItem
}

// do has the items of the ticket carried out and returns when all are answered.
// When the context ends first, its error is returned, and items may be carried
// out all the same.
func (b *batcher) do(ctx context.Context, t *ticket) error {
	if len(t.items) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	t.left.Store(int32(len(t.items)))
	t.done = make(chan struct{})
	b.mu.Lock()
	for i := range t.items {
		b.waiting = append(b.waiting, &t.items[i])
	}
	fly := b.flying < b.most
	if fly {
		b.flying++
	}
	b.mu.Unlock()
	if fly {
		go b.fly()
	}
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		t.abandoned.Store(true)
		return ctx.Err()
	}
}

// fly sends what has collected, and again what has collected meanwhile, until
// nothing is left.
func (b *batcher) fly() {
	var items []*batchItem
	for {
		b.mu.Lock()
		items, b.waiting = b.waiting, items[:0]
		if len(items) == 0 {
			b.flying--
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		b.send(items)
		clear(items)
	}
}

// send carries out items: those of a partition in one call, in the order in which
// they came.
func (b *batcher) send(items []*batchItem) {
	n := 0
	for _, it := range items {
		if it.ticket.abandoned.Load() {
			b.answered(it)
			continue
		}
		items[n] = it
		n++
	}
	if items = items[:n]; n == 0 {
		return
	}
	if n > 1 {
		slices.SortStableFunc(items, func(x, y *batchItem) int { return int(x.part) - int(y.part) })
	}
	reqs, ends := b.requests(items)
	answers := b.calls(context.Background(), reqs)
	from := 0
	for i := range answers {
		b.distribute(items[from:ends[i]], &answers[i])
		from = ends[i]
	}
}

// requests makes the calls for sorted items; the items of the i-th go up to
// ends[i].
func (b *batcher) requests(items []*batchItem) (reqs []request, ends []int) {
	for from := 0; from < len(items); {
		to, size := from+1, items[from].size()
		for to < len(items) && to-from < maxCallItems && items[to].part == items[from].part {
			more := items[to].size()
			if size+more > maxCallBytes {
				break
			}
			size += more
			to++
		}
		args := items[from].args
		if to-from > 1 {
			args = make([]string, 0, (to-from)*b.stride)
			for _, it := range items[from:to] {
				args = append(args, it.args...)
			}
		}
		reqs = append(reqs, request{fn: b.fn, tag: b.tag(items[from].part), args: args})
		ends = append(ends, to)
		from = to
	}
	return reqs, ends
}

// distribute gives the items of one call their answers.
func (b *batcher) distribute(items []*batchItem, got *answer) {
	var list elements
	err := got.err
	if err == nil {
		if list, err = elementsOf(b.fn, &got.msg, len(items)); err != nil {
			err = badAnswer(b.fn)
		}
	}
	for i, it := range items {
		if err != nil {
			it.err = ownError(err)
		} else {
			it.answer = list.str(i)
		}
		b.answered(it)
	}
}

// answered counts an item as answered; the caller may go on with the last one,
// and the item is its own again.
func (b *batcher) answered(it *batchItem) {
	if t := it.ticket; t.left.Add(-1) == 0 {
		close(t.done)
	}
}

// checkBatch refuses an empty batch and one over the limit.
func checkBatch(n int) error {
	if n == 0 {
		return flowfabric.InvalidInput("items", "the batch is empty")
	}
	if n > flowfabric.MaxBatchItems {
		return flowfabric.NewError(flowfabric.CodeBatchTooLarge, "%d items, limit %d", n, flowfabric.MaxBatchItems).
			With("limit", flowfabric.MaxBatchItems).With("actual", n)
	}
	return nil
}

// checkItem is the refusal of an item before it is sent: of its identifier first,
// then what else was found.
func (s *Store) checkItem(id flowfabric.ExecutionID, found error) error {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return err
	}
	return found
}

// ownError is a copy of an error that several callers get: each may add to his.
func ownError(err error) error {
	e, ok := err.(*flowfabric.Error)
	if !ok {
		return err
	}
	copied := *e
	copied.Details = maps.Clone(e.Details)
	return &copied
}
