package remote

import (
	"context"
	"net/http"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// received notes the store's time of an answer in its tasks, and remembers their
// attempts.
func (b *Backend) received(tasks []flowfabric.ClaimedExecution, a answer) {
	now := a.storeTime()
	for i := range tasks {
		tasks[i].StoreTime = now
		b.indexes.put(tasks[i].AttemptID, tasks[i].AttemptIndex)
	}
}

// ClaimGranted consumes a grant. The lease and attempt are named here, so that a
// repeat is recognised.
func (b *Backend) ClaimGranted(ctx context.Context, a flowfabric.ClaimGrantedArgs) (flowfabric.ClaimedExecution, error) {
	mint(&a.LeaseID, &a.AttemptID)
	if err := rules.ValidateClaimGranted(a); err != nil {
		return flowfabric.ClaimedExecution{}, err
	}
	return b.claim(ctx, post("claim_granted", wire.Path(wire.RouteExecutionClaim, string(a.ExecutionID)), wire.NewClaimExecutionRequest(a)))
}

// IssueGrantAndClaim claims one named execution directly.
func (b *Backend) IssueGrantAndClaim(ctx context.Context, a flowfabric.IssueGrantAndClaimArgs) (flowfabric.ClaimedExecution, error) {
	mint(&a.LeaseID, &a.AttemptID)
	if err := rules.ValidateGrantAndClaim(a); err != nil {
		return flowfabric.ClaimedExecution{}, err
	}
	return b.claim(ctx, post("issue_grant_and_claim", wire.Path(wire.RouteExecutionDirectClaim, string(a.ExecutionID)), wire.NewDirectClaimRequest(a)))
}

func (b *Backend) claim(ctx context.Context, c call) (flowfabric.ClaimedExecution, error) {
	var t wire.Task
	answer, err := b.do(ctx, c.idempotent(), &t)
	if err != nil {
		return flowfabric.ClaimedExecution{}, err
	}
	claimed := []flowfabric.ClaimedExecution{t.Claimed()}
	b.received(claimed, answer)
	return claimed[0], nil
}

func mint(lease *flowfabric.LeaseID, attempt *flowfabric.AttemptID) {
	if *lease == "" {
		*lease = flowfabric.NewLeaseID()
	}
	if *attempt == "" {
		*attempt = flowfabric.NewAttemptID()
	}
}

// IssueReclaimGrant aims at one interrupted execution.
func (b *Backend) IssueReclaimGrant(ctx context.Context, a flowfabric.IssueReclaimGrantArgs) (flowfabric.IssueReclaimGrantResult, error) {
	if err := rules.ValidateIssueReclaimGrant(a); err != nil {
		return flowfabric.IssueReclaimGrantResult{}, err
	}
	var r wire.ReclaimResponse
	_, err := b.do(ctx, post("issue_reclaim_grant", wire.Path(wire.RouteExecutionReclaim, string(a.ExecutionID)), wire.NewReclaimRequest(a)), &r)
	return r.Result(), err
}

// ReleaseGrant reports whether the grant was held and is now released.
func (b *Backend) ReleaseGrant(ctx context.Context, a flowfabric.ReleaseGrantArgs) (bool, error) {
	if err := rules.ValidateReleaseGrant(a); err != nil {
		return false, err
	}
	var r wire.ReleaseResponse
	body := wire.ReleaseGrantRequest{GrantID: a.GrantID, WorkerID: a.WorkerID}
	_, err := b.do(ctx, post("release_grant", wire.Path(wire.RouteExecutionUngrant, string(a.ExecutionID)), body), &r)
	return r.Released(), err
}

// ClaimForWorker asks the server's scheduler for a grant. It is never repeated by
// itself: a lost grant lapses.
func (b *Backend) ClaimForWorker(ctx context.Context, a flowfabric.ClaimForWorkerArgs) (flowfabric.ClaimForWorkerResult, error) {
	const op = "claim_for_worker"
	err := a.WorkerID.Validate()
	if err != nil {
		return flowfabric.ClaimForWorkerResult{}, err
	}
	if a.Namespace, err = oneNamespace(op, a.Namespace, a.Namespaces); err != nil {
		return flowfabric.ClaimForWorkerResult{}, err
	}
	c := post(op, wire.Path(wire.RouteWorkerClaim, string(a.WorkerID)), wire.NewClaimRequest(a))
	c.wait = a.WaitMs
	var g flowfabric.Grant
	answer, err := b.do(ctx, c, &g)
	switch {
	case err != nil:
		return flowfabric.ClaimForWorkerResult{}, err
	case answer.status == http.StatusNoContent:
		return flowfabric.ClaimForWorkerResult{More: answer.more()}, nil
	}
	return flowfabric.ClaimForWorkerResult{Grant: &g, More: answer.more()}, nil
}

// ClaimTasks asks the server's scheduler for tasks. It is never repeated by
// itself: after a lost answer, ListWorkerLeases tells what was claimed.
func (b *Backend) ClaimTasks(ctx context.Context, a flowfabric.ClaimTasksArgs) (flowfabric.ClaimTasksResult, error) {
	const op = "claim_tasks"
	err := a.WorkerID.Validate()
	if err != nil {
		return flowfabric.ClaimTasksResult{}, err
	}
	if a.Namespace, err = oneNamespace(op, a.Namespace, a.Namespaces); err != nil {
		return flowfabric.ClaimTasksResult{}, err
	}
	c := post(op, wire.Path(wire.RouteWorkerTasks, string(a.WorkerID)), wire.NewTasksRequest(a))
	c.wait = a.WaitMs
	var r wire.TasksResponse
	answer, err := b.do(ctx, c, &r)
	if err != nil {
		return flowfabric.ClaimTasksResult{}, err
	}
	out := flowfabric.ClaimTasksResult{Tasks: wire.ClaimedTasks(r.Tasks), More: answer.more()}
	b.received(out.Tasks, answer)
	return out, nil
}
