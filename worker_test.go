package flowfabric

import (
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

var errStore = NewError(CodeStoreUnavailable, "unreachable")

// always fails the named operations.
func always(err error, ops ...string) func(string) error {
	return func(op string) error {
		if slices.Contains(ops, op) {
			return err
		}
		return nil
	}
}

func claimOne(t *testing.T, w *Worker) *Task {
	t.Helper()
	tasks, err := w.ClaimTasks(t.Context(), 1)
	if err != nil || len(tasks) != 1 {
		t.Fatalf("claim: %v, %v", tasks, err)
	}
	return tasks[0]
}

func TestNewWorkerRefusesConfigurations(t *testing.T) {
	for name, change := range map[string]func(*WorkerConfig){
		"worker_id":            func(c *WorkerConfig) { c.WorkerID = "" },
		"worker_instance_id":   func(c *WorkerConfig) { c.WorkerInstanceID = "a b" },
		"namespace":            func(c *WorkerConfig) { c.Namespace = "{x}" },
		"lanes":                func(c *WorkerConfig) { c.Lanes = nil },
		"capabilities":         func(c *WorkerConfig) { c.Capabilities = []string{"a,b"} },
		"lease_ttl":            func(c *WorkerConfig) { c.LeaseTTL = 999 * time.Millisecond },
		"claim_wait":           func(c *WorkerConfig) { c.ClaimWait = 31 * time.Second },
		"claim_poll_interval":  func(c *WorkerConfig) { c.ClaimPollInterval = time.Millisecond },
		"max_concurrent_tasks": func(c *WorkerConfig) { c.MaxConcurrentTasks = -1 },
		"grant_ttl":            func(c *WorkerConfig) { c.GrantTTL = 61 * time.Second },
		"liveness_ttl":         func(c *WorkerConfig) { c.LivenessTTL = time.Millisecond },
		"drain_timeout":        func(c *WorkerConfig) { c.DrainTimeout = -1 },
		"partition_config":     func(c *WorkerConfig) { c.PartitionConfig = &PartitionConfig{} },
		"middleware":           func(c *WorkerConfig) { c.Middleware = []Middleware{nil} },
	} {
		t.Run(name, func(t *testing.T) {
			f, config := newFake(), testConfig(1)
			change(&config)
			_, err := NewWorker(t.Context(), f, config)
			var refused *ConfigError
			if !errors.As(err, &refused) || refused.Field != name || refused.Message == "" {
				t.Fatalf("got %v", err)
			}
			if !errors.Is(err, ErrInvalidInput) || !errors.Is(err, ClassInvalidInput) || AsError(err) == nil {
				t.Errorf("%v is no invalid_input", err)
			}
			if len(f.calls) != 0 {
				t.Errorf("calls were made: %v", f.calls)
			}
		})
	}
	if _, err := NewWorker(t.Context(), nil, testConfig(1)); !errors.Is(err, ErrInvalidInput) {
		t.Errorf("nil backend: %v", err)
	}
	config := testConfig(1)
	config.Capabilities = []string{"a b"}
	if _, err := NewWorker(t.Context(), newFake(), config); !errors.Is(err, ErrInvalidCapabilities) {
		t.Errorf("capability: %v", err)
	}
}

func TestNewWorkerDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTestWorker(t, newFake(), WorkerConfig{WorkerID: "pool", Lanes: []LaneID{"default"}, Logger: quiet})
		defer closeWorker(t, w)
		c := w.Config()
		if c.Namespace != "default" || c.LeaseTTL != 30*time.Second || c.ClaimWait != 20*time.Second || c.MaxConcurrentTasks != 1 ||
			c.GrantTTL != 5*time.Second || c.LivenessTTL != time.Minute || c.DrainTimeout != 30*time.Second || c.WorkerInstanceID == "" {
			t.Errorf("defaults: %+v", c)
		}
		c.Lanes[0] = "changed"
		if w.Config().Lanes[0] != "default" {
			t.Error("Config returned no copy")
		}
		if w.PartitionConfig() != DefaultPartitionConfig() || w.Backend() == nil {
			t.Error("accessors")
		}
	})
}

func TestNewWorkerLeavesNothingRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.setAfter(always(errStore, "register_worker"))
		if _, err := NewWorker(t.Context(), f, testConfig(1)); !errors.Is(err, ErrStoreUnavailable) {
			t.Fatalf("got %v", err)
		}
		if f.count("register_worker") != 4 || len(f.registered) != 0 {
			t.Errorf("calls %d, registered %v", f.count("register_worker"), f.registered)
		}
		f.setAfter(nil)
		first := newTestWorker(t, f, testConfig(1))
		if _, err := NewWorker(t.Context(), f, testConfig(1)); !errors.Is(err, ErrDuplicateWorkerInstance) {
			t.Errorf("second: %v", err)
		}
		if len(f.registered) != 1 {
			t.Error("the refusal removed the first one's registration")
		}
		closeWorker(t, first)
		if len(f.registered) != 0 {
			t.Error("closing left a registration")
		}
	})
}

func TestHeartbeatsRegisterAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		start := time.Now()
		w := newTestWorker(t, f, testConfig(1))
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if len(f.heartbeats) != 2 || f.heartbeats[0].Sub(start) != 20*time.Second || f.heartbeats[1].Sub(start) != 40*time.Second {
			t.Errorf("heartbeats: %v", f.heartbeats)
		}
		f.change(func() { clear(f.registered) })
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if f.count("register_worker") != 2 || len(f.registered) != 1 {
			t.Error("not registered anew")
		}
		closeWorker(t, w)
		closeWorker(t, w)
		if f.count("deregister_worker") != 1 {
			t.Error("Close is not idempotent")
		}
		time.Sleep(time.Hour)
		if f.count("register_worker") != 2 {
			t.Error("registered after Close")
		}
	})
}

// TestPermitBeforeCall is scenario 27 of chapter 02 and 34 of chapter 08.
func TestPermitBeforeCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		config := testConfig(1)
		config.AllowDirectClaim = true
		w := newTestWorker(t, f, config)
		defer closeWorker(t, w)
		ids := f.add(3, "work", "")
		task := claimOne(t, w)
		grant := f.issue(ids[1])
		if _, err := w.ClaimFromGrant(t.Context(), "default", grant); !errors.Is(err, ErrWorkerAtCapacity) || !IsRetryable(err) {
			t.Errorf("got %v", err)
		}
		if _, err := w.ClaimTasks(t.Context(), 5); !errors.Is(err, ErrWorkerAtCapacity) {
			t.Errorf("got %v", err)
		}
		if _, err := w.ClaimViaServer(t.Context(), "default", 0); !errors.Is(err, ErrWorkerAtCapacity) {
			t.Errorf("got %v", err)
		}
		if next, err := w.ClaimNext(t.Context()); next != nil || err != nil {
			t.Errorf("ClaimNext: %v, %v", next, err)
		}
		if f.count("claim_granted") != 0 || f.count("list_eligible") != 0 || f.count("claim_tasks") != 1 || f.count("claim_for_worker") != 0 {
			t.Errorf("calls were made: %v", f.calls)
		}
		if err := task.Complete(t.Context(), []byte("1")); err != nil {
			t.Fatal(err)
		}
		second, err := w.ClaimFromGrant(t.Context(), "default", grant)
		if err != nil || second.ExecutionID() != ids[1] {
			t.Fatalf("the grant is spoilt: %v", err)
		}
		if err := second.Cancel(t.Context(), "enough"); err != nil || f.get(ids[1]).state != PublicCancelled {
			t.Error(err)
		}
		if w.permits.inUse() != 0 {
			t.Errorf("%d permits in use", w.permits.inUse())
		}
	})
}

func TestClaimViaServerAndReleaseGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(2))
		defer closeWorker(t, w)
		if task, err := w.ClaimViaServer(t.Context(), "default", time.Second); task != nil || err != nil {
			t.Errorf("no work: %v, %v", task, err)
		}
		id := f.add(1, "work", "")[0]
		grant := f.issue(id)
		if held, err := w.ReleaseGrant(t.Context(), grant); !held || err != nil {
			t.Errorf("release: %v, %v", held, err)
		}
		task, err := w.ClaimViaServer(t.Context(), "default", 0)
		if err != nil || task.ExecutionID() != id {
			t.Fatalf("got %v", err)
		}
		if err := task.Abandon(t.Context(), RevokeOnAbandon()); err != nil || !f.get(id).revoked {
			t.Errorf("abandon: %v", err)
		}
		if err := task.Complete(t.Context(), nil); !errors.Is(err, ErrTaskConsumed) {
			t.Errorf("after abandon: %v", err)
		}
		again, err := w.ClaimFromReclaimGrant(t.Context(), f.issue(id))
		if err != nil || again.ClaimKind() != ClaimReclaim || again.AttemptIndex() != 1 || again.Fence().LeaseEpoch != 2 {
			t.Fatalf("reclaim: %v", err)
		}
		if _, err := w.ClaimFromResumeGrant(t.Context(), Grant{Kind: ClaimReclaim}); !errors.Is(err, ErrInvalidInput) {
			t.Errorf("resume grant: %v", err)
		}
		if err := again.Complete(t.Context(), nil); err != nil {
			t.Error(err)
		}
		for _, ttl := range []time.Duration{-1, time.Microsecond, 61 * time.Second} {
			if _, err := w.ClaimViaServer(t.Context(), "default", ttl); !errors.Is(err, ErrInvalidInput) {
				t.Errorf("grant TTL %v: %v", ttl, err)
			}
		}
	})
}

// TestClaimRepeatsWithSameLease: an answer lost on the way is got again.
func TestClaimRepeatsWithSameLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		defer closeWorker(t, w)
		lost := 0
		f.after = func(op string) error {
			if lost++; op == "claim_granted" && lost == 1 {
				return errStore
			}
			return nil
		}
		id := f.add(1, "work", "")[0]
		task, err := w.ClaimFromGrant(t.Context(), "default", f.issue(id))
		if err != nil || !task.Replayed() || task.Fence().LeaseEpoch != 1 {
			t.Fatalf("got %v", err)
		}
		if err := task.Complete(t.Context(), nil); err != nil {
			t.Error(err)
		}
	})
}

// TestClaimNext is scenario 28 of chapter 02, without budgets.
func TestClaimNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		if _, err := w.ClaimNext(t.Context()); !errors.Is(err, ErrDirectClaimDisabled) {
			t.Errorf("got %v", err)
		}
		closeWorker(t, w)
		config := testConfig(1)
		config.AllowDirectClaim = true
		w = newTestWorker(t, f, config)
		defer closeWorker(t, w)
		f.add(1, "work", "")
		var task *Task
		polls := 0
		for ; task == nil && polls < 8; polls++ {
			var err error
			if task, err = w.ClaimNext(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if task == nil {
			t.Fatal("not found in 8 windows of 32 partitions")
		}
		if err := task.Complete(t.Context(), nil); err != nil {
			t.Error(err)
		}
		f.setBefore(always(errStore, "list_eligible"))
		if _, err := w.ClaimNext(t.Context()); !errors.Is(err, ErrStoreUnavailable) {
			t.Errorf("transport error: %v", err)
		}
	})
}

func TestTaskConsumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		defer closeWorker(t, w)
		f.add(2, "work", "in")
		task := claimOne(t, w)
		if string(task.Payload()) != "in" || task.Kind() != "work" || task.LaneID() != "default" || task.AttemptIndex() != 0 {
			t.Error("accessors")
		}
		if err := task.UpdateProgress(t.Context(), 50, "half"); err != nil {
			t.Error(err)
		}
		if err := task.UpdateProgress(t.Context(), 101, ""); !errors.Is(err, ErrInvalidInput) {
			t.Error(err)
		}
		if _, err := task.Fail(t.Context(), "broken", "Bad Category"); !errors.Is(err, ErrInvalidInput) {
			t.Error(err)
		}
		if err := task.Complete(t.Context(), make([]byte, MaxPayloadBytes+1)); !errors.Is(err, ErrPayloadTooLarge) {
			t.Error(err)
		}
		if outcome, err := task.Fail(t.Context(), "broken", ""); err != nil || outcome != FailTerminal {
			t.Errorf("%v, %v", outcome, err)
		}
		if !errors.Is(context.Cause(task.Context()), ErrTaskConsumed) {
			t.Errorf("cause: %v", context.Cause(task.Context()))
		}
		before := f.count("complete_executions") + f.count("delay_execution") + f.count("update_progress")
		for name, err := range map[string]error{
			"complete": task.Complete(t.Context(), nil),
			"delay":    task.DelayFor(t.Context(), time.Second),
			"cancel":   task.Cancel(t.Context(), ""),
			"progress": task.UpdateProgress(t.Context(), 1, ""),
			"renew":    task.RenewLease(t.Context()),
		} {
			if !errors.Is(err, ErrTaskConsumed) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if f.count("complete_executions")+f.count("delay_execution")+f.count("update_progress") != before {
			t.Error("a spent task made calls")
		}

		// A transport error does not spend the task, nor free the permit.
		task = claimOne(t, w)
		f.setAfter(always(NewError(CodeOutcomeUnknown, "lost"), "complete_executions"))
		if err := task.Complete(t.Context(), []byte("r")); !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("got %v", err)
		}
		if f.count("complete_executions") != 4 || w.permits.inUse() != 1 {
			t.Errorf("%d calls, %d permits in use", f.count("complete_executions"), w.permits.inUse())
		}
		f.setAfter(nil)
		if err := task.Complete(t.Context(), []byte("r")); err != nil {
			t.Errorf("repeat: %v", err)
		}
		if w.permits.inUse() != 0 {
			t.Error("the permit is kept")
		}
	})
}

func TestMiddlewareOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		layer := func(name string) Middleware {
			return func(b Backend) Backend { return &pingLayer{Backend: b, ping: func() { seen = append(seen, name) }} }
		}
		config := testConfig(1)
		config.Middleware = []Middleware{layer("outer"), layer("inner")}
		w := newTestWorker(t, newFake(), config)
		closeWorker(t, w)
		if !slices.Equal(seen, []string{"outer", "inner"}) {
			t.Errorf("order: %v", seen)
		}
	})
}

type pingLayer struct {
	Backend
	ping func()
}

func (l *pingLayer) Ping(ctx context.Context) error {
	l.ping()
	return l.Backend.Ping(ctx)
}

func TestCloseRevokesWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		config := testConfig(1)
		config.DrainTimeout = 2 * time.Second
		w := newTestWorker(t, f, config)
		id := f.add(1, "work", "")[0]
		task := claimOne(t, w)
		start := time.Now()
		closeWorker(t, w)
		if took := time.Since(start); took != 7*time.Second {
			t.Errorf("closing took %v", took)
		}
		if !errors.Is(context.Cause(task.Context()), ErrShuttingDown) || !f.get(id).revoked {
			t.Errorf("cause %v, revoked %v", context.Cause(task.Context()), f.get(id).revoked)
		}
		if f.count("renew_leases") == 0 {
			t.Error("no renewal while draining")
		}
		if _, err := w.ClaimTasks(t.Context(), 1); !errors.Is(err, ErrShuttingDown) {
			t.Errorf("claim after Close: %v", err)
		}
	})
}

// TestDirectScanWindows: windows of 32 partitions from hash(instance) on, each
// lane with a cursor of its own, cover all partitions in ceil(P/32) polls of a
// lane. (Specification 02, sections 6.2 and 7.1.)
func TestDirectScanWindows(t *testing.T) {
	for _, partitions := range []int{1, 5, 32, 33, 100, 256} {
		lanes := []LaneID{"a", "b"}
		var scan directScan
		scan.start("worker-1", partitions)
		h := fnv.New64a()
		_, _ = h.Write([]byte("worker-1"))
		start := int(h.Sum64() % uint64(partitions))
		polls := (partitions + MaxPartitionsPerScan - 1) / MaxPartitionsPerScan
		seen := map[LaneID]map[int]bool{"a": {}, "b": {}}
		for n := range polls * len(lanes) {
			lane, first := scan.next(lanes)
			if lane != lanes[n%2] {
				t.Fatalf("poll %d is of lane %s", n, lane)
			}
			if want := (start + n/2*MaxPartitionsPerScan) % partitions; int(first) != want {
				t.Errorf("%d partitions, poll %d begins at %d, want %d", partitions, n, first, want)
			}
			for d := range min(MaxPartitionsPerScan, partitions) {
				seen[lane][(int(first)+d)%partitions] = true
			}
		}
		for _, lane := range lanes {
			if len(seen[lane]) != partitions {
				t.Errorf("lane %s: %d of %d partitions were looked at in %d polls", lane, len(seen[lane]), partitions, polls)
			}
		}
	}
}
