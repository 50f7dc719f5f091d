package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

// waitVerdict is the exit code of a wait: 0 when the execution completed, or is
// suspended and that was waited for; 1 otherwise.
func waitVerdict(r flowfabric.WaitExecutionResult, until flowfabric.WaitUntil) error {
	switch {
	case r.PublicState == flowfabric.PublicCompleted:
		return nil
	case !r.TimedOut && r.PublicState == flowfabric.PublicSuspended && until == flowfabric.UntilSettled:
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
				end, err := c.await(cmd.Context(), b, id, flowfabric.WaitUntil(until), timeout)
				if err != nil {
					return err
				}
				verdict := waitVerdict(end, flowfabric.WaitUntil(until))
				p := c.printer()
				if !p.wantsJSON() {
					return firstError(c.printEnding(p, id, end), verdict)
				}
				return firstError(p.json(struct {
					ExecutionID flowfabric.ExecutionID `json:"execution_id"`
					wire.WaitExecutionResponse
				}{id, wire.NewWaitExecutionResponse(end)}), verdict)
			})
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this time (default: never)")
	cmd.Flags().StringVar(&until, "until", string(flowfabric.UntilTerminal), "what to wait for: terminal, or settled (terminal or suspended)")
	return cmd
}

// await waits until the execution is in a wanted state or the time is up; a
// timeout of 0 never is. A server that goes away meanwhile has a minute to come
// back.
func (c *cli) await(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID, until flowfabric.WaitUntil, timeout time.Duration) (flowfabric.WaitExecutionResult, error) {
	m := c.meter("waiting for " + string(id))
	defer m.end()
	start := time.Now()
	again := patientRetry{first: 200 * time.Millisecond, most: 5 * time.Second, limit: time.Minute}
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
			if again.started && again.wait(ctx, c, err) && (timeout <= 0 || time.Since(start) < timeout) {
				continue
			}
			return res, err
		}
		again.succeeded()
		if !res.TimedOut || (timeout > 0 && time.Since(start) >= timeout) {
			return res, nil
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

// printEnding prints the result on standard output, and how it ended on standard
// error when that is not the whole story.
func (c *cli) printEnding(p *printer, id flowfabric.ExecutionID, r flowfabric.WaitExecutionResult) error {
	if r.PublicState == flowfabric.PublicCompleted && r.ResultAvailable {
		return c.printPayload(r.Result)
	}
	line := p.state(r.PublicState)
	switch {
	case r.TimedOut:
		line = "still " + line + "; the time is up"
	case r.PublicState == flowfabric.PublicCompleted:
		line += ", without a result"
	default:
		if text := failureText(r.FailureReason, r.FailureCategory); text != "" {
			line += ": " + text
		}
	}
	_, err := fmt.Fprintf(c.err, "%s  %s\n", id, line)
	return err
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
