package valkey

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

const (
	// laneCacheFor is how long a lane's record may be remembered.
	laneCacheFor = time.Second
	// laneCacheMost bounds how many are, since a claim may name any lane.
	laneCacheMost = 10_000
	// sweepBatch is how many executions one call of a sweep moves.
	sweepBatch = 200
	// A count over many executions is remembered for countCacheFor, or for
	// countCacheCost times as long as it took; by a sample for sampleCost times as
	// long.
	countCacheOver = 5_000
	countCacheFor  = 2 * time.Second
	countCacheCost = 20
	sampleCost     = 500

	// channelAdmin tells all processes of changes to lanes and to the registry.
	channelAdmin = "ff:admin:{fp:0}"
	noticeLane   = "lane "
	noticeWorker = "worker "
	// noticeSecrets tells that a copy of the key ring has changed.
	noticeSecrets = "secrets"
)

func laneTag(id flowfabric.LaneID) string { return "lane:" + string(id) + ":config" }

func laneNotFound(id flowfabric.LaneID) error {
	return flowfabric.NewError(flowfabric.CodeLaneNotFound, "lane %q is unknown", id)
}

// laneView is what is known of a lane. Named tells that a registration or a claim
// has once named it, which a lane without a record may have been too.
type laneView struct {
	flowfabric.Lane
	exists, named bool
}

// readAt is when something was read: by the process's clock and by the store's,
// which a test may move.
type readAt struct {
	wall  time.Time
	store flowfabric.Millis
}

func (s *Store) readNow() readAt { return readAt{time.Now(), s.Now()} }

// within reports whether less than d has passed since.
func (s *Store) within(at readAt, d time.Duration) bool {
	if time.Since(at.wall) >= d {
		return false
	}
	moved := s.Now() - at.store
	return moved >= 0 && int64(moved) < d.Milliseconds()
}

// laneCache remembers lanes' records for a second. The zero value is empty.
type laneCache struct {
	mu    sync.Mutex
	gen   uint64 // raised by everything that makes a read under way worthless
	known map[flowfabric.LaneID]cachedLane
	named map[flowfabric.LaneID]bool // for good
	all   []flowfabric.LaneID        // the lane set, read at allAt
	allAt readAt

	counts *laneCounts
}

type cachedLane struct {
	view laneView
	at   readAt
}

func (c *laneCache) generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gen
}

// forget drops one lane, or all.
func (c *laneCache) forget(ids ...flowfabric.LaneID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	c.all = nil
	if len(ids) == 0 {
		clear(c.known)
	}
	for _, id := range ids {
		delete(c.known, id)
	}
}

// keep remembers what was read, unless something has changed since the read began.
func (c *laneCache) keep(gen uint64, at readAt, views ...laneView) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) > laneCacheMost {
		c.known = make(map[flowfabric.LaneID]cachedLane)
	}
	for _, v := range views {
		if v.named {
			c.name(v.LaneID)
		}
		if gen == c.gen {
			c.known[v.LaneID] = cachedLane{v, at}
		}
	}
}

// isNamed reports whether the process knows that a lane has been named.
func (c *laneCache) isNamed(id flowfabric.LaneID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.named[id]
}

// setNamed notes that a lane has been named.
func (c *laneCache) setNamed(id flowfabric.LaneID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, id) // it may say otherwise
	c.gen++
	c.name(id)
}

func (c *laneCache) name(id flowfabric.LaneID) {
	if c.named == nil || len(c.named) > laneCacheMost {
		c.named = make(map[flowfabric.LaneID]bool)
	}
	c.named[id] = true
}

// peekLanes returns what is known of lanes, at most a second old, without making
// any.
func (s *Store) peekLanes(ctx context.Context, ids ...flowfabric.LaneID) ([]laneView, error) {
	out := make([]laneView, len(ids))
	var missing []int
	c := &s.routing.lanes
	c.mu.Lock()
	for i, id := range ids {
		if k, ok := c.known[id]; ok && s.within(k.at, laneCacheFor) {
			out[i] = k.view
			continue
		}
		missing = append(missing, i)
	}
	c.mu.Unlock()
	if len(missing) == 0 {
		return out, nil
	}
	unread := make([]flowfabric.LaneID, len(missing))
	for j, i := range missing {
		unread[j] = ids[i]
	}
	views, err := s.readLanes(ctx, unread)
	if err != nil {
		return nil, err
	}
	for j, i := range missing {
		out[i] = views[j]
	}
	return out, nil
}

