package valkey

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
)

// ttl is the life of a key in milliseconds.
func (p place) ttl(key string) int64 {
	n, _ := p.must("PTTL", key).(int64)
	return n
}

// wantIndexes wants an audit that finds nothing to repair.
func (s *stage) wantIndexes() {
	s.t.Helper()
	reconcileAll(s.t, s.Store)
}

// Chapter 07, sections 3.1 and 8.2, with chapter 03, scenarios 1, 2 and 15: the keys
// of waits while there is one, that core stays compact, when the execution is looked
// at, and that nothing is left after the purge.
func TestSpec03_LayoutOfAWait(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) { layoutOfAWait(t, f.take(t)) })
	}
}

func layoutOfAWait(t *testing.T, at place) {
	s := openStage(t, at, backendtest.Options{})
	w := s.seed()
	id := s.create(job{part: 9})
	task := s.claim(1, 0, "")[0]
	pending := w.pending(task, "a")
	w.deliver(signalTo(id, pending.WaitpointID, pending.Token, "x", "key"), flowfabric.EffectBuffered)
	s.wantListpack(id)
	exec := execKey(id, "")
	if got, want := at.keys("*{fp:9}*"), []string{
		exec + "core", exec + "def", exec + "signals", exec + "waitpoints", "ff:feed:{fp:9}:leases", "ff:feed:{fp:9}:signals",
		"ff:idx:{fp:9}:due", "ff:idx:{fp:9}:lane:emails:active", "ff:idx:{fp:9}:lane:emails:armed", "ff:idx:{fp:9}:lane:emails:buckets",
		"ff:idx:{fp:9}:lanes", "ff:sec:{fp:9}:waitpoint_hmac",
		"ff:sigdedup:{fp:9}:" + string(pending.WaitpointID) + ":key", "ff:wp:{fp:9}:" + string(pending.WaitpointID),
	}; !slices.Equal(got, want) {
		t.Errorf("keys of a pending waitpoint:\n got %v\nwant %v", got, want)
	}
	if ttl := at.ttl("ff:sigdedup:{fp:9}:" + string(pending.WaitpointID) + ":key"); ttl <= 86_450_000 || ttl > 86_460_000 {
		t.Errorf("the idempotency key of a signal lives for %d ms", ttl)
	}
	timeout := int64(20_000)
	a := flowfabric.SuspendArgs{ExecutionID: id, Fence: task.Fence, ReasonCode: flowfabric.SuspendStepBoundary, TimeoutMs: &timeout, IdempotencyKey: "once",
		Waitpoints:      []flowfabric.WaitpointBinding{{WaitpointID: pending.WaitpointID, UsePending: true}, {WaitpointKey: "b"}},
		ResumeCondition: flowfabric.AllOf(flowfabric.Single("a", flowfabric.ByName("go")), flowfabric.Single("b", flowfabric.AnySignal()))}
	got, err := s.Suspend(s.ctx, a)
	s.ok(err)
	s.wantListpack(id)
	if due, want := s.due(id), strconv.FormatInt(int64(s.clock.NowMillis())+timeout, 10); due != want {
		t.Errorf("suspended, due is %s, want the timeout %s", due, want)
	}
	if ttl := at.ttl("ff:dedup:suspend:{fp:9}:" + uuidOf(id) + ":" + string(task.Fence.LeaseID) + ":once"); ttl <= 130_000 || ttl > 140_000 {
		t.Errorf("the outcome of the suspend lives for %d ms", ttl)
	}
	if n := at.must("HLEN", "ff:idx:{fp:9}:lane:emails:active"); n != int64(0) {
		t.Errorf("%v active executions", n)
	}
	x, err := s.GetExecution(s.ctx, id)
	s.ok(err)
	if want := "suspended: waitpoint " + string(pending.WaitpointID) + " awaiting step_boundary"; x.BlockingDetail != want || x.CurrentSuspensionID != got.SuspensionID {
		t.Errorf("detail %q, suspension %s", x.BlockingDetail, x.CurrentSuspensionID)
	}
	s.wantIndexes()
	s.advance(1)
	w.deliver(signalTo(id, got.Waitpoints[0].WaitpointID, got.Waitpoints[0].Token, "go", ""), flowfabric.EffectAppended)
	w.deliver(signalTo(id, got.Waitpoints[1].WaitpointID, got.Waitpoints[1].Token, "any", ""), flowfabric.EffectResumed)
	s.wantListpack(id)
	if due := s.due(id); due != "inf" {
		t.Errorf("resumed, due is %s", due)
	}
	s.wantIndexes()
	again := s.claim(1, 0, "")[0]
	if again.Fence.AttemptID != task.Fence.AttemptID || again.Fence.LeaseEpoch != task.Fence.LeaseEpoch+1 {
		t.Errorf("claimed %+v after %+v", again.Fence, task.Fence)
	}
	s.wantListpack(id)
	s.complete(again, nil)
	s.advance(flowfabric.DefaultRetentionMs)
	if n := s.tick().Duties["retention"]; n != 1 {
		t.Errorf("%d were purged", n)
	}
	if left := at.keys("*" + uuidOf(id) + ":*"); len(left) != 1 { // the outcome of the suspend has a life of its own
		t.Errorf("keys left of the execution: %v", left)
	}
	if left := at.keys("ff:wp:*"); len(left) != 0 {
		t.Errorf("waitpoints left: %v", left)
	}
	_, err = s.DeliverSignal(s.ctx, signalTo(id, pending.WaitpointID, pending.Token, "late", "")) // its waitpoint is still remembered
	wantCode(t, err, flowfabric.CodeInvalidToken)
}

