package api

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// maxLaneLabels is how many lanes get a label of their own; the others are
// "other". (Specification 08, section 6.5.)
const maxLaneLabels = 64

// Metrics is a server's own Prometheus registry with the metrics of
// specification 08, section 6.5. No label holds an identifier, a namespace, a
// tag or free text.
type Metrics struct {
	registry *prometheus.Registry

	httpRequests *prometheus.CounterVec
	httpDuration *prometheus.HistogramVec

	scannerCycles   *prometheus.CounterVec
	scannerDuration *prometheus.HistogramVec
	scannerRows     *prometheus.CounterVec
	scannerErrors   *prometheus.CounterVec

	claimFromGrant *prometheus.HistogramVec
	claimRequests  *prometheus.CounterVec
	renewals       *prometheus.CounterVec
	attempts       *prometheus.CounterVec
	signals        *prometheus.CounterVec
	invalidTokens  *prometheus.CounterVec

	shutdownTimeouts *prometheus.CounterVec
	laneExecutions   *prometheus.GaugeVec
	eligibleAge      *prometheus.GaugeVec
	sseClients       prometheus.Gauge

	storeDuration *prometheus.HistogramVec
	storeErrors   *prometheus.CounterVec
	build         *prometheus.GaugeVec

	laneMu sync.RWMutex
	lanes  map[flowfabric.LaneID]string

	waits, streamOps atomic.Pointer[pool]

	observed  atomic.Bool // an engine reports by itself
	scannerMu sync.Mutex
	scanners  map[string]flowfabric.ScannerStatus
}

// NewMetrics returns a fresh registry.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	slow := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	fast := []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5}

	m := &Metrics{
		registry:         prometheus.NewRegistry(),
		httpRequests:     counter("ff_http_requests_total", "HTTP requests answered.", "method", "path", "status"),
		httpDuration:     histogram("ff_http_request_duration_seconds", "Time from a request to its answer, waiting included.", slow, "method", "path", "status"),
		scannerCycles:    counter("ff_scanner_cycle_total", "Cycles of background duties.", "scanner"),
		scannerDuration:  histogram("ff_scanner_cycle_duration_seconds", "Duration of a duty's cycle.", fast, "scanner"),
		scannerRows:      counter("ff_scanner_rows_total", "Rows changed by background duties.", "scanner"),
		scannerErrors:    counter("ff_scanner_errors_total", "Errors of background duties.", "scanner"),
		claimFromGrant:   histogram("ff_claim_from_grant_duration_seconds", "Time to turn a grant into a lease.", fast, "lane"),
		claimRequests:    counter("ff_claim_requests_total", "Claim requests by outcome.", "lane", "outcome"),
		renewals:         counter("ff_lease_renewal_total", "Lease renewals by outcome.", "outcome"),
		attempts:         counter("ff_attempt_outcome_total", "Attempts ended, by outcome.", "lane", "outcome"),
		signals:          counter("ff_signals_total", "Deliveries of signals: accepted, duplicate, the code of a refusal, or error.", "outcome"),
		invalidTokens:    counter("ff_invalid_tokens_total", "Waitpoint tokens refused as invalid, by what is wrong with them.", "cause"),
		shutdownTimeouts: counter("ff_shutdown_timeout_total", "Shutdown phases that overran.", "phase"),
		laneExecutions:   gauge("ff_lane_executions", "Executions of a lane by public state.", "lane", "public_state"),
		eligibleAge:      gauge("ff_eligible_oldest_age_seconds", "Age of the oldest eligible execution of a lane.", "lane"),
		sseClients:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "ff_sse_clients", Help: "Open server-sent event connections."}),
		storeDuration:    histogram("ff_store_op_duration_seconds", "Duration of store operations that do not wait.", fast, "op"),
		storeErrors:      counter("ff_store_errors_total", "Store faults by kind.", "op", "kind"),
		build:            gauge("ff_build_info", "Always 1; the labels say what runs.", "version", "backend"),
		lanes:            make(map[flowfabric.LaneID]string),
		scanners:         make(map[string]flowfabric.ScannerStatus),
	}
	m.registry.MustRegister(m.httpRequests, m.httpDuration, m.scannerCycles, m.scannerDuration, m.scannerRows, m.scannerErrors,
		m.claimFromGrant, m.claimRequests, m.renewals, m.attempts, m.signals, m.invalidTokens, m.shutdownTimeouts, m.laneExecutions, m.eligibleAge,
		m.sseClients, m.storeDuration, m.storeErrors, m.build,
		poolGauge("ff_waits_in_use", "Waits under way.", &m.waits),
		poolGauge("ff_stream_ops_in_use", "Stream reads and tails under way.", &m.streamOps))
	for _, outcome := range []string{"ok", "err"} {
		m.renewals.WithLabelValues(outcome)
	}
	for _, outcome := range signalOutcomes {
		m.signals.WithLabelValues(outcome)
	}
	for _, cause := range rules.TokenCauses() {
		m.invalidTokens.WithLabelValues(string(cause))
	}
	for _, phase := range []string{"requests", "scanners", "connections"} {
		m.shutdownTimeouts.WithLabelValues(phase)
	}
	return m
}

