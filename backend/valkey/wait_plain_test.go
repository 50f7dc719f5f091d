package valkey

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
)

// waitStory is a wait, or several in turn, that is told twice: through the plain paths
// of wait_plain.lua and through the general ones.
type waitStory struct {
	name     string
	create   func(*flowfabric.CreateExecutionArgs)
	suspend  func(*flowfabric.SuspendArgs)
	before   func(w waiter, task flowfabric.ClaimedExecution) // what the worker does first
	signals  []flowfabric.Signal                              // of each wait; the last one resumes
	approve  bool                                             // instead, an operator decides
	rounds   int                                              // 0: 1
	caps     []string
	halfways bool // not every step is plain, or reads tags
}

const pendingID flowfabric.WaitpointID = "11111111-0000-4000-8000-000000000001"

var waitStories = []waitStory{
	{name: "the plainest", signals: []flowfabric.Signal{{Name: "go"}}},
	{name: "three times", signals: []flowfabric.Signal{{Name: "go", Payload: []byte("\x00 {}")}}, rounds: 3},
	{name: "others come first", signals: []flowfabric.Signal{{Name: "no", Payload: []byte("1")}, {Name: "nor this"}, {Name: "go"}}, rounds: 2},
	{name: "signals with keys", signals: []flowfabric.Signal{{Name: "no", IdempotencyKey: "a"}, {Name: "go", IdempotencyKey: "b", DedupTTLMs: 5_000}}},
	{name: "names that JSON escapes", suspend: on(flowfabric.ByName(`a"b\`)), signals: []flowfabric.Signal{{Name: `a\"b\\`}, {Name: `a"b\`}}},
	{name: "a name that reads like a matcher", suspend: on(flowfabric.ByName("x").FromSource("user")),
		signals: []flowfabric.Signal{{Name: `x","source_type":"user`}, {Name: "x", SourceType: "user"}}},
	{name: "names of other scripts", suspend: on(flowfabric.ByName("geprüft <✓>")),
		signals: []flowfabric.Signal{{Name: "gepruft"}, {Name: "geprüft <✓>"}}},
	{name: "any of the names", suspend: on(flowfabric.ByNames("approved", "rejected")), signals: []flowfabric.Signal{{Name: "x"}, {Name: "rejected"}}},
	{name: "any signal", suspend: on(flowfabric.AnySignal()), signals: []flowfabric.Signal{{Name: "whatever"}}},
	{name: "a source and a category", suspend: on(flowfabric.ByName("go").FromSource("user").InCategory("callback")),
		signals: []flowfabric.Signal{{Name: "go"}, {Name: "go", SourceType: "user"}, {Name: "go", SourceType: "user", Category: "callback"}}},
	{name: "a timeout", suspend: func(a *flowfabric.SuspendArgs) {
		a.TimeoutMs, a.TimeoutBehavior = ptr(int64(9_000)), flowfabric.TimeoutEscalate
	}, signals: []flowfabric.Signal{{Name: "no"}, {Name: "go"}}},
	{name: "an instant as timeout, behind the deadline", create: policy(`{"timeout_policy":{"execution_deadline_ms":20000}}`),
		suspend: func(a *flowfabric.SuspendArgs) { a.TimeoutAt = 1_750_000_900_000 }, signals: []flowfabric.Signal{{Name: "go"}}, rounds: 2},
	{name: "everything a suspend can say", suspend: func(a *flowfabric.SuspendArgs) {
		a.ReasonCode, a.RequestedBy, a.ContinuationMetadataPointer = flowfabric.SuspendStepBoundary, flowfabric.RequestedByOperator, "step 7"
		a.ResumePolicy.ConsumeMatchedSignals = ptr(false)
	}, signals: []flowfabric.Signal{{Name: "go"}}, rounds: 2},
	{name: "a review", suspend: func(a *flowfabric.SuspendArgs) { a.ReasonCode = flowfabric.SuspendManualPause },
		signals: []flowfabric.Signal{{Name: "go"}}},
	{name: "an attempt timeout", create: policy(`{"timeout_policy":{"attempt_timeout_ms":25000}}`),
		signals: []flowfabric.Signal{{Name: "no"}, {Name: "go"}}, rounds: 2},
	{name: "a policy for suspensions", create: policy(`{"suspension_policy":{"default_timeout_ms":7000,"timeout_behavior":"cancel"}}`),
		signals: []flowfabric.Signal{{Name: "go"}}, rounds: 2},
	{name: "a limit on signals", create: policy(`{"max_signals_per_execution":2}`), signals: []flowfabric.Signal{{Name: "no"}, {Name: "go"}}, halfways: true},
	{name: "priority, tags and retention", create: func(a *flowfabric.CreateExecutionArgs) {
		a.Priority, a.Tags = ptr(int32(7)), map[string]string{"acme.customer": "c-1"}
		policy(`{"retention_ms":5000}`)(a)
	}, signals: []flowfabric.Signal{{Name: "no"}, {Name: "go"}}, rounds: 2, halfways: true},
	{name: "capabilities", create: policy(`{"routing_requirements":{"required_capabilities":["gpu","ssd"]}}`), caps: []string{"ssd", "gpu"},
		signals: []flowfabric.Signal{{Name: "go"}}, halfways: true},
	{name: "capabilities of the worker alone", caps: []string{"ssd", "gpu"}, signals: []flowfabric.Signal{{Name: "go"}}},
	{name: "an approval", approve: true, rounds: 2},
	{name: "another waitpoint is pending", before: func(w waiter, task flowfabric.ClaimedExecution) {
		_, err := w.CreatePendingWaitpoint(w.ctx, flowfabric.CreatePendingWaitpointArgs{ExecutionID: task.ExecutionID, Fence: task.Fence,
			WaitpointID: pendingID, WaitpointKey: "other", ExpiresInMs: 40_000})
		w.ok(err)
	},
		signals: []flowfabric.Signal{{Name: "go"}}, halfways: true},
	{name: "the waitpoint was pending, with a signal", before: func(w waiter, task flowfabric.ClaimedExecution) {
		got, err := w.CreatePendingWaitpoint(w.ctx, flowfabric.CreatePendingWaitpointArgs{ExecutionID: task.ExecutionID, Fence: task.Fence,
			WaitpointID: pendingID, WaitpointKey: "w", ExpiresInMs: 40_000})
		w.ok(err)
		d := signalTo(task.ExecutionID, pendingID, got.Token, "early", "")
		d.Signal.SignalID = "11111111-0000-4000-8000-000000000002"
		w.deliver(d, flowfabric.EffectBuffered)
	}, suspend: func(a *flowfabric.SuspendArgs) {
		a.Waitpoints = []flowfabric.WaitpointBinding{{WaitpointID: pendingID, UsePending: true}}
	}, signals: []flowfabric.Signal{{Name: "no"}, {Name: "go"}}, halfways: true},
	{name: "the waitpoint stays open", suspend: func(a *flowfabric.SuspendArgs) { a.ResumePolicy.CloseWaitpointOnResume = ptr(false) },
		signals: []flowfabric.Signal{{Name: "go"}}, rounds: 2, halfways: true},
	{name: "resumed later", suspend: func(a *flowfabric.SuspendArgs) { a.ResumePolicy.ResumeDelayMs = 1_000 },
		signals: []flowfabric.Signal{{Name: "go"}}, halfways: true},
	{name: "a suspend with a key", suspend: func(a *flowfabric.SuspendArgs) { a.IdempotencyKey = "once" }, signals: []flowfabric.Signal{{Name: "go"}}, halfways: true},
	{name: "two names", suspend: func(a *flowfabric.SuspendArgs) { a.ResumeCondition = flowfabric.AllOfNames("w", "a", "b") },
		signals: []flowfabric.Signal{{Name: "b"}, {Name: "a"}}, halfways: true},
}

func ptr[T any](v T) *T { return &v }

func on(m *flowfabric.SignalMatcher) func(*flowfabric.SuspendArgs) {
	return func(a *flowfabric.SuspendArgs) { a.ResumeCondition = flowfabric.Single("w", m) }
}

func policy(text string) func(*flowfabric.CreateExecutionArgs) {
	return func(a *flowfabric.CreateExecutionArgs) { a.Policy = []byte(text) }
}

// Chapter 03: a plain path and the general one answer, store and publish the same.
func TestSpec03_PlainPathsLeaveTheSame(t *testing.T) {
	for _, story := range waitStories {
		t.Run(story.name, func(t *testing.T) {
			general := tell(t, story, true)
			plain := tell(t, story, false)
			for i := range max(len(plain.lines), len(general.lines)) {
				if p, g := line(plain.lines, i), line(general.lines, i); p != g {
					t.Errorf("the plain path has\n%s\nthe general one\n%s", p, g)
				}
			}
			if !story.halfways && plain.whole != 0 || general.whole < 3 || plain.whole >= general.whole {
				t.Errorf("records were read as a whole %d times on the plain path, %d on the general one", plain.whole, general.whole)
			}
		})
	}
}

func line(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return "nothing"
}

// toldStory is what came of a story: answers, messages and all that is stored after
// each step, and how often a record was read as a whole.
type toldStory struct {
	lines []string
	whole int
}

// teller tells a story in a store of its own. Identifiers are the same each time,
// but for those of leases and attempts, which get names.
type teller struct {
	*stage
	w      waiter
	story  waitStory
	id     flowfabric.ExecutionID
	forced bool
	made   int
	names  []string
	toldStory
}

func tell(t *testing.T, story waitStory, forced bool) toldStory {
	t.Helper()
	at := onServer(t)
	feeds := []flowfabric.Feed{flowfabric.FeedLeases, flowfabric.FeedSignals, flowfabric.FeedCompletions}
	s := openStage(t, at, backendtest.Options{FlowPartitions: 1, Feeds: feeds})
	r := &teller{stage: s, story: story, forced: forced, w: s.seed()}
	_, _, err := s.ring(s.ctx, 0, false) // is remembered from here on
	s.ok(err)
	messages := listen(t, at)
	r.id = flowfabric.ExecutionID("{fp:0}:" + r.uuid())
	s.create(job{payload: 200, change: func(a *flowfabric.CreateExecutionArgs) {
		a.ExecutionID = r.id
		if story.create != nil {
			story.create(a)
		}
	}})
	task := r.claimed(false)
	for range max(story.rounds, 1) {
		r.round(task)
		task = r.claimed(true)
	}
	s.advance(3)
	s.complete(task, nil)
	heard := messages()
	text := strings.Join(slices.Concat(r.lines, heard, dumped(at)), "\n\x00")
	r.lines = strings.Split(strings.NewReplacer(r.names...).Replace(text), "\n\x00")
	return r.toldStory
}

func (r *teller) uuid() string {
	r.made++
	return fmt.Sprintf("00000000-0000-4000-8000-%012x", r.made)
}

// step does one thing, a little later than the last. The flag x, which says that the
// text hash exists, is enough to have it done on the general path.
func (r *teller) step(do func()) {
	r.t.Helper()
	r.advance(7)
	key := execKey(r.id, "core")
	if r.forced {
		r.at.must("HSET", key, "flags", "x"+r.core(r.id, "flags"))
	}
	before := r.at.calls(r.t, "hgetall")
	do()
	r.whole += r.at.calls(r.t, "hgetall") - before
	if r.forced {
		if flags := strings.ReplaceAll(r.core(r.id, "flags"), "x", ""); flags != "" {
			r.at.must("HSET", key, "flags", flags)
		} else {
			r.at.must("HDEL", key, "flags")
		}
	}
	r.lines = append(r.lines, dumped(r.at)...)
}

// claimed claims the execution, resumed or not, and gives names to lease and attempt.
func (r *teller) claimed(resumed bool) (task flowfabric.ClaimedExecution) {
	r.t.Helper()
	do := func() {
		list := r.claim(1, 0, "", r.story.caps...)
		if len(list) != 1 {
			r.t.Fatalf("%d tasks", len(list))
		}
		task = list[0]
	}
	if resumed {
		if r.story.name == "resumed later" {
			r.advance(1_000)
			r.tick()
		}
		r.step(do)
	} else {
		r.advance(7)
		do()
	}
	r.names = append(r.names, string(task.Fence.LeaseID), fmt.Sprintf("LEASE-%d", len(r.names)))
	if !resumed {
		r.names = append(r.names, string(task.Fence.AttemptID), "ATTEMPT")
	}
	r.lines = append(r.lines, told(task, nil))
	return task
}

// round is one wait.
func (r *teller) round(task flowfabric.ClaimedExecution) {
	r.t.Helper()
	if r.story.before != nil {
		r.story.before(r.w, task)
	}
	a := flowfabric.SuspendArgs{ExecutionID: r.id, Fence: task.Fence, SuspensionID: flowfabric.SuspensionID(r.uuid()), ReasonCode: flowfabric.SuspendWaitingForSignal,
		Waitpoints:      []flowfabric.WaitpointBinding{{WaitpointID: flowfabric.WaitpointID(r.uuid()), WaitpointKey: "w"}},
		ResumeCondition: flowfabric.Single("w", flowfabric.ByName("go"))}
	if r.story.suspend != nil {
		r.story.suspend(&a)
	}
	var point flowfabric.BoundWaitpoint
	r.step(func() {
		got, err := r.Suspend(r.ctx, a)
		r.ok(err)
		point = got.Waitpoints[0]
		r.lines = append(r.lines, told(got, err))
	})
	if r.story.approve {
		r.step(func() {
			got, err := r.DeliverApprovalSignal(r.ctx, flowfabric.DeliverApprovalSignalArgs{ExecutionID: r.id, LaneID: partyLane, WaitpointID: point.WaitpointID,
				SignalID: flowfabric.SignalID(r.uuid()), SignalName: "go", IdempotencySuffix: "1", DecidedBy: "ann"})
			r.lines = append(r.lines, told(got, err))
		})
	}
	for _, g := range r.story.signals {
		d := signalTo(r.id, point.WaitpointID, point.Token, g.Name, g.IdempotencyKey)
		d.Signal = g
		d.Signal.SignalID, d.Signal.SourceIdentity = flowfabric.SignalID(r.uuid()), "me"
		r.step(func() {
			got, err := r.DeliverSignal(r.ctx, d)
			r.lines = append(r.lines, told(got, err))
		})
	}
	x, err := r.GetSuspension(r.ctx, r.id)
	r.lines = append(r.lines, told(x, err))
	seen, err := r.ObserveSignals(r.ctx, flowfabric.ObserveSignalsArgs{ExecutionID: r.id, AttemptID: task.Fence.AttemptID})
	r.lines = append(r.lines, told(seen, err))
	r.wantIndexes()
}

// listen hears what is published about the one partition. What it returns tells what
// was heard; the notice of a feed, which one call may give more than once, is told once.
func listen(t *testing.T, at place) (heard func() []string) {
	t.Helper()
	c := at.server.Client()
	messages := make(chan vk.PubSubMessage, 1000)
	hooked, free := c.Dedicate()
	t.Cleanup(free)
	hooked.SetPubSubHooks(vk.PubSubHooks{OnMessage: func(m vk.PubSubMessage) { messages <- m }})
	for _, channel := range []string{"ff:done:{fp:0}", "ff:wake:{fp:0}", "ff:feed:{fp:0}"} {
		if err := hooked.Do(t.Context(), hooked.B().Ssubscribe().Channel(channel).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	return func() (list []string) {
		at.must("SPUBLISH", "ff:done:{fp:0}", "the end")
		for m := range messages {
			text := m.Channel + ": " + m.Message
			if m.Message == "the end" {
				break
			}
			if last := len(list) - 1; last < 0 || list[last] != text || !strings.HasPrefix(text, "ff:feed") {
				list = append(list, text)
			}
		}
		return list
	}
}

// dumped lists all that is stored on the one partition.
func dumped(at place) (list []string) {
	for _, key := range at.keys("*{fp:0}*") {
		kind := at.must("TYPE", key)
		var v any
		switch kind {
		case "string":
			v = at.must("GET", key)
		case "hash":
			v = pairs(at.must("HGETALL", key))
		case "zset":
			v = at.must("ZRANGE", key, "0", "-1", "WITHSCORES")
		case "set":
			v = at.must("SMEMBERS", key)
		case "stream":
			v = at.must("XRANGE", key, "-", "+")
		}
		list = append(list, fmt.Sprintf("%s %s %q, ttl %v", key, kind, v, at.ttl(key)/60_000))
	}
	return list
}

// pairs lists the fields of a hash in their order, each with its value.
func pairs(v any) (list []string) {
	flat, _ := v.([]any)
	for i := 0; i+1 < len(flat); i += 2 {
		list = append(list, fmt.Sprint(flat[i], "=", flat[i+1]))
	}
	slices.Sort(list)
	return list
}

// A wait that was begun when every condition was stored as JSON is read and resumed as
// any other.
func TestSpec03_ConditionsAsTheyWereStored(t *testing.T) {
	at := onServer(t)
	w := joinParty(t, at, partitions(1)).seed()
	id := w.create(job{})
	bound := w.suspend(w.claim(1, 0, "")[0], "go")
	look := func() string {
		x, err := w.GetSuspension(w.ctx, id)
		w.ok(err)
		list, err := w.ListPendingWaitpoints(w.ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id})
		w.ok(err)
		return reveal(x) + reveal(list)
	}
	now := look()
	susp, cond := execKey(id, "susp"), flowfabric.Single("w", flowfabric.ByName("go")).JSON()
	if stored := at.must("HGET", susp, "cond"); stored != "=go" {
		t.Errorf("stored is %v", stored)
	}
	if encoding := at.of(susp).Must("OBJECT", "ENCODING", susp); encoding != "listpack" {
		t.Errorf("the suspension is a %v", encoding)
	}
	at.must("HSET", susp, "cond", string(cond))
	if then := look(); then != now {
		t.Errorf("read %s\nwant %s", then, now)
	}
	w.deliver(signalTo(id, bound.WaitpointID, bound.Token, "no", ""), flowfabric.EffectMatcherFailed)
	w.deliver(signalTo(id, bound.WaitpointID, bound.Token, "go", ""), flowfabric.EffectResumed)
	if n := len(w.claim(1, 0, "")); n != 1 {
		t.Errorf("%d tasks", n)
	}
}
