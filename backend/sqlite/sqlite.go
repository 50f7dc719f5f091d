// Package sqlite is the embedded store: a whole FlowFabric engine in the
// process that opens it, kept in one SQLite file or, for tests and trials, in
// memory. It needs no server and no cgo.
//
// One process owns a file. One goroutine writes, and commits with one fsync
// whatever has collected while the last commit was syncing; nothing is
// acknowledged before it is on disk. Readers use their own connections and never
// wait for the writer. (Specification 07, section 17.3.)
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	zs "zombiezen.com/go/sqlite"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/internal/sqlstore"
	"github.com/flowfabric/flowfabric/engine"
)

// Config configures an embedded store. The zero Config is a store in memory.
type Config struct {
	// Path is the database file; "" or ":memory:" keeps everything in memory. The
	// directory is created with mode 0700 when missing.
	Path string
	// Clock is the store's clock; nil means the wall clock.
	Clock Clock
	// Engine configures the engine beside the store.
	Engine engine.Config
	// Feeds are the feeds kept besides completions; nil means leases, signals
	// and tags. An empty non-nil list keeps completions only.
	Feeds []flowfabric.Feed
	// Logger receives warnings; nil discards.
	Logger *slog.Logger
	// NoEngine leaves the duties to the caller: nothing happens by itself, and
	// the methods of flowfabric.Upkeep drive the store. For tests.
	NoEngine bool
	// PartitionConfig must equal the stored one, except that the zero value takes
	// whatever is stored; a new store is made with it, or with the default.
	PartitionConfig flowfabric.PartitionConfig
	// PoolSize is how many connections are used: one writes, the rest read.
	// Default 4, at least 2.
	PoolSize int
	// StrictLanes refuses lanes that nobody has declared.
	StrictLanes bool
	// WaitpointSecretHex is the secret of the waitpoint tokens, 64 to 256
	// hexadecimal digits, that a store without one begins with; empty means a
	// random one. A key ring that is stored already stands.
	WaitpointSecretHex string
	// WaitpointKID names that secret's key; empty means k1.
	WaitpointKID string
	// NoWaitpointSecret leaves the key ring as it is, even empty, for whoever opens
	// the store to seed it with SeedWaitpointSecret.
	NoWaitpointSecret bool
}

// Backend is an open embedded store with its engine. It implements
// flowfabric.Backend and flowfabric.Store.
type Backend struct {
	*sqlstore.Store
	eng *engine.Engine

	cfg     Config
	path    string
	lock    *fileLock
	clock   *clock
	writer  *writer
	readers chan *conn
	ckpt    *checkpointer
	started bool

	closeOnce sync.Once
	closeErr  error
}

var (
	_ flowfabric.Backend = (*Backend)(nil)
	_ flowfabric.Store   = (*Backend)(nil)
)

// Open opens a store, creating or migrating it as needed, and starts its engine.
//
// Errors: store_unavailable naming the holder when another process owns the
// file; schema_too_new; partition_count_mismatch; partition_config_corrupt;
// invalid_kid, invalid_secret_hex.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	if cfg.Path == ":memory:" {
		cfg.Path = ""
	}
	if cfg.PoolSize == 0 {
		cfg.PoolSize = 4
	}
	if cfg.PoolSize < 2 || cfg.PoolSize > 1000 {
		return nil, flowfabric.InvalidInput("pool_size", "is %d, must be 2..1000", cfg.PoolSize)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = wallClock{}
	}
	if cfg.Feeds == nil {
		cfg.Feeds = []flowfabric.Feed{flowfabric.FeedLeases, flowfabric.FeedSignals, flowfabric.FeedTags}
	}
	b := &Backend{cfg: cfg, clock: &clock{src: cfg.Clock}}
	if err := b.open(ctx); err != nil {
		b.abandon()
		return nil, err
	}
	return b, nil
}

