package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/remote"
	"github.com/flowfabric/flowfabric/examples/internal/process"
)

// site is a server, and a directory that is deployed to.
type site struct {
	*testing.T
	programs process.Programs
	url      string
	backend  flowfabric.Backend
	dir      directory
}

func newSite(t *testing.T, programs process.Programs, url string) *site {
	backend, err := remote.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = backend.Close() })
	return &site{T: t, programs: programs, url: url, backend: backend, dir: directory(t.TempDir())}
}

func (s *site) worker() *process.Process {
	w := s.programs.Start(s, "approval", "worker", "-server", s.url, "-dir", string(s.dir), "-lease-ttl", "1s")
	w.Await("working")
	return w
}

// asked is a submitted deployment and the commands it printed.
type asked struct {
	*site
	id              flowfabric.ExecutionID
	approve, reject string
}

func (s *site) submit(page string, window time.Duration) *asked {
	s.Helper()
	file := filepath.Join(s.TempDir(), "index.html")
	if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
		s.Fatal(err)
	}
	out, err := s.programs.Run(s, nil, "approval", "submit", "-server", s.url, "-dir", string(s.dir), "-window", window.String(), file)
	if err != nil {
		s.Fatalf("submit: %v\n%s", err, out)
	}
	a := &asked{site: s}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "submitted "):
			a.id = flowfabric.ExecutionID(strings.TrimPrefix(line, "submitted "))
		case strings.HasPrefix(line, "flowfabric waitpoint approve"):
			a.approve = line
		case strings.HasPrefix(line, "flowfabric waitpoint reject"):
			a.reject = line
		}
	}
	return a
}

// decide types a printed command as a person. In the moment in which a worker
// makes the next waitpoint a command may find none, or two, and is typed again.
func (a *asked) decide(command, person string) {
	a.Helper()
	for limit := time.Now().Add(process.Patience); ; {
		out, err := a.programs.Run(a, []string{"USER=" + person}, "sh", "-c", command)
		if err == nil {
			return
		}
		if time.Now().After(limit) {
			a.Fatalf("%s as %s: %v\n%s", command, person, err, out)
		}
	}
}

// ended waits until the deployment has ended.
func (a *asked) ended() flowfabric.WaitExecutionResult {
	return a.await((*flowfabric.Client).Wait)
}

// settled waits until it has ended, or waits for a decision.
func (a *asked) settled() flowfabric.WaitExecutionResult {
	return a.await((*flowfabric.Client).WaitSettled)
}

func (a *asked) await(wait func(*flowfabric.Client, context.Context, flowfabric.ExecutionID) (flowfabric.WaitExecutionResult, error)) flowfabric.WaitExecutionResult {
	a.Helper()
	ctx, cancel := context.WithTimeout(a.Context(), process.Patience)
	defer cancel()
	r, err := wait(flowfabric.NewClient(a.backend), ctx, a.id)
	if err != nil {
		a.Fatal(err)
	}
	return r
}

// counted waits until the worker has counted the decisions and waits anew.
func (a *asked) counted(signals int) {
	a.Helper()
	for limit := time.Now().Add(process.Patience); ; {
		a.settled()
		list, err := a.backend.ListSignals(a.Context(), flowfabric.ListSignalsArgs{ExecutionID: a.id})
		if err != nil {
			a.Fatal(err)
		}
		x, err := a.backend.GetSuspension(a.Context(), a.id)
		if err != nil {
			a.Fatal(err)
		}
		if x != nil && x.ClosedAt == 0 && len(list.Signals) == signals {
			return
		}
		if time.Now().After(limit) {
			a.Fatalf("%d signals, want %d and a wait: %+v", len(list.Signals), signals, x)
		}
	}
}

// page checks what is in place, and how many releases there have been.
func (s *site) page(want string, releases int) {
	s.Helper()
	got, err := os.ReadFile(s.dir.path("current", "index.html"))
	if want != "" && err != nil || string(got) != want {
		s.Errorf("in place is %q (%v), want %q", got, err, want)
	}
	dirs, _ := os.ReadDir(s.dir.path("releases"))
	if len(dirs) != releases {
		s.Errorf("%d releases, want %d", len(dirs), releases)
	}
}

