package flowfabric

import (
	"context"
	"errors"
	"hash/fnv"
	"sync"
	"time"
)

// reserve takes up to n permits, at least one, before any call is made.
func (w *Worker) reserve(n int) (int, error) {
	if w.claims.Err() != nil {
		return 0, context.Cause(w.claims)
	}
	got := w.permits.take(n)
	if got == 0 {
		return 0, NewError(CodeWorkerAtCapacity, "all %d permits are in use", w.config.MaxConcurrentTasks).
			With("max", w.config.MaxConcurrentTasks)
	}
	return got, nil
}

// ClaimFromGrant consumes a scheduler's grant of any kind: a paused attempt is
// resumed and a lapsed lease reclaimed without further ado. Without a free
// permit it is worker_at_capacity and the grant stays usable. Errors:
// invalid_claim_grant, claim_grant_expired, capability_mismatch,
// execution_not_leaseable and those of the store. (Specification 02, section
// 6.2.)
func (w *Worker) ClaimFromGrant(ctx context.Context, lane LaneID, grant Grant) (*Task, error) {
	return w.consume(ctx, lane, grant, ExpectAny)
}

// ClaimFromReclaimGrant consumes a grant for one interrupted execution. Its kind
// decides: resume continues the interrupted attempt, reclaim starts a new one.
// Nothing of a former process is needed. Errors: those of
// [Worker.ClaimFromGrant], not_a_resumed_execution, execution_not_reclaimable,
// reclaim_cap_exceeded, execution_not_found.
func (w *Worker) ClaimFromReclaimGrant(ctx context.Context, grant Grant) (*Task, error) {
	switch grant.Kind {
	case ClaimReclaim:
		return w.consume(ctx, grant.LaneID, grant, ExpectReclaim)
	case ClaimResume, ClaimNew: // a grant for new work is refused by the store and stays usable
		return w.consume(ctx, grant.LaneID, grant, ExpectResume)
	}
	return nil, InvalidInput("grant.kind", "%q is no kind of grant", clip(string(grant.Kind), 40))
}

// ClaimFromResumeGrant is [Worker.ClaimFromReclaimGrant] for kind resume only;
// another kind is invalid_input without a call.
func (w *Worker) ClaimFromResumeGrant(ctx context.Context, grant Grant) (*Task, error) {
	if grant.Kind != ClaimResume {
		return nil, InvalidInput("grant.kind", "is %q, must be %q", clip(string(grant.Kind), 40), ClaimResume)
	}
	return w.consume(ctx, grant.LaneID, grant, ExpectResume)
}

func (w *Worker) consume(ctx context.Context, lane LaneID, grant Grant, expect ClaimExpect) (*Task, error) {
	if err := lane.Validate(); err != nil {
		return nil, err
	}
	if _, err := w.reserve(1); err != nil {
		return nil, err
	}
	return w.consumeReserved(ctx, lane, grant, expect)
}

// consumeReserved consumes a grant with a permit in hand. The claim is repeated
// under the same lease_id, which is safe.
func (w *Worker) consumeReserved(ctx context.Context, lane LaneID, grant Grant, expect ClaimExpect) (*Task, error) {
	args := ClaimGrantedArgs{
		ExecutionID: grant.ExecutionID, GrantID: grant.GrantID, LaneID: lane,
		WorkerID: w.config.WorkerID, WorkerInstanceID: w.config.WorkerInstanceID, Capabilities: w.config.Capabilities,
		LeaseID: NewLeaseID(), AttemptID: NewAttemptID(), LeaseTTLMs: w.config.LeaseTTL.Milliseconds(), Expect: expect,
	}
	t, err := w.claimOne(ctx, args.LeaseID, func(ctx context.Context) (ClaimedExecution, error) {
		return w.backend.ClaimGranted(ctx, args)
	})
	if err != nil {
		w.give(1)
	}
	return t, err
}

// claimOne makes a claim whose lease_id the worker minted. The caller holds the
// permit and keeps it on failure.
func (w *Worker) claimOne(ctx context.Context, lease LeaseID, call func(context.Context) (ClaimedExecution, error)) (*Task, error) {
	w.track(lease)
	ctx, end := endedBy(ctx, w.claims)
	defer end()
	var sent time.Time
	claimed, err := retry(ctx, w.clock, func(ctx context.Context) (ClaimedExecution, error) {
		sent = w.clock.Now()
		return call(ctx)
	})
	if err != nil {
		w.untrack(lease)
		if mayHaveHappened(err) {
			w.uncertain.Store(true)
		}
		return nil, w.claimError(err)
	}
	t := w.newTask(w.tasks, claimed, sent, false)
	if t == nil {
		return nil, NewError(CodeInternal, "the store answered with a lease that is already in hand")
	}
	return t, nil
}

