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

func (c *cli) executionCommand() *cobra.Command {
	cmd := groupCommand("execution", "Look at executions and steer them",
		c.executionGetCommand(), c.executionListCommand(), c.executionExplainCommand(), c.attemptsCommand(), c.historyCommand(),
		c.executionCancelCommand(), c.executionReplayCommand(), c.executionPauseCommand(), c.executionUnpauseCommand(),
		c.executionPriorityCommand(), c.executionTagsCommand(), c.executionSuspensionCommand(), c.executionSignalsCommand(), c.executionResumeCommand(),
		c.revokeLeaseCommand(), c.releaseHoldCommand(), c.reclaimCommand())
	cmd.Aliases = []string{"executions", "exec", "x"}
	return cmd
}

// onExecution returns a RunE that parses the identifier and connects.
func (c *cli) onExecution(do func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		id, err := flowfabric.ParseExecutionID(args[0])
		if err != nil {
			return err
		}
		return c.with(cmd.Context(), func(b flowfabric.Backend) error { return do(cmd.Context(), b, id) })
	}
}

// describe returns the snapshot, or execution_not_found.
func describe(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) (*flowfabric.ExecutionSnapshot, error) {
	s, err := b.DescribeExecution(ctx, id)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, flowfabric.NewError(flowfabric.CodeExecutionNotFound, "no execution %s", id)
	}
	return s, nil
}

func (c *cli) executionGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get ID",
		Short: "Show an execution",
		Example: `  flowfabric execution get '{fp:7}:0190cbe2-5f0c-7d3a-8e55-1c2f3a4b5c6d'
  flowfabric execution get "$id" --output json`,
		Args: takes("ID"),
		RunE: c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
			s, err := describe(ctx, b, id)
			if err != nil {
				return err
			}
			p := c.printer()
			if p.wantsJSON() {
				return p.json(s)
			}
			var x *flowfabric.Suspension
			if s.PublicState == flowfabric.PublicSuspended {
				if x, err = openSuspension(ctx, b, id); err != nil {
					return err
				}
			}
			return printSnapshot(p, s, x)
		}),
	}
}

// printSnapshot prints an execution, and what it waits for when it is suspended.
func printSnapshot(p *printer, s *flowfabric.ExecutionSnapshot, x *flowfabric.Suspension) error {
	state := p.state(s.PublicState)
	if s.BlockingReason != "" && !s.PublicState.Terminal() {
		state += p.faint("  " + string(s.BlockingReason))
	}
	fields := []field{
		{"execution", p.bold(string(s.ExecutionID))},
		{"state", state},
		{"why", clean(s.BlockingDetail)},
		{"kind", clean(s.Kind)},
		{"lane", clean(string(s.LaneID))},
		{"namespace", clean(string(s.Namespace))},
		{"flow", string(s.FlowID)},
		{"priority", strconv.Itoa(int(s.Priority))},
		{"progress", progressText(s)},
		{"attempts", attemptText(s)},
		{"failure", failureText(s.FailureReason, s.FailureCategory)},
		{"cancelled", cancelText(s)},
		{"created", p.instant(s.CreatedAt)},
		{"started", p.instant(s.StartedAt)},
		{"delayed until", p.instant(s.DelayUntil)},
		{"blocked since", p.instant(s.BlockedSince)},
		{"blocked until", p.instant(s.BlockedUntil)},
		{"deadline", p.instant(s.ExecutionDeadlineAt)},
		{"completed", p.instant(s.CompletedAt)},
		{"purged after", p.instant(s.PurgeAfter)},
	}
	if l := s.CurrentLease; l != nil {
		fields = append(fields,
			field{"worker", clean(string(l.WorkerInstanceID))},
			field{"lease", fmt.Sprintf("epoch %d, renewed %s, expires %s", l.LeaseEpoch, p.when(l.LastHeartbeatAt), p.when(l.ExpiresAt))})
	}
	if x != nil {
		fields = append(fields,
			field{"awaits", awaited(x)},
			field{"suspended", p.instant(x.CreatedAt)},
			field{"timeout", p.timeoutText(x)})
	}
	fields = append(fields,
		field{"waitpoint", string(s.CurrentWaitpointID)},
		field{"tags", tagList(s.Tags)},
		field{"vector", p.faint(fmt.Sprintf("%s / %s / %s / %s / %s", s.LifecyclePhase, s.OwnershipState, s.EligibilityState, s.TerminalOutcome, s.AttemptState))})
	return p.details(fields)
}

