package flowfabric

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestRunUnderFaults runs two workers on a store that fails one call in five,
// before or after it has taken effect. Every execution completes with the result
// of its own handler, nobody holds more than its permits, no attempt is run
// twice at once, and nothing leaks.
func TestRunUnderFaults(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runUnderFaults(t, seed) })
		})
	}
}

func runUnderFaults(t *testing.T, seed uint64) {
	f := newFake()
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 1))
	faults := func(op string) error {
		mu.Lock()
		defer mu.Unlock()
		if op == "register_worker" || op == "deregister_worker" || random.IntN(10) > 0 {
			return nil
		}
		return NewError(CodeOutcomeUnknown, "fault in %s", op)
	}
	f.setHold(func(ctx context.Context, op string) {
		mu.Lock()
		d := time.Duration(random.IntN(20)) * time.Millisecond
		mu.Unlock()
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	})
	ids := f.add(200, "work", "")
	attempts := make(map[AttemptID]bool)
	var loops []*running
	for i := range 2 {
		config := testConfig(7)
		config.WorkerInstanceID = WorkerInstanceID(fmt.Sprint("instance-", i))
		config.LeaseTTL = 2 * time.Second
		w := newTestWorker(t, f, config)
		var busy atomic.Int32
		must(t, HandleRaw(w, "work", func(ctx context.Context, task *Task, _ []byte) ([]byte, error) {
			mu.Lock()
			if attempts[task.AttemptID()] {
				t.Error("an attempt is run twice")
			}
			attempts[task.AttemptID()] = true
			d := time.Duration(random.IntN(3000)) * time.Millisecond
			mu.Unlock()
			if n := busy.Add(1); n > 7 {
				t.Errorf("%d handlers run", n)
			}
			defer busy.Add(-1)
			select {
			case <-time.After(d):
				return []byte(task.ExecutionID()), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}))
		loops = append(loops, run(t, w))
	}
	f.setBefore(faults)
	f.setAfter(faults)
	client := NewClient(f)
	for _, id := range ids {
		for {
			r, err := client.Wait(t.Context(), id)
			if err != nil {
				continue
			}
			if r.PublicState != PublicCompleted || string(r.Result) != string(id) {
				t.Errorf("%s: %s, %q", id, r.PublicState, r.Result)
			}
			break
		}
	}
	f.setBefore(nil)
	f.setAfter(nil)
	for _, loop := range loops {
		loop.end(t)
		if n := loop.permits.inUse(); n != 0 {
			t.Errorf("%d permits in use", n)
		}
		if f.count("list_worker_leases") == 0 {
			t.Error("no lost claim was looked up")
		}
		if n := len(loop.leases); n != 0 {
			t.Errorf("%d leases in hand", n)
		}
	}
}
