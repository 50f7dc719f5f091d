package main

import (
	"context"
	"os"
	"sync"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/crashtest"
)

// reporter prints reports, one line each.
type reporter struct {
	instance flowfabric.WorkerInstanceID
	mu       sync.Mutex
}

func (r *reporter) report(line crashtest.Report) {
	line.Instance = r.instance
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = os.Stdout.Write(line.Line())
}

// witness reports what the store answers. An answer that was lost is no answer.
type witness struct {
	flowfabric.Backend
	says *reporter
	end  *doom
}

// answered reports an answer about a lease: err, where the store refused.
func (w *witness) answered(r crashtest.Report, id flowfabric.ExecutionID, f flowfabric.Fence, err error) {
	if e := flowfabric.AsError(err); err != nil {
		if e == nil || e.Class == flowfabric.ClassRetryableTransport {
			return
		}
		r.Code = e.Code
	}
	r.Execution, r.Lease, r.Epoch = id, f.LeaseID, f.LeaseEpoch
	w.says.report(r)
}

func (w *witness) claimed(tasks []flowfabric.ClaimedExecution, found bool) {
	for _, t := range tasks {
		w.answered(crashtest.Report{Op: crashtest.OpClaim, Attempt: t.AttemptIndex, Found: found}, t.ExecutionID, t.Fence, nil)
	}
}

func (w *witness) ClaimTasks(ctx context.Context, args flowfabric.ClaimTasksArgs) (flowfabric.ClaimTasksResult, error) {
	result, err := w.Backend.ClaimTasks(ctx, args)
	w.claimed(result.Tasks, false)
	return result, err
}

func (w *witness) ListWorkerLeases(ctx context.Context, args flowfabric.ListWorkerLeasesArgs) (flowfabric.ListWorkerLeasesResult, error) {
	result, err := w.Backend.ListWorkerLeases(ctx, args)
	w.claimed(result.Tasks, true)
	return result, err
}

func (w *witness) RenewLeases(ctx context.Context, items []flowfabric.RenewLeaseArgs) ([]flowfabric.Item[flowfabric.RenewLeaseResult], error) {
	answers, err := w.Backend.RenewLeases(ctx, items)
	if err != nil {
		return answers, err
	}
	for i, a := range answers {
		w.answered(crashtest.Report{Op: crashtest.OpRenew}, items[i].ExecutionID, items[i].Fence, a.Err)
	}
	return answers, err
}

func (w *witness) CompleteExecutions(ctx context.Context, items []flowfabric.CompleteExecutionArgs) ([]flowfabric.Item[flowfabric.CompleteExecutionResult], error) {
	answers, err := w.Backend.CompleteExecutions(ctx, items)
	if err != nil {
		return answers, err
	}
	for i, a := range answers {
		w.answered(crashtest.Report{Op: crashtest.OpComplete, Result: items[i].Result, Replayed: a.Result.Replayed},
			items[i].ExecutionID, items[i].Fence, a.Err)
	}
	return answers, err
}

func (w *witness) FailExecution(ctx context.Context, args flowfabric.FailExecutionArgs) (flowfabric.FailExecutionResult, error) {
	result, err := w.Backend.FailExecution(ctx, args)
	w.answered(crashtest.Report{Op: crashtest.OpFail, Outcome: result.Outcome, Replayed: result.Replayed}, args.ExecutionID, args.Fence, err)
	return result, err
}

func (w *witness) DelayExecution(ctx context.Context, args flowfabric.DelayExecutionArgs) (flowfabric.DelayExecutionResult, error) {
	result, err := w.Backend.DelayExecution(ctx, args)
	w.answered(crashtest.Report{Op: crashtest.OpDelay, Replayed: result.Replayed}, args.ExecutionID, args.Fence, err)
	return result, err
}

func (w *witness) CreatePendingWaitpoint(ctx context.Context, args flowfabric.CreatePendingWaitpointArgs) (flowfabric.PendingWaitpoint, error) {
	p, err := w.Backend.CreatePendingWaitpoint(ctx, args)
	r := crashtest.Report{Op: crashtest.OpWaitpoint}
	if err == nil {
		r.Addresses = []crashtest.Address{{Waitpoint: p.WaitpointID, Key: p.WaitpointKey, Token: p.Token.Reveal()}}
	}
	w.answered(r, args.ExecutionID, args.Fence, err)
	return p, err
}

func (w *witness) Suspend(ctx context.Context, args flowfabric.SuspendArgs) (flowfabric.SuspendResult, error) {
	w.end.sending()
	result, err := w.Backend.Suspend(ctx, args)
	w.end.at(crashtest.PointSending)
	if err == nil {
		w.end.at(crashtest.PointUnheard)
	}
	r := crashtest.Report{Op: crashtest.OpSuspend, Suspension: result.SuspensionID, Keyed: args.IdempotencyKey != "", Replayed: result.Replayed,
		Satisfied: result.Outcome == flowfabric.SuspendAlreadySatisfied}
	for _, p := range result.Waitpoints {
		if !r.Satisfied {
			r.Addresses = append(r.Addresses, crashtest.Address{Waitpoint: p.WaitpointID, Key: p.WaitpointKey, Token: p.Token.Reveal()})
		}
	}
	w.answered(r, args.ExecutionID, args.Fence, err)
	return result, err
}
