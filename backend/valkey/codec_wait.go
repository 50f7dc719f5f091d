package valkey

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// duplicateLetter is the effect of a repeated delivery, in events only.
const duplicateLetter = "x"

// effectOf is the effect that a letter stands for; lua/condition.lua has the list.
func effectOf(d *decoder, letter string) flowfabric.SignalEffect {
	switch letter {
	case "r":
		return flowfabric.EffectResumed
	case "a":
		return flowfabric.EffectAppended
	case "d":
		return flowfabric.EffectRepeated
	case "m":
		return flowfabric.EffectMatcherFailed
	case "n":
		return flowfabric.EffectNotInCondition
	case "b":
		return flowfabric.EffectBuffered
	case "o":
		return flowfabric.EffectNoOp
	case "v":
		return flowfabric.EffectNeverActivated
	}
	d.fail("effect", "%q is none", rules.Cut(letter, 20))
	return ""
}

func waitpointState(d *decoder, letter string) flowfabric.WaitpointState {
	switch letter {
	case "p":
		return flowfabric.WaitpointPending
	case "a":
		return flowfabric.WaitpointActive
	case "s":
		return flowfabric.WaitpointSatisfied
	case "c":
		return flowfabric.WaitpointClosed
	case "e":
		return flowfabric.WaitpointExpired
	}
	d.fail("waitpoint.state", "%q is none", rules.Cut(letter, 20))
	return ""
}

// stored reads a condition as it is stored: "=" and the name of the one signal that
// the only waitpoint waits for, else JSON.
func (d *decoder) stored(text string, at []flowfabric.WaitpointRef) flowfabric.ResumeCondition {
	if name, short := strings.CutPrefix(text, "="); short && len(at) == 1 {
		return flowfabric.Single(at[0].WaitpointKey, flowfabric.ByName(name))
	}
	return d.condition(text)
}

// condition reads a condition in JSON.
func (d *decoder) condition(text string) flowfabric.ResumeCondition {
	c, err := flowfabric.ParseResumeCondition([]byte(text))
	if err != nil {
		d.fail("resume_condition", "%v", err)
	}
	return c
}

// decodeSignal reads a signal: its number, its record "<accepted_at> LF
// <waitpoint_id> LF <head>", and "<effect>" or "<effect>:<consumed_at>:<by>".
func decodeSignal(d *decoder, id flowfabric.ExecutionID, seq, record, effect string) flowfabric.RecordedSignal {
	at, rest, _ := strings.Cut(record, "\n")
	waitpoint, doc, _ := strings.Cut(rest, "\n")
	var head signalHead
	if err := json.Unmarshal([]byte(doc), &head); err != nil {
		d.fail("signal", "%v", err)
	}
	letter, consumed, _ := strings.Cut(effect, ":")
	g := flowfabric.RecordedSignal{
		SignalID: flowfabric.SignalID(d.uuid("satisfier_signal_ids", string(head.ID))), ExecutionID: id,
		WaitpointID: flowfabric.WaitpointID(d.uuid("signal.waitpoint_id", waitpoint)), WaitpointKey: head.Key,
		SignalName: head.Name, SignalCategory: head.Category, SourceType: head.Source, SourceIdentity: head.Identity,
		PayloadEncoding: head.Encoding, CorrelationID: head.Correlation, IdempotencyKey: head.Idempotency,
		CreatedAt: head.CreatedAt, AcceptedAt: d.ms("signal.accepted_at", at), Seq: d.uint("signal.seq", seq), Effect: effectOf(d, letter),
	}
	if consumed != "" {
		when, by, _ := strings.Cut(consumed, ":")
		g.ConsumedAt, g.ConsumedBySuspensionID = d.ms("signal.consumed_at", when), flowfabric.SuspensionID(by)
	}
	return g
}

// satisfier is a field of the suspension: one satisfier of a leaf, and which of the
// leaf's it is.
type satisfier struct {
	leaf  int
	order uint64
	name  string
}

// decodeSuspension reads the hash of a suspension, nil when there is none.
func decodeSuspension(op string, id flowfabric.ExecutionID, h hash) (*rules.Suspension, error) {
	if len(h) == 0 {
		return nil, nil
	}
	d := decoder{op: op}
	yes := true
	x := &rules.Suspension{Suspension: flowfabric.Suspension{ExecutionID: id, Waitpoints: []flowfabric.WaitpointRef{},
		ResumePolicy: flowfabric.ResumePolicy{ResumeTarget: flowfabric.ResumeTargetRunnable, CloseWaitpointOnResume: &yes, ConsumeMatchedSignals: &yes}}}
	var nodes []satisfier
	var cond string
	signals := make(map[int]flowfabric.SignalID)
	for i := 0; i+1 < len(h) && d.err == nil; i += 2 {
		name, v := h[i], h[i+1]
		switch leaf, mark, isNode := strings.Cut(name, ":"); {
		case v == "":
		case isNode && name[0] == 's':
			nodes = append(nodes, satisfier{int(d.uint32("node_state", leaf[1:])), d.uint("node_state", v), mark})
		case name == "cond":
			cond = v
		case name[0] == 'g':
			_, signal, _ := strings.Cut(v, ":")
			signals[int(d.uint32("satisfier_signal_ids", name[1:]))] = flowfabric.SignalID(d.uuid("satisfier_signal_ids", signal))
		default:
			suspensionField(&d, x, name, v)
		}
	}
	if d.err == nil && x.SuspensionID == "" {
		d.fail("suspension_id", "missing")
	}
	if cond != "" && d.err == nil {
		x.ResumeCondition = d.stored(cond, x.Waitpoints)
	}
	for i := 1; i <= len(signals); i++ {
		x.SatisfierSignalIDs = append(x.SatisfierSignalIDs, signals[i])
	}
	x.Nodes = nodesOf(&x.ResumeCondition, nodes)
	return x, d.err
}

