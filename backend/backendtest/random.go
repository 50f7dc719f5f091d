package backendtest

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/model"
)

// RunRandom throws the same random operations at the store and at the model of
// internal/model, with one clock for both, and compares every answer, every error
// code, and after every step all that can be seen: the snapshots and records of
// all executions, their attempts and leases, the listings, and the order in which
// claimers find work. A failure is shrunk by rapid to a short sequence.
//
// Every run throws the same operations unless -rapid.seed or the environment
// variable FLOWFABRIC_RANDOM says otherwise: scripts/fuzz does, for new ones.
func RunRandom(t *testing.T, open func(t *testing.T) Harness) {
	steadySeed(t)
	rapid.Check(t, func(rt *rapid.T) {
		h := open(t)
		if h.Store == nil || h.Clock == nil {
			t.Skip("random operations need the store's upkeep and its clock")
		}
		defer func() { _ = h.Backend.Close() }()
		r := newRandomRun(rt, t.Context(), h)
		r.sameKeys()
		if rapid.Bool().Draw(rt, "about waits") {
			r.openWaits()
			for range 2 { // waits are long stories
				rt.Repeat(r.checked(map[string]func(){"step": r.waitStep}))
			}
			r.compareVisible()
			return
		}
		rt.Repeat(r.checked(r.actions()))
	})
}

// RunRandomFewer is RunRandom with fewer runs than the usual hundred, for a store
// on which each takes long and which stands on one that makes all of them. The
// flag -rapid.checks prevails.
func RunRandomFewer(t *testing.T, runs int, open func(t *testing.T) Harness) {
	f := flag.Lookup("rapid.checks")
	if was := f.Value.String(); was == f.DefValue {
		if err := f.Value.Set(strconv.Itoa(runs)); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Value.Set(was) }()
	}
	RunRandom(t, open)
}

func steadySeed(t *testing.T) {
	f := flag.Lookup("rapid.seed")
	if f == nil || f.Value.String() != "0" || os.Getenv("FLOWFABRIC_RANDOM") != "" {
		return
	}
	if err := f.Value.Set("20261122"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Value.Set("0") })
}

// side is one of the two that are compared.
type side struct {
	name string
	flowfabric.Executions
	flowfabric.Leases
	flowfabric.Claims
	flowfabric.Workers
	flowfabric.Lanes
	flowfabric.Suspensions
	flowfabric.Waitpoints
	flowfabric.Signals
	flowfabric.Secrets
	up flowfabric.Store
	// grants are the grants issued so far; their identifiers differ between the
	// sides, their positions do not.
	grants []flowfabric.Grant
}

// randomRun is one sequence of operations.
type randomRun struct {
	rt    *rapid.T
	ctx   context.Context
	clock *Clock
	store *side
	model *side

	ids    []flowfabric.ExecutionID // of executions that may exist
	fences []flowfabric.Fence       // ever given, with their executions
	owners []flowfabric.ExecutionID
	claims []flowfabric.IssueGrantAndClaimArgs // made so far, to be repeated
	serial int
	ticked flowfabric.Millis
	gone   map[flowfabric.ExecutionID]bool // purged at least once
	parted bool                            // Harness.Partitioned
	wait   waitRun
}

func newRandomRun(rt *rapid.T, ctx context.Context, h Harness) *randomRun {
	parts, err := h.Backend.PartitionConfig(ctx)
	if err != nil {
		rt.Fatal(err)
	}
	ref := model.New(model.Config{Clock: h.Clock.NowMillis, Partitions: parts})
	r := &randomRun{
		rt: rt, ctx: ctx, clock: h.Clock, gone: make(map[flowfabric.ExecutionID]bool), parted: h.Partitioned,
		store: newSide("store", h.Backend, h.Store),
		model: newSide("model", ref, ref),
		wait:  waitRun{states: make(map[flowfabric.ExecutionID]flowfabric.PublicState)},
	}
	if h.Remote {
		r.store.Executions = recordsOf{h.Backend, h.Store}
	}
	return r
}

