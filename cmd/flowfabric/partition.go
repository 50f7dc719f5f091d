package main

import (
	"fmt"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/config"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

func (c *cli) partitionCommand() *cobra.Command {
	return groupCommand("partition", "Questions about partitions", c.collisionsCommand())
}

func (c *cli) collisionsCommand() *cobra.Command {
	var lanes []string
	var partitions int
	cmd := &cobra.Command{
		Use:   "collisions",
		Short: "Tell which lanes share a partition",
		Long: `Compute the partition of each lane and who shares it: pure computation, no store
is asked. Severity is clean at 0 %, watch under 5 %, elevated from 5 to 15 %, and
remediate over 15 % of the lanes colliding.`,
		Example: `  flowfabric partition collisions --lanes default,media,mail
  flowfabric partition collisions --lanes a,b,c --partitions 16 --output json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ids, n, err := c.collisionInput(cmd, lanes, partitions)
			if err != nil {
				return err
			}
			return c.printCollisions(wire.NewCollisionsResponse(ids, n))
		},
	}
	cmd.Flags().StringSliceVar(&lanes, "lanes", nil, "the lanes (default: FF_LANES, or default)")
	cmd.Flags().IntVar(&partitions, "partitions", 0, "number of flow partitions (default: FF_FLOW_PARTITIONS, or 256)")
	return cmd
}

// collisionInput takes lanes and count from the flags, else from the settings.
func (c *cli) collisionInput(cmd *cobra.Command, lanes []string, partitions int) ([]flowfabric.LaneID, int, error) {
	flags := map[string]string{}
	if cmd.Flags().Changed("partitions") {
		flags["flow-partitions"] = fmt.Sprint(partitions)
	}
	if cmd.Flags().Changed("lanes") {
		flags["lanes"] = joined(lanes)
	}
	loaded, err := config.Load(config.Sources{Flags: flags, Environ: c.environ})
	if err != nil {
		return nil, 0, err
	}
	n := loaded.Partitions.NumFlowPartitions
	if n == 0 {
		n = flowfabric.DefaultPartitionConfig().NumFlowPartitions
	}
	return loaded.Lanes, n, nil
}

func (c *cli) printCollisions(r wire.CollisionsResponse) error {
	p := c.printer()
	if p.wantsJSON() {
		return p.json(r)
	}
	rows := make([][]string, len(r.Lanes))
	for i, l := range r.Lanes {
		rows[i] = []string{fmt.Sprint(l.Partition), clean(string(l.LaneID)), joined(l.Companions)}
	}
	if err := p.table("", []string{"PARTITION", "LANE", "SHARES IT WITH"}, rows); err != nil {
		return err
	}
	severity := p.good(r.Severity)
	switch r.Severity {
	case "watch", "elevated":
		severity = p.warn(r.Severity)
	case "remediate":
		severity = p.bad(r.Severity)
	}
	return p.line("%s: %d of %s collide (%.1f %%) over %d partitions", severity, r.CollidingLanes, plural(len(r.Lanes), "lane", "lanes"), r.CollidingPercent, r.NumFlowPartitions)
}
