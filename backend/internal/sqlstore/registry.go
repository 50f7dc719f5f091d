package sqlstore

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

type workerKey struct {
	namespace flowfabric.Namespace
	instance  flowfabric.WorkerInstanceID
}

// registry is the writer's copy of the worker registry. A heartbeat that only
// moves the clock is written at most once a second.
type registry struct {
	workers map[workerKey]*worker
}

type worker struct {
	reg     flowfabric.WorkerRegistration
	savedAt flowfabric.Millis
}

func newRegistry() *registry { return &registry{workers: make(map[workerKey]*worker)} }

// storedWorker is a registration as stored: with the fields that the wire form
// leaves out.
type storedWorker struct {
	flowfabric.WorkerRegistration
	Nonce     string            `json:"instance_nonce"`
	ExpiresAt flowfabric.Millis `json:"expires_at"`
}

const heartbeatWriteMs = 1_000

var (
	qSelectWorkers = &Query{`select rec from workers`}
	qUpsertWorker  = &Query{`insert into workers (namespace, instance, rec) values (?, ?, ?)
		on conflict (namespace, instance) do update set rec = excluded.rec`}
	qDeleteWorker = &Query{`delete from workers where namespace = ? and instance = ?`}
	qWorkerEvent  = &Query{`insert into worker_events (at, namespace, instance, kind, reason) values (?, ?, ?, ?, ?)`}
)

func (s *Store) loadWorkers(c Conn) error {
	s.registry = newRegistry()
	q := c.Stmt(qSelectWorkers)
	for {
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		var w storedWorker
		if err := json.Unmarshal([]byte(q.ColText(0)), &w); err != nil {
			// It registers anew, and takes the place of what does not decode.
			s.cfg.Logger.Error("a worker's registration does not decode and is left out", "error", err)
			continue
		}
		w.InstanceNonce, w.WorkerRegistration.ExpiresAt = w.Nonce, w.ExpiresAt
		s.registry.workers[workerKey{w.Namespace, w.WorkerInstanceID}] = &worker{w.WorkerRegistration, w.LastHeartbeatAt}
	}
	s.pub.Lock()
	defer s.pub.Unlock()
	clear(s.pub.workers)
	for k, w := range s.registry.workers {
		s.pub.workers[k] = w.reg
	}
	return nil
}

func (tx *Tx) markWorker(k workerKey) {
	if tx.dirty.workers == nil {
		tx.dirty.workers = make(map[workerKey]bool, 2)
	}
	tx.dirty.workers[k] = true
}

// putWorker keeps a registration; kind is the log entry, empty for a heartbeat.
func (tx *Tx) putWorker(reg flowfabric.WorkerRegistration, kind string) error {
	k := workerKey{reg.Namespace, reg.WorkerInstanceID}
	w := tx.s.registry.workers[k]
	fresh := w == nil
	if fresh {
		w = &worker{}
		tx.s.registry.workers[k] = w
	}
	beat := !fresh && kind == "" && sameWorker(&w.reg, &reg)
	w.reg = reg
	tx.markWorker(k)
	if beat && tx.Now-w.savedAt < heartbeatWriteMs {
		return nil
	}
	w.savedAt = tx.Now
	doc, err := json.Marshal(storedWorker{reg, reg.InstanceNonce, reg.ExpiresAt})
	if err != nil {
		return err
	}
	q := tx.conn.Stmt(qUpsertWorker)
	q.Text(string(reg.Namespace))
	q.Text(string(reg.WorkerInstanceID))
	q.Text(string(doc))
	if err := q.Exec(); err != nil {
		return err
	}
	if kind == "" {
		return nil
	}
	return tx.logWorker(k, kind, "")
}

// sameWorker reports whether two registrations differ in the clock alone.
func sameWorker(a, b *flowfabric.WorkerRegistration) bool {
	return a.WorkerID == b.WorkerID && a.InstanceNonce == b.InstanceNonce && a.Implicit == b.Implicit &&
		a.LivenessTTLMs == b.LivenessTTLMs && a.RegisteredAt == b.RegisteredAt &&
		slices.Equal(a.Lanes, b.Lanes) && slices.Equal(a.Capabilities, b.Capabilities)
}

func (tx *Tx) logWorker(k workerKey, kind, reason string) error {
	q := tx.conn.Stmt(qWorkerEvent)
	q.Int(int64(tx.Now))
	q.Text(string(k.namespace))
	q.Text(string(k.instance))
	q.Text(kind)
	q.Text(reason)
	return q.Exec()
}

