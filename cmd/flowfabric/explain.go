package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

// explanation is why an execution is not running, as programs get it.
type explanation struct {
	ExecutionID flowfabric.ExecutionID         `json:"execution_id"`
	PublicState flowfabric.PublicState         `json:"public_state"`
	Summary     string                         `json:"summary"`
	Advice      []string                       `json:"advice"`
	Routing     *flowfabric.RoutingExplanation `json:"routing,omitempty"`
	Lane        *laneBrief                     `json:"lane,omitempty"`
	// Suspension is what a suspended execution waits in.
	Suspension *wire.Suspension `json:"suspension,omitempty"`
}

type laneBrief struct {
	LaneID      flowfabric.LaneID    `json:"lane_id"`
	State       flowfabric.LaneState `json:"state"`
	StateReason string               `json:"state_reason,omitempty"`
	// MaxConcurrency is the lane's bound on running executions, 0 for none, and
	// Active how many of its executions are active now.
	MaxConcurrency int   `json:"max_concurrency,omitempty"`
	Active         int64 `json:"active"`
}

func (c *cli) executionExplainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain ID",
		Short: "Say why an execution is not running, and what would help",
		Long: `Say why an execution is not running: its state, its lane, which live workers
could run it and what each of them lacks.`,
		Example: `  flowfabric execution explain "$id"`,
		Args:    takes("ID"),
		RunE: c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
			s, err := describe(ctx, b, id)
			if err != nil {
				return err
			}
			e, err := explain(ctx, b, s, c.printer())
			if err != nil {
				return err
			}
			return c.printExplanation(e)
		}),
	}
}

// explain gathers what bears on the execution's state.
func explain(ctx context.Context, b flowfabric.Backend, s *flowfabric.ExecutionSnapshot, p *printer) (*explanation, error) {
	e := &explanation{ExecutionID: s.ExecutionID, PublicState: s.PublicState, Advice: []string{}}
	if s.PublicState.Terminal() {
		e.Summary = "it has ended: " + string(s.PublicState)
		if text := failureText(s.FailureReason, s.FailureCategory); text != "" {
			e.Summary += ": " + text
		}
		if text := cancelText(s); text != "" {
			e.Summary += ": " + text
		}
		e.Advice = append(e.Advice, "run it anew: flowfabric execution replay '"+string(s.ExecutionID)+"'")
		return e, nil
	}
	lane, err := b.GetLane(ctx, s.LaneID)
	if err != nil && !flowfabric.IsNotFound(err) {
		return nil, err
	}
	if err == nil {
		e.Lane = &laneBrief{lane.LaneID, lane.State, lane.StateReason, lane.MaxConcurrency, lane.Counts[flowfabric.PublicActive]}
	}
	if e.Routing, err = b.ExplainRouting(ctx, s.ExecutionID); err != nil {
		return nil, err
	}
	if s.LifecyclePhase == flowfabric.PhaseSuspended {
		x, err := openSuspension(ctx, b, s.ExecutionID)
		if err != nil {
			return nil, err
		}
		if x != nil {
			shown := wire.NewSuspension(*x)
			e.Suspension = &shown
		}
	}
	e.explainLive(s, p)
	return e, nil
}

