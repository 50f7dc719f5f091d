package server_test

import (
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/server"
)

func TestScenario20ClaimRoute(t *testing.T) {
	f := serve(t, server.Config{})
	claim := func(more fields) *answer {
		return f.call("POST", "/v1/workers/w/claim", fields{"worker_instance_id": "w-1", "lane_id": "main"}.with(more))
	}
	claim(fields{"grant_ttl_ms": 0}).problem(400, flowfabric.CodeInvalidInput)
	claim(fields{"grant_ttl_ms": 60_001}).problem(400, flowfabric.CodeInvalidInput)
	if a := claim(nil).want(204); len(a.body) != 0 {
		t.Errorf("body %q", a.body)
	}
	id := f.create(nil)
	a := claim(nil).want(200)
	g := a.object()
	if g["execution_id"] != id || g["kind"] != "claim" || g["lane_id"] != "main" || g["grant_id"] == "" {
		t.Errorf("grant %s", a.body)
	}
	if key, _ := g["partition_key"].(string); key != id[:strings.Index(id, "}")+1] || !strings.HasPrefix(key, "{fp:") {
		t.Errorf("partition_key %v", g["partition_key"])
	}
	for name := range g {
		switch name {
		case "execution_id", "partition_key", "grant_id", "expires_at", "lane_id", "kind":
		default:
			t.Errorf("the grant has %s", name)
		}
	}
	// The grant claims, with or without an outcome beside its fields.
	g["outcome"] = "granted"
	leaseID := newUUID()
	body := fields{"grant": g, "worker_id": "w", "worker_instance_id": "w-1", "lease_ttl_ms": 30_000, "lease_id": leaseID}
	var first, again task
	f.call("POST", e(id, "/claim"), body).want(200).decode(&first)
	f.call("POST", e(id, "/claim"), body).want(200).decode(&again)
	if first.ExecutionID != id || first.ClaimKind != "fresh" || first.Fence["lease_id"] != leaseID || first.Payload != "aGVsbG8=" ||
		again.Fence["lease_epoch"] != first.Fence["lease_epoch"] {
		t.Errorf("claimed %v, then %v", first, again)
	}
}

