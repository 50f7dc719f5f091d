// Package crashtest kills real processes: servers and workers, under load, at
// any instant, and cuts the connections between them. Its tests then compare
// what was acknowledged with what the store holds.
//
// This file is what the tests and their helper program, the worker in folder
// worker, say to each other.
package crashtest

import (
	"encoding/json"

	"github.com/flowfabric/flowfabric"
)

// Where the load lives.
const (
	Namespace = flowfabric.Namespace("crash")
	Kind      = "work"
)

// Lanes are the lanes of the load.
func Lanes() []flowfabric.LaneID { return []flowfabric.LaneID{"default", "side"} }

// Act is what a worker does with an execution.
type Act string

// The acts. Those that end or give up the first attempt complete the execution
// at the next claim.
const (
	ActComplete Act = "complete"
	// ActLate completes past the SDK, whatever has become of the lease.
	ActLate Act = "late"
	// ActFail fails the first attempt for good, ActRetry so that it is retried.
	ActFail  Act = "fail"
	ActRetry Act = "retry"
	// ActDelay gives a freshly claimed execution back for a while.
	ActDelay Act = "delay"
	// The three that wait for signals, as Plan.Wait and Plan.Waits say, and then
	// complete: by SuspendOn; by Task.Suspend without an idempotency key; and on a
	// waitpoint made before, so that signals come before the suspend.
	ActWait        Act = "wait"
	ActWaitBare    Act = "wait_bare"
	ActWaitPending Act = "wait_pending"
)

// Wait is the condition that a plan waits for. The keys of its waitpoints begin
// with it, so that the sender of signals knows what to send.
type Wait string

// The conditions: one signal, two of different names, two sources.
const (
	WaitOne    Wait = "one"
	WaitBoth   Wait = "both"
	WaitQuorum Wait = "quorum"
)

// Waits are all conditions.
func Waits() []Wait { return []Wait{WaitOne, WaitBoth, WaitQuorum} }

// Condition is what a wait on the key is for.
func (w Wait) Condition(key string) flowfabric.ResumeCondition {
	switch w {
	case WaitBoth:
		return flowfabric.AllOfNames(key, "left", "right")
	case WaitQuorum:
		return flowfabric.Count(2, flowfabric.DistinctSources, flowfabric.ByName("vote"), key)
	}
	return flowfabric.Single(key, flowfabric.ByName("go"))
}

// Signals are those that meet the condition, in their order.
func (w Wait) Signals() []flowfabric.Signal {
	switch w {
	case WaitBoth:
		return []flowfabric.Signal{{Name: "left", SourceIdentity: "alice"}, {Name: "right", SourceIdentity: "alice"}}
	case WaitQuorum:
		return []flowfabric.Signal{{Name: "vote", SourceIdentity: "alice"}, {Name: "vote", SourceIdentity: "bob"}}
	}
	return []flowfabric.Signal{{Name: "go", SourceIdentity: "alice"}}
}

// Point is an instant of a wait at which a mortal worker kills itself.
type Point string

// The points, in the order of a wait.
const (
	PointCreated    Point = "created"    // the pending waitpoint is there
	PointBuffered   Point = "buffered"   // it has a signal
	PointSending    Point = "sending"    // the suspend is on its way
	PointUnheard    Point = "unheard"    // it is carried out, the worker has not heard of it
	PointSuspended  Point = "suspended"  // the worker has heard of it
	PointSatisfied  Point = "satisfied"  // what it was to wait for had come before
	PointResumed    Point = "resumed"    // claimed again, and nothing done yet
	PointCompleting Point = "completing" // all is done but the completion
)

// Plan is the input of an execution: what its worker is to do.
type Plan struct {
	Serial int   `json:"serial"`
	Act    Act   `json:"act"`
	WorkMs int64 `json:"work_ms"` // how long the work takes
	Pad    int   `json:"pad"`     // bytes to add to the result

	Wait  Wait  `json:"wait,omitempty"`
	Waits int   `json:"waits,omitempty"` // how often it waits
	Die   Point `json:"die,omitempty"`   // where a mortal worker of the first attempt ends
}

// Result is the result of an execution: who completed it, under which lease.
type Result struct {
	Serial   int                         `json:"serial"`
	Instance flowfabric.WorkerInstanceID `json:"instance"`
	Epoch    uint64                      `json:"epoch"`
	Attempt  uint32                      `json:"attempt"`
	Pad      string                      `json:"pad,omitempty"`
	// Signals ended the last wait of the attempt.
	Signals []flowfabric.SignalID `json:"signals,omitempty"`
}

// Op names what a report tells of.
type Op string

// The reports of a worker: one when it has registered, then one for every
// definite answer of the store.
const (
	OpReady    Op = "ready"
	OpClaim    Op = "claim"
	OpRenew    Op = "renew"
	OpComplete Op = "complete"
	OpFail     Op = "fail"
	OpDelay    Op = "delay"
	OpStopped  Op = "stopped"
	// A pending waitpoint was made; a suspend was answered.
	OpWaitpoint Op = "waitpoint"
	OpSuspend   Op = "suspend"
	// OpDying is said by a mortal worker before it kills itself.
	OpDying Op = "dying"
)

// Address is a waitpoint and the token that lets signals in. The token is a
// secret of the test's own store.
type Address struct {
	Waitpoint flowfabric.WaitpointID `json:"waitpoint"`
	Key       string                 `json:"key"`
	Token     string                 `json:"token"`
}

// Report is one line that a worker prints once the store has answered.
type Report struct {
	Op        Op                          `json:"op"`
	Instance  flowfabric.WorkerInstanceID `json:"instance"`
	Execution flowfabric.ExecutionID      `json:"execution,omitempty"`
	Lease     flowfabric.LeaseID          `json:"lease,omitempty"`
	Epoch     uint64                      `json:"epoch,omitempty"`
	Attempt   uint32                      `json:"attempt,omitempty"` // claims only
	// Found tells that a claim was found among the worker's leases.
	Found  bool   `json:"found,omitempty"`
	Result []byte `json:"result,omitempty"`
	// Outcome is that of a failure.
	Outcome  flowfabric.FailOutcome `json:"outcome,omitempty"`
	Replayed bool                   `json:"replayed,omitempty"`
	// Code is set when the store refused.
	Code flowfabric.Code `json:"code,omitempty"`

	// Of suspends, and of waitpoints made before them.
	Suspension flowfabric.SuspensionID `json:"suspension,omitempty"`
	Satisfied  bool                    `json:"satisfied,omitempty"` // by what had come before: the lease is kept
	Keyed      bool                    `json:"keyed,omitempty"`     // with an idempotency key
	Addresses  []Address               `json:"addresses,omitempty"`
	Die        Point                   `json:"die,omitempty"`
}

// Line is the report as it is printed, line end included.
func (r Report) Line() []byte {
	b, err := json.Marshal(r)
	if err != nil { // a Report has nothing that does not encode
		panic(err)
	}
	return append(b, '\n')
}
