package wire

import (
	"cmp"
	"slices"

	"github.com/flowfabric/flowfabric"
)

// NewCollisionsResponse computes which lanes share a partition: a lane's
// partition is CRC16 of its bytes modulo the count. Severity is clean at 0 %,
// watch under 5 %, elevated up to 15 %, remediate above, of the lanes colliding.
func NewCollisionsResponse(lanes []flowfabric.LaneID, partitions int) CollisionsResponse {
	out := CollisionsResponse{NumFlowPartitions: partitions, Lanes: make([]LaneCollision, len(lanes)), Severity: "clean"}
	sharing := make(map[uint16][]flowfabric.LaneID, len(lanes))
	for i, lane := range lanes {
		p := flowfabric.PartitionConfig{NumFlowPartitions: partitions}.LanePartition(lane)
		out.Lanes[i] = LaneCollision{LaneID: lane, Partition: p, Companions: []flowfabric.LaneID{}}
		sharing[p] = append(sharing[p], lane)
	}
	for i := range out.Lanes {
		row := &out.Lanes[i]
		for _, other := range sharing[row.Partition] {
			if other != row.LaneID {
				row.Companions = append(row.Companions, other)
			}
		}
		slices.Sort(row.Companions)
		if len(row.Companions) > 0 {
			out.CollidingLanes++
		}
	}
	slices.SortFunc(out.Lanes, func(a, b LaneCollision) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.LaneID, b.LaneID))
	})
	if out.CollidingLanes > 0 {
		out.CollidingPercent = 100 * float64(out.CollidingLanes) / float64(len(lanes))
	}
	switch {
	case out.CollidingPercent > 15:
		out.Severity = "remediate"
	case out.CollidingPercent >= 5:
		out.Severity = "elevated"
	case out.CollidingPercent > 0:
		out.Severity = "watch"
	}
	return out
}