func progressText(s *flowfabric.ExecutionSnapshot) string {
	var parts []string
	if s.ProgressPct != nil {
		parts = append(parts, fmt.Sprintf("%d %%", *s.ProgressPct))
	}
	if s.ProgressMessage != "" {
		parts = append(parts, short(s.ProgressMessage, 100))
	}
	return strings.Join(parts, "  ")
}

func attemptText(s *flowfabric.ExecutionSnapshot) string {
	parts := []string{strconv.FormatUint(uint64(s.TotalAttemptCount), 10)}
	for _, n := range []struct {
		count     uint32
		one, many string
	}{{s.RetryCount, "retry", "retries"}, {s.LeaseReclaimCount, "reclaim", "reclaims"}, {s.ReplayCount, "replay", "replays"}} {
		if n.count > 0 {
			parts = append(parts, plural(int(n.count), n.one, n.many))
		}
	}
	return strings.Join(parts, ", ")
}

func failureText(reason, category string) string {
	switch {
	case reason == "" && category == "":
		return ""
	case category == "":
		return clean(reason)
	}
	return clean(reason) + " (" + clean(category) + ")"
}

func cancelText(s *flowfabric.ExecutionSnapshot) string {
	switch {
	case s.CancellationReason == "" && s.CancelledBy == "":
		return ""
	case s.CancelledBy == "":
		return clean(s.CancellationReason)
	}
	return clean(s.CancellationReason) + " (by " + clean(s.CancelledBy) + ")"
}

type listOptions struct {
	namespace, lane, kind, flow string
	states                      []string
	tags                        []string
	partition                   int
	limit                       int
	cursor                      string
}

