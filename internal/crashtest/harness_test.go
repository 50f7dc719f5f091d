package crashtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/remote"
)

// patience bounds every wait for something that must happen; none comes near it.
const patience = time.Minute

// The programs, built once, without the race detector.
var serverBinary, workerBinary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "flowfabric-crash-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		serverBinary, workerBinary = filepath.Join(dir, "flowfabric"), filepath.Join(dir, "worker")
		for binary, source := range map[string]string{serverBinary: "../../cmd/flowfabric", workerBinary: "./worker"} {
			if out, err := exec.Command("go", "build", "-race=false", "-o", binary, source).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "go build %s: %v\n%s", source, err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// cleanEnviron is an environment without settings.
func cleanEnviron() []string {
	var env []string
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "FF_") {
			env = append(env, entry)
		}
	}
	return env
}

// child is a process of the test.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{} // closed once it has ended and its output is read
}

// spawn starts a program. Every line of its standard output goes to line, what
// it says on standard error to errs. It is killed at the end of the test if it
// still lives then.
func spawn(t *testing.T, line func([]byte), errs io.Writer, program string, args ...string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(program, args...), done: make(chan struct{})}
	c.cmd.Env, c.cmd.Stderr = cleanEnviron(), errs
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.done)
		in := bufio.NewReaderSize(out, 1<<20)
		for {
			text, err := in.ReadBytes('\n')
			if err != nil { // what follows the last line end was cut by a kill
				break
			}
			line(text)
		}
		_ = c.cmd.Wait()
	}()
	t.Cleanup(c.kill)
	return c
}

// signal sends a signal to the process; one that has ended gets none.
func (c *child) signal(sig os.Signal) { _ = c.cmd.Process.Signal(sig) }

// kill ends the process with SIGKILL and waits for its end.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
}

// ends waits for the end of a process that was asked to end, and wants exit
// code 0.
func (c *child) ends(t *testing.T, what string) {
	t.Helper()
	began := time.Now()
	select {
	case <-c.done:
	case <-time.After(patience):
		t.Fatalf("%s does not end", what)
	}
	t.Logf("%s ended in %s", what, time.Since(began).Round(time.Millisecond))
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("%s: exit code %d", what, code)
	}
}

// logbook keeps what processes say on standard error.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// lines returns the lines that hold one of the texts.
func (l *logbook) lines(texts ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.text.String()) {
		for _, text := range texts {
			if strings.Contains(line, text) {
				found = append(found, line)
				break
			}
		}
	}
	return found
}

// tail returns the end of what was said.
func (l *logbook) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.text.Bytes()
	return string(b[max(0, len(b)-8<<10):])
}

// station is a data directory and a port on which one server after the other
// lives.
type station struct {
	t     *testing.T
	dir   string   // of the embedded store
	store []string // the settings that name the store
	addr  string
	logs  logbook

	deaths atomic.Int64 // by SIGKILL

	*child

	mu    sync.Mutex
	ready chan struct{} // closed when the present or next server says that it is
}

func newStation(t *testing.T) *station {
	t.Helper()
	dir := t.TempDir()
	s := newStationOn(t, "--data-dir", dir)
	s.dir = dir
	return s
}

// newStationOn is a port for servers on a store.
func newStationOn(t *testing.T, store ...string) *station {
	t.Helper()
	s := &station{t: t, store: store, addr: freeAddress(t), ready: make(chan struct{})}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server said:\n%s", s.logs.tail())
		}
	})
	return s
}

// freeAddress is an address that nobody uses. Its port is none that the system
// gives to clients, because one that dials while the server is down could get it.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp4", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

func (s *station) url() string { return "http://" + s.addr }

// launch starts a server and does not wait for it.
func (s *station) launch() {
	s.t.Helper()
	ready := s.up()
	s.child = spawn(s.t, func(line []byte) {
		if bytes.HasPrefix(line, []byte("FlowFabric is ready at ")) {
			close(ready)
		}
	}, &s.logs, serverBinary, append([]string{"serve", "--listen-addr", s.addr,
		"--waitpoint-hmac-secret", strings.Repeat("c5", 32)}, s.store...)...)
}

// up returns what is closed once the present server, or the next one when that
// is dead, is ready.
func (s *station) up() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// kill ends the server with SIGKILL.
func (s *station) kill() {
	s.deaths.Add(1)
	s.child.kill()
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ready:
		s.ready = make(chan struct{})
	default: // it was not ready yet
	}
}

// awaitReady waits until the server says that it is ready, and /readyz too.
func (s *station) awaitReady() {
	s.t.Helper()
	select {
	case <-s.up():
	case <-s.child.done:
		s.t.Fatal("the server ended before it was ready")
	case <-time.After(patience):
		s.t.Fatal("the server is not ready")
	}
	eventually(s.t, patience, "readyz is not 200", func() bool {
		res, err := http.Get(s.url() + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// start starts a server and waits until it is ready.
func (s *station) start() {
	s.t.Helper()
	s.launch()
	s.awaitReady()
}

// connect opens a connection of its own.
func (s *station) connect() *remote.Backend {
	s.t.Helper()
	return connect(s.t, s.url())
}

func connect(t *testing.T, url string) *remote.Backend {
	t.Helper()
	b, err := remote.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// eventually asks again and again, at most for a time, until the answer is yes.
func eventually(t *testing.T, limit time.Duration, complaint string, ask func() bool) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	late := time.After(limit)
	for !ask() {
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("%s after %s", complaint, limit)
		}
	}
}

// hand is a worker process.
type hand struct {
	*child
	instance flowfabric.WorkerInstanceID
	ready    chan struct{}
}

// crew starts workers and hands their reports to the journal.
type crew struct {
	t       *testing.T
	url     string
	name    string
	journal *journal
	logs    logbook
	flags   []string
	started int
}

func newCrew(t *testing.T, url, name string, j *journal, flags ...string) *crew {
	c := &crew{t: t, url: url, name: name, journal: j, flags: flags}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the workers said:\n%s", c.logs.tail())
		}
	})
	return c
}

// hire starts a worker and does not wait for it.
func (c *crew) hire() *hand {
	c.t.Helper()
	c.started++
	instance := fmt.Sprintf("%s-%d", c.name, c.started)
	h := &hand{instance: flowfabric.WorkerInstanceID(instance), ready: make(chan struct{})}
	args := append([]string{"-server", c.url, "-instance", instance}, c.flags...)
	h.child = spawn(c.t, func(line []byte) {
		var r Report
		if err := json.Unmarshal(line, &r); err != nil {
			c.t.Errorf("worker %s said %q: %v", instance, line, err)
			return
		}
		if r.Op == OpReady {
			close(h.ready)
		}
		c.journal.report(r)
	}, &c.logs, workerBinary, args...)
	return h
}

// awaitReady waits until the worker has registered.
func (h *hand) awaitReady(t *testing.T) {
	t.Helper()
	select {
	case <-h.ready:
	case <-h.done:
		t.Fatalf("worker %s ended before it was ready", h.instance)
	case <-time.After(patience):
		t.Fatalf("worker %s is not ready", h.instance)
	}
}

// dismiss ends a worker in good order.
func (h *hand) dismiss(t *testing.T) {
	t.Helper()
	_ = h.stdin.Close()
	h.ends(t, "worker "+string(h.instance))
}

// within is a context that ends with the test, and after patience at the latest.
func within(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), patience)
}