// readLanes reads lanes' records from the store.
func (s *Store) readLanes(ctx context.Context, ids []flowfabric.LaneID) ([]laneView, error) {
	c := &s.routing.lanes
	gen, at := c.generation(), s.readNow()
	cmds := make([]vk.Completed, len(ids))
	for i, id := range ids {
		cmds[i] = s.b.Hmget().Key(keyPrefix+laneTag(id)).Field("rec", "named").Build()
	}
	out := make([]laneView, len(ids))
	for i, a := range s.plainMany(ctx, cmds) {
		fields, err := strs(a)
		if err != nil {
			return nil, err
		}
		out[i] = laneView{Lane: flowfabric.Lane{LaneID: ids[i]}, named: fields[1] == "1"}
		if fields[0] == "" {
			continue
		}
		if err := json.Unmarshal([]byte(fields[0]), &out[i].Lane); err != nil {
			return nil, corruptLane(ids[i], err)
		}
		out[i].LaneID, out[i].exists = ids[i], true
	}
	c.keep(gen, at, out...)
	return out, nil
}

// ownLane shares no map with what is remembered.
func ownLane(l flowfabric.Lane) flowfabric.Lane {
	l.TenantWeights = maps.Clone(l.TenantWeights)
	return l
}

func corruptLane(id flowfabric.LaneID, err error) error {
	return flowfabric.NewError(flowfabric.CodeCorruptRecord, "load_lanes: lane %s: %s", id, err).
		With("field", "lane "+string(id)).With("operation", "load_lanes")
}

// readLane reads one lane anew.
func (s *Store) readLane(ctx context.Context, id flowfabric.LaneID) (laneView, error) {
	views, err := s.readLanes(ctx, []flowfabric.LaneID{id})
	if err != nil {
		return laneView{}, err
	}
	return views[0], nil
}

// lane returns a lane for a creation or a lane operation, at most a second old,
// and whether a worker has ever named it. It makes the lane, active with defaults,
// when it is named for the first time; with strict lanes that is lane_not_found.
// Callers must not change what its maps and slices hold.
func (s *Store) lane(ctx context.Context, id flowfabric.LaneID) (flowfabric.Lane, bool, error) {
	views, err := s.peekLanes(ctx, id)
	if err != nil {
		return flowfabric.Lane{}, false, err
	}
	v := views[0]
	if !v.exists {
		if s.cfg.StrictLanes {
			return flowfabric.Lane{}, false, laneNotFound(id)
		}
		if v.Lane, err = s.makeLane(ctx, id); err != nil {
			return flowfabric.Lane{}, false, err
		}
	}
	return v.Lane, v.named, nil
}

// makeLane makes a lane unless it is there, and returns it.
func (s *Store) makeLane(ctx context.Context, id flowfabric.LaneID) (flowfabric.Lane, error) {
	fresh := rules.NewLane(id, s.Now())
	for {
		now, ok, err := s.putLane(ctx, laneView{}, fresh)
		if err != nil || ok {
			return fresh, err
		}
		if now.exists {
			return now.Lane, nil
		}
	}
}

// putLane writes a lane's record in the place of the one that was read. ok is
// false when another has come between, and then now is what is there.
func (s *Store) putLane(ctx context.Context, was laneView, next flowfabric.Lane) (now laneView, ok bool, err error) {
	id := next.LaneID
	doc, err := json.Marshal(next)
	if err != nil {
		return now, false, err
	}
	expected := ""
	if was.exists {
		expected = strconv.FormatUint(was.Revision, 10)
	} else if err := s.enlist(ctx, id); err != nil {
		return now, false, err
	}
	got, err := s.callStrs(ctx, "ff_lane_update", laneTag(id), expected, string(doc), strconv.FormatUint(next.Revision, 10))
	if err != nil {
		s.routing.lanes.forget(id) // it may have been written
		return now, false, err
	}
	s.routing.lanes.forget(id)
	if got[0] != "1" {
		now, err = s.readLane(ctx, id)
		return now, false, err
	}
	if !was.exists { // a deletion under way may have taken it off the list
		if err := s.enlist(ctx, id); err != nil {
			return now, false, err
		}
	}
	return laneView{Lane: next, exists: true}, true, nil
}

