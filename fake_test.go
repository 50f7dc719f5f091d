package flowfabric

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBackend is a small store in memory, enough to run a worker on: executions
// are claimed first in, first out, leases lapse by the local clock. What it does
// not implement panics.
type fakeBackend struct {
	Backend
	// before fails an operation before it takes effect, after loses its answer.
	before, after func(op string) error
	// hold, when not nil, keeps a call waiting before it takes effect.
	hold func(ctx context.Context, op string)

	mu         sync.Mutex
	wake       chan struct{}
	executions map[ExecutionID]*fakeExecution
	order      []ExecutionID
	registered map[WorkerInstanceID]string // to its nonce
	calls      map[string]int
	batches    map[string][]int // sizes
	claims     []ClaimTasksArgs
	heartbeats []time.Time
	renewals   []time.Time
	feed       []Event
	suspends   []SuspendArgs
	delivered  []DeliverSignalArgs
	listed     []ListSuspendedArgs
	deployment string
	pageSize   int
}

type fakeExecution struct {
	id         ExecutionID
	kind       string
	payload    []byte
	state      PublicState
	attempts   uint32
	attempt    AttemptID
	epoch      uint64
	lease      LeaseID
	instance   WorkerInstanceID
	expiresAt  time.Time
	delayUntil time.Time
	resumes    bool
	revoked    bool
	grant      string
	result     []byte
	reason     string
	category   string
	ended      Fence
	timeout    time.Duration
	wait       *fakeWait
}

func newFake() *fakeBackend {
	return &fakeBackend{
		wake:       make(chan struct{}),
		executions: make(map[ExecutionID]*fakeExecution),
		registered: make(map[WorkerInstanceID]string),
		calls:      make(map[string]int),
		batches:    make(map[string][]int),
	}
}

func storeNow() Millis { return Millis(time.Now().UnixMilli()) }

// enter counts a call and applies what the test injects before it.
func (f *fakeBackend) enter(ctx context.Context, op string, size int) error {
	f.mu.Lock()
	f.calls[op]++
	f.batches[op] = append(f.batches[op], size)
	hold, before := f.hold, f.before
	f.mu.Unlock()
	if hold != nil {
		hold(ctx, op)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if before != nil {
		return before(op)
	}
	return nil
}

func (f *fakeBackend) leave(op string) error {
	f.mu.Lock()
	after := f.after
	f.mu.Unlock()
	if after != nil {
		return after(op)
	}
	return nil
}

func (f *fakeBackend) setBefore(fn func(op string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = fn
}

func (f *fakeBackend) setAfter(fn func(op string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.after = fn
}

func (f *fakeBackend) setHold(fn func(ctx context.Context, op string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hold = fn
}

func (f *fakeBackend) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *fakeBackend) renewedAt() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]time.Time(nil), f.renewals...)
}

func (f *fakeBackend) sizes(op string) []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]int(nil), f.batches[op]...)
}

// change runs fn under the lock and wakes whoever waits.
func (f *fakeBackend) change(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
	close(f.wake)
	f.wake = make(chan struct{})
}

func (f *fakeBackend) get(id ExecutionID) fakeExecution {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.executions[id]
}

// add makes executions of a kind and returns the identifiers.
func (f *fakeBackend) add(n int, kind string, payload string) []ExecutionID {
	var ids []ExecutionID
	f.change(func() {
		for range n {
			id := DefaultPartitionConfig().NewExecutionID("default")
			f.executions[id] = &fakeExecution{id: id, kind: kind, payload: []byte(payload), state: PublicWaiting}
			f.order = append(f.order, id)
			ids = append(ids, id)
		}
	})
	return ids
}

func (f *fakeBackend) Ping(ctx context.Context) error { return f.enter(ctx, "ping", 1) }

func (f *fakeBackend) PartitionConfig(ctx context.Context) (PartitionConfig, error) {
	return DefaultPartitionConfig(), f.enter(ctx, "partition_config", 1)
}