// operations are what a random run calls on a side.
type operations interface {
	flowfabric.Executions
	flowfabric.Leases
	flowfabric.Claims
	flowfabric.Workers
	flowfabric.Lanes
	flowfabric.Suspensions
	flowfabric.Waitpoints
	flowfabric.Signals
	flowfabric.Secrets
}

func newSide(name string, on operations, up flowfabric.Store) *side {
	return &side{name: name, Executions: on, Leases: on, Claims: on, Workers: on, Lanes: on,
		Suspensions: on, Waitpoints: on, Signals: on, Secrets: on, up: up}
}

// recordsOf reads records behind the server, which shows only snapshots.
type recordsOf struct {
	flowfabric.Executions
	store flowfabric.Executions
}

func (r recordsOf) GetExecution(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Execution, error) {
	return r.store.GetExecution(ctx, id)
}

// uuid returns an identifier that a rerun of the same sequence repeats.
func (r *randomRun) uuid() uuid.UUID {
	r.serial++
	return uuid.MustParse(fmt.Sprintf("00000000-0000-4000-8000-%012x", r.serial))
}

func pick[T any](r *randomRun, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(r.rt, label)
}

// seldom draws true less than once in n times: rapid prefers small numbers.
func (r *randomRun) seldom(label string, n int) bool {
	return rapid.IntRange(0, n-1).Draw(r.rt, label) == n-1
}

// id draws an execution: mostly a known one, seldom one that never was.
func (r *randomRun) id() flowfabric.ExecutionID {
	if len(r.ids) == 0 || r.seldom("unknown", 20) {
		return "{fp:1}:ffffffff-0000-4000-8000-000000000000"
	}
	// The latest ones are the most alive.
	n := min(len(r.ids), 6)
	if r.seldom("old", 4) {
		n = len(r.ids)
	}
	return r.ids[len(r.ids)-1-rapid.IntRange(0, n-1).Draw(r.rt, "id")]
}

// owned draws an execution with a fence that was once good for it.
func (r *randomRun) owned() (flowfabric.ExecutionID, flowfabric.Fence) {
	if len(r.fences) == 0 || r.seldom("strange", 20) {
		f := flowfabric.Fence{LeaseID: flowfabric.LeaseID(r.uuid().String()), LeaseEpoch: 1, AttemptID: flowfabric.AttemptID(r.uuid().String())}
		return r.id(), pick(r, "fence", f, flowfabric.Fence{}, flowfabric.Fence{LeaseEpoch: 2})
	}
	n := min(len(r.fences), 4)
	if r.seldom("late", 4) {
		n = len(r.fences)
	}
	i := len(r.fences) - 1 - rapid.IntRange(0, n-1).Draw(r.rt, "fence")
	return r.owners[i], r.fences[i]
}

func (r *randomRun) worker() worker {
	w := pick(r, "worker", workerA, workerB, workerA.as("a-2"))
	return w.can(pick(r, "capabilities", nil, []string{"cpu"}, []string{"gpu", "cpu"})...)
}

func (r *randomRun) lane() flowfabric.LaneID { return pick(r, "lane", testLane, testLane, "side") }

func (r *randomRun) namespace() flowfabric.Namespace {
	return pick(r, "namespace", testNamespace, testNamespace, "other")
}

// randomPolicies have no jitter, so that both sides compute the same instants.
var randomPolicies = []string{
	"", "", retryAtOnce, retryFixed10,
	`{"retry_policy":{"max_retries":2},"timeout_policy":{"attempt_timeout_ms":3000}}`,
	`{"timeout_policy":{"attempt_timeout_ms":20000,"execution_deadline_ms":90000},"retention_ms":1000}`,
	`{"max_reclaim_count":1,"max_replay_count":1,"retention_ms":0}`,
	`{"fallback_policy":{"tiers":[{"provider":"p","model":"a"},{"provider":"p","model":"b","timeout_ms":700}]},"retry_policy":{"max_retries":1}}`,
	`{"routing_requirements":{"required_capabilities":["gpu"]}}`,
	`{"routing_requirements":{"required_capabilities":["cpu"]},"dedup_window_ms":500}`,
	`{"routing_requirements":{"required_capabilities":["x y"]}}`,
	`{"priority":7,"retry_policy":{"retryable_categories":["timeout"]}}`,
	`{"nope":1}`,
}