// claimError names the shutdown where it is what ended a claim.
func (w *Worker) claimError(err error) error {
	if w.claims.Err() != nil && isContextError(err) {
		return context.Cause(w.claims)
	}
	return err
}

// ClaimViaServer asks the scheduler for a grant in a lane, waiting for work up
// to ClaimWait, and consumes it. It returns nil, nil when there was none. The
// permit is reserved first, so that a grant is never obtained only to be
// wasted. The grantTTL is 1 ms..60 s, 0 for the configured one.
func (w *Worker) ClaimViaServer(ctx context.Context, lane LaneID, grantTTL time.Duration) (*Task, error) {
	if err := lane.Validate(); err != nil {
		return nil, err
	}
	if grantTTL == 0 {
		grantTTL = w.config.GrantTTL
	}
	if grantTTL < time.Millisecond || grantTTL > MaxGrantTTLMs*time.Millisecond {
		return nil, InvalidInput("grant_ttl_ms", "is %v, must be 1ms..1m", grantTTL)
	}
	if _, err := w.reserve(1); err != nil {
		return nil, err
	}
	grant, err := w.requestGrant(ctx, lane, grantTTL)
	if err != nil || grant == nil {
		w.give(1)
		return nil, err
	}
	return w.consumeReserved(ctx, grant.LaneID, *grant, ExpectAny)
}

// requestGrant asks for a grant, again at once while the scheduler says that
// this is worth it.
func (w *Worker) requestGrant(ctx context.Context, lane LaneID, ttl time.Duration) (*Grant, error) {
	ctx, end := endedBy(ctx, w.claims)
	defer end()
	args := ClaimForWorkerArgs{
		WorkerID: w.config.WorkerID, WorkerInstanceID: w.config.WorkerInstanceID, Lanes: []LaneID{lane},
		Capabilities: w.config.Capabilities, Namespace: w.config.Namespace,
		GrantTTLMs: ttl.Milliseconds(), WaitMs: w.config.ClaimWait.Milliseconds(),
	}
	for {
		answer, err := w.backend.ClaimForWorker(ctx, args)
		if err != nil {
			return nil, w.claimError(err)
		}
		if answer.Grant != nil || !answer.More || ctx.Err() != nil {
			return answer.Grant, nil
		}
	}
}

// ReleaseGrant gives an unused grant back early, so that others may claim the
// execution at once. It reports whether the grant was still held.
func (w *Worker) ReleaseGrant(ctx context.Context, grant Grant) (bool, error) {
	return retry(ctx, w.clock, func(ctx context.Context) (bool, error) {
		return w.backend.ReleaseGrant(ctx, ReleaseGrantArgs{
			ExecutionID: grant.ExecutionID, GrantID: grant.GrantID, WorkerID: w.config.WorkerID,
		})
	})
}

// ClaimTasks claims up to n tasks, 1..100, never more than there are free
// permits, and waits for the first of them up to ClaimWait. It is the way
// production claims. No work gives an empty list; no free permit is
// worker_at_capacity. A claim whose answer was lost is not repeated: the leases
// it may have made are looked up and adopted. (Specification 02, section 7.4.)
func (w *Worker) ClaimTasks(ctx context.Context, n int) ([]*Task, error) {
	if n < 1 || n > MaxClaimTasks {
		return nil, InvalidInput("max_tasks", "is %d, must be 1..%d", n, MaxClaimTasks)
	}
	got, err := w.reserve(n)
	if err != nil {
		return nil, err
	}
	ctx, end := endedBy(ctx, w.claims)
	defer end()
	tasks, _, err := w.claimBatch(ctx, w.tasks, got, false)
	return tasks, w.claimError(err)
}

