//go:build unix

package sqlite

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flowfabric/flowfabric"
)

// fileLock keeps a database file to one process. The lock lives as long as the
// process, however it ends.
type fileLock struct{ f *os.File }

// lockFile takes the lock beside the database, or names the holder.
func lockFile(path string) (*fileLock, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, flowfabric.NewError(flowfabric.CodeStoreUnavailable, "the lock of %s cannot be opened", path).Wrap(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path + ".lock")
		_ = f.Close()
		who := strings.TrimSpace(string(holder))
		if who == "" {
			who = "another process"
		}
		return nil, flowfabric.NewError(flowfabric.CodeStoreUnavailable, "%s is in use by %s", path, who).
			WithKind("other").With("holder", who).With("path", path)
	}
	_ = f.Truncate(0)
	host, _ := os.Hostname()
	_, _ = f.WriteAt(fmt.Appendf(nil, "process %d on %s\n", os.Getpid(), host), 0)
	return &fileLock{f}, nil
}

func (l *fileLock) release() error {
	if l == nil {
		return nil
	}
	return l.f.Close()
}
