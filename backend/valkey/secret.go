package valkey

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

const (
	fnSecret = "ff_waitpoint_secret"
	// ringsInFlight is how many copies of the key ring are written at once.
	ringsInFlight = 64
	// maxMintTries bounds the tries to make a token while keys are rotated.
	maxMintTries = 6
)

// rings remembers the copies of the key ring that lie beside the partitions. What
// is remembered may be out of date: the library holds every token against the copy
// as it is, and the caller then reads it anew.
type rings struct {
	mu sync.Mutex
	of map[uint16]rules.KeyRing
}

func (r *rings) find(part uint16) (rules.KeyRing, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ring, ok := r.of[part]
	return ring, ok
}

func (r *rings) keep(part uint16, ring rules.KeyRing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = make(map[uint16]rules.KeyRing)
	}
	r.of[part] = ring
}

func (r *rings) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.of)
}

// ringKey is the name of the copy of the ring beside a partition.
func ringKey(tag string) string { return "ff:sec:" + tag + ":waitpoint_hmac" }

// ring returns the copy beside a partition: as remembered, unless anew is set.
// remembered tells that it may be out of date. Nobody writes to a ring.
func (s *Store) ring(ctx context.Context, part uint16, anew bool) (ring rules.KeyRing, remembered bool, err error) {
	if !anew {
		if ring, ok := s.rings.find(part); ok {
			return ring, true, nil
		}
	}
	got := s.plain(ctx, s.b.Hgetall().Key(ringKey(s.tag(part))).Build())[0]
	if got.err != nil {
		return ring, false, got.err
	}
	fields, err := got.msg.AsStrMap()
	if err != nil {
		return ring, false, err
	}
	ring = ringOf(fields)
	s.rings.keep(part, ring)
	return ring, false, nil
}

// ringOf reads a stored ring. A former key whose end is no positive number is not
// accepted any more.
func ringOf(fields map[string]string) rules.KeyRing {
	ring := rules.KeyRing{Secrets: make(map[string]string), ExpiresAt: make(map[string]flowfabric.Millis)}
	for field, v := range fields {
		if field == "current_kid" {
			ring.Current = v
		} else if kid, ok := strings.CutPrefix(field, "secret:"); ok {
			ring.Secrets[kid] = v
		} else if kid, ok := strings.CutPrefix(field, "expires_at:"); ok {
			if at, err := strconv.ParseInt(v, 10, 64); err == nil && at > 0 {
				ring.ExpiresAt[kid] = flowfabric.Millis(at)
			}
		}
	}
	return ring
}

// minter makes the tokens of one call.
type minter struct {
	ring rules.KeyRing
	id   flowfabric.ExecutionID
	err  error // why there is no token
}

// digest is the digest of a waitpoint's token, "" when it can't be made.
func (m *minter) digest(w flowfabric.WaitpointID, key string) string {
	token, err := m.ring.Mint(m.id, w, key)
	if err != nil {
		m.err = err
		return ""
	}
	_, digest, _ := token.Parts()
	return digest
}

// mint makes a call that stores new tokens. The library refuses those of a key that
// is not current: then the ring is read anew and the call repeated.
func (s *Store) mint(ctx context.Context, id flowfabric.ExecutionID, call func(*minter) (elements, error)) (elements, error) {
	for try := 1; ; try++ {
		ring, remembered, err := s.ring(ctx, id.Partition(), try > 1)
		if err != nil {
			return nil, err
		}
		m := &minter{ring: ring, id: id}
		list, err := call(m)
		switch kind := kindOfError(err); {
		case kind == kindKIDMoved && try < maxMintTries, kind == kindNoToken && remembered:
			continue
		case kind == kindKIDMoved && ring.Current != "":
			return nil, flowfabric.NewError(flowfabric.CodeStoreUnavailable, "the keys of the waitpoint tokens change too fast")
		case kind == kindKIDMoved || kind == kindNoToken:
			return nil, m.err
		}
		return list, err
	}
}

