package backendtest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
)

// testKID and testSecret are the key that every scenario finds seeded, unless
// the store made one of its own before.
const (
	testKID    = "k1"
	testSecret = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

// seed installs a key of the waitpoint tokens in a ring that has none.
func (s *scene) seed() {
	s.t.Helper()
	if s.Store == nil {
		return
	}
	_, err := s.Store.SeedWaitpointSecret(s.ctx, testKID, testSecret)
	s.ok(err)
}

// secretOf makes a secret out of a digit.
func secretOf(digit string) string { return strings.Repeat(digit, 64) }

// rotate makes a key the current one in every copy of the ring.
func (s *scene) rotate(kid, secret string, graceMs int64) flowfabric.RotatedCopy {
	s.t.Helper()
	r, err := s.Backend.RotateWaitpointSecret(s.ctx, flowfabric.RotateWaitpointSecretArgs{NewKID: kid, NewSecretHex: secret, GraceMs: &graceMs})
	s.ok(err)
	s.equal("kid of the rotation", r.NewKID, kid)
	s.that(len(r.Copies) > 0, "a rotation of no copy")
	for _, c := range r.Copies {
		s.ok(c.Err)
		s.equal("outcome of a copy", facts(c.Outcome, c.PreviousKID, c.Removed), facts(r.Copies[0].Outcome, r.Copies[0].PreviousKID, r.Copies[0].Removed))
	}
	return r.Copies[0]
}

// kids shows the key ring: the current key, then those in their grace.
func (s *scene) kids() string {
	s.t.Helper()
	r, err := s.Backend.ListWaitpointKIDs(s.ctx)
	s.ok(err)
	out := []string{r.CurrentKID}
	for _, v := range r.Verifying {
		out = append(out, v.KID)
	}
	return strings.Join(out, " ")
}

// tokenOf is the token of specification 03, section 5.1.
func tokenOf(kid, secret string, id flowfabric.ExecutionID, w flowfabric.WaitpointID, key string) string {
	raw, _ := hex.DecodeString(secret)
	mac := hmac.New(sha256.New, raw)
	fmt.Fprintf(mac, "%s|%s|%s", id, w, key)
	return kid + ":" + hex.EncodeToString(mac.Sum(nil))
}

// address is where a signal goes: a waitpoint with its token.
type address struct {
	id        flowfabric.ExecutionID
	waitpoint flowfabric.WaitpointID
	key       string
	token     flowfabric.WaitpointToken
}

// ---- suspending ----

type suspendOption func(*flowfabric.SuspendArgs)

func timesOut(ms int64, b flowfabric.TimeoutBehavior) suspendOption {
	return func(a *flowfabric.SuspendArgs) { a.TimeoutMs, a.TimeoutBehavior = &ms, b }
}

// onPending binds pending waitpoints instead of fresh ones of the same keys.
func onPending(at ...address) suspendOption {
	return func(a *flowfabric.SuspendArgs) {
		for _, p := range at {
			for i := range a.Waitpoints {
				if a.Waitpoints[i].WaitpointKey == p.key {
					a.Waitpoints[i] = flowfabric.WaitpointBinding{WaitpointID: p.waitpoint, UsePending: true}
				}
			}
		}
	}
}

func resumes(p flowfabric.ResumePolicy) suspendOption {
	return func(a *flowfabric.SuspendArgs) { a.ResumePolicy = p }
}

func repeatable(key string) suspendOption {
	return func(a *flowfabric.SuspendArgs) { a.IdempotencyKey = key }
}

func because(r flowfabric.SuspendReason) suspendOption {
	return func(a *flowfabric.SuspendArgs) { a.ReasonCode = r }
}

// suspendArgs is a suspend on one fresh waitpoint for every key of the condition,
// or on one if it has none.
func suspendArgs(task flowfabric.ClaimedExecution, c flowfabric.ResumeCondition, opts ...suspendOption) flowfabric.SuspendArgs {
	a := flowfabric.SuspendArgs{
		ExecutionID: task.ExecutionID, Fence: task.Fence, SuspensionID: flowfabric.NewSuspensionID(),
		ResumeCondition: c, ReasonCode: flowfabric.SuspendWaitingForSignal,
	}
	keys := c.Keys()
	if len(keys) == 0 {
		keys = []string{"idle"}
	}
	for _, key := range keys {
		a.Waitpoints = append(a.Waitpoints, flowfabric.WaitpointBinding{WaitpointID: flowfabric.NewWaitpointID(), WaitpointKey: key})
	}
	for _, o := range opts {
		o(&a)
	}
	return a
}

func (s *scene) trySuspend(task flowfabric.ClaimedExecution, c flowfabric.ResumeCondition, opts ...suspendOption) (flowfabric.SuspendResult, error) {
	return s.Backend.Suspend(s.ctx, suspendArgs(task, c, opts...))
}

// suspendOn gives the lease up and waits; it returns the addresses of the
// waitpoints in the order of the keys.
func (s *scene) suspendOn(task flowfabric.ClaimedExecution, c flowfabric.ResumeCondition, opts ...suspendOption) []address {
	s.t.Helper()
	return s.suspendWith(suspendArgs(task, c, opts...))
}

// suspendWith suspends with the arguments as they are.
func (s *scene) suspendWith(a flowfabric.SuspendArgs) []address {
	s.t.Helper()
	r, err := s.Backend.Suspend(s.ctx, a)
	s.ok(err)
	s.equal("outcome of the suspend", r.Outcome, flowfabric.SuspendSuspended)
	return s.addresses(a, r)
}

// addresses checks the waitpoints of a suspend's answer against its bindings.
func (s *scene) addresses(a flowfabric.SuspendArgs, r flowfabric.SuspendResult) []address {
	s.t.Helper()
	s.equal("suspension_id", r.SuspensionID, a.SuspensionID)
	s.equal("waitpoints", len(r.Waitpoints), len(a.Waitpoints))
	out := make([]address, len(r.Waitpoints))
	for i, w := range r.Waitpoints {
		s.equal("waitpoint_id", w.WaitpointID, a.Waitpoints[i].WaitpointID)
		s.equal("token given", w.Token.Fingerprint() != "", r.Outcome == flowfabric.SuspendSuspended)
		out[i] = address{a.ExecutionID, w.WaitpointID, w.WaitpointKey, w.Token}
	}
	return out
}

// suspended creates an execution whose worker has suspended it on the condition.
func (s *scene) suspended(c flowfabric.ResumeCondition, opts ...suspendOption) (flowfabric.ExecutionID, []address) {
	s.t.Helper()
	id, task := s.createClaimed()
	return id, s.suspendOn(task, c, opts...)
}

// satisfied suspends and finds the condition met.
func (s *scene) satisfied(task flowfabric.ClaimedExecution, c flowfabric.ResumeCondition, opts ...suspendOption) flowfabric.SuspendResult {
	s.t.Helper()
	a := suspendArgs(task, c, opts...)
	r := s.satisfiedWith(a)
	s.addresses(a, r)
	return r
}

func (s *scene) satisfiedWith(a flowfabric.SuspendArgs) flowfabric.SuspendResult {
	s.t.Helper()
	r, err := s.Backend.Suspend(s.ctx, a)
	s.ok(err)
	s.equal("outcome of the suspend", r.Outcome, flowfabric.SuspendAlreadySatisfied)
	return r
}

// suspension returns the current or last suspension of an execution that has one.
func (s *scene) suspension(id flowfabric.ExecutionID) *flowfabric.Suspension {
	s.t.Helper()
	x, err := s.Backend.GetSuspension(s.ctx, id)
	s.ok(err)
	s.that(x != nil, "%s was never suspended", id)
	return x
}

// closed fails unless the last suspension ended for the reason.
func (s *scene) closed(id flowfabric.ExecutionID, reason flowfabric.SuspensionCloseReason) *flowfabric.Suspension {
	s.t.Helper()
	x := s.suspension(id)
	s.equal("close_reason", x.CloseReason, reason)
	s.that(x.ClosedAt > 0, "a close reason without closed_at")
	rec := s.record(id)
	s.equal("current suspension and waitpoint", facts(rec.CurrentSuspensionID, rec.CurrentWaitpointID), facts("", ""))
	return x
}

// stillSuspended fails unless the execution waits.
func (s *scene) stillSuspended(id flowfabric.ExecutionID, reason flowfabric.BlockingReason) {
	s.t.Helper()
	s.is(id, suspendedVector(reason))
	s.equal("closed_at of the suspension", s.suspension(id).ClosedAt, flowfabric.Millis(0))
}

func suspendedVector(reason flowfabric.BlockingReason) flowfabric.StateVector {
	return flowfabric.StateVector{
		LifecyclePhase: flowfabric.PhaseSuspended, OwnershipState: flowfabric.OwnershipUnowned, EligibilityState: flowfabric.EligibilityNotApplicable,
		BlockingReason: reason, TerminalOutcome: flowfabric.OutcomeNone, AttemptState: flowfabric.AttemptInterrupted, PublicState: flowfabric.PublicSuspended,
	}
}

func (s *scene) tryResume(id flowfabric.ExecutionID, delayMs *int64) (flowfabric.ResumeExecutionResult, error) {
	return s.Backend.ResumeExecution(s.ctx, flowfabric.ResumeExecutionArgs{ExecutionID: id, Reason: "enough", ResumeDelayMs: delayMs})
}

// resume lets an operator end the wait.
func (s *scene) resume(id flowfabric.ExecutionID) {
	s.t.Helper()
	_, err := s.tryResume(id, nil)
	s.ok(err)
}

// expire applies the timeout of a suspension.
func (s *scene) expire(id flowfabric.ExecutionID) flowfabric.ExpireSuspensionResult {
	s.t.Helper()
	r, err := s.store().ExpireSuspension(s.ctx, id)
	s.ok(err)
	return r
}

// ---- waitpoints ----

func pendingArgs(task flowfabric.ClaimedExecution, key string) flowfabric.CreatePendingWaitpointArgs {
	return flowfabric.CreatePendingWaitpointArgs{
		ExecutionID: task.ExecutionID, Fence: task.Fence, WaitpointID: flowfabric.NewWaitpointID(), WaitpointKey: key, ExpiresInMs: 60_000,
	}
}

func (s *scene) tryPending(a flowfabric.CreatePendingWaitpointArgs) (flowfabric.PendingWaitpoint, error) {
	return s.Backend.CreatePendingWaitpoint(s.ctx, a)
}

// pending makes a waitpoint before the suspend.
func (s *scene) pending(task flowfabric.ClaimedExecution, key string) address {
	s.t.Helper()
	a := pendingArgs(task, key)
	p, err := s.tryPending(a)
	s.ok(err)
	s.equal("pending waitpoint", facts(p.WaitpointID, p.WaitpointKey, p.Token.Fingerprint() != ""), facts(a.WaitpointID, key, true))
	return address{a.ExecutionID, p.WaitpointID, p.WaitpointKey, p.Token}
}

// listWaitpoints returns all open waitpoints, pending and active.
func (s *scene) listWaitpoints(id flowfabric.ExecutionID) []flowfabric.Waitpoint {
	s.t.Helper()
	r, err := s.Backend.ListPendingWaitpoints(s.ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id, Limit: 1000})
	s.ok(err)
	s.equal("cursor behind a page of everything", r.NextCursor, flowfabric.WaitpointID(""))
	return r.Waitpoints
}

