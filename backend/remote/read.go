package remote

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strconv"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// GetExecution builds the record from the snapshot: what the snapshot leaves out
// is zero. See the package comment.
func (b *Backend) GetExecution(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Execution, error) {
	s, err := b.snapshot(ctx, "get_execution", id)
	if err != nil {
		return nil, err
	}
	e := &flowfabric.Execution{
		ExecutionID: s.ExecutionID, Namespace: s.Namespace, LaneID: s.LaneID, Kind: s.Kind, FlowID: s.FlowID, Priority: s.Priority,
		StateVector: flowfabric.StateVector{
			LifecyclePhase: s.LifecyclePhase, OwnershipState: s.OwnershipState, EligibilityState: s.EligibilityState, BlockingReason: s.BlockingReason,
			TerminalOutcome: s.TerminalOutcome, AttemptState: s.AttemptState, PublicState: s.PublicState,
		},
		BlockingDetail: s.BlockingDetail, BlockingRef: s.BlockingRef, BlockedUntil: s.BlockedUntil, BlockedSince: s.BlockedSince,
		TotalAttemptCount: s.TotalAttemptCount, RetryCount: s.RetryCount, LeaseReclaimCount: s.LeaseReclaimCount, ReplayCount: s.ReplayCount,
		DelayUntil: s.DelayUntil, ExecutionDeadlineAt: s.ExecutionDeadlineAt, CurrentWaitpointID: s.CurrentWaitpointID,
		FailureReason: s.FailureReason, FailureCategory: s.FailureCategory, CancellationReason: s.CancellationReason, CancelledBy: s.CancelledBy,
		ProgressPct: s.ProgressPct, ProgressMessage: s.ProgressMessage,
		CreatedAt: s.CreatedAt, StartedAt: s.StartedAt, CompletedAt: s.CompletedAt, LastTransitionAt: s.LastTransitionAt, LastMutationAt: s.LastMutationAt, PurgeAfter: s.PurgeAfter,
	}
	if e.BlockingReason == "" {
		e.BlockingReason = flowfabric.ReasonNone
	}
	if s.CurrentAttempt != nil {
		e.CurrentAttemptID = s.CurrentAttempt.AttemptID
	}
	if l := s.CurrentLease; l != nil {
		e.CurrentLeaseEpoch, e.CurrentWorkerInstanceID = l.LeaseEpoch, l.WorkerInstanceID
		e.LeaseExpiresAt, e.LeaseLastRenewedAt = l.ExpiresAt, l.LastHeartbeatAt
	}
	return e, nil
}

// snapshot is DescribeExecution, but an absent execution is an error.
func (b *Backend) snapshot(ctx context.Context, op string, id flowfabric.ExecutionID) (*flowfabric.ExecutionSnapshot, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	var s flowfabric.ExecutionSnapshot
	if _, err := b.do(ctx, get(op, wire.Path(wire.RouteExecution, string(id)), nil), &s); err != nil {
		return nil, err
	}
	if s.Tags == nil {
		s.Tags = map[string]string{}
	}
	return &s, nil
}

// DescribeExecution returns nil, nil when no execution exists at the id.
func (b *Backend) DescribeExecution(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.ExecutionSnapshot, error) {
	s, err := b.snapshot(ctx, "describe_execution", id)
	if isCode(err, flowfabric.CodeExecutionNotFound) {
		return nil, nil
	}
	return s, err
}

// GetExecutionState returns the public state.
func (b *Backend) GetExecutionState(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.PublicState, error) {
	if err := checkID(id); err != nil {
		return "", err
	}
	var r wire.StateResponse
	_, err := b.do(ctx, get("get_execution_state", wire.Path(wire.RouteExecutionState, string(id)), nil), &r)
	return r.PublicState, err
}

// GetExecutionPolicy is unsupported_operation for an execution that exists: no
// route shows the policy.
func (b *Backend) GetExecutionPolicy(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Policy, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if _, err := b.GetExecutionState(ctx, id); err != nil {
		return nil, err
	}
	return nil, unsupported("get_execution_policy", "the policy of an execution is not shown over HTTP")
}

// ReadExecutionContext returns what a worker reads after a claim.
func (b *Backend) ReadExecutionContext(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.ExecutionContext, error) {
	if err := checkID(id); err != nil {
		return flowfabric.ExecutionContext{}, err
	}
	var r wire.ContextResponse
	_, err := b.do(ctx, get("read_execution_context", wire.Path(wire.RouteExecutionContext, string(id)), nil), &r)
	return r.Result(), err
}

