package valkey

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// hash is a hash as the store answers it: name, value, name, value.
type hash []string

// get returns a field and whether it is there; an empty one counts as absent.
func (h hash) get(name string) (string, bool) {
	for i := 0; i+1 < len(h); i += 2 {
		if h[i] == name {
			return h[i+1], h[i+1] != ""
		}
	}
	return "", false
}

// inText stands in core for a value that lies in the text hash.
const inText = "@"

func corrupt(op, field, format string, args ...any) *flowfabric.Error {
	return flowfabric.NewError(flowfabric.CodeCorruptRecord, "%s: %s: %s", op, field, fmt.Sprintf(format, args...)).
		With("field", field).With("operation", op)
}

// decoder reads values of one record; the first fault sticks and names the field.
type decoder struct {
	op   string
	text hash
	err  error
}

func (d *decoder) fail(field, format string, args ...any) {
	if d.err == nil {
		d.err = corrupt(d.op, field, format, args...)
	}
}

// str resolves a value that may lie in the text hash under its name in core.
func (d *decoder) str(field, name, v string) string {
	if v != inText {
		return v
	}
	v, ok := d.text.get(name)
	if !ok {
		d.fail(field, "missing in the text hash")
	}
	return v
}

func (d *decoder) int(field, v string) int64 {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		d.fail(field, "%q is no number", rules.Cut(v, 40))
	}
	return n
}

func (d *decoder) ms(field, v string) flowfabric.Millis {
	n := d.int(field, v)
	if n < 0 {
		d.fail(field, "%d is no instant", n)
	}
	return flowfabric.Millis(n)
}

// optionalMs is ms of a value that may be empty: 0.
func (d *decoder) optionalMs(field, v string) flowfabric.Millis {
	if v == "" {
		return 0
	}
	return d.ms(field, v)
}

func (d *decoder) uint(field, v string) uint64 {
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		d.fail(field, "%q is no number", rules.Cut(v, 40))
	}
	return n
}

func (d *decoder) uint32(field, v string) uint32 {
	n := d.uint(field, v)
	if n > math.MaxUint32 {
		d.fail(field, "number %d out of range", n)
	}
	return uint32(n)
}

func (d *decoder) uuid(field, v string) string {
	if v != "" && flowfabric.ValidateUUID(field, v) != nil {
		d.fail(field, "%q is no UUID", rules.Cut(v, 40))
	}
	return v
}

// source is an execution as it lies in the store. What an operation did not ask
// for is empty.
type source struct {
	core, text, tags, attempts hash
	def                        definition
}

// core holds the fields of core that do not go into the record as they are.
type core struct {
	st, reason                      string
	detail                          string
	ret                             int64
	attemptType, attemptStart       string
	attemptReason, attemptBy        string
	pause, end                      string
	suspensionID, suspendReason     string
	resumedAt                       flowfabric.Millis
	attemptID                       string
	route, admission                string
	leaseID                         string
	leaseExpires                    flowfabric.Millis
	ttl                             int64
	worker, instance                string
	capHash                         string
	previousLease                   string
	updatedAt, mutatedAt            flowfabric.Millis
	pendReason, pendBy              string
	grant, grantID                  string
	grantWorker, grantInstance      string
	grantHash, grantRoute, grantAdm string
	receipt                         string
	receiptLease, receiptAttempt    string
}