// actions are all operations.
func (r *randomRun) actions() map[string]func() {
	ops := map[string]func(){
		"create": r.create, "create again": r.create, "claim": r.claim, "claim again": r.claim,
		"grant": r.grant, "consume": r.consume, "release grant": r.releaseGrant, "reclaim grant": r.reclaimGrant,
		"schedule": r.schedule, "complete": r.complete, "fail": r.fail, "cancel": r.cancel, "delay": r.delay,
		"renew": r.renew, "progress": r.progress, "revoke": r.revoke, "release hold": r.releaseHold,
		"replay": r.replay, "priority": r.priority, "pause": r.pause, "unpause": r.unpause, "tags": r.tags,
		"advance": r.advance, "advance more": r.advance, "tick": r.tick, "upkeep": r.upkeep,
		"lane": r.laneState, "worker": r.registry, "sweep": r.sweep,
	}
	for name, op := range r.waitActions() {
		ops[name] = op
	}
	return ops
}

// checked are operations with the comparison after each.
func (r *randomRun) checked(ops map[string]func()) map[string]func(*rapid.T) {
	out := make(map[string]func(*rapid.T), len(ops)+1)
	for name, op := range ops {
		out[name] = func(rt *rapid.T) {
			r.rt = rt
			op()
		}
	}
	out[""] = func(rt *rapid.T) {
		r.rt = rt
		r.compareVisible()
	}
	return out
}

// both makes one call on each side and compares the answers and the codes.
func both[R any](r *randomRun, what string, call func(s *side) (R, error)) (R, error) {
	got, gotErr := call(r.store)
	want, wantErr := call(r.model)
	if g, w := flowfabric.CodeOf(gotErr), flowfabric.CodeOf(wantErr); g != w || (gotErr == nil) != (wantErr == nil) {
		r.rt.Fatalf("%s: the store answers %v, the model %v", what, gotErr, wantErr)
	}
	if reflect.DeepEqual(got, want) { // the cheap look; it suffices nearly always
		return got, gotErr
	}
	if d := cmp.Diff(want, got, randomEqual...); d != "" {
		r.rt.Fatalf("%s: answers differ (-model +store):\n%s", what, d)
	}
	return got, gotErr
}

// randomEqual leaves out what is minted or local to a side.
var randomEqual = []cmp.Option{
	cmpopts.EquateEmpty(),
	sameTokens,
	cmp.FilterPath(func(p cmp.Path) bool {
		f, ok := p.Last().(cmp.StructField)
		if !ok {
			return false
		}
		switch f.Name() {
		case "GrantID", "StoreTime", "Cursor":
			return true
		case "EventID", "Seq":
			// What is due at once may be acted upon in either order, since a store's
			// due instants may be earlier than the truth.
			return true
		case "LeaseID": // a server shows it to nobody but the holder
			return p.Index(-2).Type() == reflect.TypeFor[flowfabric.Suspension]()
		case "AttemptIndex":
			return p.Index(-2).Type() == reflect.TypeFor[flowfabric.Fence]()
		}
		return false
	}, cmp.Ignore()),
}

func (r *randomRun) create() {
	a := flowfabric.CreateExecutionArgs{
		Namespace: r.namespace(), LaneID: r.lane(), Kind: "task", Payload: []byte(pick(r, "payload", "a", "b")), CreatorIdentity: "tester",
		IdempotencyKey: pick(r, "key", "", "", "k1", "k2"),
		Policy:         json.RawMessage(pick(r, "policy", randomPolicies...)),
	}
	part := pick(r, "partition", uint16(1), 2)
	if r.parted {
		part = 1
	}
	a.ExecutionID = flowfabric.MakeExecutionID(part, r.uuid())
	if len(r.ids) > 0 && rapid.IntRange(0, 9).Draw(r.rt, "same id") == 0 {
		a.ExecutionID = r.id()
	}
	if rapid.IntRange(0, 3).Draw(r.rt, "delayed") == 0 {
		a.DelayUntil = r.clock.NowMillis() + pick(r, "delay", flowfabric.Millis(-5), 0, 5, 5000)
	}
	if rapid.IntRange(0, 5).Draw(r.rt, "with deadline") == 0 {
		a.ExecutionDeadlineAt = r.clock.NowMillis() + pick(r, "deadline", flowfabric.Millis(-5), 10, 40_000)
	}
	if rapid.Bool().Draw(r.rt, "with priority") {
		a.Priority = ptr(pick(r, "priority", int32(-1), 0, 1, 2, 10_000))
	}
	if rapid.IntRange(0, 3).Draw(r.rt, "tagged") == 0 {
		a.Tags = tags("a.b", "c")
	}
	got, err := both(r, "create", func(s *side) (flowfabric.CreateExecutionResult, error) {
		return flowfabric.CreateExecution(r.ctx, s, a)
	})
	if err == nil && !slices.Contains(r.ids, got.ExecutionID) {
		r.ids = append(r.ids, got.ExecutionID)
	}
}

