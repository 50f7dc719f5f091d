package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Intervals are the times between cycles of the background duties, 50 ms .. 1 h
// each; zero takes the default. They are upper bounds: each is shortened at
// random by up to a tenth. (Specification 08, section 6.1.)
type Intervals struct {
	Tick                time.Duration // 250 ms
	RouteLabels         time.Duration // 5 s
	LaneSweep           time.Duration // 5 s
	WorkerRegistrySweep time.Duration // 30 s
	IndexReconciler     time.Duration // 45 s
	FeedTrimmer         time.Duration // 60 s
}

// The bounds of an interval.
const (
	MinInterval = 50 * time.Millisecond
	MaxInterval = time.Hour
)

// The names of the duties, as in settings, metrics and RunScanner.
const (
	DutyTick                = "tick"
	DutyRouteLabels         = "route_labels"
	DutyLaneSweep           = "lane_sweep"
	DutyWorkerRegistrySweep = "worker_registry_sweep"
	DutyIndexReconciler     = "index_reconciler"
	DutyFeedTrimmer         = "feed_trimmer"
)

// tickDuties are the duties that hang on the tick.
var tickDuties = []string{"lease_expiry", "grant_lapse", "delayed_promotion", "attempt_timeout", "execution_deadline",
	"suspension_timeout", "waitpoint_expiry", "retention"}

// maxBatches bounds the batches of one cycle. (Specification 01, section 9.)
const maxBatches = 20

func (in Intervals) withDefaults() (Intervals, error) {
	for _, f := range []struct {
		name string
		d    *time.Duration
		def  time.Duration
	}{
		{DutyTick, &in.Tick, 250 * time.Millisecond},
		{DutyRouteLabels, &in.RouteLabels, 5 * time.Second},
		{DutyLaneSweep, &in.LaneSweep, 5 * time.Second},
		{DutyWorkerRegistrySweep, &in.WorkerRegistrySweep, 30 * time.Second},
		{DutyIndexReconciler, &in.IndexReconciler, 45 * time.Second},
		{DutyFeedTrimmer, &in.FeedTrimmer, time.Minute},
	} {
		if *f.d == 0 {
			*f.d = f.def
		}
		if *f.d < MinInterval || *f.d > MaxInterval {
			return in, flowfabric.InvalidInput(f.name+"_interval", "is %v, must be %v..%v", *f.d, MinInterval, MaxInterval)
		}
	}
	return in, nil
}

// duty is one background duty and what is known of its cycles.
type duty struct {
	name     string
	interval time.Duration
	// run does one cycle; nil for the duties of the tick, which hang on parent.
	run    func(ctx context.Context) (cycle, error)
	parent *duty

	turn sync.Mutex // held during a cycle: one at a time in this process
	// failures in a row; belongs to turn.
	failures int

	mu     sync.Mutex
	status flowfabric.ScannerStatus
}

// cycle is what one cycle did.
type cycle struct {
	rows, errs int
	more       bool           // work is left
	parts      map[string]int // rows of the duties that hang on this one
}

func (e *Engine) makeDuties(in Intervals) []*duty {
	tick := &duty{name: DutyTick, interval: in.Tick, run: e.tick}
	duties := []*duty{
		tick,
		{name: DutyRouteLabels, interval: in.RouteLabels, run: sweep(e.store.SweepRouteLabels)},
		{name: DutyLaneSweep, interval: in.LaneSweep, run: sweep(e.store.SweepLanes)},
		{name: DutyWorkerRegistrySweep, interval: in.WorkerRegistrySweep, run: sweep(e.store.SweepWorkers)},
		{name: DutyIndexReconciler, interval: in.IndexReconciler, run: e.reconcileCycle},
		{name: DutyFeedTrimmer, interval: in.FeedTrimmer, run: sweep(e.store.TrimFeeds)},
	}
	for _, name := range tickDuties {
		duties = append(duties, &duty{name: name, interval: in.Tick, parent: tick})
	}
	for _, d := range duties {
		d.status = flowfabric.ScannerStatus{Name: d.name, IntervalMs: d.interval.Milliseconds()}
	}
	e.reconcile.interval = in.IndexReconciler
	return duties
}

// dutyLoop runs a duty at its interval until the engine stops. The tick begins
// at once, so that what fell due while nobody ran is late no longer; the sweeps
// begin at a random point of their interval.
func (e *Engine) dutyLoop(d *duty) {
	pause := time.Duration(0)
	if d.name != DutyTick {
		pause = rand.N(d.interval)
	}
	for {
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-e.stop:
			t.Stop()
			return
		}
		pause = jittered(d.interval)
		if e.runDuty(e.background, d) {
			pause = max(MinInterval, d.interval/10) // a backlog: go on soon
		}
	}
}

