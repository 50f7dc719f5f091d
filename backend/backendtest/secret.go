package backendtest

import (
	"strings"

	"github.com/flowfabric/flowfabric"
)

// tokenScenarios: specification 03, section 5.1 and 5.3.
func tokenScenarios(r *runner) {
	r.scenario("03.5.1 a token is the same in every store", func(s *scene) {
		s.rotate("test-1", testSecret, 0)
		id, task := s.createClaimed()
		p := s.pending(task, "a|b \"é\"")
		s.equal("pending", p.token.Reveal(), tokenOf("test-1", testSecret, id, p.waitpoint, p.key))
		for _, w := range s.suspendOn(task, flowfabric.AllOfWaitpoints("x", "y")) {
			s.equal("fresh", w.token.Reveal(), tokenOf("test-1", testSecret, id, w.waitpoint, w.key))
		}
	})

	r.scenario("03.23 tokens that do not authenticate", func(s *scene) {
		id, task := s.createClaimed()
		at := s.suspendOn(task, flowfabric.AllOfWaitpoints("a", "b"))
		kid, digest, _ := at[0].token.Parts()
		last := "0"
		if strings.HasSuffix(digest, "0") {
			last = "1"
		}
		s.advance(5)
		s.noteRefusal(id, func() {
			_, err := s.tryDeliver(at[0], "x", presenting(""))
			s.assertCode(err, flowfabric.CodeMissingToken)
		})
		for name, token := range map[string]string{
			"last digit":       kid + ":" + digest[:63] + last,
			"unknown kid":      "never-seen:" + digest,
			"of another one":   at[1].token.Reveal(),
			"no colon":         kid + digest,
			"upper case":       kid + ":" + strings.ToUpper(digest[:63]) + "A",
			"short":            kid + ":" + digest[:62],
			"long":             kid + ":" + digest + "00",
			"bad kid":          "k 1:" + digest,
			"no kid":           ":" + digest,
			"no digest":        kid + ":",
			"a byte too many":  at[0].token.Reveal() + "\x00",
			"two colons":       kid + ":" + kid + ":" + digest,
			"nothing but text": "please",
		} {
			s.advance(1)
			s.noteRefusal(id, func() {
				_, err := s.tryDeliver(at[0], "x", presenting(token))
				e := s.assertCode(err, flowfabric.CodeInvalidToken)
				s.that(len(e.Details) == 0 && !strings.Contains(err.Error(), digest[:16]), "%s: the refusal tells too much: %v%s", name, err, details(err))
			})
		}
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		s.equal("recorded", len(s.signals(id)), 0)
		s.deliver(at[0], "x", flowfabric.EffectAppended)
	})

	r.scenario("03.5.4 nothing that is shown or told has a token in it", func(s *scene) {
		id, task := s.createClaimed()
		p := s.pending(task, "p")
		s.deliver(p, "x", flowfabric.EffectBuffered)
		all := append(s.suspendOn(task, flowfabric.AllOfWaitpoints("a", "b"), repeatable("k")), p)
		s.deliver(all[0], "x", flowfabric.EffectAppended)
		s.deliver(all[1], "x", flowfabric.EffectResumed)
		s.claim(id)
		v := s.visible(id)
		text := facts(plain(v), plain(s.events(flowfabric.FeedSignals, id)), plain(s.events(flowfabric.FeedTags, id)), plain(s.listSuspended(flowfabric.ListSuspendedArgs{})))
		for _, w := range all {
			_, digest, _ := w.token.Parts()
			s.that(!strings.Contains(text, digest), "the token of %s is shown", w.key)
			s.that(!strings.Contains(facts(w.token, plain(w.token)), digest), "a token prints itself")
		}
	})

	r.scenario("03.24 what does not exist is a wrong token", func(s *scene) {
		id, _ := s.createClaimed()
		known := strangeAddress(id)
		other, at := s.suspended(flowfabric.Single("a", flowfabric.AnySignal()), func(*flowfabric.SuspendArgs) {})
		var told []string
		for _, where := range []address{known, strangeAddress(idOn(id.Partition())), {id: id, waitpoint: at[0].waitpoint, token: at[0].token}} {
			_, err := s.tryDeliver(where, "x")
			s.assertCode(err, flowfabric.CodeInvalidToken)
			told = append(told, err.Error()+details(err))
		}
		s.equal("answers", told, []string{told[0], told[0], told[0]})
		s.noteRefusal(id, func() {
			_, err := s.tryDeliver(known, "x")
			s.assertCode(err, flowfabric.CodeInvalidToken)
		})
		s.stillSuspended(other, flowfabric.ReasonWaitingForSignal)
		_, err := s.tryDeliver(strangeAddress(idOn(1)), "x", presenting(""))
		s.assertCode(err, flowfabric.CodeMissingToken)
	})

	r.scenario("03.5.3 a token comes before the state", func(s *scene) {
		id, at := s.suspended(flowfabric.Single("a", flowfabric.AnySignal()))
		g := s.deliver(at[0], "x", flowfabric.EffectResumed, keyed("k"))
		wrong := presenting(at[0].token.KID() + ":" + secretOf("0"))
		for range 2 {
			for _, o := range []signalOption{withSignalID(g), keyed("k"), keyed("new")} {
				_, err := s.tryDeliver(at[0], "x", wrong, o)
				s.assertCode(err, flowfabric.CodeInvalidToken)
			}
			if !s.publicState(id).Terminal() {
				s.operatorCancel(id)
			}
		}
	})

	r.scenario("03.25 tokens of every key in its grace are good", func(s *scene) {
		s.rotate("r1", secretOf("1"), 0)
		_, task := s.createClaimed()
		p := s.pending(task, "p")
		s.rotate("r2", secretOf("2"), 600_000)
		s.deliver(p, "x", flowfabric.EffectBuffered)
		q := s.pending(task, "q")
		s.rotate("r3", secretOf("3"), 600_000)
		s.deliver(p, "x", flowfabric.EffectBuffered)
		s.deliver(q, "x", flowfabric.EffectBuffered)
		at := s.suspendOn(task, flowfabric.AllOfWaitpoints("p", "q", "n"), onPending(p, q))
		s.equal("kids", []string{p.token.KID(), q.token.KID(), at[2].token.KID()}, []string{"r1", "r2", "r3"})
		s.equal("verbatim", facts(at[0].token.Reveal() == p.token.Reveal(), at[1].token.Reveal() == q.token.Reveal()), "true true")
		s.deliver(p, "x", flowfabric.EffectRepeated)
		s.deliver(at[2], "x", flowfabric.EffectResumed)
	})

	r.scenario("03.26 a key past its grace", func(s *scene) {
		s.rotate("r1", secretOf("1"), 0)
		id, at := s.suspended(flowfabric.Count(9, flowfabric.DistinctSignals, nil, "a"))
		s.rotate("r2", secretOf("2"), 1000)
		s.advance(1000)
		g := s.deliver(at[0], "x", flowfabric.EffectAppended) // the last instant still counts
		s.advance(1)
		s.unchanged(id, func() {
			_, err := s.tryDeliver(at[0], "x")
			s.assertCode(err, flowfabric.CodeTokenExpired)
			_, err = s.tryDeliver(at[0], "x", withSignalID(g))
			s.assertCode(err, flowfabric.CodeTokenExpired)
			_, err = s.Backend.DeliverApprovalSignal(s.ctx, approvalArgs(at[0], "approved", "1"))
			s.assertCode(err, flowfabric.CodeTokenExpired)
		})
		_, err := s.tryDeliver(at[0], "x", presenting("r1:"+secretOf("0")))
		s.assertCode(err, flowfabric.CodeInvalidToken)
		s.equal("the operator may still read it", s.readToken(id, at[0].waitpoint), at[0].token.Reveal())
		s.resume(id)
		s.closed(id, flowfabric.ClosedOperatorResume)
	})

	r.scenario("03.42 a stored secret that is not hexadecimal", func(s *scene) {
		if s.CorruptSecret == nil {
			s.t.Skip("the harness cannot spoil a secret")
		}
		s.rotate("r1", secretOf("1"), 0)
		id, task := s.createClaimed()
		p := s.pending(task, "p")
		s.CorruptSecret(s.t, "r1")
		s.unchanged(id, func() {
			_, err := s.trySuspend(task, flowfabric.OperatorOnly())
			s.assertCode(err, flowfabric.CodeInvalidSecret)
			_, err = s.tryPending(pendingArgs(task, "q"))
			s.assertCode(err, flowfabric.CodeInvalidSecret)
			_, err = s.tryDeliver(p, "x")
			s.assertCode(err, flowfabric.CodeInvalidSecret)
		})
		_, err := s.renew(task, testTTL)
		s.ok(err)
		// A pending waitpoint has its token already.
		s.suspendOn(task, flowfabric.Single("p", flowfabric.AnySignal()), onPending(p))
	})
}

