package flowfabric

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slow holds every call of an operation for a while.
func slow(op string, d time.Duration) func(context.Context, string) {
	return func(_ context.Context, called string) {
		if called == op {
			time.Sleep(d)
		}
	}
}

// TestSubmitsCollect: while one call is in flight the next submissions collect,
// and each caller gets its own answer.
func TestSubmitsCollect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.setHold(slow("create_executions", time.Second))
		c := NewClient(f)
		var wg sync.WaitGroup
		submit := func(i int) {
			wg.Go(func() {
				kind := fmt.Sprintf("kind-%d", i)
				if i%10 == 3 {
					kind = ""
				}
				created, err := c.Submit(t.Context(), CreateExecutionArgs{Kind: kind})
				switch {
				case kind == "" && !errors.Is(err, ErrInvalidInput):
					t.Errorf("%d: %v", i, err)
				case kind != "" && (err != nil || f.get(created.ExecutionID).kind != kind):
					t.Errorf("%d: another caller's answer: %v", i, err)
				}
			})
		}
		start := time.Now()
		submit(0)
		synctest.Wait()
		for i := 1; i <= 60; i++ {
			submit(i)
		}
		wg.Wait()
		if got := f.sizes("create_executions"); !slices.Equal(got, []int{1, 60}) || time.Since(start) != 2*time.Second {
			t.Errorf("batches %v in %v", got, time.Since(start))
		}
	})
}

// TestFullBatchesGoBeside: a full batch does not wait for the call in flight,
// and none is above 100.
func TestFullBatchesGoBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.setHold(slow("create_executions", time.Second))
		c := NewClient(f)
		var wg sync.WaitGroup
		for range 350 {
			wg.Go(func() {
				if _, err := c.Submit(t.Context(), CreateExecutionArgs{Kind: "k"}); err != nil {
					t.Error(err)
				}
			})
		}
		start := time.Now()
		wg.Wait()
		total := 0
		for _, n := range f.sizes("create_executions") {
			if total += n; n > MaxBatchItems {
				t.Errorf("a batch of %d", n)
			}
		}
		if total != 350 || time.Since(start) > 2*time.Second {
			t.Errorf("%v in %v", f.sizes("create_executions"), time.Since(start))
		}
	})
}

// TestSubmitHonoursContext: a cancelled caller returns at once; what was sent
// runs its course, what was not is not sent.
func TestSubmitHonoursContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.setHold(slow("create_executions", 10*time.Second))
		c := NewClient(f)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				_, err := c.Submit(ctx, CreateExecutionArgs{Kind: "k"})
				if !errors.Is(err, context.DeadlineExceeded) || AsError(err) != nil {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		if time.Since(start) != time.Second {
			t.Errorf("returned after %v", time.Since(start))
		}
		time.Sleep(time.Minute)
		if got := f.sizes("create_executions"); !slices.Equal(got, []int{1}) || len(f.executions) != 1 {
			t.Errorf("batches %v, %d executions", got, len(f.executions))
		}
	})
}

func TestSubmitRetriesKeyedOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.setBefore(always(errStore, "create_executions"))
		c := NewClient(f)
		for _, step := range []struct {
			args  CreateExecutionArgs
			calls int
		}{
			{CreateExecutionArgs{Kind: "k"}, 1},
			{CreateExecutionArgs{Kind: "k", IdempotencyKey: "key"}, 4},
			{CreateExecutionArgs{Kind: "k", ExecutionID: DefaultPartitionConfig().NewExecutionID("default")}, 4},
		} {
			before := f.count("create_executions")
			if _, err := c.Submit(t.Context(), step.args); !errors.Is(err, ErrStoreUnavailable) {
				t.Errorf("got %v", err)
			}
			if n := f.count("create_executions") - before; n != step.calls {
				t.Errorf("%+v: %d calls", step.args, n)
			}
		}
		f.setBefore(always(NewError(CodeStoreUnavailable, "down").With("repeats", 3), "create_executions"))
		before := f.count("create_executions")
		if _, err := c.Submit(t.Context(), CreateExecutionArgs{Kind: "k", IdempotencyKey: "key"}); !errors.Is(err, ErrStoreUnavailable) {
			t.Errorf("got %v", err)
		}
		if n := f.count("create_executions") - before; n != 1 {
			t.Errorf("%d calls of what was repeated below", n)
		}
		f.setBefore(always(&Error{Code: CodeBackendOverloaded, Class: ClassCapacity, Retryable: true, RetryAfter: 7 * time.Second}, "create_executions"))
		time.AfterFunc(time.Second, func() { f.setBefore(nil) })
		start := time.Now()
		if _, err := c.Submit(t.Context(), CreateExecutionArgs{Kind: "k", IdempotencyKey: "key"}); err != nil || time.Since(start) != 7*time.Second {
			t.Errorf("Retry-After: %v after %v", err, time.Since(start))
		}
	})
}

