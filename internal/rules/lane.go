package rules

import (
	"maps"
	"slices"

	"github.com/flowfabric/flowfabric"
)

// NewLane returns a lane as it comes into being: active, with defaults.
func NewLane(id flowfabric.LaneID, now flowfabric.Millis) flowfabric.Lane {
	return flowfabric.Lane{LaneID: id, State: flowfabric.LaneActive, SchedulingWeight: flowfabric.DefaultLaneWeight,
		Revision: 1, CreatedAt: now, UpdatedAt: now}
}

// ValidateSetLaneState checks the input of a change of a lane's state.
func ValidateSetLaneState(a flowfabric.SetLaneStateArgs) error {
	if err := a.LaneID.Validate(); err != nil {
		return err
	}
	switch a.State {
	case flowfabric.LaneActive, flowfabric.LanePaused, flowfabric.LaneDraining, flowfabric.LaneDisabled:
	default:
		return flowfabric.InvalidInput("state", "%q is no lane state", Cut(string(a.State), 80))
	}
	return validateLine("reason", a.Reason, 0, maxLaneReasonBytes)
}

// SetLaneState changes the state of a lane, or tells that it is there already.
// (Specification 02, section 9.)
func SetLaneState(l flowfabric.Lane, a flowfabric.SetLaneStateArgs, now flowfabric.Millis) (lane flowfabric.Lane, unchanged bool, err error) {
	if err := ValidateSetLaneState(a); err != nil {
		return l, false, err
	}
	if l.State == a.State {
		return l, true, nil
	}
	if !laneMayGo(l.State, a.State) {
		return l, false, flowfabric.NewError(flowfabric.CodeInvalidLaneTransition, "lane is %s, cannot become %s", l.State, a.State).
			With("state", string(l.State))
	}
	l.State, l.StateReason = a.State, a.Reason
	l.Revision++
	l.UpdatedAt = max(now, l.UpdatedAt)
	return l, false, nil
}

// laneMayGo is the table of lane transitions; the states differ.
func laneMayGo(from, to flowfabric.LaneState) bool {
	switch to {
	case flowfabric.LanePaused:
		return from == flowfabric.LaneActive
	case flowfabric.LaneDraining:
		return from == flowfabric.LaneActive || from == flowfabric.LanePaused
	}
	return true // resume or enable to active, disable from any
}

// ValidateUpdateLane checks the settings of a lane.
func ValidateUpdateLane(a flowfabric.UpdateLaneArgs) error {
	if err := a.LaneID.Validate(); err != nil {
		return err
	}
	if a.SchedulingWeight != nil {
		if err := validateRange("scheduling_weight", int64(*a.SchedulingWeight), 1, flowfabric.MaxLaneWeight); err != nil {
			return err
		}
	}
	if a.MaxConcurrency != nil && *a.MaxConcurrency < 0 {
		return flowfabric.InvalidInput("max_concurrency", "must not be negative")
	}
	for _, ns := range slices.Sorted(maps.Keys(a.TenantWeights)) {
		if err := ns.Validate(); err != nil {
			return err
		}
		if err := validateRange("tenant_weights", int64(a.TenantWeights[ns]), 1, flowfabric.MaxLaneWeight); err != nil {
			return err
		}
	}
	if len(a.DefaultPolicy) == 0 {
		return nil
	}
	_, err := flowfabric.ParsePolicy(a.DefaultPolicy)
	return err
}

// UpdateLane changes the settings that are given.
func UpdateLane(l flowfabric.Lane, a flowfabric.UpdateLaneArgs, now flowfabric.Millis) (flowfabric.Lane, error) {
	if err := ValidateUpdateLane(a); err != nil {
		return l, err
	}
	if a.ExpectedRevision != nil && *a.ExpectedRevision != l.Revision {
		return l, flowfabric.NewError(flowfabric.CodeRevisionConflict, "lane has revision %d, expected %d", l.Revision, *a.ExpectedRevision).
			With("revision", l.Revision)
	}
	if a.SchedulingWeight != nil {
		l.SchedulingWeight = *a.SchedulingWeight
	}
	if a.MaxConcurrency != nil {
		l.MaxConcurrency = *a.MaxConcurrency
	}
	if a.TenantWeights != nil {
		l.TenantWeights = maps.Clone(a.TenantWeights)
	}
	if a.DefaultPolicy != nil {
		l.DefaultPolicy = slices.Clone(a.DefaultPolicy)
	}
	l.Revision++
	l.UpdatedAt = max(now, l.UpdatedAt)
	return l, nil
}

// AdmitsCreate returns lane_intake_closed when the lane takes no new executions.
func AdmitsCreate(l flowfabric.Lane) error {
	if l.State == flowfabric.LaneActive {
		return nil
	}
	return flowfabric.NewError(flowfabric.CodeLaneIntakeClosed, "lane %s is %s", l.LaneID, l.State).
		With("state", string(l.State)).With("lane_id", string(l.LaneID))
}
