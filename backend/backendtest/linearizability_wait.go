package backendtest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/flowfabric/flowfabric"
)

// runWaitHistories lets several clients suspend, signal, resume, time out and
// cancel one execution at once, and checks that what they were told could have
// happened one after the other: every wait ends exactly once, by one cause, and a
// repeated signal acts once. (Specification 03, section 4.3.)
func runWaitHistories(t *testing.T, open func(t *testing.T) Harness) {
	for seed := range 12 {
		t.Run(fmt.Sprintf("waits %d", seed), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, open(t))
			s.seed()
			h := &waitHistory{s: s, id: s.create()}
			h.run(uint64(seed))
			res, info := porcupine.CheckOperationsVerbose(waitModel(), h.ops, 20*time.Second)
			if res != porcupine.Ok {
				explain(s, info, h.ops)
				t.Fatalf("the history is not linearizable: %s", res)
			}
			h.checkEnd()
		})
	}
}

// waitInput is one call of a client.
type waitInput struct {
	op         string
	epoch      uint64                  // of the fence of a suspend
	suspension flowfabric.SuspensionID // of a suspend, or that the signal is for
	signal     flowfabric.SignalID
	keyed      bool // the signal has the idempotency key that all keyed ones have
	due        bool // a suspend whose timeout has come at once
}

// waitOutput is what the client was told.
type waitOutput struct {
	code   flowfabric.Code
	epoch  uint64
	effect flowfabric.SignalEffect
	signal flowfabric.SignalID
	label  string
}

// waiting is the model of one execution that waits for two signals at a time.
type waiting struct {
	phase      string // waiting, running, suspended, ended
	epoch      uint64
	suspension flowfabric.SuspensionID
	due        bool
	got        int
	// keyed has the signals that were accepted under the key, one for each
	// suspension: "suspension=signal effect;".
	keyed string
}

func waitModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return waiting{phase: "waiting"} },
		Step: func(state, input, output any) (bool, any) {
			want, next := state.(waiting).step(input.(waitInput))
			return want == output.(waitOutput), next
		},
		DescribeOperation: describeOperation,
	}
}

func (w waiting) step(in waitInput) (waitOutput, waiting) {
	refuse := func(code flowfabric.Code) (waitOutput, waiting) { return waitOutput{code: code}, w }
	switch in.op {
	case "claim":
		switch w.phase {
		case "running":
			return refuse(flowfabric.CodeLeaseConflict)
		case "waiting":
			w.phase, w.epoch = "running", w.epoch+1
			return waitOutput{epoch: w.epoch}, w
		}
		return refuse(flowfabric.CodeExecutionNotEligible)
	case "suspend":
		switch {
		case w.phase == "suspended" && in.epoch == w.epoch:
			return refuse(flowfabric.CodeAlreadySuspended)
		case w.phase != "running":
			return refuse(flowfabric.CodeExecutionNotActive)
		case in.epoch != w.epoch:
			return refuse(flowfabric.CodeStaleLease)
		}
		w.phase, w.suspension, w.due, w.got = "suspended", in.suspension, in.due, 0
		return waitOutput{}, w
	case "resume":
		if w.phase != "suspended" {
			return refuse(flowfabric.CodeExecutionNotSuspended)
		}
		w.phase = "waiting"
		return waitOutput{}, w
	case "expire":
		switch {
		case w.phase != "suspended":
			return waitOutput{label: "not_suspended"}, w
		case !w.due:
			return waitOutput{label: "not_yet_due"}, w
		}
		w.phase = "waiting"
		return waitOutput{label: string(flowfabric.SuspensionTimeoutApplied)}, w
	case "cancel":
		if w.phase == "ended" {
			return waitOutput{label: string(flowfabric.CancelAlreadyCancelled)}, w
		}
		w.phase = "ended"
		return waitOutput{label: string(flowfabric.CancelCancelled)}, w
	case "describe":
		return waitOutput{label: w.phase}, w
	}
	return w.deliver(in)
}

