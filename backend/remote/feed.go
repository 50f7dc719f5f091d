package remote

import (
	"context"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// ReadFeed reads one batch of a feed.
func (b *Backend) ReadFeed(ctx context.Context, a flowfabric.ReadFeedArgs) (flowfabric.ReadFeedResult, error) {
	switch a.Feed {
	case flowfabric.FeedCompletions, flowfabric.FeedLeases, flowfabric.FeedSignals, flowfabric.FeedTags:
	default:
		return flowfabric.ReadFeedResult{}, flowfabric.InvalidInput("feed", "%q is no feed", string(a.Feed))
	}
	var keep visible
	a.Filter.Namespace, keep = visibleIn(a.Filter.Namespace, a.Filter.Namespaces)
	c := get("read_feed", wire.Path(wire.RouteFeed, string(a.Feed)), wire.ReadFeedQuery(a))
	c.wait = a.BlockMs
	var r wire.FeedResponse
	if _, err := b.do(ctx, c, &r); err != nil {
		return flowfabric.ReadFeedResult{}, err
	}
	out := r.Result()
	out.Events = only(out.Events, keep, func(e flowfabric.Event) flowfabric.Namespace { return e.Namespace })
	return out, nil
}
