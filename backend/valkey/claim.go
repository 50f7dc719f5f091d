package valkey

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// newGrantID mints an unguessable grant identifier of 128 random bits.
func newGrantID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// capabilitiesOf are a worker's capabilities as the functions take them: the
// normal form joined by commas, and its digest, empty for the empty set.
func capabilitiesOf(tokens []string) (caps, digest string, err error) {
	normal, err := flowfabric.NormalizeCapabilities(flowfabric.CapabilitiesOfWorker, tokens)
	if err != nil || len(normal) == 0 {
		return "", "", err
	}
	return strings.Join(normal, ","), flowfabric.CapabilityDigest(normal), nil
}

// issuerLetter is an issuer as the functions take it.
func issuerLetter(by flowfabric.IssuedBy) string {
	switch by {
	case flowfabric.IssuedByDirect:
		return "d"
	case flowfabric.IssuedByOperator:
		return "o"
	}
	return "s"
}

// expectLetter is what a claim expects as the functions take it.
func expectLetter(e flowfabric.ClaimExpect) string {
	switch e {
	case flowfabric.ExpectNew:
		return "c"
	case flowfabric.ExpectResume:
		return "s"
	case flowfabric.ExpectReclaim:
		return "r"
	}
	return ""
}

// claimed calls a claiming function for one named execution.
func (s *Store) claimed(ctx context.Context, fn string, id flowfabric.ExecutionID, lane flowfabric.LaneID, args ...string) (flowfabric.ClaimedExecution, error) {
	msg, err := s.call(ctx, fn, tagOf(id), append([]string{uuidOf(id)}, args...)...)
	if err != nil {
		if flowfabric.CodeOf(err) == flowfabric.CodeReclaimCapExceeded {
			s.settled(id)
		}
		return flowfabric.ClaimedExecution{}, known(err, id)
	}
	s.leasesChanged()
	t := newTasks{part: id.Partition(), lane: lane, list: elements{msg}}
	s.readDefs(ctx, []*newTasks{&t})
	return s.receive(ctx, operation(fn), &t, 0)
}

// ClaimGranted consumes a grant.
func (s *Store) ClaimGranted(ctx context.Context, a flowfabric.ClaimGrantedArgs) (task flowfabric.ClaimedExecution, err error) {
	if err := rules.ValidateClaimGranted(a); err != nil {
		return task, err
	}
	caps, digest, err := capabilitiesOf(a.Capabilities)
	if err == nil {
		err = rules.ValidateExecutionID(a.ExecutionID, s.parts)
	}
	if err != nil {
		return task, err
	}
	lease, attempt := mint(a.LeaseID, a.AttemptID)
	return s.claimed(ctx, "ff_claim_granted", a.ExecutionID, a.LaneID, a.GrantID, string(a.LaneID), string(a.WorkerID),
		string(a.WorkerInstanceID), caps, digest, lease, attempt, strconv.FormatInt(a.LeaseTTLMs, 10), expectLetter(a.Expect))
}

func mint(lease flowfabric.LeaseID, attempt flowfabric.AttemptID) (string, string) {
	if lease == "" {
		lease = flowfabric.NewLeaseID()
	}
	if attempt == "" {
		attempt = flowfabric.NewAttemptID()
	}
	return string(lease), string(attempt)
}

// IssueGrantAndClaim grants and claims one named execution in one step.
func (s *Store) IssueGrantAndClaim(ctx context.Context, a flowfabric.IssueGrantAndClaimArgs) (task flowfabric.ClaimedExecution, err error) {
	const fn = "ff_grant_and_claim"
	if err := rules.ValidateGrantAndClaim(a); err != nil {
		return task, err
	}
	caps, digest, err := capabilitiesOf(a.Capabilities)
	if err == nil {
		err = rules.ValidateExecutionID(a.ExecutionID, s.parts)
	}
	if err != nil {
		return task, err
	}
	closed, err := s.disabledLanes(ctx)
	if err != nil {
		return task, err
	}
	by := a.IssuedBy
	if by == "" {
		by = flowfabric.IssuedByDirect
	}
	lease, attempt := mint(a.LeaseID, a.AttemptID)
	task, err = s.claimed(ctx, fn, a.ExecutionID, "", string(a.LaneID), string(a.WorkerID), string(a.WorkerInstanceID), caps, digest,
		lease, attempt, strconv.FormatInt(a.LeaseTTLMs, 10), mark(a.OperatorOverride), issuerLetter(by), a.RouteSnapshot, a.AdmissionSummary, closed)
	if flowfabric.CodeOf(err) == flowfabric.CodeCapabilityMismatch {
		if fault := s.labelBucketOf(ctx, a.ExecutionID); fault != nil {
			return task, fault
		}
	}
	return task, err
}

// disabledLanes are the lanes without claims as the functions take them: joined by
// line feeds. They are known a second late at most.
func (s *Store) disabledLanes(ctx context.Context) (string, error) {
	lanes, err := s.LaneWeights(ctx)
	if err != nil {
		return "", err
	}
	closed := ""
	for id, lane := range lanes {
		if lane.State == flowfabric.LaneDisabled {
			closed += "\n" + string(id)
		}
	}
	if closed != "" {
		closed += "\n"
	}
	return closed, nil
}

