package valkeytest

import (
	"os"
	"path/filepath"
	"time"
)

// directory holds the files of a pool's servers. It is locked as long as the
// process lives, so a later one can tell it from the leftovers of a process
// that was killed.
type directory struct {
	path string
	held *os.File
}

const (
	directoryPrefix = "flowfabric-valkeytest-"
	directoryLock   = "lock"
	// leftoverAge is how old a directory is at least before it is taken for a
	// leftover: one younger may not have been locked yet.
	leftoverAge = time.Minute
)

// newDirectory makes a directory, and removes leftovers.
func newDirectory() (*directory, error) {
	removeLeftovers()
	path, err := os.MkdirTemp("", directoryPrefix)
	if err != nil {
		return nil, err
	}
	held, err := os.OpenFile(filepath.Join(path, directoryLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	lock(held)
	return &directory{path: path, held: held}, nil
}

// sub makes a directory in the directory.
func (d *directory) sub() (string, error) { return os.MkdirTemp(d.path, "") }

func (d *directory) remove() {
	_ = os.RemoveAll(d.path)
	_ = d.held.Close()
}

func removeLeftovers() {
	paths, _ := filepath.Glob(filepath.Join(os.TempDir(), directoryPrefix+"*"))
	for _, path := range paths {
		if abandoned(path) {
			_ = os.RemoveAll(path)
		}
	}
}

func abandoned(path string) bool {
	made, err := os.Stat(path)
	if err != nil || time.Since(made.ModTime()) < leftoverAge {
		return false
	}
	held, err := os.OpenFile(filepath.Join(path, directoryLock), os.O_RDWR, 0)
	if err != nil {
		return os.IsNotExist(err)
	}
	defer func() { _ = held.Close() }()
	return lock(held)
}