// SeedWaitpointSecret installs a key in every copy of the ring that is empty.
func (s *Store) SeedWaitpointSecret(ctx context.Context, kid, secretHex string) (res flowfabric.SeedWaitpointSecretResult, err error) {
	if err := rules.ValidateKey(kid, secretHex); err != nil {
		return res, err
	}
	defer s.rings.forget()
	res.Copies = make(map[flowfabric.SeedOutcome]int)
	err = s.eachRing(ctx, []string{"s", kid, secretHex}, func(part uint16, a answer) error {
		if a.err != nil {
			return a.err
		}
		list, err := elementsOf(fnSecret, &a.msg, 2)
		if err != nil {
			return err
		}
		outcome := flowfabric.SeedOutcome(list.str(0))
		res.Copies[outcome]++
		if part == 0 {
			res.CurrentKID = list.str(1)
		}
		return nil
	})
	return res, err
}

// eachRing does something with every copy of the ring, some at once, and hands the
// answers to take in the order of the partitions.
func (s *Store) eachRing(ctx context.Context, args []string, take func(uint16, answer) error) error {
	for parts := range slices.Chunk(s.allPartitions(), ringsInFlight) {
		reqs := make([]request, len(parts))
		for i, part := range parts {
			reqs[i] = request{fn: fnSecret, tag: s.tag(part), args: args}
		}
		for i, a := range s.calls(ctx, reqs) {
			if err := take(parts[i], a); err != nil {
				return err
			}
		}
	}
	return nil
}

// RotateWaitpointSecret makes a key the current one in every copy of the ring.
func (s *Store) RotateWaitpointSecret(ctx context.Context, a flowfabric.RotateWaitpointSecretArgs) (res flowfabric.RotateWaitpointSecretResult, err error) {
	grace, err := rules.ValidateRotate(a)
	if err != nil {
		return res, err
	}
	end, err := s.beginRotation(ctx)
	if err != nil {
		return res, err
	}
	defer end()
	defer s.publishAdmin(ctx, noticeSecrets)
	defer s.rings.forget()
	res.NewKID = a.NewKID
	failed := 0
	err = s.eachRing(ctx, []string{"r", a.NewKID, a.NewSecretHex, strconv.FormatInt(grace, 10)}, func(part uint16, got answer) error {
		c := rotated(part, got)
		if c.Err != nil {
			failed++
		}
		res.Copies = append(res.Copies, c)
		return nil
	})
	if err == nil && failed == len(res.Copies) {
		return flowfabric.RotateWaitpointSecretResult{}, res.Copies[0].Err
	}
	return res, err
}

func rotated(part uint16, got answer) flowfabric.RotatedCopy {
	c := flowfabric.RotatedCopy{Partition: part, Err: got.err}
	if got.err != nil {
		return c
	}
	list, err := elementsOf(fnSecret, &got.msg, 3)
	if err != nil {
		c.Err = err
		return c
	}
	c.Outcome, c.PreviousKID, c.Removed = flowfabric.RotateOutcome(list.str(0)), list.str(1), int(list.int(2))
	return c
}

// beginRotation lets one rotation run at a time in the deployment, until end is
// called; that of a process that died for two minutes.
func (s *Store) beginRotation(ctx context.Context) (end func(), err error) {
	mark := uuid.NewString()
	msg, err := s.call(ctx, fnSecret, tagRotation, "b", mark, strconv.Itoa(flowfabric.AdminRotateTimeoutMs))
	if err != nil {
		return nil, err
	}
	list, err := elementsOf(fnSecret, &msg, 1)
	if err != nil {
		return nil, err
	}
	if list.str(0) != "1" {
		return nil, flowfabric.NewError(flowfabric.CodeResourceExhausted, "a rotation of the waitpoint secret is under way").
			With("pool", flowfabric.PoolAdminRotate)
	}
	return func() {
		if _, err := s.call(context.WithoutCancel(ctx), fnSecret, tagRotation, "e", mark); err != nil {
			s.log.WarnContext(ctx, "the end of a rotation was not noted; the next one may have to wait", "error", err)
		}
	}, nil
}

// ListWaitpointKIDs is the ring of the first partition without its secrets.
func (s *Store) ListWaitpointKIDs(ctx context.Context) (out flowfabric.WaitpointKIDs, err error) {
	msg, err := s.read(ctx, fnReadWaits, s.tag(0), "", "k")
	if err != nil {
		return out, err
	}
	list, err := elementsOf(fnReadWaits, &msg, 2)
	if err != nil {
		return out, err
	}
	ring := rules.KeyRing{Current: list.str(1), ExpiresAt: make(map[string]flowfabric.Millis)}
	for i := 2; i+1 < len(list); i += 2 {
		ring.ExpiresAt[list.str(i)] = list.ms(i + 1)
	}
	return ring.KIDs(list.ms(0)), nil
}
