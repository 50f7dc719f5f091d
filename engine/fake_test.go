package engine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/flowfabric/flowfabric"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// work is one claimable execution of the fake store.
type work struct {
	flowfabric.Candidate
	required []string
}

// fakeStore keeps just enough for the engine: claimable work, executions to wait
// for, a feed, and counters. What is not overridden panics.
type fakeStore struct {
	flowfabric.Store
	begun time.Time

	mu       sync.Mutex
	work     []work
	watchers map[int]func([]flowfabric.WakeEvent)
	watched  int
	lanes    map[flowfabric.LaneID]flowfabric.Lane
	claims   int // calls of ClaimCandidates
	args     []flowfabric.ClaimCandidatesArgs
	lookups  int // calls of ListEligible
	released []flowfabric.ReleaseGrantArgs
	revoked  []flowfabric.RevokeLeaseArgs
	blind    bool // ListEligible sees nothing
	yield    bool // give other goroutines a chance everywhere
	onClaim  func(n int) error

	execs   map[flowfabric.ExecutionID]*flowfabric.Execution
	results map[flowfabric.ExecutionID]flowfabric.ExecutionResult
	reads   int // of execution records
	onRead  func(n int)

	events    []flowfabric.Event
	feedReads int

	tick      func(context.Context, flowfabric.TickArgs) (flowfabric.TickResult, error)
	sweepOne  func(name string) (flowfabric.SweepResult, error)
	reconcile func(flowfabric.ReconcileArgs) (flowfabric.ReconcileResult, error)
	parts     int
}

func newFake() *fakeStore {
	return &fakeStore{
		begun:    time.Now(),
		watchers: make(map[int]func([]flowfabric.WakeEvent)),
		execs:    make(map[flowfabric.ExecutionID]*flowfabric.Execution),
		results:  make(map[flowfabric.ExecutionID]flowfabric.ExecutionResult),
		parts:    4,
	}
}

// start returns a running engine beside the fake, without duties of its own
// unless cfg says so, and ends it with the test.
func start(t testing.TB, f *fakeStore, cfg Config) *Engine {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	e, err := New(f, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

func stop(t testing.TB, e *Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

var quiet = Config{DisableDuties: true}

func (f *fakeStore) Now() flowfabric.Millis { return flowfabric.Millis(time.Now().UnixMilli()) }

func (f *fakeStore) Watch(handle func([]flowfabric.WakeEvent)) (stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watched++
	n := f.watched
	f.watchers[n] = handle
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, n)
	}
}

func (f *fakeStore) tell(events ...flowfabric.WakeEvent) {
	f.mu.Lock()
	var hs []func([]flowfabric.WakeEvent)
	for _, h := range f.watchers {
		hs = append(hs, h)
	}
	f.mu.Unlock()
	for _, h := range hs {
		h(events)
	}
}

func (f *fakeStore) maybeYield() {
	if f.yield && rand.IntN(2) == 0 {
		runtime.Gosched()
	}
}

// offer commits work and then tells of it, one event per bucket run.
func (f *fakeStore) offer(list ...work) {
	f.add(list...)
	f.maybeYield()
	var events []flowfabric.WakeEvent
	for _, w := range list {
		if n := len(events); n > 0 && events[n-1].LaneID == w.LaneID && events[n-1].Namespace == w.Namespace && slices.Equal(events[n-1].Required, w.required) {
			events[n-1].Count++
			continue
		}
		events = append(events, flowfabric.WakeEvent{Kind: flowfabric.WakeEligible, LaneID: w.LaneID, Namespace: w.Namespace, Required: w.required, Count: 1})
	}
	f.tell(events...)
}

// add commits work without telling.
func (f *fakeStore) add(list ...work) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.work = append(f.work, list...)
}

func (f *fakeStore) left() []work {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.work)
}

func (f *fakeStore) claimCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.claims
}

func (w *work) offeredTo(lane flowfabric.LaneID, ns flowfabric.Namespace, namespaces []flowfabric.Namespace, caps []string) bool {
	return w.LaneID == lane && (ns == "" || ns == w.Namespace) && (namespaces == nil || slices.Contains(namespaces, w.Namespace)) && covers(caps, w.required)
}

