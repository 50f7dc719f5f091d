package valkey

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// workersMost bounds what a process remembers of the workers that claim.
const workersMost = 50_000

type workerKey struct {
	namespace flowfabric.Namespace
	instance  flowfabric.WorkerInstanceID
}

// workerCache remembers which claimers have registered and until when, and who
// covers a requirement. Its zero value remembers nothing.
type workerCache struct {
	mu         sync.RWMutex
	asked      map[workerKey]*asked
	covered    map[requirement]flowfabric.Millis
	namespaces map[flowfabric.Namespace]bool // known to be in the set of namespaces
}

// asked is what a claimer last registered itself with, and when that is to be
// written again.
type asked struct {
	worker      flowfabric.WorkerID
	lanes       []flowfabric.LaneID
	caps        []string
	waitMs      int64
	at, renewAt flowfabric.Millis
}

func (k *asked) same(a *flowfabric.ClaimCandidatesArgs) bool {
	return k.worker == a.WorkerID && k.waitMs == a.WaitMs && slices.Equal(k.lanes, a.Lanes) && slices.Equal(k.caps, a.Capabilities)
}

// forgetNamespace drops what is remembered of a namespace's workers; "*" stands
// for all.
func (c *workerCache) forgetNamespace(ns flowfabric.Namespace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.covered)
	if ns == flowfabric.AnyNamespace {
		clear(c.asked)
		return
	}
	for k := range c.asked {
		if k.namespace == ns {
			delete(c.asked, k)
		}
	}
}

func (c *workerCache) forgetCoverage() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.covered)
}

// forget drops what is remembered of a claimer that has just registered itself: it
// may live shorter than what it is known to cover was told.
func (c *workerCache) forget(k workerKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asked, k)
	clear(c.covered)
}

// stands reports whether what a claim says has been written and needs no writing
// yet.
func (c *workerCache) stands(k workerKey, a *flowfabric.ClaimCandidatesArgs, now flowfabric.Millis) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	known := c.asked[k]
	return known != nil && now >= known.at && now < known.renewAt && known.same(a)
}

func (c *workerCache) keep(k workerKey, v *asked) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked == nil || len(c.asked) > workersMost {
		c.asked = make(map[workerKey]*asked)
	}
	if was := c.asked[k]; was == nil || was.waitMs > v.waitMs {
		clear(c.covered) // it may live shorter now
	}
	c.asked[k] = v
}

// coveredStill reports whether a registration that has not run out is known to
// cover the requirement.
func (c *workerCache) coveredStill(r requirement, now flowfabric.Millis) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return now < c.covered[r]
}

// recordOf is what the registry stores of a worker's own words.
func recordOf(w *flowfabric.WorkerRegistration) (string, error) {
	doc, err := json.Marshal(storedWorker{w.Namespace, w.WorkerID, w.WorkerInstanceID, w.Lanes, w.Capabilities})
	return string(doc), err
}

// storedWorker is the record of a registration; what the store decides on lies in
// fields beside it.
type storedWorker struct {
	Namespace    flowfabric.Namespace        `json:"namespace"`
	WorkerID     flowfabric.WorkerID         `json:"worker_id"`
	InstanceID   flowfabric.WorkerInstanceID `json:"worker_instance_id"`
	Lanes        []flowfabric.LaneID         `json:"lanes"`
	Capabilities []string                    `json:"capabilities"`
}

// RegisterWorker registers or refreshes a worker process.
func (s *Store) RegisterWorker(ctx context.Context, a flowfabric.RegisterWorkerArgs) (flowfabric.RegisterWorkerResult, error) {
	var res flowfabric.RegisterWorkerResult
	if err := rules.ValidateRegister(&a); err != nil {
		return res, err
	}
	w := flowfabric.WorkerRegistration{Namespace: a.Namespace, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID,
		Lanes: a.Lanes, Capabilities: a.Capabilities}
	doc, err := recordOf(&w)
	if err == nil {
		err = s.noteNamespace(ctx, a.Namespace)
	}
	if err != nil {
		return res, err
	}
	got, err := s.callStrs(ctx, "ff_register_worker", registryTag(a.Namespace), string(a.WorkerInstanceID), string(a.WorkerID),
		a.InstanceNonce, strconv.FormatInt(a.LivenessTTLMs, 10), doc)
	s.routing.workers.forget(workerKey{a.Namespace, a.WorkerInstanceID})
	if err != nil {
		return res, err
	}
	res = flowfabric.RegisterWorkerResult{Outcome: flowfabric.RegisterOutcome(got[0]), NextExpiryAt: flowfabric.Millis(toInt(got[1]))}
	if got[3] == "1" { // a claim's record is explicit now
		s.publishAdmin(ctx, noticeWorker+string(a.Namespace))
	}
	return res, s.greet(ctx, &w, got[2])
}

