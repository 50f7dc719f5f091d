package sqlstore

import (
	"encoding/binary"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// The tags of a suspension's record.
const (
	sID byte = iota + 1
	sAttemptID
	sAttemptIndex
	sLeaseID
	sLeaseEpoch
	sWaitpoints
	sReason
	sRequestedBy
	sCreatedAt
	sTimeoutAt
	sBehavior
	sCondition
	sResumeDelay
	sKeepWaitpoints
	sKeepSignals
	sContinuation
	sTimeoutRemaining
	sSignalCount
	sMatchedCount
	sLastSignalAt
	sEscalatedAt
	sSatisfiedAt
	sClosedAt
	sCloseReason
	sCloser
	sSatisfiers
	sNodes
)

func encodeSuspension(x *rules.Suspension) []byte {
	e := encoder{make([]byte, 0, 512)}
	e.str(sID, string(x.SuspensionID))
	e.str(sAttemptID, string(x.AttemptID))
	e.uint(sAttemptIndex, uint64(x.AttemptIndex))
	e.str(sLeaseID, string(x.LeaseID))
	e.uint(sLeaseEpoch, x.LeaseEpoch)
	refs := make([]string, 0, 2*len(x.Waitpoints))
	for _, w := range x.Waitpoints {
		refs = append(refs, string(w.WaitpointID), w.WaitpointKey)
	}
	e.strs(sWaitpoints, refs)
	e.str(sReason, string(x.ReasonCode))
	e.str(sRequestedBy, string(x.RequestedBy))
	e.ms(sCreatedAt, x.CreatedAt)
	e.ms(sTimeoutAt, x.TimeoutAt)
	e.str(sBehavior, string(x.TimeoutBehavior))
	e.nested(sCondition, x.ResumeCondition.JSON())
	p := &x.ResumePolicy
	e.uint(sResumeDelay, uint64(p.ResumeDelayMs))
	e.flag(sKeepWaitpoints, p.CloseWaitpointOnResume != nil && !*p.CloseWaitpointOnResume)
	e.flag(sKeepSignals, p.ConsumeMatchedSignals != nil && !*p.ConsumeMatchedSignals)
	e.str(sContinuation, x.ContinuationMetadataPointer)
	if x.AttemptTimeoutRemainingMs != nil {
		e.b = append(e.b, sTimeoutRemaining)
		e.b = binary.AppendVarint(e.b, *x.AttemptTimeoutRemainingMs)
	}
	e.uint(sSignalCount, x.SignalCount)
	e.uint(sMatchedCount, x.MatchedSignalCount)
	e.ms(sLastSignalAt, x.LastSignalAt)
	e.ms(sEscalatedAt, x.EscalatedAt)
	e.ms(sSatisfiedAt, x.SatisfiedAt)
	e.ms(sClosedAt, x.ClosedAt)
	e.str(sCloseReason, string(x.CloseReason))
	e.str(sCloser, string(x.CloserSignalID))
	e.strs(sSatisfiers, textsOf(x.SatisfierSignalIDs))
	e.nodes(sNodes, x.Nodes)
	return e.b
}

// encodeSatisfiers makes a block of a suspension's satisfiers.
func encodeSatisfiers(x *rules.Suspension) []byte {
	e := encoder{make([]byte, 0, 4096)}
	e.strs(sSatisfiers, textsOf(x.SatisfierSignalIDs))
	e.nodes(sNodes, x.Nodes)
	return e.b
}

// decodeSatisfiers adds the satisfiers of a block to a suspension.
func decodeSatisfiers(op string, rec []byte, x *rules.Suspension) error {
	d := decoder{b: rec, op: op}
	block := &rules.Suspension{}
	for tag, ok := d.next(); ok; tag, ok = d.next() {
		if tag != sSatisfiers && tag != sNodes {
			d.fail("satisfiers", "unknown field %d", tag)
			break
		}
		d.suspensionProgress(tag, block)
	}
	if d.err == nil && len(block.Nodes) != len(x.Nodes) {
		d.fail("node_state", "does not fit the condition")
	}
	if d.err != nil {
		return d.err
	}
	x.SatisfierSignalIDs = append(x.SatisfierSignalIDs, block.SatisfierSignalIDs...)
	for i, set := range block.Nodes {
		x.Nodes[i] = append(x.Nodes[i], set...)
	}
	return nil
}

// nodes stores the satisfiers of each node; a node without any is a zero.
func (e *encoder) nodes(tag byte, nodes [][]string) {
	if len(nodes) == 0 {
		return
	}
	e.b = append(e.b, tag)
	e.b = appendUvarint(e.b, uint64(len(nodes)))
	for _, set := range nodes {
		e.b = appendUvarint(e.b, uint64(len(set)))
		for _, v := range set {
			e.rawString(v)
		}
	}
}

func (d *decoder) nodes(field string) [][]string {
	n := d.uint(field)
	if n > uint64(len(d.b)) {
		d.fail(field, "truncated list")
		return nil
	}
	nodes := make([][]string, n)
	for i := range nodes {
		if set := d.strs(field); len(set) > 0 {
			nodes[i] = set
		}
	}
	return nodes
}

// decodeSuspension restores the suspension of an execution. Whatever names a
// malformed identifier is corrupt. (Specification 03, section 4.9.)
func decodeSuspension(op string, id flowfabric.ExecutionID, rec []byte) (*rules.Suspension, error) {
	d := decoder{b: rec, op: op}
	x := &rules.Suspension{}
	x.ExecutionID, x.Waitpoints = id, []flowfabric.WaitpointRef{}
	closes, consumes := true, true
	x.ResumePolicy = flowfabric.ResumePolicy{ResumeTarget: flowfabric.ResumeTargetRunnable, CloseWaitpointOnResume: &closes, ConsumeMatchedSignals: &consumes}
	for tag, ok := d.next(); ok; tag, ok = d.next() {
		switch tag {
		case sID:
			x.SuspensionID = flowfabric.SuspensionID(d.uuid("suspension_id"))
		case sAttemptID:
			x.AttemptID = flowfabric.AttemptID(d.uuid("suspension.attempt_id"))
		case sAttemptIndex:
			x.AttemptIndex = d.uint32("suspension.attempt_index")
		case sLeaseID:
			x.LeaseID = flowfabric.LeaseID(d.str("suspension.lease_id"))
		case sLeaseEpoch:
			x.LeaseEpoch = d.uint("suspension.lease_epoch")
		case sWaitpoints:
			x.Waitpoints = d.refs("suspension.waitpoints")
		case sReason:
			x.ReasonCode = flowfabric.SuspendReason(d.str("reason_code"))
		case sRequestedBy:
			x.RequestedBy = flowfabric.SuspendRequester(d.str("requested_by"))
		case sCreatedAt:
			x.CreatedAt = d.ms("suspension.created_at")
		case sTimeoutAt:
			x.TimeoutAt = d.ms("timeout_at")
		case sBehavior:
			x.TimeoutBehavior = flowfabric.TimeoutBehavior(d.str("timeout_behavior"))
		case sCondition:
			x.ResumeCondition = d.condition("resume_condition")
		case sResumeDelay:
			x.ResumePolicy.ResumeDelayMs = int64(d.ms("resume_delay_ms"))
		case sKeepWaitpoints:
			closes = !d.flag("close_waitpoint_on_resume")
		case sKeepSignals:
			consumes = !d.flag("consume_matched_signals")
		case sContinuation:
			x.ContinuationMetadataPointer = d.str("continuation_metadata_pointer")
		case sTimeoutRemaining:
			v := d.int("attempt_timeout_remaining_ms")
			x.AttemptTimeoutRemainingMs = &v
		default:
			d.suspensionProgress(tag, x)
		}
	}
	if d.err != nil {
		return nil, d.err
	}
	switch {
	case x.SuspensionID == "":
		return nil, corrupt(op, "suspension_id", "missing")
	case x.CreatedAt == 0:
		return nil, corrupt(op, "suspension.created_at", "missing")
	case x.ResumeCondition.Kind == "":
		return nil, corrupt(op, "resume_condition", "missing")
	case len(x.Nodes) != leaves(&x.ResumeCondition):
		return nil, corrupt(op, "node_state", "does not fit the condition")
	}
	return x, nil
}

// leaves counts the nodes of a condition that have satisfiers of their own.
func leaves(c *flowfabric.ResumeCondition) (n int) {
	c.Walk(func(node *flowfabric.ResumeCondition, _ string) {
		if node.Kind == flowfabric.ConditionSingle || node.Kind == flowfabric.ConditionCount {
			n++
		}
	})
	return n
}

// suspensionProgress reads the fields that signals and the end of the wait
// change.
func (d *decoder) suspensionProgress(tag byte, x *rules.Suspension) {
	switch tag {
	case sSignalCount:
		x.SignalCount = d.uint("signal_count")
	case sMatchedCount:
		x.MatchedSignalCount = d.uint("matched_signal_count")
	case sLastSignalAt:
		x.LastSignalAt = d.ms("last_signal_at")
	case sEscalatedAt:
		x.EscalatedAt = d.ms("escalated_at")
	case sSatisfiedAt:
		x.SatisfiedAt = d.ms("satisfied_at")
	case sClosedAt:
		x.ClosedAt = d.ms("closed_at")
	case sCloseReason:
		x.CloseReason = flowfabric.SuspensionCloseReason(d.str("close_reason"))
	case sCloser:
		x.CloserSignalID = flowfabric.SignalID(d.uuid("closer_signal_id"))
	case sSatisfiers:
		x.SatisfierSignalIDs = idsOf[flowfabric.SignalID](d, "satisfier_signal_ids")
	case sNodes:
		x.Nodes = d.nodes("node_state")
	default:
		d.fail("suspension", "unknown field %d", tag)
	}
}

// uuid reads an identifier that must be a UUID.
func (d *decoder) uuid(field string) string {
	v := d.str(field)
	if _, ok := parseUUID(v); !ok {
		d.fail(field, "no UUID")
		return ""
	}
	return v
}

func (d *decoder) int(field string) int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail(field, "malformed number")
		d.b = nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) condition(field string) flowfabric.ResumeCondition {
	c, err := flowfabric.ParseResumeCondition(d.nested(field))
	if err != nil && d.err == nil {
		d.fail(field, "%v", err)
	}
	return c
}

