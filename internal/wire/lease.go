package wire

import (
	"net/url"
	"strconv"

	"github.com/flowfabric/flowfabric"
)

// RenewRequest is the body of POST A/renew.
type RenewRequest struct {
	AttemptRef
	Fence      *Fence `json:"fence,omitempty" doc:"Required."`
	LeaseTTLMs *int64 `json:"lease_ttl_ms,omitempty" minimum:"100" maximum:"3600000" doc:"Default: the TTL of the claim or last renewal."`
}

// NewRenewRequest makes the body of POST A/renew.
func NewRenewRequest(a flowfabric.RenewLeaseArgs) RenewRequest {
	return RenewRequest{Fence: NewFence(a.Fence), LeaseTTLMs: opt(a.LeaseTTLMs)}
}

// Args returns the contract's arguments.
func (r RenewRequest) Args(id flowfabric.ExecutionID, index uint32) (flowfabric.RenewLeaseArgs, error) {
	if err := zeroRefused("lease_ttl_ms", r.LeaseTTLMs); err != nil {
		return flowfabric.RenewLeaseArgs{}, err
	}
	return flowfabric.RenewLeaseArgs{ExecutionID: id, Fence: r.Fence.at(index), LeaseTTLMs: val(r.LeaseTTLMs)}, r.Check(id, index)
}

// RenewResponse is renewed.
type RenewResponse struct {
	Outcome    string            `json:"outcome" enum:"renewed"`
	LeaseEpoch uint64            `json:"lease_epoch"`
	ExpiresAt  flowfabric.Millis `json:"expires_at"`
}

// NewRenewResponse makes the answer to a renewal.
func NewRenewResponse(r flowfabric.RenewLeaseResult) RenewResponse {
	return RenewResponse{Outcome: "renewed", LeaseEpoch: r.LeaseEpoch, ExpiresAt: r.ExpiresAt}
}

// Result returns the contract's result.
func (r RenewResponse) Result() flowfabric.RenewLeaseResult {
	return flowfabric.RenewLeaseResult{LeaseEpoch: r.LeaseEpoch, ExpiresAt: r.ExpiresAt}
}

// RenewalItem is one renewal of a batch.
type RenewalItem struct {
	ExecutionID  flowfabric.ExecutionID `json:"execution_id"`
	AttemptIndex *uint32                `json:"attempt_index,omitempty" doc:"Checked with the fence when given."`
	Fence        *Fence                 `json:"fence,omitempty" doc:"Required."`
	LeaseTTLMs   *int64                 `json:"lease_ttl_ms,omitempty" minimum:"100" maximum:"3600000" doc:"Default: the TTL of the claim or last renewal."`

	itemFault
}

// RenewalsRequest is the body of POST /v1/workers/{worker_id}/renewals.
type RenewalsRequest struct {
	WorkerID *flowfabric.WorkerID `json:"worker_id,omitempty" doc:"Optional copy of the id in the path."`
	Items    []RenewalItem        `json:"items" minItems:"1" maxItems:"100"`
}

// NewRenewalsRequest makes the body of a batch of renewals.
func NewRenewalsRequest(items []flowfabric.RenewLeaseArgs) RenewalsRequest {
	r := RenewalsRequest{Items: make([]RenewalItem, len(items))}
	for i, a := range items {
		r.Items[i] = RenewalItem{ExecutionID: a.ExecutionID, AttemptIndex: a.Fence.AttemptIndex, Fence: NewFence(a.Fence), LeaseTTLMs: opt(a.LeaseTTLMs)}
	}
	return r
}

// Args returns the contract's arguments, and beside them what is wrong with an
// item.
func (r RenewalsRequest) Args(worker flowfabric.WorkerID) ([]flowfabric.RenewLeaseArgs, []error, error) {
	if r.WorkerID != nil {
		if err := match("worker_id", string(*r.WorkerID), string(worker)); err != nil {
			return nil, nil, err
		}
	}
	out := make([]flowfabric.RenewLeaseArgs, len(r.Items))
	var refused []error
	for i := range r.Items {
		item := &r.Items[i]
		fault := item.fault
		if fault == nil {
			fault = zeroRefused("lease_ttl_ms", item.LeaseTTLMs)
		}
		refused = refuseItem(refused, len(out), i, fault)
		fence := item.Fence.Fence()
		fence.AttemptIndex = item.AttemptIndex
		out[i] = flowfabric.RenewLeaseArgs{ExecutionID: item.ExecutionID, Fence: fence, LeaseTTLMs: val(item.LeaseTTLMs)}
	}
	return out, refused, nil
}