func (s *Store) enlist(ctx context.Context, id flowfabric.LaneID) error {
	return s.plain(ctx, s.b.Sadd().Key(keyLanes).Member(string(id)).Build())[0].err
}

// tellLane tells everybody of a change to a lane.
func (s *Store) tellLane(ctx context.Context, id flowfabric.LaneID) {
	s.emit(flowfabric.WakeEvent{Kind: flowfabric.WakeLane, LaneID: id, Count: 1})
	s.publishAdmin(ctx, noticeLane+string(id))
}

// publishAdmin tells the other processes. That it may fail is no harm: what they
// remember grows old within a second.
func (s *Store) publishAdmin(ctx context.Context, notice string) {
	a := s.plain(context.WithoutCancel(ctx), s.b.Spublish().Channel(channelAdmin).Message(notice).Build())
	if a[0].err != nil {
		s.log.DebugContext(ctx, "a notice was not published", "notice", notice, "error", a[0].err)
	}
}

// adminNotice acts on a message of the admin channel about lanes or the registry,
// and reports whether it was one. It does not block.
func (s *Store) adminNotice(message string) bool {
	if id, ok := strings.CutPrefix(message, noticeLane); ok {
		s.routing.lanes.forget(flowfabric.LaneID(id))
		s.emit(flowfabric.WakeEvent{Kind: flowfabric.WakeLane, LaneID: flowfabric.LaneID(id), Count: 1})
		return true
	}
	if ns, ok := strings.CutPrefix(message, noticeWorker); ok {
		s.forgetWorkers(flowfabric.Namespace(ns))
		return true
	}
	if message == noticeSecrets {
		s.rings.forget()
		return true
	}
	return false
}

// forgetRouting drops what is remembered of lanes and workers: after a time without
// notices. Registries of buckets have a version.
func (s *Store) forgetRouting() {
	s.routing.lanes.forget()
	s.forgetWorkers(flowfabric.AnyNamespace)
}

// DeclareLanes makes lanes that do not exist yet.
func (s *Store) DeclareLanes(ctx context.Context, lanes []flowfabric.LaneID) error {
	for _, id := range lanes {
		if err := id.Validate(); err != nil {
			return err
		}
	}
	views, err := s.readLanes(ctx, lanes)
	if err != nil {
		return err
	}
	for _, v := range views {
		if v.exists {
			continue
		}
		if _, err := s.makeLane(ctx, v.LaneID); err != nil {
			return err
		}
	}
	return nil
}

// GetLane returns a lane with its counts.
func (s *Store) GetLane(ctx context.Context, id flowfabric.LaneID) (flowfabric.LaneStatus, error) {
	if err := id.Validate(); err != nil {
		return flowfabric.LaneStatus{}, err
	}
	v, err := s.readLane(ctx, id)
	if err == nil && !v.exists {
		err = laneNotFound(id)
	}
	if err != nil {
		return flowfabric.LaneStatus{}, err
	}
	list, err := s.statuses(ctx, v.Lane)
	if err != nil {
		return flowfabric.LaneStatus{}, err
	}
	return list[0], nil
}

// ListLanes returns lanes ordered by id.
func (s *Store) ListLanes(ctx context.Context, a flowfabric.ListLanesArgs) (flowfabric.ListLanesResult, error) {
	res := flowfabric.ListLanesResult{Lanes: []flowfabric.LaneStatus{}}
	limit, err := pageLimit(a.Limit, flowfabric.DefaultListLimit, flowfabric.MaxListLimit)
	if err != nil {
		return res, err
	}
	views, err := s.allLanes(ctx, a.After)
	if err != nil {
		return res, err
	}
	if len(views) > limit {
		views, res.More = views[:limit], true
	}
	lanes := make([]flowfabric.Lane, len(views))
	for i := range views {
		lanes[i] = views[i].Lane
	}
	if len(lanes) > 0 {
		res.Lanes, err = s.statuses(ctx, lanes...)
	}
	return res, err
}

