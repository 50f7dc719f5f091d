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
	fnRenew      = "ff_renew_lease"
	renewStride  = 6
	historyChunk = 500
)

// RenewLeases renews a batch, each item on its own.
func (s *Store) RenewLeases(ctx context.Context, items []flowfabric.RenewLeaseArgs) ([]flowfabric.Item[flowfabric.RenewLeaseResult], error) {
	if err := checkBatch(len(items)); err != nil {
		return nil, err
	}
	out := make([]flowfabric.Item[flowfabric.RenewLeaseResult], len(items))
	t := newTicket(len(items), renewStride)
	for i := range items {
		a := &items[i]
		if out[i].Err = s.checkItem(a.ExecutionID, rules.ValidateRenew(*a)); out[i].Err != nil {
			continue
		}
		ttl := ""
		if a.LeaseTTLMs != 0 {
			ttl = strconv.FormatInt(a.LeaseTTLMs, 10)
		}
		t.args = append(appendFence(t.args, a.ExecutionID, &a.Fence), ttl)
		t.add(i, a.ExecutionID.Partition())
	}
	if err := s.batches.renewals.do(ctx, t); err != nil {
		return nil, err
	}
	for k := range t.items {
		it := &t.items[k]
		o := &out[it.index]
		if o.Err = it.err; o.Err != nil {
			continue
		}
		if refused, ok := itemRefused(operation(fnRenew), s.tag(it.part), it.answer); ok {
			o.Err = known(refused, items[it.index].ExecutionID)
			continue
		}
		epoch, expires, ok := strings.Cut(it.answer, " ")
		n, err := strconv.ParseUint(epoch, 10, 64)
		at, err2 := strconv.ParseInt(expires, 10, 64)
		if !ok || err != nil || err2 != nil {
			o.Err = badAnswer(fnRenew)
			continue
		}
		o.Result = flowfabric.RenewLeaseResult{LeaseEpoch: n, ExpiresAt: flowfabric.Millis(at)}
	}
	return out, nil
}

// RevokeLease takes a lease away without ending the execution.
func (s *Store) RevokeLease(ctx context.Context, a flowfabric.RevokeLeaseArgs) (res flowfabric.RevokeLeaseResult, err error) {
	const fn = "ff_revoke_lease"
	if err := rules.ValidateRevoke(a); err != nil {
		return res, err
	}
	reason, by := a.Reason, a.RevokedBy
	if reason == "" {
		reason = "operator_revoke"
	}
	if by == "" {
		by = "operator"
	}
	list, err := s.change(ctx, fn, 4, a.ExecutionID, string(a.ExpectedLeaseID), reason, mark(a.Hold), by)
	if err != nil {
		return res, err
	}
	s.leasesChanged()
	s.offered(a.ExecutionID, list.str(4))
	switch list.str(0) {
	case "r":
		epoch, err := strconv.ParseUint(list.str(2), 10, 64)
		if err != nil {
			return res, badAnswer(fn)
		}
		return flowfabric.RevokeLeaseResult{Outcome: flowfabric.RevokeRevoked, LeaseID: flowfabric.LeaseID(list.str(1)), LeaseEpoch: epoch}, nil
	case "s":
		return flowfabric.RevokeLeaseResult{Outcome: flowfabric.RevokeAlreadySatisfied, Reason: list.str(3)}, nil
	}
	return res, badAnswer(fn)
}

// ReleaseReclaimHold lets a held execution be reclaimed again.
func (s *Store) ReleaseReclaimHold(ctx context.Context, id flowfabric.ExecutionID) (bool, error) {
	list, err := s.change(ctx, "ff_release_reclaim_hold", 1, id)
	if err != nil {
		return false, err
	}
	s.offered(id, list.str(1))
	return list.str(0) == "1", nil
}