// labelBucketOf labels the bucket of an execution, in case nobody covers it: a
// worker has asked for the execution and cannot run it.
func (s *Store) labelBucketOf(ctx context.Context, id flowfabric.ExecutionID) error {
	list, err := s.fields(ctx, id, "lane_id", "bk")
	if err != nil || list.str(0) == "" || list.str(1) == "" {
		return err
	}
	at, name := laneAt{id.Partition(), flowfabric.LaneID(list.str(0))}, list.str(1)
	got := s.plain(ctx, s.b.Hget().Key(s.laneKey(at, "buckets")).Field(name).Build())[0]
	if got.err != nil || got.msg.IsNil() {
		return got.err
	}
	descriptor, err := got.msg.ToString()
	if err != nil {
		return err
	}
	if b, ok := parseBucket(name, descriptor); ok {
		_, err = s.uncovered(ctx, []bucketAt{{at, b}}, true)
	}
	return err
}

// IssueClaimGrant writes a grant for one named execution.
func (s *Store) IssueClaimGrant(ctx context.Context, a flowfabric.IssueClaimGrantArgs) (g flowfabric.Grant, err error) {
	const fn = "ff_issue_claim_grant"
	if err := rules.ValidateIssueClaimGrant(a); err != nil {
		return g, err
	}
	caps, digest, err := capabilitiesOf(a.Capabilities)
	if err != nil {
		return g, err
	}
	closed, err := s.disabledLanes(ctx)
	if err != nil {
		return g, err
	}
	grant := newGrantID()
	list, err := s.change(ctx, fn, 2, a.ExecutionID, string(a.LaneID), string(a.WorkerID), string(a.WorkerInstanceID), caps, digest, grant,
		strconv.FormatInt(a.GrantTTLMs, 10), a.RouteSnapshot, a.AdmissionSummary, strings.Join(a.AdmissionRefs, "\n"), issuerLetter(a.IssuedBy), closed)
	if err != nil {
		return g, err
	}
	s.granted.note(a.ExecutionID.Partition(), list.ms(0))
	return grantOf(operation(fn), a.ExecutionID, a.LaneID, grant, list.ms(0), list.str(1))
}

func grantOf(op string, id flowfabric.ExecutionID, lane flowfabric.LaneID, grant string, expires flowfabric.Millis, kind string) (flowfabric.Grant, error) {
	d := decoder{op: op}
	return flowfabric.Grant{ExecutionID: id, PartitionKey: tagOf(id), GrantID: grant, ExpiresAt: expires, LaneID: lane,
		Kind: claimKind(&d, "kind", kind)}, d.err
}

// IssueReclaimGrant aims a grant at one interrupted execution.
func (s *Store) IssueReclaimGrant(ctx context.Context, a flowfabric.IssueReclaimGrantArgs) (res flowfabric.IssueReclaimGrantResult, err error) {
	const fn = "ff_issue_reclaim_grant"
	if err := rules.ValidateIssueReclaimGrant(a); err != nil {
		return res, err
	}
	if err := rules.ValidateExecutionID(a.ExecutionID, s.parts); err != nil {
		return res, err
	}
	if a.Capabilities == nil {
		if a.Capabilities, err = s.capabilitiesFor(ctx, a.ExecutionID, a.WorkerInstanceID); err != nil {
			return res, err
		}
	}
	caps, digest, err := capabilitiesOf(a.Capabilities)
	if err != nil {
		return res, err
	}
	closed, err := s.disabledLanes(ctx)
	if err != nil {
		return res, err
	}
	grant := newGrantID()
	list, err := s.change(ctx, fn, 2, a.ExecutionID, string(a.LaneID), string(a.WorkerID), string(a.WorkerInstanceID), caps, digest, grant,
		strconv.FormatInt(a.GrantTTLMs, 10), closed)
	if err != nil {
		return res, err
	}
	switch list.str(0) {
	case "g":
		s.granted.note(a.ExecutionID.Partition(), list.ms(1))
		g, err := grantOf(operation(fn), a.ExecutionID, a.LaneID, grant, list.ms(1), list.str(2))
		return flowfabric.IssueReclaimGrantResult{Outcome: flowfabric.ReclaimGranted, Grant: &g}, err
	case "n":
		return flowfabric.IssueReclaimGrantResult{Outcome: flowfabric.ReclaimNotReclaimable, Detail: list.str(1)}, nil
	case "m":
		s.settled(a.ExecutionID)
		return flowfabric.IssueReclaimGrantResult{Outcome: flowfabric.ReclaimCapExceeded, ReclaimCount: uint32(list.int(1)),
			MaxReclaimCount: uint32(list.int(2))}, nil
	}
	return res, badAnswer(fn)
}

// capabilitiesFor are those of an instance's live registration in the namespace of
// an execution.
func (s *Store) capabilitiesFor(ctx context.Context, id flowfabric.ExecutionID, instance flowfabric.WorkerInstanceID) ([]string, error) {
	list, err := s.fields(ctx, id, "namespace")
	if err != nil {
		return nil, err
	}
	ns := list.str(0)
	switch ns {
	case "":
		return nil, notFound(id)
	case inText:
		got := s.plain(ctx, s.b.Hget().Key(execKey(id, "text")).Field("namespace").Build())[0]
		if got.err != nil {
			return nil, got.err
		}
		if ns, err = got.msg.ToString(); err != nil {
			return nil, corrupt("issue_reclaim_grant", "namespace", "missing in the text hash")
		}
	}
	return s.registeredCapabilities(ctx, flowfabric.Namespace(ns), instance)
}

// ReleaseGrant ends an unused grant at once.
func (s *Store) ReleaseGrant(ctx context.Context, a flowfabric.ReleaseGrantArgs) (bool, error) {
	if err := rules.ValidateReleaseGrant(a); err != nil {
		return false, err
	}
	list, err := s.change(ctx, "ff_release_grant", 1, a.ExecutionID, a.GrantID, string(a.WorkerID))
	if flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.offered(a.ExecutionID, list.str(1))
	return list.str(0) == "1", nil
}
