package valkey

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
)

// Back-off between attempts to connect to one address.
const (
	firstRedial = 50 * time.Millisecond
	lastRedial  = 5 * time.Second
)

// What a store must be at least. (Specification 07, section 12.)
const (
	minMajor, minMinor = 7, 2
	minListpack        = 64
)

// bufferSize is that of the read and of the write buffer of a connection.
const bufferSize = 128 << 10

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return flowfabric.InvalidInput("addrs", "%q is not host:port", addr)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return flowfabric.InvalidInput("addrs", "%q: the port is not 1..65535", addr)
	}
	return nil
}

func (c *Config) checkTLS() error {
	if c.TLS == nil {
		return nil
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		return flowfabric.InvalidInput("cert_file", "and key_file belong together; give both or neither")
	}
	_, err := c.TLS.config()
	return err
}

// config makes the client's TLS configuration.
func (t *TLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.SkipVerify}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, flowfabric.InvalidInput("ca_file", "%v", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, flowfabric.InvalidInput("ca_file", "%s holds no certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, flowfabric.InvalidInput("cert_file", "%v", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// connector makes clients for single nodes.
type connector struct {
	cfg  *Config
	tls  *tls.Config
	dial *dialer
}

func newConnector(cfg *Config) (*connector, error) {
	c := &connector{cfg: cfg, dial: &dialer{timeout: cfg.ConnectTimeout, byAddr: make(map[string]*redial)}}
	if cfg.TLS != nil {
		var err error
		if c.tls, err = cfg.TLS.config(); err != nil {
			return nil, err
		}
		if cfg.TLS.SkipVerify {
			cfg.Logger.Warn("the certificates of the store are not verified; anybody in between can read and change everything")
		}
	}
	return c, nil
}

// client connects to one node. With an error the client, when there is one,
// connects again by itself.
func (c *connector) client(addr string) (vk.Client, error) {
	pingGap := c.cfg.RequestTimeout / 5
	return vk.NewClient(vk.ClientOption{
		InitAddress:         []string{addr},
		ForceSingleClient:   true,
		TLSConfig:           c.tls,
		DialCtxFn:           c.dial.dial,
		Dialer:              net.Dialer{Timeout: c.cfg.ConnectTimeout, KeepAlive: pingGap},
		ConnWriteTimeout:    c.cfg.RequestTimeout - pingGap,
		AuthCredentialsFn:   c.credentials,
		ClientName:          c.cfg.ClientName,
		PipelineMultiplex:   1, // two to the power of 1 connections
		AlwaysPipelining:    true,
		BlockingPoolCleanup: time.Minute,
		BlockingPoolMinSize: 1,
		BlockingPoolSize:    256,
		ReadBufferEachConn:  bufferSize,
		WriteBufferEachConn: bufferSize,
		DisableRetry:        true, // call.go knows what may be repeated
		DisableCache:        true,
	})
}

// credentials gives the user and password; the file is read at every call, which
// is at every connecting.
func (c *connector) credentials(vk.AuthCredentialsContext) (vk.AuthCredentials, error) {
	a := vk.AuthCredentials{Username: c.cfg.Username, Password: c.cfg.Password}
	if c.cfg.PasswordFile == "" {
		return a, nil
	}
	raw, err := os.ReadFile(c.cfg.PasswordFile)
	if err != nil {
		return a, flowfabric.NewError(flowfabric.CodeStoreFault, "the password file can't be read").Wrap(err).WithKind("auth")
	}
	a.Password = strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	return a, nil
}

// dialError says that no connection was made, and so nothing was sent.
type dialError struct{ cause error }

func (e *dialError) Error() string { return e.cause.Error() }
func (e *dialError) Unwrap() error { return e.cause }

// dialer connects, and leaves growing pauses between attempts that fail: within
// one, the last error is given at once.
type dialer struct {
	timeout time.Duration
	mu      sync.Mutex
	byAddr  map[string]*redial
}

type redial struct {
	failures int
	next     time.Time
	last     error
}

func (d *dialer) dial(ctx context.Context, addr string, nd *net.Dialer, t *tls.Config) (net.Conn, error) {
	if err := d.paused(addr); err != nil {
		return nil, &dialError{err}
	}
	// The caller's context may end while others wait for this connection too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.timeout)
	defer cancel()
	var conn net.Conn
	var err error
	if t != nil {
		conn, err = (&tls.Dialer{NetDialer: nd, Config: t}).DialContext(ctx, "tcp", addr)
	} else {
		conn, err = nd.DialContext(ctx, "tcp", addr)
	}
	d.note(addr, err)
	if err != nil {
		return nil, &dialError{err}
	}
	return conn, nil
}

func (d *dialer) paused(addr string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.byAddr[addr]; r != nil && time.Now().Before(r.next) {
		return r.last
	}
	return nil
}

func (d *dialer) note(addr string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		delete(d.byAddr, addr)
		return
	}
	r := d.byAddr[addr]
	if r == nil {
		r = &redial{}
		d.byAddr[addr] = r
	}
	pause := min(lastRedial, firstRedial<<min(r.failures, 7))
	r.failures++
	r.last = err
	r.next = time.Now().Add(pause - pause/5 + rand.N(2*pause/5+1))
}

// nodeInfo is what INFO tells of a node.
type nodeInfo struct {
	addr   string
	fields map[string]string
}

func parseInfo(addr, text string) nodeInfo {
	info := nodeInfo{addr: addr, fields: make(map[string]string, 200)}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			info.fields[name] = value
		}
	}
	return info
}

