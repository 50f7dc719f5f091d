package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

func adminRoutes() []*route {
	return []*route{
		{
			id: "get_capabilities", method: http.MethodGet, pattern: wire.RouteCapabilities,
			summary:  "What this server is and can do.",
			endpoint: serves[none, wire.CapabilitiesResponse](getCapabilities),
		},
		{
			id: "get_partition_config", method: http.MethodGet, pattern: wire.RoutePartitionConfig, scopes: ScopeRead,
			summary: "The deployment's partition counts.", codes: []flowfabric.Code{flowfabric.CodeDeploymentNotInitialized},
			endpoint: serves[none, flowfabric.PartitionConfig](getPartitionConfig),
		},
		{
			id: "list_scanners", method: http.MethodGet, pattern: wire.RouteScanners, scopes: ScopeAdmin,
			summary:  "The background duties and what they did.",
			endpoint: serves[none, wire.Page[flowfabric.ScannerStatus]](listScanners),
		},
		{
			id: "run_scanner", method: http.MethodPost, pattern: wire.RouteScannerRun, scopes: ScopeAdmin,
			summary:  "Runs one cycle of a duty now.",
			endpoint: serves[wire.NoBody, flowfabric.ScannerStatus](runScanner),
		},
		{
			id: "start_reconcile", method: http.MethodPost, pattern: wire.RouteReconcile, scopes: ScopeAdmin,
			summary: "Repairs the indexes of one partition, or of all, in the background.", status: http.StatusAccepted,
			codes:    []flowfabric.Code{flowfabric.CodeResourceExhausted},
			endpoint: audited("reconcile started", serves[wire.ReconcileRequest, flowfabric.ReconcileJob](startReconcile)),
		},
		{
			id: "get_reconcile", method: http.MethodGet, pattern: wire.RouteReconcileJob, scopes: ScopeAdmin,
			summary:  "How far a repair is.",
			endpoint: serves[none, flowfabric.ReconcileJob](getReconcile),
		},
		{
			id: "list_partition_collisions", method: http.MethodGet, pattern: wire.RoutePartitionCollisions, scopes: ScopeAdmin,
			summary:  "Lanes that share a partition.",
			endpoint: serves[none, wire.CollisionsResponse](partitionCollisions),
		},
		{
			id: "start_drain", method: http.MethodPost, pattern: wire.RouteDrain, scopes: ScopeAdmin,
			summary:  "Stops this process from issuing grants; /readyz fails.",
			variants: map[string][]string{"draining": nil, "not_draining": nil},
			endpoint: audited("drain started", serves[wire.NoBody, wire.DrainResponse](setDraining(true))),
		},
		{
			id: "stop_drain", method: http.MethodDelete, pattern: wire.RouteDrain, scopes: ScopeAdmin,
			summary:  "Lets this process issue grants again.",
			variants: map[string][]string{"draining": nil, "not_draining": nil},
			endpoint: audited("drain ended", serves[none, wire.DrainResponse](setDraining(false))),
		},
	}
}

// absent are operations of primitives that this server has no routes for.
var absent = []string{
	"append_frames", "create_budget", "create_flow", "create_quota_policy", "read_stream", "report_usage", "spawn_children", "submit_flow",
}

func getCapabilities(c *call) error {
	supports := make(map[string]bool, len(c.api.table)+len(absent))
	for _, id := range absent {
		supports[id] = false
	}
	for _, rt := range c.api.table {
		if strings.HasPrefix(rt.pattern, "/v1/") {
			supports[rt.id] = true
		}
	}
	return c.ok(wire.CapabilitiesResponse{
		Family:        c.api.info.Family,
		Version:       c.api.info.Version,
		DeploymentID:  c.api.info.DeploymentID,
		ServerVersion: c.api.opt.Version,
		APIVersion:    wire.APIVersion,
		Supports:      supports,
		Limits:        limits,
	})
}

