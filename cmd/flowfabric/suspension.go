package main

import (
	"context"
	"fmt"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

// openSuspension returns the suspension the execution waits in, nil when it
// waits in none.
func openSuspension(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) (*flowfabric.Suspension, error) {
	x, err := b.GetSuspension(ctx, id)
	if err != nil || x == nil || x.ClosedAt != 0 {
		return nil, err
	}
	return x, nil
}

// waitSentence says why an execution waits, in one sentence.
func (p *printer) waitSentence(x *flowfabric.Suspension) string {
	text := fmt.Sprintf("it is suspended (%s, %s):", x.ReasonCode, p.when(x.CreatedAt))
	if len(x.Waitpoints) > 0 {
		text += fmt.Sprintf(" waitpoint %s", x.Waitpoints[0].WaitpointID)
		if more := len(x.Waitpoints) - 1; more > 0 {
			text += fmt.Sprintf(" (and %d more)", more)
		}
		text += " awaits"
	} else {
		text += " it awaits"
	}
	text += " " + awaited(x)
	if x.TimeoutAt != 0 {
		text += "; timeout " + p.timeoutText(x)
	}
	return text
}

// timeoutText says what the timeout does and when; "" without one.
func (p *printer) timeoutText(x *flowfabric.Suspension) string {
	if x.TimeoutAt == 0 {
		return ""
	}
	return fmt.Sprintf("%s: %s", p.when(x.TimeoutAt), x.TimeoutBehavior)
}

func (c *cli) executionSuspensionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "suspension ID",
		Short: "Show what an execution waits for, or waited for last",
		Long: `Show the current suspension of an execution, or its last one: the reason, the
condition with how far each part of it is, the waitpoints and the timeout. Exits 3
when it has never been suspended.`,
		Example: `  flowfabric execution suspension "$id"
  flowfabric execution suspension "$id" --output json`,
		Args: takes("ID"),
		RunE: c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
			x, err := b.GetSuspension(ctx, id)
			if err != nil {
				return err
			}
			if x == nil {
				return flowfabric.NewError(flowfabric.CodeSuspensionNotFound, "execution %s has never been suspended", id)
			}
			p := c.printer()
			if p.wantsJSON() {
				return p.json(wire.NewSuspension(*x))
			}
			return p.printSuspension(x)
		}),
	}
}

func (p *printer) printSuspension(x *flowfabric.Suspension) error {
	state, awaits := p.warn("open"), "awaits"
	if x.ClosedAt != 0 {
		state, awaits = "closed: "+string(x.CloseReason), "awaited"
	}
	received := ""
	if x.SignalCount > 0 {
		received = fmt.Sprintf("%d received, %d counted, the last %s", x.SignalCount, x.MatchedSignalCount, p.when(x.LastSignalAt))
	}
	err := p.details([]field{
		{"execution", p.bold(string(x.ExecutionID))},
		{"suspension", string(x.SuspensionID)},
		{"state", state},
		{"reason", fmt.Sprintf("%s, asked for by the %s", x.ReasonCode, x.RequestedBy)},
		{awaits, awaited(x)},
		{"attempt", indexText(&x.AttemptIndex)},
		{"suspended", p.instant(x.CreatedAt)},
		{"timeout", p.instant(x.TimeoutAt)},
		{"on timeout", string(x.TimeoutBehavior)},
		{"escalated", p.instant(x.EscalatedAt)},
		{"closed", p.instant(x.ClosedAt)},
		{"closed by", string(x.CloserSignalID)},
		{"signals", received},
	})
	if err != nil {
		return err
	}
	if err := firstError(p.line("%s", p.faint("condition")), p.printCondition(x)); err != nil || len(x.Waitpoints) == 0 {
		return err
	}
	rows := make([][]string, len(x.Waitpoints))
	for i, w := range x.Waitpoints {
		rows[i] = []string{string(w.WaitpointID), clean(w.WaitpointKey), joined(x.ResumeCondition.RequiredNames(w.WaitpointKey))}
	}
	return p.table("", []string{"WAITPOINT", "KEY", "NAMES"}, rows)
}

func (c *cli) executionResumeCommand() *cobra.Command {
	var reason string
	var delay time.Duration
	cmd := &cobra.Command{
		Use:   "resume ID",
		Short: "End an execution's wait, whatever it waits for",
		Long: `End an execution's wait, whatever it waits for. The next worker that claims it goes
on with the same attempt, and sees no signals. It is run at once, or after the
delay its suspension asks for, which --delay overrides.`,
		Example: `  flowfabric execution resume "$id" --reason "agreed by telephone"
  flowfabric execution resume "$id" --delay 10m`,
		Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			resume := flowfabric.ResumeExecutionArgs{Reason: reason}
			if cmd.Flags().Changed("delay") {
				if delay < 0 {
					return usagef("--delay %s is negative", delay)
				}
				ms := delay.Milliseconds()
				resume.ResumeDelayMs = &ms
			}
			return c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
				resume.ExecutionID = id
				res, err := b.ResumeExecution(ctx, resume)
				if err != nil {
					return err
				}
				p := c.printer()
				if p.wantsJSON() {
					return p.json(struct {
						ExecutionID flowfabric.ExecutionID `json:"execution_id"`
						wire.ResumeResponse
					}{id, wire.NewResumeResponse(res)})
				}
				return p.line("%s  %s", id, p.state(res.PublicState))
			})(cmd, args)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "resumed by an operator", "why")
	cmd.Flags().DurationVar(&delay, "delay", 0, "run it only after this time (default: what its suspension says)")
	return cmd
}
