package flowfabric

import (
	"context"
	"encoding/json"
)

// LaneState says what a lane lets in and out. (Specification 02, section 9.)
type LaneState string

// The lane states.
const (
	LaneActive   LaneState = "active"
	LanePaused   LaneState = "paused"   // no new executions; existing work runs
	LaneDraining LaneState = "draining" // no new executions; work finishes
	LaneDisabled LaneState = "disabled" // no claims either
)

// Limits of a lane.
const (
	MaxLaneWeight     = 1000
	DefaultLaneWeight = 1
	DefaultLane       = LaneID("default")
)

// Lane is the record of one lane. (Specification 02, section 2.5.)
type Lane struct {
	LaneID           LaneID            `json:"lane_id"`
	State            LaneState         `json:"state"`
	StateReason      string            `json:"state_reason,omitempty"`
	SchedulingWeight int               `json:"scheduling_weight"`
	MaxConcurrency   int               `json:"max_concurrency"`
	TenantWeights    map[Namespace]int `json:"tenant_weights,omitempty"`
	BudgetIDs        []string          `json:"budget_ids,omitempty"`
	QuotaPolicyIDs   []string          `json:"quota_policy_ids,omitempty"`
	// DefaultPolicy is merged under the policy of every execution created in the
	// lane: a top-level field the execution's policy lacks is taken from here.
	DefaultPolicy json.RawMessage `json:"default_policy,omitempty"`
	Revision      uint64          `json:"revision"`
	CreatedAt     Millis          `json:"created_at"`
	UpdatedAt     Millis          `json:"updated_at"`
}

// LaneStatus is a lane with what can be counted in it.
type LaneStatus struct {
	Lane
	// Drained is true for a draining lane without non-terminal executions.
	Drained          bool                  `json:"drained"`
	Counts           map[PublicState]int64 `json:"counts"`
	OldestEligibleAt Millis                `json:"oldest_eligible_at,omitempty"`
}

// UpdateLaneArgs changes a lane's settings; nil fields stay. The lane comes into
// being when it does not exist and ExpectedRevision is nil.
type UpdateLaneArgs struct {
	LaneID           LaneID
	ExpectedRevision *uint64 // else revision_conflict
	SchedulingWeight *int    // 1..1000
	MaxConcurrency   *int    // 0 = none
	TenantWeights    map[Namespace]int
	DefaultPolicy    json.RawMessage
}

// SetLaneStateArgs is the input of PauseLane, ResumeLane, DrainLane, DisableLane
// and EnableLane: the target state names the operation. LaneActive is ResumeLane
// or EnableLane, by the present state.
type SetLaneStateArgs struct {
	LaneID LaneID
	State  LaneState
	Reason string // 0..256 bytes without control characters
}

// SetLaneStateResult holds the lane; Unchanged when it was there already.
type SetLaneStateResult struct {
	Lane      Lane
	Unchanged bool
}

// ListLanesArgs selects lanes ordered by id. Limit is 1..1000; 0 means 50.
type ListLanesArgs struct {
	After LaneID
	Limit int
}

// ListLanesResult is one page; More tells that there are others after it.
type ListLanesResult struct {
	Lanes []LaneStatus
	More  bool
}

// Lanes is the lane primitive's part of the contract.
type Lanes interface {
	// DeclareLanes makes lanes that do not exist yet, active with defaults.
	DeclareLanes(ctx context.Context, lanes []LaneID) error
	// GetLane returns lane_not_found for a lane never named.
	GetLane(ctx context.Context, id LaneID) (LaneStatus, error)
	ListLanes(ctx context.Context, args ListLanesArgs) (ListLanesResult, error)
	UpdateLane(ctx context.Context, args UpdateLaneArgs) (Lane, error)
	SetLaneState(ctx context.Context, args SetLaneStateArgs) (SetLaneStateResult, error)
	// DeleteLane reports whether the lane was there. It must be disabled and
	// without non-terminal executions, else lane_not_empty.
	DeleteLane(ctx context.Context, id LaneID) (bool, error)
}
