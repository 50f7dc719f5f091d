package wire_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

const (
	id      = flowfabric.ExecutionID("{fp:7}:11111111-2222-4333-8444-555555555555")
	otherID = flowfabric.ExecutionID("{fp:7}:11111111-2222-4333-8444-666666666666")
)

// filler fills every field of a value with something of its own.
type filler struct{ n int64 }

func full[T any]() T {
	var v T
	(&filler{}).fill(reflect.ValueOf(&v).Elem())
	return v
}

func (f *filler) fill(v reflect.Value) {
	f.n++
	switch v.Type() {
	case reflect.TypeFor[flowfabric.ExecutionID]():
		v.SetString(string(id))
		return
	case reflect.TypeFor[flowfabric.FlowID]():
		v.SetString("11111111-2222-4333-8444-777777777777")
		return
	case reflect.TypeFor[json.RawMessage]():
		v.SetBytes([]byte(`{"max_replay_count":` + strconv.FormatInt(f.n, 10) + `}`))
		return
	case reflect.TypeFor[flowfabric.ResumeCondition]():
		v.Set(reflect.ValueOf(flowfabric.Single("v"+strconv.FormatInt(f.n, 10), flowfabric.AnySignal())))
		return
	case reflect.TypeFor[flowfabric.ClaimKind]():
		v.SetString(string(flowfabric.ClaimReclaim))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("v" + strconv.FormatInt(f.n, 10))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(f.n)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(f.n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte{byte(f.n), 0, 255})
			return
		}
		f.fill(v.Index(0))
		f.fill(v.Index(1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			f.fill(key)
			f.fill(value)
			v.SetMapIndex(key, value)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				f.fill(v.Field(i))
			}
		}
	default:
		panic("no filling for " + v.Type().String())
	}
}

// sent takes a body over the wire, strictly.
func sent[T any](t *testing.T, body T) T {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	var out T
	if err := wire.Decode(bytes.NewReader(text), wire.LimitBulk, &out); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}

// answered takes an answer over the wire.
func answered[T any](t *testing.T, body T) T {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	var out T
	if err := wire.UnmarshalResponse(text, &out); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}

