package flowfabric

import (
	"context"
	"encoding/json"
)

// SignalStatus tells what became of a delivery.
type SignalStatus string

// What becomes of a delivery.
const (
	SignalAccepted        SignalStatus = "accepted"
	SignalTriggeredResume SignalStatus = "triggered_resume" // accepted, and it ended the wait
	SignalDuplicate       SignalStatus = "duplicate"        // delivered before
)

// SignalOutcome is how a delivery ended. (Specification 03, section 3.4.)
type SignalOutcome struct {
	Status SignalStatus
	// SignalID is that of the signal as it is recorded: of a duplicate, the
	// first's.
	SignalID SignalID
	// Effect is what the recorded signal did.
	Effect SignalEffect
	// RequiresConfirmation: the signal is kept for a worker that has not suspended
	// yet. Should that worker die first, the signal never acts; a sender that must
	// be sure sends it again, with the same idempotency key, unless the execution
	// leaves the state active within a minute.
	RequiresConfirmation bool
}

func newSignalOutcome(r DeliverSignalResult) SignalOutcome {
	o := SignalOutcome{
		Status: SignalAccepted, SignalID: r.SignalID, Effect: r.Effect, RequiresConfirmation: r.RequiresConfirmation,
	}
	switch {
	case r.Outcome == DeliverDuplicate:
		o.Status = SignalDuplicate
	case r.Effect == EffectResumed:
		o.Status = SignalTriggeredResume
	}
	return o
}

// deliverSignal delivers a signal under one identifier, so that its automatic retries
// are recognised.
func deliverSignal(ctx context.Context, b Signals, clock Clock, args DeliverSignalArgs) (SignalOutcome, error) {
	args.Signal = args.Signal.WithDefaults()
	r, err := retry(ctx, clock, func(ctx context.Context) (DeliverSignalResult, error) { return b.DeliverSignal(ctx, args) })
	if err != nil {
		return SignalOutcome{}, err
	}
	return newSignalOutcome(r), nil
}

// DeliverSignal sends a signal to a waitpoint. The token that its maker handed
// out stands beside the signal, so that one signal value can go to several
// waitpoints. A missing signal id is minted once per call, which makes the
// automatic retries harmless; a sender that repeats the call itself gives the
// signal an id or an idempotency key. An empty source identity is the client's
// creator identity. Errors: missing_token, invalid_token, which an unknown
// execution or waitpoint is too, token_expired, waitpoint_closed,
// target_not_signalable, signal_limit_exceeded, payload_too_large,
// invalid_input, signal_id_conflict. (Specification 03, section 4.3.)
func (c *Client) DeliverSignal(ctx context.Context, id ExecutionID, waitpoint WaitpointID, token WaitpointToken, signal Signal) (SignalOutcome, error) {
	if signal.SourceIdentity == "" {
		signal.SourceIdentity = c.creator
	}
	return deliverSignal(ctx, c.backend, c.clock, DeliverSignalArgs{ExecutionID: id, WaitpointID: waitpoint, Token: token, Signal: signal})
}

// DeliverSignal is [Client.DeliverSignal] for a worker. An empty source identity
// is the worker's id, an empty source type "worker".
func (w *Worker) DeliverSignal(ctx context.Context, id ExecutionID, waitpoint WaitpointID, token WaitpointToken, signal Signal) (SignalOutcome, error) {
	if signal.SourceIdentity == "" {
		signal.SourceIdentity = string(w.config.WorkerID)
	}
	if signal.SourceType == "" {
		signal.SourceType = SourceTypeWorker
	}
	return deliverSignal(ctx, w.backend, w.clock, DeliverSignalArgs{ExecutionID: id, WaitpointID: waitpoint, Token: token, Signal: signal})
}

// DeliverSignalJSON is [Client.DeliverSignal] with a payload in JSON, which
// [SignalPayload] reads.
func DeliverSignalJSON[T any](ctx context.Context, c *Client, id ExecutionID, waitpoint WaitpointID, token WaitpointToken, signal Signal, payload T) (SignalOutcome, error) {
	encoded, err := json.Marshal(payload)
	if err != nil {
		return SignalOutcome{}, InvalidInput("payload", "cannot be encoded").Wrap(err)
	}
	signal.Payload, signal.PayloadEncoding = encoded, DefaultSignalEncoding
	return c.DeliverSignal(ctx, id, waitpoint, token, signal)
}

// SignalPayload decodes the payload of a signal from JSON. No payload is the
// zero value; one that does not decode is an error of package encoding/json.
func SignalPayload[T any](s ResumeSignal) (T, error) {
	var out T
	if len(s.Payload) == 0 {
		return out, nil
	}
	err := json.Unmarshal(s.Payload, &out)
	return out, err
}

// TimedOut reports that the signal is the engine's, by which a timeout of
// behaviour auto_resume_with_timeout_signal ended the wait.
func (s ResumeSignal) TimedOut() bool {
	return s.SourceType == SourceTypeEngine && s.SignalCategory == SignalCategoryTimeout
}

// DeliverApprovalSignal delivers an operator's decision; the store reads the
// token itself. An empty DecidedBy is the client's creator identity. With the
// same name and suffix it may be repeated. Errors: execution_not_found,
// waitpoint_not_found, invalid_input with detail lane_mismatch, and those of
// [Client.DeliverSignal]. (Specification 03, section 4.4.)
func (a *Admin) DeliverApprovalSignal(ctx context.Context, args DeliverApprovalSignalArgs) (SignalOutcome, error) {
	if args.DecidedBy == "" {
		args.DecidedBy = a.operator
	}
	if args.SignalID == "" {
		args.SignalID = NewSignalID()
	}
	r, err := retry(ctx, a.clock, func(ctx context.Context) (DeliverSignalResult, error) {
		return a.backend.DeliverApprovalSignal(ctx, args)
	})
	if err != nil {
		return SignalOutcome{}, err
	}
	return newSignalOutcome(r), nil
}
