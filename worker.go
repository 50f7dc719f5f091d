package flowfabric

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// DefaultNamespace is the namespace of workers and clients that name none.
const DefaultNamespace = Namespace("default")

// Defaults and limits of a [WorkerConfig]. (Specification 08, section 5.2.)
const (
	DefaultClaimWait         = 20 * time.Second
	DefaultClaimPollInterval = time.Second
	DefaultDrainTimeout      = 30 * time.Second
	MinWorkerLeaseTTL        = time.Second
	MinClaimPollInterval     = 10 * time.Millisecond
	MaxClaimPollInterval     = time.Minute

	// stopGrace is how long handlers may go on after their contexts were
	// cancelled, and then how long the deregistration may take.
	stopGrace = 5 * time.Second
)

// Middleware wraps a [Backend] in another one that sees every operation. It may
// observe, limit or refuse calls; nothing may depend on it for correctness.
// (Specification 08, section 5.6.)
type Middleware func(Backend) Backend

// WorkerConfig is the configuration of a [Worker]. The zero value of a field
// means its default. (Specification 08, section 5.2.)
type WorkerConfig struct {
	// WorkerID names the pool: 1..128 bytes. Required.
	WorkerID WorkerID
	// WorkerInstanceID names this process: 1..128 bytes. The default is
	// "<hostname>-<pid>-<random>".
	WorkerInstanceID WorkerInstanceID
	// Namespace is the only namespace claimed in; "*" serves all. Default
	// "default".
	Namespace Namespace
	// Lanes are the lanes served, 1..64. Required.
	Lanes []LaneID
	// Capabilities are the tokens advertised: at most 256 and 4096 bytes. Default
	// none.
	Capabilities []string
	// LeaseTTL is how long a lease lasts without a renewal: 1 s..1 h, default
	// 30 s. Leases are renewed every third of it.
	LeaseTTL time.Duration
	// ClaimWait is how long a claim waits for work: up to 30 s, default 20 s. A
	// value below 1 ms, such as 1 ns, does not wait.
	ClaimWait time.Duration
	// ClaimPollInterval is the pause between direct claims that found nothing:
	// 10 ms..1 min, default 1 s.
	ClaimPollInterval time.Duration
	// MaxConcurrentTasks bounds the tasks held plus the claims in progress.
	// Default 1; a negative value is refused.
	MaxConcurrentTasks int
	// GrantTTL is how long a grant asked for may be consumed: 1 ms..60 s, default
	// 5 s.
	GrantTTL time.Duration
	// LivenessTTL is how long the registration lives without a heartbeat:
	// 1 s..10 min, default 60 s. A heartbeat goes out every third of it.
	LivenessTTL time.Duration
	// DrainTimeout is how long running tasks may go on when the worker closes,
	// default 30 s.
	DrainTimeout time.Duration
	// PartitionConfig overrides the partitioning the backend publishes; for
	// injected backends.
	PartitionConfig *PartitionConfig
	// AllowDirectClaim permits ClaimNext, which bypasses admission. Default
	// false.
	AllowDirectClaim bool
	// Logger receives what the worker has to tell, default slog.Default().
	Logger *slog.Logger
	// Middleware wraps the backend, the outermost first.
	Middleware []Middleware
	// Clock is for timers only, never for stored times. Default the machine's.
	Clock Clock
}

const workerContext = "worker_config"