func (tx *Tx) dropWorker(k workerKey, kind, reason string) error {
	q := tx.conn.Stmt(qDeleteWorker)
	q.Text(string(k.namespace))
	q.Text(string(k.instance))
	if err := q.Exec(); err != nil {
		return err
	}
	delete(tx.s.registry.workers, k)
	tx.markWorker(k)
	return tx.logWorker(k, kind, reason)
}

// existing returns the registration for a rule, nil when there is none.
func (tx *Tx) existing(k workerKey) *flowfabric.WorkerRegistration {
	if w := tx.s.registry.workers[k]; w != nil {
		return &w.reg
	}
	return nil
}

// RegisterWorker registers or refreshes a worker process.
func (s *Store) RegisterWorker(ctx context.Context, a flowfabric.RegisterWorkerArgs) (res flowfabric.RegisterWorkerResult, err error) {
	if err := rules.ValidateRegister(&a); err != nil {
		return res, err
	}
	var refused error
	err = s.write(ctx, func(tx *Tx) error {
		res, refused = flowfabric.RegisterWorkerResult{}, nil
		reg, outcome, err := rules.Register(tx.existing(workerKey{a.Namespace, a.WorkerInstanceID}), a, tx.Now)
		if err != nil {
			refused = err
			return nil
		}
		res = flowfabric.RegisterWorkerResult{Outcome: outcome, NextExpiryAt: reg.ExpiresAt}
		if err := tx.putWorker(reg, string(outcome)); err != nil {
			return err
		}
		for _, lane := range reg.Lanes {
			if err := tx.name(lane); err != nil {
				return err
			}
		}
		return tx.lift(reg)
	})
	if err == nil {
		err = refused
	}
	return res, err
}

// registerImplicit counts a claim request as registration or heartbeat. hash is
// the digest of its capabilities.
func (tx *Tx) registerImplicit(a *flowfabric.ClaimCandidatesArgs, hash string) error {
	ns := a.Namespace
	if ns == "" {
		ns = flowfabric.AnyNamespace
	}
	k := workerKey{ns, a.WorkerInstanceID}
	old := tx.existing(k)
	reg, gained, err := rules.RegisterImplicit(old, ns, a.WorkerID, a.WorkerInstanceID, a.Lanes, a.Capabilities, a.WaitMs, tx.Now)
	if err != nil {
		return err
	}
	kind := ""
	if old == nil || tx.Now >= old.ExpiresAt {
		kind = string(flowfabric.WorkerRegistered)
	} else if gained {
		kind = string(flowfabric.WorkerRefreshed)
	}
	if err := tx.putWorker(reg, kind); err != nil {
		return err
	}
	for _, lane := range a.Lanes {
		if err := tx.name(lane); err != nil {
			return err
		}
	}
	// What the request mentions counts for this asking, also beyond an explicit
	// record.
	for _, lane := range a.Lanes {
		if err := tx.liftCovered(tx.s.buckets.coverage(lane, hash, a.Capabilities), ns); err != nil {
			return err
		}
	}
	return nil
}

// liftCovered takes off the labels that buckets of the coverage have got since
// the last claim with its capabilities, in the namespace that the worker serves.
func (tx *Tx) liftCovered(c *coverage, ns flowfabric.Namespace) error {
	if c.labelled == 0 {
		return nil
	}
	return c.eachTenant(ns, nil, func(_ flowfabric.Namespace, t *tenant) error {
		for _, e := range t.labelled {
			e.labelled = false
			c.labelled--
			if e.b.label.UncoveredSince == 0 {
				continue
			}
			if err := tx.label(e.b, rules.Label{LastMismatchAt: e.b.label.LastMismatchAt}); err != nil {
				return err
			}
		}
		t.labelled = nil
		return nil
	})
}

// lift takes off the labels of all buckets that reg covers.
func (tx *Tx) lift(reg flowfabric.WorkerRegistration) error {
	for _, lane := range reg.Lanes {
		for b := range tx.s.buckets.labelled[lane] {
			if !rules.Covers(reg, lane, b.namespace, b.required, tx.Now) {
				continue
			}
			if err := tx.label(b, rules.Label{LastMismatchAt: b.label.LastMismatchAt}); err != nil {
				return err
			}
		}
	}
	return nil
}

