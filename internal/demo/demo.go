package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
)

// Defaults of a [Config].
const (
	DefaultWorkers     = 3
	DefaultConcurrency = 4
	DefaultLeaseTTL    = 2 * time.Second
	// MaxWorkers bounds the worker processes of one machine.
	MaxWorkers = 64
)

// Config says how to run the demo. The zero value of a field is its default.
type Config struct {
	// Dir is the directory whose files are looked at; required.
	Dir string
	// DataDir holds the store and the memory of the run; required. It is made
	// when missing.
	DataDir string
	// Fresh forgets what an earlier start left.
	Fresh bool
	// Workers is the number of worker processes, 1..64; default 3.
	Workers int
	// Concurrency is how many files one worker has in hand; default 4.
	Concurrency int
	// LeaseTTL is how long a dead worker's executions stay with it; default 2 s.
	LeaseTTL time.Duration
	// WorkerCommand starts a program that calls [RunWorker]; required.
	WorkerCommand []string
	// WorkerEnvironment is added to the environment of the workers.
	WorkerEnvironment []string
	// Show is told what happens; required.
	Show Show
}

// Show is where the demo tells what happens. Its methods are called from several
// goroutines.
type Show interface {
	// Say tells of one thing that happened.
	Say(line string)
	// Progress tells how many files of total are complete.
	Progress(done, total int)
}

func (c Config) withDefaults() (Config, error) {
	if c.Workers == 0 {
		c.Workers = DefaultWorkers
	}
	if c.Concurrency == 0 {
		c.Concurrency = DefaultConcurrency
	}
	if c.LeaseTTL == 0 {
		c.LeaseTTL = DefaultLeaseTTL
	}
	if c.Workers < 1 || c.Workers > MaxWorkers {
		return c, flowfabric.InvalidInput("workers", "is %d, must be 1..%d", c.Workers, MaxWorkers)
	}
	return c, nil
}

// Run does the whole job and reports. When ctx ends first, everything done so
// far is kept in the data directory, no process is left behind, and the error is
// ctx's; the next Run with the same directories goes on from there. The report
// may come with an error: then it says what was reached.
func Run(ctx context.Context, config Config) (*Report, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	dataDir, err := prepareDataDir(config)
	if err != nil {
		return nil, err
	}
	config.DataDir = dataDir
	tree, err := Walk(ctx, config.Dir, dataDir)
	if err != nil {
		return nil, err
	}
	backend, err := open(ctx, config)
	if err != nil {
		return nil, err
	}
	defer backend.Close()
	// Only the holder of the store may touch the memory of the run.
	state, err := loadRun(dataDir, tree.Root, time.Now())
	if err != nil {
		return nil, err
	}
	s := &stage{Config: config, tree: tree, run: state, backend: backend}
	report, err := s.play(ctx)
	if err != nil {
		return report, err
	}
	state.Finished = true
	return report, errors.Join(state.save(dataDir), backend.Close())
}

// prepareDataDir makes the data directory and returns its path, absolute and
// free of symbolic links.
func prepareDataDir(config Config) (string, error) {
	if _, err := Resolve(config.Dir); err != nil {
		return "", err // before anything is made
	}
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return "", fmt.Errorf("make the data directory: %w", err)
	}
	dataDir, err := Resolve(config.DataDir)
	if err != nil {
		return "", err
	}
	return dataDir, nil
}

// open opens the store of the data directory, after forgetting what it held when
// the run is to begin anew. A store that somebody else has open is left alone.
func open(ctx context.Context, config Config) (flowfabric.Backend, error) {
	store := sqlite.Config{Path: filepath.Join(config.DataDir, storeFile), Logger: quietLogger()}
	backend, err := sqlite.Open(ctx, store)
	if !config.Fresh {
		return backend, err
	}
	if flowfabric.CodeOf(err) == flowfabric.CodeStoreUnavailable {
		return nil, err
	}
	if err == nil {
		if err := backend.Close(); err != nil {
			return nil, err
		}
	}
	if err := forget(config.DataDir); err != nil {
		return nil, fmt.Errorf("begin anew: %w", err)
	}
	return sqlite.Open(ctx, store)
}

