package demo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Input is the payload of an execution: which file to look at.
type Input struct {
	Path string `json:"path"` // relative to the tree, slash-separated
}

// Facts are what a worker computes of one file; they are the execution's result.
type Facts struct {
	Path     string `json:"path"`
	Language string `json:"language"`
	Bytes    int64  `json:"bytes"`
	// Lines counts newline characters, and a last line without one.
	Lines int64 `json:"lines"`
	// Words counts maximal runs of bytes that are not ASCII white space.
	Words  int64  `json:"words"`
	SHA256 string `json:"sha256"`
}

// Analyse reads one file of a tree and computes its facts.
func Analyse(ctx context.Context, root, rel string) (Facts, error) {
	if !filepath.IsLocal(filepath.FromSlash(rel)) {
		return Facts{}, fmt.Errorf("%q leaves the tree", rel)
	}
	f, err := os.Open(filepath.Join(root, filepath.FromSlash(rel)))
	if err != nil {
		return Facts{}, err
	}
	defer f.Close()
	c := counter{hash: sha256.New()}
	buffer := make([]byte, 64<<10)
	for {
		n, err := f.Read(buffer)
		c.count(buffer[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return Facts{}, err
		}
		if ctx.Err() != nil {
			return Facts{}, context.Cause(ctx)
		}
	}
	return c.facts(rel), nil
}

// counter computes the facts of a stream of bytes.
type counter struct {
	hash                hash.Hash
	bytes, lines, words int64
	inWord              bool
	last                byte
}

func (c *counter) count(p []byte) {
	if len(p) == 0 {
		return
	}
	c.hash.Write(p) // never fails
	c.bytes += int64(len(p))
	c.last = p[len(p)-1]
	for _, b := range p {
		if b == '\n' {
			c.lines++
		}
		space := b == ' ' || ('\t' <= b && b <= '\r')
		if !space && !c.inWord {
			c.words++
		}
		c.inWord = !space
	}
}

func (c *counter) facts(rel string) Facts {
	lines := c.lines
	if c.bytes > 0 && c.last != '\n' {
		lines++
	}
	return Facts{
		Path: rel, Language: Language(rel), Bytes: c.bytes, Lines: lines, Words: c.words,
		SHA256: hex.EncodeToString(c.hash.Sum(nil)),
	}
}

// Language tells the language of a file by its name.
func Language(name string) string {
	base := path.Base(name)
	if lang, ok := languageByName[strings.ToLower(base)]; ok {
		return lang
	}
	ext := strings.ToLower(path.Ext(base))
	if lang, ok := languageByExtension[ext]; ok {
		return lang
	}
	return "other"
}

var languageByName = map[string]string{
	"makefile": "Make", "gnumakefile": "Make", "dockerfile": "Docker", "cmakelists.txt": "CMake",
	"readme": "text", "license": "text", "licence": "text", "copying": "text", "authors": "text", "notice": "text",
	"go.mod": "Go module", "go.sum": "Go module", "go.work": "Go module",
}

var languageByExtension = map[string]string{
	".go": "Go", ".s": "assembly", ".asm": "assembly", ".c": "C", ".h": "C", ".cc": "C++", ".cpp": "C++", ".cxx": "C++", ".hpp": "C++",
	".rs": "Rust", ".py": "Python", ".js": "JavaScript", ".mjs": "JavaScript", ".ts": "TypeScript", ".tsx": "TypeScript", ".jsx": "JavaScript",
	".java": "Java", ".kt": "Kotlin", ".rb": "Ruby", ".php": "PHP", ".pl": "Perl", ".lua": "Lua", ".sh": "shell", ".bash": "shell", ".bat": "batch",
	".cs": "C#", ".swift": "Swift", ".zig": "Zig", ".sql": "SQL", ".r": "R", ".el": "Lisp", ".lisp": "Lisp", ".hs": "Haskell", ".ml": "OCaml",
	".md": "Markdown", ".rst": "text", ".txt": "text", ".golden": "text", ".log": "text", ".tex": "TeX",
	".html": "HTML", ".htm": "HTML", ".css": "CSS", ".xml": "XML", ".svg": "XML",
	".json": "JSON", ".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".ini": "settings", ".cfg": "settings", ".conf": "settings", ".csv": "CSV",
	".proto": "Protobuf", ".mk": "Make", ".awk": "awk",
	".png": "image", ".jpg": "image", ".jpeg": "image", ".gif": "image", ".webp": "image", ".ico": "image",
	".gz": "archive", ".zip": "archive", ".tar": "archive", ".xz": "archive", ".zst": "archive", ".bz2": "archive",
	".pem": "key material", ".crt": "key material", ".key": "key material",
}
