// Package process runs the programs of the examples for their tests.
package process

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Patience bounds every wait for something that must happen; none comes near it.
const Patience = 30 * time.Second

// Programs is a directory of built programs.
type Programs string

// Build builds "flowfabric" and the program of the test's own directory, without
// the race detector, into a directory of the test.
func Build(t testing.TB, own string) Programs {
	t.Helper()
	p := Programs(t.TempDir())
	for name, source := range map[string]string{"flowfabric": "../../cmd/flowfabric", own: "."} {
		if out, err := exec.Command("go", "build", "-race=false", "-o", p.path(name), source).CombinedOutput(); err != nil {
			t.Fatalf("go build %s: %v\n%s", source, err, out)
		}
	}
	return p
}

func (p Programs) path(name string) string { return filepath.Join(string(p), name) }

// environ has no settings of FlowFabric, and finds the programs first.
func (p Programs) environ(extra ...string) []string {
	var env []string
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "FF_") {
			env = append(env, entry)
		}
	}
	return append(append(env, "PATH="+string(p)+string(os.PathListSeparator)+os.Getenv("PATH"), "NO_PROXY=*"), extra...)
}

// Run runs a program to its end and returns what it said.
func (p Programs) Run(t testing.TB, environ []string, name string, args ...string) (out string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	if built := p.path(name); exists(built) {
		cmd = exec.CommandContext(ctx, built, args...)
	}
	cmd.Env = p.environ(environ...)
	b, err := cmd.CombinedOutput()
	return string(b), err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Process is a program that runs beside the test.
type Process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex
	lines []string
	news  chan struct{} // closed, and replaced, with every line
}

// Start starts a program. It is killed at the end of the test.
func (p Programs) Start(t testing.TB, name string, args ...string) *Process {
	t.Helper()
	r := &Process{t: t, name: name, cmd: exec.Command(p.path(name), args...), done: make(chan struct{}), news: make(chan struct{})}
	r.cmd.Env = p.environ()
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd.Stderr = r.cmd.Stdout
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		for in := bufio.NewScanner(out); in.Scan(); {
			r.said(in.Text())
		}
		_ = r.cmd.Wait()
	}()
	t.Cleanup(r.Kill)
	return r
}

func (r *Process) said(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	close(r.news)
	r.news = make(chan struct{})
}

// Serve starts a server on a free port, with its store in a directory of the
// test, and returns its URL.
func (p Programs) Serve(t testing.TB) string {
	t.Helper()
	line := p.Start(t, "flowfabric", "serve", "--listen-addr", "127.0.0.1:0", "--data-dir", filepath.Join(t.TempDir(), "data")).
		Await("FlowFabric is ready at ")
	url, _, _ := strings.Cut(strings.TrimPrefix(line, "FlowFabric is ready at "), " ")
	return url
}

// News returns a channel that is closed when the program says more than it has
// so far.
func (r *Process) News() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.news
}

// Lines returns what the program has said so far.
func (r *Process) Lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines...)
}

// Await returns the first line that has the text, once there is one.
func (r *Process) Await(text string) string {
	r.t.Helper()
	limit := time.After(Patience)
	for ended := false; ; {
		r.mu.Lock()
		lines, news := r.lines, r.news
		r.mu.Unlock()
		for _, line := range lines {
			if strings.Contains(line, text) {
				return line
			}
		}
		if ended {
			r.t.Fatalf("%s ended without saying %q:\n%s", r.name, text, strings.Join(lines, "\n"))
		}
		select {
		case <-news:
		case <-r.done:
			ended = true
		case <-limit:
			r.t.Fatalf("%s does not say %q:\n%s", r.name, text, strings.Join(lines, "\n"))
		}
	}
}

// Kill ends the program with SIGKILL and waits for its end.
func (r *Process) Kill() {
	_ = r.cmd.Process.Kill()
	<-r.done
}