// open shows the keys and states of the listed waitpoints, in the order of their
// ids.
func (s *scene) open(id flowfabric.ExecutionID) string {
	s.t.Helper()
	var out []string
	for _, w := range s.listWaitpoints(id) {
		out = append(out, w.WaitpointKey+" "+string(w.State))
	}
	return strings.Join(out, ", ")
}

func (s *scene) readToken(id flowfabric.ExecutionID, w flowfabric.WaitpointID) string {
	s.t.Helper()
	t, err := s.Backend.ReadWaitpointToken(s.ctx, id, w)
	s.ok(err)
	return t.Reveal()
}

// gone fails unless the waitpoint takes no signal any more: it is closed, or
// expired, on an execution that has not ended.
func (s *scene) gone(at address) {
	s.t.Helper()
	s.unchanged(at.id, func() {
		_, err := s.tryDeliver(at, "late")
		s.assertCode(err, flowfabric.CodeWaitpointClosed)
	})
	s.equal("token of a closed waitpoint", s.readToken(at.id, at.waitpoint), "")
}

func (s *scene) closeWaitpoint(a flowfabric.CloseWaitpointArgs) (flowfabric.CloseWaitpointOutcome, error) {
	return s.Backend.CloseWaitpoint(s.ctx, a)
}

// operatorClose lets an operator close a waitpoint.
func (s *scene) operatorClose(at address) (flowfabric.CloseWaitpointOutcome, error) {
	return s.closeWaitpoint(flowfabric.CloseWaitpointArgs{ExecutionID: at.id, WaitpointID: at.waitpoint, Source: flowfabric.SourceOperatorOverride})
}

