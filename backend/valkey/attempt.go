package valkey

import (
	"context"
	"strconv"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// ended reads attempts that core does not hold, from one index to before
// another, ascending. What is not there is left out.
func (s *Store) ended(ctx context.Context, op string, id flowfabric.ExecutionID, p *flowfabric.Policy, from, to uint32) ([]flowfabric.Attempt, error) {
	if from >= to {
		return nil, nil
	}
	indexes := make([]string, 0, to-from)
	for i := from; i < to; i++ {
		indexes = append(indexes, strconv.FormatUint(uint64(i), 10))
	}
	got := s.plain(ctx, s.b.Hmget().Key(execKey(id, "attempts")).Field(indexes...).Build())[0]
	if got.err != nil {
		return nil, got.err
	}
	list, err := got.msg.ToArray()
	if err != nil {
		return nil, err
	}
	out := make([]flowfabric.Attempt, 0, len(list))
	for i := range list {
		text := elements(list).str(i)
		if text == "" {
			continue
		}
		a, err := decodeAttempt(op, id, p, text)
		if err != nil {
			return nil, err
		}
		out = append(out, *a)
	}
	return out, nil
}

// current returns the attempt of the highest index, nil before the first claim.
func (s *Store) current(ctx context.Context, op string, id flowfabric.ExecutionID, st *rules.State) (*flowfabric.Attempt, error) {
	if st.Attempt != nil {
		return st.Attempt, nil
	}
	index, claimed := st.Exec.CurrentAttemptIndex()
	if !claimed {
		return nil, nil
	}
	older, err := s.ended(ctx, op, id, st.Policy, index, index+1)
	if err != nil {
		return nil, err
	}
	if len(older) == 0 {
		return nil, corrupt(op, "attempt", "attempt %d is missing", index)
	}
	return &older[0], nil
}

// GetAttempt returns one attempt.
func (s *Store) GetAttempt(ctx context.Context, id flowfabric.ExecutionID, index uint32) (*flowfabric.Attempt, error) {
	const op = "get_attempt"
	v, err := s.mustView(ctx, op, id, partHeader)
	if err != nil {
		return nil, err
	}
	if a := v.st.Attempt; a != nil && a.AttemptIndex == index {
		return a, nil
	}
	var older []flowfabric.Attempt
	if index < v.st.Exec.TotalAttemptCount {
		if older, err = s.ended(ctx, op, id, v.st.Policy, index, index+1); err != nil {
			return nil, err
		}
	}
	if len(older) == 0 {
		return nil, flowfabric.NewError(flowfabric.CodeAttemptNotFound, "%s has no attempt %d", id, index).With("attempt_index", index)
	}
	return &older[0], nil
}

// GetCurrentAttempt returns the attempt of the highest index.
func (s *Store) GetCurrentAttempt(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Attempt, error) {
	const op = "get_current_attempt"
	v, err := s.mustView(ctx, op, id, partHeader)
	if err != nil {
		return nil, err
	}
	a, err := s.current(ctx, op, id, v.st)
	if err == nil && a == nil {
		err = flowfabric.NewError(flowfabric.CodeNoAttemptsExist, "%s was never claimed", id)
	}
	return a, err
}

// ListAttempts returns attempts ascending by index.
func (s *Store) ListAttempts(ctx context.Context, args flowfabric.ListAttemptsArgs) (res flowfabric.ListAttemptsResult, err error) {
	const op = "list_attempts"
	limit, err := listLimit(args.Limit, 100, flowfabric.MaxListLimit)
	if err != nil {
		return res, err
	}
	v, err := s.mustView(ctx, op, args.ExecutionID, partHeader)
	if err != nil {
		return res, err
	}
	total := v.st.Exec.TotalAttemptCount
	to := total
	if uint64(args.From)+uint64(limit) < uint64(total) {
		to = args.From + uint32(limit)
		next := to
		res.Next = &next
	}
	cur := v.st.Attempt
	if cur != nil && cur.AttemptIndex < to {
		to = cur.AttemptIndex
	}
	if res.Attempts, err = s.ended(ctx, op, args.ExecutionID, v.st.Policy, args.From, to); err != nil {
		return flowfabric.ListAttemptsResult{}, err
	}
	if cur != nil && cur.AttemptIndex >= args.From && res.Next == nil {
		res.Attempts = append(res.Attempts, *cur)
	}
	if res.Attempts == nil {
		res.Attempts = []flowfabric.Attempt{}
	}
	return res, nil
}