// RenewalResult is the answer to one renewal of a batch, or its problem.
type RenewalResult struct {
	ExecutionID flowfabric.ExecutionID `json:"execution_id"`
	Outcome     string                 `json:"outcome,omitempty" enum:"renewed"`
	LeaseEpoch  uint64                 `json:"lease_epoch,omitempty"`
	ExpiresAt   flowfabric.Millis      `json:"expires_at,omitempty"`
	Problem     *Problem               `json:"problem,omitempty"`
}

// RenewalsResponse has one item per renewal, in order.
type RenewalsResponse struct {
	Items []RenewalResult `json:"items"`
}

// NewRenewalsResponse makes the answer to a batch of renewals.
func NewRenewalsResponse(args []flowfabric.RenewLeaseArgs, items []flowfabric.Item[flowfabric.RenewLeaseResult]) RenewalsResponse {
	out := RenewalsResponse{Items: make([]RenewalResult, len(items))}
	for i, item := range items {
		out.Items[i].ExecutionID = args[i].ExecutionID
		if item.Err != nil {
			out.Items[i].Problem = itemProblem(item.Err)
			continue
		}
		out.Items[i].Outcome, out.Items[i].LeaseEpoch, out.Items[i].ExpiresAt = "renewed", item.Result.LeaseEpoch, item.Result.ExpiresAt
	}
	return out
}

// Results returns the contract's results.
func (r RenewalsResponse) Results() []flowfabric.Item[flowfabric.RenewLeaseResult] {
	out := make([]flowfabric.Item[flowfabric.RenewLeaseResult], len(r.Items))
	for i, item := range r.Items {
		if item.Problem != nil {
			out[i].Err = itemError(item.Problem)
			continue
		}
		out[i].Result = flowfabric.RenewLeaseResult{LeaseEpoch: item.LeaseEpoch, ExpiresAt: item.ExpiresAt}
	}
	return out
}

// RevokeLeaseRequest is the body of POST E/revoke-lease.
type RevokeLeaseRequest struct {
	ExecutionRef
	ExpectedLeaseID *flowfabric.LeaseID `json:"expected_lease_id,omitempty" doc:"Required with scope work."`
	Reason          *string             `json:"reason,omitempty" maxLength:"256" default:"operator_revoke"`
	Hold            *bool               `json:"hold,omitempty" default:"false" doc:"Not to be reclaimed automatically."`
	RevokedBy       *string             `json:"revoked_by,omitempty" enum:"operator,worker,reconciler,backend" doc:"For the event; default operator, with scope work alone worker."`
}

// NewRevokeLeaseRequest makes the body of POST E/revoke-lease.
func NewRevokeLeaseRequest(a flowfabric.RevokeLeaseArgs) RevokeLeaseRequest {
	return RevokeLeaseRequest{ExpectedLeaseID: opt(a.ExpectedLeaseID), Reason: opt(a.Reason), Hold: opt(a.Hold), RevokedBy: opt(a.RevokedBy)}
}

// Args returns the contract's arguments. An empty reason that was given is
// refused: the contract's empty one is the default.
func (r RevokeLeaseRequest) Args(id flowfabric.ExecutionID) (flowfabric.RevokeLeaseArgs, error) {
	a := flowfabric.RevokeLeaseArgs{ExecutionID: id, ExpectedLeaseID: val(r.ExpectedLeaseID), Reason: val(r.Reason), Hold: val(r.Hold), RevokedBy: val(r.RevokedBy)}
	if r.Reason != nil && *r.Reason == "" {
		return a, flowfabric.InvalidInput("reason", "must not be empty")
	}
	return a, r.Check(id)
}

