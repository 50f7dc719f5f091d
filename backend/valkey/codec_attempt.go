package valkey

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// attemptType is the type that a letter of core stands for; initial, the
// default, has none.
func attemptType(d *decoder, field, letter string) flowfabric.AttemptType {
	switch letter {
	case "":
		return flowfabric.AttemptTypeInitial
	case "r":
		return flowfabric.AttemptTypeRetry
	case "c":
		return flowfabric.AttemptTypeReclaim
	case "p":
		return flowfabric.AttemptTypeReplay
	case "b":
		return flowfabric.AttemptTypeFallback
	}
	d.fail(field, "%q is none", rules.Cut(letter, 20))
	return ""
}

// attempt restores the attempt of the highest index: from core, or, where it
// ended before the execution did, from the attempts hash. Without that hash the
// latter is nil. It also sets the attempt id that the record shows.
func (c *core) attempt(d *decoder, s *rules.State, ended hash) *flowfabric.Attempt {
	x := &s.Exec
	index, claimed := x.CurrentAttemptIndex()
	if !claimed {
		return nil
	}
	if c.archived(x) {
		text, ok := ended.get(strconv.FormatUint(uint64(index), 10))
		if !ok {
			if len(ended) > 0 {
				d.fail("attempt", "attempt %d is missing", index)
			}
			return nil
		}
		a, err := decodeAttempt(d.op, x.ExecutionID, s.Policy, text)
		if err != nil {
			d.fail("attempt", "attempt %d: %v", index, err)
		}
		return a
	}
	x.CurrentAttemptID = flowfabric.AttemptID(c.attemptID)
	a := &flowfabric.Attempt{
		AttemptID: x.CurrentAttemptID, ExecutionID: x.ExecutionID, AttemptIndex: index,
		AttemptType: attemptType(d, "attempt.attempt_type", c.attemptType), AttemptState: flowfabric.AttemptStarted,
		CreatedAt: c.startOf(d, x), ResumedAt: c.resumedAt,
		LeaseID: flowfabric.LeaseID(c.leaseID), LeaseEpoch: x.CurrentLeaseEpoch,
		WorkerID: flowfabric.WorkerID(c.worker), WorkerInstanceID: flowfabric.WorkerInstanceID(c.instance),
		PolicySnapshot: snapshot(s.Policy, x.FallbackIndex, x.LaneID, c.route, c.admission),
	}
	a.StartedAt = a.CreatedAt
	c.lineage(a, x)
	if c.pause != "" {
		c.paused(d, a)
	}
	if c.end != "" {
		c.endOf(d, a, x)
	}
	return a
}

// archived reports whether the last attempt ended before the execution did, or
// while it still lives: then core does not hold it any more.
func (c *core) archived(x *flowfabric.Execution) bool {
	switch c.st[1] {
	case pendingRetry, pendingReplay:
		return true
	}
	return x.LifecyclePhase == flowfabric.PhaseTerminal && c.end == ""
}

// lineage fills in why the attempt was made.
func (c *core) lineage(a *flowfabric.Attempt, x *flowfabric.Execution) {
	if a.AttemptIndex > 0 {
		previous := a.AttemptIndex - 1
		a.PreviousAttemptIndex = &previous
	}
	switch a.AttemptType {
	case flowfabric.AttemptTypeRetry:
		a.RetryReason = c.attemptReason
	case flowfabric.AttemptTypeFallback:
		tier := x.FallbackIndex
		a.RetryReason, a.FallbackIndex = c.attemptReason, &tier
	case flowfabric.AttemptTypeReclaim:
		a.ReclaimReason = c.attemptReason
	case flowfabric.AttemptTypeReplay:
		a.ReplayReason, a.ReplayRequestedBy = c.attemptReason, c.attemptBy
		if a.AttemptIndex > 0 {
			from := a.AttemptIndex - 1
			a.ReplayedFromAttemptIndex = &from
		}
	}
}

