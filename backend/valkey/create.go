package valkey

import (
	"context"
	"slices"
	"strconv"
	"strings"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

const (
	fnCreate      = "ff_create_execution"
	createStride  = 8
	fnReserve     = "ff_reserve"
	reserveStride = 4
	// mintRun is how many identifiers in a row are minted on one partition.
	mintRun = 64
)

// creation is one item of a batch of creates on its way.
type creation struct {
	index    int // in the batch
	prepared *rules.Prepared
	closed   string // state of a lane that takes nothing new
	caps     string
	lane     laneFate
	// unreserved: the key is free, and bound only if the execution exists.
	unreserved bool
}

// laneFate says what a create finds in the place of its lane.
type laneFate uint8

const (
	laneKnown   laneFate = iota
	laneNew              // to be made by the first create
	laneRefused          // unknown, and lanes have to be declared
)

// CreateExecutions creates a batch, each item on its own. An item with an
// idempotency key takes two steps: its identifier is reserved, or the one that
// holds the key adopted, and then it is created. A crash between the two leaves a
// reservation, under whose identifier the next create with the key goes on.
func (s *Store) CreateExecutions(ctx context.Context, items []flowfabric.CreateExecutionArgs) ([]flowfabric.Item[flowfabric.CreateExecutionResult], error) {
	if err := checkBatch(len(items)); err != nil {
		return nil, err
	}
	out := make([]flowfabric.Item[flowfabric.CreateExecutionResult], len(items))
	list := make([]creation, 0, len(items))
	var lane laneView // of the last item
	for i := range items {
		c, err := s.prepare(ctx, items[i], &lane)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			out[i].Err = err
			continue
		}
		c.index = i
		list = append(list, c)
	}
	list = s.makeLanes(ctx, s.reserve(ctx, list, out), out)
	t := newTicket(len(list), createStride)
	for i := range list {
		var err error
		if t.args, err = appendCreate(t.args, &list[i]); err != nil {
			out[list[i].index].Err = err
			continue
		}
		t.add(i, list[i].prepared.State.Exec.ExecutionID.Partition())
	}
	if err := s.batches.creates.do(ctx, t); err != nil {
		return nil, err
	}
	var events []flowfabric.WakeEvent
	var bind []keyed
	for k := range t.items {
		it := &t.items[k]
		c := &list[it.index]
		res, err := s.created(it, c.prepared)
		if c.lane == laneRefused && flowfabric.CodeOf(err) == flowfabric.CodeLaneIntakeClosed {
			err = laneNotFound(c.prepared.State.Exec.LaneID)
		}
		out[c.index] = flowfabric.Item[flowfabric.CreateExecutionResult]{Result: res, Err: err}
		if err == nil && c.unreserved {
			bind = append(bind, keyed{it.index, keyPartition(s.parts, c.prepared.Args.Namespace, c.prepared.Args.IdempotencyKey)})
		}
		if err != nil || res.Outcome != flowfabric.OutcomeCreated {
			continue
		}
		s.pages.note(it.part)
		if res.PublicState == flowfabric.PublicWaiting {
			events = s.countOffer(events, it.part, c)
		}
	}
	s.reserveKeys(ctx, list, bind, func(at int, err error) { out[list[at].index].Err = ownError(err) })
	if len(events) > 0 {
		s.emit(events...)
	}
	return out, nil
}

// prepare checks a create, mints its identifier and looks its lane up, which may
// be the one before it.
func (s *Store) prepare(ctx context.Context, args flowfabric.CreateExecutionArgs, lane *laneView) (creation, error) {
	var c creation
	if args.ExecutionID == "" && args.FlowID == "" {
		args.ExecutionID = s.mintID(args.LaneID)
	}
	p, err := rules.PrepareCreate(args, s.parts, nil)
	if err != nil {
		return c, err
	}
	if lane.LaneID != args.LaneID {
		views, err := s.peekLanes(ctx, args.LaneID)
		if err != nil {
			return c, err
		}
		*lane = views[0]
	}
	if len(lane.DefaultPolicy) > 0 {
		args.ExecutionID = p.Args.ExecutionID
		if p, err = rules.PrepareCreate(args, s.parts, lane.DefaultPolicy); err != nil {
			return c, err
		}
	}
	c.prepared, c.caps, c.lane = p, rules.BucketKey(p.State.Exec.RequiredCapabilities), laneKnown
	switch {
	case lane.exists && rules.AdmitsCreate(lane.Lane) != nil:
		c.closed = string(lane.State)
	case !lane.exists && s.cfg.StrictLanes:
		c.closed, c.lane = "unknown", laneRefused
	case !lane.exists:
		c.lane = laneNew
	}
	return c, nil
}

