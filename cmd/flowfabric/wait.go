package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/spf13/cobra"
)

// waited is the end of a wait as programs get it.
type waited struct {
	ExecutionID     flowfabric.ExecutionID     `json:"execution_id"`
	PublicState     flowfabric.PublicState     `json:"public_state"`
	Terminal        bool                       `json:"terminal"`
	TimedOut        bool                       `json:"timed_out"`
	Outcome         flowfabric.TerminalOutcome `json:"outcome,omitempty"`
	AttemptIndex    *uint32                    `json:"attempt_index,omitempty"`
	ReplayCount     uint32                     `json:"replay_count"`
	CompletedAt     flowfabric.Millis          `json:"completed_at,omitempty"`
	FailureCategory string                     `json:"failure_category,omitempty"`
	FailureReason   string                     `json:"failure_reason,omitempty"`
	ResultAvailable bool                       `json:"result_available"`
	Payload         []byte                     `json:"payload,omitempty"`
	PayloadEncoding string                     `json:"payload_encoding,omitempty"`

	until flowfabric.WaitUntil
}

// verdict is the exit code of a wait: 0 when the execution completed, or is
// suspended and that was waited for; 1 otherwise.
func (w waited) verdict() error {
	switch {
	case w.PublicState == flowfabric.PublicCompleted:
		return nil
	case !w.TimedOut && w.PublicState == flowfabric.PublicSuspended && w.until == flowfabric.UntilSettled:
		return nil
	}
	return &quietError{code: exitFailed}
}

func (c *cli) waitCommand() *cobra.Command {
	var timeout time.Duration
	var until string
	cmd := &cobra.Command{
		Use:   "wait ID",
		Short: "Wait for an execution to end and print its result",
		Long: `Wait for an execution to end, and print its result. Nothing is polled: the
engine answers when the execution ends.

Exits 0 when the execution completed, 1 when it failed, was cancelled, expired
or skipped, or the time was up.`,
		Example: `  flowfabric wait '{fp:7}:0190cbe2-5f0c-7d3a-8e55-1c2f3a4b5c6d'
  flowfabric wait "$id" --timeout 2m --output json
  flowfabric wait "$id" --until settled`,
		Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := flowfabric.ParseExecutionID(args[0])
			if err != nil {
				return err
			}
			if until != string(flowfabric.UntilTerminal) && until != string(flowfabric.UntilSettled) {
				return usagef("--until %q must be terminal or settled", until)
			}
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				final, err := c.await(cmd.Context(), b, id, flowfabric.WaitUntil(until), timeout)
				if err != nil {
					return err
				}
				p := c.printer()
				if p.wantsJSON() {
					return firstError(p.json(final), final.verdict())
				}
				return firstError(c.printEnding(p, final), final.verdict())
			})
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this time (default: never)")
	cmd.Flags().StringVar(&until, "until", string(flowfabric.UntilTerminal), "what to wait for: terminal, or settled (terminal or suspended)")
	return cmd
}

// await waits until the execution is in a wanted state or the time is up; a
// timeout of 0 never is.
func (c *cli) await(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID, until flowfabric.WaitUntil, timeout time.Duration) (waited, error) {
	m := c.meter("waiting for " + string(id))
	defer m.end()
	start := time.Now()
	for {
		step := time.Duration(flowfabric.MaxWaitMs) * time.Millisecond
		if m.stop != nil {
			step = time.Second // for the progress on the screen
		}
		if timeout > 0 {
			step = min(step, max(0, timeout-time.Since(start)))
		}
		res, err := b.WaitExecution(ctx, flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: step.Milliseconds(), Until: until})
		if err != nil {
			return waited{}, err
		}
		if !res.TimedOut || (timeout > 0 && time.Since(start) >= timeout) {
			return waitedOf(id, until, res), nil
		}
		c.showProgress(ctx, b, m, id)
	}
}