// nodesOf sorts the satisfiers by their leaves.
func nodesOf(c *flowfabric.ResumeCondition, list []satisfier) [][]string {
	leaves := 0
	c.Walk(func(n *flowfabric.ResumeCondition, _ string) {
		if n.Kind == flowfabric.ConditionSingle || n.Kind == flowfabric.ConditionCount {
			leaves++
		}
	})
	slices.SortFunc(list, func(a, b satisfier) int { return cmp.Or(cmp.Compare(a.leaf, b.leaf), cmp.Compare(a.order, b.order)) })
	nodes := make([][]string, leaves)
	for _, m := range list {
		if m.leaf >= 1 && m.leaf <= leaves {
			nodes[m.leaf-1] = append(nodes[m.leaf-1], m.name)
		}
	}
	return nodes
}

// suspensionField takes one field of a suspension. Those nobody knows here are for
// the library alone, or of a later release.
func suspensionField(d *decoder, x *rules.Suspension, name, v string) {
	no := false
	switch name {
	case "id":
		x.SuspensionID = flowfabric.SuspensionID(d.uuid("suspension_id", v))
	case "lease":
		x.LeaseID = flowfabric.LeaseID(d.uuid("suspension.lease_id", v))
	case "epoch":
		x.LeaseEpoch = d.uint("suspension.lease_epoch", v)
	case "att":
		x.AttemptID = flowfabric.AttemptID(d.uuid("suspension.attempt_id", v))
	case "idx":
		x.AttemptIndex = d.uint32("suspension.attempt_index", v)
	case "wps":
		for _, line := range strings.Split(v, "\n") {
			id, key, _ := strings.Cut(line, " ")
			x.Waitpoints = append(x.Waitpoints, flowfabric.WaitpointRef{WaitpointID: flowfabric.WaitpointID(id), WaitpointKey: key})
		}
	case "reason":
		x.ReasonCode = flowfabric.SuspendReason(v)
	case "by":
		x.RequestedBy = flowfabric.SuspendRequester(v)
	case "at":
		x.CreatedAt = d.ms("suspension.created_at", v)
	case "to":
		x.TimeoutAt = d.ms("suspension.timeout_at", v)
	case "tb":
		x.TimeoutBehavior = flowfabric.TimeoutBehavior(v)
	case "delay":
		x.ResumePolicy.ResumeDelayMs = d.int("resume_delay_ms", v)
	case "keep":
		x.ResumePolicy.CloseWaitpointOnResume = &no
	case "nc":
		x.ResumePolicy.ConsumeMatchedSignals = &no
	case "meta":
		x.ContinuationMetadataPointer = v
	case "left":
		left := d.int("attempt_timeout_remaining_ms", v)
		x.AttemptTimeoutRemainingMs = &left
	case "n":
		x.SignalCount = d.uint("signal_count", v)
	case "m":
		x.MatchedSignalCount = d.uint("matched_signal_count", v)
	case "last":
		x.LastSignalAt = d.ms("last_signal_at", v)
	case "esc":
		x.EscalatedAt = d.ms("escalated_at", v)
	case "sat":
		x.SatisfiedAt = d.ms("satisfied_at", v)
	case "closed":
		x.ClosedAt = d.ms("suspension.closed_at", v)
	case "why":
		x.CloseReason = flowfabric.SuspensionCloseReason(v)
	case "closer":
		x.CloserSignalID = flowfabric.SignalID(d.uuid("closer_signal_id", v))
	}
}

// suspendedCursor is a place in the order of ListSuspended: partition, timeout with
// none last, UUID.
type suspendedCursor struct {
	part uint16
	at   flowfabric.Millis
	uuid string
}

func (c suspendedCursor) String() string {
	return strconv.Itoa(int(c.part)) + "." + strconv.FormatInt(int64(c.at), 10) + "." + c.uuid
}

func parseSuspendedCursor(text string) (c suspendedCursor, ok bool) {
	parts := strings.SplitN(text, ".", 3)
	if len(parts) != 3 || flowfabric.ValidateUUID("cursor", parts[2]) != nil {
		return c, false
	}
	part, err := strconv.ParseUint(parts[0], 10, 16)
	at, err2 := strconv.ParseInt(parts[1], 10, 64)
	return suspendedCursor{uint16(part), flowfabric.Millis(at), parts[2]}, err == nil && err2 == nil
}
