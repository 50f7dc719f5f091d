package valkey

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

const (
	testUUID    = "0190f3c2-7b1a-7c3d-8e4f-0123456789ab"
	testID      = flowfabric.ExecutionID("{fp:7}:" + testUUID)
	testLease   = "11111111-1111-4111-8111-111111111111"
	testAttempt = "22222222-2222-4222-8222-222222222222"
	oldLease    = "33333333-3333-4333-8333-333333333333"
	oldAttempt  = "44444444-4444-4444-8444-444444444444"
)

// fieldsOfCore makes a hash of "name value" lines.
func fieldsOfCore(lines ...string) hash {
	h := hash{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, " ")
		h = append(h, name, value)
	}
	return h
}

func testDefinition(t *testing.T, policy string) definition {
	t.Helper()
	p, err := policies.parse([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	return definition{digest: strings.Repeat("d", digestBytes), kind: "report", creator: "tester", encoding: "json", key: "key-1", policy: p}
}

func decode(t *testing.T, src source) *rules.State {
	t.Helper()
	st, err := decodeState("test", testID, &src)
	if err != nil {
		t.Fatal(err)
	}
	if err := rules.Check(st); err != nil {
		t.Fatalf("the decoded state is none: %v", err)
	}
	return st
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func ptrTo[T any](v T) *T { return &v }

func TestDecodeWaiting(t *testing.T) {
	st := decode(t, source{
		core: fieldsOfCore("public_state waiting", "st Wf", "lane_id work", "namespace test", "created_at 1000", "bk 0123456789abcdef",
			"priority 9", "deadline 90000", "flags tc", "mutated_at 1500"),
		tags: hash{"a.b", "c"},
		def:  testDefinition(t, `{"routing_requirements":{"required_capabilities":["gpu"]},"retention_ms":5}`),
	})
	want := flowfabric.Execution{
		ExecutionID: testID, Namespace: "test", LaneID: "work", Kind: "report", CreatorIdentity: "tester", IdempotencyKey: "key-1",
		SpecDigest: strings.Repeat("d", 64), RequiredCapabilities: []string{"gpu"}, Priority: 9,
		StateVector: flowfabric.StateVector{LifecyclePhase: flowfabric.PhaseRunnable, OwnershipState: flowfabric.OwnershipUnowned,
			EligibilityState: flowfabric.EligibleNow, BlockingReason: flowfabric.ReasonWaitingForWorker, TerminalOutcome: flowfabric.OutcomeNone,
			AttemptState: flowfabric.AttemptPendingFirst, PublicState: flowfabric.PublicWaiting},
		ExecutionDeadlineAt: 90000, CreatedAt: 1000, LastTransitionAt: 1000, LastMutationAt: 1500,
	}
	same(t, "record", st.Exec, want)
	same(t, "tags", st.Tags, map[string]string{"a.b": "c"})
	if st.Attempt != nil || st.Grant != nil {
		t.Errorf("attempt %v, grant %v", st.Attempt, st.Grant)
	}
}

func TestDecodeActive(t *testing.T) {
	src := source{
		core: fieldsOfCore("public_state active", "st Ar", "lane_id work", "namespace @", "created_at 1000", "attempts 3", "fb 1", "at b",
			"ast 5000", "arr overloaded", "aid "+testAttempt, "lease_id "+testLease, "epoch 4", "lx 27000", "ttl 20000",
			"worker pool", "wi @", "ch 1a2b3c4d", "started_at 2000", "updated_at 5000", "attempt_due 9000", "retries 1",
			"le f:l:3:W:4900:2:b", "le_l "+oldLease, "le_a "+oldAttempt, "pp 40", "pm half", "pt 6000", "flags xa"),
		text: hash{"namespace", strings.Repeat("n", 100), "wi", strings.Repeat("i", 128)},
		def: testDefinition(t, `{"fallback_policy":{"tiers":[{"provider":"a","model":"m1"},{"provider":"b","model":"m2","timeout_ms":4000}]},
			"timeout_policy":{"attempt_timeout_ms":8000}}`),
	}
	st := decode(t, src)
	x := &st.Exec
	same(t, "namespace", x.Namespace, flowfabric.Namespace(strings.Repeat("n", 100)))
	same(t, "lease mirror", []any{x.CurrentLeaseID, x.CurrentLeaseEpoch, x.CurrentWorkerID, len(x.CurrentWorkerInstanceID), x.LeaseAcquiredAt,
		x.LeaseExpiresAt, x.LeaseLastRenewedAt, x.LeaseRenewalDeadline, x.CurrentLane, x.CurrentAttemptID},
		[]any{flowfabric.LeaseID(testLease), uint64(4), flowfabric.WorkerID("pool"), 128, flowfabric.Millis(5000),
			flowfabric.Millis(27000), flowfabric.Millis(7000), flowfabric.Millis(20333), flowfabric.LaneID("work"), flowfabric.AttemptID(testAttempt)})
	same(t, "instants", []flowfabric.Millis{x.LastTransitionAt, x.LastMutationAt, x.StartedAt}, []flowfabric.Millis{5000, 7000, 2000})
	same(t, "progress", []any{*x.ProgressPct, x.ProgressMessage}, []any{int32(40), "half"})
	same(t, "lease", st.Lease, rules.LeaseDetail{CapabilityHash: "1a2b3c4d", ClaimKind: flowfabric.ClaimNew, TTLMs: 20000})
	same(t, "receipt", x.ReleaseReceipt, &flowfabric.ReleaseReceipt{Op: flowfabric.ReceiptFail, Source: flowfabric.SourceLeaseHolder, LeaseID: oldLease,
		LeaseEpoch: 3, AttemptID: oldAttempt, PublicState: flowfabric.PublicWaiting, DelayUntil: 4900, NextAttemptIndex: 2,
		AttemptType: flowfabric.AttemptTypeFallback, RetryScheduled: true})
	same(t, "attempt", st.Attempt, &flowfabric.Attempt{
		AttemptID: testAttempt, ExecutionID: testID, AttemptIndex: 2, AttemptType: flowfabric.AttemptTypeFallback,
		AttemptState: flowfabric.AttemptStarted, CreatedAt: 5000, StartedAt: 5000, LeaseID: testLease, LeaseEpoch: 4, WorkerID: "pool",
		WorkerInstanceID: flowfabric.WorkerInstanceID(strings.Repeat("i", 128)), PreviousAttemptIndex: ptrTo(uint32(1)), RetryReason: "overloaded",
		FallbackIndex:  ptrTo(uint32(1)),
		PolicySnapshot: flowfabric.PolicySnapshot{TimeoutMs: 4000, Provider: "b", Model: "m2", FallbackIndex: 1, LaneID: "work"},
	})
	lease, err := rules.GetLease(st, 7000)
	if err != nil || lease.RemainingMs != 20000 {
		t.Errorf("lease %+v, %v", lease, err)
	}
}

func TestDecodePausedAndResumed(t *testing.T) {
	common := []string{"lane_id work", "namespace test", "created_at 1000", "attempts 1", "aid " + testAttempt, "lease_id " + testLease,
		"epoch 1", "lx 31000", "worker pool", "wi i", "started_at 1000", "le d:l:1:9000"}
	st := decode(t, source{core: append(fieldsOfCore("public_state delayed", "st Di", "delay_until 9000", "updated_at 3000", "pz d:3000:-5"),
		fieldsOfCore(common...)...), def: testDefinition(t, "{}")})
	same(t, "blocking", []any{st.Exec.BlockingReason, st.Exec.BlockingDetail}, []any{flowfabric.ReasonWaitingForDelay, "delayed until 9000"})
	same(t, "mirror", []any{st.Exec.CurrentLeaseID, st.Exec.LeaseExpiresAt, st.Exec.CurrentAttemptID},
		[]any{flowfabric.LeaseID(""), flowfabric.Millis(0), flowfabric.AttemptID(testAttempt)})
	same(t, "attempt", []any{st.Attempt.AttemptState, st.Attempt.PauseKind, st.Attempt.SuspendedAt, *st.Attempt.TimeoutRemainingMs},
		[]any{flowfabric.AttemptSuspended, flowfabric.PauseWorkerDelay, flowfabric.Millis(3000), int64(-5)})
	same(t, "receipt", *st.Exec.ReleaseReceipt, flowfabric.ReleaseReceipt{Op: flowfabric.ReceiptDelay, Source: flowfabric.SourceLeaseHolder,
		LeaseID: testLease, LeaseEpoch: 1, AttemptID: testAttempt, PublicState: flowfabric.PublicDelayed, DelayUntil: 9000})

	st = decode(t, source{core: append(fieldsOfCore("public_state active", "st Ar", "rs 9500", "updated_at 9500", "lx 39500"),
		fieldsOfCore(common...)...), def: testDefinition(t, "{}")})
	same(t, "lease", []any{st.Lease.ClaimKind, st.Exec.LeaseAcquiredAt, st.Attempt.ResumedAt, st.Attempt.StartedAt},
		[]any{flowfabric.ClaimResume, flowfabric.Millis(9500), flowfabric.Millis(9500), flowfabric.Millis(1000)})
}

func TestDecodePendingRetry(t *testing.T) {
	src := source{
		core: fieldsOfCore("public_state delayed", "st Dt", "blocking_reason waiting_for_retry_backoff", "delay_until 9000", "lane_id work",
			"namespace test", "created_at 1000", "attempts 2", "aid "+testAttempt, "lease_id "+testLease, "epoch 2",
			"lx 31000", "worker pool", "wi i", "started_at 1000", "updated_at 4000", "pend r", "retries 1",
			"failure_reason broken", "failure_category transient", "le f:l:2:D:9000:2:r", "flags a"),
		attempts: hash{"1", `{"attempt_id":"` + testAttempt + `","attempt_index":1,"attempt_type":"retry","attempt_state":"ended_failure","created_at":2000,
			"started_at":2000,"ended_at":4000,"failure_reason":"broken","policy_snapshot":{"timeout_ms":1,"fallback_index":0,"lane_id":"work"}}`},
		def: testDefinition(t, `{"timeout_policy":{"attempt_timeout_ms":777}}`),
	}
	st := decode(t, src)
	same(t, "pending", []any{st.Exec.PendingAttemptType, st.Exec.PendingReason, st.Exec.PendingRequestedBy, *st.Exec.PendingPreviousAttemptIndex},
		[]any{flowfabric.AttemptTypeRetry, "broken", "", uint32(1)})
	same(t, "detail", st.Exec.BlockingDetail, "retry backoff until 9000 (attempt 1 failed: broken)")
	same(t, "attempt id", st.Exec.CurrentAttemptID, flowfabric.AttemptID(""))
	same(t, "attempt", []any{st.Attempt.AttemptID, st.Attempt.ExecutionID, st.Attempt.EndedAt, st.Attempt.PolicySnapshot.TimeoutMs},
		[]any{flowfabric.AttemptID(testAttempt), testID, flowfabric.Millis(4000), int64(777)})
	src.attempts = nil
	if st = decode(t, src); st.Attempt != nil {
		t.Errorf("an attempt that was not read: %+v", st.Attempt)
	}
}

func TestDecodeEnded(t *testing.T) {
	common := []string{"lane_id work", "namespace test", "created_at 1000", "attempts 1", "aid " + testAttempt, "lease_id " + testLease,
		"epoch 1", "lx 31000", "worker pool", "wi i", "started_at 1000", "completed_at 5000", "attempt_due 8000"}
	for name, c := range map[string]struct {
		core  []string
		check func(t *testing.T, st *rules.State)
	}{
		"completed": {[]string{"public_state completed", "st cT", "ae s", "le c:l:1:", "ret 0"}, func(t *testing.T, st *rules.State) {
			same(t, "end", []any{st.Attempt.AttemptState, st.Attempt.EndedAt, st.Exec.PurgeAfter, st.Exec.TerminalSeq, st.Exec.AttemptTimeoutAt},
				[]any{flowfabric.AttemptEndedSuccess, flowfabric.Millis(5000), flowfabric.Millis(5000), uint64(1), flowfabric.Millis(0)})
		}},
		"cancelled by an operator": {[]string{"public_state cancelled", "st xT", "ae co", "le x:o:1:A", "cancellation_reason stop", "cancelled_by me"},
			func(t *testing.T, st *rules.State) {
				same(t, "end", []any{st.Attempt.AttemptState, st.Attempt.FailureReason, st.Attempt.FailureCategory, st.Attempt.TerminalizedByOverride},
					[]any{flowfabric.AttemptEndedCancelled, "cancelled: stop", "cancelled", true})
				same(t, "receipt", []any{st.Exec.ReleaseReceipt.PreviousPhase, st.Exec.ReleaseReceipt.Source, st.Exec.ReleaseReceipt.PublicState},
					[]any{flowfabric.PhaseActive, flowfabric.SourceOperatorOverride, flowfabric.PublicCancelled})
			}},
		"failed after a replay": {[]string{"public_state failed", "st fT", "ae f", "replays 2", "at p", "arr manual", "arb me", "failure_reason r",
			"failure_category permanent"}, func(t *testing.T, st *rules.State) {
			same(t, "end", []any{st.Exec.TerminalSeq, st.Attempt.AttemptType, st.Attempt.ReplayReason, st.Attempt.ReplayRequestedBy, st.Attempt.FailureReason},
				[]any{uint64(3), flowfabric.AttemptTypeReplay, "manual", "me", "r"})
		}},
		"cancelled while a retry was pending": {[]string{"public_state cancelled", "st xT", "pend r"}, func(t *testing.T, st *rules.State) {
			if st.Attempt != nil || st.Exec.CurrentAttemptID != "" {
				t.Errorf("attempt %v, id %q", st.Attempt, st.Exec.CurrentAttemptID)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c.check(t, decode(t, source{core: fieldsOfCore(append(c.core, common...)...), def: testDefinition(t, "{}")}))
		})
	}
}

func TestDecodeGrantAndLoss(t *testing.T) {
	st := decode(t, source{core: fieldsOfCore("public_state active", "st Vi", "lane_id work", "namespace test", "created_at 1000", "attempts 1",
		"aid "+testAttempt, "lease_id "+testLease, "epoch 1", "lx 31000", "worker pool", "wi i",
		"started_at 1000", "updated_at 2000", "ra 2000", "rr gone", "hold 1", "grant rol:7000:6500", "grant_id g", "grant_worker w",
		"grant_instance w-1", "admission_refs one\ntwo"), def: testDefinition(t, "{}")})
	same(t, "loss", []any{st.Exec.BlockingDetail, st.Exec.LeaseRevokedAt, st.Exec.ReclaimHold, st.Lease.Deleted, st.Exec.AdmissionRefs},
		[]any{"lease revoked: gone", flowfabric.Millis(2000), true, true, []string{"one", "two"}})
	same(t, "grant", *st.Grant, rules.Grant{GrantID: "g", LaneID: "work", Kind: flowfabric.ClaimReclaim, WorkerID: "w", WorkerInstanceID: "w-1",
		CapabilityHash: flowfabric.CapabilityDigest(nil), IssuedBy: flowfabric.IssuedByOperator, IssuedAt: 6500, ExpiresAt: 7000, Lapsed: true})
	same(t, "last mutation", st.Exec.LastMutationAt, flowfabric.Millis(6500))
}

// Every letter pair that stands for a state gives one that keeps the rules, and
// no other pair is read.
func TestDecodeVectors(t *testing.T) {
	legal := 0
	for a := byte(0x21); a < 0x7F; a++ {
		for b := byte(0x21); b < 0x7F; b++ {
			var v flowfabric.StateVector
			if !decodeVector(string([]byte{a, b}), "", &v) {
				continue
			}
			legal++
			if v.PublicState != rules.PublicState(v) {
				t.Errorf("%c%c: public state %s", a, b, v.PublicState)
			}
			if got := phaseOf(a); got != v.LifecyclePhase {
				t.Errorf("%c: phase %s, want %s", a, got, v.LifecyclePhase)
			}
		}
	}
	if want := 7*4 + 4 + 2 + 3 + 3 + 3; legal != want {
		t.Errorf("%d legal states, want %d", legal, want)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	good := []string{"public_state active", "st Ar", "lane_id work", "namespace test", "created_at 1000", "attempts 1",
		"aid " + testAttempt, "lease_id " + testLease, "epoch 1", "lx 31000", "worker pool", "wi i",
		"started_at 1000"}
	without := func(name string) []string {
		var out []string
		for _, line := range good {
			if !strings.HasPrefix(line, name+" ") {
				out = append(out, line)
			}
		}
		return out
	}
	for _, c := range []struct {
		field string
		core  []string
	}{
		{"public_state", append(without("public_state"), "public_state not_a_real_state")},
		{"public_state", without("public_state")},
		{"lifecycle_phase", append(without("st"), "st ??")},
		{"lifecycle_phase", append(without("st"), "st Wr")},
		{"lifecycle_phase", without("st")},
		{"created_at", without("created_at")},
		{"created_at", append(without("created_at"), "created_at soon")},
		{"last_mutation_at", append(good, "mutated_at yesterday")},
		{"last_transition_at", append(good, "updated_at -5")},
		{"lane_id", append(without("lane_id"), "lane_id bad{lane")},
		{"namespace", without("namespace")},
		{"namespace", append(without("namespace"), "namespace @")},
		{"current_lease", without("lease_id")},
		{"current_lease", without("epoch")},
		{"current_lease", without("lx")},
		{"current_lease", without("wi")},
		{"current_lease_id", append(without("lease_id"), "lease_id 17")},
		{"current_lease_epoch", append(without("epoch"), "epoch -1")},
		{"current_attempt_id", append(without("aid"), "aid x")},
		{"current_attempt_id", without("aid")},
		{"total_attempt_count", append(without("attempts"), "attempts 4294967296")},
		{"started_at", without("started_at")},
		{"priority", append(good, "priority high")},
		{"flow_id", append(good, "flow_id f")},
		{"attempt.attempt_type", append(good, "at q")},
		{"attempt.pause_kind", append(good, "pz nonsense")},
		{"grant", append(good, "grant nonsense")},
		{"grant.kind", append(good, "grant xs-:1:1")},
		{"grant.issued_by", append(good, "grant cx-:1:1")},
		{"release_receipt", append(good, "le nonsense")},
		{"receipt.op", append(good, "le q:l:1:")},
		{"receipt.source", append(good, "le c:q:1:")},
		{"receipt.previous_phase", append(good, "le x:l:1:")},
		{"receipt.result", append(good, "le f:l:1:W")},
		{"pending_attempt_type", append(good, "pend c")},
	} {
		_, err := decodeState("describe_execution", testID, &source{core: fieldsOfCore(c.core...), def: testDefinition(t, "{}")})
		e := flowfabric.AsError(err)
		if e == nil || e.Code != flowfabric.CodeCorruptRecord || e.Detail("field") != c.field || e.Detail("operation") != "describe_execution" ||
			!strings.HasPrefix(e.Message, "describe_execution: "+c.field+": ") {
			t.Errorf("%s: got %v", c.field, err)
		}
	}
}

func TestDefinition(t *testing.T) {
	parts := flowfabric.DefaultPartitionConfig()
	for name, a := range map[string]flowfabric.CreateExecutionArgs{
		"plain": {Payload: []byte(`{"n":1}`)},
		"whole": {Payload: []byte{0xFF, 0xFE, 0, 0xC0, '\n', ' '}, PayloadEncoding: "x y", IdempotencyKey: "clé | 1\u00a0",
			Policy: []byte(`{"retry_policy":{"max_retries":2}}`), CreatorIdentity: strings.Repeat("é", 100)},
		"without payload": {},
	} {
		t.Run(name, func(t *testing.T) {
			a.Namespace, a.LaneID, a.Kind = "test", "work", "kind"
			if a.CreatorIdentity == "" {
				a.CreatorIdentity = "me"
			}
			p, err := rules.PrepareCreate(a, parts, nil)
			if err != nil {
				t.Fatal(err)
			}
			text := encodeDef(p)
			def, err := parseDef("test", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			same(t, "definition", []any{def.digest, def.kind, def.creator, def.encoding, def.key, string(def.payload)},
				[]any{p.State.Exec.SpecDigest, a.Kind, a.CreatorIdentity, p.Args.PayloadEncoding, a.IdempotencyKey, string(a.Payload)})
			same(t, "policy", def.policy, p.State.Policy)
			if def.payload == nil {
				t.Error("an absent payload reads back as nil")
			}
			kind, err := kindOf("test", []byte(text[:min(len(text), kindBytes)]))
			same(t, "kind", []any{kind, err}, []any{"kind", nil})
			head, err := parseDef("test", []byte(text[:len(text)-len(a.Payload)]))
			same(t, "header", []any{head.kind, head.key, err}, []any{"kind", a.IdempotencyKey, nil})
			for cut := range len(text) - len(a.Payload) {
				if _, err := parseDef("test", []byte(text[:cut])); flowfabric.CodeOf(err) != flowfabric.CodeCorruptRecord {
					t.Fatalf("cut at %d: %v", cut, err)
				}
			}
		})
	}
	if _, err := parseDef("test", []byte(strings.Repeat("d", 64)+"1 1 1 0 9\nkcepolicy!!!")); flowfabric.AsError(err).Detail("field") != "policy" {
		t.Errorf("a broken policy gives %v", err)
	}
}

func TestPolicyCacheStartsAnewWhenFull(t *testing.T) {
	var c policyCache
	for i := range maxCachedPolicies + 3 {
		doc := fmt.Appendf(nil, `{"priority":%d}`, i)
		p, err := c.parse(doc)
		if err != nil || *p.Priority != int64(i) {
			t.Fatalf("%s: %v, %v", doc, p, err)
		}
		if again, _ := c.parse(doc); again != p {
			t.Fatalf("%s was parsed twice", doc)
		}
	}
	if n := len(c.known); n != 3 {
		t.Errorf("%d policies are known", n)
	}
	if p, err := c.parse([]byte(`{}`)); err != nil || p != noPolicy {
		t.Errorf("no policy: %v, %v", p, err)
	}
}

func TestDecodeEvents(t *testing.T) {
	head := "\n" + testUUID + "\nns\nlane\n\n1000\n2\n" + testAttempt + "\n" + `{"a.b":"c"}` + "\n"
	ev, err := decodeEvent(flowfabric.FeedCompletions, 7, "{fp:7}", 3, "completed"+head+"failed\n1\nfail\n\ntransient\nlost\nin space\n")
	if err != nil {
		t.Fatal(err)
	}
	want := flowfabric.Event{Feed: flowfabric.FeedCompletions, Kind: "completed", EventID: "7-3", Partition: 7, Seq: 3, ExecutionID: testID,
		Namespace: "ns", LaneID: "lane", Tags: map[string]string{"a.b": "c"}, At: 1000, AttemptIndex: ptrTo(uint32(2)), AttemptID: testAttempt,
		Outcome: flowfabric.OutcomeFailed, PublicState: flowfabric.PublicFailed, ReplayCount: ptrTo(uint32(1)), Cause: "fail",
		FailureCategory: "transient", FailureReason: "lost\nin space\n"}
	same(t, "completion", ev, want)

	v := "reclaimed" + head + strings.Join([]string{testLease, "5", "w", "w-1", "9000", "", oldLease, "4", "v-1", "1", ""}, "\n")
	ev, err = decodeEvent(flowfabric.FeedLeases, 7, "{fp:7}", 1, v)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "reclaimed", []any{ev.LeaseID, ev.LeaseEpoch, ev.ExpiresAt, ev.PrevLeaseID, ev.PrevLeaseEpoch, ev.PrevWorkerInstanceID, *ev.PrevAttemptIndex, ev.Reason},
		[]any{flowfabric.LeaseID(testLease), uint64(5), flowfabric.Millis(9000), flowfabric.LeaseID(oldLease), uint64(4),
			flowfabric.WorkerInstanceID("v-1"), uint32(1), ""})
	same(t, "places", []any{eventExecution(v), eventAt(v)}, []any{testUUID, flowfabric.Millis(1000)})

	for _, bad := range []string{"", "completed", "completed" + head, "completed" + head + "failed\nx\nfail\n\n\n", "completed\nnobody\nns\nlane\n\n1\n\n\n\nfailed\n0\nfail\n\n\n",
		"completed\n" + testUUID + "\nns\nlane\n\n1\n\n\n{\nfailed\n0\nfail\n\n\n"} {
		ev, err := decodeEvent(flowfabric.FeedCompletions, 7, "{fp:7}", 9, bad)
		if flowfabric.CodeOf(err) != flowfabric.CodeCorruptRecord || ev.EventID != "7-9" {
			t.Errorf("%q gives %v, %v", bad, ev.EventID, err)
		}
	}
}
