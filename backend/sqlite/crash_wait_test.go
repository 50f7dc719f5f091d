package sqlite_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
)

const waitLane = flowfabric.LaneID("wait")

// waitingChild suspends, signals and resumes for ever, on executions of its own
// and on those that the one before it left suspended. It says what was
// acknowledged: "c ID" after a create, "s ID EPOCH SUSPENSION" after a suspend, "g
// ID SIGNAL EFFECT" after a signal, "d ID EPOCH" after a completion.
func waitingChild(path string) {
	ctx := context.Background()
	b, err := sqlite.Open(ctx, sqlite.Config{Path: path})
	if err == nil {
		_, err = b.RotateWaitpointSecret(ctx, flowfabric.RotateWaitpointSecretArgs{NewKID: fmt.Sprintf("p%d", os.Getpid()), NewSecretHex: fmt.Sprintf("%064x", os.Getpid())})
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	c := &waiting{b: b}
	go c.signalLeftovers(ctx)
	for n := range 4 {
		go c.work(ctx, flowfabric.WorkerInstanceID(fmt.Sprintf("w-%d-%d", os.Getpid(), n)))
	}
	select {}
}

type waiting struct {
	b  *sqlite.Backend
	mu sync.Mutex
}

func (c *waiting) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Printf(format+"\n", args...)
}

// refused says what can't be: anything but a lease that was lost.
func (c *waiting) refused(what string, err error) {
	if !flowfabric.IsStaleOwner(err) && flowfabric.CodeOf(err) != flowfabric.CodeExecutionNotActive {
		c.say("error %s: %v", what, err)
	}
}

// signalLeftovers ends the waits that a process which was killed has begun.
func (c *waiting) signalLeftovers(ctx context.Context) {
	left, err := c.b.ListSuspended(ctx, flowfabric.ListSuspendedArgs{Limit: 1000})
	if err != nil {
		c.say("error list suspended: %v", err)
	}
	for _, e := range left.Executions {
		open, err := c.b.ListPendingWaitpoints(ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: e.ExecutionID})
		if err != nil {
			c.say("error list waitpoints: %v", err)
		}
		for _, w := range open.Waitpoints {
			token, err := c.b.ReadWaitpointToken(ctx, e.ExecutionID, w.WaitpointID)
			if err != nil {
				c.say("error read token: %v", err)
			}
			if token.IsZero() {
				continue // closed since: somebody else resumed it
			}
			c.signal(ctx, e.ExecutionID, w.WaitpointID, token, 2)
		}
	}
}

// work creates executions, and claims what there is: to suspend it, or to
// complete it when it comes back.
func (c *waiting) work(ctx context.Context, instance flowfabric.WorkerInstanceID) {
	for {
		created, err := flowfabric.CreateExecution(ctx, c.b, flowfabric.CreateExecutionArgs{Namespace: "crash", LaneID: waitLane, Kind: "k", CreatorIdentity: "c"})
		if err != nil {
			c.say("error create: %v", err)
		}
		c.say("c %s", created.ExecutionID)
		res, err := c.b.ClaimTasks(ctx, flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: instance, Lanes: []flowfabric.LaneID{waitLane},
			Namespace: "crash", MaxTasks: 4, LeaseTTLMs: 1000, WaitMs: 100})
		if err != nil {
			c.say("error claim: %v", err)
		}
		for _, task := range res.Tasks {
			if task.ClaimKind != flowfabric.ClaimResume {
				c.wait(ctx, task)
				continue
			}
			_, err := flowfabric.CompleteExecution(ctx, c.b, flowfabric.CompleteExecutionArgs{ExecutionID: task.ExecutionID, Fence: task.Fence,
				Result: []byte(fmt.Sprint(task.Fence.LeaseEpoch))})
			if err != nil {
				c.refused("complete", err)
				continue
			}
			c.say("d %s %d", task.ExecutionID, task.Fence.LeaseEpoch)
		}
	}
}

