package flowfabric

import "testing"

// TestNewExecutionIDOn: the identifier lies on the wanted partition by the very
// rule that places every standalone execution.
func TestNewExecutionIDOn(t *testing.T) {
	for _, count := range []int{1, 2, 64, 256} {
		c := PartitionConfig{NumFlowPartitions: count, NumBudgetPartitions: 1, NumQuotaPartitions: 1}
		seen := make(map[ExecutionID]bool)
		for n := range 2 * count {
			want := uint16(n % count)
			id := c.NewExecutionIDOn("default", want)
			if id.Partition() != want || c.StandaloneExecutionID("default", id.UUID()) != id || id.UUID().Version() != 7 || seen[id] {
				t.Fatalf("%d partitions: %s for partition %d", count, id, want)
			}
			seen[id] = true
		}
	}
	odd := PartitionConfig{NumFlowPartitions: 1000, NumBudgetPartitions: 1, NumQuotaPartitions: 1}
	for n := range 1000 {
		id := odd.NewExecutionIDOn("default", uint16(n))
		if odd.StandaloneExecutionID("default", id.UUID()) != id {
			t.Fatalf("%s breaks the rule of standalone executions", id)
		}
	}
}
