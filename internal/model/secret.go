package model

import (
	"context"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// RotateWaitpointSecret makes a key the current one.
func (m *Store) RotateWaitpointSecret(ctx context.Context, a flowfabric.RotateWaitpointSecretArgs) (res flowfabric.RotateWaitpointSecretResult, err error) {
	grace, err := rules.ValidateRotate(a)
	if err != nil {
		return res, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		ring, copied, _, err := rules.Rotate(m.ring, a.NewKID, a.NewSecretHex, grace, now)
		if err != nil {
			return err
		}
		m.ring = ring
		res = flowfabric.RotateWaitpointSecretResult{NewKID: a.NewKID, Copies: []flowfabric.RotatedCopy{copied}}
		return nil
	})
	return res, err
}

// ListWaitpointKIDs is the ring without its secrets.
func (m *Store) ListWaitpointKIDs(ctx context.Context) (out flowfabric.WaitpointKIDs, err error) {
	err = m.do(ctx, func(now flowfabric.Millis) error {
		out = m.ring.KIDs(now)
		return nil
	})
	return out, err
}

// SeedWaitpointSecret installs a key in an empty ring.
func (m *Store) SeedWaitpointSecret(ctx context.Context, kid, secretHex string) (res flowfabric.SeedWaitpointSecretResult, err error) {
	if err := rules.ValidateKey(kid, secretHex); err != nil {
		return res, err
	}
	err = m.do(ctx, func(flowfabric.Millis) error {
		ring, outcome := rules.Seed(m.ring, kid, secretHex)
		m.ring = ring
		res = flowfabric.SeedWaitpointSecretResult{Copies: map[flowfabric.SeedOutcome]int{outcome: 1}, CurrentKID: ring.Current}
		return nil
	})
	return res, err
}
