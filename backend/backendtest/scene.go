package backendtest

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
)

// The names every scenario uses unless it says otherwise.
const (
	testNamespace flowfabric.Namespace = "test"
	testLane      flowfabric.LaneID    = "work"
	testTTL       int64                = 30_000
	testPartition uint16               = 7
)

// scene is one scenario's stage: the deployment and the verbs and assertions with
// which a scenario reads like the sentence of the specification.
type scene struct {
	t   *testing.T
	ctx context.Context
	Harness
}

func newScene(t *testing.T, h Harness) *scene {
	t.Helper()
	if h.Backend == nil {
		t.Fatal("harness without a backend")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return &scene{t: t, ctx: ctx, Harness: h}
}

// with returns a scene on another deployment.
func (s *scene) with(o Options) *scene {
	s.t.Helper()
	if s.With == nil {
		s.t.Skip("the harness opens no deployment with other settings")
	}
	other := newScene(s.t, s.With(s.t, o))
	other.seed()
	return other
}

// store returns the store for engine steps, or skips the scenario.
func (s *scene) store() flowfabric.Store {
	s.t.Helper()
	if s.Store == nil {
		s.t.Skip("the harness gives no store for engine steps")
	}
	return s.Store
}

func (s *scene) needClock() {
	s.t.Helper()
	if s.Clock == nil {
		s.t.Skip("the store's clock cannot be moved")
	}
}

func (s *scene) now() flowfabric.Millis {
	s.t.Helper()
	s.needClock()
	return s.Clock.NowMillis()
}

func (s *scene) advance(ms int64) {
	s.t.Helper()
	s.needClock()
	s.Clock.Advance(time.Duration(ms) * time.Millisecond)
}

// advanceTo moves the clock to an instant; it never moves it back.
func (s *scene) advanceTo(at flowfabric.Millis) {
	s.t.Helper()
	s.advance(max(0, int64(at-s.now())))
}

// tick lets the engine act on everything that is due.
func (s *scene) tick() {
	s.t.Helper()
	for range 200 {
		r, err := s.store().Tick(s.ctx, flowfabric.TickArgs{})
		s.ok(err)
		if r.Errors > 0 {
			s.t.Fatalf("tick met %d errors: %+v", r.Errors, r)
		}
		if !r.More {
			return
		}
	}
	s.t.Fatal("the tick never comes to an end")
}

// ---- assertions ----

func (s *scene) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("unexpected error: %v%s", err, details(err))
	}
}

// assertCode fails unless err carries the code, with the class and the
// retryability of the table.
func (s *scene) assertCode(err error, code flowfabric.Code) *flowfabric.Error {
	s.t.Helper()
	if err == nil {
		s.t.Fatalf("no error, want %s", code)
	}
	e := flowfabric.AsError(err)
	if e == nil {
		s.t.Fatalf("error %v (%T) carries no code, want %s", err, err, code)
	}
	if e.Code != code {
		s.t.Fatalf("error is %v%s, want %s", err, details(err), code)
	}
	info, _ := code.Info()
	if e.Class != info.Class || e.Retryable != info.Retryable {
		s.t.Fatalf("%s has class %s, retryable %t; the table says %s, %t", code, e.Class, e.Retryable, info.Class, info.Retryable)
	}
	return e
}

// assertField fails unless err is invalid_input naming the field.
func (s *scene) assertField(err error, field string) {
	s.t.Helper()
	e := s.assertCode(err, flowfabric.CodeInvalidInput)
	if got := fmt.Sprint(e.Detail("field")); !strings.Contains(got, field) {
		s.t.Fatalf("invalid_input names field %q, want %q (%v)", got, field, err)
	}
}

// assertMentions fails unless the message or a detail of err contains the text.
func (s *scene) assertMentions(err error, text string) {
	s.t.Helper()
	if !strings.Contains(err.Error()+details(err), text) {
		s.t.Fatalf("error %v%s does not mention %q", err, details(err), text)
	}
}

// assertDetail compares one detail of an error; numbers compare by value, since
// they travel as JSON.
func (s *scene) assertDetail(err error, key string, want any) {
	s.t.Helper()
	e := flowfabric.AsError(err)
	if e == nil {
		s.t.Fatalf("error %v has no details", err)
	}
	if got := plain(e.Detail(key)); got != plain(want) {
		s.t.Fatalf("detail %s is %s, want %s (%v)", key, got, plain(want), err)
	}
}

