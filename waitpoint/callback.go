package waitpoint

import (
	"mime"
	"net/http"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// HeaderToken is the header that carries a waitpoint's token.
const HeaderToken = wire.HeaderWaitpointToken

// DecodeCallback reads a request as the engine's own callback route does: the
// execution and the waitpoint are the path values execution_id and waitpoint_id,
// or without those the last two segments of the path; the token is in the header
// FF-Waitpoint-Token or in the field waitpoint_token of the body, never in the
// URL. The body is a JSON object of which every field is optional:
// signal_name (callback), source_identity (callback), payload (base64),
// payload_encoding, correlation_id, idempotency_key. The source type is webhook
// and the category callback. (Specification 08, section 4.4.)
func DecodeCallback(r *http.Request) (flowfabric.DeliverSignalArgs, error) {
	var args flowfabric.DeliverSignalArgs
	execution, waitpoint := target(r)
	id, err := flowfabric.ParseExecutionID(execution)
	if err != nil {
		return args, err
	}
	if err := flowfabric.ValidateUUID("waitpoint_id", waitpoint); err != nil {
		return args, err
	}
	var body wire.CallbackRequest
	if err := readBody(r, &body); err != nil {
		return args, err
	}
	tokens := r.Header.Values(HeaderToken)
	switch len(tokens) {
	case 0:
		tokens = []string{""}
	case 1:
	default:
		return args, flowfabric.InvalidInput(HeaderToken, "is given more than once")
	}
	return body.Args(id, flowfabric.WaitpointID(waitpoint), tokens[0])
}

// target returns the execution and the waitpoint a request's path names.
func target(r *http.Request) (execution, waitpoint string) {
	execution, waitpoint = r.PathValue("execution_id"), r.PathValue("waitpoint_id")
	if execution != "" && waitpoint != "" {
		return execution, waitpoint
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) < 2 {
		return "", ""
	}
	return parts[len(parts)-2], parts[len(parts)-1]
}

// readBody decodes a body of JSON; none stands for an empty object.
func readBody(r *http.Request, body *wire.CallbackRequest) error {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != wire.MediaJSON {
		return flowfabric.NewError(flowfabric.CodeUnsupportedMediaType, "Content-Type must be %s", wire.MediaJSON).With("field", "Content-Type")
	}
	return wire.Decode(r.Body, MaxBodyBytes, body)
}
