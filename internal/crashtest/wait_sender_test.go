package crashtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
)

// waitActs are the acts that need a sender.
var waitActs = []Act{ActWait, ActWaitBare, ActWaitPending}

// address is a waitpoint and the token for it.
type address struct {
	execution flowfabric.ExecutionID
	waitpoint flowfabric.WaitpointID
	key       string
	token     flowfabric.WaitpointToken
}

// delivery is one signal, however often it is sent.
type delivery struct {
	address
	signal  flowfabric.Signal
	acked   []flowfabric.DeliverSignalResult
	refused []flowfabric.Code
}

// sends notes the wish to send a signal, before it is sent.
func (j *journal) sends(a address, s flowfabric.Signal) *delivery {
	j.mu.Lock()
	defer j.mu.Unlock()
	d := &delivery{address: a, signal: s}
	j.deliveries = append(j.deliveries, d)
	return d
}

// delivered notes an answer; a refusal that time mends is none. It reports
// whether there was one.
func (j *journal) delivered(d *delivery, r flowfabric.DeliverSignalResult, err error) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case err == nil:
		d.acked = append(d.acked, r)
		j.acked()
	case unanswered(err) || j.tolerates(err):
		return false
	default:
		d.refused = append(d.refused, flowfabric.CodeOf(err))
	}
	return true
}

// takeAddresses takes the waitpoints that workers have told of.
func (j *journal) takeAddresses() []address {
	j.mu.Lock()
	defer j.mu.Unlock()
	taken := j.addresses
	j.addresses = nil
	return taken
}

// sender sends signals to every waitpoint it hears of: from the workers, and from
// the store, for what a worker could not tell any more.
type sender struct {
	t       *testing.T
	journal *journal
	// deaths counts those of the server, if it dies.
	deaths func() int64
	// plain is the sender that sends each signal once, and nothing else.
	plain bool

	ctx        context.Context
	cancel     context.CancelFunc
	work       chan address
	running    sync.WaitGroup
	afterCrash atomic.Int64 // signals let in by a token from before a crash
}

// startSender starts senders, one on each connection; the first of them asks the
// store besides.
func startSender(t *testing.T, j *journal, deaths func() int64, connections ...flowfabric.Backend) *sender {
	s := &sender{t: t, journal: j, deaths: deaths}
	s.start(connections)
	return s
}

// plainSender is a sender without moods.
func plainSender(t *testing.T, j *journal, connections ...flowfabric.Backend) *sender {
	s := &sender{t: t, journal: j, plain: true}
	s.start(connections)
	return s
}

func (s *sender) start(connections []flowfabric.Backend) {
	s.work = make(chan address)
	s.ctx, s.cancel = context.WithCancel(s.t.Context())
	s.t.Cleanup(s.stop)
	s.running.Go(func() { s.listen(connections[0]) })
	for _, b := range connections {
		for range 4 {
			s.running.Go(func() {
				for a := range s.work {
					s.serve(b, a)
				}
			})
		}
	}
}

// stop ends the sender, once nothing waits any more.
func (s *sender) stop() {
	s.cancel()
	s.running.Wait()
}

// listen hands over every waitpoint once.
func (s *sender) listen(b flowfabric.Backend) {
	defer close(s.work)
	known := make(map[flowfabric.WaitpointID]bool)
	look := time.NewTicker(300 * time.Millisecond)
	defer look.Stop()
	for {
		_, changed := s.journal.progress()
		for _, a := range s.journal.takeAddresses() {
			if known[a.waitpoint] {
				continue
			}
			known[a.waitpoint] = true
			select {
			case s.work <- a:
			case <-s.ctx.Done():
				return
			}
		}
		select {
		case <-changed:
		case <-look.C:
			s.look(b, known)
		case <-s.ctx.Done():
			return
		}
	}
}

// look asks the store for the waitpoints of suspended executions. Its own
// failures are those of a store that is killed: the next look finds the rest.
func (s *sender) look(b flowfabric.Backend, known map[flowfabric.WaitpointID]bool) {
	client := flowfabric.NewClient(b, flowfabric.WithNamespace(Namespace))
	for e, err := range client.Suspended(s.ctx, flowfabric.SuspendedQuery{}) {
		if err != nil {
			return
		}
		for w, err := range client.PendingWaitpoints(s.ctx, e.ExecutionID) {
			if err != nil {
				return
			}
			if known[w.WaitpointID] || w.State != flowfabric.WaitpointActive {
				continue
			}
			token, err := client.Admin().ReadWaitpointToken(s.ctx, e.ExecutionID, w.WaitpointID)
			if err != nil || token.IsZero() {
				continue
			}
			if token.KID() != w.TokenKID || token.Fingerprint() != w.TokenFingerprint {
				s.t.Errorf("%s: the token of %s is another one than listed", e.ExecutionID, w.WaitpointID)
			}
			s.journal.found(address{e.ExecutionID, w.WaitpointID, w.WaitpointKey, token})
		}
	}
}

