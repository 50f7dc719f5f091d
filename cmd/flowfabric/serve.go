package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/backend/valkey"
	"github.com/flowfabric/flowfabric/engine"
	"github.com/flowfabric/flowfabric/internal/config"
	"github.com/flowfabric/flowfabric/server"
	"github.com/flowfabric/flowfabric/server/api"
	"github.com/spf13/cobra"
)

func (c *cli) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Start a server",
		Long: `Start a server: the embedded store in ./flowfabric-data, listening on
127.0.0.1:9090, with nothing to set up. Everything can be set by a flag, by an
environment variable or in a YAML file; see: flowfabric config check.

An interrupt, or SIGTERM, shuts down in good order: readiness ends, long polls
answer, requests finish, the store is closed. A second one ends at once. SIGHUP
reads the tokens file and the certificates again.`,
		Example: `  flowfabric serve
  flowfabric serve --data-dir /var/lib/flowfabric --lanes default,media
  FF_API_TOKEN_FILE=/etc/flowfabric/token flowfabric serve --listen-addr 0.0.0.0:9090
  flowfabric serve --backend memory
  FF_WAITPOINT_HMAC_SECRET_FILE=secret flowfabric serve --backend valkey://127.0.0.1:6379`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := c.settings(cmd)
			if err != nil {
				return err
			}
			return c.serve(cmd.Context(), loaded)
		},
	}
	addSettingFlags(cmd)
	return cmd
}

// maxListeners is how many ports a server has at most: its API's, the metrics' and
// the callbacks'.
const maxListeners = 3

// process is a server on its way up, at work, or on its way down. Every part is
// nil until it is started.
type process struct {
	*cli
	cfg *config.Loaded
	log *slog.Logger

	server    *server.Server
	listeners []net.Listener
	callbacks string // the address of the callbacks' own listener; "" without one
	serving   sync.WaitGroup
	failed    chan error // a listener that ended by itself
	backend   ownStore
	control   *control
}

// ownStore is a store that this process opens for itself, with its engine.
type ownStore interface {
	flowfabric.Backend
	DeclareLanes(ctx context.Context, lanes []flowfabric.LaneID) error
	SeedWaitpointSecret(ctx context.Context, kid, secretHex string) (flowfabric.SeedWaitpointSecretResult, error)
}

// serveGCPercent lets a server collect less often than the default of 100: up to
// a sixth less CPU under load, for about 100 MB more memory. GOGC overrides it.
const serveGCPercent = 300

// serve starts a server, waits for ctx to end, and shuts down.
func (c *cli) serve(ctx context.Context, loaded *config.Loaded) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(serveGCPercent)
	}
	p := &process{cli: c, cfg: loaded, log: newLogger(c.err, loaded.Log, isTerminal(c.err)), failed: make(chan error, maxListeners)}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	if err := p.start(ctx); err != nil {
		p.undo()
		if exitCode(err) == exitUsage {
			api.Audit(ctx, p.log, "start refused", slog.String("reason", errorLine(err)))
		}
		return bootError(err)
	}
	p.announce()
	for {
		select {
		case <-ctx.Done():
			return p.shutdown(nil)
		case err := <-p.failed:
			return p.shutdown(err)
		case <-hangup:
			_ = p.server.Reload() // what fails is audited, and stays as it was
		}
	}
}

// bootError gives a failed start its exit code: 2 for configuration and
// refusals, 1 for everything else.
func bootError(err error) error {
	if exitCode(err) == exitUsage {
		return err
	}
	return &codeError{code: exitFailed, err: err}
}

// start follows the boot order of specification 08, section 6.2.
func (p *process) start(ctx context.Context) (err error) {
	for _, w := range p.cfg.Warnings {
		p.log.Warn(w)
	}
	if _, err := p.cfg.FindSecret(); err != nil {
		return err
	}
	syscall.Umask(0o077) // what a server writes is its owner's alone
	metrics := server.NewMetrics()
	if p.server, err = server.NewPending(p.serverConfig(metrics)); err != nil {
		return err
	}
	if err := p.bind(ctx); err != nil {
		return err
	}
	if err := p.openStore(ctx, metrics); err != nil {
		return err
	}
	if err := p.seedSecret(ctx); err != nil {
		return err
	}
	if err := p.backend.DeclareLanes(ctx, p.cfg.Lanes); err != nil {
		return err
	}
	p.startControlSocket()
	return p.server.Attach(p.backend)
}

