package valkey

import (
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

const (
	fnComplete     = "ff_complete_execution"
	completeStride = 8
)

// change calls a function that changes one execution; its answer has at least n
// elements.
func (s *Store) change(ctx context.Context, fn string, n int, id flowfabric.ExecutionID, args ...string) (elements, error) {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return nil, err
	}
	all := make([]string, 0, 1+len(args))
	msg, err := s.call(ctx, fn, tagOf(id), append(append(all, uuidOf(id)), args...)...)
	if err != nil {
		return nil, known(err, id)
	}
	return elementsOf(fn, &msg, n)
}

// known names the execution in a refusal that cannot: the one that is not there.
func known(err error, id flowfabric.ExecutionID) error {
	e, ok := err.(*flowfabric.Error)
	if !ok || e.Code != flowfabric.CodeExecutionNotFound {
		return err
	}
	missing := notFound(id)
	missing.Op = e.Op
	return missing
}

// mark is a flag as the functions take it.
func mark(on bool) string {
	if on {
		return "1"
	}
	return ""
}

// optional is a number as the functions take it, where 0 means absent.
func optional(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// appendFence adds the execution and the four parts of the fence, empty ones where
// there is none.
func appendFence(args []string, id flowfabric.ExecutionID, f *flowfabric.Fence) []string {
	epoch, index := "", ""
	if f.LeaseEpoch != 0 {
		epoch = strconv.FormatUint(f.LeaseEpoch, 10)
	}
	if f.AttemptIndex != nil {
		index = strconv.FormatUint(uint64(*f.AttemptIndex), 10)
	}
	return append(args, uuidOf(id), string(f.LeaseID), epoch, string(f.AttemptID), index)
}

// fenced calls change with the fence before the other arguments.
func (s *Store) fenced(ctx context.Context, fn string, n int, id flowfabric.ExecutionID, f *flowfabric.Fence, args ...string) (elements, error) {
	all := appendFence(make([]string, 0, 5+len(args)), id, f)
	return s.change(ctx, fn, n, id, append(all, args...)[1:]...)
}

// sourceLetter is a source as the functions take it.
func sourceLetter(src flowfabric.Source) string {
	switch src {
	case flowfabric.SourceOperatorOverride:
		return "o"
	case flowfabric.SourceFlowCascade:
		return "f"
	case flowfabric.SourceSystemTimeout:
		return "s"
	}
	return "l"
}

// cleanReason cuts a reason and replaces what is not UTF-8, as every store does.
func cleanReason(s string) string {
	return rules.Cut(strings.ToValidUTF8(s, "\uFFFD"), flowfabric.MaxReasonBytes)
}

// draw is a random number in [0, 1) for a jitter.
func draw() string { return strconv.FormatFloat(rand.Float64(), 'f', 9, 64) }

// CompleteExecutions ends a batch, each item on its own.
func (s *Store) CompleteExecutions(ctx context.Context, items []flowfabric.CompleteExecutionArgs) ([]flowfabric.Item[flowfabric.CompleteExecutionResult], error) {
	if err := checkBatch(len(items)); err != nil {
		return nil, err
	}
	out := make([]flowfabric.Item[flowfabric.CompleteExecutionResult], len(items))
	t := newTicket(len(items), completeStride)
	for i := range items {
		a := &items[i]
		if out[i].Err = s.checkItem(a.ExecutionID, rules.ValidateComplete(*a)); out[i].Err != nil {
			continue
		}
		t.args = append(appendFence(t.args, a.ExecutionID, &a.Fence), sourceLetter(a.Source), mark(a.Result != nil), resultText(a))
		t.add(i, a.ExecutionID.Partition())
	}
	if err := s.batches.completions.do(ctx, t); err != nil {
		return nil, err
	}
	ended := make([]flowfabric.ExecutionID, 0, len(t.items))
	for k := range t.items {
		it := &t.items[k]
		o, id := &out[it.index], items[it.index].ExecutionID
		if o.Err = s.completed(it, id, &o.Result); o.Err == nil && !o.Result.Replayed {
			ended = append(ended, id)
		}
	}
	if len(ended) > 0 {
		s.settled(ended...)
	}
	return out, nil
}

// resultText is a result as it is stored: its encoding, a line feed, its bytes.
func resultText(a *flowfabric.CompleteExecutionArgs) string {
	if a.Result == nil {
		return ""
	}
	encoding := a.ResultEncoding
	if encoding == "" {
		encoding = "json"
	}
	var b strings.Builder
	b.Grow(len(encoding) + 1 + len(a.Result))
	b.WriteString(encoding)
	b.WriteByte('\n')
	b.Write(a.Result)
	return b.String()
}

// completed reads the answer to one completion: "ok", "replayed" or a refusal.
func (s *Store) completed(it *batchItem, id flowfabric.ExecutionID, res *flowfabric.CompleteExecutionResult) error {
	if it.err != nil {
		return it.err
	}
	if refused, ok := itemRefused(operation(fnComplete), s.tag(it.part), it.answer); ok {
		return known(refused, id)
	}
	switch it.answer {
	case "ok":
		*res = flowfabric.CompleteExecutionResult{PublicState: flowfabric.PublicCompleted}
	case "replayed":
		*res = flowfabric.CompleteExecutionResult{PublicState: flowfabric.PublicCompleted, Replayed: true}
	default:
		return badAnswer(fnComplete)
	}
	return nil
}

// FailExecution ends an attempt with a failure.
func (s *Store) FailExecution(ctx context.Context, a flowfabric.FailExecutionArgs) (res flowfabric.FailExecutionResult, err error) {
	const fn = "ff_fail_execution"
	if err := rules.ValidateFail(a); err != nil {
		return res, err
	}
	category := a.Category
	if category == "" {
		category = "transient"
	}
	list, err := s.fenced(ctx, fn, 5, a.ExecutionID, &a.Fence, sourceLetter(a.Source), cleanReason(a.Reason), category, draw())
	if err != nil {
		return res, err
	}
	res.Replayed = list.str(4) == "1"
	switch list.str(0) {
	case "t":
		res.Outcome = flowfabric.FailTerminal
		if !res.Replayed {
			s.settled(a.ExecutionID)
		}
		return res, nil
	case "r":
		d := decoder{op: operation(fn)}
		res.Outcome, res.DelayUntil = flowfabric.FailRetryScheduled, list.ms(1)
		res.NextAttemptIndex = d.uint32("next_attempt_index", list.str(2))
		res.AttemptType = attemptType(&d, "attempt_type", list.str(3))
		if !res.Replayed {
			s.leasesChanged()
			s.offered(a.ExecutionID, list.str(5))
		}
		return res, d.err
	}
	return res, badAnswer(fn)
}

// CancelExecution ends an execution as cancelled.
func (s *Store) CancelExecution(ctx context.Context, a flowfabric.CancelExecutionArgs) (res flowfabric.CancelExecutionResult, err error) {
	const fn = "ff_cancel_execution"
	if err := rules.ValidateCancel(a); err != nil {
		return res, err
	}
	source, fence := sourceLetter(a.Source), a.Fence
	if source != "l" {
		fence = flowfabric.Fence{}
	}
	list, err := s.fenced(ctx, fn, 6, a.ExecutionID, &fence, source, cleanReason(a.Reason), a.RequestedBy)
	if err != nil {
		return res, err
	}
	res.PublicState = flowfabric.PublicState(list.str(2))
	switch list.str(0) {
	case "c":
		res.Outcome, res.PreviousPhase, res.Replayed = flowfabric.CancelCancelled, flowfabric.LifecyclePhase(list.str(1)), list.str(3) == "1"
		if !res.Replayed {
			s.settled(a.ExecutionID)
		}
		return res, nil
	case "a":
		res.Outcome, res.CancellationReason, res.CancelledBy = flowfabric.CancelAlreadyCancelled, list.str(4), list.str(5)
		return res, nil
	}
	return res, badAnswer(fn)
}

// DelayExecution pauses an attempt until later.
func (s *Store) DelayExecution(ctx context.Context, a flowfabric.DelayExecutionArgs) (res flowfabric.DelayExecutionResult, err error) {
	if err := rules.ValidateDelay(a); err != nil {
		return res, err
	}
	ms := ""
	if a.DelayMs != nil {
		ms = strconv.FormatInt(*a.DelayMs, 10)
	}
	list, err := s.fenced(ctx, "ff_delay_execution", 3, a.ExecutionID, &a.Fence, sourceLetter(a.Source), optional(int64(a.DelayUntil)), ms)
	if err != nil {
		return res, err
	}
	s.leasesChanged()
	return flowfabric.DelayExecutionResult{DelayUntil: list.ms(0), PublicState: flowfabric.PublicState(list.str(1)), Replayed: list.str(2) == "1"}, nil
}

// ReplayExecution runs an ended execution again.
func (s *Store) ReplayExecution(ctx context.Context, a flowfabric.ReplayExecutionArgs) (res flowfabric.ReplayExecutionResult, err error) {
	const fn = "ff_replay_execution"
	if err := rules.ValidateReplay(a); err != nil {
		return res, err
	}
	expected := ""
	if a.ExpectedReplayCount != nil {
		expected = strconv.FormatUint(uint64(*a.ExpectedReplayCount), 10)
	}
	list, err := s.change(ctx, fn, 3, a.ExecutionID, cleanReason(a.Reason), a.RequestedBy, expected)
	if err != nil {
		return res, err
	}
	s.offered(a.ExecutionID, list.str(3))
	d := decoder{op: operation(fn)}
	count := d.uint32("replay_count", list.str(1))
	return flowfabric.ReplayExecutionResult{PublicState: flowfabric.PublicState(list.str(0)), ReplayCount: count, Replayed: list.str(2) == "1"}, d.err
}

// ChangePriority re-orders a waiting execution.
func (s *Store) ChangePriority(ctx context.Context, a flowfabric.ChangePriorityArgs) (res flowfabric.ChangePriorityResult, err error) {
	priority := min(max(a.Priority, 0), flowfabric.MaxPriority)
	list, err := s.change(ctx, "ff_change_priority", 2, a.ExecutionID, strconv.FormatInt(int64(priority), 10))
	if err != nil {
		return res, err
	}
	s.offered(a.ExecutionID, list.str(2))
	return flowfabric.ChangePriorityResult{OldPriority: int32(list.int(0)), NewPriority: int32(list.int(1))}, nil
}

// UpdateProgress overwrites the progress of a running attempt.
func (s *Store) UpdateProgress(ctx context.Context, a flowfabric.UpdateProgressArgs) error {
	if err := rules.ValidateUpdateProgress(a); err != nil {
		return err
	}
	pct, message := "", ""
	if a.Pct != nil {
		pct = strconv.FormatInt(int64(*a.Pct), 10)
	}
	if a.Message != nil {
		message = *a.Message
	}
	_, err := s.fenced(ctx, "ff_update_progress", 0, a.ExecutionID, &a.Fence, pct, mark(a.Message != nil), message)
	return err
}

// PauseExecution blocks a waiting execution until an operator unblocks it.
func (s *Store) PauseExecution(ctx context.Context, a flowfabric.BlockExecutionArgs) (res flowfabric.BlockExecutionResult, err error) {
	if err := rules.ValidatePause(a); err != nil {
		return res, err
	}
	list, err := s.change(ctx, "ff_pause_execution", 1, a.ExecutionID, a.Detail)
	if err != nil {
		return res, err
	}
	return flowfabric.BlockExecutionResult{PublicState: flowfabric.PublicState(list.str(0))}, nil
}

// UnpauseExecution undoes PauseExecution.
func (s *Store) UnpauseExecution(ctx context.Context, a flowfabric.BlockExecutionArgs) (res flowfabric.BlockExecutionResult, err error) {
	list, err := s.change(ctx, "ff_unpause_execution", 1, a.ExecutionID)
	if err != nil {
		return res, err
	}
	s.offered(a.ExecutionID, list.str(1))
	return flowfabric.BlockExecutionResult{PublicState: flowfabric.PublicState(list.str(0))}, nil
}

// SetExecutionTags upserts tags: the whole map or nothing.
func (s *Store) SetExecutionTags(ctx context.Context, id flowfabric.ExecutionID, tags map[string]string) (int, error) {
	if err := rules.ValidateSetTags(tags); err != nil {
		return 0, err
	}
	args := make([]string, 0, 2*len(tags))
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		args = append(args, k, tags[k])
	}
	if _, err := s.change(ctx, "ff_set_execution_tags", 1, id, args...); err != nil {
		return 0, err
	}
	return len(tags), nil
}

