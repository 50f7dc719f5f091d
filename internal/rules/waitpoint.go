package rules

import (
	"cmp"
	"slices"

	"github.com/flowfabric/flowfabric"
)

// StoredWaitpoint is a waitpoint as found in the store, whatever execution it is
// of.
type StoredWaitpoint struct {
	ExecutionID flowfabric.ExecutionID
	Waitpoint
}

// waiting returns the state's Wait to be changed: a copy, made once a step.
func (t *step) waiting() *Wait {
	if t.fx.Wait != nil {
		return t.s.Wait
	}
	t.fx.Wait = &WaitChange{}
	w := &Wait{}
	if was := t.s.Wait; was != nil {
		*w = *was
		w.Open, w.Buffered = slices.Clone(was.Open), slices.Clone(was.Buffered)
		if was.Suspension != nil {
			x := *was.Suspension
			w.Suspension = &x
		}
	}
	t.s.Wait = w
	return w
}

// putWaitpoint writes a waitpoint as it is now. A final one leaves the open ones.
func (t *step) putWaitpoint(p *Waitpoint) {
	w := t.waiting()
	i, there := openAt(w.Open, p.WaitpointID)
	switch {
	case there && p.State.Final():
		w.Open = slices.Delete(w.Open, i, i+1)
	case there:
		w.Open[i] = *p
	case !p.State.Final():
		w.Open = slices.Insert(w.Open, i, *p)
	}
	written := &t.fx.Wait.Waitpoints
	if j := slices.IndexFunc(*written, func(o Waitpoint) bool { return o.WaitpointID == p.WaitpointID }); j >= 0 {
		(*written)[j] = *p
		return
	}
	*written = append(*written, *p)
}

// closeWaitpoint closes a waitpoint with a reason. A pending one may have signals
// buffered: dropBuffered comes after the last of them.
func (t *step) closeWaitpoint(p *Waitpoint, reason string) {
	t.finishWaitpoint(p, flowfabric.WaitpointClosed, reason)
}

func (t *step) finishWaitpoint(p *Waitpoint, state flowfabric.WaitpointState, reason string) {
	p.State, p.ClosedAt, p.CloseReason = state, t.now, reason
	t.putWaitpoint(p)
}

// dropBuffered gives the signals that are buffered on waitpoints which are open no
// more their final effect: they never act. It looks at each signal once, however
// many waitpoints have ended.
func (t *step) dropBuffered() {
	w := t.waiting()
	kept := w.Buffered[:0]
	for _, g := range w.Buffered {
		if _, open := openAt(w.Open, g.WaitpointID); open {
			kept = append(kept, g)
			continue
		}
		dropped := *g
		dropped.Effect = flowfabric.EffectNeverActivated
		t.fx.Wait.Rewritten = append(t.fx.Wait.Rewritten, dropped)
	}
	w.Buffered = kept
}

// openAt finds a waitpoint among the open ones.
func openAt(open []Waitpoint, id flowfabric.WaitpointID) (int, bool) {
	return slices.BinarySearchFunc(open, id, func(o Waitpoint, id flowfabric.WaitpointID) int {
		return cmp.Compare(o.WaitpointID, id)
	})
}

// supersedeWaits closes the satisfied waitpoints of the suspension before.
func (t *step) supersedeWaits() {
	for _, open := range slices.Clone(t.waiting().Open) {
		if open.State == flowfabric.WaitpointSatisfied {
			t.closeWaitpoint(&open, string(flowfabric.ClosedSuperseded))
		}
	}
}

// withinOpenLimit refuses more than 1,000 open waitpoints, with more to come.
func withinOpenLimit(w *Wait, more int) error {
	if w == nil || len(w.Open)+more <= flowfabric.MaxOpenWaitpoints {
		return nil
	}
	return flowfabric.NewError(flowfabric.CodeWaitpointLimitExceeded, "the execution would have more than %d open waitpoints", flowfabric.MaxOpenWaitpoints).
		With("limit", flowfabric.MaxOpenWaitpoints)
}

// CreatePendingWaitpoint makes an addressable waitpoint before the execution
// suspends. (Specification 03, section 4.1.)
func CreatePendingWaitpoint(s *State, a flowfabric.CreatePendingWaitpointArgs, stored *StoredWaitpoint, ring KeyRing, now flowfabric.Millis) (flowfabric.PendingWaitpoint, Effects, error) {
	var none flowfabric.PendingWaitpoint
	if _, fx, err := leaseBound(s, a.Fence, "", now, true); err != nil {
		return none, fx, err
	}
	e := &s.Exec
	if stored != nil {
		if stored.ExecutionID != e.ExecutionID || stored.AttemptID != e.CurrentAttemptID || stored.WaitpointKey != a.WaitpointKey {
			return none, Effects{}, waitpointExists(a.WaitpointID)
		}
		return flowfabric.PendingWaitpoint{WaitpointID: stored.WaitpointID, WaitpointKey: stored.WaitpointKey, Token: stored.Token,
			ExpiresAt: stored.ExpiresAt}, Effects{}, nil
	}
	if err := withinOpenLimit(s.Wait, 1); err != nil {
		return none, Effects{}, err
	}
	token, err := ring.Mint(e.ExecutionID, a.WaitpointID, a.WaitpointKey)
	if err != nil {
		return none, Effects{}, err
	}
	t := begin(s, now)
	w := Waitpoint{WaitpointID: a.WaitpointID, WaitpointKey: a.WaitpointKey, AttemptID: e.CurrentAttemptID,
		State: flowfabric.WaitpointPending, Token: token, CreatedAt: now, ExpiresAt: waitInstant(now, a.ExpiresInMs)}
	if s.Attempt != nil {
		w.AttemptIndex = s.Attempt.AttemptIndex
	}
	t.putWaitpoint(&w)
	fx, err := t.finish()
	if err != nil {
		return none, fx, err
	}
	return flowfabric.PendingWaitpoint{WaitpointID: w.WaitpointID, WaitpointKey: w.WaitpointKey, Token: token, ExpiresAt: w.ExpiresAt}, fx, nil
}

