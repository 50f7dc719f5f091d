package wire

import (
	"github.com/flowfabric/flowfabric"
)

// APIVersion is the version of the routes.
const APIVersion = "v1"

// CapabilitiesResponse is the answer of GET /v1/capabilities. (Specification 08,
// section 4.7.)
type CapabilitiesResponse struct {
	Family        string           `json:"family" doc:"The kind of store behind the server."`
	Version       string           `json:"version" doc:"The store's version."`
	DeploymentID  string           `json:"deployment_id,omitempty"`
	ServerVersion string           `json:"server_version"`
	APIVersion    string           `json:"api_version" enum:"v1"`
	Supports      map[string]bool  `json:"supports" doc:"Operations by snake_case name."`
	Limits        map[string]int64 `json:"limits" doc:"Limits by name, in bytes, milliseconds or items."`
}

// ReconcileRequest is the body of POST /v1/admin/reconcile.
type ReconcileRequest struct {
	Partition *uint16 `json:"partition,omitempty" doc:"Absent: all."`
}

// DrainResponse is draining or not_draining.
type DrainResponse struct {
	Outcome string `json:"outcome" enum:"draining,not_draining"`
}

// NewDrainResponse makes the answer of POST and DELETE /v1/admin/drain.
func NewDrainResponse(draining bool) DrainResponse {
	if draining {
		return DrainResponse{Outcome: "draining"}
	}
	return DrainResponse{Outcome: "not_draining"}
}

// NoBody is the body of a route that takes nothing: empty, or an object without
// fields.
type NoBody struct{}

// LaneCollision is one lane of GET /v1/admin/partition-collisions.
type LaneCollision struct {
	LaneID     flowfabric.LaneID   `json:"lane_id"`
	Partition  uint16              `json:"partition"`
	Companions []flowfabric.LaneID `json:"companions" doc:"The other lanes of the partition."`
}

// CollisionsResponse is the answer of GET /v1/admin/partition-collisions: lanes
// ordered by partition, then lane. (Specification 08, section 6.4.)
type CollisionsResponse struct {
	NumFlowPartitions int             `json:"num_flow_partitions"`
	Lanes             []LaneCollision `json:"lanes"`
	CollidingLanes    int             `json:"colliding_lanes"`
	CollidingPercent  float64         `json:"colliding_percent"`
	Severity          string          `json:"severity" enum:"clean,watch,elevated,remediate"`
}

// ProbeResponse is the good answer of the probes.
type ProbeResponse struct {
	Status string `json:"status" enum:"ok"`
	// StoreSupported is false where the store is one that FlowFabric is not tested
	// on (Redis, let pass by FF_ALLOW_REDIS); else it is absent. Of /readyz only.
	// (Specification 07, section 12.)
	StoreSupported *bool `json:"store_supported,omitempty"`
}