func (c *cli) executionListCommand() *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List executions",
		Long: `List executions of the whole deployment, or of one partition. When all that
match are shown, the newest come first; otherwise they come in the store's order,
and --cursor goes on where the list ended.`,
		Example: `  flowfabric execution list
  flowfabric execution list --state failed --state expired --lane media
  flowfabric execution list --tag team.name=finance --output json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(b flowfabric.Backend) error { return c.listExecutions(cmd.Context(), b, &o) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.namespace, "namespace", "", "only this namespace")
	f.StringVar(&o.lane, "lane", "", "only this lane")
	f.StringVar(&o.kind, "kind", "", "only this kind")
	f.StringVar(&o.flow, "flow", "", "only members of this flow")
	f.StringSliceVar(&o.states, "state", nil, "only this public state, such as waiting, active, failed; repeatable")
	f.StringArrayVar(&o.tags, "tag", nil, "only with this tag, `prefix.name=value`; repeatable")
	f.IntVar(&o.partition, "partition", -1, "only this partition")
	f.IntVar(&o.limit, "limit", flowfabric.DefaultListLimit, "how many to show, 1..1000")
	f.StringVar(&o.cursor, "cursor", "", "go on behind this place of an earlier list")
	return cmd
}

func (o *listOptions) filter() (flowfabric.ListExecutionsArgs, error) {
	args := flowfabric.ListExecutionsArgs{
		Namespace: flowfabric.Namespace(o.namespace), LaneID: flowfabric.LaneID(o.lane),
		Kind: o.kind, FlowID: flowfabric.FlowID(o.flow),
	}
	if o.limit < 1 || o.limit > flowfabric.MaxListLimit {
		return args, usagef("--limit %d must be 1..%d", o.limit, flowfabric.MaxListLimit)
	}
	for _, s := range o.states {
		if !slices.Contains(flowfabric.PublicStates(), flowfabric.PublicState(s)) {
			return args, usagef("--state %q is no public state; they are %s", s, joined(flowfabric.PublicStates()))
		}
		args.PublicStates = append(args.PublicStates, flowfabric.PublicState(s))
	}
	var err error
	args.Tags, err = parseTags(o.tags)
	return args, err
}

func (c *cli) listExecutions(ctx context.Context, b flowfabric.Backend, o *listOptions) error {
	args, err := o.filter()
	if err != nil {
		return err
	}
	parts, err := b.PartitionConfig(ctx)
	if err != nil {
		return err
	}
	from, to := 0, parts.NumFlowPartitions
	if o.partition >= 0 {
		if o.partition >= to {
			return usagef("--partition %d must be 0..%d", o.partition, to-1)
		}
		from, to = o.partition, o.partition+1
	}
	start, err := parseListCursor(o.cursor, from)
	if err != nil {
		return err
	}
	if start.partition < from || start.partition >= to {
		return usagef("--cursor %q is a place outside the partitions listed", o.cursor)
	}
	items, next, err := listAcross(ctx, b, args, start, to, o.limit)
	if err != nil {
		return err
	}
	p := c.printer()
	if p.wantsJSON() {
		return p.json(wire.NewPage(items, next))
	}
	if next == "" && o.cursor == "" {
		slices.SortStableFunc(items, func(a, b flowfabric.ExecutionSummary) int { return int(b.CreatedAt - a.CreatedAt) })
	}
	rows := make([][]string, len(items))
	for i, e := range items {
		rows[i] = []string{string(e.ExecutionID), p.state(e.PublicState), short(e.Kind, 40), clean(string(e.LaneID)),
			clean(string(e.Namespace)), count(e.Priority), p.when(e.CreatedAt)}
	}
	if err := p.table("no executions", []string{"EXECUTION", "STATE", "KIND", "LANE", "NAMESPACE", "PRIORITY", "CREATED"}, rows); err != nil {
		return err
	}
	if next != "" {
		return p.line("%s", p.faint("there are more; go on with --cursor '"+next+"'"))
	}
	return nil
}

// listCursor is a place in the listing of a deployment: behind an execution, or
// at the start of a partition.
type listCursor struct {
	partition int
	after     flowfabric.ExecutionID
}

// parseListCursor parses an execution identifier or a bare "{fp:N}".
func parseListCursor(s string, first int) (listCursor, error) {
	if s == "" {
		return listCursor{partition: first}, nil
	}
	if id, err := flowfabric.ParseExecutionID(s); err == nil {
		return listCursor{partition: int(id.Partition()), after: id}, nil
	}
	rest, ok := strings.CutPrefix(s, "{fp:")
	number, closed := strings.CutSuffix(rest, "}")
	n, err := strconv.ParseUint(number, 10, 16)
	if !ok || !closed || err != nil {
		return listCursor{}, flowfabric.NewError(flowfabric.CodeInvalidCursor, "%q is no place in this list", short(s, 80))
	}
	return listCursor{partition: int(n)}, nil
}

// listWindow is how many partitions are read at once.
const listWindow = 16

// listAcross lists partitions one after the other, reading some at once, until
// limit executions are found or the partition "to" is reached. The next place is
// "" at the end.
func listAcross(ctx context.Context, b flowfabric.Backend, args flowfabric.ListExecutionsArgs, start listCursor, to, limit int) ([]flowfabric.ExecutionSummary, string, error) {
	type part struct {
		items []flowfabric.ExecutionSummary
		err   error
	}
	var items []flowfabric.ExecutionSummary
	for first := start.partition; first < to; first += listWindow {
		parts := make([]chan part, min(listWindow, to-first))
		want := limit - len(items) + 1 // one more tells whether there is more behind
		for i := range parts {
			parts[i] = make(chan part, 1)
			a := args
			a.Partition, a.Cursor = uint16(first+i), ""
			if first+i == start.partition {
				a.Cursor = start.after
			}
			go func() {
				found, err := listPartition(ctx, b, a, want)
				parts[i] <- part{found, err}
			}()
		}
		found := make([]part, len(parts))
		for i := range parts {
			found[i] = <-parts[i]
		}
		for i, f := range found {
			if f.err != nil {
				return nil, "", f.err
			}
			if len(items)+len(f.items) > limit {
				items = append(items, f.items[:limit-len(items)]...)
				return items, nextPlace(items, first+i), nil
			}
			items = append(items, f.items...)
		}
	}
	return items, "", nil
}

// nextPlace is where to go on behind items when the partition holds more.
func nextPlace(items []flowfabric.ExecutionSummary, partition int) string {
	if n := len(items); n > 0 && int(items[n-1].ExecutionID.Partition()) == partition {
		return string(items[n-1].ExecutionID)
	}
	return fmt.Sprintf("{fp:%d}", partition)
}

// listPartition follows the cursors of one partition until it has limit
// executions or the partition ends.
func listPartition(ctx context.Context, b flowfabric.Backend, args flowfabric.ListExecutionsArgs, limit int) ([]flowfabric.ExecutionSummary, error) {
	var items []flowfabric.ExecutionSummary
	for {
		args.Limit = min(limit-len(items), flowfabric.MaxListLimit)
		res, err := b.ListExecutions(ctx, args)
		if err != nil {
			return nil, err
		}
		items = append(items, res.Executions...)
		if res.NextCursor == "" || len(items) >= limit {
			return items, nil
		}
		args.Cursor = res.NextCursor
	}
}

func (c *cli) executionCancelCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     "cancel ID",
		Short:   "Cancel an execution, whatever it is doing",
		Example: `  flowfabric execution cancel "$id" --reason "ordered twice"`,
		Args:    takes("ID"),
		RunE: c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
			res, err := b.CancelExecution(ctx, flowfabric.CancelExecutionArgs{
				ExecutionID: id, Source: flowfabric.SourceOperatorOverride, Reason: reason, RequestedBy: c.identity()})
			if err != nil {
				return err
			}
			p := c.printer()
			if p.wantsJSON() {
				return p.json(wire.NewCancelResponse(id, res))
			}
			if res.Outcome == flowfabric.CancelAlreadyCancelled {
				return p.line("%s  was cancelled before, by %s: %s", id, clean(res.CancelledBy), clean(res.CancellationReason))
			}
			return p.line("%s  %s", id, p.state(res.PublicState))
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "cancelled by an operator", "why")
	return cmd
}

func (c *cli) executionReplayCommand() *cobra.Command {
	var reason string
	var expected int64
	cmd := &cobra.Command{
		Use:   "replay ID",
		Short: "Run an ended execution anew",
		Long: `Run an ended execution anew: same identifier, a new attempt, all allowances
