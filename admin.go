package flowfabric

import (
	"context"
	"iter"
)

// Admin holds the operator's methods: every operation that is neither a
// worker's nor a client's. Validation and errors are the backend's own, equal on
// all of them. Reads are repeated up to three times after a transport error.
// (Specification 08, section 5.5.)
type Admin struct {
	backend  Backend
	clock    Clock
	operator string // who asks
}

// read makes a read with its automatic retries.
func read[R any](ctx context.Context, a *Admin, op func(context.Context) (R, error)) (R, error) {
	return retry(ctx, a.clock, op)
}

// Cancel cancels an execution in whatever state it is, without a fence.
func (a *Admin) Cancel(ctx context.Context, id ExecutionID, reason string) (CancelExecutionResult, error) {
	return a.backend.CancelExecution(ctx, CancelExecutionArgs{
		ExecutionID: id, Source: SourceOperatorOverride, Reason: reason, RequestedBy: a.operator,
	})
}

// Complete ends a running execution with success on its worker's behalf; nil
// stores no result.
func (a *Admin) Complete(ctx context.Context, id ExecutionID, result []byte) (CompleteExecutionResult, error) {
	return CompleteExecution(ctx, a.backend, CompleteExecutionArgs{ExecutionID: id, Source: SourceOperatorOverride, Result: result})
}

// Fail ends a running attempt with a failure on its worker's behalf.
func (a *Admin) Fail(ctx context.Context, id ExecutionID, reason, category string) (FailExecutionResult, error) {
	return a.backend.FailExecution(ctx, FailExecutionArgs{
		ExecutionID: id, Source: SourceOperatorOverride, Reason: reason, Category: category,
	})
}

// Delay takes a running execution from its worker until an instant of the
// store's clock.
func (a *Admin) Delay(ctx context.Context, id ExecutionID, until Millis) (DelayExecutionResult, error) {
	return a.backend.DelayExecution(ctx, DelayExecutionArgs{ExecutionID: id, Source: SourceOperatorOverride, DelayUntil: until})
}

// Replay makes an ended execution runnable again. An empty requester is the
// client's creator identity.
func (a *Admin) Replay(ctx context.Context, args ReplayExecutionArgs) (ReplayExecutionResult, error) {
	if args.RequestedBy == "" {
		args.RequestedBy = a.operator
	}
	return a.backend.ReplayExecution(ctx, args)
}

// Pause keeps a waiting execution from being claimed until Unpause.
func (a *Admin) Pause(ctx context.Context, id ExecutionID, detail string) (BlockExecutionResult, error) {
	return a.backend.PauseExecution(ctx, BlockExecutionArgs{ExecutionID: id, Detail: detail})
}

// Unpause lifts a Pause.
func (a *Admin) Unpause(ctx context.Context, id ExecutionID) (BlockExecutionResult, error) {
	return a.backend.UnpauseExecution(ctx, BlockExecutionArgs{ExecutionID: id})
}

// ResumeExecution ends the suspension of an execution whatever its condition.
// Errors: execution_not_found, execution_not_suspended.
func (a *Admin) ResumeExecution(ctx context.Context, args ResumeExecutionArgs) (ResumeExecutionResult, error) {
	return a.backend.ResumeExecution(ctx, args)
}

// ReadWaitpointToken returns the token of an open waitpoint, the zero token when
// there is no such waitpoint, or none that is open.
func (a *Admin) ReadWaitpointToken(ctx context.Context, id ExecutionID, waitpoint WaitpointID) (WaitpointToken, error) {
	return read(ctx, a, func(ctx context.Context) (WaitpointToken, error) {
		return a.backend.ReadWaitpointToken(ctx, id, waitpoint)
	})
}

// CloseWaitpoint closes a pending waitpoint on its worker's behalf. An empty
// reason is proactive_close. Errors: waitpoint_not_found, waitpoint_in_use.
func (a *Admin) CloseWaitpoint(ctx context.Context, id ExecutionID, waitpoint WaitpointID, reason string) (CloseWaitpointOutcome, error) {
	return a.backend.CloseWaitpoint(ctx, CloseWaitpointArgs{
		ExecutionID: id, WaitpointID: waitpoint, Source: SourceOperatorOverride, Reason: reason,
	})
}