// limits are those of specification 08, sections 2.5 and 7.
var limits = map[string]int64{
	"body_large_bytes":            wire.LimitLarge,
	"body_medium_bytes":           wire.LimitMedium,
	"body_bulk_bytes":             wire.LimitBulk,
	"body_control_bytes":          wire.LimitControl,
	"payload_bytes":               flowfabric.MaxPayloadBytes,
	"lane_id_bytes":               flowfabric.MaxLaneIDBytes,
	"namespace_bytes":             flowfabric.MaxNamespaceBytes,
	"worker_id_bytes":             flowfabric.MaxWorkerIDBytes,
	"execution_kind_bytes":        flowfabric.MaxExecutionKindBytes,
	"idempotency_key_bytes":       flowfabric.MaxIdempotencyKeyBytes,
	"creator_identity_bytes":      flowfabric.MaxCreatorIdentityBytes,
	"payload_encoding_bytes":      flowfabric.MaxEncodingBytes,
	"reason_bytes":                flowfabric.MaxReasonBytes,
	"revoke_reason_bytes":         flowfabric.MaxRevokeReasonBytes,
	"progress_message_bytes":      flowfabric.MaxProgressMessageBytes,
	"priority":                    flowfabric.MaxPriority,
	"tags":                        flowfabric.MaxTags,
	"tag_key_bytes":               flowfabric.MaxTagKeyBytes,
	"tag_value_bytes":             flowfabric.MaxTagValueBytes,
	"capability_tokens":           flowfabric.MaxCapabilityTokens,
	"capability_bytes":            flowfabric.MaxCapabilityBytes,
	"grant_ttl_ms":                flowfabric.MaxGrantTTLMs,
	"lease_ttl_min_ms":            flowfabric.MinLeaseTTLMs,
	"lease_ttl_ms":                flowfabric.MaxLeaseTTLMs,
	"liveness_ttl_min_ms":         flowfabric.MinLivenessTTLMs,
	"liveness_ttl_ms":             flowfabric.MaxLivenessTTLMs,
	"wait_ms":                     flowfabric.MaxWaitMs,
	"block_ms":                    flowfabric.MaxWaitMs,
	"list_limit":                  flowfabric.MaxListLimit,
	"list_limit_workers":          flowfabric.MaxWorkersLimit,
	"list_limit_expired_leases":   flowfabric.MaxExpiredLeasesLimit,
	"feed_limit":                  flowfabric.MaxFeedLimit,
	"batch_items":                 flowfabric.MaxBatchItems,
	"claim_tasks":                 flowfabric.MaxClaimTasks,
	"lanes_per_request":           flowfabric.MaxLanesPerRequest,
	"json_depth":                  wire.MaxDepth,
	"cursor_bytes":                wire.MaxCursorBytes,
	"integer":                     wire.MaxInteger,
	"feed_retention_ms":           flowfabric.FeedRetentionMs,
	"feed_events_per_partition":   flowfabric.FeedRetentionEvents,
	"auth_failures_per_minute":    maxAuthFailures,
	"list_examined_per_page":      flowfabric.MaxListExamined,
	"claim_waiters_per_server":    flowfabric.MaxWaiters,
	"partitions_per_expired_page": flowfabric.DefaultExpiredLeaseSpan,

	"waitpoints_per_suspension":      flowfabric.MaxWaitpointsPerSuspend,
	"open_waitpoints":                flowfabric.MaxOpenWaitpoints,
	"waitpoint_key_bytes":            flowfabric.MaxWaitpointKeyBytes,
	"condition_depth":                flowfabric.MaxConditionDepth,
	"condition_bytes":                flowfabric.MaxConditionBytes,
	"matcher_names":                  flowfabric.MaxMatcherNames,
	"continuation_bytes":             flowfabric.MaxContinuationBytes,
	"signal_payload_bytes":           flowfabric.MaxSignalPayloadBytes,
	"signal_name_bytes":              flowfabric.MaxSignalNameBytes,
	"source_identity_bytes":          flowfabric.MaxSourceIdentityBytes,
	"correlation_id_bytes":           flowfabric.MaxCorrelationIDBytes,
	"signal_dedup_ttl_ms":            flowfabric.MaxSignalDedupTTLMs,
	"buffered_signals_per_waitpoint": flowfabric.MaxBufferedSignals,
	"callbacks_per_waitpoint_minute": CallbacksPerWaitpoint,
}