func (r *randomRun) given(task flowfabric.ClaimedExecution) {
	task.Fence.AttemptIndex = nil
	r.fences = append(r.fences, task.Fence)
	r.owners = append(r.owners, task.ExecutionID)
}

func (r *randomRun) claim() { r.claimOf(r.id()) }

func (r *randomRun) claimOf(id flowfabric.ExecutionID) {
	a := directArgs(id, r.worker())
	a.LeaseID, a.AttemptID = flowfabric.LeaseID(r.uuid().String()), flowfabric.AttemptID(r.uuid().String())
	a.LeaseTTLMs = pick(r, "ttl", int64(100), 5000, 30_000, 99)
	a.OperatorOverride = rapid.IntRange(0, 9).Draw(r.rt, "override") == 0
	if len(r.claims) > 0 && rapid.IntRange(0, 6).Draw(r.rt, "repeat") == 0 {
		a = r.claims[len(r.claims)-1]
	}
	task, err := both(r, "fused claim", func(s *side) (flowfabric.ClaimedExecution, error) { return s.IssueGrantAndClaim(r.ctx, a) })
	if err == nil {
		r.claims = append(r.claims, a)
		r.given(task)
	}
}

func (r *randomRun) grant() {
	w := r.worker()
	a := grantArgs(r.id(), w, pick(r, "grant ttl", int64(1), 1000, 5000))
	a.LaneID = r.lane()
	r.granted("grant", func(s *side) (flowfabric.Grant, error) { return s.up.IssueClaimGrant(r.ctx, a) })
}

func (r *randomRun) granted(what string, issue func(s *side) (flowfabric.Grant, error)) {
	_, _ = both(r, what, func(s *side) (flowfabric.Grant, error) {
		g, err := issue(s)
		if err == nil && g.GrantID != "" {
			s.grants = append(s.grants, g)
		}
		return g, err
	})
}

func (r *randomRun) reclaimGrant() {
	w := r.worker()
	a := flowfabric.IssueReclaimGrantArgs{
		ExecutionID: r.id(), WorkerID: w.id, WorkerInstanceID: w.instance, LaneID: r.lane(), Capabilities: w.caps, GrantTTLMs: 1000,
	}
	_, _ = both(r, "reclaim grant", func(s *side) (flowfabric.IssueReclaimGrantResult, error) {
		got, err := s.IssueReclaimGrant(r.ctx, a)
		if got.Grant != nil {
			s.grants = append(s.grants, *got.Grant)
		}
		return got, err
	})
}

// grantAt draws the position of a grant, -1 without any.
func (r *randomRun) grantAt() int {
	n := len(r.store.grants)
	if n == 0 {
		return -1
	}
	return n - 1 - rapid.IntRange(0, min(n, 4)-1).Draw(r.rt, "grant")
}

func (r *randomRun) consume() {
	i := r.grantAt()
	if i < 0 {
		return
	}
	a := consumeArgs(r.store.grants[i], r.worker())
	a.LeaseID, a.AttemptID = flowfabric.LeaseID(r.uuid().String()), flowfabric.AttemptID(r.uuid().String())
	a.Expect = pick(r, "expect", flowfabric.ExpectAny, flowfabric.ExpectAny, flowfabric.ExpectNew, flowfabric.ExpectResume, flowfabric.ExpectReclaim)
	task, err := both(r, "consume", func(s *side) (flowfabric.ClaimedExecution, error) {
		a.GrantID = s.grants[i].GrantID
		return s.ClaimGranted(r.ctx, a)
	})
	if err == nil {
		r.given(task)
	}
}

