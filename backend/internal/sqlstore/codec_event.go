package sqlstore

import (
	"fmt"

	"github.com/flowfabric/flowfabric"
)

var feedNumbers = newEnum("feed", flowfabric.Feed(""), flowfabric.FeedCompletions, flowfabric.FeedLeases,
	flowfabric.FeedSignals, flowfabric.FeedTags)

// The tags of an event.
const (
	vKind byte = iota + 1
	vUUID
	vFlow
	vNamespace
	vLane
	vTags
	vAttemptIndex
	vAttemptID
	vOutcome
	vPublicState
	vReplayCount
	vCause
	vFailureCategory
	vFailureReason
	vResultSize
	vLeaseID
	vLeaseEpoch
	vWorkerID
	vWorkerInstance
	vExpiresAt
	vReason
	vRevokedBy
	vPrevLease
	vPrevEpoch
	vPrevInstance
	vPrevAttempt
	vSignalID
	vSignalName
	vWaitpointID
	vSourceIdentity
	vEffect
)

func appendEvent(buf []byte, ev *flowfabric.Event) []byte {
	e := encoder{buf}
	e.str(vKind, ev.Kind)
	id := string(ev.ExecutionID)
	e.str(vUUID, id[len(id)-36:])
	e.str(vFlow, string(ev.FlowID))
	e.str(vNamespace, string(ev.Namespace))
	e.str(vLane, string(ev.LaneID))
	if len(ev.Tags) > 0 {
		flat := make([]string, 0, 2*len(ev.Tags))
		for k, v := range ev.Tags {
			flat = append(flat, k, v)
		}
		e.strs(vTags, flat)
	}
	e.opt(vAttemptIndex, ev.AttemptIndex)
	e.str(vAttemptID, string(ev.AttemptID))
	e.str(vOutcome, string(ev.Outcome))
	e.str(vPublicState, string(ev.PublicState))
	e.opt(vReplayCount, ev.ReplayCount)
	e.str(vCause, ev.Cause)
	e.str(vFailureCategory, ev.FailureCategory)
	e.str(vFailureReason, ev.FailureReason)
	if ev.ResultSize != nil {
		e.uint(vResultSize, uint64(*ev.ResultSize)+1)
	}
	e.str(vLeaseID, string(ev.LeaseID))
	e.uint(vLeaseEpoch, ev.LeaseEpoch)
	e.str(vWorkerID, string(ev.WorkerID))
	e.str(vWorkerInstance, string(ev.WorkerInstanceID))
	e.ms(vExpiresAt, ev.ExpiresAt)
	e.str(vReason, ev.Reason)
	e.str(vRevokedBy, ev.RevokedBy)
	e.str(vPrevLease, string(ev.PrevLeaseID))
	e.uint(vPrevEpoch, ev.PrevLeaseEpoch)
	e.str(vPrevInstance, string(ev.PrevWorkerInstanceID))
	e.opt(vPrevAttempt, ev.PrevAttemptIndex)
	if ev.Feed == flowfabric.FeedSignals {
		e.str(vSignalID, string(ev.SignalID))
		e.str(vSignalName, ev.SignalName)
		e.str(vWaitpointID, string(ev.WaitpointID))
		e.str(vSourceIdentity, ev.SourceIdentity)
		e.str(vEffect, string(ev.Effect))
	}
	return e.b
}

// decodeEvent restores an event; feed, part, seq and at are the row's columns.
func decodeEvent(feed flowfabric.Feed, part uint16, seq uint64, at flowfabric.Millis, rec []byte) (flowfabric.Event, error) {
	ev := flowfabric.Event{Feed: feed, Partition: part, Seq: seq, At: at, EventID: fmt.Sprintf("%d-%d", part, seq)}
	d := decoder{b: rec, op: "read_event"}
	for tag, ok := d.next(); ok; tag, ok = d.next() {
		switch tag {
		case vKind:
			ev.Kind = d.str("kind")
		case vUUID:
			ev.ExecutionID = flowfabric.ExecutionID(fmt.Sprintf("{fp:%d}:%s", part, d.str("execution_id")))
		case vFlow:
			ev.FlowID = flowfabric.FlowID(d.str("flow_id"))
		case vNamespace:
			ev.Namespace = flowfabric.Namespace(d.str("namespace"))
		case vLane:
			ev.LaneID = flowfabric.LaneID(d.str("lane_id"))
		case vTags:
			flat := d.strs("tags")
			ev.Tags = make(map[string]string, len(flat)/2)
			for i := 0; i+1 < len(flat); i += 2 {
				ev.Tags[flat[i]] = flat[i+1]
			}
		case vAttemptIndex:
			ev.AttemptIndex = d.opt("attempt_index")
		case vAttemptID:
			ev.AttemptID = flowfabric.AttemptID(d.str("attempt_id"))
		case vOutcome:
			ev.Outcome = flowfabric.TerminalOutcome(d.str("outcome"))
		case vPublicState:
			ev.PublicState = flowfabric.PublicState(d.str("public_state"))
		case vReplayCount:
			ev.ReplayCount = d.opt("replay_count")
		case vCause:
			ev.Cause = d.str("cause")
		case vFailureCategory:
			ev.FailureCategory = d.str("failure_category")
		case vFailureReason:
			ev.FailureReason = d.str("failure_reason")
		case vResultSize:
			n := int64(d.uint("result_size")) - 1
			ev.ResultSize = &n
		case vLeaseID:
			ev.LeaseID = flowfabric.LeaseID(d.str("lease_id"))
		case vLeaseEpoch:
			ev.LeaseEpoch = d.uint("lease_epoch")
		case vWorkerID:
			ev.WorkerID = flowfabric.WorkerID(d.str("worker_id"))
		case vWorkerInstance:
			ev.WorkerInstanceID = flowfabric.WorkerInstanceID(d.str("worker_instance_id"))
		case vExpiresAt:
			ev.ExpiresAt = d.ms("expires_at")
		case vReason:
			ev.Reason = d.str("reason")
		case vRevokedBy:
			ev.RevokedBy = d.str("revoked_by")
		case vPrevLease:
			ev.PrevLeaseID = flowfabric.LeaseID(d.str("prev_lease_id"))
		case vPrevEpoch:
			ev.PrevLeaseEpoch = d.uint("prev_lease_epoch")
		case vPrevInstance:
			ev.PrevWorkerInstanceID = flowfabric.WorkerInstanceID(d.str("prev_worker_instance_id"))
		case vPrevAttempt:
			ev.PrevAttemptIndex = d.opt("prev_attempt_index")
		case vSignalID:
			ev.SignalID = flowfabric.SignalID(d.str("signal_id"))
		case vSignalName:
			ev.SignalName = d.str("signal_name")
		case vWaitpointID:
			ev.WaitpointID = flowfabric.WaitpointID(d.str("waitpoint_id"))
		case vSourceIdentity:
			ev.SourceIdentity = d.str("source_identity")
		case vEffect:
			ev.Effect = flowfabric.SignalEffect(d.str("effect"))
		default:
			d.fail("event", "unknown field %d", tag)
		}
	}
	return ev, d.err
}
