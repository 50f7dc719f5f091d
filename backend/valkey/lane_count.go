package valkey

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
)

// laneCounts counts executions by lane and public state.
type laneCounts struct {
	by       map[flowfabric.LaneID]map[flowfabric.PublicState]int64
	examined int64
	at       readAt
	took     time.Duration
}

// live is how many executions of a lane have not ended.
func (c *laneCounts) live(id flowfabric.LaneID) int64 {
	n := int64(0)
	for p, m := range c.by[id] {
		if !p.Terminal() {
			n += m
		}
	}
	return n
}

// countLanes counts the executions of all partitions, each page in a call of its
// own: exact per partition, not one snapshot.
func (s *Store) countLanes(ctx context.Context) (*laneCounts, error) {
	c := &laneCounts{by: make(map[flowfabric.LaneID]map[flowfabric.PublicState]int64), at: s.readNow()}
	reqs := make([]request, len(s.tags))
	for p, tag := range s.tags {
		reqs[p] = request{fn: "ff_count_lanes", tag: tag, args: []string{"0"}, readOnly: true}
	}
	for len(reqs) > 0 {
		var rest []request
		for i, a := range s.callMany(ctx, reqs) {
			page, err := strs(a)
			if err != nil {
				return nil, err
			}
			c.add(page)
			if page[0] != "0" {
				rest = append(rest, request{fn: "ff_count_lanes", tag: reqs[i].tag, args: page[:1:1], readOnly: true})
			}
		}
		reqs = rest
	}
	c.took = time.Since(c.at.wall)
	return c, nil
}

func (c *laneCounts) add(page []string) {
	c.examined += toInt(page[1])
	for row := range slices.Chunk(page[2:], 3) {
		id := flowfabric.LaneID(row[0])
		if c.by[id] == nil {
			c.by[id] = make(map[flowfabric.PublicState]int64)
		}
		c.by[id][flowfabric.PublicState(row[1])] += toInt(row[2])
	}
}

// recentCounts is countLanes, but a count that cost much is remembered, for cost
// times as long as it took.
func (s *Store) recentCounts(ctx context.Context, cost time.Duration) (counts *laneCounts, remembered bool, err error) {
	c := &s.routing.lanes
	c.mu.Lock()
	known := c.counts
	c.mu.Unlock()
	if known != nil && s.within(known.at, known.took+max(countCacheFor, cost*known.took)) {
		return known, true, nil
	}
	if counts, err = s.countLanes(ctx); err != nil {
		return nil, false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts = nil; counts.examined > countCacheOver {
		c.counts = counts
	}
	return counts, false, nil
}

// statuses completes lanes with what can be counted in them.
func (s *Store) statuses(ctx context.Context, lanes ...flowfabric.Lane) ([]flowfabric.LaneStatus, error) {
	counts, _, err := s.recentCounts(ctx, countCacheCost)
	if err != nil {
		return nil, err
	}
	depths, err := s.laneDepths(ctx, lanes)
	if err != nil {
		return nil, err
	}
	return counts.complete(lanes, depths), nil
}

// SampleLanes returns all lanes with their counts, for gauges. Of a large store
// waiting, active, waiting_children and rate_limited come from the indexes, where
// an offered reclaim or a grant under way is told only roughly; the others are as
// of the last count, so that nothing is scanned every time. (Specification 08,
// section 8.)
func (s *Store) SampleLanes(ctx context.Context) ([]flowfabric.LaneStatus, error) {
	views, err := s.allLanes(ctx, "")
	if err != nil || len(views) == 0 {
		return nil, err
	}
	lanes := make([]flowfabric.Lane, len(views))
	for i := range views {
		lanes[i] = views[i].Lane
	}
	counts, remembered, err := s.recentCounts(ctx, sampleCost)
	if err != nil {
		return nil, err
	}
	depths, err := s.laneDepths(ctx, lanes)
	if err != nil {
		return nil, err
	}
	list := counts.complete(lanes, depths)
	if remembered {
		for i := range list {
			maps.Copy(list[i].Counts, depths[i].counts)
		}
	}
	return list, nil
}

// complete makes the statuses of lanes.
func (c *laneCounts) complete(lanes []flowfabric.Lane, depths []laneDepth) []flowfabric.LaneStatus {
	out := make([]flowfabric.LaneStatus, len(lanes))
	for i, l := range lanes {
		st := flowfabric.LaneStatus{Lane: ownLane(l), OldestEligibleAt: depths[i].oldest, Counts: make(map[flowfabric.PublicState]int64)}
		for _, p := range flowfabric.PublicStates() {
			st.Counts[p] = c.by[l.LaneID][p]
		}
		st.Drained = l.State == flowfabric.LaneDraining && c.live(l.LaneID) == 0
		out[i] = st
	}
	return out
}

// laneDepth is what the indexes tell of a lane.
type laneDepth struct {
	oldest flowfabric.Millis // creation of the oldest offered execution
	counts map[flowfabric.PublicState]int64
}

// depthStates are the states that ff_lane_depths counts, in its order.
var depthStates = [...]flowfabric.PublicState{flowfabric.PublicWaiting, flowfabric.PublicActive, flowfabric.PublicWaitingChildren, flowfabric.PublicRateLimited}

// laneDepths reads what the indexes tell of lanes.
func (s *Store) laneDepths(ctx context.Context, lanes []flowfabric.Lane) ([]laneDepth, error) {
	ids := make([]flowfabric.LaneID, len(lanes))
	out := make([]laneDepth, len(lanes))
	for i, l := range lanes {
		ids[i] = l.LaneID
		out[i].counts = make(map[flowfabric.PublicState]int64, len(depthStates))
		for _, p := range depthStates {
			out[i].counts[p] = 0
		}
	}
	rows, err := s.askAll(ctx, "ff_lane_depths", laneArgs(ids)...)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		for i, text := range row {
			if err := out[i].add(text); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// add adds what a partition has of the lane.
func (d *laneDepth) add(text string) error {
	if text == "" {
		return nil
	}
	numbers := strings.Split(text, " ")
	if len(numbers) != 1+len(depthStates) {
		return badAnswer("ff_lane_depths")
	}
	if at := flowfabric.Millis(toInt(numbers[0])); at != 0 && (d.oldest == 0 || at < d.oldest) {
		d.oldest = at
	}
	for i, p := range depthStates {
		d.counts[p] += toInt(numbers[1+i])
	}
	return nil
}