func (d *decoder) refs(field string) []flowfabric.WaitpointRef {
	flat := d.strs(field)
	if len(flat)%2 != 0 {
		d.fail(field, "an id without a key")
		return nil
	}
	refs := make([]flowfabric.WaitpointRef, 0, len(flat)/2)
	for i := 0; i < len(flat); i += 2 {
		if _, ok := parseUUID(flat[i]); !ok {
			d.fail(field, "no UUID")
		}
		refs = append(refs, flowfabric.WaitpointRef{WaitpointID: flowfabric.WaitpointID(flat[i]), WaitpointKey: flat[i+1]})
	}
	return refs
}

// idsOf reads a list of identifiers that must be UUIDs.
func idsOf[T ~string](d *decoder, field string) []T {
	list := d.strs(field)
	ids := make([]T, len(list))
	for i, v := range list {
		if _, ok := parseUUID(v); !ok {
			d.fail(field, "no UUID")
		}
		ids[i] = T(v)
	}
	return ids
}

func textsOf[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return out
}

// The tags of a stored answer to a suspend.
const (
	rOutcome byte = iota + 1
	rSuspension
	rWaitpoints
	rSignals
)

// encodeReplay keeps an answer for its repetition. The signals of one that was
// already satisfied are in the store anyway: their identifiers suffice.
func encodeReplay(res *flowfabric.SuspendResult) []byte {
	e := encoder{make([]byte, 0, 256)}
	e.str(rOutcome, string(res.Outcome))
	e.str(rSuspension, string(res.SuspensionID))
	flat := make([]string, 0, 3*len(res.Waitpoints))
	for _, w := range res.Waitpoints {
		flat = append(flat, string(w.WaitpointID), w.WaitpointKey, w.Token.Reveal())
	}
	e.strs(rWaitpoints, flat)
	ids := make([]string, len(res.Signals))
	for i := range res.Signals {
		ids[i] = string(res.Signals[i].SignalID)
	}
	e.strs(rSignals, ids)
	return e.b
}

