package rules_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"pgregory.net/rapid"
)

// machine throws random operations at one execution and holds what it has seen
// against the invariants of specifications 01 and 02.
type machine struct {
	*world
	rt     *rapid.T
	fences []flowfabric.Fence
	final  map[uint32]flowfabric.Attempt
	grants []string
	ended  int
}

func TestRandomOperationsKeepTheInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		policy := rapid.SampledFrom([]string{
			"", retry3, `{"max_reclaim_count":2,"retry_policy":{"max_retries":2,"backoff":{"type":"fixed","delay_ms":0}}}`,
			`{"timeout_policy":{"attempt_timeout_ms":50000,"execution_deadline_ms":300000},"retry_policy":{"max_retries":1}}`,
			`{"routing_requirements":{"required_capabilities":["gpu"]},"max_replay_count":1}`,
			`{"fallback_policy":{"tiers":[{"provider":"a","model":"m"},{"provider":"b","model":"m","timeout_ms":40000}]},"timeout_policy":{"attempt_timeout_ms":60000}}`,
		}).Draw(rt, "policy")
		m := &machine{world: newWorld(rt, withPolicy(policy)), rt: rt, final: map[uint32]flowfabric.Attempt{}}
		rt.Repeat(map[string]func(*rapid.T){
			"advance": func(rt *rapid.T) { m.now += flowfabric.Millis(rapid.Int64Range(0, 45_000).Draw(rt, "ms")) },
			"tick":    func(rt *rapid.T) { m.step(rt, "tick", m.randomDuty) },
			"claim":   func(rt *rapid.T) { m.step(rt, "claim", m.randomClaim) },
			"grant":   func(rt *rapid.T) { m.step(rt, "grant", m.randomGrant) },
			"holder":  func(rt *rapid.T) { m.step(rt, "holder", m.randomHolder) },
			"other":   func(rt *rapid.T) { m.step(rt, "other", m.randomOperator) },
			"":        func(rt *rapid.T) { m.place(rt) },
		})
	})
}

func (m *machine) capabilities(rt *rapid.T) []string {
	return rapid.SampledFrom([][]string{nil, {"gpu"}, {"cpu", "gpu"}}).Draw(rt, "caps")
}

func (m *machine) fence(rt *rapid.T) flowfabric.Fence {
	if len(m.fences) == 0 || rapid.IntRange(0, 9).Draw(rt, "fence") == 0 {
		return flowfabric.Fence{LeaseID: stranger, LeaseEpoch: 1, AttemptID: stranger}
	}
	if rapid.Bool().Draw(rt, "latest") {
		return m.fences[len(m.fences)-1]
	}
	return rapid.SampledFrom(m.fences).Draw(rt, "any")
}

func (m *machine) randomDuty(*rapid.T) (rules.Effects, error) {
	d := rules.NextDuty(m.s, m.now)
	if d == rules.DutyNone || d == rules.DutyRetention {
		return rules.Effects{}, nil
	}
	fx := rules.RunDuty(m.s, d, m.now, func(n int64) int64 { return n - 1 })
	if !fx.Changed {
		m.t.Fatalf("duty %s is due but changes nothing: %s", d, m.vector())
	}
	return fx, nil
}

func (m *machine) randomClaim(rt *rapid.T) (fx rules.Effects, err error) {
	in := m.input()
	in.Capabilities = m.capabilities(rt)
	var c rules.Claimed
	if len(m.grants) > 0 && rapid.Bool().Draw(rt, "granted") {
		in.GrantID = rapid.SampledFrom(m.grants).Draw(rt, "grant")
		in.Expect = rapid.SampledFrom([]flowfabric.ClaimExpect{"", flowfabric.ExpectNew, flowfabric.ExpectResume, flowfabric.ExpectReclaim}).Draw(rt, "expect")
		c, fx, err = rules.ClaimGranted(m.s, in, m.now)
	} else {
		in.OperatorOverride = rapid.IntRange(0, 9).Draw(rt, "override") == 0
		c, fx, err = rules.GrantAndClaim(m.s, in, m.now)
	}
	if err == nil {
		m.fences = append(m.fences, c.Task.Fence)
	}
	return fx, err
}

func (m *machine) randomGrant(rt *rapid.T) (fx rules.Effects, err error) {
	in := rules.GrantInput{GrantID: "g-" + m.uuid(), LaneID: "default", WorkerID: "w", WorkerInstanceID: "w-1", TTLMs: 5000,
		Capabilities: m.capabilities(rt), AdmissionRefs: []string{"ref-" + m.uuid()}}
	switch rapid.IntRange(0, 3).Draw(rt, "how") {
	case 0:
		_, fx, err = rules.IssueGrant(m.s, in, m.now)
	case 1:
		_, fx, err = rules.OfferGrant(m.s, in, m.now)
	case 2:
		_, fx, err = rules.IssueReclaimGrant(m.s, in, m.now)
	default:
		if len(m.grants) > 0 {
			_, fx = rules.ReleaseGrant(m.s, flowfabric.ReleaseGrantArgs{GrantID: m.grants[len(m.grants)-1], WorkerID: "w"}, m.now)
		}
		return fx, nil
	}
	m.grants = append(m.grants, in.GrantID)
	return fx, err
}