// greet notes the lanes that a worker names, and lifts the labels of what it has
// come to cover: everything it covers, unless its former record covered as much.
func (s *Store) greet(ctx context.Context, w *flowfabric.WorkerRegistration, former string) error {
	if err := s.nameLanes(ctx, w.Lanes); err != nil {
		return err
	}
	var was storedWorker
	if former != "" && json.Unmarshal([]byte(former), &was) == nil {
		if !subset(was.Lanes, w.Lanes) || !subset(was.Capabilities, w.Capabilities) {
			s.routing.workers.forgetCoverage() // it may have been the one that covered
		}
		if subset(w.Lanes, was.Lanes) && subset(w.Capabilities, was.Capabilities) {
			return nil
		}
	}
	return s.liftFor(ctx, w)
}

// subset reports whether every member of a is in the sorted set b.
func subset[T ~string](a, b []T) bool {
	for _, x := range a {
		if _, ok := slices.BinarySearch(b, x); !ok {
			return false
		}
	}
	return true
}

// nameLanes notes, for good, that a worker has named the lanes.
func (s *Store) nameLanes(ctx context.Context, lanes []flowfabric.LaneID) error {
	var cmds []vk.Completed
	var fresh []flowfabric.LaneID
	for _, id := range lanes {
		if !s.routing.lanes.isNamed(id) {
			cmds = append(cmds, s.b.Hset().Key(keyPrefix+laneTag(id)).FieldValue().FieldValue("named", "1").Build())
			fresh = append(fresh, id)
		}
	}
	if len(cmds) == 0 {
		return nil
	}
	for i, a := range s.plain(ctx, cmds...) {
		if a.err != nil {
			return a.err
		}
		s.routing.lanes.setNamed(fresh[i])
	}
	return nil
}

// noteNamespace puts a namespace into the set of those that ever had a worker.
func (s *Store) noteNamespace(ctx context.Context, ns flowfabric.Namespace) error {
	c := &s.routing.workers
	c.mu.RLock()
	known := c.namespaces[ns]
	c.mu.RUnlock()
	if known {
		return nil
	}
	if err := s.plain(ctx, s.b.Sadd().Key(keyNamespaces).Member(string(ns)).Build())[0].err; err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.namespaces == nil || len(c.namespaces) > workersMost {
		c.namespaces = make(map[flowfabric.Namespace]bool)
	}
	c.namespaces[ns] = true
	return nil
}

// registerImplicit counts a claim request as registration or heartbeat. It writes
// when the claimer is new or says something new, and otherwise four times in its
// TTL; in between it costs a look at what is remembered. Capabilities are in normal
// form. What is written lifts the labels of the buckets that the request covers.
func (s *Store) registerImplicit(ctx context.Context, a *flowfabric.ClaimCandidatesArgs) error {
	ns := a.Namespace
	if ns == "" {
		ns = flowfabric.AnyNamespace
	}
	k := workerKey{ns, a.WorkerInstanceID}
	now := s.Now()
	if s.routing.workers.stands(k, a, now) {
		return nil
	}
	lanes := slices.Clone(a.Lanes)
	slices.Sort(lanes)
	w := flowfabric.WorkerRegistration{Namespace: ns, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID,
		Lanes: slices.Compact(lanes), Capabilities: a.Capabilities}
	doc, err := recordOf(&w)
	if err == nil {
		err = s.noteNamespace(ctx, ns)
	}
	if err != nil {
		return err
	}
	got, err := s.callStrs(ctx, "ff_register_implicit", registryTag(ns), string(a.WorkerInstanceID), string(a.WorkerID),
		strconv.FormatInt(flowfabric.DefaultLivenessTTLMs+a.WaitMs, 10), doc)
	if err != nil {
		return err
	}
	if err := s.greet(ctx, &w, got[3]); err != nil {
		return err
	}
	s.routing.workers.keep(k, &asked{worker: a.WorkerID, lanes: slices.Clone(a.Lanes), caps: slices.Clone(a.Capabilities),
		waitMs: a.WaitMs, at: now, renewAt: now + flowfabric.Millis(toInt(got[2])/4)})
	return nil
}