// showProgress brings the meter up to date; it is a courtesy and never fails.
func (c *cli) showProgress(ctx context.Context, b flowfabric.Backend, m *meter, id flowfabric.ExecutionID) {
	if m.stop == nil {
		return
	}
	s, err := b.DescribeExecution(ctx, id)
	if err != nil || s == nil {
		return
	}
	label, fraction := string(s.PublicState), -1.0
	if s.ProgressMessage != "" {
		label += ": " + short(s.ProgressMessage, 60)
	}
	if s.ProgressPct != nil {
		fraction = float64(*s.ProgressPct) / 100
	}
	m.set(label, fraction)
}

func waitedOf(id flowfabric.ExecutionID, until flowfabric.WaitUntil, r flowfabric.WaitExecutionResult) waited {
	return waited{
		ExecutionID: id, PublicState: r.PublicState, Terminal: r.Terminal, TimedOut: r.TimedOut, Outcome: r.Outcome,
		AttemptIndex: r.AttemptIndex, ReplayCount: r.ReplayCount, CompletedAt: r.CompletedAt,
		FailureCategory: r.FailureCategory, FailureReason: r.FailureReason,
		ResultAvailable: r.ResultAvailable, Payload: r.Result, PayloadEncoding: r.ResultEncoding,
		until: until,
	}
}

// printEnding prints the result on standard output, and how it ended on standard
// error when that is not the whole story.
func (c *cli) printEnding(p *printer, w waited) error {
	switch {
	case w.TimedOut:
		_, err := fmt.Fprintf(c.err, "%s  still %s; the time is up\n", w.ExecutionID, p.state(w.PublicState))
		return err
	case w.PublicState != flowfabric.PublicCompleted:
		line := string(w.ExecutionID) + "  " + p.state(w.PublicState)
		if w.FailureReason != "" {
			line += ": " + clean(w.FailureReason)
		}
		if w.FailureCategory != "" {
			line += " (" + clean(w.FailureCategory) + ")"
		}
		_, err := fmt.Fprintln(c.err, line)
		return err
	case !w.ResultAvailable:
		_, err := fmt.Fprintf(c.err, "%s  %s, without a result\n", w.ExecutionID, p.state(w.PublicState))
		return err
	}
	return c.printPayload(w.Payload)
}

// printPayload writes a payload as it is; on a terminal JSON is indented, and a
// line ends it.
func (c *cli) printPayload(payload []byte) error {
	if isTerminal(c.out) {
		if doc := any(nil); json.Unmarshal(payload, &doc) == nil {
			return c.printer().json(json.RawMessage(payload))
		}
		payload = []byte(cleanBlock(string(payload)) + "\n")
	}
	_, err := c.out.Write(payload)
	return err
}

func (c *cli) resultCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "result ID",
		Short: "Print the result of a completed execution",
		Long: `Print the stored result of a completed execution, byte for byte. Exits 3 when
there is none: before completion, after a failure, or when the worker completed
without one.`,
		Example: `  flowfabric result "$id"
  flowfabric result "$id" --out thumbnail.png
  flowfabric result "$id" --output json`,
		Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := flowfabric.ParseExecutionID(args[0])
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				res, err := b.GetExecutionResult(cmd.Context(), id)
				if err != nil {
					return err
				}
				if !res.Present {
					return c.noResult(cmd.Context(), b, id)
				}
				if out != "" && out != "-" {
					return c.saveResult(id, res, out)
				}
				if p := c.printer(); p.wantsJSON() {
					return p.json(map[string]any{"execution_id": id, "payload": res.Payload, "payload_encoding": res.Encoding})
				}
				return c.printPayload(res.Payload)
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "write the result to this file")
	return cmd
}

// noResult says why there is no result.
func (c *cli) noResult(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
	state, err := b.GetExecutionState(ctx, id)
	if err != nil {
		return err
	}
	return flowfabric.NewError(flowfabric.CodeResultNotFound, "execution %s is %s and has no result", id, state)
}

func (c *cli) saveResult(id flowfabric.ExecutionID, res flowfabric.ExecutionResult, path string) error {
	if err := os.WriteFile(path, res.Payload, 0o644); err != nil {
		return err
	}
	p := c.printer()
	if p.wantsJSON() {
		return p.json(map[string]any{"execution_id": id, "file": path, "bytes": len(res.Payload), "payload_encoding": res.Encoding})
	}
	return p.line("%s  %s", path, sizeOf(int64(len(res.Payload))))
}
