package remote

import (
	"context"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// RotateWaitpointSecret makes a key the current one. Without a grace the
// server's setting counts. It is sent once: a second rotation under way is the
// caller's to hear of.
func (b *Backend) RotateWaitpointSecret(ctx context.Context, a flowfabric.RotateWaitpointSecretArgs) (flowfabric.RotateWaitpointSecretResult, error) {
	if _, err := rules.ValidateRotate(a); err != nil {
		return flowfabric.RotateWaitpointSecretResult{}, err
	}
	var r wire.RotateSecretResponse
	_, err := b.do(ctx, post("rotate_waitpoint_secret", wire.RouteRotateSecret, wire.NewRotateSecretRequest(a)), &r)
	return r.Result(), err
}

// ListWaitpointKIDs returns the key ring without its secrets.
func (b *Backend) ListWaitpointKIDs(ctx context.Context) (flowfabric.WaitpointKIDs, error) {
	var r wire.KIDsResponse
	_, err := b.do(ctx, get("list_waitpoint_kids", wire.RouteWaitpointSecrets, nil), &r)
	return r.Result(), err
}
