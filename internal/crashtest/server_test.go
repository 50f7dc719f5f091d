package crashtest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
)

const (
	// leaseTTL is the TTL of the workers' leases, longestDelay bounds how long
	// an execution of the load may wait by its own wish, and settling is how long
	// after both everything must have ended.
	leaseTTL     = time.Second
	longestDelay = time.Second
	settling     = 5 * time.Second
)

// kills is how often a test kills.
func kills() int {
	if testing.Short() {
		return 10
	}
	return 100
}

// TestServerKilledUnderLoad kills a server a hundred times, at work and while it
// starts, and compares what was acknowledged with what is left.
func TestServerKilledUnderLoad(t *testing.T) {
	s, j := newStation(t), newJournal(t)
	s.start()
	workers := newCrew(t, s.url(), "crash", j, "-lease-ttl", leaseTTL.String(), "-claim-wait", "100ms", "-tasks", "8")
	var hands []*hand
	for range 3 {
		h := workers.hire()
		h.awaitReady(t)
		hands = append(hands, h)
	}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n := range 8 {
		l := &load{t: t, journal: j, station: s, backend: s.connect(), stop: stop, limit: 150, eager: n < 3,
			acts: slices.Concat(allActs, waitActs), maxWork: 20, slow: 25}
		clients.Go(l.run)
	}
	sender := startSender(t, j, s.deaths.Load, s.connect(), s.connect(), s.connect())
	reader := follow(t, s.connect())
	starting, stopping := killServer(t, s, j)
	last := time.Now()
	s.start()
	close(stop)
	clients.Wait()
	b := s.connect()
	awaitDrained(t, b, leaseTTL+longestDelay+settling)
	t.Logf("%s after the last kill", time.Since(last).Round(time.Millisecond))
	sender.stop()
	for _, h := range hands {
		h.dismiss(t)
	}
	a := audit(t, b, j)
	reader.check(a)
	t.Logf("%d kills, %d of them while the server was starting, %d while it was stopping; %s", kills(), starting, stopping, a.summary())
	for _, op := range []Op{OpClaim, OpRenew, OpComplete, OpFail, OpDelay, OpSuspend, OpWaitpoint} {
		if j.accepted(op) == 0 && !testing.Short() {
			t.Errorf("no %s was ever acknowledged", op)
		}
	}
	if sender.afterCrash.Load() == 0 {
		t.Error("no token from before a crash was ever used after it")
	}
	s.close(a)
}

// killServer kills the server again and again: after some acknowledgements or
// some time, whichever is first; while it starts; or while it stops in good
// order. It leaves the last one dead and returns how many died starting and
// stopping.
func killServer(t *testing.T, s *station, j *journal) (starting, stopping int) {
	t.Helper()
	for n := range kills() {
		if n > 0 && rand.IntN(6) == 0 {
			starting++
			s.launch()
			elapse(80 * time.Millisecond)
			s.kill()
			continue
		}
		if n > 0 {
			s.start()
		}
		j.awaitAcks(1+rand.IntN(150), time.Duration(50+rand.IntN(250))*time.Millisecond)
		if rand.IntN(8) == 0 {
			stopping++
			s.child.signal(syscall.SIGTERM)
			elapse(40 * time.Millisecond)
		}
		s.kill()
	}
	return starting, stopping
}

// elapse lets a random time up to limit pass, so that a kill may come at any
// instant.
func elapse(limit time.Duration) { <-time.After(rand.N(limit)) }

// load is a client that creates executions.
type load struct {
	t       *testing.T
	journal *journal
	station *station
	backend flowfabric.Backend
	stop    <-chan struct{}
	limit   int // of the backlog
	// eager clients make only calls that nobody repeats for them, and after one
	// that failed wait for the server, so as to be there at once when it is.
	eager   bool
	acts    []Act
	maxWork int // milliseconds
	slow    int // one in so many works past the first renewal

	client *flowfabric.Client
	parts  flowfabric.PartitionConfig
	open   []wish // keyed ones without an answer yet
}

// wish is a creation with what to ask for.
type wish struct {
	*creation
	args flowfabric.CreateExecutionArgs
}

// run creates until it is stopped, and then asks again for what has a key and
// has not been answered.
func (l *load) run() {
	l.client = flowfabric.NewClient(l.backend, flowfabric.WithNamespace(Namespace))
	l.parts = flowfabric.DefaultPartitionConfig()
	for n := 0; !l.stopped(); n++ {
		if n%4 == 0 {
			l.hold()
		}
		what := rand.IntN(8)
		if l.eager {
			what = []int{0, 5}[what%2]
		}
		switch what {
		case 0, 1:
			l.create(l.wish())
		case 2, 3:
			l.create(l.keyed(l.wish()))
		case 4:
			l.create(l.named(l.wish()))
		case 5:
			l.createBatch()
		case 6:
			l.cancel()
		case 7:
			l.replay()
		}
	}
	l.finish()
}

func (l *load) stopped() bool {
	select {
	case <-l.stop:
		return true
	case <-l.t.Context().Done(): // the test has failed
		return true
	default:
		return false
	}
}

// hold waits until the workers have caught up.
func (l *load) hold() {
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for backlog(l.t.Context(), l.backend) > l.limit {
		select {
		case <-again.C:
		case <-l.stop:
			return
		}
	}
}

