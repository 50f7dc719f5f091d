package sqlstore

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// laneRecord is a lane as stored.
type laneRecord struct {
	flowfabric.Lane
	// SweepPending is set while the sweep has members to move after the lane was
	// disabled or enabled.
	SweepPending bool `json:"sweep_pending,omitempty"`
}

// laneCount counts a lane's executions by public state, and those leased by way
// of the scheduler.
type laneCount [12]int64

const leasedSlot = 11

func stateSlot(p flowfabric.PublicState) int { return int(publicStates.of(p)) }

var (
	qSelectLanes  = &Query{`select lane, rec from lanes`}
	qSelectNamed  = &Query{`select lane from named_lanes`}
	qSelectCounts = &Query{`select lane, state, n from lane_counts`}
	qUpsertLane   = &Query{`insert into lanes (lane, rec) values (?, ?) on conflict (lane) do update set rec = excluded.rec`}
	qDeleteLane   = &Query{`delete from lanes where lane = ?`}
	qInsertNamed  = &Query{`insert into named_lanes (lane) values (?) on conflict (lane) do nothing`}
	qAddCount     = &Query{`insert into lane_counts (lane, state, n) values (?, ?, ?)
		on conflict (lane, state) do update set n = lane_counts.n + excluded.n`}
	qNextPriority = &Query{`select prio_key from executions where bucket = ? and offered = 1 and prio_key >= ? order by prio_key limit 1`}
)

func (s *Store) loadLanes(c Conn) error {
	clear(s.lanes)
	clear(s.named)
	clear(s.counts)
	q := c.Stmt(qSelectLanes)
	for {
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		l := &laneRecord{}
		if err := json.Unmarshal([]byte(q.ColText(1)), l); err != nil {
			q.Stop()
			return corrupt("load_lanes", "lane "+q.ColText(0), err.Error())
		}
		s.lanes[l.LaneID] = l
	}
	q = c.Stmt(qSelectNamed)
	for {
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		s.named[flowfabric.LaneID(q.ColText(0))] = true
	}
	q = c.Stmt(qSelectCounts)
	for {
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if slot := q.ColInt(1); slot >= 0 && slot <= leasedSlot {
			s.countOf(flowfabric.LaneID(q.ColText(0)))[slot] = q.ColInt(2)
		}
	}
	s.pub.Lock()
	defer s.pub.Unlock()
	clear(s.pub.lanes)
	clear(s.pub.counts)
	for id, l := range s.lanes {
		s.pub.lanes[id] = *l
	}
	for id, c := range s.counts {
		s.pub.counts[id] = *c
	}
	return nil
}

func (s *Store) countOf(lane flowfabric.LaneID) *laneCount {
	c := s.counts[lane]
	if c == nil {
		c = &laneCount{}
		s.counts[lane] = c
	}
	return c
}

// count notes a change of a lane's counts; the group writes it once.
func (tx *Tx) count(lane flowfabric.LaneID, slot int, n int64) {
	if tx.dirty.counts == nil {
		tx.dirty.counts = make(map[flowfabric.LaneID]*laneCount, 2)
	}
	d := tx.dirty.counts[lane]
	if d == nil {
		d = &laneCount{}
		tx.dirty.counts[lane] = d
	}
	d[slot] += n
	tx.s.countOf(lane)[slot] += n
}

func (tx *Tx) flushCounts() error {
	for lane, d := range tx.dirty.counts {
		for slot, n := range d {
			if n == 0 {
				continue
			}
			q := tx.conn.Stmt(qAddCount)
			q.Text(string(lane))
			q.Int(int64(slot))
			q.Int(n)
			if err := q.Exec(); err != nil {
				return err
			}
		}
	}
	return nil
}

// lane returns a lane for a creation or a lane operation, making it when it is
// named for the first time.
func (tx *Tx) lane(id flowfabric.LaneID) (*laneRecord, error) {
	if l := tx.s.lanes[id]; l != nil {
		return l, nil
	}
	if tx.s.cfg.StrictLanes {
		return nil, flowfabric.NewError(flowfabric.CodeLaneNotFound, "lane %q is unknown", id)
	}
	l := &laneRecord{Lane: rules.NewLane(id, tx.Now)}
	return l, tx.saveLane(l)
}

func (tx *Tx) saveLane(l *laneRecord) error {
	doc, err := json.Marshal(l)
	if err != nil {
		return err
	}
	q := tx.conn.Stmt(qUpsertLane)
	q.Text(string(l.LaneID))
	q.Text(string(doc))
	if err := q.Exec(); err != nil {
		return err
	}
	tx.s.lanes[l.LaneID] = l
	tx.markLane(l.LaneID)
	return nil
}

func (tx *Tx) markLane(id flowfabric.LaneID) {
	if tx.dirty.lanes == nil {
		tx.dirty.lanes = make(map[flowfabric.LaneID]bool)
	}
	tx.dirty.lanes[id] = true
}

// name notes that some worker has named the lane, for good.
func (tx *Tx) name(id flowfabric.LaneID) error {
	if tx.s.named[id] {
		return nil
	}
	q := tx.conn.Stmt(qInsertNamed)
	q.Text(string(id))
	if err := q.Exec(); err != nil {
		return err
	}
	tx.s.named[id] = true
	return nil
}

