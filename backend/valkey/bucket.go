package valkey

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"time"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

const (
	// mismatchEveryMs is how often a labelled bucket is told of a mismatch.
	mismatchEveryMs = 1_000
	// agingEvery is how often the sweep looks for buckets that stay empty.
	agingEvery = 10 * time.Minute
	// bucketBatch is how many buckets one call changes.
	bucketBatch = 100
	// callBatch is how many calls one pipeline makes.
	callBatch = 1_024
	// marksMost bounds what is remembered of labelled buckets.
	marksMost = 10_000
)

// routing is what a process remembers of lanes, workers and buckets. The zero
// value remembers nothing.
type routing struct {
	lanes   laneCache
	workers workerCache
	buckets bucketCache
}

// bucketNames remembers the names of buckets: most creates of a deployment go to
// few of them.
var bucketNames nameCache

const maxBucketNames = 4096

// nameCache keeps names by descriptor. When it is full it starts anew.
type nameCache struct {
	mu    sync.RWMutex
	known map[bucketKey]string
}

type bucketKey struct {
	namespace flowfabric.Namespace
	caps      string
}

// bucketName names the bucket of a namespace and a required capability set in
// normal form, joined by commas: the first 16 hexadecimal digits of the SHA-256 of
// its descriptor.
func bucketName(ns flowfabric.Namespace, caps string) string {
	k := bucketKey{ns, caps}
	c := &bucketNames
	c.mu.RLock()
	name, ok := c.known[k]
	c.mu.RUnlock()
	if ok {
		return name
	}
	sum := sha256.Sum256([]byte(bucketDescriptor(ns, caps)))
	name = hex.EncodeToString(sum[:8])
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= maxBucketNames {
		c.known = make(map[bucketKey]string)
	}
	c.known[k] = name
	return name
}

func bucketDescriptor(ns flowfabric.Namespace, caps string) string { return string(ns) + "\n" + caps }

// bucket is one bucket of a lane on one partition.
type bucket struct {
	name      string
	namespace flowfabric.Namespace
	required  []string // normal form; nil for none
}

func parseBucket(name, descriptor string) (bucket, bool) {
	ns, caps, ok := strings.Cut(descriptor, "\n")
	b := bucket{name: name, namespace: flowfabric.Namespace(ns)}
	if caps != "" {
		b.required = strings.Split(caps, ",")
	}
	return b, ok
}

// bucketAt names a bucket in the whole deployment.
type bucketAt struct {
	laneAt
	bucket
}

// laneBuckets is the registry of a lane's buckets on one partition, as it was at
// one version: what a claim passes on, "" when there is none. Nobody changes it.
type laneBuckets struct {
	version string
	list    []bucket // by name
}

// bucketCache remembers registries of buckets, and when labelled buckets were last
// told of a mismatch.
type bucketCache struct {
	mu     sync.RWMutex
	known  map[laneAt]*laneBuckets
	marked map[markKey]flowfabric.Millis
	aged   readAt
}

type markKey struct {
	laneAt
	name string
}

// bucketsOf returns the registries of lanes on partitions in the same order: as
// they are remembered where they are, read otherwise. A claim that is answered
// with another version passes those places to refreshBuckets.
func (s *Store) bucketsOf(ctx context.Context, places ...laneAt) ([]*laneBuckets, error) {
	out := make([]*laneBuckets, len(places))
	var missing []laneAt
	var index []int
	c := &s.routing.buckets
	c.mu.RLock()
	for i, at := range places {
		if out[i] = c.known[at]; out[i] == nil {
			missing, index = append(missing, at), append(index, i)
		}
	}
	c.mu.RUnlock()
	if len(missing) == 0 {
		return out, nil
	}
	read, err := s.refreshBuckets(ctx, missing...)
	if err != nil {
		return nil, err
	}
	for j, i := range index {
		out[i] = read[j]
	}
	return out, nil
}

// refreshBuckets reads registries anew.
func (s *Store) refreshBuckets(ctx context.Context, places ...laneAt) ([]*laneBuckets, error) {
	cmds := make([]vk.Completed, len(places))
	for i, at := range places {
		cmds[i] = s.b.Hgetall().Key(s.laneKey(at, "buckets")).Build()
	}
	out := make([]*laneBuckets, len(places))
	for i, a := range s.plainMany(ctx, cmds) {
		fields, err := fieldsOf(a)
		if err != nil {
			return nil, err
		}
		out[i] = &laneBuckets{version: fields["v"]}
		for name, descriptor := range fields {
			if name == "v" || len(name) > 1 && name[1] == ':' {
				continue
			}
			if b, ok := parseBucket(name, descriptor); ok {
				out[i].list = append(out[i].list, b)
			}
		}
		slices.SortFunc(out[i].list, func(x, y bucket) int { return strings.Compare(x.name, y.name) })
	}
	c := &s.routing.buckets
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = make(map[laneAt]*laneBuckets)
	}
	for i, at := range places {
		c.known[at] = out[i]
	}
	return out, nil
}

