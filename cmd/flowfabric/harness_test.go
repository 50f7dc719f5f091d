package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
	"github.com/flowfabric/flowfabric/server"
	"github.com/spf13/cobra"
)

// binary is the program, built once for the tests that need a real process.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "flowfabric-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "flowfabric")
		if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return valkeytest.Main(m).Run()
	}())
}

// result is what a command line gave.
type result struct {
	code     int
	out, err string
}

// decode reads the JSON the command printed.
func (r result) decode(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.out), v); err != nil {
		t.Fatalf("output is no JSON: %v\n%s%s", err, r.out, r.err)
	}
}

// deployment is a live server on a memory store.
type deployment struct {
	t       *testing.T
	backend *sqlite.Backend
	url     string
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	b, err := sqlite.Open(t.Context(), sqlite.Config{WaitpointSecretHex: testSecret})
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(b, server.Config{Logger: newLogger(&bytes.Buffer{}, defaultLog(), false)})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		web.Close()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return &deployment{t: t, backend: b, url: web.URL}
}

// run runs a command line against the server.
func (d *deployment) run(args ...string) result {
	return runWith(d.t.Context(), nil, "", append(args, "--server", d.url)...)
}

// runIn is run with something on standard input.
func (d *deployment) runIn(input string, args ...string) result {
	return runWith(d.t.Context(), nil, input, append(args, "--server", d.url)...)
}

// ok runs a command line that must succeed.
func (d *deployment) ok(args ...string) result {
	d.t.Helper()
	return d.exits(exitOK, args...)
}

// exits runs a command line that must end with a code.
func (d *deployment) exits(code int, args ...string) result {
	d.t.Helper()
	r := d.run(args...)
	if r.code != code {
		d.t.Fatalf("flowfabric %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.err)
	}
	return r
}

// json runs a command line with --output json and decodes what it prints.
func (d *deployment) json(v any, args ...string) {
	d.t.Helper()
	d.ok(append(args, "--output", "json")...).decode(d.t, v)
}

// submit submits an execution and returns its identifier.
func (d *deployment) submit(args ...string) string {
	d.t.Helper()
	var created struct {
		ExecutionID string `json:"execution_id"`
	}
	d.json(&created, append([]string{"submit"}, args...)...)
	return created.ExecutionID
}

// claim claims one execution of the default lane as an instance.
func (d *deployment) claim(instance string) flowfabric.ClaimedExecution {
	d.t.Helper()
	res, err := d.backend.ClaimTasks(d.t.Context(), flowfabric.ClaimTasksArgs{
		WorkerID: "pool", WorkerInstanceID: flowfabric.WorkerInstanceID(instance), Lanes: []flowfabric.LaneID{flowfabric.DefaultLane},
		Namespace: "default", MaxTasks: 1, LeaseTTLMs: 60_000})
	if err != nil {
		d.t.Fatal(err)
	}
	if len(res.Tasks) != 1 {
		d.t.Fatalf("claimed %d tasks", len(res.Tasks))
	}
	return res.Tasks[0]
}

// complete claims the next execution and ends it with a result.
func (d *deployment) complete(result string) {
	d.t.Helper()
	task := d.claim("worker-1")
	_, err := flowfabric.CompleteExecution(d.t.Context(), d.backend, flowfabric.CompleteExecutionArgs{
		ExecutionID: task.ExecutionID, Fence: task.Fence, Result: []byte(result)})
	if err != nil {
		d.t.Fatal(err)
	}
}

// runWith runs a command line in this process.
func runWith(ctx context.Context, environ []string, input string, args ...string) result {
	var out, errs bytes.Buffer
	env := &environment{
		in: strings.NewReader(input), out: &out, err: &errs,
		environ: append([]string{"PATH=" + os.Getenv("PATH"), "USER=tester"}, environ...),
		now:     time.Now,
		open:    openTarget,
	}
	code := run(ctx, env, args)
	return result{code, out.String(), errs.String()}
}

// contains fails unless the text holds every part.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q lacks %q", text, part)
		}
	}
}

// flagOf returns the value of a flag every command takes.
func flagOf(root *cobra.Command, name string) string {
	return root.PersistentFlags().Lookup(name).Value.String()
}