// ---- signals ----

type signalOption func(*flowfabric.DeliverSignalArgs)

func from(sourceType, identity string) signalOption {
	return func(a *flowfabric.DeliverSignalArgs) {
		a.Signal.SourceType, a.Signal.SourceIdentity = sourceType, identity
	}
}

func withSignalID(id flowfabric.SignalID) signalOption {
	return func(a *flowfabric.DeliverSignalArgs) { a.Signal.SignalID = id }
}

// keyed gives the signal an idempotency key.
func keyed(key string) signalOption {
	return func(a *flowfabric.DeliverSignalArgs) { a.Signal.IdempotencyKey = key }
}

func remembered(ms int64) signalOption {
	return func(a *flowfabric.DeliverSignalArgs) { a.Signal.DedupTTLMs = ms }
}

func carrying(payload []byte) signalOption {
	return func(a *flowfabric.DeliverSignalArgs) { a.Signal.Payload = payload }
}

func inCategory(c string) signalOption {
	return func(a *flowfabric.DeliverSignalArgs) { a.Signal.Category = c }
}

func presenting(token string) signalOption {
	return func(a *flowfabric.DeliverSignalArgs) { a.Token = flowfabric.NewWaitpointToken(token) }
}

func signalArgs(at address, name string, opts ...signalOption) flowfabric.DeliverSignalArgs {
	a := flowfabric.DeliverSignalArgs{
		ExecutionID: at.id, WaitpointID: at.waitpoint, Token: at.token,
		Signal: flowfabric.Signal{SignalID: flowfabric.NewSignalID(), Name: name, SourceType: flowfabric.SourceTypeUser, SourceIdentity: "alice"},
	}
	for _, o := range opts {
		o(&a)
	}
	return a
}