// MarkLeaseExpiredIfDue makes a lapse visible.
func (s *Store) MarkLeaseExpiredIfDue(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.MarkLeaseExpiredResult, error) {
	list, err := s.change(ctx, "ff_mark_lease_expired", 2, id)
	if err != nil {
		return flowfabric.MarkLeaseExpiredResult{}, err
	}
	res := flowfabric.MarkLeaseExpiredResult{Outcome: flowfabric.UpkeepOutcome(list.str(0)), Reason: list.str(1)}
	if res.Outcome == flowfabric.UpkeepMarkedExpired {
		s.leasesChanged()
		s.offered(id, list.str(2))
	}
	return res, nil
}

// GetLease returns the lease in detail.
func (s *Store) GetLease(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Lease, error) {
	v, err := s.mustView(ctx, "get_lease", id, partHeader)
	if err != nil {
		return nil, err
	}
	return rules.GetLease(v.st, v.now)
}

// GetLeaseHistory goes through the lease feed of the execution's partition, as
// far as it is kept, and returns a page of the execution's events, oldest first.
func (s *Store) GetLeaseHistory(ctx context.Context, a flowfabric.LeaseHistoryArgs) (res flowfabric.LeaseHistoryResult, err error) {
	limit, err := listLimit(a.Limit, flowfabric.DefaultListLimit, flowfabric.MaxListLimit)
	if err != nil {
		return res, err
	}
	if _, err := s.mustView(ctx, "get_lease_history", a.ExecutionID, ""); err != nil {
		return res, err
	}
	part, e := a.ExecutionID.Partition(), uuidOf(a.ExecutionID)
	tag := s.tag(part)
	key := feedKey(tag, flowfabric.FeedLeases)
	events := []flowfabric.Event{}
	for after := a.After; ; {
		got := s.plain(ctx, s.b.Xrange().Key(key).Start(streamID(after+1)).End("+").Count(historyChunk).Build())[0]
		if got.err != nil {
			return res, got.err
		}
		list, err := got.msg.ToArray()
		if err != nil {
			return res, err
		}
		for i := range list {
			entries, err := readEntry(&list[i], 0)
			if err != nil {
				return res, err
			}
			for _, x := range entries {
				if x.seq <= after || eventExecution(x.v) != e {
					continue
				}
				if len(events) == limit {
					return flowfabric.LeaseHistoryResult{Events: events, Next: events[limit-1].Seq}, nil
				}
				ev, err := decodeEvent(flowfabric.FeedLeases, part, tag, x.seq, x.v)
				if err != nil {
					return res, err
				}
				events = append(events, ev)
			}
			after = entries[len(entries)-1].seq
		}
		if len(list) < historyChunk {
			return flowfabric.LeaseHistoryResult{Events: events}, nil
		}
	}
}

// active returns the active executions of partitions, of all lanes, ordered by
// partition and identifier; with an instance those whose entry names it as the
// holder. Entries are hints: the records decide.
func (s *Store) active(ctx context.Context, parts []uint16, instance flowfabric.WorkerInstanceID) ([]flowfabric.ExecutionID, error) {
	cmds := make([]vk.Completed, len(parts))
	for i, p := range parts {
		cmds[i] = s.b.Smembers().Key("ff:idx:" + s.tag(p) + ":lanes").Build()
	}
	var of []uint16 // the partition of each hash
	var hashes []vk.Completed
	for i, got := range s.plain(ctx, cmds...) {
		if got.err != nil {
			return nil, got.err
		}
		lanes, err := got.msg.AsStrSlice()
		if err != nil {
			return nil, err
		}
		for _, lane := range lanes {
			of = append(of, parts[i])
			hashes = append(hashes, s.b.Hgetall().Key(laneKey(s.tag(parts[i]), flowfabric.LaneID(lane), "active")).Build())
		}
	}
	var ids []flowfabric.ExecutionID
	for i, got := range s.plain(ctx, hashes...) {
		if got.err != nil {
			return nil, got.err
		}
		holders, err := got.msg.AsStrMap()
		if err != nil {
			return nil, err
		}
		prefix := s.tag(of[i]) + ":"
		for e, holder := range holders {
			if instance == "" || holder == string(instance) {
				ids = append(ids, flowfabric.ExecutionID(prefix+e))
			}
		}
	}
	slices.SortFunc(ids, compareIDs)
	return ids, nil
}

