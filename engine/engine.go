// Package engine is what runs beside a store: the scheduler, which chooses who
// gets which execution and lets claims wait without polling; the ticker and the
// sweeps, which act on what has fallen due; and the waiting for executions and
// feeds. It knows a store only as a [flowfabric.Store], so that every store gets
// the same order, fairness and waiting. Together, a store and its engine are a
// [flowfabric.Backend].
//
// Any number of engines, in any number of processes, may run beside one store:
// whatever a duty does is decided again inside the store's atomic step, and what
// an engine remembers (turns of lanes and tenants, waiters) is only its own and
// harmless to lose.
package engine

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Limits of an engine, used where the Config leaves a field zero.
const (
	// DefaultMaxWaits is the size of the pool "waits". (Specification 04,
	// section 4.5.)
	DefaultMaxWaits = 1024
	// DefaultMaxFeedReads is the size of the pool "feed_subscriptions".
	DefaultMaxFeedReads = 256
)

// recheckEvery bounds how long a lost event can delay a waiter of any kind.
// (Specification 02, section 7.3; 04, section 10.)
const recheckEvery = time.Second

// Observer is told what the engine does, for metrics. Its methods must not
// block; they are called from many goroutines.
type Observer interface {
	// ClaimRequest is called once for every answered claim request. lane is the
	// lane of the first grant or task, or else the first lane asked for; outcome
	// is granted, no_work, denied or error.
	ClaimRequest(lane flowfabric.LaneID, outcome string)
	// ScannerCycle is called after every cycle of a background duty.
	ScannerCycle(name string, rows, errs int, took time.Duration)
}

// Config sets up an engine. The zero Config is a good one.
type Config struct {
	// Logger gets failures of duties and repairs; default slog.Default().
	Logger *slog.Logger
	// DisableDuties makes an engine that answers claims and waits but runs no
	// background duty by itself (FF_SCANNERS=false). RunScanner still works.
	DisableDuties bool
	// Intervals of the duties; zero fields take the defaults.
	Intervals Intervals
	// MaxWaiters bounds the claims that wait at one time; default
	// flowfabric.MaxWaiters (10,000).
	MaxWaiters int
	// MaxWaits bounds waiting WaitExecution calls; default DefaultMaxWaits.
	MaxWaits int
	// MaxFeedReads bounds blocking ReadFeed calls; default DefaultMaxFeedReads.
	MaxFeedReads int
	// Observer may be nil.
	Observer Observer
}

// expecter is a store that hears of what other processes do only where somebody
// waits for it: both methods return once it listens, and done ends the interest.
// Other stores tell of everything.
type expecter interface {
	ExpectSettled(ctx context.Context, id flowfabric.ExecutionID) (done func())
	ExpectFeed(ctx context.Context, feed flowfabric.Feed) (done func())
}

// Engine runs beside one store. All methods are safe for concurrent use.
type Engine struct {
	store    flowfabric.Store
	expects  expecter // nil where the store tells of everything
	log      *slog.Logger
	observer Observer

	fair    *fairness
	waiters *waiters
	drain   drain
	waits   waits
	feeds   feedReaders

	waitPool *pool
	feedPool *pool

	duties    []*duty
	reconcile reconciler
	loops     bool // whether duties run by themselves

	calls   gate          // calls in flight that use the store
	closing chan struct{} // closed by PrepareShutdown: parked calls answer
	stop    chan struct{} // closed by Shutdown: loops end after their cycle

	mu         sync.Mutex
	started    bool
	prepared   bool
	stopped    bool
	unwatch    func()
	running    sync.WaitGroup
	background context.Context // ends when a shutdown has run out of time
	abort      context.CancelFunc
}

