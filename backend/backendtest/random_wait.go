package backendtest

import (
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/flowfabric/flowfabric"
)

// knownWaitpoint is a waitpoint that a random run has made or tried to make.
type knownWaitpoint struct {
	address
	pending bool // made before a suspend
}

// waitRun is what a random run knows of waits.
type waitRun struct {
	waitpoints []knownWaitpoint
	sent       []flowfabric.DeliverSignalArgs
	suspends   []flowfabric.SuspendArgs
	created    []flowfabric.CreatePendingWaitpointArgs
	// states are the public states after the last operation.
	states map[flowfabric.ExecutionID]flowfabric.PublicState
	steps  int // of a run about waits
}

// sameKeys gives both sides one key for tokens, so that they mint the same ones.
func (r *randomRun) sameKeys() {
	r.rotateTo("t1", secretOf("1"), 0)
}

func (r *randomRun) rotateTo(kid, secret string, graceMs int64) {
	_, _ = both(r, "rotate", func(s *side) (flowfabric.RotatedCopy, error) {
		got, err := s.RotateWaitpointSecret(r.ctx, flowfabric.RotateWaitpointSecretArgs{NewKID: kid, NewSecretHex: secret, GraceMs: &graceMs})
		if err != nil || kid == "t1" {
			return flowfabric.RotatedCopy{}, err // before the first one the rings may differ
		}
		return flowfabric.RotatedCopy{Outcome: got.Copies[0].Outcome, PreviousKID: got.Copies[0].PreviousKID}, got.Copies[0].Err
	})
}

// waitActions are the operations of waiting.
func (r *randomRun) waitActions() map[string]func() {
	return map[string]func(){
		"suspend": r.suspend, "suspend again": r.suspend, "suspend more": r.suspend,
		"pending waitpoint": r.pendingWaitpoint, "pending waitpoint again": r.pendingWaitpoint,
		"deliver": r.deliver, "deliver again": r.deliver, "deliver more": r.deliver, "deliver even more": r.deliver,
		"approve": r.approve, "close waitpoint": r.closeWaitpoint, "resume": r.resume, "expire suspension": r.expireSuspension,
		"suspend for budget": r.suspendForBudget, "rotate": r.rotate,
	}
}

// waitStep is one operation of a run that is mostly about waits: they and what
// gets in their way, each as often as it is named.
func (r *randomRun) waitStep() {
	r.wait.steps++
	ops := []func(){
		r.deliver, r.deliver, r.deliver, r.deliver, r.deliver, r.deliver, r.deliver, r.deliver,
		r.suspend, r.suspend, r.suspend, r.suspend, r.suspend, r.suspend,
		r.claimWaiting, r.claimWaiting, r.claimWaiting, r.claimWaiting, r.claimWaiting,
		r.pendingWaitpoint, r.pendingWaitpoint, r.pendingWaitpoint, r.pendingWaitpoint,
		r.advanceSome, r.advanceSome, r.advanceSome, r.tick, r.tick, r.tick,
		r.approve, r.closeWaitpoint, r.resume, r.expireSuspension, r.expireSuspension, r.suspendForBudget, r.rotate,
		r.create, r.complete, r.fail, r.cancel, r.delay, r.revoke, r.replay, r.upkeep,
	}
	i := len(ops)
	for i >= len(ops) {
		i = evenly.Draw(r.rt, "operation")
	}
	ops[i]()
}

// evenly draws 0..63 without the preference that rapid has for small numbers.
var evenly = rapid.Custom(func(t *rapid.T) int {
	n := 0
	for range 6 {
		n *= 2
		if rapid.Bool().Draw(t, "bit") {
			n++
		}
	}
	return n
})

