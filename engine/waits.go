package engine

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
)

// waits holds the interest of WaitExecution calls in executions.
type waits struct {
	n    atomic.Int64
	mu   sync.Mutex
	byID map[flowfabric.ExecutionID][]*wait
}

// wait is one call's interest in one execution.
type wait struct {
	woken chan struct{} // one token: look again

	mu         sync.Mutex
	completion *flowfabric.Event // the latest one seen
}

func (ws *waits) register(id flowfabric.ExecutionID) *wait {
	w := &wait{woken: make(chan struct{}, 1)}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.byID == nil {
		ws.byID = make(map[flowfabric.ExecutionID][]*wait)
	}
	ws.byID[id] = append(ws.byID[id], w)
	ws.n.Add(1)
	return w
}

func (ws *waits) remove(id flowfabric.ExecutionID, w *wait) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.n.Add(-1)
	list := ws.byID[id]
	if len(list) == 1 {
		delete(ws.byID, id)
		return
	}
	ws.byID[id] = slices.DeleteFunc(list, func(o *wait) bool { return o == w })
}

// notify tells whoever waits for the execution that it ended or was suspended.
func (ws *waits) notify(id flowfabric.ExecutionID, completion *flowfabric.Event) {
	if ws.n.Load() == 0 {
		return
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.byID[id] {
		w.notify(completion)
	}
}

func (w *wait) notify(completion *flowfabric.Event) {
	w.mu.Lock()
	if completion != nil && (w.completion == nil || replayOf(completion) >= replayOf(w.completion)) {
		w.completion = completion
	}
	w.mu.Unlock()
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

func (w *wait) observed() *flowfabric.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.completion
}

func replayOf(ev *flowfabric.Event) uint32 {
	if ev.ReplayCount == nil {
		return 0
	}
	return *ev.ReplayCount
}

// ReserveWait takes a permit of the pool "waits" ahead of a wait, for submit and
// wait: the permit is there before anything is created. The caller waits with
// WaitReserved and then calls release, once. It fails with resource_exhausted or
// shutting_down. (Specification 04, section 6.2.)
func (e *Engine) ReserveWait() (release func(), err error) {
	if err := e.waitPool.acquire(); err != nil {
		return nil, err
	}
	return sync.OnceFunc(e.waitPool.release), nil
}

// WaitExecution waits until the execution has ended, or with UntilSettled has
// ended or is suspended, at most WaitMs (0..30,000; 0 only looks and takes no
// permit), and returns its state; TimedOut tells that it is not there yet. A
// completion that happens while waiting fulfils the wait even if a replay or a
// purge follows at once. Errors: execution_not_found, invalid_input,
// invalid_execution_id, resource_exhausted (pool "waits"), shutting_down.
// (Specification 04, section 6.1.)
func (e *Engine) WaitExecution(ctx context.Context, args flowfabric.WaitExecutionArgs) (flowfabric.WaitExecutionResult, error) {
	if err := checkWait(&args); err != nil {
		return flowfabric.WaitExecutionResult{}, err
	}
	if args.WaitMs > 0 {
		if err := e.waitPool.acquire(); err != nil {
			return flowfabric.WaitExecutionResult{}, err
		}
		defer e.waitPool.release()
	}
	return e.waitExecution(ctx, args)
}

// WaitReserved is WaitExecution with a permit taken by ReserveWait.
func (e *Engine) WaitReserved(ctx context.Context, args flowfabric.WaitExecutionArgs) (flowfabric.WaitExecutionResult, error) {
	if err := checkWait(&args); err != nil {
		return flowfabric.WaitExecutionResult{}, err
	}
	return e.waitExecution(ctx, args)
}

func checkWait(args *flowfabric.WaitExecutionArgs) error {
	if _, err := flowfabric.ParseExecutionID(string(args.ExecutionID)); err != nil {
		return err
	}
	switch args.Until {
	case "":
		args.Until = flowfabric.UntilTerminal
	case flowfabric.UntilTerminal, flowfabric.UntilSettled:
	default:
		return flowfabric.InvalidInput("until", "is %q, must be terminal or settled", string(args.Until))
	}
	return inRange("wait_ms", args.WaitMs, 0, flowfabric.MaxWaitMs)
}

func (e *Engine) waitExecution(ctx context.Context, args flowfabric.WaitExecutionArgs) (flowfabric.WaitExecutionResult, error) {
	if !e.calls.enter() {
		return flowfabric.WaitExecutionResult{}, errShuttingDown()
	}
	defer e.calls.leave()
	// Interest first, then the state: a completion in between is not missed.
	w := e.waits.register(args.ExecutionID)
	defer e.waits.remove(args.ExecutionID, w)
	if e.expects != nil && args.WaitMs > 0 {
		defer e.expects.ExpectSettled(ctx, args.ExecutionID)()
	}
	var timeUp *time.Timer
	if args.WaitMs > 0 {
		timeUp = time.NewTimer(time.Duration(args.WaitMs) * time.Millisecond)
		defer timeUp.Stop()
	}
	last := args.WaitMs == 0 // the present look is the last one
	var start *uint32        // replay count at the first look
	for {
		completion := w.observed() // before the look: a look after it is newer
		rec, err := e.store.GetExecution(ctx, args.ExecutionID)
		if err == nil && start == nil {
			start = &rec.ReplayCount
		}
		switch {
		case err == nil && wanted(rec.PublicState, args.Until):
			return e.outcome(ctx, rec, args)
		case completion != nil && (start == nil || replayOf(completion) >= *start) && (err == nil || flowfabric.IsNotFound(err)):
			return fromCompletion(completion), nil
		case err != nil:
			return flowfabric.WaitExecutionResult{}, err
		case last:
			res := fromRecord(rec)
			res.TimedOut = true
			return res, nil
		}
		if last, err = e.parkWait(ctx, w, args, timeUp); err != nil {
			return flowfabric.WaitExecutionResult{}, err
		}
	}
}

// parkWait returns when another look is worth while; last tells that it is the
// last one. Once a second it checks the state by itself.
func (e *Engine) parkWait(ctx context.Context, w *wait, args flowfabric.WaitExecutionArgs, timeUp *time.Timer) (last bool, err error) {
	recheck := time.NewTimer(jittered(recheckEvery))
	defer recheck.Stop()
	for {
		select {
		case <-w.woken:
			return false, nil
		case <-timeUp.C:
			return true, nil
		case <-e.closing:
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		case <-recheck.C:
			state, err := e.store.GetExecutionState(ctx, args.ExecutionID)
			if err != nil || wanted(state, args.Until) {
				return false, nil
			}
			recheck.Reset(jittered(recheckEvery))
		}
	}
}

func wanted(state flowfabric.PublicState, until flowfabric.WaitUntil) bool {
	return state.Terminal() || until == flowfabric.UntilSettled && state == flowfabric.PublicSuspended
}

// outcome returns the result of a wait that the record fulfils. The stored
// result is read beside the record, so the record is read once more to be sure
// that both belong to the same run.
func (e *Engine) outcome(ctx context.Context, rec *flowfabric.Execution, args flowfabric.WaitExecutionArgs) (flowfabric.WaitExecutionResult, error) {
	for {
		res := fromRecord(rec)
		if rec.PublicState != flowfabric.PublicCompleted {
			return res, nil
		}
		stored, err := e.store.GetExecutionResult(ctx, args.ExecutionID)
		if err != nil {
			return flowfabric.WaitExecutionResult{}, err
		}
		if !stored.Present {
			return res, nil
		}
		again, err := e.store.GetExecution(ctx, args.ExecutionID)
		if err != nil && !flowfabric.IsNotFound(err) {
			return flowfabric.WaitExecutionResult{}, err
		}
		if err != nil || again.ReplayCount == rec.ReplayCount { // purged, or unchanged
			res.ResultAvailable = true
			if !args.OmitResult {
				res.Result, res.ResultEncoding = stored.Payload, stored.Encoding
			}
			return res, nil
		}
		if !wanted(again.PublicState, args.Until) { // replayed: the result is gone
			return res, nil
		}
		rec = again
	}
}

func fromRecord(rec *flowfabric.Execution) flowfabric.WaitExecutionResult {
	res := flowfabric.WaitExecutionResult{
		PublicState: rec.PublicState,
		Terminal:    rec.PublicState.Terminal(),
		ReplayCount: rec.ReplayCount,
	}
	if i, ok := rec.CurrentAttemptIndex(); ok {
		res.AttemptIndex = &i
	}
	if res.Terminal {
		res.Outcome = rec.TerminalOutcome
		res.CompletedAt = rec.CompletedAt
		res.FailureCategory = rec.FailureCategory
		res.FailureReason = rec.FailureReason
	}
	return res
}

func fromCompletion(ev *flowfabric.Event) flowfabric.WaitExecutionResult {
	return flowfabric.WaitExecutionResult{
		PublicState:     ev.PublicState,
		Terminal:        true,
		Outcome:         ev.Outcome,
		AttemptIndex:    ev.AttemptIndex,
		ReplayCount:     replayOf(ev),
		CompletedAt:     ev.At,
		FailureCategory: ev.FailureCategory,
		FailureReason:   ev.FailureReason,
	}
}
