package valkey

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// eventLines reads the value of an event line by line.
type eventLines struct {
	decoder
	rest string
	done bool
}

func (l *eventLines) next(field string) string {
	if l.done {
		l.fail(field, "missing")
		return ""
	}
	line, rest, more := strings.Cut(l.rest, "\n")
	l.rest, l.done = rest, !more
	return line
}

// text takes all that is left, line feeds included.
func (l *eventLines) text(field string) string {
	if l.done {
		l.fail(field, "missing")
	}
	l.done = true
	return l.rest
}

func (l *eventLines) optional32(field string) *uint32 {
	v := l.next(field)
	if v == "" {
		return nil
	}
	n := l.uint32(field, v)
	return &n
}

func (l *eventLines) millis(field string) flowfabric.Millis {
	v := l.next(field)
	if v == "" {
		return 0
	}
	return l.ms(field, v)
}

// eventExecution returns the execution that the value of an event is about,
// without reading the rest of it.
func eventExecution(v string) string {
	_, rest, _ := strings.Cut(v, "\n")
	e, _, _ := strings.Cut(rest, "\n")
	return e
}

// eventAt returns the instant of the event, 0 when there is none.
func eventAt(v string) flowfabric.Millis {
	for range 5 {
		_, v, _ = strings.Cut(v, "\n")
	}
	v, _, _ = strings.Cut(v, "\n")
	at, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0
	}
	return flowfabric.Millis(at)
}

// eventID is "<partition>-<seq>".
func eventID(part uint16, seq uint64) string {
	b := make([]byte, 0, 26)
	b = strconv.AppendUint(b, uint64(part), 10)
	b = append(b, '-')
	return string(strconv.AppendUint(b, seq, 10))
}

// decodeEvent restores an event of a feed from its value. The event's place is
// known even where it does not decode.
func decodeEvent(feed flowfabric.Feed, part uint16, tag string, seq uint64, v string) (flowfabric.Event, error) {
	ev := flowfabric.Event{Feed: feed, Partition: part, Seq: seq, EventID: eventID(part, seq)}
	l := eventLines{decoder: decoder{op: "read_event"}, rest: v}
	ev.Kind = l.next("kind")
	id := l.next("execution_id")
	if l.uuid("execution_id", id) == "" {
		l.fail("execution_id", "missing")
	}
	ev.ExecutionID = flowfabric.ExecutionID(tag + ":" + id)
	ev.Namespace = flowfabric.Namespace(l.next("namespace"))
	ev.LaneID = flowfabric.LaneID(l.next("lane_id"))
	ev.FlowID = flowfabric.FlowID(l.next("flow_id"))
	ev.At = l.millis("at_ms")
	ev.AttemptIndex = l.optional32("attempt_index")
	ev.AttemptID = flowfabric.AttemptID(l.next("attempt_id"))
	if tags := l.next("tags"); tags != "" {
		if err := json.Unmarshal([]byte(tags), &ev.Tags); err != nil {
			l.fail("tags", "%v", err)
		}
	}
	switch feed {
	case flowfabric.FeedCompletions:
		l.completion(&ev)
	case flowfabric.FeedLeases:
		l.lease(&ev)
	case flowfabric.FeedSignals:
		l.signal(&ev)
	default:
		l.fail("feed", "%q has no such event", rules.Cut(string(feed), 40))
	}
	return ev, l.err
}

func (l *eventLines) completion(ev *flowfabric.Event) {
	ev.Outcome = flowfabric.TerminalOutcome(l.next("outcome"))
	replays := l.uint32("replay_count", l.next("replay_count"))
	ev.ReplayCount = &replays
	ev.Cause = l.next("cause")
	if size := l.next("result_size"); size != "" {
		n := l.int("result_size", size)
		ev.ResultSize = &n
	}
	ev.FailureCategory = l.next("failure_category")
	ev.FailureReason = l.text("failure_reason")
	ev.PublicState = rules.PublicState(flowfabric.StateVector{LifecyclePhase: flowfabric.PhaseTerminal, TerminalOutcome: ev.Outcome})
}

func (l *eventLines) lease(ev *flowfabric.Event) {
	ev.LeaseID = flowfabric.LeaseID(l.next("lease_id"))
	if epoch := l.next("lease_epoch"); epoch != "" {
		ev.LeaseEpoch = l.uint("lease_epoch", epoch)
	}
	ev.WorkerID = flowfabric.WorkerID(l.next("worker_id"))
	ev.WorkerInstanceID = flowfabric.WorkerInstanceID(l.next("worker_instance_id"))
	ev.ExpiresAt = l.millis("expires_at")
	ev.RevokedBy = l.next("revoked_by")
	ev.PrevLeaseID = flowfabric.LeaseID(l.next("prev_lease_id"))
	if epoch := l.next("prev_lease_epoch"); epoch != "" {
		ev.PrevLeaseEpoch = l.uint("prev_lease_epoch", epoch)
	}
	ev.PrevWorkerInstanceID = flowfabric.WorkerInstanceID(l.next("prev_worker_instance_id"))
	ev.PrevAttemptIndex = l.optional32("prev_attempt_index")
	ev.Reason = l.text("reason")
}

func (l *eventLines) signal(ev *flowfabric.Event) {
	ev.SignalID = flowfabric.SignalID(l.next("signal_id"))
	ev.WaitpointID = flowfabric.WaitpointID(l.next("waitpoint_id"))
	if letter := l.next("effect"); letter == duplicateLetter {
		ev.Effect = flowfabric.EffectDuplicateInFeeds
	} else {
		ev.Effect = effectOf(&l.decoder, letter)
	}
	n := l.int("signal_name", l.next("signal_name"))
	rest := l.text("source_identity")
	if n < 0 || n > int64(len(rest)) {
		l.fail("signal_name", "truncated")
		return
	}
	ev.SignalName, ev.SourceIdentity = rest[:n], rest[n:]
}
