package api

import (
	"context"
	"time"

	"github.com/flowfabric/flowfabric"
)

// measured is a Backend that counts what goes through it: the duration and the
// faults of every operation.
type measured struct {
	flowfabric.Backend
	metrics *Metrics
	ops     measuredOps
}

// measuredOps holds the metrics of each operation, looked up once.
type measuredOps struct {
	createExecutions, completeExecutions, failExecution, cancelExecution            *storeOp
	delayExecution, replayExecution, changePriority, updateProgress                 *storeOp
	pauseExecution, unpauseExecution, removeExecutionTag, setExecutionTags          *storeOp
	getExecutionTags, getExecution, describeExecution, getExecutionState            *storeOp
	getExecutionResult, getExecutionInput, getExecutionPolicy, readExecutionContext *storeOp
	listExecutions, getAttempt, getCurrentAttempt, listAttempts                     *storeOp
	renewLeases, revokeLease, releaseReclaimHold, getLease                          *storeOp
	getLeaseHistory, listWorkerLeases, listExpiredLeases, claimGranted              *storeOp
	issueReclaimGrant, releaseGrant, issueGrantAndClaim, listEligible               *storeOp
	claimForWorker, claimTasks, waitExecution, registerWorker                       *storeOp
	heartbeatWorker, markWorkerDead, deregisterWorker, getWorker                    *storeOp
	listWorkers, explainRouting, getLane, listLanes                                 *storeOp
	updateLane, setLaneState, deleteLane, readFeed                                  *storeOp
	suspend, resumeExecution, getSuspension, listSuspended                          *storeOp
	createPendingWaitpoint, closeWaitpoint, listPendingWaitpoints                   *storeOp
	readWaitpointToken, deliverSignal, deliverApprovalSignal, observeSignals        *storeOp
	listSignals, getSignal, rotateWaitpointSecret, listWaitpointKIDs                *storeOp
	ping                                                                            *storeOp
}

// measure wraps a backend.
func measure(b flowfabric.Backend, m *Metrics) flowfabric.Backend {
	return &measured{Backend: b, metrics: m, ops: measuredOps{
		createExecutions:       m.storeOp("create_executions"),
		completeExecutions:     m.storeOp("complete_executions"),
		failExecution:          m.storeOp("fail_execution"),
		cancelExecution:        m.storeOp("cancel_execution"),
		delayExecution:         m.storeOp("delay_execution"),
		replayExecution:        m.storeOp("replay_execution"),
		changePriority:         m.storeOp("change_priority"),
		updateProgress:         m.storeOp("update_progress"),
		pauseExecution:         m.storeOp("pause_execution"),
		unpauseExecution:       m.storeOp("unpause_execution"),
		removeExecutionTag:     m.storeOp("remove_execution_tag"),
		setExecutionTags:       m.storeOp("set_execution_tags"),
		getExecutionTags:       m.storeOp("get_execution_tags"),
		getExecution:           m.storeOp("get_execution"),
		describeExecution:      m.storeOp("describe_execution"),
		getExecutionState:      m.storeOp("get_execution_state"),
		getExecutionResult:     m.storeOp("get_execution_result"),
		getExecutionInput:      m.storeOp("get_execution_input"),
		getExecutionPolicy:     m.storeOp("get_execution_policy"),
		readExecutionContext:   m.storeOp("read_execution_context"),
		listExecutions:         m.storeOp("list_executions"),
		getAttempt:             m.storeOp("get_attempt"),
		getCurrentAttempt:      m.storeOp("get_current_attempt"),
		listAttempts:           m.storeOp("list_attempts"),
		renewLeases:            m.storeOp("renew_leases"),
		revokeLease:            m.storeOp("revoke_lease"),
		releaseReclaimHold:     m.storeOp("release_reclaim_hold"),
		getLease:               m.storeOp("get_lease"),
		getLeaseHistory:        m.storeOp("get_lease_history"),
		listWorkerLeases:       m.storeOp("list_worker_leases"),
		listExpiredLeases:      m.storeOp("list_expired_leases"),
		claimGranted:           m.storeOp("claim_granted"),
		issueReclaimGrant:      m.storeOp("issue_reclaim_grant"),
		releaseGrant:           m.storeOp("release_grant"),
		issueGrantAndClaim:     m.storeOp("issue_grant_and_claim"),
		listEligible:           m.storeOp("list_eligible"),
		claimForWorker:         m.storeOp("claim_for_worker"),
		claimTasks:             m.storeOp("claim_tasks"),
		waitExecution:          m.storeOp("wait_execution"),
		registerWorker:         m.storeOp("register_worker"),
		heartbeatWorker:        m.storeOp("heartbeat_worker"),
		markWorkerDead:         m.storeOp("mark_worker_dead"),
		deregisterWorker:       m.storeOp("deregister_worker"),
		getWorker:              m.storeOp("get_worker"),
		listWorkers:            m.storeOp("list_workers"),
		explainRouting:         m.storeOp("explain_routing"),
		getLane:                m.storeOp("get_lane"),
		listLanes:              m.storeOp("list_lanes"),
		updateLane:             m.storeOp("update_lane"),
		setLaneState:           m.storeOp("set_lane_state"),
		deleteLane:             m.storeOp("delete_lane"),
		readFeed:               m.storeOp("read_feed"),
		suspend:                m.storeOp("suspend"),
		resumeExecution:        m.storeOp("resume_execution"),
		getSuspension:          m.storeOp("get_suspension"),
		listSuspended:          m.storeOp("list_suspended"),
		createPendingWaitpoint: m.storeOp("create_pending_waitpoint"),
		closeWaitpoint:         m.storeOp("close_waitpoint"),
		listPendingWaitpoints:  m.storeOp("list_pending_waitpoints"),
		readWaitpointToken:     m.storeOp("read_waitpoint_token"),
		deliverSignal:          m.storeOp("deliver_signal"),
		deliverApprovalSignal:  m.storeOp("deliver_approval_signal"),
		observeSignals:         m.storeOp("observe_signals"),
		listSignals:            m.storeOp("list_signals"),
		getSignal:              m.storeOp("get_signal"),
		rotateWaitpointSecret:  m.storeOp("rotate_waitpoint_secret"),
		listWaitpointKIDs:      m.storeOp("list_waitpoint_kids"),
		ping:                   m.storeOp("ping"),
	}}
}

