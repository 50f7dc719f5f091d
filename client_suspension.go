package flowfabric

import (
	"context"
	"iter"
)

// SuspendedQuery selects suspended executions.
type SuspendedQuery struct {
	// Namespace is the client's or worker's own when empty; "*" means all.
	Namespace Namespace
	// Partition, when set, limits the list to one partition.
	Partition *uint16
	// Cursor is where an earlier page ended.
	Cursor string
	// Limit is 1..1000; 0 means 100.
	Limit int
}

func (q SuspendedQuery) args(own Namespace) ListSuspendedArgs {
	if q.Namespace == "" {
		q.Namespace = own
	}
	if q.Namespace == AnyNamespace {
		q.Namespace = ""
	}
	return ListSuspendedArgs{Partition: q.Partition, Namespace: q.Namespace, Cursor: q.Cursor, Limit: q.Limit}
}

func listSuspended(ctx context.Context, b Suspensions, clock Clock, args ListSuspendedArgs) (*Page[SuspendedExecution], error) {
	answer, err := retry(ctx, clock, func(ctx context.Context) (ListSuspendedResult, error) { return b.ListSuspended(ctx, args) })
	if err != nil {
		return nil, err
	}
	return &Page[SuspendedExecution]{Items: answer.Executions, NextCursor: answer.NextCursor}, nil
}

func allSuspended(ctx context.Context, b Suspensions, clock Clock, args ListSuspendedArgs) iter.Seq2[SuspendedExecution, error] {
	start := args.Cursor
	return follow(func(cursor string) (*Page[SuspendedExecution], error) {
		args := args
		if args.Cursor = cursor; cursor == "" {
			args.Cursor = start
		}
		return listSuspended(ctx, b, clock, args)
	})
}

// ListSuspended returns one page of suspended executions: by partition, in each
// those whose timeout comes first, then those without. A query without a
// namespace means the client's.
func (c *Client) ListSuspended(ctx context.Context, query SuspendedQuery) (*Page[SuspendedExecution], error) {
	return listSuspended(ctx, c.backend, c.clock, query.args(c.namespace))
}

// Suspended yields the suspended executions of a query to its end. An error is
// the last element.
func (c *Client) Suspended(ctx context.Context, query SuspendedQuery) iter.Seq2[SuspendedExecution, error] {
	return allSuspended(ctx, c.backend, c.clock, query.args(c.namespace))
}

// ListSuspended returns one page of suspended executions. A query without a
// namespace means the worker's.
func (w *Worker) ListSuspended(ctx context.Context, query SuspendedQuery) (*Page[SuspendedExecution], error) {
	return listSuspended(ctx, w.backend, w.clock, query.args(w.config.Namespace))
}

// Suspended yields the suspended executions of a query to its end. An error is
// the last element.
func (w *Worker) Suspended(ctx context.Context, query SuspendedQuery) iter.Seq2[SuspendedExecution, error] {
	return allSuspended(ctx, w.backend, w.clock, query.args(w.config.Namespace))
}

// GetSuspension returns the current or last suspension of an execution with how
// far its condition is, nil when it has never been suspended; else
// execution_not_found. It holds no token.
func (c *Client) GetSuspension(ctx context.Context, id ExecutionID) (*Suspension, error) {
	return retry(ctx, c.clock, func(ctx context.Context) (*Suspension, error) { return c.backend.GetSuspension(ctx, id) })
}

// ListPendingWaitpoints returns one page of the pending and active waitpoints of
// an execution, ordered by identifier, without tokens; else execution_not_found.
func (c *Client) ListPendingWaitpoints(ctx context.Context, args ListPendingWaitpointsArgs) (*Page[Waitpoint], error) {
	answer, err := retry(ctx, c.clock, func(ctx context.Context) (ListPendingWaitpointsResult, error) {
		return c.backend.ListPendingWaitpoints(ctx, args)
	})
	if err != nil {
		return nil, err
	}
	return &Page[Waitpoint]{Items: answer.Waitpoints, NextCursor: string(answer.NextCursor)}, nil
}

// PendingWaitpoints yields all pending and active waitpoints of an execution. An
// error is the last element.
func (c *Client) PendingWaitpoints(ctx context.Context, id ExecutionID) iter.Seq2[Waitpoint, error] {
	return follow(func(cursor string) (*Page[Waitpoint], error) {
		return c.ListPendingWaitpoints(ctx, ListPendingWaitpointsArgs{ExecutionID: id, After: WaitpointID(cursor), Limit: MaxListLimit})
	})
}

// ListSignals returns one page of the signals of an execution in the order they
// were accepted, without payloads; its Next goes into the next call's After.
func (c *Client) ListSignals(ctx context.Context, args ListSignalsArgs) (ListSignalsResult, error) {
	return retry(ctx, c.clock, func(ctx context.Context) (ListSignalsResult, error) { return c.backend.ListSignals(ctx, args) })
}

// Signals yields the signals of a listing to its end. An error is the last
// element.
func (c *Client) Signals(ctx context.Context, args ListSignalsArgs) iter.Seq2[RecordedSignal, error] {
	return func(yield func(RecordedSignal, error) bool) {
		args := args
		for {
			page, err := c.ListSignals(ctx, args)
			if err != nil {
				yield(RecordedSignal{}, err)
				return
			}
			for _, signal := range page.Signals {
				if !yield(signal, nil) {
					return
				}
			}
			if args.After = page.Next; page.Next == 0 {
				return
			}
		}
	}
}

// GetSignal returns a signal with its payload, else signal_not_found.
func (c *Client) GetSignal(ctx context.Context, id ExecutionID, signal SignalID) (*RecordedSignal, error) {
	return retry(ctx, c.clock, func(ctx context.Context) (*RecordedSignal, error) { return c.backend.GetSignal(ctx, id, signal) })
}