// decodeState restores the state of an execution from its hashes and its
// definition: stored fields as they are, the others derived as
// docs/valkey-layout.md says. Anything that does not make sense is
// corrupt_record naming the operation and the field.
func decodeState(op string, id flowfabric.ExecutionID, src *source) (*rules.State, error) {
	d := decoder{op: op, text: src.text}
	s := &rules.State{Policy: src.def.policy}
	if s.Policy == nil {
		s.Policy = noPolicy
	}
	x := &s.Exec
	x.ExecutionID = id
	x.Kind, x.CreatorIdentity = src.def.kind, src.def.creator
	x.IdempotencyKey, x.SpecDigest = src.def.key, src.def.digest
	x.RequiredCapabilities = rules.RequiredCapabilities(s.Policy)
	x.BudgetIDs, x.QuotaPolicyIDs, x.EstimatedUsage = s.Policy.BudgetIDs, s.Policy.QuotaPolicyIDs, s.Policy.EstimatedUsage
	c := core{ttl: flowfabric.DefaultLeaseTTLMs, ret: flowfabric.DefaultRetentionMs}
	c.read(&d, src.core, x)
	if d.err == nil {
		c.vector(&d, x)
	}
	if d.err == nil {
		c.pending(&d, x)
		c.lease(&d, s)
		c.instants(x)
		if x.LifecyclePhase == flowfabric.PhaseSuspended {
			x.CurrentSuspensionID = flowfabric.SuspensionID(c.suspensionID)
		}
		c.blocking(x)
		s.Attempt = c.attempt(&d, s, src.attempts)
		s.Grant = c.grantOf(&d, x)
		x.ReleaseReceipt = c.receiptOf(&d)
	}
	if d.err == nil {
		checkRecord(&d, x)
	}
	if d.err != nil {
		return nil, d.err
	}
	s.Tags = tagsOf(src.tags)
	return s, nil
}

func tagsOf(h hash) map[string]string {
	if len(h) == 0 {
		return nil
	}
	tags := make(map[string]string, len(h)/2)
	for i := 0; i+1 < len(h); i += 2 {
		tags[h[i]] = h[i+1]
	}
	return tags
}

// read takes the fields of core: into the record where they are fields of it,
// else into c. Fields nobody knows here are those of a later release.
func (c *core) read(d *decoder, h hash, x *flowfabric.Execution) {
	for i := 0; i+1 < len(h) && d.err == nil; i += 2 {
		name, v := h[i], h[i+1]
		if v == "" {
			continue
		}
		switch name {
		case "public_state":
			x.PublicState = flowfabric.PublicState(v)
		case "st":
			c.st = v
		case "blocking_reason":
			c.reason = v
		case "blocking_detail":
			c.detail = d.str(name, name, v)
		case "blocking_ref":
			x.BlockingRef = d.str(name, name, v)
		case "blocked_until":
			x.BlockedUntil = d.ms(name, v)
		case "blocked_since":
			x.BlockedSince = d.ms(name, v)
		case "lane_id":
			x.LaneID = flowfabric.LaneID(v)
		case "namespace":
			x.Namespace = flowfabric.Namespace(d.str(name, name, v))
		case "created_at":
			x.CreatedAt = d.ms(name, v)
		case "flow_id":
			x.FlowID = flowfabric.FlowID(d.uuid(name, v))
		case "priority":
			x.Priority = int32(d.uint32(name, v))
		case "deadline":
			x.ExecutionDeadlineAt = d.ms("execution_deadline_at", v)
		case "ret":
			c.ret = d.int("retention_ms", v)
		case "attempts":
			x.TotalAttemptCount = d.uint32("total_attempt_count", v)
		case "attempt_due":
			x.AttemptTimeoutAt = d.ms("attempt_timeout_at", v)
		case "epoch":
			x.CurrentLeaseEpoch = d.uint("current_lease_epoch", v)
		case "xa":
			x.LeaseExpiredAt = d.ms("lease_expired_at", v)
		case "ra":
			x.LeaseRevokedAt = d.ms("lease_revoked_at", v)
		case "rr":
			x.LeaseRevokeReason = d.str("lease_revoke_reason", name, v)
		case "hold":
			x.ReclaimHold = v == "1"
		case "rnb":
			x.ReclaimNotBefore = d.ms("reclaim_not_before", v)
		case "started_at":
			x.StartedAt = d.ms(name, v)
		case "completed_at":
			x.CompletedAt = d.ms(name, v)
		case "delay_until":
			x.DelayUntil = d.ms(name, v)
		case "retries":
			x.RetryCount = d.uint32("retry_count", v)
		case "reclaims":
			x.LeaseReclaimCount = d.uint32("lease_reclaim_count", v)
		case "replays":
			x.ReplayCount = d.uint32("replay_count", v)
		case "fb":
			x.FallbackIndex = d.uint32("fallback_index", v)
		case "pend":
			x.PendingAttemptType = attemptType(d, "pending_attempt_type", v)
		case "failure_reason":
			x.FailureReason = d.str(name, name, v)
		case "failure_category":
			x.FailureCategory = v
		case "cancellation_reason":
			x.CancellationReason = d.str(name, name, v)
		case "cancelled_by":
			x.CancelledBy = d.str(name, name, v)
		case "pp":
			n := int32(min(d.uint32("progress_pct", v), math.MaxInt32))
			x.ProgressPct = &n
		case "pm":
			x.ProgressMessage = d.str("progress_message", name, v)
		case "pt":
			x.ProgressUpdatedAt = d.ms("progress_updated_at", v)
		case "mm":
			x.LastCapabilityMismatchAt = d.ms("last_capability_mismatch_at", v)
		case "hf":
			x.LastHMACValidationFailedAt = d.ms("last_hmac_validation_failed_at", v)
		case "wid":
			x.CurrentWaitpointID = flowfabric.WaitpointID(d.uuid("current_waitpoint_id", v))
		case "admission_refs":
			x.AdmissionRefs = strings.Split(d.str(name, name, v), "\n")
		default:
			c.readOwn(d, name, v)
		}
	}
}