// found notes a waitpoint for the sender.
func (j *journal) found(a address) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.addresses = append(j.addresses, a)
}

// serve ends the wait on a waitpoint: by its signals, sometimes after one that
// does not match, sometimes late or twice; and at times by an operator.
func (s *sender) serve(b flowfabric.Backend, a address) {
	kind, _, _ := strings.Cut(a.key, "-")
	signals := Wait(kind).Signals()
	if s.plain {
		for _, signal := range signals {
			s.deliver(b, a, signal.WithDefaults())
		}
		return
	}
	before := s.died()
	if rand.IntN(6) == 0 {
		s.outlive(before)
	}
	if rand.IntN(15) == 0 && s.resume(b, a) {
		return
	}
	if rand.IntN(6) == 0 {
		s.deliver(b, a, flowfabric.Signal{Name: "noise", SourceIdentity: "carol"}.WithDefaults())
	}
	for _, signal := range signals {
		if rand.IntN(2) == 0 {
			signal.IdempotencyKey = fmt.Sprintf("%s-%s", signal.Name, signal.SourceIdentity)
		}
		signal = signal.WithDefaults()
		after := s.died() > before
		first := s.deliver(b, a, signal)
		if len(first.acked) > 0 && after {
			s.afterCrash.Add(1)
		}
		if rand.IntN(3) == 0 {
			s.again(b, first)
		}
	}
}

func (s *sender) died() int64 {
	if s.deaths == nil {
		return 0
	}
	return s.deaths()
}

// outlive waits for the server's next death, at most for a time.
func (s *sender) outlive(deaths int64) {
	for late := time.Now().Add(rand.N(time.Second)); s.died() == deaths && time.Now().Before(late) && s.ctx.Err() == nil; {
		s.rest(20 * time.Millisecond)
	}
}

func (s *sender) rest(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
}

// deliver sends a signal until there is an answer.
func (s *sender) deliver(b flowfabric.Backend, a address, signal flowfabric.Signal) *delivery {
	d := s.journal.sends(a, signal)
	for s.ctx.Err() == nil {
		r, err := b.DeliverSignal(s.ctx, flowfabric.DeliverSignalArgs{ExecutionID: a.execution, WaitpointID: a.waitpoint, Token: a.token, Signal: signal})
		if s.journal.delivered(d, r, err) {
			break
		}
		s.rest(20 * time.Millisecond)
	}
	return d
}

// again sends a signal that has been answered once more, as a webhook would:
// as it is, or under another identifier with the same idempotency key.
func (s *sender) again(b flowfabric.Backend, first *delivery) {
	if len(first.acked) == 0 {
		return
	}
	signal := first.signal
	if signal.IdempotencyKey != "" && rand.IntN(2) == 0 {
		signal.SignalID = flowfabric.NewSignalID()
	}
	d := s.deliver(b, first.address, signal)
	if s.ctx.Err() != nil || s.journal.lossy {
		return
	}
	if len(d.acked) != 1 || d.acked[0].Outcome != flowfabric.DeliverDuplicate || d.acked[0].SignalID != first.acked[0].SignalID {
		s.t.Errorf("%s: signal %s, sent again as %s: %+v, refused %v", d.execution, first.acked[0].SignalID, signal.SignalID, d.acked, d.refused)
	}
}

// resume has an operator end the wait, and reports whether it did. Nothing makes
// this call repeatable: after a lost answer it may have come about.
func (s *sender) resume(b flowfabric.Backend, a address) bool {
	s.journal.mayResume(a.execution)
	_, err := b.ResumeExecution(s.ctx, flowfabric.ResumeExecutionArgs{ExecutionID: a.execution, Reason: "as planned"})
	if err != nil && !unanswered(err) && !errors.Is(err, flowfabric.ErrExecutionNotSuspended) && !s.journal.tolerates(err) && !s.journal.lossy {
		s.t.Errorf("resume of %s: %v", a.execution, err)
	}
	return err == nil
}

func (j *journal) mayResume(id flowfabric.ExecutionID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.resumed[id] = true
}