// makeLanes makes the lanes that are named for the first time by creates that will
// make an execution. A repeat of a create names no lane.
func (s *Store) makeLanes(ctx context.Context, list []creation, out []flowfabric.Item[flowfabric.CreateExecutionResult]) []creation {
	var fresh []int
	var cmds []vk.Completed
	for i := range list {
		if list[i].lane == laneNew {
			fresh = append(fresh, i)
			cmds = append(cmds, s.b.Exists().Key(execKey(list[i].prepared.State.Exec.ExecutionID, "def")).Build())
		}
	}
	if len(fresh) == 0 {
		return list
	}
	failed := make([]bool, len(list))
	for k, got := range s.plain(ctx, cmds...) {
		i, err := fresh[k], got.err
		if n, e := got.msg.AsInt64(); err == nil && e == nil && n == 0 {
			_, _, err = s.lane(ctx, list[i].prepared.State.Exec.LaneID)
		}
		if err != nil {
			out[list[i].index].Err, failed[i] = ownError(err), true
		}
	}
	return without(list, failed)
}

func without(list []creation, failed []bool) []creation {
	rest := list[:0]
	for i := range list {
		if !failed[i] {
			rest = append(rest, list[i])
		}
	}
	return rest
}

// mintID mints the identifier of a standalone execution. Runs of them share a
// partition, round and round: all partitions fill alike, and what is created
// together goes together, then and when it is claimed.
func (s *Store) mintID(lane flowfabric.LaneID) flowfabric.ExecutionID {
	turn := (s.minted.Add(1) - 1) / mintRun
	return s.parts.NewExecutionIDOn(lane, uint16(turn%uint64(s.parts.NumFlowPartitions)))
}

// keyPartition is the partition of an idempotency key: CRC16 of namespace, a zero
// byte and the key. (Specification 07, section 2.)
func keyPartition(parts flowfabric.PartitionConfig, ns flowfabric.Namespace, key string) uint16 {
	return parts.LanePartition(flowfabric.LaneID(string(ns) + "\x00" + key))
}

// keyed is a create with an idempotency key, and the partition of the key.
type keyed struct {
	at   int // in the list of creations
	part uint16
}

// reserve reserves the keys of those creates that have one, in one pipeline, and
// returns the creates that may go on; the others are answered. A lane that takes
// nothing new reserves nothing: there a key is only looked up.
func (s *Store) reserve(ctx context.Context, list []creation, out []flowfabric.Item[flowfabric.CreateExecutionResult]) []creation {
	var keys, closed []keyed
	for i := range list {
		p := list[i].prepared
		if p.Args.IdempotencyKey == "" || p.DedupWindowMs <= 0 {
			continue
		}
		k := keyed{i, keyPartition(s.parts, p.Args.Namespace, p.Args.IdempotencyKey)}
		if list[i].closed != "" {
			closed = append(closed, k)
		} else {
			keys = append(keys, k)
		}
	}
	if len(keys)+len(closed) == 0 {
		return list
	}
	failed := make([]bool, len(list))
	fail := func(at int, err error) { out[list[at].index].Err, failed[at] = ownError(err), true }
	s.reserveKeys(ctx, list, keys, fail)
	s.lookUpKeys(ctx, list, closed, fail)
	return without(list, failed)
}

// reserveKeys reserves keys; a create whose key is held by another identifier goes
// on under that.
func (s *Store) reserveKeys(ctx context.Context, list []creation, keys []keyed, fail func(at int, err error)) {
	slices.SortStableFunc(keys, func(x, y keyed) int { return int(x.part) - int(y.part) })
	var reqs []request
	for i, k := range keys {
		if i == 0 || keys[i-1].part != k.part {
			reqs = append(reqs, request{fn: fnReserve, tag: s.tag(k.part)})
		}
		r := &reqs[len(reqs)-1]
		r.args = appendReservation(r.args, list[k.at].prepared)
	}
	answers := s.calls(ctx, reqs)
	for n := range reqs {
		count := len(reqs[n].args) / reserveStride
		held, err := elements(nil), answers[n].err
		if err == nil {
			held, err = elementsOf(fnReserve, &answers[n].msg, count)
		}
		for i, k := range keys[:count] {
			fault := err
			if fault == nil {
				fault = s.adopt(list[k.at].prepared, held.str(i))
			}
			if fault != nil {
				fail(k.at, fault)
			}
		}
		keys = keys[count:]
	}
}

func appendReservation(args []string, p *rules.Prepared) []string {
	return append(args, string(p.Args.Namespace), p.Args.IdempotencyKey, string(p.State.Exec.ExecutionID), strconv.FormatInt(p.DedupWindowMs, 10))
}