func plain(v any) string {
	if v == nil {
		return ""
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return strings.Trim(string(b), `"`)
}

func details(err error) string {
	if e := flowfabric.AsError(err); e != nil && len(e.Details) > 0 {
		return " " + plain(e.Details)
	}
	return ""
}

// equal fails when got differs from want.
func (s *scene) equal(what string, got, want any) {
	s.t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty(), sameTokens); d != "" {
		s.t.Fatalf("%s differs (-want +got):\n%s", what, d)
	}
}

// sameTokens compares tokens by what they are; they print redacted.
var sameTokens = cmp.Comparer(func(a, b flowfabric.WaitpointToken) bool { return a == b })

// that fails with the text unless the condition holds.
func (s *scene) that(cond bool, format string, args ...any) {
	s.t.Helper()
	if !cond {
		s.t.Fatalf(format, args...)
	}
}

// ---- creating ----

type createOption func(*flowfabric.CreateExecutionArgs)

func withID(id flowfabric.ExecutionID) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.ExecutionID = id }
}
func withLane(l flowfabric.LaneID) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.LaneID = l }
}
func withNamespace(ns flowfabric.Namespace) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.Namespace = ns }
}
func withKind(k string) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.Kind = k }
}
func withPayload(p []byte) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.Payload = p }
}
func withPolicy(doc string) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.Policy = json.RawMessage(doc) }
}
func withPriority(p int32) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.Priority = &p }
}
func withDelayUntil(at flowfabric.Millis) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.DelayUntil = at }
}
func withDeadline(at flowfabric.Millis) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.ExecutionDeadlineAt = at }
}
func withKey(k string) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.IdempotencyKey = k }
}
func withTags(kv ...string) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.Tags = tags(kv...) }
}
func withCapabilities(tokens ...string) createOption {
	b, _ := json.Marshal(map[string]any{"routing_requirements": map[string]any{"required_capabilities": tokens}})
	return withPolicy(string(b))
}

// onPartition gives the execution a new identifier on one partition, so that the
// order of a lane is strict in every store.
func onPartition(n uint16) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.ExecutionID = idOn(n) }
}

func idOn(n uint16) flowfabric.ExecutionID { return flowfabric.MakeExecutionID(n, uuid.New()) }

