package server

import (
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/server/api"
)

// Defaults of a [Config].
const (
	DefaultShutdownTimeout = 45 * time.Second
	// MaxRateLimit is the highest limit on a client's requests per second.
	MaxRateLimit = 1_000_000
	// MaxPool is the largest size of a pool.
	MaxPool = 1_000_000
	// MaxShutdown bounds the delay and the timeout of a shutdown.
	MaxShutdown = time.Hour
	// MaxKeyGrace bounds the grace of a rotated waitpoint key.
	MaxKeyGrace = 30 * 24 * time.Hour
)

// Config sets up a server. The zero Config serves without authentication, for
// loopback listeners only. Each field names the setting it stands for, and
// refusals name that. (Specification 08, section 6.1.)
type Config struct {
	// ListenAddr is FF_LISTEN_ADDR, host:port: the address that is going to be
	// served. It is looked at by Validate only, so that a refusal comes before a
	// port is open; Serve looks at its listener's address in any case.
	ListenAddr string

	// APIToken is FF_API_TOKEN: one token with every scope and namespace, at
	// least 16 bytes. Empty means none.
	APIToken string
	// APITokensFile is FF_API_TOKENS_FILE: a JSON array of named tokens, read
	// again by Reload. Empty means none.
	APITokensFile string
	// AllowUnauthenticated is FF_ALLOW_UNAUTHENTICATED: serve other than loopback
	// addresses without any token.
	AllowUnauthenticated bool

	// CORSOrigins is FF_CORS_ORIGINS: scheme://host[:port], or the sole "*". Nil
	// means that no other origin may call; an empty list is refused.
	CORSOrigins []string
	// TrustedProxies is FF_TRUSTED_PROXIES: whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// RateLimit is FF_RATE_LIMIT: requests per second, per token or address. 0
	// means no limit.
	RateLimit float64

	// MetricsAuth is FF_METRICS_AUTH: /metrics needs scope read.
	MetricsAuth bool
	// SeparateMetrics leaves /metrics out of the main handler, since it has a
	// listener of its own (FF_METRICS_ADDR); see ServeMetrics.
	SeparateMetrics bool

	// DisableCallbacks is FF_CALLBACKS=false: the callback route is served nowhere.
	DisableCallbacks bool
	// SeparateCallbacks leaves the callback route out of the main handler, since it
	// has a listener of its own (FF_CALLBACK_ADDR); see ServeCallbacks.
	SeparateCallbacks bool
	// CallbackCORS is FF_CALLBACK_CORS: browsers may call the callback route, from
	// CORSOrigins, or from anywhere when there are none.
	CallbackCORS bool
	// CallbackRateLimit is FF_CALLBACK_RATE_LIMIT: callbacks per second and address.
	// 0 means 10, and below 0 no limit.
	CallbackRateLimit float64

	// KeyGrace is FF_WAITPOINT_HMAC_GRACE: how long the former waitpoint key still
	// verifies after a rotation that does not say it; nil means 24 h.
	KeyGrace *time.Duration

	// TLSCertFile and TLSKeyFile are FF_TLS_CERT_FILE and FF_TLS_KEY_FILE: both or
	// neither. TLSClientCAFile is FF_TLS_CLIENT_CA_FILE: clients must show a
	// certificate of this authority. They are read again when they change.
	TLSCertFile, TLSKeyFile, TLSClientCAFile string

	// MaxWaits, MaxFeedSubscriptions, MaxStreamOps and MaxStreamSSE are
	// FF_MAX_CONCURRENT_WAITS, _FEED_SUBSCRIPTIONS, _STREAM_OPS and _STREAM_SSE: the
	// sizes of the pools. 0 means 1024, 256, 64 and 256.
	MaxWaits, MaxFeedSubscriptions, MaxStreamOps, MaxStreamSSE int

	// DisableDuties is FF_SCANNERS=false: readiness does not look at duties.
	DisableDuties bool

	// ShutdownDelay is FF_SHUTDOWN_DELAY: how long the server still serves after
	// /readyz has turned. Default 0.
	ShutdownDelay time.Duration
	// ShutdownTimeout is FF_SHUTDOWN_TIMEOUT: how long a shutdown may take in all.
	// 0 means 45 s.
	ShutdownTimeout time.Duration

	// Logger gets requests at debug, faults at warn, and audit events; nil means
	// slog.Default().
	Logger *slog.Logger
	// Version is the build's version, shown by /v1/capabilities and
	// ff_build_info; "" means "dev".
	Version string
	// Metrics is where the server counts; nil means a fresh registry. Making it
	// before the backend lets the engine report to it: see [Metrics.Observer].
	Metrics *Metrics
}

// Metrics is the Prometheus registry of a server.
type Metrics = api.Metrics

