package valkey

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
)

// What a claim is answered with: tasks. One of an execution that was never claimed
// before tells only what the claim does not know itself. Large definitions are left
// out and read behind the claim: the library would have to hash every byte of them.

// A task has taskSize elements; the last one, the lane, is there only where the
// caller need not know it.
const taskSize = 21

// taskDef is the element of a task that holds the definition, nil where it is left
// out.
const taskDef = 19

// decodeTask reads a task as the claiming functions answer it. The lane is the one
// the caller claimed from, empty when the task names its own; doc is the definition
// if the task leaves it out.
func decodeTask(op string, part uint16, lane flowfabric.LaneID, msg *vk.ValkeyMessage, doc []byte) (flowfabric.ClaimedExecution, error) {
	var task flowfabric.ClaimedExecution
	list, err := elementsOf(op, msg, taskSize)
	if err != nil {
		return task, err
	}
	if !list[taskDef].IsNil() {
		doc = list.bytes(taskDef)
	}
	def, err := parseDef(op, doc)
	if err != nil {
		return task, err
	}
	d := decoder{op: op}
	if lane == "" {
		lane = flowfabric.LaneID(list.str(taskSize))
	}
	tier := d.uint32("fallback_index", list.str(12))
	task = flowfabric.ClaimedExecution{
		StoreTime: list.ms(0), ExecutionID: flowfabric.ExecutionID(partitionTag(part) + ":" + d.uuid("execution_id", list.str(1))),
		AttemptIndex: d.uint32("attempt_index", list.str(2)), AttemptID: flowfabric.AttemptID(list.str(3)),
		AttemptType: attemptType(&d, "attempt_type", list.str(4)), ClaimKind: claimKind(&d, "claim_kind", list.str(5)),
		Fence: flowfabric.Fence{LeaseID: flowfabric.LeaseID(list.str(6)), LeaseEpoch: d.uint("lease_epoch", list.str(7)),
			AttemptID: flowfabric.AttemptID(list.str(3))},
		LeaseExpiresAt: list.ms(8), AttemptTimeoutAt: list.ms(9), ExecutionDeadlineAt: list.ms(10),
		LeaseReclaimCount: d.uint32("lease_reclaim_count", list.str(11)),
		FlowID:            flowfabric.FlowID(list.str(13)), Namespace: flowfabric.Namespace(list.str(14)), LaneID: lane, Kind: def.kind,
		PolicySnapshot:   snapshot(def.policy, tier, lane, list.str(15), list.str(16)),
		WorkerInstanceID: flowfabric.WorkerInstanceID(list.str(17)),
		Payload:          def.payload, PayloadEncoding: def.encoding, Replayed: list.str(20) == "1",
	}
	if tags := list.str(18); tags != "" {
		if err := json.Unmarshal([]byte(tags), &task.Tags); err != nil {
			d.fail("tags", "%v", err)
		}
	}
	task.Tags = orNoTags(task.Tags)
	return task, d.err
}

// newTasks are the tasks that one claim on a partition may come to.
type newTasks struct {
	part     uint16
	lane     flowfabric.LaneID
	instance flowfabric.WorkerInstanceID
	ttlMs    int64
	ids      []taskIDs // of each, in order
	now      flowfabric.Millis
	list     elements // the answers, once they are there
	defs     elements // beside list, where they were left out
	lost     error    // why they could not be read
}

type taskIDs struct {
	lease   flowfabric.LeaseID
	attempt flowfabric.AttemptID
}

// parts are the elements of the i-th task: one text, or it and a definition, of a
// first claim; else taskSize and more.
func (t *newTasks) parts(i int) elements {
	if t.list[i].IsArray() {
		list, _ := t.list[i].ToArray()
		return list
	}
	return t.list[i : i+1]
}

// uuid is the execution of a task with these parts.
func (t *newTasks) uuid(parts elements) string {
	if len(parts) >= taskSize {
		return parts.str(1)
	}
	e, _, _ := strings.Cut(parts.str(0), "\n")
	return e
}

// leavesOut reports whether a task with these parts leaves its definition out.
func (t *newTasks) leavesOut(parts elements) bool {
	return len(parts) == 1 || len(parts) >= taskSize && parts[taskDef].IsNil()
}

// defsAtOnce is how many definitions one command asks for.
const defsAtOnce = 16

// readDefs reads the definitions that the tasks leave out. Tasks whose definitions
// cannot be read are lost like those of a lost answer: their leases run out.
func (s *Store) readDefs(ctx context.Context, all []*newTasks) {
	type place struct {
		tasks *newTasks
		list  []int
	}
	var places []place
	var cmds []vk.Completed
	for _, t := range all {
		var left []int
		for i := range t.list {
			if t.leavesOut(t.parts(i)) {
				left = append(left, i)
			}
		}
		if len(left) > 0 {
			t.defs = make(elements, len(t.list))
		}
		for some := range slices.Chunk(left, defsAtOnce) {
			keys := make([]string, len(some))
			for k, i := range some {
				keys[k] = "ff:exec:" + s.tag(t.part) + ":" + t.uuid(t.parts(i)) + ":def"
			}
			cmds = append(cmds, s.b.Mget().Key(keys...).Build())
			places = append(places, place{t, some})
		}
	}
	if len(cmds) == 0 {
		return
	}
	// Who gave up on the claim meanwhile has made it all the same.
	for n, got := range s.plain(context.WithoutCancel(ctx), cmds...) {
		t := places[n].tasks
		values, err := got.msg.ToArray()
		switch {
		case got.err != nil:
			t.lost = got.err
		case err != nil || len(values) != len(places[n].list):
			t.lost = badAnswer("ff_claim_next")
		}
		if t.lost != nil {
			continue
		}
		for k, i := range places[n].list {
			t.defs[i] = values[k]
		}
	}
}

