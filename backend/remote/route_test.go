package remote

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flowfabric/flowfabric"
)

const (
	testID    = flowfabric.ExecutionID("{fp:7}:11111111-2222-4333-8444-555555555555")
	testPath  = "/v1/executions/%7Bfp:7%7D:11111111-2222-4333-8444-555555555555"
	testLease = flowfabric.LeaseID("aaaaaaaa-0000-4000-8000-000000000001")
	testTry   = flowfabric.AttemptID("bbbbbbbb-0000-4000-8000-000000000001")
	testNonce = "cccccccc-0000-4000-8000-000000000001"

	fenceJSON = `"fence":{"lease_id":"aaaaaaaa-0000-4000-8000-000000000001","lease_epoch":3,"attempt_id":"bbbbbbbb-0000-4000-8000-000000000001"}`
	taskJSON  = `{"execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","attempt_index":2,"attempt_id":"bbbbbbbb-0000-4000-8000-000000000001",` +
		`"attempt_type":"retry","claim_kind":"fresh","lane_id":"l","namespace":"n","execution_kind":"k","payload":"AQI=","payload_encoding":"json","tags":{"a.b":"c"},` +
		`"policy_snapshot":{"fallback_index":0,"lane_id":"l"},"lease_reclaim_count":1,"worker_instance_id":"i",` + fenceJSON + `,"lease_expires_at":30000,"from_the_future":{}}`
	snapshotJSON = `{"execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","lane_id":"l","namespace":"n","execution_kind":"k","priority":5,"public_state":"active",` +
		`"lifecycle_phase":"active","ownership_state":"leased","eligibility_state":"not_applicable","terminal_outcome":"none","attempt_state":"running_attempt",` +
		`"current_attempt":{"attempt_id":"bbbbbbbb-0000-4000-8000-000000000001","attempt_index":2},"current_lease":{"lease_epoch":3,"worker_instance_id":"i","expires_at":30000,"attempt_index":2,"last_heartbeat_at":10},` +
		`"total_attempt_count":3,"retry_count":2,"lease_reclaim_count":0,"replay_count":0,"created_at":1,"last_transition_at":2,"last_mutation_at":3,"tags":{}}`
	storeNow = "1700000000123"
)

func testFence(index *uint32) flowfabric.Fence {
	return flowfabric.Fence{LeaseID: testLease, LeaseEpoch: 3, AttemptID: testTry, AttemptIndex: index}
}

func ptr[T any](v T) *T { return &v }

// heard is a request as the server saw it.
type heard struct {
	line string // method and path with query
	body string
}

// reply is what the server answers.
type reply struct {
	status int
	body   string
	header http.Header
}

// script is a server that answers with replies in order and remembers what it
// heard. The last reply stays.
type script struct {
	mu      sync.Mutex
	replies []reply
	heard   []heard
	headers []http.Header
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	line := r.Method + " " + r.URL.EscapedPath()
	if r.URL.RawQuery != "" {
		line += "?" + r.URL.RawQuery
	}
	s.mu.Lock()
	s.heard = append(s.heard, heard{line, string(body)})
	s.headers = append(s.headers, r.Header)
	answer := s.replies[0]
	if len(s.replies) > 1 {
		s.replies = s.replies[1:]
	}
	s.mu.Unlock()
	for k, v := range answer.header {
		w.Header()[k] = v
	}
	w.Header().Set("FF-Store-Time-Ms", storeNow)
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(answer.status)
	_, _ = io.WriteString(w, answer.body)
}

