// Package config is the settings of the flowfabric program: one table that
// declares each setting once, read from flags, the environment, a YAML file and
// defaults, in that order of precedence. Everything that can be refused before a
// port is opened is refused here, in one line that names the variable and the
// offending value. (Specification 08, sections 3 and 6.1.)
package config

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Config holds the effective settings of a server. Every field belongs to one
// row of the table in settings.go, which gives its variable, default and
// meaning.
type Config struct {
	// Backend is the store to open.
	Backend Place
	// DataDir is the directory of the embedded store and of generated secrets.
	// It is empty for a store that keeps nothing on disk.
	DataDir string
	// Valkey is how to reach a Valkey store; see StoreConfig.
	Valkey Valkey
	// EmbeddedPoolSize is the number of connections of the embedded store, 2..1000:
	// one writer, the rest readers.
	EmbeddedPoolSize int
	// Feeds are the feeds written besides completions.
	Feeds []flowfabric.Feed
	// Partitions holds the configured counts; a zero count is "auto": what the
	// store has, or the default on an empty store.
	Partitions flowfabric.PartitionConfig
	// Lanes are declared at start.
	Lanes []flowfabric.LaneID
	// StrictLanes refuses lanes that nobody declared.
	StrictLanes bool

	// ListenAddr is the API listener, host:port.
	ListenAddr string
	// MetricsAddr moves /metrics to a listener of its own when set.
	MetricsAddr string
	// MetricsAuth demands a token with scope read for /metrics.
	MetricsAuth bool
	// Callbacks serves the callback route, at CallbackAddr, a listener of its own,
	// when that is set, else at the API listener.
	Callbacks    bool
	CallbackAddr string
	// CallbackCORS admits browsers of other sites to the callback route.
	CallbackCORS bool
	// CallbackRateLimit is callbacks per second per address; 0 is off.
	CallbackRateLimit int
	// TLSCertFile and TLSKeyFile switch HTTPS on; TLSClientCAFile mutual TLS.
	TLSCertFile, TLSKeyFile, TLSClientCAFile string

	// APIToken is the one shared token with every scope; empty is none.
	APIToken string
	// APITokensFile names the file of named tokens.
	APITokensFile string
	// AllowUnauthenticated permits a public listener without authentication.
	AllowUnauthenticated bool
	// CORSOrigins lists the admitted origins; nil is CORS off, "*" alone is all.
	CORSOrigins []string
	// TrustedProxies are the networks whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// RateLimit is requests per second per token or address; 0 is off.
	RateLimit int
	// MaxFeedSubscriptions and MaxWaits bound the pools of waiting clients.
	MaxFeedSubscriptions, MaxWaits int

	// WaitpointSecret is the configured secret as hexadecimal digits; empty when
	// the server is to use, or generate, the secret file.
	WaitpointSecret string
	// WaitpointKID names the key; WaitpointGrace is how long a rotated key still
	// verifies.
	WaitpointKID   string
	WaitpointGrace time.Duration

	// Scanners runs the background duties in this process.
	Scanners bool
	// Intervals holds the duties' intervals by the duties' names, lower snake
	// case.
	Intervals map[string]time.Duration

	// ShutdownDelay is how long the server still serves after readiness ended;
	// ShutdownTimeout bounds the whole shutdown.
	ShutdownDelay, ShutdownTimeout time.Duration

	// Log says what is logged and how.
	Log Log

	given map[string]source // what was set, and where
}

// Log is the logging part of the settings.
type Log struct {
	// Level holds for every component that Components does not name.
	Level      slog.Level
	Components map[string]slog.Level
	// Format is json or text; empty is text on a terminal and json elsewhere.
	Format string
}

// Authenticated reports whether callers need a token.
func (c *Config) Authenticated() bool { return c.APIToken != "" || c.APITokensFile != "" }

// Given reports whether the setting, by its variable's name, was set by a flag,
// the environment or the file rather than left at its default.
func (c *Config) Given(variable string) bool {
	_, ok := c.given[variable]
	return ok
}

// String names the settings without their values, so that a stray %v shows no
// secret.
func (c *Config) String() string { return "config(" + c.Backend.String() + ")" }
