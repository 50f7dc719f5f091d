package valkey

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/engine"
)

// Role says what a process is to the deployment.
type Role string

// The roles. A server loads the library, makes the deployment and runs the
// duties. A worker finds all that in place or fails.
const (
	RoleServer Role = "server"
	RoleWorker Role = "worker"
)

// Defaults of a [Config].
const (
	DefaultAddr           = "localhost:6379"
	DefaultConnectTimeout = 5 * time.Second
	DefaultRequestTimeout = 5 * time.Second
	DefaultConnectWait    = 60 * time.Second
	DefaultBootWait       = 10 * time.Second
	DefaultLibraryWait    = 10 * time.Second
)

// Config says where the store is and how to use it. The zero Config is a server
// on localhost:6379. Whatever is out of its range is invalid_input with the
// field's name, before anything is connected to: [Config.Validate].
// (Specification 07, sections 11 to 13 and 15.)
type Config struct {
	// Addrs are the host:port of the node, or of some nodes of a cluster to begin
	// with; default localhost:6379. More than one needs Cluster. Only database 0
	// is served.
	Addrs []string
	// Cluster says that the store is a cluster; the wrong way round is refused
	// with store_mode_mismatch.
	Cluster bool

	// Username and Password are given to AUTH at every connecting; both empty
	// means none. What the store refuses then is store_fault, kind auth.
	Username, Password string
	// PasswordFile holds the password in place of Password, a newline at its end
	// not counted. It is read again at every connecting, so that a password can
	// be changed under way.
	PasswordFile string
	// TLS switches TLS on; nil is off.
	TLS *TLS

	// ConnectTimeout bounds one attempt to connect; default 5 s, 10 ms .. 5 min.
	// Attempts at one address that fail are 50 ms apart at first, 5 s at last.
	ConnectTimeout time.Duration
	// RequestTimeout is how long a connection may stay without an answer; default
	// 5 s, 100 ms .. 5 min. What was asked then is store_timeout or
	// outcome_unknown. It does not bound blocking reads.
	RequestTimeout time.Duration
	// ConnectWait is how long Open goes on when the store can't be reached or, in
	// a cluster, has nodes of too low a version; default 60 s, 1 ms .. 1 h.
	ConnectWait time.Duration

	// Role is RoleServer by default.
	Role Role
	// InstanceID tells this process from others: among the servers, and in the
	// client name. Printable ASCII without spaces; default a new UUID.
	InstanceID string
	// ClientName is what CLIENT LIST shows; default ff-server:<InstanceID> or
	// ff-worker:<InstanceID>. Printable ASCII without spaces.
	ClientName string
	// PartitionConfig must equal the stored one, else partition_count_mismatch.
	// Each count is 1..65535, or 0 for what is stored, which on an empty store
	// becomes the default, 256, 32 and 32. Workers always take the stored.
	PartitionConfig flowfabric.PartitionConfig
	// Lanes are registered when a server starts; workers register none.
	Lanes []flowfabric.LaneID
	// StrictLanes refuses creates in lanes that nobody has declared, with
	// lane_not_found.
	StrictLanes bool
	// Feeds are the feeds written besides completions; nil keeps what the
	// deployment has, at first leases, signals and tags. An empty non-nil list
	// keeps completions only. Workers take what the servers have set.
	Feeds []flowfabric.Feed
	// Durability says what a write of this process must have reached before it is
	// acknowledged; default async. Each process has its own.
	Durability Durability

	// AllowRedis accepts Redis 7.2 or later, which is not tested.
	AllowRedis bool
	// AllowLibraryUpgrade lets a server replace a library of a lower ABI, after
	// which older servers and workers fail.
	AllowLibraryUpgrade bool
	// ForceLibraryReload replaces a library of the same revision and another
	// content; for development.
	ForceLibraryReload bool
	// BootWait is how long a worker waits for a server to make the deployment
	// before Open gives deployment_not_initialized; LibraryWait how long it waits
	// for the library, in Open and when it has gone, before library_missing.
	// Default 10 s each, 1 ms .. 1 h.
	BootWait, LibraryWait time.Duration

	// Engine configures the engine beside the store; Observer, when set, goes in
	// there. A worker's engine runs no duties, and of the servers of a deployment
	// one at least must run them.
	Engine   engine.Config
	Observer engine.Observer
	// Logger gets warnings; nil discards.
	Logger *slog.Logger
	// NoEngine leaves the duties to the caller: nothing happens by itself, and
	// the methods of flowfabric.Upkeep drive the store. For tests.
	NoEngine bool
	// Testing is for tests only.
	Testing Testing
}

// Testing holds what only tests need.
type Testing struct {
	// Clock loads a library whose clock can be set by [Store.SetTestClock].
	Clock bool
	// Heartbeat, DeploymentCheck and LibraryCheck replace the intervals of what a
	// server does beside the engine: 5 s, 10 s and 30 s.
	Heartbeat, DeploymentCheck, LibraryCheck time.Duration

	library libraryOptions
}