// CloseWaitpoint closes a pending waitpoint. (Specification 03, section 4.7.)
func CloseWaitpoint(s *State, a flowfabric.CloseWaitpointArgs, stored *StoredWaitpoint, now flowfabric.Millis) (flowfabric.CloseWaitpointOutcome, Effects, error) {
	if source(a.Source) == flowfabric.SourceLeaseHolder {
		if _, fx, err := leaseBound(s, a.Fence, "", now, true); err != nil {
			return "", fx, err
		}
	}
	switch {
	case stored == nil || stored.ExecutionID != s.Exec.ExecutionID:
		return "", Effects{}, waitpointNotFound(a.WaitpointID)
	case stored.State.Final():
		return flowfabric.WaitpointAlreadyClosed, Effects{}, nil
	case stored.State != flowfabric.WaitpointPending:
		return "", Effects{}, flowfabric.NewError(flowfabric.CodeWaitpointInUse, "waitpoint %s is %s", a.WaitpointID, stored.State).
			With("state", string(stored.State))
	}
	t := begin(s, now)
	w := stored.Waitpoint
	t.closeWaitpoint(&w, a.Reason)
	t.dropBuffered()
	fx, err := t.finish()
	return flowfabric.WaitpointNowClosed, fx, err
}

// pendingExpiry is the earliest end of a pending waitpoint's life; 0 for none.
func pendingExpiry(s *State) (at flowfabric.Millis) {
	if s.Wait == nil {
		return 0
	}
	for i := range s.Wait.Open {
		if w := &s.Wait.Open[i]; w.State == flowfabric.WaitpointPending {
			at = sooner(at, w.ExpiresAt)
		}
	}
	return at
}

// ExpireWaitpoints ends the life of the pending waitpoints that are past it.
func ExpireWaitpoints(s *State, now flowfabric.Millis) Effects {
	if !reached(pendingExpiry(s), now) {
		return Effects{}
	}
	t := begin(s, now)
	for _, w := range slices.Clone(t.waiting().Open) {
		if w.State == flowfabric.WaitpointPending && w.ExpiresAt <= now {
			t.finishWaitpoint(&w, flowfabric.WaitpointExpired, string(flowfabric.ClosedNeverCommitted))
		}
	}
	t.dropBuffered()
	return t.settle()
}

// ShowWaitpoint is a pending or active waitpoint as listings show it; x is the
// execution's suspension, whose condition an active one belongs to.
func ShowWaitpoint(id flowfabric.ExecutionID, w *Waitpoint, x *Suspension) flowfabric.Waitpoint {
	shown := flowfabric.Waitpoint{
		WaitpointID: w.WaitpointID, WaitpointKey: w.WaitpointKey, ExecutionID: id, State: w.State,
		ConditionKind: flowfabric.ShownNone, RequiredSignalNames: []string{},
		CreatedAt: w.CreatedAt, ActivatedAt: w.ActivatedAt, ExpiresAt: w.ExpiresAt,
		TokenKID: w.Token.KID(), TokenFingerprint: w.Token.Fingerprint(),
	}
	if w.State != flowfabric.WaitpointActive || x == nil {
		return shown
	}
	switch {
	case x.ResumeCondition.Kind == flowfabric.ConditionOperatorOnly || x.EscalatedAt != 0:
		shown.ConditionKind = flowfabric.ShownOperatorOnly
	case x.ResumeCondition.Kind == flowfabric.ConditionTimeoutOnly:
		shown.ConditionKind = flowfabric.ShownTimeoutOnly
	default:
		shown.ConditionKind = flowfabric.ShownSignal
		shown.RequiredSignalNames = x.ResumeCondition.RequiredNames(w.WaitpointKey)
	}
	return shown
}

func waitpointExists(id flowfabric.WaitpointID) error {
	return flowfabric.NewError(flowfabric.CodeWaitpointAlreadyExists, "waitpoint %s exists already", id)
}

func waitpointNotFound(id flowfabric.WaitpointID) error {
	return flowfabric.NewError(flowfabric.CodeWaitpointNotFound, "the execution has no waitpoint %s", id)
}
