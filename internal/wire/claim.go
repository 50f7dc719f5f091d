package wire

import (
	"strconv"

	"github.com/flowfabric/flowfabric"
)

// Task is one claimed attempt: all a worker needs to run it. (Specification 08,
// section 4.3.)
type Task struct {
	ExecutionID         flowfabric.ExecutionID      `json:"execution_id"`
	AttemptIndex        uint32                      `json:"attempt_index"`
	AttemptID           flowfabric.AttemptID        `json:"attempt_id"`
	AttemptType         flowfabric.AttemptType      `json:"attempt_type" enum:"initial,retry,reclaim,replay,fallback"`
	ClaimKind           string                      `json:"claim_kind" enum:"fresh,resumed,reclaimed"`
	LaneID              flowfabric.LaneID           `json:"lane_id"`
	Namespace           flowfabric.Namespace        `json:"namespace"`
	Kind                string                      `json:"execution_kind"`
	FlowID              flowfabric.FlowID           `json:"flow_id,omitempty"`
	Payload             []byte                      `json:"payload" doc:"The input, base64."`
	PayloadEncoding     string                      `json:"payload_encoding,omitempty"`
	Tags                map[string]string           `json:"tags"`
	PolicySnapshot      flowfabric.PolicySnapshot   `json:"policy_snapshot"`
	LeaseReclaimCount   uint32                      `json:"lease_reclaim_count"`
	WorkerInstanceID    flowfabric.WorkerInstanceID `json:"worker_instance_id"`
	Fence               Fence                       `json:"fence" doc:"Opaque; sent back unchanged with every call for this attempt."`
	LeaseExpiresAt      flowfabric.Millis           `json:"lease_expires_at"`
	AttemptTimeoutAt    flowfabric.Millis           `json:"attempt_timeout_at,omitempty"`
	ExecutionDeadlineAt flowfabric.Millis           `json:"execution_deadline_at,omitempty"`
	Replayed            bool                        `json:"replayed,omitempty" doc:"Whether this is the answer of an earlier claim with the same lease_id."`
}

// NewTask makes the wire form of a claimed attempt.
func NewTask(c flowfabric.ClaimedExecution) Task {
	tags := c.Tags
	if tags == nil {
		tags = map[string]string{}
	}
	return Task{
		ExecutionID: c.ExecutionID, AttemptIndex: c.AttemptIndex, AttemptID: c.AttemptID, AttemptType: c.AttemptType, ClaimKind: c.ClaimKind.TaskLabel(),
		LaneID: c.LaneID, Namespace: c.Namespace, Kind: c.Kind, FlowID: c.FlowID, Payload: nonNil(c.Payload), PayloadEncoding: c.PayloadEncoding,
		Tags: tags, PolicySnapshot: c.PolicySnapshot, LeaseReclaimCount: c.LeaseReclaimCount, WorkerInstanceID: c.WorkerInstanceID,
		Fence:          Fence{LeaseID: c.Fence.LeaseID, LeaseEpoch: c.Fence.LeaseEpoch, AttemptID: c.Fence.AttemptID},
		LeaseExpiresAt: c.LeaseExpiresAt, AttemptTimeoutAt: c.AttemptTimeoutAt, ExecutionDeadlineAt: c.ExecutionDeadlineAt, Replayed: c.Replayed,
	}
}

// Claimed returns the contract's claimed attempt. StoreTime is for the caller to
// set.
func (t Task) Claimed() flowfabric.ClaimedExecution {
	return flowfabric.ClaimedExecution{
		ExecutionID: t.ExecutionID, AttemptIndex: t.AttemptIndex, AttemptID: t.AttemptID, AttemptType: t.AttemptType, ClaimKind: claimKind(t.ClaimKind),
		LaneID: t.LaneID, Namespace: t.Namespace, Kind: t.Kind, FlowID: t.FlowID, Payload: t.Payload, PayloadEncoding: t.PayloadEncoding,
		Tags: t.Tags, PolicySnapshot: t.PolicySnapshot, LeaseReclaimCount: t.LeaseReclaimCount, WorkerInstanceID: t.WorkerInstanceID,
		Fence: t.Fence.Fence(), LeaseExpiresAt: t.LeaseExpiresAt, AttemptTimeoutAt: t.AttemptTimeoutAt, ExecutionDeadlineAt: t.ExecutionDeadlineAt, Replayed: t.Replayed,
	}
}