func (r *randomRun) releaseGrant() {
	i := r.grantAt()
	if i < 0 {
		return
	}
	w := r.worker()
	_, _ = both(r, "release grant", func(s *side) (bool, error) {
		return s.ReleaseGrant(r.ctx, flowfabric.ReleaseGrantArgs{ExecutionID: s.grants[i].ExecutionID, GrantID: s.grants[i].GrantID, WorkerID: w.id})
	})
}

// schedule asks for grants as the engine does, taking strictly the best head.
func (r *randomRun) schedule() {
	r.meetLapses()
	w := r.worker()
	caps := slices.Clone(w.caps)
	slices.Sort(caps)
	a := flowfabric.ClaimCandidatesArgs{
		WorkerID: w.id, WorkerInstanceID: w.instance, Lanes: []flowfabric.LaneID{"side", testLane}, Capabilities: caps, Namespace: flowfabric.AnyNamespace,
		Max: rapid.IntRange(1, 3).Draw(r.rt, "max"), GrantTTLMs: 1000, Picker: bestHead{},
	}
	if r.parted {
		a.Max = 1
	}
	_, _ = both(r, "schedule", func(s *side) (flowfabric.ClaimCandidatesResult, error) {
		got, err := s.up.ClaimCandidates(r.ctx, a)
		s.grants = append(s.grants, got.Grants...)
		got.More, got.UncoveredLabelled = false, 0
		return got, err
	})
}

// bestHead is the strict order without fairness.
type bestHead struct{}

func (bestHead) Pick(heads []flowfabric.Candidate) int {
	best := 0
	for i, h := range heads[1:] {
		if compareCandidates(h, heads[best]) < 0 {
			best = i + 1
		}
	}
	return best
}

func (bestHead) Taken(flowfabric.Candidate) {}

func compareCandidates(a, b flowfabric.Candidate) int {
	if a.Priority != b.Priority {
		return int(b.Priority - a.Priority)
	}
	if a.CreatedAt != b.CreatedAt {
		return int(a.CreatedAt - b.CreatedAt)
	}
	return strings.Compare(string(a.ID), string(b.ID))
}

func (r *randomRun) source() flowfabric.Source {
	return pick(r, "source", flowfabric.SourceLeaseHolder, flowfabric.SourceLeaseHolder, flowfabric.SourceLeaseHolder, flowfabric.SourceOperatorOverride)
}

func (r *randomRun) complete() {
	id, f := r.owned()
	a := flowfabric.CompleteExecutionArgs{ExecutionID: id, Fence: f, Source: r.source(), Result: pick(r, "result", nil, []byte{}, []byte("r"))}
	_, _ = both(r, "complete", func(s *side) (flowfabric.CompleteExecutionResult, error) {
		return flowfabric.CompleteExecution(r.ctx, s, a)
	})
}

func (r *randomRun) fail() {
	id, f := r.owned()
	a := flowfabric.FailExecutionArgs{ExecutionID: id, Fence: f, Source: r.source(), Reason: "boom",
		Category: pick(r, "category", "", "permanent", "timeout", "provider_error", "No Good")}
	_, _ = both(r, "fail", func(s *side) (flowfabric.FailExecutionResult, error) { return s.FailExecution(r.ctx, a) })
}

func (r *randomRun) cancel() {
	id, f := r.owned()
	if rapid.Bool().Draw(r.rt, "any") {
		id = r.id()
	}
	a := flowfabric.CancelExecutionArgs{ExecutionID: id, Fence: f, Source: r.source(), Reason: "r"}
	_, _ = both(r, "cancel", func(s *side) (flowfabric.CancelExecutionResult, error) { return s.CancelExecution(r.ctx, a) })
}