// HeartbeatWorker keeps a live registration of the same process alive.
func (s *Store) HeartbeatWorker(ctx context.Context, a flowfabric.HeartbeatWorkerArgs) (flowfabric.HeartbeatWorkerResult, error) {
	if err := rules.ValidateHeartbeat(a); err != nil {
		return flowfabric.HeartbeatWorkerResult{}, err
	}
	got, err := s.callStrs(ctx, "ff_heartbeat_worker", registryTag(a.Namespace), string(a.WorkerInstanceID), a.InstanceNonce)
	if err != nil || got[0] == "" {
		return flowfabric.HeartbeatWorkerResult{}, err
	}
	return flowfabric.HeartbeatWorkerResult{Registered: true, NextExpiryAt: flowfabric.Millis(toInt(got[0]))}, nil
}

// MarkWorkerDead removes a registration and, when asked to, revokes what the
// instance holds.
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
	got, err := s.callStrs(ctx, "ff_mark_worker_dead", registryTag(a.Namespace), string(a.WorkerInstanceID), kind, a.Reason)
	s.forgetWorkers(a.Namespace)
	if err != nil {
		return res, err
	}
	s.publishAdmin(ctx, noticeWorker+string(a.Namespace))
	res.Marked = got[0] == "1"
	if !a.RevokeLeases {
		return res, nil
	}
	leases, err := s.leasesOf(ctx, a.Namespace, a.WorkerInstanceID)
	if err != nil {
		return res, err
	}
	reason := rules.Cut("worker_dead: "+a.Reason, flowfabric.MaxRevokeReasonBytes)
	for _, l := range leases {
		got, err := s.RevokeLease(ctx, flowfabric.RevokeLeaseArgs{ExecutionID: l.id, ExpectedLeaseID: l.lease, Reason: reason, RevokedBy: "reconciler"})
		if err != nil && !flowfabric.IsStaleOwner(err) && flowfabric.CodeOf(err) != flowfabric.CodeExecutionNotActive &&
			flowfabric.CodeOf(err) != flowfabric.CodeExecutionNotFound {
			return res, err
		}
		if got.Outcome == flowfabric.RevokeRevoked {
			res.RevokedLeases++
		}
	}
	return res, nil
}

// forgetWorkers drops what is remembered of a namespace's workers, and with it
// that labels have been set.
func (s *Store) forgetWorkers(ns flowfabric.Namespace) {
	s.routing.workers.forgetNamespace(ns)
	s.routing.buckets.forgetMarks()
}

// heldLease is a lease as an execution's record shows it.
type heldLease struct {
	id    flowfabric.ExecutionID
	lease flowfabric.LeaseID
}

// leasesOf lists the leases that an instance holds of executions in a namespace,
// by the executions' order; "*" stands for all namespaces.
func (s *Store) leasesOf(ctx context.Context, ns flowfabric.Namespace, instance flowfabric.WorkerInstanceID) ([]heldLease, error) {
	ids, err := s.heldBy(ctx, instance)
	if err != nil {
		return nil, err
	}
	cmds := make([]vk.Completed, 0, 2*len(ids))
	for _, id := range ids {
		exec := keyPrefix + "exec:" + tagOf(id) + ":" + uuidOf(id)
		cmds = append(cmds, s.b.Hmget().Key(exec+":core").Field("st", "lease_id", "namespace").Build(),
			s.b.Hmget().Key(exec+":text").Field("namespace").Build())
	}
	answers := s.plainMany(ctx, cmds)
	var out []heldLease
	for i, id := range ids {
		core, err := strs(answers[2*i])
		if err != nil {
			return nil, err
		}
		text, err := strs(answers[2*i+1])
		if err != nil {
			return nil, err
		}
		of := flowfabric.Namespace(core[2])
		if of == "@" { // a long one lies aside
			of = flowfabric.Namespace(text[0])
		}
		if strings.HasPrefix(core[0], "A") && (ns == flowfabric.AnyNamespace || of == ns) {
			out = append(out, heldLease{id, flowfabric.LeaseID(core[1])})
		}
	}
	return out, nil
}

