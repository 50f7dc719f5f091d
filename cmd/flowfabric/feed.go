package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/spf13/cobra"
)

type eventsOptions struct {
	follow     bool
	from       string
	limit      int
	filter     flowfabric.FeedFilter
	tags       []string
	partitions []uint
}

func (c *cli) eventsCommand() *cobra.Command {
	var o eventsOptions
	var namespace, lane, execution, flow string
	cmd := &cobra.Command{
		Use:   "events FEED",
		Short: "Print an event feed: completions, leases, signals or tags",
		Long: `Print the retained events of a feed and end, or with --follow go on as new ones
come. For programs (--output json) every event is one line; its cursor resumes the
feed behind it with --from. A gap says that events were trimmed before they could
be read.`,
		Example: `  flowfabric events completions
  flowfabric events completions --follow --lane media --output json
  flowfabric events leases --execution "$id"`,
		Args:      takes("FEED"),
		ValidArgs: []string{"completions", "leases", "signals", "tags"},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.filter.Namespace, o.filter.LaneID = flowfabric.Namespace(namespace), flowfabric.LaneID(lane)
			o.filter.ExecutionID, o.filter.FlowID = flowfabric.ExecutionID(execution), flowfabric.FlowID(flow)
			read, err := o.args(args[0])
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(b flowfabric.Backend) error { return c.printFeed(cmd.Context(), b, read, &o) })
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on as new events come, until interrupted")
	f.StringVar(&o.from, "from", "", "where to begin: earliest, now, or an event's cursor (default earliest, with --follow now)")
	f.IntVar(&o.limit, "limit", 0, "stop after this many events (default: no limit)")
	f.StringVar(&namespace, "namespace", "", "only this namespace")
	f.StringVar(&lane, "lane", "", "only this lane")
	f.StringVar(&execution, "execution", "", "only this execution")
	f.StringVar(&flow, "flow", "", "only this flow")
	f.StringSliceVar(&o.filter.Kinds, "kind", nil, "only this kind of event; repeatable")
	f.StringArrayVar(&o.tags, "tag", nil, "only with this tag, `prefix.name=value`; repeatable")
	f.UintSliceVar(&o.partitions, "partition", nil, "only these partitions")
	return cmd
}

func (o *eventsOptions) args(feed string) (flowfabric.ReadFeedArgs, error) {
	args := flowfabric.ReadFeedArgs{Feed: flowfabric.Feed(feed), Start: o.from, Filter: o.filter, Limit: 256}
	switch args.Feed {
	case flowfabric.FeedCompletions, flowfabric.FeedLeases, flowfabric.FeedSignals, flowfabric.FeedTags:
	default:
		return args, usagef("%q is no feed; the feeds are completions, leases, signals, tags", feed)
	}
	if o.limit < 0 {
		return args, usagef("--limit %d must not be negative", o.limit)
	}
	if args.Start == "" && !o.follow {
		args.Start = flowfabric.FeedStartEarliest
	}
	for _, n := range o.partitions {
		if n > 65535 {
			return args, usagef("--partition %d must be 0..65535", n)
		}
		args.Partitions = append(args.Partitions, uint16(n))
	}
	var err error
	args.Filter.Tags, err = parseTags(o.tags)
	return args, err
}

// printFeed reads the feed to its end, or with --follow until interrupted; a
// lost connection is made anew, and nothing is lost, since the place in the feed
// is known from the first answer on.
func (c *cli) printFeed(ctx context.Context, b flowfabric.Backend, args flowfabric.ReadFeedArgs, o *eventsOptions) error {
	shown, again := 0, patientRetry{first: 200 * time.Millisecond, most: 5 * time.Second}
	for {
		res, err := b.ReadFeed(ctx, args)
		if ctx.Err() != nil && o.follow {
			return nil // interrupting is how one stops following
		}
		if err != nil && o.follow && again.started && again.wait(ctx, c, err) {
			continue
		}
		if err != nil {
			return err
		}
		again.succeeded()
		p := c.printer()
		for _, g := range res.Gaps {
			if err := p.gap(g); err != nil {
				return err
			}
		}
		for _, e := range res.Events {
			if err := p.event(e); err != nil {
				return err
			}
			if shown++; shown == o.limit {
				return nil
			}
		}
		if !o.follow && !res.HasMore {
			return nil
		}
		args.Start = res.NextCursor
		if o.follow {
			args.BlockMs = flowfabric.MaxWaitMs
		}
	}
}

func (p *printer) gap(g flowfabric.Gap) error {
	if p.wantsJSON() {
		return p.jsonLine(map[string]any{"gap": g})
	}
	return p.line("%s", p.warn(fmt.Sprintf("gap: events %d to %d of partition %d were trimmed", g.MissedFromSeq, g.MissedToSeq, g.Partition)))
}

func (p *printer) event(e flowfabric.Event) error {
	if p.wantsJSON() {
		return p.jsonLine(e)
	}
	at := timeOf(e.At)
	layout := "15:04:05.000"
	if y, d := p.now.Year(), p.now.YearDay(); at.Year() != y || at.YearDay() != d {
		layout = "2006-01-02 15:04:05"
	}
	what := e.Kind
	if e.Feed == flowfabric.FeedCompletions {
		what = p.state(e.PublicState) + strings.Repeat(" ", max(0, 9-len(e.PublicState)))
	} else {
		what = fmt.Sprintf("%-9s", what)
	}
	return p.line("%s  %s  %s  %s  %s", p.faint(at.Format(layout)), what, e.ExecutionID, clean(string(e.LaneID)), strings.Join(eventFacts(e), "  "))
}

// eventFacts are the parts of an event that a person wants to see.
func eventFacts(e flowfabric.Event) []string {
	var facts []string
	add := func(name, value string) {
		if value != "" && value != "0" {
			facts = append(facts, name+"="+short(value, 80))
		}
	}
	add("attempt", indexText(e.AttemptIndex))
	add("cause", e.Cause)
	add("reason", e.FailureReason+e.Reason)
	add("category", e.FailureCategory)
	add("epoch", fmt.Sprint(e.LeaseEpoch))
	add("worker", string(e.WorkerInstanceID))
	add("previous", string(e.PrevWorkerInstanceID))
	add("by", e.RevokedBy)
	add("signal", e.SignalName)
	add("from", e.SourceIdentity)
	if e.Kind != flowfabric.EventDeduped { // there the kind says it all
		add("effect", string(e.Effect))
	}
	add("waitpoint", string(e.WaitpointID))
	if e.ResultSize != nil {
		facts = append(facts, "result="+sizeOf(*e.ResultSize))
	}
	return facts
}
