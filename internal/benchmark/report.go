package benchmark

import (
	"math"
	"runtime"
	"time"
)

// Report is what a benchmark found. Its JSON form is the program's output.
type Report struct {
	Scenario     string `json:"scenario"`
	Backend      string `json:"backend"`
	Executions   int    `json:"executions"`
	Workers      int    `json:"workers"`
	PayloadBytes int    `json:"payload_bytes"`
	ResultBytes  int    `json:"result_bytes"`
	Batch        int    `json:"batch"`
	Retained     int    `json:"retained"`

	// SubmitPerSecond and DrainPerSecond are rates of the two phases alone;
	// OverallPerSecond is executions / (submit time + drain time).
	SubmitPerSecond  float64 `json:"submit_per_s"`
	DrainPerSecond   float64 `json:"drain_per_s"`
	OverallPerSecond float64 `json:"overall_per_s"`
	SubmitSeconds    float64 `json:"submit_s"`
	DrainSeconds     float64 `json:"drain_s"`

	// LatencyMs holds create, claim and complete: how long one call took, which
	// carried up to Batch executions. Claims that waited for work are left out.
	LatencyMs map[string]Percentiles `json:"latency_ms"`
	// StartLatencyMs is the time from the call that submits to the first line of
	// the handler, on an idle system, one execution at a time.
	StartLatencyMs Percentiles `json:"start_latency_ms"`

	// AllocsPerLifecycle counts the allocations of this process: engine and
	// store included when they run in it, the client's side alone otherwise.
	AllocsPerLifecycle float64 `json:"allocs_per_lifecycle"`
	// BytesPerExecution is what the store grew by, payload included; nil when
	// nobody can tell.
	BytesPerExecution *float64 `json:"bytes_per_execution"`

	Verified Verification `json:"verified"`

	// Suspend is what the suspend scenario found; its rates of phases are zero.
	Suspend *SuspendReport `json:"suspend,omitempty"`

	GoVersion string `json:"go_version"`
	Platform  string `json:"platform"`
	CPUs      int    `json:"cpus"`
}

func newReport(c Config) *Report {
	return &Report{
		Scenario: c.Scenario, Backend: c.Backend, Executions: c.Executions, Workers: c.Workers,
		PayloadBytes: c.PayloadBytes, ResultBytes: c.ResultBytes, Batch: c.Batch, Retained: c.Retained,
		LatencyMs: map[string]Percentiles{},
		GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.GOMAXPROCS(0),
	}
}

func (r *Report) time(submit, drain time.Duration) {
	r.SubmitPerSecond = rate(r.Executions, submit)
	r.DrainPerSecond = rate(r.Executions, drain)
	r.OverallPerSecond = rate(r.Executions, submit+drain)
	r.SubmitSeconds = math.Round(submit.Seconds()*1e4) / 1e4
	r.DrainSeconds = math.Round(drain.Seconds()*1e4) / 1e4
}

// latencies merges what the goroutines measured.
func (r *Report) latencies(tallies []tally) {
	var create, claim, complete samples
	for i := range tallies {
		create = append(create, tallies[i].create...)
		claim = append(claim, tallies[i].claim...)
		complete = append(complete, tallies[i].complete...)
	}
	r.LatencyMs["create"] = create.percentiles()
	r.LatencyMs["claim"] = claim.percentiles()
	r.LatencyMs["complete"] = complete.percentiles()
}

func round1(f float64) float64 { return math.Round(f*10) / 10 }