// open starts a server that answers with replies, and a backend over it that does
// not rest between repeats.
func open(t *testing.T, replies ...reply) (*Backend, *script) {
	t.Helper()
	s := &script{replies: replies}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	b, err := Open(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	b.pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	return b, s
}

func ok(body string) reply { return reply{status: 200, body: body} }

// TestRoutes makes every call of the contract against an answer as the server
// gives it, and checks what was sent and what came of the answer.
func TestRoutes(t *testing.T) {
	type result = []any
	index := uint32(2)
	task := flowfabric.ClaimedExecution{
		ExecutionID: testID, AttemptIndex: 2, AttemptID: testTry, AttemptType: flowfabric.AttemptTypeRetry, ClaimKind: flowfabric.ClaimNew,
		LaneID: "l", Namespace: "n", Kind: "k", Payload: []byte{1, 2}, PayloadEncoding: "json", Tags: map[string]string{"a.b": "c"},
		PolicySnapshot: flowfabric.PolicySnapshot{LaneID: "l"}, LeaseReclaimCount: 1, WorkerInstanceID: "i", Fence: testFence(nil),
		LeaseExpiresAt: 30000, StoreTime: 1700000000123,
	}
	event := flowfabric.Event{Feed: flowfabric.FeedLeases, Kind: "reclaimed", EventID: "7-9", Partition: 7, Seq: 9, ExecutionID: testID, Namespace: "n", LaneID: "l", At: 5,
		LeaseID: testLease, LeaseEpoch: 3, AttemptID: testTry, AttemptIndex: &index, WorkerID: "w", WorkerInstanceID: "i", PrevLeaseID: "p", PrevLeaseEpoch: 2}
	worker := flowfabric.WorkerRegistration{Namespace: "n", WorkerID: "w", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"l"}, Capabilities: []string{},
		LivenessTTLMs: 60000, RegisteredAt: 1, LastHeartbeatAt: 2, ExpiresAt: 60002}
	const workerJSON = `{"namespace":"n","worker_id":"w","worker_instance_id":"i","lanes":["l"],"capabilities":[],"implicit":false,"liveness_ttl_ms":60000,"registered_at":1,"last_heartbeat_at":2}`
	lane := flowfabric.Lane{LaneID: "my lane", State: flowfabric.LaneActive, SchedulingWeight: 1, Revision: 4}
	const laneJSON = `"lane_id":"my lane","state":"active","scheduling_weight":1,"max_concurrency":0,"revision":4,"created_at":0,"updated_at":0`
	scanner := flowfabric.ScannerStatus{Name: "tick", IntervalMs: 250}

	for name, tc := range map[string]struct {
		do     func(*Backend) result
		answer reply
		line   string
		body   string
		want   result
	}{
		"ping": {func(b *Backend) result { return result{b.Ping(t.Context())} }, ok(`{"status":"ok"}`), "GET /healthz", "", result{nil}},
		"partition_config": {func(b *Backend) result { return pair(b.PartitionConfig(t.Context())) },
			ok(`{"num_flow_partitions":256,"num_budget_partitions":32,"num_quota_partitions":32}`), "GET /v1/partition-config", "", result{flowfabric.DefaultPartitionConfig(), nil}},
		"describe": {func(b *Backend) result { return pair(b.Describe(t.Context())) },
			ok(`{"family":"sqlite","version":"3","server_version":"1.2.3","deployment_id":"d","api_version":"v1","supports":{},"limits":{}}`), "GET /v1/capabilities", "",
			result{flowfabric.BackendInfo{Family: "remote", Version: "1.2.3", DeploymentID: "d"}, nil}},

		"create": {func(b *Backend) result {
			return pair(flowfabric.CreateExecution(t.Context(), b, flowfabric.CreateExecutionArgs{Namespace: "n", LaneID: "l", Kind: "k", Payload: []byte{255}, CreatorIdentity: "me",
				FlowID: "dddddddd-0000-4000-8000-000000000001", Priority: ptr[int32](0), Tags: map[string]string{"a.b": "c"}, Policy: json.RawMessage(`{"max_reclaim_count":5}`)}))
		}, reply{status: 201, body: `{"outcome":"created","execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","public_state":"waiting"}`},
			"POST /v1/executions", `{"namespace":"n","lane_id":"l","execution_kind":"k","payload":"/w==","flow_id":"dddddddd-0000-4000-8000-000000000001","join_flow":false,"priority":0,"creator_identity":"me","tags":{"a.b":"c"},"policy":{"max_reclaim_count":5}}`,
			result{flowfabric.CreateExecutionResult{Outcome: flowfabric.OutcomeCreated, ExecutionID: testID, PublicState: flowfabric.PublicWaiting}, nil}},
		"create_batch": {func(b *Backend) result {
			one := flowfabric.CreateExecutionArgs{Namespace: "n", LaneID: "l", Kind: "k", CreatorIdentity: "me"}
			bad := one
			bad.Kind = "a b"
			items, err := b.CreateExecutions(t.Context(), []flowfabric.CreateExecutionArgs{one, bad, one})
			return result{items[0].Result.SameSpec, flowfabric.CodeOf(items[1].Err), flowfabric.CodeOf(items[2].Err), err}
		}, ok(`{"items":[{"outcome":"duplicate","execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","same_spec":true},{"problem":{"code":"lane_intake_closed","class":"admission_denied","retryable":false}}]}`),
			"POST /v1/executions/batch", `{"executions":[{"namespace":"n","lane_id":"l","execution_kind":"k","payload":"","creator_identity":"me"},{"namespace":"n","lane_id":"l","execution_kind":"k","payload":"","creator_identity":"me"}]}`,
			result{true, flowfabric.CodeInvalidInput, flowfabric.CodeLaneIntakeClosed, nil}},

		"complete": {func(b *Backend) result {
			return pair(flowfabric.CompleteExecution(t.Context(), b, flowfabric.CompleteExecutionArgs{ExecutionID: testID, Fence: testFence(&index), Result: []byte{}}))
		}, ok(`{"outcome":"completed","public_state":"completed","replayed":true}`), "POST " + testPath + "/attempts/2/complete", `{` + fenceJSON + `,"payload":""}`,
			result{flowfabric.CompleteExecutionResult{PublicState: flowfabric.PublicCompleted, Replayed: true}, nil}},
		"complete_override": {func(b *Backend) result {
			return pair(flowfabric.CompleteExecution(t.Context(), b, flowfabric.CompleteExecutionArgs{ExecutionID: testID, Source: flowfabric.SourceOperatorOverride, Result: []byte{1}, ResultEncoding: "x"}))
		}, ok(`{"outcome":"completed","public_state":"completed"}`), "POST " + testPath + "/complete", `{"payload":"AQ==","payload_encoding":"x"}`,
			result{flowfabric.CompleteExecutionResult{PublicState: flowfabric.PublicCompleted}, nil}},
		"fail": {func(b *Backend) result {
			return pair(b.FailExecution(t.Context(), flowfabric.FailExecutionArgs{ExecutionID: testID, Fence: testFence(&index), Reason: strings.Repeat("é", 3000), Category: "timeout"}))
		}, ok(`{"outcome":"retry_scheduled","delay_until":77,"next_attempt_index":3,"attempt_type":"retry","replayed":false}`), "POST " + testPath + "/attempts/2/fail",
			`{` + fenceJSON + `,"reason":"` + strings.Repeat("é", 2048) + `","category":"timeout"}`,
			result{flowfabric.FailExecutionResult{Outcome: flowfabric.FailRetryScheduled, DelayUntil: 77, NextAttemptIndex: 3, AttemptType: flowfabric.AttemptTypeRetry}, nil}},
		"fail_override": {func(b *Backend) result {
			return pair(b.FailExecution(t.Context(), flowfabric.FailExecutionArgs{ExecutionID: testID, Source: flowfabric.SourceOperatorOverride, Reason: "r"}))
		}, ok(`{"outcome":"terminal_failed","replayed":false}`), "POST " + testPath + "/fail", `{"reason":"r"}`, result{flowfabric.FailExecutionResult{Outcome: flowfabric.FailTerminal}, nil}},
		"cancel": {func(b *Backend) result {
			return pair(b.CancelExecution(t.Context(), flowfabric.CancelExecutionArgs{ExecutionID: testID, Source: flowfabric.SourceOperatorOverride, Reason: "r", RequestedBy: "me"}))
		}, ok(`{"outcome":"already_cancelled","cancellation_reason":"first","cancelled_by":"you"}`), "POST " + testPath + "/cancel", `{"reason":"r","requested_by":"me"}`,
			result{flowfabric.CancelExecutionResult{Outcome: flowfabric.CancelAlreadyCancelled, CancellationReason: "first", CancelledBy: "you"}, nil}},
		"cancel_cascade": {func(b *Backend) result {
			return pair(b.CancelExecution(t.Context(), flowfabric.CancelExecutionArgs{ExecutionID: testID, Source: flowfabric.SourceFlowCascade}))
		}, ok(`{"outcome":"cancelled","execution_id":"x","previous_phase":"runnable","public_state":"cancelled"}`), "POST " + testPath + "/cancel", `{"reason":"","requested_by":"flow_cascade"}`,
			result{flowfabric.CancelExecutionResult{Outcome: flowfabric.CancelCancelled, PreviousPhase: flowfabric.PhaseRunnable, PublicState: flowfabric.PublicCancelled}, nil}},
		"cancel_holder": {func(b *Backend) result {
			return pair(b.CancelExecution(t.Context(), flowfabric.CancelExecutionArgs{ExecutionID: testID, Fence: testFence(&index), Reason: "r"}))
		}, ok(`{"outcome":"cancelled","replayed":true,"public_state":"cancelled","previous_phase":"active"}`), "POST " + testPath + "/attempts/2/cancel", `{` + fenceJSON + `,"reason":"r"}`,
			result{flowfabric.CancelExecutionResult{Outcome: flowfabric.CancelCancelled, PreviousPhase: flowfabric.PhaseActive, PublicState: flowfabric.PublicCancelled, Replayed: true}, nil}},
		"delay": {func(b *Backend) result {
			return pair(b.DelayExecution(t.Context(), flowfabric.DelayExecutionArgs{ExecutionID: testID, Fence: testFence(&index), DelayMs: ptr[int64](0)}))
		}, ok(`{"outcome":"delayed","delay_until":5,"public_state":"delayed","replayed":false}`), "POST " + testPath + "/attempts/2/delay", `{` + fenceJSON + `,"delay_ms":0}`,
			result{flowfabric.DelayExecutionResult{DelayUntil: 5, PublicState: flowfabric.PublicDelayed}, nil}},
		"delay_override": {func(b *Backend) result {
			return pair(b.DelayExecution(t.Context(), flowfabric.DelayExecutionArgs{ExecutionID: testID, Source: flowfabric.SourceOperatorOverride, DelayUntil: 9}))
		}, ok(`{"outcome":"delayed","delay_until":9,"public_state":"delayed","replayed":false}`), "POST " + testPath + "/delay", `{"delay_until":9}`,
			result{flowfabric.DelayExecutionResult{DelayUntil: 9, PublicState: flowfabric.PublicDelayed}, nil}},
		"progress": {func(b *Backend) result {
			return result{b.UpdateProgress(t.Context(), flowfabric.UpdateProgressArgs{ExecutionID: testID, Fence: testFence(&index), Pct: ptr[int32](0), Message: ptr("")})}
		}, ok(`{"outcome":"updated"}`), "POST " + testPath + "/attempts/2/progress", `{` + fenceJSON + `,"progress_pct":0,"progress_message":""}`, result{nil}},
		"replay": {func(b *Backend) result {
			return pair(b.ReplayExecution(t.Context(), flowfabric.ReplayExecutionArgs{ExecutionID: testID, ExpectedReplayCount: ptr[uint32](0)}))
		}, ok(`{"outcome":"replayed","public_state":"waiting","replay_count":1,"replayed":true}`), "POST " + testPath + "/replay", `{"expected_replay_count":0}`,
			result{flowfabric.ReplayExecutionResult{PublicState: flowfabric.PublicWaiting, ReplayCount: 1, Replayed: true}, nil}},
		"priority": {func(b *Backend) result {
			return pair(b.ChangePriority(t.Context(), flowfabric.ChangePriorityArgs{ExecutionID: testID}))
		}, ok(`{"outcome":"changed","old_priority":7,"new_priority":0}`), "PUT " + testPath + "/priority", `{"new_priority":0}`, result{flowfabric.ChangePriorityResult{OldPriority: 7}, nil}},
		"pause": {func(b *Backend) result {
			return pair(b.PauseExecution(t.Context(), flowfabric.BlockExecutionArgs{ExecutionID: testID, Detail: "d"}))
		}, ok(`{"outcome":"paused","public_state":"waiting"}`), "POST " + testPath + "/pause", `{"detail":"d"}`, result{flowfabric.BlockExecutionResult{PublicState: flowfabric.PublicWaiting}, nil}},
		"unpause": {func(b *Backend) result {
			return pair(b.UnpauseExecution(t.Context(), flowfabric.BlockExecutionArgs{ExecutionID: testID}))
		}, ok(`{"outcome":"unpaused","public_state":"waiting"}`), "POST " + testPath + "/unpause", `{}`, result{flowfabric.BlockExecutionResult{PublicState: flowfabric.PublicWaiting}, nil}},
		"set_tags": {func(b *Backend) result {
			return pair(b.SetExecutionTags(t.Context(), testID, map[string]string{"a.b": ""}))
		}, ok(`{"count":1}`), "PUT " + testPath + "/tags", `{"tags":{"a.b":""}}`, result{1, nil}},
		"remove_tag": {func(b *Backend) result { return pair(b.RemoveExecutionTag(t.Context(), testID, "a.b")) },
			ok(`{"outcome":"removed"}`), "DELETE " + testPath + "/tags/a.b", "", result{true, nil}},
		"get_tags": {func(b *Backend) result { return pair(b.GetExecutionTags(t.Context(), testID)) }, ok(`{"tags":{"a.b":"c"}}`), "GET " + testPath + "/tags", "",
			result{map[string]string{"a.b": "c"}, nil}},
		"get_tags_absent": {func(b *Backend) result { return pair(b.GetExecutionTags(t.Context(), testID)) },
			problem(404, "execution_not_found", "not_found", false), "GET " + testPath + "/tags", "", result{map[string]string{}, nil}},

		"get_execution": {func(b *Backend) result { return pair(b.GetExecution(t.Context(), testID)) }, ok(snapshotJSON), "GET " + testPath, "", result{&flowfabric.Execution{
			ExecutionID: testID, LaneID: "l", Namespace: "n", Kind: "k", Priority: 5,
			StateVector:      flowfabric.StateVector{LifecyclePhase: "active", OwnershipState: "leased", EligibilityState: "not_applicable", BlockingReason: "none", TerminalOutcome: "none", AttemptState: "running_attempt", PublicState: "active"},
			CurrentAttemptID: testTry, TotalAttemptCount: 3, RetryCount: 2, CurrentLeaseEpoch: 3, CurrentWorkerInstanceID: "i", LeaseExpiresAt: 30000, LeaseLastRenewedAt: 10,
			CreatedAt: 1, LastTransitionAt: 2, LastMutationAt: 3}, nil}},
		"describe_absent": {func(b *Backend) result { return pair(b.DescribeExecution(t.Context(), testID)) },
			problem(404, "execution_not_found", "not_found", false), "GET " + testPath, "", result{(*flowfabric.ExecutionSnapshot)(nil), nil}},
		"get_state": {func(b *Backend) result { return pair(b.GetExecutionState(t.Context(), testID)) }, ok(`{"public_state":"skipped"}`), "GET " + testPath + "/state", "",
			result{flowfabric.PublicSkipped, nil}},
		"get_result": {func(b *Backend) result { return pair(b.GetExecutionResult(t.Context(), testID)) },
			reply{status: 200, body: "\xff\x00", header: http.Header{"Content-Type": {"application/octet-stream"}, "Ff-Payload-Encoding": {"raw"}}}, "GET " + testPath + "/result", "",
			result{flowfabric.ExecutionResult{Present: true, Payload: []byte{255, 0}, Encoding: "raw"}, nil}},
		"get_result_absent": {func(b *Backend) result { return pair(b.GetExecutionResult(t.Context(), testID)) },
			problem(404, "result_not_found", "not_found", false), "GET " + testPath + "/result", "", result{flowfabric.ExecutionResult{}, nil}},
		"get_input": {func(b *Backend) result { return pair(b.GetExecutionInput(t.Context(), testID)) }, reply{status: 200, header: http.Header{"Ff-Payload-Encoding": {"json"}}}, "GET " + testPath + "/input", "",
			result{flowfabric.ExecutionInput{Payload: []byte{}, Encoding: "json"}, nil}},
		"read_context": {func(b *Backend) result { return pair(b.ReadExecutionContext(t.Context(), testID)) },
			ok(`{"payload":"","payload_encoding":"json","execution_kind":"k","tags":{},"attempt_type":"initial","policy_snapshot":{"fallback_index":1,"lane_id":"l"}}`), "GET " + testPath + "/context", "",
			result{flowfabric.ExecutionContext{Payload: []byte{}, PayloadEncoding: "json", Kind: "k", Tags: map[string]string{}, AttemptType: "initial", PolicySnapshot: &flowfabric.PolicySnapshot{FallbackIndex: 1, LaneID: "l"}}, nil}},
		"wait": {func(b *Backend) result {
			return pair(b.WaitExecution(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: testID, WaitMs: 0, Until: flowfabric.UntilSettled, OmitResult: true}))
		}, ok(`{"public_state":"completed","outcome":"success","terminal":true,"timed_out":false,"attempt_index":0,"replay_count":0,"completed_at":9,"result_available":true,"payload":"","payload_encoding":"json"}`),
			"GET " + testPath + "/wait?include_result=false&until=settled&wait_ms=0", "", result{flowfabric.WaitExecutionResult{PublicState: "completed", Terminal: true, Outcome: "success",
				AttemptIndex: ptr[uint32](0), CompletedAt: 9, ResultAvailable: true, Result: []byte{}, ResultEncoding: "json"}, nil}},
		"get_attempt": {func(b *Backend) result { return pair(b.GetAttempt(t.Context(), testID, 4)) },
			ok(`{"attempt_id":"bbbbbbbb-0000-4000-8000-000000000001","execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","attempt_index":4,"attempt_type":"retry","attempt_state":"started","created_at":1,"policy_snapshot":{"fallback_index":0,"lane_id":"l"},"usage":{"tokens":5}}`),
			"GET " + testPath + "/attempts/4", "", result{&flowfabric.Attempt{AttemptID: testTry, ExecutionID: testID, AttemptIndex: 4, AttemptType: "retry", AttemptState: "started", CreatedAt: 1,
				PolicySnapshot: flowfabric.PolicySnapshot{LaneID: "l"}, Usage: flowfabric.Usage{"tokens": 5}}, nil}},
		"get_current_attempt": {func(b *Backend) result {
			_, err := b.GetCurrentAttempt(t.Context(), testID)
			return result{flowfabric.CodeOf(err)}
		}, problem(404, "no_attempts_exist", "not_found", false), "GET " + testPath + "/attempts/current", "", result{flowfabric.CodeNoAttemptsExist}},
		"list_attempts": {func(b *Backend) result {
			return pair(b.ListAttempts(t.Context(), flowfabric.ListAttemptsArgs{ExecutionID: testID, From: 3, Limit: 2}))
		}, ok(`{"items":[],"next_cursor":null}`), "GET " + testPath + "/attempts?from=3&limit=2", "", result{flowfabric.ListAttemptsResult{Attempts: []flowfabric.Attempt{}}, nil}},

		"renew": {func(b *Backend) result {
			return pair(flowfabric.RenewLease(t.Context(), b, flowfabric.RenewLeaseArgs{ExecutionID: testID, Fence: testFence(&index)}))
		}, ok(`{"outcome":"renewed","lease_epoch":3,"expires_at":99}`), "POST " + testPath + "/attempts/2/renew", `{` + fenceJSON + `}`, result{flowfabric.RenewLeaseResult{LeaseEpoch: 3, ExpiresAt: 99}, nil}},
		"renew_batch": {func(b *Backend) result {
			one := flowfabric.RenewLeaseArgs{ExecutionID: testID, Fence: testFence(&index), LeaseTTLMs: 1000}
			items, err := b.RenewLeases(t.Context(), []flowfabric.RenewLeaseArgs{one, {ExecutionID: testID}})
			return result{items[0].Result.ExpiresAt, flowfabric.CodeOf(items[1].Err), err}
		}, ok(`{"items":[{"execution_id":"x","outcome":"renewed","lease_epoch":3,"expires_at":99}]}`), "POST /v1/workers/remote/renewals",
			`{"items":[{"execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","attempt_index":2,` + fenceJSON + `,"lease_ttl_ms":1000}]}`, result{flowfabric.Millis(99), flowfabric.CodeFenceRequired, nil}},
		"revoke": {func(b *Backend) result {
			return pair(b.RevokeLease(t.Context(), flowfabric.RevokeLeaseArgs{ExecutionID: testID, ExpectedLeaseID: testLease, Hold: true}))
		}, ok(`{"outcome":"already_satisfied","reason":"already_expired"}`), "POST " + testPath + "/revoke-lease", `{"expected_lease_id":"aaaaaaaa-0000-4000-8000-000000000001","hold":true}`,
			result{flowfabric.RevokeLeaseResult{Outcome: flowfabric.RevokeAlreadySatisfied, Reason: "already_expired"}, nil}},
		"release_hold": {func(b *Backend) result { return pair(b.ReleaseReclaimHold(t.Context(), testID)) }, ok(`{"outcome":"not_held"}`), "POST " + testPath + "/release-hold", "", result{false, nil}},
		"get_lease": {func(b *Backend) result { return pair(b.GetLease(t.Context(), testID)) },
			ok(`{"execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","lease_id":"aaaaaaaa-0000-4000-8000-000000000001","lease_epoch":3,"attempt_index":2,"claim_kind":"resume","expires_at":7,"remaining_ms":6}`),
			"GET " + testPath + "/lease", "", result{&flowfabric.Lease{ExecutionID: testID, LeaseID: testLease, LeaseEpoch: 3, AttemptIndex: 2, ClaimKind: "resume", ExpiresAt: 7, RemainingMs: 6}, nil}},
		"lease_history": {func(b *Backend) result {
			return pair(b.GetLeaseHistory(t.Context(), flowfabric.LeaseHistoryArgs{ExecutionID: testID, Limit: 5}))
		}, ok(`{"items":[{"kind":"reclaimed","at":5,"event_id":"7-9","execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","namespace":"n","lane_id":"l","lease_id":"aaaaaaaa-0000-4000-8000-000000000001","lease_epoch":3,"attempt_id":"bbbbbbbb-0000-4000-8000-000000000001","attempt_index":2,"worker_id":"w","worker_instance_id":"i","previous_lease_id":"p","previous_lease_epoch":2}],"next_cursor":null}`),
			"GET " + testPath + "/lease-history?limit=5", "", result{flowfabric.LeaseHistoryResult{Events: []flowfabric.Event{event}}, nil}},
		"worker_leases": {func(b *Backend) result {
			return pair(b.ListWorkerLeases(t.Context(), flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: "a/b", Namespace: "n"}))
		}, ok(`{"items":[` + taskJSON + `],"next_cursor":null}`), "GET /v1/worker-instances/a%2Fb/leases?namespace=n", "", result{flowfabric.ListWorkerLeasesResult{Tasks: []flowfabric.ClaimedExecution{task}}, nil}},
		"expired_leases": {func(b *Backend) result {
			return pair(b.ListExpiredLeases(t.Context(), flowfabric.ListExpiredLeasesArgs{AsOf: 5, Cursor: "c", MaxPartitionsPerCall: 2}))
		}, ok(`{"items":[{"execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","lease_id":"l","lease_epoch":1,"attempt_index":0,"worker_instance_id":"i","expires_at":4,"marked":true}],"next_cursor":"d"}`),
			"GET /v1/leases/expired?as_of=5&cursor=c&max_partitions_per_call=2", "", result{flowfabric.ListExpiredLeasesResult{NextCursor: "d",
				Leases: []flowfabric.ExpiredLease{{ExecutionID: testID, LeaseID: "l", LeaseEpoch: 1, WorkerInstanceID: "i", ExpiresAt: 4, Marked: true}}}, nil}},

		"claim_granted": {func(b *Backend) result {
			return pair(b.ClaimGranted(t.Context(), flowfabric.ClaimGrantedArgs{ExecutionID: testID, GrantID: "g", LaneID: "l", WorkerID: "w", WorkerInstanceID: "i", Capabilities: []string{"gpu"},
				LeaseID: testLease, AttemptID: testTry, LeaseTTLMs: 1000, Expect: flowfabric.ExpectResume}))
		}, ok(taskJSON), "POST " + testPath + "/claim", `{"grant":{"grant_id":"g","lane_id":"l"},"worker_id":"w","worker_instance_id":"i","lease_ttl_ms":1000,"capabilities":["gpu"],"lease_id":"aaaaaaaa-0000-4000-8000-000000000001","attempt_id":"bbbbbbbb-0000-4000-8000-000000000001","expect":"resume"}`,
			result{task, nil}},
		"direct_claim": {func(b *Backend) result {
			return pair(b.IssueGrantAndClaim(t.Context(), flowfabric.IssueGrantAndClaimArgs{ExecutionID: testID, WorkerID: "w", WorkerInstanceID: "i", LeaseID: testLease, AttemptID: testTry, LeaseTTLMs: 1000, OperatorOverride: true, IssuedBy: flowfabric.IssuedByDirect}))
		}, ok(taskJSON), "POST " + testPath + "/direct-claim", `{"worker_id":"w","worker_instance_id":"i","capabilities":[],"lease_ttl_ms":1000,"operator_override":true,"lease_id":"aaaaaaaa-0000-4000-8000-000000000001","attempt_id":"bbbbbbbb-0000-4000-8000-000000000001","issued_by":"direct"}`,
			result{task, nil}},
		"reclaim": {func(b *Backend) result {
			return pair(b.IssueReclaimGrant(t.Context(), flowfabric.IssueReclaimGrantArgs{ExecutionID: testID, WorkerID: "w", WorkerInstanceID: "i", LaneID: "l", Capabilities: []string{}, GrantTTLMs: 5000}))
		}, ok(`{"outcome":"reclaim_cap_exceeded","reclaim_count":4,"max_reclaim_count":4}`), "POST " + testPath + "/reclaim", `{"worker_id":"w","worker_instance_id":"i","lane_id":"l","capabilities":[],"grant_ttl_ms":5000}`,
			result{flowfabric.IssueReclaimGrantResult{Outcome: flowfabric.ReclaimCapExceeded, ReclaimCount: 4, MaxReclaimCount: 4}, nil}},
		"release_grant": {func(b *Backend) result {
			return pair(b.ReleaseGrant(t.Context(), flowfabric.ReleaseGrantArgs{ExecutionID: testID, GrantID: "g", WorkerID: "w"}))
		}, ok(`{"outcome":"released"}`), "POST " + testPath + "/release-grant", `{"grant_id":"g","worker_id":"w"}`, result{true, nil}},
		"claim_for_worker": {func(b *Backend) result {
			return pair(b.ClaimForWorker(t.Context(), flowfabric.ClaimForWorkerArgs{WorkerID: "w", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"l"}, GrantTTLMs: 5000, WaitMs: 10}))
		}, ok(`{"kind":"claim","execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","lane_id":"l","partition_key":"{fp:7}","grant_id":"g","expires_at":8}`), "POST /v1/workers/w/claim",
			`{"worker_instance_id":"i","lanes":["l"],"grant_ttl_ms":5000,"wait_ms":10}`, result{flowfabric.ClaimForWorkerResult{Grant: &flowfabric.Grant{ExecutionID: testID, PartitionKey: "{fp:7}", GrantID: "g", ExpiresAt: 8, LaneID: "l", Kind: "claim"}}, nil}},
		"claim_for_worker_none": {func(b *Backend) result {
			return pair(b.ClaimForWorker(t.Context(), flowfabric.ClaimForWorkerArgs{WorkerID: "w", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"l"}, GrantTTLMs: 5000}))
		}, reply{status: 204, header: http.Header{"Ff-More-Candidates": {"true"}}}, "POST /v1/workers/w/claim", `{"worker_instance_id":"i","lanes":["l"],"grant_ttl_ms":5000}`, result{flowfabric.ClaimForWorkerResult{More: true}, nil}},
		"claim_tasks": {func(b *Backend) result {
			return pair(b.ClaimTasks(t.Context(), flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"l"}, Namespace: "n", MaxTasks: 10, LeaseTTLMs: 30000}))
		}, ok(`{"tasks":[` + taskJSON + `]}`), "POST /v1/workers/w/tasks", `{"worker_instance_id":"i","lanes":["l"],"namespace":"n","lease_ttl_ms":30000,"max_tasks":10}`,
			result{flowfabric.ClaimTasksResult{Tasks: []flowfabric.ClaimedExecution{task}}, nil}},
		"claim_tasks_none": {func(b *Backend) result {
			return pair(b.ClaimTasks(t.Context(), flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"l"}, MaxTasks: 0, LeaseTTLMs: 30000}))
		}, reply{status: 204}, "POST /v1/workers/w/tasks", `{"worker_instance_id":"i","lanes":["l"],"lease_ttl_ms":30000,"max_tasks":0}`, result{flowfabric.ClaimTasksResult{Tasks: []flowfabric.ClaimedExecution{}}, nil}},

		"register": {func(b *Backend) result {
			return pair(b.RegisterWorker(t.Context(), flowfabric.RegisterWorkerArgs{Namespace: "n", WorkerID: "w", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"l"}, InstanceNonce: testNonce}))
		}, reply{status: 201, body: `{"outcome":"registered","next_expiry_at":6}`}, "PUT /v1/worker-instances/i",
			`{"worker_id":"w","namespace":"n","lanes":["l"],"capabilities":[],"instance_nonce":"` + testNonce + `","liveness_ttl_ms":60000}`, result{flowfabric.RegisterWorkerResult{Outcome: flowfabric.WorkerRegistered, NextExpiryAt: 6}, nil}},
		"heartbeat": {func(b *Backend) result {
			return pair(b.HeartbeatWorker(t.Context(), flowfabric.HeartbeatWorkerArgs{Namespace: "n", WorkerInstanceID: "i", InstanceNonce: testNonce}))
		}, ok(`{"outcome":"not_registered"}`), "POST /v1/worker-instances/i/heartbeat", `{"namespace":"n","instance_nonce":"` + testNonce + `"}`, result{flowfabric.HeartbeatWorkerResult{}, nil}},
		"mark_dead": {func(b *Backend) result {
			return pair(b.MarkWorkerDead(t.Context(), flowfabric.MarkWorkerDeadArgs{Namespace: "n", WorkerInstanceID: "i", Reason: "gone away", RevokeLeases: true}))
		}, ok(`{"outcome":"marked","revoked_leases":2}`), "DELETE /v1/worker-instances/i?namespace=n&reason=gone+away&revoke_leases=true", "", result{flowfabric.MarkWorkerDeadResult{Marked: true, RevokedLeases: 2}, nil}},
		"deregister": {func(b *Backend) result {
			return pair(b.DeregisterWorker(t.Context(), flowfabric.MarkWorkerDeadArgs{Namespace: "*", WorkerInstanceID: "i", Reason: "bye"}))
		}, ok(`{"outcome":"not_registered","revoked_leases":1}`), "DELETE /v1/worker-instances/i?namespace=%2A&reason=bye", "", result{flowfabric.MarkWorkerDeadResult{RevokedLeases: 1}, nil}},
		"get_worker": {func(b *Backend) result { return pair(b.GetWorker(t.Context(), "n", "i")) }, ok(workerJSON), "GET /v1/worker-instances/i?namespace=n", "", result{&worker, nil}},
		"get_worker_absent": {func(b *Backend) result { return pair(b.GetWorker(t.Context(), "n", "..")) },
			problem(404, "worker_not_found", "not_found", false), "GET /v1/worker-instances/%2E%2E?namespace=n", "", result{(*flowfabric.WorkerRegistration)(nil), nil}},
		"list_workers": {func(b *Backend) result {
			return pair(b.ListWorkers(t.Context(), flowfabric.ListWorkersArgs{Namespace: "n", LaneID: "l", Limit: 1}))
		}, ok(`{"items":[` + workerJSON + `],"next_cursor":"x"}`), "GET /v1/worker-instances?lane_id=l&limit=1&namespace=n", "", result{flowfabric.ListWorkersResult{Workers: []flowfabric.WorkerRegistration{worker}, More: true}, nil}},
		"routing": {func(b *Backend) result { return pair(b.ExplainRouting(t.Context(), testID)) },
			ok(`{"execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","lane_id":"l","namespace":"n","required_capabilities":["gpu"],"workers":[{"worker_id":"w","worker_instance_id":"i","missing":["gpu"]}],"covered":false,"uncovered_since":3}`),
			"GET " + testPath + "/routing", "", result{&flowfabric.RoutingExplanation{ExecutionID: testID, LaneID: "l", Namespace: "n", RequiredCapabilities: []string{"gpu"},
				Workers: []flowfabric.WorkerCoverage{{WorkerID: "w", WorkerInstanceID: "i", Missing: []string{"gpu"}}}, UncoveredSince: 3}, nil}},

		"get_lane": {func(b *Backend) result { return pair(b.GetLane(t.Context(), "my lane")) }, ok(`{` + laneJSON + `,"drained":true,"counts":{"waiting":3}}`), "GET /v1/lanes/my%20lane", "",
			result{flowfabric.LaneStatus{Lane: lane, Drained: true, Counts: map[flowfabric.PublicState]int64{"waiting": 3}}, nil}},
		"list_lanes": {func(b *Backend) result { return pair(b.ListLanes(t.Context(), flowfabric.ListLanesArgs{Limit: 2})) }, ok(`{"items":[{` + laneJSON + `,"drained":false,"counts":{}}],"next_cursor":null}`), "GET /v1/lanes?limit=2", "",
			result{flowfabric.ListLanesResult{Lanes: []flowfabric.LaneStatus{{Lane: lane, Counts: map[flowfabric.PublicState]int64{}}}}, nil}},
		"update_lane": {func(b *Backend) result {
			return pair(b.UpdateLane(t.Context(), flowfabric.UpdateLaneArgs{LaneID: "my lane", ExpectedRevision: ptr[uint64](0), MaxConcurrency: ptr(0), TenantWeights: map[flowfabric.Namespace]int{}, DefaultPolicy: json.RawMessage(`{}`)}))
		}, ok(`{` + laneJSON + `}`), "PUT /v1/lanes/my%20lane", `{"expected_revision":0,"max_concurrency":0,"tenant_weights":{},"default_policy":{}}`, result{lane, nil}},
		"set_lane_state": {func(b *Backend) result {
			return pair(b.SetLaneState(t.Context(), flowfabric.SetLaneStateArgs{LaneID: "my lane", State: flowfabric.LaneActive, Reason: "r"}))
		}, ok(`{"outcome":"unchanged",` + laneJSON + `}`), "PUT /v1/lanes/my%20lane/state", `{"state":"active","reason":"r"}`, result{flowfabric.SetLaneStateResult{Lane: lane, Unchanged: true}, nil}},
		"delete_lane": {func(b *Backend) result { return pair(b.DeleteLane(t.Context(), "my lane")) }, ok(`{"outcome":"already_deleted"}`), "DELETE /v1/lanes/my%20lane", "", result{false, nil}},

		"read_feed": {func(b *Backend) result {
			return pair(b.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: "completions", Start: "earliest", Partitions: []uint16{1, 7}, Limit: 3, BlockMs: 50,
				Filter: flowfabric.FeedFilter{Namespace: "n", Tags: map[string]string{"a.b": "x:y"}, ExecutionID: testID, LaneID: "l", Kinds: []string{"completed"}}}))
		}, ok(`{"events":[{"feed":"completions","kind":"completed","event_id":"7-3","execution_id":"{fp:7}:11111111-2222-4333-8444-555555555555","namespace":"n","lane_id":"l","at_ms":4,"outcome":"success","replay_count":0,"result_size":0}],"gaps":[{"partition":1,"missed_from_seq":2,"missed_to_seq":3}],"next_cursor":"z","has_more":true}`),
			"GET /v1/feeds/completions?block_ms=50&cursor=earliest&execution_id=%7Bfp%3A7%7D%3A11111111-2222-4333-8444-555555555555&kinds=completed&lane_id=l&limit=3&namespace=n&partition=1&partition=7&tag=a.b%3Ax%3Ay", "",
			result{flowfabric.ReadFeedResult{Events: []flowfabric.Event{{Feed: "completions", Kind: "completed", EventID: "7-3", Partition: 7, Seq: 3, ExecutionID: testID, Namespace: "n", LaneID: "l", At: 4,
				Outcome: "success", ReplayCount: ptr[uint32](0), ResultSize: ptr[int64](0)}}, Gaps: []flowfabric.Gap{{Partition: 1, MissedFromSeq: 2, MissedToSeq: 3}}, NextCursor: "z", HasMore: true}, nil}},

		"list_scanners": {func(b *Backend) result { return pair(b.ListScanners(t.Context())) }, ok(`{"items":[{"name":"tick","interval_ms":250}],"next_cursor":null}`), "GET /v1/admin/scanners", "", result{[]flowfabric.ScannerStatus{scanner}, nil}},
		"run_scanner":   {func(b *Backend) result { return pair(b.RunScanner(t.Context(), "tick")) }, ok(`{"name":"tick","interval_ms":250}`), "POST /v1/admin/scanners/tick/run", "", result{scanner, nil}},
		"start_reconcile": {func(b *Backend) result { return pair(b.StartReconcile(t.Context(), ptr[uint16](0))) }, reply{status: 202, body: `{"job_id":"j","state":"running"}`}, "POST /v1/admin/reconcile", `{"partition":0}`,
			result{flowfabric.ReconcileJob{JobID: "j", State: "running"}, nil}},
		"get_reconcile": {func(b *Backend) result { return pair(b.GetReconcile(t.Context(), "j")) }, ok(`{"job_id":"j","state":"done","violations":["x"]}`), "GET /v1/admin/reconcile/j", "", result{flowfabric.ReconcileJob{JobID: "j", State: "done", Violations: []string{"x"}}, nil}},
		"drain":         {func(b *Backend) result { return result{b.SetDraining(t.Context(), true)} }, ok(`{"outcome":"draining"}`), "POST /v1/admin/drain", "", result{nil}},
		"undrain":       {func(b *Backend) result { return result{b.SetDraining(t.Context(), false)} }, ok(`{"outcome":"not_draining"}`), "DELETE /v1/admin/drain", "", result{nil}},
	} {
		t.Run(name, func(t *testing.T) {
			b, s := open(t, tc.answer)
			got := tc.do(b)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("result: %s", diff)
			}
			if diff := cmp.Diff([]heard{{tc.line, tc.body}}, s.heard, cmp.AllowUnexported(heard{})); diff != "" {
				t.Errorf("request: %s", diff)
			}
			if s.heard[0].body != "" && s.headers[0].Get("Content-Type") != "application/json" {
				t.Errorf("content type %q", s.headers[0].Get("Content-Type"))
			}
		})
	}
}