// laneKey is the key of what a lane has on a partition.
func (s *Store) laneKey(at laneAt, what string) string {
	return "ff:idx:" + s.tag(at.part) + ":lane:" + string(at.lane) + ":" + what
}

// forgetMarks lets labels be set again at once.
func (c *bucketCache) forgetMarks() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.marked)
}

// callMany makes any number of calls, callBatch of them in one pipeline.
func (s *Store) callMany(ctx context.Context, reqs []request) []answer {
	if len(reqs) <= callBatch {
		return s.calls(ctx, reqs)
	}
	out := make([]answer, 0, len(reqs))
	for some := range slices.Chunk(reqs, callBatch) {
		out = append(out, s.calls(ctx, some)...)
	}
	return out
}

// plainMany sends any number of plain commands.
func (s *Store) plainMany(ctx context.Context, cmds []vk.Completed) []answer {
	if len(cmds) <= callBatch {
		return s.plain(ctx, cmds...)
	}
	out := make([]answer, 0, len(cmds))
	for some := range slices.Chunk(cmds, callBatch) {
		out = append(out, s.plain(ctx, some...)...)
	}
	return out
}

// label reads the route label of a bucket.
func (s *Store) label(ctx context.Context, at laneAt, name string) (rules.Label, error) {
	v, err := strs(s.plain(ctx, s.b.Hmget().Key(s.laneKey(at, "buckets")).Field("u:"+name, "m:"+name).Build())[0])
	if err != nil {
		return rules.Label{}, err
	}
	return rules.Label{UncoveredSince: flowfabric.Millis(toInt(v[0])), LastMismatchAt: flowfabric.Millis(toInt(v[1]))}, nil
}

// uncovered labels buckets that an asking worker does not cover: those whose lane
// has been named and which no live worker covers. The caller passes buckets that
// it knows to have members, at most [flowfabric.MaxUncoveredBuckets] of them. The
// answer counts the buckets labelled, those of one name on several partitions
// once. Where the registry cannot be read nothing is labelled. With hidden the
// members are known to be there though a lapsed grant may still hide them.
func (s *Store) uncovered(ctx context.Context, list []bucketAt, hidden bool) (labelled int, err error) {
	if list, err = s.inNamedLanes(ctx, s.unmarked(list)); err != nil || len(list) == 0 {
		return 0, err
	}
	now := s.Now()
	list = slices.DeleteFunc(list, func(b bucketAt) bool { return s.routing.workers.coveredStill(b.requirement(), now) })
	if len(list) == 0 {
		return 0, nil
	}
	reg, err := s.registrationsFor(ctx, list)
	if err != nil {
		s.log.WarnContext(ctx, "the registry of workers is not readable; no bucket is labelled", "error", err)
		return 0, nil
	}
	list = slices.DeleteFunc(list, func(b bucketAt) bool { return s.coveredBy(reg, b.requirement()) })
	fresh, err := s.markBuckets(ctx, list, hidden)
	distinct := make(map[requirement]bool, len(fresh))
	for _, b := range fresh {
		distinct[b.requirement()] = true
	}
	return len(distinct), err
}

// requirement is what a bucket asks of a worker, as a key.
type requirement struct {
	lane      flowfabric.LaneID
	namespace flowfabric.Namespace
	required  string
}

func (b *bucketAt) requirement() requirement {
	return requirement{b.lane, b.namespace, rules.BucketKey(b.required)}
}

// tokens is the required capability set.
func (r requirement) tokens() []string {
	if r.required == "" {
		return nil
	}
	return strings.Split(r.required, ",")
}

// unmarked leaves out the buckets that were labelled or told of a mismatch a
// moment ago.
func (s *Store) unmarked(list []bucketAt) []bucketAt {
	now := s.Now()
	c := &s.routing.buckets
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]bucketAt, 0, len(list))
	for _, b := range list {
		if at, ok := c.marked[markKey{b.laneAt, b.name}]; ok && now >= at && now-at < mismatchEveryMs {
			continue
		}
		out = append(out, b)
	}
	return out
}

