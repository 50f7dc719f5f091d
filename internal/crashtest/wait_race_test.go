package crashtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/engine"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// atOnce is how many call at the same instant.
const atOnce = 50

// together makes calls at once and waits for their ends.
func together(n int, call func(n int)) {
	var running sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		running.Go(func() {
			<-begin
			call(i)
		})
	}
	close(begin)
	running.Wait()
}

// webhook is a sender that retries.
type webhook struct {
	t      *testing.T
	url    string
	client http.Client
}

// post calls back until the server answers, and wants 202.
func (w *webhook) post(ctx context.Context, a address, key string) {
	body, err := json.Marshal(map[string]string{"signal_name": WaitOne.Signals()[0].Name, "idempotency_key": key})
	if err != nil {
		w.t.Error(err)
		return
	}
	for {
		status, err := w.once(ctx, a, body)
		if err == nil && status == http.StatusAccepted {
			return
		}
		if ctx.Err() != nil || err == nil && status != http.StatusServiceUnavailable {
			w.t.Errorf("a callback to %s: %d, %v", a.execution, status, err)
			return
		}
		<-time.After(rand.N(20 * time.Millisecond))
	}
}

func (w *webhook) once(ctx context.Context, a address, body []byte) (int, error) {
	to := w.url + wire.Path(wire.RouteCallback, string(a.execution), string(a.waitpoint))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(wire.HeaderWaitpointToken, a.token.Reveal())
	res, err := w.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var answer wire.CallbackResponse
	if res.StatusCode == http.StatusAccepted {
		if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
			return 0, err // the answer is cut
		}
		if answer.Outcome != "accepted" {
			w.t.Errorf("a callback's answer: %+v", answer)
		}
	}
	return res.StatusCode, nil
}

// Chapter 03, scenarios 33 and 34: a webhook is retried fifty times at once, by
// the callback route and by the signal route, with one idempotency key or with one
// signal id; in every second round the server is killed while that goes on. The
// execution resumes once, by one signal.
func TestWebhookRetriedAtOnce(t *testing.T) {
	s, j := newStation(t), newJournal(t)
	s.store = append(s.store, "--callback-rate-limit", "1000000")
	s.start()
	b := s.connect()
	hook := &webhook{t: t, url: s.url(), client: http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}}}
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	ways := map[string]func(*scene, address) func(int){
		"callback, one key": func(x *scene, a address) func(int) {
			return func(int) { hook.post(t.Context(), a, "once") }
		},
		"signal, one key": func(x *scene, a address) func(int) {
			return func(int) { x.signal(a, waitSignal("once")) }
		},
		"signal, one id": func(x *scene, a address) func(int) {
			signal := waitSignal("")
			return func(int) { x.signal(a, signal) }
		},
	}
	for n := range rounds {
		for name, way := range ways {
			x := &scene{t: t, name: name, journal: j, direct: b, lossy: b}
			x.begin("", true)
			x.claim(flowfabric.ClaimNew, 0, 1)
			a := x.suspendFresh()
			call, answered := way(x, a), atomic.Int64{}
			var killer sync.WaitGroup
			if n%2 == 1 {
				enough := rand.Int64N(atOnce / 2)
				killer.Go(func() {
					for late := time.Now().Add(100 * time.Millisecond); answered.Load() < enough && time.Now().Before(late); {
						<-time.After(time.Millisecond)
					}
					s.kill()
				})
			}
			again := make(chan struct{})
			go func() {
				defer close(again)
				together(atOnce, func(n int) { call(n); answered.Add(1) })
			}()
			killer.Wait()
			if n%2 == 1 {
				s.start()
			}
			<-again
			x.resumedOnce(a)
		}
	}
	audited := audit(t, b, j)
	t.Log(audited.summary())
	s.close(audited)
}

// signal sends a signal until it is answered: whoever sends it, it resumes.
func (x *scene) signal(a address, signal flowfabric.Signal) {
	x.t.Helper()
	d := x.journal.sends(a, signal)
	r := until(x, func(ctx context.Context) (flowfabric.DeliverSignalResult, error) {
		r, err := x.lossy.DeliverSignal(ctx, flowfabric.DeliverSignalArgs{ExecutionID: x.id, WaitpointID: a.waitpoint, Token: a.token, Signal: signal})
		x.journal.delivered(d, r, err)
		return r, err
	})
	if r.Effect != flowfabric.EffectResumed {
		x.errorf("a signal sent at once with its like: %+v", r)
	}
}

// resumedOnce wants one signal and one resume, and completes.
func (x *scene) resumedOnce(a address) {
	x.t.Helper()
	page, err := x.direct.ListSignals(x.t.Context(), flowfabric.ListSignalsArgs{ExecutionID: x.id})
	if err != nil || len(page.Signals) != 1 || page.Signals[0].Effect != flowfabric.EffectResumed {
		x.errorf("signals %+v, %v", page, err)
		return
	}
	signal := page.Signals[0]
	x.journal.sends(a, flowfabric.Signal{SignalID: signal.SignalID}) // one that the callback route has named
	x.seen = []flowfabric.SignalID{signal.SignalID}
	x.resumed()
	x.closed(flowfabric.ClosedResumed)
	x.complete(0)
	x.check(flowfabric.PublicCompleted, 1, 0, 0)
}

// contest is what happened when many wanted to end one wait.
type contest struct {
	effects            sync.Map // by signal
	resumed, cancelled atomic.Bool
}