// completed checks a deployment that is to end well.
func (a *asked) completed(people ...string) {
	a.Helper()
	r := a.ended()
	var d Deployed
	_ = json.Unmarshal(r.Result, &d)
	slices.Sort(d.ApprovedBy)
	if r.PublicState != flowfabric.PublicCompleted || !slices.Equal(d.ApprovedBy, people) {
		a.Errorf("ended %s, %s %s", r.PublicState, r.Result, r.FailureReason)
	}
}

// cancelled checks a deployment that is not to happen.
func (a *asked) cancelled(reason string) {
	a.Helper()
	a.ended()
	if out, err := a.programs.Run(a, nil, "approval", "status", "-server", a.url, string(a.id)); err != nil || !strings.HasPrefix(out, "cancelled "+reason) {
		a.Errorf("status %q (%v), want %q", out, err, reason)
	}
}

func TestApproval(t *testing.T) {
	programs := process.Build(t, "approval")
	url := programs.Serve(t)

	t.Run("people decide", func(t *testing.T) {
		s := newSite(t, programs, url)
		s.worker()
		first := s.submit("one", time.Hour)
		first.counted(0)
		first.decide(first.approve, "alice")
		first.counted(1)
		first.decide(first.approve, "alice") // the same person once more
		first.counted(2)
		s.page("", 0)
		first.decide(first.approve, "bob")
		first.completed("alice", "bob")
		s.page("one", 1)

		second := s.submit("two", time.Hour)
		second.decide(second.approve, "alice")
		second.decide(second.reject, "bob")
		second.cancelled("rejected by bob")
		s.page("one", 1)

		third := s.submit("three", 2*time.Second)
		third.settled()
		out, err := programs.Run(t, []string{"USER=alice"}, "sh", "-c", third.approve)
		t.Logf("approved within two seconds, on most machines: %v %s", err, out)
		third.cancelled("time is over: ")
		s.page("one", 1)

		fourth := s.submit("four", time.Hour)
		fourth.decide(fourth.approve, "carol")
		fourth.decide(fourth.approve, "dave") // at once, whatever the worker is at
		fourth.completed("carol", "dave")
		s.page("four", 2)
	})

	t.Run("no worker between the decisions", func(t *testing.T) {
		s := newSite(t, programs, url)
		w := s.worker()
		a := s.submit("one", time.Hour)
		a.counted(0)
		a.decide(a.approve, "alice")
		a.counted(1)
		w.Kill()
		a.decide(a.approve, "alice")
		a.decide(a.approve, "bob") // the wait has ended and nobody is there to begin another
		s.page("", 0)
		s.worker()
		a.completed("alice", "bob")
		s.page("one", 1)
	})

	t.Run("workers die all the time", func(t *testing.T) {
		s := newSite(t, programs, url)
		w := s.worker()
		a := s.submit("one", time.Hour)
		for _, person := range []string{"alice", "alice", "alice", "bob"} {
			a.decide(a.approve, person)
			w.Kill() // claiming, counting, suspending or deploying
			w = s.worker()
		}
		a.completed("alice", "bob")
		s.page("one", 1)
	})
}

// A worker that died between its steps, and one that was thought dead.
func TestInstall(t *testing.T) {
	d := directory(t.TempDir())
	one := Release{Files: map[string][]byte{"index.html": []byte("one")}}
	two := Release{Base: "1", Files: map[string][]byte{"index.html": []byte("two")}}
	if err := os.MkdirAll(d.path(".filling", "index.html"), 0o755); err != nil { // half filled
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", d.path(".current")); err != nil { // made, not yet renamed
		t.Fatal(err)
	}
	for _, step := range []struct {
		name    string
		release Release
		done    bool
		err     error
		page    string
	}{
		{"1", one, true, nil, "one"},
		{"1", one, false, nil, "one"},
		{"2", two, true, nil, "two"},
		{"1", one, false, errMoved, "two"}, // too late
		{"3", two, false, errMoved, "two"}, // approved for another state
	} {
		done, err := d.install(step.name, step.release)
		page, _ := os.ReadFile(d.path("current", "index.html"))
		if done != step.done || err != step.err || string(page) != step.page {
			t.Errorf("%s: %v, %v, in place %q", step.name, done, err, page)
		}
	}
	if _, err := d.install("4", Release{Base: "2", Files: map[string][]byte{"../x": nil}}); err == nil {
		t.Error("a file outside of the release")
	}
}