// RotateWaitpointSecret makes a key the current one of the waitpoint tokens; the
// one before it still verifies for the grace. Repeating it is safe.
func (a *Admin) RotateWaitpointSecret(ctx context.Context, args RotateWaitpointSecretArgs) (RotateWaitpointSecretResult, error) {
	return a.backend.RotateWaitpointSecret(ctx, args)
}

// ListWaitpointKIDs names the keys of the waitpoint tokens that are accepted now.
func (a *Admin) ListWaitpointKIDs(ctx context.Context) (WaitpointKIDs, error) {
	return read(ctx, a, a.backend.ListWaitpointKIDs)
}

// ChangePriority moves a waiting execution in its lane's order.
func (a *Admin) ChangePriority(ctx context.Context, id ExecutionID, priority int32) (ChangePriorityResult, error) {
	return a.backend.ChangePriority(ctx, ChangePriorityArgs{ExecutionID: id, Priority: priority})
}

// SetTags upserts tags and returns how many pairs were given.
func (a *Admin) SetTags(ctx context.Context, id ExecutionID, tags map[string]string) (int, error) {
	return a.backend.SetExecutionTags(ctx, id, tags)
}

// RemoveTag reports whether the tag was there.
func (a *Admin) RemoveTag(ctx context.Context, id ExecutionID, key string) (bool, error) {
	return a.backend.RemoveExecutionTag(ctx, id, key)
}

// Tags returns the tags of an execution, empty when there is none.
func (a *Admin) Tags(ctx context.Context, id ExecutionID) (map[string]string, error) {
	return read(ctx, a, func(ctx context.Context) (map[string]string, error) { return a.backend.GetExecutionTags(ctx, id) })
}

// Execution returns the record of an execution, else execution_not_found.
func (a *Admin) Execution(ctx context.Context, id ExecutionID) (*Execution, error) {
	return read(ctx, a, func(ctx context.Context) (*Execution, error) { return a.backend.GetExecution(ctx, id) })
}

// Policy returns the frozen policy of an execution, else execution_not_found.
func (a *Admin) Policy(ctx context.Context, id ExecutionID) (*Policy, error) {
	return read(ctx, a, func(ctx context.Context) (*Policy, error) { return a.backend.GetExecutionPolicy(ctx, id) })
}

// Attempt returns one attempt, else attempt_not_found.
func (a *Admin) Attempt(ctx context.Context, id ExecutionID, index uint32) (*Attempt, error) {
	return read(ctx, a, func(ctx context.Context) (*Attempt, error) { return a.backend.GetAttempt(ctx, id, index) })
}

// CurrentAttempt returns the attempt of the highest index, else
// no_attempts_exist.
func (a *Admin) CurrentAttempt(ctx context.Context, id ExecutionID) (*Attempt, error) {
	return read(ctx, a, func(ctx context.Context) (*Attempt, error) { return a.backend.GetCurrentAttempt(ctx, id) })
}

// Attempts returns attempts of an execution from an index on.
func (a *Admin) Attempts(ctx context.Context, args ListAttemptsArgs) (ListAttemptsResult, error) {
	return read(ctx, a, func(ctx context.Context) (ListAttemptsResult, error) { return a.backend.ListAttempts(ctx, args) })
}

// Lease returns the current lease of an execution, else lease_not_found.
func (a *Admin) Lease(ctx context.Context, id ExecutionID) (*Lease, error) {
	return read(ctx, a, func(ctx context.Context) (*Lease, error) { return a.backend.GetLease(ctx, id) })
}

// LeaseHistory returns lease events of an execution, oldest first.
func (a *Admin) LeaseHistory(ctx context.Context, args LeaseHistoryArgs) (LeaseHistoryResult, error) {
	return read(ctx, a, func(ctx context.Context) (LeaseHistoryResult, error) { return a.backend.GetLeaseHistory(ctx, args) })
}

// RevokeLease takes an execution from its worker.
func (a *Admin) RevokeLease(ctx context.Context, args RevokeLeaseArgs) (RevokeLeaseResult, error) {
	return a.backend.RevokeLease(ctx, args)
}

// ReleaseReclaimHold lets a revoked execution be taken over again, and reports
// whether it was held.
func (a *Admin) ReleaseReclaimHold(ctx context.Context, id ExecutionID) (bool, error) {
	return a.backend.ReleaseReclaimHold(ctx, id)
}

