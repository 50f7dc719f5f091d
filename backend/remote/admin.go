package remote

import (
	"context"
	"net/url"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// ListScanners returns the state of every duty of the server's process.
func (b *Backend) ListScanners(ctx context.Context) ([]flowfabric.ScannerStatus, error) {
	all := []flowfabric.ScannerStatus{}
	for q := (url.Values)(nil); ; {
		var p wire.Page[flowfabric.ScannerStatus]
		if _, err := b.do(ctx, get("list_scanners", wire.RouteScanners, q), &p); err != nil {
			return nil, err
		}
		all = append(all, p.Items...)
		if p.NextCursor == nil {
			return all, nil
		}
		q = url.Values{"cursor": {*p.NextCursor}}
	}
}

// RunScanner runs one cycle of a duty now.
func (b *Backend) RunScanner(ctx context.Context, name string) (flowfabric.ScannerStatus, error) {
	if name == "" {
		return flowfabric.ScannerStatus{}, flowfabric.InvalidInput("name", "must not be empty")
	}
	var s flowfabric.ScannerStatus
	_, err := b.do(ctx, post("run_scanner", wire.Path(wire.RouteScannerRun, name), nil), &s)
	return s, err
}

// StartReconcile repairs the indexes of one partition, or of all when nil.
func (b *Backend) StartReconcile(ctx context.Context, partition *uint16) (flowfabric.ReconcileJob, error) {
	var job flowfabric.ReconcileJob
	_, err := b.do(ctx, post("start_reconcile", wire.RouteReconcile, wire.ReconcileRequest{Partition: partition}), &job)
	return job, err
}

// GetReconcile returns a job by id.
func (b *Backend) GetReconcile(ctx context.Context, jobID string) (flowfabric.ReconcileJob, error) {
	if jobID == "" {
		return flowfabric.ReconcileJob{}, flowfabric.InvalidInput("job_id", "must not be empty")
	}
	var job flowfabric.ReconcileJob
	_, err := b.do(ctx, get("get_reconcile", wire.Path(wire.RouteReconcileJob, jobID), nil), &job)
	return job, err
}

// SetDraining stops or resumes the issuing of grants by the server's process.
func (b *Backend) SetDraining(ctx context.Context, draining bool) error {
	c := remove("set_draining", wire.RouteDrain, nil)
	if draining {
		c = post("set_draining", wire.RouteDrain, nil)
	}
	_, err := b.do(ctx, c.idempotent(), nil)
	return err
}