func claimKind(label string) flowfabric.ClaimKind {
	switch label {
	case "resumed":
		return flowfabric.ClaimResume
	case "reclaimed":
		return flowfabric.ClaimReclaim
	}
	return flowfabric.ClaimNew
}

// NewTasks makes the wire form of claimed attempts, never nil.
func NewTasks(list []flowfabric.ClaimedExecution) []Task {
	tasks := make([]Task, len(list))
	for i, c := range list {
		tasks[i] = NewTask(c)
	}
	return tasks
}

// ClaimedTasks returns the contract's claimed attempts.
func ClaimedTasks(tasks []Task) []flowfabric.ClaimedExecution {
	out := make([]flowfabric.ClaimedExecution, len(tasks))
	for i, t := range tasks {
		out[i] = t.Claimed()
	}
	return out
}

// GrantRef is a grant as a claim presents it: as it was received, with or
// without an outcome beside its fields.
type GrantRef struct {
	GrantID      string                  `json:"grant_id"`
	LaneID       flowfabric.LaneID       `json:"lane_id"`
	ExecutionID  *flowfabric.ExecutionID `json:"execution_id,omitempty"`
	PartitionKey *string                 `json:"partition_key,omitempty"`
	ExpiresAt    *flowfabric.Millis      `json:"expires_at,omitempty"`
	Kind         *flowfabric.ClaimKind   `json:"kind,omitempty" enum:"claim,resume,reclaim"`
	Outcome      *string                 `json:"outcome,omitempty" doc:"Ignored."`
}

func (g GrantRef) check(id flowfabric.ExecutionID) error {
	if err := (ExecutionRef{ExecutionID: g.ExecutionID}).Check(id); err != nil {
		return err
	}
	if g.Kind != nil {
		switch *g.Kind {
		case flowfabric.ClaimNew, flowfabric.ClaimResume, flowfabric.ClaimReclaim:
		default:
			return flowfabric.InvalidInput("grant.kind", "must be claim, resume or reclaim")
		}
	}
	if g.PartitionKey == nil {
		return nil
	}
	if *g.PartitionKey != PartitionKey(id.Partition()) {
		return flowfabric.NewError(flowfabric.CodeInvalidPartitionKey, "the grant's partition is not the execution's").With("field", "grant.partition_key")
	}
	return nil
}

// PartitionKey is the text "{fp:N}" of a partition.
func PartitionKey(partition uint16) string {
	return "{fp:" + strconv.Itoa(int(partition)) + "}"
}

// ClaimExecutionRequest is the body of POST E/claim.
type ClaimExecutionRequest struct {
	ExecutionRef
	Grant            GrantRef                    `json:"grant" doc:"The grant as received."`
	WorkerID         flowfabric.WorkerID         `json:"worker_id" maxLength:"128"`
	WorkerInstanceID flowfabric.WorkerInstanceID `json:"worker_instance_id" maxLength:"128"`
	LeaseTTLMs       int64                       `json:"lease_ttl_ms" minimum:"100" maximum:"3600000"`
	Capabilities     []string                    `json:"capabilities,omitempty"`
	LeaseID          *flowfabric.LeaseID         `json:"lease_id,omitempty" doc:"Minted by the caller and kept over its retries."`
	AttemptID        *flowfabric.AttemptID       `json:"attempt_id,omitempty" doc:"Minted by the caller and kept over its retries."`
	Expect           *flowfabric.ClaimExpect     `json:"expect,omitempty" enum:"claim,resume,reclaim" doc:"Accept this kind of claim only."`
}

// NewClaimExecutionRequest makes the body of POST E/claim.
func NewClaimExecutionRequest(a flowfabric.ClaimGrantedArgs) ClaimExecutionRequest {
	return ClaimExecutionRequest{
		Grant:    GrantRef{GrantID: a.GrantID, LaneID: a.LaneID},
		WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID, LeaseTTLMs: a.LeaseTTLMs, Capabilities: a.Capabilities,
		LeaseID: opt(a.LeaseID), AttemptID: opt(a.AttemptID), Expect: opt(a.Expect),
	}
}