// pageLimit is the limit of a listing: 0 means def, 1..most is taken as it is.
func pageLimit(limit, def, most int) (int, error) {
	if limit == 0 {
		return def, nil
	}
	if limit < 0 || limit > most {
		return 0, flowfabric.InvalidInput("limit", "is %d, must be 1..%d", limit, most)
	}
	return limit, nil
}

// allLanes reads the lanes behind a name, ordered by id.
func (s *Store) allLanes(ctx context.Context, after flowfabric.LaneID) ([]laneView, error) {
	ids, err := strs(s.plain(ctx, s.b.Smembers().Key(keyLanes).Build())[0])
	if err != nil {
		return nil, err
	}
	var lanes []flowfabric.LaneID
	for _, id := range ids {
		if flowfabric.LaneID(id) > after {
			lanes = append(lanes, flowfabric.LaneID(id))
		}
	}
	slices.Sort(lanes)
	views, err := s.readLanes(ctx, lanes)
	return slices.DeleteFunc(views, func(v laneView) bool { return !v.exists }), err
}

// UpdateLane changes a lane's settings.
func (s *Store) UpdateLane(ctx context.Context, a flowfabric.UpdateLaneArgs) (flowfabric.Lane, error) {
	if err := a.LaneID.Validate(); err != nil {
		return flowfabric.Lane{}, err
	}
	was, err := s.readLane(ctx, a.LaneID)
	for err == nil {
		if !was.exists {
			if a.ExpectedRevision != nil || s.cfg.StrictLanes {
				return flowfabric.Lane{}, laneNotFound(a.LaneID)
			}
			was.Lane = rules.NewLane(a.LaneID, s.Now())
		}
		next, refused := rules.UpdateLane(was.Lane, a, s.Now())
		if refused != nil {
			return flowfabric.Lane{}, refused
		}
		var ok bool
		if was, ok, err = s.putLane(ctx, was, next); ok {
			s.tellLane(ctx, a.LaneID)
			return ownLane(next), nil
		}
	}
	return flowfabric.Lane{}, err
}

// SetLaneState moves a lane to another state. Members are moved by the sweep,
// whose first round is part of it.
func (s *Store) SetLaneState(ctx context.Context, a flowfabric.SetLaneStateArgs) (flowfabric.SetLaneStateResult, error) {
	if err := a.LaneID.Validate(); err != nil {
		return flowfabric.SetLaneStateResult{}, err
	}
	was, err := s.readLane(ctx, a.LaneID)
	for err == nil {
		if !was.exists {
			if s.cfg.StrictLanes {
				return flowfabric.SetLaneStateResult{}, laneNotFound(a.LaneID)
			}
			was.Lane = rules.NewLane(a.LaneID, s.Now())
		}
		next, unchanged, refused := rules.SetLaneState(was.Lane, a, s.Now())
		if refused != nil {
			return flowfabric.SetLaneStateResult{}, refused
		}
		done := flowfabric.SetLaneStateResult{Lane: ownLane(next), Unchanged: unchanged}
		if unchanged && was.exists {
			return done, nil
		}
		disabled := next.State == flowfabric.LaneDisabled
		moves := disabled != (was.State == flowfabric.LaneDisabled)
		var ok bool
		if was, ok, err = s.putLane(ctx, was, next); !ok {
			continue
		}
		s.tellLane(ctx, a.LaneID)
		if !moves {
			return done, nil
		}
		if _, err := s.sweepLane(ctx, s.everyPartition(a.LaneID), disabled); err != nil {
			s.log.WarnContext(ctx, "members of a lane are left to the next sweep", "lane_id", a.LaneID, "error", err)
		}
		return done, nil
	}
	return flowfabric.SetLaneStateResult{}, err
}