// claimBatch claims with n permits in hand and returns those that it does not
// turn into tasks. More tells that asking again at once is worth it.
func (w *Worker) claimBatch(ctx, parent context.Context, n int, managed bool) (tasks []*Task, more bool, err error) {
	w.claiming.Add(1)
	defer func() {
		w.claiming.Add(-1)
		w.give(n - len(tasks))
	}()
	if w.uncertain.Load() {
		tasks, err = w.adopt(ctx, parent, &n, managed)
		if err != nil || len(tasks) > 0 {
			return tasks, true, err
		}
	}
	sent := w.clock.Now()
	answer, err := w.backend.ClaimTasks(ctx, ClaimTasksArgs{
		WorkerID: w.config.WorkerID, WorkerInstanceID: w.config.WorkerInstanceID, Lanes: w.config.Lanes,
		Capabilities: w.config.Capabilities, Namespace: w.config.Namespace, MaxTasks: n,
		LeaseTTLMs: w.config.LeaseTTL.Milliseconds(), GrantTTLMs: w.config.GrantTTL.Milliseconds(),
		WaitMs: w.config.ClaimWait.Milliseconds(),
	})
	if err == nil {
		return w.admit(parent, answer.Tasks, n, w.leaseBase(sent), managed), answer.More, nil
	}
	if !mayHaveHappened(err) {
		return nil, false, err
	}
	w.uncertain.Store(true)
	if ctx.Err() != nil {
		return nil, false, err
	}
	tasks, failed := w.adopt(ctx, parent, &n, managed)
	if failed != nil || len(tasks) == 0 {
		return tasks, false, err
	}
	return tasks, true, nil
}

// leaseBase is the local time to count a lease from that a claim sent at sent
// has just brought. An answer that came at once is counted from the sending,
// which is safe; one that waited for work was made when the wait ended.
func (w *Worker) leaseBase(sent time.Time) time.Time {
	now := w.clock.Now()
	if now.Sub(sent) <= w.config.LeaseTTL/10 {
		return sent
	}
	return now
}

// admit turns claims into tasks. What is over the n permits in hand is given up.
func (w *Worker) admit(parent context.Context, claimed []ClaimedExecution, n int, base time.Time, managed bool) []*Task {
	tasks := make([]*Task, 0, len(claimed))
	for _, c := range claimed {
		if len(tasks) == n {
			w.giveUp(w.life, c)
			continue
		}
		if t := w.newTask(parent, c, base, managed); t != nil {
			tasks = append(tasks, t)
		}
	}
	return tasks
}

func (w *Worker) giveUp(ctx context.Context, c ClaimedExecution) {
	if err := w.revoke(ctx, c.ExecutionID, c.Fence.LeaseID); err != nil {
		w.log.Warn("lease left to expire", "execution_id", c.ExecutionID, "error", err)
	}
}

