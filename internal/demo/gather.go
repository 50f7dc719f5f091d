package demo

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/flowfabric/flowfabric"
)

// findings are what the store and the feeds say about one run, before anything
// is concluded from it.
type findings struct {
	// completed lists, for every file, the facts its completed executions
	// returned: by the path in the result, not by what was submitted.
	completed map[string][]Facts
	// workers counts completed executions by the worker of their last attempt.
	workers map[flowfabric.WorkerInstanceID]int
	failed  []string
	// events counts completion events by execution.
	events    map[flowfabric.ExecutionID]int
	reclaimed []Reclaimed
}

// gather reads everything about this run out of the store and the feeds, checks
// each result against a direct computation, and concludes.
func (s *stage) gather(ctx context.Context) (*Report, error) {
	f := &findings{
		completed: map[string][]Facts{}, workers: map[flowfabric.WorkerInstanceID]int{}, events: map[flowfabric.ExecutionID]int{},
	}
	ids, err := s.listExecutions(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	err = each(ctx, ids, func(ctx context.Context, e flowfabric.ExecutionSummary) error { return s.examine(ctx, e, f, &mu) })
	if err != nil {
		return nil, err
	}
	if err := s.readEvents(ctx, f); err != nil {
		return nil, err
	}
	truth, err := s.compute(ctx)
	if err != nil {
		return nil, err
	}
	report := conclude(s.tree.Files, f, truth)
	report.Root = s.tree.Root
	for _, err := range s.tree.Unreadable {
		report.Unreadable = append(report.Unreadable, err.Error())
	}
	report.Workers = s.workerTotals(f.workers)
	return report, nil
}

// listExecutions lists every execution of the run in every partition.
func (s *stage) listExecutions(ctx context.Context) ([]flowfabric.ExecutionSummary, error) {
	partitions, err := s.backend.PartitionConfig(ctx)
	if err != nil {
		return nil, err
	}
	var all []flowfabric.ExecutionSummary
	for p := range partitions.NumFlowPartitions {
		args := flowfabric.ListExecutionsArgs{Partition: uint16(p), LaneID: s.run.lane(), Limit: flowfabric.MaxListLimit}
		for more := true; more; {
			page, err := s.backend.ListExecutions(ctx, args)
			if err != nil {
				return nil, err
			}
			all = append(all, page.Executions...)
			args.Cursor, more = page.NextCursor, page.NextCursor != ""
		}
	}
	return all, nil
}

// examine reads one execution's end.
func (s *stage) examine(ctx context.Context, e flowfabric.ExecutionSummary, f *findings, mu *sync.Mutex) error {
	if e.PublicState != flowfabric.PublicCompleted {
		record, err := s.backend.GetExecution(ctx, e.ExecutionID)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		f.failed = append(f.failed, strings.TrimSuffix(fmt.Sprintf("%s is %s: %s", s.executions[e.ExecutionID], e.PublicState, record.FailureReason), ": "))
		return nil
	}
	result, err := s.backend.GetExecutionResult(ctx, e.ExecutionID)
	if err != nil {
		return err
	}
	attempt, err := s.backend.GetCurrentAttempt(ctx, e.ExecutionID)
	if err != nil {
		return err
	}
	var facts Facts
	if err := json.Unmarshal(result.Payload, &facts); err != nil {
		facts = Facts{Path: s.executions[e.ExecutionID]} // compares as wrong
	}
	mu.Lock()
	defer mu.Unlock()
	f.completed[facts.Path] = append(f.completed[facts.Path], facts)
	f.workers[attempt.WorkerInstanceID]++
	return nil
}

// readEvents reads the run's completion events and reclaims from the feeds'
// beginning.
func (s *stage) readEvents(ctx context.Context, f *findings) error {
	err := s.readFeed(ctx, flowfabric.FeedCompletions, nil, func(e flowfabric.Event) { f.events[e.ExecutionID]++ })
	if err != nil {
		return err
	}
	return s.readFeed(ctx, flowfabric.FeedLeases, []string{flowfabric.EventReclaimed}, func(e flowfabric.Event) {
		r := Reclaimed{Path: s.executions[e.ExecutionID], From: e.PrevWorkerInstanceID, To: e.WorkerInstanceID}
		if e.AttemptIndex != nil {
			r.Attempt = *e.AttemptIndex
		}
		f.reclaimed = append(f.reclaimed, r)
	})
}

func (s *stage) readFeed(ctx context.Context, feed flowfabric.Feed, kinds []string, take func(flowfabric.Event)) error {
	args := flowfabric.ReadFeedArgs{
		Feed: feed, Start: flowfabric.FeedStartEarliest, Limit: flowfabric.MaxFeedLimit,
		Filter: flowfabric.FeedFilter{LaneID: s.run.lane(), Kinds: kinds},
	}
	for {
		answer, err := s.backend.ReadFeed(ctx, args)
		if err != nil {
			return err
		}
		for _, e := range answer.Events {
			take(e)
		}
		if !answer.HasMore {
			return nil
		}
		args.Start = answer.NextCursor
	}
}

// compute does in this process what the workers did.
func (s *stage) compute(ctx context.Context) (map[string]Facts, error) {
	truth := make(map[string]Facts, len(s.tree.Files))
	var mu sync.Mutex
	err := each(ctx, s.tree.Files, func(ctx context.Context, path string) error {
		facts, err := Analyse(ctx, s.tree.Root, path)
		if err != nil {
			return fmt.Errorf("check %s: %w", path, err)
		}
		mu.Lock()
		defer mu.Unlock()
		truth[path] = facts
		return nil
	})
	return truth, err
}

// conclude counts what the findings prove about the files.
func conclude(files []string, f *findings, truth map[string]Facts) *Report {
	r := &Report{Files: len(files), Failed: f.failed, Reclaimed: f.reclaimed}
	good := make(map[string]Facts, len(files))
	wanted := make(map[string]bool, len(files))
	for _, path := range files {
		wanted[path] = true
		results := f.completed[path]
		switch {
		case len(results) == 0:
			r.Lost++
		case !slices.ContainsFunc(results, func(facts Facts) bool { return facts != truth[path] }):
			good[path] = truth[path]
		default:
			r.Wrong = append(r.Wrong, path+": the result differs from a direct computation")
		}
		r.Duplicated += max(0, len(results)-1)
	}
	for path, results := range f.completed {
		if !wanted[path] { // the file went away since it was submitted
			r.Wrong = append(r.Wrong, fmt.Sprintf("%s: %s for a file that is not there", path, plural(len(results), "result")))
		}
	}
	for _, n := range f.events {
		r.Duplicated += max(0, n-1)
	}
	r.Results = len(good)
	r.Languages = totals(good)
	slices.Sort(r.Wrong)
	slices.Sort(r.Failed)
	slices.SortFunc(r.Reclaimed, func(a, b Reclaimed) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), cmp.Compare(a.Attempt, b.Attempt))
	})
	return r
}

