package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
)

const (
	// bodyReadTimeout bounds the reading of a request's body.
	bodyReadTimeout = 30 * time.Second
	// statusClientGone is counted for a client that went away before there was an
	// answer; nothing is sent.
	statusClientGone = 499
)

// call is one request on its way through the API. It is the ResponseWriter the
// handlers write to, so that every answer gets the headers all answers have, is
// counted and logged.
type call struct {
	api   *API
	to    *routing // where the request came in
	w     http.ResponseWriter
	r     *http.Request
	ctx   context.Context
	route *route
	who   *Principal
	// body is what was sent, bounded; nil when nothing was.
	body []byte

	requestID string
	start     time.Time
	status    int // 0 until the header is written
	failure   *flowfabric.Error
	bodyBuf   *bytes.Buffer
}

// buffers are reused for bodies in both directions. One that has grown beyond
// maxKeptBuffer is left to the collector.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const maxKeptBuffer = 1 << 20

func getBuffer() *bytes.Buffer { return buffers.Get().(*bytes.Buffer) }

func putBuffer(b *bytes.Buffer) {
	if b == nil || b.Cap() > maxKeptBuffer {
		return
	}
	b.Reset()
	buffers.Put(b)
}

// Header implements http.ResponseWriter.
func (c *call) Header() http.Header { return c.w.Header() }

// WriteHeader implements http.ResponseWriter. It adds what every answer has.
func (c *call) WriteHeader(status int) {
	if c.status != 0 {
		return
	}
	c.status = status
	h := c.w.Header()
	h["X-Request-Id"] = []string{c.requestID}
	h["Ff-Store-Time-Ms"] = []string{strconv.FormatInt(int64(c.api.now()), 10)}
	h["X-Content-Type-Options"] = nosniff
	if c.api.refusing.Load() {
		h["Connection"] = connectionClose
	}
	c.w.WriteHeader(status)
}

var (
	nosniff         = []string{"nosniff"}
	connectionClose = []string{"close"}
	jsonType        = []string{"application/json"}
	problemType     = []string{"application/problem+json"}
)

// Write implements http.ResponseWriter.
func (c *call) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	return c.w.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (c *call) Unwrap() http.ResponseWriter { return c.w }

// json answers with a JSON document.
func (c *call) json(status int, v any) error {
	buf := getBuffer()
	defer putBuffer(buf)
	if err := encodeJSON(buf, v); err != nil {
		return flowfabric.NewError(flowfabric.CodeInternal, "the answer cannot be encoded").Wrap(err)
	}
	c.send(status, jsonType, buf.Bytes())
	return nil
}

func encodeJSON(buf *bytes.Buffer, v any) error {
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// ok answers 200 with a JSON document.
func (c *call) ok(v any) error { return c.json(http.StatusOK, v) }

// uncached forbids every cache to keep the answer.
func (c *call) uncached() { c.Header().Set("Cache-Control", "no-store") }

// empty answers without a body.
func (c *call) empty(status int) error {
	c.WriteHeader(status)
	return nil
}

// raw answers with bytes as they are, to be kept rather than shown.
func (c *call) raw(payload []byte, encoding string) error {
	h := c.Header()
	h.Set("Content-Disposition", "attachment")
	if encoding != "" {
		h.Set("FF-Payload-Encoding", encoding)
	}
	c.send(http.StatusOK, []string{"application/octet-stream"}, payload)
	return nil
}

func (c *call) send(status int, mediaType []string, body []byte) {
	h := c.w.Header()
	h["Content-Type"] = mediaType
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.WriteHeader(status)
	if c.r.Method == http.MethodHead {
		return
	}
	_, _ = c.w.Write(body) // a client that has gone away is no fault of the call
}

// fail answers with a problem document, or, when the answer has begun, only
// notes the failure.
func (c *call) fail(err error) {
	e := asError(err)
	c.failure = e
	if c.status != 0 {
		return
	}
	if errors.Is(err, context.Canceled) && c.r.Context().Err() != nil && !c.api.refusing.Load() {
		c.status = statusClientGone
		return
	}
	p := newProblem(e, c.r.URL.Path, c.requestID)
	if e.Code == flowfabric.CodePayloadTooLarge && c.route != nil && p.Details["limit"] != nil {
		p.Details["limit_bytes"], p.Details["route"] = p.Details["limit"], c.route.pattern
	}
	setRetryAfter(c.w.Header(), p)
	buf := getBuffer()
	defer putBuffer(buf)
	if err := encodeJSON(buf, p); err != nil {
		p.Details = nil
		buf.Reset()
		_ = encodeJSON(buf, p) // strings and numbers only
	}
	c.send(p.Status, problemType, buf.Bytes())
}

// finish is deferred around the whole call: it answers a panic, counts and logs.
func (c *call) finish() {
	defer c.api.leave()
	if v := recover(); v != nil {
		c.panicked(v)
	}
	if c.status == 0 {
		c.status = statusClientGone
	}
	elapsed := time.Since(c.start)
	path := "unknown"
	if c.route != nil {
		path = c.route.pattern
	}
	c.api.metrics.request(c.r.Method, path, c.status, elapsed)
	putBuffer(c.bodyBuf)
	c.log(path, elapsed)
}

func (c *call) panicked(v any) {
	if v == http.ErrAbortHandler { //nolint:errorlint // the standard library compares it so
		panic(v)
	}
	c.api.log.LogAttrs(c.r.Context(), slog.LevelError, "handler panicked",
		slog.String("request_id", c.requestID), slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
	c.fail(flowfabric.NewError(flowfabric.CodeInternal, "unexpected fault"))
}

// log writes one line at debug, at warn for a fault of the server.
func (c *call) log(path string, elapsed time.Duration) {
	level := slog.LevelDebug
	if c.status >= 500 {
		level = slog.LevelWarn
	}
	ctx := c.r.Context()
	if !c.api.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request_id", c.requestID), slog.String("method", methodLabel(c.r.Method)), slog.String("route", path),
		slog.Int("status", c.status), slog.Duration("elapsed", elapsed),
	}
	if c.who != nil {
		attrs = append(attrs, slog.String("token", c.who.Name))
	}
	if c.failure != nil {
		attrs = append(attrs, slog.String("ff.error_code", string(c.failure.Code)))
		if c.status >= 500 {
			attrs = append(attrs, slog.String("error", c.failure.Error()))
		}
	}
	if id, ok := traceID(c.r.Header.Get("Traceparent")); ok {
		attrs = append(attrs, slog.String("trace_id", id))
	}
	c.api.log.LogAttrs(ctx, level, "request", attrs...)
}

// traceID returns the trace of a W3C traceparent header.
func traceID(h string) (string, bool) {
	parts := strings.Split(h, "-")
	if len(parts) < 4 || len(parts[0]) != 2 || len(parts[1]) != 32 || len(parts[2]) != 16 {
		return "", false
	}
	for i := 0; i < 32; i++ {
		if ch := parts[1][i]; (ch < '0' || ch > '9') && (ch < 'a' || ch > 'f') {
			return "", false
		}
	}
	return parts[1], parts[1] != strings.Repeat("0", 32)
}

// requestID returns the caller's correlation id when it is 1..128 visible ASCII
// characters, else a fresh one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > 128 {
		return uuid.NewString()
	}
	for i := 0; i < len(id); i++ {
		if id[i] < 0x21 || id[i] > 0x7E {
			return uuid.NewString()
		}
	}
	return id
}

