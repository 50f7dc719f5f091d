package crashtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// waitKey is the key of a scene's waitpoint, waitSignal what it waits for.
const waitKey = "one-0"

func waitSignal(key string) flowfabric.Signal {
	s := WaitOne.Signals()[0]
	s.IdempotencyKey = key
	return s.WithDefaults()
}

// suspendArgs are those of a suspend on a fresh waitpoint, or on a pending one.
func (x *scene) suspendArgs(pending flowfabric.WaitpointID) flowfabric.SuspendArgs {
	binding := flowfabric.WaitpointBinding{WaitpointKey: waitKey}
	if pending != "" {
		binding = flowfabric.WaitpointBinding{WaitpointID: pending, UsePending: true}
	}
	return flowfabric.SuspendArgs{
		ExecutionID: x.id, Fence: x.fence, Waitpoints: []flowfabric.WaitpointBinding{binding},
		ResumeCondition: WaitOne.Condition(waitKey), ReasonCode: flowfabric.SuspendWaitingForSignal,
	}.WithDefaults()
}

// suspend suspends under an idempotency key, and once more with other identifiers:
// the first answer stands, tokens included.
func (x *scene) suspend(pending flowfabric.WaitpointID, want flowfabric.SuspendOutcome) flowfabric.SuspendResult {
	x.t.Helper()
	ask := func() flowfabric.SuspendResult {
		args := x.suspendArgs(pending)
		args.IdempotencyKey = "once"
		return until(x, func(ctx context.Context) (flowfabric.SuspendResult, error) { return x.lossy.Suspend(ctx, args) })
	}
	first := ask()
	again := ask()
	if first.Outcome != want || again.Outcome != want || !again.Replayed || again.SuspensionID != first.SuspensionID ||
		!slices.Equal(again.Waitpoints, first.Waitpoints) {
		x.errorf("suspended: %+v, and once more: %+v", first, again)
	}
	x.report(Report{Op: OpSuspend, Suspension: first.SuspensionID, Satisfied: want == flowfabric.SuspendAlreadySatisfied, Keyed: true})
	return first
}

// suspendFresh suspends on a waitpoint of its own.
func (x *scene) suspendFresh() address {
	x.t.Helper()
	r := x.suspend("", flowfabric.SuspendSuspended)
	if len(r.Waitpoints) != 1 {
		x.errorf("suspended on %+v", r.Waitpoints)
		return address{execution: x.id, waitpoint: flowfabric.NewWaitpointID()}
	}
	w := r.Waitpoints[0]
	return address{x.id, w.WaitpointID, w.WaitpointKey, w.Token}
}

// suspendBare suspends without an idempotency key. The client never repeats that
// by itself; whoever does finds either a suspend that did not come about before,
// or the one that did.
func (x *scene) suspendBare() address {
	x.t.Helper()
	ctx, cancel := within(x.t)
	defer cancel()
	sent := make(map[flowfabric.SuspensionID]flowfabric.WaitpointID)
	for {
		args := x.suspendArgs("")
		sent[args.SuspensionID] = args.Waitpoints[0].WaitpointID
		r, err := x.lossy.Suspend(ctx, args)
		if unanswered(err) && err != nil && ctx.Err() == nil {
			if c := flowfabric.CodeOf(err); c != flowfabric.CodeOutcomeUnknown && c != flowfabric.CodeStoreUnavailable {
				x.errorf("an unanswered suspend is %s", c)
			}
			continue
		}
		id := r.SuspensionID
		if errors.Is(err, flowfabric.ErrAlreadySuspended) && len(sent) > 1 {
			told, _ := flowfabric.AsError(err).Detail("suspension_id").(string)
			id, err = flowfabric.SuspensionID(told), nil
		}
		held, readErr := x.direct.GetSuspension(ctx, x.id)
		if err != nil || readErr != nil || sent[id] == "" || held == nil || held.SuspensionID != id {
			x.errorf("suspended as %q, the store has %+v: %v, %v", id, held, err, readErr)
		}
		x.report(Report{Op: OpSuspend, Suspension: id})
		return x.address(sent[id])
	}
}