func (w waiting) deliver(in waitInput) (waitOutput, waiting) {
	start := string(in.suspension) + "="
	if _, rest, seen := strings.Cut(w.keyed, start); seen && in.keyed {
		first, _, _ := strings.Cut(rest, ";")
		signal, effect, _ := strings.Cut(first, " ")
		return waitOutput{label: string(flowfabric.DeliverDuplicate), signal: flowfabric.SignalID(signal), effect: flowfabric.SignalEffect(effect)}, w
	}
	switch {
	case w.phase == "ended":
		return waitOutput{code: flowfabric.CodeTargetNotSignalable}, w
	case w.phase != "suspended" || w.suspension != in.suspension:
		return waitOutput{code: flowfabric.CodeWaitpointClosed}, w
	}
	effect := flowfabric.EffectAppended
	if w.got++; w.got == 2 {
		effect, w.phase = flowfabric.EffectResumed, "waiting"
	}
	if in.keyed {
		w.keyed += start + string(in.signal) + " " + string(effect) + ";"
	}
	return waitOutput{label: string(flowfabric.DeliverAccepted), signal: in.signal, effect: effect}, w
}

// openWait is a suspension that some client has made.
type openWait struct {
	at         address
	suspension flowfabric.SuspensionID
}

// waitHistory records what clients of one execution were told.
type waitHistory struct {
	s  *scene
	id flowfabric.ExecutionID

	mu     sync.Mutex
	ops    []porcupine.Operation
	fences []flowfabric.Fence
	waits  []openWait
}

