package wire

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// FeedStartLatest is the cursor that stands for [flowfabric.FeedStartNow] over
// HTTP.
const FeedStartLatest = "latest"

// FeedResponse is the answer of GET /v1/feeds/{feed}. (Specification 04, section
// 5.3.)
type FeedResponse struct {
	Events     []flowfabric.Event `json:"events"`
	Gaps       []flowfabric.Gap   `json:"gaps" doc:"Losses by retention; their numbers ignore the filter."`
	NextCursor string             `json:"next_cursor" doc:"Always set."`
	HasMore    bool               `json:"has_more"`
}

// NewFeedResponse makes the answer to a read of a feed.
func NewFeedResponse(r flowfabric.ReadFeedResult) FeedResponse {
	return FeedResponse{Events: nonNil(r.Events), Gaps: nonNil(r.Gaps), NextCursor: r.NextCursor, HasMore: r.HasMore}
}

// Result returns the contract's result, partition and number of every event
// taken from its id.
func (r FeedResponse) Result() flowfabric.ReadFeedResult {
	for i := range r.Events {
		r.Events[i].Partition, r.Events[i].Seq = splitEventID(r.Events[i].EventID)
	}
	return flowfabric.ReadFeedResult{Events: r.Events, Gaps: r.Gaps, NextCursor: r.NextCursor, HasMore: r.HasMore}
}

func splitEventID(id string) (partition uint16, seq uint64) {
	p, s, ok := strings.Cut(id, "-")
	if !ok {
		return 0, 0
	}
	n, _ := strconv.ParseUint(p, 10, 16)
	seq, _ = strconv.ParseUint(s, 10, 64)
	return uint16(n), seq
}

// ReadFeedQuery returns the parameters of GET /v1/feeds/{feed}.
func ReadFeedQuery(a flowfabric.ReadFeedArgs) url.Values {
	q := url.Values{}
	if a.Start != "" && a.Start != flowfabric.FeedStartNow {
		q.Set("cursor", a.Start)
	}
	for _, p := range a.Partitions {
		q.Add("partition", strconv.Itoa(int(p)))
	}
	setInt(q, "limit", a.Limit)
	setInt(q, "block_ms", a.BlockMs)
	setText(q, "namespace", a.Filter.Namespace)
	setText(q, "flow_id", a.Filter.FlowID)
	setText(q, "execution_id", a.Filter.ExecutionID)
	setText(q, "lane_id", a.Filter.LaneID)
	setTags(q, a.Filter.Tags)
	for _, k := range a.Filter.Kinds {
		q.Add("kinds", k)
	}
	return q
}

// ParseReadFeed reads the parameters of GET /v1/feeds/{feed} and of its SSE
// form. kinds may be repeated or hold a list with commas.
func ParseReadFeed(feed flowfabric.Feed, q url.Values) (flowfabric.ReadFeedArgs, error) {
	a := flowfabric.ReadFeedArgs{Feed: feed}
	var err error
	if a.Start, err = QueryText(q, "cursor"); err != nil {
		return a, err
	}
	if a.Start == "" || a.Start == FeedStartLatest {
		a.Start = flowfabric.FeedStartNow
	}
	for _, text := range q["partition"] {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return a, flowfabric.InvalidInput("partition", "must be 0..65535")
		}
		a.Partitions = append(a.Partitions, uint16(n))
	}
	if a.Limit, err = QueryLimit(q, flowfabric.MaxFeedLimit); err != nil {
		return a, err
	}
	if a.BlockMs, _, err = QueryInt(q, "block_ms", 0, flowfabric.MaxWaitMs); err != nil {
		return a, err
	}
	a.Filter, err = parseFeedFilter(q)
	return a, err
}

// checkFeedFilter refuses ids that do not parse, which no event could have.
func checkFeedFilter(f flowfabric.FeedFilter) error {
	if f.Namespace != "" {
		if err := f.Namespace.Validate(); err != nil {
			return err
		}
	}
	if f.LaneID != "" {
		if err := f.LaneID.Validate(); err != nil {
			return err
		}
	}
	if f.FlowID != "" {
		if err := flowfabric.ValidateUUID("flow_id", string(f.FlowID)); err != nil {
			return err
		}
	}
	if f.ExecutionID == "" {
		return nil
	}
	_, err := flowfabric.ParseExecutionID(string(f.ExecutionID))
	return err
}

func parseFeedFilter(q url.Values) (f flowfabric.FeedFilter, err error) {
	for _, p := range []struct {
		name string
		set  func(string)
	}{
		{"namespace", func(s string) { f.Namespace = flowfabric.Namespace(s) }},
		{"flow_id", func(s string) { f.FlowID = flowfabric.FlowID(s) }},
		{"lane_id", func(s string) { f.LaneID = flowfabric.LaneID(s) }},
		{"execution_id", func(s string) { f.ExecutionID = flowfabric.ExecutionID(s) }},
	} {
		text, err := QueryFilter(q, p.name)
		if err != nil && p.name == "execution_id" && len(q[p.name]) == 1 {
			_, err = flowfabric.ParseExecutionID("")
		}
		if err != nil {
			return f, err
		}
		p.set(text)
	}
	if err := checkFeedFilter(f); err != nil {
		return f, err
	}
	if f.Tags, err = queryTags(q); err != nil {
		return f, err
	}
	for _, text := range q["kinds"] {
		for kind := range strings.SplitSeq(text, ",") {
			if kind == "" {
				return f, flowfabric.InvalidInput("kinds", "holds an empty kind")
			}
			f.Kinds = append(f.Kinds, kind)
		}
	}
	return f, nil
}