// Reclaim aims one interrupted execution at a named worker, which consumes the
// grant with ClaimFromReclaimGrant. A grant TTL of 0 is 5 s.
func (a *Admin) Reclaim(ctx context.Context, args IssueReclaimGrantArgs) (IssueReclaimGrantResult, error) {
	if args.GrantTTLMs == 0 {
		args.GrantTTLMs = DefaultGrantTTLMs
	}
	return a.backend.IssueReclaimGrant(ctx, args)
}

// DirectClaim grants and claims one named execution in one step.
func (a *Admin) DirectClaim(ctx context.Context, args IssueGrantAndClaimArgs) (ClaimedExecution, error) {
	if args.IssuedBy == "" {
		args.IssuedBy = IssuedByOperator
	}
	return a.backend.IssueGrantAndClaim(ctx, args)
}

// WorkerLeases returns what an instance holds now.
func (a *Admin) WorkerLeases(ctx context.Context, args ListWorkerLeasesArgs) (ListWorkerLeasesResult, error) {
	return read(ctx, a, func(ctx context.Context) (ListWorkerLeasesResult, error) {
		return a.backend.ListWorkerLeases(ctx, args)
	})
}

// ExpiredLeases returns one page of lapsed leases not yet taken over.
func (a *Admin) ExpiredLeases(ctx context.Context, args ListExpiredLeasesArgs) (ListExpiredLeasesResult, error) {
	return read(ctx, a, func(ctx context.Context) (ListExpiredLeasesResult, error) {
		return a.backend.ListExpiredLeases(ctx, args)
	})
}

// AllExpiredLeases yields the lapsed leases of all partitions. An error is the
// last element.
func (a *Admin) AllExpiredLeases(ctx context.Context, args ListExpiredLeasesArgs) iter.Seq2[ExpiredLease, error] {
	start := args.Cursor
	return follow(func(cursor string) (*Page[ExpiredLease], error) {
		if args.Cursor = cursor; cursor == "" {
			args.Cursor = start
		}
		answer, err := a.ExpiredLeases(ctx, args)
		return &Page[ExpiredLease]{Items: answer.Leases, NextCursor: answer.NextCursor}, err
	})
}

// DeclareLanes makes lanes that do not exist yet, active with defaults.
func (a *Admin) DeclareLanes(ctx context.Context, lanes ...LaneID) error {
	return a.backend.DeclareLanes(ctx, lanes)
}

// Lane returns a lane, else lane_not_found.
func (a *Admin) Lane(ctx context.Context, id LaneID) (LaneStatus, error) {
	return read(ctx, a, func(ctx context.Context) (LaneStatus, error) { return a.backend.GetLane(ctx, id) })
}

// ListLanes returns one page of lanes ordered by identifier.
func (a *Admin) ListLanes(ctx context.Context, query LaneQuery) (*Page[LaneStatus], error) {
	return listLanes(ctx, a.backend, a.clock, query)
}

// Lanes yields all lanes ordered by identifier. An error is the last element.
func (a *Admin) Lanes(ctx context.Context) iter.Seq2[LaneStatus, error] {
	return allLanes(ctx, a.backend, a.clock)
}

// UpdateLane changes a lane's settings.
func (a *Admin) UpdateLane(ctx context.Context, args UpdateLaneArgs) (Lane, error) {
	return a.backend.UpdateLane(ctx, args)
}

// PauseLane closes a lane's intake; what is in it runs.
func (a *Admin) PauseLane(ctx context.Context, id LaneID, reason string) (SetLaneStateResult, error) {
	return a.setLane(ctx, id, LanePaused, reason)
}

// DrainLane closes a lane's intake until its work has finished.
func (a *Admin) DrainLane(ctx context.Context, id LaneID, reason string) (SetLaneStateResult, error) {
	return a.setLane(ctx, id, LaneDraining, reason)
}

// DisableLane closes a lane's intake and its claims.
func (a *Admin) DisableLane(ctx context.Context, id LaneID, reason string) (SetLaneStateResult, error) {
	return a.setLane(ctx, id, LaneDisabled, reason)
}