// ListExecutions returns one page of one partition.
func (b *Backend) ListExecutions(ctx context.Context, a flowfabric.ListExecutionsArgs) (flowfabric.ListExecutionsResult, error) {
	parts, err := b.partitions(ctx)
	if err != nil {
		return flowfabric.ListExecutionsResult{}, err
	}
	if err := rules.ValidateListExecutions(&a, parts); err != nil {
		return flowfabric.ListExecutionsResult{}, err
	}
	var keep visible
	a.Namespace, keep = visibleIn(a.Namespace, a.Namespaces)
	q := wire.ListExecutionsQuery(a)
	c := get("list_executions", wire.RouteExecutions, q)
	rows, next, err := b.executions(ctx, c)
	rows = only(rows, keep, func(e flowfabric.ExecutionSummary) flowfabric.Namespace { return e.Namespace })
	if err != nil || next == "" {
		return flowfabric.ListExecutionsResult{Executions: rows}, err
	}
	position, err := wire.DecodeCursor(wire.ListExecutions, "", q, next)
	if err != nil {
		return flowfabric.ListExecutionsResult{}, c.fault("the answer's cursor can't be read").Wrap(err)
	}
	return flowfabric.ListExecutionsResult{Executions: rows, NextCursor: flowfabric.ExecutionID(position)}, nil
}

// executions reads one page of GET /v1/executions.
func (b *Backend) executions(ctx context.Context, c call) (rows []flowfabric.ExecutionSummary, next string, err error) {
	var p wire.Page[flowfabric.ExecutionSummary]
	if _, err := b.do(ctx, c, &p); err != nil {
		return nil, "", err
	}
	if p.NextCursor != nil {
		next = *p.NextCursor
	}
	return p.Items, next, nil
}

// eligiblePage is how many waiting executions of a partition ListEligible looks
// at.
const eligiblePage = flowfabric.MaxListLimit

// ListEligible returns waiting executions of a lane in claim order. It looks at
// no capabilities, and at no more than 1000 executions of each partition, or, for
// all partitions, of the deployment.
func (b *Backend) ListEligible(ctx context.Context, a flowfabric.ListEligibleArgs) ([]flowfabric.ExecutionID, error) {
	const op = "list_eligible"
	parts, err := b.partitions(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkEligible(&a, parts); err != nil {
		return nil, err
	}
	q := url.Values{"lane_id": {string(a.LaneID)}, "public_state": {string(flowfabric.PublicWaiting)}, "limit": {strconv.Itoa(eligiblePage)}}
	if a.Namespace != "" && a.Namespace != flowfabric.AnyNamespace {
		q.Set("namespace", string(a.Namespace))
	}
	var found []flowfabric.ExecutionSummary
	if a.Partitions == 0 || a.Partitions >= parts.NumFlowPartitions {
		if found, _, err = b.executions(ctx, get(op, wire.RouteExecutions, q)); err != nil {
			return nil, err
		}
		return bestFirst(found, a.Limit), nil
	}
	for n := range a.Partitions {
		q.Set("partition", strconv.Itoa((int(a.FirstPartition)+n)%parts.NumFlowPartitions))
		rows, _, err := b.executions(ctx, get(op, wire.RouteExecutions, q))
		if err != nil {
			return nil, err
		}
		found = append(found, rows...)
	}
	return bestFirst(found, a.Limit), nil
}

func checkEligible(a *flowfabric.ListEligibleArgs, parts flowfabric.PartitionConfig) error {
	if err := a.LaneID.Validate(); err != nil {
		return err
	}
	if err := a.Namespace.ValidateForWorker(); a.Namespace != "" && err != nil {
		return err
	}
	if int(a.FirstPartition) >= parts.NumFlowPartitions {
		return flowfabric.InvalidInput("first_partition", "is %d, must be below %d", a.FirstPartition, parts.NumFlowPartitions)
	}
	if a.Partitions < 0 {
		return flowfabric.InvalidInput("partitions", "must not be negative")
	}
	if a.Limit == 0 {
		a.Limit = 1
	}
	if a.Limit < 1 || a.Limit > flowfabric.MaxListLimit {
		return flowfabric.InvalidInput("limit", "is %d, must be 1..%d", a.Limit, flowfabric.MaxListLimit)
	}
	return nil
}

// bestFirst sorts by priority descending, age, identifier, and cuts.
func bestFirst(rows []flowfabric.ExecutionSummary, limit int) []flowfabric.ExecutionID {
	slices.SortFunc(rows, func(x, y flowfabric.ExecutionSummary) int {
		return cmp.Or(cmp.Compare(y.Priority, x.Priority), cmp.Compare(x.CreatedAt, y.CreatedAt), cmp.Compare(x.ExecutionID, y.ExecutionID))
	})
	ids := make([]flowfabric.ExecutionID, 0, min(limit, len(rows)))
	for _, row := range rows[:min(limit, len(rows))] {
		ids = append(ids, row.ExecutionID)
	}
	return ids
}

// WaitExecution waits at the server.
func (b *Backend) WaitExecution(ctx context.Context, a flowfabric.WaitExecutionArgs) (flowfabric.WaitExecutionResult, error) {
	if err := checkID(a.ExecutionID); err != nil {
		return flowfabric.WaitExecutionResult{}, err
	}
	c := get("wait_execution", wire.Path(wire.RouteExecutionWait, string(a.ExecutionID)), wire.WaitExecutionQuery(a))
	c.wait = a.WaitMs
	var r wire.WaitExecutionResponse
	_, err := b.do(ctx, c, &r)
	return r.Result(), err
}