// normalize fills in defaults and checks every field.
func (c *WorkerConfig) normalize() error {
	c.Lanes, c.Middleware = slices.Clone(c.Lanes), slices.Clone(c.Middleware)
	if c.WorkerInstanceID == "" {
		c.WorkerInstanceID = newInstanceID()
	}
	if c.Namespace == "" {
		c.Namespace = DefaultNamespace
	}
	if c.MaxConcurrentTasks == 0 {
		c.MaxConcurrentTasks = 1
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Clock == nil {
		c.Clock = systemClock{}
	}
	if err := c.WorkerID.Validate(); err != nil {
		return configError(workerContext, "worker_id", err)
	}
	if err := c.WorkerInstanceID.Validate(); err != nil {
		return configError(workerContext, "worker_instance_id", err)
	}
	if err := c.Namespace.ValidateForWorker(); err != nil {
		return configError(workerContext, "namespace", err)
	}
	if err := c.checkLanes(); err != nil {
		return err
	}
	normal, err := NormalizeCapabilities(CapabilitiesOfWorker, c.Capabilities)
	if err != nil {
		return configError(workerContext, "capabilities", err)
	}
	c.Capabilities = normal
	if c.MaxConcurrentTasks < 0 {
		return &ConfigError{Context: workerContext, Field: "max_concurrent_tasks", Message: "must not be negative"}
	}
	if i := slices.IndexFunc(c.Middleware, func(m Middleware) bool { return m == nil }); i >= 0 {
		return &ConfigError{Context: workerContext, Field: "middleware", Message: fmt.Sprintf("entry %d is nil", i)}
	}
	if c.PartitionConfig != nil {
		own := *c.PartitionConfig
		c.PartitionConfig = &own
		if err := own.Validate(); err != nil {
			return configError(workerContext, "partition_config", err)
		}
	}
	return c.checkDurations()
}

func (c *WorkerConfig) checkLanes() error {
	if len(c.Lanes) == 0 {
		return &ConfigError{Context: workerContext, Field: "lanes", Message: "at least one lane is required"}
	}
	if len(c.Lanes) > MaxLanesPerRequest {
		return &ConfigError{Context: workerContext, Field: "lanes", Message: fmt.Sprintf("%d lanes, at most %d", len(c.Lanes), MaxLanesPerRequest)}
	}
	for _, lane := range c.Lanes {
		if err := lane.Validate(); err != nil {
			return configError(workerContext, "lanes", err)
		}
	}
	return nil
}

func (c *WorkerConfig) checkDurations() error {
	for _, f := range []struct {
		field              string
		value              *time.Duration
		fallback, min, max time.Duration
	}{
		{"lease_ttl", &c.LeaseTTL, DefaultLeaseTTLMs * time.Millisecond, MinWorkerLeaseTTL, MaxLeaseTTLMs * time.Millisecond},
		{"claim_wait", &c.ClaimWait, DefaultClaimWait, 0, MaxWaitMs * time.Millisecond},
		{"claim_poll_interval", &c.ClaimPollInterval, DefaultClaimPollInterval, MinClaimPollInterval, MaxClaimPollInterval},
		{"grant_ttl", &c.GrantTTL, DefaultGrantTTLMs * time.Millisecond, time.Millisecond, MaxGrantTTLMs * time.Millisecond},
		{"liveness_ttl", &c.LivenessTTL, DefaultLivenessTTLMs * time.Millisecond, MinLivenessTTLMs * time.Millisecond, MaxLivenessTTLMs * time.Millisecond},
		{"drain_timeout", &c.DrainTimeout, DefaultDrainTimeout, 0, 1<<63 - 1},
	} {
		if *f.value == 0 {
			*f.value = f.fallback
		}
		if *f.value < f.min || *f.value > f.max {
			return &ConfigError{Context: workerContext, Field: f.field, Message: fmt.Sprintf("is %v, must be %v..%v", *f.value, f.min, f.max)}
		}
	}
	return nil
}

// newInstanceID makes "<hostname>-<pid>-<random>".
func newInstanceID() WorkerInstanceID {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "host"
	}
	host = strings.Map(func(r rune) rune {
		if r <= 0x20 || r > 0x7E || r == '{' || r == '}' {
			return '_'
		}
		return r
	}, host)
	return WorkerInstanceID(fmt.Sprintf("%s-%d-%s", host[:min(len(host), 64)], os.Getpid(), uuid.NewString()[:8]))
}

// Worker claims executions and runs them. It holds a registration, one renewer
// for all its leases, and permits that bound how much it has in hand. All its
// methods are safe for concurrent use. (Specification 02, section 6; 08,
// section 5.3.)
type Worker struct {
	backend    Backend
	config     WorkerConfig
	partitions PartitionConfig
	home       string // what the handles of its tasks carry of the backend
	nonce      string
	log        *slog.Logger
	clock      Clock

	permits   *permits
	renewer   *renewer
	completer collector[CompleteExecutionArgs, CompleteExecutionResult]
	// scan is where direct claims look next.
	scan directScan

	// claims ends when the worker stops claiming, tasks is the parent of every
	// task's context, beats ends the heartbeats, life every call still under way.
	claims, tasks, beats, life              context.Context
	endClaims, endTasks, endBeats, endCalls context.CancelCauseFunc
	background                              sync.WaitGroup

	// claiming counts batched claims under way; uncertain tells that the answer of
	// one was lost.
	claiming  atomic.Int32
	uncertain atomic.Bool
	running   atomic.Int32 // handlers
	changed   chan struct{}
	adoption  chan struct{} // of one slot: held while lost claims are looked up

	mu       sync.Mutex
	leases   map[LeaseID]*Task     // in hand; nil while a claim is under way
	left     map[LeaseID]time.Time // let go while the store may still show them
	adopting bool
	handlers map[string]RawHandler
	state    map[reflect.Type]any
	misuse   error // the first refused registration
	started  bool
	closing  bool
	closed   chan struct{}
	closeErr error
}