// explainLive says what a non-terminal execution waits for.
func (e *explanation) explainLive(s *flowfabric.ExecutionSnapshot, p *printer) {
	id := "'" + string(s.ExecutionID) + "'"
	switch {
	case s.OwnershipState == flowfabric.OwnershipLeased && s.CurrentLease != nil && s.CurrentLease.ExpiresAt < flowfabric.Millis(p.now.UnixMilli()):
		e.Summary = fmt.Sprintf("its worker %s has let the lease lapse %s", s.CurrentLease.WorkerInstanceID, p.when(s.CurrentLease.ExpiresAt))
	case s.OwnershipState == flowfabric.OwnershipLeased && s.CurrentLease != nil:
		e.Summary = fmt.Sprintf("it is running on %s, lease renewed %s", s.CurrentLease.WorkerInstanceID, p.when(s.CurrentLease.LastHeartbeatAt))
	case s.LifecyclePhase == flowfabric.PhaseActive:
		e.Summary = "its worker lost it (" + s.BlockingDetail + "); the next capable worker takes over, unless it is held (execution release-hold)"
	case s.LifecyclePhase == flowfabric.PhaseSuspended && e.Suspension != nil:
		e.Summary = p.waitSentence(&e.Suspension.Suspension)
		e.adviseWaiting(id)
	case s.LifecyclePhase == flowfabric.PhaseSuspended: // it has resumed since it was looked at
		e.Summary = "it is suspended: " + string(s.BlockingReason)
	case s.EligibilityState == flowfabric.NotEligibleUntilTime:
		e.Summary = fmt.Sprintf("it is delayed (%s); it may run %s", s.BlockingReason, p.when(s.DelayUntil))
	case s.EligibilityState == flowfabric.BlockedByOperator:
		e.Summary = "an operator has paused it"
		e.Advice = append(e.Advice, "let it go on: flowfabric execution unpause "+id)
	case s.EligibilityState == flowfabric.BlockedByLaneState:
		e.Summary = fmt.Sprintf("its lane %q is disabled", s.LaneID)
		e.Advice = append(e.Advice, fmt.Sprintf("enable the lane: flowfabric lane enable %q", string(s.LaneID)))
	case s.EligibilityState == flowfabric.BlockedByRoute:
		e.Summary = "no live worker can run it: " + s.BlockingDetail
	case s.EligibilityState == flowfabric.EligibleNow && e.Lane != nil && e.Lane.MaxConcurrency > 0 && e.Lane.Active >= int64(e.Lane.MaxConcurrency):
		e.Summary = fmt.Sprintf("its lane %q is at its limit: %d of %d are running", s.LaneID, e.Lane.Active, e.Lane.MaxConcurrency)
		e.Advice = append(e.Advice, fmt.Sprintf("wait for one to end, or raise the limit: flowfabric lane set %q --max-concurrency N", string(s.LaneID)))
	case s.EligibilityState == flowfabric.EligibleNow:
		e.Summary = "it is waiting for a worker to claim it"
	default:
		e.Summary = strings.TrimSpace(string(s.BlockingReason) + ": " + s.BlockingDetail)
	}
	e.adviseRouting(s)
}

// adviseWaiting says how a wait can be ended by hand.
func (e *explanation) adviseWaiting(id string) {
	x := &e.Suspension.Suspension
	if len(x.ResumeCondition.Keys()) > 0 && x.EscalatedAt == 0 {
		e.Advice = append(e.Advice, "decide: flowfabric waitpoint approve "+id+", or reject")
	}
	e.Advice = append(e.Advice,
		"see how far it is: flowfabric execution suspension "+id,
		"end the wait whatever it is for: flowfabric execution resume "+id)
}

func (e *explanation) adviseRouting(s *flowfabric.ExecutionSnapshot) {
	waits := s.EligibilityState == flowfabric.EligibleNow || s.EligibilityState == flowfabric.BlockedByRoute ||
		(s.LifecyclePhase == flowfabric.PhaseActive && s.OwnershipState != flowfabric.OwnershipLeased)
	if !waits || e.Routing == nil || e.Routing.Covered {
		return
	}
	need := fmt.Sprintf("that serves lane %q and namespace %q", s.LaneID, s.Namespace)
	if len(e.Routing.RequiredCapabilities) > 0 {
		need += " with the capabilities " + joined(e.Routing.RequiredCapabilities)
	}
	if len(e.Routing.Workers) == 0 {
		e.Advice = append(e.Advice, "no worker of its lane and namespace is alive; start one "+need)
		return
	}
	e.Advice = append(e.Advice, "start a worker "+need)
}

func (c *cli) printExplanation(e *explanation) error {
	p := c.printer()
	if p.wantsJSON() {
		return p.json(e)
	}
	fields := []field{
		{"execution", p.bold(string(e.ExecutionID))},
		{"state", p.state(e.PublicState)},
		{"because", clean(e.Summary)},
	}
	if e.Lane != nil {
		lane := clean(string(e.Lane.LaneID)) + "  " + p.laneState(e.Lane.State)
		if e.Lane.StateReason != "" {
			lane += "  " + clean(e.Lane.StateReason)
		}
		fields = append(fields, field{"lane", lane})
	}
	if e.Routing != nil {
		fields = append(fields, field{"needs", joined(e.Routing.RequiredCapabilities)}, field{"uncovered since", p.instant(e.Routing.UncoveredSince)})
	}
	for _, advice := range e.Advice {
		fields = append(fields, field{"advice", clean(advice)})
	}
	if err := p.details(fields); err != nil {
		return err
	}
	if e.Routing == nil || len(e.Routing.Workers) == 0 {
		return nil
	}
	rows := make([][]string, len(e.Routing.Workers))
	for i, w := range e.Routing.Workers {
		verdict := p.good("yes")
		if len(w.Missing) > 0 {
			verdict = p.warn("lacks " + joined(w.Missing))
		}
		rows[i] = []string{clean(string(w.WorkerInstanceID)), clean(string(w.WorkerID)), verdict}
	}
	if err := p.line(""); err != nil {
		return err
	}
	return p.table("", []string{"WORKER", "POOL", "CAN RUN IT"}, rows)
}
