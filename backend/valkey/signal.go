package valkey

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

const fnDeliver = "ff_deliver_signal"

// What became of a token before the library is called.
const (
	tokenVerified = ""
	tokenBad      = "n" // refused, and to be noted on the execution
	tokenUnusable = "r" // refused for another reason
)

// DeliverSignal authenticates, records and evaluates a signal. For a waitpoint that
// this process knows it is one call.
func (s *Store) DeliverSignal(ctx context.Context, a flowfabric.DeliverSignalArgs) (res flowfabric.DeliverSignalResult, err error) {
	if a, err = rules.PrepareDeliver(a); err != nil {
		return res, err
	}
	if err := rules.ValidateExecutionID(a.ExecutionID, s.parts); err != nil {
		return res, err
	}
	var w target
	if _, _, wellFormed := a.Token.Parts(); wellFormed {
		if w, err = s.target(ctx, &a); err != nil {
			return res, err
		}
	}
	return s.deliver(ctx, &a, w, "")
}

// target finds the waitpoint of a signal, remembered or in the store; a zero one
// when there is none.
func (s *Store) target(ctx context.Context, a *flowfabric.DeliverSignalArgs) (w target, err error) {
	if w, ok := s.targets.find(a.WaitpointID); ok && w.execution.Partition() == a.ExecutionID.Partition() {
		return w, nil
	}
	w, _, _, err = s.readTarget(ctx, tagOf(a.ExecutionID), a.WaitpointID)
	return w, err
}

// DeliverApprovalSignal delivers an operator's decision with the stored token.
func (s *Store) DeliverApprovalSignal(ctx context.Context, a flowfabric.DeliverApprovalSignalArgs) (res flowfabric.DeliverSignalResult, err error) {
	d, err := rules.PrepareApproval(a)
	if err != nil {
		return res, err
	}
	if err := rules.ValidateExecutionID(d.ExecutionID, s.parts); err != nil {
		return res, err
	}
	var w target
	if w, d.Token, _, err = s.readTarget(ctx, tagOf(d.ExecutionID), d.WaitpointID); err != nil {
		return res, err
	}
	return s.deliver(ctx, &d, w, a.LaneID)
}

// deliver verifies the token and makes the call. lane is that of an operator's
// approval, whose own checks come before the token's.
func (s *Store) deliver(ctx context.Context, a *flowfabric.DeliverSignalArgs, w target, lane flowfabric.LaneID) (res flowfabric.DeliverSignalResult, err error) {
	refused, err := s.verify(ctx, a, w)
	if err != nil {
		return res, err
	}
	verdict := tokenVerified
	switch flowfabric.CodeOf(refused) {
	case "":
	case flowfabric.CodeMissingToken, flowfabric.CodeInvalidToken:
		verdict = tokenBad
	default:
		if verdict = tokenUnusable; lane == "" {
			return res, refused
		}
	}
	head, err := encodeHead(a, w.key)
	if err != nil {
		return res, err
	}
	g := &a.Signal
	msg, err := s.call(ctx, fnDeliver, tagOf(a.ExecutionID), uuidOf(a.ExecutionID), string(a.WaitpointID), w.key, a.Token.KID(), string(g.SignalID),
		g.Name, g.Category, g.SourceType, g.SourceIdentity, head, string(g.Payload), g.IdempotencyKey, strconv.FormatInt(g.DedupTTLMs, 10),
		verdict, string(lane))
	if kindOfError(err) == kindTokenRefused {
		return res, refused
	}
	if err != nil {
		return res, known(err, a.ExecutionID)
	}
	list, err := elementsOf(fnDeliver, &msg, 4)
	if err != nil {
		return res, err
	}
	s.signalsChanged()
	s.offered(a.ExecutionID, list.str(3))
	d := decoder{op: operation(fnDeliver)}
	res = flowfabric.DeliverSignalResult{Outcome: flowfabric.DeliverAccepted, SignalID: flowfabric.SignalID(list.str(1)), Effect: effectOf(&d, list.str(2))}
	if list.str(0) == "d" {
		res.Outcome = flowfabric.DeliverDuplicate
		return res, d.err
	}
	res.RequiresConfirmation = res.Effect == flowfabric.EffectBuffered
	return res, d.err
}

