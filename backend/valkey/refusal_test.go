package valkey

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flowfabric/flowfabric"
)

// Chapter 07, section 4.2: every refusal of the library becomes the error that
// the rules make for its code.
func TestRefusal(t *testing.T) {
	const uuid = "0198c5a0-0000-7000-8000-000000000001"
	for _, c := range []struct {
		text    string
		code    flowfabric.Code
		message string
		details map[string]any
	}{
		{"execution_not_found", "execution_not_found", "no such execution", nil},
		{"execution_not_found|" + uuid, "execution_not_found", "no execution {fp:7}:" + uuid, nil},
		{"execution_not_active|completed|success|3|terminal|a-1", "execution_not_active", "execution is completed",
			map[string]any{"terminal_outcome": "success", "lease_epoch": uint64(3), "lifecycle_phase": "terminal", "attempt_id": "a-1"}},
		{"execution_not_active|waiting|none|0|runnable|", "execution_not_active", "execution is waiting",
			map[string]any{"terminal_outcome": "none", "lease_epoch": uint64(0), "lifecycle_phase": "runnable", "attempt_id": ""}},
		{"lease_expired|1700000000000|2", "lease_expired", "the lease expired at 1700000000000", map[string]any{"lease_epoch": uint64(2)}},
		{"lease_revoked|2|by|hand", "lease_revoked", "the lease was revoked: by|hand", map[string]any{"lease_epoch": uint64(2)}},
		{"stale_lease|9", "stale_lease", "the fence does not name the current lease and attempt", map[string]any{"lease_epoch": uint64(9)}},
		{"execution_not_eligible|delayed|not_eligible_until_time", "execution_not_eligible", "execution is delayed, not_eligible_until_time",
			map[string]any{"public_state": "delayed", "eligibility_state": "not_eligible_until_time"}},
		{"execution_not_leaseable|completed|success", "execution_not_leaseable", "execution is completed, not_applicable",
			map[string]any{"public_state": "completed", "terminal_outcome": "success"}},
		{"execution_not_leaseable|delayed|none", "execution_not_leaseable", "execution is delayed, not_eligible_until_time",
			map[string]any{"public_state": "delayed", "terminal_outcome": "none"}},
		{"execution_not_reclaimable|active|leased", "execution_not_reclaimable", "execution is active, leased",
			map[string]any{"public_state": "active", "ownership_state": "leased"}},
		{"lease_conflict|1700000000000", "lease_conflict", "the execution is leased until 1700000000000", nil},
		{"active_attempt_exists|" + uuid, "active_attempt_exists", "execution {fp:7}:" + uuid + " has a running attempt without lease", nil},
		{"grant_already_exists", "grant_already_exists", "a live grant exists", nil},
		{"capability_mismatch|cpu,gpu", "capability_mismatch", "missing cpu,gpu", map[string]any{"missing": []string{"cpu", "gpu"}}},
		{"invalid_claim_grant", "invalid_claim_grant", "no such grant for this worker and lane", nil},
		{"claim_grant_expired|17", "claim_grant_expired", "the grant expired at 17", nil},
		{"use_claim_resumed_execution", "use_claim_resumed_execution", "the execution has a paused attempt", nil},
		{"not_a_resumed_execution", "not_a_resumed_execution", "the execution has no paused attempt", nil},
		{"reclaim_cap_exceeded|1000|1000", "reclaim_cap_exceeded", "1000 of 1000 reclaims used; the execution has ended",
			map[string]any{"reclaim_count": uint32(1000), "max_reclaim_count": uint32(1000)}},
		{"execution_not_terminal|active", "execution_not_terminal", "execution is active", map[string]any{"public_state": "active"}},
		{"max_replays_exhausted|10|10", "max_replays_exhausted", "10 of 10 replays used",
			map[string]any{"replay_count": uint32(10), "max_replay_count": uint32(10)}},
		{"expected_replay_count|2|5", "invalid_input", "expected_replay_count: is 2, the execution was replayed 5 times",
			map[string]any{"field": "expected_replay_count"}},
		{"too_many_tags|129", "invalid_input", "tags: has 129 pairs, limit 128",
			map[string]any{"field": "tags", "limit": flowfabric.MaxTags, "actual": 129}},
		{"lane_intake_closed|media|paused", "lane_intake_closed", "lane media is paused", map[string]any{"state": "paused", "lane_id": "media"}},
		{"invariant_violation|V3|of x: a|b", "invariant_violation", "V3: of x: a|b", map[string]any{"rule": "V3"}},
		{"corrupt_record|st|is \"zz\"", "corrupt_record", "op: st: is \"zz\"", map[string]any{"field": "st", "operation": "op"}},
		{"duplicate_worker_instance|w-1|17", "duplicate_worker_instance", "instance w-1 is registered by another process until 17",
			map[string]any{"worker_instance_id": "w-1", "expires_at": int64(17)}},
		{"instance_id_reassigned|w-1|worker", "instance_id_reassigned", "instance w-1 belongs to worker worker",
			map[string]any{"worker_instance_id": "w-1", "worker_id": "worker"}},
		{"lane_not_found|text|more", "lane_not_found", "text more", nil},
		{"no_such_code|text|more", "internal", `the library refused with "no_such_code|text|more"`, nil},
	} {
		t.Run(c.text, func(t *testing.T) {
			e := refusalAt("op", "{fp:7}", c.text)
			info, _ := c.code.Info()
			if e.Code != c.code || e.Class != info.Class || e.Retryable != info.Retryable || e.Op != "op" {
				t.Errorf("got %s, class %s, retryable %v, op %q", e.Code, e.Class, e.Retryable, e.Op)
			}
			if e.Message != c.message {
				t.Errorf("message %q, want %q", e.Message, c.message)
			}
			if diff := cmp.Diff(c.details, e.Details); diff != "" {
				t.Errorf("details (-want +got):\n%s", diff)
			}
		})
	}
	if e, ok := itemRefused("op", "{fp:7}", "!stale_lease|9"); !ok || e.Code != flowfabric.CodeStaleLease {
		t.Errorf("an item of a batch gives %v, %v", e, ok)
	}
	if _, ok := itemRefused("op", "{fp:7}", "done"); ok {
		t.Error("an item that is no refusal is taken for one")
	}
}
