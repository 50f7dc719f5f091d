package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
)

// maxRetryAfterMs is a year: more would not fit a duration.
const maxRetryAfterMs = 365 * 24 * 3_600_000

// ProblemType is the prefix of a problem's type; the code follows.
const ProblemType = "urn:flowfabric:error:"

// Problem is the RFC 9457 document of an error. (Specification 08, section 2.3.)
type Problem struct {
	Type         string           `json:"type" doc:"urn:flowfabric:error: and the code."`
	Title        string           `json:"title" doc:"Fixed short phrase for the code."`
	Status       int              `json:"status" doc:"The HTTP status; of a batch item, the status it would have alone."`
	Detail       string           `json:"detail,omitempty" doc:"Human text for this occurrence."`
	Instance     string           `json:"instance,omitempty" doc:"The request's path."`
	Code         flowfabric.Code  `json:"code" doc:"Stable snake_case code."`
	Class        flowfabric.Class `json:"class" doc:"How a caller reacts."`
	Retryable    bool             `json:"retryable" doc:"Whether this very request, sent again unchanged, may succeed."`
	RetryAfterMs int64            `json:"retry_after_ms,omitempty" doc:"How long to wait before trying again."`
	Kind         string           `json:"kind,omitempty" doc:"Of a store fault: transport, protocol, timeout, auth, cluster, busy_loading, script_not_loaded or other."`
	RequestID    string           `json:"request_id,omitempty" doc:"Correlation id."`
	Details      Details          `json:"details,omitempty" doc:"Facts specific to the code."`
}

// Details are the facts of a problem. Decoded, integral numbers are int64, other
// numbers float64, and lists of strings are []string, as the engine makes them.
type Details map[string]any

// UnmarshalJSON decodes the object and keeps integers exact.
func (d *Details) UnmarshalJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return err
	}
	for k, v := range m {
		m[k] = native(v)
	}
	*d = m
	return nil
}

func native(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil { // beyond float64
			return v.String()
		}
		return f
	case []any:
		return nativeList(v)
	case map[string]any:
		for k, e := range v {
			v[k] = native(e)
		}
	}
	return v
}

func nativeList(list []any) any {
	texts := make([]string, 0, len(list))
	for i, e := range list {
		if s, ok := e.(string); ok {
			texts = append(texts, s)
		}
		list[i] = native(e)
	}
	if len(texts) == len(list) {
		return texts
	}
	return list
}

// fieldOnWire has the name in a body of what a record names otherwise.
var fieldOnWire = map[string]string{"failure_category": "category", "result": "payload", "result_encoding": "payload_encoding"}

// NewProblem makes the document of an error. An error of another type becomes
// internal, a context past its deadline store_timeout, a cancelled one
// store_unavailable; their texts, and every cause, stay inside the process.
func NewProblem(err error) *Problem {
	e := flowfabric.AsError(err)
	switch {
	case e != nil:
	case errors.Is(err, context.DeadlineExceeded):
		e = flowfabric.NewError(flowfabric.CodeStoreTimeout, "the call took too long").WithKind("timeout")
	case errors.Is(err, context.Canceled):
		e = flowfabric.NewError(flowfabric.CodeStoreUnavailable, "the call was given up")
	default:
		e = flowfabric.NewError(flowfabric.CodeInternal, "unexpected fault")
	}
	info, known := e.Code.Info()
	if !known {
		info = flowfabric.CodeInfo{Title: strings.ReplaceAll(string(e.Code), "_", " ")}
	}
	p := &Problem{
		Type:      ProblemType + string(e.Code),
		Title:     info.Title,
		Status:    info.Status,
		Detail:    e.Message,
		Code:      e.Code,
		Class:     e.Class,
		Retryable: e.Retryable,
		Kind:      e.Kind,
		Details:   maps.Clone(e.Details),
	}
	if field, _ := e.Detail("field").(string); fieldOnWire[field] != "" {
		p.Details["field"] = fieldOnWire[field]
	}
	if p.Status == 0 {
		p.Status = classStatus(e.Class)
	}
	if e.RetryAfter > 0 {
		p.RetryAfterMs = max(1, e.RetryAfter.Milliseconds())
	}
	return p
}

// Err returns the error the document describes, equal in code, class,
// retryability, kind, details and retry time to the one it was made of.
func (p *Problem) Err() *flowfabric.Error {
	e := &flowfabric.Error{
		Code:       p.Code,
		Class:      p.Class,
		Retryable:  p.Retryable,
		Kind:       p.Kind,
		Message:    p.Detail,
		RetryAfter: time.Duration(min(max(p.RetryAfterMs, 0), maxRetryAfterMs)) * time.Millisecond,
	}
	if len(p.Details) > 0 {
		e.Details = p.Details
	}
	return e
}

// RetryAfterSeconds is the value of the header Retry-After: whole seconds,
// rounded up, at least 1; 0 when the problem names no time.
func (p *Problem) RetryAfterSeconds() int64 {
	if p.RetryAfterMs <= 0 {
		return 0
	}
	return (p.RetryAfterMs + 999) / 1000
}

// itemError is Err as an error, nil for a nil problem.
func itemError(p *Problem) error {
	if p == nil {
		return nil
	}
	return p.Err()
}

func itemProblem(err error) *Problem {
	if err == nil {
		return nil
	}
	return NewProblem(err)
}

// classStatus is the status of a code that the table gives none, since it is not
// meant to cross HTTP.
func classStatus(c flowfabric.Class) int {
	switch c {
	case flowfabric.ClassInvalidInput:
		return http.StatusBadRequest
	case flowfabric.ClassUnauthorized:
		return http.StatusForbidden
	case flowfabric.ClassNotFound:
		return http.StatusNotFound
	case flowfabric.ClassConflict, flowfabric.ClassStaleOwner, flowfabric.ClassAlreadyDone, flowfabric.ClassAdmissionDenied:
		return http.StatusConflict
	case flowfabric.ClassCapacity:
		return http.StatusTooManyRequests
	case flowfabric.ClassExpired:
		return http.StatusGone
	case flowfabric.ClassRetryableTransport:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
