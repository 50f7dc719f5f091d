package backendtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/flowfabric/flowfabric"
)

// RunLinearizability lets several clients claim, renew, complete, fail, revoke
// and replay one execution at once, with the clock jumping over leases, and
// checks that what they were told could have happened one after the other:
// exactly one winner of every claim, and every late write fenced off.
func RunLinearizability(t *testing.T, open func(t *testing.T) Harness) {
	for seed := range 12 {
		t.Run(fmt.Sprintf("history %d", seed), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, open(t))
			h := &ownershipHistory{s: s, id: s.create(withPolicy(
				`{"max_replay_count":1000,"retry_policy":{"max_retries":1000000,"backoff":{"type":"fixed","delay_ms":0}}}`))}
			h.run(uint64(seed))
			res, info := porcupine.CheckOperationsVerbose(ownershipModel(), h.ops, 20*time.Second)
			if res == porcupine.Ok {
				return
			}
			explain(s, info, h.ops)
			t.Fatalf("the history is not linearizable: %s", res)
		})
	}
	runWaitHistories(t, open)
}

// explain logs the longest order that was possible, and what does not fit it.
func explain(s *scene, info porcupine.LinearizationInfo, ops []porcupine.Operation) {
	s.t.Helper()
	log := func(op porcupine.Operation) {
		s.t.Log(op.ClientId, op.Call, op.Return, describeOperation(op.Input, op.Output))
	}
	for _, partition := range info.PartialLinearizationsOperations() {
		if len(partition) == 0 {
			continue
		}
		longest := slices.MaxFunc(partition, func(a, b []porcupine.Operation) int { return len(a) - len(b) })
		for _, op := range longest {
			log(op)
		}
		s.t.Log("does not go on with any of:")
		for _, op := range ops {
			if !slices.Contains(longest, op) {
				log(op)
			}
		}
	}
}

// ownershipInput is one call of a client.
type ownershipInput struct {
	op    string
	epoch uint64 // of the fence
}

// ownershipOutput is what the client was told.
type ownershipOutput struct {
	code     flowfabric.Code
	epoch    uint64
	replayed bool
	label    string
}

// ownership is the model: who owns the execution.
type ownership struct {
	phase        string // waiting, leased, overdue, expired, revoked, ended
	epoch        uint64
	receipt      string
	receiptEpoch uint64
}

func ownershipModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return ownership{phase: "waiting"} },
		Step: func(state, input, output any) (bool, any) {
			want, next := state.(ownership).step(input.(ownershipInput))
			return want == output.(ownershipOutput), next
		},
		DescribeOperation: describeOperation,
	}
}

func describeOperation(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) }

func (o ownership) step(in ownershipInput) (ownershipOutput, ownership) {
	refuse := func(code flowfabric.Code) (ownershipOutput, ownership) { return ownershipOutput{code: code}, o }
	switch in.op {
	case "claim":
		switch o.phase {
		case "leased":
			return refuse(flowfabric.CodeLeaseConflict)
		case "ended":
			return refuse(flowfabric.CodeExecutionNotEligible)
		}
		o.phase, o.epoch = "leased", o.epoch+1
		return ownershipOutput{epoch: o.epoch}, o
	case "advance":
		if o.phase == "leased" {
			o.phase = "overdue"
		}
		return ownershipOutput{}, o
	case "revoke":
		switch o.phase {
		case "waiting", "ended":
			return refuse(flowfabric.CodeExecutionNotActive)
		case "revoked":
			return ownershipOutput{label: "already_revoked"}, o
		case "leased":
			o.phase = "revoked"
			return ownershipOutput{epoch: o.epoch}, o
		}
		o.phase = "expired"
		return ownershipOutput{label: "already_expired"}, o
	case "replay":
		if o.phase != "ended" {
			return refuse(flowfabric.CodeExecutionNotTerminal)
		}
		o.phase = "waiting"
		return ownershipOutput{}, o
	case "describe":
		switch o.phase {
		case "leased", "overdue":
			return ownershipOutput{label: "leased", epoch: o.epoch}, o
		}
		return ownershipOutput{label: o.phase}, o
	}
	// renew, complete, fail
	if in.op != "renew" && o.receipt == in.op && o.receiptEpoch == in.epoch {
		return ownershipOutput{replayed: true}, o
	}
	switch o.phase {
	case "waiting", "ended":
		return refuse(flowfabric.CodeExecutionNotActive)
	case "revoked":
		return refuse(flowfabric.CodeLeaseRevoked)
	case "overdue", "expired":
		o.phase = "expired"
		return ownershipOutput{code: flowfabric.CodeLeaseExpired}, o
	}
	if in.epoch != o.epoch {
		return refuse(flowfabric.CodeStaleLease)
	}
	switch in.op {
	case "complete":
		o.phase, o.receipt, o.receiptEpoch = "ended", "complete", o.epoch
	case "fail":
		o.phase, o.receipt, o.receiptEpoch = "waiting", "fail", o.epoch
	}
	return ownershipOutput{}, o
}