// Chapter 03, section 6: the duties by their names, a pending waitpoint among them
// whose end comes before and after that of others.
func TestSpec03_DutiesOfWaits(t *testing.T) {
	s := openStage(t, onServer(t), backendtest.Options{FlowPartitions: 1})
	w := s.seed()
	for range 2 {
		s.create(job{})
	}
	tasks := s.claim(2, 0, "")
	for _, life := range []int64{9_000, 3_000, 6_000} {
		_, err := s.CreatePendingWaitpoint(s.ctx, flowfabric.CreatePendingWaitpointArgs{ExecutionID: tasks[0].ExecutionID, Fence: tasks[0].Fence, ExpiresInMs: life})
		s.ok(err)
	}
	start := s.clock.NowMillis()
	timeout := int64(3_500)
	_, err := s.Suspend(s.ctx, flowfabric.SuspendArgs{ExecutionID: tasks[1].ExecutionID, Fence: tasks[1].Fence, ReasonCode: flowfabric.SuspendWaitingForSignal,
		Waitpoints: []flowfabric.WaitpointBinding{{WaitpointKey: "w"}}, ResumeCondition: flowfabric.TimeoutOnly(), TimeoutMs: &timeout,
		TimeoutBehavior: flowfabric.TimeoutAutoResume})
	s.ok(err)
	for _, c := range []struct {
		ms   int64
		duty string
		next int64
	}{{2_999, "", 3_000}, {3_000, "waitpoint_expiry", 3_500}, {3_500, "suspension_timeout", 6_000}, {6_000, "waitpoint_expiry", 9_000}} {
		s.advance(int64(start) + c.ms - int64(s.clock.NowMillis()))
		res := s.tick()
		if want := map[string]int{c.duty: 1}; c.duty != "" && (len(res.Duties) != 1 || res.Duties[c.duty] != 1) || c.duty == "" && len(res.Duties) != 0 {
			t.Errorf("after %d ms: %v, want %v", c.ms, res.Duties, want)
		}
		if res.NextDue != start+flowfabric.Millis(c.next) {
			t.Errorf("after %d ms the next is due at %d, want %d", c.ms, res.NextDue-start, c.next)
		}
	}
	list, err := s.ListPendingWaitpoints(s.ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: tasks[0].ExecutionID})
	s.ok(err)
	if len(list.Waitpoints) != 1 {
		t.Errorf("%d waitpoints are pending", len(list.Waitpoints))
	}
	// A waitpoint that is closed before its time leaves nothing to be looked at.
	_, err = s.CloseWaitpoint(s.ctx, flowfabric.CloseWaitpointArgs{ExecutionID: tasks[0].ExecutionID, WaitpointID: list.Waitpoints[0].WaitpointID,
		Source: flowfabric.SourceOperatorOverride})
	s.ok(err)
	if s.core(tasks[0].ExecutionID, "wpx") != "" {
		t.Error("core knows of a pending waitpoint")
	}
	s.wantIndexes()
	_ = w
}

