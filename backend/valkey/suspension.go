package valkey

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

const (
	fnSuspend = "ff_suspend_execution"
	fnResume  = "ff_resume_execution"
)

// Suspend gives a lease up and waits, or finds the condition satisfied already.
func (s *Store) Suspend(ctx context.Context, a flowfabric.SuspendArgs) (res flowfabric.SuspendResult, err error) {
	if a, err = rules.PrepareSuspend(a); err != nil {
		return res, err
	}
	if err := rules.ValidateExecutionID(a.ExecutionID, s.parts); err != nil {
		return res, err
	}
	call := func(m *minter) (elements, error) {
		return s.fenced(ctx, fnSuspend, 4, a.ExecutionID, &a.Fence, suspendArgs(&a, m)...)
	}
	var list elements
	if slices.ContainsFunc(a.Waitpoints, func(b flowfabric.WaitpointBinding) bool { return !b.UsePending }) {
		list, err = s.mint(ctx, a.ExecutionID, call)
	} else {
		list, err = call(&minter{})
	}
	if err != nil {
		return res, err
	}
	if res, err = s.suspendResult(a.ExecutionID, list); err != nil {
		return res, err
	}
	if !res.Replayed && res.Outcome == flowfabric.SuspendSuspended {
		s.suspended(a.ExecutionID)
	}
	return res, nil
}

// suspendArgs are the arguments of ff_suspend_execution behind the fence.
func suspendArgs(a *flowfabric.SuspendArgs, m *minter) []string {
	ms := ""
	if a.TimeoutMs != nil {
		ms = strconv.FormatInt(*a.TimeoutMs, 10)
	}
	p := &a.ResumePolicy
	args := []string{string(a.SuspensionID), string(a.ResumeCondition.JSON()), string(a.ReasonCode), string(a.ReasonCode.BlockingReason()),
		string(a.RequestedBy), ms, optional(int64(a.TimeoutAt)), string(a.TimeoutBehavior), optional(p.ResumeDelayMs),
		mark(!*p.CloseWaitpointOnResume), mark(!*p.ConsumeMatchedSignals), a.ContinuationMetadataPointer, a.IdempotencyKey, m.ring.Current}
	for i := range a.Waitpoints {
		b := &a.Waitpoints[i]
		digest := ""
		if !b.UsePending {
			digest = m.digest(b.WaitpointID, b.WaitpointKey)
		}
		args = append(args, string(b.WaitpointID), b.WaitpointKey, digest)
	}
	return args
}

// suspendResult reads the answer to a suspend, and remembers the waitpoints.
func (s *Store) suspendResult(id flowfabric.ExecutionID, list elements) (res flowfabric.SuspendResult, err error) {
	const head, stride = 4, 3
	res.Replayed, res.SuspensionID = list.str(0) == "1", flowfabric.SuspensionID(list.str(2))
	n := int(list.int(3))
	if len(list) < head+n*stride {
		return res, badAnswer(fnSuspend)
	}
	for i := head; i < head+n*stride; i += stride {
		b := flowfabric.BoundWaitpoint{WaitpointID: flowfabric.WaitpointID(list.str(i)), WaitpointKey: list.str(i + 1),
			Token: flowfabric.NewWaitpointToken(list.str(i + 2))}
		s.targets.keep(b.WaitpointID, target{id, b.WaitpointKey})
		res.Waitpoints = append(res.Waitpoints, b)
	}
	switch list.str(1) {
	case "s":
		res.Outcome = flowfabric.SuspendSuspended
		return res, nil
	case "a":
		res.Outcome = flowfabric.SuspendAlreadySatisfied
	default:
		return res, badAnswer(fnSuspend)
	}
	d := decoder{op: operation(fnSuspend)}
	res.Signals = rules.ObservedSignals(readSignals(&d, id, list[head+n*stride:]))
	return res, d.err
}

// ResumeExecution ends a suspension whatever its condition.
func (s *Store) ResumeExecution(ctx context.Context, a flowfabric.ResumeExecutionArgs) (res flowfabric.ResumeExecutionResult, err error) {
	if a, err = rules.PrepareResume(a); err != nil {
		return res, err
	}
	reason, delay := flowfabric.ClosedOperatorResume, ""
	if a.Trigger == flowfabric.ResumeTriggerBudgetRecovered {
		reason = flowfabric.ClosedBudgetRecovered
	}
	if a.ResumeDelayMs != nil {
		delay = strconv.FormatInt(*a.ResumeDelayMs, 10)
	}
	list, err := s.change(ctx, fnResume, 1, a.ExecutionID, string(reason), delay)
	if err != nil {
		return res, err
	}
	s.offered(a.ExecutionID, list.str(1))
	return flowfabric.ResumeExecutionResult{PublicState: flowfabric.PublicState(list.str(0))}, nil
}

