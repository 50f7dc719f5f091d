package backendtest

import (
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric"
)

const (
	noRetries    = `{"retry_policy":{"max_retries":0}}`
	retryFixed10 = `{"retry_policy":{"max_retries":3,"backoff":{"type":"fixed","delay_ms":10}}}`
	retryAtOnce  = `{"retry_policy":{"max_retries":3,"backoff":{"type":"fixed","delay_ms":0}}}`
)

// policyScenarios: specification 01, section 5.
func policyScenarios(r *runner) {
	r.scenario("01.11 a broken policy is refused naming the field", func(s *scene) {
		for _, c := range []struct{ policy, field string }{
			{`{"retry_policy":{"max_retries":`, ""},
			{`[]`, ""},
			{`"x"`, ""},
			{`{} {}`, ""},
			{`{"no_such_field":1}`, "no_such_field"},
			{`{"retry_policy":{"no_such_field":1}}`, "no_such_field"},
			{`{"retry_policy":{"backoff":{"type":"fixed","delay_ms":1,"nope":1}}}`, "nope"},
			{`{"priority":"high"}`, "priority"},
			{`{"priority":1.5}`, "priority"},
			{`{"retry_policy":{"max_retries":-1}}`, "max_retries"},
			{`{"retry_policy":{"backoff":{"type":"linear"}}}`, "type"},
			{`{"retry_policy":{"backoff":{"type":"fixed"}}}`, "delay_ms"},
			{`{"retry_policy":{"backoff":{"type":"fixed","delay_ms":null}}}`, "delay_ms"},
			{`{"retry_policy":{"backoff":{"type":"fixed","delay_ms":-1}}}`, "delay_ms"},
			{`{"retry_policy":{"backoff":{"initial_delay_ms":1,"max_delay_ms":10,"multiplier":2}}}`, "type"},
			{`{"retry_policy":{"backoff":{}}}`, "type"},
			{`{"retry_policy":{"backoff":{"type":"exponential","max_delay_ms":10,"multiplier":2}}}`, "initial_delay_ms"},
			{`{"retry_policy":{"backoff":{"type":"exponential","initial_delay_ms":1,"max_delay_ms":10,"multiplier":0.5}}}`, "multiplier"},
			{`{"retry_policy":{"backoff":{"type":"exponential","initial_delay_ms":10,"max_delay_ms":1,"multiplier":2}}}`, "max_delay_ms"},
			{`{"retry_policy":{"retryable_categories":["permanent"]}}`, "retryable_categories"},
			{`{"retry_policy":{"retryable_categories":["cancelled"]}}`, "retryable_categories"},
			{`{"timeout_policy":{"attempt_timeout_ms":0}}`, "attempt_timeout_ms"},
			{`{"timeout_policy":{"execution_deadline_ms":0}}`, "execution_deadline_ms"},
			{`{"max_reclaim_count":-1}`, "max_reclaim_count"},
			{`{"max_replay_count":"ten"}`, "max_replay_count"},
			{`{"fallback_policy":{}}`, "tiers"},
			{`{"fallback_policy":{"tiers":null}}`, "tiers"},
			{`{"fallback_policy":{"tiers":[{"provider":"p"}]}}`, "model"},
			{`{"fallback_policy":{"tiers":[{"provider":"p","model":"m","timeout_ms":0}]}}`, "timeout_ms"},
			{`{"retention_ms":31536000001}`, "retention_ms"},
			{`{"dedup_window_ms":-1}`, "dedup_window_ms"},
			{`{"budget_ids":[` + strings.Repeat(`"0190f3c2-7b1a-7c3d-8e4f-0123456789ab",`, 16) + `"0190f3c2-7b1a-7c3d-8e4f-0123456789ab"]}`, "budget_ids"},
		} {
			id := idOn(testPartition)
			_, err := s.tryCreate(withID(id), withPolicy(c.policy))
			if err == nil {
				s.t.Errorf("policy %.80s was accepted", c.policy)
				continue
			}
			e := s.assertCode(err, flowfabric.CodeInvalidPolicyJSON)
			if field := fmt.Sprint(e.Detail("field")); !strings.Contains(field, c.field) {
				s.t.Errorf("policy %.80s: field is %q, want %q", c.policy, field, c.field)
			}
		}
		s.equal("listed", len(s.listed(testPartition)), 0)
	})

	r.scenario("01.5 null, absent and empty are the defaults", func(s *scene) {
		for _, doc := range []string{"", "{}", `{"retry_policy":null,"priority":null,"max_reclaim_count":null}`, `{"retry_policy":{"max_retries":null,"backoff":null}}`} {
			id := s.create(withPolicy(doc))
			s.is(id, waitingVector(flowfabric.AttemptPendingFirst))
			s.equal("priority", s.describe(id).Priority, int32(0))
		}
		// A present retry policy without max_retries allows three.
		id, task := s.createClaimed(withPolicy(`{"retry_policy":{"backoff":{"type":"fixed","delay_ms":0}}}`))
		for i := range 3 {
			s.equal(fmt.Sprintf("failure %d", i), s.fail(task, "").Outcome, flowfabric.FailRetryScheduled)
			task = s.claim(id)
		}
		s.equal("failure 3", s.fail(task, "").Outcome, flowfabric.FailTerminal)
	})

	r.scenario("01.5 the frozen policy is read back", func(s *scene) {
		id := s.create(withPolicy(`{"priority":5,"max_replay_count":2,"retry_policy":{"max_retries":7}}`))
		if s.Remote {
			s.t.Skip("a server shows no policies")
		}
		p, err := s.Backend.GetExecutionPolicy(s.ctx, id)
		s.ok(err)
		s.that(p != nil && p.MaxReplayCount != nil && p.RetryPolicy != nil && p.RetryPolicy.MaxRetries != nil, "policy is %+v", p)
		s.equal("max_replay_count", *p.MaxReplayCount, uint32(2))
		s.equal("max_retries", *p.RetryPolicy.MaxRetries, uint32(7))
	})

	r.scenario("01.12 capability requirements keep to their grammar", func(s *scene) {
		routing := func(list string) createOption {
			return withPolicy(`{"routing_requirements":{"required_capabilities":` + list + `}}`)
		}
		for list, detail := range map[string]string{
			`["gpu",42]`:                            "required:non_string_token",
			`["a,b"]`:                               "required:comma_in_token",
			`["a b"]`:                               "required:control_or_whitespace",
			`["a\u007fb"]`:                          "required:control_or_whitespace",
			`["a\tb"]`:                              "required:control_or_whitespace",
			`[""]`:                                  "required:empty_token",
			`"gpu"`:                                 "required:not_array",
			manyTokens(257):                         "required:too_many_tokens",
			`["` + strings.Repeat("x", 4097) + `"]`: "required:too_many_bytes",
		} {
			_, err := s.tryCreate(routing(list))
			s.that(err != nil, "%.60s was accepted", list)
			s.assertCode(err, flowfabric.CodeInvalidCapabilities)
			s.assertMentions(err, detail)
		}
		s.create(routing(`["東京-gpu"]`))
		s.create(routing(manyTokens(256)))
		s.create(routing(`["` + strings.Repeat("x", 4096) + `"]`))
		dup := s.create(routing(`["b","a","b"]`))
		rec := s.record(dup)
		s.equal("required capabilities", rec.RequiredCapabilities, []string{"a", "b"})
	})

	r.scenario("01.19 fail with retries schedules a retry", func(s *scene) {
		id, task := s.createClaimed(withPolicy(retryFixed10))
		now := s.now()
		got, err := s.Backend.FailExecution(s.ctx, flowfabric.FailExecutionArgs{ExecutionID: id, Fence: task.Fence, Reason: "boom", Category: "transient"})
		s.ok(err)
		s.equal("result", got, flowfabric.FailExecutionResult{
			Outcome: flowfabric.FailRetryScheduled, DelayUntil: now + 10, NextAttemptIndex: 1, AttemptType: flowfabric.AttemptTypeRetry,
		})
		s.is(id, delayedVector(flowfabric.ReasonWaitingForRetryBackoff, flowfabric.AttemptPendingRetry))
		d := s.describe(id)
		s.equal("retry_count", d.RetryCount, uint32(1))
		s.that(d.CurrentAttempt == nil, "a pending retry shows an attempt")
		s.equal("detail", d.BlockingDetail, fmt.Sprintf("retry backoff until %d (attempt 0 failed: boom)", now+10))
		s.equal("failure", d.FailureReason+"/"+d.FailureCategory, "boom/transient")
		s.equal("attempt records", len(s.attempts(id)), 1)
		_, err = s.Backend.GetAttempt(s.ctx, id, 1)
		s.assertCode(err, flowfabric.CodeAttemptNotFound)
		s.noLease(id)

		s.promote(id)
		s.is(id, waitingVector(flowfabric.AttemptPendingRetry))
		again := s.claim(id)
		s.equal("attempt index", again.AttemptIndex, uint32(1))
		a := s.attempt(id, 1)
		s.equal("attempt type", a.AttemptType, flowfabric.AttemptTypeRetry)
		s.equal("previous index", *a.PreviousAttemptIndex, uint32(0))
		s.equal("retry reason", a.RetryReason, "boom")
	})

	r.scenario("01.20 fail without a retry policy, or with max_retries 0, is final", func(s *scene) {
		for _, policy := range []string{"", noRetries} {
			id, task := s.createClaimed(withPolicy(policy))
			s.equal("result", s.fail(task, ""), flowfabric.FailExecutionResult{Outcome: flowfabric.FailTerminal})
			s.is(id, endedVector(flowfabric.OutcomeFailed, flowfabric.AttemptTerminal))
			d := s.describe(id)
			s.equal("failure", d.FailureReason+"/"+d.FailureCategory, "boom/transient")
			a := s.attempt(id, 0)
			s.equal("attempt", string(a.AttemptState)+"/"+a.FailureReason+"/"+a.FailureCategory, "ended_failure/boom/transient")
		}
	})

	r.scenario("01.21 exponential backoff doubles up to its maximum", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"retry_policy":{"max_retries":8}}`))
		for i, want := range []int64{1, 2, 4, 8, 16, 32, 60, 60} {
			got := s.fail(task, "")
			s.equal(fmt.Sprintf("delay of retry %d", i+1), int64(got.DelayUntil-s.now()), want*1000)
			s.promote(id)
			task = s.claim(id)
		}
		s.equal("failure 9", s.fail(task, "").Outcome, flowfabric.FailTerminal)
	})

	r.scenario("01.21 jitter draws from the upper half", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"retry_policy":{"max_retries":40,"backoff":{"type":"fixed","delay_ms":3,"jitter":true}}}`))
		distinct := make(map[int64]bool)
		for range 40 {
			d := int64(s.fail(task, "").DelayUntil - s.now())
			s.that(d >= 2 && d <= 3, "delay %d is outside 2..3", d)
			distinct[d] = true
			s.promote(id)
			task = s.claim(id)
		}
		s.that(len(distinct) > 1, "40 jittered delays are all equal")
	})

	r.scenario("01.21 an initial delay of 0 stays 0, and overflow counts as the maximum", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"retry_policy":{"backoff":{"type":"exponential","initial_delay_ms":0,"max_delay_ms":1000,"multiplier":10}}}`))
		for range 3 {
			got := s.fail(task, "")
			s.equal("delay_until", got.DelayUntil, s.now())
			s.is(id, waitingVector(flowfabric.AttemptPendingRetry))
			task = s.claim(id)
		}
		_, task = s.createClaimed(withPolicy(`{"retry_policy":{"backoff":{"type":"exponential","initial_delay_ms":1000,"max_delay_ms":5000,"multiplier":1e300}}}`))
		for _, want := range []int64{1000, 5000, 5000} {
			got := s.fail(task, "")
			s.equal("delay", int64(got.DelayUntil-s.now()), want)
			s.promote(task.ExecutionID)
			task = s.claim(task.ExecutionID)
		}
		_, task = s.createClaimed(withPolicy(`{"retry_policy":{"backoff":{"type":"exponential","initial_delay_ms":3,"max_delay_ms":100,"multiplier":1.5}}}`))
		for _, want := range []int64{3, 4, 6} {
			got := s.fail(task, "")
			s.equal("delay without its fraction", int64(got.DelayUntil-s.now()), want)
			s.promote(task.ExecutionID)
			task = s.claim(task.ExecutionID)
		}
	})

	r.scenario("01.22 categories decide what is retried", func(s *scene) {
		only := `{"retry_policy":{"retryable_categories":["timeout"]}}`
		for _, c := range []struct {
			policy, category string
			want             flowfabric.FailOutcome
		}{
			{retryFixed10, "permanent", flowfabric.FailTerminal},
			{retryFixed10, "cancelled", flowfabric.FailTerminal},
			{retryFixed10, "", flowfabric.FailRetryScheduled},
			{retryFixed10, "my.own_category-1", flowfabric.FailRetryScheduled},
			{only, "transient", flowfabric.FailTerminal},
			{only, "", flowfabric.FailTerminal},
			{only, "timeout", flowfabric.FailRetryScheduled},
		} {
			_, task := s.createClaimed(withPolicy(c.policy))
			s.equal("outcome of "+c.category, s.fail(task, c.category).Outcome, c.want)
		}
		_, task := s.createClaimed()
		for _, bad := range []string{"Upper", "-x", "a b", strings.Repeat("x", 65)} {
			_, err := s.tryFail(task, bad)
			s.assertCode(err, flowfabric.CodeInvalidInput)
		}
		s.fail(task, strings.Repeat("x", 64))
	})

	r.scenario("01.5.1 fallback comes before retry and leaves its allowance alone", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"retry_policy":{"max_retries":1,"backoff":{"type":"fixed","delay_ms":10}},
			"timeout_policy":{"attempt_timeout_ms":9000},
			"fallback_policy":{"tiers":[{"provider":"p0","model":"m0"},{"provider":"p1","model":"m1","timeout_ms":500},{"provider":"p2","model":"m2"}]}}`))
		s.equal("tier 0", snapshotOf(task), "p0/m0/0/9000")
		s.equal("timeout of tier 0", task.AttemptTimeoutAt, s.now()+9000)
		for i, want := range []string{"p1/m1/1/500", "p2/m2/2/9000"} {
			got := s.fail(task, "provider_error")
			s.equal("fallback", got, flowfabric.FailExecutionResult{
				Outcome: flowfabric.FailRetryScheduled, DelayUntil: s.now(), NextAttemptIndex: uint32(i + 1), AttemptType: flowfabric.AttemptTypeFallback,
			})
			s.is(id, waitingVector(flowfabric.AttemptPendingRetry))
			s.equal("retry_count", s.describe(id).RetryCount, uint32(0))
			task = s.claim(id)
			s.equal("attempt type", task.AttemptType, flowfabric.AttemptTypeFallback)
			s.equal("tier", snapshotOf(task), want)
			s.equal("fallback index of the attempt", *s.attempt(id, uint32(i+1)).FallbackIndex, uint32(i+1))
		}
		got := s.fail(task, "model_unavailable")
		s.equal("no tier left", got.AttemptType, flowfabric.AttemptTypeRetry)
		s.promote(id)
		task = s.claim(id)
		s.equal("a retry keeps the tier", snapshotOf(task), "p2/m2/2/9000")
		s.equal("no retry left", s.fail(task, "rate_limited_by_provider").Outcome, flowfabric.FailTerminal)
	})

	r.scenario("01.5.1 a category outside the fallback's goes to retry", func(s *scene) {
		policy := withPolicy(`{"fallback_policy":{"categories":["slow"],"tiers":[{"provider":"p0","model":"m0"},{"provider":"p1","model":"m1"}]}}`)
		_, task := s.createClaimed(policy)
		s.equal("outcome", s.fail(task, "provider_error").Outcome, flowfabric.FailTerminal)
		_, task = s.createClaimed(policy)
		s.equal("attempt type", s.fail(task, "slow").AttemptType, flowfabric.AttemptTypeFallback)
	})

	r.scenario("01.30 an attempt timeout passes while the worker renews", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":5000}}`))
		s.equal("attempt_timeout_at", task.AttemptTimeoutAt, s.now()+5000)
		for range 4 {
			s.advance(1250)
			_, err := s.renew(task, testTTL)
			s.ok(err)
		}
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptTerminal))
		s.equal("failure", s.describe(id).FailureReason, "attempt_timeout")
		a := s.attempt(id, 0)
		s.equal("attempt", facts(a.AttemptState, a.FailureReason, a.FailureCategory, a.TerminalizedByOverride), "ended_failure attempt_timeout timeout true")
		s.equal("history", s.history(id), []string{"acquired(direct)", "released(attempt_timeout)"})
		s.equal("held", len(s.held(workerA.instance)), 0)
		_, err := s.tryComplete(id, task.Fence)
		s.assertCode(err, flowfabric.CodeExecutionNotActive)
		s.assertDetail(err, "terminal_outcome", "expired")
	})

	r.scenario("01.30 an attempt timeout with retries left is a delayed retry", func(s *scene) {
		id, _ := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":5000},"retry_policy":{"max_retries":1,"backoff":{"type":"fixed","delay_ms":10}}}`))
		s.advance(5000)
		out, err := s.store().ExpireExecution(s.ctx, id, flowfabric.ExpireAttemptTimeout)
		s.ok(err)
		s.equal("outcome", out, flowfabric.UpkeepRetryScheduled)
		s.is(id, delayedVector(flowfabric.ReasonWaitingForRetryBackoff, flowfabric.AttemptPendingRetry))
		s.equal("delay_until", s.describe(id).DelayUntil, s.now()+10)
		s.equal("completions", len(s.events(flowfabric.FeedCompletions, id)), 0)
		s.promote(id)
		s.equal("attempt type", s.claim(id).AttemptType, flowfabric.AttemptTypeRetry)
	})

	r.scenario("01.5.2 the attempt timeout stops while the attempt is paused", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":5000}}`))
		s.advance(2000)
		s.delay(task, 60_000)
		s.equal("remaining", *s.attempt(id, 0).TimeoutRemainingMs, int64(3000))
		s.promote(id)
		s.tick()
		resumed := s.claim(id)
		s.equal("attempt_timeout_at", resumed.AttemptTimeoutAt, s.now()+3000)
		s.advance(2999)
		s.tick()
		s.is(id, activeVector())
		s.advance(1)
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptTerminal))
	})

	r.scenario("01.5.2 a lapse leaves the attempt timeout, and it acts on a lapsed attempt", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":40000}}`))
		s.lapse(task)
		s.advance(10_000)
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptTerminal))
	})

	r.scenario("01.5.2 a completion that commits first stands", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":1000,"execution_deadline_ms":1000}}`))
		s.advance(2000)
		s.complete(task)
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeSuccess, flowfabric.AttemptTerminal))
	})

	r.scenario("01.31 a deadline passes on a never-claimed execution", func(s *scene) {
		id := s.create(withPolicy(`{"timeout_policy":{"execution_deadline_ms":1000}}`))
		s.equal("deadline", s.describe(id).ExecutionDeadlineAt, s.now()+1000)
		s.advance(999)
		s.tick()
		s.is(id, waitingVector(flowfabric.AttemptPendingFirst))
		s.advance(1)
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptPendingFirst))
		d := s.describe(id)
		s.equal("failure", d.FailureReason+"/"+d.FailureCategory, "execution_deadline/deadline")
		s.equal("attempts", len(s.attempts(id)), 0)
		s.equal("eligible", len(s.eligible()), 0)
	})

	r.scenario("01.31 a deadline ends a running, a lapsed, a paused and a blocked execution", func(s *scene) {
		at := s.now() + 100_000
		running, _ := s.createClaimed(withDeadline(at))
		lapsed, lt := s.createClaimed(withDeadline(at))
		paused, pt := s.createClaimed(withDeadline(at))
		blocked := s.create(withDeadline(at))
		wins := s.create(withDeadline(at), withPolicy(`{"timeout_policy":{"execution_deadline_ms":5}}`))
		s.delay(pt, 500_000)
		s.pause(blocked)
		s.lapse(lt)
		_, err := s.renew(lt, testTTL)
		s.assertCode(err, flowfabric.CodeLeaseExpired)
		s.advanceTo(at)
		s.tick()
		for _, id := range []flowfabric.ExecutionID{running, lapsed, paused} {
			s.is(id, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptTerminal))
			a := s.attempt(id, 0)
			s.equal("attempt", facts(a.AttemptState, a.FailureReason, a.TerminalizedByOverride), "ended_failure execution_deadline true")
		}
		s.is(blocked, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptPendingFirst))
		s.is(wins, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptPendingFirst))
	})

	r.scenario("01.5.2 a deadline already past is accepted and expires at the next scan", func(s *scene) {
		id := s.create(withDeadline(s.now() - 5))
		s.is(id, waitingVector(flowfabric.AttemptPendingFirst))
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptPendingFirst))
	})

	r.scenario("01.9 when several instants have passed the deadline decides first", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":1000,"execution_deadline_ms":2000},"retry_policy":{}}`))
		s.advanceTo(task.LeaseExpiresAt + 10)
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptTerminal))
		s.equal("failure", s.describe(id).FailureReason, "execution_deadline")
	})
}

func snapshotOf(t flowfabric.ClaimedExecution) string {
	p := t.PolicySnapshot
	return fmt.Sprintf("%s/%s/%d/%d", p.Provider, p.Model, p.FallbackIndex, p.TimeoutMs)
}

func manyTokens(n int) string {
	var b strings.Builder
	b.WriteString(`[`)
	for i := range n {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, `"t%03d"`, i)
	}
	b.WriteString(`]`)
	return b.String()
}