// lookUpKeys lets creates go on under the identifiers that hold their keys, and
// reserves nothing.
func (s *Store) lookUpKeys(ctx context.Context, list []creation, keys []keyed, fail func(at int, err error)) {
	cmds := make([]vk.Completed, len(keys))
	for i, k := range keys {
		p := list[k.at].prepared
		cmds[i] = s.b.Get().Key("ff:idem:" + s.tag(k.part) + ":" + string(p.Args.Namespace) + ":" + p.Args.IdempotencyKey).Build()
	}
	for i, got := range s.plain(ctx, cmds...) {
		c := &list[keys[i].at]
		if got.err != nil {
			fail(keys[i].at, got.err)
			continue
		}
		c.unreserved = true
		text, err := got.msg.ToString()
		if err != nil {
			continue // no such key
		}
		id, until, _ := strings.Cut(text, "\n")
		if at, err := strconv.ParseInt(until, 10, 64); err != nil || flowfabric.Millis(at) <= s.Now() {
			continue
		}
		c.unreserved = false
		if err := s.adopt(c.prepared, id); err != nil {
			fail(keys[i].at, err)
		}
	}
}

// adopt goes on under the identifier that holds the key.
func (s *Store) adopt(p *rules.Prepared, held string) error {
	id := flowfabric.ExecutionID(held)
	if id == p.State.Exec.ExecutionID {
		return nil
	}
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return corrupt("create_execution", "idempotency_key", "reserved for %q, which is no execution", rules.Cut(held, 60))
	}
	return p.Adopt(id, s.parts)
}

// appendCreate adds the arguments of one create.
func appendCreate(args []string, c *creation) ([]string, error) {
	x := &c.prepared.State.Exec
	options, err := createOptions(c.prepared)
	if err != nil {
		return args, err
	}
	return append(args, uuidOf(x.ExecutionID), string(x.LaneID), string(x.Namespace), bucketName(x.Namespace, c.caps), c.caps,
		encodeDef(c.prepared), options, c.closed), nil
}

// createOptions is what most executions have nothing of, as the library takes it:
// one argument, empty for those.
func createOptions(p *rules.Prepared) (string, error) {
	x := &p.State.Exec
	tags, err := tagsText(p.Args.Tags)
	if err != nil {
		return "", err
	}
	retention, reclaims := "", ""
	if ms := rules.RetentionMs(p.State.Policy); ms != flowfabric.DefaultRetentionMs {
		retention = strconv.FormatInt(ms, 10)
	}
	if n := rules.MaxReclaims(p.State.Policy); n != flowfabric.DefaultMaxReclaims {
		reclaims = strconv.FormatUint(uint64(n), 10)
	}
	options := [...]string{optional(int64(x.Priority)), optional(int64(p.DelayUntil)), optional(int64(p.DeadlineAt)), optional(p.DeadlineMs),
		optional(rules.AttemptTimeoutMs(p.State.Policy, 0)), retention, reclaims, tags}
	if options == [len(options)]string{} {
		return "", nil
	}
	return strings.Join(options[:], " "), nil
}

// created reads the answer to one create.
func (s *Store) created(it *batchItem, p *rules.Prepared) (res flowfabric.CreateExecutionResult, err error) {
	if it.err != nil {
		return res, it.err
	}
	id := p.State.Exec.ExecutionID
	if refused, ok := itemRefused(operation(fnCreate), s.tag(it.part), it.answer); ok {
		return res, refused
	}
	if it.answer == "" {
		return res, badAnswer(fnCreate)
	}
	switch rest := it.answer[1:]; it.answer[0] {
	case 'c':
		return flowfabric.CreateExecutionResult{Outcome: flowfabric.OutcomeCreated, ExecutionID: id, PublicState: flowfabric.PublicState(rest)}, nil
	case 'd':
		return flowfabric.CreateExecutionResult{Outcome: flowfabric.OutcomeDuplicate, ExecutionID: id, SameSpec: rules.SameSpec(p, rest)}, nil
	}
	return res, badAnswer(fnCreate)
}

// countOffer notes an execution that may be claimed where this process looks for
// work, and counts it into the event of its bucket.
func (s *Store) countOffer(events []flowfabric.WakeEvent, part uint16, c *creation) []flowfabric.WakeEvent {
	x := &c.prepared.State.Exec
	s.ready.note(x.LaneID, x.Namespace, c.caps, offerPlace{int64(s.Now()) - int64(x.Priority)*priorityStep, part, uuidOf(x.ExecutionID)})
	for i := range events {
		e := &events[i]
		if e.LaneID == x.LaneID && e.Namespace == x.Namespace && slices.Equal(e.Required, x.RequiredCapabilities) {
			e.Count++
			return events
		}
	}
	return append(events, flowfabric.WakeEvent{Kind: flowfabric.WakeEligible, Partition: part, LaneID: x.LaneID, Namespace: x.Namespace,
		Required: x.RequiredCapabilities, Count: 1})
}