func (p *process) serverConfig(metrics *server.Metrics) server.Config {
	c := p.cfg
	callbackRate := float64(c.CallbackRateLimit)
	if callbackRate == 0 {
		callbackRate = -1 // a server's 0 is its default
	}
	return server.Config{
		ListenAddr:           c.ListenAddr,
		APIToken:             c.APIToken,
		APITokensFile:        c.APITokensFile,
		AllowUnauthenticated: c.AllowUnauthenticated,
		CORSOrigins:          c.CORSOrigins,
		TrustedProxies:       c.TrustedProxies,
		RateLimit:            float64(c.RateLimit),
		MetricsAuth:          c.MetricsAuth,
		SeparateMetrics:      c.MetricsAddr != "",
		DisableCallbacks:     !c.Callbacks,
		SeparateCallbacks:    c.CallbackAddr != "",
		CallbackCORS:         c.CallbackCORS,
		CallbackRateLimit:    callbackRate,
		KeyGrace:             &c.WaitpointGrace,
		TLSCertFile:          c.TLSCertFile,
		TLSKeyFile:           c.TLSKeyFile,
		TLSClientCAFile:      c.TLSClientCAFile,
		MaxWaits:             c.MaxWaits,
		MaxFeedSubscriptions: c.MaxFeedSubscriptions,
		DisableDuties:        !c.Scanners,
		ShutdownDelay:        c.ShutdownDelay,
		ShutdownTimeout:      c.ShutdownTimeout,
		Logger:               p.log.With("component", "server"),
		Version:              buildVersion(),
		Metrics:              metrics,
	}
}

// bind opens the ports, all or none; until the server has its store only the
// probes answer there.
func (p *process) bind(ctx context.Context) error {
	var answers []func()
	for _, l := range []struct {
		variable, addr string
		serve          func(net.Listener) error
	}{
		{"FF_LISTEN_ADDR", p.cfg.ListenAddr, p.server.Serve},
		{"FF_METRICS_ADDR", p.cfg.MetricsAddr, p.server.ServeMetrics},
		{"FF_CALLBACK_ADDR", p.cfg.CallbackAddr, p.server.ServeCallbacks},
	} {
		if l.addr == "" {
			continue
		}
		bound, err := net.Listen("tcp", l.addr)
		if err != nil {
			return p.explainListen(ctx, l.variable, l.addr, err)
		}
		p.listeners = append(p.listeners, bound)
		answers = append(answers, func() { p.answer(bound, l.serve) })
		if l.variable == "FF_CALLBACK_ADDR" {
			p.callbacks = bound.Addr().String()
		}
	}
	for _, answer := range answers {
		answer()
	}
	return nil
}

// answer serves a listener in the background.
func (p *process) answer(l net.Listener, serve func(net.Listener) error) {
	p.serving.Go(func() {
		if err := serve(l); err != nil {
			p.failed <- fmt.Errorf("listener %s: %w", l.Addr(), err)
		}
	})
}

// explainListen says why a port can't be had. When the store is being served as
// well, most likely this server runs already, and its process is named.
func (p *process) explainListen(ctx context.Context, variable, addr string, err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s=%q can't be listened on: %w", variable, addr, plainNetError(err))
	}
	line := fmt.Sprintf("%s=%q: the port is in use", variable, addr)
	if holder := storeHolder(ctx, p.cfg.StorePath()); holder != "" {
		line += "; " + holder + " serves " + p.cfg.StorePath() + " already"
	}
	return errors.New(line)
}

