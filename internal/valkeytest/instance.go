package valkeytest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// errAddressInUse reports that somebody else took a server's port.
var errAddressInUse = errors.New("address in use")

// instance is a server at its port, running or not. It knows no test, so it can
// serve many.
type instance struct {
	path    string
	dir     string
	options Options
	cluster bool
	id      string // of a cluster's node

	mu      sync.Mutex
	port    int
	busPort int
	running *process
	paused  bool
	// disturbed is set once a test has stopped the server in any way.
	disturbed bool
}

// launch starts a server for the first time, at a port that it takes.
func launch(path, dir string, o Options, cluster bool) (*instance, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	n := &instance{path: path, dir: dir, options: o, cluster: cluster}
	for attempt := 1; ; attempt++ {
		err := n.takePorts()
		if err == nil {
			err = os.WriteFile(n.configPath(), configuration(n.args()), 0o600)
		}
		if err == nil {
			err = n.start()
		}
		if err == nil {
			return n, nil
		}
		n.discard()
		if !errors.Is(err, errAddressInUse) || attempt == 5 {
			return nil, err
		}
	}
}

func (n *instance) takePorts() (err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.port, err = takePort(); err != nil || !n.cluster {
		return err
	}
	n.busPort, err = takePort()
	return err
}

func (n *instance) addr() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return loopback(n.port)
}

// living tells whether the server runs and is not paused.
func (n *instance) living() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.running != nil && !n.running.ended() && !n.paused
}

func (n *instance) logPath() string { return filepath.Join(n.dir, "server.log") }

func (n *instance) configPath() string { return filepath.Join(n.dir, "valkey.conf") }

func (n *instance) log() string {
	text, err := os.ReadFile(n.logPath())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// start starts the server, unless it runs, and waits until it answers.
func (n *instance) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running != nil && !n.running.ended() {
		return nil
	}
	output, err := os.OpenFile(n.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = output.Close() }()
	before, err := output.Stat()
	if err != nil {
		return err
	}
	p, err := spawn(n.path, []string{n.configPath()}, n.dir, output)
	if err != nil {
		return err
	}
	err = until(startLimit, func() error {
		if p.ended() {
			return nil
		}
		return n.answers(p)
	})
	if err == nil && !p.ended() {
		n.running, n.paused = p, false
		return nil
	}
	p.destroy()
	log := n.log()[min(int(before.Size()), len(n.log())):]
	if strings.Contains(log, "Address already in use") {
		return fmt.Errorf("%w: %s", errAddressInUse, log)
	}
	return errors.Join(fmt.Errorf("valkey-server did not start: %s", log), err)
}

// answers returns nil when the process itself, and nobody else at its port,
// answers and has loaded its data.
func (n *instance) answers(p *process) error {
	c, err := n.dialLocked()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	c.limit = time.Second // whoever else listens at the port may never answer
	server, err := c.info("server")
	if err != nil {
		return err
	}
	if pid := server["process_id"]; pid != strconv.Itoa(p.Pid) {
		return fmt.Errorf("process %s answers instead of %d", pid, p.Pid)
	}
	_, err = c.Do("PING")
	return err
}

// args are the directives of the server, the defaults first.
func (n *instance) args() []string {
	o := n.options
	args := []string{
		"--bind", "127.0.0.1",
		"--dir", n.dir,
		"--logfile", "",
		"--loglevel", "warning",
		"--save", "",
		"--appendonly", "no",
		"--maxmemory-policy", "noeviction",
		"--enable-debug-command", "local",
		"--repl-diskless-sync-delay", "0",
		// A cluster hides replicas that have not heard from their primary.
		"--repl-ping-replica-period", "1",
	}
	port := strconv.Itoa(n.port)
	if o.TLS != nil {
		args = append(args, "--port", "0", "--tls-port", port)
		args = append(args, o.TLS.args()...)
	} else {
		args = append(args, "--port", port)
	}
	if n.cluster {
		args = append(args,
			"--cluster-enabled", "yes",
			"--cluster-config-file", "nodes.conf",
			"--cluster-port", strconv.Itoa(n.busPort),
			"--cluster-announce-ip", "127.0.0.1",
			"--cluster-node-timeout", strconv.FormatInt(o.nodeTimeout().Milliseconds(), 10),
			"--cluster-allow-replica-migration", "no",
			"--cluster-replica-validity-factor", "0",
		)
	}
	if o.Password != "" {
		args = append(args, "--requirepass", o.Password)
	}
	for _, user := range o.Users {
		args = append(args, append([]string{"--user"}, strings.Fields(user)...)...)
	}
	if len(o.Users) > 0 {
		args = append(args, "--user", harnessUser, "on", ">"+harnessPassword, "~*", "&*", "+@all")
	}
	if user, password := o.login(); password != "" {
		args = append(args, "--masteruser", user, "--masterauth", password)
	}
	return append(args, o.Args...)
}

// configuration writes directives as a file has them, where values may contain
// whatever they like, which on a command line depends on the server's version.
func configuration(args []string) []byte {
	var b bytes.Buffer
	for _, arg := range args {
		if name, ok := strings.CutPrefix(arg, "--"); ok {
			fmt.Fprintf(&b, "\n%s", name)
			continue
		}
		b.WriteString(` "`)
		for _, c := range []byte(arg) {
			if c < ' ' || c > '~' || c == '"' || c == '\\' {
				fmt.Fprintf(&b, `\x%02x`, c)
				continue
			}
			b.WriteByte(c)
		}
		b.WriteByte('"')
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// dial opens a connection with every permission.
func (n *instance) dial() (*Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dialLocked()
}

func (n *instance) dialLocked() (*Conn, error) {
	c, err := dial(loopback(n.port), n.options.TLS)
	if err != nil {
		return nil, err
	}
	if user, password := n.options.login(); password != "" {
		if _, err = c.Do("AUTH", user, password); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	return c, nil
}

// do executes one command on a connection of its own.
func (n *instance) do(args ...string) (any, error) {
	c, err := n.dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	return c.Do(args...)
}

// kill ends the server at once.
func (n *instance) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.disturbed = true
	n.endLocked()
}

func (n *instance) endLocked() {
	if n.running != nil {
		n.running.destroy()
		n.running = nil
	}
}

// terminate lets the server end in order, for a while.
func (n *instance) terminate() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.disturbed = true
	if n.running == nil {
		return
	}
	_ = n.running.Signal(terminateSignal)
	if n.paused {
		_ = n.running.Signal(resumeSignal)
	}
	select {
	case <-n.running.exited:
	case <-time.After(startLimit):
	}
	n.endLocked()
}

// pause stops the server where it is, or lets it go on.
func (n *instance) pause(on bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.disturbed = true
	if n.running == nil {
		return errors.New("the server does not run")
	}
	signal := resumeSignal
	if on {
		signal = pauseSignal
	}
	n.paused = on
	return n.running.Signal(signal)
}

// discard ends the server for good.
func (n *instance) discard() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.endLocked()
	returnPorts(n.port, n.busPort)
}

// tail returns the end of the log.
func (n *instance) tail() string {
	text := []byte(n.log())
	if len(text) <= 4<<10 {
		return string(text)
	}
	text = text[len(text)-4<<10:]
	return "..." + string(text[bytes.IndexByte(text, '\n')+1:])
}
