package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

func (c *cli) waitpointCommand() *cobra.Command {
	cmd := groupCommand("waitpoint", "See what executions wait for, approve and reject",
		c.waitpointListCommand(), c.waitpointTokenCommand(),
		c.decideCommand("approve", "Approve: send the signal that lets an execution go on", flowfabric.SignalNameApproved),
		c.decideCommand("reject", "Reject: send the signal that says no", flowfabric.SignalNameRejected),
		c.waitpointCloseCommand())
	cmd.Aliases = []string{"waitpoints", "wp"}
	return cmd
}

type waitpointListOptions struct {
	namespace string
	cursor    string
	limit     int
}

func (c *cli) waitpointListCommand() *cobra.Command {
	var o waitpointListOptions
	cmd := &cobra.Command{
		Use:   "list [EXECUTION]",
		Short: "List the suspended executions, or the open waitpoints of one execution",
		Long: `List the suspended executions and what they wait for, those whose timeout comes
first at the front of each partition; or the open waitpoints of one execution, those
it waits on and those made beforehand. Tokens are not shown.`,
		Example: `  flowfabric waitpoint list
  flowfabric waitpoint list "$id" --output json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return takes("EXECUTION")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.limit < 1 || o.limit > flowfabric.MaxListLimit {
				return usagef("--limit %d must be 1..%d", o.limit, flowfabric.MaxListLimit)
			}
			if len(args) == 0 {
				return c.with(cmd.Context(), func(b flowfabric.Backend) error { return c.listWaiting(cmd.Context(), b, &o) })
			}
			if o.namespace != "" {
				return usagef("--namespace is for the list of all executions")
			}
			return c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
				return c.listWaitpoints(ctx, b, id, &o)
			})(cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.namespace, "namespace", "", "only this namespace")
	f.StringVar(&o.cursor, "cursor", "", "go on behind this place of an earlier list")
	f.IntVar(&o.limit, "limit", flowfabric.DefaultWaitpointsLimit, "how many to show, 1..1000")
	return cmd
}

func (c *cli) listWaitpoints(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID, o *waitpointListOptions) error {
	res, err := b.ListPendingWaitpoints(ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id, After: flowfabric.WaitpointID(o.cursor), Limit: o.limit})
	if err != nil {
		return err
	}
	p := c.printer()
	if p.wantsJSON() {
		return p.json(wire.NewPage(res.Waitpoints, string(res.NextCursor)))
	}
	rows := make([][]string, len(res.Waitpoints))
	for i, w := range res.Waitpoints {
		rows[i] = []string{string(w.WaitpointID), p.waitpointState(w.State), short(w.WaitpointKey, 50), namesText(&w), p.when(w.CreatedAt), p.when(w.ExpiresAt), clean(w.TokenKID)}
	}
	if err := p.table("no open waitpoints", []string{"WAITPOINT", "STATE", "KEY", "AWAITS", "MADE", "EXPIRES", "KID"}, rows); err != nil {
		return err
	}
	return p.more(string(res.NextCursor))
}

// more says how to go on behind a page.
func (p *printer) more(next string) error {
	if next == "" {
		return nil
	}
	return p.line("%s", p.faint("there are more; go on with --cursor '"+next+"'"))
}

func (p *printer) waitpointState(s flowfabric.WaitpointState) string {
	if s == flowfabric.WaitpointActive {
		return p.warn(string(s))
	}
	return string(s)
}

// namesText says which signals a waitpoint awaits.
func namesText(w *flowfabric.Waitpoint) string {
	switch {
	case w.ConditionKind == flowfabric.ShownNone:
		return "not suspended yet"
	case w.ConditionKind == flowfabric.ShownOperatorOnly:
		return "an operator"
	case w.ConditionKind == flowfabric.ShownTimeoutOnly:
		return "its timeout"
	case len(w.RequiredSignalNames) == 0:
		return "any signal"
	}
	names := make([]string, len(w.RequiredSignalNames))
	for i, name := range w.RequiredSignalNames {
		names[i] = clean(name)
	}
	return short(strings.Join(names, " or "), 60)
}

// waitingExecution is a suspended execution and what it waits for, as programs
// get it.
type waitingExecution struct {
	flowfabric.SuspendedExecution
	// Awaits is the condition in words.
	Awaits          string                     `json:"awaits"`
	Waitpoints      []flowfabric.WaitpointRef  `json:"waitpoints"`
	TimeoutBehavior flowfabric.TimeoutBehavior `json:"timeout_behavior,omitempty"`
}

// waiting gathers the suspended executions behind a cursor, at most limit.
func waiting(ctx context.Context, b flowfabric.Backend, o *waitpointListOptions) (items []waitingExecution, next string, err error) {
	args := flowfabric.ListSuspendedArgs{Namespace: flowfabric.Namespace(o.namespace), Cursor: o.cursor}
	for {
		args.Limit = o.limit - len(items)
		page, err := b.ListSuspended(ctx, args)
		if err != nil {
			return nil, "", err
		}
		for _, e := range page.Executions {
			x, err := openSuspension(ctx, b, e.ExecutionID)
			if err != nil && !flowfabric.IsNotFound(err) {
				return nil, "", err
			}
			if x == nil { // it has resumed, or ended, meanwhile
				continue
			}
			items = append(items, waitingExecution{SuspendedExecution: e, Awaits: awaited(x),
				Waitpoints: append([]flowfabric.WaitpointRef{}, x.Waitpoints...), TimeoutBehavior: x.TimeoutBehavior})
		}
		if page.NextCursor == "" || len(items) >= o.limit {
			return items, page.NextCursor, nil
		}
		args.Cursor = page.NextCursor
	}
}

func (c *cli) listWaiting(ctx context.Context, b flowfabric.Backend, o *waitpointListOptions) error {
	items, next, err := waiting(ctx, b, o)
	if err != nil {
		return err
	}
	p := c.printer()
	if p.wantsJSON() {
		return p.json(wire.NewPage(items, next))
	}
	rows := make([][]string, len(items))
	for i, e := range items {
		rows[i] = p.waitingRow(e)
	}
	if err := p.table("no execution is suspended", waitingHeaders, rows); err != nil {
		return err
	}
	return p.more(next)
}

var waitingHeaders = []string{"EXECUTION", "SUSPENDED", "REASON", "AWAITS", "TIMEOUT"}

func (p *printer) waitingRow(e waitingExecution) []string {
	timeout := p.when(e.TimeoutAt)
	if timeout != "" {
		timeout += ": " + string(e.TimeoutBehavior)
	}
	return []string{string(e.ExecutionID), p.when(e.SuspendedAt), string(e.ReasonCode), short(e.Awaits, 60), timeout}
}

func (c *cli) waitpointTokenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "token EXECUTION WAITPOINT",
		Short: "Print the token of an open waitpoint",
		Long: `Print the token of an open waitpoint, and nothing else: whoever has it can send that
waitpoint signals. Over a server this needs a token of scope admin, and is written to
its audit log. Exits 3 when there is no such waitpoint, or it is closed.`,
		Example: `  flowfabric waitpoint token "$id" "$waitpoint" > token`,
		Args:    takes("EXECUTION", "WAITPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, waitpoint, err := parseWaitpoint(args[0], args[1])
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				token, err := b.ReadWaitpointToken(cmd.Context(), id, waitpoint)
				if err != nil {
					return err
				}
				if token.IsZero() {
					return flowfabric.NewError(flowfabric.CodeWaitpointNotFound, "execution %s has no open waitpoint %s", id, waitpoint)
				}
				if p := c.printer(); p.wantsJSON() {
					return p.json(wire.NewTokenResponse(token))
				}
				_, err = fmt.Fprintln(c.out, token.Reveal())
				return err
			})
		},
	}
}

func (c *cli) waitpointCloseCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "close EXECUTION WAITPOINT",
		Short: "Close a waitpoint that no worker will wait on",
		Long: `Close a waitpoint that was made beforehand and that no worker will wait on. Signals
kept for it never act. One that an execution waits on is not closed: resume or cancel
the execution instead.`,
		Example: `  flowfabric waitpoint close "$id" "$waitpoint" --reason "asked twice"`,
		Args:    takes("EXECUTION", "WAITPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, waitpoint, err := parseWaitpoint(args[0], args[1])
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				outcome, err := b.CloseWaitpoint(cmd.Context(), flowfabric.CloseWaitpointArgs{
					ExecutionID: id, WaitpointID: waitpoint, Source: flowfabric.SourceOperatorOverride, Reason: reason})
				if err != nil {
					return err
				}
				p := c.printer()
				if p.wantsJSON() {
					return p.json(map[string]any{"outcome": outcome, "execution_id": id, "waitpoint_id": waitpoint})
				}
				text := "closed"
				if outcome == flowfabric.WaitpointAlreadyClosed {
					text = "was closed before"
				}
				return p.line("%s  %s", waitpoint, text)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, at most 256 bytes (default "+flowfabric.DefaultCloseReason+")")
	return cmd
}
