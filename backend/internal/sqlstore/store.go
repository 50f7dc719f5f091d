// Package sqlstore keeps FlowFabric's contract in a SQL database. It is the one
// implementation behind the embedded store and Postgres: begin, read the rows
// the rule needs, call the rule, write what it returns, commit. What differs
// between databases is behind [DB].
//
// The writer owns everything in memory that a transition needs without a read:
// the rows in use, the bucket heads, lane counts, the registry and the feeds'
// sequence numbers. Readers see copies published after commits.
package sqlstore

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// Config configures a store.
type Config struct {
	Family       string // "sqlite", "memory", "postgres"
	Version      string
	Path         string
	Partitions   flowfabric.PartitionConfig // zero: take the stored one, or the default
	Feeds        []flowfabric.Feed          // beside completions
	StrictLanes  bool
	Logger       *slog.Logger
	CacheEntries int // rows kept by the writer; 0 means 16,384
	// WaitpointSecretHex seeds an empty key ring of the waitpoint tokens, under
	// WaitpointKID (default k1); empty means a random secret.
	WaitpointSecretHex string
	WaitpointKID       string
	// NoWaitpointSecret leaves the key ring to SeedWaitpointSecret.
	NoWaitpointSecret bool
}

// Store implements flowfabric.Store over a DB.
type Store struct {
	db  DB
	cfg Config
	log *eventLog

	deploymentID string
	incarnation  string
	parts        flowfabric.PartitionConfig

	// Owned by the writer.
	cache    *cache
	buckets  *bucketSet
	lanes    map[flowfabric.LaneID]*laneRecord
	named    map[flowfabric.LaneID]bool
	counts   map[flowfabric.LaneID]*laneCount
	registry *registry
	grants   *liveGrants
	sweeps   map[flowfabric.LaneID]sweepPlace // passes over lanes that were enabled
	ring     rules.KeyRing                    // of the waitpoint tokens; replaced, never changed
	lastXid  int64

	rotating sync.Mutex // held while the ring is rotated

	// bucketMu guards labels and lookups by readers.
	bucketMu sync.RWMutex

	// pub is what readers see of the writer's memory, as of the last commit.
	pub struct {
		sync.RWMutex
		lanes   map[flowfabric.LaneID]laneRecord
		counts  map[flowfabric.LaneID]laneCount
		workers map[workerKey]flowfabric.WorkerRegistration
		heads   [5]publishedFeed
	}

	minted atomic.Uint64 // identifiers minted by this process

	watchMu  sync.Mutex
	watchers atomic.Pointer[[]*watcher]
}

type publishedFeed struct {
	lastPos int64
	seqs    map[uint16]uint64
	trimmed map[uint16]uint64
}

type watcher struct{ handle func([]flowfabric.WakeEvent) }

var (
	qSelectConfig = &Query{`select name, value from config`}
	qInsertConfig = &Query{`insert into config (name, value) values (?, ?) on conflict (name) do update set value = excluded.value`}
	qMaxXid       = &Query{`select coalesce(max(xid), 0) from executions`}
)

// New prepares a store over an opened, migrated database. The caller then hands
// Hooks to its writer and calls Boot.
func New(cfg Config) *Store {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.CacheEntries <= 0 {
		cfg.CacheEntries = 16_384
	}
	s := &Store{
		cfg: cfg, log: newEventLog(cfg.Feeds), cache: newCache(cfg.CacheEntries), buckets: newBucketSet(),
		lanes: make(map[flowfabric.LaneID]*laneRecord), named: make(map[flowfabric.LaneID]bool),
		counts: make(map[flowfabric.LaneID]*laneCount), registry: newRegistry(), grants: newLiveGrants(),
		sweeps: make(map[flowfabric.LaneID]sweepPlace),
	}
	s.pub.lanes = make(map[flowfabric.LaneID]laneRecord)
	s.pub.counts = make(map[flowfabric.LaneID]laneCount)
	s.pub.workers = make(map[workerKey]flowfabric.WorkerRegistration)
	return s
}

// Hooks returns the store's ends of a write transaction.
func (s *Store) Hooks() Hooks {
	return Hooks{Begin: s.begin, Flush: s.flush, Committed: s.committed, RolledBack: s.reload}
}

// Boot binds the store to its database: it makes or checks the configuration
// and fills the writer's memory. conn is the writer's connection, and nothing
// else may use it until Boot returns.
func (s *Store) Boot(ctx context.Context, db DB, conn Conn) error {
	s.db = db
	stored := make(map[string]string)
	q := conn.Stmt(qSelectConfig)
	for {
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		stored[q.ColText(0)] = q.ColText(1)
	}
	if err := s.bindConfig(conn, stored); err != nil {
		return err
	}
	if err := s.reload(conn); err != nil {
		return err
	}
	return s.bootRing(conn)
}

