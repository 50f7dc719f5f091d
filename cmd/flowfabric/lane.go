package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

func (c *cli) laneCommand() *cobra.Command {
	cmd := groupCommand("lane", "See the lanes and steer them",
		c.laneListCommand(), c.laneGetCommand(), c.laneSetCommand(), c.laneDeleteCommand(),
		c.laneStateCommand("pause", flowfabric.LanePaused, "Refuse new executions; existing work runs on"),
		c.laneStateCommand("resume", flowfabric.LaneActive, "Accept new executions again"),
		c.laneStateCommand("drain", flowfabric.LaneDraining, "Refuse new executions and let the work run out"),
		c.laneStateCommand("disable", flowfabric.LaneDisabled, "Refuse new executions and claims; running work may finish"),
		c.laneStateCommand("enable", flowfabric.LaneActive, "Bring a disabled lane back"))
	cmd.Aliases = []string{"lanes"}
	return cmd
}

func (c *cli) laneListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the lanes and what is in them",
		Example: `  flowfabric lane list`,
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				lanes, err := allLanes(cmd.Context(), b)
				if err != nil {
					return err
				}
				p := c.printer()
				if p.wantsJSON() {
					return p.json(wire.NewPage(lanes, ""))
				}
				return printLanes(p, lanes)
			})
		},
	}
}

// allLanes follows the pages of the lanes.
func allLanes(ctx context.Context, b flowfabric.Backend) ([]flowfabric.LaneStatus, error) {
	args := flowfabric.ListLanesArgs{Limit: flowfabric.MaxListLimit}
	var lanes []flowfabric.LaneStatus
	for {
		res, err := b.ListLanes(ctx, args)
		if err != nil {
			return nil, err
		}
		for _, l := range res.Lanes {
			lanes = append(lanes, wire.NewLaneStatus(l))
		}
		if !res.More || len(res.Lanes) == 0 {
			return lanes, nil
		}
		args.After = res.Lanes[len(res.Lanes)-1].LaneID
	}
}

func printLanes(p *printer, lanes []flowfabric.LaneStatus) error {
	rows := make([][]string, len(lanes))
	for i, l := range lanes {
		state := p.laneState(l.State)
		if l.Drained {
			state += p.faint(" (drained)")
		}
		n := l.Counts
		blocked := n[flowfabric.PublicWaitingChildren] + n[flowfabric.PublicRateLimited] + n[flowfabric.PublicSuspended]
		ended := n[flowfabric.PublicFailed] + n[flowfabric.PublicCancelled] + n[flowfabric.PublicExpired] + n[flowfabric.PublicSkipped]
		rows[i] = []string{clean(string(l.LaneID)), state, count(n[flowfabric.PublicWaiting]), p.when(l.OldestEligibleAt), count(n[flowfabric.PublicActive]),
			count(n[flowfabric.PublicDelayed]), count(blocked), count(n[flowfabric.PublicCompleted]), count(ended),
			strconv.Itoa(l.SchedulingWeight), count(l.MaxConcurrency), short(l.StateReason, 40)}
	}
	return p.table("no lanes",
		[]string{"LANE", "STATE", "WAITING", "OLDEST", "ACTIVE", "DELAYED", "BLOCKED", "COMPLETED", "ENDED OTHERWISE", "WEIGHT", "LIMIT", "REASON"}, rows)
}

func (c *cli) laneGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get LANE",
		Short: "Show a lane with its settings",
		Args:  takes("LANE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				l, err := b.GetLane(cmd.Context(), flowfabric.LaneID(args[0]))
				if err != nil {
					return err
				}
				return c.printLane(l)
			})
		},
	}
}

func (c *cli) printLane(l flowfabric.LaneStatus) error {
	p := c.printer()
	if p.wantsJSON() {
		return p.json(wire.NewLaneStatus(l))
	}
	limit := "none"
	if l.MaxConcurrency > 0 {
		limit = strconv.Itoa(l.MaxConcurrency)
	}
	var counts, weights []string
	for _, s := range flowfabric.PublicStates() {
		if n := l.Counts[s]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, p.state(s)))
		}
	}
	for ns, w := range l.TenantWeights {
		weights = append(weights, fmt.Sprintf("%s=%d", clean(string(ns)), w))
	}
	return p.details([]field{
		{"lane", p.bold(clean(string(l.LaneID)))},
		{"state", p.laneState(l.State)},
		{"reason", clean(l.StateReason)},
		{"weight", strconv.Itoa(l.SchedulingWeight)},
		{"concurrency limit", limit},
		{"tenant weights", strings.Join(weights, " ")},
		{"default policy", clean(string(l.DefaultPolicy))},
		{"executions", strings.Join(counts, ", ")},
		{"oldest waiting", p.instant(l.OldestEligibleAt)},
		{"revision", strconv.FormatUint(l.Revision, 10)},
		{"created", p.instant(l.CreatedAt)},
		{"updated", p.instant(l.UpdatedAt)},
	})
}

