package rules_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// Reads, tags, progress, priority and blocks, by the scenarios of specification
// 01, section 12.

func TestSpec01_S36_Describe(t *testing.T) {
	w := newWorld(t, withPolicy(retry3), func(a *flowfabric.CreateExecutionArgs) { a.Tags = map[string]string{"a.b": "c"} })
	task := w.claim()
	pct, msg := int32(40), "almost"
	fx, err := rules.UpdateProgress(w.s, flowfabric.UpdateProgressArgs{Fence: task.Fence, Pct: &pct, Message: &msg}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	snap := rules.Describe(w.s, rules.Label{})
	lease := snap.CurrentLease
	if snap.CurrentAttempt.AttemptIndex != 0 || lease.LeaseEpoch != 1 || lease.WorkerInstanceID != "w-1" || lease.ExpiresAt != w.now+30_000 ||
		lease.LastHeartbeatAt != w.now || *snap.ProgressPct != 40 || snap.ProgressMessage != "almost" || snap.BlockingReason != "" || snap.Tags["a.b"] != "c" {
		t.Errorf("snapshot %+v", snap)
	}
	snap.Tags["a.b"] = "changed"
	if w.s.Tags["a.b"] != "c" {
		t.Error("the snapshot shares its tags")
	}
	w.fail(task.Fence, "")
	w.now += 10
	w.tick()
	task = w.claim()
	if snap := rules.Describe(w.s, rules.Label{}); snap.ProgressPct != nil || snap.ProgressMessage != "" {
		t.Error("progress of the earlier attempt is shown")
	}
	if err := w.complete(task.Fence); err != nil {
		t.Fatal(err)
	}
	if snap := rules.Describe(w.s, rules.Label{}); snap.CurrentLease != nil || snap.CurrentAttempt == nil || snap.CurrentAttempt.AttemptIndex != 1 {
		t.Errorf("snapshot %+v", snap)
	}
}

func TestSpec01_S37_ListInput(t *testing.T) {
	const id = "{fp:7}:00000000-0000-4000-8000-000000000001"
	for _, tc := range []struct {
		name string
		args flowfabric.ListExecutionsArgs
		code flowfabric.Code
	}{
		{"default limit", flowfabric.ListExecutionsArgs{Partition: 7, Cursor: id}, ""},
		{"limit 1001", flowfabric.ListExecutionsArgs{Limit: 1001}, flowfabric.CodeInvalidInput},
		{"limit -1", flowfabric.ListExecutionsArgs{Limit: -1}, flowfabric.CodeInvalidInput},
		{"partition out of range", flowfabric.ListExecutionsArgs{Partition: 256}, flowfabric.CodeInvalidInput},
		{"cursor malformed", flowfabric.ListExecutionsArgs{Partition: 7, Cursor: "x"}, flowfabric.CodeInvalidCursor},
		{"cursor of another partition", flowfabric.ListExecutionsArgs{Partition: 8, Cursor: id}, flowfabric.CodeInvalidCursor},
		{"unknown public state", flowfabric.ListExecutionsArgs{PublicStates: []flowfabric.PublicState{"nope"}}, flowfabric.CodeInvalidInput},
		{"malformed tag", flowfabric.ListExecutionsArgs{Tags: map[string]string{"x": "y"}}, flowfabric.CodeInvalidTagKey},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantCode(t, rules.ValidateListExecutions(&tc.args, parts), tc.code)
			if tc.code == "" && tc.args.Limit != flowfabric.DefaultListLimit {
				t.Errorf("limit %d", tc.args.Limit)
			}
		})
	}
}

func TestSpec01_S38_Tags(t *testing.T) {
	w := newWorld(t)
	set := func(tags map[string]string) error {
		before := w.s.Tags
		fx, err := rules.SetTags(w.s, tags, w.now)
		w.did(fx)
		if err != nil && len(w.s.Tags) != len(before) {
			t.Error("a refused map was written in part")
		}
		return err
	}
	if err := set(map[string]string{"cairn.a": "1", "cairn.b": "2"}); err != nil {
		t.Fatal(err)
	}
	shared := w.s.Tags
	w.now += 5
	if err := set(map[string]string{"cairn.c": "3"}); err != nil {
		t.Fatal(err)
	}
	if len(shared) != 2 || len(w.s.Tags) != 3 || w.s.Exec.LastMutationAt != w.now || w.s.Exec.LastTransitionAt != start {
		t.Errorf("tags %v, earlier map %v", w.s.Tags, shared)
	}
	for _, key := range []string{"no_dot", "Cairn.x", "cairn.", "cairn..x", "a.b-c", "", "1a.b", ".a", strings.Repeat("a", 256) + ".b"} {
		wantCode(t, set(map[string]string{"cairn.ok": "1", key: "2"}), flowfabric.CodeInvalidTagKey)
	}
	for _, key := range []string{"a.b", "a_1.b.c", "a._", "a.b.", "a.9"} {
		if err := rules.ValidateTagKey(key); err != nil {
			t.Error(err)
		}
	}
	wantCode(t, set(nil), flowfabric.CodeInvalidInput)
	wantCode(t, set(map[string]string{"a.b": strings.Repeat("v", 4097)}), flowfabric.CodeInvalidInput)
	many := map[string]string{}
	for i := range 126 {
		many[fmt.Sprintf("x.k%d", i)] = "v"
	}
	wantCode(t, set(many), flowfabric.CodeInvalidInput)
	removed, fx, err := rules.RemoveTag(w.s, "cairn.a", w.now)
	w.did(fx)
	if !removed || err != nil || len(w.s.Tags) != 2 {
		t.Errorf("removed %v, error %v", removed, err)
	}
	removed, fx, err = rules.RemoveTag(w.s, "cairn.a", w.now)
	if removed || err != nil || fx.Changed {
		t.Errorf("removed again %v, error %v", removed, err)
	}
	_, _, err = rules.RemoveTag(w.s, "nope", w.now)
	wantCode(t, err, flowfabric.CodeInvalidTagKey)
}