// address reads the token of a waitpoint.
func (x *scene) address(waitpoint flowfabric.WaitpointID) address {
	x.t.Helper()
	token := until(x, func(ctx context.Context) (flowfabric.WaitpointToken, error) {
		return x.lossy.ReadWaitpointToken(ctx, x.id, waitpoint)
	})
	if token.IsZero() {
		x.errorf("waitpoint %s has no token", waitpoint)
	}
	return address{x.id, waitpoint, waitKey, token}
}

// pending makes a waitpoint, twice by the same identifier: the answer is the same.
func (x *scene) pending() address {
	x.t.Helper()
	args := flowfabric.CreatePendingWaitpointArgs{ExecutionID: x.id, Fence: x.fence, WaitpointKey: waitKey, ExpiresInMs: 60_000}.WithDefaults()
	call := func(ctx context.Context) (flowfabric.PendingWaitpoint, error) {
		return x.lossy.CreatePendingWaitpoint(ctx, args)
	}
	first := until(x, call)
	if again := until(x, call); again != first || first.WaitpointID != args.WaitpointID {
		x.errorf("made waitpoint %+v, and once more: %+v", first, again)
	}
	x.report(Report{Op: OpWaitpoint})
	return address{x.id, first.WaitpointID, first.WaitpointKey, first.Token}
}

// deliver sends a signal, once more as it is, and once more under another
// identifier with the same idempotency key: it is one signal.
func (x *scene) deliver(a address, want flowfabric.SignalEffect) {
	x.t.Helper()
	signal := waitSignal("hook")
	ids := []flowfabric.SignalID{signal.SignalID, signal.SignalID, flowfabric.NewSignalID()}
	for n, id := range ids {
		again := signal
		again.SignalID = id
		d := x.journal.sends(a, again)
		r := until(x, func(ctx context.Context) (flowfabric.DeliverSignalResult, error) {
			r, err := x.lossy.DeliverSignal(ctx, flowfabric.DeliverSignalArgs{ExecutionID: x.id, WaitpointID: a.waitpoint, Token: a.token, Signal: again})
			x.journal.delivered(d, r, err)
			return r, err
		})
		if r.SignalID != signal.SignalID || r.Effect != want || n > 0 && r.Outcome != flowfabric.DeliverDuplicate {
			x.errorf("signal %s, sent the %d. time: %+v, want effect %s", signal.SignalID, n+1, r, want)
		}
	}
	x.seen = nil
	if want == flowfabric.EffectResumed || want == flowfabric.EffectBuffered {
		x.seen = []flowfabric.SignalID{signal.SignalID}
	}
}

// resume has an operator end the wait. The call is not repeatable: whoever repeats
// it may find it done.
func (x *scene) resume() {
	x.t.Helper()
	x.journal.mayResume(x.id)
	tries := 0
	until(x, func(ctx context.Context) (flowfabric.ResumeExecutionResult, error) {
		tries++
		r, err := x.lossy.ResumeExecution(ctx, flowfabric.ResumeExecutionArgs{ExecutionID: x.id, Reason: "as planned"})
		if errors.Is(err, flowfabric.ErrExecutionNotSuspended) && tries > 1 {
			return r, nil
		}
		return r, err
	})
	x.closed(flowfabric.ClosedOperatorResume)
}

// closed checks why the last wait is over.
func (x *scene) closed(want flowfabric.SuspensionCloseReason) {
	x.t.Helper()
	s, err := x.direct.GetSuspension(x.t.Context(), x.id)
	if err != nil || s == nil || s.CloseReason != want {
		x.errorf("the suspension is %+v, %v; want it closed %s", s, err, want)
	}
}

// resumed claims the execution again and looks at what came.
func (x *scene) resumed() {
	x.t.Helper()
	x.claim(flowfabric.ClaimResume, 0, x.fence.LeaseEpoch+1)
	x.observe()
}

func (x *scene) observe() {
	x.t.Helper()
	args := flowfabric.ObserveSignalsArgs{ExecutionID: x.id, AttemptID: x.fence.AttemptID}
	signals := until(x, func(ctx context.Context) ([]flowfabric.ResumeSignal, error) { return x.lossy.ObserveSignals(ctx, args) })
	if len(signals) != len(x.seen) || len(signals) == 1 && signals[0].SignalID != x.seen[0] {
		x.errorf("resumed by %+v, want %v", signals, x.seen)
	}
}