// readOwn takes the fields that the record does not show as they are.
func (c *core) readOwn(d *decoder, name, v string) {
	switch name {
	case "aid":
		c.attemptID = d.uuid("current_attempt_id", v)
	case "at":
		c.attemptType = v
	case "ast":
		c.attemptStart = v
	case "arr":
		c.attemptReason = d.str("attempt.reason", name, v)
	case "arb":
		c.attemptBy = d.str("attempt.replay_requested_by", name, v)
	case "pz":
		c.pause = v
	case "sid":
		c.suspensionID = d.uuid("current_suspension_id", v)
	case "wr":
		c.suspendReason = v
	case "rs":
		c.resumedAt = d.ms("attempt.resumed_at", v)
	case "ae":
		c.end = v
	case "route":
		c.route = d.str("attempt.route_snapshot", name, v)
	case "adm":
		c.admission = d.str("attempt.admission_summary", name, v)
	case "lease_id":
		c.leaseID = d.uuid("current_lease_id", v)
	case "lx":
		c.leaseExpires = d.ms("lease_expires_at", v)
	case "ttl":
		c.ttl = d.int("lease.ttl_ms", v)
	case "worker":
		c.worker = d.str("current_worker_id", name, v)
	case "wi":
		c.instance = d.str("current_worker_instance_id", name, v)
	case "ch":
		c.capHash = v
	case "pl":
		c.previousLease = d.uuid("lease.previous_lease_id", v)
	case "updated_at":
		c.updatedAt = d.ms("last_transition_at", v)
	case "mutated_at":
		c.mutatedAt = d.ms("last_mutation_at", v)
	case "pend_reason":
		c.pendReason = d.str("pending_reason", name, v)
	case "pend_by":
		c.pendBy = d.str("pending_requested_by", name, v)
	case "grant":
		c.grant = v
	case "grant_id":
		c.grantID = d.str("grant.grant_id", name, v)
	case "grant_worker":
		c.grantWorker = d.str("grant.worker_id", name, v)
	case "grant_instance":
		c.grantInstance = d.str("grant.worker_instance_id", name, v)
	case "grant_ch":
		c.grantHash = v
	case "grant_route":
		c.grantRoute = d.str("grant.route_snapshot", name, v)
	case "grant_adm":
		c.grantAdm = d.str("grant.admission_summary", name, v)
	case "le":
		c.receipt = v
	case "le_l":
		c.receiptLease = d.uuid("receipt.lease_id", v)
	case "le_a":
		c.receiptAttempt = d.uuid("receipt.attempt_id", v)
	}
}

// The second letter of st says what the execution's attempt does.
const (
	noAttempt     = 'n'
	pendingFirst  = 'f'
	running       = 'r'
	interrupted   = 'i'
	pendingRetry  = 't'
	pendingReplay = 'p'
	attemptEnded  = 'T'
)

// vector restores the state vector from its two letters and holds the stored
// public state against it.
func (c *core) vector(d *decoder, x *flowfabric.Execution) {
	stored := x.PublicState
	if !decodeVector(c.st, c.reason, &x.StateVector) {
		d.fail("lifecycle_phase", "state %q is none", rules.Cut(c.st, 20))
		return
	}
	if stored != x.PublicState {
		d.fail("public_state", "%q is stored, the state is %s", rules.Cut(string(stored), 40), x.PublicState)
	}
}

