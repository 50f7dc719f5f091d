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
)

// Plan is the input of an execution: what its worker is to do.
type Plan struct {
	Serial int   `json:"serial"`
	Act    Act   `json:"act"`
	WorkMs int64 `json:"work_ms"` // how long the work takes
	Pad    int   `json:"pad"`     // bytes to add to the result
}

// Result is the result of an execution: who completed it, under which lease.
type Result struct {
	Serial   int                         `json:"serial"`
	Instance flowfabric.WorkerInstanceID `json:"instance"`
	Epoch    uint64                      `json:"epoch"`
	Attempt  uint32                      `json:"attempt"`
	Pad      string                      `json:"pad,omitempty"`
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
)

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
}

// Line is the report as it is printed, line end included.
func (r Report) Line() []byte {
	b, err := json.Marshal(r)
	if err != nil { // a Report has nothing that does not encode
		panic(err)
	}
	return append(b, '\n')
}
