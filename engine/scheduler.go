package engine

import (
	"context"
	"slices"
	"time"

	"github.com/flowfabric/flowfabric"
)

// The outcomes of a claim request, as the Observer is told.
const (
	claimGranted = "granted"
	claimNoWork  = "no_work"
	claimDenied  = "denied"
	claimError   = "error"
)

// maxRepeats is how often a claim that was stopped by the bound on evaluated
// candidates asks again at once before it waits.
const maxRepeats = 3

// giveBackTimeout bounds the release of what was claimed for a client that has
// gone away; what it misses lapses by itself.
const giveBackTimeout = 5 * time.Second

// ClaimForWorker issues a grant for the best execution the worker may run, or
// answers no_work; with WaitMs it waits for one. It refuses malformed input with
// invalid_input or invalid_capabilities, the 10,001st waiter with
// too_many_waiters, and everything after a shutdown has begun with
// shutting_down. A grant that was issued while ctx ended is released again.
// (Specification 02, sections 7.2 and 7.3.)
func (e *Engine) ClaimForWorker(ctx context.Context, args flowfabric.ClaimForWorkerArgs) (flowfabric.ClaimForWorkerResult, error) {
	c := flowfabric.ClaimCandidatesArgs{
		WorkerID:         args.WorkerID,
		WorkerInstanceID: args.WorkerInstanceID,
		Lanes:            args.Lanes,
		Capabilities:     args.Capabilities,
		Namespace:        args.Namespace,
		Namespaces:       args.Namespaces,
		Max:              1,
		GrantTTLMs:       args.GrantTTLMs,
		WaitMs:           args.WaitMs,
	}
	err := normalizeClaim(&c)
	if err == nil {
		err = inRange("grant_ttl_ms", args.GrantTTLMs, 1, flowfabric.MaxGrantTTLMs)
	}
	if err != nil {
		return flowfabric.ClaimForWorkerResult{}, err
	}
	res, err := e.claim(ctx, c)
	if err != nil {
		return flowfabric.ClaimForWorkerResult{}, err
	}
	if len(res.Grants) == 0 {
		return flowfabric.ClaimForWorkerResult{More: res.More}, nil
	}
	return flowfabric.ClaimForWorkerResult{Grant: &res.Grants[0], More: res.More}, nil
}

// ClaimTasks selects, grants and claims up to MaxTasks executions at once, in
// claim order. It never waits to fill up: with WaitMs it waits only for the
// first. Errors are those of ClaimForWorker. Leases taken while ctx ended are
// revoked again with the reason worker_abandoned. (Specification 02, section
// 7.4.)
func (e *Engine) ClaimTasks(ctx context.Context, args flowfabric.ClaimTasksArgs) (flowfabric.ClaimTasksResult, error) {
	if args.GrantTTLMs == 0 {
		args.GrantTTLMs = flowfabric.DefaultGrantTTLMs
	}
	c := flowfabric.ClaimCandidatesArgs{
		WorkerID:         args.WorkerID,
		WorkerInstanceID: args.WorkerInstanceID,
		Lanes:            args.Lanes,
		Capabilities:     args.Capabilities,
		Namespace:        args.Namespace,
		Namespaces:       args.Namespaces,
		Max:              args.MaxTasks,
		LeaseTTLMs:       args.LeaseTTLMs,
		WaitMs:           args.WaitMs,
	}
	err := normalizeClaim(&c)
	if err == nil {
		err = inRange("max_tasks", int64(args.MaxTasks), 1, flowfabric.MaxClaimTasks)
	}
	if err == nil {
		err = inRange("lease_ttl_ms", args.LeaseTTLMs, flowfabric.MinLeaseTTLMs, flowfabric.MaxLeaseTTLMs)
	}
	if err == nil {
		err = inRange("grant_ttl_ms", args.GrantTTLMs, 1, flowfabric.MaxGrantTTLMs)
	}
	if err != nil {
		return flowfabric.ClaimTasksResult{}, err
	}
	res, err := e.claim(ctx, c)
	if err != nil {
		return flowfabric.ClaimTasksResult{}, err
	}
	return flowfabric.ClaimTasksResult{Tasks: res.Tasks, More: res.More}, nil
}

// normalizeClaim checks what both kinds of claim share, and brings lanes and
// capabilities into normal form: sorted, without duplicates.
func normalizeClaim(c *flowfabric.ClaimCandidatesArgs) error {
	if err := c.WorkerID.Validate(); err != nil {
		return err
	}
	if err := c.WorkerInstanceID.Validate(); err != nil {
		return err
	}
	if n := len(c.Lanes); n < 1 || n > flowfabric.MaxLanesPerRequest {
		return flowfabric.InvalidInput("lanes", "has %d lanes, must be 1..%d", n, flowfabric.MaxLanesPerRequest)
	}
	for _, l := range c.Lanes {
		if err := l.Validate(); err != nil {
			return err
		}
	}
	if c.Namespace == flowfabric.AnyNamespace {
		c.Namespace = ""
	}
	if c.Namespace != "" {
		if err := c.Namespace.Validate(); err != nil {
			return err
		}
	}
	if err := inRange("wait_ms", c.WaitMs, 0, flowfabric.MaxWaitMs); err != nil {
		return err
	}
	caps, err := flowfabric.NormalizeCapabilities("worker", c.Capabilities)
	if err != nil {
		return err
	}
	c.Capabilities = caps
	if len(c.Lanes) > 1 {
		lanes := slices.Clone(c.Lanes)
		slices.Sort(lanes)
		c.Lanes = slices.Compact(lanes)
	}
	return nil
}

func inRange(field string, v, low, high int64) error {
	if v < low || v > high {
		return flowfabric.InvalidInput(field, "is %d, must be %d..%d", v, low, high)
	}
	return nil
}

