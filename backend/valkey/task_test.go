package valkey

import (
	"bytes"
	"slices"
	"testing"

	"github.com/flowfabric/flowfabric"
)

// bigJob is a job whose definition is read behind its claim.
func bigJob(part uint16, size int) job { return job{part: part, payload: size} }

// Definitions of all sizes come with their tasks, whether the claim tells them or
// they are read behind it.
func TestTasksHaveTheirPayloads(t *testing.T) {
	for _, at := range []place{onServer(t), onCluster(t)} {
		p := joinParty(t, at)
		want := make(map[flowfabric.ExecutionID][]byte)
		for i, size := range []int{0, 1, 600, 900, 1000, 1100, 4096, 70_000, 300_000} {
			for part := range uint16(3) {
				payload := bytes.Repeat([]byte{byte('a' + i)}, size)
				id := p.create(job{part: part, change: func(a *flowfabric.CreateExecutionArgs) { a.Payload = payload }})
				want[id] = payload
			}
		}
		for len(want) > 0 {
			tasks := p.claim(20, 0, "")
			if len(tasks) == 0 {
				t.Fatalf("%d executions are not claimed", len(want))
			}
			for _, task := range tasks {
				payload, ok := want[task.ExecutionID]
				if !ok || !bytes.Equal(task.Payload, payload) {
					t.Errorf("%s: payload of %d bytes, want %d", task.ExecutionID, len(task.Payload), len(payload))
				}
				delete(want, task.ExecutionID)
				p.complete(task, []byte("done"))
			}
		}
	}
}

// What a task leaves out is what the claim said: the task is the same as that of a
// repeat of the claim, which tells everything.
func TestTasksOfFirstClaimsAreWhole(t *testing.T) {
	p := joinParty(t, onServer(t))
	for _, size := range []int{100, 5000} {
		p.create(job{payload: size, change: func(a *flowfabric.CreateExecutionArgs) {
			a.ExecutionDeadlineAt = p.Now() + 600_000
		}})
		got := p.claim(1, 0, "")
		if len(got) != 1 {
			t.Fatalf("claimed %d", len(got))
		}
		task := got[0]
		again, err := p.IssueGrantAndClaim(p.ctx, flowfabric.IssueGrantAndClaimArgs{ExecutionID: task.ExecutionID, WorkerID: "worker-1",
			WorkerInstanceID: "worker-1-7f3a9c", LeaseID: task.Fence.LeaseID, AttemptID: task.AttemptID, LeaseTTLMs: 30_000})
		p.ok(err)
		if !again.Replayed {
			t.Fatal("the repeat is no repeat")
		}
		again.Replayed, again.StoreTime = false, task.StoreTime
		same(t, "task", task, again)
	}
}

// A task whose definition is gone nobody can run: it is held for an operator, and
// those beside it are claimed.
func TestALargeDefinitionThatIsGone(t *testing.T) {
	at := onServer(t)
	p := joinParty(t, at)
	bad := p.create(bigJob(3, 4096))
	good := p.create(bigJob(3, 4096))
	at.server.Must("DEL", execKey(bad, "def"))
	tasks := p.claim(2, 0, "")
	if len(tasks) != 1 || tasks[0].ExecutionID != good || len(tasks[0].Payload) != 4096 {
		t.Fatalf("claimed %+v", tasks)
	}
	core, _ := at.server.Must("HMGET", execKey(bad, "core"), "st", "hold").([]any)
	if !slices.Equal(core, []any{"Vi", "1"}) {
		t.Errorf("the other is %v", core)
	}
}

// A text of its size does not go through the library at a claim.
func TestLargeDefinitionsAreMarked(t *testing.T) {
	at := onServer(t)
	p := joinParty(t, at)
	for _, c := range []struct {
		size  int
		tags  map[string]string
		flags any
	}{
		{100, nil, nil}, {5000, nil, "p"}, {5000, map[string]string{"a.b": "c"}, "pt"}, {100, map[string]string{"a.b": "c"}, "t"},
	} {
		id := p.create(job{payload: c.size, change: func(a *flowfabric.CreateExecutionArgs) { a.Tags = c.tags }})
		got, _ := at.server.Must("HMGET", execKey(id, "core"), "flags").([]any)
		if !slices.Equal(got, []any{c.flags}) {
			t.Errorf("%d bytes, tags %v: flags %v", c.size, c.tags, got)
		}
		task := p.claim(1, 0, "")[0]
		if len(task.Payload) != c.size || len(task.Tags) != len(c.tags) {
			t.Errorf("task %+v", task)
		}
		p.complete(task, nil)
		if st, _ := at.server.Must("HMGET", execKey(id, "core"), "st").([]any); !slices.Equal(st, []any{"cT"}) {
			t.Errorf("completed it is %v", st)
		}
	}
}

// A definition that could not be read is no sign that it is bad: the error is told,
// and the lease is left to run out.
func TestALargeDefinitionThatCannotBeRead(t *testing.T) {
	at := onServer(t)
	p := joinParty(t, at)
	id := p.create(bigJob(3, 4096))
	lease, attempt := mint("", "")
	msg, err := p.call(p.ctx, "ff_claim_next", p.tag(3), string(partyLane), "pool", "pool-1", "", "", "30000", "s", "c", "1", "", "1",
		bucketName(partyNamespace, ""), lease, attempt)
	p.ok(err)
	list, err := elementsOf("ff_claim_next", &msg, 4)
	p.ok(err)
	down := flowfabric.NewError(flowfabric.CodeStoreUnavailable, "the store is gone")
	tasks := newTasks{part: 3, lane: partyLane, list: list[3:], lost: down,
		ids: []taskIDs{{flowfabric.LeaseID(lease), flowfabric.AttemptID(attempt)}}}
	if _, err := p.receive(p.ctx, "claim_tasks", &tasks, 0); err != error(down) {
		t.Errorf("received: %v", err)
	}
	core, _ := at.server.Must("HMGET", execKey(id, "core"), "st", "hold").([]any)
	if !slices.Equal(core, []any{"Ar", nil}) {
		t.Errorf("the execution is %v", core)
	}
}
