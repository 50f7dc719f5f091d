package sqlite_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if path := os.Getenv("FLOWFABRIC_CRASH_CHILD"); path != "" {
		if os.Getenv("FLOWFABRIC_CRASH_WAITS") != "" {
			waitingChild(path)
		} else {
			crashChild(path)
		}
		return
	}
	os.Exit(m.Run())
}

// crashChild works on the store for ever and says what was acknowledged: a line
// "c ID" after a create, "d ID EPOCH" after a completion, "g ID SIGNAL" after a
// signal that ended a suspension.
func crashChild(path string) {
	ctx := context.Background()
	b, err := sqlite.Open(ctx, sqlite.Config{Path: path})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	for range 4 {
		go func() {
			for {
				items := make([]flowfabric.CreateExecutionArgs, 1+rand.IntN(8))
				for i := range items {
					items[i] = flowfabric.CreateExecutionArgs{Namespace: "crash", LaneID: "default", Kind: "k", CreatorIdentity: "c", Payload: make([]byte, rand.IntN(6000))}
				}
				out, err := b.CreateExecutions(ctx, items)
				if err != nil {
					say("error %v", err)
				}
				for _, o := range out {
					say("c %s", o.Result.ExecutionID)
				}
			}
		}()
	}
	for n := range 4 {
		go func() {
			for {
				res, err := b.ClaimTasks(ctx, flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: flowfabric.WorkerInstanceID(fmt.Sprintf("w-%d-%d", os.Getpid(), n)),
					Lanes: []flowfabric.LaneID{"default"}, Namespace: "crash", MaxTasks: 8, LeaseTTLMs: 1000, WaitMs: 1000})
				if err != nil {
					say("error %v", err)
				}
				for i, task := range res.Tasks {
					if i%3 == 2 {
						if signal, err := suspendAndResume(ctx, b, task); err == nil {
							say("g %s %s", task.ExecutionID, signal)
						}
						continue
					}
					if _, err := flowfabric.CompleteExecution(ctx, b, flowfabric.CompleteExecutionArgs{ExecutionID: task.ExecutionID, Fence: task.Fence,
						Result: []byte(fmt.Sprint(task.Fence.LeaseEpoch))}); err == nil {
						say("d %s %d", task.ExecutionID, task.Fence.LeaseEpoch)
					}
				}
			}
		}()
	}
	select {}
}

// suspendAndResume suspends a task and sends the signal that it waits for.
func suspendAndResume(ctx context.Context, b *sqlite.Backend, task flowfabric.ClaimedExecution) (flowfabric.SignalID, error) {
	res, err := b.Suspend(ctx, flowfabric.SuspendArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, ReasonCode: flowfabric.SuspendWaitingForSignal,
		Waitpoints: []flowfabric.WaitpointBinding{{WaitpointKey: "k"}}, ResumeCondition: flowfabric.Single("k", flowfabric.ByName("go"))})
	if err != nil {
		return "", err
	}
	w := res.Waitpoints[0]
	got, err := b.DeliverSignal(ctx, flowfabric.DeliverSignalArgs{ExecutionID: task.ExecutionID, WaitpointID: w.WaitpointID, Token: w.Token,
		Signal: flowfabric.Signal{Name: "go", SourceIdentity: "tester", Payload: []byte(task.ExecutionID)}})
	return got.SignalID, err
}

