package sqlstore

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// FuzzDecode feeds arbitrary bytes to everything that reads stored records: they
// may be refused as corrupt, and never do more harm.
func FuzzDecode(f *testing.F) {
	index := uint32(3)
	size := int64(9)
	r := &row{hasPolicy: true, leaseEvent: 7, st: &rules.State{
		Exec: flowfabric.Execution{Kind: "k", CreatorIdentity: "c", SpecDigest: "00ff", BlockingDetail: "d", AdmissionRefs: []string{"a", "b"},
			CreatedAt: 1, LastMutationAt: 2, EstimatedUsage: map[string]int64{"total_tokens": 4},
			ReleaseReceipt: &flowfabric.ReleaseReceipt{Op: flowfabric.ReceiptFail, Source: flowfabric.SourceLeaseHolder, RetryScheduled: true}},
		Attempt: &flowfabric.Attempt{AttemptIndex: 3, AttemptState: flowfabric.AttemptStarted, PreviousAttemptIndex: &index},
		Grant:   &rules.Grant{GrantID: "g", Kind: flowfabric.ClaimNew},
		Lease:   rules.LeaseDetail{TTLMs: 5},
	}}
	f.Add(appendRecord(nil, r))
	f.Add(encodeAttempt(r.st.Attempt))
	f.Add(appendEvent(nil, &flowfabric.Event{Kind: "completed", ExecutionID: "{fp:1}:00000000-0000-4000-8000-000000000000",
		Tags: map[string]string{"a.b": "c"}, AttemptIndex: &index, ResultSize: &size}))
	f.Add(encodeSuspension(fullSuspension()))
	f.Add(encodeWaitpoint(fullWaitpoint()))
	f.Add(encodeSignal(fullSignal()))
	f.Add(encodeReplay(&flowfabric.SuspendResult{Outcome: flowfabric.SuspendAlreadySatisfied, SuspensionID: someID,
		Waitpoints: []flowfabric.BoundWaitpoint{{WaitpointID: someID, WaitpointKey: "k", Token: flowfabric.NewWaitpointToken("t")}},
		Signals:    []flowfabric.ResumeSignal{{SignalID: someID}}}))
	f.Fuzz(func(t *testing.T, rec []byte) {
		into := &row{st: &rules.State{}}
		if err := decodeRecord("fuzz", rec, into); err == nil {
			rules.Describe(into.st, rules.Label{})
			_ = rules.Check(into.st)
			placeOf(into.st, 1)
		}
		_, _ = decodeAttempt("", rec)
		_, _ = decodeEvent(flowfabric.FeedLeases, 1, 1, 1, rec)
		_, _ = rules.ParseExpiredCursor(string(rec))
		if x, err := decodeSuspension("", "", rec); err == nil {
			rules.ShowSuspension(x)
		}
		_, _ = decodeWaitpoint("", someID, rec)
		_ = decodeSignal("", rec, &flowfabric.RecordedSignal{})
		_, _, _ = decodeReplay(rec)
		_, _ = parseSuspendedPlace(string(rec))
		s := &Store{parts: flowfabric.DefaultPartitionConfig()}
		_, _ = s.decodeCursor(string(rec), flowfabric.FeedLeases, 0)
	})
}

const someID = "00000000-0000-4000-8000-00000000000a"

// fullSuspension has every field.
func fullSuspension() *rules.Suspension {
	closes, consumes, left := false, false, int64(-5)
	x := &rules.Suspension{Suspension: flowfabric.Suspension{
		SuspensionID: someID, ExecutionID: "{fp:1}:" + someID, AttemptID: someID, AttemptIndex: 2, LeaseID: someID, LeaseEpoch: 3,
		Waitpoints: []flowfabric.WaitpointRef{{WaitpointID: someID, WaitpointKey: someID}, {WaitpointID: someID, WaitpointKey: "k"}},
		ReasonCode: flowfabric.SuspendStepBoundary, RequestedBy: flowfabric.RequestedByOperator, CreatedAt: 4, TimeoutAt: 5,
		TimeoutBehavior: flowfabric.TimeoutEscalate, ContinuationMetadataPointer: "p",
		ResumeCondition: flowfabric.AllOf(flowfabric.Single("k", flowfabric.ByNames("a", "b").FromSource("user")),
			flowfabric.Count(2, flowfabric.DistinctSources, nil, "k", someID)),
		ResumePolicy: flowfabric.ResumePolicy{ResumeTarget: flowfabric.ResumeTargetRunnable, ResumeDelayMs: 6,
			CloseWaitpointOnResume: &closes, ConsumeMatchedSignals: &consumes},
		AttemptTimeoutRemainingMs: &left, SignalCount: 7, MatchedSignalCount: 8, LastSignalAt: 9, EscalatedAt: 10, SatisfiedAt: 11, ClosedAt: 12,
		CloseReason: flowfabric.ClosedResumed, CloserSignalID: someID, SatisfierSignalIDs: []flowfabric.SignalID{someID},
	}}
	x.Nodes = [][]string{nil, {"user/a", someID}}
	return x
}

