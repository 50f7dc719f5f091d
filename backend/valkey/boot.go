package valkey

import (
	"context"
	"maps"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
)

// schemaVersion is that of the keys this program knows.
const schemaVersion = 1

// boot follows the boot order. (Specification 07, section 13.)
func (s *Store) boot(ctx context.Context) error {
	s.lib.build()
	if err := s.reach(ctx); err != nil {
		return err
	}
	if err := s.measureClock(ctx); err != nil {
		return err
	}
	if s.cfg.Role == RoleWorker {
		return s.bootWorker(ctx)
	}
	return s.bootServer(ctx)
}

// reach connects and checks the nodes. A store that can't be reached, and a
// cluster with nodes too old, is given time: it may be on its way up.
func (s *Store) reach(ctx context.Context) error {
	limit := time.Now().Add(s.cfg.ConnectWait)
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := s.connect(ctx)
		if err == nil {
			if err = s.checkNodes(ctx); err == nil {
				return nil
			}
		}
		s.nodes.close()
		s.nodes.table.Store(nil)
		s.version = ""
		wait := !permanent(err) || s.cfg.Cluster && flowfabric.CodeOf(err) == flowfabric.CodeStoreVersionTooLow
		left := time.Until(limit)
		if !wait || ctx.Err() != nil || left <= 0 {
			return err
		}
		s.log.Warn("the store is not ready; trying again", "error", err)
		if e := sleep(ctx, min(pause, left)); e != nil {
			return e
		}
	}
}

func (s *Store) bootServer(ctx context.Context) error {
	stored, err := s.readConfig(ctx)
	if err != nil {
		return err
	}
	if len(stored) > 0 {
		if err := s.bind(stored); err != nil {
			return err
		}
	}
	if err := s.lib.ensureAll(ctx); err != nil {
		return err
	}
	if err := s.initDeployment(ctx); err != nil {
		return err
	}
	if err := s.setFeeds(ctx); err != nil {
		return err
	}
	if err := s.DeclareLanes(ctx, s.cfg.Lanes); err != nil {
		return err
	}
	if !s.sharesDuties() {
		return nil
	}
	return s.join(ctx)
}

// bootWorker waits for a server to have made the deployment, and for the
// library.
func (s *Store) bootWorker(ctx context.Context) error {
	limit := time.Now().Add(s.cfg.BootWait)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		stored, err := s.readConfig(ctx)
		if err != nil {
			return err
		}
		s.cfg.PartitionConfig = flowfabric.PartitionConfig{} // whatever is stored
		bound := s.bind(stored)
		if bound == nil {
			break
		}
		if flowfabric.CodeOf(bound) == flowfabric.CodeSchemaTooNew {
			return bound
		}
		left := time.Until(limit)
		if left <= 0 {
			return flowfabric.NewError(flowfabric.CodeDeploymentNotInitialized, "no server has prepared the store").Wrap(bound)
		}
		if err := sleep(ctx, min(pause, left)); err != nil {
			return err
		}
	}
	if err := s.readFeeds(ctx); err != nil {
		return err
	}
	return s.lib.await(ctx)
}

// readConfig reads the deployment's configuration; it is empty when there is
// none.
func (s *Store) readConfig(ctx context.Context) (map[string]string, error) {
	a := s.plain(ctx, s.b.Hgetall().Key(keyConfig).Build())[0]
	if a.err != nil {
		return nil, a.err
	}
	return a.msg.AsStrMap()
}

// initDeployment writes the configuration unless there is one, and binds the
// store to what is there then.
func (s *Store) initDeployment(ctx context.Context) error {
	want, def := s.cfg.PartitionConfig, flowfabric.DefaultPartitionConfig()
	msg, err := s.call(ctx, "ff_init_deployment", tagConfig,
		strconv.Itoa(orDefault(want.NumFlowPartitions, def.NumFlowPartitions)),
		strconv.Itoa(orDefault(want.NumBudgetPartitions, def.NumBudgetPartitions)),
		strconv.Itoa(orDefault(want.NumQuotaPartitions, def.NumQuotaPartitions)),
		strconv.Itoa(schemaVersion), uuid.NewString())
	if err != nil {
		return err
	}
	stored, err := msg.AsStrMap()
	if err != nil {
		return flowfabric.NewError(flowfabric.CodeStoreFault, "ff_init_deployment: %v", err).WithKind("protocol")
	}
	return s.bind(stored)
}

