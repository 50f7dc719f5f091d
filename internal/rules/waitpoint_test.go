package rules

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/flowfabric/flowfabric"
)

// manyBuffered is a running execution with 1,000 pending waitpoints, each of which
// has ten signals buffered: the limits of specification 03, section 7.
func manyBuffered(t *testing.T) *State {
	t.Helper()
	s := &State{Policy: &flowfabric.Policy{}, Wait: &Wait{}, Attempt: &flowfabric.Attempt{AttemptID: flowfabric.NewAttemptID()}}
	e := &s.Exec
	e.ExecutionID = "{fp:0}:" + flowfabric.ExecutionID(flowfabric.NewAttemptID())
	e.LifecyclePhase, e.OwnershipState, e.EligibilityState = flowfabric.PhaseActive, flowfabric.OwnershipLeased, flowfabric.EligibilityNotApplicable
	e.BlockingReason, e.TerminalOutcome, e.AttemptState = flowfabric.ReasonNone, flowfabric.OutcomeNone, flowfabric.AttemptRunning
	e.CurrentAttemptID, e.CurrentLeaseID, e.CurrentWorkerInstanceID = s.Attempt.AttemptID, "lease", "instance"
	e.LeaseExpiresAt, e.TotalAttemptCount, e.CurrentLeaseEpoch = 1_000_000, 1, 1
	for i := range flowfabric.MaxOpenWaitpoints {
		w := Waitpoint{WaitpointID: flowfabric.WaitpointID(fmt.Sprintf("00000000-0000-4000-8000-%012d", i)), WaitpointKey: fmt.Sprint(i),
			AttemptID: e.CurrentAttemptID, State: flowfabric.WaitpointPending, ExpiresAt: 1_000_000,
			Token: flowfabric.NewWaitpointToken("k1:00"), SignalCount: 10}
		s.Wait.Open = append(s.Wait.Open, w)
		for range 10 {
			s.Wait.LastSeq++
			s.Wait.Buffered = append(s.Wait.Buffered, &flowfabric.RecordedSignal{SignalID: flowfabric.NewSignalID(), WaitpointID: w.WaitpointID,
				WaitpointKey: w.WaitpointKey, Seq: s.Wait.LastSeq, SignalName: "x", Effect: flowfabric.EffectBuffered})
		}
	}
	return s
}

// allocated is how many bytes a call allocates.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// The end of an execution looks at each buffered signal once, not once for each of
// its waitpoints: in a SQL store it happens while nobody else can write.
// (Specification 03, sections 4.8 and 7.)
func TestSpec03_4_8_EndWithManyBufferedSignals(t *testing.T) {
	s := manyBuffered(t)
	var fx Effects
	n := allocated(func() {
		_, done, err := Cancel(s, flowfabric.CancelExecutionArgs{ExecutionID: s.Exec.ExecutionID, Source: flowfabric.SourceOperatorOverride}, 10)
		if fx = done; err != nil {
			t.Fatal(err)
		}
	})
	if len(fx.Wait.Waitpoints) != 1000 || len(fx.Wait.Rewritten) != 10_000 || len(s.Wait.Open) != 0 || len(s.Wait.Buffered) != 0 {
		t.Errorf("%d waitpoints and %d signals written, %d and %d left", len(fx.Wait.Waitpoints), len(fx.Wait.Rewritten), len(s.Wait.Open), len(s.Wait.Buffered))
	}
	for _, g := range fx.Wait.Rewritten {
		if g.Effect != flowfabric.EffectNeverActivated {
			t.Fatalf("signal %d: %s", g.Seq, g.Effect)
		}
	}
	if n > 64<<20 {
		t.Errorf("the end allocates %d MiB", n>>20)
	}
}

// A suspend takes the signals of its own waitpoints from the buffer and leaves the
// others, in their order. (Specification 03, section 4.2.)
func TestSpec03_4_2_SuspendWithManyBufferedSignals(t *testing.T) {
	s := manyBuffered(t)
	a := flowfabric.SuspendArgs{ExecutionID: s.Exec.ExecutionID, SuspensionID: flowfabric.NewSuspensionID(), ReasonCode: flowfabric.SuspendWaitingForSignal,
		Fence: flowfabric.Fence{LeaseID: "lease", LeaseEpoch: 1, AttemptID: s.Exec.CurrentAttemptID}, RequestedBy: flowfabric.RequestedByWorker}
	in := SuspendInput{}
	var members []flowfabric.ResumeCondition
	for i := 0; i < 1000; i += 20 {
		w := s.Wait.Open[i]
		a.Waitpoints = append(a.Waitpoints, flowfabric.WaitpointBinding{WaitpointID: w.WaitpointID, UsePending: true})
		in.Stored = append(in.Stored, &StoredWaitpoint{ExecutionID: s.Exec.ExecutionID, Waitpoint: w})
		members = append(members, flowfabric.Single(w.WaitpointKey, flowfabric.ByName("go")))
	}
	a.ResumeCondition = flowfabric.AllOf(members...)
	in.Args = a
	before := s.Wait.Buffered
	_, fx, err := Suspend(s, in, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(fx.Wait.Rewritten) != 500 || len(s.Wait.Buffered) != 9500 || len(before) != 10_000 || before[0].Effect != flowfabric.EffectBuffered {
		t.Errorf("%d signals written, %d left", len(fx.Wait.Rewritten), len(s.Wait.Buffered))
	}
	for i, g := range s.Wait.Buffered[1:] {
		if g.Seq <= s.Wait.Buffered[i].Seq {
			t.Fatalf("signal %d behind %d", g.Seq, s.Wait.Buffered[i].Seq)
		}
	}
}
