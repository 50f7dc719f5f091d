package rules

import (
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// maxGrantIDBytes bounds a grant identifier.
const maxGrantIDBytes = 256

// LiveGrant reports whether a grant hides the execution from other claimers.
func LiveGrant(s *State, now flowfabric.Millis) bool {
	return s.Grant != nil && !s.Grant.Lapsed && now < s.Grant.ExpiresAt
}

// ValidateIssueClaimGrant checks the input of IssueClaimGrant but for the
// capabilities, which [NormalizeCapabilities] checks.
func ValidateIssueClaimGrant(a flowfabric.IssueClaimGrantArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	if err := a.LaneID.Validate(); err != nil {
		return err
	}
	if err := validateWorker(a.WorkerID, a.WorkerInstanceID); err != nil {
		return err
	}
	if err := validateGrantTTL(a.GrantTTLMs); err != nil {
		return err
	}
	return validateSnapshots(a.RouteSnapshot, a.AdmissionSummary)
}

// ValidateIssueReclaimGrant checks the input of IssueReclaimGrant but for the
// capabilities.
func ValidateIssueReclaimGrant(a flowfabric.IssueReclaimGrantArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	if err := validateWorker(a.WorkerID, a.WorkerInstanceID); err != nil {
		return err
	}
	if err := a.LaneID.Validate(); err != nil {
		return err
	}
	return validateGrantTTL(a.GrantTTLMs)
}

// ValidateReleaseGrant checks the input of ReleaseGrant.
func ValidateReleaseGrant(a flowfabric.ReleaseGrantArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	if err := validateLine("grant_id", a.GrantID, 1, maxGrantIDBytes); err != nil {
		return err
	}
	return a.WorkerID.Validate()
}

// ValidateClaimGranted checks the input of ClaimGranted but for the
// capabilities. Lease and attempt identifiers may be empty: the store mints them.
func ValidateClaimGranted(a flowfabric.ClaimGrantedArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	if err := validateLine("grant_id", a.GrantID, 1, maxGrantIDBytes); err != nil {
		return err
	}
	if err := a.LaneID.Validate(); err != nil {
		return err
	}
	switch a.Expect {
	case flowfabric.ExpectAny, flowfabric.ExpectNew, flowfabric.ExpectResume, flowfabric.ExpectReclaim:
	default:
		return flowfabric.InvalidInput("expect", "%q is unknown", string(a.Expect))
	}
	return validateClaim(a.WorkerID, a.WorkerInstanceID, a.LeaseID, a.AttemptID, a.LeaseTTLMs)
}

// ValidateGrantAndClaim checks the input of the fused form but for the
// capabilities.
func ValidateGrantAndClaim(a flowfabric.IssueGrantAndClaimArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	if a.LaneID != "" {
		if err := a.LaneID.Validate(); err != nil {
			return err
		}
	}
	if err := validateSnapshots(a.RouteSnapshot, a.AdmissionSummary); err != nil {
		return err
	}
	return validateClaim(a.WorkerID, a.WorkerInstanceID, a.LeaseID, a.AttemptID, a.LeaseTTLMs)
}

func validateClaim(worker flowfabric.WorkerID, instance flowfabric.WorkerInstanceID, lease flowfabric.LeaseID, attempt flowfabric.AttemptID, ttl int64) error {
	if err := validateWorker(worker, instance); err != nil {
		return err
	}
	if err := validateOptionalUUID("lease_id", string(lease)); err != nil {
		return err
	}
	if err := validateOptionalUUID("attempt_id", string(attempt)); err != nil {
		return err
	}
	return validateLeaseTTL(ttl)
}

func validateSnapshots(route, admission string) error {
	if err := validateText("route_snapshot", route, 0, maxRouteSnapshot); err != nil {
		return err
	}
	return validateText("admission_summary", admission, 0, maxAdmissionSummary)
}

// claimableKind returns what a claim would do with the execution now; false when
// it is neither eligible nor reclaimable. A hold is the caller's to respect.
func claimableKind(e *flowfabric.Execution) (flowfabric.ClaimKind, bool) {
	switch {
	case lost(e):
		return flowfabric.ClaimReclaim, true
	case e.LifecyclePhase != flowfabric.PhaseRunnable || e.EligibilityState != flowfabric.EligibleNow:
		return "", false
	case e.AttemptState == flowfabric.AttemptInterrupted:
		return flowfabric.ClaimResume, true
	}
	return flowfabric.ClaimNew, true
}

// IssueGrant issues a grant for an eligible execution of the lane: IssueClaimGrant.
// A requirement that is not covered leaves its trace on the record.
// (Specification 02, section 5.1.)
func IssueGrant(s *State, in GrantInput, now flowfabric.Millis) (flowfabric.Grant, Effects, error) {
	kind, ok := claimableKind(&s.Exec)
	if !ok || kind == flowfabric.ClaimReclaim || in.LaneID != s.Exec.LaneID {
		return flowfabric.Grant{}, Effects{}, notEligible(&s.Exec)
	}
	return grant(s, kind, in, now)
}

// OfferGrant is what the scheduler uses: it grants an eligible execution for a
// claim or resume, and one whose lease lapsed or was revoked, and is not held
// back, for a reclaim. At the reclaim cap the execution is ended and
// reclaim_cap_exceeded returned.
func OfferGrant(s *State, in GrantInput, now flowfabric.Millis) (flowfabric.Grant, Effects, error) {
	e := &s.Exec
	kind, ok := claimableKind(e)
	if !ok || in.LaneID != "" && in.LaneID != e.LaneID {
		return flowfabric.Grant{}, Effects{}, notEligible(e)
	}
	if kind != flowfabric.ClaimReclaim {
		return grant(s, kind, in, now)
	}
	if e.ReclaimHold || e.ReclaimNotBefore > now {
		return flowfabric.Grant{}, Effects{}, notReclaimable(e)
	}
	if LiveGrant(s, now) {
		return flowfabric.Grant{}, Effects{}, grantExists()
	}
	if missing := Missing(e.RequiredCapabilities, in.Capabilities); len(missing) > 0 {
		return flowfabric.Grant{}, Effects{}, capabilityMismatch(missing)
	}
	if atReclaimCap(s) {
		fx, err := endAtCap(s, now)
		return flowfabric.Grant{}, fx, err
	}
	return grant(s, kind, in, now)
}

// IssueReclaimGrant aims at one interrupted execution, held or not: kind reclaim
// for a lease lapsed or revoked, kind resume for a paused attempt that is ready.
// An overdue lease is marked first. (Specification 02, section 5.4.)
func IssueReclaimGrant(s *State, in GrantInput, now flowfabric.Millis) (flowfabric.IssueReclaimGrantResult, Effects, error) {
	var none flowfabric.IssueReclaimGrantResult
	var lapse Effects
	if overdue(&s.Exec, now) {
		if lapse = markLapsed(s, now); lapse.Err != nil {
			return none, Effects{}, lapse.Err
		}
	}
	refused := func(detail string) (flowfabric.IssueReclaimGrantResult, Effects, error) {
		return flowfabric.IssueReclaimGrantResult{Outcome: flowfabric.ReclaimNotReclaimable, Detail: detail}, lapse, nil
	}
	e := &s.Exec
	kind, ok := claimableKind(e)
	if !ok || kind == flowfabric.ClaimNew {
		return refused(string(flowfabric.CodeExecutionNotReclaimable))
	}
	if in.LaneID != e.LaneID {
		return refused("lane_mismatch")
	}
	if LiveGrant(s, now) {
		return none, lapse, grantExists()
	}
	if missing := Missing(e.RequiredCapabilities, in.Capabilities); len(missing) > 0 {
		return refused(string(flowfabric.CodeCapabilityMismatch) + ": " + strings.Join(missing, ","))
	}
	if kind == flowfabric.ClaimReclaim && atReclaimCap(s) {
		count := e.LeaseReclaimCount
		fx, err := endAtCap(s, now)
		if flowfabric.CodeOf(err) != flowfabric.CodeReclaimCapExceeded {
			return none, lapse, err
		}
		return flowfabric.IssueReclaimGrantResult{Outcome: flowfabric.ReclaimCapExceeded, ReclaimCount: count,
			MaxReclaimCount: MaxReclaims(s.Policy)}, join(lapse, fx), nil
	}
	g, fx, err := grant(s, kind, in, now)
	if err != nil {
		return none, join(lapse, fx), err
	}
	return flowfabric.IssueReclaimGrantResult{Outcome: flowfabric.ReclaimGranted, Grant: &g}, join(lapse, fx), nil
}

// DenyReclaimGrant is IssueReclaimGrant where admission refuses it: the lapse is
// marked all the same, what the state, lane, grant or capabilities forbid is said
// first, and nothing is issued or ended.
func DenyReclaimGrant(s *State, in GrantInput, reason string, now flowfabric.Millis) (flowfabric.IssueReclaimGrantResult, Effects, error) {
	var lapse Effects
	if overdue(&s.Exec, now) {
		if lapse = markLapsed(s, now); lapse.Err != nil {
			return flowfabric.IssueReclaimGrantResult{}, Effects{}, lapse.Err
		}
	}
	probe := *s
	res, _, err := IssueReclaimGrant(&probe, in, now)
	if err == nil && res.Outcome != flowfabric.ReclaimNotReclaimable {
		res = flowfabric.IssueReclaimGrantResult{Outcome: flowfabric.ReclaimNotReclaimable, Detail: "admission_denied: " + reason}
	}
	return res, lapse, err
}

// grant writes a grant of the kind, once the state is known to fit.
func grant(s *State, kind flowfabric.ClaimKind, in GrantInput, now flowfabric.Millis) (flowfabric.Grant, Effects, error) {
	e := &s.Exec
	if LiveGrant(s, now) {
		return flowfabric.Grant{}, Effects{}, grantExists()
	}
	if missing := Missing(e.RequiredCapabilities, in.Capabilities); len(missing) > 0 {
		t := begin(s, now)
		e.LastCapabilityMismatchAt = now
		fx, err := t.finish()
		if err != nil {
			return flowfabric.Grant{}, fx, err
		}
		return flowfabric.Grant{}, fx, capabilityMismatch(missing)
	}
	t := begin(s, now)
	t.dropGrant()
	s.Grant = &Grant{
		GrantID: in.GrantID, LaneID: e.LaneID, Kind: kind, WorkerID: in.WorkerID, WorkerInstanceID: in.WorkerInstanceID,
		CapabilityHash: CapabilityDigest(in.Capabilities), RouteSnapshot: in.RouteSnapshot,
		AdmissionSummary: in.AdmissionSummary, IssuedBy: in.IssuedBy, IssuedAt: now,
		ExpiresAt: now + flowfabric.Millis(in.TTLMs),
	}
	if len(in.AdmissionRefs) > 0 {
		e.AdmissionRefs = in.AdmissionRefs
	}
	fx, err := t.finish()
	if err != nil {
		return flowfabric.Grant{}, fx, err
	}
	return flowfabric.Grant{
		ExecutionID: e.ExecutionID, PartitionKey: partitionKey(e.ExecutionID), GrantID: in.GrantID,
		ExpiresAt: s.Grant.ExpiresAt, LaneID: e.LaneID, Kind: kind,
	}, fx, nil
}

// partitionKey is the bare "{fp:N}" of an identifier.
func partitionKey(id flowfabric.ExecutionID) string {
	if end := strings.IndexByte(string(id), '}'); end > 0 {
		return string(id[:end+1])
	}
	return "{fp:" + strconv.Itoa(int(id.Partition())) + "}"
}

// ReleaseGrant ends an unused grant at once; it reports whether the caller held
// it. (Specification 02, section 5.2.)
func ReleaseGrant(s *State, a flowfabric.ReleaseGrantArgs, now flowfabric.Millis) (bool, Effects) {
	if !LiveGrant(s, now) || s.Grant.GrantID != a.GrantID || s.Grant.WorkerID != a.WorkerID {
		return false, Effects{}
	}
	return true, withdrawGrant(s, now)
}

// withdrawGrant removes a grant and offers the execution again at its old place.
func withdrawGrant(s *State, now flowfabric.Millis) Effects {
	t := begin(s, now)
	s.Grant = nil
	t.owe()
	t.fx.Offered = Place(s, now).Offered
	return t.settle()
}

// LapseGrant acts on a grant past its expiry: holds are given back and the
// execution is offered again. The record stays for its holder.
func LapseGrant(s *State, now flowfabric.Millis) Effects {
	if s.Grant == nil || s.Grant.Lapsed || now < s.Grant.ExpiresAt {
		return Effects{}
	}
	t := begin(s, now)
	t.dropGrant()
	t.fx.Offered = Place(s, now).Offered
	return t.settle()
}

// ClaimGranted consumes a grant: ClaimGranted, ClaimExecution,
// ClaimResumedExecution and ReclaimExecution, told apart by in.Expect.
// (Specification 02, section 5.3.)
func ClaimGranted(s *State, in ClaimInput, now flowfabric.Millis) (Claimed, Effects, error) {
	if done, ok, err := replayedClaim(s, &in, now); ok {
		return done, Effects{}, err
	}
	g := s.Grant
	if g == nil || g.GrantID != in.GrantID || g.WorkerID != in.WorkerID || g.LaneID != in.LaneID {
		return Claimed{}, Effects{}, flowfabric.NewError(flowfabric.CodeInvalidClaimGrant, "no such grant for this worker and lane")
	}
	if now >= g.ExpiresAt {
		return Claimed{}, Effects{}, flowfabric.NewError(flowfabric.CodeClaimGrantExpired, "the grant expired at %d", g.ExpiresAt)
	}
	if err := fitsExpect(&s.Exec, g.Kind, in.Expect); err != nil {
		return Claimed{}, Effects{}, err
	}
	kind, err := fitsGrant(&s.Exec, g.Kind)
	if err == nil {
		if missing := Missing(s.Exec.RequiredCapabilities, in.Capabilities); len(missing) > 0 {
			err = capabilityMismatch(missing)
		}
	}
	if err != nil {
		return Claimed{}, refuseGranted(s, now), err
	}
	if kind == flowfabric.ClaimReclaim && atReclaimCap(s) {
		fx, err := endAtCap(s, now)
		return Claimed{}, fx, err
	}
	in.IssuedBy, in.RouteSnapshot, in.AdmissionSummary = g.IssuedBy, g.RouteSnapshot, g.AdmissionSummary
	return claim(s, kind, &in, now)
}

// refuseGranted ends the grant of a refused claim, unless the execution has
// ended, or left the state it was granted in: then the record stays as it is.
func refuseGranted(s *State, now flowfabric.Millis) Effects {
	if s.Grant.Lapsed {
		return Effects{}
	}
	return withdrawGrant(s, now)
}

// fitsExpect refuses the wrong claim operation; such a refusal leaves the grant.
func fitsExpect(e *flowfabric.Execution, kind flowfabric.ClaimKind, expect flowfabric.ClaimExpect) error {
	runnable := e.LifecyclePhase == flowfabric.PhaseRunnable && e.EligibilityState == flowfabric.EligibleNow
	paused := e.AttemptState == flowfabric.AttemptInterrupted
	switch {
	case expect == flowfabric.ExpectReclaim && kind != flowfabric.ClaimReclaim:
		return notReclaimable(e)
	case expect != flowfabric.ExpectReclaim && expect != flowfabric.ExpectAny && kind == flowfabric.ClaimReclaim:
		return notLeaseable(e)
	case expect == flowfabric.ExpectNew && runnable && paused:
		return flowfabric.NewError(flowfabric.CodeUseClaimResumedExecution, "the execution has a paused attempt")
	case expect == flowfabric.ExpectResume && runnable && !paused:
		return flowfabric.NewError(flowfabric.CodeNotAResumedExecution, "the execution has no paused attempt")
	}
	return nil
}

// fitsGrant checks that the state still is the one a grant of the kind needs.
func fitsGrant(e *flowfabric.Execution, kind flowfabric.ClaimKind) (flowfabric.ClaimKind, error) {
	if kind == flowfabric.ClaimReclaim {
		if !lost(e) {
			return "", notReclaimable(e)
		}
		return kind, nil
	}
	switch {
	case e.LifecyclePhase != flowfabric.PhaseRunnable || e.EligibilityState != flowfabric.EligibleNow:
		return "", notLeaseable(e)
	case e.OwnershipState != flowfabric.OwnershipUnowned:
		return "", leaseConflict(e)
	case e.AttemptState == flowfabric.AttemptRunning:
		return "", activeAttempt(e)
	}
	kind, _ = claimableKind(e)
	return kind, nil
}

// GrantAndClaim grants and claims in one step: paused attempts are resumed,
// lapsed or revoked leases reclaimed, an overdue lease being marked first. A
// held execution yields only to an operator's override, which also skips the
// capabilities; a valid lease is never stolen. (Specification 02, section 5.6.)
func GrantAndClaim(s *State, in ClaimInput, now flowfabric.Millis) (Claimed, Effects, error) {
	if done, ok, err := replayedClaim(s, &in, now); ok {
		return done, Effects{}, err
	}
	e := &s.Exec
	if LiveGrant(s, now) && s.Grant.WorkerID != in.WorkerID {
		return Claimed{}, Effects{}, grantExists()
	}
	var lapse Effects
	if overdue(e, now) {
		if lapse = markLapsed(s, now); lapse.Err != nil {
			return Claimed{}, Effects{}, lapse.Err
		}
	}
	if e.LifecyclePhase == flowfabric.PhaseActive && e.OwnershipState == flowfabric.OwnershipLeased {
		return Claimed{}, lapse, leaseConflict(e)
	}
	kind, ok := claimableKind(e)
	if !ok || in.LaneID != "" && in.LaneID != e.LaneID ||
		kind == flowfabric.ClaimReclaim && e.ReclaimHold && !in.OperatorOverride {
		return Claimed{}, lapse, notEligible(e)
	}
	if e.AttemptState == flowfabric.AttemptRunning {
		return Claimed{}, lapse, activeAttempt(e)
	}
	if !in.OperatorOverride {
		if missing := Missing(e.RequiredCapabilities, in.Capabilities); len(missing) > 0 {
			return Claimed{}, lapse, capabilityMismatch(missing)
		}
	}
	if kind == flowfabric.ClaimReclaim && atReclaimCap(s) {
		fx, err := endAtCap(s, now)
		return Claimed{}, join(lapse, fx), err
	}
	done, fx, err := claim(s, kind, &in, now)
	return done, join(lapse, fx), err
}

// RepeatsClaim reports whether a claim is a repeat of the one that made the
// execution's last lease: same lease and same instance. A repeat is answered
// whatever its lane allows by now. (Specification 02, section 5.3, check 2.)
func RepeatsClaim(s *State, in *ClaimInput) bool {
	e := &s.Exec
	return in.LeaseID != "" && e.CurrentLeaseID == in.LeaseID && e.CurrentWorkerInstanceID == in.WorkerInstanceID && s.Attempt != nil
}

// replayedClaim answers a repeat of the claim that made the current lease.
func replayedClaim(s *State, in *ClaimInput, now flowfabric.Millis) (Claimed, bool, error) {
	if !RepeatsClaim(s, in) {
		return Claimed{}, false, nil
	}
	e := &s.Exec
	switch {
	case e.OwnershipState == flowfabric.OwnershipLeaseRevoked:
		return Claimed{}, true, leaseRevoked(e)
	case e.OwnershipState != flowfabric.OwnershipLeased || e.LeaseExpiresAt <= now:
		return Claimed{}, true, leaseExpired(e)
	}
	task := makeTask(s)
	task.Replayed, task.StoreTime = true, now
	return Claimed{Task: task}, true, nil
}

// claim makes the lease, and the attempt unless a paused one continues.
func claim(s *State, kind flowfabric.ClaimKind, in *ClaimInput, now flowfabric.Millis) (Claimed, Effects, error) {
	t := begin(s, now)
	e := &s.Exec
	prev := holderOf(s)
	if s.Grant != nil && now >= s.Grant.ExpiresAt {
		t.dropGrant()
	}
	s.Grant = nil

	e.CurrentLeaseEpoch++
	e.CurrentLeaseID, e.CurrentWorkerID, e.CurrentWorkerInstanceID = in.LeaseID, in.WorkerID, in.WorkerInstanceID
	e.CurrentLane, e.LeaseAcquiredAt = e.LaneID, now
	t.extend(in.LeaseTTLMs)
	hash := in.CapabilityHash
	if hash == "" {
		hash = CapabilityDigest(in.Capabilities)
	}
	s.Lease = LeaseDetail{CapabilityHash: hash, ClaimKind: kind, TTLMs: in.LeaseTTLMs}

	switch kind {
	case flowfabric.ClaimResume:
		t.resumeAttempt(in)
	case flowfabric.ClaimReclaim:
		s.Lease.PreviousLeaseID = prev.lease
		e.LeaseReclaimCount++
		t.supersede(prev.reason)
		t.startAttempt(in, flowfabric.AttemptTypeReclaim, prev.reason)
	default:
		t.startAttempt(in, "", "")
	}
	clearLoss(e)

	e.LifecyclePhase, e.OwnershipState = flowfabric.PhaseActive, flowfabric.OwnershipLeased
	e.EligibilityState, e.BlockingReason = flowfabric.EligibilityNotApplicable, flowfabric.ReasonNone
	e.AttemptState = flowfabric.AttemptRunning
	t.unblock()
	if e.StartedAt == 0 {
		e.StartedAt = now
	}
	t.claimEvent(kind, in.IssuedBy, &prev)
	fx, err := t.finish()
	if err != nil {
		return Claimed{}, fx, err
	}
	task := makeTask(s)
	task.StoreTime = now
	return Claimed{Task: task}, fx, nil
}

// holder is who held the lease before a reclaim.
type holder struct {
	lease    flowfabric.LeaseID
	epoch    uint64
	instance flowfabric.WorkerInstanceID
	index    *uint32
	reason   string
}

func holderOf(s *State) holder {
	e := &s.Exec
	h := holder{lease: e.CurrentLeaseID, epoch: e.CurrentLeaseEpoch, instance: e.CurrentWorkerInstanceID, reason: reasonLeaseExpired}
	if e.OwnershipState == flowfabric.OwnershipLeaseRevoked {
		h.reason = reasonLeaseRevoked
	}
	if s.Attempt != nil {
		h.index = &s.Attempt.AttemptIndex
	}
	return h
}

func (t *step) claimEvent(kind flowfabric.ClaimKind, by flowfabric.IssuedBy, prev *holder) {
	name := flowfabric.EventAcquired
	switch kind {
	case flowfabric.ClaimResume:
		name = flowfabric.EventResumed
	case flowfabric.ClaimReclaim:
		name = flowfabric.EventReclaimed
	}
	ev := t.leaseEvent(name)
	ev.ExpiresAt = t.s.Exec.LeaseExpiresAt
	switch kind {
	case flowfabric.ClaimNew:
		ev.Reason = acquiredReason(by)
	case flowfabric.ClaimReclaim:
		ev.PrevLeaseID, ev.PrevLeaseEpoch = prev.lease, prev.epoch
		ev.PrevWorkerInstanceID, ev.PrevAttemptIndex = prev.instance, prev.index
	}
}

func acquiredReason(by flowfabric.IssuedBy) string {
	switch by {
	case flowfabric.IssuedByDirect:
		return acquiredDirectly
	case flowfabric.IssuedByOperator:
		return acquiredByOperator
	}
	return acquiredByClaim
}

// endAtCap ends an execution whose reclaims are used up and returns
// reclaim_cap_exceeded with the count and the cap. (Specification 02, section
// 5.5.)
func endAtCap(s *State, now flowfabric.Millis) (Effects, error) {
	count, limit := s.Exec.LeaseReclaimCount, MaxReclaims(s.Policy)
	t := begin(s, now)
	e := &s.Exec
	t.endAttempt(attemptEnd{state: flowfabric.AttemptEndedFailure, reason: reasonMaxReclaims, category: categoryInfraCrash,
		override: true, stream: streamFailure})
	e.FailureReason, e.FailureCategory = reasonMaxReclaims, categoryInfraCrash
	receipt := t.release(flowfabric.ReceiptReclaimCap, flowfabric.SourceSystemTimeout, reasonMaxReclaims)
	t.end(flowfabric.OutcomeFailed, causeReclaimCap, "")
	if receipt != nil {
		receipt.PublicState = flowfabric.PublicFailed
	}
	fx, err := t.finish()
	if err != nil {
		return fx, err
	}
	return fx, flowfabric.NewError(flowfabric.CodeReclaimCapExceeded, "%d of %d reclaims used; the execution has ended", count, limit).
		With("reclaim_count", count).With("max_reclaim_count", limit)
}

// join makes one of the effects of two transitions in one step.
func join(a, b Effects) Effects {
	if !a.Changed {
		return b
	}
	if !b.Changed {
		return a
	}
	b.Events = append(a.Events, b.Events...)
	b.Owed = append(a.Owed, b.Owed...)
	if b.Wait == nil {
		b.Wait = a.Wait
	}
	if b.Superseded == nil {
		b.Superseded = a.Superseded
	}
	if a.StreamClosed != "" { // the first close wins
		b.StreamClosed, b.StreamAttempt = a.StreamClosed, a.StreamAttempt
	}
	return b
}

func notEligible(e *flowfabric.Execution) error {
	return flowfabric.NewError(flowfabric.CodeExecutionNotEligible, "execution is %s, %s", e.PublicState, e.EligibilityState).
		With("public_state", string(e.PublicState)).With("eligibility_state", string(e.EligibilityState))
}

func notLeaseable(e *flowfabric.Execution) error {
	return flowfabric.NewError(flowfabric.CodeExecutionNotLeaseable, "execution is %s, %s", e.PublicState, e.EligibilityState).
		With("public_state", string(e.PublicState)).With("terminal_outcome", string(e.TerminalOutcome))
}

func notReclaimable(e *flowfabric.Execution) error {
	return flowfabric.NewError(flowfabric.CodeExecutionNotReclaimable, "execution is %s, %s", e.PublicState, e.OwnershipState).
		With("public_state", string(e.PublicState)).With("ownership_state", string(e.OwnershipState))
}

func leaseConflict(e *flowfabric.Execution) error {
	return flowfabric.NewError(flowfabric.CodeLeaseConflict, "the execution is leased until %d", e.LeaseExpiresAt)
}

func activeAttempt(e *flowfabric.Execution) error {
	return flowfabric.NewError(flowfabric.CodeActiveAttemptExists, "execution %s has a running attempt without lease", e.ExecutionID)
}

func grantExists() error {
	return flowfabric.NewError(flowfabric.CodeGrantAlreadyExists, "a live grant exists")
}

func capabilityMismatch(missing []string) error {
	return flowfabric.NewError(flowfabric.CodeCapabilityMismatch, "missing %s", strings.Join(missing, ",")).With("missing", missing)
}