func tags(kv ...string) map[string]string {
	m := make(map[string]string, len(kv)/2)
	for i := 0; i+1 < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

func createArgs(opts ...createOption) flowfabric.CreateExecutionArgs {
	a := flowfabric.CreateExecutionArgs{
		Namespace:       testNamespace,
		LaneID:          testLane,
		Kind:            "task",
		Payload:         []byte(`{"n":1}`),
		CreatorIdentity: "tester",
	}
	for _, o := range opts {
		o(&a)
	}
	return a
}

func (s *scene) tryCreate(opts ...createOption) (flowfabric.CreateExecutionResult, error) {
	return flowfabric.CreateExecution(s.ctx, s.Backend, createArgs(opts...))
}

// create creates an execution that did not exist yet.
func (s *scene) create(opts ...createOption) flowfabric.ExecutionID {
	s.t.Helper()
	r, err := s.tryCreate(opts...)
	s.ok(err)
	s.equal("outcome of the create", r.Outcome, flowfabric.OutcomeCreated)
	return r.ExecutionID
}

// ---- workers ----

type worker struct {
	id       flowfabric.WorkerID
	instance flowfabric.WorkerInstanceID
	caps     []string
}

var (
	workerA = worker{id: "pool-a", instance: "a-1"}
	workerB = worker{id: "pool-b", instance: "b-1"}
)

func (w worker) can(caps ...string) worker {
	w.caps = caps
	return w
}

func (w worker) as(instance flowfabric.WorkerInstanceID) worker {
	w.instance = instance
	return w
}

// directArgs is a fused grant and claim of one named execution.
func directArgs(id flowfabric.ExecutionID, w worker) flowfabric.IssueGrantAndClaimArgs {
	return flowfabric.IssueGrantAndClaimArgs{
		ExecutionID: id, WorkerID: w.id, WorkerInstanceID: w.instance, Capabilities: w.caps,
		LeaseID: flowfabric.NewLeaseID(), AttemptID: flowfabric.NewAttemptID(), LeaseTTLMs: testTTL,
	}
}

func (s *scene) tryClaim(id flowfabric.ExecutionID, w worker) (flowfabric.ClaimedExecution, error) {
	return s.Backend.IssueGrantAndClaim(s.ctx, directArgs(id, w))
}

// claimBy lets a worker take, resume or reclaim the named execution.
func (s *scene) claimBy(id flowfabric.ExecutionID, w worker) flowfabric.ClaimedExecution {
	s.t.Helper()
	task, err := s.tryClaim(id, w)
	s.ok(err)
	return task
}

func (s *scene) claim(id flowfabric.ExecutionID) flowfabric.ClaimedExecution {
	s.t.Helper()
	return s.claimBy(id, workerA)
}

// createClaimed creates an execution and lets worker A claim it.
func (s *scene) createClaimed(opts ...createOption) (flowfabric.ExecutionID, flowfabric.ClaimedExecution) {
	s.t.Helper()
	id := s.create(opts...)
	return id, s.claim(id)
}

func grantArgs(id flowfabric.ExecutionID, w worker, ttl int64) flowfabric.IssueClaimGrantArgs {
	return flowfabric.IssueClaimGrantArgs{
		ExecutionID: id, LaneID: testLane, WorkerID: w.id, WorkerInstanceID: w.instance,
		Capabilities: w.caps, GrantTTLMs: ttl, IssuedBy: flowfabric.IssuedByScheduler,
	}
}

func (s *scene) grant(id flowfabric.ExecutionID, w worker) flowfabric.Grant {
	s.t.Helper()
	g, err := s.store().IssueClaimGrant(s.ctx, grantArgs(id, w, 5000))
	s.ok(err)
	return g
}

func consumeArgs(g flowfabric.Grant, w worker) flowfabric.ClaimGrantedArgs {
	return flowfabric.ClaimGrantedArgs{
		ExecutionID: g.ExecutionID, GrantID: g.GrantID, LaneID: g.LaneID, WorkerID: w.id, WorkerInstanceID: w.instance,
		Capabilities: w.caps, LeaseID: flowfabric.NewLeaseID(), AttemptID: flowfabric.NewAttemptID(), LeaseTTLMs: testTTL,
	}
}

func (s *scene) consume(g flowfabric.Grant, w worker) (flowfabric.ClaimedExecution, error) {
	return s.Backend.ClaimGranted(s.ctx, consumeArgs(g, w))
}

func tasksArgs(w worker, n int) flowfabric.ClaimTasksArgs {
	return flowfabric.ClaimTasksArgs{
		WorkerID: w.id, WorkerInstanceID: w.instance, Lanes: []flowfabric.LaneID{testLane}, Capabilities: w.caps,
		MaxTasks: n, LeaseTTLMs: testTTL,
	}
}

// takeTasks lets a worker ask for up to n tasks.
func (s *scene) takeTasks(w worker, n int) []flowfabric.ClaimedExecution {
	s.t.Helper()
	r, err := s.Backend.ClaimTasks(s.ctx, tasksArgs(w, n))
	s.ok(err)
	return r.Tasks
}

func askArgs(w worker) flowfabric.ClaimForWorkerArgs {
	return flowfabric.ClaimForWorkerArgs{
		WorkerID: w.id, WorkerInstanceID: w.instance, Lanes: []flowfabric.LaneID{testLane}, Capabilities: w.caps, GrantTTLMs: 5000,
	}
}

// ask lets a worker ask the scheduler for a grant; nil means no work.
func (s *scene) ask(w worker) *flowfabric.Grant {
	s.t.Helper()
	r, err := s.Backend.ClaimForWorker(s.ctx, askArgs(w))
	s.ok(err)
	return r.Grant
}

// registerArgs is an explicit registration in the namespace of the tests.
func registerArgs(w worker, nonce string) flowfabric.RegisterWorkerArgs {
	return flowfabric.RegisterWorkerArgs{
		Namespace: testNamespace, WorkerID: w.id, WorkerInstanceID: w.instance,
		Lanes: []flowfabric.LaneID{testLane}, Capabilities: w.caps, InstanceNonce: nonce,
	}
}

func (s *scene) register(w worker) string {
	s.t.Helper()
	nonce := uuid.NewString()
	_, err := s.Backend.RegisterWorker(s.ctx, registerArgs(w, nonce))
	s.ok(err)
	return nonce
}

// ---- ending and giving up ----

func (s *scene) tryComplete(id flowfabric.ExecutionID, f flowfabric.Fence) (flowfabric.CompleteExecutionResult, error) {
	return flowfabric.CompleteExecution(s.ctx, s.Backend, flowfabric.CompleteExecutionArgs{ExecutionID: id, Fence: f})
}

func (s *scene) complete(task flowfabric.ClaimedExecution) {
	s.t.Helper()
	r, err := s.tryComplete(task.ExecutionID, task.Fence)
	s.ok(err)
	s.equal("public state after complete", r.PublicState, flowfabric.PublicCompleted)
}

func (s *scene) completeWith(task flowfabric.ClaimedExecution, result []byte) {
	s.t.Helper()
	_, err := flowfabric.CompleteExecution(s.ctx, s.Backend, flowfabric.CompleteExecutionArgs{
		ExecutionID: task.ExecutionID, Fence: task.Fence, Result: result,
	})
	s.ok(err)
}

func (s *scene) tryFail(task flowfabric.ClaimedExecution, category string) (flowfabric.FailExecutionResult, error) {
	return s.Backend.FailExecution(s.ctx, flowfabric.FailExecutionArgs{
		ExecutionID: task.ExecutionID, Fence: task.Fence, Reason: "boom", Category: category,
	})
}

func (s *scene) fail(task flowfabric.ClaimedExecution, category string) flowfabric.FailExecutionResult {
	s.t.Helper()
	r, err := s.tryFail(task, category)
	s.ok(err)
	return r
}

func (s *scene) operatorCancel(id flowfabric.ExecutionID) flowfabric.CancelExecutionResult {
	s.t.Helper()
	r, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{
		ExecutionID: id, Source: flowfabric.SourceOperatorOverride, Reason: "no longer wanted",
	})
	s.ok(err)
	return r
}

