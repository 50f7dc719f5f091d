package valkey

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/model"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// waitRun does the same with the store and with the model of every store, and
// compares what comes of it.
type waitRun struct {
	t     *testing.T
	ctx   context.Context
	rnd   *rand.Rand
	store *Backend
	model *model.Store
	now   flowfabric.Millis
	ids   []flowfabric.ExecutionID
	held  []holder
	wps   []waitAddress
	sent  []flowfabric.DeliverSignalArgs
	done  []flowfabric.SuspendArgs
	made  int
	log   []string
	// looking: what is done is not part of the story.
	looking bool
}

// holder is somebody who has, or had, the lease of an execution.
type holder struct {
	id    flowfabric.ExecutionID
	fence flowfabric.Fence
}

// waitAddress is where a signal can be sent to.
type waitAddress struct {
	id      flowfabric.ExecutionID
	wp      flowfabric.WaitpointID
	key     string
	token   flowfabric.WaitpointToken
	pending bool
}

func newWaitRun(t *testing.T, seed uint64) *waitRun {
	t.Helper()
	srv := valkeytest.Take(t)
	r := &waitRun{t: t, ctx: t.Context(), rnd: rand.New(rand.NewPCG(seed, 3)), now: testEpoch}
	b, err := Open(r.ctx, Config{Addrs: []string{srv.Addr()}, NoEngine: true,
		PartitionConfig: flowfabric.PartitionConfig{NumFlowPartitions: 2, NumBudgetPartitions: 1, NumQuotaPartitions: 1},
		Testing:         Testing{Clock: true, DeploymentCheck: time.Hour, LibraryCheck: time.Hour, Heartbeat: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	r.store = b
	parts, err := b.PartitionConfig(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.model = model.New(model.Config{Clock: func() flowfabric.Millis { return r.now }, Partitions: parts})
	r.advance(0)
	for _, s := range []flowfabric.Store{r.model, b} {
		if _, err := s.SeedWaitpointSecret(r.ctx, "k1", strings.Repeat("1f", 32)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *waitRun) advance(ms int64) {
	r.now += flowfabric.Millis(ms)
	if err := r.store.SetTestClock(r.ctx, int64(r.now)); err != nil {
		r.t.Fatal(err)
	}
}

// uuid is an identifier that a repeat of the run makes again.
func (r *waitRun) uuid() string {
	r.made++
	return fmt.Sprintf("00000000-0000-4000-8000-%012x", r.made)
}

// told is an answer as text: the result as JSON with every token in it, and the error with all
// its details.
func told(res any, err error) string {
	if err != nil {
		e := flowfabric.AsError(err)
		details, _ := json.Marshal(e.Details)
		return fmt.Sprintf("%s %s %s", e.Code, e.Message, details)
	}
	return reveal(res)
}

func reveal(v any) string {
	switch x := v.(type) {
	case flowfabric.SuspendResult:
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s %v", x.Outcome, x.SuspensionID, x.Replayed)
		for _, w := range x.Waitpoints {
			fmt.Fprintf(&b, " [%s %s %s]", w.WaitpointID, w.WaitpointKey, w.Token.Reveal())
		}
		return b.String() + reveal(x.Signals)
	case []flowfabric.ResumeSignal:
		if len(x) == 0 {
			return "[]"
		}
	case flowfabric.PendingWaitpoint:
		return fmt.Sprintf("%s %s %s %d", x.WaitpointID, x.WaitpointKey, x.Token.Reveal(), x.ExpiresAt)
	case flowfabric.WaitpointToken:
		return x.Reveal()
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(text), `"Tags":null`, `"Tags":{}`)
}

// both does an operation on the two, and stops when they differ.
func both[T any](r *waitRun, name string, op func(flowfabric.Store) (T, error)) (T, error) {
	r.t.Helper()
	want, werr := op(r.model)
	got, gerr := op(r.store)
	w, g := told(want, werr), told(got, gerr)
	if !r.looking {
		r.log = append(r.log, fmt.Sprintf("%d %s: %.300s", r.now-testEpoch, name, g))
	}
	if w != g {
		r.t.Fatalf("%s\n%s:\nstore %s\nmodel %s", strings.Join(r.log[max(0, len(r.log)-14):], "\n"), name, g, w)
	}
	return got, gerr
}

// compare looks at all there is to be seen of the executions.
func (r *waitRun) compare() {
	r.t.Helper()
	r.looking = true
	defer func() { r.looking = false }()
	for _, id := range r.ids {
		id := id
		both(r, "record", func(s flowfabric.Store) (any, error) { return s.GetExecution(r.ctx, id) })
		both(r, "describe", func(s flowfabric.Store) (any, error) { return s.DescribeExecution(r.ctx, id) })
		both(r, "suspension", func(s flowfabric.Store) (any, error) { return s.GetSuspension(r.ctx, id) })
		both(r, "attempts", func(s flowfabric.Store) (any, error) {
			return s.ListAttempts(r.ctx, flowfabric.ListAttemptsArgs{ExecutionID: id})
		})
		var after flowfabric.WaitpointID
		for {
			page, err := both(r, "waitpoints", func(s flowfabric.Store) (flowfabric.ListPendingWaitpointsResult, error) {
				return s.ListPendingWaitpoints(r.ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id, After: after, Limit: 2})
			})
			if after = page.NextCursor; err != nil || after == "" {
				break
			}
		}
		unconsumed := r.rnd.IntN(2) == 0
		for at := uint64(0); ; {
			page, err := both(r, "signals", func(s flowfabric.Store) (flowfabric.ListSignalsResult, error) {
				return s.ListSignals(r.ctx, flowfabric.ListSignalsArgs{ExecutionID: id, After: at, Limit: 3, UnconsumedOnly: unconsumed})
			})
			if at = page.Next; err != nil || at == 0 {
				break
			}
		}
		x, err := r.store.GetExecution(r.ctx, id)
		if err == nil && x.CurrentAttemptID != "" {
			both(r, "observe", func(s flowfabric.Store) (any, error) {
				return s.ObserveSignals(r.ctx, flowfabric.ObserveSignalsArgs{ExecutionID: id, AttemptID: x.CurrentAttemptID})
			})
		}
	}
	for at := ""; ; {
		list := func(s flowfabric.Store) []flowfabric.SuspendedExecution {
			var all []flowfabric.SuspendedExecution
			for at := ""; ; {
				page, err := s.ListSuspended(r.ctx, flowfabric.ListSuspendedArgs{Cursor: at, Limit: 2})
				if err != nil {
					r.t.Fatal(err)
				}
				all = append(all, page.Executions...)
				if at = page.NextCursor; at == "" {
					return all
				}
			}
		}
		both(r, "suspended"+at, func(s flowfabric.Store) (any, error) { return list(s), nil })
		break
	}
	for _, w := range r.wps {
		both(r, "token", func(s flowfabric.Store) (flowfabric.WaitpointToken, error) {
			return s.ReadWaitpointToken(r.ctx, w.id, w.wp)
		})
	}
	for _, a := range r.sent {
		both(r, "signal", func(s flowfabric.Store) (any, error) {
			return s.GetSignal(r.ctx, a.ExecutionID, a.Signal.SignalID)
		})
	}
	events := func(s flowfabric.Store) (out []string) {
		for _, feed := range []flowfabric.Feed{flowfabric.FeedSignals, flowfabric.FeedLeases, flowfabric.FeedCompletions} {
			for part := range uint16(2) {
				page, err := s.ReadFeed(r.ctx, flowfabric.ReadFeedArgs{Feed: feed, Start: flowfabric.FeedStartEarliest, Limit: 1000, Partitions: []uint16{part}})
				if err != nil {
					r.t.Fatal(err)
				}
				for _, ev := range page.Events {
					ev.Cursor = ""
					out = append(out, reveal(ev))
				}
			}
		}
		return out[max(0, len(out)-12):]
	}
	both(r, "feeds", func(s flowfabric.Store) (any, error) { return events(s), nil })
}

func pick[T any](r *waitRun, list []T) (T, bool) {
	var none T
	if len(list) == 0 {
		return none, false
	}
	// The last few are the likelier ones.
	if n := len(list); n > 3 && r.rnd.IntN(3) > 0 {
		return list[n-1-r.rnd.IntN(3)], true
	}
	return list[r.rnd.IntN(len(list))], true
}

func (r *waitRun) one(list ...string) string { return list[r.rnd.IntN(len(list))] }

func (r *waitRun) create() {
	id := flowfabric.MakeExecutionID(uint16(r.rnd.IntN(2)), uuid.MustParse(r.uuid()))
	policy := r.one("", "", `{"max_signals_per_execution":3}`, `{"suspension_policy":{"default_timeout_ms":5000,"timeout_behavior":"auto_resume_with_timeout_signal"}}`,
		`{"timeout_policy":{"attempt_timeout_ms":60000,"execution_deadline_ms":90000}}`, `{"suspension_policy":{"timeout_behavior":"cancel"},"retention_ms":20000}`)
	a := flowfabric.CreateExecutionArgs{ExecutionID: id, Namespace: "ns", LaneID: "lane", Kind: "k", CreatorIdentity: "me"}
	if policy != "" {
		a.Policy = json.RawMessage(policy)
	}
	_, err := both(r, "create "+policy, func(s flowfabric.Store) (any, error) {
		return flowfabric.CreateExecution(r.ctx, s, a)
	})
	if err == nil {
		r.ids = append(r.ids, id)
	}
}

func (r *waitRun) claim() {
	id, ok := pick(r, r.ids)
	if !ok {
		return
	}
	a := flowfabric.IssueGrantAndClaimArgs{ExecutionID: id, WorkerID: "pool", WorkerInstanceID: "inst", LeaseID: flowfabric.LeaseID(r.uuid()),
		AttemptID: flowfabric.AttemptID(r.uuid()), LeaseTTLMs: 30_000}
	task, err := both(r, "claim", func(s flowfabric.Store) (flowfabric.ClaimedExecution, error) {
		return s.IssueGrantAndClaim(r.ctx, a)
	})
	if err == nil {
		r.held = append(r.held, holder{id, task.Fence})
	}
}

func (r *waitRun) createWaitpoint() {
	h, ok := pick(r, r.held)
	if !ok {
		return
	}
	a := flowfabric.CreatePendingWaitpointArgs{ExecutionID: h.id, Fence: h.fence, WaitpointID: flowfabric.WaitpointID(r.uuid()),
		WaitpointKey: r.one("a", "b", "c|d é"), ExpiresInMs: int64(1 + r.rnd.IntN(20_000))}
	if w, ok := pick(r, r.wps); ok && r.rnd.IntN(8) == 0 {
		a.WaitpointID, a.WaitpointKey = w.wp, w.key
	}
	got, err := both(r, "create waitpoint", func(s flowfabric.Store) (flowfabric.PendingWaitpoint, error) {
		return s.CreatePendingWaitpoint(r.ctx, a)
	})
	if err == nil {
		r.wps = append(r.wps, waitAddress{h.id, got.WaitpointID, got.WaitpointKey, got.Token, true})
	}
}

func (r *waitRun) condition(keys []string) flowfabric.ResumeCondition {
	matcher := func() *flowfabric.SignalMatcher {
		m := []*flowfabric.SignalMatcher{flowfabric.ByName("yes"), flowfabric.ByNames("yes", "no"), flowfabric.AnySignal(),
			flowfabric.AnySignal().FromSource("user"), flowfabric.ByName("no").InCategory("approval")}
		return m[r.rnd.IntN(len(m))]
	}
	kinds := []flowfabric.CountKind{flowfabric.DistinctWaitpoints, flowfabric.DistinctSignals, flowfabric.DistinctSources}
	count := func(keys ...string) flowfabric.ResumeCondition {
		var m *flowfabric.SignalMatcher
		if r.rnd.IntN(2) == 0 {
			m = matcher()
		}
		return flowfabric.Count(1+r.rnd.IntN(2), kinds[r.rnd.IntN(3)], m, keys...)
	}
	switch r.rnd.IntN(6) {
	case 0:
		return flowfabric.OperatorOnly()
	case 1:
		return flowfabric.TimeoutOnly()
	case 2:
		return count(keys...)
	case 3:
		return flowfabric.AllOfNames(keys[0], "yes", "no")
	}
	var members []flowfabric.ResumeCondition
	for _, k := range keys {
		if r.rnd.IntN(3) == 0 {
			members = append(members, count(k))
		} else {
			members = append(members, flowfabric.Single(k, matcher()))
		}
	}
	if len(members) == 1 {
		return members[0]
	}
	if r.rnd.IntN(3) == 0 {
		return flowfabric.AllOf(members[0], flowfabric.AllOf(members[1:]...))
	}
	return flowfabric.AllOf(members...)
}

func (r *waitRun) suspend() {
	h, ok := pick(r, r.held)
	if !ok {
		return
	}
	a := flowfabric.SuspendArgs{ExecutionID: h.id, Fence: h.fence, SuspensionID: flowfabric.SuspensionID(r.uuid()),
		ReasonCode:                  flowfabric.SuspendReason(r.one("waiting_for_signal", "step_boundary", "waiting_for_approval", "manual_pause", "waiting_for_operator_review", "paused_by_policy")),
		TimeoutBehavior:             flowfabric.TimeoutBehavior(r.one("", "", "fail", "cancel", "expire", "auto_resume_with_timeout_signal", "escalate")),
		ContinuationMetadataPointer: r.one("", "s3://x"), IdempotencyKey: r.one("", "one")}
	if r.rnd.IntN(3) == 0 {
		a.SuspensionID = flowfabric.SuspensionID(r.uuid())
	}
	switch r.rnd.IntN(5) {
	case 0, 1:
		ms := int64(1 + r.rnd.IntN(15_000))
		a.TimeoutMs = &ms
	case 2:
		a.TimeoutAt = r.now + flowfabric.Millis(r.rnd.IntN(10_000)) - 700_000*flowfabric.Millis(r.rnd.IntN(6)/5)
	}
	if r.rnd.IntN(3) == 0 {
		a.ResumePolicy.ResumeDelayMs = int64(r.rnd.IntN(3_000))
	}
	no := false
	if r.rnd.IntN(3) == 0 {
		a.ResumePolicy.CloseWaitpointOnResume = &no
	}
	if r.rnd.IntN(3) == 0 {
		a.ResumePolicy.ConsumeMatchedSignals = &no
	}
	keys := []string{}
	bind := func(b flowfabric.WaitpointBinding, key string) {
		if slices.Contains(keys, key) && r.rnd.IntN(10) > 0 || slices.ContainsFunc(a.Waitpoints, func(o flowfabric.WaitpointBinding) bool { return o.WaitpointID == b.WaitpointID }) {
			return
		}
		a.Waitpoints, keys = append(a.Waitpoints, b), append(keys, key)
	}
	for _, w := range slices.Backward(r.wps) {
		if len(keys) < 2 && (w.id == h.id && w.pending && r.rnd.IntN(4) > 0 || r.rnd.IntN(40) == 0) {
			bind(flowfabric.WaitpointBinding{WaitpointID: w.wp, UsePending: true}, w.key)
		}
	}
	for len(keys) == 0 || r.rnd.IntN(3) == 0 && len(keys) < 3 {
		key := r.one("a", "b", "x y", "é")
		id := flowfabric.WaitpointID(r.uuid())
		if w, ok := pick(r, r.wps); ok && r.rnd.IntN(30) == 0 {
			id = w.wp
		}
		if slices.Contains(keys, key) {
			break
		}
		bind(flowfabric.WaitpointBinding{WaitpointID: id, WaitpointKey: key}, key)
	}
	a.ResumeCondition = r.condition(keys)
	if old, ok := pick(r, r.done); ok && r.rnd.IntN(10) == 0 {
		a = old
	}
	r.suspendAs(a)
}

func (r *waitRun) suspendAs(a flowfabric.SuspendArgs) {
	got, err := both(r, fmt.Sprintf("suspend %s %s %v", a.ExecutionID, a.ResumeCondition.JSON(), a.Waitpoints), func(s flowfabric.Store) (flowfabric.SuspendResult, error) {
		return s.Suspend(r.ctx, a)
	})
	if err != nil {
		return
	}
	r.done = append(r.done, a)
	for _, w := range got.Waitpoints {
		if got.Outcome == flowfabric.SuspendSuspended {
			r.wps = append(r.wps, waitAddress{a.ExecutionID, w.WaitpointID, w.WaitpointKey, w.Token, false})
		}
	}
}

func (r *waitRun) deliver() {
	w, ok := pick(r, r.wps)
	if !ok {
		return
	}
	g := flowfabric.Signal{SignalID: flowfabric.SignalID(r.uuid()), Name: r.one("yes", "no", "other\nline"), Category: r.one("", "approval"),
		SourceType: r.one("user", "system", ""), SourceIdentity: r.one("alice", "bob/é"), IdempotencyKey: r.one("", "", "k1", "k2"),
		DedupTTLMs: int64(1 + r.rnd.IntN(5_000)), Payload: []byte(r.one("", "{}", "\x00\xff")), CorrelationID: r.one("", "corr"), CreatedAt: 7}
	a := flowfabric.DeliverSignalArgs{ExecutionID: w.id, WaitpointID: w.wp, Token: w.token, Signal: g}
	switch r.rnd.IntN(14) {
	case 0:
		a.Token = flowfabric.NewWaitpointToken(r.one("", "x", "k1:"+strings.Repeat("0", 64), "k9:"+strings.Repeat("0", 64)))
	case 1:
		if o, ok := pick(r, r.wps); ok {
			a.Token = o.token
		}
	case 2:
		if o, ok := pick(r, r.ids); ok {
			a.ExecutionID = o
		}
	case 3:
		a.WaitpointID = flowfabric.WaitpointID(r.uuid())
	case 4, 5:
		if old, ok := pick(r, r.sent); ok {
			a.Signal = old.Signal
			if r.rnd.IntN(2) == 0 {
				a = old
			}
		}
	}
	_, err := both(r, fmt.Sprintf("deliver %s %s %s", a.WaitpointID, a.Signal.SignalID, a.Signal.Name), func(s flowfabric.Store) (any, error) {
		return s.DeliverSignal(r.ctx, a)
	})
	if err == nil {
		r.sent = append(r.sent, a)
	}
}

func (r *waitRun) approve() {
	w, ok := pick(r, r.wps)
	if !ok {
		return
	}
	a := flowfabric.DeliverApprovalSignalArgs{ExecutionID: w.id, LaneID: flowfabric.LaneID(r.one("lane", "lane", "lane", "other")), WaitpointID: w.wp,
		SignalID: flowfabric.SignalID(r.uuid()), SignalName: r.one("yes", "no"), IdempotencySuffix: r.one("1", "2"), DecidedBy: "boss"}
	if o, ok := pick(r, r.ids); ok && r.rnd.IntN(6) == 0 {
		a.ExecutionID = o
	}
	both(r, "approve", func(s flowfabric.Store) (any, error) { return s.DeliverApprovalSignal(r.ctx, a) })
}

func (r *waitRun) closeWaitpoint() {
	w, ok := pick(r, r.wps)
	h, held := pick(r, r.held)
	if !ok || !held {
		return
	}
	a := flowfabric.CloseWaitpointArgs{ExecutionID: w.id, WaitpointID: w.wp, Reason: r.one("", "changed my mind"), Source: flowfabric.SourceOperatorOverride}
	if r.rnd.IntN(2) == 0 {
		a.ExecutionID, a.Fence, a.Source = h.id, h.fence, flowfabric.SourceLeaseHolder
	}
	both(r, "close waitpoint", func(s flowfabric.Store) (any, error) { return s.CloseWaitpoint(r.ctx, a) })
}

func (r *waitRun) end() {
	id, ok := pick(r, r.ids)
	h, held := pick(r, r.held)
	if !ok || !held {
		return
	}
	delay := int64(r.rnd.IntN(2_000))
	switch r.rnd.IntN(9) {
	case 0:
		both(r, "cancel", func(s flowfabric.Store) (any, error) {
			return s.CancelExecution(r.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride, Reason: "enough", RequestedBy: "me"})
		})
	case 1:
		both(r, "complete", func(s flowfabric.Store) (any, error) {
			return flowfabric.CompleteExecution(r.ctx, s, flowfabric.CompleteExecutionArgs{ExecutionID: h.id, Fence: h.fence, Result: []byte("1")})
		})
	case 2:
		both(r, "fail", func(s flowfabric.Store) (any, error) {
			return s.FailExecution(r.ctx, flowfabric.FailExecutionArgs{ExecutionID: h.id, Fence: h.fence, Reason: "x", Category: "permanent"})
		})
	case 3, 4:
		a := flowfabric.ResumeExecutionArgs{ExecutionID: id, Reason: "go", Trigger: r.one("", "budget_recovered")}
		if r.rnd.IntN(2) == 0 {
			a.ResumeDelayMs = &delay
		}
		both(r, "resume", func(s flowfabric.Store) (any, error) { return s.ResumeExecution(r.ctx, a) })
	case 5:
		both(r, "expire suspension", func(s flowfabric.Store) (any, error) { return s.ExpireSuspension(r.ctx, id) })
	case 6:
		a := flowfabric.SuspendForBudgetArgs{ExecutionID: h.id, Fence: h.fence, BudgetID: "budget", SuspensionID: flowfabric.SuspensionID(r.uuid()), Detail: "budget is spent, all of it, and more than that"}
		if r.rnd.IntN(2) == 0 {
			a.Fence = flowfabric.Fence{LeaseEpoch: h.fence.LeaseEpoch}
		}
		both(r, "suspend for budget", func(s flowfabric.Store) (any, error) { return s.SuspendForBudget(r.ctx, a) })
	case 7:
		both(r, "replay", func(s flowfabric.Store) (any, error) {
			return s.ReplayExecution(r.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: id, RequestedBy: "me"})
		})
	case 8:
		both(r, "revoke", func(s flowfabric.Store) (any, error) {
			return s.RevokeLease(r.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id})
		})
	}
}

func (r *waitRun) rotate() {
	kid := fmt.Sprintf("k%d", 1+r.rnd.IntN(4))
	grace := int64(r.rnd.IntN(8_000))
	a := flowfabric.RotateWaitpointSecretArgs{NewKID: kid, NewSecretHex: strings.Repeat(kid[1:]+"F", 32), GraceMs: &grace}
	both(r, "rotate "+kid, func(s flowfabric.Store) (any, error) {
		got, err := s.RotateWaitpointSecret(r.ctx, a)
		got.Copies = got.Copies[:min(1, len(got.Copies))]
		return got, err
	})
	both(r, "kids", func(s flowfabric.Store) (any, error) { return s.ListWaitpointKIDs(r.ctx) })
}

func (r *waitRun) tick() {
	r.advance(int64(r.rnd.IntN(6_000)))
	for range 4 {
		both(r, "tick", func(s flowfabric.Store) (any, error) {
			res, err := s.Tick(r.ctx, flowfabric.TickArgs{Limit: 1000})
			return res.Duties, err
		})
	}
}

// Everything that chapter 03 says of answers, refusals and what can be seen, held
// against the model: random operations on a few executions.
func TestSpec03_WaitsAgainstTheModel(t *testing.T) {
	runs, steps := 25, 120
	if testing.Short() {
		runs = 3
	}
	for seed := range uint64(runs) {
		if t.Failed() {
			return
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := newWaitRun(t, seed)
			r.create()
			r.claim()
			for range steps {
				switch n := r.rnd.IntN(20); {
				case n == 0:
					r.create()
				case n <= 3:
					r.claim()
				case n <= 6:
					r.createWaitpoint()
				case n <= 9:
					r.suspend()
				case n <= 14:
					r.deliver()
				case n == 15:
					r.approve()
				case n == 16:
					r.closeWaitpoint()
				case n == 17:
					r.end()
				case n == 18 && r.rnd.IntN(3) == 0:
					r.rotate()
				default:
					r.tick()
				}
				r.compare()
			}
		})
	}
}