func (b *measured) CreateExecutions(ctx context.Context, items []flowfabric.CreateExecutionArgs) ([]flowfabric.Item[flowfabric.CreateExecutionResult], error) {
	start := time.Now()
	r, err := b.Backend.CreateExecutions(ctx, items)
	b.ops.createExecutions.done(start, false, err)
	return r, err
}

func (b *measured) CompleteExecutions(ctx context.Context, items []flowfabric.CompleteExecutionArgs) ([]flowfabric.Item[flowfabric.CompleteExecutionResult], error) {
	start := time.Now()
	r, err := b.Backend.CompleteExecutions(ctx, items)
	b.ops.completeExecutions.done(start, false, err)
	return r, err
}

func (b *measured) FailExecution(ctx context.Context, args flowfabric.FailExecutionArgs) (flowfabric.FailExecutionResult, error) {
	start := time.Now()
	r, err := b.Backend.FailExecution(ctx, args)
	b.ops.failExecution.done(start, false, err)
	return r, err
}

func (b *measured) CancelExecution(ctx context.Context, args flowfabric.CancelExecutionArgs) (flowfabric.CancelExecutionResult, error) {
	start := time.Now()
	r, err := b.Backend.CancelExecution(ctx, args)
	b.ops.cancelExecution.done(start, false, err)
	return r, err
}

func (b *measured) DelayExecution(ctx context.Context, args flowfabric.DelayExecutionArgs) (flowfabric.DelayExecutionResult, error) {
	start := time.Now()
	r, err := b.Backend.DelayExecution(ctx, args)
	b.ops.delayExecution.done(start, false, err)
	return r, err
}

func (b *measured) ReplayExecution(ctx context.Context, args flowfabric.ReplayExecutionArgs) (flowfabric.ReplayExecutionResult, error) {
	start := time.Now()
	r, err := b.Backend.ReplayExecution(ctx, args)
	b.ops.replayExecution.done(start, false, err)
	return r, err
}

func (b *measured) ChangePriority(ctx context.Context, args flowfabric.ChangePriorityArgs) (flowfabric.ChangePriorityResult, error) {
	start := time.Now()
	r, err := b.Backend.ChangePriority(ctx, args)
	b.ops.changePriority.done(start, false, err)
	return r, err
}

func (b *measured) UpdateProgress(ctx context.Context, args flowfabric.UpdateProgressArgs) error {
	start := time.Now()
	err := b.Backend.UpdateProgress(ctx, args)
	b.ops.updateProgress.done(start, false, err)
	return err
}

