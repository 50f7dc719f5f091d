package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// How idempotent calls are repeated. (Specification 08, section 5.6.)
const (
	maxRepeats  = 3
	firstPause  = 100 * time.Millisecond
	longestRest = 30 * time.Second // a server that asks for more gets the error back at once
)

// maxAnswer bounds what is read of an answer: a hundred tasks of full size fit.
const maxAnswer = 256 << 20

// call is one operation on its way to the server.
type call struct {
	op     string // snake_case, for errors
	method string
	path   string
	query  url.Values
	body   any // nil: none
	// repeat allows automatic repeats.
	repeat bool
	// read tells that the call changes nothing: when its answer is lost, nothing
	// is unknown.
	read bool
	// wait is how long the server may hold the call back by itself.
	wait int64
	// limit bounds the call besides, when positive.
	limit time.Duration
}

func get(op, path string, query url.Values) call {
	return call{op: op, method: http.MethodGet, path: path, query: query, repeat: true, read: true}
}

func post(op, path string, body any) call {
	return call{op: op, method: http.MethodPost, path: path, body: body}
}

func put(op, path string, body any) call {
	return call{op: op, method: http.MethodPut, path: path, body: body}
}

func remove(op, path string, query url.Values) call {
	return call{op: op, method: http.MethodDelete, path: path, query: query}
}

// idempotent allows automatic repeats.
func (c call) idempotent() call {
	c.repeat = true
	return c
}

// answer is a server's answer of status 2xx, its body read.
type answer struct {
	status int
	header http.Header
}

// storeTime is the store's now at the answer, 0 when the server does not tell.
func (a answer) storeTime() flowfabric.Millis {
	n, _ := strconv.ParseInt(a.header.Get(wire.HeaderStoreTime), 10, 64)
	return flowfabric.Millis(n)
}

func (a answer) more() bool { return a.header.Get(wire.HeaderMoreCandidates) == "true" }

// do makes a call and decodes its answer into out, which may be nil. An answer
// 204 leaves out as it is.
func (b *Backend) do(ctx context.Context, c call, out any) (answer, error) {
	return b.take(ctx, c, func(status int, body []byte) error {
		if out == nil || status == http.StatusNoContent {
			return nil
		}
		return wire.UnmarshalResponse(body, out)
	})
}

// take makes a call and hands the body of a good answer to read, which must not
// keep it.
func (b *Backend) take(ctx context.Context, c call, read func(status int, body []byte) error) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, err
	}
	body, err := c.encode()
	if err != nil {
		return answer{}, flowfabric.InvalidInput("body", "does not encode").Wrap(err)
	}
	limited, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	stop := context.AfterFunc(b.closing, cancel)
	defer stop()

	for n := 0; ; n++ {
		a, err := b.once(limited, c, body, read)
		if err == nil {
			return a, nil
		}
		if over := b.over(ctx); over != nil {
			return a, over
		}
		if !c.repeat || !passing(err) {
			return a, err
		}
		rest, ok := b.rest(n, err)
		if !ok || n == maxRepeats {
			return a, givenUp(err, n)
		}
		b.log.Debug("repeating a call", "op", c.op, "repeat", n+1, "pause", rest, "error", err)
		if b.pause(limited, rest) != nil {
			if over := b.over(ctx); over != nil {
				return a, over
			}
			return a, givenUp(err, n)
		}
	}
}

// givenUp notes in a fault how often the call was repeated, so that nobody above
// repeats it as often once more.
func givenUp(err error, repeats int) error {
	flowfabric.AsError(err).With("repeats", repeats)
	return err
}

// encode makes the body; one that is JSON already is taken as it is. Nothing is
// escaped that need not be: what the engine's limits allow fits the route's.
func (c call) encode() ([]byte, error) {
	switch body := c.body.(type) {
	case nil:
		return nil, nil
	case json.RawMessage:
		return body, nil
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(c.body); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(body.Bytes(), []byte("\n")), nil
}

// over returns the caller's own end, or that of the backend.
func (b *Backend) over(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.closing.Err() != nil {
		return flowfabric.NewError(flowfabric.CodeShuttingDown, "the backend is closed")
	}
	return nil
}

// passing reports a fault that a short rest may mend: of the transport, or a
// limit on calls. A retryable refusal of the operation itself, such as
// lease_conflict, is the caller's to judge.
func passing(err error) bool {
	e := flowfabric.AsError(err)
	return e != nil && e.Retryable && (e.Class == flowfabric.ClassRetryableTransport || e.Class == flowfabric.ClassCapacity)
}

func (c call) timeout() time.Duration {
	switch {
	case c.limit > 0:
		return c.limit
	case c.wait > 0:
		return time.Duration(c.wait)*time.Millisecond + waitMargin
	}
	return CallTimeout
}

// rest is how long to wait before repeat n, and whether waiting is worth it.
func (b *Backend) rest(n int, err error) (time.Duration, bool) {
	if e := flowfabric.AsError(err); e.RetryAfter > 0 {
		return e.RetryAfter, e.RetryAfter <= longestRest
	}
	return time.Duration(b.jitter(int64(firstPause << n))), true
}

func fullJitter(n int64) int64 { return rand.Int64N(n + 1) }

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// once sends a request and reads its answer.
func (b *Backend) once(ctx context.Context, c call, body []byte, read func(int, []byte) error) (answer, error) {
	request, err := b.request(ctx, c, body)
	if err != nil {
		return answer{}, flowfabric.NewError(flowfabric.CodeInternal, "the request can't be made").Wrap(err)
	}
	response, err := b.client.Do(request)
	if err != nil {
		return answer{}, c.sendError(err)
	}
	defer response.Body.Close()
	a := answer{status: response.StatusCode, header: response.Header}

	buf := buffers.Get().(*bytes.Buffer)
	defer release(buf)
	n, err := buf.ReadFrom(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return a, c.sendError(err)
	case n > maxAnswer:
		return a, c.fault("the answer is over %d bytes", maxAnswer)
	case a.status < 200 || a.status > 299:
		return a, c.problem(a, buf.Bytes())
	}
	if err := read(a.status, buf.Bytes()); err != nil {
		return a, c.fault("the answer can't be read").Wrap(err)
	}
	return a, nil
}

func (b *Backend) request(ctx context.Context, c call, body []byte) (*http.Request, error) {
	target := b.base + c.path
	if len(c.query) > 0 {
		target += "?" + c.query.Encode()
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, c.method, target, reader)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", wire.MediaJSON)
	}
	if b.token.text != "" {
		request.Header.Set("Authorization", b.token.text)
	}
	return request, nil
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxPooledBuffer keeps rare large answers from staying in memory.
const maxPooledBuffer = 4 << 20

func release(buf *bytes.Buffer) {
	if buf.Cap() > maxPooledBuffer {
		return
	}
	buf.Reset()
	buffers.Put(buf)
}

// checkID checks an execution's identifier before it becomes a part of a path.
func checkID(id flowfabric.ExecutionID) error {
	_, err := flowfabric.ParseExecutionID(string(id))
	return err
}

func isCode(err error, codes ...flowfabric.Code) bool {
	for _, code := range codes {
		if flowfabric.CodeOf(err) == code {
			return true
		}
	}
	return false
}

// unsupported is the error of an operation without a route.
func unsupported(op, format string, args ...any) error {
	e := flowfabric.NewError(flowfabric.CodeUnsupportedOperation, format, args...).With("operation", op).With("backend", Family)
	e.Op = op
	return e
}