func TestReasonsAreCutAtCharacters(t *testing.T) {
	w := newWorld(t)
	reason := strings.Repeat("a", 4095) + "é" + "tail"
	_, fx, err := rules.Fail(w.s, flowfabric.FailExecutionArgs{Fence: w.claim().Fence, Reason: reason}, w.now, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	if got := w.s.Exec.FailureReason; got != reason[:4095] {
		t.Errorf("reason of %d bytes", len(got))
	}
	if got := w.logs[len(w.logs)-1].FailureReason; len(got) != 1024 {
		t.Errorf("reason of %d bytes in the event", len(got))
	}
}

func TestChangePriority(t *testing.T) {
	w := newWorld(t)
	w.now += 50
	r, fx, err := rules.ChangePriority(w.s, flowfabric.ChangePriorityArgs{Priority: 99999}, w.now)
	if err != nil || r.OldPriority != 0 || r.NewPriority != 9000 || !fx.Offered {
		t.Errorf("result %+v, error %v", r, err)
	}
	w.did(fx)
	if p := rules.Place(w.s, w.now); p.PrioKey != int64(start)-9000*1_000_000_000_000 {
		t.Errorf("placement %+v", p)
	}
	w.claim()
	_, _, err = rules.ChangePriority(w.s, flowfabric.ChangePriorityArgs{Priority: 1}, w.now)
	wantCode(t, err, flowfabric.CodeExecutionNotEligible)
}

func TestUpdateProgressChecks(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	pct := int32(101)
	for name, a := range map[string]flowfabric.UpdateProgressArgs{
		"nothing given": {Fence: task.Fence},
		"over 100":      {Fence: task.Fence, Pct: &pct},
		"too long":      {Fence: task.Fence, Message: new(strings.Repeat("m", 4097))},
	} {
		if _, err := rules.UpdateProgress(w.s, a, w.now); flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := rules.UpdateProgress(w.s, flowfabric.UpdateProgressArgs{Message: new("m")}, w.now)
	wantCode(t, err, flowfabric.CodeFenceRequired)
	w.now = w.s.Exec.LeaseExpiresAt
	fx, err := rules.UpdateProgress(w.s, flowfabric.UpdateProgressArgs{Fence: task.Fence, Message: new("m")}, w.now)
	wantCode(t, err, flowfabric.CodeLeaseExpired)
	if fx.Changed {
		t.Error("progress marked the lapse")
	}
	w.wantVector(vActive)
}

func TestPauseAndUnpause(t *testing.T) {
	w := newWorld(t)
	w.now += 7
	r, fx, err := rules.Pause(w.s, flowfabric.BlockExecutionArgs{Detail: "look first"}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	w.wantVector("runnable/unowned/blocked_by_operator/paused_by_operator/none/pending_first_attempt=waiting")
	if r.PublicState != flowfabric.PublicWaiting || w.s.Exec.BlockedSince != w.now || w.s.Exec.BlockingDetail != "look first" {
		t.Errorf("record %+v", w.s.Exec)
	}
	_, _, err = rules.Pause(w.s, flowfabric.BlockExecutionArgs{}, w.now)
	wantCode(t, err, flowfabric.CodeExecutionNotEligible)
	_, _, err = rules.GrantAndClaim(w.s, w.input(), w.now)
	wantCode(t, err, flowfabric.CodeExecutionNotEligible)
	if fx := rules.UnblockForLane(w.s, w.now); fx.Changed {
		t.Error("the lane unblocked what the operator paused")
	}
	_, fx, err = rules.Unpause(w.s, flowfabric.BlockExecutionArgs{}, w.now)
	if err != nil || !fx.Offered {
		t.Fatal(err)
	}
	w.did(fx)
	w.wantVector(vWaiting)
	if w.s.Exec.BlockedSince != 0 || w.s.Exec.BlockingDetail != "" {
		t.Errorf("record %+v", w.s.Exec)
	}
	_, _, err = rules.Unpause(w.s, flowfabric.BlockExecutionArgs{}, w.now)
	wantCode(t, err, flowfabric.CodeExecutionNotEligible)
	w.grant(5000)
	_, _, err = rules.Pause(w.s, flowfabric.BlockExecutionArgs{}, w.now)
	wantCode(t, err, flowfabric.CodeExecutionNotEligible)
	if fx := rules.BlockForLane(w.s, w.now); fx.Changed {
		t.Error("a granted execution was blocked")
	}
	if _, err := w.cancel(flowfabric.SourceOperatorOverride, flowfabric.Fence{}); err != nil {
		t.Fatal(err)
	}
	_, _, err = rules.Pause(w.s, flowfabric.BlockExecutionArgs{}, w.now)
	wantCode(t, err, flowfabric.CodeExecutionNotActive)
}

func TestLaneBlocks(t *testing.T) {
	w := newWorld(t)
	fx := rules.BlockForLane(w.s, w.now)
	w.did(fx)
	w.wantVector("runnable/unowned/blocked_by_lane_state/paused_by_policy/none/pending_first_attempt=waiting")
	if w.s.Exec.BlockingDetail != "lane default is disabled" {
		t.Errorf("detail %q", w.s.Exec.BlockingDetail)
	}
	fx = rules.UnblockForLane(w.s, w.now)
	w.did(fx)
	if !fx.Offered {
		t.Error("not offered")
	}
	w.wantVector(vWaiting)
}
