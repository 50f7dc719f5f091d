package flowfabric

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func sinceAll(times []time.Time, start time.Time) []time.Duration {
	var d []time.Duration
	for _, at := range times {
		d = append(d, at.Sub(start))
	}
	return d
}

func TestRenewalEveryThird(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		defer closeWorker(t, w)
		f.add(1, "work", "")
		start := time.Now()
		task := claimOne(t, w)
		time.Sleep(3500 * time.Millisecond)
		if got := sinceAll(f.renewedAt(), start); !slices.Equal(got, []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}) {
			t.Errorf("renewals at %v", got)
		}
		if !task.LeaseHealthy() || task.RenewalFailures() != 0 || task.LeaseExpiresAt() != Millis(start.Add(6*time.Second).UnixMilli()) {
			t.Errorf("healthy %v, failures %d", task.LeaseHealthy(), task.RenewalFailures())
		}
		if err := task.RenewLease(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(900 * time.Millisecond)
		if n := len(f.renewedAt()); n != 4 {
			t.Errorf("%d renewals: one by hand does not push the next back", n)
		}
		if err := task.Complete(t.Context(), nil); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if n := len(f.renewedAt()); n != 4 {
			t.Errorf("%d renewals: it went on after the end", n)
		}
	})
}

// TestRenewalUnreachable is scenario 29 of chapter 02.
func TestRenewalUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		config := testConfig(1)
		w := newTestWorker(t, f, config)
		defer closeWorker(t, w)
		f.add(1, "work", "")
		start := time.Now()
		task := claimOne(t, w)
		f.setBefore(always(errStore, "renew_leases"))
		time.Sleep(1300 * time.Millisecond) // tries at 1.0, 1.2 s
		if task.RenewalFailures() != 2 || !task.LeaseHealthy() {
			t.Errorf("failures %d, healthy %v", task.RenewalFailures(), task.LeaseHealthy())
		}
		time.Sleep(200 * time.Millisecond)
		if task.RenewalFailures() != 3 || task.LeaseHealthy() {
			t.Errorf("failures %d, healthy %v", task.RenewalFailures(), task.LeaseHealthy())
		}
		f.setBefore(nil)
		time.Sleep(200 * time.Millisecond) // success at 1.6 s
		if task.RenewalFailures() != 0 || !task.LeaseHealthy() {
			t.Errorf("failures %d, healthy %v", task.RenewalFailures(), task.LeaseHealthy())
		}
		f.setBefore(always(errStore, "renew_leases"))
		<-task.Context().Done()
		if took := time.Since(start); took != 4600*time.Millisecond {
			t.Errorf("the local deadline came after %v", took)
		}
		if !errors.Is(context.Cause(task.Context()), ErrLeaseExpired) || task.LeaseHealthy() || w.permits.inUse() != 1 {
			t.Errorf("cause %v", context.Cause(task.Context()))
		}
		tries := f.count("renew_leases")
		time.Sleep(time.Minute)
		if f.count("renew_leases") != tries {
			t.Error("renewal went on after the loss")
		}
		if err := task.Complete(t.Context(), nil); !errors.Is(err, ErrLeaseExpired) || w.permits.inUse() != 0 {
			t.Errorf("complete: %v", err)
		}
	})
}

// TestRenewalHangs: a store that never answers does not hide the deadline.
func TestRenewalHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		defer closeWorker(t, w)
		f.add(1, "work", "")
		start := time.Now()
		task := claimOne(t, w)
		f.setHold(func(ctx context.Context, op string) {
			if op == "renew_leases" {
				<-ctx.Done()
			}
		})
		<-task.Context().Done()
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("the local deadline came after %v", took)
		}
		if task.RenewalFailures() != 1 {
			t.Errorf("%d failures: a call that hangs for a third of the TTL is one", task.RenewalFailures())
		}
		_ = task.Abandon(t.Context())
	})
}