// adopt makes tasks of the leases that the store shows as held by this instance
// and the worker does not know: those of claims whose answer was lost. It takes
// up to n, the permits in hand. While another claim is under way the rest may be
// its own, so that the next claim looks again; otherwise the loop takes further
// permits for it, which it adds to n, and what is over is revoked.
func (w *Worker) adopt(ctx, parent context.Context, n *int, managed bool) ([]*Task, error) {
	select { // one at a time
	case w.adoption <- struct{}{}:
		defer func() { <-w.adoption }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if !w.uncertain.Load() {
		return nil, nil
	}
	w.setAdopting(true)
	defer w.setAdopting(false)
	w.uncertain.Store(false)
	sent := w.clock.Now()
	unknown, err := w.unknownLeases(ctx)
	if err != nil {
		w.uncertain.Store(true)
		return nil, err
	}
	alone := w.claiming.Load() == 1 // read before knows: a claim that ended has told its leases
	var tasks []*Task
	for _, c := range unknown {
		if w.knows(c.Fence.LeaseID) {
			continue
		}
		if len(tasks) == *n && alone && managed {
			*n += w.permits.take(1)
		}
		switch {
		case len(tasks) < *n:
			if t := w.newTask(parent, c, sent, managed); t != nil {
				tasks = append(tasks, t)
			}
		case alone:
			w.giveUp(ctx, c)
		default:
			w.uncertain.Store(true)
		}
	}
	if len(unknown) > 0 {
		w.log.Info("claims with a lost answer found again", "leases", len(unknown), "adopted", len(tasks))
	}
	return tasks, nil
}

// unknownLeases lists the leases of this instance that the worker does not know.
func (w *Worker) unknownLeases(ctx context.Context) ([]ClaimedExecution, error) {
	var unknown []ClaimedExecution
	args := ListWorkerLeasesArgs{WorkerInstanceID: w.config.WorkerInstanceID, Namespace: w.config.Namespace, Limit: MaxListLimit}
	for {
		page, err := retry(ctx, w.clock, func(ctx context.Context) (ListWorkerLeasesResult, error) {
			return w.backend.ListWorkerLeases(ctx, args)
		})
		if err != nil {
			return nil, err
		}
		for _, c := range page.Tasks {
			if !w.knows(c.Fence.LeaseID) {
				unknown = append(unknown, c)
			}
		}
		if page.NextCursor == "" {
			return unknown, nil
		}
		args.Cursor = page.NextCursor
	}
}

func (w *Worker) knows(lease LeaseID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, held := w.leases[lease]; held {
		return true
	}
	_, let := w.left[lease]
	return let
}

func (w *Worker) setAdopting(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.adopting = on
}

// directScan is where ClaimNext looks next: lanes in rotation, and for each a
// cursor over the partitions.
type directScan struct {
	mu         sync.Mutex
	partitions int
	first      int
	lane       int
	windows    map[LaneID]int
}

func (s *directScan) start(instance WorkerInstanceID, partitions int) {
	h := fnv.New64a()
	h.Write([]byte(instance))
	s.partitions, s.windows = partitions, make(map[LaneID]int)
	s.first = int(h.Sum64() % uint64(partitions))
}

// next returns the lane and the first partition of this poll, and moves on.
func (s *directScan) next(lanes []LaneID) (LaneID, uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lane := lanes[s.lane%len(lanes)]
	s.lane++
	at := (s.first + s.windows[lane]) % s.partitions
	s.windows[lane] = (s.windows[lane] + MaxPartitionsPerScan) % s.partitions
	return lane, uint16(at)
}

// ClaimNext claims directly, past the scheduler's admission: no budget, no
// quota, no fairness between tenants. It takes the next lane in rotation and
// looks at up to 32 partitions from a moving cursor, so nil, nil means "nothing
// in this window, ask again"; it is also the answer at capacity, without a call.
// It is for tests, benchmarks and single-tenant development, and
// direct_claim_disabled unless AllowDirectClaim is set. (Specification 02,
// section 6.2.)
func (w *Worker) ClaimNext(ctx context.Context) (*Task, error) {
	if !w.config.AllowDirectClaim {
		return nil, NewError(CodeDirectClaimDisabled, "the worker's configuration does not allow direct claims")
	}
	if _, err := w.reserve(1); err != nil {
		if errors.Is(err, ErrWorkerAtCapacity) {
			return nil, nil
		}
		return nil, err
	}
	t, err := w.claimDirectly(ctx)
	if t == nil {
		w.give(1)
	}
	return t, err
}

// claimDirectly looks at one window and takes the first candidate it can get.
func (w *Worker) claimDirectly(ctx context.Context) (*Task, error) {
	lane, first := w.scan.next(w.config.Lanes)
	window := min(MaxPartitionsPerScan, w.partitions.NumFlowPartitions)
	candidates, err := retry(ctx, w.clock, func(ctx context.Context) ([]ExecutionID, error) {
		return w.backend.ListEligible(ctx, ListEligibleArgs{
			LaneID: lane, Namespace: w.config.Namespace, Capabilities: w.config.Capabilities,
			FirstPartition: first, Partitions: window, Limit: window,
		})
	})
	if err != nil {
		return nil, err
	}
	for _, id := range candidates {
		t, err := w.claimNamed(ctx, lane, id)
		if err == nil || !lostRace(err) {
			return t, err
		}
	}
	return nil, nil
}

func (w *Worker) claimNamed(ctx context.Context, lane LaneID, id ExecutionID) (*Task, error) {
	args := IssueGrantAndClaimArgs{
		ExecutionID: id, LaneID: lane,
		WorkerID: w.config.WorkerID, WorkerInstanceID: w.config.WorkerInstanceID, Capabilities: w.config.Capabilities,
		LeaseID: NewLeaseID(), AttemptID: NewAttemptID(), LeaseTTLMs: w.config.LeaseTTL.Milliseconds(), IssuedBy: IssuedByDirect,
	}
	return w.claimOne(ctx, args.LeaseID, func(ctx context.Context) (ClaimedExecution, error) {
		return w.backend.IssueGrantAndClaim(ctx, args)
	})
}

// lostRace reports whether a refused claim only means that this candidate is not
// to be had.
func lostRace(err error) bool {
	e := AsError(err)
	if e == nil {
		return false
	}
	switch e.Class {
	case ClassConflict, ClassNotFound, ClassAdmissionDenied, ClassExpired:
		return true
	}
	return false
}