func plainNetError(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// openStore makes the data directory and opens the store with its engine.
func (p *process) openStore(ctx context.Context, metrics *server.Metrics) error {
	if dir := p.cfg.DataDir; dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("FF_DATA_DIR=%q can't be made: %w", dir, err)
		}
		if info, err := os.Stat(dir); err == nil && p.cfg.Backend.Path == "" && info.Mode().Perm()&0o077 != 0 {
			p.log.Warn("the data directory is open to other users", "path", dir, "mode", info.Mode().Perm().String())
		}
	}
	var err error
	if p.cfg.Backend.Kind == config.PlaceValkey {
		p.backend, err = p.openValkey(ctx, metrics)
	} else {
		p.backend, err = asOwn(sqlite.Open(ctx, p.storeConfig(metrics)))
	}
	if flowfabric.CodeOf(err) == flowfabric.CodePartitionCountMismatch {
		return p.nameCounts(err)
	}
	return err
}

// asOwn keeps a nil pointer from becoming a non-nil interface.
func asOwn[B ownStore](b B, err error) (ownStore, error) {
	if err != nil {
		return nil, err
	}
	return b, nil
}

// openValkey opens the Valkey store as one of its servers.
func (p *process) openValkey(ctx context.Context, metrics *server.Metrics) (ownStore, error) {
	cfg, err := p.cfg.StoreConfig()
	if err != nil {
		return nil, err
	}
	cfg.Logger = p.log.With("component", "store")
	cfg.Engine = p.engineConfig(metrics)
	return asOwn(valkey.Open(ctx, cfg))
}

// nameCounts puts the partition counts that were given, by their variables, in
// front of the error that refuses them.
func (p *process) nameCounts(err error) error {
	counts := p.cfg.Partitions
	for _, c := range []struct {
		variable string
		n        int
	}{
		{"FF_QUOTA_PARTITIONS", counts.NumQuotaPartitions},
		{"FF_BUDGET_PARTITIONS", counts.NumBudgetPartitions},
		{"FF_FLOW_PARTITIONS", counts.NumFlowPartitions},
	} {
		if p.cfg.Given(c.variable) && c.n > 0 {
			err = fmt.Errorf("%s=\"%d\": %w", c.variable, c.n, err)
		}
	}
	return err
}

func (p *process) storeConfig(metrics *server.Metrics) sqlite.Config {
	return sqlite.Config{
		Path:            p.cfg.StorePath(),
		Feeds:           p.cfg.Feeds,
		Logger:          p.log.With("component", "store"),
		PartitionConfig: filled(p.cfg.Partitions),
		PoolSize:        p.cfg.EmbeddedPoolSize,
		StrictLanes:     p.cfg.StrictLanes,
		Engine:          p.engineConfig(metrics),
		// Its secret is on disk before the store has it: see seedSecret.
		NoWaitpointSecret: true,
	}
}

func (p *process) engineConfig(metrics *server.Metrics) engine.Config {
	every := p.cfg.Intervals
	return engine.Config{
		Logger:        p.log.With("component", "engine"),
		DisableDuties: !p.cfg.Scanners,
		MaxWaits:      p.cfg.MaxWaits,
		MaxFeedReads:  p.cfg.MaxFeedSubscriptions,
		Observer:      metrics.Observer(),
		Intervals: engine.Intervals{
			Tick:                every[engine.DutyTick],
			RouteLabels:         every[engine.DutyRouteLabels],
			LaneSweep:           every[engine.DutyLaneSweep],
			WorkerRegistrySweep: every[engine.DutyWorkerRegistrySweep],
			IndexReconciler:     every[engine.DutyIndexReconciler],
			FeedTrimmer:         every[engine.DutyFeedTrimmer],
		},
	}
}

// filled completes counts of which some are configured by the defaults; with all
// left at auto the store's own hold.
func filled(c flowfabric.PartitionConfig) flowfabric.PartitionConfig {
	if c == (flowfabric.PartitionConfig{}) {
		return c
	}
	d := flowfabric.DefaultPartitionConfig()
	for _, n := range []struct{ count, fallback *int }{
		{&c.NumFlowPartitions, &d.NumFlowPartitions},
		{&c.NumBudgetPartitions, &d.NumBudgetPartitions},
		{&c.NumQuotaPartitions, &d.NumQuotaPartitions},
	} {
		if *n.count == 0 {
			*n.count = *n.fallback
		}
	}
	return c
}

