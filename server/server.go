package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/server/api"
)

// Time-outs and limits of a listener. (Specification 08, section 7.)
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 120 * time.Second
	maxHeaderBytes = 32 << 10
)

// Server serves the HTTP API of a backend. It is safe for concurrent use.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *Metrics
	tokens  *api.Tokens
	cors    *api.CORS
	certs   *certificates

	booting http.Handler
	api     atomic.Pointer[api.API] // nil until a backend is attached

	// base is what the contexts of requests come from; cut ends them.
	base context.Context
	cut  context.CancelFunc

	mu       sync.Mutex
	backend  flowfabric.Backend
	https    []*http.Server
	stopping bool
	finished chan struct{} // closed when the first Shutdown is done
	result   error         // of the first Shutdown

	duties sync.WaitGroup
	stop   context.CancelFunc // ends the duties
	unseen func()             // stops watching the backend
}

// New returns a server of the backend. It fails with invalid_input naming the
// setting when the Config is refused. The backend stays the caller's to close,
// after Shutdown.
func New(backend flowfabric.Backend, cfg Config) (*Server, error) {
	s, err := NewPending(cfg)
	if err != nil {
		return nil, err
	}
	return s, s.Attach(backend)
}

// NewPending returns a server that has no backend yet. It may serve already:
// /livez is good, everything else answers not_ready until Attach.
// (Specification 08, section 6.2.)
func NewPending(cfg Config) (*Server, error) {
	p, err := cfg.parse()
	if err != nil {
		return nil, err
	}
	if cfg.ShutdownTimeout == 0 {
		cfg.ShutdownTimeout = DefaultShutdownTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Version == "" {
		cfg.Version = "dev"
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, metrics: cfg.Metrics, tokens: p.tokens, cors: p.cors, certs: p.certs,
		booting: api.Booting(), finished: make(chan struct{}), stop: func() {}, unseen: func() {},
	}
	s.base, s.cut = context.WithCancel(context.Background())
	return s, nil
}

// Attach gives the server its backend, once, and makes it ready.
func (s *Server) Attach(backend flowfabric.Backend) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.backend != nil {
		return flowfabric.InvalidInput("backend", "is attached already")
	}
	if s.stopping {
		return flowfabric.NewError(flowfabric.CodeShuttingDown, "the server is shutting down")
	}
	a, err := api.New(backend, api.Options{
		Tokens:            s.tokens,
		CORS:              s.cors,
		RateLimit:         s.cfg.RateLimit,
		TrustedProxies:    s.cfg.TrustedProxies,
		MetricsAuth:       s.cfg.MetricsAuth,
		HideMetrics:       s.cfg.SeparateMetrics,
		Waits:             s.cfg.MaxWaits,
		FeedSubscriptions: s.cfg.MaxFeedSubscriptions,
		StreamOps:         s.cfg.MaxStreamOps,
		DisableCallbacks:  s.cfg.DisableCallbacks,
		HideCallbacks:     s.cfg.SeparateCallbacks,
		CallbackCORS:      s.cfg.CallbackCORS,
		CallbackRate:      s.cfg.CallbackRateLimit,
		KeyGraceMs:        s.cfg.keyGraceMs(),
		Duties:            !s.cfg.DisableDuties,
		Logger:            s.log,
		Version:           s.cfg.Version,
		Metrics:           s.metrics,
	})
	if err != nil {
		return err
	}
	s.backend = backend
	s.unseen = a.Watch()
	ctx, stop := context.WithCancel(s.base)
	s.stop = stop
	s.startDuties(ctx, a)
	s.api.Store(a)
	return nil
}

// Metrics returns the server's registry.
func (s *Server) Metrics() *Metrics { return s.metrics }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a := s.api.Load(); a != nil {
		a.ServeHTTP(w, r)
		return
	}
	s.booting.ServeHTTP(w, r)
}

// Serve answers the listener's connections until Shutdown, and then returns nil.
// It refuses, with invalid_input, a listener that is not on a loopback address
// while there is no token, unless the Config allows it. It may be called for any
// number of listeners, and closes them.
func (s *Server) Serve(l net.Listener) error {
	host, _, err := net.SplitHostPort(l.Addr().String())
	if l.Addr().Network() == "unix" {
		host, err = "localhost", nil
	}
	if err == nil {
		err = s.cfg.checkExposure(host, l.Addr().String(), s.tokens.Enabled())
	}
	if err != nil {
		_ = l.Close()
		return err
	}
	return s.serve(l, s, s.certs)
}

// ServeMetrics answers /metrics, and /livez, on a listener of its own.
func (s *Server) ServeMetrics(l net.Listener) error {
	return s.serve(l, s.MetricsHandler(), nil)
}

// ServeCallbacks answers the callback route, and /livez, on a listener of its own,
// with the main listener's certificates. It may be reached from anywhere: every
// callback shows the token of its waitpoint.
func (s *Server) ServeCallbacks(l net.Listener) error {
	return s.serve(l, s.CallbackHandler(), s.certs)
}

// CallbackHandler serves the callback route and /livez, and nothing else.
func (s *Server) CallbackHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := s.api.Load(); a != nil {
			a.CallbackHandler().ServeHTTP(w, r)
			return
		}
		s.booting.ServeHTTP(w, r)
	})
}

// MetricsHandler serves /metrics and /livez, and nothing else. With MetricsAuth it needs a token,
// as the main listener does.
func (s *Server) MetricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", api.Beside())
	mux.Handle("GET /metrics", api.Guard(s.tokens, s.cfg.MetricsAuth, s.metrics.Handler()))
	return mux
}

func (s *Server) serve(l net.Listener, h http.Handler, certs *certificates) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return s.base },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	if certs != nil {
		srv.TLSConfig = certs.listen()
	}
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		_ = l.Close()
		return nil
	}
	s.https = append(s.https, srv)
	s.mu.Unlock()
	var err error
	if certs != nil {
		err = srv.ServeTLS(l, "", "")
	} else {
		err = srv.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Reload reads the tokens file and the certificates again, as on SIGHUP. What
// fails stays as it was, is audited, and returned.
func (s *Server) Reload() error {
	ctx := context.Background()
	tokens := s.tokens.Reload()
	if tokens != nil {
		api.Audit(ctx, s.log, "tokens file not reloaded; the former tokens stay", slog.String("error", tokens.Error()))
	} else if s.cfg.APITokensFile != "" {
		api.Audit(ctx, s.log, "tokens file reloaded")
	}
	certs := s.certs.load()
	if certs != nil {
		s.log.ErrorContext(ctx, "certificates not reloaded; the former ones stay", "error", certs)
	}
	return errors.Join(tokens, certs)
}