// wish thinks of an execution.
func (l *load) wish() wish {
	c := l.journal.begin()
	plan := Plan{Serial: c.serial, Act: l.acts[rand.IntN(len(l.acts))], WorkMs: int64(rand.IntN(l.maxWork + 1)), Pad: rand.IntN(200)}
	if rand.IntN(l.slow) == 0 {
		plan.WorkMs += 2 * leaseTTL.Milliseconds() / 3
	}
	if rand.IntN(40) == 0 {
		plan.Pad = rand.IntN(100_000)
	}
	if slices.Contains(waitActs, plan.Act) {
		plan.Wait, plan.Waits = Waits()[rand.IntN(len(Waits()))], 1+rand.IntN(2)
	}
	payload, err := json.Marshal(plan)
	if err != nil {
		l.t.Error(err)
	}
	args := flowfabric.CreateExecutionArgs{
		Namespace: Namespace, LaneID: Lanes()[rand.IntN(len(Lanes()))], Kind: Kind, Payload: payload,
		CreatorIdentity: "crash", Tags: map[string]string{serialTag: serialText(c.serial)},
	}
	if plan.Act == ActRetry || rand.IntN(3) == 0 {
		args.Policy = json.RawMessage(fmt.Sprintf(`{"priority":%d,"retry_policy":{"max_retries":2,"backoff":{"type":"fixed","delay_ms":%d}}}`,
			rand.IntN(10), rand.IntN(50)))
	}
	if rand.IntN(3) == 0 {
		args.Tags["crash.act"] = string(plan.Act)
	}
	if rand.IntN(5) == 0 {
		args.DelayUntil = flowfabric.Millis(time.Now().UnixMilli() + rand.Int64N(longestDelay.Milliseconds()/2))
	}
	return wish{c, args}
}

// keyed gives a wish an idempotency key, named an identifier.
func (l *load) keyed(w wish) wish {
	w.key = fmt.Sprintf("key-%d", w.serial)
	w.args.IdempotencyKey = w.key
	return w
}

func (l *load) named(w wish) wish {
	w.named = l.parts.NewExecutionID(w.args.LaneID)
	w.args.ExecutionID = w.named
	return w
}

func (w wish) again() bool { return w.key != "" || w.named != "" }

// create asks for one execution. What has a key is asked for again later, also
// when it was answered.
func (l *load) create(w wish) {
	l.ask(w)
	if w.again() && rand.IntN(3) == 0 {
		l.ask(w)
	}
}

func (l *load) ask(w wish) {
	result, err := l.client.Submit(l.t.Context(), w.args)
	l.answered(w, result, err)
}

func (l *load) answered(w wish, result flowfabric.CreateExecutionResult, err error) {
	if err != nil && l.eager {
		select {
		case <-l.station.up():
		case <-l.stop:
		}
	}
	if !l.journal.asked(w.creation, result, err) && w.again() {
		l.open = append(l.open, w)
	}
}

// createBatch asks for several at once, and for what has not been answered
// before.
func (l *load) createBatch() {
	wishes := l.open
	l.open = nil
	allAgain := !l.eager && rand.IntN(2) == 0 // then the SDK repeats the call by itself
	for n := range 2 + rand.IntN(6) {
		w := l.wish()
		if allAgain || n > 0 && rand.IntN(2) == 0 {
			w = l.keyed(w)
		}
		wishes = append(wishes, w)
	}
	items := make([]flowfabric.CreateExecutionArgs, len(wishes))
	for i, w := range wishes {
		items[i] = w.args
	}
	answers, _ := l.client.SubmitBatch(l.t.Context(), items) // every item carries its error
	for i, answer := range answers {
		l.answered(wishes[i], answer.Result, answer.Err)
	}
}

// cancel creates an execution that waits a little, and cancels it.
func (l *load) cancel() {
	w := l.named(l.wish())
	w.args.DelayUntil = flowfabric.Millis(time.Now().UnixMilli() + 100)
	l.create(w)
	_, err := l.client.Cancel(l.t.Context(), w.named, "changed my mind")
	switch flowfabric.CodeOf(err) {
	case "":
		if err == nil {
			l.journal.hasCancelled(w.named)
		}
	case flowfabric.CodeExecutionNotFound, flowfabric.CodeExecutionNotActive:
	default:
		if !unanswered(err) && !l.journal.tolerates(err) {
			l.t.Errorf("cancel: %v", err)
		}
	}
}

// replay runs an execution that has failed once more. Its count makes the call
// one that may be repeated.
func (l *load) replay() {
	id := l.journal.takeFailed()
	if id == "" {
		return
	}
	args := flowfabric.ReplayExecutionArgs{ExecutionID: id, ExpectedReplayCount: new(uint32)}
	for !l.stopped() {
		_, err := l.client.Admin().Replay(l.t.Context(), args)
		if err == nil {
			l.journal.hasReplayed(id)
			return
		}
		if !unanswered(err) && !l.journal.tolerates(err) {
			l.replayRefused(id, err)
			return
		}
	}
}

// replayRefused looks at a refusal. After a lost answer the execution may have
// run and ended once more before the repeat; then the repeat does not fit.
func (l *load) replayRefused(id flowfabric.ExecutionID, err error) {
	if flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput {
		l.t.Errorf("replay of %s: %v", id, err)
	}
}

// finish asks for what is open until everything has an answer.
func (l *load) finish() {
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	for len(l.open) > 0 && ctx.Err() == nil {
		w := l.open[0]
		l.open = l.open[1:]
		l.ask(w)
	}
	if len(l.open) > 0 {
		l.t.Errorf("%d creations with a key are not answered", len(l.open))
	}
}