// inNamedLanes leaves out the buckets of lanes that nobody has ever named.
func (s *Store) inNamedLanes(ctx context.Context, list []bucketAt) ([]bucketAt, error) {
	named := make(map[flowfabric.LaneID]bool)
	var ask []flowfabric.LaneID
	for _, b := range list {
		if _, seen := named[b.lane]; seen {
			continue
		}
		if named[b.lane] = s.routing.lanes.isNamed(b.lane); !named[b.lane] {
			ask = append(ask, b.lane)
		}
	}
	if len(ask) > 0 {
		views, err := s.readLanes(ctx, ask)
		if err != nil {
			return nil, err
		}
		for _, v := range views {
			named[v.LaneID] = v.named
		}
	}
	return slices.DeleteFunc(list, func(b bucketAt) bool { return !named[b.lane] }), nil
}

// markBuckets labels buckets that have members, and returns those whose label is
// new.
func (s *Store) markBuckets(ctx context.Context, list []bucketAt, hidden bool) ([]bucketAt, error) {
	now := s.Now()
	got, err := s.eachBucket(ctx, "ff_mark_bucket", list, mark(hidden))
	var fresh []bucketAt
	c := &s.routing.buckets
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.marked == nil || len(c.marked) > marksMost {
		c.marked = make(map[markKey]flowfabric.Millis)
	}
	for i, b := range list {
		switch got[i] {
		case "1":
			fresh = append(fresh, b)
			fallthrough
		case "2":
			c.marked[markKey{b.laneAt, b.name}] = now
		}
	}
	return fresh, err
}

// liftBuckets takes labels off, tells who waits for the members, and returns how
// many labels there were.
func (s *Store) liftBuckets(ctx context.Context, list []bucketAt) (int, error) {
	got, err := s.eachBucket(ctx, "ff_lift_bucket", list)
	c := &s.routing.buckets
	c.mu.Lock()
	for _, b := range list {
		delete(c.marked, markKey{b.laneAt, b.name})
	}
	c.mu.Unlock()
	lifted := 0
	var events []flowfabric.WakeEvent
	for i, b := range list {
		if got[i] == "" {
			continue
		}
		lifted++
		if n := int(toInt(got[i])); n > 0 {
			events = append(events, flowfabric.WakeEvent{Kind: flowfabric.WakeEligible, Partition: b.part, LaneID: b.lane,
				Namespace: b.namespace, Required: b.required, Count: n})
		}
	}
	if len(events) > 0 {
		s.emit(events...)
	}
	return lifted, err
}

// eachBucket calls a function that takes pairs of lane and bucket behind the
// arguments first, one call for each partition and bucketBatch of them, and returns
// the answer for each bucket: "" where the call failed.
func (s *Store) eachBucket(ctx context.Context, fn string, list []bucketAt, first ...string) (out []string, err error) {
	out = make([]string, len(list))
	byPart := make(map[uint16][]int)
	for i, b := range list {
		byPart[b.part] = append(byPart[b.part], i)
	}
	var reqs []request
	var items [][]int
	for part, all := range byPart {
		for some := range slices.Chunk(all, bucketBatch) {
			args := append(make([]string, 0, len(first)+2*len(some)), first...)
			for _, i := range some {
				args = append(args, string(list[i].lane), list[i].name)
			}
			reqs, items = append(reqs, request{fn: fn, tag: s.tag(part), args: args}), append(items, some)
		}
	}
	for j, a := range s.callMany(ctx, reqs) {
		got, failed := strs(a)
		if failed != nil {
			err = failed
			continue
		}
		for k, i := range items[j] {
			out[i] = got[k]
		}
	}
	return out, err
}

// liftFor takes off the labels of all buckets that a worker covers, on all
// partitions.
func (s *Store) liftFor(ctx context.Context, w *flowfabric.WorkerRegistration) error {
	now := s.Now()
	asking := *w
	asking.ExpiresAt = now + 1
	var lift []bucketAt
	labels, err := s.askAll(ctx, "ff_list_labels", laneArgs(w.Lanes)...)
	for p, rows := range labels {
		for row := range slices.Chunk(rows, 3) {
			b, ok := parseBucket(row[1], row[2])
			if ok && rules.Covers(asking, flowfabric.LaneID(row[0]), b.namespace, b.required, now) {
				lift = append(lift, bucketAt{laneAt{uint16(p), flowfabric.LaneID(row[0])}, b})
			}
		}
	}
	if len(lift) == 0 {
		return err
	}
	if _, failed := s.liftBuckets(ctx, lift); failed != nil {
		err = failed
	}
	return err
}

