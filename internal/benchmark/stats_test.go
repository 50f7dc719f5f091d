package benchmark

import (
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
)

func TestPercentiles(t *testing.T) {
	var s samples
	for i := range 1000 {
		s.add(time.Duration(1000-i) * time.Millisecond)
	}
	if got, want := s.percentiles(), (Percentiles{P50: 500, P95: 950, P99: 990, Calls: 1000}); got != want {
		t.Errorf("percentiles of 1..1000 ms: %+v, want %+v", got, want)
	}
	if got := (samples{}).percentiles(); got != (Percentiles{}) {
		t.Errorf("percentiles of nothing: %+v", got)
	}
	if got := (samples{7 * time.Microsecond}).percentiles(); got.P50 != 0.007 || got.P99 != 0.007 {
		t.Errorf("percentiles of one sample: %+v", got)
	}
}

func TestRate(t *testing.T) {
	if got := rate(500, 250*time.Millisecond); got != 2000 {
		t.Errorf("rate is %v", got)
	}
	if got := rate(1, 0); got != 0 {
		t.Errorf("rate of no time is %v", got)
	}
}

func TestPayloadsDiffer(t *testing.T) {
	p := newPayloads(100)
	seen := map[string]bool{}
	for range payloadSpread {
		seen[string(p.next(100))] = true
	}
	if len(seen) != payloadSpread {
		t.Errorf("%d different payloads of %d", len(seen), payloadSpread)
	}
}

func TestCount(t *testing.T) {
	a, b, c := flowfabric.ExecutionID("a"), flowfabric.ExecutionID("b"), flowfabric.ExecutionID("c")
	for name, test := range map[string]struct {
		created, completed []flowfabric.ExecutionID
		want               Verification
	}{
		"good":        {[]flowfabric.ExecutionID{a, b}, []flowfabric.ExecutionID{b, a}, Verification{Created: 2, Completed: 2}},
		"lost":        {[]flowfabric.ExecutionID{a, b}, []flowfabric.ExecutionID{b}, Verification{Created: 2, Completed: 1, Lost: 1}},
		"twice":       {[]flowfabric.ExecutionID{a, b}, []flowfabric.ExecutionID{b, a, a}, Verification{Created: 2, Completed: 2, Duplicated: 1}},
		"foreign":     {[]flowfabric.ExecutionID{a, b}, []flowfabric.ExecutionID{b, a, c}, Verification{Created: 2, Completed: 2, Duplicated: 1}},
		"given twice": {[]flowfabric.ExecutionID{a, a}, []flowfabric.ExecutionID{a}, Verification{Created: 2, Completed: 1, Duplicated: 1}},
	} {
		tallies := []tally{{created: test.created}, {completed: test.completed}}
		if got := count(tallies); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}