// verify authenticates the token by the ring beside the waitpoint. What speaks
// against it comes as refused. Whether a former key is still in its grace is the
// library's to say, by the store's clock. A ring that was remembered is read anew
// before it counts against a token, but for one that is merely wrong.
func (s *Store) verify(ctx context.Context, a *flowfabric.DeliverSignalArgs, w target) (refused, err error) {
	known := w.execution == a.ExecutionID
	for anew := false; ; anew = true {
		ring, remembered, err := s.ring(ctx, a.ExecutionID.Partition(), anew)
		if err != nil {
			return nil, err
		}
		cause, refused := ring.Verify(a.Token, a.ExecutionID, a.WaitpointID, w.key, known, 0)
		final := cause == rules.TokenMalformed || cause == rules.TokenMismatch || cause == rules.TokenUnknownTarget || a.Token.IsZero()
		if refused == nil || !remembered || final {
			return refused, nil
		}
	}
}

// signalHead is what a signal says, as it is stored. The library makes that of a
// timeout.
type signalHead struct {
	ID          flowfabric.SignalID `json:"id"`
	Key         string              `json:"key"`
	Name        string              `json:"name"`
	Category    string              `json:"category"`
	Source      string              `json:"source"`
	Identity    string              `json:"identity"`
	Encoding    string              `json:"encoding,omitempty"`
	Correlation string              `json:"correlation,omitempty"`
	Idempotency string              `json:"idempotency,omitempty"`
	CreatedAt   flowfabric.Millis   `json:"created_at,omitempty"`
}

func encodeHead(a *flowfabric.DeliverSignalArgs, key string) (string, error) {
	g := &a.Signal
	head, err := json.Marshal(signalHead{ID: g.SignalID, Key: key, Name: g.Name, Category: g.Category, Source: g.SourceType, Identity: g.SourceIdentity,
		Encoding: g.PayloadEncoding, Correlation: g.CorrelationID, Idempotency: g.IdempotencyKey, CreatedAt: g.CreatedAt})
	return string(head), err
}

// signalStride is how many elements an answer has for each signal with its payload.
const signalStride = 4

// readSignals reads signals with their payloads: number, record, effect, payload of
// each.
func readSignals(d *decoder, id flowfabric.ExecutionID, list elements) []flowfabric.RecordedSignal {
	out := make([]flowfabric.RecordedSignal, 0, len(list)/signalStride)
	for i := 0; i+signalStride <= len(list) && d.err == nil; i += signalStride {
		g := decodeSignal(d, id, list.str(i), list.str(i+1), list.str(i+2))
		if payload := list.bytes(i + 3); len(payload) > 0 {
			g.Payload = payload
		}
		out = append(out, g)
	}
	return out
}

// ObserveSignals returns the signals that ended the attempt's last suspension.
func (s *Store) ObserveSignals(ctx context.Context, a flowfabric.ObserveSignalsArgs) ([]flowfabric.ResumeSignal, error) {
	const op = "observe_signals"
	if err := rules.ValidateObserveSignals(a); err != nil {
		return nil, err
	}
	list, err := s.inspect(ctx, op, "o", 0, a.ExecutionID, string(a.AttemptID))
	if err != nil {
		return nil, err
	}
	d := decoder{op: op}
	recorded := readSignals(&d, a.ExecutionID, list)
	if d.err != nil {
		return nil, d.err
	}
	return rules.ObservedSignals(recorded), nil
}

// ListSignals pages over the recorded signals, without payloads.
func (s *Store) ListSignals(ctx context.Context, a flowfabric.ListSignalsArgs) (res flowfabric.ListSignalsResult, err error) {
	const op, stride = "list_signals", 3
	limit, err := rules.ValidateListSignals(a)
	if err != nil {
		return res, err
	}
	list, err := s.inspect(ctx, op, "l", 1, a.ExecutionID, strconv.FormatUint(a.After, 10), strconv.Itoa(limit), string(a.WaitpointID), mark(a.UnconsumedOnly))
	if err != nil {
		return res, err
	}
	d := decoder{op: op}
	res.Signals = []flowfabric.RecordedSignal{}
	for i := 1; i+stride <= len(list); i += stride {
		res.Signals = append(res.Signals, decodeSignal(&d, a.ExecutionID, list.str(i), list.str(i+1), list.str(i+2)))
	}
	if n := len(res.Signals); n > 0 && list.str(0) == "1" {
		res.Next = res.Signals[n-1].Seq
	}
	return res, d.err
}

// GetSignal returns a signal with its payload.
func (s *Store) GetSignal(ctx context.Context, id flowfabric.ExecutionID, signal flowfabric.SignalID) (*flowfabric.RecordedSignal, error) {
	const op = "get_signal"
	list, err := s.inspect(ctx, op, "g", 0, id, string(signal))
	if err != nil {
		return nil, err
	}
	d := decoder{op: op}
	found := readSignals(&d, id, list)
	if d.err != nil {
		return nil, d.err
	}
	if len(found) == 0 {
		return nil, flowfabric.NewError(flowfabric.CodeSignalNotFound, "the execution has no signal %s", signal)
	}
	return &found[0], nil
}