func (s *scene) tryDeliver(at address, name string, opts ...signalOption) (flowfabric.DeliverSignalResult, error) {
	return s.Backend.DeliverSignal(s.ctx, signalArgs(at, name, opts...))
}

// deliver delivers a signal that is accepted with the effect, and returns its id.
func (s *scene) deliver(at address, name string, effect flowfabric.SignalEffect, opts ...signalOption) flowfabric.SignalID {
	s.t.Helper()
	a := signalArgs(at, name, opts...)
	r, err := s.Backend.DeliverSignal(s.ctx, a)
	s.ok(err)
	s.equal("delivery of "+name, r, flowfabric.DeliverSignalResult{
		Outcome: flowfabric.DeliverAccepted, SignalID: a.Signal.SignalID, Effect: effect, RequiresConfirmation: effect == flowfabric.EffectBuffered,
	})
	return a.Signal.SignalID
}

// duplicate delivers a signal that is taken for one seen before, and changes
// nothing.
func (s *scene) duplicate(at address, name string, first flowfabric.SignalID, effect flowfabric.SignalEffect, opts ...signalOption) {
	s.t.Helper()
	s.unchanged(at.id, func() {
		r, err := s.tryDeliver(at, name, opts...)
		s.ok(err)
		s.equal("repeated delivery of "+name, r, flowfabric.DeliverSignalResult{Outcome: flowfabric.DeliverDuplicate, SignalID: first, Effect: effect})
	})
}