// Chapter 03, section 4.3, races: fifty signals, an operator's resume, a cancel and
// the timeout, all at once. Exactly one of them closes the suspension, and each
// learns whether it was the one.
func TestOneClosesSuspension(t *testing.T) {
	s, j := newStation(t), newJournal(t)
	s.start()
	b := s.connect()
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	behaviors := []flowfabric.TimeoutBehavior{flowfabric.TimeoutFail, flowfabric.TimeoutCancel, flowfabric.TimeoutExpire, flowfabric.TimeoutAutoResume}
	closers := make(map[flowfabric.SuspensionCloseReason]int)
	for n := range rounds {
		x := &scene{t: t, name: "contest", journal: j, direct: b, lossy: b}
		x.begin("", false)
		x.claim(flowfabric.ClaimNew, 0, 1)
		args := x.suspendArgs("")
		args.ResumeCondition = flowfabric.Count(1+rand.IntN(atOnce), flowfabric.DistinctSignals, nil, waitKey)
		args.TimeoutBehavior, args.TimeoutAt = behaviors[n%len(behaviors)], flowfabric.Millis(time.Now().UnixMilli()+rand.Int64N(80))
		args.TimeoutMs = nil
		r, err := b.Suspend(t.Context(), args)
		if err != nil {
			t.Fatal(err)
		}
		x.report(Report{Op: OpSuspend, Suspension: r.SuspensionID})
		w := r.Waitpoints[0]
		closers[x.contest(address{x.id, w.WaitpointID, w.WaitpointKey, w.Token})]++
	}
	t.Logf("closed: %v", closers)
	if len(closers) < 3 && !testing.Short() {
		t.Errorf("only %v ever closed a suspension", closers)
	}
	a := audit(t, b, j)
	t.Log(a.summary())
	s.close(a)
}

// contest lets all contend, checks that one has closed the suspension, and ends
// the execution.
func (x *scene) contest(a address) flowfabric.SuspensionCloseReason {
	x.t.Helper()
	ctx, c := x.t.Context(), &contest{}
	resumeAt, cancelAt := rand.N(100*time.Millisecond), rand.N(100*time.Millisecond)
	x.journal.mayResume(x.id)
	together(atOnce+3, func(n int) {
		switch n {
		case atOnce + 2:
			for range 5 { // the timeout, which the tick applies
				<-time.After(rand.N(20 * time.Millisecond))
				_, err := x.direct.RunScanner(ctx, engine.DutyTick)
				x.lost(err, flowfabric.CodeResourceExhausted)
			}
		case atOnce:
			<-time.After(resumeAt)
			_, err := x.direct.ResumeExecution(ctx, flowfabric.ResumeExecutionArgs{ExecutionID: x.id, Reason: "as planned"})
			x.lost(err, flowfabric.CodeExecutionNotSuspended)
			c.resumed.Store(err == nil)
		case atOnce + 1:
			if rand.IntN(2) == 0 {
				return
			}
			<-time.After(cancelAt)
			r, err := x.direct.CancelExecution(ctx, flowfabric.CancelExecutionArgs{ExecutionID: x.id, Source: flowfabric.SourceOperatorOverride, Reason: "as planned"})
			x.lost(err, flowfabric.CodeExecutionNotActive)
			c.cancelled.Store(err == nil && r.Outcome == flowfabric.CancelCancelled)
		default:
			<-time.After(rand.N(60 * time.Millisecond))
			d := x.journal.sends(a, flowfabric.Signal{Name: fmt.Sprint("signal ", n), SourceIdentity: "carol"}.WithDefaults())
			r, err := x.direct.DeliverSignal(ctx, flowfabric.DeliverSignalArgs{ExecutionID: x.id, WaitpointID: a.waitpoint, Token: a.token, Signal: d.signal})
			x.lost(err, flowfabric.CodeWaitpointClosed, flowfabric.CodeTargetNotSignalable)
			x.journal.delivered(d, r, err)
			c.effects.Store(n, r.Effect)
		}
	})
	return x.settle(c)
}

// lost accepts the refusals of those who came too late.
func (x *scene) lost(err error, codes ...flowfabric.Code) {
	x.t.Helper()
	for _, code := range codes {
		if flowfabric.CodeOf(err) == code {
			return
		}
	}
	if err != nil {
		x.errorf("refused with %v", err)
	}
}

// settle compares what the contenders were told with what the store holds.
func (x *scene) settle(c *contest) flowfabric.SuspensionCloseReason {
	x.t.Helper()
	ctx := x.t.Context()
	var held *flowfabric.Suspension
	eventually(x.t, patience, "nothing closes the suspension", func() (closed bool) {
		var err error
		if held, err = x.direct.GetSuspension(ctx, x.id); err != nil || held == nil {
			x.t.Fatal(held, err)
		}
		return held.ClosedAt > 0
	})
	winners := 0
	c.effects.Range(func(_, effect any) bool {
		if effect == flowfabric.EffectResumed {
			winners++
		}
		return true
	})
	why := held.CloseReason
	if (winners == 1) != (why == flowfabric.ClosedResumed) || winners > 1 {
		x.errorf("closed %s, and %d signals ended the wait", why, winners)
	}
	if c.resumed.Load() != (why == flowfabric.ClosedOperatorResume) {
		x.errorf("closed %s, and the operator was told %t", why, c.resumed.Load())
	}
	e, err := x.direct.DescribeExecution(ctx, x.id)
	if err != nil {
		x.errorf("%v", err)
		return why
	}
	if c.cancelled.Load() != (e.PublicState == flowfabric.PublicCancelled) && why != flowfabric.ClosedTimedOutCancel || why == flowfabric.ClosedCancelled && !c.cancelled.Load() {
		x.errorf("closed %s, the execution is %s, and the canceller was told %t", why, e.PublicState, c.cancelled.Load())
	}
	if e.PublicState.Terminal() {
		return why
	}
	x.seen = nil
	if why.BySignals() {
		x.seen = held.SatisfierSignalIDs
	}
	x.claim(flowfabric.ClaimResume, 0, 2)
	x.complete(0)
	return why
}
