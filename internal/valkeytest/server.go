package valkeytest

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"
)

// Options are what a test may want of its servers.
type Options struct {
	// Args are more directives of the configuration, such as "--appendonly",
	// "yes". They come last and so override the defaults.
	Args []string
	// Dir is where a server keeps its files; a cluster's nodes use directories
	// in it. By default it is temporary.
	Dir string
	// Password is asked of the default user.
	Password string
	// Users are lines of the ACL, such as "alice on >secret ~ff:* +@all". With
	// any of them, the servers' own methods use a user of theirs.
	Users []string
	// TLS makes the servers speak TLS only.
	TLS *TLS
	// NodeTimeout is after how long a cluster takes a node for dead: by default
	// two seconds.
	NodeTimeout time.Duration
}

// The user of this package on servers with an ACL.
const harnessUser, harnessPassword = "valkeytest", "valkeytest-secret"

// login returns the user with every permission. The password is empty when
// none is asked.
func (o Options) login() (user, password string) {
	if len(o.Users) > 0 {
		return harnessUser, harnessPassword
	}
	return "default", o.Password
}

func (o Options) nodeTimeout() time.Duration {
	if o.NodeTimeout > 0 {
		return o.NodeTimeout
	}
	return 2 * time.Second
}

// Server is a Valkey server of a test. Its methods may be called by any of the
// test's goroutines; where one cannot do its work, the test is marked failed
// and goes on.
type Server struct {
	tb testing.TB
	n  *instance
}

// Start starts a server that ends with the test. It is empty, writes nothing to
// disk and evicts nothing, unless the options say otherwise.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	path, dir := Require(tb), o.Dir
	if dir == "" {
		dir = tb.TempDir()
	}
	n, err := launch(path, dir, o, false)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { finish(tb, n) })
	return &Server{tb: tb, n: n}
}

// finish ends servers for good. Those of a failed test show what they logged.
func finish(tb testing.TB, nodes ...*instance) {
	for _, n := range nodes {
		n.discard()
		if text := n.tail(); tb.Failed() && text != "" {
			tb.Logf("server %s logged:\n%s", n.addr(), text)
		}
	}
}

// Addr returns the address of the server, which stays the same when it is
// restarted.
func (s *Server) Addr() string { return s.n.addr() }

// Port returns the port of the server's address.
func (s *Server) Port() int {
	_, port, _ := net.SplitHostPort(s.Addr())
	number, _ := strconv.Atoi(port)
	return number
}

// Running tells whether the server runs and is not paused.
func (s *Server) Running() bool { return s.n.living() }

// Kill ends the server at once, as a crash does.
func (s *Server) Kill() { s.n.kill() }

// Stop lets the server end in order.
func (s *Server) Stop() { s.n.terminate() }

// Restart stops the server in order, unless it is down, and starts it at the
// same address with the same files.
func (s *Server) Restart() {
	s.tb.Helper()
	s.n.terminate()
	if err := s.n.start(); err != nil {
		s.tb.Errorf("restart: %v", err)
	}
}

// Pause stops the server where it is: connections stay, nothing is answered.
func (s *Server) Pause() {
	s.tb.Helper()
	if err := s.n.pause(true); err != nil {
		s.tb.Errorf("pause: %v", err)
	}
}

// Resume lets a paused server go on.
func (s *Server) Resume() {
	s.tb.Helper()
	if err := s.n.pause(false); err != nil {
		s.tb.Errorf("resume: %v", err)
	}
}

// Log returns what the server has logged.
func (s *Server) Log() string { return s.n.log() }

// CLI executes a command on a connection of its own. See [Conn.Do] for what it
// returns.
func (s *Server) CLI(args ...string) (any, error) { return s.n.do(args...) }

// Must executes a command as [Server.CLI] does; the test is marked failed if
// it is not executed.
func (s *Server) Must(args ...string) any {
	s.tb.Helper()
	v, err := s.CLI(args...)
	if err != nil {
		s.tb.Errorf("%.200q: %v", args, err)
	}
	return v
}

// Info returns the fields of a section of INFO.
func (s *Server) Info(section string) map[string]string {
	s.tb.Helper()
	text, _ := s.Must("INFO", section).(string)
	return parseInfo(text)
}

// Dial opens a plain connection that is closed with the test.
func (s *Server) Dial() *Conn {
	s.tb.Helper()
	c, err := s.n.dial()
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { _ = c.Close() })
	return c
}

// ClientOption returns the options of a client that may do everything.
func (s *Server) ClientOption() valkey.ClientOption { return clientOption(s.n) }

// Client returns a client that may do everything and is closed with the test.
func (s *Server) Client() valkey.Client {
	s.tb.Helper()
	return newClient(s.tb, s.ClientOption())
}

func clientOption(nodes ...*instance) valkey.ClientOption {
	var o valkey.ClientOption
	for _, n := range nodes {
		o.InitAddress = append(o.InitAddress, n.addr())
	}
	n := nodes[0]
	if user, password := n.options.login(); password != "" {
		o.Username, o.Password = user, password
	}
	if n.options.TLS != nil {
		o.TLSConfig = n.options.TLS.Config()
	}
	o.ForceSingleClient = !n.cluster
	return o
}

func newClient(tb testing.TB, o valkey.ClientOption) valkey.Client {
	tb.Helper()
	client, err := valkey.NewClient(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(client.Close)
	return client
}

// DialThrough returns a client's dial function that reaches servers by their
// proxies, also those a cluster redirects to. It is what DialCtxFn of
// [valkey.ClientOption] takes.
func DialThrough(proxies ...*Proxy) func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
	return func(ctx context.Context, addr string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
		for _, p := range proxies {
			if p.target == addr {
				addr = p.Addr()
				break
			}
		}
		return d.DialContext(ctx, "tcp", addr)
	}
}
