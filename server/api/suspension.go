package api

import (
	"net/http"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// minting are the codes of operations that make a waitpoint's token.
var minting = []flowfabric.Code{
	flowfabric.CodeInvalidWaitpointKey, flowfabric.CodeWaitpointAlreadyExists, flowfabric.CodeWaitpointLimitExceeded,
	flowfabric.CodeHMACSecretNotInitialized, flowfabric.CodeInvalidSecret,
}

func suspensionRoutes() []*route {
	return []*route{
		{
			id: "suspend_execution", method: http.MethodPost, pattern: wire.RouteAttemptSuspend, scopes: ScopeWork,
			summary: "Gives the lease up and waits for signals; with an idempotency_key safe to repeat.",
			codes: append(append([]flowfabric.Code{
				flowfabric.CodeInvalidResumeCondition, flowfabric.CodeInvalidWaitpointForExecution, flowfabric.CodeWaitpointNotTokenBound,
				flowfabric.CodeWaitpointNotFound, flowfabric.CodeWaitpointNotPending, flowfabric.CodePendingWaitpointExpired, flowfabric.CodeAlreadySuspended,
			}, leaseBound...), minting...),
			variants: map[string][]string{
				"suspended":         {"suspension_id", "waitpoints", "replayed"},
				"already_satisfied": {"suspension_id", "waitpoints", "signals", "replayed"},
			},
			endpoint: secretive(onAttempt[wire.SuspendRequest](flowfabric.Backend.Suspend, plain(wire.NewSuspendResponse))),
		},
		{
			id: "resume_execution", method: http.MethodPost, pattern: wire.RouteExecutionResume, scopes: ScopeOperate,
			summary:  "Ends a suspension whatever its condition.",
			codes:    []flowfabric.Code{flowfabric.CodeExecutionNotSuspended, flowfabric.CodeIDMismatch, flowfabric.CodeOutcomeUnknown},
			variants: map[string][]string{"resumed": {"public_state"}},
			endpoint: onExecution[wire.ResumeRequest](flowfabric.Backend.ResumeExecution, plain(wire.NewResumeResponse)),
		},
		{
			id: "get_suspension", method: http.MethodGet, pattern: wire.RouteExecutionSuspension, scopes: ScopeRead,
			summary:  "The current or last wait, and how far its condition is; no tokens.",
			codes:    []flowfabric.Code{flowfabric.CodeSuspensionNotFound},
			endpoint: readExecution(flowfabric.Backend.GetSuspension, suspensionAnswer),
		},
		{
			id: "list_suspended", method: http.MethodGet, pattern: wire.RouteSuspended, scopes: ScopeRead,
			summary: "Suspended executions by timeout within a partition, those without one last.",
			query: []param{
				{name: "partition", kind: "integer", doc: "Only this partition; absent: all."}, {name: "namespace", kind: "string"},
				{name: "limit", kind: "integer", doc: "1..1000, default 100."}, cursorParam,
			},
			codes:    []flowfabric.Code{flowfabric.CodeInvalidCursor, flowfabric.CodeNamespaceForbidden},
			endpoint: serves[none, wire.Page[flowfabric.SuspendedExecution]](listSuspended),
		},
	}
}

func suspensionAnswer(id flowfabric.ExecutionID, s *flowfabric.Suspension) (wire.Suspension, error) {
	if s == nil {
		return wire.Suspension{}, flowfabric.NewError(flowfabric.CodeSuspensionNotFound, "execution %s has never been suspended", id)
	}
	return wire.NewSuspension(*s), nil
}

func listSuspended(c *call) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	args, err := wire.ParseListSuspended(query)
	if err != nil {
		return err
	}
	if err := c.name(args.Namespace); err != nil {
		return err
	}
	args.Namespaces = c.who.Namespaces
	r, err := c.api.backend.ListSuspended(c.ctx, args)
	if err != nil {
		return err
	}
	return c.ok(wire.NewSuspendedPage(query, r))
}
