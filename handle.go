package flowfabric

import "context"

// HandleKind says how the attempt a [TaskHandle] names came to be held, or that
// it waits.
type HandleKind string

// The kinds of handle. The first three carry a lease.
const (
	HandleFresh     HandleKind = "fresh"     // a new attempt
	HandleResumed   HandleKind = "resumed"   // a paused attempt that continues
	HandleReclaimed HandleKind = "reclaimed" // a new attempt after a lapsed or revoked lease
	HandleSuspended HandleKind = "suspended" // the attempt waits; there is no lease
)

// TaskHandle names one attempt, and the lease under which it runs, on one
// backend. It is a value that may be kept, passed on and written down; the fence
// in it is the proof of ownership, so it goes to nobody who may not act on the
// execution. After a suspend only a handle of kind [HandleSuspended] is left,
// which is good for [Worker.ObserveSignals] alone. (Specification 03, section
// 4.2.)
type TaskHandle struct {
	Kind HandleKind `json:"kind"`
	// Backend identifies where the handle comes from: the deployment, else the
	// family of its backend. Empty is not checked.
	Backend      string      `json:"backend,omitempty"`
	ExecutionID  ExecutionID `json:"execution_id"`
	AttemptID    AttemptID   `json:"attempt_id"`
	AttemptIndex uint32      `json:"attempt_index"`
	// Fence is empty in a handle of kind suspended.
	Fence Fence `json:"fence"`
	// SuspensionID is set in a handle of kind suspended only.
	SuspensionID SuspensionID `json:"suspension_id,omitempty"`
}

// suspended returns the handle that is left after a suspend.
func (h TaskHandle) suspended(id SuspensionID) TaskHandle {
	h.Kind, h.Fence, h.SuspensionID = HandleSuspended, Fence{}, id
	return h
}

// Handle returns the task's handle: of kind suspended once the task has
// suspended.
func (t *Task) Handle() TaskHandle {
	if left := t.waits.Load(); left != nil {
		return *left
	}
	c := &t.claimed
	return TaskHandle{
		Kind: HandleKind(c.ClaimKind.TaskLabel()), Backend: t.worker.home, ExecutionID: c.ExecutionID,
		AttemptID: c.AttemptID, AttemptIndex: c.AttemptIndex, Fence: c.Fence,
	}
}

// identity is what handles of a backend carry: the deployment, so that a handle
// made over one way to it holds over another, else the family.
func (i BackendInfo) identity() string {
	if i.DeploymentID != "" {
		return i.DeploymentID
	}
	return i.Family
}

// learnBackend finds out what the handles of the worker's tasks carry.
func (w *Worker) learnBackend(ctx context.Context) error {
	info, err := retry(ctx, w.clock, w.backend.Describe)
	w.home = info.identity()
	return err
}

// checkHome refuses a handle of another backend.
func (w *Worker) checkHome(h TaskHandle) error {
	if h.Backend == "" || h.Backend == w.home {
		return nil
	}
	return NewError(CodeHandleFromOtherBackend, "the handle is of %q, the worker's backend is %q", clip(h.Backend, 80), w.home).
		With("execution_id", string(h.ExecutionID))
}

// SuspendHandle is [Task.TrySuspend] by a handle, for who has no task at hand. A
// task of this worker that holds the handle's lease is suspended with it. A
// handle of kind suspended is already_suspended, one of another backend
// handle_from_other_backend, one without a whole fence fence_required or
// partial_fence_triple, all without a call.
func (w *Worker) SuspendHandle(ctx context.Context, h TaskHandle, o SuspendOptions) (TrySuspendResult, error) {
	if h.Kind == HandleSuspended {
		return TrySuspendResult{}, NewError(CodeAlreadySuspended, "the handle is that of a suspended attempt").
			With("execution_id", string(h.ExecutionID)).With("suspension_id", string(h.SuspensionID))
	}
	if err := w.checkHome(h); err != nil {
		return TrySuspendResult{}, err
	}
	if err := checkFence(h.Fence); err != nil {
		return TrySuspendResult{}, err
	}
	if t := w.taskOf(h.Fence); t != nil {
		return t.TrySuspend(ctx, o)
	}
	args, err := o.args(h.ExecutionID, h.Fence)
	if err != nil {
		return TrySuspendResult{}, err
	}
	answer, err := w.suspend(ctx, args)
	return tried(h, answer, err)
}

// SuspendByTriple is the suspend of a service that has only the execution and
// the fence left, such as a supervisor that finishes the work of a worker that
// crashed between deciding and suspending. Nil Waitpoints mean one fresh
// waitpoint for each key of the condition. An empty fence is fence_required, a
// part of one partial_fence_triple, both without a call.
func (w *Worker) SuspendByTriple(ctx context.Context, args SuspendArgs) (SuspendResult, error) {
	if err := checkFence(args.Fence); err != nil {
		return SuspendResult{}, err
	}
	if args.Waitpoints == nil {
		args.Waitpoints = bindings(args.ResumeCondition, nil)
	}
	t := w.taskOf(args.Fence)
	if t == nil {
		return w.suspend(ctx, args.WithDefaults())
	}
	return t.suspend(ctx, args)
}

// ObserveSignals returns the signals that ended the last suspension of the
// handle's attempt, in the order they were accepted; see [Task.ResumeSignals]. A
// handle of any kind will do.
func (w *Worker) ObserveSignals(ctx context.Context, h TaskHandle) ([]ResumeSignal, error) {
	if err := w.checkHome(h); err != nil {
		return nil, err
	}
	return retry(ctx, w.clock, func(ctx context.Context) ([]ResumeSignal, error) {
		return w.backend.ObserveSignals(ctx, ObserveSignalsArgs{ExecutionID: h.ExecutionID, AttemptID: h.AttemptID})
	})
}

// taskOf returns the worker's task with the fence, nil when it has none.
func (w *Worker) taskOf(f Fence) *Task {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.leases[f.LeaseID]
	if t == nil || t.claimed.Fence.LeaseEpoch != f.LeaseEpoch || t.claimed.Fence.AttemptID != f.AttemptID {
		return nil
	}
	return t
}

// checkFence refuses a fence that is not whole, as every store does.
func checkFence(f Fence) error {
	switch {
	case f.Complete():
		return nil
	case f.Empty():
		return NewError(CodeFenceRequired, "the operation needs a fence")
	}
	return NewError(CodePartialFenceTriple, "a fence needs lease_id, lease_epoch and attempt_id")
}