// decodeVector spells out the letters of a state vector; reason is the stored
// blocking reason, empty for the one that goes with the letters.
func decodeVector(st, reason string, v *flowfabric.StateVector) bool {
	if len(st) != 2 || !legalState(st[0], st[1]) {
		return false
	}
	*v = flowfabric.StateVector{LifecyclePhase: flowfabric.PhaseRunnable, OwnershipState: flowfabric.OwnershipUnowned,
		EligibilityState: flowfabric.EligibilityNotApplicable, TerminalOutcome: flowfabric.OutcomeNone, AttemptState: attemptPhaseOf(st[1])}
	switch st[0] {
	case 'W':
		v.EligibilityState, v.BlockingReason = flowfabric.EligibleNow, flowfabric.ReasonWaitingForWorker
	case 'D':
		v.EligibilityState, v.BlockingReason = flowfabric.NotEligibleUntilTime, flowfabric.ReasonWaitingForDelay
	case 'C':
		v.EligibilityState, v.BlockingReason = flowfabric.BlockedByDependencies, flowfabric.ReasonWaitingForChildren
	case 'B':
		v.EligibilityState, v.BlockingReason = flowfabric.BlockedByBudget, flowfabric.ReasonWaitingForBudget
	case 'Q':
		v.EligibilityState, v.BlockingReason = flowfabric.BlockedByQuota, flowfabric.ReasonWaitingForQuota
	case 'L':
		v.EligibilityState, v.BlockingReason = flowfabric.BlockedByLaneState, flowfabric.ReasonPausedByPolicy
	case 'O':
		v.EligibilityState, v.BlockingReason = flowfabric.BlockedByOperator, flowfabric.ReasonPausedByOperator
	case 'A':
		v.LifecyclePhase, v.OwnershipState, v.BlockingReason = flowfabric.PhaseActive, flowfabric.OwnershipLeased, flowfabric.ReasonNone
	case 'X':
		v.LifecyclePhase, v.OwnershipState = flowfabric.PhaseActive, flowfabric.OwnershipLeaseExpired
		v.BlockingReason = flowfabric.ReasonWaitingForWorker
	case 'V':
		v.LifecyclePhase, v.OwnershipState = flowfabric.PhaseActive, flowfabric.OwnershipLeaseRevoked
		v.BlockingReason = flowfabric.ReasonWaitingForWorker
	case 'S':
		v.LifecyclePhase, v.BlockingReason = flowfabric.PhaseSuspended, flowfabric.ReasonWaitingForSignal
	default:
		v.LifecyclePhase, v.BlockingReason = flowfabric.PhaseTerminal, flowfabric.ReasonNone
		v.TerminalOutcome = outcomeOf(st[0])
	}
	if reason != "" && (st[0] == 'D' || st[0] == 'S') {
		v.BlockingReason = flowfabric.BlockingReason(reason)
	}
	v.PublicState = rules.PublicState(*v)
	return true
}

func legalState(first, second byte) bool {
	switch first {
	case 'W', 'D', 'C', 'B', 'Q', 'L', 'O':
		return second == pendingFirst || second == interrupted || second == pendingRetry || second == pendingReplay
	case 'A':
		return second == running
	case 'X', 'V', 'S':
		return second == interrupted
	case 'c', 'f':
		return second == attemptEnded
	case 'x', 'e':
		return second == attemptEnded || second == pendingFirst || second == pendingReplay
	case 'k':
		return second == noAttempt || second == attemptEnded || second == pendingReplay
	}
	return false
}

func attemptPhaseOf(second byte) flowfabric.AttemptPhase {
	switch second {
	case pendingFirst:
		return flowfabric.AttemptPendingFirst
	case running:
		return flowfabric.AttemptRunning
	case interrupted:
		return flowfabric.AttemptInterrupted
	case pendingRetry:
		return flowfabric.AttemptPendingRetry
	case pendingReplay:
		return flowfabric.AttemptPendingReplay
	case attemptEnded:
		return flowfabric.AttemptTerminal
	}
	return flowfabric.AttemptNone
}