func (b *measured) PauseExecution(ctx context.Context, args flowfabric.BlockExecutionArgs) (flowfabric.BlockExecutionResult, error) {
	start := time.Now()
	r, err := b.Backend.PauseExecution(ctx, args)
	b.ops.pauseExecution.done(start, false, err)
	return r, err
}

func (b *measured) UnpauseExecution(ctx context.Context, args flowfabric.BlockExecutionArgs) (flowfabric.BlockExecutionResult, error) {
	start := time.Now()
	r, err := b.Backend.UnpauseExecution(ctx, args)
	b.ops.unpauseExecution.done(start, false, err)
	return r, err
}

func (b *measured) RemoveExecutionTag(ctx context.Context, id flowfabric.ExecutionID, key string) (bool, error) {
	start := time.Now()
	r, err := b.Backend.RemoveExecutionTag(ctx, id, key)
	b.ops.removeExecutionTag.done(start, false, err)
	return r, err
}

func (b *measured) SetExecutionTags(ctx context.Context, id flowfabric.ExecutionID, tags map[string]string) (int, error) {
	start := time.Now()
	r, err := b.Backend.SetExecutionTags(ctx, id, tags)
	b.ops.setExecutionTags.done(start, false, err)
	return r, err
}

func (b *measured) GetExecutionTags(ctx context.Context, id flowfabric.ExecutionID) (map[string]string, error) {
	start := time.Now()
	r, err := b.Backend.GetExecutionTags(ctx, id)
	b.ops.getExecutionTags.done(start, false, err)
	return r, err
}

func (b *measured) GetExecution(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Execution, error) {
	start := time.Now()
	r, err := b.Backend.GetExecution(ctx, id)
	b.ops.getExecution.done(start, false, err)
	return r, err
}

func (b *measured) DescribeExecution(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.ExecutionSnapshot, error) {
	start := time.Now()
	r, err := b.Backend.DescribeExecution(ctx, id)
	b.ops.describeExecution.done(start, false, err)
	return r, err
}

func (b *measured) GetExecutionState(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.PublicState, error) {
	start := time.Now()
	r, err := b.Backend.GetExecutionState(ctx, id)
	b.ops.getExecutionState.done(start, false, err)
	return r, err
}

func (b *measured) GetExecutionResult(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.ExecutionResult, error) {
	start := time.Now()
	r, err := b.Backend.GetExecutionResult(ctx, id)
	b.ops.getExecutionResult.done(start, false, err)
	return r, err
}

func (b *measured) GetExecutionInput(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.ExecutionInput, error) {
	start := time.Now()
	r, err := b.Backend.GetExecutionInput(ctx, id)
	b.ops.getExecutionInput.done(start, false, err)
	return r, err
}

func (b *measured) GetExecutionPolicy(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Policy, error) {
	start := time.Now()
	r, err := b.Backend.GetExecutionPolicy(ctx, id)
	b.ops.getExecutionPolicy.done(start, false, err)
	return r, err
}

func (b *measured) ReadExecutionContext(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.ExecutionContext, error) {
	start := time.Now()
	r, err := b.Backend.ReadExecutionContext(ctx, id)
	b.ops.readExecutionContext.done(start, false, err)
	return r, err
}

func (b *measured) ListExecutions(ctx context.Context, args flowfabric.ListExecutionsArgs) (flowfabric.ListExecutionsResult, error) {
	start := time.Now()
	r, err := b.Backend.ListExecutions(ctx, args)
	b.ops.listExecutions.done(start, false, err)
	return r, err
}

func (b *measured) GetAttempt(ctx context.Context, id flowfabric.ExecutionID, index uint32) (*flowfabric.Attempt, error) {
	start := time.Now()
	r, err := b.Backend.GetAttempt(ctx, id, index)
	b.ops.getAttempt.done(start, false, err)
	return r, err
}

func (b *measured) GetCurrentAttempt(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Attempt, error) {
	start := time.Now()
	r, err := b.Backend.GetCurrentAttempt(ctx, id)
	b.ops.getCurrentAttempt.done(start, false, err)
	return r, err
}

func (b *measured) ListAttempts(ctx context.Context, args flowfabric.ListAttemptsArgs) (flowfabric.ListAttemptsResult, error) {
	start := time.Now()
	r, err := b.Backend.ListAttempts(ctx, args)
	b.ops.listAttempts.done(start, false, err)
	return r, err
}