var workerFields = []string{"rec", "nonce", "implicit", "ttl", "reg", "beat", "exp"}

func (s *Store) workerRead(ns flowfabric.Namespace, instance string) vk.Completed {
	return s.b.Hmget().Key("ff:worker:" + registryTag(ns) + ":" + instance).Field(workerFields...).Build()
}

// workerOf makes a registration of what is stored; nil without one that is alive.
func (s *Store) workerOf(ctx context.Context, a answer, now flowfabric.Millis) (*flowfabric.WorkerRegistration, error) {
	v, err := strs(a)
	if err != nil || v[0] == "" {
		return nil, err
	}
	var rec storedWorker
	if err := json.Unmarshal([]byte(v[0]), &rec); err != nil {
		// It registers anew, and takes the place of what does not decode.
		s.log.ErrorContext(ctx, "a worker's registration does not decode and is left out", "error", err)
		return nil, nil
	}
	w := &flowfabric.WorkerRegistration{Namespace: rec.Namespace, WorkerID: rec.WorkerID, WorkerInstanceID: rec.InstanceID,
		Lanes: rec.Lanes, Capabilities: rec.Capabilities, InstanceNonce: v[1], Implicit: v[2] == "1", LivenessTTLMs: toInt(v[3]),
		RegisteredAt: flowfabric.Millis(toInt(v[4])), LastHeartbeatAt: flowfabric.Millis(toInt(v[5])), ExpiresAt: flowfabric.Millis(toInt(v[6]))}
	if !rules.Alive(w, now) {
		return nil, nil
	}
	return w, nil
}

// GetWorker returns a live registration, nil when there is none.
func (s *Store) GetWorker(ctx context.Context, ns flowfabric.Namespace, instance flowfabric.WorkerInstanceID) (*flowfabric.WorkerRegistration, error) {
	if err := ns.ValidateForWorker(); err != nil {
		return nil, err
	}
	if err := instance.Validate(); err != nil {
		return nil, err
	}
	return s.workerOf(ctx, s.plain(ctx, s.workerRead(ns, string(instance)))[0], s.Now())
}

// ListWorkers lists live registrations by (namespace, instance).
func (s *Store) ListWorkers(ctx context.Context, a flowfabric.ListWorkersArgs) (flowfabric.ListWorkersResult, error) {
	res := flowfabric.ListWorkersResult{Workers: []flowfabric.WorkerRegistration{}}
	limit, err := pageLimit(a.Limit, flowfabric.DefaultWorkersLimit, flowfabric.MaxWorkersLimit)
	if err != nil {
		return res, err
	}
	namespaces := []flowfabric.Namespace{a.Namespace}
	if a.Namespace == "" {
		if namespaces, err = s.allNamespaces(ctx); err != nil {
			return res, err
		}
	}
	for _, ns := range namespaces {
		if ns < a.AfterNamespace || a.Namespaces != nil && !slices.Contains(a.Namespaces, ns) {
			continue
		}
		after := ""
		if ns == a.AfterNamespace {
			after = string(a.AfterInstanceID)
		}
		err := s.eachWorker(ctx, ns, after, func(w flowfabric.WorkerRegistration) bool {
			if a.LaneID == "" || slices.Contains(w.Lanes, a.LaneID) {
				res.Workers = append(res.Workers, w)
			}
			return len(res.Workers) <= limit
		})
		if err != nil {
			return res, err
		}
		if len(res.Workers) > limit {
			res.Workers, res.More = res.Workers[:limit], true
			break
		}
	}
	return res, nil
}

// allNamespaces lists the namespaces that ever had a worker.
func (s *Store) allNamespaces(ctx context.Context) ([]flowfabric.Namespace, error) {
	list, err := strs(s.plain(ctx, s.b.Smembers().Key(keyNamespaces).Build())[0])
	if err != nil {
		return nil, err
	}
	slices.Sort(list)
	out := make([]flowfabric.Namespace, len(list))
	for i, ns := range list {
		out[i] = flowfabric.Namespace(ns)
	}
	return out, nil
}

