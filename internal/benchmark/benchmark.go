// Package benchmark measures a FlowFabric backend with whole, real work: it
// creates executions, claims them, completes them, checks that none was lost or
// done twice, and reports rates and latencies. It sees a backend only as the
// contract, so the same scenario runs against a file, memory or a server.
package benchmark

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Defaults of a [Config].
const (
	DefaultScenario     = "lifecycle"
	DefaultExecutions   = 10_000
	DefaultWorkers      = 16
	DefaultPayload      = 4096
	DefaultBatch        = 64 // the cost of one lifecycle is flat from 32 on, and larger batches only wait longer
	DefaultStartSamples = 300
	DefaultNamespace    = flowfabric.Namespace("default")
)

// Limits of a [Config]. They keep a slip of the finger from filling a disk.
const (
	MaxExecutions = 100_000_000
	MaxWorkers    = 1024
)

// creatorIdentity is what executions of a benchmark carry as their creator.
const creatorIdentity = "flowfabric-bench"

// executionKind is the kind of every execution of a benchmark.
const executionKind = "bench"

// Config says what to measure. The zero value of a field is its default, except
// where noted.
type Config struct {
	// Scenario is one of [Scenarios]; default "lifecycle".
	Scenario string
	// Backend is the name of the backend in the report.
	Backend string
	// Open opens the backend; required. It may be called twice: a Persistent
	// store is closed and opened again before the measured part, so that the
	// measurement begins on a store at rest.
	Open func(ctx context.Context) (flowfabric.Backend, error)
	// Size tells how many bytes the store occupies; nil when nobody can tell. A
	// Persistent store is asked while it is closed.
	Size func() (int64, error)
	// Persistent tells that what is stored outlives Close.
	Persistent bool

	// Executions is how many are measured, 1..100,000,000; default 10,000.
	Executions int
	// Workers is how many submitters and, after them, how many workers run at
	// the same time, 1..1024; default 16.
	Workers int
	// PayloadBytes is the size of every payload, 0..1,048,576. It has no default
	// here: 0 means empty payloads.
	PayloadBytes int
	// ResultBytes is the size of every result, 0..1,048,576; 0 stores none.
	ResultBytes int
	// Batch is how many executions go into one create, claim or completion,
	// 1..100; default 64.
	Batch int
	// Retained is how many ended executions the store holds before the
	// measurement begins; those it already holds of an earlier run count.
	Retained int
	// RetainedPayloadBytes is the size of their payloads.
	RetainedPayloadBytes int
	// Parked is how many executions are suspended while the suspend scenario
	// measures for the second time, 0..100,000,000; 0 measures once.
	Parked int
	// StartSamples is how many single submissions measure the start latency;
	// default 300, negative measures none.
	StartSamples int
	// Namespace is where the executions go; default "default".
	Namespace flowfabric.Namespace
	// Progress is told how far the run is; nil for nobody.
	Progress Progress
}

// Progress is told how far a benchmark is. Its methods are called from many
// goroutines.
type Progress interface {
	// Phase begins a phase of total steps.
	Phase(name string, total int)
	// Add tells of n more steps of the current phase.
	Add(n int)
}

type silent struct{}

func (silent) Phase(string, int) {}
func (silent) Add(int)           {}

// Scenario is one thing to measure.
type Scenario struct {
	Name    string
	Summary string
	// run measures on an open backend and fills the report.
	run func(ctx context.Context, r *runner, report *Report) error
}

// Scenarios lists the scenarios by name.
func Scenarios() []Scenario {
	return []Scenario{
		{Name: "lifecycle", Summary: "create, claim and complete through the batch calls", run: runLifecycle},
		{Name: "sdk", Summary: "the same through the SDK: single submits, one worker with many permits", run: runSDK},
		{Name: "suspend", Summary: "suspend, signal, resumed handler: one at a time, in flight, beside parked ones", run: runSuspend},
	}
}