func TestScenario21TasksAnswerAtOnce(t *testing.T) {
	f := serve(t, server.Config{})
	f.create(nil)
	start := time.Now()
	if tasks := f.claim(10, fields{"wait_ms": 20_000}); len(tasks) != 1 {
		t.Errorf("%d tasks", len(tasks))
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestScenario22WakeUpAndReleasedGrant(t *testing.T) {
	f := serve(t, server.Config{})
	type claimed struct {
		tasks []task
		at    time.Time
	}
	got := make(chan claimed, 1)
	go func() {
		tasks := f.claim(1, fields{"wait_ms": 20_000})
		got <- claimed{tasks, time.Now()}
	}()
	f.eventually("the lane has a waiting claim", func() bool {
		return f.call("GET", "/v1/worker-instances/w-1", nil).status == 200
	})
	id := f.create(nil)
	created := time.Now()
	c := <-got
	if len(c.tasks) != 1 || c.tasks[0].ExecutionID != id || c.at.Sub(created) > time.Second {
		t.Errorf("claimed %v after %v", c.tasks, c.at.Sub(created))
	}

	id = f.create(nil)
	claim := func(instance string) *answer {
		return f.call("POST", "/v1/workers/w/claim", fields{"worker_instance_id": instance, "lane_id": "main"})
	}
	grant := claim("w-1").want(200).text("grant_id")
	claim("w-2").want(204)
	release := func() string {
		return f.call("POST", e(id, "/release-grant"), fields{"grant_id": grant, "worker_id": "w"}).want(200).text("outcome")
	}
	if got := release(); got != "released" {
		t.Errorf("release %s", got)
	}
	if got := claim("w-2").want(200).text("execution_id"); got != id {
		t.Errorf("claimed %s", got)
	}
	if got := release(); got != "not_held" {
		t.Errorf("release %s", got)
	}
}

func TestScenario23Replays(t *testing.T) {
	f := serve(t, server.Config{})
	task := f.run()
	body := fields{"fence": task.Fence, "payload": "b2s="}
	if a := f.call("POST", task.a("/complete"), body).want(200); a.text("outcome") != "completed" || a.object()["replayed"] != false {
		t.Errorf("complete %s", a.body)
	}
	if a := f.call("POST", task.a("/complete"), body).want(200); a.object()["replayed"] != true {
		t.Errorf("again %s", a.body)
	}
	p := f.call("POST", task.a("/fail"), fields{"fence": task.Fence, "reason": "no"}).problem(409, flowfabric.CodeExecutionNotActive)
	if details(p)["terminal_outcome"] != "success" {
		t.Errorf("details %v", p["details"])
	}
}

func TestFences(t *testing.T) {
	f := serve(t, server.Config{})
	task := f.run()
	f.call("POST", task.a("/renew"), fields{}).problem(400, flowfabric.CodeFenceRequired)
	f.call("POST", task.a("/renew"), fields{"fence": fields{"lease_id": newUUID()}}).problem(400, flowfabric.CodePartialFenceTriple)
	wrong := fields{"lease_id": newUUID(), "lease_epoch": task.Fence["lease_epoch"], "attempt_id": task.Fence["attempt_id"]}
	f.call("POST", task.a("/renew"), fields{"fence": wrong}).problem(409, flowfabric.CodeStaleLease)
	other := task
	other.AttemptIndex = 3
	f.call("POST", other.a("/renew"), fields{"fence": task.Fence}).problem(409, flowfabric.CodeStaleLease)
	if a := f.call("POST", task.a("/renew"), fields{"fence": task.Fence}).want(200); a.text("outcome") != "renewed" {
		t.Errorf("renew %s", a.body)
	}
	if a := f.call("POST", task.a("/progress"), fields{"fence": task.Fence, "progress_pct": 50}).want(200); a.text("outcome") != "updated" {
		t.Errorf("progress %s", a.body)
	}
}

func TestScenario24BatchedRenewal(t *testing.T) {
	f := serve(t, server.Config{})
	for range 3 {
		f.create(nil)
	}
	tasks := f.claim(3, nil)
	f.call("POST", e(tasks[1].ExecutionID, "/revoke-lease"), fields{"reason": "test"}).want(200)
	items := make([]fields, 3)
	for i, task := range tasks {
		items[i] = fields{"execution_id": task.ExecutionID, "fence": task.Fence}
	}
	var got struct {
		Items []struct {
			ExecutionID string `json:"execution_id"`
			Outcome     string
			ExpiresAt   int64 `json:"expires_at"`
			Problem     *struct{ Code string }
		}
	}
	a := f.call("POST", "/v1/workers/w/renewals", fields{"items": items}).want(200)
	a.decode(&got)
	for i, item := range got.Items {
		if item.ExecutionID != tasks[i].ExecutionID {
			t.Errorf("item %d is %s", i, item.ExecutionID)
		}
		if i == 1 && (item.Problem == nil || item.Problem.Code != "lease_revoked") {
			t.Errorf("item 1 %s", a.body)
		}
		if i != 1 && (item.Outcome != "renewed" || item.ExpiresAt == 0) {
			t.Errorf("item %d %s", i, a.body)
		}
	}
	if len(got.Items) != 3 {
		t.Errorf("%d items", len(got.Items))
	}

	for i := range items {
		items[i]["attempt_index"] = tasks[i].AttemptIndex
	}
	a = f.call("POST", "/v1/workers/w/completions", fields{"items": items}).want(200)
	got.Items = nil
	a.decode(&got)
	if len(got.Items) != 3 || got.Items[0].Outcome != "completed" || got.Items[1].Problem == nil || got.Items[2].Outcome != "completed" {
		t.Errorf("completions %s", a.body)
	}
	f.call("POST", "/v1/workers/w/completions", fields{"items": []fields{}}).problem(400, flowfabric.CodeInvalidInput)
}

func TestScenario25Registration(t *testing.T) {
	f := serve(t, server.Config{})
	n1, n2 := newUUID(), newUUID()
	put := func(nonce string, caps ...string) *answer {
		return f.call("PUT", "/v1/worker-instances/i-1", fields{"worker_id": "w", "namespace": "default", "lanes": []string{"main"},
			"capabilities": append([]string{}, caps...), "instance_nonce": nonce})
	}
	if a := put(n1).want(201); a.text("outcome") != "registered" {
		t.Errorf("register %s", a.body)
	}
	if a := put(n1, "gpu", "cpu").want(200); a.text("outcome") != "refreshed" {
		t.Errorf("refresh %s", a.body)
	}
	var one struct{ Capabilities []string }
	f.call("GET", "/v1/worker-instances/i-1?namespace=default", nil).want(200).decode(&one)
	if strings.Join(one.Capabilities, ",") != "cpu,gpu" {
		t.Errorf("capabilities %v", one.Capabilities)
	}
	var page struct {
		Items []struct {
			WorkerInstanceID string `json:"worker_instance_id"`
		}
	}
	f.call("GET", "/v1/worker-instances", nil).want(200).decode(&page)
	if len(page.Items) != 1 || page.Items[0].WorkerInstanceID != "i-1" {
		t.Errorf("list %v", page)
	}
	put(n2).problem(409, flowfabric.CodeDuplicateWorkerInstance)
	if a := f.call("DELETE", "/v1/worker-instances/i-1?namespace=default&reason=over", nil).want(200); a.text("outcome") != "marked" {
		t.Errorf("delete %s", a.body)
	}
	f.call("GET", "/v1/worker-instances/i-1", nil).problem(404, flowfabric.CodeWorkerNotFound)
	put(n2).want(201)
	beat := func(nonce string) string {
		return f.call("POST", "/v1/worker-instances/i-1/heartbeat", fields{"namespace": "default", "instance_nonce": nonce}).want(200).text("outcome")
	}
	if got := beat(n1); got != "not_registered" {
		t.Errorf("heartbeat %s", got)
	}
	if got := beat(n2); got != "refreshed" {
		t.Errorf("heartbeat %s", got)
	}
	f.call("DELETE", "/v1/worker-instances/i-1?namespace=default", nil).problem(400, flowfabric.CodeInvalidInput)
}

func TestScenario28ReclaimGrant(t *testing.T) {
	f := serve(t, server.Config{})
	gpu := fields{"routing_requirements": fields{"required_capabilities": []string{"gpu"}}, "max_reclaim_count": 1}
	id := f.create(fields{"policy": gpu})
	if got := f.claim(1, fields{"capabilities": []string{"gpu"}}); len(got) != 1 {
		t.Fatal("nothing claimed")
	}
	reclaim := func(caps ...string) *answer {
		return f.call("POST", e(id, "/reclaim"), fields{"worker_id": "w", "worker_instance_id": "w-2", "lane_id": "main",
			"capabilities": append([]string{}, caps...)}).want(200)
	}
	if a := reclaim("gpu"); a.text("outcome") != "not_reclaimable" {
		t.Errorf("of a healthy one %s", a.body)
	}
	revoke := func() { f.call("POST", e(id, "/revoke-lease"), fields{"reason": "test", "hold": true}).want(200) }
	revoke()
	if a := reclaim(); a.text("outcome") != "not_reclaimable" || !strings.Contains(a.text("detail"), "gpu") {
		t.Errorf("without gpu %s", a.body)
	}
	a := reclaim("gpu")
	if a.text("outcome") != "granted" {
		t.Fatalf("reclaim %s", a.body)
	}
	f.call("POST", e(id, "/claim"), fields{"grant": a.object()["grant"], "worker_id": "w", "worker_instance_id": "w-2",
		"lease_ttl_ms": 30_000, "capabilities": []string{"gpu"}}).want(200)
	revoke()
	a = reclaim("gpu")
	if o := a.object(); o["outcome"] != "reclaim_cap_exceeded" || o["reclaim_count"] != 1.0 || o["max_reclaim_count"] != 1.0 {
		t.Errorf("past the cap %s", a.body)
	}
}

func TestScenario42Identifiers(t *testing.T) {
	f := serve(t, server.Config{})
	field := func(a *answer) any { return details(a.problem(400, flowfabric.CodeInvalidInput))["field"] }
	body := fields{"worker_instance_id": "w-1", "lane_id": "main"}
	if got := field(f.call("POST", "/v1/workers/w%0Aork/claim", body)); got != "worker_id" {
		t.Errorf("field %v", got)
	}
	long := strings.Repeat("w", 129)
	if got := field(f.call("POST", "/v1/workers/"+long+"/claim", body)); got != "worker_id" {
		t.Errorf("field %v", got)
	}
	if got := field(f.call("POST", "/v1/workers/w/claim", body.with(fields{"worker_instance_id": long}))); got != "worker_instance_id" {
		t.Errorf("field %v", got)
	}
	for _, lane := range []string{strings.Repeat("l", 65), "lané"} {
		if got := field(f.call("POST", "/v1/workers/w/claim", body.with(fields{"lane_id": lane}))); got != "lane_id" {
			t.Errorf("%s: field %v", lane, got)
		}
	}
	f.call("POST", "/v1/workers/"+long[:128]+"/claim", body.with(fields{"worker_instance_id": long[:128], "lane_id": strings.Repeat("l", 64)})).want(204)
}

func TestScenario52DisabledLane(t *testing.T) {
	f := serve(t, server.Config{})
	running := f.run()
	waiting := f.create(nil)
	set := func(state string) *answer {
		return f.call("PUT", "/v1/lanes/main/state", fields{"state": state, "reason": "test"}).want(200)
	}
	if a := set("disabled"); a.text("state") != "disabled" {
		t.Errorf("lane %s", a.body)
	}
	f.call("POST", "/v1/workers/w/claim", fields{"worker_instance_id": "w-2", "lane_id": "main"}).want(204)
	f.call("POST", running.a("/renew"), fields{"fence": running.Fence}).want(200)
	f.call("POST", running.a("/complete"), fields{"fence": running.Fence}).want(200)
	got := make(chan []task, 1)
	go func() { got <- f.claim(1, fields{"wait_ms": 20_000, "worker_instance_id": "w-3"}) }()
	f.eventually("the claim waits", func() bool { return f.call("GET", "/v1/worker-instances/w-3", nil).status == 200 })
	set("active")
	if tasks := <-got; len(tasks) != 1 || tasks[0].ExecutionID != waiting {
		t.Errorf("claimed %v, want %s", tasks, waiting)
	}
	p := f.call("PUT", "/v1/lanes/nosuch/state", fields{"state": "wrong"})
	if p.status != 400 {
		t.Errorf("wrong state %d %s", p.status, p.body)
	}
	var lane struct {
		State  string
		Counts map[string]int
	}
	f.call("GET", "/v1/lanes/main", nil).want(200).decode(&lane)
	if lane.State != "active" || lane.Counts["completed"] != 1 {
		t.Errorf("lane %v", lane)
	}
}

// TestLaneAnswers: a lane is answered with its counts by whatever changes it, its
// state is changed with a reason, and a deletion may insist on a revision.
func TestLaneAnswers(t *testing.T) {
	f := serve(t, server.Config{})
	f.create(nil)
	for _, a := range []*answer{
		f.call("PUT", "/v1/lanes/main", fields{"scheduling_weight": 2}),
		f.call("PUT", "/v1/lanes/main/state", fields{"state": "draining", "reason": "r"}),
	} {
		var lane struct {
			Counts   map[string]int
			Drained  *bool
			Revision uint64
		}
		a.want(200).decode(&lane)
		if lane.Counts["waiting"] != 1 || lane.Drained == nil || *lane.Drained || lane.Revision == 0 {
			t.Errorf("lane %s", a.body)
		}
	}
	f.call("PUT", "/v1/lanes/main/state", fields{"state": "active"}).problem(400, flowfabric.CodeInvalidInput)
	f.call("PUT", "/v1/lanes/old/state", fields{"state": "disabled", "reason": "over"}).want(200) // made and disabled: revision 2
	for _, a := range []*answer{
		f.call("DELETE", "/v1/lanes/old?expected_revision=1", nil),
		f.call("DELETE", "/v1/lanes/old", fields{"expected_revision": 1}),
	} {
		p := a.problem(409, flowfabric.CodeRevisionConflict)
		if details, _ := p["details"].(map[string]any); details["revision"] != 2.0 {
			t.Errorf("conflict %v", p)
		}
	}
	f.call("DELETE", "/v1/lanes/old?expected_revision=x", nil).problem(400, flowfabric.CodeInvalidInput)
	f.call("DELETE", "/v1/lanes/old?expected_revision=2", fields{"expected_revision": 3}).problem(400, flowfabric.CodeIDMismatch)
	f.call("DELETE", "/v1/lanes/old", fields{"lane_id": "new"}).problem(400, flowfabric.CodeIDMismatch)
	if a := f.call("DELETE", "/v1/lanes/old?expected_revision=2", nil).want(200); a.text("outcome") != "deleted" {
		t.Errorf("deletion %s", a.body)
	}
	if a := f.call("DELETE", "/v1/lanes/old?expected_revision=2", nil).want(200); a.text("outcome") != "already_deleted" {
		t.Errorf("second deletion %s", a.body)
	}
}

func TestWorkerLeases(t *testing.T) {
	f := serve(t, server.Config{})
	held := f.run()
	var page struct{ Items []task }
	f.call("GET", "/v1/worker-instances/w-1/leases", nil).want(200).decode(&page)
	if len(page.Items) != 1 || page.Items[0].ExecutionID != held.ExecutionID || page.Items[0].Fence["lease_id"] != held.Fence["lease_id"] {
		t.Errorf("leases %v", page)
	}
	f.call("GET", "/v1/worker-instances/nobody/leases", nil).want(200)
	var history struct {
		Items []struct {
			Kind    string
			LeaseID string `json:"lease_id"`
		}
	}
	f.call("GET", e(held.ExecutionID, "/lease-history"), nil).want(200).decode(&history)
	if len(history.Items) != 1 || history.Items[0].Kind != "acquired" {
		t.Errorf("history %v", history)
	}
	lease := f.call("GET", e(held.ExecutionID, "/lease"), nil).want(200)
	if lease.text("lease_id") != held.Fence["lease_id"] || lease.object()["remaining_ms"] == 0.0 {
		t.Errorf("lease %s", lease.body)
	}
	f.call("GET", e(f.create(nil), "/lease"), nil).problem(404, flowfabric.CodeLeaseNotFound)
	var attempts struct {
		Items []struct {
			AttemptIndex int            `json:"attempt_index"`
			Usage        map[string]any `json:"usage"`
		}
		NextCursor *string `json:"next_cursor"`
	}
	f.call("GET", e(held.ExecutionID, "/attempts"), nil).want(200).decode(&attempts)
	if len(attempts.Items) != 1 || attempts.NextCursor != nil {
		t.Errorf("attempts %v", attempts)
	}
	f.call("GET", held.a(""), nil).want(200)
	f.call("GET", e(held.ExecutionID, "/attempts/current"), nil).want(200)
	f.call("GET", e(held.ExecutionID, "/attempts/9"), nil).problem(404, flowfabric.CodeAttemptNotFound)
	f.call("GET", e(held.ExecutionID, "/attempts/x"), nil).problem(400, flowfabric.CodeInvalidInput)
}