// RevokeLeaseResponse is revoked or already_satisfied.
type RevokeLeaseResponse struct {
	Outcome    flowfabric.RevokeOutcome `json:"outcome" enum:"revoked,already_satisfied"`
	LeaseID    flowfabric.LeaseID       `json:"lease_id,omitempty"`
	LeaseEpoch uint64                   `json:"lease_epoch,omitempty"`
	Reason     string                   `json:"reason,omitempty" enum:"already_revoked,already_expired"`
}

// NewRevokeLeaseResponse makes the answer to a revocation.
func NewRevokeLeaseResponse(r flowfabric.RevokeLeaseResult) RevokeLeaseResponse {
	return RevokeLeaseResponse(r)
}

// Result returns the contract's result.
func (r RevokeLeaseResponse) Result() flowfabric.RevokeLeaseResult {
	return flowfabric.RevokeLeaseResult(r)
}

// ReleaseResponse is released or not_held: of E/release-hold and
// E/release-grant.
type ReleaseResponse struct {
	Outcome string `json:"outcome" enum:"released,not_held"`
}

// NewReleaseResponse makes the answer to a release.
func NewReleaseResponse(released bool) ReleaseResponse {
	if released {
		return ReleaseResponse{Outcome: "released"}
	}
	return ReleaseResponse{Outcome: "not_held"}
}

// Released reports whether there was something to release.
func (r ReleaseResponse) Released() bool { return r.Outcome == "released" }

// LeaseEvent is one row of GET E/lease-history. (Specification 02, section 2.2.)
type LeaseEvent struct {
	Kind             string                      `json:"kind" enum:"acquired,resumed,released,expired,revoked,reclaimed"`
	At               flowfabric.Millis           `json:"at"`
	EventID          string                      `json:"event_id"`
	ExecutionID      flowfabric.ExecutionID      `json:"execution_id"`
	FlowID           flowfabric.FlowID           `json:"flow_id,omitempty"`
	Namespace        flowfabric.Namespace        `json:"namespace"`
	LaneID           flowfabric.LaneID           `json:"lane_id"`
	Tags             map[string]string           `json:"tags,omitempty"`
	LeaseID          flowfabric.LeaseID          `json:"lease_id"`
	LeaseEpoch       uint64                      `json:"lease_epoch"`
	AttemptID        flowfabric.AttemptID        `json:"attempt_id"`
	AttemptIndex     *uint32                     `json:"attempt_index,omitempty"`
	WorkerID         flowfabric.WorkerID         `json:"worker_id"`
	WorkerInstanceID flowfabric.WorkerInstanceID `json:"worker_instance_id"`
	ExpiresAt        flowfabric.Millis           `json:"expires_at,omitempty"`
	Reason           string                      `json:"reason,omitempty"`
	RevokedBy        string                      `json:"revoked_by,omitempty"`

	PreviousLeaseID          flowfabric.LeaseID          `json:"previous_lease_id,omitempty"`
	PreviousLeaseEpoch       uint64                      `json:"previous_lease_epoch,omitempty"`
	PreviousWorkerInstanceID flowfabric.WorkerInstanceID `json:"previous_worker_instance_id,omitempty"`
	PreviousAttemptIndex     *uint32                     `json:"previous_attempt_index,omitempty"`
}

// NewLeaseEvent makes the wire form of an event of the feed leases.
func NewLeaseEvent(e flowfabric.Event) LeaseEvent {
	return LeaseEvent{
		Kind: e.Kind, At: e.At, EventID: e.EventID, ExecutionID: e.ExecutionID, FlowID: e.FlowID, Namespace: e.Namespace, LaneID: e.LaneID, Tags: e.Tags,
		LeaseID: e.LeaseID, LeaseEpoch: e.LeaseEpoch, AttemptID: e.AttemptID, AttemptIndex: e.AttemptIndex,
		WorkerID: e.WorkerID, WorkerInstanceID: e.WorkerInstanceID, ExpiresAt: e.ExpiresAt, Reason: e.Reason, RevokedBy: e.RevokedBy,
		PreviousLeaseID: e.PrevLeaseID, PreviousLeaseEpoch: e.PrevLeaseEpoch,
		PreviousWorkerInstanceID: e.PrevWorkerInstanceID, PreviousAttemptIndex: e.PrevAttemptIndex,
	}
}

