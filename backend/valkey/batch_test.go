package valkey

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// gate stands between a batcher and the store: it holds pipelines up and keeps
// what they were made of.
type gate struct {
	s       *Store
	arrived chan []request
	pass    chan struct{}

	mu    sync.Mutex
	fault error
}

func gated(s *Store, b *batcher, most int) *gate {
	g := &gate{s: s, arrived: make(chan []request, 100), pass: make(chan struct{}, 100)}
	b.most = most
	b.calls = func(ctx context.Context, reqs []request) []answer {
		g.arrived <- reqs
		<-g.pass
		g.mu.Lock()
		fault := g.fault
		g.mu.Unlock()
		if fault == nil {
			return s.calls(ctx, reqs)
		}
		out := make([]answer, len(reqs))
		for i := range out {
			out[i].err = fault
		}
		return out
	}
	return g
}

func openBatch(t *testing.T) *Store {
	t.Helper()
	cfg := testConfig(valkeytest.Take(t).Addr())
	cfg.NoEngine = true
	return openTest(t, cfg)
}

// renewal is a renewal of an execution that does not exist.
func renewal(part uint16) flowfabric.RenewLeaseArgs {
	return flowfabric.RenewLeaseArgs{ExecutionID: flowfabric.MakeExecutionID(part, uuid.New()),
		Fence: flowfabric.Fence{LeaseID: testLease, LeaseEpoch: 1, AttemptID: testAttempt}}
}

// renewing starts a call with one renewal on each of the partitions and returns
// where its answers come.
func renewing(ctx context.Context, s *Store, parts ...uint16) <-chan error {
	items := make([]flowfabric.RenewLeaseArgs, len(parts))
	for i, p := range parts {
		items[i] = renewal(p)
	}
	answered := make(chan error, 1)
	go func() {
		out, err := s.RenewLeases(ctx, items)
		for i := range out {
			if missing := string(items[i].ExecutionID); err == nil && !strings.Contains(out[i].Err.Error(), missing) {
				err = errors.New("the answer to " + missing + " is " + out[i].Err.Error())
			}
		}
		answered <- err
	}()
	return answered
}

// waitFor returns once so many items have collected.
func waitFor(t *testing.T, b *batcher, n int) {
	t.Helper()
	until(t, "items collect", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.waiting) == n
	})
}

// until looks again and again until a condition holds that no event announces.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for end := time.After(10 * time.Second); !holds(); {
		select {
		case <-again.C:
		case <-end:
			t.Fatalf("it never comes to pass that %s", what)
		}
	}
}

func shape(reqs []request, stride int) string {
	var out []string
	for _, r := range reqs {
		out = append(out, r.tag+"×"+strconv.Itoa(len(r.args)/stride))
	}
	return strings.Join(out, " ")
}

func TestWritesCollectWhileOneIsOnItsWay(t *testing.T) {
	s := openBatch(t)
	b := &s.batches.renewals
	g := gated(s, b, 1)
	first := renewing(t.Context(), s, 3)
	if got := shape(<-g.arrived, renewStride); got != "{fp:3}×1" {
		t.Fatalf("a lone call goes as %s", got)
	}
	later := []<-chan error{renewing(t.Context(), s, 9, 3), renewing(t.Context(), s, 3), renewing(t.Context(), s, 1)}
	waitFor(t, b, 4)
	select {
	case reqs := <-g.arrived:
		t.Fatalf("%s went while the first was on its way", shape(reqs, renewStride))
	default:
	}
	g.pass <- struct{}{}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if got := shape(<-g.arrived, renewStride); got != "{fp:1}×1 {fp:3}×2 {fp:9}×1" {
		t.Fatalf("what had collected goes as %s", got)
	}
	g.pass <- struct{}{}
	for _, answered := range later {
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
	}
	until(t, "nothing is on its way", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.flying == 0 && len(b.waiting) == 0
	})
}

func TestFlightsAtOnce(t *testing.T) {
	s := openBatch(t)
	b := &s.batches.renewals
	g := gated(s, b, 2)
	var all []<-chan error
	for part := range uint16(2) {
		all = append(all, renewing(t.Context(), s, part))
		<-g.arrived
	}
	all = append(all, renewing(t.Context(), s, 5))
	waitFor(t, b, 1)
	for range 3 {
		g.pass <- struct{}{}
	}
	if got := shape(<-g.arrived, renewStride); got != "{fp:5}×1" {
		t.Fatalf("the third flight is %s", got)
	}
	for _, answered := range all {
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
	}
}

