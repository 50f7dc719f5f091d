// Package docs_test checks the documents against the code: programs compile,
// links lead somewhere, and names of codes, settings, metrics and routes exist.
package docs_test

import (
	"errors"
	"go/format"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/config"
	"github.com/flowfabric/flowfabric/server"
)

// document is one page, as text and by lines.
type document struct {
	path string // from this directory
	text string
}

func (d document) lines() []string { return strings.Split(d.text, "\n") }

// documents are README.md and every page here.
func documents(t *testing.T) []document {
	t.Helper()
	paths, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	var docs []document
	for _, path := range append([]string{"../README.md"}, paths...) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, document{path, string(text)})
	}
	return docs
}

// block is a fenced block of a document.
type block struct {
	language string
	line     int // of its first line
	text     string
}

// blocks returns the fenced blocks, and the prose with them cut out.
func (d document) blocks(t *testing.T) (blocks []block, prose string) {
	t.Helper()
	var open *block
	var body, rest []string
	for i, line := range d.lines() {
		language, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && open == nil:
			open, body = &block{language: language, line: i + 2}, nil
		case fence:
			open.text = strings.Join(body, "\n")
			blocks, open = append(blocks, *open), nil
		case open != nil:
			body = append(body, line)
		default:
			rest = append(rest, line)
		}
	}
	if open != nil {
		t.Errorf("%s:%d: the block is not closed", d.path, open.line)
	}
	return blocks, strings.Join(rest, "\n")
}

func TestProgramsCompile(t *testing.T) {
	// A directory of the module that ./... passes over.
	root, err := os.MkdirTemp(".", "_programs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	args := []string{"vet"}
	for _, d := range documents(t) {
		blocks, _ := d.blocks(t)
		for _, b := range blocks {
			if b.language != "go" || !strings.HasPrefix(b.text, "package main") {
				continue
			}
			if formatted, err := format.Source([]byte(b.text + "\n")); err != nil || string(formatted) != b.text+"\n" {
				t.Errorf("%s:%d: the program is not formatted (%v)", d.path, b.line, err)
			}
			name := strings.TrimSuffix(filepath.Base(d.path), ".md") + "_" + strconv.Itoa(b.line)
			dir := filepath.Join(root, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			// The line directive makes vet name the document.
			code := "//line " + filepath.Base(d.path) + ":" + strconv.Itoa(b.line) + "\n" + b.text + "\n"
			if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(code), 0o644); err != nil {
				t.Fatal(err)
			}
			args = append(args, "./"+filepath.ToSlash(dir))
		}
	}
	if len(args) == 1 {
		t.Fatal("no program in any document")
	}
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Errorf("go vet: %v\n%s", err, out)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
)

func TestLinks(t *testing.T) {
	anchors := map[string]map[string]bool{}
	docs := documents(t)
	for _, d := range docs {
		_, prose := d.blocks(t)
		anchors[filepath.Clean(d.path)] = anchorsOf(prose)
	}
	for _, d := range docs {
		_, prose := d.blocks(t)
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			path := filepath.Clean(d.path)
			if target != "" {
				path = filepath.Join(filepath.Dir(d.path), target)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: the link %s leads nowhere", d.path, m[1])
				continue
			}
			if known := anchors[path]; anchor != "" && known != nil && !known[anchor] {
				t.Errorf("%s: the link %s names no heading", d.path, m[1])
			}
		}
	}
}

// anchorsOf returns the names a page's headings are linked by.
func anchorsOf(prose string) map[string]bool {
	known := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(prose, -1) {
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z':
				return r
			case r >= 'A' && r <= 'Z':
				return r - 'A' + 'a'
			}
			return -1
		}, m[1])
		known[name] = true
	}
	return known
}

var (
	quoted    = regexp.MustCompile("`([^`\n]+)`")
	statusTo  = regexp.MustCompile("\\b[45]\\d\\d `([a-z_]+)`")
	codeField = regexp.MustCompile(`"code": ?"([a-z_]+)"`)
)

