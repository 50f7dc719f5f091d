package crashtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	zs "zombiezen.com/go/sqlite"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
)

// held is what the store holds of one execution.
type held struct {
	*flowfabric.ExecutionSnapshot
	attempts []flowfabric.Attempt
	result   *flowfabric.ExecutionResult
	endings  []flowfabric.Event
	// claims are the lease events that began a lease, released the reasons for
	// which leases were released, by epoch.
	claims   []flowfabric.Event
	released map[uint64]string

	waits waits
}

// claim returns the event that began the lease of an epoch.
func (h *held) claim(epoch uint64) *flowfabric.Event {
	for i := range h.claims {
		if h.claims[i].LeaseEpoch == epoch {
			return &h.claims[i]
		}
	}
	return nil
}

// attempt returns the attempt that an epoch was the last lease of.
func (h *held) attempt(epoch uint64) *flowfabric.Attempt {
	for i := range h.attempts {
		if h.attempts[i].LeaseEpoch == epoch {
			return &h.attempts[i]
		}
	}
	return nil
}

// auditor compares a journal with a store.
type auditor struct {
	t       *testing.T
	backend flowfabric.Backend
	client  *flowfabric.Client
	journal *journal
	all     map[flowfabric.ExecutionID]*held
	serials map[string][]*held // by the tag that tells the creation
}