func TestCallsAreBounded(t *testing.T) {
	s := openBatch(t)
	b := &s.batches.completions
	g := gated(s, b, 1)
	complete := func(part uint16, n, size int) <-chan error {
		items := make([]flowfabric.CompleteExecutionArgs, n)
		for i := range items {
			r := renewal(part)
			items[i] = flowfabric.CompleteExecutionArgs{ExecutionID: r.ExecutionID, Fence: r.Fence, Result: make([]byte, size)}
		}
		answered := make(chan error, 1)
		go func() {
			out, err := s.CompleteExecutions(t.Context(), items)
			for i := range out {
				if err == nil && flowfabric.CodeOf(out[i].Err) != flowfabric.CodeExecutionNotFound {
					err = out[i].Err
				}
			}
			answered <- err
		}()
		return answered
	}
	all := []<-chan error{complete(1, 1, 1)}
	<-g.arrived
	for range 3 {
		all = append(all, complete(2, 70, 10))
	}
	all = append(all, complete(4, 9, 1<<20))
	waitFor(t, b, 219)
	g.pass <- struct{}{}
	reqs := <-g.arrived
	if got := shape(reqs, completeStride); got != "{fp:2}×100 {fp:2}×100 {fp:2}×10 {fp:4}×3 {fp:4}×3 {fp:4}×3" {
		t.Errorf("the calls are %s", got)
	}
	for _, r := range reqs {
		size := 0
		for _, a := range r.args {
			size += len(a)
		}
		if size > maxCallBytes {
			t.Errorf("a call of %d bytes", size)
		}
	}
	g.pass <- struct{}{}
	for _, answered := range all {
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
}

func TestWhoeverGaveUpIsNotSent(t *testing.T) {
	s := openBatch(t)
	b := &s.batches.renewals
	g := gated(s, b, 1)
	first := renewing(t.Context(), s, 1)
	<-g.arrived
	ctx, cancel := context.WithCancel(t.Context())
	left := renewing(ctx, s, 2, 2)
	waitFor(t, b, 2)
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	stays := renewing(t.Context(), s, 2)
	waitFor(t, b, 3)
	g.pass <- struct{}{}
	if got := shape(<-g.arrived, renewStride); got != "{fp:2}×1" {
		t.Errorf("sent is %s", got)
	}
	g.pass <- struct{}{}
	for _, answered := range []<-chan error{first, stays} {
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
	if err := <-renewing(ctx, s, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("a call with an ended context gives %v", err)
	}
}

// A fault of a call is told to each of its items, to each his own copy.
func TestFaultsReachEveryItem(t *testing.T) {
	s := openBatch(t)
	g := gated(s, &s.batches.renewals, 1)
	g.fault = flowfabric.NewError(flowfabric.CodeOutcomeUnknown, "lost").With("tries", 1)
	g.pass <- struct{}{}
	out, err := s.RenewLeases(t.Context(), []flowfabric.RenewLeaseArgs{renewal(1), renewal(1), {ExecutionID: "nonsense"}, renewal(2)})
	if err != nil {
		t.Fatal(err)
	}
	var codes []flowfabric.Code
	for i := range out {
		codes = append(codes, flowfabric.CodeOf(out[i].Err))
	}
	want := []flowfabric.Code{flowfabric.CodeOutcomeUnknown, flowfabric.CodeOutcomeUnknown, flowfabric.CodeInvalidExecutionID, flowfabric.CodeOutcomeUnknown}
	if !slices.Equal(codes, want) {
		t.Errorf("codes are %v", codes)
	}
	flowfabric.AsError(out[0].Err).With("mine", true)
	if flowfabric.AsError(out[1].Err).Detail("mine") != nil {
		t.Error("two items share one error")
	}
}

func TestBatchSizes(t *testing.T) {
	s := openBatch(t)
	if _, err := s.RenewLeases(t.Context(), nil); flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput {
		t.Errorf("an empty batch gives %v", err)
	}
	if _, err := s.CompleteExecutions(t.Context(), make([]flowfabric.CompleteExecutionArgs, 101)); flowfabric.CodeOf(err) != flowfabric.CodeBatchTooLarge {
		t.Errorf("101 items give %v", err)
	}
}
