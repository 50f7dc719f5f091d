package sqlstore

import (
	"encoding/binary"
	"encoding/json"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

func appendUvarint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

// The tags of an attempt's record.
const (
	aID byte = iota + 1
	aIndex
	aType
	aState
	aCreated
	aStarted
	aSuspended
	aPauseKind
	aSuspensionID
	aResumed
	aEnded
	aTimeoutRemaining
	aLeaseID
	aLeaseEpoch
	aWorkerID
	aWorkerInstance
	aFailureReason
	aFailureCategory
	aOverride
	aPrevious
	aRetryReason
	aReclaimReason
	aReplayReason
	aReplayBy
	aReplayFrom
	aFallbackIndex
	aSnapTimeout
	aSnapProvider
	aSnapModel
	aSnapFallback
	aSnapLane
	aSnapRoute
	aSnapAdmission
	aUsage
)

func (e *encoder) attempt(a *flowfabric.Attempt) {
	e.str(aID, string(a.AttemptID))
	e.uint(aIndex, uint64(a.AttemptIndex))
	e.uint(aType, attemptTypes.of(a.AttemptType))
	e.uint(aState, attemptStates.of(a.AttemptState))
	e.ms(aCreated, a.CreatedAt)
	e.ms(aStarted, a.StartedAt)
	e.ms(aSuspended, a.SuspendedAt)
	e.uint(aPauseKind, pauseKinds.of(a.PauseKind))
	e.str(aSuspensionID, string(a.SuspensionID))
	e.ms(aResumed, a.ResumedAt)
	e.ms(aEnded, a.EndedAt)
	if a.TimeoutRemainingMs != nil {
		e.b = append(e.b, aTimeoutRemaining)
		e.b = binary.AppendVarint(e.b, *a.TimeoutRemainingMs)
	}
	e.str(aLeaseID, string(a.LeaseID))
	e.uint(aLeaseEpoch, a.LeaseEpoch)
	e.str(aWorkerID, string(a.WorkerID))
	e.str(aWorkerInstance, string(a.WorkerInstanceID))
	e.str(aFailureReason, a.FailureReason)
	e.str(aFailureCategory, a.FailureCategory)
	e.flag(aOverride, a.TerminalizedByOverride)
	e.opt(aPrevious, a.PreviousAttemptIndex)
	e.str(aRetryReason, a.RetryReason)
	e.str(aReclaimReason, a.ReclaimReason)
	e.str(aReplayReason, a.ReplayReason)
	e.str(aReplayBy, a.ReplayRequestedBy)
	e.opt(aReplayFrom, a.ReplayedFromAttemptIndex)
	e.opt(aFallbackIndex, a.FallbackIndex)
	e.uint(aSnapTimeout, uint64(a.PolicySnapshot.TimeoutMs))
	e.str(aSnapProvider, a.PolicySnapshot.Provider)
	e.str(aSnapModel, a.PolicySnapshot.Model)
	e.uint(aSnapFallback, uint64(a.PolicySnapshot.FallbackIndex))
	e.str(aSnapLane, string(a.PolicySnapshot.LaneID))
	e.str(aSnapRoute, a.PolicySnapshot.RouteSnapshot)
	e.str(aSnapAdmission, a.PolicySnapshot.AdmissionSummary)
	if len(a.Usage) > 0 {
		doc, _ := json.Marshal(a.Usage)
		e.nested(aUsage, doc)
	}
}

func (d *decoder) attempt(id flowfabric.ExecutionID) *flowfabric.Attempt {
	a := &flowfabric.Attempt{ExecutionID: id}
	for tag, ok := d.next(); ok; tag, ok = d.next() {
		switch tag {
		case aID:
			a.AttemptID = flowfabric.AttemptID(d.str("attempt_id"))
		case aIndex:
			a.AttemptIndex = d.uint32("attempt_index")
		case aType:
			a.AttemptType = attemptTypes.label(d, d.uint("attempt_type"))
		case aState:
			a.AttemptState = attemptStates.label(d, d.uint("attempt_state"))
		case aCreated:
			a.CreatedAt = d.ms("created_at")
		case aStarted:
			a.StartedAt = d.ms("started_at")
		case aSuspended:
			a.SuspendedAt = d.ms("suspended_at")
		case aPauseKind:
			a.PauseKind = pauseKinds.label(d, d.uint("pause_kind"))
		case aSuspensionID:
			a.SuspensionID = flowfabric.SuspensionID(d.str("suspension_id"))
		case aResumed:
			a.ResumedAt = d.ms("resumed_at")
		case aEnded:
			a.EndedAt = d.ms("ended_at")
		case aTimeoutRemaining:
			v, n := binary.Varint(d.b)
			if n <= 0 {
				d.fail("timeout_remaining_ms", "malformed number")
				return a
			}
			d.b = d.b[n:]
			a.TimeoutRemainingMs = &v
		case aLeaseID:
			a.LeaseID = flowfabric.LeaseID(d.str("lease_id"))
		case aLeaseEpoch:
			a.LeaseEpoch = d.uint("lease_epoch")
		case aWorkerID:
			a.WorkerID = flowfabric.WorkerID(d.str("worker_id"))
		case aWorkerInstance:
			a.WorkerInstanceID = flowfabric.WorkerInstanceID(d.str("worker_instance_id"))
		case aFailureReason:
			a.FailureReason = d.str("failure_reason")
		case aFailureCategory:
			a.FailureCategory = d.str("failure_category")
		case aOverride:
			a.TerminalizedByOverride = d.flag("terminalized_by_override")
		case aPrevious:
			a.PreviousAttemptIndex = d.opt("previous_attempt_index")
		case aRetryReason:
			a.RetryReason = d.str("retry_reason")
		case aReclaimReason:
			a.ReclaimReason = d.str("reclaim_reason")
		case aReplayReason:
			a.ReplayReason = d.str("replay_reason")
		case aReplayBy:
			a.ReplayRequestedBy = d.str("replay_requested_by")
		case aReplayFrom:
			a.ReplayedFromAttemptIndex = d.opt("replayed_from_attempt_index")
		case aFallbackIndex:
			a.FallbackIndex = d.opt("fallback_index")
		case aSnapTimeout:
			a.PolicySnapshot.TimeoutMs = int64(d.uint("policy_snapshot.timeout_ms"))
		case aSnapProvider:
			a.PolicySnapshot.Provider = d.str("policy_snapshot.provider")
		case aSnapModel:
			a.PolicySnapshot.Model = d.str("policy_snapshot.model")
		case aSnapFallback:
			a.PolicySnapshot.FallbackIndex = d.uint32("policy_snapshot.fallback_index")
		case aSnapLane:
			a.PolicySnapshot.LaneID = flowfabric.LaneID(d.str("policy_snapshot.lane_id"))
		case aSnapRoute:
			a.PolicySnapshot.RouteSnapshot = d.str("policy_snapshot.route_snapshot")
		case aSnapAdmission:
			a.PolicySnapshot.AdmissionSummary = d.str("policy_snapshot.admission_summary")
		case aUsage:
			if err := json.Unmarshal(d.nested("usage"), &a.Usage); err != nil {
				d.fail("usage", "%v", err)
			}
		default:
			d.fail("attempt", "unknown field %d", tag)
		}
	}
	return a
}

// The tags of a grant.
const (
	gID byte = iota + 1
	gLane
	gKind
	gWorkerID
	gWorkerInstance
	gHash
	gRoute
	gAdmission
	gIssuedBy
	gIssuedAt
	gExpiresAt
	gLapsed
)

func (e *encoder) grant(g *rules.Grant) {
	e.str(gID, g.GrantID)
	e.str(gLane, string(g.LaneID))
	e.uint(gKind, claimKinds.of(g.Kind))
	e.str(gWorkerID, string(g.WorkerID))
	e.str(gWorkerInstance, string(g.WorkerInstanceID))
	e.str(gHash, g.CapabilityHash)
	e.str(gRoute, g.RouteSnapshot)
	e.str(gAdmission, g.AdmissionSummary)
	e.uint(gIssuedBy, issuers.of(g.IssuedBy))
	e.ms(gIssuedAt, g.IssuedAt)
	e.ms(gExpiresAt, g.ExpiresAt)
	e.flag(gLapsed, g.Lapsed)
}

func (d *decoder) grant() *rules.Grant {
	g := &rules.Grant{}
	for tag, ok := d.next(); ok; tag, ok = d.next() {
		switch tag {
		case gID:
			g.GrantID = d.str("grant_id")
		case gLane:
			g.LaneID = flowfabric.LaneID(d.str("grant.lane_id"))
		case gKind:
			g.Kind = claimKinds.label(d, d.uint("grant.kind"))
		case gWorkerID:
			g.WorkerID = flowfabric.WorkerID(d.str("grant.worker_id"))
		case gWorkerInstance:
			g.WorkerInstanceID = flowfabric.WorkerInstanceID(d.str("grant.worker_instance_id"))
		case gHash:
			g.CapabilityHash = d.str("grant.capability_hash")
		case gRoute:
			g.RouteSnapshot = d.str("grant.route_snapshot")
		case gAdmission:
			g.AdmissionSummary = d.str("grant.admission_summary")
		case gIssuedBy:
			g.IssuedBy = issuers.label(d, d.uint("grant.issued_by"))
		case gIssuedAt:
			g.IssuedAt = d.ms("grant.issued_at")
		case gExpiresAt:
			g.ExpiresAt = d.ms("grant_expires_at")
		case gLapsed:
			g.Lapsed = d.flag("grant.lapsed")
		default:
			d.fail("grant", "unknown field %d", tag)
		}
	}
	return g
}

// The tags of a lease detail.
const (
	lHash byte = iota + 1
	lKind
	lPrevious
	lTTL
	lDeleted
)

func (e *encoder) leaseDetail(l *rules.LeaseDetail) {
	e.str(lHash, l.CapabilityHash)
	e.uint(lKind, claimKinds.of(l.ClaimKind))
	e.str(lPrevious, string(l.PreviousLeaseID))
	e.uint(lTTL, uint64(l.TTLMs))
	e.flag(lDeleted, l.Deleted)
}

func (d *decoder) leaseDetail(l *rules.LeaseDetail) {
	for tag, ok := d.next(); ok; tag, ok = d.next() {
		switch tag {
		case lHash:
			l.CapabilityHash = d.str("lease.capability_hash")
		case lKind:
			l.ClaimKind = claimKinds.label(d, d.uint("lease.claim_kind"))
		case lPrevious:
			l.PreviousLeaseID = flowfabric.LeaseID(d.str("lease.previous_lease_id"))
		case lTTL:
			l.TTLMs = int64(d.uint("lease.ttl_ms"))
		case lDeleted:
			l.Deleted = d.flag("lease.deleted")
		default:
			d.fail("lease", "unknown field %d", tag)
		}
	}
}

func encodeAttempt(a *flowfabric.Attempt) []byte {
	e := encoder{make([]byte, 0, 256)}
	e.attempt(a)
	return e.b
}

func decodeAttempt(id flowfabric.ExecutionID, rec []byte) (*flowfabric.Attempt, error) {
	d := decoder{b: rec, op: "read_attempt"}
	a := d.attempt(id)
	return a, d.err
}
