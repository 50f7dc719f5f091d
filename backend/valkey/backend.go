package valkey

import (
	"context"
	"errors"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/engine"
)

// Backend is an open store with its engine. It implements flowfabric.Backend and
// flowfabric.Store.
type Backend struct {
	*Store
	eng *engine.Engine
}

var (
	_ flowfabric.Backend = (*Backend)(nil)
	_ flowfabric.Store   = (*Backend)(nil)
	_ flowfabric.Store   = (*Store)(nil)
)

// newBackend puts an engine beside the store. Those of workers run no duties:
// that is the servers' part.
func newBackend(ctx context.Context, s *Store) (*Backend, error) {
	cfg := s.cfg.Engine
	if cfg.Logger == nil {
		cfg.Logger = s.log
	}
	if cfg.Observer == nil {
		cfg.Observer = s.cfg.Observer
	}
	if s.cfg.NoEngine || s.cfg.Role == RoleWorker {
		cfg.DisableDuties = true
	}
	eng, err := engine.New(s, cfg)
	if err != nil {
		return nil, err
	}
	return &Backend{Store: s, eng: eng}, eng.Start(ctx)
}

// Engine is the engine beside the store.
func (b *Backend) Engine() *engine.Engine { return b.eng }

// Close stops the engine, leaves the deployment and closes the connections. It
// is idempotent.
func (b *Backend) Close() error { return errors.Join(b.eng.Close(), b.Store.Close()) }

// ClaimForWorker lets the engine choose an execution and grants it.
func (b *Backend) ClaimForWorker(ctx context.Context, a flowfabric.ClaimForWorkerArgs) (flowfabric.ClaimForWorkerResult, error) {
	return b.eng.ClaimForWorker(ctx, a)
}

// ClaimTasks lets the engine choose executions and claims them.
func (b *Backend) ClaimTasks(ctx context.Context, a flowfabric.ClaimTasksArgs) (flowfabric.ClaimTasksResult, error) {
	return b.eng.ClaimTasks(ctx, a)
}

// WaitExecution waits for an execution to end.
func (b *Backend) WaitExecution(ctx context.Context, a flowfabric.WaitExecutionArgs) (flowfabric.WaitExecutionResult, error) {
	return b.eng.WaitExecution(ctx, a)
}

// ReadFeed reads a feed, waiting for a first event when asked to.
func (b *Backend) ReadFeed(ctx context.Context, a flowfabric.ReadFeedArgs) (flowfabric.ReadFeedResult, error) {
	return b.eng.ReadFeed(ctx, a)
}

// ListScanners describes the duties.
func (b *Backend) ListScanners(ctx context.Context) ([]flowfabric.ScannerStatus, error) {
	return b.eng.ListScanners(ctx)
}

// RunScanner runs one cycle of a duty now.
func (b *Backend) RunScanner(ctx context.Context, name string) (flowfabric.ScannerStatus, error) {
	return b.eng.RunScanner(ctx, name)
}

// StartReconcile repairs indexes in the background.
func (b *Backend) StartReconcile(ctx context.Context, partition *uint16) (flowfabric.ReconcileJob, error) {
	return b.eng.StartReconcile(ctx, partition)
}

// GetReconcile returns a repair by id.
func (b *Backend) GetReconcile(ctx context.Context, jobID string) (flowfabric.ReconcileJob, error) {
	return b.eng.GetReconcile(ctx, jobID)
}

// SetDraining stops or resumes the issuing of grants.
func (b *Backend) SetDraining(ctx context.Context, draining bool) error {
	return b.eng.SetDraining(ctx, draining)
}

// ReserveWait takes a permit for a submit-and-wait before anything is created.
func (b *Backend) ReserveWait() (release func(), err error) { return b.eng.ReserveWait() }

// WaitReserved is WaitExecution with a permit of ReserveWait.
func (b *Backend) WaitReserved(ctx context.Context, a flowfabric.WaitExecutionArgs) (flowfabric.WaitExecutionResult, error) {
	return b.eng.WaitReserved(ctx, a)
}
