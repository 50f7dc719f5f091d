package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// asError returns err as an *Error: itself when it is one, else the code that
// says what an error without one means at this boundary.
func asError(err error) *flowfabric.Error {
	if e := flowfabric.AsError(err); e != nil {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return flowfabric.NewError(flowfabric.CodeStoreTimeout, "the operation took too long").WithKind("timeout").Wrap(err)
	case errors.Is(err, context.Canceled):
		return flowfabric.NewError(flowfabric.CodeShuttingDown, "the operation was cut off").Wrap(err)
	}
	return flowfabric.NewError(flowfabric.CodeInternal, "unexpected fault").Wrap(err)
}

// newProblem renders an error as the answer to a request.
func newProblem(e *flowfabric.Error, instance, requestID string) *wire.Problem {
	p := wire.NewProblem(e)
	p.Instance, p.RequestID = instance, requestID
	if p.Detail == "" {
		p.Detail = p.Title
	}
	return p
}

// stamp completes the problem of an item of a batch, if there is one, with what
// tells the request.
func (c *call) stamp(p *wire.Problem) {
	if p != nil {
		p.Instance, p.RequestID = c.r.URL.Path, c.requestID
	}
}

// setRetryAfter sets the header in whole seconds. Answers of status 503 always
// have it.
func setRetryAfter(h http.Header, p *wire.Problem) {
	seconds := p.RetryAfterSeconds()
	if seconds == 0 && p.Status == http.StatusServiceUnavailable {
		seconds = 1
	}
	if seconds > 0 {
		h.Set(wire.HeaderRetryAfter, strconv.FormatInt(seconds, 10))
	}
}