// signals returns all recorded signals of an execution in their order.
func (s *scene) signals(id flowfabric.ExecutionID) []flowfabric.RecordedSignal {
	s.t.Helper()
	return s.listSignals(flowfabric.ListSignalsArgs{ExecutionID: id, Limit: 1000})
}

func (s *scene) listSignals(a flowfabric.ListSignalsArgs) []flowfabric.RecordedSignal {
	s.t.Helper()
	r, err := s.Backend.ListSignals(s.ctx, a)
	s.ok(err)
	return r.Signals
}

// effects shows names and effects of the recorded signals, in their order.
func (s *scene) effects(id flowfabric.ExecutionID) []string {
	s.t.Helper()
	var out []string
	for _, g := range s.signals(id) {
		out = append(out, g.SignalName+" "+string(g.Effect))
	}
	return out
}

func (s *scene) getSignal(id flowfabric.ExecutionID, signal flowfabric.SignalID) *flowfabric.RecordedSignal {
	s.t.Helper()
	g, err := s.Backend.GetSignal(s.ctx, id, signal)
	s.ok(err)
	return g
}

// observed returns the names of the signals that the attempt of the task sees
// after its last wait.
func (s *scene) observed(task flowfabric.ClaimedExecution) []string {
	s.t.Helper()
	var out []string
	for _, g := range s.observe(task) {
		out = append(out, g.SignalName)
	}
	return out
}

func (s *scene) observe(task flowfabric.ClaimedExecution) []flowfabric.ResumeSignal {
	s.t.Helper()
	got, err := s.Backend.ObserveSignals(s.ctx, flowfabric.ObserveSignalsArgs{ExecutionID: task.ExecutionID, AttemptID: task.Fence.AttemptID})
	s.ok(err)
	return got
}

func approvalArgs(at address, name, suffix string) flowfabric.DeliverApprovalSignalArgs {
	return flowfabric.DeliverApprovalSignalArgs{
		ExecutionID: at.id, LaneID: testLane, WaitpointID: at.waitpoint, SignalID: flowfabric.NewSignalID(), SignalName: name,
		IdempotencySuffix: suffix, DecidedBy: "carol",
	}
}

// noteRefusal runs f, a delivery whose token is refused, and fails unless all
// that changes is that the execution remembers the refusal.
func (s *scene) noteRefusal(id flowfabric.ExecutionID, f func()) {
	s.t.Helper()
	before, at := s.visible(id), s.now()
	f()
	after := s.visible(id)
	s.equal("last_hmac_validation_failed_at", after.Record.LastHMACValidationFailedAt, at)
	for _, v := range []*visible{&before, &after} {
		v.Record.LastHMACValidationFailedAt, v.Record.LastMutationAt, v.Snapshot.LastMutationAt = 0, 0, 0
	}
	if d := cmp.Diff(before, after, cmpopts.EquateEmpty(), cmp.FilterPath(isCursor, cmp.Ignore())); d != "" {
		s.t.Fatalf("the execution changed (-before +after):\n%s", d)
	}
}

// strangeAddress is a waitpoint that never was, with a well-formed token.
func strangeAddress(id flowfabric.ExecutionID) address {
	return address{id: id, waitpoint: flowfabric.NewWaitpointID(), token: flowfabric.NewWaitpointToken(testKID + ":" + secretOf("0"))}
}

// waitpointIDs returns n identifiers in ascending order.
func waitpointIDs(n int) []flowfabric.WaitpointID {
	out := make([]flowfabric.WaitpointID, n)
	tail := uuid.NewString()[8:]
	for i := range out {
		out[i] = flowfabric.WaitpointID(fmt.Sprintf("%08x%s", i+1, tail))
	}
	return out
}
