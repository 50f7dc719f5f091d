package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// The kinds of store faults that arise here.
const (
	kindTransport = "transport"
	kindProtocol  = "protocol"
	kindTimeout   = "timeout"
)

// sendError is the error of a request without an answer. A change that may have
// reached the server is outcome_unknown; nothing is unknown of a read, nor of a
// request for which no connection came about.
func (c call) sendError(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	kind := kindTransport
	if timedOut(err) {
		kind = kindTimeout
	}
	switch {
	case untrusted(err):
		return c.fault("no trusted connection to the server").Wrap(err)
	case notSent(err):
		return c.error(flowfabric.CodeStoreUnavailable, "no connection to the server").WithKind(kind).Wrap(err)
	case !c.read:
		return c.error(flowfabric.CodeOutcomeUnknown, "the answer of the server is lost").WithKind(kind).Wrap(err)
	case kind == kindTimeout:
		return c.error(flowfabric.CodeStoreTimeout, "the server did not answer in time").WithKind(kind).Wrap(err)
	}
	return c.error(flowfabric.CodeStoreUnavailable, "the answer of the server is lost").WithKind(kind).Wrap(err)
}

func (c call) error(code flowfabric.Code, format string, args ...any) *flowfabric.Error {
	e := flowfabric.NewError(code, format, args...)
	e.Op = c.op
	return e
}

// fault is an answer that makes no sense: asking again would not help.
func (c call) fault(format string, args ...any) *flowfabric.Error {
	return c.error(flowfabric.CodeStoreFault, format, args...).WithKind(kindProtocol)
}

func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// notSent reports that no byte of the request left: the connection failed.
func notSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect")
}

// untrusted reports a fault of TLS that no repeat would mend.
func untrusted(err error) bool {
	var (
		verify *tls.CertificateVerificationError
		record tls.RecordHeaderError
		host   x509.HostnameError
		root   x509.UnknownAuthorityError
	)
	return errors.As(err, &verify) || errors.As(err, &record) || errors.As(err, &host) || errors.As(err, &root)
}

// problem is the error that an answer describes, by its problem document or,
// without one, by its status. (Specification 08, section 5.6.)
func (c call) problem(a answer, body []byte) error {
	var p wire.Problem
	if strings.Contains(a.header.Get("Content-Type"), "json") && wire.UnmarshalResponse(body, &p) == nil && p.Code != "" && p.Class != "" {
		e := p.Err()
		e.Op = c.op
		if e.RetryAfter <= 0 {
			e.RetryAfter = retryAfter(a.header)
		}
		return e
	}
	e := c.error(c.statusCode(a.status), "the server answered %d %s", a.status, http.StatusText(a.status)).With("status", a.status)
	if e.Code == flowfabric.CodeStoreFault {
		e.Kind = kindProtocol
	}
	if e.Class == flowfabric.ClassRetryableTransport {
		e.Kind = kindTransport
	}
	e.RetryAfter = retryAfter(a.header)
	return e
}

// statusCode is the code for a status without a problem document: retryable for
// 429, 502, 503 and 504 only. What a proxy answers with one of the last three
// may stand for a change that was made.
func (c call) statusCode(status int) flowfabric.Code {
	switch status {
	case http.StatusTooManyRequests:
		return flowfabric.CodeClientRateLimited
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if !c.read {
			return flowfabric.CodeOutcomeUnknown
		}
		if status == http.StatusGatewayTimeout {
			return flowfabric.CodeStoreTimeout
		}
		return flowfabric.CodeStoreUnavailable
	case http.StatusUnauthorized:
		return flowfabric.CodeUnauthenticated
	case http.StatusForbidden:
		return flowfabric.CodeInsufficientScope
	case http.StatusNotFound:
		return flowfabric.CodeRouteNotFound
	case http.StatusMethodNotAllowed:
		return flowfabric.CodeMethodNotAllowed
	case http.StatusRequestEntityTooLarge:
		return flowfabric.CodePayloadTooLarge
	case http.StatusUnsupportedMediaType:
		return flowfabric.CodeUnsupportedMediaType
	}
	return flowfabric.CodeStoreFault
}

// retryAfter reads the header Retry-After, in seconds or as a date; 0 without
// one.
func retryAfter(h http.Header) time.Duration {
	text := h.Get(wire.HeaderRetryAfter)
	if text == "" {
		return 0
	}
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(max(n, 0)) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return max(time.Until(at), 0)
}