// NewWorker makes a worker on a backend: it checks the configuration, pings the
// store, binds the partitioning (the override, else the published one) and
// registers the instance, which heartbeats then keep alive. It prepares no store
// and never closes the backend. Errors: [*ConfigError] before any call,
// deployment_not_initialized, duplicate_worker_instance, instance_id_reassigned
// and those of the store; then nothing is left registered.
func NewWorker(ctx context.Context, backend Backend, config WorkerConfig) (*Worker, error) {
	if backend == nil {
		return nil, &ConfigError{Context: workerContext, Field: "backend", Message: "must not be nil"}
	}
	if err := config.normalize(); err != nil {
		return nil, err
	}
	for _, wrap := range slices.Backward(config.Middleware) {
		if backend = wrap(backend); backend == nil {
			return nil, &ConfigError{Context: workerContext, Field: "middleware", Message: "returned a nil backend"}
		}
	}
	w := &Worker{
		backend:  backend,
		config:   config,
		nonce:    uuid.NewString(),
		log:      config.Logger.With("worker_id", config.WorkerID, "worker_instance_id", config.WorkerInstanceID),
		clock:    config.Clock,
		permits:  newPermits(config.MaxConcurrentTasks),
		changed:  make(chan struct{}, 1),
		adoption: make(chan struct{}, 1),
		closed:   make(chan struct{}),
		leases:   make(map[LeaseID]*Task),
		left:     make(map[LeaseID]time.Time),
		handlers: make(map[string]RawHandler),
		state:    make(map[reflect.Type]any),
	}
	if err := w.connect(ctx); err != nil {
		return nil, err
	}
	root := context.WithValue(context.Background(), workerKey{}, w)
	w.claims, w.endClaims = context.WithCancelCause(root)
	w.tasks, w.endTasks = context.WithCancelCause(root)
	w.beats, w.endBeats = context.WithCancelCause(root)
	w.life, w.endCalls = context.WithCancelCause(root)
	w.renewer = &renewer{backend: backend, clock: w.clock, ttl: config.LeaseTTL, life: w.life, log: w.log}
	w.completer.send, w.completer.life = backend.CompleteExecutions, w.life
	w.completer.size = func(a CompleteExecutionArgs) int { return len(a.Result) }
	w.scan.start(config.WorkerInstanceID, w.partitions.NumFlowPartitions)
	w.background.Go(w.beat)
	return w, nil
}

// connect makes the calls of NewWorker.
func (w *Worker) connect(ctx context.Context) error {
	_, err := retry(ctx, w.clock, func(ctx context.Context) (struct{}, error) { return struct{}{}, w.backend.Ping(ctx) })
	if err != nil {
		return err
	}
	if err := w.bindPartitions(ctx); err != nil {
		return err
	}
	if err := w.learnBackend(ctx); err != nil {
		return err
	}
	if err := w.register(ctx); err != nil {
		w.undoRegistration(ctx, err)
		return err
	}
	return nil
}

func (w *Worker) bindPartitions(ctx context.Context) error {
	if w.config.PartitionConfig != nil {
		w.partitions = *w.config.PartitionConfig
		return nil
	}
	partitions, err := retry(ctx, w.clock, w.backend.PartitionConfig)
	if err != nil {
		return err
	}
	if err := partitions.Validate(); err != nil {
		return NewError(CodePartitionConfigCorrupt, "the published partition configuration is invalid").Wrap(err)
	}
	w.partitions = partitions
	return nil
}