func TestSubmitBatchSplits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := NewClient(f, WithNamespace("tenant"), WithDefaultLane("bulk"), WithCreator("me"))
		items := make([]CreateExecutionArgs, 250)
		for i := range items {
			items[i].Kind = "k"
		}
		items[7].Kind = ""
		answers, err := c.SubmitBatch(t.Context(), items)
		if err != nil || len(answers) != 250 || !errors.Is(answers[7].Err, ErrInvalidInput) || answers[8].Err != nil {
			t.Fatalf("%d answers: %v", len(answers), err)
		}
		if got := f.sizes("create_executions"); !slices.Equal(got, []int{100, 100, 50}) {
			t.Errorf("batches %v", got)
		}
		if items[0].Namespace != "" {
			t.Error("the caller's items were changed")
		}
		large := make([]CreateExecutionArgs, 20)
		for i := range large {
			large[i] = CreateExecutionArgs{Kind: "k", Payload: make([]byte, MaxPayloadBytes)}
		}
		if _, err := c.SubmitBatch(t.Context(), large); err != nil {
			t.Fatal(err)
		}
		if got := f.sizes("create_executions")[3:]; !slices.Equal(got, []int{8, 8, 4}) {
			t.Errorf("batches of 1 MiB items: %v", got)
		}
		f.setBefore(always(errStore, "create_executions"))
		if answers, err := c.SubmitBatch(t.Context(), items[:3]); err == nil || len(answers) != 3 || answers[2].Err == nil {
			t.Errorf("got %v, %v", answers, err)
		}
	})
}