// Codes are named in the first column of tables headed "Code", behind an HTTP
// status, and in problem documents.
func TestCodesExist(t *testing.T) {
	codes := flowfabric.Codes()
	for _, d := range documents(t) {
		check := func(code string) {
			if _, ok := codes[flowfabric.Code(code)]; !ok {
				t.Errorf("%s: there is no code %s", d.path, code)
			}
		}
		for _, m := range slices.Concat(statusTo.FindAllStringSubmatch(d.text, -1), codeField.FindAllStringSubmatch(d.text, -1)) {
			check(m[1])
		}
		inTable := false
		for _, line := range d.lines() {
			switch {
			case strings.HasPrefix(line, "| Code |"):
				inTable = true
			case !strings.HasPrefix(line, "|"):
				inTable = false
			case inTable && !strings.HasPrefix(line, "|---"):
				first, _, _ := strings.Cut(line[1:], "|")
				for _, m := range quoted.FindAllStringSubmatch(first, -1) {
					check(m[1])
				}
			}
		}
	}
}

var variable = regexp.MustCompile(`\bFF_[A-Z_]*[A-Z]\b`)

// Every setting a document names exists, and operations.md names every setting
// with its default.
func TestSettings(t *testing.T) {
	known := map[string]bool{config.FileVariable: true}
	for _, s := range config.Settings() {
		known[s.Variable()] = true
		if s.Secret {
			known[s.Variable()+"_FILE"] = true
		}
	}
	for _, d := range documents(t) {
		for _, name := range variable.FindAllString(withoutOutput(d, t), -1) {
			if !known[name] {
				t.Errorf("%s: there is no setting %s", d.path, name)
			}
		}
	}
	operations, err := os.ReadFile("operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range config.Settings() {
		shown := "unset"
		if s.Default != "" {
			shown = "`" + s.Default + "`"
		}
		if row := "| `" + s.Variable() + "` | " + shown + " |"; !strings.Contains(string(operations), row) {
			t.Errorf("operations.md lacks the row %s", row)
		}
	}
}

// withoutOutput is a document without its console blocks, which show mistakes
// on purpose.
func withoutOutput(d document, t *testing.T) string {
	blocks, prose := d.blocks(t)
	for _, b := range blocks {
		if b.language != "console" {
			prose += "\n" + b.text
		}
	}
	return prose
}

var metric = regexp.MustCompile(`\bff_[a-z_]*[a-z]\b`)

// Every metric a document names exists, and operations.md names all of them.
func TestMetrics(t *testing.T) {
	families, err := os.ReadFile("../server/api/metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, name := range metric.FindAllString(string(families), -1) {
		known[name] = true
	}
	gathered, err := server.NewMetrics().Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range gathered {
		known[family.GetName()] = true
	}
	named := map[string]bool{}
	for _, d := range documents(t) {
		for _, name := range metric.FindAllString(withoutOutput(d, t), -1) {
			if !known[name] {
				t.Errorf("%s: there is no metric %s", d.path, name)
			}
			named[name] = named[name] || d.path == "operations.md"
		}
	}
	for name := range known {
		if !named[name] {
			t.Errorf("operations.md does not name the metric %s", name)
		}
	}
}

var (
	word  = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_]*`)
	snake = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)+$`)
)

// Every name in snake case that a document quotes (a field, state, outcome,
// code, category) is a word of the code.
func TestNamesExist(t *testing.T) {
	words := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, entry os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another package's test has cleaned up
		}
		if err == nil && filepath.Ext(path) == ".lua" {
			words[strings.TrimSuffix(entry.Name(), ".lua")] = true // files are named too
		}
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		words[strings.TrimSuffix(entry.Name(), ".go")] = true
		source, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		for _, w := range word.FindAllString(string(source), -1) {
			words[w] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range config.Settings() {
		words[s.Key()] = true
	}
	for _, d := range documents(t) {
		_, prose := d.blocks(t)
		for _, m := range quoted.FindAllStringSubmatch(prose, -1) {
			for _, name := range word.FindAllString(m[1], -1) {
				if snake.MatchString(name) && !words[name] && !strings.HasPrefix(name, "ff_") {
					t.Errorf("%s: %s is no name in the code", d.path, name)
				}
			}
		}
	}
}

// The worker on the page is the worker that is tested.
func TestPythonWorker(t *testing.T) {
	worker, err := os.ReadFile("../examples/polyglot-worker/worker.py")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range documents(t) {
		blocks, _ := d.blocks(t)
		for _, b := range blocks {
			if b.language == "python" && b.text+"\n" != string(worker) {
				t.Errorf("%s:%d: not the text of worker.py", d.path, b.line)
			}
		}
	}
}
