// Package backendtest states the contract of [flowfabric.Backend] as tests: one
// suite that every store passes, so that results, error codes, state vectors and
// orders are the same on all of them.
//
// [Run] goes through the scenarios of the specification, one file per primitive;
// every subtest is named with the chapter and the number of its scenario.
// [RunRandom] throws random operations at a store and at the model of
// internal/model and compares what both answer and show. [RunLinearizability]
// and [RunConcurrent] look at the store under real concurrency.
package backendtest

import (
	"sync"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Harness is one freshly opened, empty deployment for one subtest. The opener
// registers its closing with t.Cleanup.
type Harness struct {
	// Backend is what is tested. Required.
	Backend flowfabric.Backend
	// Store is the store behind the backend, for the steps that only the engine
	// takes (grants without claim, ticks, sweeps). No background duty runs on it:
	// the suite calls Tick and the sweeps itself. Where it is nil, the scenarios
	// that need it are skipped.
	Store flowfabric.Store
	// Clock is the store's clock, moved by the suite; nil where the store runs on
	// a real clock, and then the scenarios that need time to pass are skipped.
	Clock *Clock
	// Partitioned tells that the store keeps orders and buckets for each partition:
	// a batch of claims is shared out among lanes and namespaces before it is taken,
	// and a route label holds where it was set. The random operations then keep to
	// one partition and take one execution at a time.
	Partitioned bool
	// Remote tells that a server stands between Backend and Store: it shows
	// snapshots instead of records, no policies, and learns with a delay of a
	// client that has gone away.
	Remote bool
	// Corrupt spoils one field of the stored record of an execution, named as in
	// its JSON form, and reports whether it can do so for that field. Optional.
	Corrupt func(t *testing.T, id flowfabric.ExecutionID, field string) bool
	// Displace takes an execution out of the order in which claimers and ticks
	// find it and puts it where it does not belong. Optional.
	Displace func(t *testing.T, id flowfabric.ExecutionID)
	// Reserve leaves an idempotency reservation without its execution, as a crash
	// between the two steps of a create does. Optional: a store that takes both
	// steps at once cannot be left so.
	Reserve func(t *testing.T, ns flowfabric.Namespace, key string, id flowfabric.ExecutionID)
	// CorruptSecret spoils the stored secret of a key of the waitpoint tokens, so
	// that it is not hexadecimal any more. Optional.
	CorruptSecret func(t *testing.T, kid string)
	// With opens another deployment with other settings. Optional.
	With func(t *testing.T, o Options) Harness
}

// Options are settings of a deployment that some scenarios need.
type Options struct {
	// StrictLanes refuses lanes that were never declared.
	StrictLanes bool
	// Feeds are the feeds switched on beside completions; nil means the default.
	Feeds []flowfabric.Feed
	// FlowPartitions is the number of flow partitions; 0 means the default.
	FlowPartitions int
}

// Opener opens a fresh, empty deployment.
type Opener func(t *testing.T) Harness

// Clock is a store clock that only moves when told to. It is safe for concurrent
// use.
type Clock struct {
	mu     sync.Mutex
	now    flowfabric.Millis
	follow func(flowfabric.Millis)
}

// NewClock returns a clock that stands at a fixed instant in the past.
func NewClock() *Clock { return &Clock{now: 1_750_000_000_000} }

// NowMillis returns the instant at which the clock stands.
func (c *Clock) NowMillis() flowfabric.Millis {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Now is NowMillis as a time.
func (c *Clock) Now() time.Time { return time.UnixMilli(int64(c.NowMillis())) }

// Advance moves the clock forward.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += flowfabric.Millis(d.Milliseconds())
	if c.follow != nil {
		c.follow(c.now)
	}
}

// Follow calls set with the instant at which the clock stands, now and at every
// move: for a store whose clock is elsewhere.
func (c *Clock) Follow(set func(now flowfabric.Millis)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.follow = set
	set(c.now)
}

// Run runs every scenario of the suite, each on a deployment of its own.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, g := range []struct {
		name string
		add  func(r *runner)
	}{
		{"identifier", identifierScenarios},
		{"create", createScenarios},
		{"policy", policyScenarios},
		{"execution", executionScenarios},
		{"fence", fenceScenarios},
		{"receipt", receiptScenarios},
		{"replay", replayScenarios},
		{"read", readScenarios},
		{"list", listScenarios},
		{"tag", tagScenarios},
		{"attempt", attemptScenarios},
		{"transition", transitionScenarios},
		{"lease", leaseScenarios},
		{"claim", claimScenarios},
		{"reclaim", reclaimScenarios},
		{"scheduler", schedulerScenarios},
		{"capability", capabilityScenarios},
		{"lane", laneScenarios},
		{"registry", registryScenarios},
		{"feed", feedScenarios},
		{"upkeep", upkeepScenarios},
		{"wait", waitScenarios},
		{"administration", administrationScenarios},
		{"review", reviewScenarios},
		{"suspension", suspensionScenarios},
		{"resume", resumeScenarios},
		{"timeout", timeoutScenarios},
		{"suspended", suspendedScenarios},
		{"condition", conditionScenarios},
		{"waitpoint", waitpointScenarios},
		{"pending", pendingScenarios},
		{"signal", signalScenarios},
		{"effect", effectScenarios},
		{"token", tokenScenarios},
		{"secret", secretScenarios},
	} {
		t.Run(g.name, func(t *testing.T) {
			g.add(&runner{t: t, open: open})
		})
	}
}

// runner runs the scenarios of one primitive.
type runner struct {
	t    *testing.T
	open Opener
}

// scenario runs one scenario on a fresh deployment, beside others.
func (r *runner) scenario(name string, f func(s *scene)) {
	r.unseeded(name, func(s *scene) {
		s.seed()
		f(s)
	})
}

// unseeded runs a scenario whose deployment may have no key for tokens yet.
func (r *runner) unseeded(name string, f func(s *scene)) {
	r.t.Run(name, func(t *testing.T) {
		t.Parallel()
		f(newScene(t, r.open(t)))
	})
}
