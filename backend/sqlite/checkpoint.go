package sqlite

import (
	"os"
	"sync/atomic"
	"time"
)

// The write-ahead log is copied into the database by a goroutine with its own
// connection, so that commits do not wait for it. Only when the log has grown
// far past the threshold does the writer pause for what is left to copy, so that
// the log can start again at its beginning.
const (
	checkpointBytes = 16 << 20
	restartBytes    = 96 << 20
	checkpointLook  = 32 // commits between two looks at the log's size
)

type checkpointer struct {
	b       *Backend
	commits atomic.Int64
	kick    chan struct{}
	quit    chan struct{}
	gone    chan struct{}
}

func newCheckpointer(b *Backend) *checkpointer {
	return &checkpointer{b: b, kick: make(chan struct{}, 1), quit: make(chan struct{}), gone: make(chan struct{})}
}

// committed is called by the writer after every group.
func (k *checkpointer) committed() {
	if k.commits.Add(1)%checkpointLook != 0 {
		return
	}
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

func (k *checkpointer) walBytes() int64 {
	fi, err := os.Stat(k.b.path + "-wal")
	if err != nil {
		return 0
	}
	return fi.Size()
}

func (k *checkpointer) run() {
	defer close(k.gone)
	raw, err := k.b.connect(false)
	if err != nil {
		k.b.cfg.Logger.Error("no connection for checkpoints; the log will grow", "error", err)
		<-k.quit
		return
	}
	c := newConn(raw)
	defer c.close()
	idle := time.NewTicker(30 * time.Second) // brings a quiet store's log home
	defer idle.Stop()
	seen := int64(0)
	for {
		select {
		case <-k.quit:
			return
		case <-k.kick:
			if k.walBytes() < checkpointBytes {
				continue
			}
		case <-idle.C:
			if k.commits.Load() == seen {
				continue
			}
		}
		seen = k.commits.Load()
		if err := c.exec("pragma wal_checkpoint(passive)"); err != nil {
			k.b.cfg.Logger.Warn("checkpoint failed", "error", err)
			continue
		}
		if k.walBytes() > restartBytes {
			k.restart()
		}
	}
}

// restart copies the rest between two groups and starts the log anew.
func (k *checkpointer) restart() {
	w := k.b.writer
	w.connMu.Lock()
	defer w.connMu.Unlock()
	_ = w.conn.exec("pragma busy_timeout = 50")
	err := w.conn.exec("pragma wal_checkpoint(truncate)")
	_ = w.conn.exec("pragma busy_timeout = 10000")
	if err != nil {
		k.b.cfg.Logger.Warn("the log could not be restarted", "error", err)
	}
}

func (k *checkpointer) stop() {
	close(k.quit)
	<-k.gone
}