// Chapter 03, section 5.3, and scenario 25: a process with the old ring mints with
// the new key and accepts the tokens of both, whether it heard of the rotation or
// not.
func TestSpec03_S25_RotationBehindACachedRing(t *testing.T) {
	at := onServer(t)
	w := joinParty(t, at, partitions(1)).seed()
	other := joinParty(t, at, partitions(1))
	for range 3 {
		w.create(job{})
	}
	tasks := w.claim(3, 0, "")
	old := w.pending(tasks[0], "a")
	rotate := func(b *party, kid string, grace int64) {
		t.Helper()
		_, err := b.RotateWaitpointSecret(b.ctx, flowfabric.RotateWaitpointSecretArgs{NewKID: kid, NewSecretHex: strings.Repeat("ab", 32), GraceMs: &grace})
		b.ok(err)
	}
	stale, remembered, err := w.ring(w.ctx, 0, false)
	w.ok(err)
	if !remembered || stale.Current != testKID {
		t.Fatalf("the ring of %q is remembered: %v", stale.Current, remembered)
	}
	deaf := func() { w.rings.keep(0, stale) } // as if the notice had not come
	rotate(other, "k2", 600_000)
	deaf()
	fresh := w.pending(tasks[0], "b")
	if kid := fresh.Token.KID(); kid != "k2" {
		t.Errorf("minted with %s after a rotation", kid)
	}
	deaf()
	if bound := w.suspend(tasks[1], "x"); bound.Token.KID() != "k2" {
		t.Errorf("suspended with %s after a rotation", bound.Token.KID())
	}
	deaf()
	w.deliver(signalTo(tasks[0].ExecutionID, fresh.WaitpointID, fresh.Token, "x", ""), flowfabric.EffectBuffered)
	w.deliver(signalTo(tasks[0].ExecutionID, old.WaitpointID, old.Token, "x", ""), flowfabric.EffectBuffered)
	// Scenario 26: the grace is over by the store's clock, whatever is remembered.
	rotate(other, "k3", 1)
	deaf()
	eventually(t, "the end of the grace", func() bool {
		_, err := w.DeliverSignal(w.ctx, signalTo(tasks[0].ExecutionID, fresh.WaitpointID, fresh.Token, "x", ""))
		return flowfabric.CodeOf(err) == flowfabric.CodeTokenExpired
	})
	deaf()
	_, err = w.DeliverSignal(w.ctx, signalTo(tasks[0].ExecutionID, fresh.WaitpointID, flowfabric.NewWaitpointToken("k2:"+strings.Repeat("0", 64)), "x", ""))
	wantCode(t, err, flowfabric.CodeInvalidToken)
	// A key that was removed is unknown.
	rotate(other, "k4", 600_000)
	w.rings.forget()
	_, err = w.DeliverSignal(w.ctx, signalTo(tasks[0].ExecutionID, fresh.WaitpointID, fresh.Token, "x", ""))
	wantCode(t, err, flowfabric.CodeInvalidToken)
}

// A rotation is told to all processes.
func TestSpec03_RotationIsTold(t *testing.T) {
	at := onServer(t)
	w, other := joinParty(t, at, partitions(1)).seed(), joinParty(t, at, partitions(1))
	_, _, err := w.ring(w.ctx, 0, false)
	w.ok(err)
	_, err = other.RotateWaitpointSecret(other.ctx, flowfabric.RotateWaitpointSecretArgs{NewKID: "k2", NewSecretHex: strings.Repeat("ab", 32)})
	w.ok(err)
	eventually(t, "the notice", func() bool {
		_, ok := w.rings.find(0)
		return !ok
	})
}

// The key moves on in the very moment of minting, again and again: the token is made
// anew, and never with a former key.
func TestSpec03_MintingWhileKeysRotate(t *testing.T) {
	at := onServer(t)
	w, other := joinParty(t, at, partitions(1)).seed(), joinParty(t, at, partitions(1))
	w.create(job{})
	task := w.claim(1, 0, "")[0]
	stop := make(chan struct{})
	var rotating sync.WaitGroup
	rotating.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_, err := other.RotateWaitpointSecret(other.ctx, flowfabric.RotateWaitpointSecretArgs{NewKID: fmt.Sprintf("r%d", i%5), NewSecretHex: strings.Repeat("cd", 32)})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	kids := map[string]bool{}
	for i := 0; i < 200; i++ {
		got, err := w.CreatePendingWaitpoint(w.ctx, flowfabric.CreatePendingWaitpointArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, ExpiresInMs: 60_000})
		if err != nil {
			if flowfabric.CodeOf(err) == flowfabric.CodeStoreUnavailable {
				continue // six rotations within one call
			}
			t.Fatal(err)
		}
		kids[got.Token.KID()] = true
		w.deliver(signalTo(task.ExecutionID, got.WaitpointID, got.Token, "x", ""), flowfabric.EffectBuffered)
	}
	close(stop)
	rotating.Wait()
	if len(kids) < 2 {
		t.Errorf("all tokens are of %v", kids)
	}
}