func (b *measured) RenewLeases(ctx context.Context, items []flowfabric.RenewLeaseArgs) ([]flowfabric.Item[flowfabric.RenewLeaseResult], error) {
	start := time.Now()
	r, err := b.Backend.RenewLeases(ctx, items)
	b.ops.renewLeases.done(start, false, err)
	return r, err
}

func (b *measured) RevokeLease(ctx context.Context, args flowfabric.RevokeLeaseArgs) (flowfabric.RevokeLeaseResult, error) {
	start := time.Now()
	r, err := b.Backend.RevokeLease(ctx, args)
	b.ops.revokeLease.done(start, false, err)
	return r, err
}

func (b *measured) ReleaseReclaimHold(ctx context.Context, id flowfabric.ExecutionID) (bool, error) {
	start := time.Now()
	r, err := b.Backend.ReleaseReclaimHold(ctx, id)
	b.ops.releaseReclaimHold.done(start, false, err)
	return r, err
}

func (b *measured) GetLease(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Lease, error) {
	start := time.Now()
	r, err := b.Backend.GetLease(ctx, id)
	b.ops.getLease.done(start, false, err)
	return r, err
}

func (b *measured) GetLeaseHistory(ctx context.Context, args flowfabric.LeaseHistoryArgs) (flowfabric.LeaseHistoryResult, error) {
	start := time.Now()
	r, err := b.Backend.GetLeaseHistory(ctx, args)
	b.ops.getLeaseHistory.done(start, false, err)
	return r, err
}

func (b *measured) ListWorkerLeases(ctx context.Context, args flowfabric.ListWorkerLeasesArgs) (flowfabric.ListWorkerLeasesResult, error) {
	start := time.Now()
	r, err := b.Backend.ListWorkerLeases(ctx, args)
	b.ops.listWorkerLeases.done(start, false, err)
	return r, err
}

func (b *measured) ListExpiredLeases(ctx context.Context, args flowfabric.ListExpiredLeasesArgs) (flowfabric.ListExpiredLeasesResult, error) {
	start := time.Now()
	r, err := b.Backend.ListExpiredLeases(ctx, args)
	b.ops.listExpiredLeases.done(start, false, err)
	return r, err
}

func (b *measured) ClaimGranted(ctx context.Context, args flowfabric.ClaimGrantedArgs) (flowfabric.ClaimedExecution, error) {
	start := time.Now()
	r, err := b.Backend.ClaimGranted(ctx, args)
	b.ops.claimGranted.done(start, false, err)
	return r, err
}

func (b *measured) IssueReclaimGrant(ctx context.Context, args flowfabric.IssueReclaimGrantArgs) (flowfabric.IssueReclaimGrantResult, error) {
	start := time.Now()
	r, err := b.Backend.IssueReclaimGrant(ctx, args)
	b.ops.issueReclaimGrant.done(start, false, err)
	return r, err
}

func (b *measured) ReleaseGrant(ctx context.Context, args flowfabric.ReleaseGrantArgs) (bool, error) {
	start := time.Now()
	r, err := b.Backend.ReleaseGrant(ctx, args)
	b.ops.releaseGrant.done(start, false, err)
	return r, err
}

func (b *measured) IssueGrantAndClaim(ctx context.Context, args flowfabric.IssueGrantAndClaimArgs) (flowfabric.ClaimedExecution, error) {
	start := time.Now()
	r, err := b.Backend.IssueGrantAndClaim(ctx, args)
	b.ops.issueGrantAndClaim.done(start, false, err)
	return r, err
}

func (b *measured) ListEligible(ctx context.Context, args flowfabric.ListEligibleArgs) ([]flowfabric.ExecutionID, error) {
	start := time.Now()
	r, err := b.Backend.ListEligible(ctx, args)
	b.ops.listEligible.done(start, false, err)
	return r, err
}

func (b *measured) ClaimForWorker(ctx context.Context, args flowfabric.ClaimForWorkerArgs) (flowfabric.ClaimForWorkerResult, error) {
	start := time.Now()
	r, err := b.Backend.ClaimForWorker(ctx, args)
	b.ops.claimForWorker.done(start, args.WaitMs > 0, err)
	return r, err
}

func (b *measured) ClaimTasks(ctx context.Context, args flowfabric.ClaimTasksArgs) (flowfabric.ClaimTasksResult, error) {
	start := time.Now()
	r, err := b.Backend.ClaimTasks(ctx, args)
	b.ops.claimTasks.done(start, args.WaitMs > 0, err)
	return r, err
}