// awaitDrained waits until every execution has ended.
func awaitDrained(t *testing.T, b flowfabric.Backend, limit time.Duration) {
	t.Helper()
	began := time.Now()
	left := 0
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if left = backlog(t.Context(), b); left == 0 {
			t.Logf("drained in %s", time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Since(began) > limit {
			break
		}
		<-again.C
	}
	t.Errorf("%d executions have not ended %s after the last kill", left, limit)
	describeStuck(t, b)
}

// backlog counts the executions that have not ended, -1 when it can't be told.
func backlog(ctx context.Context, b flowfabric.Backend) int {
	left := 0
	for _, id := range Lanes() {
		lane, err := b.GetLane(ctx, id)
		if flowfabric.IsNotFound(err) {
			continue
		}
		if err != nil {
			return -1
		}
		for state, n := range lane.Counts {
			if !state.Terminal() {
				left += int(n)
			}
		}
	}
	return left
}

func describeStuck(t *testing.T, b flowfabric.Backend) {
	t.Helper()
	client := flowfabric.NewClient(b, flowfabric.WithNamespace(Namespace))
	shown := 0
	for e, err := range client.Executions(t.Context(), flowfabric.ExecutionQuery{}) {
		if err != nil {
			t.Error(err)
			return
		}
		if e.PublicState.Terminal() || shown == 5 {
			continue
		}
		shown++
		record, err := b.GetExecution(t.Context(), e.ExecutionID)
		text, _ := json.Marshal(record)
		t.Logf("stuck: %s %v", text, err)
	}
}

// audit reads everything there is and compares it with the journal.
func audit(t *testing.T, b flowfabric.Backend, j *journal) *auditor {
	t.Helper()
	began := time.Now()
	a := &auditor{t: t, backend: b, client: flowfabric.NewClient(b, flowfabric.WithNamespace(Namespace)), journal: j,
		all: make(map[flowfabric.ExecutionID]*held), serials: make(map[string][]*held)}
	a.readExecutions()
	a.readFeed(flowfabric.FeedCompletions, a.ended)
	a.readFeed(flowfabric.FeedLeases, a.leased)
	for _, h := range a.all {
		a.checkExecution(h)
	}
	for _, c := range j.creations {
		a.checkCreation(c)
	}
	a.checkWaits()
	if j.lossy { // what was acknowledged may be undone
		a.reconcile()
		return a
	}
	for _, r := range j.reports {
		a.checkReport(r)
	}
	for id := range j.cancelled {
		if h := a.all[id]; h == nil || h.PublicState != flowfabric.PublicCancelled {
			t.Errorf("%s: cancelled, but reads %s", id, state(h))
		}
	}
	for id := range j.replayed {
		if h := a.all[id]; h == nil || h.ReplayCount != 1 {
			t.Errorf("%s: replayed, but reads %s", id, state(h))
		}
	}
	a.reconcile()
	t.Logf("audit of %d executions took %s", len(a.all), time.Since(began).Round(time.Millisecond))
	return a
}

func state(h *held) string {
	if h == nil {
		return "missing"
	}
	return fmt.Sprintf("%s, %d replays", h.PublicState, h.ReplayCount)
}

// readExecutions reads all executions with their attempts and results.
func (a *auditor) readExecutions() {
	a.t.Helper()
	ids := make(chan flowfabric.ExecutionID, 1000)
	var readers sync.WaitGroup
	var mu sync.Mutex
	for range 8 {
		readers.Go(func() {
			for id := range ids {
				h, err := a.read(id)
				if err != nil {
					a.t.Errorf("%s: %v", id, err)
					continue
				}
				mu.Lock()
				a.all[id] = h
				a.serials[h.Tags[serialTag]] = append(a.serials[h.Tags[serialTag]], h)
				mu.Unlock()
			}
		})
	}
	for e, err := range a.client.Executions(a.t.Context(), flowfabric.ExecutionQuery{}) {
		if err != nil {
			a.t.Error(err)
			break
		}
		ids <- e.ExecutionID
	}
	close(ids)
	readers.Wait()
}

func (a *auditor) read(id flowfabric.ExecutionID) (*held, error) {
	ctx := a.t.Context()
	snapshot, err := a.client.Inspect(ctx, id)
	if err != nil {
		return nil, err
	}
	if snapshot == nil {
		return nil, errors.New("it is listed, but can't be described")
	}
	h := &held{ExecutionSnapshot: snapshot, released: make(map[uint64]string)}
	attempts, err := a.backend.ListAttempts(ctx, flowfabric.ListAttemptsArgs{ExecutionID: id, Limit: 1000})
	if err != nil {
		return nil, err
	}
	h.attempts = attempts.Attempts
	h.result, err = a.client.Result(ctx, id)
	return h, err
}

// readFeed hands every event of a feed over. The numbers of each partition must
// be dense, from 1 on.
func (a *auditor) readFeed(feed flowfabric.Feed, take func(*held, flowfabric.Event)) {
	a.t.Helper()
	last := make(map[uint16]uint64)
	args := flowfabric.ReadFeedArgs{Feed: feed, Start: flowfabric.FeedStartEarliest, Limit: flowfabric.MaxFeedLimit}
	for {
		page, err := a.backend.ReadFeed(a.t.Context(), args)
		if err != nil {
			a.t.Fatal(err)
		}
		if len(page.Gaps) > 0 {
			a.t.Errorf("feed %s: gaps %v", feed, page.Gaps)
		}
		for _, e := range page.Events {
			if e.Seq != last[e.Partition]+1 {
				a.t.Errorf("feed %s, partition %d: event %d after %d", feed, e.Partition, e.Seq, last[e.Partition])
			}
			last[e.Partition] = e.Seq
			if h := a.all[e.ExecutionID]; h != nil {
				take(h, e)
			} else {
				a.t.Errorf("feed %s: event of %s, which does not exist", feed, e.ExecutionID)
			}
		}
		if !page.HasMore {
			return
		}
		args.Start = page.NextCursor
	}
}

func (a *auditor) ended(h *held, e flowfabric.Event) { h.endings = append(h.endings, e) }

func (a *auditor) leased(h *held, e flowfabric.Event) {
	switch e.Kind {
	case flowfabric.EventAcquired, flowfabric.EventResumed, flowfabric.EventReclaimed:
		h.claims = append(h.claims, e)
	case flowfabric.EventReleased:
		if before, twice := h.released[e.LeaseEpoch]; twice {
			a.t.Errorf("%s: the lease of epoch %d is released twice: %s, %s", h.ExecutionID, e.LeaseEpoch, before, e.Reason)
		}
		h.released[e.LeaseEpoch] = e.Reason
	}
}

// checkExecution checks that what the store holds of an execution fits together.
func (a *auditor) checkExecution(h *held) {
	a.t.Helper()
	wrong := func(format string, args ...any) {
		a.t.Helper()
		a.t.Errorf("%s (%s, %s): %s", h.ExecutionID, h.PublicState, h.Tags[serialTag], fmt.Sprintf(format, args...))
	}
	if !h.PublicState.Terminal() || h.OwnershipState != flowfabric.OwnershipUnowned || h.CurrentLease != nil {
		wrong("has not ended, or has an owner: %s, lease %+v", h.OwnershipState, h.CurrentLease)
		return
	}
	if len(h.endings) != int(h.ReplayCount)+1 {
		wrong("%d completion events after %d replays", len(h.endings), h.ReplayCount)
		return
	}
	if last := h.endings[len(h.endings)-1]; last.Outcome != h.TerminalOutcome || last.PublicState != h.PublicState {
		wrong("the last completion event says %s, %s", last.Outcome, last.PublicState)
	}
	if int(h.TotalAttemptCount) != len(h.attempts) {
		wrong("%d attempts, counted %d", len(h.attempts), h.TotalAttemptCount)
	}
	epoch := uint64(0)
	for i, attempt := range h.attempts {
		if int(attempt.AttemptIndex) != i || attempt.LeaseEpoch <= epoch || !attempt.Final() {
			wrong("attempt %d has index %d, epoch %d after %d, state %s", i, attempt.AttemptIndex, attempt.LeaseEpoch, epoch, attempt.AttemptState)
		}
		epoch = attempt.LeaseEpoch
	}
	for i, claim := range h.claims {
		if claim.LeaseEpoch != uint64(i)+1 {
			wrong("lease %d has epoch %d", i, claim.LeaseEpoch)
		}
	}
	if uint64(len(h.claims)) != epoch {
		wrong("%d leases began, the last attempt's epoch is %d", len(h.claims), epoch)
	}
	a.checkResult(h, wrong)
}

// checkResult checks that a result is there exactly when the execution has
// completed, and that it is the one of the last lease.
func (a *auditor) checkResult(h *held, wrong func(string, ...any)) {
	a.t.Helper()
	if (h.result != nil) != (h.PublicState == flowfabric.PublicCompleted) {
		wrong("its result is %s", shown(h.result))
		return
	}
	if h.result == nil {
		return
	}
	var r Result
	if err := json.Unmarshal(h.result.Payload, &r); err != nil {
		wrong("result %q: %v", h.result.Payload, err)
		return
	}
	if len(h.attempts) == 0 {
		wrong("completed without an attempt")
		return
	}
	last := h.attempts[len(h.attempts)-1]
	if r.Epoch != last.LeaseEpoch || r.Attempt != last.AttemptIndex || r.Instance != last.WorkerInstanceID ||
		serialText(r.Serial) != h.Tags[serialTag] {
		wrong("the result is of serial %d, epoch %d, attempt %d, worker %s; the last lease is of epoch %d, attempt %d, worker %s",
			r.Serial, r.Epoch, r.Attempt, r.Instance, last.LeaseEpoch, last.AttemptIndex, last.WorkerInstanceID)
	}
	if last.AttemptState != flowfabric.AttemptEndedSuccess || h.released[r.Epoch] != "completed" {
		wrong("completed, but the last attempt is %s and its lease was released by %q", last.AttemptState, h.released[r.Epoch])
	}
}

// shown is the begin of a result.
func shown(r *flowfabric.ExecutionResult) string {
	if r == nil {
		return "missing"
	}
	return fmt.Sprintf("%.200q", r.Payload)
}

// checkCreation checks that what a client wanted exists once, and not twice.
func (a *auditor) checkCreation(c *creation) {
	a.t.Helper()
	made := a.serials[serialText(c.serial)]
	if len(made) > 1 && c.key != "" && a.journal.lossy {
		return // the key's reservation was lost, on another partition
	}
	if len(made) > 1 {
		a.t.Errorf("creation %d, key %q, id %q, %d tries: %d executions", c.serial, c.key, c.named, c.tries, len(made))
		return
	}
	if len(c.acked) == 0 {
		if len(made) > 0 && c.tries == c.refused {
			a.t.Errorf("creation %d: nobody asked for %s, or all who did were refused", c.serial, made[0].ExecutionID)
		}
		return
	}
	if len(made) == 0 && a.journal.lossy {
		return
	}
	if len(made) == 0 {
		a.t.Errorf("creation %d, key %q, id %q: acknowledged as %s, but lost", c.serial, c.key, c.named, c.acked[0])
		return
	}
	h := made[0]
	if slices.ContainsFunc(c.acked, func(id flowfabric.ExecutionID) bool { return id != h.ExecutionID }) {
		a.t.Errorf("creation %d: acknowledged as %v, exists as %s", c.serial, c.acked, h.ExecutionID)
	}
	if c.named != "" && c.named != h.ExecutionID {
		a.t.Errorf("creation %d: %s exists, %s was asked for", c.serial, h.ExecutionID, c.named)
	}
}

// checkReport checks that what a worker was told is so.
func (a *auditor) checkReport(r Report) {
	a.t.Helper()
	if r.Execution == "" || r.Op == OpDying {
		return
	}
	h := a.all[r.Execution]
	if h == nil {
		a.t.Errorf("%s of %s, which does not exist", r.Op, r.Execution)
		return
	}
	wrong := func(format string, args ...any) {
		a.t.Helper()
		a.t.Errorf("%s (%s): %s of epoch %d by %s: %s", h.ExecutionID, h.PublicState, r.Op, r.Epoch, r.Instance, fmt.Sprintf(format, args...))
	}
	claim := h.claim(r.Epoch)
	if claim == nil || claim.LeaseID != r.Lease || claim.WorkerInstanceID != r.Instance {
		wrong("the lease %s is not in the feed: %+v", r.Lease, claim)
		return
	}
	if r.Code != "" {
		a.checkRefusal(h, r, wrong)
		return
	}
	attempt := h.attempt(r.Epoch)
	switch r.Op {
	case OpComplete:
		if h.result == nil || !bytes.Equal(h.result.Payload, r.Result) {
			wrong("acknowledged, but the result is %s", shown(h.result))
		}
	case OpFail:
		want := map[flowfabric.FailOutcome]string{flowfabric.FailTerminal: "failed_terminal", flowfabric.FailRetryScheduled: "failed_retry_scheduled"}
		if attempt == nil || attempt.AttemptState != flowfabric.AttemptEndedFailure || h.released[r.Epoch] != want[r.Outcome] {
			wrong("acknowledged as %s, but the attempt is %+v, released by %q", r.Outcome, attempt, h.released[r.Epoch])
		}
	case OpDelay:
		if h.released[r.Epoch] != "worker_delay" {
			wrong("acknowledged, but released by %q", h.released[r.Epoch])
		}
	case OpSuspend:
		if !r.Satisfied && h.released[r.Epoch] != "suspend" {
			wrong("acknowledged, but released by %q", h.released[r.Epoch])
		}
		if last := h.waits.suspension; last == nil || last.LeaseEpoch < r.Epoch || !r.Satisfied && last.LeaseEpoch == r.Epoch && last.SuspensionID != r.Suspension {
			wrong("suspension %s is acknowledged, the last one is %+v", r.Suspension, last)
		}
	}
}

// checkRefusal checks that only a lost lease is a reason to refuse, and that the
// repeat of a completion that counts is none.
func (a *auditor) checkRefusal(h *held, r Report, wrong func(string, ...any)) {
	a.t.Helper()
	if r.Code == a.journal.tolerated {
		return
	}
	if r.Op == OpComplete && h.released[r.Epoch] == "completed" {
		wrong("refused with %s, though it counts", r.Code)
	}
	if r.Op == OpSuspend && h.released[r.Epoch] == "suspend" {
		if r.Keyed {
			wrong("refused with %s, though it counts", r.Code)
		}
		if r.Code == flowfabric.CodeAlreadySuspended {
			return
		}
	}
	switch r.Code {
	case flowfabric.CodeStaleLease, flowfabric.CodeLeaseExpired, flowfabric.CodeLeaseRevoked, flowfabric.CodeExecutionNotActive:
	default:
		wrong("refused with %s", r.Code)
	}
}

// reconcile repairs all indexes and wants nothing to repair.
func (a *auditor) reconcile() {
	a.t.Helper()
	ctx := a.t.Context()
	job, err := a.backend.StartReconcile(ctx, nil)
	if err != nil {
		a.t.Error(err)
		return
	}
	eventually(a.t, patience, "the reconciliation has not ended", func() bool {
		job, err = a.backend.GetReconcile(ctx, job.JobID)
		return err != nil || job.State != "running"
	})
	if err != nil || job.State != "done" || job.Examined != len(a.all) || job.Repaired+job.Removed+len(job.Violations) > 0 {
		a.t.Errorf("reconciliation of %d executions: %+v, %v", len(a.all), job, err)
	}
}

// count counts reports.
func (j *journal) count(want func(Report) bool) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for _, r := range j.reports {
		if want(r) {
			n++
		}
	}
	return n
}

