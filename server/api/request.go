package api

import (
	"log/slog"
	"net/url"
	"strconv"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// decode reads the body into v, strictly. An absent body counts as {}.
func (c *call) decode(v any) error { return wire.Unmarshal(c.body, v) }

// query returns the parameters of the query string.
func (c *call) query() (url.Values, error) {
	if c.r.URL.RawQuery == "" {
		return url.Values{}, nil
	}
	q, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, flowfabric.InvalidInput("query", "cannot be parsed").Wrap(err)
	}
	return q, nil
}

// executionID returns the execution in the path.
func (c *call) executionID() (flowfabric.ExecutionID, error) {
	return flowfabric.ParseExecutionID(c.r.PathValue("execution_id"))
}

// attempt returns the attempt in the path.
func (c *call) attempt() (flowfabric.ExecutionID, uint32, error) {
	id, err := c.executionID()
	if err != nil {
		return "", 0, err
	}
	text := c.r.PathValue("attempt_index")
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != text {
		return "", 0, flowfabric.InvalidInput("attempt_index", "must be an integer 0..4294967295")
	}
	return id, uint32(n), nil
}

// waitpointID returns the waitpoint in the path.
func (c *call) waitpointID() (flowfabric.WaitpointID, error) {
	id := c.r.PathValue("waitpoint_id")
	return flowfabric.WaitpointID(id), flowfabric.ValidateUUID("waitpoint_id", id)
}

// waitpoint returns the execution and the waitpoint in the path.
func (c *call) waitpoint() (flowfabric.ExecutionID, flowfabric.WaitpointID, error) {
	id, err := c.executionID()
	if err != nil {
		return "", "", err
	}
	waitpoint, err := c.waitpointID()
	return id, waitpoint, err
}

// workerID returns the pool in the path.
func (c *call) workerID() (flowfabric.WorkerID, error) {
	id := flowfabric.WorkerID(c.r.PathValue("worker_id"))
	return id, id.Validate()
}

// instanceID returns the worker process in the path.
func (c *call) instanceID() (flowfabric.WorkerInstanceID, error) {
	id := flowfabric.WorkerInstanceID(c.r.PathValue("worker_instance_id"))
	return id, id.Validate()
}

// laneID returns the lane in the path.
func (c *call) laneID() (flowfabric.LaneID, error) {
	id := flowfabric.LaneID(c.r.PathValue("lane_id"))
	return id, id.Validate()
}

// admit checks that a token limited to namespaces may know of the execution. To
// such a token a foreign execution and an absent one look alike.
func (c *call) admit(id flowfabric.ExecutionID) error {
	if !c.who.limited() {
		return nil
	}
	snapshot, err := c.api.backend.DescribeExecution(c.ctx, id)
	if err != nil {
		return err
	}
	if snapshot == nil || !c.who.sees(snapshot.Namespace) {
		return executionNotFound(id)
	}
	return nil
}

func executionNotFound(id flowfabric.ExecutionID) error {
	return flowfabric.NewError(flowfabric.CodeExecutionNotFound, "no execution %s", id)
}

// name checks that the token may name a namespace in a body or a filter. "" names
// none.
func (c *call) name(ns flowfabric.Namespace) error {
	if ns == "" || c.who.sees(ns) {
		return nil
	}
	return flowfabric.NewError(flowfabric.CodeNamespaceForbidden, "the token is limited to other namespaces").With("field", "namespace")
}

// has reports whether the caller has one of the scopes.
func (c *call) has(scopes Scopes) bool { return c.who.Scopes&scopes != 0 }

// require is for scopes that depend on what is asked.
func (c *call) require(scopes Scopes, why string) error {
	if c.has(scopes) {
		return nil
	}
	return insufficientScope(scopes, why)
}

func insufficientScope(scopes Scopes, why string) *flowfabric.Error {
	e := flowfabric.NewError(flowfabric.CodeInsufficientScope, "%s", why)
	return e.With("required", scopes.Names())
}

// targetAttrs names what a request acts on, for audit events.
func targetAttrs(c *call) []slog.Attr {
	var attrs []slog.Attr
	if id := c.r.PathValue("execution_id"); id != "" {
		attrs = append(attrs, slog.String("ff.execution_id", id))
	}
	if id := c.r.PathValue("waitpoint_id"); id != "" {
		attrs = append(attrs, slog.String("waitpoint_id", id))
	}
	if id := c.r.PathValue("worker_instance_id"); id != "" {
		attrs = append(attrs, slog.String("worker_instance_id", id))
	}
	if id := c.r.PathValue("lane_id"); id != "" {
		attrs = append(attrs, slog.String("ff.lane", id))
	}
	return attrs
}