func (f *fakeBackend) RegisterWorker(ctx context.Context, a RegisterWorkerArgs) (RegisterWorkerResult, error) {
	if err := f.enter(ctx, "register_worker", 1); err != nil {
		return RegisterWorkerResult{}, err
	}
	f.mu.Lock()
	if nonce, live := f.registered[a.WorkerInstanceID]; live && nonce != a.InstanceNonce {
		f.mu.Unlock()
		return RegisterWorkerResult{}, NewError(CodeDuplicateWorkerInstance, "%s is live", a.WorkerInstanceID)
	}
	f.registered[a.WorkerInstanceID] = a.InstanceNonce
	f.mu.Unlock()
	return RegisterWorkerResult{Outcome: WorkerRegistered}, f.leave("register_worker")
}

func (f *fakeBackend) HeartbeatWorker(ctx context.Context, a HeartbeatWorkerArgs) (HeartbeatWorkerResult, error) {
	if err := f.enter(ctx, "heartbeat_worker", 1); err != nil {
		return HeartbeatWorkerResult{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heartbeats = append(f.heartbeats, time.Now())
	return HeartbeatWorkerResult{Registered: f.registered[a.WorkerInstanceID] == a.InstanceNonce}, nil
}

func (f *fakeBackend) DeregisterWorker(ctx context.Context, a MarkWorkerDeadArgs) (MarkWorkerDeadResult, error) {
	if err := f.enter(ctx, "deregister_worker", 1); err != nil {
		return MarkWorkerDeadResult{}, err
	}
	var r MarkWorkerDeadResult
	f.change(func() {
		_, r.Marked = f.registered[a.WorkerInstanceID]
		delete(f.registered, a.WorkerInstanceID)
		for _, e := range f.executions {
			if a.RevokeLeases && e.state == PublicActive && e.instance == a.WorkerInstanceID && !e.revoked {
				e.revoked = true
				r.RevokedLeases++
			}
		}
	})
	return r, nil
}

func (f *fakeBackend) CreateExecutions(ctx context.Context, items []CreateExecutionArgs) ([]Item[CreateExecutionResult], error) {
	if err := f.enter(ctx, "create_executions", len(items)); err != nil {
		return nil, err
	}
	answers := make([]Item[CreateExecutionResult], len(items))
	f.change(func() {
		for i, a := range items {
			answers[i] = f.create(a)
		}
	})
	return answers, f.leave("create_executions")
}

func (f *fakeBackend) create(a CreateExecutionArgs) Item[CreateExecutionResult] {
	if a.Kind == "" {
		return Item[CreateExecutionResult]{Err: InvalidInput("execution_kind", "must not be empty")}
	}
	id := a.ExecutionID
	if id == "" {
		id = DefaultPartitionConfig().NewExecutionID(a.LaneID)
	}
	if f.executions[id] != nil {
		return Item[CreateExecutionResult]{Result: CreateExecutionResult{Outcome: OutcomeDuplicate, ExecutionID: id, SameSpec: true}}
	}
	f.executions[id] = &fakeExecution{id: id, kind: a.Kind, payload: a.Payload, state: PublicWaiting}
	f.order = append(f.order, id)
	return Item[CreateExecutionResult]{Result: CreateExecutionResult{Outcome: OutcomeCreated, ExecutionID: id, PublicState: PublicWaiting}}
}

// eligible returns the executions that may be claimed, oldest first.
func (f *fakeBackend) eligible() []*fakeExecution {
	var found []*fakeExecution
	for _, id := range f.order {
		e := f.executions[id]
		lapsed := e.state == PublicActive && (e.revoked || !e.expiresAt.After(time.Now()))
		if (e.state == PublicWaiting || lapsed) && e.grant == "" && !e.delayUntil.After(time.Now()) {
			found = append(found, e)
		}
	}
	return found
}

func (f *fakeBackend) claim(e *fakeExecution, instance WorkerInstanceID, lease LeaseID, ttlMs int64) ClaimedExecution {
	kind := ClaimNew
	switch {
	case e.state == PublicActive:
		kind = ClaimReclaim
	case e.resumes:
		kind = ClaimResume
	}
	if lease == "" {
		lease = NewLeaseID()
	}
	if kind != ClaimResume {
		e.attempts++
		e.attempt = NewAttemptID()
	}
	e.epoch++
	e.state, e.lease, e.instance, e.revoked, e.resumes, e.grant = PublicActive, lease, instance, false, false, ""
	e.expiresAt = time.Now().Add(time.Duration(ttlMs) * time.Millisecond)
	return f.claimed(e, kind)
}

func (f *fakeBackend) claimed(e *fakeExecution, kind ClaimKind) ClaimedExecution {
	c := ClaimedExecution{
		ExecutionID: e.id, AttemptIndex: e.attempts - 1, AttemptID: e.attempt, ClaimKind: kind, LaneID: "default",
		Namespace: "default", Kind: e.kind, Payload: e.payload, WorkerInstanceID: e.instance,
		Fence:          Fence{LeaseID: e.lease, LeaseEpoch: e.epoch, AttemptID: e.attempt},
		LeaseExpiresAt: Millis(e.expiresAt.UnixMilli()), StoreTime: storeNow(),
	}
	if e.timeout > 0 {
		c.AttemptTimeoutAt = storeNow() + Millis(e.timeout.Milliseconds())
	}
	return c
}

func (f *fakeBackend) ClaimTasks(ctx context.Context, a ClaimTasksArgs) (ClaimTasksResult, error) {
	f.mu.Lock()
	f.claims = append(f.claims, a)
	f.mu.Unlock()
	if err := f.enter(ctx, "claim_tasks", a.MaxTasks); err != nil {
		return ClaimTasksResult{}, err
	}
	deadline := time.After(time.Duration(a.WaitMs) * time.Millisecond)
	for {
		var r ClaimTasksResult
		f.mu.Lock()
		wake := f.wake
		for _, e := range f.eligible() {
			if len(r.Tasks) < a.MaxTasks {
				r.Tasks = append(r.Tasks, f.claim(e, a.WorkerInstanceID, "", a.LeaseTTLMs))
			}
		}
		f.mu.Unlock()
		if len(r.Tasks) > 0 {
			return r, f.leave("claim_tasks")
		}
		select {
		case <-wake:
		case <-deadline:
			return r, f.leave("claim_tasks")
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
}

func (f *fakeBackend) ClaimForWorker(ctx context.Context, a ClaimForWorkerArgs) (ClaimForWorkerResult, error) {
	if err := f.enter(ctx, "claim_for_worker", 1); err != nil {
		return ClaimForWorkerResult{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.eligible() {
		g := f.offer(e)
		return ClaimForWorkerResult{Grant: &g}, nil
	}
	return ClaimForWorkerResult{}, nil
}

func (f *fakeBackend) offer(e *fakeExecution) Grant {
	e.grant = string(NewLeaseID())
	kind := ClaimNew
	if e.resumes {
		kind = ClaimResume
	}
	if e.state == PublicActive {
		kind = ClaimReclaim
	}
	return Grant{ExecutionID: e.id, GrantID: e.grant, LaneID: "default", Kind: kind}
}

// grant issues a grant for one execution.
func (f *fakeBackend) issue(id ExecutionID) Grant {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.offer(f.executions[id])
}

func (f *fakeBackend) ClaimGranted(ctx context.Context, a ClaimGrantedArgs) (ClaimedExecution, error) {
	if err := f.enter(ctx, "claim_granted", 1); err != nil {
		return ClaimedExecution{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.executions[a.ExecutionID]
	if e.lease == a.LeaseID && e.state == PublicActive {
		c := f.claimed(e, ClaimNew)
		c.Replayed = true
		return c, nil
	}
	if e.grant == "" || e.grant != a.GrantID {
		return ClaimedExecution{}, NewError(CodeInvalidClaimGrant, "no such grant")
	}
	if a.Expect == ExpectResume && !e.resumes {
		return ClaimedExecution{}, NewError(CodeNotAResumedExecution, "never ran")
	}
	return f.claim(e, a.WorkerInstanceID, a.LeaseID, a.LeaseTTLMs), f.leaveLocked("claim_granted")
}

func (f *fakeBackend) leaveLocked(op string) error {
	if f.after != nil {
		return f.after(op)
	}
	return nil
}

func (f *fakeBackend) ReleaseGrant(ctx context.Context, a ReleaseGrantArgs) (bool, error) {
	if err := f.enter(ctx, "release_grant", 1); err != nil {
		return false, err
	}
	held := false
	f.change(func() {
		e := f.executions[a.ExecutionID]
		held = e.grant == a.GrantID
		if held {
			e.grant = ""
		}
	})
	return held, nil
}

func (f *fakeBackend) ListEligible(ctx context.Context, a ListEligibleArgs) ([]ExecutionID, error) {
	if err := f.enter(ctx, "list_eligible", 1); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []ExecutionID
	for _, e := range f.eligible() {
		offset := (int(e.id.Partition()) - int(a.FirstPartition) + 256) % 256
		if offset < a.Partitions && len(ids) < a.Limit {
			ids = append(ids, e.id)
		}
	}
	return ids, nil
}

func (f *fakeBackend) IssueGrantAndClaim(ctx context.Context, a IssueGrantAndClaimArgs) (ClaimedExecution, error) {
	if err := f.enter(ctx, "issue_grant_and_claim", 1); err != nil {
		return ClaimedExecution{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.executions[a.ExecutionID]
	if e.state == PublicActive && e.expiresAt.After(time.Now()) {
		return ClaimedExecution{}, NewError(CodeLeaseConflict, "leased")
	}
	return f.claim(e, a.WorkerInstanceID, a.LeaseID, a.LeaseTTLMs), nil
}

func (f *fakeBackend) ListWorkerLeases(ctx context.Context, a ListWorkerLeasesArgs) (ListWorkerLeasesResult, error) {
	if err := f.enter(ctx, "list_worker_leases", 1); err != nil {
		return ListWorkerLeasesResult{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var r ListWorkerLeasesResult
	for _, id := range f.order {
		e := f.executions[id]
		if e.state == PublicActive && e.instance == a.WorkerInstanceID && !e.revoked && e.expiresAt.After(time.Now()) {
			r.Tasks = append(r.Tasks, f.claimed(e, ClaimNew))
		}
	}
	return r, nil
}

// check is the fence check of lease-bound operations.
func (f *fakeBackend) check(id ExecutionID, fence Fence) (*fakeExecution, error) {
	e := f.executions[id]
	switch {
	case e == nil:
		return nil, NewError(CodeExecutionNotFound, "no execution")
	case e.state != PublicActive:
		return nil, NewError(CodeExecutionNotActive, "it is %s", e.state)
	case e.revoked:
		return nil, NewError(CodeLeaseRevoked, "revoked")
	case !e.expiresAt.After(time.Now()):
		return nil, NewError(CodeLeaseExpired, "expired")
	case e.lease != fence.LeaseID || e.epoch != fence.LeaseEpoch || e.attempt != fence.AttemptID:
		return nil, NewError(CodeStaleLease, "not the current lease")
	}
	return e, nil
}

func (f *fakeBackend) RenewLeases(ctx context.Context, items []RenewLeaseArgs) ([]Item[RenewLeaseResult], error) {
	if err := f.enter(ctx, "renew_leases", len(items)); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewals = append(f.renewals, time.Now())
	answers := make([]Item[RenewLeaseResult], len(items))
	for i, a := range items {
		e, err := f.check(a.ExecutionID, a.Fence)
		if err != nil {
			answers[i].Err = err
			continue
		}
		e.expiresAt = time.Now().Add(time.Duration(a.LeaseTTLMs) * time.Millisecond)
		answers[i].Result = RenewLeaseResult{LeaseEpoch: e.epoch, ExpiresAt: Millis(e.expiresAt.UnixMilli())}
	}
	return answers, nil
}

func (f *fakeBackend) RevokeLease(ctx context.Context, a RevokeLeaseArgs) (RevokeLeaseResult, error) {
	if err := f.enter(ctx, "revoke_lease", 1); err != nil {
		return RevokeLeaseResult{}, err
	}
	f.change(func() {
		if e := f.executions[a.ExecutionID]; a.ExpectedLeaseID == "" || a.ExpectedLeaseID == e.lease {
			e.revoked = true
		}
	})
	return RevokeLeaseResult{Outcome: RevokeRevoked}, nil
}

// release ends a lease; the state says how.
func (f *fakeBackend) release(id ExecutionID, fence Fence, state PublicState, then func(*fakeExecution)) (replayed bool, err error) {
	f.change(func() {
		if e := f.executions[id]; e != nil && e.ended == fence && e.state == state {
			replayed = true
			return
		}
		e, refused := f.check(id, fence)
		if refused != nil {
			err = refused
			return
		}
		e.state, e.ended = state, fence
		if then != nil {
			then(e)
		}
	})
	return replayed, err
}

func (f *fakeBackend) CompleteExecutions(ctx context.Context, items []CompleteExecutionArgs) ([]Item[CompleteExecutionResult], error) {
	if err := f.enter(ctx, "complete_executions", len(items)); err != nil {
		return nil, err
	}
	answers := make([]Item[CompleteExecutionResult], len(items))
	for i, a := range items {
		answers[i].Result.PublicState = PublicCompleted
		answers[i].Result.Replayed, answers[i].Err = f.release(a.ExecutionID, a.Fence, PublicCompleted, func(e *fakeExecution) { e.result = a.Result })
	}
	return answers, f.leave("complete_executions")
}

func (f *fakeBackend) FailExecution(ctx context.Context, a FailExecutionArgs) (FailExecutionResult, error) {
	if err := f.enter(ctx, "fail_execution", 1); err != nil {
		return FailExecutionResult{}, err
	}
	_, err := f.release(a.ExecutionID, a.Fence, PublicFailed, func(e *fakeExecution) { e.reason, e.category = a.Reason, a.Category })
	return FailExecutionResult{Outcome: FailTerminal}, err
}

func (f *fakeBackend) CancelExecution(ctx context.Context, a CancelExecutionArgs) (CancelExecutionResult, error) {
	if err := f.enter(ctx, "cancel_execution", 1); err != nil {
		return CancelExecutionResult{}, err
	}
	_, err := f.release(a.ExecutionID, a.Fence, PublicCancelled, func(e *fakeExecution) { e.reason = a.Reason })
	return CancelExecutionResult{Outcome: CancelCancelled}, err
}

func (f *fakeBackend) DelayExecution(ctx context.Context, a DelayExecutionArgs) (DelayExecutionResult, error) {
	if err := f.enter(ctx, "delay_execution", 1); err != nil {
		return DelayExecutionResult{}, err
	}
	_, err := f.release(a.ExecutionID, a.Fence, PublicWaiting, func(e *fakeExecution) {
		e.resumes = true
		e.delayUntil = time.UnixMilli(int64(a.DelayUntil))
		if a.DelayMs != nil {
			e.delayUntil = time.Now().Add(time.Duration(*a.DelayMs) * time.Millisecond)
		}
		time.AfterFunc(time.Until(e.delayUntil), func() { f.change(func() {}) })
	})
	return DelayExecutionResult{PublicState: PublicDelayed}, err
}

func (f *fakeBackend) UpdateProgress(ctx context.Context, a UpdateProgressArgs) error {
	return f.enter(ctx, "update_progress", 1)
}

func (f *fakeBackend) WaitExecution(ctx context.Context, a WaitExecutionArgs) (WaitExecutionResult, error) {
	if err := f.enter(ctx, "wait_execution", 1); err != nil {
		return WaitExecutionResult{}, err
	}
	deadline := time.After(time.Duration(a.WaitMs) * time.Millisecond)
	for {
		f.mu.Lock()
		wake := f.wake
		e := f.executions[a.ExecutionID]
		if e == nil {
			f.mu.Unlock()
			return WaitExecutionResult{}, NewError(CodeExecutionNotFound, "no execution")
		}
		r := WaitExecutionResult{PublicState: e.state, Terminal: e.state.Terminal(), Result: e.result, ResultAvailable: e.result != nil}
		f.mu.Unlock()
		if r.Terminal {
			return r, nil
		}
		select {
		case <-wake:
		case <-deadline:
			r.TimedOut = true
			return r, nil
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
}

// testConfig is a worker configuration with a short lease.
func testConfig(tasks int) WorkerConfig {
	return WorkerConfig{
		WorkerID: "pool", WorkerInstanceID: "instance", Lanes: []LaneID{"default"},
		LeaseTTL: 3 * time.Second, MaxConcurrentTasks: tasks, Logger: quiet,
	}
}

func newTestWorker(t *testing.T, f Backend, config WorkerConfig) *Worker {
	t.Helper()
	w, err := NewWorker(context.Background(), f, config)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func closeWorker(t *testing.T, w *Worker) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
