package rules_test

import (
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// TestSpec03_4_2_WaitpointWithoutToken: a pending waitpoint that the store keeps
// without its token is corrupt; nothing is suspended on it. (Chapter 03, 4.2,
// step 7.)
func TestSpec03_4_2_WaitpointWithoutToken(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	id := flowfabric.WaitpointID(w.uuid())
	args, err := rules.PrepareSuspend(flowfabric.SuspendArgs{
		ExecutionID: task.ExecutionID, Fence: task.Fence, ReasonCode: flowfabric.SuspendWaitingForSignal,
		Waitpoints:      []flowfabric.WaitpointBinding{{WaitpointID: id, UsePending: true}},
		ResumeCondition: flowfabric.Single("review", flowfabric.AnySignal()),
	})
	if err != nil {
		t.Fatal(err)
	}
	stored := &rules.StoredWaitpoint{ExecutionID: task.ExecutionID, Waitpoint: rules.Waitpoint{
		WaitpointID: id, WaitpointKey: "review", AttemptID: task.Fence.AttemptID, State: flowfabric.WaitpointPending, ExpiresAt: w.now + 1000,
	}}
	before := w.vector()
	_, fx, err := rules.Suspend(w.s, rules.SuspendInput{Args: args, Stored: []*rules.StoredWaitpoint{stored}, Ring: testRing}, w.now)
	wantCode(t, err, flowfabric.CodeWaitpointNotTokenBound)
	if fx.Changed || w.vector() != before {
		t.Errorf("the refusal changed the state: %+v, %s", fx, w.vector())
	}
	stored.Token, _ = testRing.Mint(task.ExecutionID, id, "review")
	if _, _, err = rules.Suspend(w.s, rules.SuspendInput{Args: args, Stored: []*rules.StoredWaitpoint{stored}, Ring: testRing}, w.now); err != nil {
		t.Errorf("with its token: %v", err)
	}
}