// accepted counts the acknowledged operations of a kind.
func (j *journal) accepted(op Op) int {
	return j.count(func(r Report) bool { return r.Op == op && r.Code == "" })
}

// summary tells what a journal holds.
func (a *auditor) summary() string {
	j := a.journal
	keyed, acked, tries, reclaims, replays := 0, 0, 0, 0, 0
	for _, c := range j.creations {
		if c.key != "" {
			keyed++
		}
		if len(c.acked) > 0 {
			acked++
		}
		tries += c.tries
	}
	states := make(map[flowfabric.PublicState]int)
	for _, h := range a.all {
		reclaims += int(h.LeaseReclaimCount)
		replays += int(h.ReplayCount)
		states[h.PublicState]++
	}
	refused := make(map[flowfabric.Code]int)
	for _, r := range j.reports {
		if r.Code != "" {
			refused[r.Code]++
		}
	}
	repeated := j.count(func(r Report) bool { return r.Replayed })
	return a.waitSummary() + fmt.Sprintf("%d executions %v; %d creations acknowledged (%d keyed) in %d tries; acknowledged: %d claims, %d renewals, "+
		"%d completions, %d failures, %d delays, %d cancels, %d replays (%d answers repeated); %d reclaims, refused %v",
		len(a.all), states, acked, keyed, tries, j.accepted(OpClaim), j.accepted(OpRenew), j.accepted(OpComplete),
		j.accepted(OpFail), j.accepted(OpDelay), len(j.cancelled), replays, repeated, reclaims, refused)
}

