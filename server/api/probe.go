package api

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// probeTimeout bounds what a probe asks of the store.
const probeTimeout = time.Second

func probeRoutes() []*route {
	return []*route{
		{
			id: "livez", method: http.MethodGet, pattern: wire.RouteLivez, probe: true,
			summary:  "Whether the process runs; asks nothing of the store.",
			endpoint: serves[none, wire.ProbeResponse](func(c *call) error { return c.ok(wire.ProbeResponse{Status: "ok"}) }),
		},
		{
			id: "healthz", method: http.MethodGet, pattern: wire.RouteHealthz, probe: true,
			summary:  "Whether the store answers within a second.",
			codes:    []flowfabric.Code{flowfabric.CodeStoreUnavailable},
			endpoint: serves[none, wire.ProbeResponse](healthz),
		},
		{
			id: "readyz", method: http.MethodGet, pattern: wire.RouteReadyz, probe: true,
			summary:  "Whether this process takes work: store, partition counts, a key for waitpoint tokens, duties, and no shutdown or drain.",
			codes:    []flowfabric.Code{flowfabric.CodeNotReady},
			endpoint: serves[none, wire.ProbeResponse](readyz),
		},
		{
			id: "metrics", method: http.MethodGet, pattern: wire.RouteMetrics, probe: true, scopes: ScopeRead,
			summary:  "Prometheus text; without a token unless FF_METRICS_AUTH is on.",
			endpoint: endpoint{handle: metrics, media: "text/plain"},
		},
		{
			id: "openapi", method: http.MethodGet, pattern: wire.RouteOpenAPI,
			summary:  "This document.",
			endpoint: endpoint{handle: openAPI, result: reflect.TypeFor[map[string]any]()},
		},
	}
}

func healthz(c *call) error {
	if err := c.api.ping(c.ctx); err != nil {
		return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "the store does not answer").Wrap(err)
	}
	return c.ok(wire.ProbeResponse{Status: "ok"})
}

func (a *API) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return a.backend.Ping(ctx)
}

func readyz(c *call) error {
	checks, ready := c.api.checks(c.ctx)
	unsupported := c.api.storeUnsupported()
	if ready {
		res := wire.ProbeResponse{Status: "ok"}
		if unsupported {
			res.StoreSupported = new(bool)
		}
		return c.ok(res)
	}
	err := flowfabric.NewError(flowfabric.CodeNotReady, "a check fails").With("checks", checks)
	if unsupported {
		err = err.With("store_supported", false)
	}
	return err
}

// storeUnsupported reports whether the store says of itself that it is one which
// FlowFabric is not tested on.
func (a *API) storeUnsupported() bool {
	s, ok := a.raw.(interface{ Supported() bool })
	return ok && !s.Supported()
}

// checks returns what readiness depends on, name to ok or failing.
func (a *API) checks(ctx context.Context) (map[string]string, bool) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	checks := make(map[string]string, 6)
	ready := true
	check := func(name string, ok bool) {
		checks[name] = "ok"
		if !ok {
			checks[name] = "failing"
			ready = false
		}
	}
	check("shutdown", !a.unready.Load())
	check("drain", !a.drained.Load())
	check("store", a.backend.Ping(ctx) == nil)
	_, err := a.backend.PartitionConfig(ctx)
	check("schema", err == nil)
	check("waitpoint_key", a.hasKey(ctx))
	if a.opt.Duties {
		scanners, err := a.backend.ListScanners(ctx)
		check("duties", err == nil && len(scanners) > 0)
	}
	return checks, ready
}

// hasKey reports whether tokens of waitpoints can be made. A store without
// waitpoints needs no key.
func (a *API) hasKey(ctx context.Context) bool {
	kids, err := a.backend.ListWaitpointKIDs(ctx)
	if errors.Is(err, flowfabric.ErrUnsupportedOperation) {
		return true
	}
	return err == nil && kids.CurrentKID != ""
}

func metrics(c *call) error {
	c.api.metrics.Handler().ServeHTTP(c, c.r)
	return nil
}

func openAPI(c *call) error {
	doc, err := c.api.openapi()
	if err != nil {
		return err
	}
	c.send(http.StatusOK, jsonType, doc)
	return nil
}
