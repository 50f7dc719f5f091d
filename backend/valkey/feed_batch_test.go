package valkey

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
)

// batchLives lives n lives on a partition, each step one call for all, and returns
// the executions in the order of their completions.
func (s *reader) batchLives(part uint16, n int) []flowfabric.ExecutionID {
	s.t.Helper()
	items := make([]flowfabric.CreateExecutionArgs, n)
	for i := range items {
		items[i] = flowfabric.CreateExecutionArgs{ExecutionID: flowfabric.MakeExecutionID(part, uuid.New()), Namespace: "test", LaneID: "work",
			Kind: "task", CreatorIdentity: "tester"}
	}
	created, err := s.CreateExecutions(s.t.Context(), items)
	s.ok(err)
	for _, c := range created {
		s.ok(c.Err)
	}
	var ends []flowfabric.CompleteExecutionArgs
	var ids []flowfabric.ExecutionID
	for len(ends) < n {
		got, err := s.ClaimCandidates(s.t.Context(), flowfabric.ClaimCandidatesArgs{WorkerID: "pool", WorkerInstanceID: "pool-1",
			Lanes: []flowfabric.LaneID{"work"}, Max: n - len(ends), LeaseTTLMs: 30_000, Picker: firstPicker{}})
		s.ok(err)
		if len(got.Tasks) == 0 {
			s.t.Fatal("nothing is claimed")
		}
		for _, task := range got.Tasks {
			ends = append(ends, completion(task, nil))
			ids = append(ids, task.ExecutionID)
		}
	}
	done, err := s.CompleteExecutions(s.t.Context(), ends)
	s.ok(err)
	for _, d := range done {
		s.ok(d.Err)
	}
	return ids
}

// firstPicker takes the first of all groups.
type firstPicker struct{}

func (firstPicker) Pick([]flowfabric.Candidate) int { return 0 }
func (firstPicker) Taken(flowfabric.Candidate)      {}

// The events of a batch share entries, and read as if each had its own: dense
// numbers, pages of any size, cursors in the middle.
func TestEventsOfABatchShareEntries(t *testing.T) {
	s := newReader(t)
	const n, part = 40, 4
	ids := s.batchLives(part, n)
	for feed, want := range map[flowfabric.Feed]int64{flowfabric.FeedCompletions: 4, flowfabric.FeedLeases: 8} {
		if got := s.server.Must("XLEN", feedKey(s.tag(part), feed)); got != want {
			t.Errorf("%s has %v entries, want %d", feed, got, want)
		}
	}
	for _, limit := range []int{1, 7, 16, 100} {
		cursor := flowfabric.FeedStartEarliest
		var got []flowfabric.ExecutionID
		for more := true; more; {
			res := s.readFeed(flowfabric.ReadFeedArgs{Start: cursor, Limit: limit, Partitions: []uint16{part}})
			if len(res.Gaps) != 0 || len(res.Events) > limit {
				t.Fatalf("limit %d: %d events, gaps %v", limit, len(res.Events), res.Gaps)
			}
			for _, ev := range res.Events {
				got = append(got, ev.ExecutionID)
				if want := strconv.Itoa(part) + "-" + strconv.Itoa(len(got)); ev.EventID != want {
					t.Errorf("limit %d: event %s, want %s", limit, ev.EventID, want)
				}
				rest := s.readFeed(flowfabric.ReadFeedArgs{Start: ev.Cursor, Limit: 100, Partitions: []uint16{part}})
				if len(rest.Events) != n-len(got) {
					t.Errorf("limit %d: behind %s are %d events, want %d", limit, ev.EventID, len(rest.Events), n-len(got))
				}
			}
			cursor, more = res.NextCursor, res.HasMore
		}
		same(t, "completed", got, ids)
	}
	// Of all partitions, more of them than manyParts.
	all := s.readFeed(flowfabric.ReadFeedArgs{Start: flowfabric.FeedStartEarliest, Limit: 1000})
	if len(all.Events) != n || all.HasMore {
		t.Errorf("of all partitions %d events, more %v", len(all.Events), all.HasMore)
	}
	for _, id := range ids {
		res, err := s.GetLeaseHistory(t.Context(), flowfabric.LeaseHistoryArgs{ExecutionID: id, Limit: 1})
		s.ok(err)
		more, err := s.GetLeaseHistory(t.Context(), flowfabric.LeaseHistoryArgs{ExecutionID: id, After: res.Next})
		s.ok(err)
		if len(res.Events) != 1 || res.Events[0].Kind != "acquired" || len(more.Events) != 1 || more.Events[0].Kind != "released" {
			t.Errorf("history of %s: %+v, then %+v", id, res.Events, more.Events)
		}
	}
	// Numbers go on, and retention counts events.
	next := s.ended(part, 1)
	now := s.readFeed(flowfabric.ReadFeedArgs{Start: all.NextCursor})
	if len(now.Events) != 1 || now.Events[0].Seq != n+1 || now.Events[0].ExecutionID != next[0] {
		t.Errorf("the next event is %+v", now.Events)
	}
	s.clock.Advance(flowfabric.FeedRetentionMs * time.Millisecond)
	swept, err := s.TrimFeeds(t.Context())
	s.ok(err)
	if swept.Rows != n+1+2*n {
		t.Errorf("%d events went", swept.Rows)
	}
	gap := s.readFeed(flowfabric.ReadFeedArgs{Start: all.NextCursor})
	same(t, "gaps", gap.Gaps, []flowfabric.Gap{{Partition: part, MissedFromSeq: n + 1, MissedToSeq: n + 1}})
}

