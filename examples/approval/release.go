package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Release is the input of a deployment: the files as they were approved, and the
// release they replace.
type Release struct {
	Base     string            // name of the release in place at the submission, "" for none
	Files    map[string][]byte // by plain name
	WindowMs int64             // how long people have to decide
}

// errMoved says that the approval was for another state of the directory.
var errMoved = errors.New("another release has been put in place since this one was submitted")

// directory is what is deployed to. It holds the releases, and the link
// "current" to the one in place.
type directory string

func (d directory) path(parts ...string) string {
	return filepath.Join(append([]string{string(d)}, parts...)...)
}

// current returns the name of the release in place, "" when there is none.
func (d directory) current() (string, error) {
	target, err := os.Readlink(d.path("current"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return filepath.Base(target), err
}

// install puts a release in place of its base, or finds it there. The change is
// one rename of the link. Until then nobody sees anything of it, and a repeat,
// also by a worker that was thought dead, changes nothing: the base has gone.
func (d directory) install(name string, r Release) (done bool, err error) {
	if err := os.MkdirAll(d.path("releases"), 0o755); err != nil {
		return false, err
	}
	lock, err := os.OpenFile(d.path(".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return false, err
	}
	defer lock.Close() // which unlocks; so does the death of the process
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return false, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	switch now, err := d.current(); {
	case err != nil:
		return false, err
	case now == name:
		return false, nil
	case now != r.Base:
		return false, errMoved
	}
	if err := d.write(name, r.Files); err != nil {
		return false, err
	}
	link := d.path(".current")
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.Symlink(filepath.Join("releases", name), link); err != nil {
		return false, err
	}
	return true, os.Rename(link, d.path("current"))
}

// write makes the release's own directory, whole or not at all: it is filled
// under another name. What an earlier worker left half filled is thrown away.
func (d directory) write(name string, files map[string][]byte) error {
	if _, err := os.Stat(d.path("releases", name)); err == nil {
		return nil
	}
	filling := d.path(".filling")
	if err := os.RemoveAll(filling); err != nil {
		return err
	}
	if err := os.Mkdir(filling, 0o755); err != nil {
		return err
	}
	for file, content := range files {
		if file != filepath.Base(file) || strings.HasPrefix(file, ".") {
			return fmt.Errorf("%q is no plain file name", file)
		}
		if err := writeSynced(filepath.Join(filling, file), content); err != nil {
			return err
		}
	}
	return os.Rename(filling, d.path("releases", name))
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}
