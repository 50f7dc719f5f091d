package wire_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

func TestQueriesRoundTrip(t *testing.T) {
	instance := flowfabric.WorkerInstanceID("i")
	executions := full[flowfabric.ListExecutionsArgs]()
	executions.Namespaces = nil
	query, err := wire.ParseListExecutions(wire.ListExecutionsQuery(executions))
	same(t, "executions", wire.ExecutionsQuery{Args: executions}, query, err)

	attempts := full[flowfabric.ListAttemptsArgs]()
	gotAttempts, err := wire.ParseListAttempts(id, wire.ListAttemptsQuery(attempts))
	same(t, "attempts", attempts, gotAttempts, err)

	history := full[flowfabric.LeaseHistoryArgs]()
	gotHistory, err := wire.ParseLeaseHistory(id, wire.LeaseHistoryQuery(history))
	same(t, "lease history", history, gotHistory, err)

	leases := full[flowfabric.ListWorkerLeasesArgs]()
	leases.Namespaces, leases.WorkerInstanceID = nil, instance
	gotLeases, err := wire.ParseListWorkerLeases(instance, wire.ListWorkerLeasesQuery(leases))
	same(t, "worker leases", leases, gotLeases, err)

	workers := full[flowfabric.ListWorkersArgs]()
	workers.Namespaces = nil
	gotWorkers, err := wire.ParseListWorkers(wire.ListWorkersQuery(workers))
	same(t, "workers", workers, gotWorkers, err)

	lanes := full[flowfabric.ListLanesArgs]()
	gotLanes, err := wire.ParseListLanes(wire.ListLanesQuery(lanes))
	same(t, "lanes", lanes, gotLanes, err)

	expired := full[flowfabric.ListExpiredLeasesArgs]()
	expired.Namespaces, expired.Cursor = nil, ""
	gotExpired, err := wire.ParseListExpiredLeases(wire.ListExpiredLeasesQuery(expired))
	same(t, "expired leases", expired, gotExpired, err)

	feed := full[flowfabric.ReadFeedArgs]()
	feed.Filter.Namespaces = nil
	gotFeed, err := wire.ParseReadFeed(feed.Feed, wire.ReadFeedQuery(feed))
	same(t, "feed", feed, gotFeed, err)
	gotFeed, err = wire.ParseReadFeed("tags", wire.ReadFeedQuery(flowfabric.ReadFeedArgs{}))
	same(t, "feed from now", flowfabric.ReadFeedArgs{Feed: "tags", Start: flowfabric.FeedStartNow}, gotFeed, err)

	wait := full[flowfabric.WaitExecutionArgs]()
	wait.Until = flowfabric.UntilSettled
	gotWait, err := wire.ParseWaitExecution(id, wire.WaitExecutionQuery(wait))
	same(t, "wait", wait, gotWait, err)
	gotWait, err = wire.ParseWaitExecution(id, nil)
	same(t, "wait by default", flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000}, gotWait, err)

	dead := full[flowfabric.MarkWorkerDeadArgs]()
	gotDead, err := wire.ParseRemoveWorker(dead.WorkerInstanceID, wire.RemoveWorkerQuery(dead))
	same(t, "mark dead", dead, gotDead, err)
}

