package rules_test

import (
	"fmt"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

const (
	start = flowfabric.Millis(1_000_000)
	ttl   = int64(30_000)

	// stranger names a lease or an attempt that never was.
	stranger = "ffffffff-0000-4000-8000-000000000000"
)

var parts = flowfabric.DefaultPartitionConfig()

// tester is what the helpers need of a test, be it of the standard library or of
// rapid.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// world is one execution with the clock and what its transitions did.
type world struct {
	t    tester
	s    *rules.State
	now  flowfabric.Millis
	fx   rules.Effects // of the last transition
	logs []flowfabric.Event
	past []flowfabric.Attempt // superseded attempts in order
	n    int                  // mints identifiers
}

type createOption func(*flowfabric.CreateExecutionArgs)

func withPolicy(doc string) createOption {
	return func(a *flowfabric.CreateExecutionArgs) { a.Policy = []byte(doc) }
}

func createArgs(opts ...createOption) flowfabric.CreateExecutionArgs {
	a := flowfabric.CreateExecutionArgs{Namespace: "acme", LaneID: "default", Kind: "email.send",
		Payload: []byte(`{"to":"x"}`), CreatorIdentity: "tester"}
	for _, o := range opts {
		o(&a)
	}
	return a
}

// newWorld creates an execution at start.
func newWorld(t tester, opts ...createOption) *world {
	t.Helper()
	p, err := rules.PrepareCreate(createArgs(opts...), parts, nil)
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	w := &world{t: t, now: start}
	w.s, w.fx = rules.Create(p, w.now)
	w.check()
	return w
}

func (w *world) check() {
	w.t.Helper()
	if err := rules.Check(w.s); err != nil {
		w.t.Fatal(err)
	}
}

// did keeps the effects of a transition.
func (w *world) did(fx rules.Effects) {
	w.t.Helper()
	w.check()
	if fx.Err != nil {
		w.t.Fatal(fx.Err)
	}
	w.fx = fx
	w.logs = append(w.logs, fx.Events...)
	if fx.Superseded != nil {
		w.past = append(w.past, *fx.Superseded)
	}
}

func (w *world) uuid() string {
	w.n++
	return fmt.Sprintf("00000000-0000-4000-8000-%012d", w.n)
}

func (w *world) input() rules.ClaimInput {
	return rules.ClaimInput{LaneID: "default", WorkerID: "w", WorkerInstanceID: "w-1", LeaseTTLMs: ttl,
		LeaseID: flowfabric.LeaseID(w.uuid()), AttemptID: flowfabric.AttemptID(w.uuid()), IssuedBy: flowfabric.IssuedByDirect}
}

func (w *world) claim() flowfabric.ClaimedExecution {
	w.t.Helper()
	return w.claimWith(w.input())
}

func (w *world) claimWith(in rules.ClaimInput) flowfabric.ClaimedExecution {
	w.t.Helper()
	c, fx, err := rules.GrantAndClaim(w.s, in, w.now)
	if err != nil {
		w.t.Fatalf("claim: %v", err)
	}
	w.did(fx)
	return c.Task
}

// grant issues a grant to worker w and returns its id.
func (w *world) grant(ttlMs int64) string {
	w.t.Helper()
	id := "g-" + w.uuid()
	_, fx, err := rules.OfferGrant(w.s, rules.GrantInput{GrantID: id, LaneID: "default", WorkerID: "w", WorkerInstanceID: "w-1",
		TTLMs: ttlMs, IssuedBy: flowfabric.IssuedByScheduler}, w.now)
	if err != nil {
		w.t.Fatalf("grant: %v", err)
	}
	w.did(fx)
	return id
}

func (w *world) consume(grantID string, expect flowfabric.ClaimExpect) (flowfabric.ClaimedExecution, error) {
	w.t.Helper()
	in := w.input()
	in.GrantID, in.Expect = grantID, expect
	c, fx, err := rules.ClaimGranted(w.s, in, w.now)
	w.did(fx)
	return c.Task, err
}

func (w *world) complete(f flowfabric.Fence) error {
	w.t.Helper()
	_, fx, err := rules.Complete(w.s, flowfabric.CompleteExecutionArgs{Fence: f, Result: []byte("done")}, w.now)
	w.did(fx)
	return err
}

func (w *world) fail(f flowfabric.Fence, category string) flowfabric.FailExecutionResult {
	w.t.Helper()
	r, fx, err := rules.Fail(w.s, flowfabric.FailExecutionArgs{Fence: f, Reason: "boom", Category: category}, w.now, nil)
	if err != nil {
		w.t.Fatalf("fail: %v", err)
	}
	w.did(fx)
	return r
}

func (w *world) cancel(src flowfabric.Source, f flowfabric.Fence) (flowfabric.CancelExecutionResult, error) {
	w.t.Helper()
	r, fx, err := rules.Cancel(w.s, flowfabric.CancelExecutionArgs{Fence: f, Source: src, Reason: "stop"}, w.now)
	w.did(fx)
	return r, err
}

// tick runs duties until none is due and returns them in order.
func (w *world) tick() (ran []rules.Duty) {
	w.t.Helper()
	for {
		d := rules.NextDuty(w.s, w.now)
		if d == rules.DutyNone || d == rules.DutyRetention {
			return ran
		}
		fx := rules.RunDuty(w.s, d, w.now, nil)
		if !fx.Changed {
			w.t.Fatalf("duty %s is due but changes nothing", d)
		}
		w.did(fx)
		ran = append(ran, d)
	}
}

// vector renders the state as phase/ownership/eligibility/reason/outcome/attempt.
func (w *world) vector() string {
	v := w.s.Exec.StateVector
	return fmt.Sprintf("%s/%s/%s/%s/%s/%s=%s", v.LifecyclePhase, v.OwnershipState, v.EligibilityState, v.BlockingReason,
		v.TerminalOutcome, v.AttemptState, v.PublicState)
}

func (w *world) wantVector(want string) {
	w.t.Helper()
	if got := w.vector(); got != want {
		w.t.Errorf("state\n got %s\nwant %s", got, want)
	}
}

func (w *world) kinds() (out []string) {
	for _, e := range w.logs {
		out = append(out, e.Kind)
	}
	return out
}

// count tells how often a kind of event was recorded.
func (w *world) count(kind string) (n int) {
	for _, e := range w.logs {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

func wantCode(t tester, err error, code flowfabric.Code) {
	t.Helper()
	if got := flowfabric.CodeOf(err); got != code {
		t.Errorf("error %v, want code %s", err, code)
	}
}

func wantDetail(t tester, err error, key string, want any) {
	t.Helper()
	e := flowfabric.AsError(err)
	if e == nil {
		t.Errorf("error %v has no details", err)
		return
	}
	if got := e.Detail(key); got != want {
		t.Errorf("detail %s of %v is %v (%T), want %v (%T)", key, err, got, got, want, want)
	}
}

const (
	vWaiting   = "runnable/unowned/eligible_now/waiting_for_worker/none/pending_first_attempt=waiting"
	vActive    = "active/leased/not_applicable/none/none/running_attempt=active"
	vLapsed    = "active/lease_expired_reclaimable/not_applicable/waiting_for_worker/none/attempt_interrupted=active"
	vRevoked   = "active/lease_revoked/not_applicable/waiting_for_worker/none/attempt_interrupted=active"
	vCompleted = "terminal/unowned/not_applicable/none/success/attempt_terminal=completed"
	vFailed    = "terminal/unowned/not_applicable/none/failed/attempt_terminal=failed"
	vCancelled = "terminal/unowned/not_applicable/none/cancelled/attempt_terminal=cancelled"
	vExpired   = "terminal/unowned/not_applicable/none/expired/attempt_terminal=expired"
	vBackoff   = "runnable/unowned/not_eligible_until_time/waiting_for_retry_backoff/none/pending_retry_attempt=delayed"
	vPaused    = "runnable/unowned/not_eligible_until_time/waiting_for_delay/none/attempt_interrupted=delayed"
	vReplayed  = "runnable/unowned/eligible_now/waiting_for_worker/none/pending_replay_attempt=waiting"
)
