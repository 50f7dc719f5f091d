package rules_test

import (
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// Labels, lanes and the worker registry, by the scenarios of specification 02,
// section 14.

func TestSpec02_S42_Label(t *testing.T) {
	w := newWorld(t, withPolicy(`{"routing_requirements":{"required_capabilities":["gpu","cuda"]}}`))
	label := rules.Label{UncoveredSince: 7, LastMismatchAt: 9}
	r := rules.Record(w.s, label)
	if r.EligibilityState != flowfabric.BlockedByRoute || r.BlockingReason != flowfabric.ReasonWaitingForCapableWorker || r.PublicState != flowfabric.PublicWaiting ||
		r.BlockingDetail != "no live worker satisfies: cuda,gpu" || r.LastCapabilityMismatchAt != 9 {
		t.Errorf("record %+v", r)
	}
	if s := rules.Describe(w.s, label); s.EligibilityState != flowfabric.BlockedByRoute || s.BlockingDetail != r.BlockingDetail {
		t.Errorf("snapshot %+v", s)
	}
	w.wantVector(vWaiting)
	in := w.input()
	in.Capabilities = []string{"cuda", "gpu"}
	w.claimWith(in)
	if r := rules.Record(w.s, label); r.EligibilityState != flowfabric.EligibilityNotApplicable {
		t.Errorf("record %+v", r)
	}
}

func TestSpec02_S43_S44_Lanes(t *testing.T) {
	const (
		active, paused, draining, disabled = flowfabric.LaneActive, flowfabric.LanePaused, flowfabric.LaneDraining, flowfabric.LaneDisabled
	)
	for _, tc := range []struct {
		from, to flowfabric.LaneState
		ok       bool
	}{
		{active, paused, true}, {active, draining, true}, {active, disabled, true}, {active, active, true},
		{paused, active, true}, {paused, draining, true}, {paused, disabled, true},
		{draining, active, true}, {draining, paused, false}, {draining, disabled, true},
		{disabled, active, true}, {disabled, paused, false}, {disabled, draining, false}, {disabled, disabled, true},
	} {
		l := rules.NewLane("l", 5)
		l.State = tc.from
		got, unchanged, err := rules.SetLaneState(l, flowfabric.SetLaneStateArgs{LaneID: "l", State: tc.to, Reason: "why"}, 9)
		switch {
		case !tc.ok:
			wantCode(t, err, flowfabric.CodeInvalidLaneTransition)
			wantDetail(t, err, "state", string(tc.from))
		case err != nil:
			t.Errorf("%s to %s: %v", tc.from, tc.to, err)
		case unchanged != (tc.from == tc.to) || got.State != tc.to || !unchanged && (got.Revision != 2 || got.UpdatedAt != 9 || got.StateReason != "why"):
			t.Errorf("%s to %s: %+v", tc.from, tc.to, got)
		}
	}
	l := rules.NewLane("l", 5)
	if err := rules.AdmitsCreate(l); err != nil {
		t.Error(err)
	}
	l.State = paused
	wantCode(t, rules.AdmitsCreate(l), flowfabric.CodeLaneIntakeClosed)
	wantDetail(t, rules.AdmitsCreate(l), "state", "paused")
}

func TestUpdateLane(t *testing.T) {
	l := rules.NewLane("l", 5)
	weights := map[flowfabric.Namespace]int{"a": 3}
	got, err := rules.UpdateLane(l, flowfabric.UpdateLaneArgs{LaneID: "l", ExpectedRevision: new(uint64(1)), SchedulingWeight: new(7), MaxConcurrency: new(2),
		TenantWeights: weights, DefaultPolicy: []byte(`{"priority":3}`)}, 9)
	if err != nil || got.SchedulingWeight != 7 || got.MaxConcurrency != 2 || got.TenantWeights["a"] != 3 || got.Revision != 2 || string(got.DefaultPolicy) != `{"priority":3}` {
		t.Errorf("lane %+v, error %v", got, err)
	}
	for name, tc := range map[string]struct {
		args flowfabric.UpdateLaneArgs
		code flowfabric.Code
	}{
		"other revision": {flowfabric.UpdateLaneArgs{LaneID: "l", ExpectedRevision: new(uint64(9))}, flowfabric.CodeRevisionConflict},
		"weight 0":       {flowfabric.UpdateLaneArgs{LaneID: "l", SchedulingWeight: new(0)}, flowfabric.CodeInvalidInput},
		"weight 1001":    {flowfabric.UpdateLaneArgs{LaneID: "l", SchedulingWeight: new(1001)}, flowfabric.CodeInvalidInput},
		"tenant weight":  {flowfabric.UpdateLaneArgs{LaneID: "l", TenantWeights: map[flowfabric.Namespace]int{"a": 0}}, flowfabric.CodeInvalidInput},
		"concurrency":    {flowfabric.UpdateLaneArgs{LaneID: "l", MaxConcurrency: new(-1)}, flowfabric.CodeInvalidInput},
		"policy":         {flowfabric.UpdateLaneArgs{LaneID: "l", DefaultPolicy: []byte(`{"x":1}`)}, flowfabric.CodeInvalidPolicyJSON},
	} {
		if _, err := rules.UpdateLane(l, tc.args, 9); flowfabric.CodeOf(err) != tc.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

const (
	nonce1 = "00000000-0000-4000-8000-000000000001"
	nonce2 = "00000000-0000-4000-8000-000000000002"
)

func register(t *testing.T, existing *flowfabric.WorkerRegistration, now flowfabric.Millis, change func(*flowfabric.RegisterWorkerArgs)) (flowfabric.WorkerRegistration, flowfabric.RegisterOutcome, error) {
	t.Helper()
	a := flowfabric.RegisterWorkerArgs{Namespace: "acme", WorkerID: "w", WorkerInstanceID: "w-1", Lanes: []flowfabric.LaneID{"b", "a", "b"},
		Capabilities: []string{"gpu", "cpu"}, InstanceNonce: nonce1}
	if change != nil {
		change(&a)
	}
	if err := rules.ValidateRegister(&a); err != nil {
		return flowfabric.WorkerRegistration{}, "", err
	}
	return rules.Register(existing, a, now)
}

func TestSpec02_S45_S46_Register(t *testing.T) {
	w, outcome, err := register(t, nil, 1000, nil)
	if err != nil || outcome != flowfabric.WorkerRegistered || w.ExpiresAt != 61_000 || len(w.Lanes) != 2 || w.Lanes[0] != "a" || w.Capabilities[0] != "cpu" {
		t.Fatalf("%s: %+v, %v", outcome, w, err)
	}
	again, outcome, err := register(t, &w, 2000, func(a *flowfabric.RegisterWorkerArgs) { a.Capabilities = []string{"tpu"} })
	if err != nil || outcome != flowfabric.WorkerRefreshed || again.RegisteredAt != 1000 || again.ExpiresAt != 62_000 || again.Capabilities[0] != "tpu" {
		t.Errorf("%s: %+v, %v", outcome, again, err)
	}
	_, _, err = register(t, &w, 2000, func(a *flowfabric.RegisterWorkerArgs) { a.WorkerID = "other" })
	wantCode(t, err, flowfabric.CodeInstanceIDReassigned)
	_, _, err = register(t, &w, 2000, func(a *flowfabric.RegisterWorkerArgs) { a.InstanceNonce = nonce2 })
	wantCode(t, err, flowfabric.CodeDuplicateWorkerInstance)
	_, outcome, err = register(t, &w, 61_000, func(a *flowfabric.RegisterWorkerArgs) { a.WorkerID, a.InstanceNonce = "other", nonce2 })
	if err != nil || outcome != flowfabric.WorkerRegistered {
		t.Errorf("%s: %v", outcome, err)
	}
	beat := func(now flowfabric.Millis, nonce string) flowfabric.HeartbeatWorkerResult {
		_, r := rules.Heartbeat(&w, flowfabric.HeartbeatWorkerArgs{InstanceNonce: nonce}, now)
		return r
	}
	if r := beat(2000, nonce1); !r.Registered || r.NextExpiryAt != 62_000 {
		t.Errorf("heartbeat %+v", r)
	}
	if beat(61_000, nonce1).Registered || beat(2000, nonce2).Registered {
		t.Error("a heartbeat revived")
	}
	if _, r := rules.Heartbeat(nil, flowfabric.HeartbeatWorkerArgs{}, 1); r.Registered {
		t.Error("a heartbeat registered")
	}
	wantCode(t, rules.ValidateMarkWorkerDead(flowfabric.MarkWorkerDeadArgs{Namespace: "acme", WorkerInstanceID: "w-1", Reason: strings.Repeat("r", 257)}), flowfabric.CodeInvalidInput)
	wantCode(t, rules.ValidateMarkWorkerDead(flowfabric.MarkWorkerDeadArgs{Namespace: "acme", WorkerInstanceID: "w-1"}), flowfabric.CodeInvalidInput)
	for name, change := range map[string]func(*flowfabric.RegisterWorkerArgs){
		"no lanes":  func(a *flowfabric.RegisterWorkerArgs) { a.Lanes = nil },
		"short TTL": func(a *flowfabric.RegisterWorkerArgs) { a.LivenessTTLMs = 999 },
		"long TTL":  func(a *flowfabric.RegisterWorkerArgs) { a.LivenessTTLMs = 600_001 },
		"no nonce":  func(a *flowfabric.RegisterWorkerArgs) { a.InstanceNonce = "" },
	} {
		if _, _, err := register(t, nil, 1, change); flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRegisterImplicit(t *testing.T) {
	lanes := []flowfabric.LaneID{"a", "b"}
	w, gained, err := rules.RegisterImplicit(nil, "", "w", "w-1", lanes, []string{"cpu"}, 500, 1000)
	if err != nil || !gained || !w.Implicit || w.Namespace != flowfabric.AnyNamespace || w.ExpiresAt != 61_500 {
		t.Fatalf("%+v, gained %v, %v", w, gained, err)
	}
	same, gained, err := rules.RegisterImplicit(&w, "", "w", "w-1", lanes[:1], nil, 0, 2000)
	if err != nil || gained || same.RegisteredAt != 1000 || same.ExpiresAt != 62_000 || len(same.Lanes) != 1 {
		t.Errorf("%+v, gained %v, %v", same, gained, err)
	}
	if _, gained, _ = rules.RegisterImplicit(&same, "", "w", "w-1", lanes, nil, 0, 2000); !gained {
		t.Error("a new lane is no gain")
	}
	_, _, err = rules.RegisterImplicit(&w, "", "other", "w-1", lanes, nil, 0, 2000)
	wantCode(t, err, flowfabric.CodeInstanceIDReassigned)
	explicit, _, _ := register(t, nil, 1000, nil)
	got, gained, err := rules.RegisterImplicit(&explicit, "acme", "w", "w-1", []flowfabric.LaneID{"z"}, []string{"tpu"}, 0, 5000)
	if err != nil || gained || got.Implicit || got.ExpiresAt != 65_000 || len(got.Lanes) != 2 {
		t.Errorf("%+v, gained %v, %v", got, gained, err)
	}
	taken, outcome, err := register(t, &w, 2000, func(a *flowfabric.RegisterWorkerArgs) { a.InstanceNonce = nonce2 })
	if err != nil || outcome != flowfabric.WorkerRefreshed || taken.Implicit {
		t.Errorf("%s: %+v, %v", outcome, taken, err)
	}
}

func TestCovers(t *testing.T) {
	w, _, _ := register(t, nil, 1000, nil)
	for _, tc := range []struct {
		lane     flowfabric.LaneID
		ns       flowfabric.Namespace
		required []string
		now      flowfabric.Millis
		want     bool
	}{
		{"a", "acme", []string{"cpu", "gpu"}, 2000, true},
		{"a", "acme", nil, 2000, true},
		{"a", "acme", []string{"tpu"}, 2000, false},
		{"c", "acme", nil, 2000, false},
		{"a", "other", nil, 2000, false},
		{"a", "acme", nil, 61_000, false},
	} {
		if got := rules.Covers(w, tc.lane, tc.ns, tc.required, tc.now); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
	w.Namespace = flowfabric.AnyNamespace
	if !rules.Covers(w, "a", "other", nil, 2000) {
		t.Error("a worker of all namespaces covers none")
	}
}