// Event returns the contract's event.
func (l LeaseEvent) Event() flowfabric.Event {
	e := flowfabric.Event{
		Feed: flowfabric.FeedLeases, Kind: l.Kind, At: l.At, EventID: l.EventID, ExecutionID: l.ExecutionID, FlowID: l.FlowID, Namespace: l.Namespace, LaneID: l.LaneID, Tags: l.Tags,
		LeaseID: l.LeaseID, LeaseEpoch: l.LeaseEpoch, AttemptID: l.AttemptID, AttemptIndex: l.AttemptIndex,
		WorkerID: l.WorkerID, WorkerInstanceID: l.WorkerInstanceID, ExpiresAt: l.ExpiresAt, Reason: l.Reason, RevokedBy: l.RevokedBy,
		PrevLeaseID: l.PreviousLeaseID, PrevLeaseEpoch: l.PreviousLeaseEpoch,
		PrevWorkerInstanceID: l.PreviousWorkerInstanceID, PrevAttemptIndex: l.PreviousAttemptIndex,
	}
	e.Partition, e.Seq = splitEventID(e.EventID)
	return e
}

// LeaseHistoryQuery returns the parameters of GET E/lease-history.
func LeaseHistoryQuery(a flowfabric.LeaseHistoryArgs) url.Values {
	q := url.Values{}
	setInt(q, "limit", a.Limit)
	if a.After != 0 {
		q.Set("cursor", EncodeCursor(ListLeaseHistory, string(a.ExecutionID), q, strconv.FormatUint(a.After, 10)))
	}
	return q
}

// ParseLeaseHistory reads the parameters of GET E/lease-history.
func ParseLeaseHistory(id flowfabric.ExecutionID, q url.Values) (flowfabric.LeaseHistoryArgs, error) {
	a := flowfabric.LeaseHistoryArgs{ExecutionID: id}
	var err error
	if a.Limit, err = QueryLimit(q, flowfabric.MaxListLimit); err != nil {
		return a, err
	}
	text, err := QueryText(q, "cursor")
	if err != nil || text == "" {
		return a, err
	}
	position, err := DecodeCursor(ListLeaseHistory, string(id), q, text)
	if err != nil {
		return a, err
	}
	if a.After, err = strconv.ParseUint(position, 10, 64); err != nil {
		return a, invalidCursor("malformed")
	}
	return a, nil
}

// NewLeaseHistoryPage makes the answer of GET E/lease-history. q is the request's
// query.
func NewLeaseHistoryPage(id flowfabric.ExecutionID, q url.Values, r flowfabric.LeaseHistoryResult) Page[LeaseEvent] {
	p := Page[LeaseEvent]{Items: make([]LeaseEvent, len(r.Events))}
	for i, e := range r.Events {
		p.Items[i] = NewLeaseEvent(e)
	}
	if r.Next != 0 {
		p.NextCursor = opt(EncodeCursor(ListLeaseHistory, string(id), q, strconv.FormatUint(r.Next, 10)))
	}
	return p
}

// LeaseHistoryResult returns the contract's result of a page asked for with q.
func LeaseHistoryResult(id flowfabric.ExecutionID, q url.Values, p Page[LeaseEvent]) (flowfabric.LeaseHistoryResult, error) {
	r := flowfabric.LeaseHistoryResult{Events: make([]flowfabric.Event, len(p.Items))}
	for i, e := range p.Items {
		r.Events[i] = e.Event()
	}
	if p.NextCursor == nil {
		return r, nil
	}
	position, err := DecodeCursor(ListLeaseHistory, string(id), q, *p.NextCursor)
	if err != nil {
		return r, err
	}
	r.Next, err = strconv.ParseUint(position, 10, 64)
	return r, err
}

// ListWorkerLeasesQuery returns the parameters of GET .../leases.
func ListWorkerLeasesQuery(a flowfabric.ListWorkerLeasesArgs) url.Values {
	q := url.Values{}
	setText(q, "namespace", a.Namespace)
	setInt(q, "limit", a.Limit)
	if a.Cursor != "" {
		q.Set("cursor", EncodeCursor(ListWorkerLeases, string(a.WorkerInstanceID), q, string(a.Cursor)))
	}
	return q
}

