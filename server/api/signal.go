package api

import (
	"errors"
	"net/http"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// delivery are the codes of a delivery whose token was found genuine.
var delivery = []flowfabric.Code{
	flowfabric.CodeTokenExpired, flowfabric.CodeWaitpointClosed, flowfabric.CodeTargetNotSignalable, flowfabric.CodeSignalLimitExceeded,
	flowfabric.CodeSignalIDConflict, flowfabric.CodeHMACSecretNotInitialized, flowfabric.CodeInvalidSecret,
	flowfabric.CodeIDMismatch, flowfabric.CodeOutcomeUnknown,
}

// presented are those of a delivery with a token beside them.
var presented = append([]flowfabric.Code{flowfabric.CodeMissingToken, flowfabric.CodeInvalidToken}, delivery...)

var signalVariants = map[string][]string{
	"accepted":  {"signal_id", "effect", "requires_confirmation?"},
	"duplicate": {"existing_signal_id", "effect"},
}

func signalRoutes() []*route {
	return []*route{
		{
			id: "deliver_signal", method: http.MethodPost, pattern: wire.RouteExecutionDeliver, scopes: ScopeSignal, limit: wire.LimitMedium,
			summary: "Delivers a signal to a waitpoint, by its token; with a signal_id safe to repeat.", veiled: true,
			codes: presented, variants: signalVariants,
			endpoint: serves[wire.SignalRequest, wire.SignalResponse](deliverSignal),
		},
		{
			id: "deliver_approval_signal", method: http.MethodPost, pattern: wire.RouteExecutionApproval, scopes: ScopeOperate, limit: wire.LimitMedium,
			summary: "Delivers an operator's decision, without the token.",
			codes:   append([]flowfabric.Code{flowfabric.CodeWaitpointNotFound}, presented...), variants: signalVariants,
			endpoint: onExecution[wire.ApprovalRequest](flowfabric.Backend.DeliverApprovalSignal, plain(wire.NewSignalResponse)),
		},
		{
			id: "observe_signals", method: http.MethodPost, pattern: wire.RouteAttemptResumeSignals, scopes: ScopeWork,
			summary:  "The signals that ended the attempt's last suspension; empty when it was not ended by signals.",
			codes:    []flowfabric.Code{flowfabric.CodeFenceRequired, flowfabric.CodePartialFenceTriple, flowfabric.CodeIDMismatch},
			endpoint: onAttempt[wire.ResumeSignalsRequest](flowfabric.Backend.ObserveSignals, plain(resumeSignalsAnswer)),
		},
		{
			id: "list_signals", method: http.MethodGet, pattern: wire.RouteExecutionSignals, scopes: ScopeRead,
			summary: "The signals of an execution in the order they were accepted, without payloads.",
			query: []param{
				{name: "waitpoint_id", kind: "string", doc: "Only those of one waitpoint."},
				{name: "unconsumed_only", kind: "boolean", doc: "Without those that ended a suspension; default false."}, limitParam, cursorParam,
			},
			codes:    []flowfabric.Code{flowfabric.CodeInvalidCursor},
			endpoint: pageOfExecution(wire.ParseListSignals, flowfabric.Backend.ListSignals, wire.NewSignalsPage),
		},
		{
			id: "get_signal", method: http.MethodGet, pattern: wire.RouteExecutionSignal, scopes: ScopeRead,
			summary:  "One signal with its payload.",
			codes:    []flowfabric.Code{flowfabric.CodeSignalNotFound},
			endpoint: serves[none, flowfabric.RecordedSignal](getSignal),
		},
	}
}

func resumeSignalsAnswer(list []flowfabric.ResumeSignal) wire.Page[flowfabric.ResumeSignal] {
	return wire.NewPage(list, "")
}

func deliverSignal(c *call) error {
	id, err := c.executionID()
	if err != nil {
		return err
	}
	var body wire.SignalRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args, err := body.Args(id, c.who.Name)
	if err != nil {
		return err
	}
	if err := c.admitSignal(args); err != nil {
		return err
	}
	r, err := c.api.backend.DeliverSignal(c.ctx, args)
	if err != nil {
		return veil(err)
	}
	return c.ok(wire.NewSignalResponse(r))
}

// admitSignal is admit for a signal: an execution that the caller may not see is
// answered as any wrong token is, after the same checks of the input.
func (c *call) admitSignal(args flowfabric.DeliverSignalArgs) error {
	err := c.admit(args.ExecutionID)
	if !errors.Is(err, flowfabric.ErrExecutionNotFound) {
		return err
	}
	if _, err := rules.PrepareDeliver(args); err != nil {
		return err
	}
	if args.Token.IsZero() {
		return flowfabric.NewError(flowfabric.CodeMissingToken, "no waitpoint token was presented")
	}
	return rules.InvalidToken()
}

// veil makes every refusal that could tell whether an execution or a waitpoint
// exists the same one, without any detail.
func veil(err error) error {
	switch flowfabric.CodeOf(err) {
	case flowfabric.CodeInvalidToken, flowfabric.CodeExecutionNotFound, flowfabric.CodeWaitpointNotFound:
		return rules.InvalidToken()
	}
	return err
}

func getSignal(c *call) error {
	id, err := c.executionID()
	if err != nil {
		return err
	}
	signal := flowfabric.SignalID(c.r.PathValue("signal_id"))
	if err := flowfabric.ValidateUUID("signal_id", string(signal)); err != nil {
		return err
	}
	if err := c.admit(id); err != nil {
		return err
	}
	s, err := c.api.backend.GetSignal(c.ctx, id, signal)
	if err != nil {
		return err
	}
	return c.ok(s)
}
