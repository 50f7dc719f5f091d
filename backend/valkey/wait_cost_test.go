package valkey

import (
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
)

// waiter makes waits in a party.
type waiter struct {
	*party
}

const (
	testKID    = "k1"
	testSecret = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

func (p *party) seed() waiter {
	p.t.Helper()
	_, err := p.SeedWaitpointSecret(p.ctx, testKID, testSecret)
	p.ok(err)
	return waiter{p}
}

// pending makes a pending waitpoint with a key.
func (w waiter) pending(task flowfabric.ClaimedExecution, key string) flowfabric.PendingWaitpoint {
	w.t.Helper()
	got, err := w.CreatePendingWaitpoint(w.ctx, flowfabric.CreatePendingWaitpointArgs{ExecutionID: task.ExecutionID, Fence: task.Fence,
		WaitpointKey: key, ExpiresInMs: 60_000})
	w.ok(err)
	return got
}

// suspend waits for the names on one fresh waitpoint, all of them.
func (w waiter) suspend(task flowfabric.ClaimedExecution, names ...string) flowfabric.BoundWaitpoint {
	w.t.Helper()
	a := flowfabric.SuspendArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, ReasonCode: flowfabric.SuspendWaitingForSignal,
		Waitpoints: []flowfabric.WaitpointBinding{{WaitpointKey: "w"}}, ResumeCondition: flowfabric.AllOfNames("w", names...)}
	if len(names) == 1 {
		a.ResumeCondition = flowfabric.Single("w", flowfabric.ByName(names[0]))
	}
	got, err := w.Suspend(w.ctx, a)
	w.ok(err)
	if got.Outcome != flowfabric.SuspendSuspended {
		w.t.Fatalf("suspend: %+v", got)
	}
	return got.Waitpoints[0]
}

func signalTo(id flowfabric.ExecutionID, wp flowfabric.WaitpointID, token flowfabric.WaitpointToken, name, key string) flowfabric.DeliverSignalArgs {
	return flowfabric.DeliverSignalArgs{ExecutionID: id, WaitpointID: wp, Token: token,
		Signal: flowfabric.Signal{SignalID: flowfabric.NewSignalID(), Name: name, SourceIdentity: "me", IdempotencyKey: key, Payload: []byte("{}")}}
}

func (w waiter) deliver(a flowfabric.DeliverSignalArgs, want flowfabric.SignalEffect) flowfabric.DeliverSignalResult {
	w.t.Helper()
	got, err := w.DeliverSignal(w.ctx, a)
	w.ok(err)
	if got.Effect != want {
		w.t.Fatalf("%s: effect %s, want %s", a.Signal.Name, got.Effect, want)
	}
	return got
}

// The commands of a wait from its beginning to the claim that goes on. Each is one
// round trip: the ring and the waitpoint are known.
func TestWaitCommands(t *testing.T) {
	at := onServer(t)
	w := joinParty(t, at, partitions(1), func(c *Config) { c.Feeds = []flowfabric.Feed{flowfabric.FeedLeases, flowfabric.FeedSignals} }).seed()
	w.create(job{}) // the lane and its bucket are made, the worker is known
	warm := w.claim(1, 0, "")[0]
	w.pending(warm, "warm") // the ring is read
	w.complete(warm, nil)
	for range 4 {
		w.create(job{})
	}
	tasks := w.claim(4, 0, "")
	var pending flowfabric.PendingWaitpoint
	var bound, two flowfabric.BoundWaitpoint
	resumed := signalTo("", "", flowfabric.WaitpointToken{}, "", "")
	for _, c := range []struct {
		name string
		do   func()
		want string
	}{
		{"create pending waitpoint", func() { pending = w.pending(tasks[0], "a") },
			"fcall 1, getrange 1, hget 1, hgetall 1, hmget 1, hset 2, time 1, zadd 1"},
		{"create another", func() { w.pending(tasks[0], "b") }, "fcall 1, hget 1, hgetall 1, hmget 1, hset 2, time 1, zadd 1, zcount 1"},
		{"deliver, buffered", func() {
			w.deliver(signalTo(tasks[0].ExecutionID, pending.WaitpointID, pending.Token, "x", ""), flowfabric.EffectBuffered)
		},
			"fcall 1, hget 1, hgetall 1, hmget 3, hset 3, spublish 1, time 1, xadd 1"},
		{"suspend with one fresh waitpoint", func() { bound = w.suspend(tasks[1], "yes") },
			"exists 1, fcall 1, getrange 1, hdel 1, hget 1, hmget 1, hset 3, spublish 1, time 1, xadd 1, zadd 2"},
		{"deliver, does not match", func() {
			w.deliver(signalTo(tasks[1].ExecutionID, bound.WaitpointID, bound.Token, "no", ""), flowfabric.EffectMatcherFailed)
		},
			"fcall 1, hget 1, hmget 4, hset 4, spublish 1, time 1, xadd 1"},
		{"deliver, resumes", func() {
			resumed = signalTo(tasks[1].ExecutionID, bound.WaitpointID, bound.Token, "yes", "key")
			w.deliver(resumed, flowfabric.EffectResumed)
		}, "del 1, fcall 1, get 1, hdel 1, hget 2, hmget 4, hset 4, set 1, spublish 2, time 1, xadd 1, zadd 2"},
		{"deliver, repeated", func() { w.deliver(resumed, flowfabric.EffectResumed) }, "fcall 1, hget 1, hgetall 1, hmget 4, spublish 1, time 1, xadd 1"},
		{"claim of the resumed", func() { w.claim(1, 0, "") }, "fcall 1, get 1, hdel 1, hlen 1, hmget 2, hset 2, set 1, spublish 1, time 1, xadd 1, zadd 1, zpopmin 1, zrange 1"},
		{"suspend for two names", func() { two = w.suspend(tasks[2], "a", "b") }, "exists 1, fcall 1, getrange 1, hdel 1, hget 1, hgetall 1, hset 3, spublish 1, time 1, xadd 1, zadd 2"},
		{"deliver, one of two", func() {
			w.deliver(signalTo(tasks[2].ExecutionID, two.WaitpointID, two.Token, "a", ""), flowfabric.EffectAppended)
		}, "fcall 1, hget 1, hgetall 1, hmget 7, hset 4, spublish 1, time 1, xadd 1"},
		{"resume by an operator", func() {
			_, err := w.ResumeExecution(w.ctx, flowfabric.ResumeExecutionArgs{ExecutionID: tasks[2].ExecutionID})
			w.ok(err)
		}, "del 1, fcall 1, hdel 1, hexists 1, hgetall 1, hmget 1, hset 3, spublish 1, time 1, zadd 2"},
		{"complete, never waited", func() { w.complete(tasks[3], nil) }, "fcall 1, hdel 1, hmget 1, hset 1, spublish 1, time 1, xadd 2, zadd 1"},
		{"deliver, wrong token", func() {
			a := signalTo(tasks[2].ExecutionID, two.WaitpointID, flowfabric.NewWaitpointToken("k1:"+strings.Repeat("0", 64)), "a", "")
			_, err := w.DeliverSignal(w.ctx, a)
			wantCode(w.t, err, flowfabric.CodeInvalidToken)
		}, "fcall 1, hgetall 1, hmget 1, hset 1, time 1"},
	} {
		nextMillisecond(w.party) // else the instant of the last mutation stays as it is
		if got := commandsOf(t, at.server, c.do); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// nextMillisecond waits until the clock has gone on.
func nextMillisecond(p *party) {
	for begun := p.Now(); p.Now() <= begun+1; {
	}
}