// covered reports whether one live registration covers the bucket alone. The
// worker that did at the last look is asked first.
func (tx *Tx) covered(b *bucket) bool {
	if w := tx.s.registry.workers[b.server]; w != nil && rules.Covers(w.reg, b.lane, b.namespace, b.required, tx.Now) {
		return true
	}
	for k, w := range tx.s.registry.workers {
		if rules.Covers(w.reg, b.lane, b.namespace, b.required, tx.Now) {
			b.server = k
			return true
		}
	}
	return false
}

// uncovered labels a bucket that an asking worker does not cover, when no live
// worker covers it and its lane has been named.
func (tx *Tx) uncovered(b *bucket) error {
	l := rules.Label{UncoveredSince: b.label.UncoveredSince, LastMismatchAt: tx.Now}
	if l.UncoveredSince != 0 { // who comes to cover it lifts the label
		if tx.Now-b.label.LastMismatchAt < heartbeatWriteMs {
			return nil
		}
		return tx.label(b, l)
	}
	if !tx.s.named[b.lane] || tx.covered(b) {
		return nil
	}
	l.UncoveredSince = tx.Now
	return tx.label(b, l)
}

// HeartbeatWorker refreshes a live registration.
func (s *Store) HeartbeatWorker(ctx context.Context, a flowfabric.HeartbeatWorkerArgs) (res flowfabric.HeartbeatWorkerResult, err error) {
	if err := rules.ValidateHeartbeat(a); err != nil {
		return res, err
	}
	err = s.write(ctx, func(tx *Tx) error {
		reg, out := rules.Heartbeat(tx.existing(workerKey{a.Namespace, a.WorkerInstanceID}), a, tx.Now)
		res = out
		if !out.Registered {
			return nil
		}
		return tx.putWorker(reg, "")
	})
	return res, err
}

// MarkWorkerDead removes a registration and, when asked to, revokes what the
// instance holds: up to sweepBatch leases a step, until none is left.
func (s *Store) MarkWorkerDead(ctx context.Context, a flowfabric.MarkWorkerDeadArgs) (flowfabric.MarkWorkerDeadResult, error) {
	return s.endWorker(ctx, a, "marked_dead")
}

// DeregisterWorker is the worker's own form of MarkWorkerDead.
func (s *Store) DeregisterWorker(ctx context.Context, a flowfabric.MarkWorkerDeadArgs) (flowfabric.MarkWorkerDeadResult, error) {
	return s.endWorker(ctx, a, "deregistered")
}

func (s *Store) endWorker(ctx context.Context, a flowfabric.MarkWorkerDeadArgs, kind string) (res flowfabric.MarkWorkerDeadResult, err error) {
	if err := rules.ValidateMarkWorkerDead(a); err != nil {
		return res, err
	}
	marked := false
	err = s.write(ctx, func(tx *Tx) error {
		marked = false
		k := workerKey{a.Namespace, a.WorkerInstanceID}
		w := tx.existing(k)
		if w == nil {
			return nil
		}
		if marked = tx.Now < w.ExpiresAt; !marked { // absent already: this only sweeps it
			return tx.dropWorker(k, "ttl_swept", "")
		}
		return tx.dropWorker(k, kind, a.Reason)
	})
	res.Marked = marked
	if err != nil || !a.RevokeLeases {
		return res, err
	}
	reason := "worker_dead: " + a.Reason
	if len(reason) > flowfabric.MaxRevokeReasonBytes {
		reason = rules.Cut(reason, flowfabric.MaxRevokeReasonBytes)
	}
	for cursor := flowfabric.ExecutionID(""); ; {
		page, err := s.ListWorkerLeases(ctx, flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: a.WorkerInstanceID, Namespace: a.Namespace,
			Cursor: cursor, Limit: sweepBatch})
		if err != nil {
			return res, err
		}
		for _, t := range page.Tasks {
			got, err := s.RevokeLease(ctx, flowfabric.RevokeLeaseArgs{ExecutionID: t.ExecutionID, ExpectedLeaseID: t.Fence.LeaseID, Reason: reason, RevokedBy: "reconciler"})
			if err != nil && !flowfabric.IsStaleOwner(err) && flowfabric.CodeOf(err) != flowfabric.CodeExecutionNotActive {
				return res, err
			}
			if got.Outcome == flowfabric.RevokeRevoked {
				res.RevokedLeases++
			}
		}
		if page.NextCursor == "" {
			return res, nil
		}
		cursor = page.NextCursor
	}
}

