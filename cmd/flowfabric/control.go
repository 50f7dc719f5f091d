package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/config"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// controlSocket is the name of the socket in the data directory by which
// commands on the same machine reach the process that owns the store. Its mode,
// 0600, and its directory's, 0700, guard it.
const controlSocket = "control.sock"

// socketOf returns the socket of a store: control.sock in its data directory, or
// a name of its own beside a file that was named by URL, which may have
// neighbours.
func socketOf(store string) string {
	if filepath.Base(store) == config.StoreFile {
		return filepath.Join(filepath.Dir(store), controlSocket)
	}
	return store + "." + controlSocket
}

// maxSocketPath is what every system takes as the address of a socket.
const maxSocketPath = 100

// controlRequest is one line: what is wanted.
type controlRequest struct {
	Op string `json:"op"` // backup, or status
	// Path is where a backup goes: absolute, since the two processes may have
	// different directories.
	Path string `json:"path,omitempty"`
}

// controlAnswer is one line: progress, or the end.
type controlAnswer struct {
	Done      bool          `json:"done"`
	Process   int           `json:"process,omitempty"` // who answers, at the end
	Problem   *wire.Problem `json:"problem,omitempty"`
	Remaining int           `json:"remaining"` // of Total
	Total     int           `json:"total"`
}

// backupStore is a store that can copy itself while it works.
type backupStore interface {
	Backup(ctx context.Context, path string, progress func(remaining, total int)) error
}

// control answers the control socket.
type control struct {
	store    backupStore
	log      *slog.Logger
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// startControl listens on a socket. The caller owns the store's lock, so a
// socket that is there already is a leftover.
func startControl(path string, store backupStore, log *slog.Logger) (*control, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path %s is too long for a socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close()
		return nil, err
	}
	c := &control{store: store, log: log, listener: listener}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.running.Go(c.accept)
	return c, nil
}

// close stops answering and takes the socket away; what is under way is
// cancelled.
func (c *control) close() {
	if c == nil {
		return
	}
	c.cancel()
	_ = c.listener.Close()
	c.running.Wait()
}

func (c *control) accept() {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.running.Go(func() {
			stop := context.AfterFunc(c.ctx, func() { _ = conn.Close() })
			defer stop()
			defer conn.Close()
			c.serve(conn)
		})
	}
}

// serve answers one request. A client that goes away ends what it asked for.
func (c *control) serve(conn net.Conn) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReaderSize(conn, 64<<10)
	line, err := in.ReadSlice('\n')
	var req controlRequest
	if err == nil {
		err = json.Unmarshal(line, &req)
	}
	out := json.NewEncoder(conn)
	if err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	go func() {
		_, _ = in.ReadByte() // ends when the client does
		cancel()
	}()
	err = c.perform(ctx, req, func(remaining, total int) {
		_ = out.Encode(controlAnswer{Remaining: remaining, Total: total})
	})
	answer := controlAnswer{Done: true, Process: os.Getpid()}
	if err != nil {
		answer.Problem = wire.NewProblem(err)
	}
	_ = out.Encode(answer)
}

func (c *control) perform(ctx context.Context, req controlRequest, progress func(remaining, total int)) error {
	switch req.Op {
	case "status":
		return nil
	case "backup":
		if !filepath.IsAbs(req.Path) {
			return flowfabric.InvalidInput("path", "%q is not absolute", req.Path)
		}
		start := time.Now()
		err := c.store.Backup(ctx, req.Path, progress)
		if err == nil {
			c.log.Info("backup written", "path", req.Path, "took", time.Since(start).Round(time.Millisecond).String())
		} else {
			c.log.Warn("backup failed", "path", req.Path, "error", err.Error())
		}
		return err
	}
	return flowfabric.InvalidInput("op", "%q is unknown", req.Op)
}

// dialControl reaches the process that owns a store; nil when none listens.
func dialControl(ctx context.Context, store string) net.Conn {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socketOf(store))
	if err != nil {
		return nil
	}
	return conn
}

// askControl sends a request and follows the answers to the end.
func askControl(ctx context.Context, conn net.Conn, req controlRequest, progress func(remaining, total int)) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return err
	}
	in := json.NewDecoder(conn)
	for {
		var a controlAnswer
		if err := in.Decode(&a); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("the server ended before the answer: %w", err)
		}
		switch {
		case !a.Done:
			progress(a.Remaining, a.Total)
		case a.Problem != nil:
			return a.Problem.Err()
		default:
			return nil
		}
	}
}

// storeHolder names the process that serves a store, "" when none answers. It
// does not touch the store.
func storeHolder(ctx context.Context, store string) string {
	if store == "" {
		return ""
	}
	conn := dialControl(ctx, store)
	if conn == nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	var a controlAnswer
	if json.NewEncoder(conn).Encode(controlRequest{Op: "status"}) != nil || json.NewDecoder(conn).Decode(&a) != nil {
		return ""
	}
	return fmt.Sprintf("process %d", a.Process)
}
