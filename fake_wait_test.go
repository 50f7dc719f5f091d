package flowfabric

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
)

// fakeWait is what the fake store keeps of an execution's waits.
type fakeWait struct {
	suspension *Suspension
	waitpoints map[WaitpointID]*fakeWaitpoint
	signals    []RecordedSignal
	replays    map[string]SuspendResult // by lease and idempotency key
	open       bool
}

type fakeWaitpoint struct {
	id    WaitpointID
	key   string
	state WaitpointState
	token WaitpointToken
}

func (e *fakeExecution) waits() *fakeWait {
	if e.wait == nil {
		e.wait = &fakeWait{waitpoints: map[WaitpointID]*fakeWaitpoint{}, replays: map[string]SuspendResult{}}
	}
	return e.wait
}

func fakeToken(id ExecutionID, w WaitpointID, key string) WaitpointToken {
	sum := sha256.Sum256([]byte(string(id) + "|" + string(w) + "|" + key))
	return NewWaitpointToken("k1:" + hex.EncodeToString(sum[:]))
}

// evaluate returns the signals that add to the open suspension's condition, and
// whether they meet it. It knows Single and AllOf, which is enough here.
func (x *fakeWait) evaluate() (satisfiers []*RecordedSignal, met bool) {
	var node func(c *ResumeCondition) bool
	node = func(c *ResumeCondition) bool {
		if c.Kind == ConditionAllOf {
			all := true
			for i := range c.Members {
				all = node(&c.Members[i]) && all
			}
			return all
		}
		for i := range x.signals {
			s := &x.signals[i]
			bound := slices.ContainsFunc(x.suspension.Waitpoints, func(r WaitpointRef) bool { return r.WaitpointID == s.WaitpointID })
			if c.Kind == ConditionSingle && bound && s.WaitpointKey == c.WaitpointKey &&
				c.Matcher.Accepts(s.SignalName, s.SignalCategory, s.SourceType) {
				if !slices.Contains(satisfiers, s) {
					satisfiers = append(satisfiers, s)
				}
				return true
			}
		}
		return false
	}
	met = node(&x.suspension.ResumeCondition)
	slices.SortFunc(satisfiers, func(a, b *RecordedSignal) int { return int(a.Seq) - int(b.Seq) })
	return satisfiers, met
}

// close ends the current suspension.
func (x *fakeWait) close(reason SuspensionCloseReason, satisfiers []*RecordedSignal) {
	x.open = false
	x.suspension.CloseReason = reason
	for _, s := range satisfiers {
		x.suspension.SatisfierSignalIDs = append(x.suspension.SatisfierSignalIDs, s.SignalID)
	}
	for _, ref := range x.suspension.Waitpoints {
		x.waitpoints[ref.WaitpointID].state = WaitpointClosed
	}
}

func (x *fakeWait) resumeSignals() []ResumeSignal {
	var out []ResumeSignal
	if x.suspension == nil || !x.suspension.CloseReason.BySignals() {
		return out
	}
	for i := range x.signals {
		if slices.Contains(x.suspension.SatisfierSignalIDs, x.signals[i].SignalID) {
			out = append(out, x.signals[i].ResumeSignal())
		}
	}
	return out
}

func (f *fakeBackend) Describe(ctx context.Context) (BackendInfo, error) {
	return BackendInfo{Family: "fake", DeploymentID: f.deployment}, f.enter(ctx, "describe", 1)
}

func (f *fakeBackend) Suspend(ctx context.Context, a SuspendArgs) (SuspendResult, error) {
	f.mu.Lock()
	f.suspends = append(f.suspends, a)
	f.mu.Unlock()
	if err := f.enter(ctx, "suspend", 1); err != nil {
		return SuspendResult{}, err
	}
	var r SuspendResult
	var err error
	f.change(func() { r, err = f.suspend(a) })
	if err != nil {
		return r, err
	}
	return r, f.leave("suspend")
}

