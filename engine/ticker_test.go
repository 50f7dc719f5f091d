package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flowfabric/flowfabric"
)

func status(t *testing.T, e *Engine, name string) flowfabric.ScannerStatus {
	t.Helper()
	list, err := e.ListScanners(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no duty %q", name)
	return flowfabric.ScannerStatus{}
}

func TestDutiesRunAtTheirIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var seen observed
		e := start(t, f, Config{Observer: &seen})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		stop(t, e)
		for name, every := range map[string]time.Duration{
			DutyTick: 250 * time.Millisecond, DutyRouteLabels: 5 * time.Second, DutyLaneSweep: 5 * time.Second,
			DutyWorkerRegistrySweep: 30 * time.Second, DutyIndexReconciler: 45 * time.Second, DutyFeedTrimmer: time.Minute,
		} {
			s, least := status(t, e, name), int64(10*time.Minute/every)-1
			if s.Cycles < least || s.Cycles > least*5/4+2 || s.IntervalMs != every.Milliseconds() || s.Errors != 0 || s.LastRunAt == 0 {
				t.Errorf("in ten minutes: %+v, want about %d cycles", s, least)
			}
			if seen.cycles[name] != int(s.Cycles) {
				t.Errorf("%s: the observer heard of %d cycles of %d", name, seen.cycles[name], s.Cycles)
			}
		}
		for _, name := range tickDuties {
			if a, b := status(t, e, name), status(t, e, DutyTick); a.Cycles != b.Cycles {
				t.Errorf("%s ran %d times, the tick %d", name, a.Cycles, b.Cycles)
			}
		}
		cycles := status(t, e, DutyTick).Cycles
		time.Sleep(time.Minute)
		if status(t, e, DutyTick).Cycles != cycles {
			t.Error("the tick runs after the shutdown")
		}
	})
}

// A panic or an error ends a cycle, never the loop.
func TestTickerSurvives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var n atomic.Int32
		f.tick = func(context.Context, flowfabric.TickArgs) (flowfabric.TickResult, error) {
			switch n.Add(1) {
			case 1:
				panic("boom")
			case 2:
				return flowfabric.TickResult{}, errors.New("store down")
			}
			return flowfabric.TickResult{Examined: 2, Errors: 1, Duties: map[string]int{"lease_expiry": 1}}, nil
		}
		e := start(t, f, Config{})
		defer stop(t, e)
		synctest.Wait()
		if s := status(t, e, DutyTick); s.Errors != 1 || !strings.Contains(s.LastError, "boom") {
			t.Errorf("after a panic: %+v", s)
		}
		time.Sleep(240 * time.Millisecond)
		synctest.Wait()
		if s := status(t, e, DutyTick); s.Errors < 1 {
			t.Errorf("after an error: %+v", s)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		s := status(t, e, DutyTick)
		if s.Cycles < 4 || s.Rows != s.Cycles-2 || s.Errors != s.Cycles || s.LastError != "" {
			t.Errorf("afterwards: %+v", s)
		}
		if p := status(t, e, "lease_expiry"); p.Rows != s.Rows {
			t.Errorf("lease expiry: %+v", p)
		}
	})
}

// More is worked off at once, at most 20 batches a cycle; what cannot be worked
// off does not spin.
func TestTickGoesOnWhileThereIsMore(t *testing.T) {
	f := newFake()
	left := 47
	calls := 0
	f.tick = func(context.Context, flowfabric.TickArgs) (flowfabric.TickResult, error) {
		calls++
		left--
		return flowfabric.TickResult{Examined: 200, Duties: map[string]int{"retention": 200}, More: left > 0}, nil
	}
	e := start(t, f, quiet)
	defer stop(t, e)
	for i, want := range []int{20, 40, 47} {
		s, err := e.RunScanner(t.Context(), "retention")
		if err != nil || calls != want || s.Rows != int64(200*want) || s.Name != "retention" {
			t.Errorf("cycle %d: %d calls, %+v, %v", i, calls, s, err)
		}
	}
	calls = 0
	f.tick = func(context.Context, flowfabric.TickArgs) (flowfabric.TickResult, error) {
		calls++
		return flowfabric.TickResult{Examined: 5, Errors: 5, More: true}, nil
	}
	if s, err := e.RunScanner(t.Context(), DutyTick); err != nil || calls != 1 || s.Errors != 5 {
		t.Errorf("nothing but errors: %d calls, %+v, %v", calls, s, err)
	}
}

func TestBacklogIsWorkedOffSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var left atomic.Int32
		left.Store(200)
		f.tick = func(context.Context, flowfabric.TickArgs) (flowfabric.TickResult, error) {
			return flowfabric.TickResult{Examined: 200, More: left.Add(-1) > 0}, nil
		}
		e := start(t, f, Config{})
		defer stop(t, e)
		time.Sleep(600 * time.Millisecond)
		synctest.Wait()
		if n := left.Load(); n > 0 {
			t.Errorf("%d batches are left", n)
		}
	})
}

func TestRunScanner(t *testing.T) {
	f := newFake()
	rows := 3
	f.sweepOne = func(name string) (flowfabric.SweepResult, error) {
		if name != DutyLaneSweep {
			return flowfabric.SweepResult{}, errors.New("wrong sweep")
		}
		rows--
		return flowfabric.SweepResult{Rows: 10, More: rows > 0}, nil
	}
	e := start(t, f, quiet)
	defer stop(t, e)
	if s, err := e.RunScanner(t.Context(), DutyLaneSweep); err != nil || s.Rows != 30 || s.Cycles != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := e.RunScanner(t.Context(), DutyFeedTrimmer); err != nil || s.Errors != 1 || s.LastError != "wrong sweep" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := e.RunScanner(t.Context(), "sweeping"); !errors.Is(err, flowfabric.ErrInvalidInput) || flowfabric.AsError(err).Detail("field") != "name" {
		t.Errorf("unknown: %v", err)
	}
}

