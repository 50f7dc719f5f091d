// Package model is a store in the simplest form that can be right: maps in
// memory, every operation alone under one mutex, every question answered by
// looking at everything. All transitions are those of internal/rules. It keeps
// the whole promise of [flowfabric.Store], so that tests can compare any other
// store with it, operation by operation, and can run an engine beside it.
//
// Nothing moves by itself: the test owns the clock, and duties run when Tick and
// the sweeps are called.
package model

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"sync"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// Config sets a model up. The zero Config is a good one but for the clock.
type Config struct {
	// Clock is the store's clock. Required.
	Clock func() flowfabric.Millis
	// Partitions is the partition configuration; the zero value is the default.
	Partitions flowfabric.PartitionConfig
	// Feeds are the feeds switched on beside completions; nil means leases,
	// signals and tags.
	Feeds []flowfabric.Feed
	// StrictLanes refuses lanes that were never declared.
	StrictLanes bool
	// Rand draws jitter; nil draws nothing, and delays are without jitter.
	Rand rules.Rand
}

// Store is the model. It is safe for concurrent use.
type Store struct {
	cfg Config

	mu       sync.Mutex
	execs    map[flowfabric.ExecutionID]*entry
	keys     map[idempotencyKey]reservation
	lanes    map[flowfabric.LaneID]*flowfabric.Lane
	named    map[flowfabric.LaneID]bool // by a worker or a claim, ever
	workers  map[workerKey]*flowfabric.WorkerRegistration
	labels   map[bucket]rules.Label
	logs     map[flowfabric.Feed]*feedLog
	ring     rules.KeyRing
	watchers map[int]func([]flowfabric.WakeEvent)
	nextID   int
	closed   bool
	wake     []flowfabric.WakeEvent // of the operation under way
}

// entry is one execution with what is kept beside its record.
type entry struct {
	st *rules.State
	// past are the attempts before st.Attempt, by index.
	past    []flowfabric.Attempt
	input   flowfabric.ExecutionInput
	result  flowfabric.ExecutionResult
	counted bool // its lease counts against the lane's max_concurrency
	waits   waits
}

type idempotencyKey struct {
	namespace flowfabric.Namespace
	key       string
}

type reservation struct {
	id    flowfabric.ExecutionID
	until flowfabric.Millis
}

var _ flowfabric.Store = (*Store)(nil)

// New returns an empty model.
func New(cfg Config) *Store {
	if cfg.Partitions == (flowfabric.PartitionConfig{}) {
		cfg.Partitions = flowfabric.DefaultPartitionConfig()
	}
	if cfg.Feeds == nil {
		cfg.Feeds = []flowfabric.Feed{flowfabric.FeedLeases, flowfabric.FeedSignals, flowfabric.FeedTags}
	}
	m := &Store{
		cfg:   cfg,
		execs: make(map[flowfabric.ExecutionID]*entry), keys: make(map[idempotencyKey]reservation),
		lanes: make(map[flowfabric.LaneID]*flowfabric.Lane), named: make(map[flowfabric.LaneID]bool),
		workers: make(map[workerKey]*flowfabric.WorkerRegistration), labels: make(map[bucket]rules.Label),
		logs: make(map[flowfabric.Feed]*feedLog), watchers: make(map[int]func([]flowfabric.WakeEvent)),
	}
	for _, f := range append([]flowfabric.Feed{flowfabric.FeedCompletions}, cfg.Feeds...) {
		m.logs[f] = &feedLog{heads: make(map[uint16]uint64), floors: make(map[uint16]uint64)}
	}
	return m
}

// Ping returns nil.
func (m *Store) Ping(ctx context.Context) error { return ctx.Err() }

// PartitionConfig returns the configuration.
func (m *Store) PartitionConfig(context.Context) (flowfabric.PartitionConfig, error) {
	return m.cfg.Partitions, nil
}

// Describe names the model.
func (m *Store) Describe(context.Context) (flowfabric.BackendInfo, error) {
	return flowfabric.BackendInfo{Family: "model", Version: "1"}, nil
}

// Now is the clock.
func (m *Store) Now() flowfabric.Millis { return m.cfg.Clock() }

// Watch calls handle after every operation that others may wait for.
func (m *Store) Watch(handle func([]flowfabric.WakeEvent)) (stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nextID++
	id := m.nextID
	m.watchers[id] = handle
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, id)
	}
}

// Close makes every later operation fail. It is idempotent.
func (m *Store) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// do runs one operation alone, and tells the watchers afterwards.
func (m *Store) do(ctx context.Context, op func(now flowfabric.Millis) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "the store is closed")
	}
	m.wake = nil
	err := op(m.cfg.Clock())
	events := m.wake
	var told []func([]flowfabric.WakeEvent)
	for _, h := range m.watchers {
		told = append(told, h)
	}
	m.mu.Unlock()
	if len(events) > 0 {
		for _, h := range told {
			h(events)
		}
	}
	return err
}

// read runs a question about one execution; e is nil when there is none.
func (m *Store) read(ctx context.Context, id flowfabric.ExecutionID, ask func(e *entry) error) error {
	if err := rules.ValidateExecutionID(id, m.cfg.Partitions); err != nil {
		return err
	}
	return m.do(ctx, func(flowfabric.Millis) error { return ask(m.execs[id]) })
}

