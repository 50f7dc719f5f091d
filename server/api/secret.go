package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// madeSecretBytes is the size of a secret made here.
const madeSecretBytes = 32

// rotateTimeout bounds a whole rotation.
const rotateTimeout = flowfabric.AdminRotateTimeoutMs * time.Millisecond

func secretRoutes() []*route {
	return []*route{
		{
			id: "list_waitpoint_kids", method: http.MethodGet, pattern: wire.RouteWaitpointSecrets, scopes: ScopeAdmin,
			summary:  "The keys of the waitpoint tokens by name; never the secrets.",
			endpoint: serves[none, wire.KIDsResponse](listKIDs),
		},
		{
			id: "rotate_waitpoint_secret", method: http.MethodPost, pattern: wire.RouteRotateSecret, scopes: ScopeAdmin,
			summary: "Makes a key the current one; the former one verifies for the grace. The same key and secret again is safe and converges.",
			codes: []flowfabric.Code{
				flowfabric.CodeInvalidKid, flowfabric.CodeInvalidSecretHex, flowfabric.CodeInvalidGraceMs, flowfabric.CodeRotationConflict,
				flowfabric.CodeResourceExhausted, flowfabric.CodeOutcomeUnknown,
			},
			endpoint: serves[wire.RotateSecretRequest, wire.RotateSecretResponse](rotateSecret),
		},
	}
}

func listKIDs(c *call) error {
	kids, err := c.api.backend.ListWaitpointKIDs(c.ctx)
	if err != nil {
		return err
	}
	return c.ok(wire.NewKIDsResponse(kids))
}

func rotateSecret(c *call) error {
	var body wire.RotateSecretRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args := body.Args()
	if !body.SecretGiven() {
		secret := make([]byte, madeSecretBytes)
		_, _ = rand.Read(secret) // never fails: it ends the process instead
		args.NewSecretHex = hex.EncodeToString(secret)
	}
	if args.GraceMs == nil {
		args.GraceMs = c.api.opt.KeyGraceMs
	}
	r, err := c.rotate(args)
	if err != nil {
		return err
	}
	answer := wire.NewRotateSecretResponse(r)
	c.audit("waitpoint secret rotated", slog.String("kid", r.NewKID), slog.Int("rotated", answer.Rotated), slog.Int("failed", len(answer.Failed)))
	for i := range answer.Copies {
		c.stamp(answer.Copies[i].Problem)
	}
	return c.ok(answer)
}

// rotate is an error when no copy of the key ring has the new key.
func (c *call) rotate(args flowfabric.RotateWaitpointSecretArgs) (flowfabric.RotateWaitpointSecretResult, error) {
	ctx, cancel := context.WithTimeout(c.ctx, rotateTimeout)
	defer cancel()
	r, err := c.api.backend.RotateWaitpointSecret(ctx, args)
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) && c.ctx.Err() == nil {
			return r, flowfabric.NewError(flowfabric.CodeStoreTimeout, "the rotation took over %s; repeating it is safe", rotateTimeout).
				WithKind("timeout").Wrap(err)
		}
		return r, err
	}
	for _, copied := range r.Copies {
		if copied.Err == nil {
			return r, nil
		}
		err = copied.Err
	}
	return r, err
}