// paused reads "<kind>:<since>:<remaining or empty>".
func (c *core) paused(d *decoder, a *flowfabric.Attempt) {
	kind, rest, ok := strings.Cut(c.pause, ":")
	since, left, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 {
		d.fail("attempt.pause_kind", "%q is no pause", rules.Cut(c.pause, 60))
		return
	}
	a.AttemptState = flowfabric.AttemptSuspended
	a.SuspendedAt = d.ms("attempt.suspended_at", since)
	switch kind {
	case "d":
		a.PauseKind = flowfabric.PauseWorkerDelay
	case "c":
		a.PauseKind = flowfabric.PauseWaitingChildren
	case "s":
		a.PauseKind, a.SuspensionID = flowfabric.PauseSuspension, flowfabric.SuspensionID(c.suspensionID)
	default:
		d.fail("attempt.pause_kind", "%q is none", rules.Cut(kind, 20))
	}
	if left != "" {
		ms := d.int("attempt.timeout_remaining_ms", left)
		a.TimeoutRemainingMs = &ms
	}
}

// endOf completes an attempt that ended together with the execution.
func (c *core) endOf(d *decoder, a *flowfabric.Attempt, x *flowfabric.Execution) {
	a.EndedAt = x.CompletedAt
	a.TerminalizedByOverride = len(c.end) == 2 && c.end[1] == 'o'
	switch c.end[0] {
	case 's':
		a.AttemptState = flowfabric.AttemptEndedSuccess
	case 'f':
		a.AttemptState = flowfabric.AttemptEndedFailure
		a.FailureReason, a.FailureCategory = x.FailureReason, x.FailureCategory
	case 'c':
		a.AttemptState = flowfabric.AttemptEndedCancelled
		a.FailureReason, a.FailureCategory = "cancelled: "+x.CancellationReason, "cancelled"
	case 't': // cancelled by the timeout of a suspension
		a.AttemptState = flowfabric.AttemptEndedCancelled
	default:
		d.fail("attempt.attempt_state", "end %q is none", rules.Cut(c.end, 20))
	}
}

// snapshot is what an attempt froze of policy, route and admission.
func snapshot(p *flowfabric.Policy, tier uint32, lane flowfabric.LaneID, route, admission string) flowfabric.PolicySnapshot {
	out := flowfabric.PolicySnapshot{TimeoutMs: rules.AttemptTimeoutMs(p, tier), FallbackIndex: tier, LaneID: lane,
		RouteSnapshot: route, AdmissionSummary: admission}
	if f := p.FallbackPolicy; f != nil && int64(tier) < int64(len(f.Tiers)) {
		out.Provider, out.Model = f.Tiers[tier].Provider, f.Tiers[tier].Model
	}
	return out
}

// decodeAttempt reads an attempt of the attempts hash. What its tier says is in
// the policy alone.
func decodeAttempt(op string, id flowfabric.ExecutionID, p *flowfabric.Policy, text string) (*flowfabric.Attempt, error) {
	a := &flowfabric.Attempt{}
	if err := json.Unmarshal([]byte(text), a); err != nil {
		return nil, corrupt(op, "attempt", "%v", err)
	}
	a.ExecutionID = id
	snap := &a.PolicySnapshot
	*snap = snapshot(p, snap.FallbackIndex, snap.LaneID, snap.RouteSnapshot, snap.AdmissionSummary)
	return a, nil
}

// grantOf reads "<kind><issuer><l or ->:<expires>:<issued>" and what goes with
// it.
func (c *core) grantOf(d *decoder, x *flowfabric.Execution) *rules.Grant {
	if c.grant == "" {
		return nil
	}
	head, rest, ok := strings.Cut(c.grant, ":")
	expires, issued, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 || len(head) != 3 {
		d.fail("grant", "%q is no grant", rules.Cut(c.grant, 60))
		return nil
	}
	g := &rules.Grant{GrantID: c.grantID, LaneID: x.LaneID, Kind: claimKind(d, "grant.kind", head[:1]),
		WorkerID: flowfabric.WorkerID(c.grantWorker), WorkerInstanceID: flowfabric.WorkerInstanceID(c.grantInstance),
		CapabilityHash: orEmptyDigest(c.grantHash), RouteSnapshot: c.grantRoute, AdmissionSummary: c.grantAdm,
		ExpiresAt: d.ms("grant.expires_at", expires), IssuedAt: d.ms("grant.issued_at", issued), Lapsed: head[2] == 'l'}
	switch head[1] {
	case 's':
		g.IssuedBy = flowfabric.IssuedByScheduler
	case 'd':
		g.IssuedBy = flowfabric.IssuedByDirect
	case 'o':
		g.IssuedBy = flowfabric.IssuedByOperator
	default:
		d.fail("grant.issued_by", "%q is none", head[1:2])
	}
	x.LastMutationAt = max(x.LastMutationAt, g.IssuedAt)
	return g
}