// GetWorker returns a live registration, nil when there is none.
func (s *Store) GetWorker(_ context.Context, ns flowfabric.Namespace, instance flowfabric.WorkerInstanceID) (*flowfabric.WorkerRegistration, error) {
	if err := ns.ValidateForWorker(); err != nil {
		return nil, err
	}
	if err := instance.Validate(); err != nil {
		return nil, err
	}
	s.pub.RLock()
	defer s.pub.RUnlock()
	w, ok := s.pub.workers[workerKey{ns, instance}]
	if !ok || s.Now() >= w.ExpiresAt {
		return nil, nil
	}
	w = ownRegistration(w)
	return &w, nil
}

// ownRegistration shares no slice with the registry.
func ownRegistration(w flowfabric.WorkerRegistration) flowfabric.WorkerRegistration {
	w.Lanes, w.Capabilities = slices.Clone(w.Lanes), slices.Clone(w.Capabilities)
	return w
}

// ListWorkers lists live registrations by (namespace, instance).
func (s *Store) ListWorkers(_ context.Context, a flowfabric.ListWorkersArgs) (res flowfabric.ListWorkersResult, err error) {
	limit, err := listLimit(a.Limit, flowfabric.DefaultWorkersLimit, flowfabric.MaxWorkersLimit)
	if err != nil {
		return res, err
	}
	now := s.Now()
	res.Workers = []flowfabric.WorkerRegistration{}
	s.pub.RLock()
	for _, w := range s.pub.workers {
		if now >= w.ExpiresAt || a.Namespace != "" && w.Namespace != a.Namespace || a.Namespaces != nil && !contains(a.Namespaces, w.Namespace) ||
			a.LaneID != "" && !contains(w.Lanes, a.LaneID) {
			continue
		}
		if w.Namespace < a.AfterNamespace || w.Namespace == a.AfterNamespace && w.WorkerInstanceID <= a.AfterInstanceID {
			continue
		}
		res.Workers = append(res.Workers, ownRegistration(w))
	}
	s.pub.RUnlock()
	slices.SortFunc(res.Workers, func(x, y flowfabric.WorkerRegistration) int {
		if c := strings.Compare(string(x.Namespace), string(y.Namespace)); c != 0 {
			return c
		}
		return strings.Compare(string(x.WorkerInstanceID), string(y.WorkerInstanceID))
	})
	if len(res.Workers) > limit {
		res.Workers, res.More = res.Workers[:limit], true
	}
	return res, nil
}

// ExplainRouting says which live workers could run the execution.
func (s *Store) ExplainRouting(ctx context.Context, id flowfabric.ExecutionID) (out *flowfabric.RoutingExplanation, err error) {
	err = s.read(ctx, "explain_routing", id, false, func(_ Conn, r *row) error {
		if r == nil {
			return notFound(id)
		}
		label := s.labelOf(r.bucket)
		out = &flowfabric.RoutingExplanation{ExecutionID: id, LaneID: r.bucket.lane, Namespace: r.bucket.namespace,
			RequiredCapabilities: append([]string{}, r.bucket.required...), Workers: []flowfabric.WorkerCoverage{},
			UncoveredSince: label.UncoveredSince, LastCapabilityMismatchAt: max(label.LastMismatchAt, r.st.Exec.LastCapabilityMismatchAt)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	now := s.Now()
	s.pub.RLock()
	defer s.pub.RUnlock()
	for _, w := range s.pub.workers {
		if !rules.Covers(w, out.LaneID, out.Namespace, nil, now) {
			continue
		}
		missing := flowfabric.MissingCapabilities(out.RequiredCapabilities, w.Capabilities)
		if missing == nil {
			missing = []string{}
		}
		out.Covered = out.Covered || len(missing) == 0
		out.Workers = append(out.Workers, flowfabric.WorkerCoverage{WorkerID: w.WorkerID, WorkerInstanceID: w.WorkerInstanceID, Missing: missing})
	}
	slices.SortFunc(out.Workers, func(x, y flowfabric.WorkerCoverage) int {
		return strings.Compare(string(x.WorkerInstanceID), string(y.WorkerInstanceID))
	})
	return out, nil
}

// registeredCapabilities is the capability set of an instance's live
// registration, nil without one.
func (s *Store) registeredCapabilities(ns flowfabric.Namespace, instance flowfabric.WorkerInstanceID, now flowfabric.Millis) []string {
	for _, n := range []flowfabric.Namespace{ns, flowfabric.AnyNamespace} {
		if w := s.registry.workers[workerKey{n, instance}]; w != nil && now < w.reg.ExpiresAt {
			return w.reg.Capabilities
		}
	}
	return nil
}
