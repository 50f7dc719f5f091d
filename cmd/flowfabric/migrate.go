package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/spf13/cobra"
)

// migration is what migrate did, or would do.
type migration struct {
	Path   string `json:"path"`
	DryRun bool   `json:"dry_run"`
	// Before and After are the schema's versions; Before is 0 without a store.
	Before  int   `json:"schema_before"`
	After   int   `json:"schema_after"`
	Applied []int `json:"applied"`
}

func (c *cli) migrateCommand() *cobra.Command {
	var dataDir string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the embedded store's schema up to date",
		Long: `Create the embedded store, or bring its schema up to date; serve does the same at
its start. --dry-run rehearses on a copy, which it deletes, and changes nothing.`,
		Example: `  flowfabric migrate --dry-run
  flowfabric migrate --data-dir /var/lib/flowfabric`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := c.embedded(dataDir)
			if err != nil {
				return err
			}
			path, work := loaded.StorePath(), loaded.StorePath()
			if dryRun {
				dir, err := os.MkdirTemp("", "flowfabric-migrate-")
				if err != nil {
					return err
				}
				defer os.RemoveAll(dir)
				work = filepath.Join(dir, "rehearsal.db")
				if err := copyStore(path, work); err != nil {
					return err
				}
			}
			m, err := migrateStore(cmd.Context(), work)
			if err != nil {
				return err
			}
			m.Path, m.DryRun = path, dryRun
			return c.printMigration(m)
		},
	}
	dataDirFlag(cmd, &dataDir)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "rehearse on a copy and change nothing")
	return cmd
}

// migrateStore opens the store, which brings its schema up to date, and compares
// before and after.
func migrateStore(ctx context.Context, path string) (migration, error) {
	before, err := schemaVersions(path)
	if err != nil {
		return migration{}, err
	}
	b, err := sqlite.Open(ctx, sqlite.Config{Path: path, NoEngine: true})
	if err != nil {
		return migration{}, err
	}
	if err := b.Close(); err != nil {
		return migration{}, err
	}
	after, err := schemaVersions(path)
	if err != nil {
		return migration{}, err
	}
	m := migration{Applied: []int{}}
	for _, v := range before {
		m.Before = max(m.Before, v)
	}
	for _, v := range after {
		m.After = max(m.After, v)
		if !slices.Contains(before, v) {
			m.Applied = append(m.Applied, v)
		}
	}
	return m, nil
}

// schemaVersions returns the versions applied to a store, none when there is no
// store.
func schemaVersions(path string) (versions []int, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	conn, err := zs.OpenConn(path, zs.OpenReadOnly)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	tables := 0
	count := &sqlitex.ExecOptions{ResultFunc: func(*zs.Stmt) error { tables++; return nil }}
	if err := sqlitex.Execute(conn, "select 1 from sqlite_master where type = 'table' and name = 'schema_version'", count); err != nil {
		return nil, err
	}
	if tables == 0 {
		return nil, nil
	}
	collect := &sqlitex.ExecOptions{ResultFunc: func(s *zs.Stmt) error {
		versions = append(versions, s.ColumnInt(0))
		return nil
	}}
	return versions, sqlitex.Execute(conn, "select version from schema_version order by version", collect)
}

// copyStore copies a store, also one in use; without a store it copies nothing.
func copyStore(from, to string) (err error) {
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	src, err := zs.OpenConn(from, zs.OpenReadOnly)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := zs.OpenConn(to, zs.OpenReadWrite|zs.OpenCreate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	backup, err := zs.NewBackup(dst, "main", src, "main")
	if err != nil {
		return err
	}
	_, err = backup.Step(-1)
	return errors.Join(err, backup.Close())
}

func (c *cli) printMigration(m migration) error {
	p := c.printer()
	if p.wantsJSON() {
		return p.json(m)
	}
	if len(m.Applied) == 0 {
		return p.line("%s  schema %d, up to date", m.Path, m.After)
	}
	verb := "applied"
	if m.DryRun {
		verb = "would apply"
	}
	from := "no store yet"
	if m.Before > 0 {
		from = "schema " + strconv.Itoa(m.Before)
	}
	return p.line("%s  %s: %s %s, to schema %d", m.Path, from, verb, plural(len(m.Applied), "step", "steps"), m.After)
}