// TestKilledAnywhere kills a working process a hundred times, each time after
// another number of acknowledgements, always on the same file, and then counts:
// every acknowledged create is there, every acknowledged completion stands, every
// acknowledged signal is recorded and has acted, and each ending is told once in
// the feed.
func TestKilledAnywhere(t *testing.T) {
	kills := 100
	if testing.Short() {
		kills = 10
	}
	path := filepath.Join(t.TempDir(), "flow.db")
	created := make(map[flowfabric.ExecutionID]bool)
	done := make(map[flowfabric.ExecutionID]string)
	resumed := make(map[flowfabric.SignalID]flowfabric.ExecutionID)
	for range kills {
		runChild(t, path, 1+rand.IntN(120), created, done, resumed)
	}
	b := open(t, sqlite.Config{Path: path})
	for id := range created {
		if s, err := b.GetExecutionState(t.Context(), id); err != nil {
			t.Errorf("acknowledged create %s: %s, %v", id, s, err)
		}
	}
	for id, epoch := range done {
		res, err := b.GetExecutionResult(t.Context(), id)
		if err != nil || string(res.Payload) != epoch {
			t.Errorf("acknowledged completion %s under epoch %s reads %q, %v", id, epoch, res.Payload, err)
		}
	}
	for signal, id := range resumed {
		g, err := b.GetSignal(t.Context(), id, signal)
		if err != nil || g.Effect != flowfabric.EffectResumed || string(g.Payload) != string(id) {
			t.Errorf("acknowledged signal of %s: %+v, %v", id, g, err)
		}
	}
	endings := make(map[flowfabric.ExecutionID]int)
	next := make(map[uint16]uint64)
	for start := flowfabric.FeedStartEarliest; ; {
		page, err := b.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: start, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range page.Events {
			endings[ev.ExecutionID]++
			if next[ev.Partition]++; ev.Seq != next[ev.Partition] {
				t.Errorf("partition %d: seq %d after %d", ev.Partition, ev.Seq, next[ev.Partition]-1)
			}
		}
		if !page.HasMore {
			break
		}
		start = page.NextCursor
	}
	for id := range done {
		if endings[id] != 1 {
			t.Errorf("%s ended %d times", id, endings[id])
		}
	}
	audit(t, b)
	t.Logf("%d kills, %d acknowledged creates, %d acknowledged completions, %d acknowledged signals", kills, len(created), len(done), len(resumed))
}

// audit reconciles every partition and expects nothing to repair.
func audit(t *testing.T, b *sqlite.Backend) {
	t.Helper()
	parts, _ := b.PartitionConfig(t.Context())
	for p := range parts.NumFlowPartitions {
		for cursor := flowfabric.ExecutionID(""); ; {
			res, err := b.Reconcile(t.Context(), flowfabric.ReconcileArgs{Partition: uint16(p), Cursor: cursor, Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			if res.Repaired > 0 || len(res.Violations) > 0 {
				t.Errorf("partition %d: %d repaired, violations %v", p, res.Repaired, res.Violations)
			}
			if cursor = res.Next; cursor == "" {
				break
			}
		}
	}
}

func runChild(t *testing.T, path string, lines int, created map[flowfabric.ExecutionID]bool, done map[flowfabric.ExecutionID]string,
	resumed map[flowfabric.SignalID]flowfabric.ExecutionID) {
	t.Helper()
	killChild(t, path, lines, func(word, rest string) {
		id, more, ok := strings.Cut(rest, " ")
		switch {
		case word == "c":
			created[flowfabric.ExecutionID(rest)] = true
		case word == "d" && ok:
			done[flowfabric.ExecutionID(id)] = more
		case word == "g" && ok:
			resumed[flowfabric.SignalID(more)] = flowfabric.ExecutionID(id)
		}
	})
}

// killChild starts a process that works on the store, kills it after so many
// lines and hands every line over.
func killChild(t *testing.T, path string, lines int, take func(word, rest string), env ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "FLOWFABRIC_CRASH_CHILD="+path), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewScanner(out)
	for n := 0; scan.Scan(); n++ {
		if n == lines {
			_ = cmd.Process.Kill()
		}
		// What was printed before the kill was acknowledged, also if read later.
		word, rest, _ := strings.Cut(scan.Text(), " ")
		if word == "error" {
			t.Error(scan.Text())
		}
		take(word, rest)
	}
	_ = cmd.Wait()
}
