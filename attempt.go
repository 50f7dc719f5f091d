package flowfabric

// AttemptState is the state of an attempt record; the last four are final.
type AttemptState string

// The attempt states.
const (
	AttemptStarted              AttemptState = "started"
	AttemptSuspended            AttemptState = "suspended"
	AttemptEndedSuccess         AttemptState = "ended_success"
	AttemptEndedFailure         AttemptState = "ended_failure"
	AttemptEndedCancelled       AttemptState = "ended_cancelled"
	AttemptInterruptedReclaimed AttemptState = "interrupted_reclaimed"
)

// PauseKind says why an attempt is paused.
type PauseKind string

// The kinds of pause.
const (
	PauseSuspension      PauseKind = "suspension"
	PauseWorkerDelay     PauseKind = "worker_delay"
	PauseWaitingChildren PauseKind = "waiting_children"
)

// PolicySnapshot is what an attempt froze of policy, route and admission when it
// was claimed.
type PolicySnapshot struct {
	TimeoutMs        int64  `json:"timeout_ms,omitempty"`
	Provider         string `json:"provider,omitempty"`
	Model            string `json:"model,omitempty"`
	FallbackIndex    uint32 `json:"fallback_index"`
	LaneID           LaneID `json:"lane_id"`
	RouteSnapshot    string `json:"route_snapshot,omitempty"`
	AdmissionSummary string `json:"admission_summary,omitempty"`
}

// Usage is what an attempt consumed. Units are the dimensions' own.
type Usage map[string]int64

// Attempt is the record of one try. (Specification 01, section 3.3.)
type Attempt struct {
	AttemptID    AttemptID    `json:"attempt_id"`
	ExecutionID  ExecutionID  `json:"execution_id"`
	AttemptIndex uint32       `json:"attempt_index"`
	AttemptType  AttemptType  `json:"attempt_type"`
	AttemptState AttemptState `json:"attempt_state"`

	CreatedAt    Millis       `json:"created_at"`
	StartedAt    Millis       `json:"started_at,omitempty"`
	SuspendedAt  Millis       `json:"suspended_at,omitempty"`
	PauseKind    PauseKind    `json:"pause_kind,omitempty"`
	SuspensionID SuspensionID `json:"suspension_id,omitempty"`
	ResumedAt    Millis       `json:"resumed_at,omitempty"`
	EndedAt      Millis       `json:"ended_at,omitempty"`
	// TimeoutRemainingMs is the unused attempt time saved at a pause; nil when
	// the attempt runs, or has no timeout.
	TimeoutRemainingMs *int64 `json:"timeout_remaining_ms,omitempty"`

	LeaseID          LeaseID          `json:"lease_id,omitempty"`
	LeaseEpoch       uint64           `json:"lease_epoch,omitempty"`
	WorkerID         WorkerID         `json:"worker_id,omitempty"`
	WorkerInstanceID WorkerInstanceID `json:"worker_instance_id,omitempty"`

	FailureReason          string `json:"failure_reason,omitempty"`
	FailureCategory        string `json:"failure_category,omitempty"`
	TerminalizedByOverride bool   `json:"terminalized_by_override,omitempty"`

	// PreviousAttemptIndex is index - 1 for every attempt but the first.
	PreviousAttemptIndex     *uint32 `json:"previous_attempt_index,omitempty"`
	RetryReason              string  `json:"retry_reason,omitempty"`
	ReclaimReason            string  `json:"reclaim_reason,omitempty"`
	ReplayReason             string  `json:"replay_reason,omitempty"`
	ReplayRequestedBy        string  `json:"replay_requested_by,omitempty"`
	ReplayedFromAttemptIndex *uint32 `json:"replayed_from_attempt_index,omitempty"`
	FallbackIndex            *uint32 `json:"fallback_index,omitempty"`

	PolicySnapshot PolicySnapshot `json:"policy_snapshot"`
	Usage          Usage          `json:"usage,omitempty"`
}

// Final reports whether the attempt has ended.
func (a *Attempt) Final() bool {
	switch a.AttemptState {
	case AttemptEndedSuccess, AttemptEndedFailure, AttemptEndedCancelled, AttemptInterruptedReclaimed:
		return true
	}
	return false
}

// ListAttemptsArgs selects attempts from index From on. Limit is 1..1000; 0
// means 100.
type ListAttemptsArgs struct {
	ExecutionID ExecutionID
	From        uint32
	Limit       int
}

// ListAttemptsResult is one page, ascending by index. Next is the index to go on
// from, nil at the end.
type ListAttemptsResult struct {
	Attempts []Attempt
	Next     *uint32
}
