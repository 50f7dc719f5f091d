package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// Options says how an [API] serves. The zero value serves without
// authentication, CORS and rate limits.
type Options struct {
	// Tokens are the bearer tokens; nil or disabled means that every caller has
	// every scope.
	Tokens *Tokens
	// CORS says which origins may call; nil means none.
	CORS *CORS
	// RateLimit is in requests per second, per token or address; 0 means none.
	// Bursts may be twice that.
	RateLimit float64
	// TrustedProxies are those whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// MetricsAuth demands scope read for /metrics.
	MetricsAuth bool
	// HideMetrics leaves /metrics out, since it is served elsewhere.
	HideMetrics bool
	// Waits and FeedSubscriptions are the sizes of the pools; 0 means 1024 and
	// 256.
	Waits, FeedSubscriptions int
	// StreamOps is the size of the pool of stream reads and tails; 0 means 64.
	StreamOps int
	// Duties tells that this process runs background duties, so that /readyz
	// looks at them.
	Duties bool
	// Logger gets one line per request at debug, faults at warn, and audit
	// events; nil discards them.
	Logger *slog.Logger
	// Version is the server's, as shown by /v1/capabilities.
	Version string
	// Metrics is where requests are counted; nil means a fresh registry.
	Metrics *Metrics
	// DisableCallbacks leaves the callback route out everywhere. HideCallbacks
	// leaves it out of the API alone, since [API.CallbackHandler] serves it on a
	// listener of its own.
	DisableCallbacks, HideCallbacks bool
	// CallbackCORS lets browsers call the callback route: from the origins of CORS,
	// or from any when CORS is nil.
	CallbackCORS bool
	// CallbackRate is how many callbacks a second one address may send; 0 means
	// [DefaultCallbackRate], below 0 any number. Bursts may be twice that.
	CallbackRate float64
	// KeyGraceMs is how long the former key verifies after a rotation that does not
	// say it; nil means [flowfabric.DefaultKeyGraceMs].
	KeyGraceMs *int64
	// Heartbeat is how often an idle event stream is kept alive; 0 means 15 s.
	Heartbeat time.Duration
}

// API is the HTTP surface of a backend. It is an http.Handler, and safe for
// concurrent use.
type API struct {
	opt     Options
	backend flowfabric.Backend // measured
	raw     flowfabric.Backend // as given, for what it can do besides
	now     func() flowfabric.Millis
	log     *slog.Logger
	metrics *Metrics
	info    flowfabric.BackendInfo

	table []*route
	routing
	callbacks routing                // of the separate listener
	openapi   func() ([]byte, error) // made at the first request

	failures failures
	limiter  *limiter
	callers  *limiter // of callbacks, by address
	targets  *limiter // of callbacks, by waitpoint

	waits         *pool
	subscriptions *pool
	streamOps     *pool

	// unready is set when shutdown begins, refusing when no new request is taken;
	// draining ends when long polls are to answer early.
	unready    atomic.Bool
	refusing   atomic.Bool
	drained    atomic.Bool // by an operator
	draining   context.Context
	startDrain context.CancelFunc

	flight struct {
		sync.Mutex
		n    int
		idle chan struct{} // closed when n is 0 and somebody waits
	}
}

// clocked is a backend that knows the store's time without a call.
type clocked interface{ Now() flowfabric.Millis }

// watched is a backend that tells of commits.
type watched interface {
	Watch(handle func([]flowfabric.WakeEvent)) (stop func())
}

