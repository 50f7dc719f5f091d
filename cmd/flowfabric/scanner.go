package main

import (
	"strconv"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

func (c *cli) scannerCommand() *cobra.Command {
	cmd := groupCommand("scanner", "See the background duties and run one now", c.scannerListCommand(), c.scannerRunCommand())
	cmd.Aliases = []string{"scanners"}
	return cmd
}

func (c *cli) scannerListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the background duties and how they fare",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				duties, err := b.ListScanners(cmd.Context())
				if err != nil {
					return err
				}
				p := c.printer()
				if p.wantsJSON() {
					return p.json(wire.NewPage(duties, ""))
				}
				return printScanners(p, duties)
			})
		},
	}
}

func (c *cli) scannerRunCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run NAME",
		Short: "Run one cycle of a background duty now",
		Example: `  flowfabric scanner list
  flowfabric scanner run index_reconciler`,
		Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				m := c.meter("running " + args[0])
				duty, err := b.RunScanner(cmd.Context(), args[0])
				m.end()
				if err != nil {
					return err
				}
				p := c.printer()
				if p.wantsJSON() {
					return p.json(duty)
				}
				return printScanners(p, []flowfabric.ScannerStatus{duty})
			})
		},
	}
}

func printScanners(p *printer, duties []flowfabric.ScannerStatus) error {
	rows := make([][]string, len(duties))
	for i, d := range duties {
		errs := count(d.Errors)
		if d.Errors > 0 {
			errs = p.bad(errs)
		}
		rows[i] = []string{d.Name, span(time.Duration(d.IntervalMs) * time.Millisecond), p.when(d.LastRunAt),
			span(time.Duration(d.LastDurationMs) * time.Millisecond), strconv.FormatInt(d.Cycles, 10), strconv.FormatInt(d.Rows, 10), errs, short(d.LastError, 60)}
	}
	return p.table("no duties run here", []string{"DUTY", "EVERY", "LAST RUN", "TOOK", "CYCLES", "ROWS", "ERRORS", "LAST ERROR"}, rows)
}

func (c *cli) drainCommand() *cobra.Command {
	var off bool
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Stop a server from issuing grants, before it is taken down",
		Long: `Stop the server from issuing grants: it answers everything else, its readiness
probe fails, and the workers' running tasks go on. --off takes it back.`,
		Example: `  flowfabric drain --server http://10.0.0.7:9090
  flowfabric drain --off`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				if err := b.SetDraining(cmd.Context(), !off); err != nil {
					return err
				}
				p := c.printer()
				if p.wantsJSON() {
					return p.json(map[string]any{"draining": !off})
				}
				if off {
					return p.line("grants are issued again")
				}
				return p.line("no more grants are issued")
			})
		},
	}
	cmd.Flags().BoolVar(&off, "off", false, "issue grants again")
	return cmd
}