// Chapter 07, scenario 15, and chapter 03, scenario 43: what seeding finds.
func TestSpec03_S43_Seeding(t *testing.T) {
	at := onServer(t)
	p := joinParty(t, at, partitions(70))
	seed := func(kid, secret string, want map[flowfabric.SeedOutcome]int, current string) {
		t.Helper()
		got, err := p.SeedWaitpointSecret(p.ctx, kid, secret)
		p.ok(err)
		if fmt.Sprint(got.Copies) != fmt.Sprint(want) || got.CurrentKID != current {
			t.Errorf("seeding %s: %+v", kid, got)
		}
	}
	if kids, err := p.ListWaitpointKIDs(p.ctx); err != nil || kids.CurrentKID != "" || len(kids.Verifying) != 0 {
		t.Errorf("an empty ring: %+v, %v", kids, err)
	}
	seed("k1", testSecret, map[flowfabric.SeedOutcome]int{flowfabric.SeedInstalled: 70}, "k1")
	seed("k1", strings.ToUpper(testSecret), map[flowfabric.SeedOutcome]int{flowfabric.SeedUnchanged: 70}, "k1")
	at.must("HDEL", "ff:sec:{fp:3}:waitpoint_hmac", "secret:k1")
	seed("k1", testSecret, map[flowfabric.SeedOutcome]int{flowfabric.SeedUnchanged: 69, flowfabric.SeedRepaired: 1}, "k1")
	seed("k1", strings.Repeat("ab", 32), map[flowfabric.SeedOutcome]int{flowfabric.SeedKept: 70}, "k1")
	seed("k2", testSecret, map[flowfabric.SeedOutcome]int{flowfabric.SeedKept: 70}, "k1")
	if got := at.must("HGET", "ff:sec:{fp:3}:waitpoint_hmac", "secret:k1"); got != testSecret {
		t.Error("the secret was changed")
	}
	_, err := p.SeedWaitpointSecret(p.ctx, "k 1", testSecret)
	wantCode(t, err, flowfabric.CodeInvalidKid)
}

// Chapter 03, section 5.2: one entry a copy, failures among them; a repeat converges.
// One rotation at a time.
func TestSpec03_S27_RotationOfCopies(t *testing.T) {
	at := onServer(t)
	p := joinParty(t, at, partitions(4)).seed()
	rotate := func(kid, secret string) (flowfabric.RotateWaitpointSecretResult, error) {
		return p.RotateWaitpointSecret(p.ctx, flowfabric.RotateWaitpointSecretArgs{NewKID: kid, NewSecretHex: secret})
	}
	two, three := strings.Repeat("22", 32), strings.Repeat("33", 32)
	at.must("HSET", "ff:sec:{fp:2}:waitpoint_hmac", "secret:k2", three)
	got, err := rotate("k2", two)
	p.ok(err)
	if len(got.Copies) != 4 {
		t.Fatalf("%d copies", len(got.Copies))
	}
	for i, c := range got.Copies {
		if c.Partition != uint16(i) || (c.Err != nil) != (i == 2) || i != 2 && (c.Outcome != flowfabric.RotateRotated || c.PreviousKID != "k1") {
			t.Errorf("copy %d: %+v", i, c)
		}
	}
	wantCode(t, got.Copies[2].Err, flowfabric.CodeRotationConflict)
	at.must("HDEL", "ff:sec:{fp:2}:waitpoint_hmac", "secret:k2")
	got, err = rotate("k2", two)
	p.ok(err)
	if got.Copies[0].Outcome != flowfabric.RotateNoop || got.Copies[2].Outcome != flowfabric.RotateRotated {
		t.Errorf("repeated: %+v", got.Copies)
	}
	_, err = rotate("k1", three)
	wantCode(t, err, flowfabric.CodeRotationConflict)
	if strings.Contains(err.Error(), three) {
		t.Error("the secret is in the error")
	}
	at.must("SET", "ff:config:rotation", "somebody")
	_, err = rotate("k3", three)
	e := wantCode(t, err, flowfabric.CodeResourceExhausted)
	if e.Details["pool"] != flowfabric.PoolAdminRotate {
		t.Errorf("details %v", e.Details)
	}
	at.must("DEL", "ff:config:rotation")
	if _, err = rotate("k3", three); err != nil {
		t.Error(err)
	}
	if left := at.keys("ff:config:rotation"); len(left) != 0 {
		t.Error("a rotation is still under way")
	}
}

