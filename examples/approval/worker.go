package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flowfabric/flowfabric"
)

// needed is how many different people must approve.
const needed = 2

// Deployed is the result of a deployment.
type Deployed struct {
	Release    string
	ApprovedBy []string
}

// deployer runs deployments to one directory.
type deployer struct {
	client *flowfabric.Client
	dir    directory
}

// work runs a worker until it is told to stop.
func work(ctx context.Context, client *flowfabric.Client, o options) error {
	if o.dir == "" {
		return errors.New("worker needs -dir")
	}
	w, err := flowfabric.NewWorker(ctx, client.Backend(), flowfabric.WorkerConfig{
		WorkerID: "deployer", Lanes: []flowfabric.LaneID{"default"}, LeaseTTL: o.ttl})
	if err != nil {
		return err
	}
	d := &deployer{client: client, dir: directory(o.dir)}
	if err := flowfabric.Handle(w, kind, d.deploy); err != nil {
		return err
	}
	fmt.Println("working")
	return w.Run(ctx)
}

// deploy looks at the decisions so far, and acts on them or waits for the next
// one. "Two approvals, or one rejection, or the hour" is no condition the engine
// has, as conditions have no "or": so every decision resumes the execution, which
// counts anew. What it counts are the recorded signals of the whole execution,
// not those that resumed it; thus a crash loses none.
func (d *deployer) deploy(ctx context.Context, t *flowfabric.Task, r Release) (Deployed, error) {
	x, err := d.client.Inspect(ctx, t.ExecutionID())
	if err != nil {
		return Deployed{}, err
	}
	if x == nil {
		return Deployed{}, errors.New("the execution is gone")
	}
	deadline := x.CreatedAt + flowfabric.Millis(r.WindowMs)
	open, err := d.openWaitpoints(ctx, t)
	if err != nil {
		return Deployed{}, err
	}
	votes, err := tally(ctx, d.client, t.ExecutionID(), deadline)
	if err != nil {
		return Deployed{}, err
	}
	switch {
	case votes.rejectedBy != "":
		return Deployed{}, flowfabric.CancelTask("rejected by " + votes.rejectedBy)
	case len(votes.approvedBy) >= needed:
		return d.install(t, r, votes)
	case t.StoreTime() >= deadline:
		return Deployed{}, flowfabric.CancelTask(fmt.Sprintf("time is over: %d of %d approvals", len(votes.approvedBy), needed))
	}
	return Deployed{}, d.wait(ctx, t, open, deadline)
}

// install makes the change. The name of the release is that of the execution, so
// whoever runs it again, finds it.
func (d *deployer) install(t *flowfabric.Task, r Release, votes votes) (Deployed, error) {
	name := t.ExecutionID().UUID().String()
	done, err := d.dir.install(name, r)
	if errors.Is(err, errMoved) {
		return Deployed{}, flowfabric.Fail("permanent", err) // not retried
	}
	if err != nil {
		return Deployed{}, err
	}
	fmt.Printf("release %s is in place, put there now: %v\n", name, done)
	return Deployed{Release: name, ApprovedBy: votes.approvedBy}, nil
}

// wait suspends on the first of two waitpoints. The second is there for whoever
// decides after that one has closed and before a worker is back to wait again:
// what comes there meanwhile is kept, and looked at first.
func (d *deployer) wait(ctx context.Context, t *flowfabric.Task, open []*flowfabric.PendingWaitpoint, deadline flowfabric.Millis) error {
	// The waitpoints outlive the hour a little: its end is the timeout's to tell.
	life := time.Duration(deadline-t.StoreTime())*time.Millisecond + time.Minute
	for len(open) < 2 {
		round := 1
		if len(open) > 0 {
			_, last, _ := parseKey(open[len(open)-1].WaitpointKey)
			round = last + 1
		}
		made, err := t.CreatePendingWaitpoint(ctx, makeKey(t, round), life)
		if err != nil {
			return err
		}
		open = append(open, made)
	}
	return flowfabric.SuspendOn(flowfabric.SuspendOptions{
		Reason: flowfabric.SuspendWaitingForApproval,
		Condition: flowfabric.Single(open[0].WaitpointKey, flowfabric.ByNames(flowfabric.SignalNameApproved, flowfabric.SignalNameRejected).
			FromSource(flowfabric.SourceTypeOperator)),
		TimeoutAt: time.UnixMilli(int64(deadline)),
		Behavior:  flowfabric.TimeoutAutoResume,
	}.OnPending(open[0]))
}

// openWaitpoints returns the attempt's waitpoints that it has not waited on yet,
// oldest first. Those of an attempt whose worker died can't be waited on any
// more; they are closed, and their signals count like all others.
func (d *deployer) openWaitpoints(ctx context.Context, t *flowfabric.Task) ([]*flowfabric.PendingWaitpoint, error) {
	var own []*flowfabric.PendingWaitpoint
	for w, err := range d.client.PendingWaitpoints(ctx, t.ExecutionID()) {
		if err != nil {
			return nil, err
		}
		if attempt, _, ok := parseKey(w.WaitpointKey); ok && attempt == t.AttemptIndex() {
			own = append(own, &flowfabric.PendingWaitpoint{WaitpointID: w.WaitpointID, WaitpointKey: w.WaitpointKey})
			continue
		}
		if _, err := t.CloseWaitpoint(ctx, w.WaitpointID, "of an earlier attempt"); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(own, func(a, b *flowfabric.PendingWaitpoint) int {
		_, first, _ := parseKey(a.WaitpointKey)
		_, second, _ := parseKey(b.WaitpointKey)
		return first - second
	})
	return own, nil
}

// The key of a waitpoint says whose it is: the attempt's, and which of them.
func makeKey(t *flowfabric.Task, round int) string {
	return fmt.Sprintf("decision %d.%d", t.AttemptIndex(), round)
}

func parseKey(key string) (attempt uint32, round int, ok bool) {
	n, err := fmt.Sscanf(key, "decision %d.%d", &attempt, &round)
	return attempt, round, n == 2 && err == nil
}

// votes is what people have decided.
type votes struct {
	approvedBy []string // different people, in the order they approved
	rejectedBy string   // who rejected first, unless enough had approved before
}

// tally counts the decisions of an execution in the order they were accepted,
// up to the one that decides, or to the deadline.
func tally(ctx context.Context, client *flowfabric.Client, id flowfabric.ExecutionID, deadline flowfabric.Millis) (votes, error) {
	var v votes
	for s, err := range client.Signals(ctx, flowfabric.ListSignalsArgs{ExecutionID: id}) {
		if err != nil {
			return votes{}, err
		}
		decides := s.SourceType == flowfabric.SourceTypeOperator && s.AcceptedAt <= deadline
		switch {
		case decides && s.SignalName == flowfabric.SignalNameRejected:
			v.rejectedBy = s.SourceIdentity
		case decides && s.SignalName == flowfabric.SignalNameApproved && !slices.Contains(v.approvedBy, s.SourceIdentity):
			v.approvedBy = append(v.approvedBy, s.SourceIdentity)
		}
		if v.rejectedBy != "" || len(v.approvedBy) == needed {
			break
		}
	}
	return v, nil
}
