package api

import (
	"net/http"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// laneFields are those of a lane, in either outcome of a change of state.
var laneFields = []string{
	"lane_id", "state", "state_reason?", "scheduling_weight", "max_concurrency", "tenant_weights?", "budget_ids?",
	"quota_policy_ids?", "default_policy?", "revision", "created_at", "updated_at", "drained", "counts", "oldest_eligible_at?",
}

func laneRoutes() []*route {
	return []*route{
		{
			id: "list_lanes", method: http.MethodGet, pattern: wire.RouteLanes, scopes: ScopeRead,
			summary: "The lanes by id, with their counts.", query: []param{limitParam, cursorParam},
			codes:    []flowfabric.Code{flowfabric.CodeInvalidCursor},
			endpoint: serves[none, wire.Page[flowfabric.LaneStatus]](listLanes),
		},
		{
			id: "get_lane", method: http.MethodGet, pattern: wire.RouteLane, scopes: ScopeRead,
			summary: "One lane, with its counts.", codes: []flowfabric.Code{flowfabric.CodeLaneNotFound},
			endpoint: serves[none, flowfabric.LaneStatus](getLane),
		},
		{
			id: "update_lane", method: http.MethodPut, pattern: wire.RouteLane, scopes: ScopeOperate,
			summary:  "Changes a lane's settings; makes the lane when it does not exist.",
			codes:    []flowfabric.Code{flowfabric.CodeRevisionConflict, flowfabric.CodeInvalidPolicyJSON, flowfabric.CodeLaneNotFound, flowfabric.CodeIDMismatch},
			endpoint: serves[wire.UpdateLaneRequest, flowfabric.LaneStatus](updateLane),
		},
		{
			id: "set_lane_state", method: http.MethodPut, pattern: wire.RouteLaneState, scopes: ScopeOperate,
			summary:  "Pauses, resumes, drains, disables or enables a lane.",
			codes:    []flowfabric.Code{flowfabric.CodeInvalidLaneTransition, flowfabric.CodeLaneNotFound, flowfabric.CodeIDMismatch},
			variants: map[string][]string{"changed": laneFields, "unchanged": laneFields},
			endpoint: audited("lane state set", serves[wire.SetLaneStateRequest, wire.SetLaneStateResponse](setLaneState)),
		},
		{
			id: "delete_lane", method: http.MethodDelete, pattern: wire.RouteLane, scopes: ScopeOperate,
			summary:  "Deletes a disabled lane without live executions.",
			query:    []param{{name: "expected_revision", kind: "integer", doc: "Else revision_conflict; also in a body."}},
			codes:    []flowfabric.Code{flowfabric.CodeLaneNotEmpty, flowfabric.CodeRevisionConflict, flowfabric.CodeIDMismatch},
			variants: map[string][]string{"deleted": nil, "already_deleted": nil},
			endpoint: serves[wire.DeleteLaneRequest, wire.DeleteLaneResponse](deleteLane),
		},
	}
}

func listLanes(c *call) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	args, err := wire.ParseListLanes(query)
	if err != nil {
		return err
	}
	r, err := c.api.backend.ListLanes(c.ctx, args)
	if err != nil {
		return err
	}
	return c.ok(wire.NewLanesPage(query, r))
}

func getLane(c *call) error {
	id, err := c.laneID()
	if err != nil {
		return err
	}
	lane, err := c.api.backend.GetLane(c.ctx, id)
	if err != nil {
		return err
	}
	return c.ok(wire.NewLaneStatus(lane))
}

func updateLane(c *call) error {
	id, err := c.laneID()
	if err != nil {
		return err
	}
	var body wire.UpdateLaneRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args, err := body.Args(id)
	if err != nil {
		return err
	}
	lane, err := c.api.backend.UpdateLane(c.ctx, args)
	if err != nil {
		return err
	}
	status := c.laneStatus(id)
	status.Lane = lane
	return c.ok(wire.NewLaneStatus(status))
}

// laneStatus returns what surrounds a lane that was just changed. The change
// stands though its counts can't be read.
func (c *call) laneStatus(id flowfabric.LaneID) flowfabric.LaneStatus {
	status, err := c.api.backend.GetLane(c.ctx, id)
	if err != nil {
		return flowfabric.LaneStatus{}
	}
	return status
}

func setLaneState(c *call) error {
	id, err := c.laneID()
	if err != nil {
		return err
	}
	var body wire.SetLaneStateRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args, err := body.Args(id)
	if err != nil {
		return err
	}
	r, err := c.api.backend.SetLaneState(c.ctx, args)
	if err != nil {
		return err
	}
	return c.ok(wire.NewSetLaneStateResponse(r, c.laneStatus(id)))
}

func deleteLane(c *call) error {
	id, err := c.laneID()
	if err != nil {
		return err
	}
	expected, err := c.expectedRevision(id)
	if err != nil {
		return err
	}
	if expected != nil {
		if err := c.hasRevision(id, *expected); err != nil {
			return err
		}
	}
	deleted, err := c.api.backend.DeleteLane(c.ctx, id)
	if err != nil {
		return err
	}
	return c.ok(wire.NewDeleteLaneResponse(deleted))
}

// expectedRevision returns the revision a deletion insists on, of the query or of
// the body; nil when it names none.
func (c *call) expectedRevision(id flowfabric.LaneID) (*uint64, error) {
	query, err := c.query()
	if err != nil {
		return nil, err
	}
	n, given, err := wire.QueryInt(query, "expected_revision", 0, wire.MaxInteger)
	if err != nil {
		return nil, err
	}
	var body wire.DeleteLaneRequest
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if err := body.Check(id); err != nil {
		return nil, err
	}
	if !given {
		return body.ExpectedRevision, nil
	}
	if body.ExpectedRevision != nil && *body.ExpectedRevision != uint64(n) {
		return nil, flowfabric.NewError(flowfabric.CodeIDMismatch, "query and body expect different revisions").With("field", "expected_revision")
	}
	revision := uint64(n)
	return &revision, nil
}

// hasRevision fails when the lane has another revision than expected. A lane that
// is not there has been deleted already.
func (c *call) hasRevision(id flowfabric.LaneID, expected uint64) error {
	lane, err := c.api.backend.GetLane(c.ctx, id)
	if flowfabric.CodeOf(err) == flowfabric.CodeLaneNotFound {
		return nil
	}
	if err != nil || lane.Revision == expected {
		return err
	}
	return flowfabric.NewError(flowfabric.CodeRevisionConflict, "lane has revision %d, expected %d", lane.Revision, expected).
		With("revision", lane.Revision)
}