func (c *cli) laneStateCommand(verb string, state flowfabric.LaneState, short string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     verb + " LANE",
		Short:   short,
		Example: fmt.Sprintf("  flowfabric lane %s media --reason \"storage is being moved\"", verb),
		Args:    takes("LANE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				res, err := b.SetLaneState(cmd.Context(), flowfabric.SetLaneStateArgs{LaneID: flowfabric.LaneID(args[0]), State: state, Reason: reason})
				if err != nil {
					return err
				}
				p := c.printer()
				if p.wantsJSON() {
					outcome := "changed"
					if res.Unchanged {
						outcome = "unchanged"
					}
					return p.json(map[string]any{"outcome": outcome, "lane": res.Lane})
				}
				line := clean(args[0]) + "  " + p.laneState(res.Lane.State)
				if res.Unchanged {
					line += p.faint("  unchanged")
				}
				return p.line("%s", line)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, up to 256 bytes")
	return cmd
}

func (c *cli) laneSetCommand() *cobra.Command {
	var weight, limit int
	var tenantWeights map[string]int
	var policy string
	var revision uint64
	cmd := &cobra.Command{
		Use:   "set LANE",
		Short: "Change a lane's settings; makes the lane when it is new",
		Example: `  flowfabric lane set media --weight 3 --max-concurrency 20
  flowfabric lane set media --tenant-weight acme=5,globex=1
  flowfabric lane set media --default-policy '{"retry_policy":{"max_retries":2}}'`,
		Args: takes("LANE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f := cmd.Flags()
			update := flowfabric.UpdateLaneArgs{LaneID: flowfabric.LaneID(args[0])}
			if f.Changed("weight") {
				update.SchedulingWeight = &weight
			}
			if f.Changed("max-concurrency") {
				update.MaxConcurrency = &limit
			}
			if f.Changed("expected-revision") {
				update.ExpectedRevision = &revision
			}
			if f.Changed("tenant-weight") {
				update.TenantWeights = make(map[flowfabric.Namespace]int, len(tenantWeights))
				for ns, w := range tenantWeights {
					update.TenantWeights[flowfabric.Namespace(ns)] = w
				}
			}
			raw, err := c.readPolicy(policy)
			if err != nil {
				return err
			}
			update.DefaultPolicy = json.RawMessage(raw)
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				l, err := b.UpdateLane(cmd.Context(), update)
				if err != nil {
					return err
				}
				if p := c.printer(); p.wantsJSON() {
					return p.json(l)
				}
				return c.printLane(flowfabric.LaneStatus{Lane: l})
			})
		},
	}
	f := cmd.Flags()
	f.IntVar(&weight, "weight", 0, "share among lanes, 1..1000")
	f.IntVar(&limit, "max-concurrency", 0, "most executions leased at once; 0 is no limit")
	f.StringToIntVar(&tenantWeights, "tenant-weight", nil, "share among namespaces, namespace=1..1000,…")
	f.StringVar(&policy, "default-policy", "", "policy fields for executions that lack them: a JSON document or a file")
	f.Uint64Var(&revision, "expected-revision", 0, "change only this revision")
	return cmd
}

func (c *cli) laneDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete LANE",
		Short: "Delete a disabled lane without live executions",
		Args:  takes("LANE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				deleted, err := b.DeleteLane(cmd.Context(), flowfabric.LaneID(args[0]))
				if err != nil {
					return err
				}
				outcome := "already_deleted"
				if deleted {
					outcome = "deleted"
				}
				p := c.printer()
				if p.wantsJSON() {
					return p.json(map[string]any{"outcome": outcome, "lane_id": args[0]})
				}
				return p.line("%s  %s", clean(args[0]), outcome)
			})
		},
	}
}
