package remote

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flowfabric/flowfabric"
)

const (
	testWait    = flowfabric.WaitpointID("0b1e0000-0000-4000-8000-000000000001")
	testPending = flowfabric.WaitpointID("0b1e0000-0000-4000-8000-000000000002")
	testSus     = flowfabric.SuspensionID("c3a70000-0000-4000-8000-000000000001")
	testSignal  = flowfabric.SignalID("51630000-0000-4000-8000-000000000001")
	testToken   = "k1:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	testSecret  = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

// byToken compares tokens by their value, which never prints.
var byToken = cmp.Comparer(func(a, b flowfabric.WaitpointToken) bool { return a.Reveal() == b.Reveal() })

func testSuspend(key string) flowfabric.SuspendArgs {
	index := uint32(2)
	return flowfabric.SuspendArgs{
		ExecutionID: testID, Fence: testFence(&index), SuspensionID: testSus, ReasonCode: flowfabric.SuspendWaitingForApproval,
		Waitpoints:      []flowfabric.WaitpointBinding{{WaitpointID: testWait, WaitpointKey: "a"}, {WaitpointID: testPending, UsePending: true}},
		ResumeCondition: flowfabric.Count(2, flowfabric.DistinctSources, flowfabric.ByName("approved").FromSource("user"), "a", "b"),
		TimeoutMs:       ptr[int64](5000), TimeoutBehavior: flowfabric.TimeoutEscalate, ContinuationMetadataPointer: "p", IdempotencyKey: key,
		ResumePolicy: flowfabric.ResumePolicy{ResumeDelayMs: 7, ConsumeMatchedSignals: ptr(false)},
	}
}

// TestWaitRoutes is TestRoutes for suspensions, waitpoints, signals and secrets.
func TestWaitRoutes(t *testing.T) {
	type result = []any
	index := uint32(2)
	token := flowfabric.NewWaitpointToken(testToken)
	resumed := flowfabric.ResumeSignal{SignalID: testSignal, SignalName: "n", SignalCategory: "custom", SourceType: "user", SourceIdentity: "ada", CorrelationID: "c", AcceptedAt: 5, Payload: []byte{1, 2}, PayloadEncoding: "json"}
	const resumedJSON = `{"signal_id":"51630000-0000-4000-8000-000000000001","signal_name":"n","signal_category":"custom","source_type":"user","source_identity":"ada","correlation_id":"c","accepted_at":5,"payload":"AQI=","payload_encoding":"json"}`
	recorded := flowfabric.RecordedSignal{SignalID: testSignal, ExecutionID: testID, WaitpointID: testWait, WaitpointKey: "a", SignalName: "n", SignalCategory: "custom", SourceType: "user",
		SourceIdentity: "ada", AcceptedAt: 5, Seq: 3, Effect: flowfabric.EffectResumed, ConsumedAt: 6, ConsumedBySuspensionID: testSus}
	const recordedJSON = `{"signal_id":"51630000-0000-4000-8000-000000000001","execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","waitpoint_id":"0b1e0000-0000-4000-8000-000000000001",` +
		`"waitpoint_key":"a","signal_name":"n","signal_category":"custom","source_type":"user","source_identity":"ada","accepted_at":5,"seq":3,"effect":"resume_condition_satisfied","consumed_at":6,"consumed_by_suspension_id":"c3a70000-0000-4000-8000-000000000001"`
	const suspendJSON = `{` + fenceJSON + `,"suspension_id":"c3a70000-0000-4000-8000-000000000001","reason_code":"waiting_for_approval",` +
		`"waitpoints":[{"waitpoint_id":"0b1e0000-0000-4000-8000-000000000001","waitpoint_key":"a"},{"waitpoint_id":"0b1e0000-0000-4000-8000-000000000002"}],` +
		`"resume_condition":{"v":1,"kind":"count","matcher":{"kind":"by_name","name":"approved","source_type":"user"},"n":2,"count_kind":"distinct_sources","waitpoints":["a","b"]},` +
		`"resume_policy":{"resume_target":"runnable","resume_delay_ms":7,"close_waitpoint_on_resume":true,"consume_matched_signals":false},"requested_by":"worker",` +
		`"timeout_ms":5000,"timeout_behavior":"escalate","continuation_metadata_pointer":"p","idempotency_key":"i"}`
	const waitpointPath = testPath + "/waitpoints/0b1e0000-0000-4000-8000-000000000001"
	rotated := flowfabric.RotateWaitpointSecretArgs{NewKID: "k2", NewSecretHex: testSecret, GraceMs: ptr[int64](0)}

	for name, tc := range map[string]struct {
		do     func(*Backend) result
		answer reply
		line   string
		body   string
		want   result
	}{
		"suspend": {func(b *Backend) result { return pair(b.Suspend(t.Context(), testSuspend("i"))) },
			ok(`{"outcome":"suspended","suspension_id":"c3a70000-0000-4000-8000-000000000001","waitpoints":[{"waitpoint_id":"0b1e0000-0000-4000-8000-000000000001","waitpoint_key":"a","token":"` + testToken + `"}],"replayed":true}`),
			"POST " + testPath + "/attempts/2/suspend", suspendJSON,
			result{flowfabric.SuspendResult{Outcome: flowfabric.SuspendSuspended, SuspensionID: testSus, Replayed: true, Waitpoints: []flowfabric.BoundWaitpoint{{WaitpointID: testWait, WaitpointKey: "a", Token: token}}}, nil}},
		"already satisfied": {func(b *Backend) result { return pair(b.Suspend(t.Context(), testSuspend("i"))) },
			ok(`{"outcome":"already_satisfied","suspension_id":"c3a70000-0000-4000-8000-000000000001","waitpoints":[{"waitpoint_id":"0b1e0000-0000-4000-8000-000000000001","waitpoint_key":"a"}],"signals":[` + resumedJSON + `],"replayed":false}`),
			"POST " + testPath + "/attempts/2/suspend", suspendJSON,
			result{flowfabric.SuspendResult{Outcome: flowfabric.SuspendAlreadySatisfied, SuspensionID: testSus, Waitpoints: []flowfabric.BoundWaitpoint{{WaitpointID: testWait, WaitpointKey: "a"}}, Signals: []flowfabric.ResumeSignal{resumed}}, nil}},
		"resume": {func(b *Backend) result {
			return pair(b.ResumeExecution(t.Context(), flowfabric.ResumeExecutionArgs{ExecutionID: testID, Reason: "r", ResumeDelayMs: ptr[int64](0)}))
		}, ok(`{"outcome":"resumed","public_state":"waiting"}`), "POST " + testPath + "/resume", `{"reason":"r","resume_delay_ms":0}`, result{flowfabric.ResumeExecutionResult{PublicState: flowfabric.PublicWaiting}, nil}},
		"get suspension": {func(b *Backend) result { return pair(b.GetSuspension(t.Context(), testID)) },
			ok(`{"suspension_id":"c3a70000-0000-4000-8000-000000000001","execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","attempt_id":"bbbbbbbb-0000-4000-8000-000000000001","attempt_index":2,"lease_epoch":3,` +
				`"waitpoints":[],"reason_code":"waiting_for_approval","requested_by":"worker","created_at":4,"resume_condition":{"v":1,"kind":"operator_only"},` +
				`"resume_policy":{"resume_target":"runnable","resume_delay_ms":0,"close_waitpoint_on_resume":true,"consume_matched_signals":true},"signal_count":1,"matched_signal_count":0,` +
				`"progress":[{"path":"<root>","kind":"operator_only","satisfied":false,"satisfier_count":0,"sources_by_type":{"user":2}}],"from_the_future":1}`),
			"GET " + testPath + "/suspension", "",
			result{&flowfabric.Suspension{SuspensionID: testSus, ExecutionID: testID, AttemptID: testTry, AttemptIndex: 2, LeaseEpoch: 3, ReasonCode: flowfabric.SuspendWaitingForApproval, RequestedBy: flowfabric.RequestedByWorker,
				CreatedAt: 4, ResumeCondition: flowfabric.OperatorOnly(), ResumePolicy: flowfabric.ResumePolicy{}.WithDefaults(), SignalCount: 1,
				Progress: []flowfabric.ConditionProgress{{Path: "<root>", Kind: flowfabric.ConditionOperatorOnly, SourcesByType: map[string]int{"user": 2}}}}, nil}},
		"never suspended": {func(b *Backend) result { return pair(b.GetSuspension(t.Context(), testID)) },
			problem(404, "suspension_not_found", "not_found", false), "GET " + testPath + "/suspension", "", result{(*flowfabric.Suspension)(nil), nil}},
		"create waitpoint": {func(b *Backend) result {
			return pair(b.CreatePendingWaitpoint(t.Context(), flowfabric.CreatePendingWaitpointArgs{ExecutionID: testID, Fence: testFence(&index), WaitpointID: testWait, ExpiresInMs: 9}))
		}, reply{status: 201, body: `{"waitpoint_id":"0b1e0000-0000-4000-8000-000000000001","waitpoint_key":"a","token":"` + testToken + `","expires_at":9}`},
			"POST " + testPath + "/attempts/2/waitpoints", `{` + fenceJSON + `,"waitpoint_key":"wpk:0b1e0000-0000-4000-8000-000000000001","expires_in_ms":9,"waitpoint_id":"0b1e0000-0000-4000-8000-000000000001"}`,
			result{flowfabric.PendingWaitpoint{WaitpointID: testWait, WaitpointKey: "a", Token: token, ExpiresAt: 9}, nil}},
		"close waitpoint": {func(b *Backend) result {
			return pair(b.CloseWaitpoint(t.Context(), flowfabric.CloseWaitpointArgs{ExecutionID: testID, WaitpointID: testWait, Fence: testFence(&index)}))
		}, ok(`{"outcome":"closed"}`), "POST " + testPath + "/attempts/2/waitpoints/0b1e0000-0000-4000-8000-000000000001/close", `{` + fenceJSON + `,"reason":"proactive_close"}`, result{flowfabric.WaitpointNowClosed, nil}},
		"close waitpoint by operator": {func(b *Backend) result {
			return pair(b.CloseWaitpoint(t.Context(), flowfabric.CloseWaitpointArgs{ExecutionID: testID, WaitpointID: testWait, Source: flowfabric.SourceOperatorOverride, Reason: "r"}))
		}, ok(`{"outcome":"already_closed"}`), "POST " + waitpointPath + "/close", `{"reason":"r"}`, result{flowfabric.WaitpointAlreadyClosed, nil}},
		"list waitpoints": {func(b *Backend) result {
			return pair(b.ListPendingWaitpoints(t.Context(), flowfabric.ListPendingWaitpointsArgs{ExecutionID: testID, Limit: 2}))
		}, ok(`{"items":[{"waitpoint_id":"0b1e0000-0000-4000-8000-000000000001","waitpoint_key":"a","execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","state":"pending","condition_kind":"none","required_signal_names":[],"created_at":1,"expires_at":2,"token_kid":"k1","token_fingerprint":"0011223344556677"}],"next_cursor":null}`),
			"GET " + testPath + "/pending-waitpoints?limit=2", "", result{flowfabric.ListPendingWaitpointsResult{Waitpoints: []flowfabric.Waitpoint{{WaitpointID: testWait, WaitpointKey: "a", ExecutionID: testID, State: flowfabric.WaitpointPending,
				ConditionKind: flowfabric.ShownNone, RequiredSignalNames: []string{}, CreatedAt: 1, ExpiresAt: 2, TokenKID: "k1", TokenFingerprint: "0011223344556677"}}}, nil}},
		"read token": {func(b *Backend) result { return pair(b.ReadWaitpointToken(t.Context(), testID, testWait)) }, ok(`{"token":"` + testToken + `"}`), "GET " + waitpointPath + "/token", "", result{token, nil}},
		"read no token": {func(b *Backend) result { return pair(b.ReadWaitpointToken(t.Context(), testID, testWait)) },
			problem(404, "waitpoint_not_found", "not_found", false), "GET " + waitpointPath + "/token", "", result{flowfabric.WaitpointToken{}, nil}},
		"deliver": {func(b *Backend) result {
			return pair(b.DeliverSignal(t.Context(), flowfabric.DeliverSignalArgs{ExecutionID: testID, WaitpointID: testWait, Token: token,
				Signal: flowfabric.Signal{SignalID: testSignal, Name: "n", SourceIdentity: "ada", Payload: []byte{1, 2}, CorrelationID: "c", IdempotencyKey: "i", CreatedAt: 4}}))
		}, ok(`{"outcome":"accepted","signal_id":"51630000-0000-4000-8000-000000000001","effect":"buffered_for_pending_waitpoint","requires_confirmation":true}`), "POST " + testPath + "/signal",
			`{"waitpoint_id":"0b1e0000-0000-4000-8000-000000000001","waitpoint_token":"` + testToken + `","signal_name":"n","signal_id":"51630000-0000-4000-8000-000000000001","signal_category":"custom","source_type":"external_api","source_identity":"ada",` +
				`"payload":"AQI=","payload_encoding":"json","correlation_id":"c","idempotency_key":"i","created_at":4,"dedup_ttl_ms":86400000}`,
			result{flowfabric.DeliverSignalResult{Outcome: flowfabric.DeliverAccepted, SignalID: testSignal, Effect: flowfabric.EffectBuffered, RequiresConfirmation: true}, nil}},
		"approve": {func(b *Backend) result {
			return pair(b.DeliverApprovalSignal(t.Context(), flowfabric.DeliverApprovalSignalArgs{ExecutionID: testID, LaneID: "l", WaitpointID: testWait, SignalID: testSignal, SignalName: "approved", IdempotencySuffix: "1", DecidedBy: "ada"}))
		}, ok(`{"outcome":"duplicate","existing_signal_id":"51630000-0000-4000-8000-000000000001","effect":"no_op"}`), "POST " + testPath + "/approval-signal",
			`{"lane_id":"l","waitpoint_id":"0b1e0000-0000-4000-8000-000000000001","signal_name":"approved","idempotency_suffix":"1","decided_by":"ada","signal_id":"51630000-0000-4000-8000-000000000001"}`,
			result{flowfabric.DeliverSignalResult{Outcome: flowfabric.DeliverDuplicate, SignalID: testSignal, Effect: flowfabric.EffectNoOp}, nil}},
		"list signals": {func(b *Backend) result {
			return pair(b.ListSignals(t.Context(), flowfabric.ListSignalsArgs{ExecutionID: testID, WaitpointID: testWait, UnconsumedOnly: true, Limit: 2}))
		}, ok(`{"items":[` + recordedJSON + `}],"next_cursor":null}`), "GET " + testPath + "/signals?limit=2&unconsumed_only=true&waitpoint_id=0b1e0000-0000-4000-8000-000000000001", "",
			result{flowfabric.ListSignalsResult{Signals: []flowfabric.RecordedSignal{recorded}}, nil}},
		"get signal": {func(b *Backend) result { return pair(b.GetSignal(t.Context(), testID, testSignal)) }, ok(recordedJSON + `,"payload":"AP8=","payload_encoding":"json"}`),
			"GET " + testPath + "/signals/51630000-0000-4000-8000-000000000001", "", result{func() *flowfabric.RecordedSignal {
				s := recorded
				s.Payload, s.PayloadEncoding = []byte{0, 255}, "json"
				return &s
			}(), nil}},
		"rotate": {func(b *Backend) result { return pair(b.RotateWaitpointSecret(t.Context(), rotated)) },
			ok(`{"rotated":1,"failed":[],"new_kid":"k2","copies":[{"partition":4,"outcome":"rotated","previous_kid":"k1","removed":2}]}`), "POST /v1/admin/rotate-waitpoint-secret",
			`{"new_kid":"k2","new_secret_hex":"` + testSecret + `","grace_ms":0}`,
			result{flowfabric.RotateWaitpointSecretResult{NewKID: "k2", Copies: []flowfabric.RotatedCopy{{Partition: 4, Outcome: flowfabric.RotateRotated, PreviousKID: "k1", Removed: 2}}}, nil}},
		"kids": {func(b *Backend) result { return pair(b.ListWaitpointKIDs(t.Context())) }, ok(`{"current_kid":"k2","verifying":[{"kid":"k1","expires_at":8}]}`), "GET /v1/admin/waitpoint-secrets", "",
			result{flowfabric.WaitpointKIDs{CurrentKID: "k2", Verifying: []flowfabric.VerifyingKey{{KID: "k1", ExpiresAt: 8}}}, nil}},
		"no kids": {func(b *Backend) result { return pair(b.ListWaitpointKIDs(t.Context())) }, ok(`{"current_kid":null,"verifying":[]}`), "GET /v1/admin/waitpoint-secrets", "",
			result{flowfabric.WaitpointKIDs{Verifying: []flowfabric.VerifyingKey{}}, nil}},
	} {
		t.Run(name, func(t *testing.T) {
			b, s := open(t, tc.answer)
			got := tc.do(b)
			if diff := cmp.Diff(tc.want, got, byToken); diff != "" {
				t.Errorf("result: %s", diff)
			}
			if diff := cmp.Diff([]heard{{tc.line, tc.body}}, s.heard, cmp.AllowUnexported(heard{})); diff != "" {
				t.Errorf("request: %s", diff)
			}
		})
	}
}

// TestWaitRoutesOfTwoCalls: what asks something before, or goes on by a cursor.
func TestWaitRoutesOfTwoCalls(t *testing.T) {
	const parts = `{"num_flow_partitions":256,"num_budget_partitions":32,"num_quota_partitions":32}`
	b, s := open(t, ok(parts), ok(`{"items":[{"execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","suspended_at":1,"timeout_at":2,"reason_code":"step_boundary"}],"next_cursor":"c2"}`))
	r, err := b.ListSuspended(t.Context(), flowfabric.ListSuspendedArgs{Partition: ptr[uint16](0), Namespaces: []flowfabric.Namespace{"n"}, Cursor: "c1", Limit: 1})
	want := flowfabric.ListSuspendedResult{Executions: []flowfabric.SuspendedExecution{{ExecutionID: testID, SuspendedAt: 1, TimeoutAt: 2, ReasonCode: flowfabric.SuspendStepBoundary}}, NextCursor: "c2"}
	if diff := cmp.Diff(want, r); diff != "" || err != nil {
		t.Errorf("suspended: %v %s", err, diff)
	}
	if got := s.heard[1].line; got != "GET /v1/suspended?cursor=c1&limit=1&namespace=n&partition=0" {
		t.Errorf("asked %s", got)
	}
	if _, err := b.ListSuspended(t.Context(), flowfabric.ListSuspendedArgs{Partition: ptr[uint16](256)}); !errors.Is(err, flowfabric.ErrInvalidInput) {
		t.Errorf("partition 256: %v", err)
	}

	snapshot := `{"execution_id":"` + string(testID) + `","total_attempt_count":4,"current_attempt":{"attempt_id":"` + string(testTry) + `","attempt_index":3}}`
	b, s = open(t, ok(snapshot), ok(`{"items":[],"next_cursor":null}`))
	signals, err := b.ObserveSignals(t.Context(), flowfabric.ObserveSignalsArgs{ExecutionID: testID, AttemptID: testTry})
	if err != nil || len(signals) != 0 {
		t.Errorf("observed %v, %v", signals, err)
	}
	if diff := cmp.Diff([]heard{{"GET " + testPath, ""}, {"POST " + testPath + "/attempts/3/resume-signals", `{"fence":{"attempt_id":"bbbbbbbb-0000-4000-8000-000000000001"}}`}}, s.heard, cmp.AllowUnexported(heard{})); diff != "" {
		t.Errorf("requests: %s", diff)
	}

	// The cursors of a server are read, and made again for the next page.
	b, s = open(t, ok(`{"items":[],"next_cursor":null}`))
	if _, err := b.ListSignals(t.Context(), flowfabric.ListSignalsArgs{ExecutionID: testID, After: 7}); err != nil {
		t.Fatal(err)
	}
	_, cursor, _ := strings.Cut(s.heard[0].line, "cursor=")
	b, _ = open(t, ok(`{"items":[],"next_cursor":"`+cursor+`"}`))
	if r, err := b.ListSignals(t.Context(), flowfabric.ListSignalsArgs{ExecutionID: testID}); err != nil || r.Next != 7 {
		t.Errorf("next signal %d, %v", r.Next, err)
	}
	if _, err := b.ListPendingWaitpoints(t.Context(), flowfabric.ListPendingWaitpointsArgs{ExecutionID: testID}); !errors.Is(err, flowfabric.ErrStoreFault) {
		t.Errorf("a cursor of another list: %v", err)
	}
}

// TestWaitRepeats: what is repeated by itself after a lost answer, with the same
// identifiers, and what is not.
func TestWaitRepeats(t *testing.T) {
	down := problem(503, "store_unavailable", "retryable_transport", true)
	index := uint32(2)
	for name, tc := range map[string]struct {
		do    func(*Backend) error
		calls int
	}{
		"suspend with a key":    {func(b *Backend) error { _, err := b.Suspend(t.Context(), testSuspend("i")); return err }, 4},
		"suspend without a key": {func(b *Backend) error { _, err := b.Suspend(t.Context(), testSuspend("")); return err }, 1},
		"create waitpoint": {func(b *Backend) error {
			_, err := b.CreatePendingWaitpoint(t.Context(), flowfabric.CreatePendingWaitpointArgs{ExecutionID: testID, Fence: testFence(&index), ExpiresInMs: 9})
			return err
		}, 4},
		"deliver": {func(b *Backend) error {
			_, err := b.DeliverSignal(t.Context(), flowfabric.DeliverSignalArgs{ExecutionID: testID, WaitpointID: testWait, Signal: flowfabric.Signal{Name: "n", SourceIdentity: "s"}})
			return err
		}, 4},
		"approve": {func(b *Backend) error {
			_, err := b.DeliverApprovalSignal(t.Context(), flowfabric.DeliverApprovalSignalArgs{ExecutionID: testID, LaneID: "l", WaitpointID: testWait, SignalName: "n", IdempotencySuffix: "1", DecidedBy: "ada"})
			return err
		}, 4},
		"resume": {func(b *Backend) error {
			_, err := b.ResumeExecution(t.Context(), flowfabric.ResumeExecutionArgs{ExecutionID: testID})
			return err
		}, 1},
		"rotate": {func(b *Backend) error {
			_, err := b.RotateWaitpointSecret(t.Context(), flowfabric.RotateWaitpointSecretArgs{NewKID: "k", NewSecretHex: testSecret})
			return err
		}, 1},
	} {
		b, s := open(t, down)
		if err := tc.do(b); !errors.Is(err, flowfabric.ErrStoreUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if len(s.heard) != tc.calls {
			t.Errorf("%s: %d calls, want %d", name, len(s.heard), tc.calls)
		}
		for _, h := range s.heard {
			if h != s.heard[0] {
				t.Errorf("%s: repeated as %v after %v", name, h, s.heard[0])
			}
		}
		var body map[string]any
		if err := json.Unmarshal([]byte(s.heard[0].body), &body); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWaitRefusedHere: input that no server needs to see.
func TestWaitRefusedHere(t *testing.T) {
	b, s := open(t, ok(`{}`))
	bad := testSuspend("")
	bad.Waitpoints = nil
	for name, tc := range map[string]struct {
		err  error
		want error
	}{
		"suspend": {second(b.Suspend(t.Context(), bad)), flowfabric.ErrInvalidInput},
		"resume for a budget": {second(b.ResumeExecution(t.Context(), flowfabric.ResumeExecutionArgs{ExecutionID: testID, Trigger: flowfabric.ResumeTriggerBudgetRecovered})),
			flowfabric.ErrUnsupportedOperation},
		"suspension":      {second(b.GetSuspension(t.Context(), "x")), flowfabric.ErrInvalidExecutionID},
		"token":           {second(b.ReadWaitpointToken(t.Context(), testID, "x")), flowfabric.ErrInvalidInput},
		"signal":          {second(b.GetSignal(t.Context(), testID, "..")), flowfabric.ErrInvalidInput},
		"waitpoints":      {second(b.ListPendingWaitpoints(t.Context(), flowfabric.ListPendingWaitpointsArgs{ExecutionID: testID, After: "x"})), flowfabric.ErrInvalidCursor},
		"signals":         {second(b.ListSignals(t.Context(), flowfabric.ListSignalsArgs{ExecutionID: testID, Limit: 1001})), flowfabric.ErrInvalidInput},
		"observe":         {second(b.ObserveSignals(t.Context(), flowfabric.ObserveSignalsArgs{ExecutionID: testID})), flowfabric.ErrInvalidInput},
		"rotate":          {second(b.RotateWaitpointSecret(t.Context(), flowfabric.RotateWaitpointSecretArgs{NewKID: "k"})), flowfabric.ErrInvalidSecretHex},
		"large payload":   {second(b.DeliverSignal(t.Context(), flowfabric.DeliverSignalArgs{ExecutionID: testID, WaitpointID: testWait, Signal: flowfabric.Signal{Name: "n", SourceIdentity: "s", Payload: make([]byte, 65_537)}})), flowfabric.ErrPayloadTooLarge},
		"close, no fence": {second(b.CloseWaitpoint(t.Context(), flowfabric.CloseWaitpointArgs{ExecutionID: testID, WaitpointID: testWait})), flowfabric.ErrFenceRequired},
	} {
		if !errors.Is(tc.err, tc.want) {
			t.Errorf("%s: %v, want %v", name, tc.err, tc.want)
		}
	}
	if len(s.heard) != 0 {
		t.Errorf("the server heard %v", s.heard)
	}
}