func (f *fakeBackend) suspend(a SuspendArgs) (SuspendResult, error) {
	e := f.executions[a.ExecutionID]
	replay := string(a.Fence.LeaseID) + "/" + a.IdempotencyKey
	if e != nil {
		if known, ok := e.waits().replays[replay]; ok && a.IdempotencyKey != "" {
			known.Replayed = true
			return known, nil
		}
		if x := e.waits(); x.open && x.suspension.LeaseID == a.Fence.LeaseID && x.suspension.LeaseEpoch == a.Fence.LeaseEpoch {
			return SuspendResult{}, NewError(CodeAlreadySuspended, "suspended").With("suspension_id", string(x.suspension.SuspensionID))
		}
	}
	e, err := f.check(a.ExecutionID, a.Fence)
	if err != nil {
		return SuspendResult{}, err
	}
	if err := a.ResumeCondition.Validate(a.TimeoutMs != nil || a.TimeoutAt != 0); err != nil {
		return SuspendResult{}, err
	}
	x := e.waits()
	r := SuspendResult{SuspensionID: a.SuspensionID}
	record := &Suspension{
		SuspensionID: a.SuspensionID, ExecutionID: e.id, AttemptID: e.attempt, LeaseID: e.lease, LeaseEpoch: e.epoch,
		ReasonCode: a.ReasonCode, ResumeCondition: a.ResumeCondition, ContinuationMetadataPointer: a.ContinuationMetadataPointer,
	}
	var bound []*fakeWaitpoint
	for _, b := range a.Waitpoints {
		w := &fakeWaitpoint{id: b.WaitpointID, key: b.WaitpointKey}
		if b.UsePending {
			if w = x.waitpoints[b.WaitpointID]; w == nil {
				return SuspendResult{}, NewError(CodeWaitpointNotFound, "no waitpoint")
			}
			if w.state != WaitpointPending {
				return SuspendResult{}, NewError(CodeWaitpointNotPending, "it is %s", w.state)
			}
		}
		w.token = fakeToken(e.id, w.id, w.key)
		bound = append(bound, w)
		record.Waitpoints = append(record.Waitpoints, WaitpointRef{w.id, w.key})
		r.Waitpoints = append(r.Waitpoints, BoundWaitpoint{w.id, w.key, w.token})
	}
	for _, w := range bound {
		w.state = WaitpointActive
		x.waitpoints[w.id] = w
	}
	x.suspension, x.open = record, true
	if satisfiers, met := x.evaluate(); met {
		r.Outcome = SuspendAlreadySatisfied
		x.close(ClosedAlreadySatisfied, satisfiers)
		r.Signals = x.resumeSignals()
		for i := range r.Waitpoints {
			r.Waitpoints[i].Token = WaitpointToken{}
		}
	} else {
		r.Outcome = SuspendSuspended
		e.state, e.ended = PublicSuspended, a.Fence
	}
	x.replays[replay] = r
	return r, nil
}

// resume ends the wait of a suspended execution.
func (e *fakeExecution) resume(reason SuspensionCloseReason, satisfiers []*RecordedSignal) {
	e.wait.close(reason, satisfiers)
	e.state, e.resumes = PublicWaiting, true
}

func (f *fakeBackend) DeliverSignal(ctx context.Context, a DeliverSignalArgs) (DeliverSignalResult, error) {
	f.mu.Lock()
	f.delivered = append(f.delivered, a)
	f.mu.Unlock()
	if err := f.enter(ctx, "deliver_signal", 1); err != nil {
		return DeliverSignalResult{}, err
	}
	var r DeliverSignalResult
	var err error
	f.change(func() { r, err = f.deliver(a) })
	if err != nil {
		return r, err
	}
	return r, f.leave("deliver_signal")
}

func (f *fakeBackend) deliver(a DeliverSignalArgs) (DeliverSignalResult, error) {
	if a.Token.IsZero() {
		return DeliverSignalResult{}, NewError(CodeMissingToken, "no token")
	}
	e := f.executions[a.ExecutionID]
	if e == nil || e.waits().waitpoints[a.WaitpointID] == nil || e.wait.waitpoints[a.WaitpointID].token != a.Token {
		return DeliverSignalResult{}, NewError(CodeInvalidToken, "no")
	}
	x, w := e.wait, e.wait.waitpoints[a.WaitpointID]
	for i := range x.signals {
		s := &x.signals[i]
		same := s.SignalID == a.Signal.SignalID || s.IdempotencyKey != "" && s.IdempotencyKey == a.Signal.IdempotencyKey
		if s.WaitpointID == a.WaitpointID && same {
			return DeliverSignalResult{Outcome: DeliverDuplicate, SignalID: s.SignalID, Effect: s.Effect}, nil
		}
	}
	if w.state != WaitpointPending && w.state != WaitpointActive {
		return DeliverSignalResult{}, NewError(CodeWaitpointClosed, "closed")
	}
	g := a.Signal
	x.signals = append(x.signals, RecordedSignal{
		SignalID: g.SignalID, ExecutionID: e.id, WaitpointID: w.id, WaitpointKey: w.key, SignalName: g.Name, SignalCategory: g.Category,
		SourceType: g.SourceType, SourceIdentity: g.SourceIdentity, Payload: g.Payload, PayloadEncoding: g.PayloadEncoding,
		IdempotencyKey: g.IdempotencyKey, AcceptedAt: storeNow(), Seq: uint64(len(x.signals) + 1), Effect: EffectBuffered,
	})
	s := &x.signals[len(x.signals)-1]
	if w.state == WaitpointActive {
		s.Effect = EffectMatcherFailed
		satisfiers, met := x.evaluate()
		if slices.Contains(satisfiers, s) {
			s.Effect = EffectAppended
		}
		if met {
			s.Effect = EffectResumed
			e.resume(ClosedResumed, satisfiers)
		}
	}
	return DeliverSignalResult{
		Outcome: DeliverAccepted, SignalID: s.SignalID, Effect: s.Effect, RequiresConfirmation: s.Effect == EffectBuffered,
	}, nil
}

