package waitpoint

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"

	"github.com/flowfabric/flowfabric"
)

// VerifyAndDeliver delivers a signal that came from outside, with the token that
// was presented with it: it reads the token the store holds, compares the two in
// constant time and delivers with the presented one, which the engine verifies
// again. Errors: unknown_waitpoint when no such waitpoint is open,
// token_mismatch, then nothing is delivered; all others as they come from the
// client. Towards the public the two are told alike, as [Bridge] does: they say
// whether a waitpoint exists. The client's backend must let it read tokens.
// (Specification 03, section 5.5.)
func VerifyAndDeliver(
	ctx context.Context, client *flowfabric.Client, execution flowfabric.ExecutionID, waitpoint flowfabric.WaitpointID,
	presented flowfabric.WaitpointToken, signal flowfabric.Signal,
) (flowfabric.SignalOutcome, error) {
	stored, err := client.Admin().ReadWaitpointToken(ctx, execution, waitpoint)
	if err != nil && !flowfabric.IsNotFound(err) {
		return flowfabric.SignalOutcome{}, err
	}
	equal := same(stored, presented)
	if err != nil || stored.IsZero() {
		return flowfabric.SignalOutcome{}, flowfabric.NewError(flowfabric.CodeUnknownWaitpoint, "no such waitpoint is open")
	}
	if !equal {
		return flowfabric.SignalOutcome{}, flowfabric.NewError(flowfabric.CodeTokenMismatch, "the token is not that of the waitpoint")
	}
	return client.DeliverSignal(ctx, execution, waitpoint, presented, signal)
}

// same compares two tokens in constant time, whatever their lengths.
func same(a, b flowfabric.WaitpointToken) bool {
	x, y := sha256.Sum256([]byte(a.Reveal())), sha256.Sum256([]byte(b.Reveal()))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
