package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"

	zs "zombiezen.com/go/sqlite"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/internal/sqlstore"
)

// PendingMigrations names the schema steps that Open would apply to the file, in
// order; a missing file lacks them all. It takes the file's lock, so it fails
// while another process uses the file, and it changes nothing.
//
// Errors: store_unavailable, schema_too_new.
func PendingMigrations(_ context.Context, path string) ([]string, error) {
	var c sqlstore.Conn
	versioned := false
	if _, err := os.Stat(path); err == nil {
		lock, err := lockFile(path)
		if err != nil {
			return nil, err
		}
		defer lock.release()
		raw, err := zs.OpenConn(path, zs.OpenReadWrite)
		if err != nil {
			return nil, fault(err, flowfabric.CodeStoreUnavailable)
		}
		cc := newConn(raw)
		defer cc.close()
		if versioned, err = hasTable(cc, "schema_version"); err != nil {
			return nil, fault(err, flowfabric.CodeStoreUnavailable)
		}
		c = cc
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, flowfabric.NewError(flowfabric.CodeStoreUnavailable, "%s cannot be looked at", path).Wrap(err)
	}
	list, err := sqlstore.Pending(c, versioned)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(list))
	for _, m := range list {
		names = append(names, m.Name)
	}
	return names, nil
}

var qHasTable = &sqlstore.Query{SQL: `select count(*) from sqlite_master where type = 'table' and name = ?`}

func hasTable(c *conn, name string) (bool, error) {
	q := c.Stmt(qHasTable)
	q.Text(name)
	if _, err := q.Next(); err != nil {
		return false, err
	}
	n := q.ColInt(0)
	q.Stop()
	return n > 0, nil
}

// blank is an empty store in memory with the present schema, made once per
// process. A store in memory begins as a copy of its pages: to parse the
// statements of the schema is most of what opening one costs.
var blank struct {
	mu   sync.Mutex
	conn *conn
}

// copyBlank gives an empty connection in memory the present schema.
func (b *Backend) copyBlank(c *conn) error {
	blank.mu.Lock()
	defer blank.mu.Unlock()
	if blank.conn == nil {
		raw, err := b.connect(false)
		if err != nil {
			return err
		}
		made := newConn(raw)
		if err := sqlstore.Migrate(made, made.exec, b.clock.now()); err != nil {
			_ = made.close()
			return err
		}
		blank.conn = made
	}
	return copyPages(context.Background(), c.c, blank.conn.c, nil)
}