// Chapter 03, scenario 42: a stored secret that is not hexadecimal; and a ring that is
// empty.
func TestSpec03_S42_UnusableSecrets(t *testing.T) {
	at := onServer(t)
	p := joinParty(t, at, partitions(1))
	for range 2 {
		p.create(job{})
	}
	tasks := p.claim(2, 0, "")
	suspend := func() error {
		_, err := p.Suspend(p.ctx, flowfabric.SuspendArgs{ExecutionID: tasks[0].ExecutionID, Fence: tasks[0].Fence, ReasonCode: flowfabric.SuspendWaitingForSignal,
			Waitpoints: []flowfabric.WaitpointBinding{{WaitpointKey: "w"}}, ResumeCondition: flowfabric.Single("w", flowfabric.AnySignal())})
		return err
	}
	wantCode(t, suspend(), flowfabric.CodeHMACSecretNotInitialized)
	w := p.seed()
	good := w.pending(tasks[0], "a")
	at.must("HSET", "ff:sec:{fp:0}:waitpoint_hmac", "secret:k1", "not hexadecimal")
	p.rings.forget()
	wantCode(t, suspend(), flowfabric.CodeInvalidSecret)
	_, err := p.CreatePendingWaitpoint(p.ctx, flowfabric.CreatePendingWaitpointArgs{ExecutionID: tasks[0].ExecutionID, Fence: tasks[0].Fence, ExpiresInMs: 1})
	wantCode(t, err, flowfabric.CodeInvalidSecret)
	_, err = p.DeliverSignal(p.ctx, signalTo(tasks[0].ExecutionID, good.WaitpointID, good.Token, "x", ""))
	wantCode(t, err, flowfabric.CodeInvalidSecret)
	at.must("HDEL", "ff:sec:{fp:0}:waitpoint_hmac", "secret:k1")
	wantCode(t, suspend(), flowfabric.CodeHMACSecretNotInitialized)
	p.renew(tasks[0]) // the lease is held still
	// The first checks come first: a stale fence is told whatever the ring is like.
	stale := tasks[1]
	stale.Fence.LeaseEpoch++
	_, err = p.CreatePendingWaitpoint(p.ctx, flowfabric.CreatePendingWaitpointArgs{ExecutionID: stale.ExecutionID, Fence: stale.Fence, ExpiresInMs: 1})
	wantCode(t, err, flowfabric.CodeStaleLease)
	// Repaired behind the remembered ring.
	at.must("HSET", "ff:sec:{fp:0}:waitpoint_hmac", "secret:k1", testSecret)
	p.ok(suspend())
}

// Chapter 08, section 4.1, and chapter 07, section 10: a suspend in another process
// ends a wait for settled at once.
func TestSpec03_SuspendSettlesAWait(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			at := f.take(t)
			w := joinParty(t, at, partitions(4), func(c *Config) { c.Feeds = nil }).seed()
			other := joinParty(t, at, partitions(4), func(c *Config) { c.Feeds = nil })
			heard := make(chan flowfabric.WakeEvent, 100)
			defer other.Watch(func(events []flowfabric.WakeEvent) {
				for _, ev := range events {
					heard <- ev
				}
			})()
			id := w.create(job{part: 2})
			defer other.ExpectSettled(other.ctx, id)()
			defer other.ExpectFeed(other.ctx, flowfabric.FeedSignals)()
			task := w.claim(1, 0, "")[0]
			bound := w.suspend(task, "go")
			want := func(kind flowfabric.WakeKind, is func(flowfabric.WakeEvent) bool) {
				t.Helper()
				timer := time.NewTimer(5 * time.Second)
				defer timer.Stop()
				for {
					select {
					case ev := <-heard:
						if ev.Kind == kind && is(ev) {
							return
						}
					case <-timer.C:
						t.Fatalf("no %v was heard of", kind)
					}
				}
			}
			want(flowfabric.WakeSettled, func(ev flowfabric.WakeEvent) bool { return ev.ExecutionID == id && ev.Completion == nil })
			w.deliver(signalTo(id, bound.WaitpointID, bound.Token, "no", ""), flowfabric.EffectMatcherFailed)
			want(flowfabric.WakeFeed, func(ev flowfabric.WakeEvent) bool { return ev.Feed == flowfabric.FeedSignals })
			// The resumption reaches a claimer that waits there.
			got := make(chan int, 1)
			go func() { got <- len(other.claim(1, 5*time.Second, "")) }()
			eventually(t, "armed", func() bool {
				n, _ := at.must("EXISTS", "ff:idx:{fp:2}:lane:emails:armed").(int64)
				return n == 1
			})
			w.deliver(signalTo(id, bound.WaitpointID, bound.Token, "go", ""), flowfabric.EffectResumed)
			if n := <-got; n != 1 {
				t.Errorf("%d claimed", n)
			}
		})
	}
}