func TestCompletionsCollect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(50))
		defer closeWorker(t, w)
		ids := f.add(50, "work", "")
		tasks, err := w.ClaimTasks(t.Context(), 50)
		if err != nil || len(tasks) != 50 {
			t.Fatal(err)
		}
		f.change(func() { f.executions[ids[20]].revoked = true })
		f.setHold(slow("complete_executions", time.Second))
		var wg sync.WaitGroup
		finish := func(i int) {
			wg.Go(func() {
				err := tasks[i].Complete(t.Context(), []byte{byte(i)})
				switch {
				case i == 20 && !errors.Is(err, ErrLeaseRevoked):
					t.Errorf("revoked: %v", err)
				case i != 20 && (err != nil || f.get(ids[i]).result[0] != byte(i)):
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		finish(0)
		synctest.Wait()
		for i := 1; i < 50; i++ {
			finish(i)
		}
		wg.Wait()
		if got := f.sizes("complete_executions"); !slices.Equal(got, []int{1, 49}) {
			t.Errorf("batches %v", got)
		}
		if w.permits.inUse() != 0 {
			t.Error("permits leaked")
		}
	})
}

func TestWaitLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := NewClient(f)
		id := f.add(1, "work", "")[0]
		time.AfterFunc(100*time.Second, func() { f.change(func() { f.executions[id].state = PublicFailed }) })
		start := time.Now()
		r, err := c.Wait(t.Context(), id)
		if err != nil || r.PublicState != PublicFailed || time.Since(start) != 100*time.Second {
			t.Errorf("%v, %v after %v", r, err, time.Since(start))
		}
		if n := f.count("wait_execution"); n != 4 {
			t.Errorf("%d calls", n)
		}
		if _, err := c.Wait(t.Context(), DefaultPartitionConfig().NewExecutionID("default")); !IsNotFound(err) {
			t.Errorf("got %v", err)
		}
		live := f.add(1, "work", "")[0]
		ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
		defer cancel()
		if _, err := c.Wait(ctx, live); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestClientOptions(t *testing.T) {
	for name, c := range map[string]*Client{
		"backend":          NewClient(nil),
		"namespace":        NewClient(newFake(), WithNamespace("*")),
		"lane_id":          NewClient(newFake(), WithDefaultLane("")),
		"creator_identity": NewClient(newFake(), WithCreator("")),
	} {
		var refused *ConfigError
		if _, err := c.Submit(t.Context(), CreateExecutionArgs{}); !errors.As(err, &refused) || refused.Field != name {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.SubmitBatch(t.Context(), nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// listBackend lists executions of 256 partitions, 3 in every tenth.
type listBackend struct{ *fakeBackend }

func (b *listBackend) ListExecutions(ctx context.Context, a ListExecutionsArgs) (ListExecutionsResult, error) {
	if err := b.enter(ctx, "list_executions", a.Limit); err != nil {
		return ListExecutionsResult{}, err
	}
	var r ListExecutionsResult
	if a.Partition%10 != 0 {
		return r, nil
	}
	for i := range 3 {
		id := MakeExecutionID(a.Partition, [16]byte{byte(i)})
		if id <= a.Cursor && a.Cursor != "" {
			continue
		}
		if len(r.Executions) == a.Limit {
			r.NextCursor = r.Executions[a.Limit-1].ExecutionID
			break
		}
		r.Executions = append(r.Executions, ExecutionSummary{ExecutionID: id, Namespace: a.Namespace})
	}
	return r, nil
}

func TestListExecutionsOverPartitions(t *testing.T) {
	c := NewClient(&listBackend{newFake()})
	for _, limit := range []int{1, 2, 3, 7, 50, 78, 1000} {
		var seen []ExecutionID
		query := ExecutionQuery{Limit: limit}
		for {
			page, err := c.ListExecutions(t.Context(), query)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Items {
				seen = append(seen, e.ExecutionID)
			}
			if query.Cursor = page.NextCursor; query.Cursor == "" {
				break
			}
		}
		sorted := slices.IsSortedFunc(seen, func(a, b ExecutionID) int {
			if a.Partition() != b.Partition() {
				return int(a.Partition()) - int(b.Partition())
			}
			return slices.Compare([]byte(a), []byte(b))
		})
		if len(seen) != 78 || len(slices.Compact(slices.Clone(seen))) != 78 || !sorted {
			t.Errorf("limit %d: %d executions", limit, len(seen))
		}
	}
	n := 0
	for e, err := range c.Executions(t.Context(), ExecutionQuery{}) {
		if err != nil || e.Namespace != "default" {
			t.Fatal(e, err)
		}
		if n++; n == 40 {
			break
		}
	}
	partition := uint16(20)
	page, err := c.ListExecutions(t.Context(), ExecutionQuery{Partition: &partition, Namespace: "*"})
	if err != nil || len(page.Items) != 3 || page.NextCursor != "" || page.Items[0].Namespace != "" {
		t.Errorf("one partition: %v, %v", page, err)
	}
	for _, cursor := range []string{"x", "{fp:256}", "{fp:1}x"} {
		if _, err := c.ListExecutions(t.Context(), ExecutionQuery{Cursor: cursor}); !errors.Is(err, ErrInvalidCursor) {
			t.Errorf("cursor %q: %v", cursor, err)
		}
	}
	if _, err := c.ListExecutions(t.Context(), ExecutionQuery{Limit: 1001}); !errors.Is(err, ErrInvalidInput) {
		t.Error(err)
	}
}

// feedBackend is a feed of one partition; the cursor is the sequence number.
type feedBackend struct {
	*fakeBackend
	trimmed uint64
}

func (b *feedBackend) ReadFeed(ctx context.Context, a ReadFeedArgs) (ReadFeedResult, error) {
	if err := b.enter(ctx, "read_feed", 1); err != nil {
		return ReadFeedResult{}, err
	}
	deadline := time.After(time.Duration(a.BlockMs) * time.Millisecond)
	for {
		b.mu.Lock()
		wake := b.wake
		var r ReadFeedResult
		after := uint64(len(b.feed))
		if a.Start != FeedStartNow && a.Start != FeedStartEarliest {
			if _, err := fmt.Sscan(a.Start, &after); err != nil {
				b.mu.Unlock()
				return r, NewError(CodeInvalidCursor, "malformed")
			}
		}
		if a.Start == FeedStartEarliest {
			after = 0
		}
		if after < b.trimmed {
			r.Gaps = []Gap{{MissedFromSeq: after + 1, MissedToSeq: b.trimmed}}
			after = b.trimmed
		}
		for _, e := range b.feed[after:] {
			if len(r.Events) < a.Limit && (a.Filter.Namespace == "" || a.Filter.Namespace == e.Namespace) {
				r.Events = append(r.Events, e)
			}
			after = e.Seq
		}
		r.NextCursor = fmt.Sprint(after)
		b.mu.Unlock()
		if len(r.Events)+len(r.Gaps) > 0 || a.BlockMs == 0 {
			return r, nil
		}
		select {
		case <-wake:
		case <-deadline:
			return r, nil
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
}

func (b *feedBackend) emit(ns Namespace) {
	b.change(func() {
		seq := uint64(len(b.feed) + 1)
		b.feed = append(b.feed, Event{Feed: FeedCompletions, Seq: seq, Cursor: fmt.Sprint(seq), Namespace: ns})
	})
}

func TestSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &feedBackend{fakeBackend: newFake()}
		c := NewClient(f)
		f.emit("default")
		f.emit("other")
		events := c.Subscribe(t.Context(), FeedCompletions, SubscribeOptions{})
		f.emit("default")
		f.emit("other")
		time.AfterFunc(time.Minute, func() { f.emit("default") })
		time.AfterFunc(2*time.Minute, func() {
			f.setBefore(always(NewError(CodeFeedDisconnected, "gone"), "read_feed"))
		})
		time.AfterFunc(3*time.Minute, func() { f.setBefore(nil); f.emit("default") })
		var seqs []uint64
		for e, err := range events {
			if err != nil {
				t.Fatal(err)
			}
			if seqs = append(seqs, e.Seq); len(seqs) == 3 {
				break
			}
		}
		if !slices.Equal(seqs, []uint64{3, 5, 6}) {
			t.Errorf("events %v", seqs)
		}
		if n := f.count("read_feed"); n > 60 {
			t.Errorf("%d reads", n)
		}
	})
}

func TestSubscribeGoesOnBehindABadEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &feedBackend{fakeBackend: newFake()}
		for range 3 {
			f.emit("default")
		}
		broken := true
		f.setBefore(func(string) error {
			if !broken {
				return nil
			}
			broken = false
			return NewError(CodeCorruptRecord, "event 0-1 does not decode").With("event_id", "0-1").With("cursor", "1")
		})
		var told error
		var seqs []uint64
		for e, err := range NewClient(f).Subscribe(t.Context(), FeedCompletions, SubscribeOptions{Start: FeedStartEarliest}) {
			if err != nil {
				told = err
				continue
			}
			if seqs = append(seqs, e.Seq); len(seqs) == 2 {
				break
			}
		}
		if !errors.Is(told, ErrCorruptRecord) || !slices.Equal(seqs, []uint64{2, 3}) {
			t.Errorf("told %v, then events %v", told, seqs)
		}
	})
}

func TestSubscribeGapAndRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &feedBackend{fakeBackend: newFake()}
		w := newTestWorker(t, f, testConfig(1))
		defer closeWorker(t, w)
		for range 5 {
			f.emit("default")
		}
		f.trimmed = 3
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var seqs []uint64
		var gap *GapError
		for e, err := range w.Subscribe(ctx, FeedCompletions, SubscribeOptions{Start: "1", Filter: FeedFilter{Namespace: "*"}}) {
			if errors.Is(err, context.Canceled) {
				break
			}
			if err != nil && !errors.As(err, &gap) {
				t.Fatal(err)
			}
			if err == nil {
				if seqs = append(seqs, e.Seq); len(seqs) == 2 {
					cancel()
				}
			}
		}
		if gap == nil || gap.MissedFromSeq != 2 || gap.MissedToSeq != 3 || !slices.Equal(seqs, []uint64{4, 5}) {
			t.Errorf("gap %v, events %v", gap, seqs)
		}
		for _, err := range w.Subscribe(t.Context(), FeedCompletions, SubscribeOptions{Start: "bad"}) {
			if !errors.Is(err, ErrInvalidCursor) {
				t.Errorf("got %v", err)
			}
		}
	})
}
