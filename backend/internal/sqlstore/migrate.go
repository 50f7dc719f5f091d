package sqlstore

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migration is one numbered step of the schema.
type Migration struct {
	Version int
	Name    string
	SQL     string
}

// Migrations returns all steps in order.
func Migrations() ([]Migration, error) {
	entries, err := fs.ReadDir(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	var list []Migration
	for _, e := range entries {
		num, _, ok := strings.Cut(e.Name(), "_")
		v, err := strconv.Atoi(num)
		if !ok || err != nil {
			return nil, fmt.Errorf("migration %q has no number", e.Name())
		}
		text, err := migrations.ReadFile(path.Join("migrations", e.Name()))
		if err != nil {
			return nil, err
		}
		list = append(list, Migration{v, e.Name(), string(text)})
	}
	slices.SortFunc(list, func(a, b Migration) int { return a.Version - b.Version })
	return list, nil
}

// Statements splits a step at the semicolons that end lines; a step holds no
// semicolon elsewhere.
func (m Migration) Statements() []string {
	var out []string
	for text := range strings.SplitSeq(m.SQL, ";\n") {
		var lines []string
		for line := range strings.Lines(text) {
			if t := strings.TrimSpace(line); t != "" && !strings.HasPrefix(t, "--") {
				lines = append(lines, strings.TrimRight(line, "\n"))
			}
		}
		if len(lines) > 0 {
			out = append(out, strings.TrimSuffix(strings.Join(lines, "\n"), ";"))
		}
	}
	return out
}

var (
	qSchemaTable   = &Query{`create table if not exists schema_version (version integer primary key, applied_at integer not null)`}
	qSchemaVersion = &Query{`select coalesce(max(version), 0) from schema_version`}
	qSchemaApplied = &Query{`insert into schema_version (version, applied_at) values (?, ?)`}
	qNewestRow     = &Query{`select coalesce(max(at), 0) from events where feed = 1 and pos = (select max(pos) from events where feed = 1)`}
	qNewestLease   = &Query{`select coalesce(max(at), 0) from events where feed = 2 and pos = (select max(pos) from events where feed = 2)`}
	qNewestSignal  = &Query{`select coalesce(max(at), 0) from events where feed = 3 and pos = (select max(pos) from events where feed = 3)`}
	qNewestMade    = &Query{`select rec from executions order by xid desc limit 100`}
	qSavedClock    = &Query{`select value from config where name = 'clock'`}
	qNewestWorker  = &Query{`select coalesce(max(at), 0) from worker_events where id = (select max(id) from worker_events)`}
)

// Pending returns the steps that a database still lacks, or schema_too_new. A
// database without a schema_version table lacks all of them.
func Pending(c Conn, versioned bool) ([]Migration, error) {
	all, err := Migrations()
	if err != nil {
		return nil, err
	}
	have := 0
	if versioned {
		q := c.Stmt(qSchemaVersion)
		if _, err := q.Next(); err != nil {
			return nil, err
		}
		have = int(q.ColInt(0))
		q.Stop()
	}
	if newest := all[len(all)-1].Version; have > newest {
		return nil, flowfabric.NewError(flowfabric.CodeSchemaTooNew, "the store has schema %d, this program knows up to %d", have, newest)
	}
	return slices.DeleteFunc(all, func(m Migration) bool { return m.Version <= have }), nil
}

// Migrate applies the steps that a database lacks, each in one transaction with
// its version.
func Migrate(c Conn, exec func(sql string) error, now flowfabric.Millis) error {
	if err := c.Stmt(qSchemaTable).Exec(); err != nil {
		return err
	}
	pending, err := Pending(c, true)
	if err != nil {
		return err
	}
	for _, m := range pending {
		if err := apply(c, exec, m, now); err != nil {
			_ = exec("rollback")
			return fmt.Errorf("migration %s: %w", m.Name, err)
		}
	}
	return nil
}

func apply(c Conn, exec func(sql string) error, m Migration, now flowfabric.Millis) error {
	if err := exec("begin immediate"); err != nil {
		return err
	}
	for _, sql := range m.Statements() {
		if err := exec(sql); err != nil {
			return err
		}
	}
	q := c.Stmt(qSchemaApplied)
	q.Int(int64(m.Version))
	q.Int(int64(now))
	if err := q.Exec(); err != nil {
		return err
	}
	return exec("commit")
}

// NewestInstant is the newest store time that the database tells of, so that a
// clock set back between two starts does not go back.
func NewestInstant(c Conn) (flowfabric.Millis, error) {
	newest := int64(0)
	for _, query := range []*Query{qNewestRow, qNewestLease, qNewestSignal, qNewestWorker} {
		q := c.Stmt(query)
		ok, err := q.Next()
		if err != nil {
			return 0, err
		}
		if ok {
			newest = max(newest, q.ColInt(0))
			q.Stop()
		}
	}
	q := c.Stmt(qSavedClock)
	if ok, err := q.Next(); err != nil {
		return 0, err
	} else if ok {
		saved, _ := strconv.ParseInt(q.ColText(0), 10, 64)
		newest = max(newest, saved)
		q.Stop()
	}
	q = c.Stmt(qNewestMade) // executions made since, which nothing has happened to
	for {
		ok, err := q.Next()
		if err != nil || !ok {
			return flowfabric.Millis(newest), err
		}
		r := row{st: &rules.State{}}
		_ = decodeRecord("newest_instant", q.ColBlob(0, nil), &r) // without its bucket it is not complete
		newest = max(newest, int64(r.st.Exec.LastMutationAt))
	}
}

// saveClock notes the store's time, so that a start begins no earlier.
func (tx *Tx) saveClock() error {
	q := tx.conn.Stmt(qInsertConfig)
	q.Text("clock")
	q.Text(strconv.FormatInt(int64(tx.Now), 10))
	return q.Exec()
}

// NewIncarnation marks a restored database.
func NewIncarnation(c Conn, id string) error {
	q := c.Stmt(qInsertConfig)
	q.Text("incarnation")
	q.Text(id)
	return q.Exec()
}