// SweepRouteLabels compares the labels of all non-empty buckets with the registry,
// in both directions: where that cannot be read it takes labels off. Every ten
// minutes it also looks for buckets that have been empty for a day, which leave.
func (s *Store) SweepRouteLabels(ctx context.Context) (res flowfabric.SweepResult, err error) {
	aging := s.agingIsDue()
	all := "0"
	if aging {
		all = "1"
	}
	var labelled, plain, seen []bucketAt
	buckets, err := s.askAll(ctx, "ff_list_buckets", all)
	for p, rows := range buckets {
		for row := range slices.Chunk(rows, 5) {
			b, ok := parseBucket(row[1], row[2])
			if !ok {
				continue
			}
			at := bucketAt{laneAt{uint16(p), flowfabric.LaneID(row[0])}, b}
			seen = append(seen, at)
			switch {
			case row[3] != "":
				labelled = append(labelled, at)
			case row[4] != "0":
				plain = append(plain, at)
			}
		}
	}
	if aging {
		_, failed := s.eachBucket(ctx, "ff_age_bucket", seen)
		err = cmp.Or(err, failed)
	}
	plain, failed := s.inNamedLanes(ctx, plain)
	err = cmp.Or(err, failed)
	if len(labelled)+len(plain) == 0 {
		return res, err
	}
	reg, failed := s.registrationsFor(ctx, slices.Concat(labelled, plain))
	if failed != nil {
		res.Rows, _ = s.liftBuckets(ctx, labelled)
		return res, cmp.Or(err, failed)
	}
	decided := make(map[requirement]bool)
	covered := func(b bucketAt) bool {
		need := b.requirement()
		c, ok := decided[need]
		if !ok {
			c = s.coveredBy(reg, need)
			decided[need] = c
		}
		return c
	}
	lifted, failed := s.liftBuckets(ctx, slices.DeleteFunc(labelled, func(b bucketAt) bool { return !covered(b) }))
	err = cmp.Or(err, failed)
	fresh, failed := s.markBuckets(ctx, slices.DeleteFunc(plain, covered), false)
	res.Rows = lifted + len(fresh)
	return res, cmp.Or(err, failed)
}

// agingIsDue reports, once in agingEvery, that empty buckets are to be looked at.
func (s *Store) agingIsDue() bool {
	c := &s.routing.buckets
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.aged != (readAt{}) && s.within(c.aged, agingEvery) {
		return false
	}
	c.aged = s.readNow()
	return true
}

// ExplainRouting says which live workers could run the execution.
func (s *Store) ExplainRouting(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.RoutingExplanation, error) {
	x, err := s.GetExecution(ctx, id)
	if err != nil {
		return nil, err
	}
	core := keyPrefix + "exec:" + tagOf(id) + ":" + uuidOf(id) + ":core"
	v, err := strs(s.plain(ctx, s.b.Hmget().Key(core).Field("bk").Build())[0])
	if err != nil {
		return nil, err
	}
	label, err := s.label(ctx, laneAt{id.Partition(), x.LaneID}, v[0])
	if err != nil {
		return nil, err
	}
	workers, err := s.registrations(ctx, x.Namespace, flowfabric.AnyNamespace)
	if err != nil {
		return nil, err
	}
	out := &flowfabric.RoutingExplanation{ExecutionID: id, LaneID: x.LaneID, Namespace: x.Namespace,
		RequiredCapabilities: append([]string{}, x.RequiredCapabilities...), Workers: []flowfabric.WorkerCoverage{},
		UncoveredSince: label.UncoveredSince, LastCapabilityMismatchAt: max(label.LastMismatchAt, x.LastCapabilityMismatchAt)}
	now := s.Now()
	for _, w := range workers {
		if !rules.Covers(w, x.LaneID, x.Namespace, nil, now) {
			continue
		}
		missing := append([]string{}, rules.Missing(x.RequiredCapabilities, w.Capabilities)...)
		out.Covered = out.Covered || len(missing) == 0
		out.Workers = append(out.Workers, flowfabric.WorkerCoverage{WorkerID: w.WorkerID, WorkerInstanceID: w.WorkerInstanceID, Missing: missing})
	}
	slices.SortFunc(out.Workers, func(x, y flowfabric.WorkerCoverage) int {
		return strings.Compare(string(x.WorkerInstanceID), string(y.WorkerInstanceID))
	})
	return out, nil
}

// fieldsOf returns an answer that is a hash.
func fieldsOf(a answer) (map[string]string, error) {
	if a.err != nil {
		return nil, a.err
	}
	m, err := a.msg.AsStrMap()
	if err != nil {
		return nil, flowfabric.NewError(flowfabric.CodeStoreFault, "unexpected answer of the store: %s", err).With("kind", "protocol")
	}
	return m, nil
}
