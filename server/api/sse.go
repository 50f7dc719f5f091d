package api

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Limits of event streams. (Specification 04, section 7.)
const (
	sseStall = 30 * time.Second // a socket that accepts nothing for so long is closed
	sseLife  = time.Hour        // give or take a tenth
	sseBatch = 256
)

// events writes server-sent events.
type events struct {
	c       *call
	control *http.ResponseController
	buf     bytes.Buffer
	lastID  string
}

// newEvents begins the answer.
func newEvents(c *call) (*events, error) {
	h := c.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	e := &events{c: c, control: http.NewResponseController(c)}
	c.WriteHeader(http.StatusOK)
	e.buf.WriteString("retry: 2000\n\n")
	return e, e.flush()
}

// event adds one event; id "" sets none. data is encoded as one line of JSON.
func (e *events) event(name, id string, data any) error {
	e.buf.WriteString("event: ")
	e.buf.WriteString(name)
	e.buf.WriteByte('\n')
	e.id(id)
	e.buf.WriteString("data: ")
	if err := encodeJSON(&e.buf, data); err != nil { // ends with a line feed
		return err
	}
	e.buf.WriteByte('\n')
	return nil
}

func (e *events) id(id string) {
	if id == "" {
		return
	}
	e.buf.WriteString("id: ")
	e.buf.WriteString(id)
	e.buf.WriteByte('\n')
	e.lastID = id
}

// heartbeat is a comment, with the cursor, so that filtered progress is kept.
func (e *events) heartbeat(cursor string) {
	e.buf.WriteString(": keep-alive\n")
	e.id(cursor)
	e.buf.WriteByte('\n')
}

// goodbye adds the last event of a connection; it carries the resume id when that
// differs from the last one sent.
func (e *events) goodbye(name, cursor string) error {
	if cursor == e.lastID {
		cursor = ""
	}
	if err := e.event(name, cursor, struct{}{}); err != nil {
		return err
	}
	return e.flush()
}

// flush sends what was added.
func (e *events) flush() error {
	_ = e.control.SetWriteDeadline(time.Now().Add(sseStall)) // a recorder in a test has no deadline to set
	_, err := e.c.Write(e.buf.Bytes())
	e.buf.Reset()
	if err != nil {
		return err
	}
	return e.control.Flush()
}

// failed is the event of an error after the first byte.
type failed struct {
	Code    flowfabric.Code  `json:"code"`
	Class   flowfabric.Class `json:"class"`
	Message string           `json:"message"`
}

func streamFeed(c *call) error {
	args, err := c.feedArgs()
	if err != nil {
		return err
	}
	args.Limit, args.BlockMs = sseBatch, 0
	release, err := c.api.subscriptions.acquire()
	if err != nil {
		return err
	}
	defer release()
	// The first look tells what is wrong with the cursor or the filter, while the
	// answer can still be an error, and fixes where "latest" is.
	batch, err := c.api.backend.ReadFeed(c.ctx, args)
	if err != nil {
		return err
	}
	c.api.metrics.sseClients.Inc()
	defer c.api.metrics.sseClients.Dec()
	e, err := newEvents(c)
	if err != nil {
		return nil // the client went away
	}
	return e.feed(args, batch)
}

// feed writes batch after batch until the client goes away, the server shuts
// down, the store fails, or the connection is old.
func (e *events) feed(args flowfabric.ReadFeedArgs, batch flowfabric.ReadFeedResult) error {
	ctx, cancel := e.c.waiting()
	defer cancel()
	end := time.Now().Add(sseLife - sseLife/10 + rand.N(sseLife/5))
	for {
		if err := e.batch(args.Feed, batch); err != nil {
			return nil // the client went away
		}
		args.Start = batch.NextCursor
		left := time.Until(end)
		if left <= 0 {
			_ = e.goodbye("reconnect", args.Start) // the client may have gone away
			return nil
		}
		args.BlockMs = max(1, min(e.c.api.opt.Heartbeat, left).Milliseconds())
		var err error
		batch, err = e.c.api.backend.ReadFeed(ctx, args)
		switch {
		case e.c.ctx.Err() != nil:
			return nil
		case e.c.api.draining.Err() != nil:
			_ = e.goodbye("shutdown", args.Start) // the client may have gone away
			return nil
		case err != nil:
			return e.broken(err)
		}
	}
}

// batch writes what one read gave: gaps, events, and the cursor with the last of
// them; a heartbeat when there is nothing.
func (e *events) batch(feed flowfabric.Feed, r flowfabric.ReadFeedResult) error {
	if len(r.Gaps) == 0 && len(r.Events) == 0 {
		e.heartbeat(r.NextCursor)
		return e.flush()
	}
	for i := range r.Gaps {
		id := ""
		if i == len(r.Gaps)-1 && len(r.Events) == 0 {
			id = r.NextCursor
		}
		if err := e.event("gap", id, &r.Gaps[i]); err != nil {
			return err
		}
	}
	for i := range r.Events {
		id := ""
		if i == len(r.Events)-1 {
			id = r.NextCursor
		}
		if err := e.event(string(feed), id, &r.Events[i]); err != nil {
			return err
		}
	}
	return e.flush()
}

// broken tells of an error after the first byte and ends the connection. Behind
// an event that does not decode the feed can go on: the error carries the cursor
// to go on with.
func (e *events) broken(err error) error {
	fault := asError(err)
	behind := ""
	if fault.Code == flowfabric.CodeCorruptRecord {
		behind, _ = fault.Detail("cursor").(string)
	}
	if werr := e.event("error", behind, failed{fault.Code, fault.Class, fault.Message}); werr == nil {
		_ = e.flush() // the client may have gone away
	}
	return err
}
