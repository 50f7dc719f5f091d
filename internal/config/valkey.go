package config

import (
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/flowfabric/flowfabric/backend/valkey"
)

// Valkey is the connection settings of a Valkey store. What the URL of
// FF_BACKEND says as well must not contradict them.
type Valkey struct {
	Host  string
	Port  int
	Addrs []string
	DB    int

	TLS                                   bool
	CAFile, CertFile, KeyFile, ServerName string
	SkipVerify                            bool

	Cluster                        bool
	Username, Password             string
	Durability                     valkey.Durability
	ConnectTimeout, RequestTimeout time.Duration
	AllowRedis                     bool
	AllowLibraryUpgrade            bool
	ForceLibraryReload             bool
}

// valkeyRows are the settings of a Valkey store. (Specification 07, section 12.)
func valkeyRows() []Setting {
	text := func(name, doc string, kind Kind, field func(*Valkey) *string) Setting {
		return Setting{Name: name, Kind: kind, Group: groupValkey, Doc: doc,
			set: func(c *Config, s string) error { *field(&c.Valkey) = s; return nil }}
	}
	flag := func(name, doc string, field func(*Valkey) *bool) Setting {
		return Setting{Name: name, Default: "false", Kind: KindBool, Group: groupValkey, Doc: doc,
			set: boolTo(func(c *Config) *bool { return field(&c.Valkey) })}
	}
	password := text("VALKEY_PASSWORD", "password; a file is read again at every reconnect", KindString, func(v *Valkey) *string { return &v.Password })
	password.Secret = true
	return []Setting{
		{Name: "VALKEY_HOST", Default: "localhost", Kind: KindString, Group: groupValkey, emptyRefused: true,
			Doc: "host of the Valkey store, for backend valkey",
			set: func(c *Config, s string) error { c.Valkey.Host = s; return nil }},
		{Name: "VALKEY_PORT", Default: "6379", Kind: KindInt, Group: groupValkey,
			Doc: "port of the Valkey store",
			set: intTo(func(c *Config) *int { return &c.Valkey.Port }, 1, 65535)},
		{Name: "VALKEY_ADDRS", Kind: KindList, Group: groupValkey,
			Doc: "some nodes of a cluster to begin with, host:port; in place of host and port",
			set: setValkeyAddrs},
		flag("VALKEY_CLUSTER", "the store is a cluster", func(v *Valkey) *bool { return &v.Cluster }),
		text("VALKEY_USERNAME", "user of the store's ACL", KindString, func(v *Valkey) *string { return &v.Username }),
		password,
		flag("VALKEY_TLS", "connect with TLS, 1.2 or later", func(v *Valkey) *bool { return &v.TLS }),
		text("VALKEY_CA_FILE", "authorities of the store's certificate, PEM; unset: the system's", KindPath, func(v *Valkey) *string { return &v.CAFile }),
		text("VALKEY_CERT_FILE", "client certificate, PEM", KindPath, func(v *Valkey) *string { return &v.CertFile }),
		text("VALKEY_KEY_FILE", "key of the client certificate, PEM", KindPath, func(v *Valkey) *string { return &v.KeyFile }),
		text("VALKEY_SERVER_NAME", "name the store's certificate must have; unset: the host's", KindString, func(v *Valkey) *string { return &v.ServerName }),
		flag("VALKEY_INSECURE_SKIP_VERIFY", "accept any certificate of the store", func(v *Valkey) *bool { return &v.SkipVerify }),
		{Name: "VALKEY_DB", Default: "0", Kind: KindInt, Group: groupValkey,
			Doc: "database; only 0 is served",
			set: intTo(func(c *Config) *int { return &c.Valkey.DB }, 0, 0)},
		{Name: "VALKEY_CONNECT_TIMEOUT", Default: "5s", Kind: KindDuration, Group: groupValkey,
			Doc: "bound of one attempt to connect",
			set: durationTo(func(c *Config) *time.Duration { return &c.Valkey.ConnectTimeout }, 10*time.Millisecond, 5*time.Minute)},
		{Name: "VALKEY_REQUEST_TIMEOUT", Default: "5s", Kind: KindDuration, Group: groupValkey,
			Doc: "how long a connection may stay without an answer",
			set: durationTo(func(c *Config) *time.Duration { return &c.Valkey.RequestTimeout }, 100*time.Millisecond, 5*time.Minute)},
		{Name: "VALKEY_DURABILITY", Default: "async", Kind: KindString, Group: groupValkey, emptyRefused: true,
			Doc: "what an acknowledged write has reached: async, replicated:N[:TIMEOUT] or fsync[:N[:TIMEOUT]]",
			set: func(c *Config, s string) (err error) {
				if c.Valkey.Durability, err = valkey.ParseDurability(s); err != nil {
					return badValue("must be async, replicated:N[:TIMEOUT] or fsync[:N[:TIMEOUT]]")
				}
				return nil
			}},
		flag("ALLOW_REDIS", "accept Redis 7.2 or later, which is not tested", func(v *Valkey) *bool { return &v.AllowRedis }),
		flag("VALKEY_ALLOW_LIBRARY_UPGRADE", "replace a function library of an older ABI; older servers and workers then fail",
			func(v *Valkey) *bool { return &v.AllowLibraryUpgrade }),
		flag("VALKEY_FORCE_LIBRARY_RELOAD", "replace a function library of the same revision; for development",
			func(v *Valkey) *bool { return &v.ForceLibraryReload }),
	}
}

