package wire

import (
	"encoding/json"
	"net/url"

	"github.com/flowfabric/flowfabric"
)

// LaneRef is the optional copy, in a body, of the lane id in the path.
type LaneRef struct {
	LaneID *flowfabric.LaneID `json:"lane_id,omitempty" doc:"Optional copy of the id in the path."`
}

// Check reports id_mismatch when the body names another lane than the path.
func (r LaneRef) Check(lane flowfabric.LaneID) error {
	if r.LaneID == nil {
		return nil
	}
	return match("lane_id", string(*r.LaneID), string(lane))
}

// UpdateLaneRequest is the body of PUT /v1/lanes/{lane_id}; absent fields stay as
// they are.
type UpdateLaneRequest struct {
	LaneRef
	ExpectedRevision *uint64                       `json:"expected_revision,omitempty" doc:"Else revision_conflict."`
	SchedulingWeight *int                          `json:"scheduling_weight,omitempty" minimum:"1" maximum:"1000"`
	MaxConcurrency   *int                          `json:"max_concurrency,omitempty" minimum:"0" doc:"0: none."`
	TenantWeights    *map[flowfabric.Namespace]int `json:"tenant_weights,omitempty" doc:"Namespace to 1..1000; the others have 1."`
	DefaultPolicy    json.RawMessage               `json:"default_policy,omitempty" wire:"policy" doc:"Merged under the policy of every execution created in the lane; {} for none."`
}

// NewUpdateLaneRequest makes the body of an update.
func NewUpdateLaneRequest(a flowfabric.UpdateLaneArgs) UpdateLaneRequest {
	r := UpdateLaneRequest{ExpectedRevision: a.ExpectedRevision, SchedulingWeight: a.SchedulingWeight, MaxConcurrency: a.MaxConcurrency, DefaultPolicy: a.DefaultPolicy}
	if a.TenantWeights != nil {
		r.TenantWeights = &a.TenantWeights
	}
	return r
}

// Args returns the contract's arguments.
func (r UpdateLaneRequest) Args(lane flowfabric.LaneID) (flowfabric.UpdateLaneArgs, error) {
	return flowfabric.UpdateLaneArgs{LaneID: lane, ExpectedRevision: r.ExpectedRevision, SchedulingWeight: r.SchedulingWeight,
		MaxConcurrency: r.MaxConcurrency, TenantWeights: val(r.TenantWeights), DefaultPolicy: r.DefaultPolicy}, r.Check(lane)
}

// SetLaneStateRequest is the body of PUT /v1/lanes/{lane_id}/state.
type SetLaneStateRequest struct {
	LaneRef
	State  flowfabric.LaneState `json:"state" enum:"active,paused,draining,disabled"`
	Reason string               `json:"reason" maxLength:"256" doc:"Shown with the lane; may be empty."`
}

// NewSetLaneStateRequest makes the body of a change of state.
func NewSetLaneStateRequest(a flowfabric.SetLaneStateArgs) SetLaneStateRequest {
	return SetLaneStateRequest{State: a.State, Reason: a.Reason}
}

// Args returns the contract's arguments.
func (r SetLaneStateRequest) Args(lane flowfabric.LaneID) (flowfabric.SetLaneStateArgs, error) {
	return flowfabric.SetLaneStateArgs{LaneID: lane, State: r.State, Reason: r.Reason}, r.Check(lane)
}

// SetLaneStateResponse is the lane, with changed or unchanged.
type SetLaneStateResponse struct {
	Outcome string `json:"outcome" enum:"changed,unchanged"`
	flowfabric.LaneStatus
}

// NewSetLaneStateResponse makes the answer to a change of state: the lane as it
// was left, with its counts.
func NewSetLaneStateResponse(r flowfabric.SetLaneStateResult, status flowfabric.LaneStatus) SetLaneStateResponse {
	status.Lane = r.Lane
	status = NewLaneStatus(status)
	if r.Unchanged {
		return SetLaneStateResponse{Outcome: "unchanged", LaneStatus: status}
	}
	return SetLaneStateResponse{Outcome: "changed", LaneStatus: status}
}

// Result returns the contract's result.
func (r SetLaneStateResponse) Result() flowfabric.SetLaneStateResult {
	return flowfabric.SetLaneStateResult{Lane: r.Lane, Unchanged: r.Outcome == "unchanged"}
}

// DeleteLaneRequest is the body, if any, of DELETE /v1/lanes/{lane_id}.
type DeleteLaneRequest struct {
	LaneRef
	ExpectedRevision *uint64 `json:"expected_revision,omitempty" doc:"Else revision_conflict; also as a query parameter."`
}

// DeleteLaneResponse is deleted or already_deleted.
type DeleteLaneResponse struct {
	Outcome string `json:"outcome" enum:"deleted,already_deleted"`
}

// NewDeleteLaneResponse makes the answer to a deletion.
func NewDeleteLaneResponse(deleted bool) DeleteLaneResponse {
	if deleted {
		return DeleteLaneResponse{Outcome: "deleted"}
	}
	return DeleteLaneResponse{Outcome: "already_deleted"}
}

// NewLaneStatus makes the wire form of a lane's status: counts are never null.
func NewLaneStatus(l flowfabric.LaneStatus) flowfabric.LaneStatus {
	if l.Counts == nil {
		l.Counts = map[flowfabric.PublicState]int64{}
	}
	return l
}

// ListLanesQuery returns the parameters of GET /v1/lanes.
func ListLanesQuery(a flowfabric.ListLanesArgs) url.Values {
	q := url.Values{}
	setInt(q, "limit", a.Limit)
	if a.After != "" {
		q.Set("cursor", EncodeCursor(ListLanes, "", q, string(a.After)))
	}
	return q
}

// ParseListLanes reads the parameters of GET /v1/lanes.
func ParseListLanes(q url.Values) (flowfabric.ListLanesArgs, error) {
	a := flowfabric.ListLanesArgs{}
	var err error
	if a.Limit, err = QueryLimit(q, flowfabric.MaxListLimit); err != nil {
		return a, err
	}
	text, err := QueryText(q, "cursor")
	if err != nil || text == "" {
		return a, err
	}
	position, err := DecodeCursor(ListLanes, "", q, text)
	a.After = flowfabric.LaneID(position)
	return a, err
}

// NewLanesPage makes the answer of GET /v1/lanes. q is the request's query.
func NewLanesPage(q url.Values, r flowfabric.ListLanesResult) Page[flowfabric.LaneStatus] {
	p := Page[flowfabric.LaneStatus]{Items: make([]flowfabric.LaneStatus, len(r.Lanes))}
	for i, l := range r.Lanes {
		p.Items[i] = NewLaneStatus(l)
	}
	if n := len(r.Lanes); r.More && n > 0 {
		p.NextCursor = opt(EncodeCursor(ListLanes, "", q, string(r.Lanes[n-1].LaneID)))
	}
	return p
}

// LanesResult returns the contract's result of a page.
func LanesResult(p Page[flowfabric.LaneStatus]) flowfabric.ListLanesResult {
	return flowfabric.ListLanesResult{Lanes: p.Items, More: p.NextCursor != nil}
}