// workerTotals lists this start's workers in order of their start, then those of
// earlier starts.
func (s *stage) workerTotals(completed map[flowfabric.WorkerInstanceID]int) []WorkerTotal {
	var list []WorkerTotal
	ours := map[flowfabric.WorkerInstanceID]bool{}
	if s.crew != nil {
		for _, m := range s.crew.members {
			ours[m.instance] = true
			list = append(list, WorkerTotal{Instance: m.instance, PID: m.pid(), Completed: completed[m.instance], Fate: m.fate()})
		}
	}
	var earlier []WorkerTotal
	for instance, n := range completed {
		if !ours[instance] {
			earlier = append(earlier, WorkerTotal{Instance: instance, Completed: n, Fate: "of an earlier start"})
		}
	}
	slices.SortFunc(earlier, func(a, b WorkerTotal) int { return strings.Compare(string(a.Instance), string(b.Instance)) })
	return append(list, earlier...)
}

func (m *member) fate() string {
	switch {
	case m.killed:
		return "killed (signal 9)"
	case !m.wasExpected():
		return "ended by itself"
	}
	return "stopped at the end"
}

// each calls do for every item, a few at the same time. The first error cancels
// the others and is returned.
func each[T any](ctx context.Context, items []T, do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan T)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for item := range next {
				if err := do(ctx, item); err != nil {
					cancel(err)
				}
			}
		})
	}
feeding:
	for _, item := range items {
		select {
		case next <- item:
		case <-ctx.Done():
			break feeding
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}