func (b *Backend) open(ctx context.Context) (err error) {
	if err := b.openFile(); err != nil {
		return err
	}
	main, err := b.connect(false)
	if err != nil {
		return err
	}
	c := newConn(main)
	family := "memory"
	if b.path != "" {
		family = "sqlite"
	}
	if b.path == "" {
		err = b.copyBlank(c)
	}
	if err == nil {
		err = sqlstore.Migrate(c, c.exec, b.clock.now())
	}
	if err != nil {
		_ = c.close()
		return err
	}
	b.Store = sqlstore.New(sqlstore.Config{Family: family, Version: zs.Version, Path: b.path, Partitions: b.cfg.PartitionConfig,
		Feeds: b.cfg.Feeds, StrictLanes: b.cfg.StrictLanes, Logger: b.cfg.Logger,
		WaitpointSecretHex: b.cfg.WaitpointSecretHex, WaitpointKID: b.cfg.WaitpointKID,
		NoWaitpointSecret: b.cfg.NoWaitpointSecret})
	b.writer = newWriter(c, b.clock, b.Store.Hooks(), b.cfg.Logger)
	newest, err := sqlstore.NewestInstant(c)
	if err != nil {
		return err
	}
	b.clock.atLeast(newest)
	if err := b.boot(ctx, c); err != nil {
		return err
	}
	if b.path != "" {
		if err := b.openReaders(); err != nil {
			return err
		}
		b.ckpt = newCheckpointer(b)
		b.writer.afterCommit = b.ckpt.committed
		go b.ckpt.run()
	}
	b.started = true
	go b.writer.run()
	b.eng, err = engine.New(b.Store, b.engineConfig())
	if err != nil {
		return err
	}
	return b.eng.Start(ctx)
}

// boot binds the store to its file in one transaction.
func (b *Backend) boot(ctx context.Context, c *conn) error {
	if err := c.exec("begin immediate"); err != nil {
		return fault(err, flowfabric.CodeStoreUnavailable)
	}
	if err := b.Store.Boot(ctx, b, c); err != nil {
		_ = c.exec("rollback")
		return fault(err, flowfabric.CodeStoreUnavailable)
	}
	return c.exec("commit")
}

func (b *Backend) engineConfig() engine.Config {
	cfg := b.cfg.Engine
	if cfg.Logger == nil {
		cfg.Logger = b.cfg.Logger
	}
	if b.cfg.NoEngine {
		cfg.DisableDuties = true
	}
	return cfg
}

func (b *Backend) openFile() error {
	if b.cfg.Path == "" {
		return nil
	}
	path, err := filepath.Abs(b.cfg.Path)
	if err != nil {
		return flowfabric.InvalidInput("path", "%v", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "the directory of %s cannot be made", path).Wrap(err)
	}
	b.path = path
	if b.lock, err = lockFile(path); err != nil {
		return err
	}
	// SQLite would make the file readable by all; its companions take its mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "%s cannot be opened", path).Wrap(err)
	}
	return f.Close()
}

// connect opens one connection with the store's settings.
func (b *Backend) connect(reader bool) (*zs.Conn, error) {
	name := b.path
	if name == "" {
		name = ":memory:"
	}
	flags := zs.OpenReadWrite | zs.OpenCreate
	c, err := zs.OpenConn(name, flags)
	if err != nil {
		return nil, flowfabric.NewError(flowfabric.CodeStoreUnavailable, "%s cannot be opened", name).Wrap(err)
	}
	cc := newConn(c)
	pragmas := []string{"pragma page_size = 4096", "pragma foreign_keys = off", "pragma temp_store = memory"}
	switch {
	case b.path == "":
		pragmas = append(pragmas, "pragma journal_mode = memory", "pragma synchronous = off")
	case reader:
		pragmas = append(pragmas, "pragma query_only = on", "pragma cache_size = -8192", "pragma busy_timeout = 10000")
	default:
		pragmas = append(pragmas, "pragma journal_mode = wal", "pragma synchronous = full", "pragma cache_size = -20480",
			"pragma wal_autocheckpoint = 0", "pragma busy_timeout = 10000")
	}
	for _, p := range pragmas {
		if err := cc.exec(p); err != nil {
			_ = c.Close()
			return nil, flowfabric.NewError(flowfabric.CodeStoreUnavailable, "%s: %s", name, p).Wrap(err)
		}
	}
	return c, nil
}

