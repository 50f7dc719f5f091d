package valkey

import (
	"context"
	"slices"
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

// recentCounts is countLanes, but a count that cost much is remembered.
func (s *Store) recentCounts(ctx context.Context) (*laneCounts, error) {
	c := &s.routing.lanes
	c.mu.Lock()
	known := c.counts
	c.mu.Unlock()
	if known != nil && s.within(known.at, known.took+max(countCacheFor, countCacheCost*known.took)) {
		return known, nil
	}
	counts, err := s.countLanes(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts = nil; counts.examined > countCacheOver {
		c.counts = counts
	}
	return counts, nil
}

// statuses completes lanes with what can be counted in them.
func (s *Store) statuses(ctx context.Context, lanes ...flowfabric.Lane) ([]flowfabric.LaneStatus, error) {
	counts, err := s.recentCounts(ctx)
	if err != nil {
		return nil, err
	}
	oldest, err := s.oldestEligible(ctx, lanes)
	if err != nil {
		return nil, err
	}
	out := make([]flowfabric.LaneStatus, len(lanes))
	for i, l := range lanes {
		st := flowfabric.LaneStatus{Lane: ownLane(l), OldestEligibleAt: oldest[i], Counts: make(map[flowfabric.PublicState]int64)}
		for _, p := range flowfabric.PublicStates() {
			st.Counts[p] = counts.by[l.LaneID][p]
		}
		st.Drained = l.State == flowfabric.LaneDraining && counts.live(l.LaneID) == 0
		out[i] = st
	}
	return out, nil
}

// oldestEligible is the creation of the oldest offered execution of each lane.
func (s *Store) oldestEligible(ctx context.Context, lanes []flowfabric.Lane) ([]flowfabric.Millis, error) {
	ids := make([]flowfabric.LaneID, len(lanes))
	for i, l := range lanes {
		ids[i] = l.LaneID
	}
	out := make([]flowfabric.Millis, len(lanes))
	rows, err := s.askAll(ctx, "ff_oldest_eligible", laneArgs(ids)...)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		for i, v := range row {
			if at := flowfabric.Millis(toInt(v)); at != 0 && (out[i] == 0 || at < out[i]) {
				out[i] = at
			}
		}
	}
	return out, nil
}