func setValkeyAddrs(c *Config, s string) error {
	c.Valkey.Addrs = splitList(s)
	for _, a := range c.Valkey.Addrs {
		host, port, err := net.SplitHostPort(a)
		if n, e := strconv.Atoi(port); err != nil || host == "" || e != nil || n < 1 || n > 65535 {
			return badValue("%q is not host:port", a)
		}
	}
	return nil
}

// StoreConfig returns where and how to open the Valkey store that Backend names:
// what its URL says, completed by the settings.
func (c *Config) StoreConfig() (valkey.Config, error) {
	v := &c.Valkey
	var cfg valkey.Config
	if c.Backend.URL != "" {
		var err error
		if cfg, err = valkey.Parse(c.Backend.URL); err != nil {
			return cfg, &Refusal{Variable: "FF_BACKEND", Value: c.Backend.String(), Reason: err.Error()}
		}
	}
	if err := c.settleAddrs(&cfg); err != nil {
		return cfg, err
	}
	for _, t := range []struct {
		name  string
		value string
		to    *string
	}{{"FF_VALKEY_USERNAME", v.Username, &cfg.Username}, {"FF_VALKEY_PASSWORD", v.Password, &cfg.Password}} {
		if !c.Given(t.name) {
			continue
		}
		if *t.to != "" && *t.to != t.value {
			return cfg, c.contradicts(t.name)
		}
		*t.to = t.value
	}
	if file := c.given["FF_VALKEY_PASSWORD"].file; file != "" { // read again at every reconnect
		cfg.Password, cfg.PasswordFile = "", file
	}
	for _, b := range []struct {
		name  string
		value bool
		to    *bool
	}{
		{"FF_VALKEY_CLUSTER", v.Cluster, &cfg.Cluster}, {"FF_ALLOW_REDIS", v.AllowRedis, &cfg.AllowRedis},
		{"FF_VALKEY_ALLOW_LIBRARY_UPGRADE", v.AllowLibraryUpgrade, &cfg.AllowLibraryUpgrade},
		{"FF_VALKEY_FORCE_LIBRARY_RELOAD", v.ForceLibraryReload, &cfg.ForceLibraryReload},
	} {
		if c.Given(b.name) && !b.value && *b.to {
			return cfg, c.contradicts(b.name)
		}
		*b.to = *b.to || b.value
	}
	if err := c.settleTLS(&cfg); err != nil {
		return cfg, err
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = v.ConnectTimeout
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = v.RequestTimeout
	}
	if cfg.Durability.Mode == "" {
		cfg.Durability = v.Durability
	} else if c.Given("FF_VALKEY_DURABILITY") && cfg.Durability != v.Durability {
		return cfg, c.contradicts("FF_VALKEY_DURABILITY")
	}
	cfg.StrictLanes, cfg.Lanes, cfg.PartitionConfig = c.StrictLanes, c.Lanes, c.Partitions
	if c.Given("FF_FEEDS") {
		cfg.Feeds = c.Feeds
	}
	if err := cfg.Validate(); err != nil {
		return cfg, &Refusal{Variable: "FF_BACKEND", Value: c.Backend.String(), Reason: err.Error()}
	}
	return cfg, nil
}