// openWaits creates and claims a few executions to begin with.
func (r *randomRun) openWaits() {
	for range 3 {
		a := createArgs(withPolicy(pick(r, "policy", "", retryFixed10,
			`{"timeout_policy":{"attempt_timeout_ms":20000,"execution_deadline_ms":90000},"retention_ms":1000}`,
			`{"suspension_policy":{"default_timeout_ms":3000,"timeout_behavior":"cancel"},"max_signals_per_execution":6}`,
			`{"suspension_policy":{"timeout_behavior":"escalate"}}`)))
		a.ExecutionID = flowfabric.MakeExecutionID(1, r.uuid())
		got, err := both(r, "create", func(s *side) (flowfabric.CreateExecutionResult, error) {
			return flowfabric.CreateExecution(r.ctx, s, a)
		})
		if err != nil {
			r.rt.Fatal(err)
		}
		r.ids = append(r.ids, got.ExecutionID)
		c := directArgs(got.ExecutionID, workerA)
		c.LeaseID, c.AttemptID = flowfabric.LeaseID(r.uuid().String()), flowfabric.AttemptID(r.uuid().String())
		task, err := both(r, "fused claim", func(s *side) (flowfabric.ClaimedExecution, error) { return s.IssueGrantAndClaim(r.ctx, c) })
		if err == nil {
			r.given(task)
		}
	}
}

func (r *randomRun) advanceSome() {
	r.clock.Advance(time.Duration(pick(r, "ms", int64(1), 10, 100, 500, 2000, 5000, 20_000)) * time.Millisecond)
}

// randomConditions are over the keys a, b and c.
var randomConditions = []flowfabric.ResumeCondition{
	flowfabric.Single("a", flowfabric.ByName("x")),
	flowfabric.Single("a", flowfabric.AnySignal()),
	flowfabric.AllOfNames("a", "x", "y"),
	flowfabric.AllOfWaitpoints("a", "b"),
	flowfabric.AllOfWaitpoints("c", "b", "a"),
	flowfabric.Count(2, flowfabric.DistinctSources, nil, "a"),
	flowfabric.Count(2, flowfabric.DistinctSignals, flowfabric.ByNames("x", "y"), "a", "b"),
	flowfabric.Count(2, flowfabric.DistinctWaitpoints, nil, "a", "b", "c"),
	flowfabric.AllOf(flowfabric.Count(2, flowfabric.DistinctSources, flowfabric.AnySignal().FromSource("user"), "a"), flowfabric.Single("b", flowfabric.ByName("y"))),
	flowfabric.AllOf(flowfabric.Single("a", flowfabric.ByName("x")), flowfabric.Single("a", flowfabric.AnySignal())),
	flowfabric.OperatorOnly(),
	flowfabric.TimeoutOnly(),
	flowfabric.AllOf(),
}

// idIn draws mostly an execution that is in the state.
func (r *randomRun) idIn(state flowfabric.PublicState) flowfabric.ExecutionID {
	var in []flowfabric.ExecutionID
	for _, id := range slices.Backward(r.ids) {
		if r.wait.states[id] == state {
			in = append(in, id)
		}
	}
	if len(in) == 0 || r.seldom("in another state", 8) {
		return r.id()
	}
	return pick(r, "id", in...)
}

func (r *randomRun) claimWaiting() { r.claimOf(r.idIn(flowfabric.PublicWaiting)) }

// holder draws an execution, mostly an active one, with the latest fence that was
// given for it.
func (r *randomRun) holder() (flowfabric.ExecutionID, flowfabric.Fence) {
	id := r.idIn(flowfabric.PublicActive)
	f := r.latestFence(id)
	if f.Empty() || r.seldom("other fence", 8) {
		return r.owned()
	}
	return id, f
}

// latestFence is the last fence given for the execution, or none.
func (r *randomRun) latestFence(id flowfabric.ExecutionID) flowfabric.Fence {
	for i := len(r.owners) - 1; i >= 0; i-- {
		if r.owners[i] == id {
			return r.fences[i]
		}
	}
	return flowfabric.Fence{}
}

