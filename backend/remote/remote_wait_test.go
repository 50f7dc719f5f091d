package remote_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/backend/sqlite"
)

// waiter is the part of both backends that the comparison calls.
type waiter struct {
	t    *testing.T
	name string
	b    flowfabric.Backend
	log  []string
}

// note writes down what a call came to, so that two backends can be compared.
func (w *waiter) note(what string, err error) {
	if err == nil {
		w.log = append(w.log, what)
		return
	}
	e := flowfabric.AsError(err)
	if e == nil {
		w.t.Fatalf("%s: %s: %v", w.name, what, err)
	}
	w.log = append(w.log, what+" "+string(e.Code)+" "+string(e.Class))
}

// claim returns the fence of a fresh lease on a fresh execution, or on one that
// was resumed.
func (w *waiter) claim(id flowfabric.ExecutionID) (flowfabric.ExecutionID, flowfabric.Fence) {
	w.t.Helper()
	if id == "" {
		made, err := flowfabric.CreateExecution(context.Background(), w.b, flowfabric.CreateExecutionArgs{
			Namespace: "n", LaneID: "l", Kind: "k", Payload: []byte{}, CreatorIdentity: "test", IdempotencyKey: "",
		})
		if err != nil {
			w.t.Fatal(err)
		}
		id = made.ExecutionID
	}
	c, err := w.b.IssueGrantAndClaim(context.Background(), flowfabric.IssueGrantAndClaimArgs{
		ExecutionID: id, WorkerID: "w", WorkerInstanceID: "i", LeaseTTLMs: 60_000, IssuedBy: flowfabric.IssuedByDirect, OperatorOverride: true,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return id, c.Fence
}

// story takes one execution through everything a wait knows.
func (w *waiter) story() {
	ctx, b := context.Background(), w.b
	id, fence := w.claim("")
	none, err := b.GetSuspension(ctx, id)
	w.note("never suspended", err)
	if none != nil {
		w.t.Errorf("%s: a suspension %+v", w.name, none)
	}
	early, err := b.CreatePendingWaitpoint(ctx, flowfabric.CreatePendingWaitpointArgs{ExecutionID: id, Fence: fence, WaitpointKey: "early", ExpiresInMs: 60_000})
	w.note("waitpoint", err)
	spare, err := b.CreatePendingWaitpoint(ctx, flowfabric.CreatePendingWaitpointArgs{ExecutionID: id, Fence: fence, ExpiresInMs: 60_000})
	w.note("waitpoint", err)
	for _, source := range []flowfabric.Source{flowfabric.SourceLeaseHolder, flowfabric.SourceOperatorOverride} {
		a := flowfabric.CloseWaitpointArgs{ExecutionID: id, WaitpointID: spare.WaitpointID, Source: source}
		if source == flowfabric.SourceLeaseHolder {
			a.Fence = fence
		}
		outcome, err := b.CloseWaitpoint(ctx, a)
		w.note("close "+string(outcome), err)
	}
	token, err := b.ReadWaitpointToken(ctx, id, early.WaitpointID)
	w.note("token", err)
	if token.Reveal() != early.Token.Reveal() || token.IsZero() {
		w.t.Errorf("%s: another token", w.name)
	}
	closed, err := b.ReadWaitpointToken(ctx, id, spare.WaitpointID)
	w.note("token of a closed one", err)
	if !closed.IsZero() {
		w.t.Errorf("%s: the token of a closed waitpoint", w.name)
	}
	send := flowfabric.DeliverSignalArgs{ExecutionID: id, WaitpointID: early.WaitpointID, Token: early.Token,
		Signal: flowfabric.Signal{SignalID: flowfabric.NewSignalID(), Name: "go", SourceIdentity: "s", Payload: []byte{0, 255}}}
	w.deliver(send)
	w.deliver(send)
	bad := send
	bad.Token = flowfabric.NewWaitpointToken("k1:" + strings.Repeat("0", 64))
	w.deliver(bad)
	bad.Token = flowfabric.WaitpointToken{}
	w.deliver(bad)
	unknown := send
	unknown.ExecutionID = flowfabric.MakeExecutionID(3, id.UUID())
	w.deliver(unknown)
	r, err := b.Suspend(ctx, flowfabric.SuspendArgs{ExecutionID: id, Fence: fence, ReasonCode: flowfabric.SuspendStepBoundary,
		Waitpoints: []flowfabric.WaitpointBinding{{WaitpointID: early.WaitpointID, UsePending: true}}, ResumeCondition: flowfabric.AnyOfNames("early", "go")})
	w.note("suspend "+string(r.Outcome), err)
	if len(r.Signals) != 1 || string(r.Signals[0].Payload) != "\x00\xff" {
		w.t.Errorf("%s: satisfied by %+v", w.name, r.Signals)
	}
	w.suspendAndResume(id, fence)
}

func (w *waiter) deliver(a flowfabric.DeliverSignalArgs) {
	r, err := w.b.DeliverSignal(context.Background(), a)
	if err == nil && r.SignalID != a.Signal.SignalID {
		w.t.Errorf("%s: signal %s delivered as %s", w.name, a.Signal.SignalID, r.SignalID)
	}
	w.note("deliver "+string(r.Outcome)+" "+string(r.Effect), err)
}

func (w *waiter) suspendAndResume(id flowfabric.ExecutionID, fence flowfabric.Fence) {
	ctx, b := context.Background(), w.b
	args := flowfabric.SuspendArgs{ExecutionID: id, Fence: fence, ReasonCode: flowfabric.SuspendWaitingForApproval, IdempotencyKey: "once",
		Waitpoints: []flowfabric.WaitpointBinding{{WaitpointKey: "k"}}, ResumeCondition: flowfabric.AllOfNames("k", "a", "approved"), TimeoutMs: new(int64)}
	_, err := b.Suspend(ctx, args)
	w.note("suspend with timeout 0", err)
	*args.TimeoutMs = 60_000
	wrong := args
	wrong.Fence.LeaseEpoch++
	_, err = b.Suspend(ctx, wrong)
	w.note("suspend with another fence", err)
	first, err := b.Suspend(ctx, args)
	w.note("suspend "+string(first.Outcome), err)
	again, err := b.Suspend(ctx, args)
	w.note("suspend again "+string(again.Outcome), err)
	if again.SuspensionID != first.SuspensionID || again.Waitpoints[0].Token.Reveal() != first.Waitpoints[0].Token.Reveal() || !again.Replayed {
		w.t.Errorf("%s: repeated as %+v", w.name, again)
	}
	args.IdempotencyKey = ""
	_, err = b.Suspend(ctx, args)
	w.note("suspend without key", err)
	wp := first.Waitpoints[0]
	_, err = b.CloseWaitpoint(ctx, flowfabric.CloseWaitpointArgs{ExecutionID: id, WaitpointID: wp.WaitpointID, Source: flowfabric.SourceOperatorOverride})
	w.note("close an active one", err)
	list, err := b.ListPendingWaitpoints(ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id})
	w.note("waitpoints", err)
	if len(list.Waitpoints) != 1 || list.Waitpoints[0].TokenFingerprint != wp.Token.Fingerprint() || !slices.Equal(list.Waitpoints[0].RequiredSignalNames, []string{"a", "approved"}) {
		w.t.Errorf("%s: listed %+v", w.name, list)
	}
	all, err := b.ListSuspended(ctx, flowfabric.ListSuspendedArgs{Namespace: "n"})
	w.note("suspended", err)
	if !slices.ContainsFunc(all.Executions, func(e flowfabric.SuspendedExecution) bool { return e.ExecutionID == id && e.TimeoutAt > 0 }) {
		w.t.Errorf("%s: not listed as suspended: %+v", w.name, all)
	}
	w.deliver(flowfabric.DeliverSignalArgs{ExecutionID: id, WaitpointID: wp.WaitpointID, Token: wp.Token, Signal: flowfabric.Signal{SignalID: flowfabric.NewSignalID(), Name: "a", SourceIdentity: "s"}})
	shown, err := b.GetSuspension(ctx, id)
	w.note("suspension", err)
	if shown == nil || len(shown.Progress) != 3 || !shown.Progress[1].Satisfied || shown.Progress[2].Satisfied || shown.ResumeCondition.Kind != flowfabric.ConditionAllOf {
		w.t.Errorf("%s: shown %+v", w.name, shown)
	}
	approval := flowfabric.DeliverApprovalSignalArgs{ExecutionID: id, LaneID: "other", WaitpointID: wp.WaitpointID, SignalName: "approved", IdempotencySuffix: "1", DecidedBy: "ada"}
	_, err = b.DeliverApprovalSignal(ctx, approval)
	w.note("approve on another lane", err)
	approval.LaneID = "l"
	done, err := b.DeliverApprovalSignal(ctx, approval)
	w.note("approve "+string(done.Effect), err)
	_, err = b.ResumeExecution(ctx, flowfabric.ResumeExecutionArgs{ExecutionID: id})
	w.note("resume", err)
	w.read(id, done.SignalID)
}

func (w *waiter) read(id flowfabric.ExecutionID, approval flowfabric.SignalID) {
	ctx, b := context.Background(), w.b
	_, fence := w.claim(id)
	seen, err := b.ObserveSignals(ctx, flowfabric.ObserveSignalsArgs{ExecutionID: id, AttemptID: fence.AttemptID})
	w.note("observe", err)
	if len(seen) != 2 || seen[1].SourceIdentity != "ada" {
		w.t.Errorf("%s: observed %+v", w.name, seen)
	}
	other, err := b.ObserveSignals(ctx, flowfabric.ObserveSignalsArgs{ExecutionID: id, AttemptID: flowfabric.NewAttemptID()})
	w.note("observe another attempt", err)
	if len(other) != 0 {
		w.t.Errorf("%s: another attempt sees %+v", w.name, other)
	}
	var names []string
	for after := uint64(0); ; {
		page, err := b.ListSignals(ctx, flowfabric.ListSignalsArgs{ExecutionID: id, Limit: 2, After: after})
		w.note("signals", err)
		for i := range page.Signals {
			names = append(names, page.Signals[i].SignalName)
		}
		if after = page.Next; after == 0 {
			break
		}
	}
	if !slices.Equal(names, []string{"go", "a", "approved"}) {
		w.t.Errorf("%s: signals %v", w.name, names)
	}
	one, err := b.GetSignal(ctx, id, approval)
	w.note("signal", err)
	if one == nil || one.Seq != 3 || one.ConsumedAt == 0 {
		w.t.Errorf("%s: signal %+v", w.name, one)
	}
	_, err = b.GetSignal(ctx, id, flowfabric.NewSignalID())
	w.note("no signal", err)
	_, err = b.ListPendingWaitpoints(ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: flowfabric.MakeExecutionID(3, id.UUID())})
	w.note("waitpoints of nothing", err)
	r, err := b.RotateWaitpointSecret(ctx, flowfabric.RotateWaitpointSecretArgs{NewKID: "next", NewSecretHex: strings.Repeat("ab", 32)})
	w.note("rotate", err)
	if len(r.Copies) != 1 || r.Copies[0].Outcome != flowfabric.RotateRotated || r.Copies[0].PreviousKID != "k1" {
		w.t.Errorf("%s: rotated %+v", w.name, r)
	}
	_, err = b.RotateWaitpointSecret(ctx, flowfabric.RotateWaitpointSecretArgs{NewKID: "next", NewSecretHex: strings.Repeat("cd", 32)})
	w.note("rotate again", err)
	kids, err := b.ListWaitpointKIDs(ctx)
	w.note("kids "+kids.CurrentKID, err)
}