// TLS configures TLS 1.2 or later.
type TLS struct {
	// CAFile holds the authorities to trust, PEM; empty means the system's.
	CAFile string
	// CertFile and KeyFile are the client's certificate: both or neither.
	CertFile, KeyFile string
	// ServerName is the name the certificate must have; default the address's.
	ServerName string
	// SkipVerify accepts any certificate; a warning is logged.
	SkipVerify bool
}

// DurabilityMode is one of the three promises of an acknowledgement.
type DurabilityMode string

// The modes. Async: the change is in the primary's memory. Replicated: so many
// replicas have it in theirs. Fsync: the primary, and so many replicas, have it
// on disk; without an append-only file Open gives store_misconfigured. A write
// that is not confirmed in time is durability_unconfirmed: it was carried out, and
// may get lost with the primary. (Specification 07, section 11.)
const (
	DurabilityAsync      DurabilityMode = "async"
	DurabilityReplicated DurabilityMode = "replicated"
	DurabilityFsync      DurabilityMode = "fsync"
)

// Durability is a mode with its numbers; the zero value is async.
type Durability struct {
	Mode DurabilityMode
	// Replicas is how many must confirm: at least 1, and by default 1, when
	// replicated; 0 by default for fsync; at most 100.
	Replicas int
	// Timeout is how long to wait for them; default 1 s, 1 ms .. 1 min.
	Timeout time.Duration
}

// String gives the form that [ParseDurability] reads.
func (d Durability) String() string {
	switch d.Mode {
	case DurabilityReplicated, DurabilityFsync:
		return fmt.Sprintf("%s:%d:%s", d.Mode, d.Replicas, d.Timeout)
	}
	return string(DurabilityAsync)
}

// Store is the store without an engine. It is safe for concurrent use.
type Store struct {
	cfg     Config
	log     *slog.Logger
	durable *durability // nil when async
	b       vk.Builder  // makes the commands of plain
	nodes   nodes
	lib     library
	clock   clock
	gone    atomic.Pointer[flowfabric.Error] // why no call is made any more

	parts        flowfabric.PartitionConfig
	deploymentID string
	tags         []string // hash tags of the flow partitions
	version      string   // of the store
	supported    bool     // false on Redis
	feeds        atomic.Pointer[map[flowfabric.Feed]bool]

	routing routing // what is remembered of lanes, workers and buckets
	ready   ready   // where work is
	scans   scanCursor
	ticks   cycles
	granted grantsOut
	wakes   wakes
	rings   rings   // copies of the key ring
	targets targets // waitpoints met before

	batches  batches
	pages    *pageCache
	minted   atomic.Uint64 // the partition of the next standalone execution
	feedEnds feedEnds

	servers   membership
	stop      chan struct{} // closed by Close
	running   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// Open connects to the store, checks it, and boots: a server loads the library
// and makes the deployment if there is none; a worker waits for both. Then the
// engine starts.
//
// Errors: invalid_input for the Config; store_unavailable and store_fault of the
// connection, the kind of the latter auth where user, password or ACL are refused;
// store_mode_mismatch,
// store_version_too_low, store_version_unreadable, unsupported_store,
// store_misconfigured, partition_count_mismatch, partition_config_corrupt,
// schema_too_new, library_too_new, library_abi_mismatch, library_load_failed,
// deployment_not_initialized and library_missing. (Specification 07, section 13.)
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	s, err := open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	b, err := newBackend(ctx, s)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return b, nil
}

// open is Open without the engine.
func open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, log: cfg.Logger, stop: make(chan struct{})}
	s.lib.s = s
	if err := s.boot(ctx); err != nil {
		s.nodes.close()
		return nil, err
	}
	if cfg.Durability.Mode != DurabilityAsync { // a server starts also while replicas are missing
		s.durable = &durability{cfg.Durability}
	}
	s.ready.partitions, s.ready.deafened = s.parts.NumFlowPartitions, make(chan struct{}, 1)
	s.minted.Store(rand.Uint64N(1 << 32)) // short-lived processes do not all begin on one partition
	s.pages = newPageCache(s.parts.NumFlowPartitions)
	s.batches.init(s)
	s.listen()
	s.listenAgain()
	s.startDuties()
	return s, nil
}

// Validate reports the first field that Open would refuse, as invalid_input. It
// reads the files of certificates, and connects to nothing.
func (c Config) Validate() error { return c.complete() }

