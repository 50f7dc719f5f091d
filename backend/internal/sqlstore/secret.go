package sqlstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// ringKID is the name under which the configuration names the current key.
const ringKID = "waitpoint_kid"

var (
	qSelectKID     = &Query{`select value from config where name = '` + ringKID + `'`}
	qSelectSecrets = &Query{`select kid, secret, expires_at from secrets`}
	qDeleteSecrets = &Query{`delete from secrets`}
	qInsertSecret  = &Query{`insert into secrets (kid, secret, expires_at) values (?, ?, ?)`}
)

// readRing reads the key ring as it is stored, valid or not: the rules refuse
// what they cannot use.
func readRing(c Conn) (rules.KeyRing, error) {
	ring := rules.KeyRing{Secrets: make(map[string]string), ExpiresAt: make(map[string]flowfabric.Millis)}
	q := c.Stmt(qSelectKID)
	ok, err := q.Next()
	if err != nil {
		return ring, err
	}
	if ok {
		ring.Current = q.ColText(0)
		q.Stop()
	}
	q = c.Stmt(qSelectSecrets)
	for {
		ok, err := q.Next()
		if err != nil || !ok {
			return ring, err
		}
		kid := q.ColText(0)
		ring.Secrets[kid] = q.ColText(1)
		if !q.ColNull(2) {
			ring.ExpiresAt[kid] = flowfabric.Millis(q.ColInt(2))
		}
	}
}

// writeRing replaces the stored key ring.
func writeRing(c Conn, ring rules.KeyRing) error {
	if err := c.Stmt(qDeleteSecrets).Exec(); err != nil {
		return err
	}
	for kid, secret := range ring.Secrets {
		q := c.Stmt(qInsertSecret)
		q.Text(kid)
		q.Text(secret)
		bindMillis(q, ring.ExpiresAt[kid])
		if err := q.Exec(); err != nil {
			return err
		}
	}
	q := c.Stmt(qInsertConfig)
	q.Text(ringKID)
	q.Text(ring.Current)
	return q.Exec()
}

func (s *Store) loadRing(c Conn) (err error) {
	s.ring, err = readRing(c)
	return err
}

// bootRing seeds the key ring when the store opens: with the configured secret,
// else, when the ring is empty, with a random one.
func (s *Store) bootRing(c Conn) error {
	if s.cfg.NoWaitpointSecret {
		return nil
	}
	kid, secret := s.cfg.WaitpointKID, s.cfg.WaitpointSecretHex
	if kid == "" {
		kid = flowfabric.DefaultKID
	}
	if secret == "" {
		if s.ring.Current != "" {
			return nil
		}
		var fresh [32]byte
		_, _ = rand.Read(fresh[:]) // never fails
		secret = hex.EncodeToString(fresh[:])
	}
	if err := rules.ValidateKey(kid, secret); err != nil {
		return err
	}
	ring, outcome := rules.Seed(s.ring, kid, secret)
	switch outcome {
	case flowfabric.SeedInstalled, flowfabric.SeedRepaired:
		s.ring = ring
		return writeRing(c, ring)
	case flowfabric.SeedKept:
		s.cfg.Logger.Warn("the configured waitpoint secret is not the current one; the stored key ring stands",
			"configured_kid", kid, "current_kid", s.ring.Current)
	}
	return nil
}

// SeedWaitpointSecret installs a key in an empty ring.
func (s *Store) SeedWaitpointSecret(ctx context.Context, kid, secretHex string) (res flowfabric.SeedWaitpointSecretResult, err error) {
	if err := rules.ValidateKey(kid, secretHex); err != nil {
		return res, err
	}
	err = s.write(ctx, func(tx *Tx) error {
		ring, outcome := rules.Seed(s.ring, kid, secretHex)
		res = flowfabric.SeedWaitpointSecretResult{Copies: map[flowfabric.SeedOutcome]int{outcome: 1}, CurrentKID: ring.Current}
		if outcome != flowfabric.SeedInstalled && outcome != flowfabric.SeedRepaired {
			return nil
		}
		s.ring = ring
		return writeRing(tx.conn, ring)
	})
	return res, err
}

// RotateWaitpointSecret makes a key the current one. The store has one ring; the
// one copy's error is also the call's.
func (s *Store) RotateWaitpointSecret(ctx context.Context, a flowfabric.RotateWaitpointSecretArgs) (res flowfabric.RotateWaitpointSecretResult, err error) {
	graceMs, err := rules.ValidateRotate(a)
	if err != nil {
		return res, err
	}
	if !s.rotating.TryLock() {
		return res, flowfabric.NewError(flowfabric.CodeResourceExhausted, "another rotation is running").With("pool", flowfabric.PoolAdminRotate)
	}
	defer s.rotating.Unlock()
	var rotated flowfabric.RotatedCopy
	err = s.write(ctx, func(tx *Tx) error {
		ring, one, changed, err := rules.Rotate(s.ring, a.NewKID, a.NewSecretHex, graceMs, tx.Now)
		rotated, rotated.Err = one, err
		if err != nil || !changed {
			return nil
		}
		s.ring = ring
		return writeRing(tx.conn, ring)
	})
	if err == nil {
		err = rotated.Err
	}
	if err != nil {
		rotated = flowfabric.RotatedCopy{Err: err}
	}
	return flowfabric.RotateWaitpointSecretResult{NewKID: a.NewKID, Copies: []flowfabric.RotatedCopy{rotated}}, err
}

// ListWaitpointKIDs shows the key ring without its secrets.
func (s *Store) ListWaitpointKIDs(ctx context.Context) (out flowfabric.WaitpointKIDs, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		ring, err := readRing(c)
		out = ring.KIDs(s.Now())
		return err
	})
	return out, err
}