func (r *randomRun) delay() {
	id, f := r.owned()
	a := flowfabric.DelayExecutionArgs{ExecutionID: id, Fence: f, Source: r.source(), DelayMs: pick(r, "delay_ms", ptr(int64(0)), ptr(int64(50)), ptr(int64(10_000)), nil)}
	_, _ = both(r, "delay", func(s *side) (flowfabric.DelayExecutionResult, error) { return s.DelayExecution(r.ctx, a) })
}

func (r *randomRun) renew() {
	id, f := r.owned()
	a := flowfabric.RenewLeaseArgs{ExecutionID: id, Fence: f, LeaseTTLMs: pick(r, "ttl", int64(0), 100, 30_000, 99)}
	_, _ = both(r, "renew", func(s *side) (flowfabric.RenewLeaseResult, error) { return flowfabric.RenewLease(r.ctx, s, a) })
}

func (r *randomRun) progress() {
	id, f := r.owned()
	a := flowfabric.UpdateProgressArgs{ExecutionID: id, Fence: f, Pct: pick(r, "pct", nil, ptr(int32(50)), ptr(int32(101))), Message: pick(r, "message", nil, ptr("m"))}
	_, _ = both(r, "progress", func(s *side) (any, error) { return nil, s.UpdateProgress(r.ctx, a) })
}

func (r *randomRun) revoke() {
	id, f := r.owned()
	a := flowfabric.RevokeLeaseArgs{ExecutionID: id, Hold: rapid.Bool().Draw(r.rt, "hold")}
	if rapid.Bool().Draw(r.rt, "expect") {
		a.ExpectedLeaseID = f.LeaseID
	}
	_, _ = both(r, "revoke", func(s *side) (flowfabric.RevokeLeaseResult, error) { return s.RevokeLease(r.ctx, a) })
}

func (r *randomRun) releaseHold() {
	id := r.id()
	_, _ = both(r, "release hold", func(s *side) (bool, error) { return s.ReleaseReclaimHold(r.ctx, id) })
}

func (r *randomRun) replay() {
	a := flowfabric.ReplayExecutionArgs{ExecutionID: r.id(), ExpectedReplayCount: pick(r, "expected", nil, nil, ptr(uint32(0)), ptr(uint32(1)))}
	_, _ = both(r, "replay", func(s *side) (flowfabric.ReplayExecutionResult, error) { return s.ReplayExecution(r.ctx, a) })
}

func (r *randomRun) priority() {
	a := flowfabric.ChangePriorityArgs{ExecutionID: r.id(), Priority: pick(r, "priority", int32(0), 1, 2, 9999)}
	_, _ = both(r, "priority", func(s *side) (flowfabric.ChangePriorityResult, error) { return s.ChangePriority(r.ctx, a) })
}

func (r *randomRun) pause() {
	a := flowfabric.BlockExecutionArgs{ExecutionID: r.id(), Detail: "d"}
	_, _ = both(r, "pause", func(s *side) (flowfabric.BlockExecutionResult, error) { return s.PauseExecution(r.ctx, a) })
}

func (r *randomRun) unpause() {
	a := flowfabric.BlockExecutionArgs{ExecutionID: r.id()}
	_, _ = both(r, "unpause", func(s *side) (flowfabric.BlockExecutionResult, error) { return s.UnpauseExecution(r.ctx, a) })
}

func (r *randomRun) tags() {
	id := r.id()
	if rapid.Bool().Draw(r.rt, "remove") {
		_, _ = both(r, "remove tag", func(s *side) (bool, error) { return s.RemoveExecutionTag(r.ctx, id, "a.b") })
		return
	}
	t := pick(r, "tags", tags("a.b", "1"), tags("a.b", "2", "c.d", "3"), tags("bad", "1"), nil)
	_, _ = both(r, "set tags", func(s *side) (int, error) { return s.SetExecutionTags(r.ctx, id, t) })
}

func (r *randomRun) advance() {
	r.clock.Advance(time.Duration(pick(r, "ms", int64(1), 1, 10, 100, 1000, 5000, 30_000, 100_000)) * time.Millisecond)
}

