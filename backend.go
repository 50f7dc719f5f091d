package flowfabric

import "context"

// Info is what every store tells about itself.
type Info interface {
	// Ping returns nil when the store answers.
	Ping(ctx context.Context) error
	// PartitionConfig returns the published configuration, or
	// deployment_not_initialized on a store nobody has prepared.
	PartitionConfig(ctx context.Context) (PartitionConfig, error)
	// Describe names the backend: family ("sqlite", "memory", "remote", ...),
	// version of the store, and so on.
	Describe(ctx context.Context) (BackendInfo, error)
}

// BackendInfo describes a backend.
type BackendInfo struct {
	Family       string `json:"family"`
	Version      string `json:"version"`
	DeploymentID string `json:"deployment_id,omitempty"`
	Path         string `json:"-"`
}

// ScannerStatus describes one background duty.
type ScannerStatus struct {
	Name           string `json:"name"`
	IntervalMs     int64  `json:"interval_ms"`
	Cycles         int64  `json:"cycles"`
	Rows           int64  `json:"rows"`
	Errors         int64  `json:"errors"`
	LastRunAt      Millis `json:"last_run_at,omitempty"`
	LastDurationMs int64  `json:"last_duration_ms"`
	LastError      string `json:"last_error,omitempty"`
}

// ReconcileJob describes an index repair running in the background.
type ReconcileJob struct {
	JobID      string   `json:"job_id"`
	State      string   `json:"state"` // running, done, failed
	Partitions int      `json:"partitions"`
	Examined   int      `json:"examined"`
	Repaired   int      `json:"repaired"`
	Removed    int      `json:"removed"`
	Violations []string `json:"violations,omitempty"`
	Error      string   `json:"error,omitempty"`
}

// Administration is the operator's hold on the engine beside a store.
type Administration interface {
	ListScanners(ctx context.Context) ([]ScannerStatus, error)
	// RunScanner runs one cycle of a duty now; an unknown name is invalid_input.
	RunScanner(ctx context.Context, name string) (ScannerStatus, error)
	// StartReconcile repairs the indexes of one partition, or of all when nil.
	StartReconcile(ctx context.Context, partition *uint16) (ReconcileJob, error)
	// GetReconcile returns a job by id; an unknown one is invalid_input.
	GetReconcile(ctx context.Context, jobID string) (ReconcileJob, error)
	// SetDraining stops (true) or resumes (false) the issuing of grants by this
	// process.
	SetDraining(ctx context.Context, draining bool) error
}

// Backend is the contract: what every store does for a client, a worker or an
// operator, with the same results, errors and order on all of them. It is
// composed of one small interface per primitive. All methods are safe for
// concurrent use; a cancelled context is returned as it is. The package
// backend/backendtest states the contract as tests.
type Backend interface {
	Info
	Executions
	Leases
	Claims
	Suspensions
	Waitpoints
	Signals
	Secrets
	Scheduling
	Waits
	Workers
	Lanes
	Feeds
	Administration
	// Close releases the backend. It is idempotent.
	Close() error
}

// Store is what the engine needs from a store to make a [Backend] of it: every
// operation that neither chooses nor waits, and the upkeep.
type Store interface {
	Info
	Executions
	Leases
	Claims
	Suspensions
	Waitpoints
	Signals
	Secrets
	Workers
	Lanes
	Feeds
	Upkeep
}
