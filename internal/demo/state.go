package demo

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/flowfabric/flowfabric"
)

// The files of a data directory.
const (
	storeFile = "flowfabric.db"
	stateFile = "demo.json"
)

// keptFor is how long results are retained and keys stand for their executions;
// a run that was left alone for longer begins anew.
const keptFor = 7 * 24 * time.Hour

// run is the memory of one demo run over starts of the program.
type run struct {
	// ID makes the idempotency keys and the lane of the run.
	ID        string    `json:"run_id"`
	Root      string    `json:"root"`
	StartedAt time.Time `json:"started_at"`
	// Finished tells that the run came to its end; the next start is a new one.
	Finished bool `json:"finished"`
	// Starts counts the starts of the run.
	Starts int `json:"starts"`
}

// lane is the lane that holds the executions of this run and no others.
func (r *run) lane() flowfabric.LaneID { return flowfabric.LaneID("demo-" + r.ID) }

// instance names a worker process of this start.
func (r *run) instance(n int) flowfabric.WorkerInstanceID {
	if r.Starts == 1 {
		return flowfabric.WorkerInstanceID(fmt.Sprintf("worker-%d", n))
	}
	return flowfabric.WorkerInstanceID(fmt.Sprintf("worker-%d.%d", r.Starts, n))
}

// key is the idempotency key of a file: the run and the path, or the path's hash
// when it is too long for a key.
func (r *run) key(path string) string {
	key := r.ID + "/" + path
	if len(key) <= flowfabric.MaxIdempotencyKeyBytes {
		return key
	}
	sum := sha256.Sum256([]byte(path))
	return r.ID + "#" + hex.EncodeToString(sum[:])
}

// loadRun reads the run that was going on in the data directory with this root,
// or begins a new one, and notes this start.
func loadRun(dataDir, root string, now time.Time) (*run, error) {
	path := filepath.Join(dataDir, stateFile)
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r := &run{}
	if err == nil {
		if err := json.Unmarshal(raw, r); err != nil {
			return nil, fmt.Errorf("%s is damaged (start with --fresh to begin anew): %w", path, err)
		}
	}
	if r.ID == "" || r.Finished || r.Root != root || now.Sub(r.StartedAt) > keptFor-24*time.Hour {
		var b [4]byte
		rand.Read(b[:]) // never fails
		r = &run{ID: hex.EncodeToString(b[:]), Root: root, StartedAt: now.UTC()}
	}
	r.Starts++
	return r, r.save(dataDir)
}

// save writes the run down, whole or not at all.
func (r *run) save(dataDir string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dataDir, stateFile)
	if err := os.WriteFile(path+".new", append(raw, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// forget removes the demo's own files from the data directory.
func forget(dataDir string) error {
	for _, name := range []string{stateFile, stateFile + ".new", storeFile, storeFile + "-wal", storeFile + "-shm", storeFile + "-journal"} {
		if err := os.Remove(filepath.Join(dataDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