// change runs a rule on one execution and keeps its effects, also those of a
// refusal.
func (m *Store) change(ctx context.Context, id flowfabric.ExecutionID, rule func(st *rules.State, now flowfabric.Millis) (rules.Effects, error)) error {
	if err := rules.ValidateExecutionID(id, m.cfg.Partitions); err != nil {
		return err
	}
	return m.do(ctx, func(now flowfabric.Millis) error {
		e := m.execs[id]
		if e == nil {
			return notFound(id)
		}
		fx, err := rule(e.st, now)
		m.keep(e, &fx, now)
		if err == nil {
			err = fx.Err
		}
		return err
	})
}

// keep stores the effects of a transition.
func (m *Store) keep(e *entry, fx *rules.Effects, now flowfabric.Millis) {
	if !fx.Changed {
		return
	}
	x := &e.st.Exec
	if fx.Superseded != nil {
		e.past = append(e.past, *fx.Superseded)
	}
	switch fx.Result {
	case rules.ResultSet:
		e.result = flowfabric.ExecutionResult{Present: true, Payload: slices.Clone(fx.ResultPayload), Encoding: fx.ResultEncoding}
		if e.result.Payload == nil {
			e.result.Payload = []byte{}
		}
	case rules.ResultRemoved:
		e.result = flowfabric.ExecutionResult{}
	}
	if x.OwnershipState != flowfabric.OwnershipLeased {
		e.counted = false
	}
	e.waits.keep(x.ExecutionID, e.st.Wait, fx.Wait, now)
	var completion *flowfabric.Event
	for i := range fx.Events {
		ev := m.record(fx.Events[i])
		if ev != nil && ev.Feed == flowfabric.FeedCompletions {
			completion = ev
		}
	}
	if fx.Offered {
		m.wakeEligible(e, 1)
	}
	if x.PublicState.Terminal() || x.LifecyclePhase == flowfabric.PhaseSuspended {
		m.wake = append(m.wake, flowfabric.WakeEvent{Kind: flowfabric.WakeSettled, Partition: x.ExecutionID.Partition(),
			ExecutionID: x.ExecutionID, Completion: completion, Count: 1})
	}
	if rules.Place(e.st, now).DueAt != 0 {
		m.wake = append(m.wake, flowfabric.WakeEvent{Kind: flowfabric.WakeDue, Partition: x.ExecutionID.Partition(), Count: 1})
	}
}

func (m *Store) wakeEligible(e *entry, count int) {
	x := &e.st.Exec
	m.wake = append(m.wake, flowfabric.WakeEvent{Kind: flowfabric.WakeEligible, Partition: x.ExecutionID.Partition(),
		LaneID: x.LaneID, Namespace: x.Namespace, Required: x.RequiredCapabilities, Count: count})
}

// all returns every execution that the condition admits, ordered.
func (m *Store) all(admit func(e *entry) bool, order func(a, b *entry) int) (out []*entry) {
	for _, e := range m.execs {
		if admit(e) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, order)
	return out
}

// byID orders executions by the text of their identifiers.
func byID(a, b *entry) int { return cmp.Compare(a.st.Exec.ExecutionID, b.st.Exec.ExecutionID) }

// byPlace orders executions by partition, then by identifier.
func byPlace(a, b *entry) int {
	x, y := a.st.Exec.ExecutionID, b.st.Exec.ExecutionID
	return cmp.Or(cmp.Compare(x.Partition(), y.Partition()), cmp.Compare(x, y))
}

// byClaim orders executions as claimers see them: priority descending, creation
// ascending, identifier ascending.
func byClaim(a, b *entry) int {
	x, y := &a.st.Exec, &b.st.Exec
	return cmp.Or(cmp.Compare(y.Priority, x.Priority), cmp.Compare(x.CreatedAt, y.CreatedAt), byID(a, b))
}

func notFound(id flowfabric.ExecutionID) error {
	return flowfabric.NewError(flowfabric.CodeExecutionNotFound, "no execution %s", id)
}

func visible(ns, want flowfabric.Namespace, allowed []flowfabric.Namespace) bool {
	if want != "" && want != flowfabric.AnyNamespace && ns != want {
		return false
	}
	return allowed == nil || slices.Contains(allowed, ns)
}

func limitOf(n, standard, most int) (int, error) {
	if n == 0 {
		return standard, nil
	}
	if n < 0 || n > most {
		return 0, flowfabric.InvalidInput("limit", "is %d, must be 1..%d", n, most)
	}
	return n, nil
}

// checkBatch refuses batches that are empty, of more than 100 items, or given up.
func checkBatch(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if n == 0 {
		return flowfabric.InvalidInput("items", "the batch is empty")
	}
	if n > flowfabric.MaxBatchItems {
		return flowfabric.NewError(flowfabric.CodeBatchTooLarge, "%d items, limit %d", n, flowfabric.MaxBatchItems).
			With("limit", flowfabric.MaxBatchItems).With("actual", n)
	}
	return nil
}

// cursor makes an opaque cursor of its parts.
func cursor(parts ...any) string {
	return base64.RawURLEncoding.EncodeToString([]byte(fmt.Sprintln(parts...)))
}

// parseCursor reads the parts of a cursor back.
func parseCursor(s string, parts ...any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return false
	}
	n, err := fmt.Sscanln(string(raw), parts...)
	return err == nil && n == len(parts)
}
