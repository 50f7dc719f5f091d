package api

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

var closedVariants = map[string][]string{"closed": nil, "already_closed": nil}

func waitpointRoutes() []*route {
	return []*route{
		{
			id: "create_pending_waitpoint", method: http.MethodPost, pattern: wire.RouteAttemptWaitpoints, scopes: ScopeWork,
			summary: "Makes an addressable waitpoint before suspending; its token is told here only.", status: http.StatusCreated,
			codes:    append(append([]flowfabric.Code{}, leaseBound...), minting...),
			endpoint: secretive(serves[wire.CreateWaitpointRequest, wire.CreateWaitpointResponse](createWaitpoint)),
		},
		{
			id: "close_attempt_waitpoint", method: http.MethodPost, pattern: wire.RouteAttemptWaitpointClose, scopes: ScopeWork,
			summary:  "Closes a pending waitpoint of the running attempt.",
			codes:    append([]flowfabric.Code{flowfabric.CodeWaitpointNotFound, flowfabric.CodeWaitpointInUse}, leaseBound...),
			variants: closedVariants,
			endpoint: serves[wire.CloseWaitpointRequest, wire.CloseWaitpointResponse](closeAttemptWaitpoint),
		},
		{
			id: "close_waitpoint", method: http.MethodPost, pattern: wire.RouteWaitpointClose, scopes: ScopeOperate,
			summary: "Closes a pending waitpoint, in its worker's stead.",
			codes: []flowfabric.Code{
				flowfabric.CodeWaitpointNotFound, flowfabric.CodeWaitpointInUse, flowfabric.CodeIDMismatch, flowfabric.CodeOutcomeUnknown,
			},
			variants: closedVariants,
			endpoint: serves[wire.OperatorCloseWaitpointRequest, wire.CloseWaitpointResponse](closeWaitpoint),
		},
		{
			id: "list_pending_waitpoints", method: http.MethodGet, pattern: wire.RouteExecutionWaitpoints, scopes: ScopeRead,
			summary:  "The open waitpoints of an execution, by id; never the tokens.",
			query:    []param{{name: "limit", kind: "integer", doc: "1..1000, default 100."}, cursorParam},
			codes:    []flowfabric.Code{flowfabric.CodeInvalidCursor},
			endpoint: pageOfExecution(wire.ParseListWaitpoints, flowfabric.Backend.ListPendingWaitpoints, wire.NewWaitpointsPage),
		},
		{
			id: "read_waitpoint_token", method: http.MethodGet, pattern: wire.RouteWaitpointToken, scopes: ScopeAdmin,
			summary:  "The token of an open waitpoint.",
			codes:    []flowfabric.Code{flowfabric.CodeWaitpointNotFound},
			veiled:   true,
			endpoint: secretive(serves[none, wire.TokenResponse](readWaitpointToken)),
		},
	}
}

func createWaitpoint(c *call) error {
	id, index, err := c.attempt()
	if err != nil {
		return err
	}
	var body wire.CreateWaitpointRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args, err := body.Args(id, index)
	if err != nil {
		return err
	}
	if err := c.admit(id); err != nil {
		return err
	}
	w, err := c.api.backend.CreatePendingWaitpoint(c.ctx, args)
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, wire.NewCreateWaitpointResponse(w))
}

func closeAttemptWaitpoint(c *call) error {
	id, index, err := c.attempt()
	if err != nil {
		return err
	}
	waitpoint, err := c.waitpointID()
	if err != nil {
		return err
	}
	var body wire.CloseWaitpointRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args, err := body.Args(id, index, waitpoint)
	if err != nil {
		return err
	}
	return c.closeWaitpoint(args)
}

func closeWaitpoint(c *call) error {
	id, waitpoint, err := c.waitpoint()
	if err != nil {
		return err
	}
	var body wire.OperatorCloseWaitpointRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args, err := body.Args(id, waitpoint)
	if err != nil {
		return err
	}
	return c.closeWaitpoint(args)
}

func (c *call) closeWaitpoint(args flowfabric.CloseWaitpointArgs) error {
	if err := c.admit(args.ExecutionID); err != nil {
		return err
	}
	outcome, err := c.api.backend.CloseWaitpoint(c.ctx, args)
	if err != nil {
		return err
	}
	return c.ok(wire.NewCloseWaitpointResponse(outcome))
}

// readWaitpointToken is audited whether there is a token or not: what is told of
// is who asked.
func readWaitpointToken(c *call) error {
	id, waitpoint, err := c.waitpoint()
	if err != nil {
		return err
	}
	token, err := c.waitpointToken(id, waitpoint)
	if err != nil {
		return err
	}
	c.audit("waitpoint token read", append(targetAttrs(c), slog.Bool("found", !token.IsZero()))...)
	if token.IsZero() {
		return flowfabric.NewError(flowfabric.CodeWaitpointNotFound, "no open waitpoint %s of the execution", waitpoint)
	}
	return c.ok(wire.NewTokenResponse(token))
}

// waitpointToken is the zero token also for an execution that the caller may not
// see, or that is not there.
func (c *call) waitpointToken(id flowfabric.ExecutionID, waitpoint flowfabric.WaitpointID) (flowfabric.WaitpointToken, error) {
	err := c.admit(id)
	if err == nil {
		var token flowfabric.WaitpointToken
		if token, err = c.api.backend.ReadWaitpointToken(c.ctx, id, waitpoint); err == nil {
			return token, nil
		}
	}
	if errors.Is(err, flowfabric.ErrExecutionNotFound) {
		err = nil
	}
	return flowfabric.WaitpointToken{}, err
}