// misses are the codes of what a server may complain of while its store is out
// of reach, or full.
var misses = []flowfabric.Code{flowfabric.CodeStoreUnavailable, flowfabric.CodeStoreTimeout, flowfabric.CodeOutcomeUnknown,
	flowfabric.CodeDurabilityUnconfirmed, flowfabric.CodeStoreFull}

// missed reports that a line of the log tells of a duty that the store's absence
// kept from its work.
func missed(line string) bool {
	return strings.Contains(line, `"msg":"duty failed"`) && slices.ContainsFunc(misses, func(code flowfabric.Code) bool {
		return strings.Contains(line, ": "+string(code)+": ")
	})
}

// end ends the server in good order and wants no error in its log, except those
// that the test has brought about.
func (s *station) end() {
	s.t.Helper()
	s.child.signal(syscall.SIGTERM)
	s.child.ends(s.t, "the server")
	for _, line := range s.logs.lines(`"level":"ERROR"`, "panic", "indexes repaired") {
		if s.dir != "" || !missed(line) {
			s.t.Errorf("the server said: %s", strings.TrimSpace(line))
		}
	}
}

// close ends the server in good order and looks at what it leaves: no error in
// its log, a file in one piece, and in it the parts of the records that no route
// shows.
func (s *station) close(a *auditor) {
	s.t.Helper()
	s.end()
	path := filepath.Join(s.dir, "flowfabric.db")
	quickCheck(s.t, path)
	store, err := sqlite.Open(s.t.Context(), sqlite.Config{Path: path, NoEngine: true})
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	for _, c := range a.journal.creations {
		for _, h := range a.serials[serialText(c.serial)] {
			e, err := store.GetExecution(s.t.Context(), h.ExecutionID)
			if err != nil {
				s.t.Error(err)
				continue
			}
			if e.IdempotencyKey != c.key || e.TerminalSeq != uint64(len(h.endings)) || e.CurrentLeaseEpoch != uint64(len(h.claims)) {
				s.t.Errorf("%s: key %q, want %q; terminal_seq %d with %d endings; epoch %d after %d leases", e.ExecutionID,
					e.IdempotencyKey, c.key, e.TerminalSeq, len(h.endings), e.CurrentLeaseEpoch, len(h.claims))
			}
		}
	}
}

func quickCheck(t *testing.T, path string) {
	t.Helper()
	conn, err := zs.OpenConn(path, zs.OpenReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stmt, err := conn.Prepare("pragma quick_check")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stmt.Finalize() }()
	if _, err := stmt.Step(); err != nil || stmt.ColumnText(0) != "ok" {
		t.Errorf("the file: %q, %v", stmt.ColumnText(0), err)
	}
}