func (s *Store) bindConfig(conn Conn, stored map[string]string) error {
	want := s.cfg.Partitions
	if len(stored) == 0 {
		if want == (flowfabric.PartitionConfig{}) {
			want = flowfabric.DefaultPartitionConfig()
		}
		if err := want.Validate(); err != nil {
			return err
		}
		doc, err := json.Marshal(want)
		if err != nil {
			return err
		}
		stored = map[string]string{"partitions": string(doc), "deployment_id": uuid.NewString(), "incarnation": uuid.NewString()}
		for name, value := range stored {
			q := conn.Stmt(qInsertConfig)
			q.Text(name)
			q.Text(value)
			if err := q.Exec(); err != nil {
				return err
			}
		}
	}
	if err := json.Unmarshal([]byte(stored["partitions"]), &s.parts); err != nil || s.parts.Validate() != nil {
		return flowfabric.NewError(flowfabric.CodePartitionConfigCorrupt, "stored partition configuration %q does not decode", stored["partitions"])
	}
	if want != (flowfabric.PartitionConfig{}) && want != s.parts {
		return flowfabric.NewError(flowfabric.CodePartitionCountMismatch,
			"the store was made with %d flow, %d budget and %d quota partitions; configured are %d, %d and %d",
			s.parts.NumFlowPartitions, s.parts.NumBudgetPartitions, s.parts.NumQuotaPartitions,
			want.NumFlowPartitions, want.NumBudgetPartitions, want.NumQuotaPartitions)
	}
	s.deploymentID, s.incarnation = stored["deployment_id"], stored["incarnation"]
	return nil
}

// reload fills the writer's memory from what is committed.
func (s *Store) reload(c Conn) error {
	s.cache.clear()
	clear(s.sweeps)
	q := c.Stmt(qMaxXid)
	if ok, err := q.Next(); err != nil {
		return err
	} else if ok {
		s.lastXid = q.ColInt(0)
		q.Stop()
	}
	for _, load := range []func(Conn) error{s.loadBuckets, s.loadLanes, s.loadWorkers, s.loadEvents, s.loadGrants, s.loadRing} {
		if err := load(c); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) begin(c Conn, now flowfabric.Millis) *Tx {
	return &Tx{s: s, conn: c, Now: now}
}

// flush writes once per group what many operations changed.
func (s *Store) flush(tx *Tx) error {
	if err := tx.flushMembers(); err != nil {
		return err
	}
	return tx.flushCounts()
}

// committed publishes a group: first to readers, then to those who wait.
func (s *Store) committed(tx *Tx) {
	s.publish(tx)
	if len(tx.wake) == 0 {
		return
	}
	if list := s.watchers.Load(); list != nil {
		for _, w := range *list {
			w.handle(tx.wake)
		}
	}
}

func (s *Store) publish(tx *Tx) {
	d := &tx.dirty
	if d.heads == nil && d.lanes == nil && d.workers == nil && d.counts == nil {
		return
	}
	s.pub.Lock()
	defer s.pub.Unlock()
	told := [5]bool{}
	for _, h := range d.heads {
		f := &s.pub.heads[h.feed]
		if h.trimmed {
			f.trimmed[h.part] = h.seq
			continue
		}
		f.lastPos, f.seqs[h.part] = max(f.lastPos, h.pos), max(f.seqs[h.part], h.seq)
		if !told[h.feed] {
			told[h.feed] = true
			tx.wake = append(tx.wake, flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Feed: feedNumbers.labels[h.feed]})
		}
	}
	for id := range d.lanes {
		if l := s.lanes[id]; l != nil {
			s.pub.lanes[id] = *l
		} else {
			delete(s.pub.lanes, id)
		}
	}
	for id := range d.counts {
		if c := s.counts[id]; c != nil {
			s.pub.counts[id] = *c
		} else {
			delete(s.pub.counts, id)
		}
	}
	for k := range d.workers {
		if w := s.registry.workers[k]; w != nil {
			s.pub.workers[k] = w.reg
		} else {
			delete(s.pub.workers, k)
		}
	}
}

// publishHeads publishes all sequence numbers anew.
func (s *Store) publishHeads() {
	s.pub.Lock()
	defer s.pub.Unlock()
	for n := range s.log.feeds {
		f := &s.log.feeds[n]
		s.pub.heads[n] = publishedFeed{f.lastPos, maps.Clone(f.seqs), maps.Clone(f.trimmed)}
	}
}

// Watch calls handle after every commit that others may wait for.
func (s *Store) Watch(handle func([]flowfabric.WakeEvent)) (stop func()) {
	w := &watcher{handle}
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	var list []*watcher
	if old := s.watchers.Load(); old != nil {
		list = append(list, *old...)
	}
	list = append(list, w)
	s.watchers.Store(&list)
	return func() {
		s.watchMu.Lock()
		defer s.watchMu.Unlock()
		var rest []*watcher
		for _, o := range *s.watchers.Load() {
			if o != w {
				rest = append(rest, o)
			}
		}
		s.watchers.Store(&rest)
	}
}

// Now is the store's clock.
func (s *Store) Now() flowfabric.Millis { return s.db.Now() }

// Ping returns nil when the store answers.
func (s *Store) Ping(ctx context.Context) error {
	return s.db.Read(ctx, func(c Conn) error {
		q := c.Stmt(qMaxXid)
		_, err := q.Next()
		q.Stop()
		return err
	})
}

// PartitionConfig returns the published configuration.
func (s *Store) PartitionConfig(context.Context) (flowfabric.PartitionConfig, error) {
	return s.parts, nil
}

// Describe names the backend.
func (s *Store) Describe(context.Context) (flowfabric.BackendInfo, error) {
	return flowfabric.BackendInfo{Family: s.cfg.Family, Version: s.cfg.Version, DeploymentID: s.deploymentID, Path: s.cfg.Path}, nil
}

func jitter(n int64) int64 { return rand.Int64N(n) }

func appendInt(b []byte, v int64) []byte { return strconv.AppendInt(b, v, 10) }

// write runs op as one write of a single execution.
func (s *Store) write(ctx context.Context, op func(tx *Tx) error) error {
	return s.db.Write(ctx, 1, op)
}
