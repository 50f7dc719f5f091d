package flowfabric_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/flowfabric/flowfabric"
)

// waiting waits until an execution is suspended and returns its waitpoints.
func waiting(client *flowfabric.Client, id flowfabric.ExecutionID) []flowfabric.Waitpoint {
	ctx := context.Background()
	settled, err := client.WaitSettled(ctx, id)
	if err != nil || settled.Terminal {
		log.Fatal(settled.FailureReason, err)
	}
	var open []flowfabric.Waitpoint
	for w, err := range client.PendingWaitpoints(ctx, id) {
		if err != nil {
			log.Fatal(err)
		}
		open = append(open, w)
	}
	return open
}

// A handler waits for a person. It holds neither a lease nor a permit meanwhile,
// and is called from the top when the answer has come.
func ExampleSuspendOn() {
	be := open()
	defer be.Close()
	w := newWorker(be)
	flowfabric.Handle(w, "payout", func(ctx context.Context, t *flowfabric.Task, amount int) (string, error) {
		signals, err := t.ResumeSignals(ctx)
		if err != nil {
			return "", err
		}
		if len(signals) == 0 {
			return "", flowfabric.SuspendOn(flowfabric.SuspendOptions{
				Reason:    flowfabric.SuspendWaitingForApproval,
				Condition: flowfabric.AnyOfNames("decision", "approved", "rejected"),
				Timeout:   24 * time.Hour,
			})
		}
		return fmt.Sprintf("%d %s by %s", amount, signals[0].SignalName, signals[0].SourceIdentity), nil
	})
	defer start(w)()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	created, _ := flowfabric.SubmitJSON(ctx, client, "payout", 500)
	asked := waiting(client, created.ExecutionID)[0]
	fmt.Println(asked.WaitpointKey, asked.State, asked.RequiredSignalNames)

	_, err := client.Admin().DeliverApprovalSignal(ctx, flowfabric.DeliverApprovalSignalArgs{
		ExecutionID: created.ExecutionID, LaneID: "default", WaitpointID: asked.WaitpointID,
		SignalName: "approved", IdempotencySuffix: "1", DecidedBy: "alice",
	})
	if err != nil {
		log.Fatal(err)
	}
	ended, _ := client.Wait(ctx, created.ExecutionID)
	snapshot, _ := client.Inspect(ctx, created.ExecutionID)
	fmt.Println(string(ended.Result), snapshot.TotalAttemptCount)
	// Output:
	// decision active [approved rejected]
	// "500 approved by alice" 1
}

// The address is made before the work is handed out, so that an answer that is
// faster than the suspend is not lost.
func ExampleTask_CreatePendingWaitpoint() {
	be := open()
	defer be.Close()
	w := newWorker(be)
	ctx, client := context.Background(), flowfabric.NewClient(be)

	// transcribe is a service elsewhere; this one answers at once.
	transcribe := func(id flowfabric.ExecutionID, to *flowfabric.PendingWaitpoint) error {
		out, err := flowfabric.DeliverSignalJSON(ctx, client, id, to.WaitpointID, to.Token,
			flowfabric.Signal{Name: "done", SourceType: flowfabric.SourceTypeExternalAPI, SourceIdentity: "transcriber"}, "hello world")
		fmt.Println(out.Status, out.Effect)
		return err
	}

	flowfabric.Handle(w, "transcript", func(ctx context.Context, t *flowfabric.Task, _ string) (string, error) {
		signals, err := t.ResumeSignals(ctx)
		if err != nil {
			return "", err
		}
		if len(signals) > 0 {
			return flowfabric.SignalPayload[string](signals[0])
		}
		reply, err := t.CreatePendingWaitpoint(ctx, "reply", time.Hour)
		if err != nil {
			return "", err
		}
		if err := transcribe(t.ExecutionID(), reply); err != nil {
			return "", err
		}
		wait := flowfabric.SuspendOptions{Condition: flowfabric.Single("reply", flowfabric.ByName("done"))}
		return "", flowfabric.SuspendOn(wait.OnPending(reply))
	})
	defer start(w)()
	created, _ := flowfabric.SubmitJSON(ctx, client, "transcript", "talk.ogg")
	ended, _ := client.Wait(ctx, created.ExecutionID)
	fmt.Println(string(ended.Result))
	// Output:
	// accepted buffered_for_pending_waitpoint
	// "hello world"
}

// Two of three reviewers suffice, and whoever answers twice counts once.
func ExampleTask_Suspend() {
	be := open()
	defer be.Close()
	w := newWorker(be)
	defer w.Close()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	created, _ := flowfabric.SubmitJSON(ctx, client, "review", "draft")
	tasks, err := w.ClaimTasks(ctx, 1)
	if err != nil || len(tasks) != 1 {
		log.Fatal(err)
	}
	s, err := tasks[0].Suspend(ctx, flowfabric.SuspendOptions{
		Condition: flowfabric.Count(2, flowfabric.DistinctSources, flowfabric.ByName("ok"), "review"),
	})
	if err != nil {
		log.Fatal(err)
	}
	review, _ := s.Waitpoint("review")
	fmt.Println(s.Handle.Kind, review.WaitpointKey, tasks[0].Complete(ctx, nil) != nil)
	for _, who := range []string{"alice", "alice", "bob"} {
		out, err := client.DeliverSignal(ctx, created.ExecutionID, review.WaitpointID, review.Token, flowfabric.Signal{
			Name: "ok", SourceType: flowfabric.SourceTypeUser, SourceIdentity: who,
		})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(who, out.Status, out.Effect)
	}
	resumed, err := w.ClaimTasks(ctx, 1)
	if err != nil || len(resumed) != 1 {
		log.Fatal(err)
	}
	signals, _ := resumed[0].ResumeSignals(ctx)
	fmt.Println(resumed[0].ClaimKind(), resumed[0].AttemptIndex(), len(signals), resumed[0].Complete(ctx, nil))
	// Output:
	// suspended review true
	// alice accepted appended_to_waitpoint
	// alice accepted appended_to_waitpoint_duplicate
	// bob triggered_resume resume_condition_satisfied
	// resume 0 2 <nil>
}

// A timeout that resumes tells by a signal of the engine that nothing else came.
func ExampleResumeSignal_TimedOut() {
	be := open()
	defer be.Close()
	w := newWorker(be)
	flowfabric.Handle(w, "ask", func(ctx context.Context, t *flowfabric.Task, _ string) (string, error) {
		last, err := t.LastSuspension(ctx)
		if err != nil {
			return "", err
		}
		if last == nil {
			return "", flowfabric.SuspendOn(flowfabric.SuspendOptions{
				Condition: flowfabric.Single("answer", flowfabric.AnySignal()), Continuation: "asked once",
				Timeout: 50 * time.Millisecond, Behavior: flowfabric.TimeoutAutoResume,
			})
		}
		signals, err := t.ResumeSignals(ctx)
		if err != nil {
			return "", err
		}
		return fmt.Sprintln(last.CloseReason, last.ContinuationMetadataPointer, signals[0].TimedOut()), nil
	})
	defer start(w)()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	created, _ := flowfabric.SubmitJSON(ctx, client, "ask", "anybody there?")
	if _, err := client.Wait(ctx, created.ExecutionID); err != nil {
		log.Fatal(err)
	}
	said, _ := flowfabric.ResultJSON[string](ctx, client, created.ExecutionID)
	fmt.Print(*said)
	// Output: timed_out_auto_resume asked once true
}