// TestRenewalDefiniteLoss is scenario 36 of chapter 08 and 30 of chapter 02.
func TestRenewalDefiniteLoss(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*fakeExecution)
		cause  *Error
	}{
		"revoked":    {func(e *fakeExecution) { e.revoked = true }, ErrLeaseRevoked},
		"stale":      {func(e *fakeExecution) { e.epoch++ }, ErrStaleLease},
		"not_active": {func(e *fakeExecution) { e.state = PublicCancelled }, ErrExecutionNotActive},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				w := newTestWorker(t, f, testConfig(1))
				defer closeWorker(t, w)
				id := f.add(1, "work", "")[0]
				task := claimOne(t, w)
				f.change(func() { c.change(f.executions[id]) })
				time.Sleep(1100 * time.Millisecond)
				if !errors.Is(context.Cause(task.Context()), c.cause) || task.LeaseHealthy() || w.permits.inUse() != 1 {
					t.Errorf("cause %v, healthy %v, permits %d", context.Cause(task.Context()), task.LeaseHealthy(), w.permits.inUse())
				}
				time.Sleep(1400 * time.Millisecond)
				if f.count("renew_leases") != 1 {
					t.Error("renewal went on")
				}
				if err := task.Complete(t.Context(), []byte("late")); !errors.Is(err, c.cause) || f.get(id).result != nil {
					t.Errorf("complete: %v", err)
				}
				if w.permits.inUse() != 0 {
					t.Error("the permit is kept after the refusal")
				}
			})
		})
	}
}

// TestRenewalsGoTogether: what falls due while a call is in flight shares the
// next one, and no batch is above 100.
func TestRenewalsGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(300))
		f.add(250, "work", "")
		var tasks []*Task
		for len(tasks) < 250 {
			more, err := w.ClaimTasks(t.Context(), 100)
			if err != nil {
				t.Fatal(err)
			}
			tasks = append(tasks, more...)
			time.Sleep(time.Millisecond)
		}
		f.setHold(func(ctx context.Context, op string) {
			if op == "renew_leases" {
				time.Sleep(100 * time.Millisecond)
			}
		})
		time.Sleep(1300 * time.Millisecond)
		if got := f.sizes("renew_leases"); !slices.Equal(got, []int{100, 100, 50}) {
			t.Errorf("batches %v", got)
		}
		for _, task := range tasks {
			if !task.LeaseHealthy() {
				t.Fatal("a lease is not healthy")
			}
			if err := task.Abandon(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		closeWorker(t, w)
	})
}

// TestRenewalDuringTerminalCall: it goes on until the store has answered.
func TestRenewalDuringTerminalCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		defer closeWorker(t, w)
		id := f.add(1, "work", "")[0]
		task := claimOne(t, w)
		f.setHold(func(ctx context.Context, op string) {
			if op == "complete_executions" {
				time.Sleep(10 * time.Second)
			}
		})
		if err := task.Complete(t.Context(), []byte("r")); err != nil {
			t.Error(err)
		}
		if n := f.count("renew_leases"); n < 9 || f.get(id).state != PublicCompleted {
			t.Errorf("%d renewals", n)
		}
	})
}

func TestAttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		defer closeWorker(t, w)
		id := f.add(1, "work", "")[0]
		f.change(func() { f.executions[id].timeout = 5 * time.Second })
		start := time.Now()
		task := claimOne(t, w)
		<-task.Context().Done()
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("after %v", took)
		}
		if cause := context.Cause(task.Context()); !errors.Is(cause, ErrAttemptTimeout) || !errors.Is(cause, context.DeadlineExceeded) {
			t.Errorf("cause %v", cause)
		}
		if !task.LeaseHealthy() {
			t.Error("the lease is held on")
		}
		if err := task.Complete(t.Context(), nil); err != nil {
			t.Errorf("a completion in time for the store: %v", err)
		}
	})
}

// TestShortTasksTouchNoTimer: a worker whose tasks end before their first
// renewal arms its timer once per interval, not once per task.
func TestShortTasksTouchNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		config := testConfig(1)
		clock := &countingClock{}
		config.Clock = clock
		w := newTestWorker(t, f, config)
		defer closeWorker(t, w)
		f.add(1000, "work", "")
		synctest.Wait()
		clock.armed.Store(0)
		for range 1000 {
			if err := claimOne(t, w).Complete(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		if n := clock.armed.Load(); n > 2 {
			t.Errorf("timers armed %d times", n)
		}
	})
}

type countingClock struct {
	systemClock
	armed atomic.Int32
}

func (c *countingClock) AfterFunc(d time.Duration, f func()) Timer {
	c.armed.Add(1)
	return &countingTimer{Timer: time.AfterFunc(d, f), clock: c}
}

type countingTimer struct {
	Timer
	clock *countingClock
}

func (t *countingTimer) Reset(d time.Duration) bool {
	t.clock.armed.Add(1)
	return t.Timer.Reset(d)
}