// seedSecret gives the store, once it is ours, its waitpoint key. A store that
// holds another keeps it: an operator has rotated since, and only an operator
// does. (Specification 08, section 6.2.)
func (p *process) seedSecret(ctx context.Context) error {
	kids, err := p.backend.ListWaitpointKIDs(ctx)
	if err != nil {
		return fmt.Errorf("waitpoint key: %w", err)
	}
	s, err := p.cfg.EnsureSecret(kids.CurrentKID != "")
	if err != nil {
		return err
	}
	switch {
	case s.Origin == config.SecretStored:
		p.log.Warn("no waitpoint secret is configured and the secret file is missing; the store's own keys hold",
			"path", filepath.Join(p.cfg.DataDir, config.SecretFile), "kid", kids.CurrentKID)
		return nil
	case s.Origin == config.SecretGenerated && s.Path != "":
		p.log.Info("waitpoint secret generated; keep it with your backups", "path", s.Path)
	}
	res, err := p.backend.SeedWaitpointSecret(ctx, p.cfg.WaitpointKID, s.Hex)
	if err != nil {
		return fmt.Errorf("waitpoint key: %w", err)
	}
	p.tellSeeding(res)
	return nil
}

// tellSeeding logs what the seeding found, one line at most of each kind.
func (p *process) tellSeeding(res flowfabric.SeedWaitpointSecretResult) {
	if n := res.Copies[flowfabric.SeedInstalled]; n > 0 {
		p.log.Info("waitpoint key installed", "kid", p.cfg.WaitpointKID, "copies", n)
	}
	if n := res.Copies[flowfabric.SeedRepaired]; n > 0 {
		p.log.Warn("the waitpoint key had lost its secret; it is back", "kid", p.cfg.WaitpointKID, "copies", n)
	}
	if n := res.Copies[flowfabric.SeedKept]; n > 0 {
		p.log.Warn("the configured waitpoint key or secret is not the store's current one, which was rotated since; the store's holds",
			"configured_kid", p.cfg.WaitpointKID, "kid", res.CurrentKID, "copies", n)
	}
}

// startControlSocket lets commands reach the store while this process owns it.
// Without it the server works, only "flowfabric backup" does not reach it.
func (p *process) startControlSocket() {
	store := p.cfg.StorePath()
	copying, ok := p.backend.(backupStore)
	if store == "" || !ok {
		return
	}
	var err error
	p.control, err = startControl(socketOf(store), copying, p.log.With("component", "control"))
	if err != nil {
		p.log.Warn("no control socket: backup can't reach this server", "error", err.Error())
	}
}

// announce tells the person who started the server, and a test, that it is
// ready.
func (p *process) announce() {
	address := p.address()
	fmt.Fprintf(p.out, "FlowFabric is ready at %s  (%s, process %d; stop with Ctrl-C)\n", address, p.storeName(), os.Getpid())
	p.log.Info("ready", "address", address, "version", buildVersion(), "backend", p.storeName())
	if p.callbacks != "" {
		p.log.Info("callbacks have a listener of their own", "address", p.scheme()+"://"+p.callbacks)
	}
	if p.ready != nil {
		p.ready(address)
	}
}

func (p *process) address() string { return p.scheme() + "://" + p.listeners[0].Addr().String() }

func (p *process) scheme() string {
	if p.cfg.TLSCertFile != "" {
		return "https"
	}
	return "http"
}

func (p *process) storeName() string {
	if path := p.cfg.StorePath(); path != "" {
		return "store " + path
	}
	if p.cfg.Backend.Kind == config.PlaceValkey {
		return "store " + fmt.Sprint(p.backend)
	}
	return "store in memory, nothing is kept"
}

// undo takes back what a failed start has started.
func (p *process) undo() {
	p.control.close()
	if p.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = p.server.Shutdown(ctx) // the start's error is what counts
	}
	for _, l := range p.listeners {
		_ = l.Close()
	}
	p.serving.Wait()
	if p.backend != nil {
		_ = p.backend.Close()
	}
}
