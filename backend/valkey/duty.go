package valkey

import (
	"context"
	"hash/fnv"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
)

// What a server does beside the duties of the engine. (Specification 07, section
// 9.)
const (
	heartbeatEvery       = 5 * time.Second
	heartbeatBeats       = 3 // a registration holds for so many heartbeats
	deploymentCheckEvery = 10 * time.Second
	libraryCheckEvery    = 30 * time.Second
)

// membership is who shares the duties, as of the last heartbeat.
type membership struct {
	joined atomic.Bool
	owned  atomic.Pointer[[]bool] // by partition; nil: all
	live   []string               // belongs to the heartbeat
}

// mine reports whether a partition is this server's share: of all live servers,
// the one with the highest hash of (server, partition) has it. Duties look at
// their own partitions in every cycle and at the others in every 4th, so that
// the share of a server that died is served until its registration lapses.
func (s *Store) mine(partition uint16) bool {
	owned := s.servers.owned.Load()
	return owned == nil || int(partition) >= len(*owned) || (*owned)[partition]
}

// share computes the partitions of one server among the live ones, nil when it
// is alone.
func share(self string, live []string, partitions int) *[]bool {
	if !slices.Contains(live, self) || len(live) == 1 {
		return nil
	}
	owned := make([]bool, partitions)
	for p := range owned {
		best, highest := "", uint64(0)
		for _, server := range live {
			if w := weight(server, p); best == "" || w > highest || w == highest && server > best {
				best, highest = server, w
			}
		}
		owned[p] = best == self
	}
	return &owned
}

func weight(server string, partition int) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(server)) // never fails
	_, _ = h.Write([]byte{0, byte(partition >> 8), byte(partition)})
	x := h.Sum64()
	x ^= x >> 33 // FNV alone spreads its last bytes badly
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// join registers this server and learns of the others.
func (s *Store) join(ctx context.Context) error {
	if err := s.heartbeat(ctx); err != nil {
		return err
	}
	s.servers.joined.Store(true)
	return nil
}

// heartbeat renews the registration, forgets servers that are long gone, and
// shares the partitions anew when somebody came or went.
func (s *Store) heartbeat(ctx context.Context) error {
	if err := s.checkDeployment(ctx); err != nil { // nothing is written into another deployment
		return err
	}
	now := int64(s.realNow())
	ttl := (heartbeatBeats * s.cfg.Testing.Heartbeat).Milliseconds()
	answers := s.plain(ctx,
		s.b.Zadd().Key(keyServers).ScoreMember().ScoreMember(float64(now+ttl), s.cfg.InstanceID).Build(),
		s.b.Zremrangebyscore().Key(keyServers).Min("-inf").Max(strconv.FormatInt(now-10*ttl, 10)).Build(),
		s.b.Zrangebyscore().Key(keyServers).Min("("+strconv.FormatInt(now, 10)).Max("+inf").Build(),
	)
	for _, a := range answers {
		if a.err != nil {
			return a.err
		}
	}
	live, err := answers[2].msg.AsStrSlice()
	if err != nil {
		return flowfabric.NewError(flowfabric.CodeStoreFault, "%s: %v", keyServers, err).WithKind("protocol")
	}
	slices.Sort(live)
	if !slices.Equal(live, s.servers.live) {
		s.servers.live = live
		s.servers.owned.Store(share(s.cfg.InstanceID, live, s.parts.NumFlowPartitions))
	}
	return nil
}

// leave withdraws the registration, so that the others take over at once.
func (s *Store) leave() error {
	if !s.servers.joined.Load() || s.gone.Load() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.RequestTimeout)
	defer cancel()
	err := s.plain(ctx, s.b.Zrem().Key(keyServers).Member(s.cfg.InstanceID).Build())[0].err
	if flowfabric.AsError(err) != nil && !permanent(err) {
		return nil // it lapses by itself
	}
	return err
}

// sharesDuties reports whether this process takes a share of the partitions: a
// server whose engine runs no duties must not.
func (s *Store) sharesDuties() bool {
	return s.cfg.Role == RoleServer && !s.cfg.Engine.DisableDuties
}

// startDuties starts what runs as long as the store is open.
func (s *Store) startDuties() {
	t := s.cfg.Testing
	s.loop("deployment check", t.DeploymentCheck, s.checkDeployment)
	if !s.cfg.NoEngine {
		s.loop("ready sweep", readySweepEvery, s.sweepReady)
	}
	if s.cfg.Role == RoleWorker {
		s.loop("topology check", t.LibraryCheck, s.checkTopology)
		return
	}
	if !s.cfg.NoEngine {
		s.loop("outbox", outboxEvery, func(ctx context.Context) error {
			_, err := s.sweepOutbox(ctx)
			return err
		})
	}
	if s.sharesDuties() {
		s.loop("heartbeat", t.Heartbeat, s.heartbeat)
	}
	s.loop("library check", t.LibraryCheck, s.checkLibrary)
}

// loop runs f at the interval until Close. Of failures in a row it logs the 1st,
// 2nd, 4th, 8th, ….
func (s *Store) loop(name string, every time.Duration, f func(context.Context) error) {
	s.running.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		failures := 0
		for {
			select {
			case <-s.stop:
				return
			case <-ticker.C:
			}
			if s.gone.Load() != nil {
				return // nothing may be written any more
			}
			ctx, cancel := s.untilStop()
			err := f(ctx)
			cancel()
			if err == nil {
				failures = 0
				continue
			}
			failures++
			if s.isStopping() {
				return
			}
			if failures&(failures-1) == 0 {
				s.log.Warn(name+" failed", "failures_in_a_row", failures, "error", err)
			}
		}
	})
}

// untilStop returns a context that ends when the store is being closed.
func (s *Store) untilStop() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*s.cfg.RequestTimeout)
	done := make(chan struct{})
	go func() {
		select {
		case <-s.stop:
			cancel()
		case <-done:
		}
	}()
	return ctx, func() {
		close(done)
		cancel()
	}
}

func (s *Store) isStopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// checkDeployment looks whether the store still is the one that was opened. If
// not, it is given up for good: what is in memory belongs to the other one, and
// nothing may be written here. (Specification 07, section 9.)
func (s *Store) checkDeployment(ctx context.Context) error {
	stored, err := s.readConfig(ctx)
	if err != nil {
		return err
	}
	if stored["deployment_id"] == s.deploymentID {
		return nil
	}
	e := flowfabric.NewError(flowfabric.CodeStoreReplaced, "the store no longer holds deployment %s: it was wiped or exchanged", s.deploymentID).
		With("deployment_id", s.deploymentID).With("found", stored["deployment_id"])
	if s.gone.CompareAndSwap(nil, e) {
		s.log.Error("the store was replaced; nothing is done any more until a restart", "error", e)
	}
	return e
}

// checkTopology reads the map of the cluster and the clocks anew.
func (s *Store) checkTopology(ctx context.Context) error {
	s.nodes.refresh(ctx, nil)
	if err := s.readFeeds(ctx); err != nil {
		return err
	}
	return s.measureClock(ctx)
}

// checkLibrary is checkTopology; then it loads the library where it is missing.
func (s *Store) checkLibrary(ctx context.Context) error {
	if err := s.checkTopology(ctx); err != nil {
		return err
	}
	return s.lib.check(ctx)
}