// TestSpec08_S35_Waits: the same calls through the store and over HTTP come to
// the same results and errors.
func TestSpec08_S35_Waits(t *testing.T) {
	var logs [][]string
	for _, name := range []string{"sqlite", "remote"} {
		store, err := sqlite.Open(t.Context(), sqlite.Config{Clock: backendtest.NewClock(), NoEngine: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		w := &waiter{t: t, name: name, b: store}
		if name == "remote" {
			w.b = serve(t, store)
		}
		w.story()
		logs = append(logs, w.log)
	}
	if diff := cmp.Diff(logs[0], logs[1]); diff != "" {
		t.Errorf("store and remote differ: %s", diff)
	}
	if len(logs[0]) < 30 {
		t.Errorf("only %d calls were compared: %v", len(logs[0]), logs[0])
	}
}

// TestLargestSuspend: what the limits of a suspend allow fits the body of its
// route, whatever the texts are made of.
func TestLargestSuspend(t *testing.T) {
	store, err := sqlite.Open(t.Context(), sqlite.Config{Clock: backendtest.NewClock(), NoEngine: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	w := &waiter{t: t, name: "remote", b: serve(t, store)}
	id, fence := w.claim("")
	args := flowfabric.SuspendArgs{ExecutionID: id, Fence: fence, ReasonCode: flowfabric.SuspendManualPause,
		ContinuationMetadataPointer: strings.Repeat("\x01", flowfabric.MaxContinuationBytes), IdempotencyKey: strings.Repeat("<", flowfabric.MaxSuspendIdempotencyBytes)}
	keys := make([]string, flowfabric.MaxWaitpointsPerSuspend)
	for i := range keys {
		keys[i] = strings.Repeat("<", 50+i)
		args.Waitpoints = append(args.Waitpoints, flowfabric.WaitpointBinding{WaitpointKey: keys[i]})
	}
	args.ResumeCondition = flowfabric.Count(64, flowfabric.DistinctWaitpoints, nil, keys...)
	if r, err := w.b.Suspend(t.Context(), args); err != nil || len(r.Waitpoints) != len(keys) {
		t.Errorf("%d waitpoints, %v", len(r.Waitpoints), err)
	}
}