// Args returns the contract's arguments.
func (r ClaimExecutionRequest) Args(id flowfabric.ExecutionID) (flowfabric.ClaimGrantedArgs, error) {
	a := flowfabric.ClaimGrantedArgs{
		ExecutionID: id, GrantID: r.Grant.GrantID, LaneID: r.Grant.LaneID, WorkerID: r.WorkerID, WorkerInstanceID: r.WorkerInstanceID,
		Capabilities: r.Capabilities, LeaseID: val(r.LeaseID), AttemptID: val(r.AttemptID), LeaseTTLMs: r.LeaseTTLMs, Expect: val(r.Expect),
	}
	if err := r.Check(id); err != nil {
		return a, err
	}
	return a, r.Grant.check(id)
}

// DirectClaimRequest is the body of POST E/direct-claim.
type DirectClaimRequest struct {
	ExecutionRef
	WorkerID         flowfabric.WorkerID         `json:"worker_id" maxLength:"128"`
	WorkerInstanceID flowfabric.WorkerInstanceID `json:"worker_instance_id" maxLength:"128"`
	Capabilities     []string                    `json:"capabilities"`
	LeaseTTLMs       int64                       `json:"lease_ttl_ms" minimum:"100" maximum:"3600000"`
	LaneID           *flowfabric.LaneID          `json:"lane_id,omitempty" doc:"When given, must be the execution's lane."`
	OperatorOverride *bool                       `json:"operator_override,omitempty" default:"false" doc:"Skips capabilities and admission, never ownership."`
	LeaseID          *flowfabric.LeaseID         `json:"lease_id,omitempty" doc:"Minted by the caller and kept over its retries."`
	AttemptID        *flowfabric.AttemptID       `json:"attempt_id,omitempty" doc:"Minted by the caller and kept over its retries."`
	IssuedBy         *flowfabric.IssuedBy        `json:"issued_by,omitempty" enum:"direct,operator" doc:"For the event; default direct, with operator_override operator."`
	RouteSnapshot    *string                     `json:"route_snapshot,omitempty" maxLength:"4096"`
	AdmissionSummary *string                     `json:"admission_summary,omitempty" maxLength:"1024"`
}

// NewDirectClaimRequest makes the body of POST E/direct-claim. It always says who
// issues the claim, since an absent one depends on the override.
func NewDirectClaimRequest(a flowfabric.IssueGrantAndClaimArgs) DirectClaimRequest {
	if a.IssuedBy == "" {
		a.IssuedBy = flowfabric.IssuedByDirect
	}
	return DirectClaimRequest{
		WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID, Capabilities: nonNil(a.Capabilities), LeaseTTLMs: a.LeaseTTLMs,
		LaneID: opt(a.LaneID), OperatorOverride: opt(a.OperatorOverride), LeaseID: opt(a.LeaseID), AttemptID: opt(a.AttemptID),
		IssuedBy: opt(a.IssuedBy), RouteSnapshot: opt(a.RouteSnapshot), AdmissionSummary: opt(a.AdmissionSummary),
	}
}

// Args returns the contract's arguments.
func (r DirectClaimRequest) Args(id flowfabric.ExecutionID) (flowfabric.IssueGrantAndClaimArgs, error) {
	a := flowfabric.IssueGrantAndClaimArgs{
		ExecutionID: id, WorkerID: r.WorkerID, WorkerInstanceID: r.WorkerInstanceID, Capabilities: r.Capabilities,
		LeaseID: val(r.LeaseID), AttemptID: val(r.AttemptID), LeaseTTLMs: r.LeaseTTLMs, LaneID: val(r.LaneID),
		OperatorOverride: val(r.OperatorOverride), IssuedBy: val(r.IssuedBy), RouteSnapshot: val(r.RouteSnapshot), AdmissionSummary: val(r.AdmissionSummary),
	}
	if r.IssuedBy == nil && a.OperatorOverride {
		a.IssuedBy = flowfabric.IssuedByOperator
	}
	return a, r.Check(id)
}

// ReclaimRequest is the body of POST E/reclaim.
type ReclaimRequest struct {
	ExecutionRef
	WorkerID         flowfabric.WorkerID         `json:"worker_id" maxLength:"128"`
	WorkerInstanceID flowfabric.WorkerInstanceID `json:"worker_instance_id" maxLength:"128"`
	LaneID           flowfabric.LaneID           `json:"lane_id" maxLength:"64"`
	Capabilities     *[]string                   `json:"capabilities,omitempty" doc:"Default: those of the live registration."`
	GrantTTLMs       *int64                      `json:"grant_ttl_ms,omitempty" minimum:"1" maximum:"60000" default:"5000"`
}