// built says what runs.
func (m *Metrics) built(version, backend string) {
	m.build.Reset()
	m.build.WithLabelValues(version, backend).Set(1)
}

// Registry returns the registry, so that a program can add its own metrics.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// Handler serves the registry as Prometheus text.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// gaugePools says whose use the gauges of the pools show.
func (m *Metrics) gaugePools(waits, streamOps *pool) {
	m.waits.Store(waits)
	m.streamOps.Store(streamOps)
}

func poolGauge(name, help string, p *atomic.Pointer[pool]) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		if pool := p.Load(); pool != nil {
			return float64(pool.used())
		}
		return 0
	})
}

// request counts one answered request.
func (m *Metrics) request(method, path string, status int, elapsed time.Duration) {
	method, code := methodLabel(method), statusLabel(status)
	m.httpRequests.WithLabelValues(method, path, code).Inc()
	m.httpDuration.WithLabelValues(method, path, code).Observe(elapsed.Seconds())
}

func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return method
	}
	return "OTHER"
}

func statusLabel(status int) string {
	switch status {
	case http.StatusOK:
		return "200"
	case http.StatusCreated:
		return "201"
	case http.StatusAccepted:
		return "202"
	case http.StatusNoContent:
		return "204"
	}
	return strconv.Itoa(status)
}

// Observer is what an engine tells what it does; it fits the Observer of package
// engine. Where no engine has one, the server counts claim requests as it answers
// them, and reads the state of the duties now and then.
type Observer struct{ m *Metrics }

// Observer returns the observer to give to the engine beside the store.
func (m *Metrics) Observer() *Observer {
	m.observed.Store(true)
	return &Observer{m}
}

// ClaimRequest counts one answered claim request.
func (o *Observer) ClaimRequest(lane flowfabric.LaneID, outcome string) {
	o.m.claimRequests.WithLabelValues(o.m.lane(lane), outcome).Inc()
}

// ScannerCycle counts one cycle of a background duty.
func (o *Observer) ScannerCycle(name string, rows, errs int, took time.Duration) {
	o.m.scannerCycles.WithLabelValues(name).Inc()
	o.m.scannerDuration.WithLabelValues(name).Observe(took.Seconds())
	o.m.scannerRows.WithLabelValues(name).Add(float64(rows))
	o.m.scannerErrors.WithLabelValues(name).Add(float64(errs))
}

// Scanners counts what duties have done since the last time they were looked at.
// It does nothing when an engine reports every cycle.
func (m *Metrics) Scanners(now []flowfabric.ScannerStatus) {
	if m.observed.Load() {
		return
	}
	m.scannerMu.Lock()
	defer m.scannerMu.Unlock()
	for _, s := range now {
		last := m.scanners[s.Name]
		m.scanners[s.Name] = s
		if s.Cycles <= last.Cycles {
			continue
		}
		m.scannerCycles.WithLabelValues(s.Name).Add(float64(s.Cycles - last.Cycles))
		m.scannerDuration.WithLabelValues(s.Name).Observe(float64(s.LastDurationMs) / 1000)
		m.scannerRows.WithLabelValues(s.Name).Add(float64(max(0, s.Rows-last.Rows)))
		m.scannerErrors.WithLabelValues(s.Name).Add(float64(max(0, s.Errors-last.Errors)))
	}
}

// ShutdownTimeout counts one phase of a shutdown that overran.
func (m *Metrics) ShutdownTimeout(phase string) { m.shutdownTimeouts.WithLabelValues(phase).Inc() }

// Lanes sets the gauges of lanes.
func (m *Metrics) Lanes(lanes []flowfabric.LaneStatus, now flowfabric.Millis) {
	type key struct {
		lane  string
		state flowfabric.PublicState
	}
	counts := make(map[key]int64)
	oldest := make(map[string]float64)
	for _, l := range lanes {
		label := m.lane(l.LaneID)
		for _, state := range flowfabric.PublicStates() {
			counts[key{label, state}] += l.Counts[state]
		}
		age := 0.0
		if l.OldestEligibleAt > 0 {
			age = max(0, float64(now-l.OldestEligibleAt)/1000)
		}
		oldest[label] = max(oldest[label], age)
	}
	m.laneExecutions.Reset()
	for k, n := range counts {
		m.laneExecutions.WithLabelValues(k.lane, string(k.state)).Set(float64(n))
	}
	m.eligibleAge.Reset()
	for label, age := range oldest {
		m.eligibleAge.WithLabelValues(label).Set(age)
	}
}

