package remote

import (
	"context"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// DeclareLanes makes lanes that do not exist yet: each by an update that changes
// nothing, which brings a lane into being.
func (b *Backend) DeclareLanes(ctx context.Context, lanes []flowfabric.LaneID) error {
	for _, lane := range lanes {
		if err := lane.Validate(); err != nil {
			return err
		}
	}
	for _, lane := range lanes {
		_, err := b.GetLane(ctx, lane)
		if isCode(err, flowfabric.CodeLaneNotFound) {
			_, err = b.UpdateLane(ctx, flowfabric.UpdateLaneArgs{LaneID: lane})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// GetLane returns lane_not_found for a lane never named.
func (b *Backend) GetLane(ctx context.Context, id flowfabric.LaneID) (flowfabric.LaneStatus, error) {
	if err := id.Validate(); err != nil {
		return flowfabric.LaneStatus{}, err
	}
	var l flowfabric.LaneStatus
	_, err := b.do(ctx, get("get_lane", wire.Path(wire.RouteLane, string(id)), nil), &l)
	return l, err
}

// ListLanes returns one page of lanes, ordered by id.
func (b *Backend) ListLanes(ctx context.Context, a flowfabric.ListLanesArgs) (flowfabric.ListLanesResult, error) {
	var p wire.Page[flowfabric.LaneStatus]
	if _, err := b.do(ctx, get("list_lanes", wire.RouteLanes, wire.ListLanesQuery(a)), &p); err != nil {
		return flowfabric.ListLanesResult{}, err
	}
	return wire.LanesResult(p), nil
}

// UpdateLane changes a lane's settings.
func (b *Backend) UpdateLane(ctx context.Context, a flowfabric.UpdateLaneArgs) (flowfabric.Lane, error) {
	if err := rules.ValidateUpdateLane(a); err != nil {
		return flowfabric.Lane{}, err
	}
	var l flowfabric.Lane
	_, err := b.do(ctx, put("update_lane", wire.Path(wire.RouteLane, string(a.LaneID)), wire.NewUpdateLaneRequest(a)), &l)
	return l, err
}

// SetLaneState pauses, resumes, drains, disables or enables a lane.
func (b *Backend) SetLaneState(ctx context.Context, a flowfabric.SetLaneStateArgs) (flowfabric.SetLaneStateResult, error) {
	if err := rules.ValidateSetLaneState(a); err != nil {
		return flowfabric.SetLaneStateResult{}, err
	}
	var r wire.SetLaneStateResponse
	_, err := b.do(ctx, put("set_lane_state", wire.Path(wire.RouteLaneState, string(a.LaneID)), wire.NewSetLaneStateRequest(a)), &r)
	return r.Result(), err
}

// DeleteLane reports whether the lane was there.
func (b *Backend) DeleteLane(ctx context.Context, id flowfabric.LaneID) (bool, error) {
	if err := id.Validate(); err != nil {
		return false, err
	}
	var r wire.DeleteLaneResponse
	_, err := b.do(ctx, remove("delete_lane", wire.Path(wire.RouteLane, string(id)), nil), &r)
	return r.Outcome == "deleted", err
}