// Chapter 07, scenario 58: a feed that is switched off is not written, whichever it
// is.
func TestSpec03_FeedsOff(t *testing.T) {
	for _, c := range []struct {
		feeds []flowfabric.Feed
		want  []string
	}{
		{[]flowfabric.Feed{}, nil},
		{[]flowfabric.Feed{flowfabric.FeedLeases}, []string{"leases"}},
		{[]flowfabric.Feed{flowfabric.FeedSignals}, []string{"signals"}},
	} {
		at := onServer(t)
		w := joinParty(t, at, partitions(1), func(cfg *Config) { cfg.Feeds = c.feeds }).seed()
		id := w.create(job{})
		bound := w.suspend(w.claim(1, 0, "")[0], "go")
		a := signalTo(id, bound.WaitpointID, bound.Token, "go", "")
		w.deliver(a, flowfabric.EffectResumed)
		w.deliver(a, flowfabric.EffectResumed)
		var want []string
		for _, f := range c.want {
			want = append(want, "ff:feed:{fp:0}:"+f)
		}
		if got := at.keys("ff:feed:*"); !slices.Equal(got, want) {
			t.Errorf("feeds %v: %v", c.feeds, got)
		}
	}
}

// Chapter 03, section 7: 1,000 buffered on one waitpoint and no more, all replayed by
// the suspend, in order; 1,000 open waitpoints. The lists are longer than one command
// takes.
func TestSpec03_S40_LimitsOfBufferedSignals(t *testing.T) {
	s := openStage(t, onServer(t), backendtest.Options{FlowPartitions: 1})
	w := s.seed()
	id := s.create(job{})
	task := s.claim(1, 0, "")[0]
	wps := []flowfabric.PendingWaitpoint{w.pending(task, "a"), w.pending(task, "b")}
	for i := range flowfabric.MaxBufferedSignals {
		for _, wp := range wps {
			a := signalTo(id, wp.WaitpointID, wp.Token, "n"+strconv.Itoa(i), "")
			a.Signal.Payload = nil
			w.deliver(a, flowfabric.EffectBuffered)
		}
	}
	_, err := s.DeliverSignal(s.ctx, signalTo(id, wps[0].WaitpointID, wps[0].Token, "x", ""))
	if e := wantCode(t, err, flowfabric.CodeSignalLimitExceeded); e.Details["scope"] != "waitpoint" {
		t.Errorf("details %v", e.Details)
	}
	got, err := s.Suspend(s.ctx, flowfabric.SuspendArgs{ExecutionID: id, Fence: task.Fence, ReasonCode: flowfabric.SuspendWaitingForSignal,
		Waitpoints:      []flowfabric.WaitpointBinding{{WaitpointID: wps[0].WaitpointID, UsePending: true}, {WaitpointID: wps[1].WaitpointID, UsePending: true}},
		ResumeCondition: flowfabric.Count(1_999, flowfabric.DistinctSignals, nil, "a", "b")})
	s.ok(err)
	if got.Outcome != flowfabric.SuspendAlreadySatisfied || len(got.Signals) != 1_999 {
		t.Fatalf("%s with %d signals", got.Outcome, len(got.Signals))
	}
	x, err := s.GetSuspension(s.ctx, id)
	s.ok(err)
	if x.SignalCount != 2_000 || x.MatchedSignalCount != 1_999 || len(x.SatisfierSignalIDs) != 1_999 || x.Progress[0].SatisfierCount != 1_999 {
		t.Errorf("%d signals, %d matched, progress %+v", x.SignalCount, x.MatchedSignalCount, x.Progress)
	}
	seen, consumed := 0, 0
	for at := uint64(0); ; {
		page, err := s.ListSignals(s.ctx, flowfabric.ListSignalsArgs{ExecutionID: id, After: at, Limit: 1_000})
		s.ok(err)
		for _, g := range page.Signals {
			if seen++; g.Seq != uint64(seen) {
				t.Fatalf("signal %d is numbered %d", seen, g.Seq)
			}
			if g.ConsumedAt != 0 {
				consumed++
			}
		}
		if at = page.Next; at == 0 {
			break
		}
	}
	if seen != 2_000 || consumed != 1_999 {
		t.Errorf("%d signals, %d consumed", seen, consumed)
	}
	s.renew(task)
	for range flowfabric.MaxOpenWaitpoints {
		w.pending(task, "c")
	}
	_, err = s.CreatePendingWaitpoint(s.ctx, flowfabric.CreatePendingWaitpointArgs{ExecutionID: id, Fence: task.Fence, ExpiresInMs: 1})
	wantCode(t, err, flowfabric.CodeWaitpointLimitExceeded)
	s.complete(task, nil)
	s.advance(flowfabric.DefaultRetentionMs)
	s.tick()
	if left := s.at.keys("ff:wp:*"); len(left) != 0 {
		t.Errorf("%d waitpoints left", len(left))
	}
}

