package engine

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
)

const (
	// reconcileBatch is how many executions one step of a repair looks at.
	reconcileBatch = 100
	// reconcileShare is the part of the time the index reconciler may take: 0.25 %.
	reconcileShare = 400
	// maxViolations bounds the violations a job keeps.
	maxViolations = 1000
	// maxJobs bounds the repairs on request that run at one time, keptJobs those
	// that are remembered.
	maxJobs  = 4
	keptJobs = 100
)

// reconciler holds the place of the index reconciler and the repairs on request.
type reconciler struct {
	interval time.Duration

	// Place of the duty; belongs to the duty's turn.
	partitions int
	partition  uint16
	cursor     flowfabric.ExecutionID

	mu      sync.Mutex
	jobs    map[string]*flowfabric.ReconcileJob
	order   []string
	active  int
	running sync.WaitGroup
	stopped bool
}

// reconcileCycle moves on over the partitions, batch by batch, until it has been
// round once or used up its share of the time. The next cycle goes on where this
// one ended.
func (e *Engine) reconcileCycle(ctx context.Context) (cycle, error) {
	var c cycle
	r := &e.reconcile
	if r.partitions == 0 {
		cfg, err := e.store.PartitionConfig(ctx)
		if err != nil {
			return c, err
		}
		r.partitions = cfg.NumFlowPartitions
		r.partition = uint16(rand.IntN(r.partitions))
	}
	var used time.Duration
	for visited := 0; visited < r.partitions && used < r.interval/reconcileShare; {
		begun := time.Now()
		res, err := e.store.Reconcile(ctx, flowfabric.ReconcileArgs{Partition: r.partition, Cursor: r.cursor, Limit: reconcileBatch})
		took := time.Since(begun)
		used += took
		if err != nil {
			r.next("") // do not stick at what fails
			return c, err
		}
		c.rows += res.Repaired + res.Removed
		e.reportRepair(ctx, r.partition, res)
		r.next(res.Next)
		if res.Next == "" {
			visited++
		}
		if !e.rest(ctx, took) {
			break
		}
	}
	return c, nil
}

// next moves the place behind a batch.
func (r *reconciler) next(cursor flowfabric.ExecutionID) {
	r.cursor = cursor
	if cursor == "" {
		r.partition = uint16((int(r.partition) + 1) % r.partitions)
	}
}

// rest pauses as long as the batch took, when that is worth a pause, so that
// others get at the store, and reports whether to go on.
func (e *Engine) rest(ctx context.Context, d time.Duration) bool {
	if d < time.Millisecond {
		select {
		case <-e.stop:
			return false
		default:
			return ctx.Err() == nil
		}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-e.stop:
		return false
	case <-ctx.Done():
		return false
	}
}

func (e *Engine) reportRepair(ctx context.Context, partition uint16, res flowfabric.ReconcileResult) {
	if res.Repaired+res.Removed > 0 {
		e.log.WarnContext(ctx, "indexes repaired", "partition", partition, "repaired", res.Repaired, "removed", res.Removed)
	}
	for _, v := range res.Violations {
		e.log.ErrorContext(ctx, "invalid record found", "partition", partition, "violation", v)
	}
}

// StartReconcile begins the repair of one partition's indexes, or of all
// partitions, over live data, and returns the running job. A partition out of
// range is invalid_input; more than four running jobs are resource_exhausted
// with the pool "reconcile". Jobs live in this process and end with it.
// (Specification 08, section 4.7.)
func (e *Engine) StartReconcile(ctx context.Context, partition *uint16) (flowfabric.ReconcileJob, error) {
	cfg, err := e.store.PartitionConfig(ctx)
	if err != nil {
		return flowfabric.ReconcileJob{}, err
	}
	first, count := uint16(0), cfg.NumFlowPartitions
	if partition != nil {
		if int(*partition) >= cfg.NumFlowPartitions {
			return flowfabric.ReconcileJob{}, flowfabric.InvalidInput("partition", "is %d, must be below %d", *partition, cfg.NumFlowPartitions)
		}
		first, count = *partition, 1
	}
	r := &e.reconcile
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return flowfabric.ReconcileJob{}, errShuttingDown()
	}
	if r.active >= maxJobs {
		return flowfabric.ReconcileJob{}, flowfabric.NewError(flowfabric.CodeResourceExhausted, "%d repairs are running", maxJobs).
			With("pool", "reconcile").With("max", maxJobs)
	}
	job := r.add(count)
	r.running.Go(func() { e.runReconcile(e.background, job, first, count) })
	return *job, nil
}

// add makes a job, forgetting the oldest ended ones beyond those kept.
func (r *reconciler) add(partitions int) *flowfabric.ReconcileJob {
	if r.jobs == nil {
		r.jobs = make(map[string]*flowfabric.ReconcileJob)
	}
	job := &flowfabric.ReconcileJob{JobID: uuid.NewString(), State: "running", Partitions: partitions}
	r.jobs[job.JobID] = job
	r.order = append(r.order, job.JobID)
	r.active++
	for len(r.order) > keptJobs && r.jobs[r.order[0]].State != "running" {
		delete(r.jobs, r.order[0])
		r.order = r.order[1:]
	}
	return job
}

func (e *Engine) runReconcile(ctx context.Context, job *flowfabric.ReconcileJob, first uint16, count int) {
	r := &e.reconcile
	var failure error
	for i := 0; i < count && failure == nil; i++ {
		failure = e.reconcilePartition(ctx, job, first+uint16(i))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active--
	job.State = "done"
	if failure != nil {
		job.State = "failed"
		job.Error = failure.Error()
	}
}

func (e *Engine) reconcilePartition(ctx context.Context, job *flowfabric.ReconcileJob, partition uint16) error {
	r := &e.reconcile
	args := flowfabric.ReconcileArgs{Partition: partition, Limit: reconcileBatch}
	for {
		begun := time.Now()
		res, err := e.store.Reconcile(ctx, args)
		if err != nil {
			return err
		}
		e.reportRepair(ctx, partition, res)
		r.mu.Lock()
		job.Examined += res.Examined
		job.Repaired += res.Repaired
		job.Removed += res.Removed
		job.Violations = append(job.Violations, res.Violations[:min(len(res.Violations), maxViolations-len(job.Violations))]...)
		r.mu.Unlock()
		if res.Next == "" {
			return nil
		}
		args.Cursor = res.Next
		if !e.rest(ctx, time.Since(begun)) {
			return errShuttingDown()
		}
	}
}

// GetReconcile returns a job begun by this process; an unknown one is
// invalid_input with the field "job_id".
func (e *Engine) GetReconcile(ctx context.Context, jobID string) (flowfabric.ReconcileJob, error) {
	if err := ctx.Err(); err != nil {
		return flowfabric.ReconcileJob{}, err
	}
	r := &e.reconcile
	r.mu.Lock()
	defer r.mu.Unlock()
	job := r.jobs[jobID]
	if job == nil {
		return flowfabric.ReconcileJob{}, flowfabric.InvalidInput("job_id", "no repair is called %q", jobID)
	}
	snapshot := *job
	snapshot.Violations = append([]string(nil), job.Violations...)
	return snapshot, nil
}

// stop lets no new job begin and waits for those that run; the engine's stop
// ends them after their batch.
func (r *reconciler) stop() {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	r.running.Wait()
}
