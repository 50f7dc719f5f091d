package config

import (
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Prefix begins the name of every environment variable of the program.
const Prefix = "FF_"

// Kind says what text a setting takes; it is shown to people.
type Kind string

// The kinds of settings.
const (
	KindString   Kind = "text"
	KindBool     Kind = "bool"
	KindInt      Kind = "int"
	KindDuration Kind = "duration"
	KindList     Kind = "list"
	KindAddr     Kind = "host:port"
	KindPath     Kind = "path"
)

// Setting is one row of the table: everything that is to be known about a
// setting is said here once.
type Setting struct {
	// Name is the variable's name without FF_, for example LISTEN_ADDR.
	Name string
	// Default is the text that holds when nothing is given; empty is "unset".
	Default string
	Kind    Kind
	// Group is the heading people find the setting under.
	Group string
	Doc   string
	// Secret settings are redacted wherever they are shown, and may be read from
	// a file by <name>_FILE.
	Secret bool
	// emptyRefused refuses a value that is set but empty; for the others an
	// empty value means "unset" where the default is unset.
	emptyRefused bool
	// emptyGiven passes an empty value on to set.
	emptyGiven bool

	set func(*Config, string) error
}

// Variable returns the name of the environment variable: FF_LISTEN_ADDR.
func (s Setting) Variable() string { return Prefix + s.Name }

// Flag returns the name of the flag, without dashes before it: listen-addr.
func (s Setting) Flag() string { return strings.ReplaceAll(strings.ToLower(s.Name), "_", "-") }

// Key returns the name in a configuration file: listen_addr.
func (s Setting) Key() string { return strings.ToLower(s.Name) }

// The groups of settings, in the order people see them.
const (
	groupStore   = "Store"
	groupValkey  = "Valkey"
	groupHTTP    = "HTTP"
	groupAuth    = "Authentication"
	groupSecrets = "Waitpoint secret"
	groupDuties  = "Background duties"
	groupProcess = "Process"
)

// Settings returns the table, in order.
func Settings() []Setting { return table() }

// Duties lists the background duties whose interval can be set, with their
// defaults. (Specification 08, section 6.1.)
func Duties() map[string]time.Duration {
	m := make(map[string]time.Duration, len(duties))
	for _, d := range duties {
		m[strings.ToLower(d.name)] = d.interval
	}
	return m
}

type duty struct {
	name     string
	interval time.Duration
	doc      string
}

var duties = []duty{
	{"TICK", 250 * time.Millisecond, "everything on the due order: lease expiry, grant lapse, promotion, time-outs, deadlines, retention"},
	{"ROUTE_LABELS", 5 * time.Second, "labels on work that no live worker covers"},
	{"LANE_SWEEP", 5 * time.Second, "executions of disabled lanes"},
	{"WORKER_REGISTRY_SWEEP", 30 * time.Second, "registrations past their TTL"},
	{"INDEX_RECONCILER", 45 * time.Second, "index repair"},
	{"FEED_TRIMMER", 60 * time.Second, "retention of the event feeds"},
}

// Bounds of the duties' intervals.
const (
	minInterval = 50 * time.Millisecond
	maxInterval = time.Hour
)

const maxGrace = 30 * 24 * time.Hour

func table() []Setting {
	rows := []Setting{
		{Name: "BACKEND", Default: "embedded", Kind: KindString, Group: groupStore, emptyRefused: true,
			Doc: "store: embedded, memory, valkey, or a URL: sqlite:FILE, memory:, valkey://[USER:PASSWORD@]HOST:PORT",
			set: func(c *Config, s string) (err error) { c.Backend, err = ParsePlace(s); return }},
		{Name: "DATA_DIR", Default: "./flowfabric-data", Kind: KindPath, Group: groupStore, emptyRefused: true,
			Doc: "directory of the embedded store and of generated secrets; created 0700, owned by one process",
			set: func(c *Config, s string) error { c.DataDir = s; return nil }},
		{Name: "EMBEDDED_POOL_SIZE", Default: "4", Kind: KindInt, Group: groupStore,
			Doc: "connections of the embedded store, 2..1000: one writer, the rest readers",
			set: intTo(func(c *Config) *int { return &c.EmbeddedPoolSize }, 2, 1000)},
		{Name: "FEEDS", Default: "leases,signals,tags", Kind: KindList, Group: groupStore, emptyGiven: true,
			Doc: "feeds written besides completions, which is always on; may be empty",
			set: setFeeds},
		{Name: "FLOW_PARTITIONS", Default: "auto", Kind: KindInt, Group: groupStore,
			Doc: "flow partitions, 1..65535; fixed at the first start (auto: the store's, 256 on an empty one)",
			set: countTo(func(c *Config) *int { return &c.Partitions.NumFlowPartitions })},
		{Name: "BUDGET_PARTITIONS", Default: "auto", Kind: KindInt, Group: groupStore,
			Doc: "budget partitions, 1..65535; fixed at the first start (auto: the store's, 32 on an empty one)",
			set: countTo(func(c *Config) *int { return &c.Partitions.NumBudgetPartitions })},
		{Name: "QUOTA_PARTITIONS", Default: "auto", Kind: KindInt, Group: groupStore,
			Doc: "quota partitions, 1..65535; fixed at the first start (auto: the store's, 32 on an empty one)",
			set: countTo(func(c *Config) *int { return &c.Partitions.NumQuotaPartitions })},
		{Name: "LANES", Default: "default", Kind: KindList, Group: groupStore, emptyRefused: true,
			Doc: "lanes declared at start; lanes first seen on submission are served too",
			set: setLanes},
		{Name: "STRICT_LANES", Default: "false", Kind: KindBool, Group: groupStore,
			Doc: "refuse lanes that nobody declared",
			set: boolTo(func(c *Config) *bool { return &c.StrictLanes })},
	}
	rows = append(rows, valkeyRows()...)
	rows = append(rows, []Setting{
		{Name: "LISTEN_ADDR", Default: "127.0.0.1:9090", Kind: KindAddr, Group: groupHTTP, emptyRefused: true,
			Doc: "API listener",
			set: addrTo(func(c *Config) *string { return &c.ListenAddr })},
		{Name: "METRICS_ADDR", Kind: KindAddr, Group: groupHTTP,
			Doc: "own listener for /metrics",
			set: addrTo(func(c *Config) *string { return &c.MetricsAddr })},
		{Name: "METRICS_AUTH", Default: "false", Kind: KindBool, Group: groupHTTP,
			Doc: "demand a token with scope read for /metrics",
			set: boolTo(func(c *Config) *bool { return &c.MetricsAuth })},
		{Name: "CALLBACKS", Default: "true", Kind: KindBool, Group: groupHTTP,
			Doc: "serve the callback route, which takes signals from outside by the waitpoint's token alone",
			set: boolTo(func(c *Config) *bool { return &c.Callbacks })},
		{Name: "CALLBACK_ADDR", Kind: KindAddr, Group: groupHTTP,
			Doc: "own listener for callbacks, which serves nothing else; unset: the API listener",
			set: addrTo(func(c *Config) *string { return &c.CallbackAddr })},
		{Name: "CALLBACK_CORS", Default: "false", Kind: KindBool, Group: groupHTTP,
			Doc: "send CORS headers on the callback route",
			set: boolTo(func(c *Config) *bool { return &c.CallbackCORS })},
		{Name: "CALLBACK_RATE_LIMIT", Default: "10", Kind: KindInt, Group: groupHTTP,
			Doc: "callbacks per second per address; 0 is off",
			set: intTo(func(c *Config) *int { return &c.CallbackRateLimit }, 0, 1_000_000)},
		{Name: "TLS_CERT_FILE", Kind: KindPath, Group: groupHTTP,
			Doc: "certificate for HTTPS, PEM; reloaded on SIGHUP",
			set: func(c *Config, s string) error { c.TLSCertFile = s; return nil }},
		{Name: "TLS_KEY_FILE", Kind: KindPath, Group: groupHTTP,
			Doc: "key of the certificate, PEM",
			set: func(c *Config, s string) error { c.TLSKeyFile = s; return nil }},
		{Name: "TLS_CLIENT_CA_FILE", Kind: KindPath, Group: groupHTTP,
			Doc: "authorities of client certificates, PEM; turns on mutual TLS",
			set: func(c *Config, s string) error { c.TLSClientCAFile = s; return nil }},
		{Name: "CORS_ORIGINS", Kind: KindList, Group: groupHTTP, emptyRefused: true,
			Doc: "origins admitted across sites, scheme://host[:port], or * alone; unset: none",
			set: setOrigins},
		{Name: "TRUSTED_PROXIES", Kind: KindList, Group: groupHTTP,
			Doc: "networks (CIDR) whose X-Forwarded-For is believed",
			set: setProxies},
		{Name: "RATE_LIMIT", Default: "0", Kind: KindInt, Group: groupHTTP,
			Doc: "requests per second per token or address; 0 is off",
			set: intTo(func(c *Config) *int { return &c.RateLimit }, 0, 1_000_000)},
		{Name: "MAX_CONCURRENT_FEED_SUBSCRIPTIONS", Default: "256", Kind: KindInt, Group: groupHTTP,
			Doc: "clients following a feed at once",
			set: intTo(func(c *Config) *int { return &c.MaxFeedSubscriptions }, 1, 1_000_000)},
		{Name: "MAX_CONCURRENT_WAITS", Default: "1024", Kind: KindInt, Group: groupHTTP,
			Doc: "clients waiting for an execution at once",
			set: intTo(func(c *Config) *int { return &c.MaxWaits }, 1, 1_000_000)},

		{Name: "API_TOKEN", Kind: KindString, Group: groupAuth, Secret: true, emptyRefused: true,
			Doc: "one shared token with every scope, at least 16 bytes",
			set: setAPIToken},
		{Name: "API_TOKENS_FILE", Kind: KindPath, Group: groupAuth,
			Doc: "file of named tokens (see: flowfabric token new); re-read on SIGHUP",
			set: func(c *Config, s string) error { c.APITokensFile = s; return nil }},
		{Name: "ALLOW_UNAUTHENTICATED", Default: "false", Kind: KindBool, Group: groupAuth,
			Doc: "permit a listener beyond loopback without authentication",
			set: boolTo(func(c *Config) *bool { return &c.AllowUnauthenticated })},

		{Name: "WAITPOINT_HMAC_SECRET", Kind: KindString, Group: groupSecrets, Secret: true, emptyRefused: true,
			Doc: "64 to 256 hexadecimal digits; unset: <data dir>/waitpoint_secret, generated at the first start; Valkey needs one",
			set: setWaitpointSecret},
		{Name: "WAITPOINT_HMAC_KID", Default: "k1", Kind: KindString, Group: groupSecrets, emptyRefused: true,
			Doc: "name of the key, 1..64 of [A-Za-z0-9._-]",
			set: setWaitpointKID},
		{Name: "WAITPOINT_HMAC_GRACE", Default: "24h", Kind: KindDuration, Group: groupSecrets,
			Doc: "how long a rotated key still verifies, up to 720h",
			set: durationTo(func(c *Config) *time.Duration { return &c.WaitpointGrace }, 0, maxGrace)},

		{Name: "SCANNERS", Default: "true", Kind: KindBool, Group: groupDuties,
			Doc: "run the background duties; false makes an API-only replica",
			set: boolTo(func(c *Config) *bool { return &c.Scanners })},
	}...)
	for _, d := range duties {
		key := strings.ToLower(d.name)
		rows = append(rows, Setting{Name: d.name + "_INTERVAL", Default: d.interval.String(), Kind: KindDuration, Group: groupDuties,
			Doc: "interval of " + key + ", 50ms..1h: " + d.doc,
			set: func(c *Config, s string) error {
				v, err := parseDuration(s, minInterval, maxInterval)
				c.Intervals[key] = v
				return err
			}})
	}
	return append(rows,
		Setting{Name: "SHUTDOWN_DELAY", Default: "0s", Kind: KindDuration, Group: groupProcess,
			Doc: "how long to go on serving after readiness ended",
			set: durationTo(func(c *Config) *time.Duration { return &c.ShutdownDelay }, 0, time.Hour)},
		Setting{Name: "SHUTDOWN_TIMEOUT", Default: "45s", Kind: KindDuration, Group: groupProcess,
			Doc: "bound of the whole shutdown",
			set: durationTo(func(c *Config) *time.Duration { return &c.ShutdownTimeout }, time.Millisecond, time.Hour)},
		Setting{Name: "LOG_LEVEL", Default: "info", Kind: KindString, Group: groupProcess, emptyRefused: true,
			Doc: "debug, info, warn or error; also per component: info,engine=debug",
			set: setLogLevel},
		Setting{Name: "LOG_FORMAT", Kind: KindString, Group: groupProcess,
			Doc: "json or text; unset: text on a terminal, else json",
			set: setLogFormat},
	)
}

func setFeeds(c *Config, s string) error {
	c.Feeds = []flowfabric.Feed{}
	seen := map[string]bool{}
	for _, name := range splitList(s) {
		if seen[name] {
			return badValue("names %q twice", name)
		}
		seen[name] = true
		switch f := flowfabric.Feed(name); f {
		case flowfabric.FeedCompletions: // always on; naming it changes nothing
		case flowfabric.FeedLeases, flowfabric.FeedSignals, flowfabric.FeedTags:
			c.Feeds = append(c.Feeds, f)
		default:
			return badValue("%q is no feed; the feeds are leases, signals, tags", name)
		}
	}
	return nil
}

func setLanes(c *Config, s string) error {
	c.Lanes = nil
	seen := map[string]bool{}
	for _, name := range splitList(s) {
		lane := flowfabric.LaneID(name)
		if err := lane.Validate(); err != nil {
			return badValue("%q is no lane name (1..64 printable ASCII bytes without braces)", name)
		}
		if seen[name] {
			return badValue("names %q twice", name)
		}
		seen[name] = true
		c.Lanes = append(c.Lanes, lane)
	}
	if len(c.Lanes) == 0 {
		return badValue("must name at least one lane")
	}
	return nil
}
