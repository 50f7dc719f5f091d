package valkey

import (
	"context"
	"strconv"
	"sync"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// CreatePendingWaitpoint makes an addressable waitpoint before a suspension.
func (s *Store) CreatePendingWaitpoint(ctx context.Context, a flowfabric.CreatePendingWaitpointArgs) (res flowfabric.PendingWaitpoint, err error) {
	if a, err = rules.PrepareCreateWaitpoint(a); err != nil {
		return res, err
	}
	if err := rules.ValidateExecutionID(a.ExecutionID, s.parts); err != nil {
		return res, err
	}
	list, err := s.mint(ctx, a.ExecutionID, func(m *minter) (elements, error) {
		return s.fenced(ctx, "ff_create_pending_waitpoint", 2, a.ExecutionID, &a.Fence, string(a.WaitpointID), a.WaitpointKey,
			strconv.FormatInt(a.ExpiresInMs, 10), m.ring.Current, m.digest(a.WaitpointID, a.WaitpointKey))
	})
	if err != nil {
		return res, err
	}
	s.targets.keep(a.WaitpointID, target{a.ExecutionID, a.WaitpointKey})
	return flowfabric.PendingWaitpoint{WaitpointID: a.WaitpointID, WaitpointKey: a.WaitpointKey,
		Token: flowfabric.NewWaitpointToken(list.str(1)), ExpiresAt: list.ms(0)}, nil
}

// CloseWaitpoint closes a pending waitpoint.
func (s *Store) CloseWaitpoint(ctx context.Context, a flowfabric.CloseWaitpointArgs) (flowfabric.CloseWaitpointOutcome, error) {
	a, err := rules.PrepareCloseWaitpoint(a)
	if err != nil {
		return "", err
	}
	fence := a.Fence
	if a.Source == flowfabric.SourceOperatorOverride {
		fence = flowfabric.Fence{}
	}
	list, err := s.fenced(ctx, "ff_close_waitpoint", 1, a.ExecutionID, &fence, sourceLetter(a.Source), string(a.WaitpointID), a.Reason)
	if err != nil {
		return "", err
	}
	return flowfabric.CloseWaitpointOutcome(list.str(0)), nil
}

// ListPendingWaitpoints lists pending and active waitpoints without tokens.
func (s *Store) ListPendingWaitpoints(ctx context.Context, a flowfabric.ListPendingWaitpointsArgs) (res flowfabric.ListPendingWaitpointsResult, err error) {
	const op, head, stride = "list_pending_waitpoints", 3, 8
	limit, err := rules.ValidateListWaitpoints(a)
	if err != nil {
		return res, err
	}
	list, err := s.inspect(ctx, op, "w", head, a.ExecutionID, string(a.After), strconv.Itoa(limit))
	if err != nil {
		return res, err
	}
	var x *rules.Suspension
	d := decoder{op: op}
	if cond := list.str(1); cond != "" {
		x = &rules.Suspension{}
		x.ResumeCondition = d.condition(cond)
		x.EscalatedAt = d.optionalMs("escalated_at", list.str(2))
	}
	res.Waitpoints = []flowfabric.Waitpoint{}
	for i := head; i+stride <= len(list); i += stride {
		w := rules.Waitpoint{WaitpointID: flowfabric.WaitpointID(list.str(i)), WaitpointKey: list.str(i + 1), State: waitpointState(&d, list.str(i+2)),
			CreatedAt: d.optionalMs("created_at", list.str(i+3)), ActivatedAt: d.optionalMs("activated_at", list.str(i+4)),
			ExpiresAt: d.optionalMs("expires_at", list.str(i+5)), Token: flowfabric.NewWaitpointToken(list.str(i+6) + ":" + list.str(i+7))}
		res.Waitpoints = append(res.Waitpoints, rules.ShowWaitpoint(a.ExecutionID, &w, x))
	}
	if n := len(res.Waitpoints); n > 0 && list.str(0) == "1" {
		res.NextCursor = res.Waitpoints[n-1].WaitpointID
	}
	return res, d.err
}

const fnReadWaits = "ff_read_waits"

// inspect reads of the waits of one execution; what is the letter of a read of the
// library. Its answer has at least n elements.
func (s *Store) inspect(ctx context.Context, op, what string, n int, id flowfabric.ExecutionID, args ...string) (elements, error) {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return nil, err
	}
	msg, err := s.read(ctx, fnReadWaits, tagOf(id), append([]string{uuidOf(id), what}, args...)...)
	if err == nil {
		return elementsOf(fnReadWaits, &msg, n)
	}
	if e := flowfabric.AsError(known(err, id)); e != nil {
		e.Op = op
		return nil, e
	}
	return nil, err
}

// ReadWaitpointToken returns the token of an open waitpoint.
func (s *Store) ReadWaitpointToken(ctx context.Context, id flowfabric.ExecutionID, waitpoint flowfabric.WaitpointID) (none flowfabric.WaitpointToken, err error) {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return none, err
	}
	w, token, state, err := s.readTarget(ctx, tagOf(id), waitpoint)
	if err != nil || w.execution != id {
		return none, err
	}
	d := decoder{op: "read_waitpoint_token"}
	if waitpointState(&d, state).Final() {
		return none, d.err
	}
	return token, d.err
}

// target is what never changes of a waitpoint.
type target struct {
	execution flowfabric.ExecutionID
	key       string
}

const maxTargets = 16_384

// targets remembers waitpoints that this process has made or met, so that a signal
// for one of them needs no look. When it is full it starts anew.
type targets struct {
	mu    sync.Mutex
	known map[flowfabric.WaitpointID]target
}

func (t *targets) find(id flowfabric.WaitpointID) (target, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w, ok := t.known[id]
	return w, ok
}

func (t *targets) keep(id flowfabric.WaitpointID, w target) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil || len(t.known) >= maxTargets {
		t.known = make(map[flowfabric.WaitpointID]target)
	}
	t.known[id] = w
}

// waitpointKey is the name of a waitpoint's key.
func waitpointKey(tag string, id flowfabric.WaitpointID) string {
	return "ff:wp:" + tag + ":" + string(id)
}

// readTarget reads a waitpoint: whose it is, its key, and its token.
func (s *Store) readTarget(ctx context.Context, tag string, id flowfabric.WaitpointID) (w target, token flowfabric.WaitpointToken, state string, err error) {
	got := s.plain(ctx, s.b.Hmget().Key(waitpointKey(tag, id)).Field("x", "k", "s", "kid", "dg").Build())[0]
	if got.err != nil {
		return w, token, "", got.err
	}
	list, err := got.msg.ToArray()
	if err != nil {
		return w, token, "", err
	}
	l := elements(list)
	if l.str(0) == "" {
		return w, token, "", nil
	}
	w = target{flowfabric.ExecutionID(tag + ":" + l.str(0)), l.str(1)}
	if kid, digest := l.str(3), l.str(4); kid != "" && digest != "" {
		token = flowfabric.NewWaitpointToken(kid + ":" + digest)
	}
	s.targets.keep(id, w)
	return w, token, l.str(2), nil
}