// New returns an engine for the store. It fails with invalid_input when an
// interval or a limit of the Config is out of range. Nothing runs until Start.
func New(store flowfabric.Store, cfg Config) (*Engine, error) {
	intervals, err := cfg.Intervals.withDefaults()
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		n    *int
		def  int
	}{
		{"max_waiters", &cfg.MaxWaiters, flowfabric.MaxWaiters},
		{"max_waits", &cfg.MaxWaits, DefaultMaxWaits},
		{"max_feed_reads", &cfg.MaxFeedReads, DefaultMaxFeedReads},
	} {
		if *f.n < 0 {
			return nil, flowfabric.InvalidInput(f.name, "is %d, must not be negative", *f.n)
		}
		if *f.n == 0 {
			*f.n = f.def
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	e := &Engine{
		store:    store,
		log:      cfg.Logger,
		observer: cfg.Observer,
		fair:     newFairness(),
		waiters:  newWaiters(cfg.MaxWaiters),
		waitPool: newPool("waits", cfg.MaxWaits),
		feedPool: newPool("feed_subscriptions", cfg.MaxFeedReads),
		loops:    !cfg.DisableDuties,
		closing:  make(chan struct{}),
		stop:     make(chan struct{}),
	}
	e.expects, _ = store.(expecter)
	e.background, e.abort = context.WithCancel(context.Background())
	e.duties = e.makeDuties(intervals)
	return e, nil
}

// Start subscribes to the store's events and starts the background duties. ctx
// bounds the start alone; the engine runs until Shutdown. A second Start does
// nothing; after a Shutdown it fails with shutting_down.
func (e *Engine) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.prepared {
		return errShuttingDown()
	}
	if e.started {
		return nil
	}
	e.started = true
	e.unwatch = e.store.Watch(e.handle)
	e.running.Go(e.rescanLoop)
	if !e.loops {
		return nil
	}
	for _, d := range e.duties {
		if d.run != nil {
			e.running.Go(func() { e.dutyLoop(d) })
		}
	}
	return nil
}

// handle takes the store's events. It runs after commits and must not block: it
// only marks and wakes.
func (e *Engine) handle(events []flowfabric.WakeEvent) {
	for i := range events {
		switch ev := &events[i]; ev.Kind {
		case flowfabric.WakeSettled:
			e.waits.notify(ev.ExecutionID, ev.Completion)
			if ev.Completion != nil && e.fair.bounded(ev.Completion.LaneID) {
				e.waiters.laneChanged(ev.Completion.LaneID)
			}
		case flowfabric.WakeLane:
			e.fair.forgetWeights()
			e.waiters.laneChanged(ev.LaneID)
		}
	}
	e.waiters.handle(events)
	e.feeds.handle(events)
}

// PrepareShutdown is the first half of Shutdown: every new call is refused with
// shutting_down, waiting claims, waits and feed reads are answered with what
// there is (no work, the current state, no events). It does not wait. A second
// call is harmless. (Specification 08, section 6.3, steps 2 and 3.)
func (e *Engine) PrepareShutdown() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.prepared {
		return
	}
	e.prepared = true
	e.calls.close()
	e.waitPool.close()
	e.feedPool.close()
	close(e.closing)
}

// Shutdown is PrepareShutdown; then it waits for calls in flight and lets the
// duties finish their cycle. When ctx ends first, what still runs is cancelled
// and the answer is shutdown_timeout. A later call waits again. After Shutdown
// the store may be closed.
func (e *Engine) Shutdown(ctx context.Context) error {
	e.PrepareShutdown()
	e.mu.Lock()
	if !e.stopped {
		e.stopped = true
		close(e.stop)
	}
	unwatch := e.unwatch
	e.unwatch = nil
	e.mu.Unlock()
	if unwatch != nil {
		unwatch()
	}
	done := make(chan struct{})
	go func() {
		<-e.calls.idle()
		e.reconcile.stop()
		e.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		e.abort()
		return nil
	case <-ctx.Done():
	}
	e.abort()
	select {
	case <-done: // the cancellation was enough
	case <-time.After(recheckEvery):
	}
	return flowfabric.NewError(flowfabric.CodeShutdownTimeout, "engine: calls or duties did not end in time").Wrap(ctx.Err())
}

// Close is Shutdown with 15 s. It is idempotent.
func (e *Engine) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	return e.Shutdown(ctx)
}

func (e *Engine) isClosing() bool {
	select {
	case <-e.closing:
		return true
	default:
		return false
	}
}

// Stats counts what waits in this engine now.
type Stats struct {
	ClaimWaiters int // claims that wait or are about to
	Waits        int // permits of the pool "waits" in use
	FeedReads    int // permits of the pool "feed_subscriptions" in use
}

// Stats returns the counts of what waits, for gauges.
func (e *Engine) Stats() Stats {
	return Stats{ClaimWaiters: e.waiters.len(), Waits: e.waitPool.inUse(), FeedReads: e.feedPool.inUse()}
}

func errShuttingDown() error {
	return flowfabric.NewError(flowfabric.CodeShuttingDown, "the engine takes no new calls")
}

// jittered returns d shortened at random by up to a tenth, so that engines
// beside one store do not move in step and d stays an upper bound.
func jittered(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/10+1))
}
