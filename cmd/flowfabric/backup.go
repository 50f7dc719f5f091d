package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/internal/config"
	"github.com/spf13/cobra"
)

// embedded loads the settings of a command that works on the embedded store's
// files.
func (c *cli) embedded(dataDir string) (*config.Loaded, error) {
	flags := map[string]string{}
	if dataDir != "" {
		flags["data-dir"] = dataDir
	}
	if c.options.backend != "" {
		flags["backend"] = c.options.backend
	}
	if c.options.server != "" {
		return nil, usagef("this works on the files of the embedded store, not on a server; run it on the server's machine")
	}
	loaded, err := config.Load(config.Sources{Flags: flags, Environ: c.environ})
	if err != nil {
		return nil, err
	}
	if loaded.Backend.Kind == config.PlaceValkey {
		return nil, usagef("this works on the file of the embedded store; Valkey keeps its data itself: use its RDB and AOF files, and replicas")
	}
	if loaded.StorePath() == "" {
		return nil, usagef("the %s store has no file", loaded.Backend)
	}
	return loaded, nil
}

func dataDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "data-dir", "", "data directory of the embedded store (default ./flowfabric-data; env FF_DATA_DIR)")
}

func (c *cli) backupCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy the embedded store, also while a server runs",
		Long: `Write a consistent copy of the embedded store to a new file. A server that runs
on the store makes the copy itself and goes on working meanwhile; otherwise the
file is opened directly.

Keep the data directory's waitpoint_secret with the copy: tokens handed out
before are verified with it.`,
		Example: `  flowfabric backup /backups/flowfabric-monday.db
  flowfabric backup copy.db --data-dir /var/lib/flowfabric`,
		Args: takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			loaded, err := c.embedded(dataDir)
			if err != nil {
				return err
			}
			to, err := filepath.Abs(args[0])
			if err != nil {
				return usagef("%v", err)
			}
			start := c.now()
			if err := c.backup(cmd.Context(), loaded, to); err != nil {
				return err
			}
			return c.printCopy(loaded.StorePath(), to, c.now().Sub(start))
		},
	}
	dataDirFlag(cmd, &dataDir)
	return cmd
}

func (c *cli) backup(ctx context.Context, loaded *config.Loaded, to string) error {
	m := c.meter("copying")
	defer m.end()
	progress := func(remaining, total int) {
		if total > 0 {
			m.set("copying", float64(total-remaining)/float64(total))
		}
	}
	if conn := dialControl(ctx, loaded.StorePath()); conn != nil {
		defer conn.Close()
		return askControl(ctx, conn, controlRequest{Op: "backup", Path: to}, progress)
	}
	if _, err := os.Stat(loaded.StorePath()); err != nil {
		return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "there is no store at %s", loaded.StorePath())
	}
	b, err := sqlite.Open(ctx, sqlite.Config{Path: loaded.StorePath(), NoEngine: true, NoWaitpointSecret: true})
	if err != nil {
		return err
	}
	return firstError(b.Backup(ctx, to, progress), b.Close())
}

func (c *cli) printCopy(from, to string, took time.Duration) error {
	info, err := os.Stat(to)
	if err != nil {
		return err
	}
	p := c.printer()
	if p.wantsJSON() {
		return p.json(map[string]any{"from": from, "to": to, "bytes": info.Size(), "took_ms": took.Milliseconds()})
	}
	return p.line("%s → %s  %s in %s", from, to, sizeOf(info.Size()), span(took))
}

func (c *cli) restoreCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the embedded store out of a backup",
		Long: `Make the embedded store out of a backup. No server may run on it, and no store
may be there: move the old file away first.

A restored store is a new incarnation: feed cursors of the former one are refused,
and workers holding leases that the backup does not know are refused as stale.`,
		Example: `  mv flowfabric-data/flowfabric.db flowfabric-data/flowfabric.db.broken
  flowfabric restore /backups/flowfabric-monday.db`,
		Args: takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			loaded, err := c.embedded(dataDir)
			if err != nil {
				return err
			}
			start, to := c.now(), loaded.StorePath()
			if err := os.MkdirAll(loaded.DataDir, 0o700); err != nil {
				return err
			}
			m := c.meter("restoring")
			err = sqlite.Restore(cmd.Context(), args[0], to)
			m.end()
			if err != nil {
				return err
			}
			return c.printCopy(args[0], to, c.now().Sub(start))
		},
	}
	dataDirFlag(cmd, &dataDir)
	return cmd
}