func (r *randomRun) suspend() {
	if n := len(r.wait.suspends); n > 0 && r.seldom("repeat", 7) {
		r.suspendWith(r.wait.suspends[n-1-rapid.IntRange(0, min(n, 3)-1).Draw(r.rt, "which")])
		return
	}
	id, f := r.holder()
	a := flowfabric.SuspendArgs{
		ExecutionID: id, Fence: f, SuspensionID: flowfabric.SuspensionID(r.uuid().String()),
		ResumeCondition: pick(r, "condition", randomConditions...),
		ReasonCode:      pick(r, "reason", flowfabric.SuspendWaitingForSignal, flowfabric.SuspendWaitingForApproval, flowfabric.SuspendManualPause),
		IdempotencyKey:  pick(r, "key", "", "", "s1"),
		ResumePolicy: flowfabric.ResumePolicy{
			ResumeDelayMs:          pick(r, "delay", int64(0), 0, 70),
			CloseWaitpointOnResume: pick(r, "close", nil, ptr(false)),
			ConsumeMatchedSignals:  pick(r, "consume", nil, nil, ptr(false)),
		},
		TimeoutBehavior: pick(r, "behavior", "", flowfabric.TimeoutFail, flowfabric.TimeoutCancel, flowfabric.TimeoutExpire,
			flowfabric.TimeoutAutoResume, flowfabric.TimeoutAutoResume, flowfabric.TimeoutEscalate, flowfabric.TimeoutEscalate),
		ContinuationMetadataPointer: pick(r, "pointer", "", "here"),
	}
	switch rapid.IntRange(0, 4).Draw(r.rt, "timeout") {
	case 3:
		a.TimeoutAt = r.clock.NowMillis() + pick(r, "at", flowfabric.Millis(-600_001), -600_000, 0, 200)
	case 1, 2:
		a.TimeoutMs = pick(r, "ms", ptr(int64(50)), ptr(int64(3000)), ptr(int64(1<<52)))
	}
	keys := a.ResumeCondition.Keys()
	if len(keys) == 0 {
		keys = []string{"a"}
	}
	for _, key := range keys {
		a.Waitpoints = append(a.Waitpoints, r.binding(id, key))
	}
	r.suspendWith(a)
}

// binding draws a fresh waitpoint or, more often, a pending one of the execution
// and key, where there is any.
func (r *randomRun) binding(id flowfabric.ExecutionID, key string) flowfabric.WaitpointBinding {
	fresh := flowfabric.WaitpointBinding{WaitpointID: flowfabric.WaitpointID(r.uuid().String()), WaitpointKey: key}
	switch rapid.IntRange(0, 20).Draw(r.rt, "binding") {
	case 19: // of whatever kind it is
		if n := len(r.wait.waitpoints); n > 0 {
			fresh.WaitpointID = r.wait.waitpoints[rapid.IntRange(0, n-1).Draw(r.rt, "waitpoint")].waitpoint
			fresh.UsePending = rapid.Bool().Draw(r.rt, "as pending")
		}
	case 20:
		fresh.WaitpointKey = "b"
	}
	if fresh.UsePending {
		fresh.WaitpointKey = ""
		return fresh
	}
	for _, w := range slices.Backward(r.wait.waitpoints) {
		if w.pending && w.id == id && w.key == key && !r.seldom("fresh", 4) {
			return flowfabric.WaitpointBinding{WaitpointID: w.waitpoint, UsePending: true}
		}
	}
	return fresh
}

func (r *randomRun) suspendWith(a flowfabric.SuspendArgs) {
	got, err := both(r, "suspend", func(s *side) (flowfabric.SuspendResult, error) { return s.Suspend(r.ctx, a) })
	if err != nil {
		return
	}
	r.wait.suspends = append(r.wait.suspends, a)
	for _, w := range got.Waitpoints {
		r.known(address{a.ExecutionID, w.WaitpointID, w.WaitpointKey, w.Token}, false)
	}
}

func (r *randomRun) known(at address, pending bool) {
	if slices.ContainsFunc(r.wait.waitpoints, func(w knownWaitpoint) bool { return w.waitpoint == at.waitpoint && w.id == at.id }) {
		return
	}
	r.wait.waitpoints = append(r.wait.waitpoints, knownWaitpoint{at, pending})
}

func (r *randomRun) pendingWaitpoint() {
	id, f := r.holder()
	a := flowfabric.CreatePendingWaitpointArgs{
		ExecutionID: id, Fence: f, WaitpointID: flowfabric.WaitpointID(r.uuid().String()), WaitpointKey: pick(r, "key", "a", "a", "b", "c"),
		ExpiresInMs: pick(r, "expires", int64(100), 5000, 5000, 100_000),
	}
	if n := len(r.wait.created); n > 0 && r.seldom("repeat", 9) {
		a = r.wait.created[n-1]
		a.Fence = f
	}
	got, err := both(r, "pending waitpoint", func(s *side) (flowfabric.PendingWaitpoint, error) { return s.CreatePendingWaitpoint(r.ctx, a) })
	if err == nil {
		r.wait.created = append(r.wait.created, a)
		r.known(address{a.ExecutionID, got.WaitpointID, got.WaitpointKey, got.Token}, true)
	}
}