// complete checks a Config and fills in the defaults.
func (c *Config) complete() error {
	if len(c.Addrs) == 0 {
		c.Addrs = []string{DefaultAddr}
	}
	if len(c.Addrs) > 1 && !c.Cluster {
		return flowfabric.InvalidInput("addrs", "has %d addresses, but cluster is not set", len(c.Addrs))
	}
	for _, a := range c.Addrs {
		if err := checkAddr(a); err != nil {
			return err
		}
	}
	if c.Password != "" && c.PasswordFile != "" {
		return flowfabric.InvalidInput("password_file", "is given beside password; give one of them")
	}
	if c.Role == "" {
		c.Role = RoleServer
	}
	if c.Role != RoleServer && c.Role != RoleWorker {
		return flowfabric.InvalidInput("role", "%q is unknown", string(c.Role))
	}
	if c.InstanceID == "" {
		c.InstanceID = uuid.NewString()
	}
	if c.ClientName == "" {
		c.ClientName = "ff-" + string(c.Role) + ":" + c.InstanceID
	}
	for _, f := range []struct{ field, value string }{{"instance_id", c.InstanceID}, {"client_name", c.ClientName}} {
		if strings.ContainsFunc(f.value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return flowfabric.InvalidInput(f.field, "%q has a byte outside 0x21..0x7E", f.value)
		}
	}
	for _, d := range []struct {
		field         string
		d             *time.Duration
		def, low, top time.Duration
	}{
		{"connect_timeout", &c.ConnectTimeout, DefaultConnectTimeout, 10 * time.Millisecond, 5 * time.Minute},
		{"request_timeout", &c.RequestTimeout, DefaultRequestTimeout, 100 * time.Millisecond, 5 * time.Minute},
		{"connect_wait", &c.ConnectWait, DefaultConnectWait, time.Millisecond, time.Hour},
		{"boot_wait", &c.BootWait, DefaultBootWait, time.Millisecond, time.Hour},
		{"library_wait", &c.LibraryWait, DefaultLibraryWait, time.Millisecond, time.Hour},
		{"heartbeat", &c.Testing.Heartbeat, heartbeatEvery, time.Millisecond, time.Hour},
		{"deployment_check", &c.Testing.DeploymentCheck, deploymentCheckEvery, time.Millisecond, time.Hour},
		{"library_check", &c.Testing.LibraryCheck, libraryCheckEvery, time.Millisecond, time.Hour},
	} {
		if *d.d == 0 {
			*d.d = d.def
		}
		if *d.d < d.low || *d.d > d.top {
			return flowfabric.InvalidInput(d.field, "is %v, must be %v..%v", *d.d, d.low, d.top)
		}
	}
	for _, n := range []struct {
		field string
		n     int
	}{
		{"num_flow_partitions", c.PartitionConfig.NumFlowPartitions},
		{"num_budget_partitions", c.PartitionConfig.NumBudgetPartitions},
		{"num_quota_partitions", c.PartitionConfig.NumQuotaPartitions},
	} {
		if n.n < 0 || n.n > 65535 {
			return flowfabric.InvalidInput(n.field, "is %d, must be 1..65535, or 0 for what is stored", n.n)
		}
	}
	for _, l := range c.Lanes {
		if err := l.Validate(); err != nil {
			return err
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := c.checkTLS(); err != nil {
		return err
	}
	return c.Durability.complete()
}

// Ping returns nil when every primary answers and the deployment is still the
// one that was opened, as of the last look, 10 s ago at most. Else it is
// store_unavailable, store_timeout or store_replaced.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.admit(); err != nil {
		return named(err, "ping")
	}
	err := s.everyNode(ctx, func(ctx context.Context, n *node) error {
		return s.ask(ctx, n, n.client.B().Ping().Build()).err
	})
	if s.nodes.cluster && err != nil && ctx.Err() == nil {
		s.nodes.refresh(ctx, nil)
	}
	return named(err, "ping")
}

// ask sends one read command to one node, once.
func (s *Store) ask(ctx context.Context, n *node, cmd vk.Completed) answer {
	msg, err := n.client.Do(ctx, cmd).ToMessage()
	if err == nil || err == vk.Nil {
		return answer{msg: msg}
	}
	if ctx.Err() != nil {
		return answer{err: ctx.Err()}
	}
	_, e := react(fault{node: n, err: err}, true)
	return answer{err: e}
}

// PartitionConfig returns the deployment's configuration.
func (s *Store) PartitionConfig(context.Context) (flowfabric.PartitionConfig, error) {
	return s.parts, nil
}

// Describe names the backend.
func (s *Store) Describe(context.Context) (flowfabric.BackendInfo, error) {
	return flowfabric.BackendInfo{Family: "valkey", Version: s.version, DeploymentID: s.deploymentID}, nil
}

// Supported reports whether the store is Valkey itself rather than a Redis that
// AllowRedis has let pass.
func (s *Store) Supported() bool { return s.supported }

// feedOn reports whether a feed is written.
func (s *Store) feedOn(f flowfabric.Feed) bool {
	if f == flowfabric.FeedCompletions {
		return true
	}
	on := s.feeds.Load()
	return on != nil && (*on)[f]
}

// Close ends what runs in the background, withdraws a server's registration, so
// that the others take its share over at once, and closes the connections; calls
// after that are shutting_down. It is idempotent.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.stop)
		s.running.Wait()
		s.closeErr = s.leave()
		s.gone.CompareAndSwap(nil, errClosed())
		s.nodes.close()
	})
	return s.closeErr
}

// String names the store without anything secret.
func (s *Store) String() string { return "valkey(" + strings.Join(s.cfg.Addrs, ",") + ")" }