func (h *waitHistory) run(seed uint64) {
	const clients, calls = 4, 30
	start := time.Now()
	var wg sync.WaitGroup
	for c := range clients {
		rnd := rand.New(rand.NewPCG(seed, uint64(c)))
		wg.Go(func() {
			for range calls {
				in, call := h.choose(rnd, c)
				began := time.Since(start).Nanoseconds()
				out := call()
				ended := time.Since(start).Nanoseconds()
				h.mu.Lock()
				h.ops = append(h.ops, porcupine.Operation{ClientId: c, Input: in, Call: began, Output: out, Return: ended})
				h.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// latest returns the fence and the wait that a client knows last; either may be
// missing.
func (h *waitHistory) latest() (f flowfabric.Fence, w openWait) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.fences); n > 0 {
		f = h.fences[n-1]
	}
	if n := len(h.waits); n > 0 {
		w = h.waits[n-1]
	}
	return f, w
}

func (h *waitHistory) choose(rnd *rand.Rand, client int) (waitInput, func() waitOutput) {
	s := h.s
	f, w := h.latest()
	n := rnd.IntN(200)
	switch {
	case n < 50 || f.Empty():
		return waitInput{op: "claim"}, func() waitOutput { return h.claim(client) }
	case n < 95:
		return h.suspend(f, rnd.IntN(3) == 0 && s.Clock != nil)
	case n < 150 && w.suspension != "":
		in := waitInput{op: "deliver", suspension: w.suspension, signal: flowfabric.NewSignalID(), keyed: rnd.IntN(2) == 0}
		return in, func() waitOutput { return h.deliver(in, w) }
	case n < 160:
		return waitInput{op: "resume"}, func() waitOutput {
			_, err := s.tryResume(h.id, nil)
			return waitOutput{code: flowfabric.CodeOf(err)}
		}
	case n < 180 && s.Store != nil:
		return waitInput{op: "expire"}, func() waitOutput {
			got, err := s.Store.ExpireSuspension(s.ctx, h.id)
			if got.Outcome == flowfabric.SuspensionTimeoutApplied {
				return waitOutput{code: flowfabric.CodeOf(err), label: string(got.Outcome)}
			}
			return waitOutput{code: flowfabric.CodeOf(err), label: got.Reason}
		}
	case n == 180:
		return waitInput{op: "cancel"}, func() waitOutput {
			got, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: h.id, Source: flowfabric.SourceOperatorOverride})
			return waitOutput{code: flowfabric.CodeOf(err), label: string(got.Outcome)}
		}
	}
	return waitInput{op: "describe"}, h.describe
}

func (h *waitHistory) claim(client int) waitOutput {
	task, err := h.s.tryClaim(h.id, worker{id: "pool", instance: flowfabric.WorkerInstanceID(fmt.Sprint("i-", client))})
	if err == nil {
		h.mu.Lock()
		h.fences = append(h.fences, task.Fence)
		h.mu.Unlock()
	}
	return waitOutput{code: flowfabric.CodeOf(err), epoch: task.Fence.LeaseEpoch}
}

func (h *waitHistory) suspend(f flowfabric.Fence, due bool) (waitInput, func() waitOutput) {
	a := suspendArgs(flowfabric.ClaimedExecution{ExecutionID: h.id, Fence: f}, flowfabric.Count(2, flowfabric.DistinctSignals, nil, "go"))
	if due {
		a.TimeoutAt, a.TimeoutBehavior = h.s.now(), flowfabric.TimeoutAutoResume
	}
	return waitInput{op: "suspend", epoch: f.LeaseEpoch, suspension: a.SuspensionID, due: due}, func() waitOutput {
		got, err := h.s.Backend.Suspend(h.s.ctx, a)
		if err == nil {
			w := got.Waitpoints[0]
			h.mu.Lock()
			h.waits = append(h.waits, openWait{address{h.id, w.WaitpointID, w.WaitpointKey, w.Token}, a.SuspensionID})
			h.mu.Unlock()
		}
		return waitOutput{code: flowfabric.CodeOf(err)}
	}
}

func (h *waitHistory) deliver(in waitInput, w openWait) waitOutput {
	opts := []signalOption{withSignalID(in.signal)}
	if in.keyed {
		opts = append(opts, keyed("k"))
	}
	got, err := h.s.tryDeliver(w.at, "x", opts...)
	return waitOutput{code: flowfabric.CodeOf(err), label: string(got.Outcome), signal: got.SignalID, effect: got.Effect}
}

func (h *waitHistory) describe() waitOutput {
	d, err := h.s.Backend.DescribeExecution(h.s.ctx, h.id)
	if err != nil || d == nil {
		return waitOutput{code: flowfabric.CodeOf(err), label: "unreadable"}
	}
	return waitOutput{label: map[flowfabric.LifecyclePhase]string{
		flowfabric.PhaseRunnable: "waiting", flowfabric.PhaseActive: "running", flowfabric.PhaseSuspended: "suspended", flowfabric.PhaseTerminal: "ended",
	}[d.LifecyclePhase]}
}

// checkEnd checks that what was recorded agrees with what was told: a lease event
// for every suspend, an event for every delivery, and signals without gaps.
func (h *waitHistory) checkEnd() {
	s := h.s
	s.t.Helper()
	suspends, recorded, repeated, timeouts := 0, 0, 0, 0
	for _, op := range h.ops {
		in, out := op.Input.(waitInput), op.Output.(waitOutput)
		switch {
		case in.op == "suspend" && out.code == "":
			suspends++
		case in.op == "expire" && out.label == string(flowfabric.SuspensionTimeoutApplied):
			timeouts++
		case out.label == string(flowfabric.DeliverAccepted):
			recorded++
		case out.label == string(flowfabric.DeliverDuplicate):
			repeated++
		}
	}
	released := 0
	for _, e := range s.history(h.id) {
		if e == "released(suspend)" {
			released++
		}
	}
	s.equal("suspends in the history", released, suspends)
	signals := s.signals(h.id)
	s.equal("recorded signals", len(signals), recorded+timeouts)
	for i, g := range signals {
		s.equal("seq", g.Seq, uint64(i+1))
	}
	s.equal("delivery events", len(s.events(flowfabric.FeedSignals, h.id)), recorded+repeated)
}
