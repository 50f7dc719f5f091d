package engine

import (
	"fmt"
	"log/slog"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/flowfabric/flowfabric"
)

func pickerFor(f *fairness, weights map[flowfabric.LaneID]flowfabric.Lane, lanes []flowfabric.LaneID, caps ...string) *picker {
	p := f.picker(&flowfabric.ClaimCandidatesArgs{Lanes: lanes, Capabilities: caps})
	p.weights = weights
	return p
}

func head(lane flowfabric.LaneID, ns flowfabric.Namespace, priority int32, created int) flowfabric.Candidate {
	return flowfabric.Candidate{LaneID: lane, Namespace: ns, Priority: priority, CreatedAt: flowfabric.Millis(created), ID: flowfabric.ExecutionID(fmt.Sprintf("%s/%s/%06d", lane, ns, created))}
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func take(t fataler, p *picker, heads ...flowfabric.Candidate) flowfabric.Candidate {
	t.Helper()
	i := p.Pick(heads)
	if i < 0 || i >= len(heads) {
		t.Fatalf("picked %d of %d", i, len(heads))
	}
	p.Taken(heads[i])
	return heads[i]
}

// Scenario 02.40, first half: weights 3 and 1, both backlogged, 400 grants.
func TestLanesShareByWeight(t *testing.T) {
	f := newFairness()
	weights := map[flowfabric.LaneID]flowfabric.Lane{"a": {SchedulingWeight: 3}, "b": {SchedulingWeight: 1}}
	got := map[flowfabric.LaneID]int{}
	for i := range 400 {
		p := pickerFor(f, weights, []flowfabric.LaneID{"a", "b"}) // one request each
		got[take(t, p, head("a", "n", 0, i), head("b", "n", 0, i)).LaneID]++
	}
	if math.Abs(float64(got["a"]-300)) > 6 || math.Abs(float64(got["b"]-100)) > 2 {
		t.Errorf("400 grants went %v", got)
	}
}

// Scenario 02.40, second half: two namespaces of equal priority alternate,
// however old one's work is.
func TestTenantsAlternate(t *testing.T) {
	p := pickerFor(newFairness(), nil, []flowfabric.LaneID{"a"})
	var last flowfabric.Namespace
	for i := range 100 {
		c := take(t, p, head("a", "old", 0, i), head("a", "new", 0, 1_000_000+i))
		if c.Namespace == last {
			t.Fatalf("grant %d went to %s again", i, last)
		}
		last = c.Namespace
	}
}

func TestPriorityThenTurnThenAge(t *testing.T) {
	p := pickerFor(newFairness(), nil, []flowfabric.LaneID{"a"})
	c := take(t, p, head("a", "x", 5, 1), head("a", "y", 9000, 7), head("a", "z", 8999, 3))
	if c.Priority != 9000 {
		t.Errorf("took priority %d", c.Priority)
	}
	// y has been served, but higher priority always goes first.
	if c = take(t, p, head("a", "x", 5, 1), head("a", "y", 6, 8)); c.Namespace != "y" {
		t.Errorf("took %v", c)
	}
	// Two buckets of one tenant: the older; equal age: the lower id.
	if c = take(t, p, head("a", "x", 0, 9), head("a", "x", 0, 8)); c.CreatedAt != 8 {
		t.Errorf("took %v", c)
	}
	a, b := head("a", "x", 0, 5), head("a", "x", 0, 5)
	a.ID, b.ID = "2", "1"
	if c = take(t, p, a, b); c.ID != "1" {
		t.Errorf("took %v", c)
	}
}

// Idleness earns no credit, and who was served alone owes nothing.
func TestIdleLaneEarnsNoCredit(t *testing.T) {
	f := newFairness()
	p := pickerFor(f, nil, []flowfabric.LaneID{"a", "b"})
	take(t, p, head("a", "n", 0, 0), head("b", "n", 0, 0))
	take(t, p, head("a", "n", 0, 0), head("b", "n", 0, 0))
	for i := range 1000 { // b is empty
		take(t, p, head("a", "n", 0, i))
	}
	got := map[flowfabric.LaneID]int{}
	for i := range 100 {
		got[take(t, p, head("a", "n", 0, i), head("b", "n", 0, i)).LaneID]++
	}
	if got["a"] < 49 || got["a"] > 51 {
		t.Errorf("after b was idle 100 grants went %v", got)
	}
}

func TestIdleLaneSeenByEmptyScan(t *testing.T) {
	f := newFairness()
	lanes := []flowfabric.LaneID{"a", "b"}
	p := pickerFor(f, nil, lanes)
	take(t, p, head("a", "n", 0, 0), head("b", "n", 0, 0))
	p.exhausted(lanes) // both are empty now
	only := pickerFor(f, nil, lanes[:1])
	for i := range 50 {
		take(t, only, head("a", "n", 0, i))
	}
	if c := take(t, p, head("a", "n", 0, 0), head("b", "n", 0, 0)); c.LaneID != "b" {
		t.Errorf("took %v", c)
	}
	got := 0
	for i := range 10 {
		if take(t, p, head("a", "n", 0, i), head("b", "n", 0, i)).LaneID == "b" {
			got++
		}
	}
	if got < 4 || got > 6 {
		t.Errorf("b got %d of 10", got)
	}
}

// A lane that only some workers can serve keeps its due while others, who do not
// see its work, serve another lane.
func TestBlindRequestsDoNotForfeitATurn(t *testing.T) {
	f := newFairness()
	lanes := []flowfabric.LaneID{"a", "b"}
	cpu, gpu := pickerFor(f, nil, lanes), pickerFor(f, nil, lanes, "gpu")
	got := map[flowfabric.LaneID]int{}
	for i := range 200 {
		got[take(t, cpu, head("a", "n", 0, i)).LaneID]++
		got[take(t, gpu, head("a", "n", 0, i), head("b", "n", 0, i)).LaneID]++
	}
	if got["b"] < 198 { // each turn of the gpu worker goes to the lane that lags
		t.Errorf("grants went %v", got)
	}
}

// Two lanes that are non-empty throughout stay within the bound, whatever the
// other lanes do and whoever asks.
func TestLanesStayWithinBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 6).Draw(t, "lanes")
		weights := map[flowfabric.LaneID]flowfabric.Lane{}
		var lanes []flowfabric.LaneID
		for i := range n {
			id := flowfabric.LaneID(fmt.Sprint("lane", i))
			lanes = append(lanes, id)
			weights[id] = flowfabric.Lane{SchedulingWeight: rapid.SampledFrom([]int{1, 2, 3, 7, 50, 1000}).Draw(t, "weight")}
		}
		f := newFairness()
		p := pickerFor(f, weights, lanes)
		full := make([]bool, n)
		served := make([]float64, n)        // served/weight
		since := make([]map[int]float64, n) // difference to j when both became non-empty
		for i := range since {
			since[i] = map[int]float64{}
		}
		for step := range rapid.IntRange(1, 300).Draw(t, "steps") {
			if flip := rapid.IntRange(0, 3*n).Draw(t, "flip"); flip < n {
				full[flip] = !full[flip]
				for j := range n {
					since[flip][j], since[j][flip] = served[flip]-served[j], served[j]-served[flip]
				}
			}
			var heads []flowfabric.Candidate
			for i := range n {
				if full[i] {
					heads = append(heads, head(lanes[i], "n", 0, step))
				}
			}
			if len(heads) == 0 {
				p.exhausted(lanes)
				continue
			}
			c := take(t, p, heads...)
			for i := range n {
				if lanes[i] == c.LaneID {
					served[i] += 1 / float64(weights[c.LaneID].SchedulingWeight)
				}
			}
			for i := range n {
				for j := range n {
					if full[i] && full[j] {
						lag := served[i] - served[j] - since[i][j]
						if math.Abs(lag) > 2+1e-9 {
							t.Fatalf("lane %d is %.3f ahead of lane %d", i, lag, j)
						}
					}
				}
			}
		}
	})
}