// laneDefault returns the default policy of a lane as of the last commit.
func (s *Store) laneDefault(id flowfabric.LaneID) json.RawMessage {
	s.pub.RLock()
	defer s.pub.RUnlock()
	return s.pub.lanes[id].DefaultPolicy
}

// DeclareLanes makes lanes that do not exist yet.
func (s *Store) DeclareLanes(ctx context.Context, lanes []flowfabric.LaneID) error {
	for _, id := range lanes {
		if err := id.Validate(); err != nil {
			return err
		}
	}
	return s.write(ctx, func(tx *Tx) error {
		for _, id := range lanes {
			if s.lanes[id] != nil {
				continue
			}
			if err := tx.saveLane(&laneRecord{Lane: rules.NewLane(id, tx.Now)}); err != nil {
				return err
			}
		}
		return nil
	})
}

func laneNotFound(id flowfabric.LaneID) error {
	return flowfabric.NewError(flowfabric.CodeLaneNotFound, "lane %q is unknown", id)
}

// ownLane shares no map with the writer's record.
func ownLane(l flowfabric.Lane) flowfabric.Lane {
	l.TenantWeights = maps.Clone(l.TenantWeights)
	return l
}

// status completes a lane with what can be counted in it.
func (s *Store) status(c Conn, id flowfabric.LaneID) (flowfabric.LaneStatus, bool, error) {
	s.pub.RLock()
	l, ok := s.pub.lanes[id]
	count := s.pub.counts[id]
	s.pub.RUnlock()
	if !ok {
		return flowfabric.LaneStatus{}, false, nil
	}
	st := flowfabric.LaneStatus{Lane: ownLane(l.Lane), Counts: make(map[flowfabric.PublicState]int64, 11)}
	for i, p := range publicStates.labels {
		st.Counts[p] = count[i]
	}
	st.Drained = l.State == flowfabric.LaneDraining && live(&count) == 0
	oldest, err := s.oldestEligible(c, id)
	st.OldestEligibleAt = oldest
	return st, true, err
}

func live(c *laneCount) int64 {
	n := int64(0)
	for i, p := range publicStates.labels {
		if !p.Terminal() {
			n += c[i]
		}
	}
	return n
}

// oldestEligible is the creation time of the oldest offered execution of a lane:
// within one priority the head of a bucket, so one look per priority in use.
func (s *Store) oldestEligible(c Conn, id flowfabric.LaneID) (flowfabric.Millis, error) {
	const step = 1_000_000_000_000
	s.bucketMu.RLock()
	var ids []int64
	for _, b := range s.buckets.all[id] {
		if b.occupied.Load() {
			ids = append(ids, b.id)
		}
	}
	s.bucketMu.RUnlock()
	now := int64(s.Now())
	oldest := int64(0)
	for _, bucketID := range ids {
		from := int64(-flowfabric.MaxPriority) * step
		for range 100 {
			q := c.Stmt(qNextPriority)
			q.Int(bucketID)
			q.Int(from)
			ok, err := q.Next()
			if err != nil {
				return 0, err
			}
			if !ok {
				break
			}
			key := q.ColInt(0)
			q.Stop()
			priority := max(now-key, 0) / step
			created := key + priority*step
			if oldest == 0 || created < oldest {
				oldest = created
			}
			from = now - priority*step + 1
		}
	}
	return flowfabric.Millis(oldest), nil
}

// GetLane returns a lane with its counts.
func (s *Store) GetLane(ctx context.Context, id flowfabric.LaneID) (flowfabric.LaneStatus, error) {
	if err := id.Validate(); err != nil {
		return flowfabric.LaneStatus{}, err
	}
	var st flowfabric.LaneStatus
	var found bool
	err := s.db.Read(ctx, func(c Conn) (err error) {
		st, found, err = s.status(c, id)
		return err
	})
	if err == nil && !found {
		err = laneNotFound(id)
	}
	return st, err
}

// ListLanes returns lanes ordered by id.
func (s *Store) ListLanes(ctx context.Context, a flowfabric.ListLanesArgs) (flowfabric.ListLanesResult, error) {
	var res flowfabric.ListLanesResult
	limit, err := listLimit(a.Limit, flowfabric.DefaultListLimit, flowfabric.MaxListLimit)
	if err != nil {
		return res, err
	}
	s.pub.RLock()
	var ids []flowfabric.LaneID
	for id := range s.pub.lanes {
		if id > a.After {
			ids = append(ids, id)
		}
	}
	s.pub.RUnlock()
	slices.Sort(ids)
	if len(ids) > limit {
		ids, res.More = ids[:limit], true
	}
	err = s.db.Read(ctx, func(c Conn) error {
		res.Lanes = make([]flowfabric.LaneStatus, 0, len(ids))
		for _, id := range ids {
			st, ok, err := s.status(c, id)
			if err != nil {
				return err
			}
			if ok {
				res.Lanes = append(res.Lanes, st)
			}
		}
		return nil
	})
	return res, err
}

