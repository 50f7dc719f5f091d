package flowfabric

import (
	"context"
	"iter"
	"slices"
)

// Page is one page of a list. NextCursor is opaque; "" ends the list. A page may
// be short, even empty, while it is set.
type Page[T any] struct {
	Items      []T
	NextCursor string
}

// ExecutionQuery selects executions. All conditions must hold.
type ExecutionQuery struct {
	// Namespace is the client's or worker's own when empty; "*" means all.
	Namespace    Namespace
	LaneID       LaneID
	PublicStates []PublicState // any of them
	Kind         string
	FlowID       FlowID
	Tags         map[string]string
	// Partition, when set, limits the list to one partition.
	Partition *uint16
	// Cursor is where an earlier page ended.
	Cursor string
	// Limit is 1..1000; 0 means 50.
	Limit int
}

// within fills in the default namespace.
func (q ExecutionQuery) within(own Namespace) ExecutionQuery {
	if q.Namespace == "" {
		q.Namespace = own
	}
	if q.Namespace == AnyNamespace {
		q.Namespace = ""
	}
	return q
}

// LaneQuery selects lanes.
type LaneQuery struct {
	// Cursor is where an earlier page ended.
	Cursor string
	// Limit is 1..1000; 0 means 50.
	Limit int
}

// describe is DescribeExecution with the automatic retries of a read.
func describe(ctx context.Context, b Executions, clock Clock, id ExecutionID) (*ExecutionSnapshot, error) {
	return retry(ctx, clock, func(ctx context.Context) (*ExecutionSnapshot, error) { return b.DescribeExecution(ctx, id) })
}

// listExecutions reads one page over all partitions, in order. Its cursor is
// the last execution read, or the partition to go on with.
func listExecutions(ctx context.Context, b Executions, clock Clock, parts PartitionConfig, q ExecutionQuery) (*Page[ExecutionSummary], error) {
	if q.Limit < 0 || q.Limit > MaxListLimit {
		return nil, InvalidInput("limit", "is %d, must be 1..%d", q.Limit, MaxListLimit)
	}
	if q.Limit == 0 {
		q.Limit = DefaultListLimit
	}
	at, after, err := q.position(parts)
	if err != nil {
		return nil, err
	}
	last := parts.NumFlowPartitions - 1
	if q.Partition != nil {
		last = int(*q.Partition)
	}
	page := &Page[ExecutionSummary]{}
	for {
		part, err := retry(ctx, clock, func(ctx context.Context) (ListExecutionsResult, error) {
			return b.ListExecutions(ctx, ListExecutionsArgs{
				Partition: uint16(at), Cursor: after, Limit: q.Limit - len(page.Items), Namespace: q.Namespace, LaneID: q.LaneID,
				PublicStates: q.PublicStates, Kind: q.Kind, FlowID: q.FlowID, Tags: q.Tags,
			})
		})
		if err != nil {
			return nil, err
		}
		page.Items = append(page.Items, part.Executions...)
		if part.NextCursor != "" { // the page is full, or enough was examined for one
			page.NextCursor = string(part.NextCursor)
			return page, nil
		}
		if at >= last {
			return page, nil
		}
		at, after = at+1, ""
		if len(page.Items) >= q.Limit {
			page.NextCursor = partitionKey(at)
			return page, nil
		}
	}
}

// position decodes the cursor of an execution list.
func (q ExecutionQuery) position(parts PartitionConfig) (at int, after ExecutionID, err error) {
	if q.Cursor == "" {
		if q.Partition != nil {
			at = int(*q.Partition)
		}
		return at, "", nil
	}
	refused := NewError(CodeInvalidCursor, "cursor %q is not one of an execution list", clip(q.Cursor, 80))
	if id, err := ParseExecutionID(q.Cursor); err == nil {
		at, after = int(id.Partition()), id
	} else if at, err = parsePartitionKey(q.Cursor); err != nil {
		return 0, "", refused
	}
	if at >= parts.NumFlowPartitions || (q.Partition != nil && at != int(*q.Partition)) {
		return 0, "", refused
	}
	return at, after, nil
}

// listLanes reads one page of lanes.
func listLanes(ctx context.Context, b Lanes, clock Clock, q LaneQuery) (*Page[LaneStatus], error) {
	answer, err := retry(ctx, clock, func(ctx context.Context) (ListLanesResult, error) {
		return b.ListLanes(ctx, ListLanesArgs{After: LaneID(q.Cursor), Limit: q.Limit})
	})
	if err != nil {
		return nil, err
	}
	page := &Page[LaneStatus]{Items: answer.Lanes}
	if n := len(answer.Lanes); answer.More && n > 0 {
		page.NextCursor = string(answer.Lanes[n-1].LaneID)
	}
	return page, nil
}

// follow yields the items of a list page by page. An error ends it.
func follow[T any](read func(cursor string) (*Page[T], error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		cursor := ""
		for {
			page, err := read(cursor)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if cursor = page.NextCursor; cursor == "" {
				return
			}
		}
	}
}

// allExecutions follows an execution list from the query's cursor to its end.
func allExecutions(ctx context.Context, b Executions, clock Clock, parts PartitionConfig, q ExecutionQuery) iter.Seq2[ExecutionSummary, error] {
	start := q.Cursor
	q.Limit = max(q.Limit, 0)
	if q.Limit == 0 {
		q.Limit = MaxListLimit
	}
	q.PublicStates = slices.Clone(q.PublicStates)
	return follow(func(cursor string) (*Page[ExecutionSummary], error) {
		if q.Cursor = cursor; cursor == "" {
			q.Cursor = start
		}
		return listExecutions(ctx, b, clock, parts, q)
	})
}

// allLanes follows the list of lanes to its end.
func allLanes(ctx context.Context, b Lanes, clock Clock) iter.Seq2[LaneStatus, error] {
	return follow(func(cursor string) (*Page[LaneStatus], error) {
		return listLanes(ctx, b, clock, LaneQuery{Cursor: cursor, Limit: MaxListLimit})
	})
}

// partitionKey is "{fp:N}".
func partitionKey(n int) string {
	id := string(MakeExecutionID(uint16(n), [16]byte{}))
	return id[:len(id)-len(":00000000-0000-0000-0000-000000000000")]
}

func parsePartitionKey(s string) (int, error) {
	id, err := ParseExecutionID(s + ":00000000-0000-0000-0000-000000000000")
	if err != nil {
		return 0, err
	}
	return int(id.Partition()), nil
}