// task reads the i-th task, which has these parts and is one of a first claim.
func (t *newTasks) task(op string, i int, parts elements) (flowfabric.ClaimedExecution, error) {
	text, doc := parts.str(0), t.defs.bytes(i)
	if len(parts) > 1 {
		doc = parts.bytes(1)
	}
	var line [firstTaskLines]string
	for k := range line {
		var more bool
		if line[k], text, more = strings.Cut(text, "\n"); more != (k+1 < firstTaskLines) {
			return flowfabric.ClaimedExecution{}, badAnswer(op)
		}
	}
	if i >= len(t.ids) {
		return flowfabric.ClaimedExecution{}, badAnswer(op)
	}
	def, err := parseDef(op, doc)
	if err != nil {
		return flowfabric.ClaimedExecution{}, err
	}
	d := decoder{op: op}
	ids := t.ids[i]
	return flowfabric.ClaimedExecution{
		StoreTime: t.now, ExecutionID: flowfabric.ExecutionID(partitionTag(t.part) + ":" + line[0]),
		AttemptID: ids.attempt, AttemptType: flowfabric.AttemptTypeInitial, ClaimKind: flowfabric.ClaimNew,
		Fence:          flowfabric.Fence{LeaseID: ids.lease, LeaseEpoch: 1, AttemptID: ids.attempt},
		LeaseExpiresAt: t.now + flowfabric.Millis(t.ttlMs), AttemptTimeoutAt: d.optionalMs("attempt_timeout_at", line[1]),
		ExecutionDeadlineAt: d.optionalMs("execution_deadline_at", line[2]), FlowID: flowfabric.FlowID(line[3]),
		Namespace: flowfabric.Namespace(line[4]), LaneID: t.lane, Kind: def.kind, PolicySnapshot: snapshot(def.policy, 0, t.lane, "", ""),
		WorkerInstanceID: t.instance, Payload: def.payload, PayloadEncoding: def.encoding, Tags: orNoTags(nil),
	}, d.err
}

// firstTaskLines is how many lines the task of a first claim has: e, attempt
// timeout, deadline, flow and namespace.
const firstTaskLines = 5

// receive takes the i-th task of a claim. One that does not decode nobody could run:
// its lease is revoked and held for an operator.
func (s *Store) receive(ctx context.Context, op string, t *newTasks, i int) (task flowfabric.ClaimedExecution, err error) {
	parts := t.parts(i)
	if t.lost != nil && t.leavesOut(parts) {
		return task, t.lost
	}
	lease := ""
	if len(parts) >= taskSize {
		lease = parts.str(6)
		task, err = decodeTask(op, t.part, t.lane, &t.list[i], t.defs.bytes(i))
	} else if task, err = t.task(op, i, parts); i < len(t.ids) {
		lease = string(t.ids[i].lease)
	}
	if err != nil {
		if e := t.uuid(parts); e != "" && lease != "" {
			s.hold(ctx, t.part, e, lease, err)
		}
		return flowfabric.ClaimedExecution{}, err
	}
	if task.ClaimKind == flowfabric.ClaimReclaim && task.LeaseReclaimCount%reclaimWarning == 0 {
		s.log.WarnContext(ctx, "an execution has been reclaimed many times", "execution_id", task.ExecutionID,
			"execution_kind", task.Kind, "lane_id", task.LaneID, "lease_reclaim_count", task.LeaseReclaimCount)
	}
	return task, nil
}

// reclaimWarning is at every how many reclaims of an execution a warning is
// logged. (Specification 02, section 5.5.)
const reclaimWarning = 100

// hold takes the lease of a task that does not decode away again.
func (s *Store) hold(ctx context.Context, part uint16, e, lease string, cause error) {
	id := flowfabric.ExecutionID(s.tag(part) + ":" + e)
	s.log.ErrorContext(ctx, "a claimed execution does not decode; it is held", "execution_id", id, "error", cause)
	_, err := s.RevokeLease(context.WithoutCancel(ctx), flowfabric.RevokeLeaseArgs{ExecutionID: id,
		ExpectedLeaseID: flowfabric.LeaseID(lease), Reason: string(flowfabric.CodeCorruptRecord), RevokedBy: "backend", Hold: true})
	if err != nil {
		s.log.WarnContext(ctx, "its lease is left to expire", "execution_id", id, "error", err)
	}
}
