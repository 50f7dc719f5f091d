package remote

import (
	"encoding/json"

	"github.com/flowfabric/flowfabric"
)

func checkBatch(field string, n int) error {
	switch {
	case n == 0:
		return flowfabric.InvalidInput(field, "must hold at least one item")
	case n > flowfabric.MaxBatchItems:
		return flowfabric.NewError(flowfabric.CodeBatchTooLarge, "%d items, limit %d", n, flowfabric.MaxBatchItems).
			With("limit", flowfabric.MaxBatchItems).With("actual", n)
	}
	return nil
}

// ownItem puts an error where it belongs: into the item when the server decided
// on it, else it is the call's.
func ownItem(err error, item *error) error {
	e := flowfabric.AsError(err)
	if e == nil || e.Class == flowfabric.ClassRetryableTransport || e.Class == flowfabric.ClassUnauthorized {
		return err
	}
	*item = err
	return nil
}

// part is a request of a batch: items as they are sent, and their places in the
// call.
type part struct {
	items      []json.RawMessage
	index      []int
	idempotent bool
	size       int
}

// body is {name: items}.
func (p part) body(name string) json.RawMessage {
	out := make([]byte, 0, p.size+batchFrame)
	out = append(out, `{"`+name+`":[`...)
	for i, item := range p.items {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, item...)
	}
	return append(out, `]}`...)
}

// batch cuts the items of a call into requests below a body limit.
type batch struct {
	limit int
	parts []part
	open  bool
}

// batchFrame is the room kept for what stands around the items.
const batchFrame = 64

func newBatch(limit int) *batch { return &batch{limit: limit - batchFrame} }

func (b *batch) add(i int, item []byte, idempotent bool) {
	n := len(b.parts) - 1
	if !b.open || b.parts[n].size+len(item)+1 > b.limit {
		b.parts = append(b.parts, part{idempotent: true})
		b.open = true
		n++
	}
	p := &b.parts[n]
	p.items = append(p.items, item)
	p.index = append(p.index, i)
	p.size += len(item) + 1
	p.idempotent = p.idempotent && idempotent
}

// end closes the part being filled.
func (b *batch) end() { b.open = false }

// spread puts the results of a part at their places.
func spread[R any](c call, results []flowfabric.Item[R], index []int, out []flowfabric.Item[R]) error {
	if len(results) != len(index) {
		return c.fault("the answer has %d items for %d", len(results), len(index))
	}
	for n, i := range index {
		out[i] = results[n]
	}
	return nil
}