// compareIDs orders identifiers by partition, then by text.
func compareIDs(x, y flowfabric.ExecutionID) int {
	if p, q := x.Partition(), y.Partition(); p != q {
		return int(p) - int(q)
	}
	return strings.Compare(string(x), string(y))
}

func (s *Store) allPartitions() []uint16 {
	parts := make([]uint16, s.parts.NumFlowPartitions)
	for i := range parts {
		parts[i] = uint16(i)
	}
	return parts
}

// heldBy returns the executions whose valid lease the instance holds, verified
// on the records, ordered by partition and identifier.
func (s *Store) heldBy(ctx context.Context, instance flowfabric.WorkerInstanceID) ([]flowfabric.ExecutionID, error) {
	ids, err := s.active(ctx, s.allPartitions(), instance)
	if err != nil {
		return nil, err
	}
	leases, err := s.readLeases(ctx, "held_by", ids)
	if err != nil {
		return nil, err
	}
	var held []flowfabric.ExecutionID
	for i := range leases {
		if leases[i].state == 'A' && leases[i].instance == instance {
			held = append(held, leases[i].id)
		}
	}
	return held, nil
}

// leaseRow is what a listing of leases reads of one record.
type leaseRow struct {
	id        flowfabric.ExecutionID
	state     byte // first letter of the state; 0 without a record
	lease     flowfabric.LeaseID
	epoch     uint64
	attempts  uint32
	instance  flowfabric.WorkerInstanceID
	expires   flowfabric.Millis
	namespace flowfabric.Namespace
}

var leaseFields = []string{"st", "lease_id", "epoch", "attempts", "wi", "lx", "namespace"}

// readLeases reads the leases of executions, in order.
func (s *Store) readLeases(ctx context.Context, op string, ids []flowfabric.ExecutionID) ([]leaseRow, error) {
	cmds := make([]vk.Completed, len(ids))
	for i, id := range ids {
		cmds[i] = s.b.Hmget().Key(execKey(id, "core")).Field(leaseFields...).Build()
	}
	rows := make([]leaseRow, len(ids))
	var away []int // with values in the text hash
	for i, got := range s.plain(ctx, cmds...) {
		if got.err != nil {
			return nil, got.err
		}
		list, err := got.msg.ToArray()
		if err != nil {
			return nil, err
		}
		if rows[i], err = leaseRowOf(op, ids[i], list); err != nil {
			return nil, err
		}
		if rows[i].instance == inText || rows[i].namespace == inText {
			away = append(away, i)
		}
	}
	cmds = cmds[:0]
	for _, i := range away {
		cmds = append(cmds, s.b.Hmget().Key(execKey(rows[i].id, "text")).Field("wi", "namespace").Build())
	}
	for j, got := range s.plain(ctx, cmds...) {
		if got.err != nil {
			return nil, got.err
		}
		list, err := got.msg.ToArray()
		if err != nil {
			return nil, err
		}
		r := &rows[away[j]]
		if r.instance == inText {
			r.instance = flowfabric.WorkerInstanceID(elements(list).str(0))
		}
		if r.namespace == inText {
			r.namespace = flowfabric.Namespace(elements(list).str(1))
		}
	}
	return rows, nil
}