// A sweep by age finds its place among entries of several events, and one by
// number takes only whole entries.
func TestRetentionAmongSharedEntries(t *testing.T) {
	s := newReader(t)
	const part = 9
	for range 5 {
		s.batchLives(part, 20)
		s.clock.Advance(flowfabric.FeedRetentionMs / 4 * time.Millisecond)
	}
	swept, err := s.TrimFeeds(t.Context())
	s.ok(err)
	if swept.Rows != 2*60 {
		t.Errorf("%d events went", swept.Rows)
	}
	res := s.readFeed(flowfabric.ReadFeedArgs{Start: flowfabric.FeedStartEarliest, Limit: 1000})
	if len(res.Events) != 60 || res.Events[0].Seq != 41 {
		t.Errorf("%d events stay", len(res.Events))
	}
	if again, err := s.TrimFeeds(t.Context()); err != nil || again.Rows != 0 {
		t.Errorf("a second sweep: %+v, %v", again, err)
	}
}

// A feed that grows by batches keeps 10,000 events, and not many more.
func TestFeedsAreTrimmedAsTheyGrow(t *testing.T) {
	s := newReader(t)
	const part = 2
	key := feedKey(s.tag(part), flowfabric.FeedCompletions)
	value := "completed\n" + testUUID + "\nns\nlane\n\n1\n\n\n\nsuccess\n0\ncomplete\n\n\n"
	s.server.Must("EVAL", "for i = 1, ARGV[2] do redis.call('XADD', KEYS[1], '0-*', 'v', ARGV[1]) end", "1", key, value,
		strconv.Itoa(flowfabric.FeedRetentionEvents+450))
	s.batchLives(part, 60)
	first, _ := s.server.Must("XRANGE", key, "-", "+", "COUNT", "1").([]any)
	head, _ := first[0].([]any)
	id, _ := head[0].(string)
	seq, ok := seqOf(id)
	if last := uint64(flowfabric.FeedRetentionEvents + 510); !ok || seq > last-flowfabric.FeedRetentionEvents+1 || seq < 200 {
		t.Errorf("the first event kept is %s, the last %d", id, last)
	}
}