func (f *fakeBackend) DeliverApprovalSignal(ctx context.Context, a DeliverApprovalSignalArgs) (DeliverSignalResult, error) {
	token, err := f.ReadWaitpointToken(ctx, a.ExecutionID, a.WaitpointID)
	if err != nil {
		return DeliverSignalResult{}, err
	}
	return f.DeliverSignal(ctx, DeliverSignalArgs{ExecutionID: a.ExecutionID, WaitpointID: a.WaitpointID, Token: token, Signal: a.Signal()})
}

func (f *fakeBackend) ObserveSignals(ctx context.Context, a ObserveSignalsArgs) ([]ResumeSignal, error) {
	if err := f.enter(ctx, "observe_signals", 1); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.executions[a.ExecutionID]
	if e == nil {
		return nil, NewError(CodeExecutionNotFound, "no execution")
	}
	if x := e.waits(); x.suspension != nil && x.suspension.AttemptID == a.AttemptID {
		return x.resumeSignals(), nil
	}
	return nil, nil
}

func (f *fakeBackend) CreatePendingWaitpoint(ctx context.Context, a CreatePendingWaitpointArgs) (PendingWaitpoint, error) {
	if err := f.enter(ctx, "create_pending_waitpoint", 1); err != nil {
		return PendingWaitpoint{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e, err := f.check(a.ExecutionID, a.Fence)
	if err != nil {
		return PendingWaitpoint{}, err
	}
	w := &fakeWaitpoint{id: a.WaitpointID, key: a.WaitpointKey, state: WaitpointPending, token: fakeToken(e.id, a.WaitpointID, a.WaitpointKey)}
	if old := e.waits().waitpoints[a.WaitpointID]; old != nil && old.key != a.WaitpointKey {
		return PendingWaitpoint{}, NewError(CodeWaitpointAlreadyExists, "taken")
	}
	e.wait.waitpoints[a.WaitpointID] = w
	return PendingWaitpoint{w.id, w.key, w.token, storeNow() + Millis(a.ExpiresInMs)}, f.leaveLocked("create_pending_waitpoint")
}

func (f *fakeBackend) CloseWaitpoint(ctx context.Context, a CloseWaitpointArgs) (CloseWaitpointOutcome, error) {
	if err := f.enter(ctx, "close_waitpoint", 1); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.Source == SourceLeaseHolder {
		if _, err := f.check(a.ExecutionID, a.Fence); err != nil {
			return "", err
		}
	}
	w := f.executions[a.ExecutionID].waits().waitpoints[a.WaitpointID]
	switch {
	case w == nil:
		return "", NewError(CodeWaitpointNotFound, "no waitpoint")
	case w.state.Final():
		return WaitpointAlreadyClosed, nil
	case w.state != WaitpointPending:
		return "", NewError(CodeWaitpointInUse, "it is %s", w.state)
	}
	w.state = WaitpointClosed
	return WaitpointNowClosed, nil
}

func (f *fakeBackend) ReadWaitpointToken(ctx context.Context, id ExecutionID, waitpoint WaitpointID) (WaitpointToken, error) {
	if err := f.enter(ctx, "read_waitpoint_token", 1); err != nil {
		return WaitpointToken{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.executions[id]; e != nil {
		if w := e.waits().waitpoints[waitpoint]; w != nil && !w.state.Final() {
			return w.token, nil
		}
	}
	return WaitpointToken{}, nil
}

func (f *fakeBackend) GetSuspension(ctx context.Context, id ExecutionID) (*Suspension, error) {
	if err := f.enter(ctx, "get_suspension", 1); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.executions[id]; e != nil {
		return e.waits().suspension, nil
	}
	return nil, NewError(CodeExecutionNotFound, "no execution")
}

func (f *fakeBackend) ResumeExecution(ctx context.Context, a ResumeExecutionArgs) (ResumeExecutionResult, error) {
	if err := f.enter(ctx, "resume_execution", 1); err != nil {
		return ResumeExecutionResult{}, err
	}
	var err error
	f.change(func() {
		if e := f.executions[a.ExecutionID]; e.state == PublicSuspended {
			e.resume(ClosedOperatorResume, nil)
			return
		}
		err = NewError(CodeExecutionNotSuspended, "not suspended")
	})
	return ResumeExecutionResult{PublicState: PublicWaiting}, err
}

func (f *fakeBackend) ListSuspended(ctx context.Context, a ListSuspendedArgs) (ListSuspendedResult, error) {
	f.mu.Lock()
	f.listed = append(f.listed, a)
	f.mu.Unlock()
	if err := f.enter(ctx, "list_suspended", 1); err != nil {
		return ListSuspendedResult{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var r ListSuspendedResult
	skip := a.Cursor != ""
	for _, id := range f.order {
		if skip || f.executions[id].state != PublicSuspended {
			skip = skip && string(id) != a.Cursor
			continue
		}
		if a.Limit > 0 && len(r.Executions) == a.Limit {
			r.NextCursor = string(r.Executions[a.Limit-1].ExecutionID)
			break
		}
		r.Executions = append(r.Executions, SuspendedExecution{ExecutionID: id})
	}
	return r, nil
}

func (f *fakeBackend) ListPendingWaitpoints(ctx context.Context, a ListPendingWaitpointsArgs) (ListPendingWaitpointsResult, error) {
	if err := f.enter(ctx, "list_pending_waitpoints", 1); err != nil {
		return ListPendingWaitpointsResult{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var r ListPendingWaitpointsResult
	for _, w := range f.executions[a.ExecutionID].waits().waitpoints {
		if !w.state.Final() && w.id > a.After {
			r.Waitpoints = append(r.Waitpoints, Waitpoint{WaitpointID: w.id, WaitpointKey: w.key, State: w.state})
		}
	}
	slices.SortFunc(r.Waitpoints, func(a, b Waitpoint) int {
		if a.WaitpointID < b.WaitpointID {
			return -1
		}
		return 1
	})
	if limit := min(a.Limit, f.pageSize); f.pageSize > 0 && len(r.Waitpoints) > limit {
		r.Waitpoints = r.Waitpoints[:limit]
		r.NextCursor = r.Waitpoints[limit-1].WaitpointID
	}
	return r, nil
}

func (f *fakeBackend) ListSignals(ctx context.Context, a ListSignalsArgs) (ListSignalsResult, error) {
	if err := f.enter(ctx, "list_signals", 1); err != nil {
		return ListSignalsResult{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var r ListSignalsResult
	for _, s := range f.executions[a.ExecutionID].waits().signals {
		if s.Seq <= a.After {
			continue
		}
		if a.Limit > 0 && len(r.Signals) == a.Limit {
			r.Next = r.Signals[a.Limit-1].Seq
			break
		}
		s.Payload = nil
		r.Signals = append(r.Signals, s)
	}
	return r, nil
}

func (f *fakeBackend) GetSignal(ctx context.Context, id ExecutionID, signal SignalID) (*RecordedSignal, error) {
	if err := f.enter(ctx, "get_signal", 1); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.executions[id].waits().signals {
		if s.SignalID == signal {
			return &s, nil
		}
	}
	return nil, NewError(CodeSignalNotFound, "no signal")
}

func (f *fakeBackend) RotateWaitpointSecret(ctx context.Context, a RotateWaitpointSecretArgs) (RotateWaitpointSecretResult, error) {
	return RotateWaitpointSecretResult{NewKID: a.NewKID, Copies: []RotatedCopy{{Outcome: RotateRotated}}}, f.enter(ctx, "rotate_waitpoint_secret", 1)
}

func (f *fakeBackend) ListWaitpointKIDs(ctx context.Context) (WaitpointKIDs, error) {
	return WaitpointKIDs{CurrentKID: DefaultKID}, f.enter(ctx, "list_waitpoint_kids", 1)
}