func leaseRowOf(op string, id flowfabric.ExecutionID, list elements) (leaseRow, error) {
	r := leaseRow{id: id}
	st := list.str(0)
	if st == "" {
		return r, nil
	}
	var v flowfabric.StateVector
	if !decodeVector(st, "", &v) {
		return r, corrupt(op, "lifecycle_phase", "state %q is none", rules.Cut(st, 20))
	}
	r.state = st[0]
	if v.LifecyclePhase != flowfabric.PhaseActive {
		return r, nil
	}
	d := decoder{op: op}
	r.lease = flowfabric.LeaseID(d.uuid("current_lease_id", list.str(1)))
	r.epoch = d.uint("current_lease_epoch", list.str(2))
	r.attempts = d.uint32("total_attempt_count", list.str(3))
	r.instance = flowfabric.WorkerInstanceID(list.str(4))
	r.expires = d.ms("lease_expires_at", list.str(5))
	r.namespace = flowfabric.Namespace(list.str(6))
	return r, d.err
}

// ListWorkerLeases lists what an instance holds now, verified on the records.
func (s *Store) ListWorkerLeases(ctx context.Context, a flowfabric.ListWorkerLeasesArgs) (res flowfabric.ListWorkerLeasesResult, err error) {
	const op = "list_worker_leases"
	if err := a.WorkerInstanceID.Validate(); err != nil {
		return res, err
	}
	limit, err := listLimit(a.Limit, flowfabric.DefaultListLimit, flowfabric.MaxListLimit)
	if err != nil {
		return res, err
	}
	if a.Cursor != "" {
		if _, err := flowfabric.ParseExecutionID(string(a.Cursor)); err != nil {
			return res, flowfabric.NewError(flowfabric.CodeInvalidCursor, "cursor is no execution id")
		}
	}
	ids, err := s.active(ctx, s.allPartitions(), a.WorkerInstanceID)
	if err != nil {
		return res, err
	}
	if a.Cursor != "" {
		at, found := slices.BinarySearchFunc(ids, a.Cursor, compareIDs)
		if found {
			at++
		}
		ids = ids[at:]
	}
	leases, err := s.readLeases(ctx, op, ids)
	if err != nil {
		return res, err
	}
	var held []flowfabric.ExecutionID
	for i := range leases {
		l := &leases[i]
		if l.state != 'A' || l.instance != a.WorkerInstanceID || !visible(l.namespace, a.Namespace, a.Namespaces) {
			continue
		}
		if len(held) == limit {
			res.NextCursor = held[limit-1]
			break
		}
		held = append(held, l.id)
	}
	res.Tasks, err = s.heldTasks(ctx, op, held, a.WorkerInstanceID)
	if err != nil {
		return flowfabric.ListWorkerLeasesResult{}, err
	}
	return res, nil
}

// visible reports whether somebody who asks for a namespace, out of those he may
// see, sees one.
func visible(ns, want flowfabric.Namespace, allowed []flowfabric.Namespace) bool {
	if want != "" && want != flowfabric.AnyNamespace && ns != want {
		return false
	}
	return allowed == nil || slices.Contains(allowed, ns)
}

// heldTasks reads executions as tasks of their holder; those whose lease has
// ended meanwhile are left out.
func (s *Store) heldTasks(ctx context.Context, op string, ids []flowfabric.ExecutionID, instance flowfabric.WorkerInstanceID) ([]flowfabric.ClaimedExecution, error) {
	reqs := make([]request, len(ids))
	for i, id := range ids {
		reqs[i] = request{fn: fnDescribe, tag: tagOf(id), args: []string{uuidOf(id), partTags + partWhole}, readOnly: true}
	}
	tasks := make([]flowfabric.ClaimedExecution, 0, len(ids))
	for i, got := range s.calls(ctx, reqs) {
		if got.err != nil {
			return nil, got.err
		}
		v, err := viewOf(op, ids[i], &got.msg)
		if err != nil {
			return nil, err
		}
		if v == nil {
			continue
		}
		task := rules.Held(v.st)
		if task == nil || task.WorkerInstanceID != instance {
			continue
		}
		if err := v.needsDef(op); err != nil {
			return nil, err
		}
		task.Payload, task.PayloadEncoding, task.StoreTime, task.Tags = v.def.payload, v.def.encoding, v.now, orNoTags(task.Tags)
		tasks = append(tasks, *task)
	}
	return tasks, nil
}