// wait suspends a task until two signals have come, of which the first may come
// before.
func (c *waiting) wait(ctx context.Context, task flowfabric.ClaimedExecution) {
	binding, count := flowfabric.WaitpointBinding{WaitpointKey: "k"}, 2
	if rand.IntN(2) == 0 {
		pending, err := c.b.CreatePendingWaitpoint(ctx, flowfabric.CreatePendingWaitpointArgs{ExecutionID: task.ExecutionID, Fence: task.Fence,
			WaitpointKey: "k", ExpiresInMs: 60_000})
		if err != nil {
			c.refused("create waitpoint", err)
			return
		}
		c.signal(ctx, task.ExecutionID, pending.WaitpointID, pending.Token, 1)
		binding, count = flowfabric.WaitpointBinding{WaitpointID: pending.WaitpointID, UsePending: true}, 1
	}
	res, err := c.b.Suspend(ctx, flowfabric.SuspendArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, Waitpoints: []flowfabric.WaitpointBinding{binding},
		ReasonCode: flowfabric.SuspendWaitingForSignal, ResumeCondition: flowfabric.Count(2, flowfabric.DistinctSignals, nil, "k"), IdempotencyKey: "once"})
	if err != nil {
		c.refused("suspend", err)
		return
	}
	c.say("s %s %d %s", task.ExecutionID, task.Fence.LeaseEpoch, res.SuspensionID)
	c.signal(ctx, task.ExecutionID, res.Waitpoints[0].WaitpointID, res.Waitpoints[0].Token, count)
}

// signal sends signals. Those that came before may have ended the wait.
func (c *waiting) signal(ctx context.Context, id flowfabric.ExecutionID, waitpoint flowfabric.WaitpointID, token flowfabric.WaitpointToken, count int) {
	for range count {
		r, err := c.b.DeliverSignal(ctx, flowfabric.DeliverSignalArgs{ExecutionID: id, WaitpointID: waitpoint, Token: token,
			Signal: flowfabric.Signal{Name: "go", SourceIdentity: "tester", Payload: []byte(id)}})
		if err != nil {
			if code := flowfabric.CodeOf(err); code != flowfabric.CodeWaitpointClosed && code != flowfabric.CodeTargetNotSignalable {
				c.say("error deliver: %v", err)
			}
			continue
		}
		c.say("g %s %s %s", id, r.SignalID, r.Effect)
	}
}

// acknowledged is what the processes were told.
type acknowledged struct {
	created  map[flowfabric.ExecutionID]bool
	done     map[flowfabric.ExecutionID]string
	suspends map[flowfabric.SuspensionID]string // "ID EPOCH"
	signals  map[flowfabric.SignalID]string     // "ID EFFECT"
}

func (a *acknowledged) take(word, rest string) {
	f := strings.Fields(rest)
	switch {
	case word == "c" && len(f) == 1:
		a.created[flowfabric.ExecutionID(f[0])] = true
	case word == "d" && len(f) == 2:
		a.done[flowfabric.ExecutionID(f[0])] = f[1]
	case word == "s" && len(f) == 3:
		a.suspends[flowfabric.SuspensionID(f[2])] = f[0] + " " + f[1]
	case word == "g" && len(f) == 3:
		a.signals[flowfabric.SignalID(f[1])] = f[0] + " " + f[2]
	}
}

// TestKilledWhileWaiting kills a process that suspends and signals, anywhere
// between a commit and its answer, always on the same file. A suspend or a signal
// that was acknowledged stands; of one that was not, everything is there or
// nothing: execution, suspension, waitpoints and signals agree. (Chapter 03, S3 to
// S5 and S8.)
func TestKilledWhileWaiting(t *testing.T) {
	kills := 60
	if testing.Short() {
		kills = 10
	}
	path := filepath.Join(t.TempDir(), "flow.db")
	a := &acknowledged{created: make(map[flowfabric.ExecutionID]bool), done: make(map[flowfabric.ExecutionID]string),
		suspends: make(map[flowfabric.SuspensionID]string), signals: make(map[flowfabric.SignalID]string)}
	seen, suspended := 0, 0
	for n := range kills {
		killChild(t, path, 1+rand.IntN(60), a.take, "FLOWFABRIC_CRASH_WAITS=1")
		if n%10 != 9 {
			continue
		}
		b := open(t, sqlite.Config{Path: path, NoEngine: true})
		a.check(t, b)
		for id := range a.created {
			seen++
			suspended += checkWhole(t, b, id)
		}
		audit(t, b)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, acknowledged: %d creates, %d suspends, %d signals, %d completions; %d executions seen, %d of them suspended",
		kills, len(a.created), len(a.suspends), len(a.signals), len(a.done), seen, suspended)
	if len(a.suspends) == 0 || len(a.signals) == 0 || len(a.done) == 0 {
		t.Error("too little was ever acknowledged")
	}
}

