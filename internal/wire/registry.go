package wire

import (
	"net/url"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// InstanceRef is the optional copy, in a body, of the instance id in the path.
type InstanceRef struct {
	WorkerInstanceID *flowfabric.WorkerInstanceID `json:"worker_instance_id,omitempty" doc:"Optional copy of the id in the path."`
}

// Check reports id_mismatch when the body names another instance than the path.
func (r InstanceRef) Check(instance flowfabric.WorkerInstanceID) error {
	if r.WorkerInstanceID == nil {
		return nil
	}
	return match("worker_instance_id", string(*r.WorkerInstanceID), string(instance))
}

// RegisterWorkerRequest is the body of PUT
// /v1/worker-instances/{worker_instance_id}.
type RegisterWorkerRequest struct {
	InstanceRef
	WorkerID      flowfabric.WorkerID  `json:"worker_id" maxLength:"128"`
	Namespace     flowfabric.Namespace `json:"namespace" maxLength:"128" doc:"* serves all."`
	Lanes         []flowfabric.LaneID  `json:"lanes" minItems:"1" maxItems:"64"`
	Capabilities  []string             `json:"capabilities"`
	InstanceNonce string               `json:"instance_nonce" format:"uuid" doc:"Minted once per process start."`
	LivenessTTLMs *int64               `json:"liveness_ttl_ms,omitempty" minimum:"1000" maximum:"600000" default:"60000"`
}

// NewRegisterWorkerRequest makes the body of a registration.
func NewRegisterWorkerRequest(a flowfabric.RegisterWorkerArgs) RegisterWorkerRequest {
	return RegisterWorkerRequest{WorkerID: a.WorkerID, Namespace: a.Namespace, Lanes: nonNil(a.Lanes), Capabilities: nonNil(a.Capabilities),
		InstanceNonce: a.InstanceNonce, LivenessTTLMs: opt(a.LivenessTTLMs)}
}

// Args returns the contract's arguments.
func (r RegisterWorkerRequest) Args(instance flowfabric.WorkerInstanceID) (flowfabric.RegisterWorkerArgs, error) {
	if err := zeroRefused("liveness_ttl_ms", r.LivenessTTLMs); err != nil {
		return flowfabric.RegisterWorkerArgs{}, err
	}
	return flowfabric.RegisterWorkerArgs{Namespace: r.Namespace, WorkerID: r.WorkerID, WorkerInstanceID: instance, Lanes: r.Lanes,
		Capabilities: r.Capabilities, LivenessTTLMs: val(r.LivenessTTLMs), InstanceNonce: r.InstanceNonce}, r.Check(instance)
}

// RegisterWorkerResponse is registered or refreshed.
type RegisterWorkerResponse struct {
	Outcome      flowfabric.RegisterOutcome `json:"outcome" enum:"registered,refreshed"`
	NextExpiryAt flowfabric.Millis          `json:"next_expiry_at"`
}

// NewRegisterWorkerResponse makes the answer to a registration.
func NewRegisterWorkerResponse(r flowfabric.RegisterWorkerResult) RegisterWorkerResponse {
	return RegisterWorkerResponse(r)
}

// Result returns the contract's result.
func (r RegisterWorkerResponse) Result() flowfabric.RegisterWorkerResult {
	return flowfabric.RegisterWorkerResult(r)
}

// HeartbeatRequest is the body of POST .../heartbeat.
type HeartbeatRequest struct {
	InstanceRef
	Namespace     flowfabric.Namespace `json:"namespace" maxLength:"128"`
	InstanceNonce string               `json:"instance_nonce" format:"uuid"`
}

// Args returns the contract's arguments.
func (r HeartbeatRequest) Args(instance flowfabric.WorkerInstanceID) (flowfabric.HeartbeatWorkerArgs, error) {
	return flowfabric.HeartbeatWorkerArgs{Namespace: r.Namespace, WorkerInstanceID: instance, InstanceNonce: r.InstanceNonce}, r.Check(instance)
}

// HeartbeatResponse is refreshed or not_registered.
type HeartbeatResponse struct {
	Outcome      string            `json:"outcome" enum:"refreshed,not_registered"`
	NextExpiryAt flowfabric.Millis `json:"next_expiry_at,omitempty"`
}

// NewHeartbeatResponse makes the answer to a heartbeat.
func NewHeartbeatResponse(r flowfabric.HeartbeatWorkerResult) HeartbeatResponse {
	if !r.Registered {
		return HeartbeatResponse{Outcome: "not_registered"}
	}
	return HeartbeatResponse{Outcome: "refreshed", NextExpiryAt: r.NextExpiryAt}
}

// Result returns the contract's result.
func (r HeartbeatResponse) Result() flowfabric.HeartbeatWorkerResult {
	return flowfabric.HeartbeatWorkerResult{Registered: r.Outcome == "refreshed", NextExpiryAt: r.NextExpiryAt}
}

// RemoveWorkerQuery returns the parameters of DELETE
// /v1/worker-instances/{worker_instance_id}.
func RemoveWorkerQuery(a flowfabric.MarkWorkerDeadArgs) url.Values {
	q := url.Values{"namespace": {string(a.Namespace)}, "reason": {a.Reason}}
	if a.RevokeLeases {
		q.Set("revoke_leases", "true")
	}
	return q
}

// ParseRemoveWorker reads the parameters of DELETE
// /v1/worker-instances/{worker_instance_id}.
func ParseRemoveWorker(instance flowfabric.WorkerInstanceID, q url.Values) (flowfabric.MarkWorkerDeadArgs, error) {
	a := flowfabric.MarkWorkerDeadArgs{WorkerInstanceID: instance}
	ns, err := QueryText(q, "namespace")
	if err != nil {
		return a, err
	}
	a.Namespace = flowfabric.Namespace(ns)
	if a.Reason, err = QueryText(q, "reason"); err != nil {
		return a, err
	}
	a.RevokeLeases, err = QueryBool(q, "revoke_leases", false)
	return a, err
}

// RemoveWorkerResponse is marked or not_registered; leases may be revoked in
// both cases.
type RemoveWorkerResponse struct {
	Outcome       string `json:"outcome" enum:"marked,not_registered"`
	RevokedLeases int    `json:"revoked_leases"`
}

// NewRemoveWorkerResponse makes the answer to a removal.
func NewRemoveWorkerResponse(r flowfabric.MarkWorkerDeadResult) RemoveWorkerResponse {
	if !r.Marked {
		return RemoveWorkerResponse{Outcome: "not_registered", RevokedLeases: r.RevokedLeases}
	}
	return RemoveWorkerResponse{Outcome: "marked", RevokedLeases: r.RevokedLeases}
}

// Result returns the contract's result.
func (r RemoveWorkerResponse) Result() flowfabric.MarkWorkerDeadResult {
	return flowfabric.MarkWorkerDeadResult{Marked: r.Outcome == "marked", RevokedLeases: r.RevokedLeases}
}

// NewWorker makes the wire form of a registration: lists are never null.
func NewWorker(w flowfabric.WorkerRegistration) flowfabric.WorkerRegistration {
	w.Lanes, w.Capabilities = nonNil(w.Lanes), nonNil(w.Capabilities)
	return w
}

// Worker returns the contract's registration. The instance nonce is never on the
// wire.
func Worker(w flowfabric.WorkerRegistration) flowfabric.WorkerRegistration {
	w.ExpiresAt = w.LastHeartbeatAt + flowfabric.Millis(w.LivenessTTLMs)
	return w
}

// ListWorkersQuery returns the parameters of GET /v1/worker-instances.
func ListWorkersQuery(a flowfabric.ListWorkersArgs) url.Values {
	q := url.Values{}
	setText(q, "namespace", a.Namespace)
	setText(q, "lane_id", a.LaneID)
	setInt(q, "limit", a.Limit)
	if a.AfterNamespace != "" || a.AfterInstanceID != "" {
		q.Set("cursor", workersCursor(q, a.AfterNamespace, a.AfterInstanceID))
	}
	return q
}

func workersCursor(q url.Values, ns flowfabric.Namespace, instance flowfabric.WorkerInstanceID) string {
	return EncodeCursor(ListWorkers, "", q, string(ns)+" "+string(instance))
}

// ParseListWorkers reads the parameters of GET /v1/worker-instances.
func ParseListWorkers(q url.Values) (flowfabric.ListWorkersArgs, error) {
	a := flowfabric.ListWorkersArgs{}
	ns, err := QueryFilter(q, "namespace")
	if err != nil {
		return a, err
	}
	lane, err := QueryFilter(q, "lane_id")
	if err != nil {
		return a, err
	}
	a.Namespace, a.LaneID = flowfabric.Namespace(ns), flowfabric.LaneID(lane)
	if a.Limit, err = QueryLimit(q, flowfabric.MaxWorkersLimit); err != nil {
		return a, err
	}
	text, err := QueryText(q, "cursor")
	if err != nil || text == "" {
		return a, err
	}
	position, err := DecodeCursor(ListWorkers, "", q, text)
	if err != nil {
		return a, err
	}
	after, instance, ok := strings.Cut(position, " ")
	if !ok {
		return a, invalidCursor("malformed")
	}
	a.AfterNamespace, a.AfterInstanceID = flowfabric.Namespace(after), flowfabric.WorkerInstanceID(instance)
	return a, nil
}

// NewWorkersPage makes the answer of GET /v1/worker-instances. q is the request's
// query.
func NewWorkersPage(q url.Values, r flowfabric.ListWorkersResult) Page[flowfabric.WorkerRegistration] {
	p := Page[flowfabric.WorkerRegistration]{Items: make([]flowfabric.WorkerRegistration, len(r.Workers))}
	for i, w := range r.Workers {
		p.Items[i] = NewWorker(w)
	}
	if n := len(r.Workers); r.More && n > 0 {
		p.NextCursor = opt(workersCursor(q, r.Workers[n-1].Namespace, r.Workers[n-1].WorkerInstanceID))
	}
	return p
}

// WorkersResult returns the contract's result of a page.
func WorkersResult(p Page[flowfabric.WorkerRegistration]) flowfabric.ListWorkersResult {
	r := flowfabric.ListWorkersResult{Workers: make([]flowfabric.WorkerRegistration, len(p.Items)), More: p.NextCursor != nil}
	for i, w := range p.Items {
		r.Workers[i] = Worker(w)
	}
	return r
}

// NewRouting makes the wire form of a routing explanation: lists are never null.
func NewRouting(r flowfabric.RoutingExplanation) flowfabric.RoutingExplanation {
	r.RequiredCapabilities = nonNil(r.RequiredCapabilities)
	workers := make([]flowfabric.WorkerCoverage, len(r.Workers))
	for i, w := range r.Workers {
		w.Missing = nonNil(w.Missing)
		workers[i] = w
	}
	r.Workers = workers
	return r
}