func claimKind(d *decoder, field, letter string) flowfabric.ClaimKind {
	switch letter {
	case "c":
		return flowfabric.ClaimNew
	case "s":
		return flowfabric.ClaimResume
	case "r":
		return flowfabric.ClaimReclaim
	}
	d.fail(field, "%q is none", rules.Cut(letter, 20))
	return ""
}

// receiptOf reads "<op>:<source>:<epoch>:<rest>".
func (c *core) receiptOf(d *decoder) *flowfabric.ReleaseReceipt {
	if c.receipt == "" {
		return nil
	}
	parts := strings.SplitN(c.receipt, ":", 4)
	if len(parts) != 4 || len(parts[0]) != 1 || len(parts[1]) != 1 {
		d.fail("release_receipt", "%q is no receipt", rules.Cut(c.receipt, 60))
		return nil
	}
	r := &flowfabric.ReleaseReceipt{LeaseID: flowfabric.LeaseID(c.leaseID), AttemptID: flowfabric.AttemptID(c.attemptID),
		LeaseEpoch: d.uint("receipt.lease_epoch", parts[2])}
	if c.receiptLease != "" {
		r.LeaseID = flowfabric.LeaseID(c.receiptLease)
	}
	if c.receiptAttempt != "" {
		r.AttemptID = flowfabric.AttemptID(c.receiptAttempt)
	}
	switch parts[1] {
	case "l":
		r.Source = flowfabric.SourceLeaseHolder
	case "o":
		r.Source = flowfabric.SourceOperatorOverride
	case "f":
		r.Source = flowfabric.SourceFlowCascade
	case "s":
		r.Source = flowfabric.SourceSystemTimeout
	default:
		d.fail("receipt.source", "%q is none", parts[1])
	}
	receiptResult(d, r, parts[0], parts[3])
	return r
}

// receiptResult fills in the stored result of the operation.
func receiptResult(d *decoder, r *flowfabric.ReleaseReceipt, op, rest string) {
	switch op {
	case "c":
		r.Op, r.PublicState = flowfabric.ReceiptComplete, flowfabric.PublicCompleted
	case "f":
		r.Op, r.PublicState = flowfabric.ReceiptFail, flowfabric.PublicFailed
		receiptTry(d, r, rest)
	case "x":
		r.Op, r.PublicState = flowfabric.ReceiptCancel, flowfabric.PublicCancelled
		if rest == "" {
			d.fail("receipt.previous_phase", "missing")
			return
		}
		r.PreviousPhase = phaseOf(rest[0])
	case "d":
		r.Op, r.PublicState, r.DelayUntil = flowfabric.ReceiptDelay, flowfabric.PublicDelayed, d.ms("receipt.delay_until", rest)
	case "w":
		r.Op, r.PublicState = flowfabric.ReceiptWaitingChildren, flowfabric.PublicWaitingChildren
	case "e":
		r.Op, r.PublicState = flowfabric.ReceiptExpire, flowfabric.PublicExpired
		receiptTry(d, r, rest)
	case "m":
		r.Op, r.PublicState = flowfabric.ReceiptReclaimCap, flowfabric.PublicFailed
	default:
		d.fail("receipt.op", "%q is none", op)
	}
}

// receiptTry reads "<W or D>:<delay_until>:<next index>:<type>", what a failure
// scheduled; nothing at the end.
func receiptTry(d *decoder, r *flowfabric.ReleaseReceipt, rest string) {
	if rest == "" {
		return
	}
	parts := strings.Split(rest, ":")
	if len(parts) != 4 {
		d.fail("receipt.result", "%q is no retry", rules.Cut(rest, 60))
		return
	}
	r.RetryScheduled, r.PublicState = true, flowfabric.PublicWaiting
	if parts[0] == "D" {
		r.PublicState = flowfabric.PublicDelayed
	}
	r.DelayUntil = d.ms("receipt.delay_until", parts[1])
	r.NextAttemptIndex = d.uint32("receipt.next_attempt_index", parts[2])
	r.AttemptType = attemptType(d, "receipt.attempt_type", parts[3])
}