// TestPagesRoundTrip follows each kind of list from one page to the arguments of
// the next.
func TestPagesRoundTrip(t *testing.T) {
	next := uint32(9)
	attempts := wire.NewAttemptsPage(id, flowfabric.ListAttemptsResult{Next: &next})
	r, err := wire.AttemptsResult(id, attempts)
	if err != nil || *r.Next != 9 {
		t.Errorf("attempts: %+v, %v", r, err)
	}
	q := url.Values{"limit": {"5"}}
	history, err := wire.LeaseHistoryResult(id, q, wire.NewLeaseHistoryPage(id, q, flowfabric.LeaseHistoryResult{Next: 8}))
	if err != nil || history.Next != 8 {
		t.Errorf("history: %+v, %v", history, err)
	}
	q = url.Values{"namespace": {"n"}}
	leases, err := wire.WorkerLeasesResult("i", q, wire.NewWorkerLeasesPage("i", q, flowfabric.ListWorkerLeasesResult{NextCursor: id}))
	if err != nil || leases.NextCursor != id {
		t.Errorf("leases: %+v, %v", leases, err)
	}
	expired := wire.NewExpiredLeasesPage(q, flowfabric.ListExpiredLeasesResult{NextCursor: "inner"})
	q.Set("cursor", *expired.NextCursor)
	if a, err := wire.ParseListExpiredLeases(q); err != nil || a.Cursor != "inner" {
		t.Errorf("expired: %+v, %v", a, err)
	}
	workers := wire.NewWorkersPage(url.Values{}, flowfabric.ListWorkersResult{Workers: []flowfabric.WorkerRegistration{{Namespace: "n", WorkerInstanceID: "i"}}, More: true})
	if a, err := wire.ParseListWorkers(url.Values{"cursor": {*workers.NextCursor}}); err != nil || a.AfterNamespace != "n" || a.AfterInstanceID != "i" {
		t.Errorf("workers: %+v, %v", a, err)
	}
	lanes := wire.NewLanesPage(url.Values{}, flowfabric.ListLanesResult{Lanes: []flowfabric.LaneStatus{{Lane: flowfabric.Lane{LaneID: "a\u0020b"}}}, More: true})
	if a, err := wire.ParseListLanes(url.Values{"cursor": {*lanes.NextCursor}}); err != nil || a.After != "a b" || !wire.LanesResult(lanes).More {
		t.Errorf("lanes: %+v, %v", a, err)
	}
	all := url.Values{"cursor": {wire.ExecutionsPartitionCursor(nil, 255)}}
	if x, err := wire.ParseListExecutions(all); err != nil || !x.AllPartitions || x.Args.Partition != 255 || x.Args.Cursor != "" {
		t.Errorf("all partitions: %+v, %v", x, err)
	}
	all.Set("cursor", wire.ExecutionsCursor(nil, id))
	if x, err := wire.ParseListExecutions(all); err != nil || !x.AllPartitions || x.Args.Partition != 7 || x.Args.Cursor != id {
		t.Errorf("all partitions: %+v, %v", x, err)
	}
}

