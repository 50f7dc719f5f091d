package api

import (
	"net/http"
	"net/url"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

func feedRoutes() []*route {
	filters := []param{
		{name: "cursor", kind: "string", doc: "earliest, latest (default) or a cursor."},
		{name: "partition", kind: "integer", repeated: true, doc: "Only these partitions."},
		{name: "namespace", kind: "string"}, tagParam, {name: "flow_id", kind: "string"}, {name: "execution_id", kind: "string"},
		{name: "lane_id", kind: "string"}, {name: "kinds", kind: "string", repeated: true, doc: "Any of them; commas separate as well."},
	}
	once := append([]param{
		{name: "limit", kind: "integer", doc: "1..1000, default 100."},
		{name: "block_ms", kind: "integer", doc: "0..30000: how long to wait for a first event; default 0."},
	}, filters...)
	codes := []flowfabric.Code{flowfabric.CodeInvalidCursor, flowfabric.CodeNamespaceForbidden, flowfabric.CodeResourceExhausted}
	return []*route{
		{
			id: "read_feed", method: http.MethodGet, pattern: wire.RouteFeed, scopes: ScopeRead,
			summary: "One batch of a feed's events.", query: once, codes: codes,
			endpoint: serves[none, wire.FeedResponse](readFeed),
		},
		{
			id: "stream_feed", method: http.MethodGet, pattern: wire.RouteFeedSSE, scopes: ScopeRead, stream: true,
			summary: "A feed's events as server-sent events, resumed by Last-Event-ID.", query: filters, codes: codes,
			endpoint: endpoint{handle: streamFeed, media: "text/event-stream"},
		},
	}
}

// feedArgs reads what a feed's two routes have in common.
func (c *call) feedArgs() (flowfabric.ReadFeedArgs, error) {
	query, err := c.query()
	if err != nil {
		return flowfabric.ReadFeedArgs{}, err
	}
	if c.route.stream {
		resumeByEventID(query, c.r.Header)
	}
	args, err := wire.ParseReadFeed(flowfabric.Feed(c.r.PathValue("feed")), query)
	if err != nil {
		return args, err
	}
	if err := c.name(args.Filter.Namespace); err != nil {
		return args, err
	}
	args.Filter.Namespaces = c.who.Namespaces
	return args, nil
}

// resumeByEventID lets the header win over the cursor of the query.
func resumeByEventID(query url.Values, h http.Header) {
	if id := h.Get("Last-Event-ID"); id != "" {
		query.Set("cursor", id)
	}
}

func readFeed(c *call) error {
	args, err := c.feedArgs()
	if err != nil {
		return err
	}
	if args.BlockMs > 0 {
		release, err := c.api.subscriptions.acquire()
		if err != nil {
			return err
		}
		defer release()
	}
	ctx, cancel := c.waiting()
	defer cancel()
	r, err := c.api.backend.ReadFeed(ctx, args)
	if c.cutShort(err) {
		args.BlockMs = 0
		r, err = c.api.backend.ReadFeed(c.ctx, args)
	}
	if err != nil {
		return err
	}
	return c.ok(wire.NewFeedResponse(r))
}