func (c *Config) contradicts(variable string) error {
	return &Refusal{Variable: variable, Reason: "contradicts FF_BACKEND=" + strconv.Quote(c.Backend.String())}
}

// settleAddrs brings the addresses of the URL and of the settings together.
func (c *Config) settleAddrs(cfg *valkey.Config) error {
	v := &c.Valkey
	single := net.JoinHostPort(v.Host, strconv.Itoa(v.Port))
	if len(v.Addrs) > 0 && (c.Given("FF_VALKEY_HOST") || c.Given("FF_VALKEY_PORT")) && !slices.Contains(v.Addrs, single) {
		return &Refusal{Variable: "FF_VALKEY_ADDRS", Reason: "contradicts FF_VALKEY_HOST and FF_VALKEY_PORT; give one of them"}
	}
	if len(cfg.Addrs) == 0 {
		cfg.Addrs = v.Addrs
		if len(cfg.Addrs) == 0 {
			cfg.Addrs = []string{single}
		}
		return nil
	}
	if len(v.Addrs) > 0 && !slices.Equal(v.Addrs, cfg.Addrs) {
		return c.contradicts("FF_VALKEY_ADDRS")
	}
	for _, part := range []struct {
		name, value string
		of          func(host, port string) string
	}{
		{"FF_VALKEY_HOST", v.Host, func(host, _ string) string { return host }},
		{"FF_VALKEY_PORT", strconv.Itoa(v.Port), func(_, port string) string { return port }},
	} {
		if c.Given(part.name) && !slices.ContainsFunc(cfg.Addrs, func(a string) bool {
			host, port, _ := net.SplitHostPort(a)
			return part.of(host, port) == part.value
		}) {
			return c.contradicts(part.name)
		}
	}
	return nil
}

// settleTLS completes the URL's TLS by the settings.
func (c *Config) settleTLS(cfg *valkey.Config) error {
	v := &c.Valkey
	if c.Given("FF_VALKEY_TLS") && !v.TLS && cfg.TLS != nil {
		return c.contradicts("FF_VALKEY_TLS")
	}
	details := v.CAFile != "" || v.CertFile != "" || v.KeyFile != "" || v.ServerName != "" || v.SkipVerify
	if cfg.TLS == nil {
		if !v.TLS {
			if details {
				return &Refusal{Variable: "FF_VALKEY_TLS", Value: "false", Reason: "is off, but other settings of it are given"}
			}
			return nil
		}
		cfg.TLS = &valkey.TLS{}
	}
	for _, t := range []struct {
		name, value string
		to          *string
	}{
		{"FF_VALKEY_CA_FILE", v.CAFile, &cfg.TLS.CAFile}, {"FF_VALKEY_CERT_FILE", v.CertFile, &cfg.TLS.CertFile},
		{"FF_VALKEY_KEY_FILE", v.KeyFile, &cfg.TLS.KeyFile}, {"FF_VALKEY_SERVER_NAME", v.ServerName, &cfg.TLS.ServerName},
	} {
		if t.value == "" {
			continue
		}
		if *t.to != "" && *t.to != t.value {
			return c.contradicts(t.name)
		}
		*t.to = t.value
	}
	cfg.TLS.SkipVerify = cfg.TLS.SkipVerify || v.SkipVerify
	return nil
}