// ResumeLane opens a paused or draining lane.
func (a *Admin) ResumeLane(ctx context.Context, id LaneID, reason string) (SetLaneStateResult, error) {
	return a.setLane(ctx, id, LaneActive, reason)
}

// EnableLane opens a disabled lane.
func (a *Admin) EnableLane(ctx context.Context, id LaneID, reason string) (SetLaneStateResult, error) {
	return a.setLane(ctx, id, LaneActive, reason)
}

func (a *Admin) setLane(ctx context.Context, id LaneID, state LaneState, reason string) (SetLaneStateResult, error) {
	return a.backend.SetLaneState(ctx, SetLaneStateArgs{LaneID: id, State: state, Reason: reason})
}

// DeleteLane reports whether the lane was there. It must be disabled and empty,
// else lane_not_empty.
func (a *Admin) DeleteLane(ctx context.Context, id LaneID) (bool, error) {
	return a.backend.DeleteLane(ctx, id)
}

// Worker returns a live registration, nil and no error without one.
func (a *Admin) Worker(ctx context.Context, ns Namespace, instance WorkerInstanceID) (*WorkerRegistration, error) {
	return read(ctx, a, func(ctx context.Context) (*WorkerRegistration, error) { return a.backend.GetWorker(ctx, ns, instance) })
}

// ListWorkers returns one page of live registrations.
func (a *Admin) ListWorkers(ctx context.Context, args ListWorkersArgs) (ListWorkersResult, error) {
	return read(ctx, a, func(ctx context.Context) (ListWorkersResult, error) { return a.backend.ListWorkers(ctx, args) })
}

// Workers yields the live registrations ordered by namespace and instance. An
// error is the last element.
func (a *Admin) Workers(ctx context.Context, args ListWorkersArgs) iter.Seq2[WorkerRegistration, error] {
	return func(yield func(WorkerRegistration, error) bool) {
		for {
			answer, err := a.ListWorkers(ctx, args)
			if err != nil {
				yield(WorkerRegistration{}, err)
				return
			}
			for _, worker := range answer.Workers {
				if !yield(worker, nil) {
					return
				}
				args.AfterNamespace, args.AfterInstanceID = worker.Namespace, worker.WorkerInstanceID
			}
			if !answer.More || len(answer.Workers) == 0 {
				return
			}
		}
	}
}

// MarkWorkerDead removes a registration and, by option, revokes its leases.
func (a *Admin) MarkWorkerDead(ctx context.Context, args MarkWorkerDeadArgs) (MarkWorkerDeadResult, error) {
	return a.backend.MarkWorkerDead(ctx, args)
}

// ExplainRouting says which live workers may run an execution, and what the
// others lack.
func (a *Admin) ExplainRouting(ctx context.Context, id ExecutionID) (*RoutingExplanation, error) {
	return read(ctx, a, func(ctx context.Context) (*RoutingExplanation, error) { return a.backend.ExplainRouting(ctx, id) })
}

// Scanners describes the background duties.
func (a *Admin) Scanners(ctx context.Context) ([]ScannerStatus, error) {
	return read(ctx, a, a.backend.ListScanners)
}

// RunScanner runs one cycle of a duty now.
func (a *Admin) RunScanner(ctx context.Context, name string) (ScannerStatus, error) {
	return a.backend.RunScanner(ctx, name)
}

// StartReconcile repairs the indexes of one partition, or of all when nil, in
// the background.
func (a *Admin) StartReconcile(ctx context.Context, partition *uint16) (ReconcileJob, error) {
	return a.backend.StartReconcile(ctx, partition)
}

// Reconciliation returns a repair by its job identifier.
func (a *Admin) Reconciliation(ctx context.Context, jobID string) (ReconcileJob, error) {
	return read(ctx, a, func(ctx context.Context) (ReconcileJob, error) { return a.backend.GetReconcile(ctx, jobID) })
}

// Drain stops the process behind the backend from issuing grants; false lets it
// again.
func (a *Admin) Drain(ctx context.Context, draining bool) error {
	return a.backend.SetDraining(ctx, draining)
}

// DescribeBackend names the store behind the backend.
func (a *Admin) DescribeBackend(ctx context.Context) (BackendInfo, error) {
	return read(ctx, a, a.backend.Describe)
}
