package backendtest

import (
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// end creates an execution, claims it and completes it.
func (s *scene) end(opts ...createOption) flowfabric.ExecutionID {
	s.t.Helper()
	id, task := s.createClaimed(opts...)
	s.complete(task)
	return id
}

func (s *scene) readFeed(a flowfabric.ReadFeedArgs) flowfabric.ReadFeedResult {
	s.t.Helper()
	r, err := s.Backend.ReadFeed(s.ctx, a)
	s.ok(err)
	s.that(r.NextCursor != "", "a read without next_cursor")
	return r
}

func eventIDs(events []flowfabric.Event) []flowfabric.ExecutionID {
	var out []flowfabric.ExecutionID
	for _, e := range events {
		out = append(out, e.ExecutionID)
	}
	return out
}

// feedScenarios: specification 04, section 5.
func feedScenarios(r *runner) {
	r.scenario("04.30 a reader that starts now sees what comes after", func(s *scene) {
		s.end()
		start := s.readFeed(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: flowfabric.FeedStartNow})
		s.equal("events before", len(start.Events), 0)
		first := s.end(withTags("a.b", "c"))
		got := s.readFeed(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: start.NextCursor})
		s.equal("events after", eventIDs(got.Events), []flowfabric.ExecutionID{first})
		e := got.Events[0]
		s.equal("event", facts(e.Feed, e.Kind, e.Outcome, e.PublicState, e.Namespace, e.LaneID, e.Tags, *e.AttemptIndex, *e.ReplayCount),
			facts(flowfabric.FeedCompletions, flowfabric.EventCompleted, flowfabric.OutcomeSuccess, flowfabric.PublicCompleted, testNamespace, testLane, tags("a.b", "c"), 0, 0))
		s.that(e.AttemptID != "" && e.At > 0 && e.Cause != "" && e.ResultSize == nil, "event is %+v", e)
		s.that(strings.HasPrefix(e.EventID, fmt.Sprint(first.Partition(), "-")), "event id is %q", e.EventID)
		second := s.end()
		rest := s.readFeed(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: e.Cursor})
		s.equal("from the event's cursor", eventIDs(rest.Events), []flowfabric.ExecutionID{second})
	})

	r.scenario("04.31 two readers both see every event", func(s *scene) {
		start := s.readFeed(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions}).NextCursor
		id := s.end()
		for range 2 {
			got := s.readFeed(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: start})
			s.equal("events", eventIDs(got.Events), []flowfabric.ExecutionID{id})
		}
	})

	r.scenario("04.32 a never-claimed execution that passes its deadline", func(s *scene) {
		id := s.create(withDeadline(s.now() + 10))
		s.advance(10)
		s.tick()
		events := s.events(flowfabric.FeedCompletions, id)
		s.equal("events", len(events), 1)
		e := events[0]
		s.equal("event", facts(e.Outcome, e.PublicState, e.FailureReason, e.FailureCategory), "expired expired execution_deadline deadline")
		s.that(e.AttemptIndex == nil && e.AttemptID == "", "an attempt in the event: %+v", e)
	})

	r.scenario("04.5.1 one event for every ending, and none for anything else", func(s *scene) {
		id, task := s.createClaimed(withPolicy(retryAtOnce))
		s.fail(task, "")
		task = s.claim(id)
		s.delay(task, 10)
		s.promote(id)
		s.claim(id)
		s.revoke(id)
		task = s.claim(id)
		s.equal("events while it lives", len(s.events(flowfabric.FeedCompletions, id)), 0)
		s.completeWith(task, []byte("abc"))
		s.completeWith(task, []byte("abc"))
		s.equal("after a repeated completion", len(s.events(flowfabric.FeedCompletions, id)), 1)
		s.replay(id)
		s.equal("after a replay", len(s.events(flowfabric.FeedCompletions, id)), 1)
		s.operatorCancel(id)
		s.operatorCancel(id)
		events := s.events(flowfabric.FeedCompletions, id)
		s.equal("events", len(events), 2)
		s.equal("first", facts(events[0].Outcome, *events[0].ReplayCount, *events[0].ResultSize, *events[0].AttemptIndex), "success 0 3 2")
		s.equal("second", facts(events[1].Outcome, *events[1].ReplayCount, events[1].ResultSize == nil), "cancelled 1 true")
		failed, task := s.createClaimed()
		_, err := s.Backend.FailExecution(s.ctx, flowfabric.FailExecutionArgs{ExecutionID: failed, Fence: task.Fence, Reason: strings.Repeat("x", 3000), Category: "permanent"})
		s.ok(err)
		e := s.events(flowfabric.FeedCompletions, failed)[0]
		s.equal("failure", facts(e.Outcome, len(e.FailureReason), e.FailureCategory), "failed 1024 permanent")
	})

	r.scenario("04.33 claim, renew, delay, resume, complete in the lease feed", func(s *scene) {
		id, task := s.createClaimed()
		_, err := s.renew(task, testTTL)
		s.ok(err)
		s.delay(task, 10)
		s.promote(id)
		again := s.claim(id)
		s.complete(again)
		var got []string
		for _, e := range s.events(flowfabric.FeedLeases, id) {
			got = append(got, eventLabel(e))
			s.that(e.LeaseID != "" && e.WorkerInstanceID == "a-1", "event is %+v", e)
		}
		s.equal("events", got, []string{"acquired(direct)", "released(worker_delay)", "resumed", "released(completed)"})
	})

	r.scenario("04.33 with the lease feed off completions go on", func(s *scene) {
		off := s.with(Options{Feeds: []flowfabric.Feed{}})
		id := off.end()
		s.equal("lease events", len(off.leaseEvents(id)), 0)
		s.equal("completions", len(off.events(flowfabric.FeedCompletions, id)), 1)
		got, err := off.Backend.ReadFeed(s.ctx, flowfabric.ReadFeedArgs{Feed: flowfabric.FeedLeases, Start: flowfabric.FeedStartEarliest})
		if err == nil {
			s.equal("events of the feed that is off", len(got.Events), 0)
		}
	})

	r.scenario("04.34 filters", func(s *scene) {
		one := s.end(withTags("app.instance", "i1"))
		two := s.end(withTags("app.instance", "i2", "app.x", "y"), withLane("other"))
		s.end()
		other := s.end(withNamespace("other"))
		for name, c := range map[string]struct {
			filter flowfabric.FeedFilter
			want   []flowfabric.ExecutionID
		}{
			"tag i1":       {flowfabric.FeedFilter{Tags: tags("app.instance", "i1")}, []flowfabric.ExecutionID{one}},
			"tag i2":       {flowfabric.FeedFilter{Tags: tags("app.instance", "i2")}, []flowfabric.ExecutionID{two}},
			"both tags":    {flowfabric.FeedFilter{Tags: tags("app.instance", "i2", "app.x", "z")}, nil},
			"lane":         {flowfabric.FeedFilter{LaneID: "other"}, []flowfabric.ExecutionID{two}},
			"namespace":    {flowfabric.FeedFilter{Namespace: "other"}, []flowfabric.ExecutionID{other}},
			"no namespace": {flowfabric.FeedFilter{Namespaces: []flowfabric.Namespace{}}, nil},
			"execution":    {flowfabric.FeedFilter{ExecutionID: one}, []flowfabric.ExecutionID{one}},
			"kind":         {flowfabric.FeedFilter{Kinds: []string{"nope"}}, nil},
		} {
			if c.filter.Namespaces != nil && s.Remote {
				continue // a token decides there
			}
			s.equal(name, eventIDs(s.readAll(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: flowfabric.FeedStartEarliest, Filter: c.filter})), c.want)
		}
		leases := s.readAll(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedLeases, Start: flowfabric.FeedStartEarliest, Filter: flowfabric.FeedFilter{ExecutionID: one, Kinds: []string{flowfabric.EventReleased}}})
		s.equal("kinds of leases", len(leases), 1)
	})

	r.scenario("04.34 tags in an event are those of that moment", func(s *scene) {
		id, task := s.createClaimed(withTags("a.b", "1"))
		_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", "2"))
		s.ok(err)
		s.complete(task)
		_, err = s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", "3"))
		s.ok(err)
		s.equal("acquired", s.events(flowfabric.FeedLeases, id)[0].Tags, tags("a.b", "1"))
		s.equal("completed", s.events(flowfabric.FeedCompletions, id)[0].Tags, tags("a.b", "2"))
	})

	r.scenario("04.35 300 completions while the consumer sleeps", func(s *scene) {
		start := s.readFeed(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions}).NextCursor
		ids := s.backlog(300, func(i int) []createOption { return []createOption{onPartition(uint16(i % 5))} })
		for len(s.completeSome(100)) > 0 {
		}
		want := make(map[flowfabric.ExecutionID]bool)
		for _, id := range ids {
			want[id] = true
		}
		cursors := make(map[string]bool)
		seqs := make(map[uint16]uint64)
		args := flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: start, Limit: 70}
		for range 20 {
			got := s.readFeed(args)
			s.equal("gaps", len(got.Gaps), 0)
			s.that(len(got.Events) <= 70, "%d events with limit 70", len(got.Events))
			for _, e := range got.Events {
				s.that(want[e.ExecutionID], "%s is missing or twice", e.ExecutionID)
				delete(want, e.ExecutionID)
				s.that(!cursors[e.Cursor], "cursor %q twice", e.Cursor)
				cursors[e.Cursor] = true
				p, seq := splitEventID(s, e.EventID)
				s.that(seq > seqs[p], "partition %d: seq %d after %d", p, seq, seqs[p])
				seqs[p] = seq
			}
			args.Start = got.NextCursor
			if !got.HasMore {
				break
			}
		}
		s.equal("never seen", len(want), 0)
		for p, last := range seqs {
			s.equal(fmt.Sprint("last seq of partition ", p), last, uint64(60))
		}
	})

	r.scenario("04.5.2 resuming from any event's cursor loses nothing", func(s *scene) {
		for i := range 12 {
			s.end(onPartition(uint16(i % 3)))
		}
		all := s.readAll(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: flowfabric.FeedStartEarliest})
		s.equal("events", len(all), 12)
		for i, e := range all {
			rest := s.readAll(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: e.Cursor})
			seen := make(map[string]bool)
			for _, later := range rest {
				seen[later.EventID] = true
			}
			s.that(!seen[e.EventID], "the event itself comes again")
			for _, later := range all[i+1:] {
				s.that(seen[later.EventID], "event %s is lost after the cursor of %s", later.EventID, e.EventID)
			}
		}
	})

	r.scenario("04.5.2 scope", func(s *scene) {
		on3 := s.end(onPartition(3))
		s.end(onPartition(4))
		got := s.readFeed(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: flowfabric.FeedStartEarliest, Partitions: []uint16{3}})
		s.equal("events", eventIDs(got.Events), []flowfabric.ExecutionID{on3})
		_, err := s.Backend.ReadFeed(s.ctx, flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: got.NextCursor, Partitions: []uint16{4}})
		s.assertCode(err, flowfabric.CodeInvalidCursor)
	})

	r.scenario("04.5.2 cursors and limits are refused at the call", func(s *scene) {
		cursor := s.readFeed(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedLeases}).NextCursor
		_, err := s.Backend.ReadFeed(s.ctx, flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: cursor})
		s.assertCode(err, flowfabric.CodeInvalidCursor)
		s.assertMentions(err, "wrong_feed")
		_, err = s.Backend.ReadFeed(s.ctx, flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: "nonsense"})
		s.assertCode(err, flowfabric.CodeInvalidCursor)
		s.assertMentions(err, "malformed")
		for name, args := range map[string]flowfabric.ReadFeedArgs{
			"limit":    {Feed: flowfabric.FeedCompletions, Limit: 1001},
			"negative": {Feed: flowfabric.FeedCompletions, Limit: -1},
			"block_ms": {Feed: flowfabric.FeedCompletions, BlockMs: 30_001},
			"feed":     {Feed: "nope"},
			"tags": {Feed: flowfabric.FeedCompletions, Filter: flowfabric.FeedFilter{Tags: tags("a.a", "1", "a.b", "1", "a.c", "1", "a.d", "1",
				"a.e", "1", "a.f", "1", "a.g", "1", "a.h", "1", "a.i", "1")}},
		} {
			_, err := s.Backend.ReadFeed(s.ctx, args)
			s.that(err != nil, "a bad %s was accepted", name)
			s.assertCode(err, flowfabric.CodeInvalidInput)
		}
	})

	r.scenario("04.5.3 a blocking read is answered by the first event", func(s *scene) {
		start := s.readFeed(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions}).NextCursor
		got := make(chan flowfabric.ReadFeedResult, 1)
		errs := make(chan error, 1)
		go func() {
			r, err := s.Backend.ReadFeed(s.ctx, flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: start, BlockMs: 30_000})
			got <- r
			errs <- err
		}()
		id := s.end()
		s.equal("events", eventIDs((<-got).Events), []flowfabric.ExecutionID{id})
		s.ok(<-errs)
	})

	r.scenario("04.8 events older than a day are trimmed, and a reader behind learns of the gap", func(s *scene) {
		start := s.readFeed(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Partitions: []uint16{testPartition}})
		s.end(onPartition(testPartition))
		s.end(onPartition(testPartition))
		s.advance(flowfabric.FeedRetentionMs + 1)
		kept := s.end(onPartition(testPartition))
		_, err := s.store().TrimFeeds(s.ctx)
		s.ok(err)
		got := s.readFeed(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: start.NextCursor, Partitions: []uint16{testPartition}})
		s.equal("gap", got.Gaps, []flowfabric.Gap{{Partition: testPartition, MissedFromSeq: 1, MissedToSeq: 2}})
		s.equal("events", eventIDs(got.Events), []flowfabric.ExecutionID{kept})
		fresh := s.readFeed(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: flowfabric.FeedStartEarliest, Partitions: []uint16{testPartition}})
		s.equal("no gap from earliest", len(fresh.Gaps), 0)
		s.equal("seq goes on", fresh.Events[0].EventID, fmt.Sprint(testPartition, "-3"))
	})
}

// completeSome claims and completes up to n executions.
func (s *scene) completeSome(n int) []flowfabric.ExecutionID {
	s.t.Helper()
	tasks := s.takeTasks(workerA, n)
	if len(tasks) == 0 {
		return nil
	}
	var items []flowfabric.CompleteExecutionArgs
	for _, t := range tasks {
		items = append(items, flowfabric.CompleteExecutionArgs{ExecutionID: t.ExecutionID, Fence: t.Fence})
	}
	got, err := s.Backend.CompleteExecutions(s.ctx, items)
	s.ok(err)
	for _, item := range got {
		s.ok(item.Err)
	}
	return taskIDs(tasks)
}

func splitEventID(s *scene, id string) (uint16, uint64) {
	s.t.Helper()
	var p uint16
	var seq uint64
	if _, err := fmt.Sscanf(id, "%d-%d", &p, &seq); err != nil {
		s.t.Fatalf("event id %q: %v", id, err)
	}
	return p, seq
}