func outcomeOf(first byte) flowfabric.TerminalOutcome {
	switch first {
	case 'c':
		return flowfabric.OutcomeSuccess
	case 'f':
		return flowfabric.OutcomeFailed
	case 'x':
		return flowfabric.OutcomeCancelled
	case 'e':
		return flowfabric.OutcomeExpired
	case 'k':
		return flowfabric.OutcomeSkipped
	}
	return flowfabric.OutcomeNone
}

// phaseOf is the phase that the first letter of a state belongs to.
func phaseOf(first byte) flowfabric.LifecyclePhase {
	switch first {
	case 'W', 'D', 'C', 'B', 'Q', 'L', 'O':
		return flowfabric.PhaseRunnable
	case 'A', 'X', 'V':
		return flowfabric.PhaseActive
	case 'S':
		return flowfabric.PhaseSuspended
	}
	return flowfabric.PhaseTerminal
}

// pending fills in what the lineage of a pending attempt leaves out.
func (c *core) pending(d *decoder, x *flowfabric.Execution) {
	switch x.PendingAttemptType {
	case "":
		return
	case flowfabric.AttemptTypeReplay:
		x.PendingReason, x.PendingRequestedBy = defaultReplayReason, defaultReplayRequester
	case flowfabric.AttemptTypeRetry, flowfabric.AttemptTypeFallback:
		x.PendingReason = x.FailureReason
	default:
		d.fail("pending_attempt_type", "%s is never pending", x.PendingAttemptType)
	}
	if c.pendReason != "" {
		x.PendingReason = c.pendReason
	}
	if c.pendBy != "" {
		x.PendingRequestedBy = c.pendBy
	}
	if index, ok := x.CurrentAttemptIndex(); ok {
		x.PendingPreviousAttemptIndex = &index
	}
}

const (
	defaultReplayReason    = "manual"
	defaultReplayRequester = "operator"
)

// emptyDigest is the digest of the empty capability set, which is not stored.
var emptyDigest = flowfabric.CapabilityDigest(nil)

// lease restores the lease mirror and what belongs to the lease besides: shown
// while the lease is valid, lapsed or revoked.
func (c *core) lease(d *decoder, s *rules.State) {
	x := &s.Exec
	if x.CurrentLeaseEpoch > 0 {
		x.CurrentLane = x.LaneID
	}
	if x.LifecyclePhase != flowfabric.PhaseActive {
		x.AttemptTimeoutAt = 0 // what an ended attempt left behind
		return
	}
	if c.leaseID == "" || x.CurrentLeaseEpoch == 0 || c.instance == "" || c.leaseExpires == 0 {
		d.fail("current_lease", "a part is missing")
		return
	}
	x.CurrentLeaseID = flowfabric.LeaseID(c.leaseID)
	x.CurrentWorkerID, x.CurrentWorkerInstanceID = flowfabric.WorkerID(c.worker), flowfabric.WorkerInstanceID(c.instance)
	x.LeaseExpiresAt = c.leaseExpires
	x.LeaseLastRenewedAt = c.leaseExpires - flowfabric.Millis(c.ttl)
	x.LeaseRenewalDeadline = x.LeaseLastRenewedAt + flowfabric.Millis(2*c.ttl/3)
	x.LeaseAcquiredAt = x.StartedAt
	if at := c.startOf(d, x); at != 0 {
		x.LeaseAcquiredAt = at
	}
	kind := flowfabric.ClaimNew
	switch {
	case c.resumedAt != 0:
		kind, x.LeaseAcquiredAt = flowfabric.ClaimResume, c.resumedAt
	case c.attemptType == "c":
		kind = flowfabric.ClaimReclaim
	}
	s.Lease = rules.LeaseDetail{CapabilityHash: orEmptyDigest(c.capHash), ClaimKind: kind, PreviousLeaseID: flowfabric.LeaseID(c.previousLease),
		TTLMs: c.ttl, Deleted: x.OwnershipState == flowfabric.OwnershipLeaseRevoked}
}

func orEmptyDigest(digest string) string {
	if digest == "" {
		return emptyDigest
	}
	return digest
}

// startOf is when the current attempt started.
func (c *core) startOf(d *decoder, x *flowfabric.Execution) flowfabric.Millis {
	if c.attemptStart == "" {
		return x.StartedAt
	}
	return d.ms("attempt.started_at", c.attemptStart)
}