// DeleteLane removes a disabled lane without non-terminal executions.
func (s *Store) DeleteLane(ctx context.Context, id flowfabric.LaneID) (bool, error) {
	if err := id.Validate(); err != nil {
		return false, err
	}
	for {
		v, err := s.readLane(ctx, id)
		if err != nil || !v.exists {
			return false, err
		}
		counts, err := s.countLanes(ctx)
		if err != nil {
			return false, err
		}
		if n := counts.live(id); v.State != flowfabric.LaneDisabled || n > 0 {
			return false, flowfabric.NewError(flowfabric.CodeLaneNotEmpty, "lane %q is %s with %d live executions; it must be disabled and empty", id, v.State, n).
				With("state", string(v.State)).With("live", n)
		}
		got, err := s.callStrs(ctx, "ff_lane_delete", laneTag(id), strconv.FormatUint(v.Revision, 10))
		s.routing.lanes.forget(id)
		if err != nil {
			return false, err
		}
		if got[0] == "1" {
			break
		}
	}
	s.tellLane(ctx, id)
	if err := s.plain(ctx, s.b.Srem().Key(keyLanes).Member(string(id)).Build())[0].err; err != nil {
		return true, nil // a name without a record is no lane
	}
	if v, err := s.readLane(ctx, id); err == nil && v.exists { // made anew meanwhile
		return true, s.enlist(ctx, id)
	}
	return true, nil
}

// LaneWeights returns all lanes, at most a second old.
func (s *Store) LaneWeights(ctx context.Context) (map[flowfabric.LaneID]flowfabric.Lane, error) {
	c := &s.routing.lanes
	c.mu.Lock()
	ids, fresh := c.all, c.all != nil && s.within(c.allAt, laneCacheFor)
	c.mu.Unlock()
	var views []laneView
	var err error
	if fresh {
		views, err = s.peekLanes(ctx, ids...)
	} else {
		gen, at := c.generation(), s.readNow()
		if views, err = s.allLanes(ctx, ""); err == nil {
			ids = make([]flowfabric.LaneID, len(views))
			for i := range views {
				ids[i] = views[i].LaneID
			}
			c.mu.Lock()
			if c.gen == gen {
				c.all, c.allAt = ids, at
			}
			c.mu.Unlock()
		}
	}
	if err != nil {
		return nil, err
	}
	out := make(map[flowfabric.LaneID]flowfabric.Lane, len(views))
	for _, v := range views {
		if v.exists {
			out[v.LaneID] = ownLane(v.Lane)
		}
	}
	return out, nil
}

// laneArgs are lanes as the arguments of a function: their number, then they.
func laneArgs(ids []flowfabric.LaneID) []string {
	args := make([]string, 1, 1+len(ids))
	args[0] = strconv.Itoa(len(ids))
	for _, id := range ids {
		args = append(args, string(id))
	}
	return args
}

// askAll asks every flow partition, as askParts does.
func (s *Store) askAll(ctx context.Context, fn string, args ...string) ([][]string, error) {
	parts := make([]uint16, len(s.tags))
	for p := range parts {
		parts[p] = uint16(p)
	}
	return s.askParts(ctx, parts, fn, args...)
}

// askParts calls a function that reads and takes the tags of more partitions behind
// its arguments. It returns the answer of each partition, nil where that failed, and
// the last failure.
func (s *Store) askParts(ctx context.Context, parts []uint16, fn string, args ...string) (out [][]string, err error) {
	bundles := s.bundles(parts)
	reqs := make([]request, len(bundles))
	for i, tags := range bundles {
		all := make([]string, 0, len(args)+len(tags)-1)
		reqs[i] = request{fn: fn, tag: tags[0], args: append(append(all, args...), tags[1:]...), readOnly: true}
	}
	out = make([][]string, 0, len(parts))
	for i, a := range s.callMany(ctx, reqs) {
		some := make([][]string, len(bundles[i]))
		if failed := eachOf(a, some); failed != nil {
			err = failed
			clear(some)
		}
		out = append(out, some...)
	}
	return out, err
}