// GetSuspension returns the current or last suspension.
func (s *Store) GetSuspension(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Suspension, error) {
	const op = "get_suspension"
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return nil, err
	}
	got := s.plain(ctx, s.b.Hexists().Key(execKey(id, "core")).Field("st").Build(), s.b.Hgetall().Key(execKey(id, "susp")).Build())
	for _, a := range got {
		if a.err != nil {
			return nil, a.err
		}
	}
	if there, err := got[0].msg.AsBool(); err != nil || !there {
		return nil, cmp.Or(err, error(notFound(id)))
	}
	h, err := pairsOf(&got[1].msg)
	if err != nil {
		return nil, err
	}
	x, err := decodeSuspension(op, id, h)
	if err != nil || x == nil {
		return nil, err
	}
	return rules.ShowSuspension(x), nil
}

// pairsOf reads a hash as a plain command answers it.
func pairsOf(msg *vk.ValkeyMessage) (hash, error) {
	m, err := msg.AsStrMap()
	if err != nil {
		return nil, err
	}
	h := make(hash, 0, 2*len(m))
	for field, v := range m {
		h = append(h, field, v)
	}
	return h, nil
}

// ExpireSuspension applies a suspension's timeout if it has come.
func (s *Store) ExpireSuspension(ctx context.Context, id flowfabric.ExecutionID) (res flowfabric.ExpireSuspensionResult, err error) {
	list, err := s.change(ctx, fnResume, 3, id, "timeout", "")
	if flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotFound {
		return flowfabric.ExpireSuspensionResult{Outcome: flowfabric.SuspensionTimeoutNotApplied, Reason: string(flowfabric.CodeExecutionNotFound)}, nil
	}
	if err != nil {
		return res, err
	}
	if list.str(0) == "" {
		return flowfabric.ExpireSuspensionResult{Outcome: flowfabric.SuspensionTimeoutNotApplied, Reason: list.str(2)}, nil
	}
	res = flowfabric.ExpireSuspensionResult{Outcome: flowfabric.SuspensionTimeoutApplied, Behavior: flowfabric.TimeoutBehavior(list.str(2)),
		PublicState: flowfabric.PublicState(list.str(0))}
	if res.PublicState.Terminal() {
		s.settled(id)
	}
	s.offered(id, list.str(1))
	return res, nil
}

// SuspendForBudget suspends an active execution whose budget is spent.
func (s *Store) SuspendForBudget(ctx context.Context, a flowfabric.SuspendForBudgetArgs) (bool, error) {
	if a.SuspensionID == "" {
		a.SuspensionID = flowfabric.NewSuspensionID()
	}
	cond := flowfabric.OperatorOnly()
	const code = flowfabric.SuspendPausedByBudget
	list, err := s.fenced(ctx, fnSuspend, 2, a.ExecutionID, &a.Fence, string(a.SuspensionID), string(cond.JSON()), string(code),
		string(code.BlockingReason()), string(flowfabric.RequestedByPolicy), "", "", "", "", "", "", a.BudgetID, a.Detail)
	if err != nil || list.str(1) != "s" {
		return false, err
	}
	s.suspended(a.ExecutionID)
	return true, nil
}