func listLimit(limit, def, most int) (int, error) {
	if limit == 0 {
		return def, nil
	}
	if limit < 0 || limit > most {
		return 0, flowfabric.InvalidInput("limit", "is %d, must be 1..%d", limit, most)
	}
	return limit, nil
}

// UpdateLane changes a lane's settings.
func (s *Store) UpdateLane(ctx context.Context, a flowfabric.UpdateLaneArgs) (flowfabric.Lane, error) {
	if err := a.LaneID.Validate(); err != nil {
		return flowfabric.Lane{}, err
	}
	var out flowfabric.Lane
	var refused error
	err := s.write(ctx, func(tx *Tx) error {
		out, refused = flowfabric.Lane{}, nil
		l := s.lanes[a.LaneID]
		if l == nil {
			if a.ExpectedRevision != nil || s.cfg.StrictLanes {
				refused = laneNotFound(a.LaneID)
				return nil
			}
			l = &laneRecord{Lane: rules.NewLane(a.LaneID, tx.Now)}
		}
		next, err := rules.UpdateLane(l.Lane, a, tx.Now)
		if err != nil {
			refused = err
			return nil
		}
		out = ownLane(next)
		tx.wakeLane(next.LaneID)
		return tx.saveLane(&laneRecord{Lane: next, SweepPending: l.SweepPending})
	})
	if err == nil {
		err = refused
	}
	return out, err
}

// wakeBounded tells that a slot of a lane with a bound has become free.
func (tx *Tx) wakeBounded(id flowfabric.LaneID) {
	if l := tx.s.lanes[id]; l != nil && l.MaxConcurrency > 0 {
		tx.wakeLane(id)
	}
}

func (tx *Tx) wakeLane(id flowfabric.LaneID) {
	tx.wake = append(tx.wake, flowfabric.WakeEvent{Kind: flowfabric.WakeLane, LaneID: id, Count: 1})
}

// SetLaneState moves a lane to another state. Members are moved by the sweep,
// whose first batch runs in this very step.
func (s *Store) SetLaneState(ctx context.Context, a flowfabric.SetLaneStateArgs) (flowfabric.SetLaneStateResult, error) {
	var out flowfabric.SetLaneStateResult
	if err := a.LaneID.Validate(); err != nil {
		return out, err
	}
	var refused error
	err := s.db.Write(ctx, sweepBatch, func(tx *Tx) error {
		out, refused = flowfabric.SetLaneStateResult{}, nil
		l := s.lanes[a.LaneID]
		if l == nil {
			if s.cfg.StrictLanes {
				refused = laneNotFound(a.LaneID)
				return nil
			}
			l = &laneRecord{Lane: rules.NewLane(a.LaneID, tx.Now)}
		}
		next, unchanged, err := rules.SetLaneState(l.Lane, a, tx.Now)
		if err != nil {
			refused = err
			return nil
		}
		out = flowfabric.SetLaneStateResult{Lane: ownLane(next), Unchanged: unchanged}
		if unchanged && s.lanes[a.LaneID] != nil {
			return nil
		}
		moved := (l.State == flowfabric.LaneDisabled) != (next.State == flowfabric.LaneDisabled)
		rec := &laneRecord{Lane: next, SweepPending: l.SweepPending || moved}
		if err := tx.saveLane(rec); err != nil {
			return err
		}
		tx.wakeLane(next.LaneID)
		if !moved {
			return nil
		}
		delete(s.sweeps, a.LaneID)
		_, _, err = tx.sweepLane(rec)
		return err
	})
	if err == nil {
		err = refused
	}
	return out, err
}

// DeleteLane removes a disabled lane without non-terminal executions.
func (s *Store) DeleteLane(ctx context.Context, id flowfabric.LaneID) (bool, error) {
	if err := id.Validate(); err != nil {
		return false, err
	}
	var gone bool
	var refused error
	err := s.write(ctx, func(tx *Tx) error {
		gone, refused = false, nil
		l := s.lanes[id]
		if l == nil {
			return nil
		}
		if n := live(s.countOf(id)); l.State != flowfabric.LaneDisabled || n > 0 {
			refused = flowfabric.NewError(flowfabric.CodeLaneNotEmpty, "lane %q is %s with %d live executions; it must be disabled and empty", id, l.State, n).
				With("state", string(l.State)).With("live", n)
			return nil
		}
		q := tx.conn.Stmt(qDeleteLane)
		q.Text(string(id))
		if err := q.Exec(); err != nil {
			return err
		}
		delete(s.lanes, id)
		tx.markLane(id)
		tx.wakeLane(id)
		gone = true
		return nil
	})
	if err == nil {
		err = refused
	}
	return gone, err
}

// LaneWeights returns all lanes with their scheduling weights.
func (s *Store) LaneWeights(context.Context) (map[flowfabric.LaneID]flowfabric.Lane, error) {
	s.pub.RLock()
	defer s.pub.RUnlock()
	out := make(map[flowfabric.LaneID]flowfabric.Lane, len(s.pub.lanes))
	for id, l := range s.pub.lanes {
		out[id] = l.Lane
	}
	return out, nil
}