// ScenarioNames lists the names of the scenarios, separated by commas.
func ScenarioNames() string {
	var names []string
	for _, s := range Scenarios() {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

// withDefaults fills the defaults in and checks the limits: invalid_input with
// the name of the field.
func (c Config) withDefaults() (Config, error) {
	c.Scenario = cmp.Or(c.Scenario, DefaultScenario)
	c.Executions = cmp.Or(c.Executions, DefaultExecutions)
	c.Workers = cmp.Or(c.Workers, DefaultWorkers)
	c.Batch = cmp.Or(c.Batch, DefaultBatch)
	c.StartSamples = cmp.Or(c.StartSamples, DefaultStartSamples)
	c.Namespace = cmp.Or(c.Namespace, DefaultNamespace)
	if c.Progress == nil {
		c.Progress = silent{}
	}
	for _, f := range []struct {
		name      string
		n, lo, hi int
	}{
		{"executions", c.Executions, 1, MaxExecutions},
		{"workers", c.Workers, 1, MaxWorkers},
		{"payload", c.PayloadBytes, 0, flowfabric.MaxPayloadBytes},
		{"result", c.ResultBytes, 0, flowfabric.MaxPayloadBytes},
		{"batch", c.Batch, 1, flowfabric.MaxBatchItems},
		{"retained", c.Retained, 0, MaxExecutions},
		{"parked", c.Parked, 0, MaxExecutions},
		{"retained-payload", c.RetainedPayloadBytes, 0, flowfabric.MaxPayloadBytes},
		{"start-samples", max(c.StartSamples, 0), 0, 100_000},
	} {
		if f.n < f.lo || f.n > f.hi {
			return c, flowfabric.InvalidInput(f.name, "is %d, must be %d..%d", f.n, f.lo, f.hi)
		}
	}
	if !slices.ContainsFunc(Scenarios(), func(s Scenario) bool { return s.Name == c.Scenario }) {
		return c, flowfabric.InvalidInput("scenario", "%q is none of %s", c.Scenario, ScenarioNames())
	}
	return c, c.Namespace.Validate()
}

// Run measures and reports. It fails when the backend does, when ctx ends, and
// when the backend lost or repeated work; the report is then nil.
func Run(ctx context.Context, config Config) (*Report, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &runner{Config: config, payloads: newPayloads(max(config.PayloadBytes, config.RetainedPayloadBytes, config.ResultBytes))}
	report := newReport(config)
	if err := r.prepare(ctx, report); err != nil {
		return nil, err
	}
	before, err := r.settle(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.measure(ctx, report); err != nil {
		return nil, err
	}
	return report, r.weigh(before, report)
}

// runner is one benchmark in progress.
type runner struct {
	Config
	backend  flowfabric.Backend
	payloads *payloads
}

func (r *runner) open(ctx context.Context) error {
	b, err := r.Open(ctx)
	if err != nil {
		return err
	}
	r.backend = b
	return nil
}

func (r *runner) close() error {
	if r.backend == nil {
		return nil
	}
	err := r.backend.Close()
	r.backend = nil
	return err
}

// prepare opens the backend, fills it up and measures the start latency on the
// idle system. On failure the backend is closed.
func (r *runner) prepare(ctx context.Context, report *Report) error {
	if err := r.open(ctx); err != nil {
		return err
	}
	err := r.fill(ctx)
	if err == nil {
		err = r.measureStart(ctx, report)
	}
	if err != nil {
		r.close() // err says what went wrong first
	}
	return err
}

// settle brings a persistent store to rest and returns its size, -1 when that is
// unknown.
func (r *runner) settle(ctx context.Context) (int64, error) {
	if !r.Persistent {
		return r.size()
	}
	if err := r.close(); err != nil {
		return 0, err
	}
	before, err := r.size()
	if err != nil {
		return 0, err
	}
	return before, r.open(ctx)
}

func (r *runner) size() (int64, error) {
	if r.Size == nil {
		return -1, nil
	}
	return r.Size()
}

func (r *runner) measure(ctx context.Context, report *Report) error {
	i := slices.IndexFunc(Scenarios(), func(s Scenario) bool { return s.Name == r.Scenario })
	err := Scenarios()[i].run(ctx, r, report)
	if err != nil {
		r.close() // err says what went wrong first
	}
	return err
}

// weigh closes the backend and computes what one execution cost in bytes.
func (r *runner) weigh(before int64, report *Report) error {
	if !r.Persistent {
		if err := r.reportBytes(before, report); err != nil {
			return err
		}
		return r.close()
	}
	if err := r.close(); err != nil {
		return err
	}
	return r.reportBytes(before, report)
}

func (r *runner) reportBytes(before int64, report *Report) error {
	after, err := r.size()
	if err != nil || after < 0 {
		return err
	}
	bytes := float64(max(after-before, 0)) / float64(r.Executions)
	report.BytesPerExecution = &bytes
	return nil
}

// tally is what one goroutine saw.
type tally struct {
	create, claim, complete samples
	created                 []flowfabric.ExecutionID
	completed               []flowfabric.ExecutionID
}

// create submits n executions in one call.
func (r *runner) create(ctx context.Context, lane flowfabric.LaneID, n, payload int, policy []byte, t *tally) error {
	items := make([]flowfabric.CreateExecutionArgs, n)
	for i := range items {
		items[i] = flowfabric.CreateExecutionArgs{
			Namespace: r.Namespace, LaneID: lane, Kind: executionKind, CreatorIdentity: creatorIdentity,
			Payload: r.payloads.next(payload), PayloadEncoding: "random", Policy: policy,
		}
	}
	begin := time.Now()
	answers, err := r.backend.CreateExecutions(ctx, items)
	t.create.add(time.Since(begin))
	if err != nil {
		return err
	}
	if len(answers) != n {
		return fmt.Errorf("create of %d answered with %d items", n, len(answers))
	}
	for _, a := range answers {
		if a.Err != nil {
			return a.Err
		}
		if a.Result.Outcome != flowfabric.OutcomeCreated {
			return fmt.Errorf("create of a fresh execution answered %q", a.Result.Outcome)
		}
		t.created = append(t.created, a.Result.ExecutionID)
	}
	return nil
}

// claim takes up to n executions of the lane, waiting up to wait for a first.
func (r *runner) claim(ctx context.Context, lane flowfabric.LaneID, worker, n int, wait time.Duration, t *tally) ([]flowfabric.ClaimedExecution, error) {
	begin := time.Now()
	answer, err := r.backend.ClaimTasks(ctx, flowfabric.ClaimTasksArgs{
		WorkerID: "bench", WorkerInstanceID: flowfabric.WorkerInstanceID(fmt.Sprintf("%s-%d", lane, worker)),
		Lanes: []flowfabric.LaneID{lane}, Namespace: r.Namespace, MaxTasks: n,
		LeaseTTLMs: flowfabric.DefaultLeaseTTLMs, WaitMs: wait.Milliseconds(),
	})
	if err != nil {
		return nil, err
	}
	if len(answer.Tasks) > 0 {
		t.claim.add(time.Since(begin))
	}
	return answer.Tasks, nil
}

// complete ends the tasks in one call.
func (r *runner) complete(ctx context.Context, tasks []flowfabric.ClaimedExecution, t *tally) error {
	items := make([]flowfabric.CompleteExecutionArgs, len(tasks))
	for i, task := range tasks {
		items[i] = flowfabric.CompleteExecutionArgs{ExecutionID: task.ExecutionID, Fence: task.Fence}
		if r.ResultBytes > 0 {
			items[i].Result, items[i].ResultEncoding = r.payloads.next(r.ResultBytes), "random"
		}
	}
	begin := time.Now()
	answers, err := r.backend.CompleteExecutions(ctx, items)
	t.complete.add(time.Since(begin))
	if err != nil {
		return err
	}
	if len(answers) != len(items) {
		return fmt.Errorf("completion of %d answered with %d items", len(items), len(answers))
	}
	for i, a := range answers {
		if a.Err != nil {
			return a.Err
		}
		if !a.Result.Replayed {
			t.completed = append(t.completed, items[i].ExecutionID)
		}
	}
	return nil
}