// NewMetrics returns a fresh registry.
func NewMetrics() *Metrics { return api.NewMetrics() }

// Validate reports the first refusal as invalid_input; the detail "field" is the
// setting, the message holds the value, redacted when it is a secret. No port is
// opened, no file but those of tokens and certificates is read.
func (c Config) Validate() error {
	_, err := c.parse()
	return err
}

// parsed is what a Config says, in the form in which it is used.
type parsed struct {
	tokens *api.Tokens
	cors   *api.CORS
	certs  *certificates
}

func (c Config) parse() (p parsed, err error) {
	if err := c.checkNumbers(); err != nil {
		return p, err
	}
	if p.tokens, err = api.NewTokens(c.APIToken, c.APITokensFile); err != nil {
		return p, err
	}
	if c.CORSOrigins != nil {
		if p.cors, err = api.ParseCORS(strings.Join(c.CORSOrigins, ",")); err != nil {
			return p, err
		}
	}
	if p.certs, err = newCertificates(c.TLSCertFile, c.TLSKeyFile, c.TLSClientCAFile); err != nil {
		return p, err
	}
	if c.ListenAddr == "" {
		return p, nil
	}
	host, _, err := net.SplitHostPort(c.ListenAddr)
	if err != nil {
		return p, flowfabric.InvalidInput("FF_LISTEN_ADDR", "%q is not host:port", c.ListenAddr)
	}
	return p, c.checkExposure(host, c.ListenAddr, p.tokens.Enabled())
}

func (c Config) checkNumbers() error {
	for _, f := range []struct {
		name string
		n    int
	}{
		{"FF_MAX_CONCURRENT_WAITS", c.MaxWaits},
		{"FF_MAX_CONCURRENT_FEED_SUBSCRIPTIONS", c.MaxFeedSubscriptions},
		{"FF_MAX_CONCURRENT_STREAM_OPS", c.MaxStreamOps},
		{"FF_MAX_CONCURRENT_STREAM_SSE", c.MaxStreamSSE},
	} {
		if f.n < 0 || f.n > MaxPool {
			return flowfabric.InvalidInput(f.name, "%d is not 1..%d", f.n, MaxPool)
		}
	}
	if !(c.RateLimit >= 0 && c.RateLimit <= MaxRateLimit) { // a NaN is refused as well
		return flowfabric.InvalidInput("FF_RATE_LIMIT", "%v is not 0..%d", c.RateLimit, MaxRateLimit)
	}
	if !(c.CallbackRateLimit <= MaxRateLimit) {
		return flowfabric.InvalidInput("FF_CALLBACK_RATE_LIMIT", "%v is not 0..%d", c.CallbackRateLimit, MaxRateLimit)
	}
	if c.SeparateCallbacks && c.DisableCallbacks {
		return flowfabric.InvalidInput("FF_CALLBACK_ADDR", "contradicts FF_CALLBACKS=false")
	}
	if g := c.KeyGrace; g != nil && (*g < 0 || *g > MaxKeyGrace) {
		return flowfabric.InvalidInput("FF_WAITPOINT_HMAC_GRACE", "%v is not 0s..%v", *g, MaxKeyGrace)
	}
	if c.ShutdownDelay < 0 || c.ShutdownDelay > MaxShutdown {
		return flowfabric.InvalidInput("FF_SHUTDOWN_DELAY", "%v is not 0s..%v", c.ShutdownDelay, MaxShutdown)
	}
	if c.ShutdownTimeout < 0 || c.ShutdownTimeout > MaxShutdown {
		return flowfabric.InvalidInput("FF_SHUTDOWN_TIMEOUT", "%v is not 0s..%v", c.ShutdownTimeout, MaxShutdown)
	}
	for _, p := range c.TrustedProxies {
		if !p.IsValid() {
			return flowfabric.InvalidInput("FF_TRUSTED_PROXIES", "%v is no network", p)
		}
	}
	return nil
}

// checkExposure refuses to serve everybody who can reach the machine without a
// token.
func (c Config) checkExposure(host, addr string, authenticated bool) error {
	if authenticated || c.AllowUnauthenticated || isLoopback(host) {
		return nil
	}
	return flowfabric.InvalidInput("FF_API_TOKEN", "is not set, but FF_LISTEN_ADDR %q is no loopback address; "+
		"set FF_API_TOKEN or FF_API_TOKENS_FILE, or FF_ALLOW_UNAUTHENTICATED=true to serve everybody", addr)
}

// keyGraceMs is KeyGrace as the API takes it.
func (c Config) keyGraceMs() *int64 {
	if c.KeyGrace == nil {
		return nil
	}
	ms := c.KeyGrace.Milliseconds()
	return &ms
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	if i := strings.IndexByte(host, '%'); i >= 0 {
		host = host[:i]
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
