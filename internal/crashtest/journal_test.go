package crashtest

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
)

// creation is one execution that a client wants, however often it asks.
type creation struct {
	serial int
	key    string                 // the idempotency key, if any
	named  flowfabric.ExecutionID // the identifier asked for, if any
	acked  []flowfabric.ExecutionID
	tries  int
	// refused counts the tries that certainly had no effect.
	refused int
}

// serialTag is the tag by which an execution tells its creation.
const serialTag = "crash.serial"

func serialText(serial int) string { return strconv.Itoa(serial) }

// journal keeps what was acknowledged.
type journal struct {
	t *testing.T
	// lossy says that the store may lose what it has acknowledged.
	lossy bool
	// tolerated is a refusal that the test brings about.
	tolerated flowfabric.Code

	mu        sync.Mutex
	creations []*creation
	reports   []Report
	cancelled map[flowfabric.ExecutionID]bool
	replayed  map[flowfabric.ExecutionID]bool
	failed    []flowfabric.ExecutionID // ended as failed, not replayed yet
	acks      int
	changed   chan struct{} // closed at the next acknowledgement or report

	// addresses are the waitpoints that workers have told of, for the sender.
	addresses  []address
	deliveries []*delivery
	resumed    map[flowfabric.ExecutionID]bool // perhaps by an operator
}

func newJournal(t *testing.T) *journal {
	return &journal{t: t, changed: make(chan struct{}),
		cancelled: make(map[flowfabric.ExecutionID]bool), replayed: make(map[flowfabric.ExecutionID]bool),
		resumed: make(map[flowfabric.ExecutionID]bool)}
}

// acked counts an acknowledgement. The caller holds the mutex.
func (j *journal) acked() {
	j.acks++
	j.tell()
}

// tell wakes those who wait for news. The caller holds the mutex.
func (j *journal) tell() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// progress returns how many acknowledgements there were, and what is closed at
// the next news.
func (j *journal) progress() (int, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.acks, j.changed
}

// await waits until the journal holds what is wanted, at most for a time, and
// reports whether it came.
func (j *journal) await(limit time.Duration, wanted func() bool) bool {
	late := time.After(limit)
	for {
		_, changed := j.progress()
		if wanted() {
			return true
		}
		select {
		case <-changed:
		case <-late:
			return false
		}
	}
}

// awaitAcks waits for a number of acknowledgements, at most for a time.
func (j *journal) awaitAcks(n int, limit time.Duration) {
	begun, _ := j.progress()
	j.await(limit, func() bool {
		now, _ := j.progress()
		return now >= begun+n
	})
}

// begin notes the wish for an execution.
func (j *journal) begin() *creation {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := &creation{serial: len(j.creations)}
	j.creations = append(j.creations, c)
	return c
}

// asked notes one try to create, and its outcome: an acknowledgement, or an
// error after which nothing is known. It reports whether it was acknowledged.
func (j *journal) asked(c *creation, r flowfabric.CreateExecutionResult, err error) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	c.tries++
	switch {
	case err == nil:
		c.acked = append(c.acked, r.ExecutionID)
		j.acked()
		if r.Outcome == flowfabric.OutcomeDuplicate && !r.SameSpec {
			j.t.Errorf("creation %d repeated: another specification", c.serial)
		}
		if r.Outcome == flowfabric.OutcomeDuplicate && c.key == "" && c.named == "" {
			j.t.Errorf("creation %d is a duplicate of nothing", c.serial)
		}
	case j.tolerates(err):
		c.refused++
	case !unanswered(err):
		j.t.Errorf("creation %d refused: %v", c.serial, err)
	}
	return err == nil
}

// tolerates reports that a refusal is one that the test brings about.
func (j *journal) tolerates(err error) bool {
	return j.tolerated != "" && flowfabric.CodeOf(err) == j.tolerated
}

// unanswered reports that the outcome of a failed call is unknown.
func unanswered(err error) bool {
	e := flowfabric.AsError(err)
	return e == nil || e.Class == flowfabric.ClassRetryableTransport
}

// report keeps what a worker said.
func (j *journal) report(r Report) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.reports = append(j.reports, r)
	for _, a := range r.Addresses {
		j.addresses = append(j.addresses, address{r.Execution, a.Waitpoint, a.Key, flowfabric.NewWaitpointToken(a.Token)})
	}
	j.tell()
	if r.Code != "" || r.Op == OpReady || r.Op == OpStopped {
		return
	}
	if r.Op == OpFail && r.Outcome == flowfabric.FailTerminal && !r.Replayed {
		j.failed = append(j.failed, r.Execution)
	}
	j.acked()
}

// takeFailed takes one execution that ended as failed, "" when there is none.
func (j *journal) takeFailed() flowfabric.ExecutionID {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := len(j.failed)
	if n == 0 {
		return ""
	}
	id := j.failed[n-1]
	j.failed = j.failed[:n-1]
	return id
}

// hasCancelled and hasReplayed note acknowledged operations of a client.
func (j *journal) hasCancelled(id flowfabric.ExecutionID) { j.note(j.cancelled, id) }
func (j *journal) hasReplayed(id flowfabric.ExecutionID)  { j.note(j.replayed, id) }

func (j *journal) note(in map[flowfabric.ExecutionID]bool, id flowfabric.ExecutionID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	in[id] = true
	j.acked()
}