// waitpoint draws a known waitpoint, mostly a late one, seldom one that never was.
func (r *randomRun) waitpoint() address {
	all := r.wait.waitpoints
	if len(all) == 0 && !r.seldom("out of nothing", 8) {
		r.rt.Skip("there is no waitpoint")
	}
	if len(all) == 0 || r.seldom("strange", 30) {
		return address{id: r.id(), waitpoint: "ffffffff-0000-4000-8000-000000000000", token: flowfabric.NewWaitpointToken("t1:" + secretOf("0"))}
	}
	if !r.seldom("ended too", 4) {
		all = slices.DeleteFunc(slices.Clone(all), func(w knownWaitpoint) bool { return r.wait.states[w.id].Terminal() })
		if len(all) == 0 {
			all = r.wait.waitpoints
		}
	}
	n := min(len(all), 4)
	if r.seldom("late", 4) {
		n = len(all)
	}
	return all[len(all)-1-rapid.IntRange(0, n-1).Draw(r.rt, "waitpoint")].address
}

func (r *randomRun) deliver() {
	at := r.waitpoint()
	a := flowfabric.DeliverSignalArgs{ExecutionID: at.id, WaitpointID: at.waitpoint, Token: at.token, Signal: flowfabric.Signal{
		SignalID: flowfabric.SignalID(r.uuid().String()), Name: pick(r, "name", "x", "x", "y", "z"),
		SourceType: pick(r, "source", "user", "user", "system"), SourceIdentity: pick(r, "identity", "alice", "bob"),
		Payload: pick(r, "payload", nil, []byte("p\x00\xff")), IdempotencyKey: pick(r, "key", "", "", "k1", "k2"), DedupTTLMs: pick(r, "ttl", int64(0), 10_000),
	}}
	switch rapid.IntRange(0, 20).Draw(r.rt, "odd") {
	case 20:
		a.Token = r.waitpoint().token
	case 19:
		a.Token = flowfabric.NewWaitpointToken(pick(r, "token", "", "t1:0", "t1:"+secretOf("0"), "t9:"+secretOf("0")))
	case 18:
		a.WaitpointID = r.waitpoint().waitpoint
	case 15, 16, 17:
		if n := len(r.wait.sent); n > 0 { // the same id, perhaps elsewhere
			a.Signal.SignalID = r.wait.sent[n-1-rapid.IntRange(0, min(n, 4)-1).Draw(r.rt, "sent")].Signal.SignalID
		}
	case 7, 8, 9:
		if n := len(r.wait.sent); n > 0 {
			a = r.wait.sent[n-1-rapid.IntRange(0, min(n, 4)-1).Draw(r.rt, "sent")]
		}
	}
	_, err := both(r, "deliver", func(s *side) (flowfabric.DeliverSignalResult, error) { return s.DeliverSignal(r.ctx, a) })
	if err == nil {
		r.wait.sent = append(r.wait.sent, a)
	}
}

func (r *randomRun) approve() {
	at := r.waitpoint()
	a := flowfabric.DeliverApprovalSignalArgs{
		ExecutionID: at.id, LaneID: r.lane(), WaitpointID: at.waitpoint, SignalID: flowfabric.SignalID(r.uuid().String()), SignalName: pick(r, "name", "x", "y"),
		IdempotencySuffix: pick(r, "suffix", "1", "2"), DecidedBy: "carol", DedupTTLMs: 10_000,
	}
	_, _ = both(r, "approve", func(s *side) (flowfabric.DeliverSignalResult, error) { return s.DeliverApprovalSignal(r.ctx, a) })
}

func (r *randomRun) closeWaitpoint() {
	at := r.waitpoint()
	f := r.latestFence(at.id)
	a := flowfabric.CloseWaitpointArgs{ExecutionID: at.id, WaitpointID: at.waitpoint, Fence: f, Reason: pick(r, "reason", "", "not needed")}
	if rapid.Bool().Draw(r.rt, "operator") {
		a.Source, a.Fence = flowfabric.SourceOperatorOverride, flowfabric.Fence{}
	}
	_, _ = both(r, "close waitpoint", func(s *side) (flowfabric.CloseWaitpointOutcome, error) { return s.CloseWaitpoint(r.ctx, a) })
}