func (m *machine) randomHolder(rt *rapid.T) (fx rules.Effects, err error) {
	f := m.fence(rt)
	src := flowfabric.SourceLeaseHolder
	if rapid.IntRange(0, 9).Draw(rt, "operator") == 0 {
		src, f = flowfabric.SourceOperatorOverride, flowfabric.Fence{}
	}
	switch rapid.IntRange(0, 5).Draw(rt, "op") {
	case 0:
		_, fx, err = rules.Complete(m.s, flowfabric.CompleteExecutionArgs{Fence: f, Source: src, Result: []byte("r")}, m.now)
	case 1:
		category := rapid.SampledFrom([]string{"", "permanent", "provider_error"}).Draw(rt, "category")
		_, fx, err = rules.Fail(m.s, flowfabric.FailExecutionArgs{Fence: f, Source: src, Category: category, Reason: "why"}, m.now, func(n int64) int64 { return 0 })
	case 2:
		_, fx, err = rules.Cancel(m.s, flowfabric.CancelExecutionArgs{Fence: f, Source: src}, m.now)
	case 3:
		_, fx, err = rules.Delay(m.s, flowfabric.DelayExecutionArgs{Fence: f, Source: src, DelayMs: new(rapid.Int64Range(0, 20_000).Draw(rt, "delay"))}, m.now)
	case 4:
		_, fx, err = rules.Renew(m.s, flowfabric.RenewLeaseArgs{Fence: f, LeaseTTLMs: rapid.Int64Range(100, 60_000).Draw(rt, "ttl")}, m.now)
	default:
		fx, err = rules.UpdateProgress(m.s, flowfabric.UpdateProgressArgs{Fence: f, Pct: new(int32(3))}, m.now)
	}
	return fx, err
}

func (m *machine) randomOperator(rt *rapid.T) (fx rules.Effects, err error) {
	switch rapid.IntRange(0, 9).Draw(rt, "op") {
	case 0:
		_, fx, err = rules.Revoke(m.s, flowfabric.RevokeLeaseArgs{Hold: rapid.Bool().Draw(rt, "hold")}, m.now)
	case 1:
		_, fx = rules.ReleaseHold(m.s, m.now)
	case 2, 3:
		_, fx, err = rules.Replay(m.s, flowfabric.ReplayExecutionArgs{}, m.now)
	case 4:
		_, fx, err = rules.ChangePriority(m.s, flowfabric.ChangePriorityArgs{Priority: rapid.Int32().Draw(rt, "priority")}, m.now)
	case 5:
		_, fx, err = rules.Pause(m.s, flowfabric.BlockExecutionArgs{}, m.now)
	case 6:
		_, fx, err = rules.Unpause(m.s, flowfabric.BlockExecutionArgs{}, m.now)
	case 7:
		fx, err = rules.SetTags(m.s, map[string]string{"a.b": fmt.Sprint(m.now)}, m.now)
	case 8:
		fx = rules.BlockForLane(m.s, m.now)
	default:
		fx = rules.UnblockForLane(m.s, m.now)
	}
	return fx, err
}

// step runs one operation and compares before and after.
func (m *machine) step(rt *rapid.T, name string, op func(*rapid.T) (rules.Effects, error)) {
	before := *m.s
	deep, err := json.Marshal(before)
	if err != nil {
		rt.Fatal(err)
	}
	fx, opErr := op(rt)
	m.did(fx)
	if flowfabric.CodeOf(opErr) == flowfabric.CodeInvariantViolation {
		rt.Fatalf("%s: %v", name, opErr)
	}
	if shared, _ := json.Marshal(before); string(shared) != string(deep) {
		rt.Fatalf("%s wrote through memory shared with the former state:\n%s\n%s", name, deep, shared)
	}
	if !fx.Changed {
		if !reflect.DeepEqual(before, *m.s) || len(fx.Events) > 0 || fx.Superseded != nil || len(fx.Owed) > 0 {
			rt.Fatalf("%s changed the state without saying so", name)
		}
		return
	}
	m.compare(rt, name, &before, fx)
}

