package demo_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric/internal/demo"
)

// workerVariable makes this test binary a demo worker.
const workerVariable = "FLOWFABRIC_TEST_DEMO_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(workerVariable) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := demo.RunWorker(ctx, os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// recorder keeps what the demo tells, and calls back on progress.
type recorder struct {
	mu       sync.Mutex
	lines    []string
	progress func(done, total int)
}

func (r *recorder) Say(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
}

func (r *recorder) Progress(done, total int) {
	if r.progress != nil {
		r.progress(done, total)
	}
}

func (r *recorder) said(part string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(strings.Join(r.lines, "\n"), part)
}

func configure(t *testing.T, dir string, show demo.Show) demo.Config {
	t.Helper()
	return demo.Config{
		Dir: dir, DataDir: filepath.Join(t.TempDir(), "data"), Workers: 2, LeaseTTL: time.Second, Show: show,
		WorkerCommand: []string{os.Args[0]}, WorkerEnvironment: []string{workerVariable + "=1"},
	}
}

// makeTree writes n files of some languages and sizes.
func makeTree(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("d%d", i%7), fmt.Sprintf("file %d%s", i, []string{".go", ".txt", ".bin", ""}[i%4]))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Repeat("some words\nand lines ", random.IntN(500))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func check(t *testing.T, report *demo.Report, files int) {
	t.Helper()
	want := fmt.Sprintf("files %d, results %d, lost 0, duplicated 0", files, files)
	if got := report.Line(); got != want {
		t.Errorf("%s, want %s (wrong %v, failed %v)", got, want, report.Wrong, report.Failed)
	}
	if !report.OK() {
		t.Error("the report is not good")
	}
	if err := report.Print(io.Discard); err != nil {
		t.Error(err)
	}
}

func TestWorkerIsKilledAndNothingIsLost(t *testing.T) {
	t.Parallel()
	show := &recorder{}
	report, err := demo.Run(t.Context(), configure(t, makeTree(t, 60), show))
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(show.lines, "\n"))
	}
	check(t, report, 60)
	if len(report.Reclaimed) == 0 || !show.said("kill -9") {
		t.Errorf("nobody was killed, or nothing reclaimed:\n%s", strings.Join(show.lines, "\n"))
	}
	ofTheDead := 0
	for _, r := range report.Reclaimed { // a busy machine may cost others a lease, too
		if r.Path == "" || r.From == "" || r.To == "" || r.Attempt == 0 {
			t.Errorf("reclaimed %+v", r)
		}
		if r.From == "worker-1" {
			ofTheDead++
		}
	}
	if ofTheDead == 0 {
		t.Errorf("nothing was taken over from the killed worker: %+v", report.Reclaimed)
	}
	completed := 0
	for _, w := range report.Workers {
		completed += w.Completed
	}
	if completed != 60 || len(report.Workers) != 3 || !strings.Contains(report.Workers[0].Fate, "killed") {
		t.Errorf("workers %+v", report.Workers)
	}
	if all := report.Languages[len(report.Languages)-1]; all.Files != 60 || all.Bytes == 0 {
		t.Errorf("totals %+v", report.Languages)
	}
}

func TestSmallestTree(t *testing.T) {
	t.Parallel()
	dir := makeTree(t, 1)
	show := &recorder{}
	config := configure(t, dir, show)
	config.Workers = 1
	report, err := demo.Run(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	check(t, report, 1)
	if len(report.Reclaimed) == 0 {
		t.Errorf("reclaimed %+v, want the one file\n%s", report.Reclaimed, strings.Join(show.lines, "\n"))
	}
}

func TestInterruptedRunGoesOn(t *testing.T) {
	t.Parallel()
	dir := makeTree(t, 120)
	ctx, interrupt := context.WithCancel(t.Context())
	first := &recorder{progress: func(done, _ int) {
		if done >= 10 {
			interrupt()
		}
	}}
	config := configure(t, dir, first)
	if _, err := demo.Run(ctx, config); err == nil || ctx.Err() == nil {
		t.Fatalf("the interrupted run returned %v", err)
	}

	second := &recorder{}
	config.Show = second
	report, err := demo.Run(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	check(t, report, 120)
	if report.Kept < 10 || !second.said("complete already") {
		t.Errorf("kept %d of the first start:\n%s", report.Kept, strings.Join(second.lines, "\n"))
	}

	config.Fresh = true // the run is over anyway, so a new one begins; this also forgets the old one
	third, err := demo.Run(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	check(t, third, 120)
	if third.Kept != 0 {
		t.Errorf("a new run kept %d results", third.Kept)
	}
}

func TestWorkerThatEndsByItselfIsReplaced(t *testing.T) {
	t.Parallel()
	config := configure(t, makeTree(t, 5), &recorder{})
	config.WorkerCommand = []string{"/bin/sh", "-c", "echo broken >&2; exit 3"}
	_, err := demo.Run(t.Context(), config)
	if err == nil || !strings.Contains(err.Error(), "exit status 3: broken") {
		t.Errorf("%v, want what the last worker said", err)
	}
}

func TestDirectoriesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	file := filepath.Join(empty, "file")
	for _, test := range []struct{ dir, want string }{
		{filepath.Join(empty, "nowhere"), "does not exist"},
		{empty, "holds no files"},
		{file, "is no directory"},
	} {
		if test.dir == file {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		config := configure(t, test.dir, &recorder{})
		_, err := demo.Run(t.Context(), config)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.dir) {
			t.Errorf("%s: %v, want that it %s", test.dir, err, test.want)
		}
	}
}