// delay gives the execution up for some time.
func (s *scene) delay(task flowfabric.ClaimedExecution, ms int64) flowfabric.DelayExecutionResult {
	s.t.Helper()
	r, err := s.Backend.DelayExecution(s.ctx, flowfabric.DelayExecutionArgs{
		ExecutionID: task.ExecutionID, Fence: task.Fence, DelayMs: &ms,
	})
	s.ok(err)
	return r
}

// promote moves the clock to the end of the delay and promotes the execution.
func (s *scene) promote(id flowfabric.ExecutionID) {
	s.t.Helper()
	s.advanceTo(s.describe(id).DelayUntil)
	out, err := s.store().PromoteDelayed(s.ctx, id)
	s.ok(err)
	s.equal("outcome of the promotion", out, flowfabric.UpkeepPromoted)
}

func (s *scene) revoke(id flowfabric.ExecutionID) {
	s.t.Helper()
	r, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id})
	s.ok(err)
	s.equal("outcome of the revocation", r.Outcome, flowfabric.RevokeRevoked)
}

// lapse moves the clock to the lease's deadline and marks it expired.
func (s *scene) lapse(task flowfabric.ClaimedExecution) {
	s.t.Helper()
	s.advanceTo(task.LeaseExpiresAt)
	r, err := s.store().MarkLeaseExpiredIfDue(s.ctx, task.ExecutionID)
	s.ok(err)
	s.equal("outcome of the lapse", r.Outcome, flowfabric.UpkeepMarkedExpired)
}

func (s *scene) pause(id flowfabric.ExecutionID) {
	s.t.Helper()
	_, err := s.Backend.PauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id, Detail: "hold it"})
	s.ok(err)
}

func (s *scene) renew(task flowfabric.ClaimedExecution, ttl int64) (flowfabric.RenewLeaseResult, error) {
	return flowfabric.RenewLease(s.ctx, s.Backend, flowfabric.RenewLeaseArgs{
		ExecutionID: task.ExecutionID, Fence: task.Fence, LeaseTTLMs: ttl,
	})
}

// ---- looking ----

// describe returns the snapshot of an execution that exists.
func (s *scene) describe(id flowfabric.ExecutionID) *flowfabric.ExecutionSnapshot {
	s.t.Helper()
	snap, err := s.Backend.DescribeExecution(s.ctx, id)
	s.ok(err)
	s.that(snap != nil, "execution %s does not exist", id)
	return snap
}