// ParseListWorkerLeases reads the parameters of GET .../leases.
func ParseListWorkerLeases(instance flowfabric.WorkerInstanceID, q url.Values) (flowfabric.ListWorkerLeasesArgs, error) {
	a := flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: instance}
	ns, err := QueryFilter(q, "namespace")
	if err != nil {
		return a, err
	}
	a.Namespace = flowfabric.Namespace(ns)
	if a.Limit, err = QueryLimit(q, flowfabric.MaxListLimit); err != nil {
		return a, err
	}
	text, err := QueryText(q, "cursor")
	if err != nil || text == "" {
		return a, err
	}
	position, err := DecodeCursor(ListWorkerLeases, string(instance), q, text)
	if err != nil {
		return a, err
	}
	if a.Cursor, err = flowfabric.ParseExecutionID(position); err != nil {
		return a, invalidCursor("malformed")
	}
	return a, nil
}

// NewWorkerLeasesPage makes the answer of GET .../leases. q is the request's
// query.
func NewWorkerLeasesPage(instance flowfabric.WorkerInstanceID, q url.Values, r flowfabric.ListWorkerLeasesResult) Page[Task] {
	p := Page[Task]{Items: NewTasks(r.Tasks)}
	if r.NextCursor != "" {
		p.NextCursor = opt(EncodeCursor(ListWorkerLeases, string(instance), q, string(r.NextCursor)))
	}
	return p
}

// WorkerLeasesResult returns the contract's result of a page asked for with q.
func WorkerLeasesResult(instance flowfabric.WorkerInstanceID, q url.Values, p Page[Task]) (flowfabric.ListWorkerLeasesResult, error) {
	r := flowfabric.ListWorkerLeasesResult{Tasks: ClaimedTasks(p.Items)}
	if p.NextCursor == nil {
		return r, nil
	}
	position, err := DecodeCursor(ListWorkerLeases, string(instance), q, *p.NextCursor)
	r.NextCursor = flowfabric.ExecutionID(position)
	return r, err
}

// ListExpiredLeasesQuery returns the parameters of GET /v1/leases/expired. The
// cursor is the server's and opaque.
func ListExpiredLeasesQuery(a flowfabric.ListExpiredLeasesArgs) url.Values {
	q := url.Values{}
	setInt(q, "as_of", a.AsOf)
	setText(q, "namespace", a.Namespace)
	setInt(q, "limit", a.Limit)
	setInt(q, "max_partitions_per_call", a.MaxPartitionsPerCall)
	setText(q, "cursor", a.Cursor)
	return q
}

// ParseListExpiredLeases reads the parameters of GET /v1/leases/expired.
func ParseListExpiredLeases(q url.Values) (flowfabric.ListExpiredLeasesArgs, error) {
	a := flowfabric.ListExpiredLeasesArgs{}
	asOf, _, err := QueryInt(q, "as_of", 0, MaxInteger)
	if err != nil {
		return a, err
	}
	a.AsOf = flowfabric.Millis(asOf)
	ns, err := QueryFilter(q, "namespace")
	if err != nil {
		return a, err
	}
	a.Namespace = flowfabric.Namespace(ns)
	if a.Limit, err = QueryLimit(q, flowfabric.MaxExpiredLeasesLimit); err != nil {
		return a, err
	}
	span, _, err := QueryInt(q, "max_partitions_per_call", 1, 65535)
	if err != nil {
		return a, err
	}
	a.MaxPartitionsPerCall = int(span)
	text, err := QueryText(q, "cursor")
	if err != nil || text == "" {
		return a, err
	}
	a.Cursor, err = DecodeCursor(ListExpiredLeases, "", q, text)
	return a, err
}

// NewExpiredLeasesPage makes the answer of GET /v1/leases/expired. q is the
// request's query.
func NewExpiredLeasesPage(q url.Values, r flowfabric.ListExpiredLeasesResult) Page[flowfabric.ExpiredLease] {
	p := Page[flowfabric.ExpiredLease]{Items: nonNil(r.Leases)}
	if r.NextCursor != "" {
		p.NextCursor = opt(EncodeCursor(ListExpiredLeases, "", q, r.NextCursor))
	}
	return p
}