func decodeReplay(rec []byte) (res flowfabric.SuspendResult, signals []flowfabric.SignalID, err error) {
	d := decoder{b: rec, op: "suspend"}
	res.Replayed = true
	for tag, ok := d.next(); ok; tag, ok = d.next() {
		switch tag {
		case rOutcome:
			res.Outcome = flowfabric.SuspendOutcome(d.str("replay.outcome"))
		case rSuspension:
			res.SuspensionID = flowfabric.SuspensionID(d.uuid("replay.suspension_id"))
		case rWaitpoints:
			res.Waitpoints = d.bound("replay.waitpoints")
		case rSignals:
			signals = idsOf[flowfabric.SignalID](&d, "replay.signals")
		default:
			d.fail("replay", "unknown field %d", tag)
		}
	}
	if d.err == nil && (res.Outcome == "" || res.SuspensionID == "") {
		d.fail("replay", "incomplete")
	}
	return res, signals, d.err
}

func (d *decoder) bound(field string) []flowfabric.BoundWaitpoint {
	flat := d.strs(field)
	if len(flat)%3 != 0 {
		d.fail(field, "incomplete")
		return nil
	}
	list := make([]flowfabric.BoundWaitpoint, 0, len(flat)/3)
	for i := 0; i < len(flat); i += 3 {
		list = append(list, flowfabric.BoundWaitpoint{WaitpointID: flowfabric.WaitpointID(flat[i]), WaitpointKey: flat[i+1],
			Token: flowfabric.NewWaitpointToken(flat[i+2])})
	}
	return list
}