func (r *randomRun) tick() {
	for {
		got, err := both(r, "tick", func(s *side) (flowfabric.TickResult, error) {
			got, err := s.up.Tick(r.ctx, flowfabric.TickArgs{Limit: 500})
			got.Examined, got.NextDue = 0, 0 // early looks are a store's own affair
			return flowfabric.TickResult{Errors: got.Errors, More: got.More}, err
		})
		if err != nil || !got.More {
			r.ticked = r.clock.NowMillis()
			return
		}
	}
}

func (r *randomRun) upkeep() {
	id := r.id()
	switch rapid.IntRange(0, 4).Draw(r.rt, "duty") {
	case 0:
		_, _ = both(r, "promote", func(s *side) (flowfabric.UpkeepOutcome, error) { return s.up.PromoteDelayed(r.ctx, id) })
	case 1:
		_, _ = both(r, "mark expired", func(s *side) (flowfabric.MarkLeaseExpiredResult, error) { return s.up.MarkLeaseExpiredIfDue(r.ctx, id) })
	case 2:
		_, _ = both(r, "expire attempt", func(s *side) (flowfabric.UpkeepOutcome, error) {
			return s.up.ExpireExecution(r.ctx, id, flowfabric.ExpireAttemptTimeout)
		})
	case 3:
		_, _ = both(r, "expire execution", func(s *side) (flowfabric.UpkeepOutcome, error) {
			return s.up.ExpireExecution(r.ctx, id, flowfabric.ExpireExecutionDeadline)
		})
	case 4:
		_, _ = both(r, "purge", func(s *side) (flowfabric.UpkeepOutcome, error) { return s.up.Purge(r.ctx, id) })
	}
}

func (r *randomRun) laneState() {
	r.meetLapses()
	a := flowfabric.SetLaneStateArgs{LaneID: r.lane(), State: pick(r, "state", flowfabric.LaneActive, flowfabric.LaneActive, flowfabric.LanePaused, flowfabric.LaneDraining, flowfabric.LaneDisabled)}
	_, _ = both(r, "lane state", func(s *side) (flowfabric.SetLaneStateResult, error) { return s.SetLaneState(r.ctx, a) })
	r.clock.Advance(time.Second) // lane records may be cached that long
}

func (r *randomRun) registry() {
	w := r.worker()
	ns := pick(r, "namespace", testNamespace, "other", flowfabric.AnyNamespace)
	nonce := pick(r, "nonce", "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b")
	switch rapid.IntRange(0, 2).Draw(r.rt, "registry") {
	case 0:
		a := registerArgs(w, nonce)
		a.Namespace, a.LivenessTTLMs = ns, pick(r, "liveness", int64(1000), 60_000)
		_, _ = both(r, "register", func(s *side) (flowfabric.RegisterWorkerResult, error) { return s.RegisterWorker(r.ctx, a) })
	case 1:
		a := flowfabric.HeartbeatWorkerArgs{Namespace: ns, WorkerInstanceID: w.instance, InstanceNonce: nonce}
		_, _ = both(r, "heartbeat", func(s *side) (flowfabric.HeartbeatWorkerResult, error) { return s.HeartbeatWorker(r.ctx, a) })
	case 2:
		a := flowfabric.MarkWorkerDeadArgs{Namespace: ns, WorkerInstanceID: w.instance, Reason: "r", RevokeLeases: rapid.Bool().Draw(r.rt, "revoke")}
		_, _ = both(r, "mark dead", func(s *side) (flowfabric.MarkWorkerDeadResult, error) { return s.MarkWorkerDead(r.ctx, a) })
	}
}

func (r *randomRun) sweep() {
	r.meetLapses()
	_, _ = both(r, "sweep lanes", func(s *side) (any, error) { _, err := s.up.SweepLanes(r.ctx); return nil, err })
	_, _ = both(r, "sweep labels", func(s *side) (any, error) { _, err := s.up.SweepRouteLabels(r.ctx); return nil, err })
	_, _ = both(r, "sweep workers", func(s *side) (any, error) { _, err := s.up.SweepWorkers(r.ctx); return nil, err })
}

