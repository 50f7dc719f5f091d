package valkey

import (
	"fmt"

	"github.com/flowfabric/flowfabric"
)

// seeded makes sure of a key ring.
func (x *lostRun) seeded() {
	x.t.Helper()
	_, err := x.direct.SeedWaitpointSecret(x.ctx, testKID, testSecret)
	x.ok(err)
}

func (x *lostRun) createWaitpoint(b *Backend) (flowfabric.PendingWaitpoint, error) {
	got, err := b.CreatePendingWaitpoint(x.ctx, flowfabric.CreatePendingWaitpointArgs{ExecutionID: x.id, Fence: x.fence, WaitpointID: x.waitpoint,
		WaitpointKey: "w", ExpiresInMs: 60_000})
	x.wait = flowfabric.BoundWaitpoint{WaitpointID: got.WaitpointID, WaitpointKey: got.WaitpointKey, Token: got.Token}
	return flowfabric.PendingWaitpoint{WaitpointKey: got.WaitpointKey, ExpiresAt: got.ExpiresAt}, err
}

func (x *lostRun) pending() {
	x.t.Helper()
	x.seeded()
	x.claim()
	_, err := x.createWaitpoint(x.direct)
	x.ok(err)
}

// suspend waits for go on the pending waitpoint, if there is one, else on a fresh one.
func (x *lostRun) suspend(b *Backend, key string) (flowfabric.SuspendResult, error) {
	binding := flowfabric.WaitpointBinding{WaitpointID: x.waitpoint, WaitpointKey: "w"}
	if x.wait.WaitpointID != "" {
		binding = flowfabric.WaitpointBinding{WaitpointID: x.waitpoint, UsePending: true}
	}
	return b.Suspend(x.ctx, flowfabric.SuspendArgs{ExecutionID: x.id, Fence: x.fence, SuspensionID: x.suspension, IdempotencyKey: key,
		ReasonCode: flowfabric.SuspendWaitingForSignal, Waitpoints: []flowfabric.WaitpointBinding{binding},
		ResumeCondition: flowfabric.Single("w", flowfabric.ByName("go"))})
}

func (x *lostRun) suspended() {
	x.t.Helper()
	x.seeded()
	x.claim()
	got, err := x.suspend(x.direct, "")
	x.ok(err)
	x.wait = got.Waitpoints[0]
}

func (x *lostRun) deliver(b *Backend) (flowfabric.DeliverSignalResult, error) {
	a := signalTo(x.id, x.wait.WaitpointID, x.wait.Token, "go", "key")
	a.Signal.SignalID = x.signal
	return b.DeliverSignal(x.ctx, a)
}

// lostWaitOps are the operations of suspensions, waitpoints and signals.
func lostWaitOps() []lostOp {
	same := func(a, b any) bool { return fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b) }
	secretFenced := func(x *lostRun) {
		x.seeded()
		x.claim()
	}
	sameShape := func(a, b any) bool {
		f, s := a.(flowfabric.SuspendResult), b.(flowfabric.SuspendResult)
		return f.Outcome == s.Outcome && len(f.Waitpoints) == len(s.Waitpoints) && len(f.Signals) == len(s.Signals) &&
			f.Waitpoints[0].Token.IsZero() == s.Waitpoints[0].Token.IsZero()
	}
	sameEffect := func(a, b any) bool {
		return a.(flowfabric.DeliverSignalResult).Effect == b.(flowfabric.DeliverSignalResult).Effect
	}
	return []lostOp{
		{name: "create waitpoint", setup: secretFenced, again: same, do: func(x *lostRun, b *Backend) (any, error) { return x.createWaitpoint(b) }},
		{name: "close waitpoint", setup: func(x *lostRun) { x.pending() }, do: func(x *lostRun, b *Backend) (any, error) {
			return b.CloseWaitpoint(x.ctx, flowfabric.CloseWaitpointArgs{ExecutionID: x.id, WaitpointID: x.wait.WaitpointID, Fence: x.fence})
		}},
		{name: "suspend with a key", setup: secretFenced, again: sameShape, do: func(x *lostRun, b *Backend) (any, error) { return x.suspend(b, "once") }},
		{name: "suspend", setup: secretFenced, refused: []flowfabric.Code{flowfabric.CodeAlreadySuspended}, do: func(x *lostRun, b *Backend) (any, error) {
			return x.suspend(b, "")
		}},
		{name: "suspend, satisfied already", setup: func(x *lostRun) {
			x.pending()
			_, err := x.deliver(x.direct)
			x.ok(err)
		}, again: sameShape, do: func(x *lostRun, b *Backend) (any, error) { return x.suspend(b, "once") }},
		{name: "deliver, buffered", setup: func(x *lostRun) { x.pending() }, again: sameEffect, do: func(x *lostRun, b *Backend) (any, error) {
			return x.deliver(b)
		}},
		{name: "deliver, resumes", setup: func(x *lostRun) { x.suspended() }, again: sameEffect, do: func(x *lostRun, b *Backend) (any, error) {
			return x.deliver(b)
		}},
		{name: "approve", setup: func(x *lostRun) { x.suspended() }, again: sameEffect, do: func(x *lostRun, b *Backend) (any, error) {
			return b.DeliverApprovalSignal(x.ctx, flowfabric.DeliverApprovalSignalArgs{ExecutionID: x.id, LaneID: x.lane, WaitpointID: x.wait.WaitpointID,
				SignalID: x.signal, SignalName: "go", IdempotencySuffix: "1", DecidedBy: "me"})
		}},
		{name: "resume", setup: func(x *lostRun) { x.suspended() }, refused: []flowfabric.Code{flowfabric.CodeExecutionNotSuspended},
			do: func(x *lostRun, b *Backend) (any, error) {
				return b.ResumeExecution(x.ctx, flowfabric.ResumeExecutionArgs{ExecutionID: x.id})
			}},
		{name: "suspend for a budget", setup: func(x *lostRun) { x.claim() }, do: func(x *lostRun, b *Backend) (any, error) {
			return b.SuspendForBudget(x.ctx, flowfabric.SuspendForBudgetArgs{ExecutionID: x.id, Fence: x.fence, SuspensionID: x.suspension, BudgetID: "b", Detail: "spent"})
		}},
	}
}
