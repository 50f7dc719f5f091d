package remote

import (
	"context"
	"strconv"
	"sync"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// GetAttempt returns an attempt with its usage, else attempt_not_found.
func (b *Backend) GetAttempt(ctx context.Context, id flowfabric.ExecutionID, index uint32) (*flowfabric.Attempt, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return b.attempt(ctx, get("get_attempt", attemptPath(wire.RouteAttempt, id, index), nil))
}

// GetCurrentAttempt returns the attempt of the highest index, else
// no_attempts_exist.
func (b *Backend) GetCurrentAttempt(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Attempt, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return b.attempt(ctx, get("get_current_attempt", wire.Path(wire.RouteExecutionCurrent, string(id)), nil))
}

func (b *Backend) attempt(ctx context.Context, c call) (*flowfabric.Attempt, error) {
	var r wire.Attempt
	if _, err := b.do(ctx, c, &r); err != nil {
		return nil, err
	}
	a := r.Record()
	return &a, nil
}

// ListAttempts returns one page, ascending by index.
func (b *Backend) ListAttempts(ctx context.Context, a flowfabric.ListAttemptsArgs) (flowfabric.ListAttemptsResult, error) {
	if err := checkID(a.ExecutionID); err != nil {
		return flowfabric.ListAttemptsResult{}, err
	}
	if err := rules.ValidateListAttempts(&a); err != nil {
		return flowfabric.ListAttemptsResult{}, err
	}
	c := get("list_attempts", wire.Path(wire.RouteExecutionAttempts, string(a.ExecutionID)), wire.ListAttemptsQuery(a))
	var p wire.Page[wire.Attempt]
	if _, err := b.do(ctx, c, &p); err != nil {
		return flowfabric.ListAttemptsResult{}, err
	}
	r, err := wire.AttemptsResult(a.ExecutionID, p)
	if err != nil {
		return flowfabric.ListAttemptsResult{}, c.fault("the answer's cursor can't be read").Wrap(err)
	}
	return r, nil
}

func attemptPath(route string, id flowfabric.ExecutionID, index uint32) string {
	return wire.Path(route, string(id), strconv.FormatUint(uint64(index), 10))
}

// attemptOf is the path of a call on the attempt a fence belongs to. The index of
// an attempt that this backend claimed is remembered; another one, whose fence
// does not tell it, is looked up.
func (b *Backend) attemptOf(ctx context.Context, route string, id flowfabric.ExecutionID, f flowfabric.Fence) (string, error) {
	index, err := b.attemptIndex(ctx, id, f)
	if err != nil {
		return "", err
	}
	return attemptPath(route, id, index), nil
}

// attemptIndex is the index of the attempt a fence belongs to.
func (b *Backend) attemptIndex(ctx context.Context, id flowfabric.ExecutionID, f flowfabric.Fence) (uint32, error) {
	if index, ok := b.indexOf(f); ok {
		return index, nil
	}
	return b.findAttempt(ctx, id, f.AttemptID)
}

// findAttempt returns the index of an attempt: that of the current one, or of
// whichever has the identifier. Of an attempt that is not there it returns the
// latest index, since the server refuses its fence in any case.
func (b *Backend) findAttempt(ctx context.Context, id flowfabric.ExecutionID, attempt flowfabric.AttemptID) (uint32, error) {
	s, err := b.snapshot(ctx, "describe_execution", id)
	if err != nil {
		return 0, err
	}
	latest := max(s.TotalAttemptCount, 1) - 1
	if attempt == "" || s.TotalAttemptCount == 0 || s.CurrentAttempt != nil && s.CurrentAttempt.AttemptID == attempt {
		return latest, nil
	}
	args := flowfabric.ListAttemptsArgs{ExecutionID: id, Limit: flowfabric.MaxListLimit}
	for {
		r, err := b.ListAttempts(ctx, args)
		if err != nil {
			return 0, err
		}
		for i := range r.Attempts {
			if r.Attempts[i].AttemptID == attempt {
				b.indexes.put(attempt, r.Attempts[i].AttemptIndex)
				return r.Attempts[i].AttemptIndex, nil
			}
		}
		if r.Next == nil {
			return latest, nil
		}
		args.From = *r.Next
	}
}

// indexOf returns the index of the attempt a fence belongs to, if it is known.
func (b *Backend) indexOf(f flowfabric.Fence) (uint32, bool) {
	if f.AttemptIndex != nil {
		return *f.AttemptIndex, true
	}
	return b.indexes.get(f.AttemptID)
}

// maxIndexes is how many attempts' indexes are remembered.
const maxIndexes = 16_384

// indexes remembers the indexes of the attempts claimed last, which the paths of
// their calls need and the fences need not tell.
type indexes struct {
	mu   sync.Mutex
	byID map[flowfabric.AttemptID]uint32
	ring []flowfabric.AttemptID
	next int
}

func (x *indexes) put(id flowfabric.AttemptID, index uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byID == nil {
		x.byID = make(map[flowfabric.AttemptID]uint32)
	}
	_, known := x.byID[id]
	x.byID[id] = index // a claimer may use one identifier twice; the later attempt counts
	if known {
		return
	}
	if len(x.ring) < maxIndexes {
		x.ring = append(x.ring, id)
		return
	}
	delete(x.byID, x.ring[x.next])
	x.ring[x.next] = id
	x.next = (x.next + 1) % maxIndexes
}

func (x *indexes) get(id flowfabric.AttemptID) (uint32, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	index, ok := x.byID[id]
	return index, ok
}
