package api

import (
	"net/url"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// listBudget bounds the time one page of a list over many partitions may take.
// Then the page ends early, with a cursor.
const listBudget = 2 * time.Second

func listExecutions(c *call) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	asked, err := wire.ParseListExecutions(query)
	if err != nil {
		return err
	}
	if err := c.name(asked.Args.Namespace); err != nil {
		return err
	}
	asked.Args.Namespaces = c.who.Namespaces
	if asked.AllPartitions {
		return c.listAll(query, asked.Args)
	}
	r, err := c.api.backend.ListExecutions(c.ctx, asked.Args)
	if err != nil {
		return err
	}
	next := ""
	if r.NextCursor != "" {
		next = wire.ExecutionsCursor(query, r.NextCursor)
	}
	return c.ok(wire.NewPage(r.Executions, next))
}

// listAll makes one page of the listing over all partitions, in their order. A
// partition that the store did not finish, since it examined as many as one call
// may, ends the page. So does the time.
func (c *call) listAll(query url.Values, args flowfabric.ListExecutionsArgs) error {
	config, err := c.api.backend.PartitionConfig(c.ctx)
	if err != nil {
		return err
	}
	limit := args.Limit
	if limit == 0 {
		limit = flowfabric.DefaultListLimit
	}
	deadline := time.Now().Add(listBudget)
	rows := make([]flowfabric.ExecutionSummary, 0, limit)
	for p := int(args.Partition); p < config.NumFlowPartitions; p++ {
		// A full page looks on for one more row, to tell whether there is one.
		args.Partition, args.Limit = uint16(p), max(1, limit-len(rows))
		r, err := c.api.backend.ListExecutions(c.ctx, args)
		if err != nil {
			return err
		}
		if len(rows) == limit {
			if len(r.Executions) > 0 || r.NextCursor != "" || time.Now().After(deadline) {
				return c.ok(wire.NewPage(rows, wire.ExecutionsPartitionCursor(query, uint16(p))))
			}
			continue
		}
		rows = append(rows, r.Executions...)
		if r.NextCursor != "" {
			return c.ok(wire.NewPage(rows, wire.ExecutionsCursor(query, r.NextCursor)))
		}
		args.Cursor = ""
		if time.Now().After(deadline) && p+1 < config.NumFlowPartitions {
			return c.ok(wire.NewPage(rows, wire.ExecutionsPartitionCursor(query, uint16(p+1))))
		}
	}
	return c.ok(wire.NewPage(rows, ""))
}