fresh. Its result, failure and progress are cleared.`,
		Example: `  flowfabric execution replay "$id" --reason "provider is back"`,
		Args:    takes("ID"),
		RunE: c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
			args := flowfabric.ReplayExecutionArgs{ExecutionID: id, Reason: reason, RequestedBy: c.identity()}
			if expected >= 0 {
				n := uint32(expected)
				args.ExpectedReplayCount = &n
			}
			res, err := b.ReplayExecution(ctx, args)
			if err != nil {
				return err
			}
			p := c.printer()
			if p.wantsJSON() {
				return p.json(map[string]any{"outcome": "replayed", "execution_id": id, "public_state": res.PublicState,
					"replay_count": res.ReplayCount, "replayed": res.Replayed})
			}
			return p.line("%s  %s  %s", id, p.state(res.PublicState), p.faint(plural(int(res.ReplayCount), "replay", "replays")))
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "manual", "why")
	cmd.Flags().Int64Var(&expected, "expected-replay-count", -1, "replay only when this many replays were made; makes a repeat harmless")
	return cmd
}

func (c *cli) executionPauseCommand() *cobra.Command {
	var detail string
	cmd := &cobra.Command{
		Use:   "pause ID",
		Short: "Keep a waiting execution from being claimed",
		Example: `  flowfabric execution pause "$id" --detail "until the customer answers"
  flowfabric execution unpause "$id"`,
		Args: takes("ID"),
		RunE: c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
			res, err := b.PauseExecution(ctx, flowfabric.BlockExecutionArgs{ExecutionID: id, Detail: detail})
			return c.printBlock(id, "paused", res, err)
		}),
	}
	cmd.Flags().StringVar(&detail, "detail", "", "why, for people")
	return cmd
}

func (c *cli) executionUnpauseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unpause ID",
		Short: "Let a paused execution be claimed again",
		Args:  takes("ID"),
		RunE: c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
			res, err := b.UnpauseExecution(ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
			return c.printBlock(id, "unpaused", res, err)
		}),
	}
}

func (c *cli) printBlock(id flowfabric.ExecutionID, outcome string, res flowfabric.BlockExecutionResult, err error) error {
	if err != nil {
		return err
	}
	p := c.printer()
	if p.wantsJSON() {
		return p.json(map[string]any{"outcome": outcome, "execution_id": id, "public_state": res.PublicState})
	}
	return p.line("%s  %s  %s", id, p.state(res.PublicState), outcome)
}

func (c *cli) executionPriorityCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "priority ID PRIORITY",
		Short:   "Change the priority of a waiting execution",
		Long:    "Change the priority of a waiting execution, 0..9000; higher runs first.",
		Example: `  flowfabric execution priority "$id" 9000`,
		Args:    takes("ID", "PRIORITY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.ParseInt(args[1], 10, 32)
			if err != nil {
				return usagef("priority %q must be a whole number, 0..%d", args[1], flowfabric.MaxPriority)
			}
			return c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
				res, err := b.ChangePriority(ctx, flowfabric.ChangePriorityArgs{ExecutionID: id, Priority: int32(n)})
				if err != nil {
					return err
				}
				p := c.printer()
				if p.wantsJSON() {
					return p.json(map[string]any{"outcome": "changed", "execution_id": id, "old_priority": res.OldPriority, "new_priority": res.NewPriority})
				}
				return p.line("%s  priority %d, was %d", id, res.NewPriority, res.OldPriority)
			})(cmd, args)
		},
	}
}

func (c *cli) executionTagsCommand() *cobra.Command {
	var remove []string
	cmd := &cobra.Command{
		Use:   "tags ID [prefix.name=value ...]",
		Short: "Show, set or remove an execution's tags",
		Example: `  flowfabric execution tags "$id"
  flowfabric execution tags "$id" team.name=finance run.cause=manual
  flowfabric execution tags "$id" --remove run.cause`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return takes("ID")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := parseTags(args[1:])
			if err != nil {
				return err
			}
			return c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
				return c.editTags(ctx, b, id, set, remove)
			})(cmd, args)
		},
	}
	cmd.Flags().StringSliceVar(&remove, "remove", nil, "remove this tag; repeatable")
	return cmd
}

// editTags sets and removes, then shows what is there.
func (c *cli) editTags(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID, set map[string]string, remove []string) error {
	if _, err := describe(ctx, b, id); err != nil {
		return err
	}
	if len(set) > 0 {
		if _, err := b.SetExecutionTags(ctx, id, set); err != nil {
			return err
		}
	}
	for _, key := range remove {
		if _, err := b.RemoveExecutionTag(ctx, id, key); err != nil {
			return err
		}
	}
	tags, err := b.GetExecutionTags(ctx, id)
	if err != nil {
		return err
	}
	p := c.printer()
	if p.wantsJSON() {
		if tags == nil {
			tags = map[string]string{}
		}
		return p.json(map[string]any{"execution_id": id, "tags": tags})
	}
	keys := make([]string, 0, len(tags))
	for k := range tags {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	rows := make([][]string, len(keys))
	for i, k := range keys {
		rows[i] = []string{k, clean(tags[k])}
	}
	return p.table("no tags", []string{"TAG", "VALUE"}, rows)
}