// NewReclaimRequest makes the body of POST E/reclaim.
func NewReclaimRequest(a flowfabric.IssueReclaimGrantArgs) ReclaimRequest {
	r := ReclaimRequest{WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID, LaneID: a.LaneID, GrantTTLMs: &a.GrantTTLMs}
	if a.Capabilities != nil {
		r.Capabilities = &a.Capabilities
	}
	return r
}

// Args returns the contract's arguments.
func (r ReclaimRequest) Args(id flowfabric.ExecutionID) (flowfabric.IssueReclaimGrantArgs, error) {
	a := flowfabric.IssueReclaimGrantArgs{ExecutionID: id, WorkerID: r.WorkerID, WorkerInstanceID: r.WorkerInstanceID, LaneID: r.LaneID,
		Capabilities: val(r.Capabilities), GrantTTLMs: flowfabric.DefaultGrantTTLMs}
	if r.GrantTTLMs != nil {
		a.GrantTTLMs = *r.GrantTTLMs
	}
	return a, r.Check(id)
}

// ReclaimResponse is granted, not_reclaimable or reclaim_cap_exceeded.
type ReclaimResponse struct {
	Outcome         flowfabric.ReclaimGrantOutcome `json:"outcome" enum:"granted,not_reclaimable,reclaim_cap_exceeded"`
	Grant           *flowfabric.Grant              `json:"grant,omitempty" doc:"For E/claim, as received."`
	Detail          string                         `json:"detail,omitempty"`
	ReclaimCount    *uint32                        `json:"reclaim_count,omitempty"`
	MaxReclaimCount *uint32                        `json:"max_reclaim_count,omitempty"`
}

// NewReclaimResponse makes the answer of POST E/reclaim.
func NewReclaimResponse(r flowfabric.IssueReclaimGrantResult) ReclaimResponse {
	out := ReclaimResponse{Outcome: r.Outcome, Grant: r.Grant, Detail: r.Detail}
	if r.Outcome == flowfabric.ReclaimCapExceeded {
		out.ReclaimCount, out.MaxReclaimCount = &r.ReclaimCount, &r.MaxReclaimCount
	}
	return out
}

// Result returns the contract's result.
func (r ReclaimResponse) Result() flowfabric.IssueReclaimGrantResult {
	return flowfabric.IssueReclaimGrantResult{Outcome: r.Outcome, Grant: r.Grant, Detail: r.Detail, ReclaimCount: val(r.ReclaimCount), MaxReclaimCount: val(r.MaxReclaimCount)}
}

// ReleaseGrantRequest is the body of POST E/release-grant.
type ReleaseGrantRequest struct {
	ExecutionRef
	GrantID  string              `json:"grant_id" maxLength:"256"`
	WorkerID flowfabric.WorkerID `json:"worker_id" maxLength:"128"`
}

// Args returns the contract's arguments.
func (r ReleaseGrantRequest) Args(id flowfabric.ExecutionID) (flowfabric.ReleaseGrantArgs, error) {
	return flowfabric.ReleaseGrantArgs{ExecutionID: id, GrantID: r.GrantID, WorkerID: r.WorkerID}, r.Check(id)
}

// Selection is what claim and tasks have in common: who asks, and for what.
type Selection struct {
	WorkerID         *flowfabric.WorkerID        `json:"worker_id,omitempty" doc:"Optional copy of the id in the path."`
	WorkerInstanceID flowfabric.WorkerInstanceID `json:"worker_instance_id" maxLength:"128"`
	LaneID           *flowfabric.LaneID          `json:"lane_id,omitempty" doc:"One lane; instead of lanes."`
	Lanes            []flowfabric.LaneID         `json:"lanes,omitempty" maxItems:"64" doc:"1..64 lanes; instead of lane_id."`
	GrantTTLMs       *int64                      `json:"grant_ttl_ms,omitempty" minimum:"1" maximum:"60000" default:"5000"`
	Capabilities     []string                    `json:"capabilities,omitempty"`
	Namespace        *flowfabric.Namespace       `json:"namespace,omitempty" doc:"Only its executions; absent: all the caller may see."`
	WaitMs           *int64                      `json:"wait_ms,omitempty" minimum:"0" maximum:"30000" default:"0" doc:"How long to wait for work."`
}