func TestCursorsAreBound(t *testing.T) {
	q := url.Values{"lane_id": {"l"}, "tag": {"a.b:c", "d.e:f"}, "limit": {"5"}}
	cursor := wire.EncodeCursor(wire.ListExecutions, "s", q, "position")
	if len(cursor) > wire.MaxCursorBytes || url.QueryEscape(cursor) != cursor {
		t.Errorf("%q is not fit for a URL", cursor)
	}
	again := url.Values{"tag": {"d.e:f", "a.b:c"}, "lane_id": {"l"}, "limit": {"7"}, "cursor": {cursor}}
	if p, err := wire.DecodeCursor(wire.ListExecutions, "s", again, cursor); err != nil || p != "position" {
		t.Errorf("other order and limit: %q, %v", p, err)
	}
	for name, err := range map[string]error{
		"another list":   second(wire.DecodeCursor(wire.ListLanes, "s", q, cursor)),
		"another scope":  second(wire.DecodeCursor(wire.ListExecutions, "t", q, cursor)),
		"other filters":  second(wire.DecodeCursor(wire.ListExecutions, "s", url.Values{"lane_id": {"m"}}, cursor)),
		"no filters":     second(wire.DecodeCursor(wire.ListExecutions, "s", nil, cursor)),
		"garbage":        second(wire.DecodeCursor(wire.ListExecutions, "s", q, "garbage")),
		"cut":            second(wire.DecodeCursor(wire.ListExecutions, "s", q, cursor[:10])),
		"another form":   second(wire.DecodeCursor(wire.ListExecutions, "s", q, "2"+cursor[1:])),
		"too long":       second(wire.DecodeCursor(wire.ListExecutions, "s", q, "1"+strings.Repeat("A", 512))),
		"no position":    second(wire.DecodeCursor(wire.ListExecutions, "s", q, wire.EncodeCursor(wire.ListExecutions, "s", q, ""))),
		"a line end":     second(wire.DecodeCursor(wire.ListExecutions, "s", q, cursor[:9]+"\n"+cursor[9:])),
		"not base64":     second(wire.DecodeCursor(wire.ListExecutions, "s", q, "1!!!")),
		"no execution":   second(wire.ParseListExecutions(url.Values{"cursor": {wire.EncodeCursor(wire.ListExecutions, "", nil, "x")}})),
		"no index":       second(wire.ParseListAttempts(id, url.Values{"cursor": {wire.EncodeCursor(wire.ListAttempts, string(id), nil, "x")}})),
		"no event":       second(wire.ParseLeaseHistory(id, url.Values{"cursor": {wire.EncodeCursor(wire.ListLeaseHistory, string(id), nil, "x")}})),
		"no lease":       second(wire.ParseListWorkerLeases("i", url.Values{"cursor": {wire.EncodeCursor(wire.ListWorkerLeases, "i", nil, "x")}})),
		"no worker":      second(wire.ParseListWorkers(url.Values{"cursor": {wire.EncodeCursor(wire.ListWorkers, "", nil, "x")}})),
		"a partition":    second(wire.ParseListExecutions(url.Values{"partition": {"7"}, "cursor": {wire.ExecutionsPartitionCursor(url.Values{"partition": {"7"}}, 7)}})),
		"expired leases": second(wire.ParseListExpiredLeases(url.Values{"cursor": {cursor}})),
		"lanes":          second(wire.ParseListLanes(url.Values{"cursor": {cursor}})),
	} {
		if flowfabric.CodeOf(err) != flowfabric.CodeInvalidCursor {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if p, err := wire.DecodeCursor(wire.ListExecutions, "s", q, ""); p != "" || err != nil {
		t.Errorf("no cursor: %q, %v", p, err)
	}
}

func TestQueriesRefuse(t *testing.T) {
	list := func(q string) error { return second(wire.ParseListExecutions(values(t, q))) }
	wait := func(q string) error { return second(wire.ParseWaitExecution(id, values(t, q))) }
	feed := func(q string) error { return second(wire.ParseReadFeed("tags", values(t, q))) }
	dead := func(q string) error { return second(wire.ParseRemoveWorker("i", values(t, q))) }
	for name, tc := range map[string]struct {
		err   error
		field string
	}{
		"limit 0":              {list("limit=0"), "limit"},
		"limit -1":             {list("limit=-1"), "limit"},
		"limit 1001":           {list("limit=1001"), "limit"},
		"limit of a letter":    {list("limit=x"), "limit"},
		"empty limit":          {list("limit="), "limit"},
		"limit with a sign":    {list("limit=%2B5"), "limit"},
		"limit twice":          {list("limit=5&limit=6"), "limit"},
		"fraction":             {list("limit=1.5"), "limit"},
		"partition":            {list("partition=65536"), "partition"},
		"tag without value":    {list("tag=a.b"), "tag"},
		"tag without key":      {list("tag=:x"), "tag"},
		"tag contradiction":    {list("tag=a.b:x&tag=a.b:y"), "tag"},
		"lane twice":           {list("lane_id=a&lane_id=b"), "lane_id"},
		"cursor twice":         {list("cursor=a&cursor=b"), "cursor"},
		"feed namespace":       {feed("namespace=a+b"), "namespace"},
		"feed lane":            {feed("lane_id=a%7Bb"), "lane_id"},
		"feed flow":            {feed("flow_id=x"), "flow_id"},
		"wait 30001":           {wait("wait_ms=30001"), "wait_ms"},
		"wait -1":              {wait("wait_ms=-1"), "wait_ms"},
		"until":                {wait("until=soon"), "until"},
		"until twice":          {wait("until=settled&until=terminal"), "until"},
		"include_result":       {wait("include_result=yes"), "include_result"},
		"block 30001":          {feed("block_ms=30001"), "block_ms"},
		"feed limit 1001":      {feed("limit=1001"), "limit"},
		"feed partition":       {feed("partition=-1"), "partition"},
		"empty kind":           {feed("kinds=a,"), "kinds"},
		"feed lane twice":      {feed("lane_id=a&lane_id=b"), "lane_id"},
		"feed cursor twice":    {feed("cursor=a&cursor=b"), "cursor"},
		"feed tag":             {feed("tag=x"), "tag"},
		"revoke_leases":        {dead("revoke_leases=maybe"), "revoke_leases"},
		"reason twice":         {dead("reason=a&reason=b"), "reason"},
		"namespace twice":      {dead("namespace=a&namespace=b"), "namespace"},
		"workers limit 10001":  {second(wire.ParseListWorkers(values(t, "limit=10001"))), "limit"},
		"workers lane twice":   {second(wire.ParseListWorkers(values(t, "lane_id=a&lane_id=b"))), "lane_id"},
		"workers namespace":    {second(wire.ParseListWorkers(values(t, "namespace=a&namespace=b"))), "namespace"},
		"expired limit 10001":  {second(wire.ParseListExpiredLeases(values(t, "limit=10001"))), "limit"},
		"as_of -1":             {second(wire.ParseListExpiredLeases(values(t, "as_of=-1"))), "as_of"},
		"span 0":               {second(wire.ParseListExpiredLeases(values(t, "max_partitions_per_call=0"))), "max_partitions_per_call"},
		"from -1":              {second(wire.ParseListAttempts(id, values(t, "from=-1"))), "from"},
		"attempts limit":       {second(wire.ParseListAttempts(id, values(t, "limit=0"))), "limit"},
		"history limit":        {second(wire.ParseLeaseHistory(id, values(t, "limit=0"))), "limit"},
		"lanes limit":          {second(wire.ParseListLanes(values(t, "limit=0"))), "limit"},
		"worker leases limit":  {second(wire.ParseListWorkerLeases("i", values(t, "limit=0"))), "limit"},
		"worker leases spaces": {second(wire.ParseListWorkerLeases("i", values(t, "namespace=a&namespace=b"))), "namespace"},
	} {
		e := flowfabric.AsError(tc.err)
		if e == nil || e.Code != flowfabric.CodeInvalidInput || e.Detail("field") != tc.field {
			t.Errorf("%s: got %v, want invalid_input of %s", name, tc.err, tc.field)
		}
	}
	if err := feed("execution_id=nope"); flowfabric.CodeOf(err) != flowfabric.CodeInvalidExecutionID {
		t.Errorf("execution_id: %v", err)
	}
	if a, err := wire.ParseReadFeed("tags", values(t, "cursor=latest&kinds=a,b&kinds=c")); err != nil || a.Start != flowfabric.FeedStartNow || len(a.Filter.Kinds) != 3 {
		t.Errorf("%+v, %v", a, err)
	}
}

func values(t *testing.T, raw string) url.Values {
	t.Helper()
	q, err := url.ParseQuery(raw)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func FuzzDecodeCursor(f *testing.F) {
	q := url.Values{"namespace": {"n"}}
	f.Add(wire.EncodeCursor(wire.ListLanes, "", q, "lane"))
	f.Add("1")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		position, err := wire.DecodeCursor(wire.ListLanes, "", q, text)
		if err != nil {
			if flowfabric.CodeOf(err) != flowfabric.CodeInvalidCursor {
				t.Fatal(err)
			}
			return
		}
		if text != "" && wire.EncodeCursor(wire.ListLanes, "", q, position) != text {
			t.Fatalf("%q is another cursor of %q", text, position)
		}
	})
}