// runDuty runs one cycle and records it. Neither an error nor a panic ends more
// than the cycle.
func (e *Engine) runDuty(ctx context.Context, d *duty) (more bool) {
	d.turn.Lock()
	defer d.turn.Unlock()
	begun := time.Now()
	c, err := e.runCycle(ctx, d)
	took := time.Since(begun)
	if err == nil {
		d.failures = 0
	} else {
		c.errs++
		d.failures++
		e.logFailure(ctx, d, err)
	}
	e.record(d, c.rows, c.errs, took, err)
	for _, part := range e.duties {
		if part.parent == d {
			e.record(part, c.parts[part.name], 0, took, err)
		}
	}
	return err == nil && c.more
}

// logFailure logs the 1st, 2nd, 4th, 8th, … failure in a row, so that a store
// that is down does not fill the log.
func (e *Engine) logFailure(ctx context.Context, d *duty, err error) {
	if ctx.Err() == nil && d.failures&(d.failures-1) == 0 {
		e.log.ErrorContext(ctx, "duty failed", "duty", d.name, "failures_in_a_row", d.failures, "error", err)
	}
}

func (e *Engine) runCycle(ctx context.Context, d *duty) (c cycle, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return d.run(ctx)
}

func (e *Engine) record(d *duty, rows, errs int, took time.Duration, err error) {
	at := e.store.Now()
	d.mu.Lock()
	d.status.Cycles++
	d.status.Rows += int64(rows)
	d.status.Errors += int64(errs)
	d.status.LastRunAt = at
	d.status.LastDurationMs = took.Milliseconds()
	d.status.LastError = ""
	if err != nil {
		d.status.LastError = err.Error()
	}
	d.mu.Unlock()
	if e.observer != nil {
		e.observer.ScannerCycle(d.name, rows, errs, took)
	}
}

// tick acts on what is due: another batch at once while there is more, at most
// 20. A batch that looked at nothing ends the cycle whatever it says.
func (e *Engine) tick(ctx context.Context) (cycle, error) {
	var c cycle
	for range maxBatches {
		res, err := e.store.Tick(ctx, flowfabric.TickArgs{})
		c.errs += res.Errors
		for name, n := range res.Duties {
			if c.parts == nil {
				c.parts = make(map[string]int, len(tickDuties))
			}
			c.parts[name] += n
			c.rows += n
		}
		c.more = res.More && res.Examined > res.Errors
		if err != nil || !c.more {
			return c, err
		}
	}
	return c, nil
}

// sweep makes a cycle of a sweep: again while there is more, at most 20 times.
func sweep(once func(context.Context) (flowfabric.SweepResult, error)) func(context.Context) (cycle, error) {
	return func(ctx context.Context) (cycle, error) {
		var c cycle
		for range maxBatches {
			res, err := once(ctx)
			c.rows += res.Rows
			c.more = res.More
			if err != nil || !c.more {
				return c, err
			}
		}
		return c, nil
	}
}

func (d *duty) snapshot() flowfabric.ScannerStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status
}

// ListScanners returns the state of every background duty of this process: the
// tick, the duties that hang on it, and the sweeps. (Specification 08, section
// 4.7.)
func (e *Engine) ListScanners(ctx context.Context) ([]flowfabric.ScannerStatus, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	list := make([]flowfabric.ScannerStatus, len(e.duties))
	for i, d := range e.duties {
		list[i] = d.snapshot()
	}
	return list, nil
}

// RunScanner runs one cycle of a duty now, also where duties do not run by
// themselves, and returns its state after it; for a duty that hangs on the tick
// it runs the tick. An unknown name is invalid_input with the field "name"; a
// failure of the cycle is told in LastError.
func (e *Engine) RunScanner(ctx context.Context, name string) (flowfabric.ScannerStatus, error) {
	i := slices.IndexFunc(e.duties, func(d *duty) bool { return d.name == name })
	if i < 0 {
		return flowfabric.ScannerStatus{}, flowfabric.InvalidInput("name", "no duty is called %q", name)
	}
	if err := ctx.Err(); err != nil {
		return flowfabric.ScannerStatus{}, err
	}
	if !e.calls.enter() {
		return flowfabric.ScannerStatus{}, errShuttingDown()
	}
	defer e.calls.leave()
	d := e.duties[i]
	run := d
	if d.parent != nil {
		run = d.parent
	}
	e.runDuty(ctx, run)
	if err := ctx.Err(); err != nil {
		return flowfabric.ScannerStatus{}, err
	}
	return d.snapshot(), nil
}