// closeWaitpoint closes a pending waitpoint, and once more.
func (x *scene) closeWaitpoint(a address) {
	x.t.Helper()
	args := flowfabric.CloseWaitpointArgs{ExecutionID: x.id, WaitpointID: a.waitpoint, Fence: x.fence, Source: flowfabric.SourceLeaseHolder}
	call := func(ctx context.Context) (flowfabric.CloseWaitpointOutcome, error) {
		return x.lossy.CloseWaitpoint(ctx, args)
	}
	first := until(x, call)
	if again := until(x, call); again != flowfabric.WaitpointAlreadyClosed {
		x.errorf("closed the waitpoint: %s, and once more: %s", first, again)
	}
	page, err := x.direct.ListSignals(x.t.Context(), flowfabric.ListSignalsArgs{ExecutionID: x.id})
	if err != nil || len(page.Signals) != 1 || page.Signals[0].Effect != flowfabric.EffectNeverActivated {
		x.errorf("signals of a closed waitpoint: %+v, %v", page, err)
	}
	x.seen = nil
}

// rotate makes another key the current one, and once more: there is no conflict.
// One rotation runs at a time, and another scene's may come between.
func (x *scene) rotate() {
	x.t.Helper()
	args := flowfabric.RotateWaitpointSecretArgs{NewKID: fmt.Sprintf("scene-%d", x.serial), NewSecretHex: strings.Repeat(fmt.Sprintf("%08x", x.serial+1), 8)}
	for range 2 {
		r := until(x, func(ctx context.Context) (r flowfabric.RotateWaitpointSecretResult, err error) {
			for {
				if r, err = x.lossy.RotateWaitpointSecret(ctx, args); !errors.Is(err, flowfabric.ErrResourceExhausted) || ctx.Err() != nil {
					return r, err
				}
			}
		})
		for _, c := range r.Copies {
			if c.Err != nil || c.Outcome != flowfabric.RotateRotated && c.Outcome != flowfabric.RotateNoop {
				x.errorf("rotated: %+v", r)
			}
		}
	}
}

// waitScenarios are the lives of executions that wait. (Chapter 03, the parts on
// retry of section 4; scenarios 19, 20, 33, 34 and 47.)
func waitScenarios() map[string]func(*scene) {
	start := func(x *scene) {
		x.begin("", rand.IntN(2) == 0)
		x.claim(flowfabric.ClaimNew, 0, 1)
	}
	end := func(x *scene) {
		x.complete(0)
		x.check(flowfabric.PublicCompleted, 1, 0, 0)
	}
	return map[string]func(*scene){
		"suspend": func(x *scene) {
			start(x)
			x.deliver(x.suspendFresh(), flowfabric.EffectResumed)
			x.resumed()
			x.closed(flowfabric.ClosedResumed)
			end(x)
		},
		"suspend bare": func(x *scene) {
			start(x)
			x.deliver(x.suspendBare(), flowfabric.EffectResumed)
			x.resumed()
			end(x)
		},
		"suspend on pending": func(x *scene) {
			start(x)
			a := x.pending()
			x.suspend(a.waitpoint, flowfabric.SuspendSuspended)
			x.deliver(a, flowfabric.EffectResumed)
			x.resumed()
			end(x)
		},
		"already satisfied": func(x *scene) {
			start(x)
			a := x.pending()
			x.deliver(a, flowfabric.EffectBuffered)
			x.suspend(a.waitpoint, flowfabric.SuspendAlreadySatisfied)
			x.observe()
			x.renew()
			end(x)
		},
		"close waitpoint": func(x *scene) {
			start(x)
			a := x.pending()
			x.deliver(a, flowfabric.EffectBuffered)
			x.closeWaitpoint(a)
			end(x)
		},
		"operator resume": func(x *scene) {
			start(x)
			x.suspendFresh()
			x.resume()
			x.resumed()
			end(x)
		},
		"rotate": func(x *scene) {
			start(x)
			a := x.suspendBare()
			x.rotate()
			x.deliver(a, flowfabric.EffectResumed)
			x.resumed()
			end(x)
		},
		"cancel suspended": func(x *scene) {
			start(x)
			x.suspendFresh()
			x.overrule()
			x.closed(flowfabric.ClosedCancelled)
			x.check(flowfabric.PublicCancelled, 1, 0, 0)
		},
	}
}