func (b *measured) WaitExecution(ctx context.Context, args flowfabric.WaitExecutionArgs) (flowfabric.WaitExecutionResult, error) {
	start := time.Now()
	r, err := b.Backend.WaitExecution(ctx, args)
	b.ops.waitExecution.done(start, args.WaitMs > 0, err)
	return r, err
}

func (b *measured) RegisterWorker(ctx context.Context, args flowfabric.RegisterWorkerArgs) (flowfabric.RegisterWorkerResult, error) {
	start := time.Now()
	r, err := b.Backend.RegisterWorker(ctx, args)
	b.ops.registerWorker.done(start, false, err)
	return r, err
}

func (b *measured) HeartbeatWorker(ctx context.Context, args flowfabric.HeartbeatWorkerArgs) (flowfabric.HeartbeatWorkerResult, error) {
	start := time.Now()
	r, err := b.Backend.HeartbeatWorker(ctx, args)
	b.ops.heartbeatWorker.done(start, false, err)
	return r, err
}

func (b *measured) MarkWorkerDead(ctx context.Context, args flowfabric.MarkWorkerDeadArgs) (flowfabric.MarkWorkerDeadResult, error) {
	start := time.Now()
	r, err := b.Backend.MarkWorkerDead(ctx, args)
	b.ops.markWorkerDead.done(start, false, err)
	return r, err
}

func (b *measured) DeregisterWorker(ctx context.Context, args flowfabric.MarkWorkerDeadArgs) (flowfabric.MarkWorkerDeadResult, error) {
	start := time.Now()
	r, err := b.Backend.DeregisterWorker(ctx, args)
	b.ops.deregisterWorker.done(start, false, err)
	return r, err
}

func (b *measured) GetWorker(ctx context.Context, ns flowfabric.Namespace, instance flowfabric.WorkerInstanceID) (*flowfabric.WorkerRegistration, error) {
	start := time.Now()
	r, err := b.Backend.GetWorker(ctx, ns, instance)
	b.ops.getWorker.done(start, false, err)
	return r, err
}

func (b *measured) ListWorkers(ctx context.Context, args flowfabric.ListWorkersArgs) (flowfabric.ListWorkersResult, error) {
	start := time.Now()
	r, err := b.Backend.ListWorkers(ctx, args)
	b.ops.listWorkers.done(start, false, err)
	return r, err
}

func (b *measured) ExplainRouting(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.RoutingExplanation, error) {
	start := time.Now()
	r, err := b.Backend.ExplainRouting(ctx, id)
	b.ops.explainRouting.done(start, false, err)
	return r, err
}

func (b *measured) GetLane(ctx context.Context, id flowfabric.LaneID) (flowfabric.LaneStatus, error) {
	start := time.Now()
	r, err := b.Backend.GetLane(ctx, id)
	b.ops.getLane.done(start, false, err)
	return r, err
}

func (b *measured) ListLanes(ctx context.Context, args flowfabric.ListLanesArgs) (flowfabric.ListLanesResult, error) {
	start := time.Now()
	r, err := b.Backend.ListLanes(ctx, args)
	b.ops.listLanes.done(start, false, err)
	return r, err
}

func (b *measured) UpdateLane(ctx context.Context, args flowfabric.UpdateLaneArgs) (flowfabric.Lane, error) {
	start := time.Now()
	r, err := b.Backend.UpdateLane(ctx, args)
	b.ops.updateLane.done(start, false, err)
	return r, err
}

func (b *measured) SetLaneState(ctx context.Context, args flowfabric.SetLaneStateArgs) (flowfabric.SetLaneStateResult, error) {
	start := time.Now()
	r, err := b.Backend.SetLaneState(ctx, args)
	b.ops.setLaneState.done(start, false, err)
	return r, err
}

func (b *measured) DeleteLane(ctx context.Context, id flowfabric.LaneID) (bool, error) {
	start := time.Now()
	r, err := b.Backend.DeleteLane(ctx, id)
	b.ops.deleteLane.done(start, false, err)
	return r, err
}

func (b *measured) ReadFeed(ctx context.Context, args flowfabric.ReadFeedArgs) (flowfabric.ReadFeedResult, error) {
	start := time.Now()
	r, err := b.Backend.ReadFeed(ctx, args)
	b.ops.readFeed.done(start, args.BlockMs > 0, err)
	return r, err
}

func (b *measured) Ping(ctx context.Context) error {
	start := time.Now()
	err := b.Backend.Ping(ctx)
	b.ops.ping.done(start, false, err)
	return err
}