func (i *nodeInfo) cluster() bool { return i.fields["cluster_enabled"] == "1" }

// version returns the store's version. Valkey tells its own; before 8.0 it gave
// only the one of Redis that it is compatible with, beside its name. A Redis is
// valkey == false.
func (i *nodeInfo) version() (text string, valkey bool) {
	if v := i.fields["valkey_version"]; v != "" {
		return v, true
	}
	return i.fields["redis_version"], strings.EqualFold(i.fields["server_name"], "valkey")
}

// checkVersion refuses what is too old or no Valkey.
func (i *nodeInfo) checkVersion(allowRedis bool) error {
	text, valkey := i.version()
	if !valkey && text != "" && !allowRedis {
		return flowfabric.NewError(flowfabric.CodeUnsupportedStore, "%s is Redis %s; Valkey is needed (FF_ALLOW_REDIS=1 accepts Redis >= 7.2 untested)", i.addr, text).
			With("found", text)
	}
	major, rest, _ := strings.Cut(text, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	if errA != nil || errB != nil {
		return flowfabric.NewError(flowfabric.CodeStoreVersionUnreadable, "%s tells the version %q, which has no numeric major and minor", i.addr, text).
			With("found", text)
	}
	if a < minMajor || a == minMajor && b < minMinor {
		return flowfabric.NewError(flowfabric.CodeStoreVersionTooLow, "%s has version %s, %d.%d is required", i.addr, text, minMajor, minMinor).
			With("found", text).With("required", strconv.Itoa(minMajor)+"."+strconv.Itoa(minMinor))
	}
	return nil
}

// info asks a node about itself.
func (s *Store) info(ctx context.Context, addr string, client vk.Client) (nodeInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	text, err := client.Do(ctx, client.B().Info().Build()).ToString()
	if err != nil {
		_, e := react(fault{err: err}, true)
		return nodeInfo{}, e
	}
	return parseInfo(addr, text), nil
}

// connect finds a node, checks the mode, and reads the map of a cluster.
func (s *Store) connect(ctx context.Context) error {
	c, err := newConnector(&s.cfg)
	if err != nil {
		return err
	}
	info, err := s.firstInfo(ctx, c)
	if err != nil {
		return err
	}
	if info.cluster() != s.cfg.Cluster {
		is, want := "a cluster node", "cluster is not set"
		if s.cfg.Cluster {
			is, want = "no cluster node", "cluster is set"
		}
		return flowfabric.NewError(flowfabric.CodeStoreModeMismatch, "%s is %s, but %s", info.addr, is, want)
	}
	s.nodes = nodes{cluster: s.cfg.Cluster, seeds: s.cfg.Addrs, connect: c.client, timeout: s.cfg.RequestTimeout}
	if err := s.nodes.start(ctx); err != nil {
		_, e := react(fault{err: err}, true)
		return e
	}
	s.b = s.nodes.primaries()[0].client.B()
	return nil
}

// firstInfo asks one address after the other.
func (s *Store) firstInfo(ctx context.Context, c *connector) (info nodeInfo, err error) {
	for _, addr := range s.cfg.Addrs {
		client, e := c.client(addr)
		if e == nil {
			info, e = s.info(ctx, addr, client)
		} else {
			e = openError(addr, e)
		}
		if client != nil {
			client.Close()
		}
		if e == nil {
			return info, nil
		}
		err = e
	}
	return info, err
}

// openError turns the error of a first connecting into one of the table.
func openError(addr string, err error) error {
	_, e := react(fault{err: err}, true)
	if e.Code == flowfabric.CodeStoreUnavailable {
		return flowfabric.NewError(e.Code, "%s is not reachable", addr).WithKind(e.Kind).Wrap(err)
	}
	return e
}

// permanent reports that waiting does not help: everything but a store that is
// not there, or not there yet.
func permanent(err error) bool {
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	if errors.As(err, &cert) || errors.As(err, &record) {
		return true
	}
	e := flowfabric.AsError(err)
	return e == nil || e.Class != flowfabric.ClassRetryableTransport
}

// checkNodes looks at every node, replicas too; the lowest version counts.
func (s *Store) checkNodes(ctx context.Context) error {
	infos, err := s.allInfos(ctx)
	if err != nil {
		return err
	}
	s.supported = true
	for _, i := range infos {
		if err := i.checkVersion(s.cfg.AllowRedis); err != nil {
			return err
		}
		text, valkey := i.version()
		s.supported = s.supported && valkey
		if s.version == "" || lowerVersion(text, s.version) {
			s.version = text
		}
	}
	if !s.supported {
		s.log.Warn("the store is Redis, on which FlowFabric is not tested", "version", s.version)
	}
	return s.everyNode(ctx, s.checkSettings)
}

// lowerVersion compares dotted numbers.
func lowerVersion(a, b string) bool {
	number := func(p string) int {
		n, _ := strconv.Atoi(p)
		return n
	}
	return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), func(x, y string) int { return number(x) - number(y) }) < 0
}