// TestCompletionsTellTheirAttempt: an item of the batch names its attempt by
// index; that of a fence that does not tell it is looked up, and an item whose
// execution is not there is refused alone.
func TestCompletionsTellTheirAttempt(t *testing.T) {
	snapshot := `{"execution_id":"` + string(testID) + `","total_attempt_count":4,"current_attempt":{"attempt_id":"` + string(testTry) + `","attempt_index":3}}`
	done := `{"items":[{"execution_id":"` + string(testID) + `","outcome":"completed","public_state":"completed"},` +
		`{"execution_id":"` + string(testID) + `","outcome":"completed","public_state":"completed"}]}`
	b, s := open(t, ok(snapshot), problem(404, "execution_not_found", "not_found", false), ok(done))
	index := uint32(2)
	item := func(i *uint32) flowfabric.CompleteExecutionArgs {
		return flowfabric.CompleteExecutionArgs{ExecutionID: testID, Fence: testFence(i)}
	}
	out, err := b.CompleteExecutions(t.Context(), []flowfabric.CompleteExecutionArgs{item(nil), item(nil), item(&index)})
	if err != nil || len(out) != 3 || out[0].Err != nil || out[2].Err != nil || flowfabric.CodeOf(out[1].Err) != flowfabric.CodeExecutionNotFound {
		t.Fatalf("%+v, %v", out, err)
	}
	sent := func(i string) string {
		return `{"execution_id":"` + string(testID) + `","attempt_index":` + i + `,` + fenceJSON + `}`
	}
	want := []heard{{"GET " + testPath, ""}, {"GET " + testPath, ""}, {"POST /v1/workers/remote/completions", `{"items":[` + sent("3") + `,` + sent("2") + `]}`}}
	if diff := cmp.Diff(want, s.heard, cmp.AllowUnexported(heard{})); diff != "" {
		t.Errorf("requests: %s", diff)
	}
}

func pair[R any](r R, err error) []any {
	if err == nil {
		return []any{r, nil}
	}
	return []any{r, err}
}

func problem(status int, code, class string, retryable bool) reply {
	body, _ := json.Marshal(map[string]any{"type": "urn:flowfabric:error:" + code, "title": "t", "status": status, "detail": "d", "code": code, "class": class, "retryable": retryable})
	return reply{status: status, body: string(body), header: http.Header{"Content-Type": {"application/problem+json"}}}
}

// TestEveryOperationIsTested fails when the contract grows and the tests here do
// not call the new operation.
func TestEveryOperationIsTested(t *testing.T) {
	var text strings.Builder
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(source)
	}
	contract := reflect.TypeFor[flowfabric.Backend]()
	for i := range contract.NumMethod() {
		if name := contract.Method(i).Name; !strings.Contains(text.String(), "b."+name+"(") {
			t.Errorf("no test calls %s", name)
		}
	}
}
