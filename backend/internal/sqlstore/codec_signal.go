package sqlstore

import (
	"github.com/flowfabric/flowfabric"
)

var signalEffects = newEnum("signal.effect", flowfabric.EffectResumed, flowfabric.EffectAppended, flowfabric.EffectRepeated,
	flowfabric.EffectMatcherFailed, flowfabric.EffectNotInCondition, flowfabric.EffectBuffered, flowfabric.EffectNoOp,
	flowfabric.EffectNeverActivated)

// The tags of a signal's record; its ids and seq are columns, its payload lies
// apart.
const (
	gnKey byte = iota + 1
	gnName
	gnCategory
	gnSourceType
	gnSourceIdentity
	gnEncoding
	gnCorrelation
	gnIdemKey
	gnCreatedAt
	gnAcceptedAt
	gnEffect
	gnConsumedAt
	gnConsumedBy
)

func encodeSignal(g *flowfabric.RecordedSignal) []byte {
	e := encoder{make([]byte, 0, 256)}
	e.str(gnKey, g.WaitpointKey)
	e.str(gnName, g.SignalName)
	e.str(gnCategory, g.SignalCategory)
	e.str(gnSourceType, g.SourceType)
	e.str(gnSourceIdentity, g.SourceIdentity)
	e.str(gnEncoding, g.PayloadEncoding)
	e.str(gnCorrelation, g.CorrelationID)
	e.str(gnIdemKey, g.IdempotencyKey)
	e.ms(gnCreatedAt, g.CreatedAt)
	e.ms(gnAcceptedAt, g.AcceptedAt)
	e.uint(gnEffect, signalEffects.of(g.Effect)+1)
	e.ms(gnConsumedAt, g.ConsumedAt)
	e.str(gnConsumedBy, string(g.ConsumedBySuspensionID))
	return e.b
}

// decodeSignal fills g, whose columns are set, from its record.
func decodeSignal(op string, rec []byte, g *flowfabric.RecordedSignal) error {
	d := decoder{b: rec, op: op}
	for tag, ok := d.next(); ok; tag, ok = d.next() {
		switch tag {
		case gnKey:
			g.WaitpointKey = d.str("signal.waitpoint_key")
		case gnName:
			g.SignalName = d.str("signal_name")
		case gnCategory:
			g.SignalCategory = d.str("signal_category")
		case gnSourceType:
			g.SourceType = d.str("source_type")
		case gnSourceIdentity:
			g.SourceIdentity = d.str("source_identity")
		case gnEncoding:
			g.PayloadEncoding = d.str("signal.payload_encoding")
		case gnCorrelation:
			g.CorrelationID = d.str("correlation_id")
		case gnIdemKey:
			g.IdempotencyKey = d.str("signal.idempotency_key")
		case gnCreatedAt:
			g.CreatedAt = d.ms("signal.created_at")
		case gnAcceptedAt:
			g.AcceptedAt = d.ms("accepted_at")
		case gnEffect:
			g.Effect = signalEffects.label(&d, d.uint("signal.effect")-1)
		case gnConsumedAt:
			g.ConsumedAt = d.ms("consumed_at")
		case gnConsumedBy:
			g.ConsumedBySuspensionID = flowfabric.SuspensionID(d.uuid("consumed_by_suspension_id"))
		default:
			d.fail("signal", "unknown field %d", tag)
		}
	}
	switch {
	case d.err != nil:
	case g.SignalName == "":
		d.fail("signal_name", "missing")
	case g.Effect == "":
		d.fail("signal.effect", "missing")
	case g.AcceptedAt == 0:
		d.fail("accepted_at", "missing")
	}
	return d.err
}