// allInfos asks all nodes that answer about themselves, primaries first.
func (s *Store) allInfos(ctx context.Context) ([]nodeInfo, error) {
	var infos []nodeInfo
	var failed error
	for _, n := range s.nodes.primaries() {
		i, err := s.info(ctx, n.addr, n.client)
		if err != nil {
			failed = err
			continue
		}
		infos = append(infos, i)
	}
	if t := s.nodes.table.Load(); t != nil {
		for _, addr := range t.replicas {
			client, err := s.nodes.connect(addr)
			if err == nil {
				var i nodeInfo
				if i, err = s.info(ctx, addr, client); err == nil {
					infos = append(infos, i)
				}
			}
			if client != nil {
				client.Close()
			}
		}
	}
	if len(infos) > 0 {
		return infos, nil
	}
	if failed != nil && permanent(failed) {
		return nil, failed
	}
	return nil, flowfabric.NewError(flowfabric.CodeStoreVersionUnreadable, "no node tells its version").Wrap(failed)
}

// checkSettings refuses a primary that evicts, or that would keep the records
// in another encoding. What can't be read is only warned about.
func (s *Store) checkSettings(ctx context.Context, n *node) error {
	info, err := s.info(ctx, n.addr, n.client)
	if err != nil {
		return err
	}
	if policy := info.fields["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		return misconfigured(n.addr, "maxmemory-policy", policy, "noeviction")
	}
	if s.cfg.Durability.Mode == DurabilityFsync && info.fields["aof_enabled"] == "0" {
		return misconfigured(n.addr, "appendonly", "no", "yes, for durability fsync")
	}
	if s.cfg.Durability.Mode == DurabilityReplicated {
		if have, err := strconv.Atoi(info.fields["connected_slaves"]); err == nil && have < s.cfg.Durability.Replicas {
			s.log.Warn("too few replicas for the durability asked for", "node", n.addr, "replicas", have, "wanted", s.cfg.Durability.Replicas)
		}
	}
	settings, err := s.settings(ctx, n, "maxmemory-policy", "hash-max-listpack-entries", "hash-max-listpack-value")
	if err != nil {
		s.log.Warn("the store's settings can't be read; maxmemory-policy must be noeviction, hash-max-listpack-entries and -value at least 64",
			"node", n.addr, "error", err)
		return nil
	}
	if policy := settings["maxmemory-policy"]; policy != "" && policy != "noeviction" {
		return misconfigured(n.addr, "maxmemory-policy", policy, "noeviction")
	}
	for _, name := range []string{"hash-max-listpack-entries", "hash-max-listpack-value"} {
		if v, err := strconv.Atoi(settings[name]); err == nil && v < minListpack {
			return misconfigured(n.addr, name, settings[name], "at least "+strconv.Itoa(minListpack))
		}
	}
	return nil
}

func (s *Store) settings(ctx context.Context, n *node, names ...string) (map[string]string, error) {
	return n.client.Do(ctx, n.client.B().ConfigGet().Parameter(names...).Build()).AsStrMap()
}

func misconfigured(addr, setting, found, needed string) error {
	return flowfabric.NewError(flowfabric.CodeStoreMisconfigured, "%s has %s %s; it must be %s", addr, setting, found, needed).
		With("setting", setting).With("found", found).With("required", needed)
}

// UsedMemory returns how many bytes all primaries together occupy, -1 where one
// does not tell.
func (s *Store) UsedMemory(ctx context.Context) (int64, error) {
	var total int64
	for _, n := range s.nodes.primaries() {
		info, err := s.info(ctx, n.addr, n.client)
		if err != nil {
			return 0, err
		}
		used, err := strconv.ParseInt(info.fields["used_memory"], 10, 64)
		if err != nil {
			return -1, nil // it does not tell
		}
		total += used
	}
	return total, nil
}
