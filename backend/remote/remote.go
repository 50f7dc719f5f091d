package remote

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
)

// CallTimeout is how long a call that does not block may take in all, repeats
// included. It lies above the 120 s of a key rotation, the longest one.
const CallTimeout = 130 * time.Second

// waitMargin is added to the wait of a blocking call.
const waitMargin = 5 * time.Second

// Backend is a connection to a flowfabric server. It keeps a [flowfabric.Backend]'s
// promises and is safe for concurrent use. Printed, it shows the server's address
// and nothing else.
type Backend struct {
	base   string // without trailing slash
	token  secret
	client *http.Client
	log    *slog.Logger
	pause  func(ctx context.Context, d time.Duration) error
	jitter func(n int64) int64

	closing   context.Context
	close     context.CancelFunc
	closeOnce sync.Once
	idle      func()

	parts   atomic.Pointer[flowfabric.PartitionConfig]
	indexes indexes
}

var _ flowfabric.Backend = (*Backend)(nil)

// secret is a text that never prints.
type secret struct{ text string }

func (secret) String() string   { return "[redacted]" }
func (secret) GoString() string { return "[redacted]" }

// String names the server.
func (b *Backend) String() string { return "remote(" + b.base + ")" }

// GoString is String, so that no way of printing shows the token.
func (b *Backend) GoString() string { return b.String() }

// LogValue is String, for log/slog.
func (b *Backend) LogValue() slog.Value { return slog.StringValue(b.String()) }

// Option changes how [Open] connects.
type Option func(*options) error

type options struct {
	token  string
	given  bool
	client *http.Client
	tls    *tls.Config
	log    *slog.Logger
}

// WithToken sets the bearer token. An empty or blank one, and one with bytes that
// a header can't hold, is a [flowfabric.ConfigError] of Open.
func WithToken(token string) Option {
	return func(o *options) error {
		if err := checkToken(token); err != nil {
			return err
		}
		o.token, o.given = token, true
		return nil
	}
}

// WithTokenFile reads the bearer token from a file, one trailing line end
// removed.
func WithTokenFile(path string) Option {
	return func(o *options) error {
		text, err := os.ReadFile(path)
		if err != nil {
			return configError("token_file", "can't be read: %v", err)
		}
		token := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
		return WithToken(token)(o)
	}
}

// WithHTTPClient makes the calls through client instead of one of Open's own. Its
// Timeout should be 0 or above [CallTimeout]. Close leaves it open. Redirects are
// not followed, whatever it says.
func WithHTTPClient(client *http.Client) Option {
	return func(o *options) error {
		if client == nil {
			return configError("http_client", "must not be nil")
		}
		o.client = client
		return nil
	}
}

// WithTLSConfig sets the TLS configuration of https, for a private authority or a
// client certificate. It has no effect beside WithHTTPClient.
func WithTLSConfig(config *tls.Config) Option {
	return func(o *options) error {
		if config == nil {
			return configError("tls_config", "must not be nil")
		}
		o.tls = config.Clone()
		return nil
	}
}

// WithLogger sets where repeats of calls are logged, at debug; by default
// nowhere.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) error {
		if log == nil {
			return configError("logger", "must not be nil")
		}
		o.log = log
		return nil
	}
}

// Open prepares a backend over the server at baseURL, such as
// http://127.0.0.1:9090; a path before /v1 is allowed, trailing slashes are not
// counted. It makes no call: whether the server answers, Ping tells. Every fault
// of the arguments is a [flowfabric.ConfigError].
func Open(ctx context.Context, baseURL string, opts ...Option) (*Backend, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	base, err := parseBase(baseURL)
	if err != nil {
		return nil, err
	}
	o := options{log: slog.New(slog.DiscardHandler)}
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	b := &Backend{base: base, log: o.log, pause: pause, jitter: fullJitter, idle: func() {}}
	if o.given {
		b.token = secret{"Bearer " + o.token}
	}
	b.closing, b.close = context.WithCancel(context.Background())
	if o.client == nil {
		transport := newTransport(b.closing, o.tls)
		o.client = &http.Client{Transport: transport}
		b.idle = transport.CloseIdleConnections
	}
	client := *o.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	b.client = &client
	return b, nil
}

// newTransport is tuned for many concurrent calls to one server: connections are
// kept, for less than the server keeps them, and nothing is compressed. When
// closing ends, so do all its connections, also one that comes about only then.
func newTransport(closing context.Context, config *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialUntil(closing),
		TLSClientConfig:     config,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true,
		MaxIdleConns:        1024,
		MaxIdleConnsPerHost: 1024,
		IdleConnTimeout:     90 * time.Second,
		WriteBufferSize:     64 << 10,
		ReadBufferSize:      64 << 10,
	}
}

func dialUntil(closing context.Context) func(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(closing, cancel)()
		c, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &conn{Conn: c, forget: context.AfterFunc(closing, func() { _ = c.Close() })}, nil
	}
}

// conn is a connection that ends with its backend.
type conn struct {
	net.Conn
	forget func() bool
}

func (c *conn) Close() error {
	c.forget()
	return c.Conn.Close()
}

// Close ends the calls under way with shutting_down, as every later one, and
// drops the connections. It is idempotent.
func (b *Backend) Close() error {
	b.closeOnce.Do(func() {
		b.close()
		b.idle()
	})
	return nil
}

func parseBase(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "", configError("base_url", "is not a URL")
	case u.User != nil:
		return "", configError("base_url", "must not hold a user or password; use a token")
	case u.Scheme != "http" && u.Scheme != "https":
		return "", configError("base_url", "%q must begin with http:// or https://", text)
	case u.Hostname() == "":
		return "", configError("base_url", "%q names no host", text)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", configError("base_url", "%q must end with the path", text)
	}
	return u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/"), nil
}

// checkToken refuses what can't be a bearer token in a header. The error never
// holds the token.
func checkToken(token string) error {
	if strings.TrimSpace(token) == "" {
		return configError("token", "is empty or blank")
	}
	for i := 0; i < len(token); i++ {
		if token[i] <= 0x20 || token[i] >= 0x7F {
			return configError("token", "has a byte at %d that a header can't hold", i)
		}
	}
	return nil
}

func configError(field, format string, args ...any) error {
	return &flowfabric.ConfigError{Context: "remote", Field: field, Message: fmt.Sprintf(format, args...)}
}
