package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	zs "zombiezen.com/go/sqlite"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/internal/sqlstore"
)

const backupStep = 512 // pages copied between two looks at the context

// Backup writes a consistent copy of the store to a new file, while the store
// goes on working. Progress, when not nil, hears how many pages are left of how
// many. The target must not exist.
func (b *Backend) Backup(ctx context.Context, path string, progress func(remaining, total int)) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return flowfabric.InvalidInput("path", "%s exists already", path)
		}
		return flowfabric.InvalidInput("path", "%v", err)
	}
	_ = f.Close()
	err = b.backup(ctx, path, progress)
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

func (b *Backend) backup(ctx context.Context, path string, progress func(remaining, total int)) (err error) {
	dst, err := zs.OpenConn(path, zs.OpenReadWrite)
	if err != nil {
		return fault(err, flowfabric.CodeStoreUnavailable)
	}
	defer func() {
		if e := dst.Close(); err == nil && e != nil {
			err = fault(e, flowfabric.CodeStoreUnavailable)
		}
	}()
	if b.path == "" {
		b.writer.connMu.Lock()
		defer b.writer.connMu.Unlock()
		return copyPages(ctx, dst, b.writer.conn.c, progress)
	}
	// A connection of its own with one read transaction: the copy is the state of
	// one instant, and neither the writer nor the readers wait for it.
	src, err := b.connect(true)
	if err != nil {
		return err
	}
	c := newConn(src)
	defer c.close()
	if err := c.exec("begin"); err != nil {
		return fault(err, flowfabric.CodeStoreUnavailable)
	}
	if _, err := sqlstore.NewestInstant(c); err != nil {
		return fault(err, flowfabric.CodeStoreUnavailable)
	}
	return copyPages(ctx, dst, src, progress)
}

func copyPages(ctx context.Context, dst, src *zs.Conn, progress func(remaining, total int)) error {
	bk, err := zs.NewBackup(dst, "main", src, "main")
	if err != nil {
		return fault(err, flowfabric.CodeStoreUnavailable)
	}
	for {
		if err := ctx.Err(); err != nil {
			_ = bk.Close()
			return err
		}
		more, err := bk.Step(backupStep)
		if err != nil {
			_ = bk.Close()
			return fault(err, flowfabric.CodeStoreUnavailable)
		}
		if progress != nil {
			progress(bk.Remaining(), bk.PageCount())
		}
		if !more {
			break
		}
	}
	if err := bk.Close(); err != nil {
		return fault(err, flowfabric.CodeStoreUnavailable)
	}
	return nil
}

// Restore makes a store at path out of a backup. The target must not exist, and
// no process may use it. A restore is a new incarnation: feed cursors of the
// former one are refused.
func Restore(ctx context.Context, backup, path string) error {
	if _, err := os.Stat(backup); err != nil {
		return flowfabric.InvalidInput("backup", "%v", err)
	}
	if _, err := os.Stat(path); err == nil {
		return flowfabric.InvalidInput("path", "%s exists already", path)
	}
	lock, err := lockFile(path)
	if err != nil {
		return err
	}
	defer lock.release()
	// Logs that a former store left behind would be taken for the new one's.
	tmp := path + ".restoring"
	for _, left := range []string{path + "-wal", path + "-shm", tmp, tmp + "-wal", tmp + "-shm", tmp + "-journal"} {
		if err := os.Remove(left); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "%s of a former store cannot be removed", left).Wrap(err)
		}
	}
	if err := restoreInto(ctx, backup, tmp); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "%s cannot be put in place", path).Wrap(err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "the directory %s cannot be synced", dir).Wrap(err)
	}
	return nil
}

func restoreInto(ctx context.Context, backup, tmp string) error {
	src, err := zs.OpenConn(backup, zs.OpenReadOnly)
	if err != nil {
		return flowfabric.InvalidInput("backup", "%v", err)
	}
	defer src.Close()
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "%s cannot be made", tmp).Wrap(err)
	}
	_ = f.Close()
	dst, err := zs.OpenConn(tmp, zs.OpenReadWrite)
	if err != nil {
		return fault(err, flowfabric.CodeStoreUnavailable)
	}
	c := newConn(dst)
	defer c.close()
	if err := copyPages(ctx, dst, src, nil); err != nil {
		return err
	}
	if err := c.exec("pragma journal_mode = delete"); err != nil {
		return flowfabric.InvalidInput("backup", "%s is no FlowFabric backup: %v", backup, err)
	}
	if err := sqlstore.NewIncarnation(c, uuid.NewString()); err != nil {
		return flowfabric.InvalidInput("backup", "%s is no FlowFabric backup: %v", backup, err)
	}
	return nil
}