// hasBody reports whether the request brings a body.
func (c *call) hasBody() bool {
	return c.r.ContentLength != 0 && c.r.Body != nil && c.r.Body != http.NoBody
}

// readBody does steps 6 to 8 of the order of checks: declared length, media
// type, and the body itself, bounded whatever was declared.
func (c *call) readBody() error {
	limit := int64(c.route.limit)
	if c.r.ContentLength > limit {
		return c.tooLarge()
	}
	if !c.hasBody() {
		return nil
	}
	if err := checkMediaType(c.r.Header); err != nil {
		return err
	}
	control := http.NewResponseController(c.w)
	_ = control.SetReadDeadline(time.Now().Add(bodyReadTimeout)) // a recorder in a test has no deadline to set
	c.bodyBuf = getBuffer()
	if n := c.r.ContentLength; n > 0 {
		c.bodyBuf.Grow(int(min(n, maxKeptBuffer))) // a length is only a claim
	}
	n, err := c.bodyBuf.ReadFrom(io.LimitReader(c.r.Body, limit+1))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return c.tooLarge()
		}
		return flowfabric.InvalidInput("body", "cannot be read to its end").Wrap(err)
	}
	_ = control.SetReadDeadline(time.Time{})
	if n > limit {
		return c.tooLarge()
	}
	c.body = c.bodyBuf.Bytes()
	return nil
}

func (c *call) tooLarge() error {
	// What is left of the body would have to be read before the connection could
	// be used again.
	c.Header().Set("Connection", "close")
	return flowfabric.NewError(flowfabric.CodePayloadTooLarge, "the body is over %d bytes", c.route.limit).
		With("limit_bytes", int64(c.route.limit)).With("route", c.route.pattern)
}

func checkMediaType(h http.Header) error {
	unsupported := func(what, value string) error {
		return flowfabric.NewError(flowfabric.CodeUnsupportedMediaType, "%s must be %s", what, value).With("field", what)
	}
	if coding := h.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return unsupported("Content-Encoding", "identity")
	}
	media := h.Get("Content-Type")
	if media == "application/json" {
		return nil
	}
	media, params, _ := strings.Cut(media, ";")
	if !strings.EqualFold(strings.TrimSpace(media), "application/json") {
		return unsupported("Content-Type", "application/json")
	}
	if params = strings.TrimSpace(params); params == "" {
		return nil
	}
	name, value, _ := strings.Cut(params, "=")
	if !strings.EqualFold(strings.TrimSpace(name), "charset") || !strings.EqualFold(strings.Trim(strings.TrimSpace(value), `"`), "utf-8") {
		return unsupported("Content-Type", "application/json")
	}
	return nil
}

// waiting returns a context for an operation that waits: it ends with the
// request, and when the server begins to answer its long polls early.
func (c *call) waiting() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(c.ctx)
	stop := context.AfterFunc(c.api.draining, cancel)
	return ctx, func() { stop(); cancel() }
}

// cutShort reports that an operation begun with waiting ended because the server
// is shutting down, not because the client went away.
func (c *call) cutShort(err error) bool {
	return err != nil && c.api.draining.Err() != nil && c.ctx.Err() == nil
}
