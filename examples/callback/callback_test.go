package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/remote"
	"github.com/flowfabric/flowfabric/examples/internal/process"
)

// trial is a running example.
type trial struct {
	*testing.T
	programs process.Programs
	url      string
	service  *process.Process
	backend  flowfabric.Backend
}

func (s *trial) worker(args ...string) *process.Process {
	at := strings.TrimPrefix(s.service.Await("listening at "), "listening at ")
	w := s.programs.Start(s, "callback", append([]string{"worker", "-server", s.url, "-service", at}, args...)...)
	w.Await("working")
	return w
}

// document submits a document, named and filled after the manner.
func (s *trial) document(manner string) flowfabric.ExecutionID {
	s.Helper()
	created, err := flowfabric.SubmitJSON(s.Context(), flowfabric.NewClient(s.backend), kind,
		Document{Name: manner, Content: []byte(strings.Repeat(manner+" ", 1000)), Manner: manner})
	if err != nil {
		s.Fatal(err)
	}
	return created.ExecutionID
}

// await waits by a method of the client.
func (s *trial) await(wait func(*flowfabric.Client, context.Context, flowfabric.ExecutionID) (flowfabric.WaitExecutionResult, error), id flowfabric.ExecutionID) flowfabric.WaitExecutionResult {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), process.Patience)
	defer cancel()
	r, err := wait(flowfabric.NewClient(s.backend), ctx, id)
	if err != nil {
		s.Fatalf("%v; the service said:\n%s", err, strings.Join(s.service.Lines(), "\n"))
	}
	return r
}

// done checks that the right answer has come to an execution, and that it has
// taken so many signals.
func (s *trial) done(id flowfabric.ExecutionID, name string, signals int) Compressed {
	s.Helper()
	r := s.await((*flowfabric.Client).Wait, id)
	var c Compressed
	if err := json.Unmarshal(r.Result, &c); err != nil || r.PublicState != flowfabric.PublicCompleted || c.Name != name ||
		c.From != 1000*len(name+" ") || c.Bytes == 0 || c.Bytes >= c.From {
		s.Errorf("%s: %s %s %s", name, r.PublicState, r.Result, r.FailureReason)
	}
	list, err := s.backend.ListSignals(s.Context(), flowfabric.ListSignalsArgs{ExecutionID: id})
	if err != nil || len(list.Signals) != signals {
		s.Errorf("%s: signals %+v (%v), want %d", name, list.Signals, err, signals)
	}
	return c
}

// answers returns how the service's calls for documents of a name were answered,
// once there are so many.
func (s *trial) answers(name string, n int) []string {
	s.Helper()
	limit := time.After(process.Patience)
	for {
		var got []string
		news := s.service.News()
		for _, line := range s.service.Lines() {
			if rest, ok := strings.CutPrefix(line, name+" "+name+" "); ok {
				got = append(got, rest)
			}
		}
		if len(got) >= n {
			return got
		}
		select {
		case <-news:
		case <-limit:
			s.Fatalf("%s: the service has called only so often: %q", name, got)
		}
	}
}

func (s *trial) answered(name string, want ...string) {
	s.Helper()
	if got := s.answers(name, len(want)); strings.Join(got, ", ") != strings.Join(want, ", ") {
		s.Errorf("%s: the service was answered %q, want %q", name, got, want)
	}
}

func TestCallback(t *testing.T) {
	programs := process.Build(t, "callback")
	s := &trial{T: t, programs: programs, url: programs.Serve(t), service: programs.Start(t, "callback", "service", "-listen", "127.0.0.1:0")}
	backend, err := remote.Open(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = backend.Close() })
	s.backend = backend
	w := s.worker()
	const accepted = "202 accepted"

	early := s.document("early")
	s.done(early, "early", 1)
	s.answered("early", accepted)
	if x, err := backend.GetSuspension(t.Context(), early); err != nil || x == nil || x.CloseReason != flowfabric.ClosedAlreadySatisfied {
		t.Errorf("early: %+v (%v), want a wait that was over before it began", x, err)
	}

	twice := s.document("twice")
	s.done(twice, "twice", 1)
	s.answered("twice", accepted, accepted)

	wrong := s.document("wrong")
	if r := s.await((*flowfabric.Client).Wait, wrong); r.FailureCategory != "bad_answer" {
		t.Errorf("wrong: %s %s", r.PublicState, r.FailureReason)
	}

	// Neither a forger nor a worker that dies ends a wait.
	forged := s.document("forged")
	s.answered("forged", "403 invalid_token", "403 invalid_token")
	held := s.document("held")
	for _, id := range []flowfabric.ExecutionID{forged, held} {
		if r := s.await((*flowfabric.Client).WaitSettled, id); r.PublicState != flowfabric.PublicSuspended {
			t.Errorf("%s: %s before its callback", id, r.PublicState)
		}
	}
	w.Kill()
	w = s.worker()
	prompt := s.document("prompt") // which is answered before the two
	s.done(prompt, "prompt", 1)
	s.done(forged, "forged", 1)
	s.done(held, "held", 1)
	s.answered("forged", "403 invalid_token", "403 invalid_token", accepted)

	w.Kill()
	s.worker("-patience", "1s")
	late := s.document("late")
	if c := s.done(late, "late", 2); c.Asked < 2 { // the timeout's signal, and the second answer
		t.Errorf("late: asked %d times", c.Asked)
	}
	if got := s.answers("late", 2); got[0] != "409 waitpoint_closed" || got[len(got)-1] != accepted {
		t.Errorf("late: the service was answered %q", got)
	}
}