// vector returns the state vector of an execution; an absent blocking reason is
// "none".
func (s *scene) vector(id flowfabric.ExecutionID) flowfabric.StateVector {
	s.t.Helper()
	v := vectorOf(s.describe(id))
	if rule := checkVector(v); rule != "" {
		s.t.Fatalf("the vector breaks rule %s: %+v", rule, v)
	}
	return v
}

func vectorOf(d *flowfabric.ExecutionSnapshot) flowfabric.StateVector {
	v := flowfabric.StateVector{
		LifecyclePhase: d.LifecyclePhase, OwnershipState: d.OwnershipState, EligibilityState: d.EligibilityState,
		BlockingReason: d.BlockingReason, TerminalOutcome: d.TerminalOutcome, AttemptState: d.AttemptState, PublicState: d.PublicState,
	}
	if v.BlockingReason == "" {
		v.BlockingReason = flowfabric.ReasonNone
	}
	return v
}

// is fails unless the execution's vector is the one given.
func (s *scene) is(id flowfabric.ExecutionID, want flowfabric.StateVector) {
	s.t.Helper()
	s.equal("state vector", s.vector(id), want)
}

// record returns the whole record of an execution, which a server does not show.
func (s *scene) record(id flowfabric.ExecutionID) *flowfabric.Execution {
	s.t.Helper()
	from := flowfabric.Executions(s.Backend)
	if s.Remote {
		from = s.store()
	}
	rec, err := from.GetExecution(s.ctx, id)
	s.ok(err)
	return rec
}

func (s *scene) publicState(id flowfabric.ExecutionID) flowfabric.PublicState {
	s.t.Helper()
	return s.describe(id).PublicState
}

func (s *scene) attempt(id flowfabric.ExecutionID, index uint32) *flowfabric.Attempt {
	s.t.Helper()
	a, err := s.Backend.GetAttempt(s.ctx, id, index)
	s.ok(err)
	return a
}

func (s *scene) attempts(id flowfabric.ExecutionID) []flowfabric.Attempt {
	s.t.Helper()
	r, err := s.Backend.ListAttempts(s.ctx, flowfabric.ListAttemptsArgs{ExecutionID: id, Limit: 1000})
	s.ok(err)
	return r.Attempts
}

func (s *scene) lease(id flowfabric.ExecutionID) *flowfabric.Lease {
	s.t.Helper()
	l, err := s.Backend.GetLease(s.ctx, id)
	s.ok(err)
	return l
}

// noLease fails unless the execution has no lease record.
func (s *scene) noLease(id flowfabric.ExecutionID) {
	s.t.Helper()
	_, err := s.Backend.GetLease(s.ctx, id)
	s.assertCode(err, flowfabric.CodeLeaseNotFound)
}

// history returns the kinds, with reasons, of the lease events of an execution:
// "acquired(direct)", "released(completed)", "expired".
func (s *scene) history(id flowfabric.ExecutionID) []string {
	s.t.Helper()
	var out []string
	for _, e := range s.leaseEvents(id) {
		out = append(out, eventLabel(e))
	}
	return out
}

func eventLabel(e flowfabric.Event) string {
	if e.Reason == "" {
		return e.Kind
	}
	return e.Kind + "(" + e.Reason + ")"
}

func (s *scene) leaseEvents(id flowfabric.ExecutionID) []flowfabric.Event {
	s.t.Helper()
	r, err := s.Backend.GetLeaseHistory(s.ctx, flowfabric.LeaseHistoryArgs{ExecutionID: id, Limit: 1000})
	s.ok(err)
	return r.Events
}

// events reads everything a feed keeps about one execution.
func (s *scene) events(feed flowfabric.Feed, id flowfabric.ExecutionID) []flowfabric.Event {
	s.t.Helper()
	return s.readAll(flowfabric.ReadFeedArgs{Feed: feed, Start: flowfabric.FeedStartEarliest, Filter: flowfabric.FeedFilter{ExecutionID: id}})
}

// readAll follows a feed to its present end.
func (s *scene) readAll(a flowfabric.ReadFeedArgs) []flowfabric.Event {
	s.t.Helper()
	var out []flowfabric.Event
	for range 10_000 {
		r, err := s.Backend.ReadFeed(s.ctx, a)
		s.ok(err)
		out = append(out, r.Events...)
		if !r.HasMore {
			return out
		}
		a.Start = r.NextCursor
	}
	s.t.Fatal("the feed never comes to an end")
	return nil
}