func (f *fakeStore) ClaimCandidates(ctx context.Context, args flowfabric.ClaimCandidatesArgs) (flowfabric.ClaimCandidatesResult, error) {
	var res flowfabric.ClaimCandidatesResult
	if err := ctx.Err(); err != nil {
		return res, err
	}
	f.maybeYield()
	f.mu.Lock()
	f.claims++
	n := f.claims
	f.args = append(f.args, args)
	hook := f.onClaim
	f.mu.Unlock()
	if hook != nil {
		if err := hook(n); err != nil {
			return res, err
		}
	}
	f.mu.Lock()
	for len(res.Tasks)+len(res.Grants) < args.Max {
		heads, at := f.heads(&args)
		if len(heads) == 0 {
			break
		}
		i := args.Picker.Pick(heads)
		if i < 0 {
			break
		}
		c := heads[i]
		args.Picker.Taken(c)
		f.work = slices.Delete(f.work, at[i], at[i]+1)
		if args.GrantTTLMs > 0 {
			res.Grants = append(res.Grants, flowfabric.Grant{ExecutionID: c.ID, GrantID: "g-" + string(c.ID), LaneID: c.LaneID})
			continue
		}
		res.Tasks = append(res.Tasks, flowfabric.ClaimedExecution{ExecutionID: c.ID, LaneID: c.LaneID, Namespace: c.Namespace, Fence: flowfabric.Fence{LeaseID: flowfabric.LeaseID("l-" + string(c.ID))}})
	}
	heads, _ := f.heads(&args)
	res.More = len(heads) > 0
	f.mu.Unlock()
	f.maybeYield()
	return res, nil
}

// heads returns the best candidate of every bucket the request covers.
func (f *fakeStore) heads(args *flowfabric.ClaimCandidatesArgs) (heads []flowfabric.Candidate, at []int) {
	best := map[string]int{}
	var order []string
	for i := range f.work {
		w := &f.work[i]
		if !slices.ContainsFunc(args.Lanes, func(l flowfabric.LaneID) bool {
			return w.offeredTo(l, args.Namespace, args.Namespaces, args.Capabilities)
		}) {
			continue
		}
		key := fmt.Sprint(w.LaneID, "\n", w.Namespace, "\n", strings.Join(w.required, ","))
		j, ok := best[key]
		if !ok {
			order = append(order, key)
		}
		if !ok || before(&w.Candidate, 0, &f.work[j].Candidate, 0) {
			best[key] = i
		}
	}
	for _, key := range order {
		heads = append(heads, f.work[best[key]].Candidate)
		at = append(at, best[key])
	}
	return heads, at
}

func (f *fakeStore) ListEligible(_ context.Context, args flowfabric.ListEligibleArgs) ([]flowfabric.ExecutionID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lookups++
	if f.blind {
		return nil, nil
	}
	for i := range f.work {
		if f.work[i].offeredTo(args.LaneID, args.Namespace, nil, args.Capabilities) {
			return []flowfabric.ExecutionID{f.work[i].ID}, nil
		}
	}
	return nil, nil
}

func (f *fakeStore) LaneWeights(context.Context) (map[flowfabric.LaneID]flowfabric.Lane, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lanes, nil
}

func (f *fakeStore) ReleaseGrant(_ context.Context, args flowfabric.ReleaseGrantArgs) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.released = append(f.released, args)
	return true, nil
}

func (f *fakeStore) RevokeLease(_ context.Context, args flowfabric.RevokeLeaseArgs) (flowfabric.RevokeLeaseResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revoked = append(f.revoked, args)
	return flowfabric.RevokeLeaseResult{Outcome: flowfabric.RevokeRevoked}, nil
}

func (f *fakeStore) PartitionConfig(context.Context) (flowfabric.PartitionConfig, error) {
	return flowfabric.PartitionConfig{NumFlowPartitions: f.parts, NumBudgetPartitions: 1, NumQuotaPartitions: 1}, nil
}

func (f *fakeStore) Tick(ctx context.Context, args flowfabric.TickArgs) (flowfabric.TickResult, error) {
	if f.tick == nil {
		return flowfabric.TickResult{}, nil
	}
	return f.tick(ctx, args)
}

func (f *fakeStore) sweepNamed(name string) (flowfabric.SweepResult, error) {
	if f.sweepOne == nil {
		return flowfabric.SweepResult{}, nil
	}
	return f.sweepOne(name)
}

func (f *fakeStore) SweepRouteLabels(context.Context) (flowfabric.SweepResult, error) {
	return f.sweepNamed(DutyRouteLabels)
}
func (f *fakeStore) SweepLanes(context.Context) (flowfabric.SweepResult, error) {
	return f.sweepNamed(DutyLaneSweep)
}
func (f *fakeStore) SweepWorkers(context.Context) (flowfabric.SweepResult, error) {
	return f.sweepNamed(DutyWorkerRegistrySweep)
}
func (f *fakeStore) TrimFeeds(context.Context) (flowfabric.SweepResult, error) {
	return f.sweepNamed(DutyFeedTrimmer)
}
func (f *fakeStore) Reconcile(_ context.Context, args flowfabric.ReconcileArgs) (flowfabric.ReconcileResult, error) {
	if f.reconcile == nil {
		return flowfabric.ReconcileResult{}, nil
	}
	return f.reconcile(args)
}