func (b *Backend) openReaders() error {
	b.readers = make(chan *conn, b.cfg.PoolSize-1)
	for range b.cfg.PoolSize - 1 {
		c, err := b.connect(true)
		if err != nil {
			return err
		}
		b.readers <- newConn(c)
	}
	return nil
}

// Write runs op in the writer's next group.
func (b *Backend) Write(ctx context.Context, weight int, op func(*sqlstore.Tx) error) error {
	return b.writer.write(ctx, weight, op)
}

var qBeginRead = &sqlstore.Query{SQL: `begin`}

// Read runs op on a snapshot: on a reader's connection, or, in memory, between
// two groups of the writer.
func (b *Backend) Read(ctx context.Context, op func(sqlstore.Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.readers == nil {
		b.writer.connMu.Lock()
		defer b.writer.connMu.Unlock()
		if b.isClosed() {
			return errClosed()
		}
		return readFault(op(b.writer.conn))
	}
	var c *conn
	var open bool
	select {
	case c, open = <-b.readers:
	case <-ctx.Done():
		return ctx.Err()
	}
	if !open {
		return errClosed()
	}
	defer func() { b.readers <- c }()
	if err := c.Stmt(qBeginRead).Exec(); err != nil {
		return readFault(err)
	}
	err := op(c)
	if e := c.Stmt(qCommit).Exec(); e != nil && err == nil {
		err = e
	}
	return readFault(err)
}

func (b *Backend) isClosed() bool {
	b.writer.mu.Lock()
	defer b.writer.mu.Unlock()
	return b.writer.closed
}

func readFault(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fault(err, flowfabric.CodeStoreUnavailable)
}

// Now is the store's clock.
func (b *Backend) Now() flowfabric.Millis { return b.clock.now() }

// Engine is the engine beside the store.
func (b *Backend) Engine() *engine.Engine { return b.eng }

// Path is the database file, "" in memory.
func (b *Backend) Path() string { return b.path }

// Close stops the engine, waits for what is queued, checkpoints and closes the
// file. It is idempotent.
func (b *Backend) Close() error {
	b.closeOnce.Do(func() {
		var errs []error
		if b.eng != nil {
			errs = append(errs, b.eng.Close())
		}
		if !b.isClosed() {
			errs = append(errs, b.Store.Close(context.Background()))
		}
		b.writer.stop()
		errs = append(errs, b.closeFiles())
		b.closeErr = errors.Join(errs...)
	})
	return b.closeErr
}

func (b *Backend) closeFiles() error {
	var errs []error
	if b.ckpt != nil {
		b.ckpt.stop()
	}
	if b.readers != nil {
		for range cap(b.readers) {
			errs = append(errs, (<-b.readers).close())
		}
		close(b.readers)
	}
	b.writer.connMu.Lock()
	if b.path != "" {
		_ = b.writer.conn.exec("pragma wal_checkpoint(truncate)")
	}
	errs = append(errs, b.writer.conn.close())
	b.writer.connMu.Unlock()
	errs = append(errs, b.lock.release())
	return errors.Join(errs...)
}

// abandon undoes a failed open.
func (b *Backend) abandon() {
	if b.started {
		if b.eng != nil {
			_ = b.eng.Close()
		}
		b.writer.stop()
		_ = b.closeFiles()
		return
	}
	if b.writer != nil {
		_ = b.writer.conn.close()
	}
	_ = b.lock.release()
}

// String names the store without anything secret.
func (b *Backend) String() string {
	if b.path == "" {
		return "sqlite(memory)"
	}
	return fmt.Sprintf("sqlite(%s)", b.path)
}
