package backendtest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// waitpointScenarios: specification 03, sections 2.2, 4.1, 4.7 and 4.9.
func waitpointScenarios(r *runner) {
	r.scenario("03.4.1 a pending waitpoint", func(s *scene) {
		id, task := s.createClaimed()
		before := s.visible(id)
		a := pendingArgs(task, "go")
		p, err := s.tryPending(a)
		s.ok(err)
		s.equal("result", facts(p.WaitpointID, p.WaitpointKey, p.ExpiresAt), facts(a.WaitpointID, "go", s.now()+60_000))
		w := s.listWaitpoints(id)
		s.equal("listed", w, []flowfabric.Waitpoint{{
			WaitpointID: a.WaitpointID, WaitpointKey: "go", ExecutionID: id, State: flowfabric.WaitpointPending, ConditionKind: flowfabric.ShownNone,
			RequiredSignalNames: []string{}, CreatedAt: s.now(), ExpiresAt: s.now() + 60_000, TokenKID: p.Token.KID(), TokenFingerprint: p.Token.Fingerprint(),
		}})
		after := s.visible(id)
		s.equal("state", vectorOf(after.Snapshot), vectorOf(before.Snapshot))
		s.equal("lease", after.Lease, before.Lease)
		s.equal("attempts", after.Attempts, before.Attempts)
		s.that(after.Suspension == nil, "a suspension: %+v", after.Suspension)
		_, err = s.renew(task, testTTL)
		s.ok(err)
	})

	r.scenario("03.4.1 a creation repeated with its id", func(s *scene) {
		id, task := s.createClaimed(onPartition(testPartition))
		a := pendingArgs(task, "go")
		first, err := s.tryPending(a)
		s.ok(err)
		s.advance(1000)
		s.unchanged(id, func() {
			again, err := s.tryPending(a)
			s.ok(err)
			s.equal("repeat", again, first)
			b := a
			b.WaitpointKey = "other"
			_, err = s.tryPending(b)
			s.assertCode(err, flowfabric.CodeWaitpointAlreadyExists)
		})
		second := a
		second.WaitpointID = flowfabric.NewWaitpointID()
		_, err = s.tryPending(second)
		s.ok(err)
		s.equal("one key, two waitpoints", s.open(id), "go pending, go pending")

		_, otherTask := s.createClaimed(onPartition(testPartition))
		other := pendingArgs(otherTask, "go")
		other.WaitpointID = a.WaitpointID
		_, err = s.tryPending(other)
		s.assertCode(err, flowfabric.CodeWaitpointAlreadyExists)

		s.revoke(id)
		next := s.claimBy(id, workerB)
		third := pendingArgs(next, "go")
		third.WaitpointID = a.WaitpointID
		_, err = s.tryPending(third)
		s.assertCode(err, flowfabric.CodeWaitpointAlreadyExists)
	})

	r.scenario("03.4.1 a creation is validated", func(s *scene) {
		id, task := s.createClaimed()
		s.unchanged(id, func() {
			for name, bad := range map[string]struct {
				spoil func(a *flowfabric.CreatePendingWaitpointArgs)
				code  flowfabric.Code
			}{
				"no time":           {func(a *flowfabric.CreatePendingWaitpointArgs) { a.ExpiresInMs = 0 }, flowfabric.CodeInvalidInput},
				"negative time":     {func(a *flowfabric.CreatePendingWaitpointArgs) { a.ExpiresInMs = -5 }, flowfabric.CodeInvalidInput},
				"an id like no id":  {func(a *flowfabric.CreatePendingWaitpointArgs) { a.WaitpointID = "x" }, flowfabric.CodeInvalidInput},
				"a long key":        {func(a *flowfabric.CreatePendingWaitpointArgs) { a.WaitpointKey = strings.Repeat("k", 257) }, flowfabric.CodeInvalidWaitpointKey},
				"a control in it":   {func(a *flowfabric.CreatePendingWaitpointArgs) { a.WaitpointKey = "a\x00b" }, flowfabric.CodeInvalidWaitpointKey},
				"a C1 control":      {func(a *flowfabric.CreatePendingWaitpointArgs) { a.WaitpointKey = "a\u0085b" }, flowfabric.CodeInvalidWaitpointKey},
				"bytes but no text": {func(a *flowfabric.CreatePendingWaitpointArgs) { a.WaitpointKey = "\xc3" }, flowfabric.CodeInvalidWaitpointKey},
			} {
				a := pendingArgs(task, "go")
				bad.spoil(&a)
				_, err := s.tryPending(a)
				s.that(err != nil, "%s was accepted", name)
				s.assertCode(err, bad.code)
			}
		})
		a := pendingArgs(task, strings.Repeat("k", 256))
		a.ExpiresInMs = int64(flowfabric.MaxInstant)
		p, err := s.tryPending(a)
		s.ok(err)
		s.equal("clamped", p.ExpiresAt, flowfabric.MaxInstant)
		a = pendingArgs(task, "")
		p, err = s.tryPending(a)
		s.ok(err)
		s.equal("default key", p.WaitpointKey, "wpk:"+string(a.WaitpointID))
	})

	r.scenario("03.35 a pending waitpoint expires", func(s *scene) {
		id, task := s.createClaimed()
		a := pendingArgs(task, "go")
		a.ExpiresInMs = 1000
		p, err := s.tryPending(a)
		s.ok(err)
		at := address{id, p.WaitpointID, "go", p.Token}
		g := s.deliver(at, "ready", flowfabric.EffectBuffered, keyed("k"))
		s.advance(999)
		s.tick()
		s.equal("before", s.open(id), "go pending")
		s.advance(1)
		// Its time is over although nobody has written it down yet.
		s.unchanged(id, func() {
			_, err := s.tryDeliver(at, "more")
			s.assertCode(err, flowfabric.CodeWaitpointClosed)
			_, err = s.trySuspend(task, flowfabric.AnyOfNames("go", "ready"), onPending(at))
			s.assertCode(err, flowfabric.CodePendingWaitpointExpired)
		})
		s.duplicate(at, "ready", g, flowfabric.EffectBuffered, keyed("k"))
		got, err := s.store().Tick(s.ctx, flowfabric.TickArgs{})
		s.ok(err)
		s.equal("waitpoint_expiry", got.Duties["waitpoint_expiry"], 1)
		s.equal("listed", s.open(id), "")
		s.equal("effect", s.getSignal(id, g).Effect, flowfabric.EffectNeverActivated)
		s.gone(at)
		s.duplicate(at, "ready", g, flowfabric.EffectNeverActivated, keyed("k"))
		s.unchanged(id, func() {
			_, err = s.trySuspend(task, flowfabric.AnyOfNames("go", "ready"), onPending(at))
			s.assertCode(err, flowfabric.CodePendingWaitpointExpired)
		})
		out, err := s.operatorClose(at)
		s.ok(err)
		s.equal("close", out, flowfabric.WaitpointAlreadyClosed)
		s.is(id, activeVector())
		s.complete(task)
	})

	r.scenario("03.35 an activated waitpoint has no pending life any more", func(s *scene) {
		id, task := s.createClaimed()
		p := s.pending(task, "go")
		s.suspendOn(task, flowfabric.AnyOfNames("go", "ready"), onPending(p))
		w := s.listWaitpoints(id)[0]
		s.equal("expires_at", w.ExpiresAt, flowfabric.Millis(0))
		s.advance(600_000)
		s.tick()
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		s.deliver(p, "ready", flowfabric.EffectResumed)
	})

	r.scenario("03.4.1 many pending waitpoints expire, each in its time", func(s *scene) {
		id, task := s.createClaimed()
		for i := range 12 {
			a := pendingArgs(task, fmt.Sprint("k", i))
			a.ExpiresInMs = int64(100 + 100*(i%4))
			_, err := s.tryPending(a)
			s.ok(err)
		}
		for left := 12; left > 0; left -= 3 {
			s.equal("open", len(s.listWaitpoints(id)), left)
			s.advance(100)
			s.tick()
		}
		s.equal("open", len(s.listWaitpoints(id)), 0)
		s.is(id, activeVector())
	})

	r.scenario("03.47 CloseWaitpoint", func(s *scene) {
		id, task := s.createClaimed()
		p, q := s.pending(task, "p"), s.pending(task, "q")
		g := s.deliver(p, "x", flowfabric.EffectBuffered)
		byWorker := flowfabric.CloseWaitpointArgs{ExecutionID: id, WaitpointID: p.waitpoint, Fence: task.Fence, Reason: "not needed"}
		s.unchanged(id, func() {
			stale := byWorker
			stale.Fence.LeaseEpoch++
			_, err := s.closeWaitpoint(stale)
			s.assertCode(err, flowfabric.CodeStaleLease)
			stale.Fence, stale.WaitpointID = flowfabric.Fence{}, p.waitpoint
			_, err = s.closeWaitpoint(stale)
			s.assertCode(err, flowfabric.CodeFenceRequired)
			unknown := byWorker
			unknown.WaitpointID = flowfabric.NewWaitpointID()
			_, err = s.closeWaitpoint(unknown)
			s.assertCode(err, flowfabric.CodeWaitpointNotFound)
			unknown.Fence.LeaseEpoch++
			_, err = s.closeWaitpoint(unknown)
			s.assertCode(err, flowfabric.CodeStaleLease) // the fence comes first
			long := byWorker
			long.Reason = strings.Repeat("r", 257)
			_, err = s.closeWaitpoint(long)
			s.assertField(err, "reason")
		})
		out, err := s.closeWaitpoint(byWorker)
		s.ok(err)
		s.equal("outcome", out, flowfabric.WaitpointNowClosed)
		s.equal("effect", s.getSignal(id, g).Effect, flowfabric.EffectNeverActivated)
		s.gone(p)
		s.equal("open", s.open(id), "q pending")
		s.unchanged(id, func() {
			out, err = s.closeWaitpoint(byWorker)
			s.ok(err)
			s.equal("again", out, flowfabric.WaitpointAlreadyClosed)
		})
		out, err = s.operatorClose(q)
		s.ok(err)
		s.equal("by an operator", out, flowfabric.WaitpointNowClosed)
		s.unchanged(id, func() {
			_, err = s.trySuspend(task, flowfabric.Single("q", flowfabric.AnySignal()), onPending(q))
			s.assertCode(err, flowfabric.CodeWaitpointNotPending)
		})

		a := s.pending(task, "a")
		s.suspendOn(task, flowfabric.AllOfWaitpoints("a", "b"), onPending(a))
		s.unchanged(id, func() {
			_, err := s.operatorClose(a)
			s.assertCode(err, flowfabric.CodeWaitpointInUse)
			byWorker.WaitpointID = a.waitpoint
			_, err = s.closeWaitpoint(byWorker)
			s.assertCode(err, flowfabric.CodeExecutionNotActive)
		})
		_, err = s.operatorClose(address{id: idOn(1), waitpoint: a.waitpoint})
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
	})

	r.scenario("03.47 a worker cannot close an active waitpoint of another wait", func(s *scene) {
		id, task := s.createClaimed()
		s.suspendOn(task, flowfabric.Single("a", flowfabric.AnySignal()), resumes(flowfabric.ResumePolicy{CloseWaitpointOnResume: ptr(false)}))
		satisfied := s.listWaitpoints(id)[0].WaitpointID
		token := s.readToken(id, satisfied)
		s.deliver(address{id, satisfied, "a", flowfabric.NewWaitpointToken(token)}, "x", flowfabric.EffectResumed)
		next := s.claim(id)
		s.unchanged(id, func() {
			_, err := s.closeWaitpoint(flowfabric.CloseWaitpointArgs{ExecutionID: id, WaitpointID: satisfied, Fence: next.Fence})
			s.assertCode(err, flowfabric.CodeWaitpointInUse)
		})
	})

	r.scenario("03.47 a waitpoint of another execution is not found", func(s *scene) {
		id, task := s.createClaimed(onPartition(testPartition))
		_, otherTask := s.createClaimed(onPartition(testPartition))
		other := s.pending(otherTask, "x")
		s.unchanged(other.id, func() {
			_, err := s.closeWaitpoint(flowfabric.CloseWaitpointArgs{ExecutionID: id, WaitpointID: other.waitpoint, Fence: task.Fence})
			s.assertCode(err, flowfabric.CodeWaitpointNotFound)
			_, err = s.operatorClose(address{id: id, waitpoint: other.waitpoint})
			s.assertCode(err, flowfabric.CodeWaitpointNotFound)
		})
	})

	r.scenario("03.37 what a listing shows, and what it never shows", func(s *scene) {
		id, task := s.createClaimed()
		p := s.pending(task, "z-pending")
		s.advance(5)
		at := s.suspendOn(task, flowfabric.AllOf(
			flowfabric.AnyOfNames("a", "x", "y"),
			flowfabric.Single("a", flowfabric.ByName("z")),
			flowfabric.Single("a", flowfabric.ByName("x")),
			flowfabric.Count(1, "", nil, "b"),
		), timesOut(1000, flowfabric.TimeoutFail))
		shown := make(map[string]flowfabric.Waitpoint)
		for _, w := range s.listWaitpoints(id) {
			shown[w.WaitpointKey] = w
		}
		s.equal("listed", len(shown), 3)
		for _, w := range append(at, p) {
			got := shown[w.key]
			s.equal("token of "+w.key, facts(got.TokenKID, got.TokenFingerprint, len(got.TokenFingerprint)), facts(w.token.KID(), w.token.Fingerprint(), 16))
			text, err := json.Marshal(got)
			s.ok(err)
			_, digest, _ := w.token.Parts()
			s.that(!strings.Contains(string(text), digest), "the listing gives the token away")
		}
		s.equal("pending", facts(shown["z-pending"].State, shown["z-pending"].ConditionKind, shown["z-pending"].RequiredSignalNames, shown["z-pending"].ActivatedAt), "pending none [] 0")
		a := shown["a"]
		s.equal("active", facts(a.State, a.ConditionKind, a.RequiredSignalNames, a.CreatedAt, a.ActivatedAt, a.ExpiresAt, a.ExecutionID),
			facts("active", "signal", []string{"x", "y", "z"}, s.now(), s.now(), s.now()+1000, id))
		s.equal("any name", facts(shown["b"].ConditionKind, shown["b"].RequiredSignalNames), "signal []")
		s.equal("none", len(s.listWaitpoints(s.create())), 0)
		_, err := s.Backend.ListPendingWaitpoints(s.ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: idOn(1)})
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
	})

	r.scenario("03.48 pages over closed waitpoints", func(s *scene) {
		id, task := s.createClaimed()
		ids := waitpointIDs(6)
		for _, w := range ids {
			a := pendingArgs(task, "k")
			a.WaitpointID = w
			_, err := s.tryPending(a)
			s.ok(err)
		}
		for _, w := range ids[:3] {
			_, err := s.operatorClose(address{id: id, waitpoint: w})
			s.ok(err)
		}
		page := func(after flowfabric.WaitpointID) flowfabric.ListPendingWaitpointsResult {
			r, err := s.Backend.ListPendingWaitpoints(s.ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id, After: after, Limit: 2})
			s.ok(err)
			return r
		}
		first := page("")
		s.equal("first page", waitpointsOf(first), ids[3:5])
		s.equal("cursor", first.NextCursor, ids[4])
		second := page(first.NextCursor)
		s.equal("second page", waitpointsOf(second), ids[5:])
		s.equal("end", second.NextCursor, flowfabric.WaitpointID(""))
		s.equal("behind a closed one", waitpointsOf(page(ids[1])), ids[3:5])
		_, err := s.operatorClose(address{id: id, waitpoint: ids[5]})
		s.ok(err)
		full := page("")
		s.equal("a full last page", facts(waitpointsOf(full), full.NextCursor), facts(ids[3:5], ""))
		for _, limit := range []int{-1, 1001} {
			_, err := s.Backend.ListPendingWaitpoints(s.ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id, Limit: limit})
			s.assertCode(err, flowfabric.CodeInvalidInput)
		}
		_, err = s.Backend.ListPendingWaitpoints(s.ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id, After: "somewhere"})
		s.assertCode(err, flowfabric.CodeInvalidCursor)
	})

	r.scenario("03.38 who may read a token", func(s *scene) {
		id, task := s.createClaimed(onPartition(testPartition))
		p := s.pending(task, "p")
		other, _ := s.createClaimed(onPartition(testPartition))
		s.equal("pending", s.readToken(id, p.waitpoint), p.token.Reveal())
		s.equal("unknown waitpoint", s.readToken(id, flowfabric.NewWaitpointID()), "")
		s.equal("of another execution", s.readToken(other, p.waitpoint), "")
		s.equal("unknown execution", s.readToken(idOn(testPartition), p.waitpoint), "")
		s.suspendOn(task, flowfabric.Single("p", flowfabric.AnySignal()), onPending(p))
		s.equal("active", s.readToken(id, p.waitpoint), p.token.Reveal())
		s.resume(id)
		s.equal("closed", s.readToken(id, p.waitpoint), "")
	})

	r.scenario("03.7 a thousand open waitpoints", func(s *scene) {
		id, task := s.createClaimed(onPartition(testPartition))
		var last address
		for i := range 998 {
			last = s.pending(task, fmt.Sprint("k", i))
		}
		s.unchanged(id, func() {
			_, err := s.trySuspend(task, flowfabric.AllOfWaitpoints("a", "b", "c"))
			s.assertCode(err, flowfabric.CodeWaitpointLimitExceeded)
		})
		s.pending(task, "k998")
		s.pending(task, "k999")
		s.unchanged(id, func() {
			_, err := s.tryPending(pendingArgs(task, "one too many"))
			s.assertCode(err, flowfabric.CodeWaitpointLimitExceeded)
			_, err = s.trySuspend(task, flowfabric.OperatorOnly())
			s.assertCode(err, flowfabric.CodeWaitpointLimitExceeded)
		})
		r, err := s.Backend.ListPendingWaitpoints(s.ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id})
		s.ok(err)
		s.that(len(r.Waitpoints) == 100 && r.NextCursor != "", "the default page has %d", len(r.Waitpoints))
		// A bound pending waitpoint is no additional one.
		at := s.suspendOn(task, flowfabric.Single(last.key, flowfabric.AnySignal()), onPending(last))
		s.deliver(at[0], "x", flowfabric.EffectResumed)
		task = s.claim(id)
		s.pending(task, "room again")
		s.operatorCancel(id)
		s.equal("open", len(s.listWaitpoints(id)), 0)
	})
}

