package wire_test

import (
	"errors"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

const (
	waitpoint = flowfabric.WaitpointID("0b1e0000-0000-4000-8000-000000000001")
	another   = flowfabric.WaitpointID("0b1e0000-0000-4000-8000-000000000002")
	suspended = flowfabric.SuspensionID("c3a70000-0000-4000-8000-000000000001")
	token     = "k1:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

// exact is same for values with tokens, which never print.
func exact[T any](t *testing.T, name string, want, got T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	byValue := cmp.Comparer(func(a, b flowfabric.WaitpointToken) bool { return a.Reveal() == b.Reveal() })
	if diff := cmp.Diff(want, got, byValue); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

// TestWaitRequestsRoundTrip is TestRequestsRoundTrip for suspensions, waitpoints,
// signals and secrets.
func TestWaitRequestsRoundTrip(t *testing.T) {
	index := uint32(5)
	fence := flowfabric.Fence{LeaseID: "l", LeaseEpoch: 3, AttemptID: "a", AttemptIndex: &index}
	t.Run("suspend", func(t *testing.T) {
		want := full[flowfabric.SuspendArgs]()
		want.Fence, want.SuspensionID = fence, suspended
		want.Waitpoints = []flowfabric.WaitpointBinding{{WaitpointID: waitpoint, WaitpointKey: "a"}, {WaitpointID: another, UsePending: true}}
		want.ResumeCondition = flowfabric.AllOf(flowfabric.Single("a", flowfabric.ByNames("<x>", "y")), flowfabric.Count(2, "", nil, "b"))
		got, err := sent(t, wire.NewSuspendRequest(want)).Args(id, index)
		exact(t, "full", want, got, err)
		least := flowfabric.SuspendArgs{ExecutionID: id, Fence: fence, SuspensionID: suspended, Waitpoints: want.Waitpoints, ResumeCondition: flowfabric.OperatorOnly()}
		got, err = sent(t, wire.NewSuspendRequest(least)).Args(id, index)
		exact(t, "least", least, got, err)
	})
	t.Run("resume", func(t *testing.T) {
		want := full[flowfabric.ResumeExecutionArgs]()
		want.Trigger = flowfabric.ResumeTriggerOperator
		got, err := sent(t, wire.NewResumeRequest(want)).Args(id)
		exact(t, "full", want, got, err)
	})
	t.Run("create waitpoint", func(t *testing.T) {
		want := full[flowfabric.CreatePendingWaitpointArgs]()
		want.Fence = fence
		got, err := sent(t, wire.NewCreateWaitpointRequest(want)).Args(id, index)
		exact(t, "full", want, got, err)
	})
	t.Run("close waitpoint", func(t *testing.T) {
		want := full[flowfabric.CloseWaitpointArgs]()
		want.Fence, want.WaitpointID, want.Source = fence, waitpoint, flowfabric.SourceLeaseHolder
		got, err := sent(t, wire.NewCloseWaitpointRequest(want)).Args(id, index, waitpoint)
		exact(t, "holder", want, got, err)
		want.Fence, want.Source, want.Reason = flowfabric.Fence{}, flowfabric.SourceOperatorOverride, ""
		got, err = sent(t, wire.NewOperatorCloseWaitpointRequest(want)).Args(id, waitpoint)
		exact(t, "operator", want, got, err)
	})
	t.Run("deliver", func(t *testing.T) {
		want := full[flowfabric.DeliverSignalArgs]()
		want.Token = flowfabric.NewWaitpointToken(token)
		got, err := sent(t, wire.NewSignalRequest(want)).Args(id, "nobody")
		exact(t, "full", want, got, err)
		least := flowfabric.DeliverSignalArgs{ExecutionID: id, WaitpointID: waitpoint}
		got, err = sent(t, wire.NewSignalRequest(least)).Args(id, "nobody")
		exact(t, "least", least, got, err)
	})
	t.Run("approve", func(t *testing.T) {
		want := full[flowfabric.DeliverApprovalSignalArgs]()
		got, err := sent(t, wire.NewApprovalRequest(want)).Args(id)
		exact(t, "full", want, got, err)
	})
	t.Run("observe", func(t *testing.T) {
		want := full[flowfabric.ObserveSignalsArgs]()
		got, err := sent(t, wire.NewResumeSignalsRequest(want)).Args(id, index)
		exact(t, "full", want, got, err)
	})
	t.Run("rotate", func(t *testing.T) {
		want := full[flowfabric.RotateWaitpointSecretArgs]()
		got := sent(t, wire.NewRotateSecretRequest(want))
		exact(t, "full", want, got.Args(), nil)
		if !got.SecretGiven() || !sent(t, wire.NewRotateSecretRequest(flowfabric.RotateWaitpointSecretArgs{})).SecretGiven() {
			t.Error("a secret that was given was dropped")
		}
	})
}

// TestWaitResultsRoundTrip is TestResultsRoundTrip for the same.
func TestWaitResultsRoundTrip(t *testing.T) {
	secret := flowfabric.NewWaitpointToken(token)
	out := full[flowfabric.SuspendResult]()
	out.Outcome, out.Signals = flowfabric.SuspendSuspended, nil
	for i := range out.Waitpoints {
		out.Waitpoints[i].Token = secret
	}
	exact(t, "suspended", out, answered(t, wire.NewSuspendResponse(out)).Result(), nil)
	kept := full[flowfabric.SuspendResult]()
	kept.Outcome = flowfabric.SuspendAlreadySatisfied
	exact(t, "already satisfied", kept, answered(t, wire.NewSuspendResponse(kept)).Result(), nil)
	for i := range kept.Waitpoints {
		kept.Waitpoints[i].Token = secret
	}
	for _, w := range wire.NewSuspendResponse(kept).Waitpoints {
		if w.Token != "" {
			t.Error("the token of a closed waitpoint is told")
		}
	}
	made := full[flowfabric.PendingWaitpoint]()
	made.Token = secret
	exact(t, "waitpoint", made, answered(t, wire.NewCreateWaitpointResponse(made)).Result(), nil)
	resumed := full[flowfabric.ResumeExecutionResult]()
	exact(t, "resumed", resumed, answered(t, wire.NewResumeResponse(resumed)).Result(), nil)
	for _, outcome := range []flowfabric.DeliverOutcome{flowfabric.DeliverAccepted, flowfabric.DeliverDuplicate} {
		delivered := full[flowfabric.DeliverSignalResult]()
		delivered.Outcome = outcome
		exact(t, "delivered", delivered, answered(t, wire.NewSignalResponse(delivered)).Result(), nil)
	}
	shown := full[flowfabric.Suspension]()
	shown.LeaseID, shown.ResumeCondition = "", flowfabric.Count(2, flowfabric.DistinctSignals, flowfabric.AnySignal(), "a")
	got, err := answered(t, wire.NewSuspension(shown)).Record()
	exact(t, "suspension", &shown, got, err)
	kids := full[flowfabric.WaitpointKIDs]()
	exact(t, "kids", kids, answered(t, wire.NewKIDsResponse(kids)).Result(), nil)
	copies := flowfabric.RotateWaitpointSecretResult{NewKID: "k", Copies: []flowfabric.RotatedCopy{
		{Partition: 1, Outcome: flowfabric.RotateNoop, PreviousKID: "p", Removed: 3}, {Partition: 2, Err: flowfabric.NewError(flowfabric.CodeRotationConflict, "c")},
	}}
	answer := answered(t, wire.NewRotateSecretResponse(copies))
	if answer.Rotated != 1 || len(answer.Failed) != 1 || answer.Failed[0] != 2 {
		t.Errorf("rotation %+v", answer)
	}
	back := answer.Result()
	if !errors.Is(back.Copies[1].Err, flowfabric.ErrRotationConflict) {
		t.Errorf("copy 2: %v", back.Copies[1].Err)
	}
	copies.Copies[1].Err, back.Copies[1].Err = nil, nil
	exact(t, "rotation", copies, back, nil)
}

// TestWaitListsRoundTrip: filters and places of the lists arrive unchanged.
func TestWaitListsRoundTrip(t *testing.T) {
	signals := full[flowfabric.ListSignalsArgs]()
	got, err := wire.ParseListSignals(id, wire.ListSignalsQuery(signals))
	exact(t, "signals", signals, got, err)
	waitpoints := flowfabric.ListPendingWaitpointsArgs{ExecutionID: id, After: waitpoint, Limit: 3}
	gotW, err := wire.ParseListWaitpoints(id, wire.ListWaitpointsQuery(waitpoints))
	exact(t, "waitpoints", waitpoints, gotW, err)
	if _, err := wire.ParseListWaitpoints(otherID, wire.ListWaitpointsQuery(waitpoints)); !errors.Is(err, flowfabric.ErrInvalidCursor) {
		t.Errorf("a cursor of another execution: %v", err)
	}
	forged := url.Values{"cursor": {wire.EncodeCursor(wire.ListWaitpoints, string(id), url.Values{}, "x")}}
	if _, err := wire.ParseListWaitpoints(id, forged); !errors.Is(err, flowfabric.ErrInvalidCursor) {
		t.Errorf("a cursor that is no waitpoint: %v", err)
	}
	zero := uint16(0)
	all := flowfabric.ListSuspendedArgs{Partition: &zero, Namespace: "n", Limit: 3}
	gotS, err := wire.ParseListSuspended(wire.ListSuspendedQuery(all))
	exact(t, "suspended", all, gotS, err)
	q := wire.ListSuspendedQuery(all)
	page := wire.NewSuspendedPage(q, flowfabric.ListSuspendedResult{NextCursor: "there"})
	q.Set("cursor", *page.NextCursor)
	if gotS, err = wire.ParseListSuspended(q); err != nil || gotS.Cursor != "there" {
		t.Errorf("cursor %q, %v", gotS.Cursor, err)
	}
}