func (m *machine) compare(rt *rapid.T, name string, before *rules.State, fx rules.Effects) {
	old, e := &before.Exec, &m.s.Exec
	claims, ends, losses := 0, 0, 0
	for _, ev := range fx.Events {
		switch ev.Kind {
		case flowfabric.EventAcquired, flowfabric.EventResumed, flowfabric.EventReclaimed:
			claims++
		case flowfabric.EventCompleted:
			ends++
		case flowfabric.EventExpired, flowfabric.EventRevoked:
			losses++
		}
	}
	if e.CurrentLeaseEpoch != old.CurrentLeaseEpoch+uint64(claims) {
		rt.Fatalf("%s: %d claims, epoch %d after %d", name, claims, e.CurrentLeaseEpoch, old.CurrentLeaseEpoch)
	}
	terminal := e.LifecyclePhase == flowfabric.PhaseTerminal
	if entered := terminal && old.LifecyclePhase != flowfabric.PhaseTerminal; entered != (ends == 1) || ends > 1 {
		rt.Fatalf("%s: %d completions, from %s to %s", name, ends, old.PublicState, e.PublicState)
	}
	if ends > 0 {
		m.ended++
	}
	if e.TerminalSeq != uint64(m.ended) {
		rt.Fatalf("%s: terminal_seq %d after %d endings", name, e.TerminalSeq, m.ended)
	}
	if e.LastMutationAt < old.LastMutationAt || e.LastMutationAt != m.now || e.StateVector != old.StateVector && e.LastTransitionAt != m.now {
		rt.Fatalf("%s: mutated %d, transition %d, now %d", name, e.LastMutationAt, e.LastTransitionAt, m.now)
	}
	if e.ExecutionID != old.ExecutionID || e.CreatedAt != old.CreatedAt || e.SpecDigest != old.SpecDigest || m.s.Policy != before.Policy {
		rt.Fatalf("%s changed what never changes", name)
	}
	if old.AdmissionRefs != nil && e.AdmissionRefs == nil && len(fx.Owed) != len(old.AdmissionRefs) {
		rt.Fatalf("%s lost admissions: had %v, owes %v", name, old.AdmissionRefs, fx.Owed)
	}
	if losses > 1 {
		rt.Fatalf("%s: %d losses of one lease", name, losses)
	}
	m.attempts(rt, name, before, fx)
}

// attempts checks E3 and E5: dense indexes, one live attempt, final ones never
// rewritten.
func (m *machine) attempts(rt *rapid.T, name string, before *rules.State, fx rules.Effects) {
	e, a := &m.s.Exec, m.s.Attempt
	made := int(e.TotalAttemptCount) - int(before.Exec.TotalAttemptCount)
	if made < 0 || made > 1 || (fx.Superseded != nil) != (made == 1 && before.Attempt != nil) {
		rt.Fatalf("%s made %d attempts, superseded %v", name, made, fx.Superseded)
	}
	if (a == nil) != (e.TotalAttemptCount == 0) || a != nil && a.AttemptIndex != e.TotalAttemptCount-1 {
		rt.Fatalf("%s: attempt %+v of %d", name, a, e.TotalAttemptCount)
	}
	for _, x := range []*flowfabric.Attempt{fx.Superseded, a} {
		if x == nil || !x.Final() {
			continue
		}
		known, seen := m.final[x.AttemptIndex]
		if seen && !reflect.DeepEqual(known, *x) {
			rt.Fatalf("%s rewrote the final attempt %d:\n%+v\n%+v", name, x.AttemptIndex, known, *x)
		}
		m.final[x.AttemptIndex] = *x
	}
	if fx.Superseded != nil && !fx.Superseded.Final() {
		rt.Fatalf("%s superseded a live attempt", name)
	}
	if e.AttemptState == flowfabric.AttemptRunning && a.AttemptState != flowfabric.AttemptStarted {
		rt.Fatalf("%s: running execution with attempt %s", name, a.AttemptState)
	}
	if e.AttemptState == flowfabric.AttemptTerminal && !a.Final() {
		rt.Fatalf("%s: ended execution with attempt %s", name, a.AttemptState)
	}
}

// place checks that nothing is lost (L9) and that the due order is right: what is
// due has a duty, and what has a duty is due.
func (m *machine) place(rt *rapid.T) {
	e := &m.s.Exec
	p, d := rules.Place(m.s, m.now), rules.NextDuty(m.s, m.now)
	if due := p.DueAt != 0 && p.DueAt <= m.now; due != (d != rules.DutyNone) {
		rt.Fatalf("due at %d, now %d, duty %q: %s", p.DueAt, m.now, d, m.vector())
	}
	if e.LifecyclePhase == flowfabric.PhaseTerminal {
		return
	}
	if e.LifecyclePhase != flowfabric.PhaseActive && (e.BlockingReason == flowfabric.ReasonNone || e.BlockingReason == "") {
		rt.Fatalf("no reason for waiting: %s", m.vector())
	}
	cleared := e.ReclaimHold || e.BlockingReason == flowfabric.ReasonPausedByOperator || e.BlockingReason == flowfabric.ReasonPausedByPolicy
	if !p.Offered && p.DueAt == 0 && !cleared {
		rt.Fatalf("lost: %s", m.vector())
	}
	if p.Offered && rules.LiveGrant(m.s, m.now) {
		rt.Fatal("granted work is offered")
	}
}