// claim answers one checked request and tells the observer.
func (e *Engine) claim(ctx context.Context, args flowfabric.ClaimCandidatesArgs) (flowfabric.ClaimCandidatesResult, error) {
	res, err := e.claimOrWait(ctx, args)
	if e.observer == nil {
		return res, err
	}
	lane, outcome := args.Lanes[0], claimNoWork
	switch {
	case flowfabric.CodeOf(err) == flowfabric.CodeTooManyWaiters:
		outcome = claimDenied
	case err != nil && ctx.Err() != nil: // the client left
	case err != nil:
		outcome = claimError
	case len(res.Grants) > 0:
		lane, outcome = res.Grants[0].LaneID, claimGranted
	case len(res.Tasks) > 0:
		lane, outcome = res.Tasks[0].LaneID, claimGranted
	}
	e.observer.ClaimRequest(lane, outcome)
	return res, err
}

func (e *Engine) claimOrWait(ctx context.Context, args flowfabric.ClaimCandidatesArgs) (flowfabric.ClaimCandidatesResult, error) {
	var none flowfabric.ClaimCandidatesResult
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if !e.calls.enter() {
		return none, errShuttingDown()
	}
	defer e.calls.leave()
	if e.drain.active() {
		return none, e.pause(ctx, args.WaitMs)
	}
	p := e.fair.picker(&args)
	args.Picker = p
	if args.WaitMs == 0 {
		res, err := e.scan(ctx, &args, p)
		if err == nil && res.More && taken(&res) > 0 {
			e.waiters.wakeLike(&args)
		}
		return res, err
	}
	return e.claimWaiting(ctx, &args, p)
}

// claimWaiting scans, and as long as it comes away empty waits for an event that
// makes another scan worth while. The waiter is registered before the first
// scan, so that no event between a scan and the wait is missed.
func (e *Engine) claimWaiting(ctx context.Context, args *flowfabric.ClaimCandidatesArgs, p *picker) (res flowfabric.ClaimCandidatesResult, err error) {
	w, err := e.waiters.register(args)
	if err != nil {
		return res, err
	}
	left := nothingLeft
	defer func() { e.waiters.leave(w, left, taken(&res)) }()
	begun := time.Now()
	wait := time.Duration(args.WaitMs) * time.Millisecond
	var timeUp *time.Timer
	repeats := 0
	for {
		res, err = e.scan(ctx, args, p)
		if err != nil {
			left = notLooked
			return res, err
		}
		left = nothingLeft
		if res.More {
			left = workLeft
		}
		if taken(&res) > 0 {
			return res, nil
		}
		if res.More && repeats < maxRepeats {
			repeats++
			continue
		}
		repeats = 0
		if !e.waiters.park(w, left) {
			continue // something happened during the scan
		}
		left = nothingLeft
		if timeUp == nil {
			timeUp = time.NewTimer(wait - time.Since(begun))
			defer timeUp.Stop()
		}
		select {
		case <-w.wake:
			e.waiters.resume(w)
		case <-timeUp.C:
			return res, nil
		case <-e.drain.begun():
			return res, nil
		case <-e.closing:
			return res, nil
		case <-ctx.Done():
			return res, ctx.Err()
		}
	}
}

// scan lets the store grant or claim what the picker chooses. The store's call
// does not end with ctx: its outcome must be known, so that nothing stays
// claimed for a client that has gone away.
func (e *Engine) scan(ctx context.Context, args *flowfabric.ClaimCandidatesArgs, p *picker) (flowfabric.ClaimCandidatesResult, error) {
	var none flowfabric.ClaimCandidatesResult
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if e.drain.active() {
		return none, nil
	}
	sure := context.WithoutCancel(ctx)
	p.weights = e.fair.laneWeights(sure, e.store, e.log)
	res, err := e.store.ClaimCandidates(sure, *args)
	if err != nil && taken(&res) == 0 {
		return none, err
	}
	if err != nil { // an error after the first success ends the batch early
		e.log.WarnContext(ctx, "claim ended early", "taken", taken(&res), "error", err)
		res.More = true
	}
	if !res.More {
		p.exhausted(args.Lanes)
	}
	if err := ctx.Err(); err != nil && taken(&res) > 0 {
		e.giveBack(sure, args, &res)
		return none, err
	}
	return res, nil
}

// giveBack releases grants and revokes leases that can no longer be delivered.
func (e *Engine) giveBack(ctx context.Context, args *flowfabric.ClaimCandidatesArgs, res *flowfabric.ClaimCandidatesResult) {
	ctx, cancel := context.WithTimeout(ctx, giveBackTimeout)
	defer cancel()
	for i := range res.Grants {
		g := &res.Grants[i]
		_, err := e.store.ReleaseGrant(ctx, flowfabric.ReleaseGrantArgs{ExecutionID: g.ExecutionID, GrantID: g.GrantID, WorkerID: args.WorkerID})
		if err != nil {
			e.log.WarnContext(ctx, "grant of a client that went away not released, it will lapse", "execution_id", g.ExecutionID, "error", err)
		}
	}
	for i := range res.Tasks {
		t := &res.Tasks[i]
		_, err := e.store.RevokeLease(ctx, flowfabric.RevokeLeaseArgs{ExecutionID: t.ExecutionID, ExpectedLeaseID: t.Fence.LeaseID, Reason: "worker_abandoned", RevokedBy: "worker"})
		if err != nil {
			e.log.WarnContext(ctx, "lease of a client that went away not revoked, it will lapse", "execution_id", t.ExecutionID, "error", err)
		}
	}
}

func taken(res *flowfabric.ClaimCandidatesResult) int { return len(res.Grants) + len(res.Tasks) }