// New returns the API of a backend. The backend stays the caller's to close,
// after [API.Close].
func New(backend flowfabric.Backend, opt Options) (*API, error) {
	if backend == nil {
		return nil, flowfabric.InvalidInput("backend", "must not be nil")
	}
	a := &API{raw: backend, opt: opt, log: opt.Logger, metrics: opt.Metrics}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	info, err := backend.Describe(ctx)
	if err != nil {
		return nil, err
	}
	a.info = info
	if a.log == nil {
		a.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if a.metrics == nil {
		a.metrics = NewMetrics()
	}
	a.metrics.built(opt.Version, info.Family)
	if a.opt.Heartbeat <= 0 {
		a.opt.Heartbeat = 15 * time.Second
	}
	a.now = func() flowfabric.Millis { return flowfabric.Millis(time.Now().UnixMilli()) }
	if c, ok := backend.(clocked); ok {
		a.now = c.Now
	}
	a.backend = measure(backend, a.metrics)
	a.limiter = newLimiter(opt.RateLimit)
	a.callers, a.targets = newLimiter(callbackRate(opt.CallbackRate)), newLimiterPer(time.Minute, CallbacksPerWaitpoint)
	a.waits = newPool("waits", opt.Waits, DefaultWaits)
	a.subscriptions = newPool("feed_subscriptions", opt.FeedSubscriptions, DefaultFeedSubscriptions)
	a.streamOps = newPool("stream_ops", opt.StreamOps, DefaultStreamOps)
	a.metrics.gaugePools(a.waits, a.streamOps)
	a.draining, a.startDrain = context.WithCancel(context.Background())
	if err := a.mount(); err != nil {
		return nil, err
	}
	a.openapi = sync.OnceValues(a.document)
	return a, nil
}

// Metrics returns what the API counts in.
func (a *API) Metrics() *Metrics { return a.metrics }

// authenticated reports whether authentication is on.
func (a *API) authenticated() bool { return a.opt.Tokens.Enabled() }

// ServeHTTP implements http.Handler. The order of checks is that of
// specification 08, section 2.4.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.serve(&a.routing, w, r) }

func (a *API) serve(to *routing, w http.ResponseWriter, r *http.Request) {
	c := &call{api: a, to: to, w: w, r: r, ctx: r.Context(), start: time.Now(), requestID: requestID(r)}
	a.enter()
	defer c.finish()
	if !strings.HasPrefix(r.URL.Path, "/") || unclean(r.URL.EscapedPath()) {
		c.unrouted()
		return
	}
	to.mux.ServeHTTP(c, r)
}

// unclean reports whether ServeMux would answer with a redirect instead of
// looking at the path as it is.
func unclean(path string) bool {
	if strings.Contains(path, "//") {
		return true
	}
	for rest := path; ; {
		i := strings.Index(rest, "/.")
		if i < 0 {
			return false
		}
		step, _, _ := strings.Cut(rest[i+1:], "/")
		if step == "." || step == ".." {
			return true
		}
		rest = rest[i+2:]
	}
}

// unrouted answers what no route serves: OPTIONS, a wrong method, an unknown
// path.
func (c *call) unrouted() {
	pattern := ""
	if !unclean(c.r.URL.EscapedPath()) && strings.HasPrefix(c.r.URL.Path, "/") {
		_, pattern = c.to.paths.Handler(c.r)
	}
	allow, known := c.to.allow[pattern]
	cors := c.corsOf(pattern)
	allowed := cors.allow(c.Header(), c.r.Header.Get("Origin"))
	if !known {
		c.fail(flowfabric.NewError(flowfabric.CodeRouteNotFound, "no such path"))
		return
	}
	c.route = &route{pattern: pattern}
	if c.r.Method != http.MethodOptions {
		c.Header().Set("Allow", allow)
		c.fail(flowfabric.NewError(flowfabric.CodeMethodNotAllowed, "the path does not know this method").With("allow", allow))
		return
	}
	if cors == nil || c.r.Header.Get("Access-Control-Request-Method") == "" {
		c.Header().Set("Allow", allow)
	}
	if allowed && c.r.Header.Get("Access-Control-Request-Method") != "" {
		preflight(c.Header(), c.preflightHeaders(pattern))
	}
	c.WriteHeader(http.StatusNoContent)
}

// corsOf says which origins may call the path of a pattern. Callbacks, and with
// them all of their own listener, are closed to browsers unless they are opened.
func (c *call) corsOf(pattern string) *CORS {
	if pattern != wire.RouteCallback && c.to == &c.api.routing {
		return c.api.opt.CORS
	}
	switch {
	case !c.api.opt.CallbackCORS:
		return nil
	case c.api.opt.CORS == nil:
		return &CORS{any: true}
	}
	return c.api.opt.CORS
}

// preflightHeaders are the request headers that a preflight of the pattern's path
// allows.
func (c *call) preflightHeaders(pattern string) string {
	switch {
	case pattern == wire.RouteCallback:
		return callbackCORSHeaders
	case c.api.authenticated():
		return corsHeaders + ", authorization"
	}
	return corsHeaders
}

// serve takes a routed request through the checks to its handler.
func (c *call) serve() {
	if c.route.untrusted {
		c.uncached()
	}
	if c.route.stream && c.r.Method == http.MethodHead {
		c.unrouted()
		return
	}
	if c.api.refusing.Load() && !c.route.probe {
		c.fail(flowfabric.NewError(flowfabric.CodeShuttingDown, "the server is shutting down"))
		return
	}
	c.corsOf(c.route.pattern).allow(c.Header(), c.r.Header.Get("Origin"))
	if err := c.identify(); err != nil {
		c.fail(err)
		return
	}
	if err := c.readBody(); err != nil {
		c.fail(err)
		return
	}
	if err := c.route.handle(c); err != nil {
		c.fail(err)
	}
}

// identify does steps 3 to 5: rate limit, authentication, scope.
func (c *call) identify() error {
	needed := c.route.scopes
	if c.route.pattern == "/metrics" && !c.api.opt.MetricsAuth {
		needed = 0
	}
	c.who = anonymous
	if c.route.untrusted {
		c.who = &Principal{Name: anonymous.Name}
		return c.throttleCallback()
	}
	if !c.api.authenticated() {
		return c.throttle(nil)
	}
	now := time.Now()
	token, _ := bearer(c.r.Header.Get("Authorization"))
	who := c.api.opt.Tokens.lookup(token, now)
	if err := c.throttle(who); err != nil {
		return err
	}
	if needed == 0 {
		c.who = &Principal{Name: anonymous.Name}
		return nil
	}
	addr := clientAddr(c.r, c.api.opt.TrustedProxies)
	if wait := c.api.failures.blocked(addr, now); wait > 0 {
		return rateLimited("too many failed authentications from this address", wait)
	}
	if who == nil {
		if token != "" {
			c.api.failures.note(addr, now)
		}
		c.Header().Set("WWW-Authenticate", "Bearer")
		return flowfabric.NewError(flowfabric.CodeUnauthenticated, "a valid bearer token is needed")
	}
	c.who = who
	return c.require(needed, "the token lacks the scope of this operation")
}

// throttle takes one request out of the bucket of a known token, or of the
// address.
func (c *call) throttle(who *Principal) error {
	if c.api.limiter == nil || c.route.probe {
		return nil
	}
	key := ""
	if who != nil {
		key = "token " + who.Name
	} else {
		key = "address " + clientAddr(c.r, c.api.opt.TrustedProxies).String()
	}
	if wait, ok := c.api.limiter.allow(key, time.Now()); !ok {
		return rateLimited("over the client's rate of requests", wait)
	}
	return nil
}

func rateLimited(why string, wait time.Duration) error {
	e := flowfabric.NewError(flowfabric.CodeClientRateLimited, "%s", why)
	e.RetryAfter = wait
	return e
}

// enter and leave count the requests under way.
func (a *API) enter() {
	a.flight.Lock()
	a.flight.n++
	a.flight.Unlock()
}

func (a *API) leave() {
	a.flight.Lock()
	defer a.flight.Unlock()
	a.flight.n--
	if a.flight.n == 0 && a.flight.idle != nil {
		close(a.flight.idle)
		a.flight.idle = nil
	}
}

// audit writes an audit event at info, whatever the logger's level.
func (c *call) audit(what string, attrs ...slog.Attr) {
	Audit(c.ctx, c.api.log, what, append([]slog.Attr{slog.String("token", c.who.Name), slog.String("request_id", c.requestID)}, attrs...)...)
}

// Audit writes an audit event at info, past the logger's level.
func Audit(ctx context.Context, log *slog.Logger, what string, attrs ...slog.Attr) {
	record := slog.NewRecord(time.Now(), slog.LevelInfo, what, 0)
	record.AddAttrs(slog.Bool("audit", true))
	record.AddAttrs(attrs...)
	_ = log.Handler().Handle(ctx, record) // a log that cannot be written is nobody's error
}
