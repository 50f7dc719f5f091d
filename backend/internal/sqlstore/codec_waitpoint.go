package sqlstore

import (
	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

var waitpointStates = newEnum("waitpoint.state", flowfabric.WaitpointPending, flowfabric.WaitpointActive,
	flowfabric.WaitpointSatisfied, flowfabric.WaitpointClosed, flowfabric.WaitpointExpired)

// The tags of a waitpoint's record; its id is a column.
const (
	wKey byte = iota + 1
	wAttemptID
	wAttemptIndex
	wSuspension
	wState
	wToken
	wCreatedAt
	wActivatedAt
	wSatisfiedAt
	wClosedAt
	wExpiresAt
	wCloseReason
	wSignalCount
	wMatchedCount
	wLastSignalAt
)

func encodeWaitpoint(w *rules.Waitpoint) []byte {
	e := encoder{make([]byte, 0, 256)}
	e.str(wKey, w.WaitpointKey)
	e.str(wAttemptID, string(w.AttemptID))
	e.uint(wAttemptIndex, uint64(w.AttemptIndex))
	e.str(wSuspension, string(w.SuspensionID))
	e.uint(wState, waitpointStates.of(w.State)+1)
	e.str(wToken, w.Token.Reveal())
	e.ms(wCreatedAt, w.CreatedAt)
	e.ms(wActivatedAt, w.ActivatedAt)
	e.ms(wSatisfiedAt, w.SatisfiedAt)
	e.ms(wClosedAt, w.ClosedAt)
	e.ms(wExpiresAt, w.ExpiresAt)
	e.str(wCloseReason, w.CloseReason)
	e.uint(wSignalCount, w.SignalCount)
	e.uint(wMatchedCount, w.MatchedSignalCount)
	e.ms(wLastSignalAt, w.LastSignalAt)
	return e.b
}

func decodeWaitpoint(op string, id flowfabric.WaitpointID, rec []byte) (rules.Waitpoint, error) {
	d := decoder{b: rec, op: op}
	w := rules.Waitpoint{WaitpointID: id}
	for tag, ok := d.next(); ok; tag, ok = d.next() {
		switch tag {
		case wKey:
			w.WaitpointKey = d.str("waitpoint_key")
		case wAttemptID:
			w.AttemptID = flowfabric.AttemptID(d.uuid("waitpoint.attempt_id"))
		case wAttemptIndex:
			w.AttemptIndex = d.uint32("waitpoint.attempt_index")
		case wSuspension:
			w.SuspensionID = flowfabric.SuspensionID(d.uuid("waitpoint.suspension_id"))
		case wState:
			w.State = waitpointStates.label(&d, d.uint("waitpoint.state")-1)
		case wToken:
			w.Token = flowfabric.NewWaitpointToken(d.str("waitpoint.token"))
		case wCreatedAt:
			w.CreatedAt = d.ms("waitpoint.created_at")
		case wActivatedAt:
			w.ActivatedAt = d.ms("waitpoint.activated_at")
		case wSatisfiedAt:
			w.SatisfiedAt = d.ms("waitpoint.satisfied_at")
		case wClosedAt:
			w.ClosedAt = d.ms("waitpoint.closed_at")
		case wExpiresAt:
			w.ExpiresAt = d.ms("waitpoint.expires_at")
		case wCloseReason:
			w.CloseReason = d.str("waitpoint.close_reason")
		case wSignalCount:
			w.SignalCount = d.uint("waitpoint.signal_count")
		case wMatchedCount:
			w.MatchedSignalCount = d.uint("waitpoint.matched_signal_count")
		case wLastSignalAt:
			w.LastSignalAt = d.ms("waitpoint.last_signal_at")
		default:
			d.fail("waitpoint", "unknown field %d", tag)
		}
	}
	switch {
	case d.err != nil:
	case w.State == "":
		d.fail("waitpoint.state", "missing")
	case w.WaitpointKey == "":
		d.fail("waitpoint_key", "missing")
	case w.CreatedAt == 0:
		d.fail("waitpoint.created_at", "missing")
	}
	return w, d.err
}