// Chapter 03, section 4.3: of many that deliver at once, one resumes and the others
// find the waitpoint closed.
func TestSpec03_OneOfManyResumes(t *testing.T) {
	at := onServer(t)
	w := joinParty(t, at, partitions(1)).seed()
	id := w.create(job{})
	bound := w.suspend(w.claim(1, 0, "")[0], "go")
	var mu sync.Mutex
	outcomes := map[string]int{}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			got, err := w.DeliverSignal(w.ctx, signalTo(id, bound.WaitpointID, bound.Token, "go", ""))
			mu.Lock()
			defer mu.Unlock()
			outcomes[string(got.Effect)+string(flowfabric.CodeOf(err))]++
		})
	}
	all.Wait()
	if outcomes["resume_condition_satisfied"] != 1 || outcomes["waitpoint_closed"] != 15 {
		t.Error(outcomes)
	}
}

// Chapter 03, section 4.9: the order of the listing, pages in it, partitions and
// namespaces.
func TestSpec03_ListSuspended(t *testing.T) {
	s := openStage(t, onServer(t), backendtest.Options{FlowPartitions: 2})
	s.seed()
	for i, ms := range []int64{0, 9_000, 3_000, 0, 6_000, 3_000} {
		ns := partyNamespace
		if i == 4 {
			ns = flowfabric.Namespace(strings.Repeat("long", 20))
		}
		s.create(job{part: uint16(i % 2), ns: ns})
		task := s.claim(1, 0, ns)[0]
		a := flowfabric.SuspendArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, ReasonCode: flowfabric.SuspendManualPause,
			Waitpoints: []flowfabric.WaitpointBinding{{WaitpointKey: "w"}}, ResumeCondition: flowfabric.OperatorOnly()}
		if ms != 0 {
			a.TimeoutMs = &ms
		}
		_, err := s.Suspend(s.ctx, a)
		s.ok(err)
	}
	var got []string
	start := s.clock.NowMillis()
	for at := ""; ; {
		page, err := s.ListSuspended(s.ctx, flowfabric.ListSuspendedArgs{Cursor: at, Limit: 1})
		s.ok(err)
		for _, x := range page.Executions {
			left := int64(0)
			if x.TimeoutAt != 0 {
				left = int64(x.TimeoutAt - start)
			}
			got = append(got, fmt.Sprint(x.ExecutionID.Partition(), " ", left, " ", x.ReasonCode, " ", x.SuspendedAt == start))
		}
		if at = page.NextCursor; at == "" {
			break
		}
	}
	if want := []string{"0 3000 manual_pause true", "0 6000 manual_pause true", "0 0 manual_pause true", "1 3000 manual_pause true",
		"1 9000 manual_pause true", "1 0 manual_pause true"}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	one := uint16(0)
	page, err := s.ListSuspended(s.ctx, flowfabric.ListSuspendedArgs{Partition: &one, Namespace: partyNamespace})
	s.ok(err)
	if len(page.Executions) != 2 {
		t.Errorf("%d of one namespace on a partition", len(page.Executions))
	}
	for _, a := range []flowfabric.ListSuspendedArgs{{Cursor: "x"}, {Limit: 1_001}, {Limit: -1}} {
		if _, err := s.ListSuspended(s.ctx, a); err == nil {
			t.Errorf("%+v is accepted", a)
		}
	}
}