// compareVisible compares all that can be seen of both sides.
func (r *randomRun) compareVisible() {
	for _, id := range r.ids {
		snap, err := both(r, "describe", func(s *side) (*flowfabric.ExecutionSnapshot, error) { return s.DescribeExecution(r.ctx, id) })
		if err != nil || snap == nil {
			r.gone[id] = true
			delete(r.wait.states, id)
			continue
		}
		if fault := checkVector(vectorOf(snap)); fault != "" {
			r.rt.Fatalf("%s breaks %s: %+v", id, fault, vectorOf(snap))
		}
		_, _ = both(r, "record", func(s *side) (*flowfabric.Execution, error) { return s.GetExecution(r.ctx, id) })
		_, _ = both(r, "lease", func(s *side) (*flowfabric.Lease, error) { return s.GetLease(r.ctx, id) })
		_, _ = both(r, "result", func(s *side) (flowfabric.ExecutionResult, error) { return s.GetExecutionResult(r.ctx, id) })
		if !r.gone[id] { // of a second life under one identifier stores keep more or less
			_, _ = both(r, "history", func(s *side) ([]flowfabric.Event, error) {
				got, err := s.GetLeaseHistory(r.ctx, flowfabric.LeaseHistoryArgs{ExecutionID: id, Limit: 1000})
				return got.Events, err
			})
		}
		_, _ = both(r, "attempts", func(s *side) (flowfabric.ListAttemptsResult, error) {
			return s.ListAttempts(r.ctx, flowfabric.ListAttemptsArgs{ExecutionID: id})
		})
		r.wait.states[id] = snap.PublicState
		r.compareWaits(id, snap.CurrentAttempt)
	}
	if r.wait.steps%4 != 0 { // what a run about waits looks at more seldom
		return
	}
	r.compareSuspended()
	for _, feed := range []flowfabric.Feed{flowfabric.FeedCompletions, flowfabric.FeedLeases, flowfabric.FeedSignals} {
		_, _ = both(r, "feed "+string(feed), func(s *side) (map[flowfabric.ExecutionID][]flowfabric.Event, error) {
			got, err := s.up.ReadFeed(r.ctx, flowfabric.ReadFeedArgs{Feed: feed, Start: flowfabric.FeedStartEarliest, Partitions: []uint16{1}, Limit: 1000})
			told := make(map[flowfabric.ExecutionID][]flowfabric.Event)
			for i, e := range got.Events {
				if e.Seq != uint64(i+1) {
					r.rt.Fatalf("%s: event %d of the feed %s has seq %d", s.name, i+1, feed, e.Seq)
				}
				told[e.ExecutionID] = append(told[e.ExecutionID], e)
			}
			return told, err
		})
	}
	for _, p := range []uint16{1, 2} {
		_, _ = both(r, "list", func(s *side) (flowfabric.ListExecutionsResult, error) {
			return s.ListExecutions(r.ctx, flowfabric.ListExecutionsArgs{Partition: p, Limit: 1000})
		})
	}
	r.compareHeld()
	if r.unmetLapse() {
		return
	}
	for _, lane := range []flowfabric.LaneID{testLane, "side"} {
		for _, caps := range [][]string{nil, {"cpu"}, {"cpu", "gpu"}} {
			_, _ = both(r, "claim order", func(s *side) ([]flowfabric.ExecutionID, error) {
				return s.up.ListEligible(r.ctx, flowfabric.ListEligibleArgs{LaneID: lane, Capabilities: caps, Limit: 1000})
			})
		}
	}
}

// compareHeld compares what the instances hold.
func (r *randomRun) compareHeld() {
	for _, w := range []worker{workerA, workerB} {
		_, _ = both(r, "held", func(s *side) ([]flowfabric.ExecutionID, error) {
			got, err := s.ListWorkerLeases(r.ctx, flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: w.instance, Limit: 1000})
			return taskIDs(got.Tasks), err
		})
	}
}

// meetLapses lets both sides act on lapsed grants: when a lapse is acted upon
// before the tick is a store's own affair.
func (r *randomRun) meetLapses() {
	if r.unmetLapse() {
		r.tick()
	}
}

// unmetLapse reports whether a grant has lapsed that no tick has met yet.
func (r *randomRun) unmetLapse() bool {
	now := r.clock.NowMillis()
	for _, g := range r.store.grants {
		if g.ExpiresAt > r.ticked && g.ExpiresAt <= now {
			return true
		}
	}
	return false
}