func (w *Worker) register(ctx context.Context) error {
	_, err := retry(ctx, w.clock, func(ctx context.Context) (RegisterWorkerResult, error) {
		return w.backend.RegisterWorker(ctx, RegisterWorkerArgs{
			Namespace:        w.config.Namespace,
			WorkerID:         w.config.WorkerID,
			WorkerInstanceID: w.config.WorkerInstanceID,
			Lanes:            w.config.Lanes,
			Capabilities:     w.config.Capabilities,
			LivenessTTLMs:    w.config.LivenessTTL.Milliseconds(),
			InstanceNonce:    w.nonce,
		})
	})
	return err
}

// undoRegistration removes what a registration with an unknown outcome may have
// left. A heartbeat tells whether it is ours: the nonce is.
func (w *Worker) undoRegistration(ctx context.Context, cause error) {
	if definite(cause) {
		return
	}
	ctx, end := withLimit(context.WithoutCancel(ctx), w.clock, stopGrace, context.DeadlineExceeded)
	defer end()
	alive, err := w.backend.HeartbeatWorker(ctx, w.identity())
	if err != nil || !alive.Registered {
		return
	}
	if _, err := w.deregister(ctx, "connect_failed", false); err != nil {
		w.log.Warn("registration left to its time to live", "error", err)
	}
}

func (w *Worker) identity() HeartbeatWorkerArgs {
	return HeartbeatWorkerArgs{Namespace: w.config.Namespace, WorkerInstanceID: w.config.WorkerInstanceID, InstanceNonce: w.nonce}
}

func (w *Worker) deregister(ctx context.Context, reason string, revoke bool) (MarkWorkerDeadResult, error) {
	return w.backend.DeregisterWorker(ctx, MarkWorkerDeadArgs{
		Namespace: w.config.Namespace, WorkerInstanceID: w.config.WorkerInstanceID, Reason: reason, RevokeLeases: revoke,
	})
}

// beat keeps the registration alive: a heartbeat every third of the TTL, and a
// new registration when the store knows of none.
func (w *Worker) beat() {
	interval := w.config.LivenessTTL / 3
	for pause(w.beats, w.clock, interval) == nil {
		w.beatOnce(interval)
	}
}

func (w *Worker) beatOnce(limit time.Duration) {
	ctx, end := withLimit(w.beats, w.clock, limit, context.DeadlineExceeded)
	defer end()
	answer, err := retry(ctx, w.clock, func(ctx context.Context) (HeartbeatWorkerResult, error) {
		return w.backend.HeartbeatWorker(ctx, w.identity())
	})
	if err == nil && !answer.Registered {
		w.log.Warn("registration is gone, registering anew")
		err = w.register(ctx)
	}
	if err != nil && w.beats.Err() == nil {
		w.log.Warn("heartbeat failed", "error", err)
	}
}

// Backend returns the backend every operation of the worker goes through,
// middleware included. It is never nil.
func (w *Worker) Backend() Backend { return w.backend }

// Config returns a copy of the configuration with its defaults filled in.
func (w *Worker) Config() WorkerConfig {
	c := w.config
	c.Lanes, c.Capabilities, c.Middleware = slices.Clone(c.Lanes), slices.Clone(c.Capabilities), slices.Clone(c.Middleware)
	if c.PartitionConfig != nil {
		own := *c.PartitionConfig
		c.PartitionConfig = &own
	}
	return c
}

// PartitionConfig returns the partitioning bound at construction, which minting
// an identifier needs.
func (w *Worker) PartitionConfig() PartitionConfig { return w.partitions }

// DescribeExecution returns a snapshot, nil and no error when no execution
// exists at the identifier.
func (w *Worker) DescribeExecution(ctx context.Context, id ExecutionID) (*ExecutionSnapshot, error) {
	return describe(ctx, w.backend, w.clock, id)
}

// ListExecutions returns one page of executions ordered by partition and
// identifier. A query without a namespace means the worker's.
func (w *Worker) ListExecutions(ctx context.Context, query ExecutionQuery) (*Page[ExecutionSummary], error) {
	return listExecutions(ctx, w.backend, w.clock, w.partitions, query.within(w.config.Namespace))
}

// ListLanes returns one page of lanes ordered by identifier.
func (w *Worker) ListLanes(ctx context.Context, query LaneQuery) (*Page[LaneStatus], error) {
	return listLanes(ctx, w.backend, w.clock, query)
}

// give returns permits and tells a closing worker.
func (w *Worker) give(n int) {
	w.permits.give(n)
	w.notify()
}

func (w *Worker) notify() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// idle reports that nothing is in hand: no task, no claim, no handler.
func (w *Worker) idle() bool { return w.permits.inUse() == 0 && w.running.Load() == 0 }