// secretScenarios: specification 03, section 5.2: the key ring.
func secretScenarios(r *runner) {
	r.scenario("03.27 rotations", func(s *scene) {
		start := s.kids()
		c := s.rotate("r1", secretOf("1"), 5000)
		s.equal("first", facts(c.Outcome, c.PreviousKID, c.Removed), facts("rotated", start, 0))
		s.equal("ring", s.kids(), strings.TrimSpace("r1 "+start))
		for range 2 {
			c = s.rotate("r1", secretOf("1"), 5000)
			s.equal("again", facts(c.Outcome, c.Removed), "noop 0")
		}
		s.equal("ring", s.kids(), strings.TrimSpace("r1 "+start))
		s.conflict("r1", secretOf("2"))
		s.rotate("r2", secretOf("b"), 5000)
		s.conflict("r1", secretOf("2"))
		c = s.rotate("r2", secretOf("B"), 5000) // the same digits
		s.equal("same secret", c.Outcome, flowfabric.RotateNoop)
		// A key in its grace comes back.
		c = s.rotate("r1", secretOf("1"), 5000)
		s.equal("back", facts(c.Outcome, c.PreviousKID), "rotated r2")
		s.advance(5000)
		c = s.rotate("r1", secretOf("1"), 5000)
		s.equal("nothing is removed by a noop", facts(c.Outcome, c.Removed), "noop 0")
		s.equal("at its last instant", s.kids(), strings.TrimSpace("r1 "+strings.TrimSpace(start+" r2")))
		s.advance(1)
		s.equal("ring", s.kids(), "r1")
		// Its former end is forgotten.
		id, at := s.suspended(flowfabric.Single("go", flowfabric.AnySignal()))
		s.rotate("r4", secretOf("4"), 5000)
		s.deliver(at[0], "x", flowfabric.EffectResumed)
		s.complete(s.claim(id))
		s.advance(5000)
		c = s.rotate("r5", secretOf("5"), 0)
		s.equal("a key at its last instant stays", facts(c.Removed, s.kids()), "0 r5 r1 r4")
		s.rotate("r1", secretOf("1"), 5000)
		s.advance(100_000_000)
		_, task := s.createClaimed()
		s.equal("kid of a new token", s.pending(task, "p").token.KID(), "r1")
	})

	r.scenario("03.28 keys past their grace are not listed, and go at the next rotation", func(s *scene) {
		start := s.kids()
		s.rotate("r1", secretOf("1"), 1000)
		s.rotate("r2", secretOf("2"), 2000)
		got, err := s.Backend.ListWaitpointKIDs(s.ctx)
		s.ok(err)
		s.equal("current", got.CurrentKID, "r2")
		s.that(len(got.Verifying) > 0, "no key in its grace")
		for _, v := range got.Verifying {
			want := map[string]flowfabric.Millis{"r1": s.now() + 2000, start: s.now() + 1000}[v.KID]
			s.equal("expires_at of "+v.KID, v.ExpiresAt, want)
		}
		s.advance(2000)
		s.equal("at its last instant", s.kids(), "r2 r1")
		s.advance(1)
		s.equal("past it", s.kids(), "r2")
		c := s.rotate("r3", secretOf("3"), 1000)
		removed := 1
		if start != "" {
			removed = 2
		}
		s.equal("removed", facts(c.Outcome, c.PreviousKID, c.Removed), facts("rotated", "r2", removed))
		// The kid of a key that is gone is free.
		s.rotate("r1", secretOf("9"), 1000)
		s.equal("ring", s.kids(), "r1 r2 r3")
	})

	r.scenario("03.27 the grace is a day when none is given", func(s *scene) {
		s.rotate("r1", secretOf("1"), 0)
		_, err := s.Backend.RotateWaitpointSecret(s.ctx, flowfabric.RotateWaitpointSecretArgs{NewKID: "r2", NewSecretHex: secretOf("2")})
		s.ok(err)
		got, err := s.Backend.ListWaitpointKIDs(s.ctx)
		s.ok(err)
		s.that(len(got.Verifying) > 0 && got.Verifying[len(got.Verifying)-1] == flowfabric.VerifyingKey{KID: "r1", ExpiresAt: s.now() + 86_400_000}, "verifying is %+v", got.Verifying)
		s.rotate("r3", secretOf("3"), flowfabric.MaxKeyGraceMs)
		got, err = s.Backend.ListWaitpointKIDs(s.ctx)
		s.ok(err)
		s.equal("clamped", got.Verifying[len(got.Verifying)-1], flowfabric.VerifyingKey{KID: "r2", ExpiresAt: flowfabric.MaxInstant})
	})

	r.scenario("03.5.2 rotations are validated", func(s *scene) {
		before := s.kids()
		for name, bad := range map[string]struct {
			kid, secret string
			grace       int64
			code        flowfabric.Code
		}{
			"no kid":         {"", secretOf("1"), 0, flowfabric.CodeInvalidKid},
			"a long kid":     {strings.Repeat("k", 65), secretOf("1"), 0, flowfabric.CodeInvalidKid},
			"a kid of words": {"a key", secretOf("1"), 0, flowfabric.CodeInvalidKid},
			"a colon":        {"a:b", secretOf("1"), 0, flowfabric.CodeInvalidKid},
			"62 digits":      {"n", strings.Repeat("a", 62), 0, flowfabric.CodeInvalidSecretHex},
			"65 digits":      {"n", strings.Repeat("a", 65), 0, flowfabric.CodeInvalidSecretHex},
			"258 digits":     {"n", strings.Repeat("a", 258), 0, flowfabric.CodeInvalidSecretHex},
			"no digits":      {"n", strings.Repeat("x", 64), 0, flowfabric.CodeInvalidSecretHex},
			"negative grace": {"n", secretOf("1"), -1, flowfabric.CodeInvalidGraceMs},
			"endless grace":  {"n", secretOf("1"), flowfabric.MaxKeyGraceMs + 1, flowfabric.CodeInvalidGraceMs},
		} {
			_, err := s.Backend.RotateWaitpointSecret(s.ctx, flowfabric.RotateWaitpointSecretArgs{NewKID: bad.kid, NewSecretHex: bad.secret, GraceMs: &bad.grace})
			s.that(err != nil, "%s was accepted", name)
			s.assertCode(err, bad.code)
			s.that(!strings.Contains(err.Error()+details(err), bad.secret), "the error tells the secret")
		}
		s.equal("ring", s.kids(), before)
		s.rotate("k.1_-K", strings.Repeat("a", 256), 0)
		s.rotate(strings.Repeat("k", 64), secretOf("0"), 0)
	})

	r.scenario("03.43 seeding", func(s *scene) {
		s.rotate("k2", secretOf("2"), 0)
		seed := func(kid, secret string) flowfabric.SeedOutcome {
			got, err := s.store().SeedWaitpointSecret(s.ctx, kid, secret)
			s.ok(err)
			s.equal("current", got.CurrentKID, "k2")
			s.equal("outcomes", len(got.Copies), 1)
			for outcome, n := range got.Copies {
				s.that(n > 0, "an outcome of no copy")
				return outcome
			}
			return ""
		}
		before := s.kids()
		s.equal("the same key", seed("k2", secretOf("2")), flowfabric.SeedUnchanged)
		s.equal("another secret", seed("k2", secretOf("3")), flowfabric.SeedKept)
		s.equal("another key", seed("k9", secretOf("9")), flowfabric.SeedKept)
		s.equal("ring", s.kids(), before)
		_, err := s.store().SeedWaitpointSecret(s.ctx, "no kid", secretOf("9"))
		s.assertCode(err, flowfabric.CodeInvalidKid)
		_, err = s.store().SeedWaitpointSecret(s.ctx, "k9", "short")
		s.assertCode(err, flowfabric.CodeInvalidSecretHex)
	})

	r.unseeded("03.27 the first rotation of an empty ring", func(s *scene) {
		s.emptyRing()
		id, task := s.createClaimed()
		s.unchanged(id, func() {
			_, err := s.tryPending(pendingArgs(task, "p"))
			s.assertCode(err, flowfabric.CodeHMACSecretNotInitialized)
			_, err = s.trySuspend(task, flowfabric.OperatorOnly())
			s.assertCode(err, flowfabric.CodeHMACSecretNotInitialized)
			_, err = s.tryDeliver(strangeAddress(id), "x")
			s.assertCode(err, flowfabric.CodeHMACSecretNotInitialized)
		})
		_, err := s.tryDeliver(strangeAddress(id), "x", presenting("malformed"))
		s.assertCode(err, flowfabric.CodeInvalidToken)
		c := s.rotate("r1", secretOf("1"), 0)
		s.equal("first", facts(c.Outcome, c.PreviousKID, c.Removed), "rotated  0")
		s.equal("kid", s.pending(task, "p").token.KID(), "r1")
	})

	r.unseeded("03.43 seeding an empty ring", func(s *scene) {
		s.emptyRing()
		for _, want := range []flowfabric.SeedOutcome{flowfabric.SeedInstalled, flowfabric.SeedUnchanged} {
			got, err := s.store().SeedWaitpointSecret(s.ctx, "k1", secretOf("1"))
			s.ok(err)
			s.that(len(got.Copies) == 1 && got.Copies[want] > 0 && got.CurrentKID == "k1", "seeded: %+v, want %s", got, want)
		}
		_, task := s.createClaimed()
		s.equal("kid", s.pending(task, "p").token.KID(), "k1")
	})
}

func (s *scene) conflict(kid, secret string) {
	s.t.Helper()
	before := s.kids()
	_, err := s.Backend.RotateWaitpointSecret(s.ctx, flowfabric.RotateWaitpointSecretArgs{NewKID: kid, NewSecretHex: secret})
	s.assertCode(err, flowfabric.CodeRotationConflict)
	s.equal("ring after a conflict", s.kids(), before)
}

// emptyRing skips the scenario where the store has made a key of its own.
func (s *scene) emptyRing() {
	s.t.Helper()
	if s.kids() != "" {
		s.t.Skip("the store begins with a key of its own")
	}
}