// ListSuspended pages over the suspended executions, partition by partition, each
// in the order of timeout, none last, and identifier.
func (s *Store) ListSuspended(ctx context.Context, a flowfabric.ListSuspendedArgs) (res flowfabric.ListSuspendedResult, err error) {
	limit, err := rules.ValidateListSuspended(a, s.parts)
	if err != nil {
		return res, err
	}
	parts := s.allPartitions()
	if a.Partition != nil {
		parts = []uint16{*a.Partition}
	}
	after := suspendedCursor{}
	if a.Cursor != "" {
		var ok bool
		if after, ok = parseSuspendedCursor(a.Cursor); !ok || !slices.Contains(parts, after.part) {
			return res, flowfabric.NewError(flowfabric.CodeInvalidCursor, "the cursor is not one of this list")
		}
	}
	res.Executions = []flowfabric.SuspendedExecution{}
	for _, part := range parts {
		if part < after.part {
			continue
		}
		held, err := s.suspendedOn(ctx, part, &a)
		if err != nil {
			return flowfabric.ListSuspendedResult{}, err
		}
		for _, x := range held {
			if a.Cursor != "" && comparePlaces(placeOf(part, &x), after) <= 0 {
				continue
			}
			if n := len(res.Executions); n == limit {
				last := &res.Executions[n-1]
				res.NextCursor = placeOf(last.ExecutionID.Partition(), last).String()
				return res, nil
			}
			res.Executions = append(res.Executions, x)
		}
	}
	return res, nil
}

// placeOf is where an execution stands; one without a timeout behind all others.
func placeOf(part uint16, x *flowfabric.SuspendedExecution) suspendedCursor {
	at := x.TimeoutAt
	if at == 0 {
		at = flowfabric.MaxInstant + 1
	}
	return suspendedCursor{part, at, uuidOf(x.ExecutionID)}
}

func comparePlaces(x, y suspendedCursor) int {
	return cmp.Or(cmp.Compare(x.part, y.part), cmp.Compare(x.at, y.at), cmp.Compare(x.uuid, y.uuid))
}

// suspendedOn reads the suspended executions of a partition, in order.
func (s *Store) suspendedOn(ctx context.Context, part uint16, a *flowfabric.ListSuspendedArgs) ([]flowfabric.SuspendedExecution, error) {
	members, err := s.members(ctx, part, a.Cursor != "")
	if err != nil {
		return nil, err
	}
	var held []flowfabric.SuspendedExecution
	for chunk := range slices.Chunk(members, listChunk) {
		found, err := s.suspendedOf(ctx, s.tag(part), chunk, a)
		if err != nil {
			return nil, err
		}
		held = append(held, found...)
	}
	slices.SortFunc(held, func(x, y flowfabric.SuspendedExecution) int {
		return comparePlaces(placeOf(part, &x), placeOf(part, &y))
	})
	return held, nil
}

func (s *Store) suspendedOf(ctx context.Context, tag string, uuids []string, a *flowfabric.ListSuspendedArgs) ([]flowfabric.SuspendedExecution, error) {
	cmds := make([]vk.Completed, len(uuids))
	for i, e := range uuids {
		cmds[i] = s.b.Hmget().Key(execKey(flowfabric.ExecutionID(tag+":"+e), "core")).
			Field("st", "namespace", "pz", "sto", "wr", "blocking_reason").Build()
	}
	var held []flowfabric.SuspendedExecution
	d := decoder{op: "list_suspended"}
	for i, got := range s.plain(ctx, cmds...) {
		if got.err != nil {
			return nil, got.err
		}
		list, err := got.msg.ToArray()
		if err != nil {
			return nil, err
		}
		l := elements(list)
		if l.str(0) != "Si" {
			continue
		}
		id := flowfabric.ExecutionID(tag + ":" + uuids[i])
		ns, err := s.namespaceOf(ctx, id, l.str(1))
		if err != nil {
			return nil, err
		}
		if !visible(ns, a.Namespace, a.Namespaces) {
			continue
		}
		var v flowfabric.StateVector
		decodeVector(l.str(0), l.str(5), &v)
		c := core{suspendReason: l.str(4)}
		since, _, _ := strings.Cut(strings.TrimPrefix(l.str(2), "s:"), ":")
		held = append(held, flowfabric.SuspendedExecution{ExecutionID: id, SuspendedAt: d.ms("suspended_at", since),
			TimeoutAt: d.optionalMs("timeout_at", l.str(3)), ReasonCode: c.reasonCode(v.BlockingReason)})
	}
	return held, d.err
}

// namespaceOf resolves a namespace that lies in the text hash.
func (s *Store) namespaceOf(ctx context.Context, id flowfabric.ExecutionID, stored string) (flowfabric.Namespace, error) {
	if stored != inText {
		return flowfabric.Namespace(stored), nil
	}
	got := s.plain(ctx, s.b.Hget().Key(execKey(id, "text")).Field("namespace").Build())[0]
	if got.err != nil {
		return "", got.err
	}
	ns, err := got.msg.ToString()
	return flowfabric.Namespace(ns), err
}