func same[T any](t *testing.T, name string, want T, got T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

// TestRequestsRoundTrip fills the arguments of every operation, and leaves them
// empty, and looks whether they arrive unchanged.
func TestRequestsRoundTrip(t *testing.T) {
	index := uint32(5)
	t.Run("create", func(t *testing.T) {
		want := full[flowfabric.CreateExecutionArgs]()
		got, err := sent(t, wire.NewCreateExecutionRequest(want)).Args()
		same(t, "full", want, got, err)
		empty := sent(t, wire.NewCreateExecutionRequest(flowfabric.CreateExecutionArgs{}))
		got, err = empty.Args()
		same(t, "empty", flowfabric.CreateExecutionArgs{Payload: []byte{}}, got, err)
		if !empty.CreatorGiven() {
			t.Error("an empty creator was dropped")
		}
	})
	t.Run("complete", func(t *testing.T) {
		want := full[flowfabric.CompleteExecutionArgs]()
		want.Source, want.Fence.AttemptIndex = flowfabric.SourceLeaseHolder, &index
		got, err := sent(t, wire.NewCompleteRequest(want)).Args(id, index)
		same(t, "holder", want, got, err)
		want.Result = []byte{}
		got, err = sent(t, wire.NewCompleteRequest(want)).Args(id, index)
		same(t, "an empty result", want, got, err)
		want.Result = nil
		got, err = sent(t, wire.NewCompleteRequest(want)).Args(id, index)
		same(t, "no result", want, got, err)
		list, refused, err := sent(t, wire.CompletionsRequest{Items: []wire.CompletionItem{wire.NewCompletionItem(want, index)}}).Args("w")
		same(t, "batch", []flowfabric.CompleteExecutionArgs{want}, list, err)
		same(t, "nothing refused", []error(nil), refused, nil)
		want.Source, want.Fence = flowfabric.SourceOperatorOverride, flowfabric.Fence{}
		got, err = sent(t, wire.NewOperatorCompleteRequest(want)).Args(id)
		same(t, "operator", want, got, err)
	})
	t.Run("fail", func(t *testing.T) {
		want := full[flowfabric.FailExecutionArgs]()
		want.Source, want.Fence.AttemptIndex = flowfabric.SourceLeaseHolder, &index
		got, err := sent(t, wire.NewFailRequest(want)).Args(id, index)
		same(t, "holder", want, got, err)
		want.Source, want.Fence = flowfabric.SourceOperatorOverride, flowfabric.Fence{}
		got, err = sent(t, wire.NewOperatorFailRequest(want)).Args(id)
		same(t, "operator", want, got, err)
	})
	t.Run("cancel", func(t *testing.T) {
		want := full[flowfabric.CancelExecutionArgs]()
		want.Source, want.Fence.AttemptIndex = flowfabric.SourceLeaseHolder, &index
		got, err := sent(t, wire.NewAttemptCancelRequest(want)).Args(id, index)
		same(t, "holder", want, got, err)
		want.Source, want.Fence = flowfabric.SourceOperatorOverride, flowfabric.Fence{}
		got, err = sent(t, wire.NewCancelRequest(want)).Args(id)
		same(t, "operator", want, got, err)
	})
	t.Run("delay", func(t *testing.T) {
		want := full[flowfabric.DelayExecutionArgs]()
		want.Source, want.Fence.AttemptIndex = flowfabric.SourceLeaseHolder, &index
		got, err := sent(t, wire.NewDelayRequest(want)).Args(id, index)
		same(t, "holder", want, got, err)
		want.Source, want.Fence = flowfabric.SourceOperatorOverride, flowfabric.Fence{}
		got, err = sent(t, wire.NewOperatorDelayRequest(want)).Args(id)
		same(t, "operator", want, got, err)
	})
	t.Run("progress", func(t *testing.T) {
		want := full[flowfabric.UpdateProgressArgs]()
		want.Fence.AttemptIndex = &index
		got, err := sent(t, wire.NewProgressRequest(want)).Args(id, index)
		same(t, "full", want, got, err)
	})
	t.Run("replay", func(t *testing.T) {
		want := full[flowfabric.ReplayExecutionArgs]()
		got, err := sent(t, wire.NewReplayRequest(want)).Args(id)
		same(t, "full", want, got, err)
		got, err = sent(t, wire.NewReplayRequest(flowfabric.ReplayExecutionArgs{})).Args(id)
		same(t, "empty", flowfabric.ReplayExecutionArgs{ExecutionID: id}, got, err)
	})
	t.Run("renew", func(t *testing.T) {
		want := full[flowfabric.RenewLeaseArgs]()
		want.Fence.AttemptIndex = &index
		got, err := sent(t, wire.NewRenewRequest(want)).Args(id, index)
		same(t, "full", want, got, err)
		list, refused, err := sent(t, wire.NewRenewalsRequest([]flowfabric.RenewLeaseArgs{want, {ExecutionID: id}})).Args("w")
		same(t, "batch", []flowfabric.RenewLeaseArgs{want, {ExecutionID: id}}, list, err)
		same(t, "nothing refused", []error(nil), refused, nil)
	})
	t.Run("revoke", func(t *testing.T) {
		want := full[flowfabric.RevokeLeaseArgs]()
		got, err := sent(t, wire.NewRevokeLeaseRequest(want)).Args(id)
		same(t, "full", want, got, err)
		got, err = sent(t, wire.NewRevokeLeaseRequest(flowfabric.RevokeLeaseArgs{})).Args(id)
		same(t, "empty", flowfabric.RevokeLeaseArgs{ExecutionID: id}, got, err)
	})
	t.Run("claim", func(t *testing.T) {
		want := full[flowfabric.ClaimGrantedArgs]()
		got, err := sent(t, wire.NewClaimExecutionRequest(want)).Args(id)
		same(t, "full", want, got, err)
	})
	t.Run("direct claim", func(t *testing.T) {
		want := full[flowfabric.IssueGrantAndClaimArgs]()
		got, err := sent(t, wire.NewDirectClaimRequest(want)).Args(id)
		same(t, "full", want, got, err)
		got, err = sent(t, wire.NewDirectClaimRequest(flowfabric.IssueGrantAndClaimArgs{})).Args(id)
		same(t, "empty", flowfabric.IssueGrantAndClaimArgs{ExecutionID: id, Capabilities: []string{}, IssuedBy: flowfabric.IssuedByDirect}, got, err)
	})
	t.Run("reclaim", func(t *testing.T) {
		want := full[flowfabric.IssueReclaimGrantArgs]()
		got, err := sent(t, wire.NewReclaimRequest(want)).Args(id)
		same(t, "full", want, got, err)
		want.Capabilities = nil
		got, err = sent(t, wire.NewReclaimRequest(want)).Args(id)
		same(t, "those of the registration", want, got, err)
		want.Capabilities = []string{}
		got, err = sent(t, wire.NewReclaimRequest(want)).Args(id)
		same(t, "none", want, got, err)
	})
	t.Run("claim for worker", func(t *testing.T) {
		want := full[flowfabric.ClaimForWorkerArgs]()
		want.Namespaces = nil
		got, err := sent(t, wire.NewClaimRequest(want)).Args(want.WorkerID)
		same(t, "full", want, got, err)
	})
	t.Run("tasks", func(t *testing.T) {
		want := full[flowfabric.ClaimTasksArgs]()
		want.Namespaces = nil
		got, err := sent(t, wire.NewTasksRequest(want)).Args(want.WorkerID)
		same(t, "full", want, got, err)
		want.MaxTasks, want.GrantTTLMs = 0, 0
		got, err = sent(t, wire.NewTasksRequest(want)).Args(want.WorkerID)
		want.GrantTTLMs = flowfabric.DefaultGrantTTLMs
		same(t, "no tasks", want, got, err)
	})
	t.Run("register", func(t *testing.T) {
		want := full[flowfabric.RegisterWorkerArgs]()
		got, err := sent(t, wire.NewRegisterWorkerRequest(want)).Args(want.WorkerInstanceID)
		same(t, "full", want, got, err)
	})
	t.Run("lane", func(t *testing.T) {
		want := full[flowfabric.UpdateLaneArgs]()
		got, err := sent(t, wire.NewUpdateLaneRequest(want)).Args(want.LaneID)
		same(t, "full", want, got, err)
		got, err = sent(t, wire.NewUpdateLaneRequest(flowfabric.UpdateLaneArgs{})).Args("l")
		same(t, "empty", flowfabric.UpdateLaneArgs{LaneID: "l"}, got, err)
		got, err = sent(t, wire.NewUpdateLaneRequest(flowfabric.UpdateLaneArgs{TenantWeights: map[flowfabric.Namespace]int{}})).Args("l")
		same(t, "no weights", flowfabric.UpdateLaneArgs{LaneID: "l", TenantWeights: map[flowfabric.Namespace]int{}}, got, err)
		state := full[flowfabric.SetLaneStateArgs]()
		gotState, err := sent(t, wire.NewSetLaneStateRequest(state)).Args(state.LaneID)
		same(t, "state", state, gotState, err)
	})
}

func TestResultsRoundTrip(t *testing.T) {
	create := full[flowfabric.CreateExecutionResult]()
	create.Outcome, create.SameSpec = flowfabric.OutcomeCreated, false
	same(t, "created", create, answered(t, wire.NewCreateExecutionResponse(create)).Result(), nil)
	duplicate := flowfabric.CreateExecutionResult{Outcome: flowfabric.OutcomeDuplicate, ExecutionID: id}
	same(t, "duplicate", duplicate, answered(t, wire.NewCreateExecutionResponse(duplicate)).Result(), nil)
	items := []flowfabric.Item[flowfabric.CreateExecutionResult]{{Result: create}, {Result: duplicate}}
	same(t, "batch of creates", items, answered(t, wire.NewCreateExecutionsResponse(items)).Results(), nil)

	wait := full[flowfabric.WaitExecutionResult]()
	same(t, "wait", wait, answered(t, wire.NewWaitExecutionResponse(wait)).Result(), nil)
	same(t, "empty wait", flowfabric.WaitExecutionResult{Result: []byte{}}, answered(t, wire.NewWaitExecutionResponse(flowfabric.WaitExecutionResult{Result: []byte{}})).Result(), nil)
	context := full[flowfabric.ExecutionContext]()
	same(t, "context", context, answered(t, wire.NewContextResponse(context)).Result(), nil)
	cancel := flowfabric.CancelExecutionResult{Outcome: flowfabric.CancelCancelled, PreviousPhase: "p", PublicState: "s", Replayed: true}
	same(t, "cancelled", cancel, answered(t, wire.NewCancelResponse(id, cancel)).Result(), nil)
	already := flowfabric.CancelExecutionResult{Outcome: flowfabric.CancelAlreadyCancelled, CancellationReason: "r", CancelledBy: "b"}
	same(t, "already cancelled", already, answered(t, wire.NewCancelResponse(id, already)).Result(), nil)
	replay := full[flowfabric.ReplayExecutionResult]()
	same(t, "replay", replay, answered(t, wire.NewReplayResponse(replay)).Result(), nil)
	priority := full[flowfabric.ChangePriorityResult]()
	same(t, "priority", priority, answered(t, wire.NewPriorityResponse(priority)).Result(), nil)
	complete := full[flowfabric.CompleteExecutionResult]()
	same(t, "complete", complete, answered(t, wire.NewCompleteResponse(complete)).Result(), nil)
	fail := full[flowfabric.FailExecutionResult]()
	fail.Outcome = flowfabric.FailRetryScheduled
	same(t, "fail", fail, answered(t, wire.NewFailResponse(fail)).Result(), nil)
	same(t, "fail for good", flowfabric.FailExecutionResult{Outcome: flowfabric.FailTerminal, Replayed: true},
		answered(t, wire.NewFailResponse(flowfabric.FailExecutionResult{Outcome: flowfabric.FailTerminal, Replayed: true})).Result(), nil)
	delay := full[flowfabric.DelayExecutionResult]()
	same(t, "delay", delay, answered(t, wire.NewDelayResponse(delay)).Result(), nil)
	renew := full[flowfabric.RenewLeaseResult]()
	same(t, "renew", renew, answered(t, wire.NewRenewResponse(renew)).Result(), nil)
	revoke := full[flowfabric.RevokeLeaseResult]()
	same(t, "revoke", revoke, answered(t, wire.NewRevokeLeaseResponse(revoke)).Result(), nil)
	task := full[flowfabric.ClaimedExecution]()
	task.StoreTime, task.Fence.AttemptIndex = 0, nil
	same(t, "task", task, answered(t, wire.NewTask(task)).Claimed(), nil)
	for _, kind := range []flowfabric.ClaimKind{flowfabric.ClaimNew, flowfabric.ClaimResume} {
		if got := answered(t, wire.NewTask(flowfabric.ClaimedExecution{ClaimKind: kind})).Claimed(); got.ClaimKind != kind {
			t.Errorf("kind %s became %s", kind, got.ClaimKind)
		}
	}
	grant := full[flowfabric.IssueReclaimGrantResult]()
	grant.Outcome = flowfabric.ReclaimCapExceeded
	same(t, "reclaim", grant, answered(t, wire.NewReclaimResponse(grant)).Result(), nil)
	register := full[flowfabric.RegisterWorkerResult]()
	same(t, "register", register, answered(t, wire.NewRegisterWorkerResponse(register)).Result(), nil)
	for _, beat := range []flowfabric.HeartbeatWorkerResult{{}, {Registered: true, NextExpiryAt: 5}} {
		same(t, "heartbeat", beat, answered(t, wire.NewHeartbeatResponse(beat)).Result(), nil)
	}
	for _, mark := range []flowfabric.MarkWorkerDeadResult{{RevokedLeases: 2}, {Marked: true}} {
		same(t, "mark dead", mark, answered(t, wire.NewRemoveWorkerResponse(mark)).Result(), nil)
	}
	lane := full[flowfabric.SetLaneStateResult]()
	same(t, "lane state", lane, answered(t, wire.NewSetLaneStateResponse(lane, flowfabric.LaneStatus{})).Result(), nil)
	attempt := full[flowfabric.Attempt]()
	same(t, "attempt", attempt, answered(t, wire.NewAttempt(attempt)).Record(), nil)
	event := full[flowfabric.Event]()
	event.EventID, event.Partition, event.Seq, event.Cursor, event.Feed = "3-9", 3, 9, "", flowfabric.FeedLeases
	event.Outcome, event.PublicState, event.ReplayCount, event.Cause, event.FailureCategory, event.FailureReason, event.ResultSize = "", "", nil, "", "", "", nil
	event.SignalID, event.SignalName, event.WaitpointID, event.SourceIdentity, event.Effect = "", "", "", "", ""
	same(t, "lease event", event, answered(t, wire.NewLeaseEvent(event)).Event(), nil)
	feed := full[flowfabric.ReadFeedResult]()
	for i := range feed.Events {
		feed.Events[i].EventID, feed.Events[i].Partition, feed.Events[i].Seq = "3-9", 3, 9
	}
	same(t, "feed", feed, answered(t, wire.NewFeedResponse(feed)).Result(), nil)
}

// TestBatchItems carries an error of one item among results.
func TestBatchItems(t *testing.T) {
	stale := flowfabric.NewError(flowfabric.CodeStaleLease, "another lease").With("lease_epoch", int64(4))
	args := []flowfabric.CompleteExecutionArgs{{ExecutionID: id}, {ExecutionID: otherID}}
	completions := []flowfabric.Item[flowfabric.CompleteExecutionResult]{{Err: stale}, {Result: flowfabric.CompleteExecutionResult{PublicState: "completed", Replayed: true}}}
	sentBack := answered(t, wire.NewCompletionsResponse(args, completions))
	got := sentBack.Results()
	if sentBack.Items[0].ExecutionID != id || sentBack.Items[0].Problem.Status != 409 || sentBack.Items[0].Outcome != "" || sentBack.Items[1].Problem != nil {
		t.Errorf("%+v", sentBack)
	}
	e := flowfabric.AsError(got[0].Err)
	if e == nil || e.Code != stale.Code || e.Class != stale.Class || !cmp.Equal(e.Details, stale.Details) || got[1] != completions[1] {
		t.Errorf("%+v", got)
	}
	renewals := wire.NewRenewalsResponse([]flowfabric.RenewLeaseArgs{{ExecutionID: id}, {ExecutionID: otherID}},
		[]flowfabric.Item[flowfabric.RenewLeaseResult]{{Err: stale}, {Result: flowfabric.RenewLeaseResult{LeaseEpoch: 2, ExpiresAt: 3}}})
	back := answered(t, renewals).Results()
	if flowfabric.CodeOf(back[0].Err) != flowfabric.CodeStaleLease || back[1].Result.ExpiresAt != 3 || back[1].Err != nil {
		t.Errorf("%+v", back)
	}
	creates := wire.NewCreateExecutionsResponse([]flowfabric.Item[flowfabric.CreateExecutionResult]{{Err: stale}})
	if results := answered(t, creates).Results(); flowfabric.CodeOf(results[0].Err) != flowfabric.CodeStaleLease {
		t.Errorf("%+v", results)
	}
}

// TestArgsRefuse lists what the contract's arguments can't express.
func TestArgsRefuse(t *testing.T) {
	zero, seven, other := int64(0), uint32(7), otherID
	key, empty, bad, text := "{fp:8}", "", flowfabric.ExecutionID("nope"), "x"
	lane, worker, instance := flowfabric.LaneID("b"), flowfabric.WorkerID("v"), flowfabric.WorkerInstanceID("j")
	flow := flowfabric.FlowID("f")
	fenced := wire.AttemptRef{AttemptIndex: &seven}
	for name, tc := range map[string]struct {
		err  error
		code flowfabric.Code
	}{
		"another execution":       {second(wire.CancelRequest{ExecutionRef: wire.ExecutionRef{ExecutionID: &other}}.Args(id)), flowfabric.CodeIDMismatch},
		"no execution id":         {second(wire.CancelRequest{ExecutionRef: wire.ExecutionRef{ExecutionID: &bad}}.Args(id)), flowfabric.CodeInvalidExecutionID},
		"another attempt":         {second(wire.FailRequest{AttemptRef: fenced}.Args(id, 6)), flowfabric.CodeIDMismatch},
		"attempt of another":      {second(wire.RenewRequest{AttemptRef: wire.AttemptRef{ExecutionRef: wire.ExecutionRef{ExecutionID: &other}}}.Args(id, 6)), flowfabric.CodeIDMismatch},
		"another grant":           {second(wire.ClaimExecutionRequest{Grant: wire.GrantRef{ExecutionID: &other}}.Args(id)), flowfabric.CodeIDMismatch},
		"another partition":       {second(wire.ClaimExecutionRequest{Grant: wire.GrantRef{PartitionKey: &key}}.Args(id)), flowfabric.CodeInvalidPartitionKey},
		"a grant of no kind":      {second(wire.ClaimExecutionRequest{Grant: wire.GrantRef{Kind: ptr(flowfabric.ClaimKind("zz"))}}.Args(id)), flowfabric.CodeInvalidInput},
		"another lane":            {second(wire.UpdateLaneRequest{LaneRef: wire.LaneRef{LaneID: &lane}}.Args("a")), flowfabric.CodeIDMismatch},
		"another worker":          {third(wire.RenewalsRequest{WorkerID: &worker}.Args("w")), flowfabric.CodeIDMismatch},
		"another worker complete": {third(wire.CompletionsRequest{WorkerID: &worker}.Args("w")), flowfabric.CodeIDMismatch},
		"another worker claim":    {second(wire.ClaimRequest{Selection: wire.Selection{WorkerID: &worker, LaneID: &lane}}.Args("w")), flowfabric.CodeIDMismatch},
		"another instance":        {second(wire.HeartbeatRequest{InstanceRef: wire.InstanceRef{WorkerInstanceID: &instance}}.Args("i")), flowfabric.CodeIDMismatch},
		"lease ttl 0":             {second(wire.RenewRequest{LeaseTTLMs: &zero}.Args(id, 1)), flowfabric.CodeInvalidInput},
		"lease ttl 0 of an item":  {refusal(wire.RenewalsRequest{Items: []wire.RenewalItem{{}, {LeaseTTLMs: &zero}}}.Args("w")), flowfabric.CodeInvalidInput},
		"grant ttl 0":             {second(wire.TasksRequest{Selection: wire.Selection{LaneID: &lane, GrantTTLMs: &zero}}.Args("w")), flowfabric.CodeInvalidInput},
		"liveness ttl 0":          {second(wire.RegisterWorkerRequest{LivenessTTLMs: &zero}.Args("i")), flowfabric.CodeInvalidInput},
		"delay until 0":           {second(wire.DelayRequest{DelayUntil: (*flowfabric.Millis)(&zero)}.Args(id, 1)), flowfabric.CodeInvalidInput},
		"operator delay until 0":  {second(wire.OperatorDelayRequest{DelayUntil: (*flowfabric.Millis)(&zero)}.Args(id)), flowfabric.CodeInvalidInput},
		"empty revoke reason":     {second(wire.RevokeLeaseRequest{Reason: &empty}.Args(id)), flowfabric.CodeInvalidInput},
		"no lanes":                {second(wire.TasksRequest{}.Args("w")), flowfabric.CodeInvalidInput},
		"no lanes either":         {second(wire.ClaimRequest{Selection: wire.Selection{Lanes: []flowfabric.LaneID{}}}.Args("w")), flowfabric.CodeInvalidInput},
		"lane and lanes":          {second(wire.ClaimRequest{Selection: wire.Selection{LaneID: &lane, Lanes: []flowfabric.LaneID{"b"}}}.Args("w")), flowfabric.CodeInvalidInput},
		"empty namespace":         {second(wire.TasksRequest{Selection: wire.Selection{LaneID: &lane, Namespace: (*flowfabric.Namespace)(&empty)}}.Args("w")), flowfabric.CodeInvalidInput},
		"replay scope":            {second(wire.ReplayRequest{Scope: &text}.Args(id)), flowfabric.CodeInvalidInput},
		"malformed id of a new":   {second(wire.CreateExecutionRequest{ExecutionID: &bad}.Args()), flowfabric.CodeInvalidExecutionID},
		"member of a flow":        {second(wire.CreateExecutionRequest{FlowID: &flow}.Args()), flowfabric.CodeUnsupportedOperation},
	} {
		if flowfabric.CodeOf(tc.err) != tc.code {
			t.Errorf("%s: got %v, want %s", name, tc.err, tc.code)
		}
	}
	same := id
	matching := wire.PartitionKey(7)
	if _, err := (wire.ClaimExecutionRequest{ExecutionRef: wire.ExecutionRef{ExecutionID: &same}, Grant: wire.GrantRef{ExecutionID: &same, PartitionKey: &matching}}).Args(id); err != nil {
		t.Errorf("matching ids: %v", err)
	}
	args, err := wire.DirectClaimRequest{OperatorOverride: ptr(true)}.Args(id)
	if err != nil || args.IssuedBy != flowfabric.IssuedByOperator {
		t.Errorf("override: %+v, %v", args, err)
	}
}

func ptr[T any](v T) *T { return &v }

func second[R any](_ R, err error) error { return err }

func third[R, S any](_ R, _ S, err error) error { return err }

// refusal is the fault of a batch's second item, when it is the only one.
func refusal[R any](_ R, refused []error, err error) error {
	if err != nil || len(refused) != 2 || refused[0] != nil {
		return fmt.Errorf("refused %v, and all: %w", refused, err)
	}
	return refused[1]
}

// TestGrantIsTakenAsReceived presents the answers of claim and reclaim to E/claim.
func TestGrantIsTakenAsReceived(t *testing.T) {
	grant := flowfabric.Grant{ExecutionID: id, PartitionKey: "{fp:7}", GrantID: "g", ExpiresAt: 5, LaneID: "l", Kind: flowfabric.ClaimResume}
	text, _ := json.Marshal(grant)
	for _, g := range []string{string(text), `{"outcome":"granted",` + string(text[1:])} {
		var r wire.ClaimExecutionRequest
		if err := wire.Unmarshal([]byte(`{"grant":`+g+`,"worker_id":"w","worker_instance_id":"i","lease_ttl_ms":1000}`), &r); err != nil {
			t.Fatal(err)
		}
		if a, err := r.Args(id); err != nil || a.GrantID != "g" || a.LaneID != "l" {
			t.Errorf("%+v, %v", a, err)
		}
	}
}

func TestPath(t *testing.T) {
	for _, tc := range []struct {
		pattern string
		params  []string
		want    string
	}{
		{wire.RouteExecutions, nil, "/v1/executions"},
		{wire.RouteAttemptFail, []string{string(id), "3"}, "/v1/executions/%7Bfp:7%7D:11111111-2222-4333-8444-555555555555/attempts/3/fail"},
		{wire.RouteLaneState, []string{"a b/c?d#e%f;g"}, "/v1/lanes/a%20b%2Fc%3Fd%23e%25f%3Bg/state"},
		{wire.RouteLane, []string{".."}, "/v1/lanes/%2E%2E"},
		{wire.RouteLane, []string{"."}, "/v1/lanes/%2E"},
	} {
		got := wire.Path(tc.pattern, tc.params...)
		if got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
		u, err := url.Parse("http://x" + got)
		if err != nil || u.EscapedPath() != tc.want {
			t.Errorf("%s is sent as %s, %v", got, u.EscapedPath(), err)
		}
	}
	for _, params := range [][]string{nil, {"a", "b"}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d parameters were taken", len(params))
				}
			}()
			wire.Path(wire.RouteLane, params...)
		}()
	}
}