func (f *fakeStore) GetExecution(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Execution, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.reads++
	n, hook := f.reads, f.onRead
	f.mu.Unlock()
	if hook != nil {
		hook(n)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.execs[id]
	if x == nil {
		return nil, flowfabric.NewError(flowfabric.CodeExecutionNotFound, "no execution %s", id)
	}
	c := *x
	return &c, nil
}

func (f *fakeStore) GetExecutionState(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.PublicState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x := f.execs[id]; x != nil {
		return x.PublicState, nil
	}
	return "", flowfabric.NewError(flowfabric.CodeExecutionNotFound, "no execution %s", id)
}

func (f *fakeStore) GetExecutionResult(_ context.Context, id flowfabric.ExecutionID) (flowfabric.ExecutionResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.results[id], nil
}

func (f *fakeStore) ReadFeed(_ context.Context, args flowfabric.ReadFeedArgs) (flowfabric.ReadFeedResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.feedReads++
	if args.BlockMs != 0 {
		panic("the store is never asked to block")
	}
	at := len(f.events)
	switch args.Start {
	case "", flowfabric.FeedStartNow:
	case flowfabric.FeedStartEarliest:
		at = 0
	default:
		if _, err := fmt.Sscan(args.Start, &at); err != nil {
			return flowfabric.ReadFeedResult{}, flowfabric.NewError(flowfabric.CodeInvalidCursor, "cursor %q", args.Start)
		}
	}
	var res flowfabric.ReadFeedResult
	for _, ev := range f.events[at:] {
		if args.Filter.LaneID == "" || args.Filter.LaneID == ev.LaneID {
			res.Events = append(res.Events, ev)
		}
	}
	res.NextCursor = fmt.Sprint(len(f.events))
	return res, nil
}

// set writes an execution record.
func (f *fakeStore) set(id flowfabric.ExecutionID, state flowfabric.PublicState, outcome flowfabric.TerminalOutcome, replay uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.execs[id] = &flowfabric.Execution{ExecutionID: id, StateVector: flowfabric.StateVector{PublicState: state, TerminalOutcome: outcome}, ReplayCount: replay, TotalAttemptCount: 1}
	delete(f.results, id)
}

func (f *fakeStore) complete(id flowfabric.ExecutionID, replay uint32, result string) {
	f.set(id, flowfabric.PublicCompleted, flowfabric.OutcomeSuccess, replay)
	f.mu.Lock()
	f.results[id] = flowfabric.ExecutionResult{Present: true, Payload: []byte(result), Encoding: "json"}
	f.mu.Unlock()
}

func (f *fakeStore) purge(id flowfabric.ExecutionID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.execs, id)
	delete(f.results, id)
}

func completion(id flowfabric.ExecutionID, replay uint32) flowfabric.WakeEvent {
	return flowfabric.WakeEvent{Kind: flowfabric.WakeSettled, ExecutionID: id, Completion: &flowfabric.Event{
		Feed: flowfabric.FeedCompletions, Kind: flowfabric.EventCompleted, ExecutionID: id,
		Outcome: flowfabric.OutcomeSuccess, PublicState: flowfabric.PublicCompleted, ReplayCount: &replay, At: 4711,
	}}
}

// newWork makes work of a lane and namespace; age orders it, oldest lowest.
func newWork(lane flowfabric.LaneID, ns flowfabric.Namespace, age int, required ...string) work {
	return work{Candidate: flowfabric.Candidate{LaneID: lane, Namespace: ns, CreatedAt: flowfabric.Millis(age), ID: flowfabric.MakeExecutionID(0, uuid.New())}, required: required}
}

func tasksArgs(lanes ...flowfabric.LaneID) flowfabric.ClaimTasksArgs {
	return flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "w-1", Lanes: lanes, MaxTasks: 1, LeaseTTLMs: 30_000}
}

func grantArgs(lanes ...flowfabric.LaneID) flowfabric.ClaimForWorkerArgs {
	return flowfabric.ClaimForWorkerArgs{WorkerID: "w", WorkerInstanceID: "w-1", Lanes: lanes, GrantTTLMs: 5_000}
}
