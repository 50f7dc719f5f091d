package api

import (
	"context"
	"net/http"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// waitReserver is a backend that hands out its permits to wait before there is
// anything to wait for. (Specification 04, section 6.2.)
type waitReserver interface {
	// ReserveWait takes a permit of the pool "waits"; release gives it back.
	ReserveWait() (release func(), err error)
}

// reservedWaiter is a waitReserver that waits with the permit taken.
type reservedWaiter interface {
	waitReserver
	WaitReserved(ctx context.Context, args flowfabric.WaitExecutionArgs) (flowfabric.WaitExecutionResult, error)
}

// waiter is how to wait once the permits are there.
type waiter func(context.Context, flowfabric.WaitExecutionArgs) (flowfabric.WaitExecutionResult, error)

// reserveWait takes the permits a wait needs, of the API and, where it has one,
// of the backend. A backend that cannot wait with the permit gets it back when
// the wait begins, and takes it anew.
func (c *call) reserveWait() (waiter, func(), error) {
	own, err := c.api.waits.acquire()
	if err != nil {
		return nil, nil, err
	}
	plainly := c.api.backend.WaitExecution
	reserver, ok := c.api.raw.(waitReserver)
	if !ok {
		return plainly, own, nil
	}
	backends, err := reserver.ReserveWait()
	if err != nil {
		own()
		return nil, nil, err
	}
	release := func() { backends(); own() }
	if r, ok := c.api.raw.(reservedWaiter); ok {
		return r.WaitReserved, release, nil
	}
	return func(ctx context.Context, args flowfabric.WaitExecutionArgs) (flowfabric.WaitExecutionResult, error) {
		backends()
		return plainly(ctx, args)
	}, release, nil
}

func waitExecution(c *call) error {
	id, err := c.executionID()
	if err != nil {
		return err
	}
	query, err := c.query()
	if err != nil {
		return err
	}
	args, err := wire.ParseWaitExecution(id, query)
	if err != nil {
		return err
	}
	if err := c.admit(id); err != nil {
		return err
	}
	if args.WaitMs > 0 {
		release, err := c.api.waits.acquire()
		if err != nil {
			return err
		}
		defer release()
	}
	r, err := c.wait(c.api.backend.WaitExecution, args)
	if err != nil {
		return err
	}
	return c.ok(wire.NewWaitExecutionResponse(r))
}

// wait waits; when the server shuts down meanwhile it answers with the present
// state.
func (c *call) wait(wait waiter, args flowfabric.WaitExecutionArgs) (flowfabric.WaitExecutionResult, error) {
	ctx, cancel := c.waiting()
	defer cancel()
	r, err := wait(ctx, args)
	if !c.cutShort(err) {
		return r, err
	}
	args.WaitMs = 0
	return c.api.backend.WaitExecution(c.ctx, args)
}

// submitAndWait creates and waits. The permit comes first: without one nothing
// is created. Once created, the execution stays, whatever becomes of the wait.
func (c *call) submitAndWait(args flowfabric.CreateExecutionArgs, waitMs int64) error {
	wait, release, err := c.reserveWait()
	if err != nil {
		return err
	}
	defer release()
	created, err := c.create(args)
	if err != nil {
		return err
	}
	w, err := c.wait(wait, flowfabric.WaitExecutionArgs{ExecutionID: created.ExecutionID, WaitMs: waitMs})
	if err != nil {
		if c.ctx.Err() != nil {
			return err
		}
		// The wait failed, the creation stands: that is the answer.
		w = flowfabric.WaitExecutionResult{PublicState: created.PublicState, TimedOut: true}
		if state, err := c.api.backend.GetExecutionState(c.ctx, created.ExecutionID); err == nil {
			w.PublicState, w.Terminal = state, state.Terminal()
		}
	}
	status := http.StatusAccepted
	if w.Terminal {
		status = http.StatusOK
	}
	return c.json(status, wire.NewSubmitAndWaitResponse(created, w))
}
