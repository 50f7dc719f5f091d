package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

func (c *cli) attemptsCommand() *cobra.Command {
	var from uint32
	var limit int
	cmd := &cobra.Command{
		Use:     "attempts ID",
		Short:   "List the attempts of an execution",
		Example: `  flowfabric execution attempts "$id"`,
		Args:    takes("ID"),
		RunE: c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
			if limit < 1 || limit > flowfabric.MaxListLimit {
				return usagef("--limit %d must be 1..%d", limit, flowfabric.MaxListLimit)
			}
			res, err := b.ListAttempts(ctx, flowfabric.ListAttemptsArgs{ExecutionID: id, From: from, Limit: limit})
			if err != nil {
				return err
			}
			next := ""
			if res.Next != nil {
				next = strconv.FormatUint(uint64(*res.Next), 10)
			}
			p := c.printer()
			if p.wantsJSON() {
				attempts := make([]wire.Attempt, len(res.Attempts))
				for i, a := range res.Attempts {
					attempts[i] = wire.NewAttempt(a)
				}
				return p.json(wire.NewPage(attempts, next))
			}
			if err := printAttempts(p, res.Attempts); err != nil {
				return err
			}
			if next != "" {
				return p.line("%s", p.faint("there are more; go on with --from "+next))
			}
			return nil
		}),
	}
	cmd.Flags().Uint32Var(&from, "from", 0, "begin with this attempt")
	cmd.Flags().IntVar(&limit, "limit", 100, "how many to show, 1..1000")
	return cmd
}

func printAttempts(p *printer, attempts []flowfabric.Attempt) error {
	rows := make([][]string, len(attempts))
	for i := range attempts {
		a := &attempts[i]
		took := ""
		if a.EndedAt > 0 && a.StartedAt > 0 {
			took = span(timeOf(a.EndedAt).Sub(timeOf(a.StartedAt)))
		}
		rows[i] = []string{strconv.FormatUint(uint64(a.AttemptIndex), 10), string(a.AttemptType), p.attemptState(a.AttemptState),
			p.when(a.StartedAt), took, clean(string(a.WorkerInstanceID)), short(failureText(a.FailureReason, a.FailureCategory), 70), usageText(a.Usage)}
	}
	return p.table("never claimed: no attempts", []string{"ATTEMPT", "TYPE", "STATE", "STARTED", "TOOK", "WORKER", "FAILURE", "USAGE"}, rows)
}

func (p *printer) attemptState(s flowfabric.AttemptState) string {
	switch s {
	case flowfabric.AttemptEndedSuccess:
		return p.good(string(s))
	case flowfabric.AttemptEndedFailure:
		return p.bad(string(s))
	case flowfabric.AttemptStarted:
		return p.busy(string(s))
	}
	return p.warn(string(s))
}

func usageText(u flowfabric.Usage) string {
	keys := make([]string, 0, len(u))
	for k := range u {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = fmt.Sprintf("%s=%d", clean(k), u[k])
	}
	return strings.Join(parts, " ")
}