func (r *randomRun) resume() {
	a := flowfabric.ResumeExecutionArgs{ExecutionID: r.idIn(flowfabric.PublicSuspended), Reason: "r", ResumeDelayMs: pick(r, "delay", nil, nil, ptr(int64(0)), ptr(int64(500)))}
	_, _ = both(r, "resume", func(s *side) (flowfabric.ResumeExecutionResult, error) { return s.ResumeExecution(r.ctx, a) })
}

func (r *randomRun) expireSuspension() {
	id := r.idIn(flowfabric.PublicSuspended)
	_, _ = both(r, "expire suspension", func(s *side) (flowfabric.ExpireSuspensionResult, error) { return s.up.ExpireSuspension(r.ctx, id) })
}

func (r *randomRun) suspendForBudget() {
	id, f := r.holder()
	a := flowfabric.SuspendForBudgetArgs{ExecutionID: id, Fence: f, BudgetID: "b", Detail: "spent", SuspensionID: flowfabric.SuspensionID(r.uuid().String())}
	if rapid.Bool().Draw(r.rt, "close-out") {
		a.Fence = flowfabric.Fence{LeaseEpoch: f.LeaseEpoch}
	}
	if a.Fence.Empty() || !r.seldom("now", 3) {
		r.rt.Skip("no budget is spent")
	}
	_, _ = both(r, "suspend for budget", func(s *side) (bool, error) { return s.up.SuspendForBudget(r.ctx, a) })
}

func (r *randomRun) rotate() {
	if !r.seldom("now", 3) {
		r.rt.Skip("no rotation now")
	}
	kid := pick(r, "kid", "t2", "t3", "t4")
	r.rotateTo(kid, secretOf(kid[1:]), pick(r, "grace", int64(0), 2000, 100_000))
}

// compareWaits compares what an execution shows of its waits.
func (r *randomRun) compareWaits(id flowfabric.ExecutionID, current *flowfabric.CurrentAttempt) {
	_, _ = both(r, "suspension", func(s *side) (*flowfabric.Suspension, error) {
		return s.GetSuspension(r.ctx, id)
	})
	_, _ = both(r, "waitpoints", func(s *side) (flowfabric.ListPendingWaitpointsResult, error) {
		return s.ListPendingWaitpoints(r.ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id, Limit: 1000})
	})
	signals, _ := both(r, "signals", func(s *side) (flowfabric.ListSignalsResult, error) {
		return s.ListSignals(r.ctx, flowfabric.ListSignalsArgs{ExecutionID: id, Limit: 1000})
	})
	if n := len(signals.Signals); n > 0 {
		last := signals.Signals[n-1].SignalID
		_, _ = both(r, "signal", func(s *side) (*flowfabric.RecordedSignal, error) { return s.GetSignal(r.ctx, id, last) })
		_, _ = both(r, "unconsumed signals", func(s *side) (flowfabric.ListSignalsResult, error) {
			return s.ListSignals(r.ctx, flowfabric.ListSignalsArgs{ExecutionID: id, UnconsumedOnly: true, Limit: 2})
		})
	}
	if current != nil {
		_, _ = both(r, "observed signals", func(s *side) ([]flowfabric.ResumeSignal, error) {
			return s.ObserveSignals(r.ctx, flowfabric.ObserveSignalsArgs{ExecutionID: id, AttemptID: current.AttemptID})
		})
	}
	for _, w := range r.wait.waitpoints {
		if w.id != id || r.wait.steps%4 != 0 {
			continue
		}
		_, _ = both(r, "token", func(s *side) (string, error) {
			t, err := s.ReadWaitpointToken(r.ctx, id, w.waitpoint)
			return t.Reveal(), err
		})
	}
}

// compareSuspended compares the listing of all that is suspended.
func (r *randomRun) compareSuspended() {
	_, _ = both(r, "suspended", func(s *side) (flowfabric.ListSuspendedResult, error) {
		return s.ListSuspended(r.ctx, flowfabric.ListSuspendedArgs{Limit: 1000})
	})
	_, _ = both(r, "key ring", func(s *side) (string, error) {
		got, err := s.ListWaitpointKIDs(r.ctx)
		return got.CurrentKID, err
	})
}