func TestTenantWeights(t *testing.T) {
	weights := map[flowfabric.LaneID]flowfabric.Lane{"a": {SchedulingWeight: 1, TenantWeights: map[flowfabric.Namespace]int{"big": 4}}}
	p := pickerFor(newFairness(), weights, []flowfabric.LaneID{"a"})
	big := 0
	for i := range 100 {
		if take(t, p, head("a", "big", 0, i), head("a", "small", 0, i)).Namespace == "big" {
			big++
		}
	}
	if big < 76 || big > 84 {
		t.Errorf("the tenant of weight 4 got %d of 100", big)
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	p := pickerFor(newFairness(), nil, []flowfabric.LaneID{"a"})
	heads := []flowfabric.Candidate{head("a", "n", 0, 1)}
	take(t, p, heads...)
	if n := testing.AllocsPerRun(100, func() { p.Taken(heads[p.Pick(heads)]) }); n != 0 {
		t.Errorf("a pick allocates %v times", n)
	}
}

func TestFairnessForgetsBeyondItsBounds(t *testing.T) {
	f := newFairness()
	for i := range 3 * maxSharers {
		lane := flowfabric.LaneID(fmt.Sprint(i))
		p := pickerFor(f, nil, []flowfabric.LaneID{lane, "shared"})
		take(t, p, head(lane, "n", 0, 1), head("shared", flowfabric.Namespace(lane), 0, 1))
	}
	if len(f.lanes) > maxSharers || len(f.turns.last) > maxScopes {
		t.Errorf("%d lanes and %d scopes are remembered", len(f.lanes), len(f.turns.last))
	}
	for _, ln := range f.lanes {
		if len(ln.tenants) > maxSharers || len(ln.turns.last) > maxScopes {
			t.Errorf("lane %s remembers %d tenants and %d scopes", ln.id, len(ln.tenants), len(ln.turns.last))
		}
	}
}

func TestWeightsAreReadOnceASecondAndAfterAChange(t *testing.T) {
	store := newFake()
	store.lanes = map[flowfabric.LaneID]flowfabric.Lane{"a": {SchedulingWeight: 2}}
	f := newFairness()
	weight := func() int { return f.laneWeights(t.Context(), store, slog.Default())["a"].SchedulingWeight }
	if weight() != 2 {
		t.Fatal("weight not read")
	}
	store.mu.Lock()
	store.lanes = map[flowfabric.LaneID]flowfabric.Lane{"a": {SchedulingWeight: 9}}
	store.mu.Unlock()
	if weight() != 2 {
		t.Error("read again within a second")
	}
	f.forgetWeights()
	if weight() != 9 {
		t.Error("not read again after a change")
	}
}

func BenchmarkPick(b *testing.B) {
	p := pickerFor(newFairness(), nil, []flowfabric.LaneID{"a"})
	heads := []flowfabric.Candidate{head("a", "n", 0, 1)}
	b.ReportAllocs()
	for b.Loop() {
		p.Taken(heads[p.Pick(heads)])
	}
}
