package rules

import (
	"github.com/flowfabric/flowfabric"
)

// The causes of a completion: the operation or duty that ended the execution. A
// cancel by a cascade or the system carries its source instead.
const (
	causeComplete          = "complete"
	causeFail              = "fail"
	causeCancel            = "cancel"
	causeReclaimCap        = "reclaim_cap"
	causeAttemptTimeout    = string(flowfabric.ExpireAttemptTimeout)
	causeExecutionDeadline = string(flowfabric.ExpireExecutionDeadline)
	causeSuspension        = "suspension_timeout"
)

// The reasons of released events. (Specification 01, section 6.)
const (
	releasedCompleted    = "completed"
	releasedRetry        = "failed_retry_scheduled"
	releasedFailed       = "failed_terminal"
	releasedCancelled    = "cancelled"
	releasedWorkerDelay  = "worker_delay"
	releasedTimeout      = "attempt_timeout"
	releasedDeadline     = "execution_deadline"
	releasedSuspend      = "suspend"
	reasonMaxReclaims    = "max_reclaims_exceeded"
	reasonLeaseExpired   = "lease_expired"
	reasonLeaseRevoked   = "lease_revoked"
	detailAwaitReclaim   = "lease expired, awaiting reclaim"
	detailRevoked        = "lease revoked: "
	detailNoWorker       = "no live worker satisfies: "
	streamSuccess        = "attempt_success"
	streamFailure        = "attempt_failure"
	streamCancelled      = "attempt_cancelled"
	streamExpired        = "expired"
	streamReclaimed      = "reclaimed"
	streamSuspension     = "suspension_timeout"
	acquiredByClaim      = "claim"
	acquiredDirectly     = "direct"
	acquiredByOperator   = "operator"
	revokedByOperator    = "operator"
	defaultRevokeReason  = "operator_revoke"
	defaultReplayReason  = "manual"
	defaultReplayRequest = "operator"
)

// event appends an event with its envelope filled in and returns it for the
// fields of its kind. The pointer is good until the next event.
func (t *step) event(feed flowfabric.Feed, kind string) *flowfabric.Event {
	s := t.s
	if t.fx.Events == nil {
		t.fx.Events = make([]flowfabric.Event, 0, 2)
	}
	t.fx.Events = append(t.fx.Events, flowfabric.Event{
		Feed: feed, Kind: kind, Partition: s.Exec.ExecutionID.Partition(),
		ExecutionID: s.Exec.ExecutionID, FlowID: s.Exec.FlowID, Namespace: s.Exec.Namespace, LaneID: s.Exec.LaneID,
		Tags: s.Tags, At: t.now,
	})
	ev := &t.fx.Events[len(t.fx.Events)-1]
	if s.Attempt != nil {
		ev.AttemptIndex = &s.Attempt.AttemptIndex
		ev.AttemptID = s.Attempt.AttemptID
	}
	return ev
}

// leaseEvent appends an event of the lease feed about the lease in the mirror.
func (t *step) leaseEvent(kind string) *flowfabric.Event {
	e := &t.s.Exec
	ev := t.event(flowfabric.FeedLeases, kind)
	ev.LeaseID, ev.LeaseEpoch = e.CurrentLeaseID, e.CurrentLeaseEpoch
	ev.WorkerID, ev.WorkerInstanceID = e.CurrentWorkerID, e.CurrentWorkerInstanceID
	return ev
}

// completion appends the one event of a transition into the terminal phase.
func (t *step) completion(cause string) *flowfabric.Event {
	e := &t.s.Exec
	ev := t.event(flowfabric.FeedCompletions, flowfabric.EventCompleted)
	replays := e.ReplayCount
	ev.Outcome, ev.PublicState, ev.ReplayCount, ev.Cause = e.TerminalOutcome, PublicState(e.StateVector), &replays, cause
	if e.TerminalOutcome == flowfabric.OutcomeFailed || e.TerminalOutcome == flowfabric.OutcomeExpired {
		ev.FailureCategory = e.FailureCategory
		ev.FailureReason = Cut(e.FailureReason, flowfabric.MaxEventReasonBytes)
	}
	return ev
}