// RemoveExecutionTag removes one tag and reports whether it was there.
func (s *Store) RemoveExecutionTag(ctx context.Context, id flowfabric.ExecutionID, key string) (bool, error) {
	if err := rules.ValidateTagKey(key); err != nil {
		return false, err
	}
	list, err := s.change(ctx, "ff_remove_execution_tag", 1, id, key)
	if err != nil {
		return false, err
	}
	return list.str(0) == "1", nil
}

// tagsText is a map of tags as the functions take it.
func tagsText(tags map[string]string) (string, error) {
	if len(tags) == 0 {
		return "", nil
	}
	doc, err := json.Marshal(tags)
	return string(doc), err
}

// PromoteDelayed makes a delayed execution eligible when its time has come.
func (s *Store) PromoteDelayed(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.UpkeepOutcome, error) {
	return s.duty(ctx, "ff_promote_delayed", id)
}

// ExpireExecution acts on a passed attempt timeout or execution deadline.
func (s *Store) ExpireExecution(ctx context.Context, id flowfabric.ExecutionID, reason flowfabric.ExpireReason) (flowfabric.UpkeepOutcome, error) {
	out, err := s.duty(ctx, "ff_expire_execution", id, string(reason), draw())
	switch out {
	case flowfabric.UpkeepExpired:
		s.settled(id)
	case flowfabric.UpkeepRetryScheduled:
		s.leasesChanged()
	}
	return out, err
}

// Purge deletes an ended execution whose retention has passed, whole.
func (s *Store) Purge(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.UpkeepOutcome, error) {
	return s.duty(ctx, "ff_purge_execution", id)
}

// duty runs one duty on one execution. One that is not there is clean.
func (s *Store) duty(ctx context.Context, fn string, id flowfabric.ExecutionID, args ...string) (flowfabric.UpkeepOutcome, error) {
	list, err := s.change(ctx, fn, 1, id, args...)
	if flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotFound {
		return flowfabric.UpkeepCleaned, nil
	}
	if err != nil {
		return "", err
	}
	s.offered(id, list.str(1))
	return flowfabric.UpkeepOutcome(list.str(0)), nil
}
