package main

import (
	"context"
	"strings"

	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/spf13/cobra"
)

// migration is what migrate did, or would do.
type migration struct {
	Path   string `json:"path"`
	DryRun bool   `json:"dry_run"`
	// Steps are the schema's steps that were applied, or would be.
	Steps []string `json:"steps"`
}

func (c *cli) migrateCommand() *cobra.Command {
	var dataDir string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the embedded store's schema up to date",
		Long: `Create the embedded store, or bring its schema up to date; serve does the same at
its start. --dry-run names the steps that would run, and changes nothing.`,
		Example: `  flowfabric migrate --dry-run
  flowfabric migrate --data-dir /var/lib/flowfabric`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := c.embedded(dataDir)
			if err != nil {
				return err
			}
			m, err := migrateStore(cmd.Context(), loaded.StorePath(), dryRun)
			if err != nil {
				return err
			}
			return c.printMigration(m)
		},
	}
	dataDirFlag(cmd, &dataDir)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "name the steps and change nothing")
	return cmd
}

// migrateStore names the pending steps and, unless dry, opens the store, which
// applies them.
func migrateStore(ctx context.Context, path string, dry bool) (migration, error) {
	steps, err := sqlite.PendingMigrations(ctx, path)
	if err != nil {
		return migration{}, err
	}
	m := migration{Path: path, DryRun: dry, Steps: steps}
	if dry {
		return m, nil
	}
	b, err := sqlite.Open(ctx, sqlite.Config{Path: path, NoEngine: true, NoWaitpointSecret: true})
	if err != nil {
		return migration{}, err
	}
	return m, b.Close()
}

func (c *cli) printMigration(m migration) error {
	p := c.printer()
	if p.wantsJSON() {
		return p.json(m)
	}
	if len(m.Steps) == 0 {
		return p.line("%s  up to date", m.Path)
	}
	verb := "applied"
	if m.DryRun {
		verb = "would apply"
	}
	return p.line("%s  %s %s", m.Path, verb, strings.Join(m.Steps, ", "))
}
