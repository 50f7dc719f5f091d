package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

func (c *cli) revokeLeaseCommand() *cobra.Command {
	var args flowfabric.RevokeLeaseArgs
	var expected string
	cmd := &cobra.Command{
		Use:   "revoke-lease ID",
		Short: "Take an execution away from its worker",
		Long: `Take an execution away from its worker now, without ending it: the worker's next
write is refused, and another worker takes over. With --hold nobody takes over
until the hold is released.`,
		Example: `  flowfabric execution revoke-lease "$id" --reason "worker hangs"
  flowfabric execution revoke-lease "$id" --hold
  flowfabric execution release-hold "$id"`,
		Args: takes("ID"),
		RunE: c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
			args.ExecutionID, args.ExpectedLeaseID, args.RevokedBy = id, flowfabric.LeaseID(expected), "operator"
			res, err := b.RevokeLease(ctx, args)
			if err != nil {
				return err
			}
			p := c.printer()
			if res.Outcome == flowfabric.RevokeAlreadySatisfied {
				if p.wantsJSON() {
					return p.json(map[string]any{"outcome": res.Outcome, "execution_id": id, "reason": res.Reason})
				}
				return p.line("%s  nothing to revoke: %s", id, res.Reason)
			}
			if p.wantsJSON() {
				return p.json(map[string]any{"outcome": res.Outcome, "execution_id": id, "lease_id": res.LeaseID, "lease_epoch": res.LeaseEpoch})
			}
			return p.line("%s  lease of epoch %d revoked", id, res.LeaseEpoch)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&args.Reason, "reason", "operator_revoke", "why, 1..256 bytes")
	f.StringVar(&expected, "expected-lease-id", "", "revoke only this lease")
	f.BoolVar(&args.Hold, "hold", false, "keep it from being reclaimed until release-hold")
	return cmd
}

func (c *cli) releaseHoldCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "release-hold ID",
		Short: "Let an execution revoked with --hold be reclaimed",
		Args:  takes("ID"),
		RunE: c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
			released, err := b.ReleaseReclaimHold(ctx, id)
			if err != nil {
				return err
			}
			outcome := "not_held"
			if released {
				outcome = "released"
			}
			p := c.printer()
			if p.wantsJSON() {
				return p.json(map[string]any{"outcome": outcome, "execution_id": id})
			}
			return p.line("%s  %s", id, outcome)
		}),
	}
}

func (c *cli) reclaimCommand() *cobra.Command {
	var worker, instance, lane string
	var capabilities []string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "reclaim ID",
		Short: "Grant an interrupted execution to a named worker",
		Long: `Grant one interrupted execution, its lease lapsed or revoked, to a named worker,
instead of leaving it to the scheduler. Prints the grant, which the worker
consumes.`,
		Example: `  flowfabric execution reclaim "$id" --worker mailer --instance mailer-2 --lane default --output json`,
		Args:    takes("ID"),
		RunE: c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
			args := flowfabric.IssueReclaimGrantArgs{
				ExecutionID: id, WorkerID: flowfabric.WorkerID(worker), WorkerInstanceID: flowfabric.WorkerInstanceID(instance),
				LaneID: flowfabric.LaneID(lane), Capabilities: capabilities, GrantTTLMs: ttl.Milliseconds()}
			res, err := b.IssueReclaimGrant(ctx, args)
			if err != nil {
				return err
			}
			return c.printReclaim(id, res)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&worker, "worker", "", "the worker's pool (worker_id)")
	f.StringVar(&instance, "instance", "", "the worker's process (worker_instance_id)")
	f.StringVar(&lane, "lane", string(flowfabric.DefaultLane), "the execution's lane")
	f.StringSliceVar(&capabilities, "capabilities", nil, "the worker's capabilities (default: those it registered)")
	f.DurationVar(&ttl, "ttl", flowfabric.DefaultGrantTTLMs*time.Millisecond, "how long the grant holds, up to 1m")
	requires(cmd, "worker", "instance")
	return cmd
}

func (c *cli) printReclaim(id flowfabric.ExecutionID, res flowfabric.IssueReclaimGrantResult) error {
	p := c.printer()
	var verdict error
	if res.Outcome != flowfabric.ReclaimGranted {
		verdict = &quietError{code: exitConflict}
	}
	if p.wantsJSON() {
		return firstError(p.json(wire.NewReclaimResponse(res)), verdict)
	}
	text := ""
	switch res.Outcome {
	case flowfabric.ReclaimGranted:
		text = fmt.Sprintf("granted: %s, expires %s", res.Grant.GrantID, p.when(res.Grant.ExpiresAt))
	case flowfabric.ReclaimCapExceeded:
		text = p.bad(fmt.Sprintf("reclaimed %d times of at most %d: the execution has failed", res.ReclaimCount, res.MaxReclaimCount))
	default:
		text = p.warn("not reclaimable: " + clean(res.Detail))
	}
	return firstError(p.line("%s  %s", id, text), verdict)
}

func (c *cli) historyCommand() *cobra.Command {
	var after uint64
	var limit int
	cmd := &cobra.Command{
		Use:   "history ID",
		Short: "Show the lease events of an execution: who held it, when and why not any more",
		Args:  takes("ID"),
		RunE: c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
			if limit < 1 || limit > flowfabric.MaxListLimit {
				return usagef("--limit %d must be 1..%d", limit, flowfabric.MaxListLimit)
			}
			res, err := b.GetLeaseHistory(ctx, flowfabric.LeaseHistoryArgs{ExecutionID: id, After: after, Limit: limit})
			if err != nil {
				return err
			}
			next := ""
			if res.Next != 0 {
				next = strconv.FormatUint(res.Next, 10)
			}
			p := c.printer()
			if p.wantsJSON() {
				events := make([]wire.LeaseEvent, len(res.Events))
				for i, e := range res.Events {
					events[i] = wire.NewLeaseEvent(e)
				}
				return p.json(wire.NewPage(events, next))
			}
			rows := make([][]string, len(res.Events))
			for i, e := range res.Events {
				rows[i] = []string{timeOf(e.At).Format("15:04:05.000"), p.when(e.At), e.Kind, count(e.LeaseEpoch), indexText(e.AttemptIndex),
					clean(string(e.WorkerInstanceID)), short(e.Reason, 60)}
			}
			if err := p.table("no lease events", []string{"TIME", "", "EVENT", "EPOCH", "ATTEMPT", "WORKER", "REASON"}, rows); err != nil {
				return err
			}
			if next != "" {
				return p.line("%s", p.faint("there are more; go on with --after "+next))
			}
			return nil
		}),
	}
	cmd.Flags().Uint64Var(&after, "after", 0, "go on behind this place")
	cmd.Flags().IntVar(&limit, "limit", flowfabric.DefaultListLimit, "how many to show, 1..1000")
	return cmd
}

func indexText(i *uint32) string {
	if i == nil {
		return ""
	}
	return strconv.FormatUint(uint64(*i), 10)
}