// check wants everything acknowledged to stand.
func (a *acknowledged) check(t *testing.T, b *sqlite.Backend) {
	t.Helper()
	for id, epoch := range a.done {
		if res, err := b.GetExecutionResult(t.Context(), id); err != nil || string(res.Payload) != epoch {
			t.Errorf("acknowledged completion %s under epoch %s reads %q, %v", id, epoch, res.Payload, err)
		}
	}
	for suspension, what := range a.suspends {
		id, text, _ := strings.Cut(what, " ")
		epoch, _ := strconv.ParseUint(text, 10, 64)
		s, err := b.GetSuspension(t.Context(), flowfabric.ExecutionID(id))
		if err != nil || s == nil || s.SuspensionID != suspension && s.LeaseEpoch <= epoch {
			t.Errorf("acknowledged suspension %s of %s under epoch %d: %+v, %v", suspension, id, epoch, s, err)
		}
	}
	for signal, what := range a.signals {
		id, effect, _ := strings.Cut(what, " ")
		g, err := b.GetSignal(t.Context(), flowfabric.ExecutionID(id), signal)
		if err != nil || string(g.Payload) != id || string(g.Effect) != effect && effect != string(flowfabric.EffectBuffered) {
			t.Errorf("acknowledged signal %s of %s with effect %s: %+v, %v", signal, id, effect, g, err)
		}
	}
}

// checkWhole checks that an execution, its suspension, its waitpoints and its
// signals agree. It returns 1 when the execution is suspended.
func checkWhole(t *testing.T, b *sqlite.Backend, id flowfabric.ExecutionID) int {
	t.Helper()
	ctx := t.Context()
	e, err := b.GetExecution(ctx, id)
	if err != nil {
		t.Errorf("%s: %v", id, err)
		return 0
	}
	s, err := b.GetSuspension(ctx, id)
	if err != nil {
		t.Errorf("%s: %v", id, err)
		return 0
	}
	open, err := b.ListPendingWaitpoints(ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id})
	if err != nil {
		t.Errorf("%s: %v", id, err)
	}
	signals, err := b.ListSignals(ctx, flowfabric.ListSignalsArgs{ExecutionID: id, Limit: 1000})
	if err != nil {
		t.Errorf("%s: %v", id, err)
	}
	wrong := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s, %s: %s; %+v; %+v; %+v", id, e.LifecyclePhase, fmt.Sprintf(format, args...), s, open.Waitpoints, signals.Signals)
	}
	waits := e.LifecyclePhase == flowfabric.PhaseSuspended
	if waits != (s != nil && s.ClosedAt == 0) || waits && (e.CurrentSuspensionID != s.SuspensionID || e.CurrentWaitpointID != s.Waitpoints[0].WaitpointID) {
		wrong("execution and suspension disagree")
		return 0
	}
	active := 0
	for _, w := range open.Waitpoints {
		if w.State == flowfabric.WaitpointActive {
			active++
		}
	}
	if waits && (active != 1 || e.CurrentLeaseID != "") || !waits && active > 0 || e.PublicState.Terminal() && len(open.Waitpoints) > 0 {
		wrong("waitpoints")
	}
	checkSignals(e, s, signals.Signals, wrong)
	if waits {
		return 1
	}
	return 0
}

// checkSignals checks that the signals are numbered without a gap, and that the
// suspension has counted and judged those of its waitpoint.
func checkSignals(e *flowfabric.Execution, s *flowfabric.Suspension, signals []flowfabric.RecordedSignal, wrong func(string, ...any)) {
	var of, matched uint64
	for i, g := range signals {
		if g.Seq != uint64(i)+1 {
			wrong("signal %d is numbered %d", i, g.Seq)
		}
		if g.Effect == flowfabric.EffectBuffered && e.LifecyclePhase != flowfabric.PhaseActive && e.LifecyclePhase != flowfabric.PhaseRunnable && s == nil {
			wrong("signal %s is buffered for nobody", g.SignalID)
		}
		if s == nil || g.WaitpointID != s.Waitpoints[0].WaitpointID {
			continue
		}
		of++
		if g.Effect.Matched() {
			matched++
		}
		closer := s.ClosedAt > 0 && g.SignalID == s.CloserSignalID
		if (g.Effect == flowfabric.EffectResumed) != closer || closer && g.ConsumedBySuspensionID != s.SuspensionID {
			wrong("signal %s and the closer disagree", g.SignalID)
		}
	}
	if s != nil && (s.SignalCount != of || s.MatchedSignalCount != matched || len(s.SatisfierSignalIDs) != int(matched)) {
		wrong("%d signals, %d matched", of, matched)
	}
	if s != nil && s.ClosedAt > 0 && matched < 2 {
		wrong("over by %d signals", matched)
	}
}