// eachWorker goes through the live registrations of a namespace behind an
// instance, in their order, until f has enough.
func (s *Store) eachWorker(ctx context.Context, ns flowfabric.Namespace, after string, f func(flowfabric.WorkerRegistration) (more bool)) error {
	now := s.Now()
	index := s.b.Zrangebyscore().Key("ff:idx:" + registryTag(ns) + ":workers").Min("(" + strconv.FormatInt(int64(now), 10)).Max("+inf").Build()
	instances, err := strs(s.plain(ctx, index)[0])
	if err != nil {
		return err
	}
	slices.Sort(instances)
	first, found := slices.BinarySearch(instances, after)
	if found {
		first++
	}
	for some := range slices.Chunk(instances[first:], callBatch) {
		cmds := make([]vk.Completed, len(some))
		for i, instance := range some {
			cmds[i] = s.workerRead(ns, instance)
		}
		for _, a := range s.plain(ctx, cmds...) {
			w, err := s.workerOf(ctx, a, now)
			if err != nil {
				return err
			}
			if w != nil && !f(*w) {
				return nil
			}
		}
	}
	return nil
}

// registrations lists the live registrations of some namespaces.
func (s *Store) registrations(ctx context.Context, namespaces ...flowfabric.Namespace) ([]flowfabric.WorkerRegistration, error) {
	var out []flowfabric.WorkerRegistration
	for _, ns := range namespaces {
		err := s.eachWorker(ctx, ns, "", func(w flowfabric.WorkerRegistration) bool {
			out = append(out, w)
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// registrationsFor lists the live registrations that may cover the buckets.
func (s *Store) registrationsFor(ctx context.Context, list []bucketAt) ([]flowfabric.WorkerRegistration, error) {
	namespaces := []flowfabric.Namespace{flowfabric.AnyNamespace}
	seen := map[flowfabric.Namespace]bool{flowfabric.AnyNamespace: true}
	for _, b := range list {
		if !seen[b.namespace] {
			seen[b.namespace] = true
			namespaces = append(namespaces, b.namespace)
		}
	}
	return s.registrations(ctx, namespaces...)
}

// coveredBy reports whether one of the registrations alone covers a requirement,
// and remembers it for as long as that one lives unless it is heard of again.
func (s *Store) coveredBy(workers []flowfabric.WorkerRegistration, r requirement) bool {
	now, tokens := s.Now(), r.tokens()
	until := flowfabric.Millis(0)
	for _, w := range workers {
		if w.ExpiresAt > until && rules.Covers(w, r.lane, r.namespace, tokens, now) {
			until = w.ExpiresAt
		}
	}
	if until == 0 {
		return false
	}
	c := &s.routing.workers
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.covered == nil || len(c.covered) > workersMost {
		c.covered = make(map[requirement]flowfabric.Millis)
	}
	c.covered[r] = until
	return true
}

// registeredCapabilities is the capability set of an instance's live registration,
// in its namespace or for all; nil without one.
func (s *Store) registeredCapabilities(ctx context.Context, ns flowfabric.Namespace, instance flowfabric.WorkerInstanceID) ([]string, error) {
	for _, in := range []flowfabric.Namespace{ns, flowfabric.AnyNamespace} {
		w, err := s.workerOf(ctx, s.plain(ctx, s.workerRead(in, string(instance)))[0], s.Now())
		if err != nil {
			return nil, err
		}
		if w != nil {
			return w.Capabilities, nil
		}
	}
	return nil, nil
}

// SweepWorkers deletes registrations past their TTL.
func (s *Store) SweepWorkers(ctx context.Context) (flowfabric.SweepResult, error) {
	var res flowfabric.SweepResult
	namespaces, err := s.allNamespaces(ctx)
	if err != nil {
		return res, err
	}
	reqs := make([]request, len(namespaces))
	for i, ns := range namespaces {
		reqs[i] = request{fn: "ff_sweep_workers", tag: registryTag(ns), args: []string{strconv.Itoa(sweepBatch)}}
	}
	for _, a := range s.callMany(ctx, reqs) {
		got, failed := strs(a)
		if failed != nil {
			err = failed
			continue
		}
		n := int(toInt(got[0]))
		res.Rows += n
		res.More = res.More || n >= sweepBatch
	}
	return res, err
}
