package sqlite

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/backend/internal/sqlstore"
)

// openConformance opens an empty store for one scenario, on a clock that the
// suite moves.
func openConformance(t *testing.T, path func(t *testing.T) string, o backendtest.Options) backendtest.Harness {
	t.Helper()
	clk := backendtest.NewClock()
	cfg := Config{Path: path(t), Clock: clk, NoEngine: true, NoWaitpointSecret: true, StrictLanes: o.StrictLanes, Feeds: o.Feeds}
	if o.FlowPartitions > 0 {
		cfg.PartitionConfig = flowfabric.DefaultPartitionConfig()
		cfg.PartitionConfig.NumFlowPartitions = o.FlowPartitions
	}
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return backendtest.Harness{
		Backend: b, Store: b, Clock: clk,
		Corrupt:  func(t *testing.T, id flowfabric.ExecutionID, field string) bool { return spoil(t, b, id, field) },
		Displace: func(t *testing.T, id flowfabric.ExecutionID) { displace(t, b, id) },
		Reserve: func(t *testing.T, ns flowfabric.Namespace, key string, id flowfabric.ExecutionID) {
			u := id.UUID()
			meddle(t, b, `insert into idempotency (namespace, key, part, uuid, expires_at) values (?, ?, ?, ?, ?)`,
				string(ns), key, int64(id.Partition()), u[:], int64(clk.NowMillis())+60_000)
		},
		CorruptSecret: func(t *testing.T, kid string) {
			meddle(t, b, `update secrets set secret = 'no digits' where kid = ?`, kid)
		},
		With: func(t *testing.T, o backendtest.Options) backendtest.Harness { return openConformance(t, path, o) },
	}
}

func inMemory(*testing.T) string { return "" }

// inFile returns the path of a file with the present schema and nothing else. To
// parse the schema's statements would be most of the time that a scenario takes;
// other tests open files that do not exist yet.
func inFile(t *testing.T) string {
	t.Helper()
	data, err := blankFile()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "flow.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var blankFile = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "flowfabric-blank")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b := &Backend{path: filepath.Join(dir, "flow.db")}
	raw, err := b.connect(false)
	if err != nil {
		return nil, err
	}
	c := newConn(raw)
	err = sqlstore.Migrate(c, c.exec, 1)
	if e := c.close(); err == nil {
		err = e
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(b.path)
})

// onBoth runs a part of the suite on a store in memory and on one in a file.
func onBoth(t *testing.T, run func(t *testing.T, open func(t *testing.T) backendtest.Harness)) {
	for _, form := range []struct {
		name string
		path func(t *testing.T) string
	}{{"memory", inMemory}, {"file", inFile}} {
		t.Run(form.name, func(t *testing.T) {
			if form.name == "file" && testing.Short() {
				t.Skip("the file is left out of short runs")
			}
			run(t, func(t *testing.T) backendtest.Harness {
				return openConformance(t, form.path, backendtest.Options{})
			})
		})
	}
}

func TestConformance(t *testing.T) { onBoth(t, backendtest.Run) }

func TestLinearizability(t *testing.T) { onBoth(t, backendtest.RunLinearizability) }

// TestRandom makes the usual number of runs in memory, and some in a file, where
// every step waits for the disk.
func TestRandom(t *testing.T) {
	runs := 100
	onBoth(t, func(t *testing.T, open func(t *testing.T) backendtest.Harness) {
		backendtest.RunRandomFewer(t, runs, open)
		runs = 30
	})
}

func TestConcurrent(t *testing.T) { onBoth(t, backendtest.RunConcurrent) }

// meddle changes the database behind the store's back and lets it forget what it
// remembers.
func meddle(t *testing.T, b *Backend, sql string, args ...any) {
	t.Helper()
	w := b.writer
	w.connMu.Lock()
	defer w.connMu.Unlock()
	stmt, _, err := w.conn.c.PrepareTransient(sql)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stmt.Finalize() }()
	for i, a := range args {
		switch v := a.(type) {
		case int64:
			stmt.BindInt64(i+1, v)
		case string:
			stmt.BindText(i+1, v)
		case []byte:
			stmt.BindBytes(i+1, v)
		}
	}
	if _, err := stmt.Step(); err != nil {
		t.Fatal(err)
	}
	if err := w.hooks.RolledBack(w.conn); err != nil {
		t.Fatal(err)
	}
}

// displace takes an offered execution out of the order of claimers, puts one that
// is not offered into it, and hides it from the ticks.
func displace(t *testing.T, b *Backend, id flowfabric.ExecutionID) {
	t.Helper()
	u := id.UUID()
	meddle(t, b, `update executions set offered = 1 - offered, prio_key = 5, due_at = null where part = ? and uuid = ?`,
		int64(id.Partition()), u[:])
}

// The tags of the fields that spoil knows in an encoded record.
const (
	tagVector     = 7
	tagCreatedAt  = 51
	tagMutationAt = 55
)

// spoil breaks one field of an encoded record.
func spoil(t *testing.T, b *Backend, id flowfabric.ExecutionID, field string) bool {
	t.Helper()
	u := id.UUID()
	rec := record(t, b, id)
	snap, err := b.DescribeExecution(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	switch field {
	case "public_state", "lifecycle_phase":
		// The vector is its tag and seven small numbers.
		at := -1
		for i := 0; i+8 <= len(rec); i++ {
			if rec[i] == tagVector && isVector(rec[i+1:i+8]) {
				at = i
				break
			}
		}
		if at < 0 {
			t.Fatal("no state vector in the record")
		}
		if field == "public_state" {
			rec[at+7] = 0x63
		} else {
			rec[at+1] = 0x63
		}
	case "created_at":
		rec = without(t, rec, tagCreatedAt, snap.CreatedAt)
	case "last_mutation_at":
		rec = without(t, rec, tagMutationAt, snap.LastMutationAt)
	default:
		return false
	}
	meddle(t, b, `update executions set rec = ? where part = ? and uuid = ?`, rec, int64(id.Partition()), u[:])
	return true
}

func isVector(v []byte) bool {
	limits := [7]byte{5, 4, 9, 16, 6, 7, 11}
	for i, c := range v {
		if c >= limits[i] {
			return false
		}
	}
	return true
}

func without(t *testing.T, rec []byte, tag byte, at flowfabric.Millis) []byte {
	t.Helper()
	field := binary.AppendUvarint([]byte{tag}, uint64(at))
	before, after, ok := bytes.Cut(rec, field)
	if !ok {
		t.Fatalf("no field %d in the record", tag)
	}
	return append(before, after...)
}

func record(t *testing.T, b *Backend, id flowfabric.ExecutionID) []byte {
	t.Helper()
	w := b.writer
	w.connMu.Lock()
	defer w.connMu.Unlock()
	stmt, _, err := w.conn.c.PrepareTransient(`select rec from executions where part = ? and uuid = ?`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stmt.Finalize() }()
	u := id.UUID()
	stmt.BindInt64(1, int64(id.Partition()))
	stmt.BindBytes(2, u[:])
	row, err := stmt.Step()
	if err != nil || !row {
		t.Fatalf("no record of %s: %v", id, err)
	}
	rec := make([]byte, stmt.ColumnLen(0))
	stmt.ColumnBytes(0, rec)
	return rec
}