func waitpointsOf(r flowfabric.ListPendingWaitpointsResult) []flowfabric.WaitpointID {
	var out []flowfabric.WaitpointID
	for _, w := range r.Waitpoints {
		out = append(out, w.WaitpointID)
	}
	return out
}

// pendingScenarios: specification 03, section 3.2: signals that come before the
// suspend.
func pendingScenarios(r *runner) {
	r.scenario("03.15 buffered signals that already satisfy", func(s *scene) {
		id, task := s.createClaimed()
		p := s.pending(task, "go")
		g := s.deliver(p, "ready", flowfabric.EffectBuffered, carrying([]byte("data")))
		s.advance(10)
		before := s.visible(id)
		a := suspendArgs(task, flowfabric.Single("go", flowfabric.ByName("ready")), onPending(p), timesOut(1000, flowfabric.TimeoutFail), resumes(flowfabric.ResumePolicy{ResumeDelayMs: 99}))
		r, err := s.Backend.Suspend(s.ctx, a)
		s.ok(err)
		s.equal("outcome", facts(r.Outcome, r.SuspensionID, r.Waitpoints[0].WaitpointID, r.Waitpoints[0].WaitpointKey, r.Waitpoints[0].Token.IsZero(), len(r.Signals)),
			facts("already_satisfied", a.SuspensionID, p.waitpoint, "go", true, 1))
		s.equal("signal", facts(r.Signals[0].SignalID, string(r.Signals[0].Payload)), facts(g, "data"))
		after := s.visible(id)
		s.is(id, activeVector())
		s.equal("lease", after.Lease, before.Lease)
		s.equal("history", after.History, before.History)
		s.equal("attempts", after.Attempts, before.Attempts)
		rec := after.Record
		s.equal("record", facts(rec.CurrentSuspensionID, rec.CurrentWaitpointID, rec.DelayUntil), facts("", "", 0))
		x := s.closed(id, flowfabric.ClosedAlreadySatisfied)
		s.equal("suspension", facts(x.SuspensionID, x.CreatedAt, x.SatisfiedAt, x.ClosedAt, x.CloserSignalID, x.SatisfierSignalIDs, x.TimeoutAt, x.SignalCount, x.MatchedSignalCount),
			facts(a.SuspensionID, s.now(), s.now(), s.now(), g, []flowfabric.SignalID{g}, 0, 1, 1))
		s.gone(p)
		s.equal("recorded", facts(s.getSignal(id, g).Effect, s.getSignal(id, g).ConsumedBySuspensionID), facts("resume_condition_satisfied", a.SuspensionID))
		_, err = s.renew(task, testTTL)
		s.ok(err)
		seen := s.observe(task)
		s.equal("seen", facts(len(seen), seen[0].SignalID, string(seen[0].Payload)), facts(1, g, "data"))
		s.advance(5000)
		s.tick()
		s.is(id, activeVector())
		s.equal("one event", signalKinds(s.events(flowfabric.FeedSignals, id)), []string{"buffered"})
	})

	r.scenario("03.18 a condition already met leaves the task alive", func(s *scene) {
		id, task := s.createClaimed()
		p := s.pending(task, "go")
		s.deliver(p, "ready", flowfabric.EffectBuffered)
		a := suspendArgs(task, flowfabric.Count(1, "", nil, "go", "fresh"), onPending(p))
		s.addresses(a, s.satisfiedWith(a))
		s.equal("open", s.open(id), "")
		// The fresh one's id is spent.
		b := suspendArgs(task, flowfabric.Single("fresh", flowfabric.AnySignal()))
		b.Waitpoints[0].WaitpointID = a.Waitpoints[1].WaitpointID
		s.unchanged(id, func() {
			_, err := s.Backend.Suspend(s.ctx, b)
			s.assertCode(err, flowfabric.CodeWaitpointAlreadyExists)
			_, err = s.trySuspend(task, flowfabric.Single("go", flowfabric.AnySignal()), onPending(p))
			s.assertCode(err, flowfabric.CodeWaitpointNotPending)
		})
		s.complete(task)
	})

	r.scenario("03.16 a buffered signal that does not match", func(s *scene) {
		id, task := s.createClaimed()
		p := s.pending(task, "go")
		g := s.deliver(p, "other", flowfabric.EffectBuffered)
		created := s.now()
		s.advance(100)
		at := s.suspendOn(task, flowfabric.Single("go", flowfabric.ByName("ready")), onPending(p), timesOut(5000, flowfabric.TimeoutFail))
		s.equal("effect", s.getSignal(id, g).Effect, flowfabric.EffectMatcherFailed)
		s.equal("token", at[0].token.Reveal(), p.token.Reveal())
		w := s.listWaitpoints(id)[0]
		s.equal("waitpoint", facts(w.State, w.CreatedAt, w.ActivatedAt, w.ExpiresAt), facts("active", created, s.now(), s.now()+5000))
		x := s.suspension(id)
		s.equal("counters", facts(x.SignalCount, x.MatchedSignalCount, x.LastSignalAt), facts(1, 0, created))
		s.deliver(p, "ready", flowfabric.EffectResumed)
		s.closed(id, flowfabric.ClosedResumed)
	})

	r.scenario("03.17 a buffered signal that is a part", func(s *scene) {
		id, task := s.createClaimed()
		p := s.pending(task, "go")
		a := s.deliver(p, "a", flowfabric.EffectBuffered)
		s.suspendOn(task, flowfabric.AllOfNames("go", "a", "b"), onPending(p))
		s.equal("effect", s.getSignal(id, a).Effect, flowfabric.EffectAppended)
		s.equal("satisfiers", s.suspension(id).SatisfierSignalIDs, []flowfabric.SignalID{a})
		s.deliver(p, "a", flowfabric.EffectRepeated)
		b := s.deliver(p, "b", flowfabric.EffectResumed)
		s.equal("satisfiers", s.suspension(id).SatisfierSignalIDs, []flowfabric.SignalID{a, b})
		s.equal("signals", s.observed(s.claim(id)), []string{"a", "b"})
	})

	r.scenario("03.4.2 buffered signals of several waitpoints are replayed in their order", func(s *scene) {
		id, task := s.createClaimed()
		p, q := s.pending(task, "p"), s.pending(task, "q")
		one := s.deliver(q, "one", flowfabric.EffectBuffered)
		s.deliver(p, "nope", flowfabric.EffectBuffered)
		s.deliver(q, "one", flowfabric.EffectBuffered)
		s.advance(1)
		two := s.deliver(p, "two", flowfabric.EffectBuffered)
		s.deliver(q, "three", flowfabric.EffectBuffered)
		s.deliver(p, "two", flowfabric.EffectBuffered)
		c := flowfabric.AllOf(flowfabric.Single("p", flowfabric.ByName("two")), flowfabric.Single("q", flowfabric.ByName("one")))
		r := s.satisfied(task, c, onPending(p, q))
		s.equal("effects", s.effects(id), []string{
			"one appended_to_waitpoint", "nope signal_ignored_matcher_failed", "one appended_to_waitpoint_duplicate",
			"two resume_condition_satisfied", "three no_op", "two no_op",
		})
		x := s.suspension(id)
		s.equal("satisfiers", x.SatisfierSignalIDs, []flowfabric.SignalID{one, two})
		s.equal("counters", facts(x.SignalCount, x.MatchedSignalCount), "6 2")
		s.equal("given", []flowfabric.SignalID{r.Signals[0].SignalID, r.Signals[1].SignalID}, []flowfabric.SignalID{one, two})
		s.equal("events", signalKinds(s.events(flowfabric.FeedSignals, id)), slices.Repeat([]string{"buffered"}, 6))
	})

	r.scenario("03.4.2 fresh and pending waitpoints in one suspend", func(s *scene) {
		_, task := s.createClaimed()
		p := s.pending(task, "p")
		s.deliver(p, "x", flowfabric.EffectBuffered)
		at := s.suspendOn(task, flowfabric.AllOfWaitpoints("fresh", "p"), onPending(p))
		s.equal("keys", facts(at[0].key, at[1].key, at[1].token.Reveal() == p.token.Reveal()), "fresh p true")
		s.deliver(at[0], "y", flowfabric.EffectResumed)
	})

	r.scenario("03.3.2 pending waitpoints that are not bound stay pending", func(s *scene) {
		id, task := s.createClaimed()
		p, left := s.pending(task, "p"), s.pending(task, "left")
		s.deliver(left, "x", flowfabric.EffectBuffered)
		s.deliver(p, "x", flowfabric.EffectBuffered)
		s.satisfied(task, flowfabric.Single("p", flowfabric.AnySignal()), onPending(p))
		s.equal("open", s.open(id), "left pending")
		s.satisfied(task, flowfabric.Single("left", flowfabric.AnySignal()), onPending(left))
		s.equal("open", s.open(id), "")
		s.equal("effects", s.effects(id), []string{"x resume_condition_satisfied", "x resume_condition_satisfied"})
	})

	r.scenario("03.3.2 a thousand buffered signals", func(s *scene) {
		id, task := s.createClaimed(onPartition(testPartition))
		p, q := s.pending(task, "p"), s.pending(task, "q")
		first := s.deliver(p, "x", flowfabric.EffectBuffered, keyed("first"))
		for range flowfabric.MaxBufferedSignals - 1 {
			_, err := s.tryDeliver(p, "x")
			s.ok(err)
		}
		_, err := s.tryDeliver(p, "x")
		s.assertCode(err, flowfabric.CodeSignalLimitExceeded)
		s.assertDetail(err, "scope", "waitpoint")
		r, err := s.tryDeliver(p, "x", keyed("first"))
		s.ok(err)
		s.equal("a repeat is none too many", facts(r.Outcome, r.SignalID), facts("duplicate", first))
		s.deliver(q, "x", flowfabric.EffectBuffered)
		s.suspendOn(task, flowfabric.Single("p", flowfabric.ByName("go")), onPending(p))
		s.deliver(p, "x", flowfabric.EffectMatcherFailed) // the limit is for what is buffered
		s.deliver(p, "go", flowfabric.EffectResumed)
		s.equal("counted", s.closed(id, flowfabric.ClosedResumed).SignalCount, uint64(flowfabric.MaxBufferedSignals+2))
	})
}