// instants derives those that follow from others. The record's last transition
// and last mutation are the latest of all instants it holds that stand for one.
func (c *core) instants(x *flowfabric.Execution) {
	x.LastTransitionAt = max(x.CreatedAt, c.updatedAt, x.StartedAt, x.CompletedAt, c.resumedAt, x.LeaseExpiredAt, x.LeaseRevokedAt)
	x.LastMutationAt = max(x.LastTransitionAt, c.mutatedAt, x.ProgressUpdatedAt, x.LastCapabilityMismatchAt)
	if x.OwnershipState == flowfabric.OwnershipLeased {
		x.LastMutationAt = max(x.LastMutationAt, x.LeaseLastRenewedAt)
	}
	x.TerminalSeq = uint64(x.ReplayCount)
	if x.LifecyclePhase == flowfabric.PhaseTerminal {
		x.TerminalSeq++
		x.PurgeAfter = later(x.CompletedAt, c.ret)
	}
}

// later adds a duration to an instant without overflow.
func later(at flowfabric.Millis, ms int64) flowfabric.Millis {
	if ms > 0 && at > math.MaxInt64-flowfabric.Millis(ms) {
		return math.MaxInt64
	}
	return at + flowfabric.Millis(ms)
}

// blocking derives the human text of the blocking reason, where the state says
// it all.
func (c *core) blocking(x *flowfabric.Execution) {
	x.BlockingDetail = c.detail
	switch c.st[0] {
	case 'D':
		until := strconv.FormatInt(int64(x.DelayUntil), 10)
		switch x.BlockingReason {
		case flowfabric.ReasonWaitingForDelay:
			x.BlockingDetail = "delayed until " + until
		case flowfabric.ReasonWaitingForRetryBackoff:
			x.BlockingDetail = "retry backoff until " + until + " (attempt " +
				strconv.FormatInt(int64(x.TotalAttemptCount)-1, 10) + " failed: " + x.PendingReason + ")"
		case flowfabric.ReasonWaitingForResumeDelay:
			x.BlockingDetail = "resume delay until " + until
		}
	case 'S':
		if c.detail == "" && x.CurrentWaitpointID != "" {
			x.BlockingDetail = "suspended: waitpoint " + string(x.CurrentWaitpointID) + " awaiting " + string(c.reasonCode(x.BlockingReason))
		}
	case 'X':
		x.BlockingDetail = "lease expired, awaiting reclaim"
	case 'V':
		x.BlockingDetail = "lease revoked: " + x.LeaseRevokeReason
	case 'L':
		x.BlockingDetail = "lane " + string(x.LaneID) + " is disabled"
	case 'C':
		x.BlockingDetail = "waiting for child executions to complete"
	}
}

// reasonCode is the reason code of a suspended execution, which is stored where the
// blocking reason does not say it.
func (c *core) reasonCode(blocking flowfabric.BlockingReason) flowfabric.SuspendReason {
	if c.suspendReason != "" {
		return flowfabric.SuspendReason(c.suspendReason)
	}
	return flowfabric.SuspendReason(blocking)
}

// checkRecord refuses a record that lacks what every record has.
func checkRecord(d *decoder, x *flowfabric.Execution) {
	switch {
	case x.CreatedAt == 0:
		d.fail("created_at", "missing")
	case x.LaneID.Validate() != nil:
		d.fail("lane_id", "invalid")
	case x.Namespace == "":
		d.fail("namespace", "missing")
	case x.TotalAttemptCount > 0 && x.StartedAt == 0:
		d.fail("started_at", "missing")
	case x.CurrentAttemptID != "" && x.TotalAttemptCount == 0:
		d.fail("current_attempt_index", "missing beside an attempt id")
	case x.LifecyclePhase == flowfabric.PhaseActive && x.CurrentAttemptID == "":
		d.fail("current_attempt_id", "missing beside a lease")
	case x.LifecyclePhase == flowfabric.PhaseTerminal && x.CompletedAt == 0:
		d.fail("completed_at", "missing")
	case x.LifecyclePhase == flowfabric.PhaseSuspended && x.CurrentSuspensionID == "":
		d.fail("current_suspension_id", "missing")
	case x.EligibilityState == flowfabric.NotEligibleUntilTime && x.DelayUntil == 0:
		d.fail("delay_until", "missing")
	}
}