func getPartitionConfig(c *call) error {
	config, err := c.api.backend.PartitionConfig(c.ctx)
	if err != nil {
		return err
	}
	return c.ok(config)
}

func listScanners(c *call) error {
	scanners, err := c.api.backend.ListScanners(c.ctx)
	if err != nil {
		return err
	}
	return c.ok(wire.NewPage(scanners, ""))
}

func runScanner(c *call) error {
	var body wire.NoBody
	if err := c.decode(&body); err != nil {
		return err
	}
	s, err := c.api.backend.RunScanner(c.ctx, c.r.PathValue("name"))
	if err != nil {
		return err
	}
	return c.ok(s)
}

func startReconcile(c *call) error {
	var body wire.ReconcileRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	job, err := c.api.backend.StartReconcile(c.ctx, body.Partition)
	if err != nil {
		return err
	}
	return c.json(http.StatusAccepted, job)
}

func getReconcile(c *call) error {
	job, err := c.api.backend.GetReconcile(c.ctx, c.r.PathValue("job_id"))
	if err != nil {
		return err
	}
	return c.ok(job)
}

func setDraining(on bool) func(*call) error {
	return func(c *call) error {
		if err := c.api.backend.SetDraining(c.ctx, on); err != nil {
			return err
		}
		c.api.drained.Store(on)
		return c.ok(wire.NewDrainResponse(on))
	}
}

func partitionCollisions(c *call) error {
	config, err := c.api.backend.PartitionConfig(c.ctx)
	if err != nil {
		return err
	}
	lanes, err := allLanes(c.ctx, c.api.backend)
	if err != nil {
		return err
	}
	ids := make([]flowfabric.LaneID, len(lanes))
	for i, l := range lanes {
		ids[i] = l.LaneID
	}
	return c.ok(wire.NewCollisionsResponse(ids, config.NumFlowPartitions))
}

// allLanes follows the list of lanes to its end.
func allLanes(ctx context.Context, b flowfabric.Backend) ([]flowfabric.LaneStatus, error) {
	var lanes []flowfabric.LaneStatus
	args := flowfabric.ListLanesArgs{Limit: flowfabric.MaxListLimit}
	for {
		r, err := b.ListLanes(ctx, args)
		if err != nil {
			return nil, err
		}
		lanes = slices.Concat(lanes, r.Lanes)
		if !r.More || len(r.Lanes) == 0 {
			return lanes, nil
		}
		args.After = r.Lanes[len(r.Lanes)-1].LaneID
	}
}

// laneSampler is a backend that can tell of all lanes, for gauges, with less work
// than ListLanes does.
type laneSampler interface {
	SampleLanes(ctx context.Context) ([]flowfabric.LaneStatus, error)
}

func (a *API) sampleLanes(ctx context.Context) ([]flowfabric.LaneStatus, error) {
	if s, ok := a.raw.(laneSampler); ok {
		return s.SampleLanes(ctx)
	}
	return allLanes(ctx, a.raw)
}

// GaugeLanes reads all lanes and sets their gauges; it also looks at the duties.
// A server does so every 15 s.
func (a *API) GaugeLanes(ctx context.Context) error {
	lanes, err := a.sampleLanes(ctx)
	if err != nil {
		return err
	}
	a.metrics.Lanes(lanes, a.now())
	scanners, err := a.raw.ListScanners(ctx)
	if err != nil {
		return err
	}
	a.metrics.Scanners(scanners)
	return nil
}