// Shutdown lets the cycle in progress finish.
func TestShutdownFinishesTheCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var ended atomic.Bool
		f.tick = func(ctx context.Context, _ flowfabric.TickArgs) (flowfabric.TickResult, error) {
			select {
			case <-time.After(3 * time.Second):
				ended.Store(true)
			case <-ctx.Done():
			}
			return flowfabric.TickResult{}, ctx.Err()
		}
		e := start(t, f, Config{})
		synctest.Wait()
		stop(t, e)
		if !ended.Load() {
			t.Error("the cycle was cut off")
		}
	})
}

// The index reconciler goes round the partitions, a batch at a time, within its
// share of the time, and goes on where it ended.
func TestIndexReconcilerMovesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		seen := map[uint16]int{}
		var visits []flowfabric.ReconcileArgs
		f.reconcile = func(args flowfabric.ReconcileArgs) (flowfabric.ReconcileResult, error) {
			visits = append(visits, args)
			seen[args.Partition]++
			time.Sleep(45 * time.Millisecond)
			res := flowfabric.ReconcileResult{Examined: args.Limit, Repaired: 1, Violations: []string{"V1"}}
			if args.Cursor == "" {
				res.Next = "half"
			}
			return res, nil
		}
		e := start(t, f, quiet)
		defer stop(t, e)
		for range 3 { // 112 ms each: three batches
			if s, err := e.RunScanner(t.Context(), DutyIndexReconciler); err != nil || s.Errors != 0 {
				t.Fatal(s, err)
			}
		}
		if len(visits) != 9 {
			t.Fatalf("%d batches", len(visits))
		}
		for i, v := range visits {
			if want := flowfabric.ExecutionID([]string{"", "half"}[i%2]); v.Cursor != want || v.Limit != reconcileBatch || int(v.Partition) != (int(visits[0].Partition)+i/2)%4 {
				t.Errorf("batch %d: %+v", i, v)
			}
		}
		if s := status(t, e, DutyIndexReconciler); s.Rows != 9 {
			t.Errorf("%+v", s)
		}
	})
}

func TestReconcileOnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.reconcile = func(args flowfabric.ReconcileArgs) (flowfabric.ReconcileResult, error) {
			if args.Partition == 3 {
				return flowfabric.ReconcileResult{}, errors.New("unreadable")
			}
			time.Sleep(time.Second)
			res := flowfabric.ReconcileResult{Examined: 2, Repaired: 1, Removed: 1, Violations: []string{fmt.Sprint(args.Partition)}}
			if args.Cursor == "" {
				res.Next = "half"
			}
			return res, nil
		}
		e := start(t, f, quiet)
		one := uint16(1)
		job, err := e.StartReconcile(t.Context(), &one)
		if err != nil || job.State != "running" || job.JobID == "" || job.Partitions != 1 {
			t.Fatal(job, err)
		}
		time.Sleep(10 * time.Second)
		if job, err = e.GetReconcile(t.Context(), job.JobID); err != nil || job.State != "done" || job.Examined != 4 || job.Repaired != 2 || job.Removed != 2 || len(job.Violations) != 2 {
			t.Errorf("%+v, %v", job, err)
		}
		all, err := e.StartReconcile(t.Context(), nil)
		if err != nil || all.Partitions != 4 {
			t.Fatal(all, err)
		}
		time.Sleep(time.Minute)
		if all, err = e.GetReconcile(t.Context(), all.JobID); err != nil || all.State != "failed" || all.Error != "unreadable" || all.Examined != 12 {
			t.Errorf("%+v, %v", all, err)
		}
		four := uint16(4)
		if _, err := e.StartReconcile(t.Context(), &four); !errors.Is(err, flowfabric.ErrInvalidInput) {
			t.Errorf("partition 4 of 4: %v", err)
		}
		if _, err := e.GetReconcile(t.Context(), "no"); !errors.Is(err, flowfabric.ErrInvalidInput) {
			t.Errorf("unknown job: %v", err)
		}
		for range maxJobs {
			if all, err = e.StartReconcile(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := e.StartReconcile(t.Context(), nil); !errors.Is(err, flowfabric.ErrResourceExhausted) {
			t.Errorf("one job too many: %v", err)
		}
		stop(t, e)
		if all, err = e.GetReconcile(t.Context(), all.JobID); err != nil || all.State != "failed" {
			t.Errorf("after shutdown: %+v, %v", all, err)
		}
		if _, err := e.StartReconcile(t.Context(), nil); !errors.Is(err, flowfabric.ErrShuttingDown) {
			t.Errorf("after shutdown: %v", err)
		}
	})
}

func TestEnginesBesideOneStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		a, b := start(t, f, Config{}), start(t, f, Config{})
		defer stop(t, a)
		defer stop(t, b)
		c := waitFor(b, t.Context(), tasksArgs("a"))
		synctest.Wait()
		f.offer(newWork("a", "n", 1))
		if r := <-c; len(r.v.Tasks) != 1 {
			t.Errorf("got %+v", r)
		}
		time.Sleep(2 * time.Second)
		if status(t, a, DutyTick).Cycles < 8 || status(t, b, DutyTick).Cycles < 8 {
			t.Error("an engine does not tick")
		}
	})
}
