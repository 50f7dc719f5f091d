package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/valkey"
	"github.com/flowfabric/flowfabric/internal/config"
)

// defaultServer is where commands look for a server.
const defaultServer = "http://127.0.0.1:9090"

// target is what a client command talks to.
type target struct {
	place config.Place
	path  string // the embedded store's file
	// secret and kid are what a server would give a store without a waitpoint key;
	// without them such a store makes its own.
	secret config.Secret
	kid    string
	// valkey is how to reach a Valkey store: as a worker does, which needs a
	// server beside it.
	valkey valkey.Config
	token  string // for a server; empty is none
	// implied tells that nobody named the server; it is the default one.
	implied bool
}

// String names the target for people.
func (t target) String() string {
	switch t.place.Kind {
	case config.PlaceRemote:
		return t.place.URL
	case config.PlaceMemory:
		return "memory"
	case config.PlaceValkey:
		return t.place.String()
	}
	return t.path
}

// target resolves --server, --backend and FF_BACKEND. A bare kind in FF_BACKEND
// ("embedded") tells a server what to open, so commands pass over it; as
// --backend it opens the data directory's store.
func (c *cli) target() (target, error) {
	o := c.options
	text, variable := o.backend, "--backend"
	switch {
	case o.server != "" && o.backend != "" && o.server != o.backend:
		return target{}, usagef("--server %s and --backend %s contradict each other; give one of them", o.server, o.backend)
	case o.server != "":
		base, err := config.ParseServerURL(o.server)
		if err != nil {
			return target{}, usagef("--server %q %s", o.server, err)
		}
		return c.remoteTarget(base)
	case text == "":
		text, variable = c.variable("FF_BACKEND"), "FF_BACKEND"
		if !strings.Contains(text, ":") {
			t, err := c.remoteTarget(defaultServer)
			t.implied = true
			return t, err
		}
	}
	place, err := config.ParsePlace(text)
	if err != nil {
		return target{}, usagef("%s %q %s", variable, place, err)
	}
	switch place.Kind {
	case config.PlaceRemote:
		return c.remoteTarget(place.URL)
	case config.PlaceMemory:
		return target{place: place}, nil
	case config.PlaceValkey:
		return valkeyTarget(place, text, c.environ)
	}
	return embeddedTarget(place, text, c.environ)
}

// embeddedTarget resolves an embedded store: its file, or the data directory's.
func embeddedTarget(place config.Place, text string, environ []string) (target, error) {
	t := target{place: place, path: place.Path}
	loaded, err := config.Load(config.Sources{Environ: environ, Flags: map[string]string{"backend": text}})
	if err != nil && t.path != "" {
		return t, nil // a named file needs no settings
	}
	if err != nil {
		return target{}, err
	}
	t.path = loaded.StorePath()
	if secret, err := loaded.FindSecret(); err == nil { // a bad file is the server's business
		t.secret, t.kid = secret, loaded.WaitpointKID
	}
	return t, nil
}

// How long a command waits for a Valkey store, and for a server to prepare it.
const (
	valkeyPatience = 10 * time.Second
	serverPatience = time.Second
)

// valkeyTarget resolves a Valkey store: its URL, or the settings of FF_VALKEY_*.
func valkeyTarget(place config.Place, text string, environ []string) (target, error) {
	loaded, err := config.Load(config.Sources{Environ: environ, Flags: map[string]string{"backend": text}})
	if err != nil {
		return target{}, err
	}
	cfg, err := loaded.StoreConfig()
	if err != nil {
		return target{}, err
	}
	cfg.Role, cfg.Lanes, cfg.Feeds = valkey.RoleWorker, nil, nil
	cfg.ConnectWait, cfg.BootWait = valkeyPatience, serverPatience
	t := target{place: place, valkey: cfg, kid: loaded.WaitpointKID}
	if loaded.WaitpointSecret != "" {
		t.secret = config.Secret{Hex: loaded.WaitpointSecret, Origin: config.SecretConfigured}
	}
	return t, nil
}

func (c *cli) remoteTarget(base string) (target, error) {
	place, err := config.ParsePlace(base)
	if err != nil {
		return target{}, usagef("%q %s", base, err)
	}
	token, err := c.token()
	return target{place: place, token: token}, err
}

// token reads the API token: --token-file, else FF_API_TOKEN or its file form.
func (c *cli) token() (string, error) {
	read := func(where, path string) (string, error) {
		raw, err := os.ReadFile(path)
		if err != nil {
			return "", usagef("%s: %v", where, err)
		}
		token := strings.TrimSpace(string(raw))
		if err := config.CheckToken(token); err != nil {
			return "", usagef("%s %s: the token %s", where, path, err)
		}
		return token, nil
	}
	if path := c.options.tokenFile; path != "" {
		return read("--token-file", path)
	}
	if token := c.variable("FF_API_TOKEN"); token != "" {
		return token, nil
	}
	if path := c.variable("FF_API_TOKEN_FILE"); path != "" {
		return read("FF_API_TOKEN_FILE", path)
	}
	return "", nil
}

// connect opens what the flags name. The caller closes it.
func (c *cli) connect(ctx context.Context) (flowfabric.Backend, target, error) {
	t, err := c.target()
	if err != nil {
		return nil, t, err
	}
	b, err := c.open(ctx, t)
	if err != nil {
		return nil, t, explainUnreachable(err, t)
	}
	return b, t, nil
}

// with connects, runs do, and closes.
func (c *cli) with(ctx context.Context, do func(flowfabric.Backend) error) error {
	b, t, err := c.connect(ctx)
	if err != nil {
		return err
	}
	err = do(b)
	if cerr := b.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close %s: %w", t, cerr)
	}
	return explainUnreachable(err, t)
}

// explainUnreachable adds to a refused connection what to do about it.
func explainUnreachable(err error, t target) error {
	var opErr *net.OpError
	if t.place.Kind != config.PlaceRemote || !errors.As(err, &opErr) || opErr.Op != "dial" {
		return err
	}
	hint := "is it running?"
	if t.implied {
		hint = "start one with: flowfabric serve; or name another with --server"
	}
	return &codeError{code: exitFailed, err: fmt.Errorf("no server answers at %s (%s)", t, hint)}
}