// eachOf fills in the arrays of strings that an answer consists of.
func eachOf(a answer, out [][]string) error {
	if a.err != nil {
		return a.err
	}
	list, err := a.msg.ToArray()
	if err != nil || len(list) != len(out) {
		return flowfabric.NewError(flowfabric.CodeStoreFault, "unexpected answer of the store: %d arrays for %d partitions", len(list), len(out)).
			With("kind", "protocol")
	}
	for i := range list {
		if out[i], err = strs(answer{msg: list[i]}); err != nil {
			return err
		}
	}
	return nil
}

// laneAt is a lane on one partition.
type laneAt struct {
	part uint16
	lane flowfabric.LaneID
}

func (s *Store) everyPartition(id flowfabric.LaneID) []laneAt {
	out := make([]laneAt, s.parts.NumFlowPartitions)
	for p := range out {
		out[p] = laneAt{uint16(p), id}
	}
	return out
}

// sweepLane moves up to sweepBatch members of a lane on each of the partitions
// to where its state wants them.
func (s *Store) sweepLane(ctx context.Context, places []laneAt, disabled bool) (res flowfabric.SweepResult, err error) {
	flag := "0"
	if disabled {
		flag = "1"
	}
	reqs := make([]request, len(places))
	for i, at := range places {
		reqs[i] = request{fn: "ff_sweep_lane", tag: s.tag(at.part), args: []string{string(at.lane), flag, strconv.Itoa(sweepBatch)}}
	}
	for i, a := range s.callMany(ctx, reqs) {
		got, failed := strs(a)
		if failed != nil {
			err = failed
			continue
		}
		n := int(toInt(got[0]))
		for _, offer := range got[1:] {
			if ev, ok := s.readOffer(places[i].part, offer); ok {
				s.emit(ev)
			}
		}
		res.Rows += n
		res.More = res.More || n >= sweepBatch
	}
	return res, err
}

// SweepLanes moves members of lanes that were disabled or enabled, and corrects
// the slots of lanes with a bound.
func (s *Store) SweepLanes(ctx context.Context) (flowfabric.SweepResult, error) {
	var res flowfabric.SweepResult
	lanes, err := s.allLanes(ctx, "")
	if err != nil {
		return res, err
	}
	var disabled []flowfabric.LaneID
	for _, l := range lanes {
		if l.State == flowfabric.LaneDisabled {
			disabled = append(disabled, l.LaneID)
		}
	}
	var block, unblock []laneAt
	stray, err := s.askAll(ctx, "ff_stray_lanes", laneArgs(disabled)...)
	for p, ids := range stray {
		for _, id := range ids {
			at := laneAt{uint16(p), flowfabric.LaneID(id)}
			if slices.Contains(disabled, at.lane) {
				block = append(block, at)
			} else {
				unblock = append(unblock, at)
			}
		}
	}
	for _, step := range []func() (flowfabric.SweepResult, error){
		func() (flowfabric.SweepResult, error) { return s.sweepLane(ctx, block, true) },
		func() (flowfabric.SweepResult, error) { return s.sweepLane(ctx, unblock, false) },
		func() (flowfabric.SweepResult, error) { return s.sweepSlots(ctx, lanes) },
	} {
		got, failed := step()
		if failed != nil {
			err = failed
		}
		res.Rows += got.Rows
		res.More = res.More || got.More
	}
	return res, err
}

// strs returns an answer that is an array of strings; what is absent is "".
func strs(a answer) ([]string, error) {
	if a.err != nil {
		return nil, a.err
	}
	list, err := a.msg.AsStrSlice()
	if err != nil {
		return nil, flowfabric.NewError(flowfabric.CodeStoreFault, "unexpected answer of the store: %s", err).With("kind", "protocol")
	}
	return list, nil
}

func (s *Store) callStrs(ctx context.Context, fn, tag string, args ...string) ([]string, error) {
	msg, err := s.call(ctx, fn, tag, args...)
	return strs(answer{msg, err})
}

// toInt reads a number that the library wrote; what is none is 0.
func toInt(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