// Chapter 07, section 9: a due entry of a suspended execution that is lost, or later
// than its timeout, is put back.
func TestSpec03_ReconcileSuspended(t *testing.T) {
	s := openStage(t, onServer(t), backendtest.Options{FlowPartitions: 1})
	s.seed()
	id := s.create(job{})
	task := s.claim(1, 0, "")[0]
	ms := int64(5_000)
	_, err := s.Suspend(s.ctx, flowfabric.SuspendArgs{ExecutionID: id, Fence: task.Fence, ReasonCode: flowfabric.SuspendManualPause, TimeoutMs: &ms,
		Waitpoints: []flowfabric.WaitpointBinding{{WaitpointKey: "w"}}, ResumeCondition: flowfabric.OperatorOnly()})
	s.ok(err)
	want := s.due(id)
	s.at.must("ZADD", "ff:idx:{fp:0}:due", "+inf", uuidOf(id))
	s.at.must("HSET", "ff:idx:{fp:0}:lane:emails:active", uuidOf(id), "somebody")
	res, err := s.Reconcile(s.ctx, flowfabric.ReconcileArgs{Partition: 0})
	s.ok(err)
	if res.Repaired != 1 || s.due(id) != want {
		t.Errorf("repaired %d, due at %s, want %s", res.Repaired, s.due(id), want)
	}
	s.wantIndexes()
}

// A process that has never met a waitpoint needs one look more, once.
func TestSpec03_LookForAWaitpointOnce(t *testing.T) {
	at := onServer(t)
	w := joinParty(t, at, partitions(1)).seed()
	id := w.create(job{})
	bound := w.suspend(w.claim(1, 0, "")[0], "go")
	other := waiter{joinParty(t, at, partitions(1))}
	deliver := func() {
		other.deliver(signalTo(id, bound.WaitpointID, bound.Token, "no", ""), flowfabric.EffectMatcherFailed)
	}
	inside := "fcall 1, hget 1, hmget 4, hset 4, time 1"
	first := strings.NewReplacer("hget 1", "hget 1, hgetall 1", "hmget 4", "hmget 5").Replace(inside) // the ring and the waitpoint
	if got := commandsOf(t, at.server, deliver); got != first {
		t.Errorf("the first signal:\n got %s\nwant %s", got, first)
	}
	if got := commandsOf(t, at.server, deliver); got != inside {
		t.Errorf("the second signal:\n got %s\nwant %s", got, inside)
	}
	// An unknown target is not remembered, and told apart by nothing.
	a := signalTo(id, flowfabric.NewWaitpointID(), bound.Token, "go", "")
	_, err := other.DeliverSignal(other.ctx, a)
	wantCode(t, err, flowfabric.CodeInvalidToken)
	if _, ok := other.targets.find(a.WaitpointID); ok {
		t.Error("an unknown waitpoint is remembered")
	}
	x, err := other.GetExecution(other.ctx, id)
	other.ok(err)
	if x.LastHMACValidationFailedAt == 0 {
		t.Error("the refusal is not noted")
	}
	a.ExecutionID = flowfabric.MakeExecutionID(0, uuid.New())
	_, err = other.DeliverSignal(other.ctx, a)
	wantCode(t, err, flowfabric.CodeInvalidToken)
}

// What is remembered of waitpoints is bounded.
func TestTargetsAreBounded(t *testing.T) {
	var m targets
	first := flowfabric.NewWaitpointID()
	m.keep(first, target{key: "a"})
	if w, ok := m.find(first); !ok || w.key != "a" {
		t.Fatal("a waitpoint is not remembered")
	}
	for i := range 2 * maxTargets {
		m.keep(flowfabric.WaitpointID(strconv.Itoa(i)), target{})
		if len(m.known) > maxTargets {
			t.Fatalf("%d waitpoints are remembered", len(m.known))
		}
	}
}

// Chapter 03, scenario 1 and chapter 07: the whole of a wait on a cluster whose slots
// move.
func TestSpec03_WaitsWhileSlotsMove(t *testing.T) {
	at := onCluster(t)
	w := joinParty(t, at, partitions(8)).seed()
	for part := range uint16(4) {
		id := w.create(job{part: part})
		task := w.claim(1, 0, "")[0]
		pending := w.pending(task, "p")
		w.deliver(signalTo(id, pending.WaitpointID, pending.Token, "early", ""), flowfabric.EffectBuffered)
		bound := w.suspend(task, "go")
		slot := int(slotOf(partitionTag(part)))
		from := at.cluster.Owner(slot)
		to := at.primaries()[0]
		if to == from {
			to = at.primaries()[1]
		}
		at.cluster.MoveSlots(from, to, slot)
		defer at.cluster.MoveSlots(to, from, slot)
		w.deliver(signalTo(id, bound.WaitpointID, bound.Token, "go", ""), flowfabric.EffectResumed)
		w.complete(w.claim(1, 0, "")[0], nil)
	}
}
