package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unicode/utf8"
)

// Tree is a directory with the regular files found in it.
type Tree struct {
	// Root is the absolute path of the directory, symbolic links resolved.
	Root string
	// Files are slash-separated paths relative to Root, in lexical order.
	Files []string
	// Unreadable tells of files and directories that were passed over because
	// they cannot be read.
	Unreadable []error
}

// ErrNoFiles tells that a directory holds no regular file.
var ErrNoFiles = errors.New("holds no files")

// Resolve returns the absolute path of a directory, symbolic links resolved. It
// fails when there is nothing at dir or when it is no directory.
func Resolve(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%s does not exist", abs)
	case err != nil:
		return "", err
	case !info.IsDir():
		return "", fmt.Errorf("%s is no directory", abs)
	}
	return filepath.EvalSymlinks(abs)
}

// Walk lists the regular files under dir. Symbolic links, sockets and the like
// are no files; what lies under the directory skip (absolute, "" for none) is
// passed over, and so is what cannot be read, with a note. It fails when dir is
// no directory, cannot be read, or holds no readable file.
func Walk(ctx context.Context, dir, skip string) (*Tree, error) {
	root, err := Resolve(dir)
	if err != nil {
		return nil, err
	}
	t := &Tree{Root: root}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return t.visit(path, entry, err, skip)
	})
	if err != nil {
		return nil, err
	}
	if len(t.Files) == 0 && len(t.Unreadable) > 0 {
		return nil, fmt.Errorf("%s holds no readable files: %w", root, t.Unreadable[0])
	}
	if len(t.Files) == 0 {
		return nil, fmt.Errorf("%s %w", root, ErrNoFiles)
	}
	return t, nil
}

func (t *Tree) visit(path string, entry fs.DirEntry, err error, skip string) error {
	switch {
	case err != nil && path == t.Root:
		return err
	case err != nil:
		t.Unreadable = append(t.Unreadable, err)
		return nil
	case entry.IsDir() && path == skip:
		return fs.SkipDir
	case !entry.Type().IsRegular():
		return nil
	}
	if !utf8.ValidString(path) { // JSON could not name it
		t.Unreadable = append(t.Unreadable, fmt.Errorf("%q is no UTF-8", path))
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		t.Unreadable = append(t.Unreadable, err)
		return nil
	}
	f.Close()
	rel, err := filepath.Rel(t.Root, path)
	if err != nil {
		return err
	}
	t.Files = append(t.Files, filepath.ToSlash(rel))
	return nil
}
