package demo

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/google/go-cmp/cmp"
)

func TestAnalyse(t *testing.T) {
	dir := t.TempDir()
	large := strings.Repeat("héllo wörld\tx\n", 20_000) // over several reads, with words across their borders
	for _, test := range []struct {
		content             string
		bytes, lines, words int64
	}{
		{"", 0, 0, 0},
		{"one", 3, 1, 1},
		{"one\n", 4, 1, 1},
		{"\n\n", 2, 2, 0},
		{" a  b\r\nc\v\fd ", 12, 2, 4},
		{large, int64(len(large)), 20_000, 60_000},
	} {
		if err := os.WriteFile(filepath.Join(dir, "f.md"), []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Analyse(t.Context(), dir, "f.md")
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte(test.content))
		want := Facts{Path: "f.md", Language: "Markdown", Bytes: test.bytes, Lines: test.lines, Words: test.words, SHA256: hex.EncodeToString(sum[:])}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("facts of %.20q (-want +got):\n%s", test.content, diff)
		}
	}
	for _, path := range []string{"../f.md", "/etc/passwd", "none", ""} {
		if _, err := Analyse(t.Context(), dir, path); err == nil {
			t.Errorf("%q was analysed", path)
		}
	}
}

func TestLanguage(t *testing.T) {
	for name, want := range map[string]string{
		"a/b.go": "Go", "X.GO": "Go", "Makefile": "Make", "go.mod": "Go module", "asm_amd64.s": "assembly", "noext": "other", ".go": "Go",
		"d.tar.gz": "archive", "LICENSE": "text",
	} {
		if got := Language(name); got != want {
			t.Errorf("language of %s: %s, want %s", name, got, want)
		}
	}
}

func TestWalk(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b/two", "a", "b/c/three", "skip/no", "b/\xff", "weird\nname"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	root, err := Resolve(dir)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := Walk(t.Context(), dir, filepath.Join(root, "skip"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b/c/three", "b/two", "weird\nname"}, tree.Files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if len(tree.Unreadable) != 1 {
		t.Errorf("passed over: %v", tree.Unreadable)
	}
}

func TestWalkPassesOverWhatCannotBeRead(t *testing.T) {
	if runtime.GOOS == "windows" || os.Getuid() == 0 {
		t.Skip("needs permissions that bind")
	}
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, nil, 0o000); err != nil {
		t.Fatal(err)
	}
	if _, err := Walk(t.Context(), dir, ""); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a tree of unreadable files: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "open"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := Walk(t.Context(), dir, "")
	if err != nil || len(tree.Files) != 1 || len(tree.Unreadable) != 1 {
		t.Errorf("%+v, %v", tree, err)
	}
}

func TestRunMemory(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1_800_000_000, 0)
	first, err := loadRun(dir, "/root", now)
	if err != nil {
		t.Fatal(err)
	}
	second, err := loadRun(dir, "/root", now.Add(time.Hour))
	if err != nil || second.ID != first.ID || second.Starts != 2 || second.instance(1) == first.instance(1) {
		t.Errorf("the second start: %+v after %+v, %v", second, first, err)
	}
	if r, err := loadRun(dir, "/root", now.Add(keptFor)); err != nil || r.ID == first.ID {
		t.Errorf("a run whose results may be gone went on: %+v, %v", r, err)
	}
	if r, err := loadRun(dir, "/other", now); err != nil || r.ID == first.ID {
		t.Errorf("a run of another directory went on: %+v, %v", r, err)
	}
	second.Finished = true
	if err := second.save(dir); err != nil {
		t.Fatal(err)
	}
	if r, err := loadRun(dir, "/root", now); err != nil || r.ID == first.ID {
		t.Errorf("a finished run went on: %+v, %v", r, err)
	}
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadRun(dir, "/root", now); err == nil {
		t.Error("a damaged memory passed")
	}
	long := strings.Repeat("x", 300)
	if a, b := first.key(long+"a"), first.key(long+"b"); len(a) > 256 || a == b {
		t.Errorf("keys of long paths: %q and %q", a, b)
	}
}

func TestConclude(t *testing.T) {
	truth := map[string]Facts{"a": {Path: "a", Bytes: 1, Language: "Go"}, "b": {Path: "b", Bytes: 2, Language: "Go"}, "c": {Path: "c", Bytes: 3, Language: "C"}}
	files := []string{"a", "b", "c"}
	good := func() *findings {
		f := &findings{completed: map[string][]Facts{}}
		for path, facts := range truth {
			f.completed[path] = []Facts{facts}
		}
		return f
	}
	for name, test := range map[string]struct {
		spoil func(*findings)
		line  string
		ok    bool
	}{
		"good":            {func(*findings) {}, "files 3, results 3, lost 0, duplicated 0", true},
		"lost":            {func(f *findings) { delete(f.completed, "b") }, "files 3, results 2, lost 1, duplicated 0", false},
		"two executions":  {func(f *findings) { f.completed["b"] = append(f.completed["b"], truth["b"]) }, "files 3, results 3, lost 0, duplicated 1", false},
		"two completions": {func(f *findings) { f.events["x"] = 2 }, "files 3, results 3, lost 0, duplicated 1", false},
		"wrong":           {func(f *findings) { f.completed["b"][0].Words++ }, "files 3, results 2, lost 0, duplicated 0", false},
		"foreign":         {func(f *findings) { f.completed["z"] = []Facts{{Path: "z"}} }, "files 3, results 3, lost 0, duplicated 0", false},
		"failed":          {func(f *findings) { f.failed = []string{"b is failed"} }, "files 3, results 3, lost 0, duplicated 0", false},
	} {
		f := good()
		f.events = map[flowfabric.ExecutionID]int{"x": 1, "y": 1}
		test.spoil(f)
		report := conclude(files, f, truth)
		if report.Line() != test.line || report.OK() != test.ok {
			t.Errorf("%s: %s, %v; want %s, %v", name, report.Line(), report.OK(), test.line, test.ok)
		}
		var printed strings.Builder
		if err := report.Print(&printed); err != nil || !strings.HasSuffix(printed.String(), test.line+"\n") {
			t.Errorf("%s: %v, printed %q", name, err, printed.String())
		}
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -123456: "-123,456", 12345678: "12,345,678"} {
		if got := thousands(n); got != want {
			t.Errorf("%d is written %s, want %s", n, got, want)
		}
	}
}