// stage is one start of the demo in progress.
type stage struct {
	Config
	tree    *Tree
	run     *run
	backend flowfabric.Backend

	// executions maps every execution of this run to its file.
	executions map[flowfabric.ExecutionID]string
	crew       *crew
}

// play is the demo from the submission to the report.
func (s *stage) play(ctx context.Context) (*Report, error) {
	for _, err := range s.tree.Unreadable {
		s.Show.Say("passed over: " + err.Error())
	}
	begin := time.Now()
	if err := s.submit(ctx); err != nil {
		return nil, err
	}
	watch := newWatch(s)
	if err := watch.catchUp(ctx); err != nil {
		return nil, err
	}
	kept := watch.done()
	s.announce(kept)
	if kept < len(s.executions) {
		if err := s.work(ctx, watch); err != nil {
			return nil, err
		}
	}
	duration := time.Since(begin)
	report, err := s.gather(ctx)
	if err != nil {
		return nil, err
	}
	report.Kept, report.Duration = kept, duration
	return report, s.bury(ctx)
}

// bury takes the killed worker off the registry, where it would stay until its
// liveness lapses, so that the next run may use its name at once.
func (s *stage) bury(ctx context.Context) error {
	if s.crew == nil {
		return nil
	}
	for _, m := range s.crew.members {
		_, err := s.backend.MarkWorkerDead(ctx, flowfabric.MarkWorkerDeadArgs{
			Namespace: flowfabric.DefaultNamespace, WorkerInstanceID: m.instance, Reason: "the demo is over",
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) announce(kept int) {
	total := len(s.executions)
	switch {
	case s.run.Starts == 1:
		s.Show.Say(fmt.Sprintf("submitted %s of %s", plural(total, "file"), s.tree.Root))
	case kept == total:
		s.Show.Say(fmt.Sprintf("going on with %s: all %s are complete already", s.tree.Root, plural(total, "file")))
	default:
		s.Show.Say(fmt.Sprintf("going on with %s: %d of %d files are complete already, %d to do", s.tree.Root, kept, total, total-kept))
	}
	s.Show.Progress(kept, total)
}

// submit creates one execution a file. A file submitted by an earlier start has
// its execution already, which the idempotency key finds again.
func (s *stage) submit(ctx context.Context) error {
	window := uint64(keptFor.Milliseconds())
	policy := (&flowfabric.Policy{RetentionMs: &window, DedupWindowMs: &window}).JSON()
	s.executions = make(map[flowfabric.ExecutionID]string, len(s.tree.Files))
	for from := 0; from < len(s.tree.Files); from += flowfabric.MaxBatchItems {
		files := s.tree.Files[from:min(from+flowfabric.MaxBatchItems, len(s.tree.Files))]
		items := make([]flowfabric.CreateExecutionArgs, len(files))
		for i, path := range files {
			payload, err := json.Marshal(Input{Path: path})
			if err != nil {
				return err
			}
			items[i] = flowfabric.CreateExecutionArgs{
				Namespace: flowfabric.DefaultNamespace, LaneID: s.run.lane(), Kind: executionKind,
				Payload: payload, CreatorIdentity: "flowfabric-demo", IdempotencyKey: s.run.key(path), Policy: policy,
			}
		}
		answers, err := s.backend.CreateExecutions(ctx, items)
		if err != nil {
			return err
		}
		for i, a := range answers {
			if a.Err != nil {
				return fmt.Errorf("submit %s: %w", files[i], a.Err)
			}
			s.executions[a.Result.ExecutionID] = files[i]
		}
	}
	return nil
}

// work runs the workers until every execution has ended. No process is left
// when it returns.
func (s *stage) work(ctx context.Context, watch *watch) (err error) {
	server, err := serve(s.backend)
	if err != nil {
		return err
	}
	defer func() {
		if stopErr := server.stop(); err == nil {
			err = stopErr
		}
	}()
	s.crew = newCrew(s, server, watch)
	defer s.crew.dismiss(ctx)
	return s.crew.perform(ctx)
}