// lane returns the label of a lane: its name for the first 64, then "other".
func (m *Metrics) lane(id flowfabric.LaneID) string {
	m.laneMu.RLock()
	label, ok := m.lanes[id]
	full := len(m.lanes) >= maxLaneLabels
	m.laneMu.RUnlock()
	if ok {
		return label
	}
	if full {
		return "other"
	}
	m.laneMu.Lock()
	defer m.laneMu.Unlock()
	if len(m.lanes) >= maxLaneLabels {
		return "other"
	}
	m.lanes[id] = string(id)
	return string(id)
}

// claim counts one answered claim request, unless the engine does. lane is the
// lane of what was claimed; without one the first lane asked for counts.
func (m *Metrics) claim(lane flowfabric.LaneID, asked []flowfabric.LaneID, err error) {
	if m.observed.Load() {
		return
	}
	outcome := "granted"
	if lane == "" {
		outcome = "no_work"
		if len(asked) > 0 {
			lane = asked[0]
		}
	}
	if err != nil {
		outcome = "error"
	}
	m.claimRequests.WithLabelValues(m.lane(lane), outcome).Inc()
}

// claimed records how long a grant took to become a lease.
func (m *Metrics) claimed(lane flowfabric.LaneID, took time.Duration) {
	m.claimFromGrant.WithLabelValues(m.lane(lane)).Observe(took.Seconds())
}

// renewed counts renewals.
func (m *Metrics) renewed(ok, failed int) {
	m.renewals.WithLabelValues("ok").Add(float64(ok))
	m.renewals.WithLabelValues("err").Add(float64(failed))
}

// Settled counts the attempt an execution ended with; it is meant for the wake
// events of a store, which come once per transition and not on repeats.
func (m *Metrics) Settled(events []flowfabric.WakeEvent) {
	for i := range events {
		done := events[i].Completion
		if done == nil || done.AttemptIndex == nil {
			continue
		}
		outcome := "ok"
		switch done.Outcome {
		case flowfabric.OutcomeFailed:
			outcome = "error"
		case flowfabric.OutcomeExpired:
			outcome = "timeout"
		case flowfabric.OutcomeCancelled:
			outcome = "cancelled"
		case flowfabric.OutcomeSkipped:
			continue
		}
		m.attempts.WithLabelValues(m.lane(done.LaneID), outcome).Inc()
	}
}

// retried counts one attempt that ended in a scheduled retry.
func (m *Metrics) retried(lane flowfabric.LaneID) {
	m.attempts.WithLabelValues(m.lane(lane), "retry").Inc()
}

// signalOutcomes are the labels of deliveries: the outcomes, the refusals a sender
// may meet, and "error" for every other.
var signalOutcomes = []string{
	string(flowfabric.DeliverAccepted), string(flowfabric.DeliverDuplicate),
	string(flowfabric.CodeMissingToken), string(flowfabric.CodeInvalidToken), string(flowfabric.CodeTokenExpired),
	string(flowfabric.CodeWaitpointClosed), string(flowfabric.CodeTargetNotSignalable), string(flowfabric.CodeSignalLimitExceeded),
	string(flowfabric.CodeSignalIDConflict), "error",
}

// signalled counts one delivery of a signal.
func (m *Metrics) signalled(outcome flowfabric.DeliverOutcome, err error) {
	label := string(outcome)
	if err != nil {
		label = string(flowfabric.CodeOf(err))
	}
	if !slices.Contains(signalOutcomes, label) {
		label = "error"
	}
	m.signals.WithLabelValues(label).Inc()
	var cause rules.TokenCause
	if errors.As(err, &cause) {
		m.invalidTokens.WithLabelValues(string(cause)).Inc()
	}
}

// storeOp is the pair of metrics of one store operation.
type storeOp struct {
	name     string
	duration prometheus.Observer
	errors   *prometheus.CounterVec
}

func (m *Metrics) storeOp(name string) *storeOp {
	return &storeOp{name: name, duration: m.storeDuration.WithLabelValues(name), errors: m.storeErrors}
}

// done records one call. A call that may have waited has no duration.
func (o *storeOp) done(start time.Time, waited bool, err error) {
	if !waited {
		o.duration.Observe(time.Since(start).Seconds())
	}
	if err == nil {
		return
	}
	e := flowfabric.AsError(err)
	if e == nil {
		return
	}
	switch e.Class {
	case flowfabric.ClassRetryableTransport, flowfabric.ClassCorruption, flowfabric.ClassBug:
	default:
		return
	}
	kind := e.Kind
	if kind == "" {
		kind = "other"
	}
	o.errors.WithLabelValues(o.name, kind).Inc()
}