// ListExpiredLeases pages over active executions whose lease has passed, one
// range of partitions a page.
func (s *Store) ListExpiredLeases(ctx context.Context, a flowfabric.ListExpiredLeasesArgs) (res flowfabric.ListExpiredLeasesResult, err error) {
	limit, err := listLimit(a.Limit, flowfabric.DefaultExpiredLeases, flowfabric.MaxExpiredLeasesLimit)
	if err != nil {
		return res, err
	}
	span := a.MaxPartitionsPerCall
	if span == 0 {
		span = flowfabric.DefaultExpiredLeaseSpan
	}
	if span < 1 || span > 65535 {
		return res, flowfabric.InvalidInput("max_partitions_per_call", "is %d, must be 1..65535", a.MaxPartitionsPerCall)
	}
	asOf := a.AsOf
	if asOf < 0 {
		return res, flowfabric.InvalidInput("as_of", "is negative")
	}
	if asOf == 0 {
		asOf = s.Now()
	}
	at := rules.ExpiredCursor{Span: span}
	if a.Cursor != "" {
		if at, err = rules.ParseExpiredCursor(a.Cursor); err != nil || at.First >= s.parts.NumFlowPartitions {
			return res, flowfabric.NewError(flowfabric.CodeInvalidCursor, "malformed cursor")
		}
	}
	last := min(at.First+at.Span, s.parts.NumFlowPartitions)
	found, err := s.expiredLeases(ctx, s.allPartitions()[at.First:last], asOf, &a)
	if err != nil {
		return res, err
	}
	res.Leases = []flowfabric.ExpiredLease{}
	for _, l := range found {
		if at.ID != "" && rules.CompareExpired(l.ExpiresAt, l.ExecutionID, at.At, at.ID) <= 0 {
			continue
		}
		if len(res.Leases) == limit {
			end := res.Leases[limit-1]
			res.NextCursor = rules.ExpiredCursor{First: at.First, Span: at.Span, At: end.ExpiresAt, ID: end.ExecutionID}.String()
			return res, nil
		}
		res.Leases = append(res.Leases, l)
	}
	if last < s.parts.NumFlowPartitions {
		res.NextCursor = rules.ExpiredCursor{First: last, Span: at.Span}.String()
	}
	return res, nil
}

// expiredLeases reads the lapsed leases of partitions, ordered by expiry and
// identifier.
func (s *Store) expiredLeases(ctx context.Context, parts []uint16, asOf flowfabric.Millis, a *flowfabric.ListExpiredLeasesArgs) ([]flowfabric.ExpiredLease, error) {
	ids, err := s.active(ctx, parts, "")
	if err != nil {
		return nil, err
	}
	rows, err := s.readLeases(ctx, "list_expired_leases", ids)
	if err != nil {
		return nil, err
	}
	var found []flowfabric.ExpiredLease
	for i := range rows {
		r := &rows[i]
		if r.state != 'A' && r.state != 'X' || r.expires > asOf || r.attempts == 0 || !visible(r.namespace, a.Namespace, a.Namespaces) {
			continue
		}
		found = append(found, flowfabric.ExpiredLease{ExecutionID: r.id, LeaseID: r.lease, LeaseEpoch: r.epoch, AttemptIndex: r.attempts - 1,
			WorkerInstanceID: r.instance, ExpiresAt: r.expires, Marked: r.state == 'X'})
	}
	slices.SortFunc(found, func(x, y flowfabric.ExpiredLease) int {
		return rules.CompareExpired(x.ExpiresAt, x.ExecutionID, y.ExpiresAt, y.ExecutionID)
	})
	return found, nil
}