// held returns the executions an instance holds, in the order of the listing.
func (s *scene) held(instance flowfabric.WorkerInstanceID) []flowfabric.ExecutionID {
	s.t.Helper()
	r, err := s.Backend.ListWorkerLeases(s.ctx, flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: instance, Limit: 1000})
	s.ok(err)
	return taskIDs(r.Tasks)
}

func taskIDs(tasks []flowfabric.ClaimedExecution) []flowfabric.ExecutionID {
	var ids []flowfabric.ExecutionID
	for _, t := range tasks {
		ids = append(ids, t.ExecutionID)
	}
	return ids
}

// eligible returns what a worker of any capability could claim on a lane, in
// claim order, without claiming it.
func (s *scene) eligible(caps ...string) []flowfabric.ExecutionID {
	s.t.Helper()
	ids, err := s.store().ListEligible(s.ctx, flowfabric.ListEligibleArgs{LaneID: testLane, Capabilities: caps, Limit: 1000})
	s.ok(err)
	return ids
}

// listed returns the identifiers of one partition.
func (s *scene) listed(partition uint16) []flowfabric.ExecutionID {
	s.t.Helper()
	r, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: partition, Limit: 1000})
	s.ok(err)
	return summaryIDs(r.Executions)
}

func summaryIDs(rows []flowfabric.ExecutionSummary) []flowfabric.ExecutionID {
	var ids []flowfabric.ExecutionID
	for _, r := range rows {
		ids = append(ids, r.ExecutionID)
	}
	return ids
}

func contains(ids []flowfabric.ExecutionID, id flowfabric.ExecutionID) bool {
	return slices.Contains(ids, id)
}

// visible is everything one can see of an execution.
type visible struct {
	Snapshot *flowfabric.ExecutionSnapshot
	Record   *flowfabric.Execution
	Attempts []flowfabric.Attempt
	Lease    *flowfabric.Lease
	History  []flowfabric.Event
	Endings  []flowfabric.Event
	Result   flowfabric.ExecutionResult

	Suspension *flowfabric.Suspension
	Waitpoints []flowfabric.Waitpoint
	Signals    []flowfabric.RecordedSignal
}

func (s *scene) visible(id flowfabric.ExecutionID) visible {
	s.t.Helper()
	var v visible
	var err error
	v.Snapshot = s.describe(id)
	v.Record = s.record(id)
	v.Attempts = s.attempts(id)
	v.Lease, err = s.Backend.GetLease(s.ctx, id)
	if err != nil {
		s.assertCode(err, flowfabric.CodeLeaseNotFound)
		v.Lease = nil
	}
	v.History = s.leaseEvents(id)
	v.Endings = s.events(flowfabric.FeedCompletions, id)
	v.Result, err = s.Backend.GetExecutionResult(s.ctx, id)
	s.ok(err)
	v.Suspension, err = s.Backend.GetSuspension(s.ctx, id)
	s.ok(err)
	v.Waitpoints = s.listWaitpoints(id)
	v.Signals = s.signals(id)
	return v
}

// unchanged runs f and fails if anything one can see of the execution changed.
func (s *scene) unchanged(id flowfabric.ExecutionID, f func()) {
	s.t.Helper()
	before := s.visible(id)
	f()
	after := s.visible(id)
	if d := cmp.Diff(before, after, cmpopts.EquateEmpty(), cmp.FilterPath(isCursor, cmp.Ignore())); d != "" {
		s.t.Fatalf("the execution changed (-before +after):\n%s", d)
	}
}

func isCursor(p cmp.Path) bool {
	f, ok := p.Last().(cmp.StructField)
	return ok && f.Name() == "Cursor" && p.Index(-2).Type() == reflect.TypeFor[flowfabric.Event]()
}

// facts sets values side by side, with a space between any two, so that several
// can be compared at once.
func facts(v ...any) string { return strings.TrimSuffix(fmt.Sprintln(v...), "\n") }

func ptr[T any](v T) *T { return &v }

// strangeFence is a well-formed fence that names no lease of anything.
func strangeFence() flowfabric.Fence {
	return flowfabric.Fence{LeaseID: flowfabric.NewLeaseID(), LeaseEpoch: 1, AttemptID: flowfabric.NewAttemptID()}
}