// ownershipHistory records what clients of one execution were told.
type ownershipHistory struct {
	s  *scene
	id flowfabric.ExecutionID

	// still is held for writing while the clock jumps: a step takes the time once,
	// at its begin, so that a jump in its midst would have no one place in the
	// order.
	still sync.RWMutex

	mu     sync.Mutex
	ops    []porcupine.Operation
	fences []flowfabric.Fence
}

func (h *ownershipHistory) run(seed uint64) {
	const clients, calls = 4, 25
	start := time.Now()
	var wg sync.WaitGroup
	for c := range clients {
		rnd := rand.New(rand.NewPCG(seed, uint64(c)))
		wg.Go(func() {
			for range calls {
				in, call := h.choose(rnd, c)
				lock, unlock := h.still.RLock, h.still.RUnlock
				if in.op == "advance" {
					lock, unlock = h.still.Lock, h.still.Unlock
				}
				lock()
				began := time.Since(start).Nanoseconds()
				out := call()
				ended := time.Since(start).Nanoseconds()
				unlock()
				h.mu.Lock()
				h.ops = append(h.ops, porcupine.Operation{ClientId: c, Input: in, Call: began, Output: out, Return: ended})
				h.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func (h *ownershipHistory) choose(rnd *rand.Rand, client int) (ownershipInput, func() ownershipOutput) {
	s := h.s
	f, known := h.fence(rnd)
	n := rnd.IntN(100)
	switch {
	case n < 25 || !known:
		return ownershipInput{op: "claim"}, func() ownershipOutput {
			task, err := s.tryClaim(h.id, worker{id: "pool", instance: flowfabric.WorkerInstanceID(fmt.Sprint("i-", client))})
			if err == nil {
				h.mu.Lock()
				h.fences = append(h.fences, task.Fence)
				h.mu.Unlock()
			}
			return ownershipOutput{code: flowfabric.CodeOf(err), epoch: task.Fence.LeaseEpoch}
		}
	case n < 40:
		return ownershipInput{op: "renew", epoch: f.LeaseEpoch}, func() ownershipOutput {
			_, err := flowfabric.RenewLease(s.ctx, s.Backend, flowfabric.RenewLeaseArgs{ExecutionID: h.id, Fence: f, LeaseTTLMs: testTTL})
			return ownershipOutput{code: flowfabric.CodeOf(err)}
		}
	case n < 55:
		return ownershipInput{op: "complete", epoch: f.LeaseEpoch}, func() ownershipOutput {
			got, err := s.tryComplete(h.id, f)
			return ownershipOutput{code: flowfabric.CodeOf(err), replayed: got.Replayed}
		}
	case n < 68:
		return ownershipInput{op: "fail", epoch: f.LeaseEpoch}, func() ownershipOutput {
			got, err := s.Backend.FailExecution(s.ctx, flowfabric.FailExecutionArgs{ExecutionID: h.id, Fence: f, Reason: "r"})
			return ownershipOutput{code: flowfabric.CodeOf(err), replayed: got.Replayed}
		}
	case n < 76:
		return ownershipInput{op: "revoke"}, func() ownershipOutput {
			got, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: h.id})
			return ownershipOutput{code: flowfabric.CodeOf(err), epoch: got.LeaseEpoch, label: got.Reason}
		}
	case n < 84:
		return ownershipInput{op: "replay"}, func() ownershipOutput {
			_, err := s.Backend.ReplayExecution(s.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: h.id})
			return ownershipOutput{code: flowfabric.CodeOf(err)}
		}
	case n < 90 && s.Clock != nil:
		return ownershipInput{op: "advance"}, func() ownershipOutput {
			s.Clock.Advance(time.Duration(testTTL) * time.Millisecond)
			return ownershipOutput{}
		}
	}
	return ownershipInput{op: "describe"}, func() ownershipOutput {
		d, err := s.Backend.DescribeExecution(s.ctx, h.id)
		if err != nil || d == nil {
			return ownershipOutput{code: flowfabric.CodeOf(err), label: "unreadable"}
		}
		return described(d)
	}
}

func described(d *flowfabric.ExecutionSnapshot) ownershipOutput {
	switch {
	case d.LifecyclePhase == flowfabric.PhaseRunnable:
		return ownershipOutput{label: "waiting"}
	case d.LifecyclePhase == flowfabric.PhaseTerminal:
		return ownershipOutput{label: "ended"}
	case d.OwnershipState == flowfabric.OwnershipLeaseExpired:
		return ownershipOutput{label: "expired"}
	case d.OwnershipState == flowfabric.OwnershipLeaseRevoked:
		return ownershipOutput{label: "revoked"}
	}
	return ownershipOutput{label: "leased", epoch: d.CurrentLease.LeaseEpoch}
}

// fence returns a fence some client once held, preferring the latest.
func (h *ownershipHistory) fence(rnd *rand.Rand) (flowfabric.Fence, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.fences) == 0 {
		return flowfabric.Fence{}, false
	}
	if rnd.IntN(4) > 0 {
		return h.fences[len(h.fences)-1], true
	}
	return h.fences[rnd.IntN(len(h.fences))], true
}