func orDefault(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}

// bind takes the stored configuration over, or refuses it.
func (s *Store) bind(stored map[string]string) error {
	corrupt := func(field string) error {
		return flowfabric.NewError(flowfabric.CodePartitionConfigCorrupt, "%s of %s is %q", field, keyConfig, stored[field]).With("field", field)
	}
	if text := stored["schema_version"]; text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return corrupt("schema_version")
		}
		if n > schemaVersion {
			return flowfabric.NewError(flowfabric.CodeSchemaTooNew, "the store has schema version %d, this program knows %d", n, schemaVersion).
				With("found", n).With("known", schemaVersion)
		}
	}
	var c flowfabric.PartitionConfig
	counts := []struct {
		field  string
		n      *int
		wanted int
	}{
		{"num_flow_partitions", &c.NumFlowPartitions, s.cfg.PartitionConfig.NumFlowPartitions},
		{"num_budget_partitions", &c.NumBudgetPartitions, s.cfg.PartitionConfig.NumBudgetPartitions},
		{"num_quota_partitions", &c.NumQuotaPartitions, s.cfg.PartitionConfig.NumQuotaPartitions},
	}
	for _, f := range counts {
		n, err := strconv.Atoi(stored[f.field])
		if err != nil || n < 1 || n > 65535 {
			return corrupt(f.field)
		}
		*f.n = n
	}
	if stored["deployment_id"] == "" {
		return corrupt("deployment_id")
	}
	for _, f := range counts {
		if f.wanted != 0 && f.wanted != *f.n {
			return flowfabric.NewError(flowfabric.CodePartitionCountMismatch, "the store was made with %s %d; configured is %d", f.field, *f.n, f.wanted).
				With("field", f.field).With("stored", *f.n).With("configured", f.wanted)
		}
	}
	s.parts, s.deploymentID = c, stored["deployment_id"]
	s.tags = make([]string, c.NumFlowPartitions)
	for n := range s.tags {
		s.tags[n] = partitionTag(uint16(n))
	}
	return nil
}

// defaultFeeds are written, besides completions, where nothing was said.
var defaultFeeds = map[flowfabric.Feed]bool{flowfabric.FeedLeases: true, flowfabric.FeedSignals: true, flowfabric.FeedTags: true}

// setFeeds stores the configured feeds, if any, and reads what holds.
func (s *Store) setFeeds(ctx context.Context) error {
	if s.cfg.Feeds != nil {
		on := make(map[flowfabric.Feed]bool, len(s.cfg.Feeds))
		for _, f := range s.cfg.Feeds {
			on[f] = true
		}
		args := make([]string, 0, 2*len(defaultFeeds))
		for f := range defaultFeeds {
			state := "off"
			if on[f] {
				state = "on"
			}
			args = append(args, string(f), state)
		}
		if _, err := s.call(ctx, "ff_set_feeds", tagFeeds, args...); err != nil {
			return err
		}
	}
	return s.readFeeds(ctx)
}

// readFeeds takes over which feeds the deployment writes.
func (s *Store) readFeeds(ctx context.Context) error {
	a := s.plain(ctx, s.b.Hgetall().Key(keyConfigFeeds).Build())[0]
	if a.err != nil {
		return a.err
	}
	stored, err := a.msg.AsStrMap()
	if err != nil {
		return flowfabric.NewError(flowfabric.CodeStoreFault, "%s: %v", keyConfigFeeds, err).WithKind("protocol")
	}
	on := maps.Clone(defaultFeeds)
	for f, state := range stored {
		on[flowfabric.Feed(f)] = state != "off"
	}
	s.feeds.Store(&on)
	return nil
}