func (s Selection) lanes() ([]flowfabric.LaneID, error) {
	switch {
	case s.LaneID != nil && s.Lanes != nil:
		return nil, flowfabric.InvalidInput("lanes", "and lane_id exclude each other")
	case s.LaneID != nil:
		return []flowfabric.LaneID{*s.LaneID}, nil
	case len(s.Lanes) == 0:
		return nil, flowfabric.InvalidInput("lanes", "must name at least one lane")
	}
	return s.Lanes, nil
}

func (s Selection) check(worker flowfabric.WorkerID) error {
	if s.Namespace != nil && *s.Namespace == "" {
		return flowfabric.InvalidInput("namespace", "must not be empty; absent is any")
	}
	if s.WorkerID != nil {
		return match("worker_id", string(*s.WorkerID), string(worker))
	}
	return nil
}

func grantTTL(p *int64) int64 {
	if p == nil {
		return flowfabric.DefaultGrantTTLMs
	}
	return *p
}

// ClaimRequest is the body of POST /v1/workers/{worker_id}/claim.
type ClaimRequest struct {
	Selection
}

// NewClaimRequest makes the body of a claim of a grant.
func NewClaimRequest(a flowfabric.ClaimForWorkerArgs) ClaimRequest {
	return ClaimRequest{Selection{WorkerInstanceID: a.WorkerInstanceID, Lanes: a.Lanes, GrantTTLMs: &a.GrantTTLMs, Capabilities: a.Capabilities,
		Namespace: opt(a.Namespace), WaitMs: opt(a.WaitMs)}}
}

// Args returns the contract's arguments.
func (r ClaimRequest) Args(worker flowfabric.WorkerID) (flowfabric.ClaimForWorkerArgs, error) {
	lanes, err := r.lanes()
	if err != nil {
		return flowfabric.ClaimForWorkerArgs{}, err
	}
	return flowfabric.ClaimForWorkerArgs{WorkerID: worker, WorkerInstanceID: r.WorkerInstanceID, Lanes: lanes, Capabilities: r.Capabilities,
		Namespace: val(r.Namespace), GrantTTLMs: grantTTL(r.GrantTTLMs), WaitMs: val(r.WaitMs)}, r.check(worker)
}

// TasksRequest is the body of POST /v1/workers/{worker_id}/tasks.
type TasksRequest struct {
	Selection
	LeaseTTLMs int64  `json:"lease_ttl_ms" minimum:"100" maximum:"3600000"`
	MaxTasks   *int64 `json:"max_tasks,omitempty" minimum:"1" maximum:"100" default:"1"`
}

// NewTasksRequest makes the body of a batched claim.
func NewTasksRequest(a flowfabric.ClaimTasksArgs) TasksRequest {
	n := int64(a.MaxTasks)
	return TasksRequest{
		Selection: Selection{WorkerInstanceID: a.WorkerInstanceID, Lanes: a.Lanes, GrantTTLMs: opt(a.GrantTTLMs), Capabilities: a.Capabilities,
			Namespace: opt(a.Namespace), WaitMs: opt(a.WaitMs)},
		LeaseTTLMs: a.LeaseTTLMs,
		MaxTasks:   &n,
	}
}

// Args returns the contract's arguments.
func (r TasksRequest) Args(worker flowfabric.WorkerID) (flowfabric.ClaimTasksArgs, error) {
	lanes, err := r.lanes()
	if err != nil {
		return flowfabric.ClaimTasksArgs{}, err
	}
	if err := zeroRefused("grant_ttl_ms", r.GrantTTLMs); err != nil {
		return flowfabric.ClaimTasksArgs{}, err
	}
	a := flowfabric.ClaimTasksArgs{WorkerID: worker, WorkerInstanceID: r.WorkerInstanceID, Lanes: lanes, Capabilities: r.Capabilities,
		Namespace: val(r.Namespace), MaxTasks: 1, LeaseTTLMs: r.LeaseTTLMs, GrantTTLMs: grantTTL(r.GrantTTLMs), WaitMs: val(r.WaitMs)}
	if r.MaxTasks != nil {
		a.MaxTasks = int(min(*r.MaxTasks, 1<<30))
	}
	return a, r.check(worker)
}

// TasksResponse holds 1..max_tasks tasks in claim order.
type TasksResponse struct {
	Tasks []Task `json:"tasks"`
}