// Close shuts the worker down: it stops claiming, lets tasks finish for up to
// DrainTimeout with renewals going on, cancels the contexts of those that have
// not and gives them 5 s more, stops renewing, revokes the leases that are left
// and deregisters. It is idempotent and never closes the backend. The error is
// shutdown_timeout when handlers had to be left behind, or that of the
// deregistration.
func (w *Worker) Close() error { return w.Shutdown(context.Background()) }

// Shutdown is [Worker.Close], except that the tasks' time to finish ends with
// ctx if that comes before DrainTimeout.
func (w *Worker) Shutdown(ctx context.Context) error {
	w.mu.Lock()
	first := !w.closing
	w.closing = true
	w.mu.Unlock()
	if !first {
		<-w.closed
		return w.closeErr
	}
	w.closeErr = w.shutdown(ctx)
	close(w.closed)
	return w.closeErr
}

func (w *Worker) shutdown(ctx context.Context) error {
	cause := NewError(CodeShuttingDown, "the worker is shutting down")
	w.endClaims(cause)
	w.awaitIdle(ctx, w.config.DrainTimeout)
	w.endTasks(cause)
	w.awaitIdle(context.Background(), stopGrace)
	handlers, held := w.running.Load(), w.permits.inUse()
	w.renewer.stop()
	w.endCalls(cause)
	w.endBeats(cause)
	w.background.Wait()
	w.completer.calls.Wait()
	w.renewer.pending.Wait()
	ctx, end := withLimit(context.WithoutCancel(ctx), w.clock, stopGrace, context.DeadlineExceeded)
	defer end()
	revoke := held > 0 || w.uncertain.Load() || w.leavesLeases()
	gone, err := retry(ctx, w.clock, func(ctx context.Context) (MarkWorkerDeadResult, error) {
		return w.deregister(ctx, "shutdown", revoke)
	})
	if err != nil {
		w.log.Warn("deregistration failed, the registration is left to its time to live", "error", err)
	}
	if gone.RevokedLeases > 0 {
		w.log.Info("leases revoked at shutdown", "leases", gone.RevokedLeases)
	}
	if handlers > 0 {
		late := NewError(CodeShutdownTimeout, "%d handlers still run after the drain", handlers).With("handlers", handlers)
		return errors.Join(late, err)
	}
	return err
}

// awaitIdle waits until nothing is in hand, at most for limit and until ctx
// ends.
func (w *Worker) awaitIdle(ctx context.Context, limit time.Duration) {
	late := make(chan struct{})
	timer := w.clock.AfterFunc(limit, func() { close(late) })
	defer timer.Stop()
	for !w.idle() {
		select {
		case <-w.changed:
		case <-late:
			return
		case <-ctx.Done():
			return
		}
	}
}

// track makes a lease known before its claim is sent, so that an adoption under
// way does not take it for a lost one.
func (w *Worker) track(lease LeaseID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leases[lease] = nil
}

// untrack forgets a lease whose claim failed.
func (w *Worker) untrack(lease LeaseID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leases[lease] == nil {
		delete(w.leases, lease)
	}
}

// forget drops a task from the leases in hand. While an adoption reads the
// store, or when the lease lives on, it is remembered so as not to be adopted.
func (w *Worker) forget(t *Task, lives bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.leases, t.claimed.Fence.LeaseID)
	if !lives && !w.adopting {
		return
	}
	now := w.clock.Now()
	maps.DeleteFunc(w.left, func(_ LeaseID, until time.Time) bool { return until.Before(now) })
	w.left[t.claimed.Fence.LeaseID] = now.Add(2 * w.config.LeaseTTL)
}

// leavesLeases reports whether the worker let leases go that may still live.
func (w *Worker) leavesLeases() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.left) > 0
}

// Executions yields the executions of a query to its end. An error is the last
// element.
func (w *Worker) Executions(ctx context.Context, query ExecutionQuery) iter.Seq2[ExecutionSummary, error] {
	return allExecutions(ctx, w.backend, w.clock, w.partitions, query.within(w.config.Namespace))
}

// Lanes yields all lanes ordered by identifier. An error is the last element.
func (w *Worker) Lanes(ctx context.Context) iter.Seq2[LaneStatus, error] {
	return allLanes(ctx, w.backend, w.clock)
}