func fullWaitpoint() *rules.Waitpoint {
	return &rules.Waitpoint{WaitpointID: someID, WaitpointKey: "k", AttemptID: someID, AttemptIndex: 1, SuspensionID: someID,
		State: flowfabric.WaitpointSatisfied, Token: flowfabric.NewWaitpointToken("k1:00"), CreatedAt: 1, ActivatedAt: 2, SatisfiedAt: 3, ClosedAt: 4,
		ExpiresAt: 5, CloseReason: "why", SignalCount: 6, MatchedSignalCount: 7, LastSignalAt: 8}
}

func fullSignal() *flowfabric.RecordedSignal {
	return &flowfabric.RecordedSignal{WaitpointKey: "k", SignalName: "n", SignalCategory: "c", SourceType: "t", SourceIdentity: "i",
		PayloadEncoding: "json", CorrelationID: "x", IdempotencyKey: "y", CreatedAt: 1, AcceptedAt: 2, Effect: flowfabric.EffectNeverActivated,
		ConsumedAt: 3, ConsumedBySuspensionID: someID}
}

// TestWaitingRoundTrip: every field of the records of waiting comes back, and a
// record cut short anywhere is refused or lacks the fields that were cut, but is
// never taken for another.
func TestWaitingRoundTrip(t *testing.T) {
	want := fullSuspension()
	rec := encodeSuspension(want)
	got, err := decodeSuspension("", want.ExecutionID, rec)
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("suspension: %v\n%s", err, d)
	}
	w := fullWaitpoint()
	if got, err := decodeWaitpoint("", someID, encodeWaitpoint(w)); err != nil || got != *w {
		t.Errorf("waitpoint: %v, %+v", err, got)
	}
	g := fullSignal()
	var back flowfabric.RecordedSignal
	if err := decodeSignal("", encodeSignal(g), &back); err != nil || fmt.Sprint(back) != fmt.Sprint(*g) {
		t.Errorf("signal: %v, %+v", err, back)
	}
	for n := range rec {
		cut, err := decodeSuspension("", want.ExecutionID, rec[:n])
		if err == nil && (cut.SuspensionID != want.SuspensionID || len(cut.Nodes) != len(want.Nodes)) {
			t.Errorf("cut at %d: %+v", n, cut)
		}
	}
}

// TestMalformedIDsAreCorrupt: a suspension that names something which is no
// identifier is corrupt. (Specification 03, section 4.9.)
func TestMalformedIDsAreCorrupt(t *testing.T) {
	for name, spoil := range map[string]func(x *rules.Suspension){
		"suspension_id":         func(x *rules.Suspension) { x.SuspensionID = "s" },
		"suspension.attempt_id": func(x *rules.Suspension) { x.AttemptID = "a" },
		"suspension.waitpoints": func(x *rules.Suspension) { x.Waitpoints[1].WaitpointID = "w" },
		"closer_signal_id":      func(x *rules.Suspension) { x.CloserSignalID = "c" },
		"satisfier_signal_ids":  func(x *rules.Suspension) { x.SatisfierSignalIDs[0] = "g" },
		"node_state":            func(x *rules.Suspension) { x.Nodes = x.Nodes[:1] },
		"suspension.created_at": func(x *rules.Suspension) { x.CreatedAt = 0 },
		"resume_condition":      func(x *rules.Suspension) { x.ResumeCondition.Kind = "x" },
	} {
		x := fullSuspension()
		spoil(x)
		_, err := decodeSuspension("", x.ExecutionID, encodeSuspension(x))
		if flowfabric.CodeOf(err) != flowfabric.CodeCorruptRecord || flowfabric.AsError(err).Detail("field") != name {
			t.Errorf("%s: %v", name, err)
		}
	}
}
