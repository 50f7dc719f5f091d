package valkey

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "raise the library's revision after a change of its source")

// Chapter 07, section 5.1: a change of the library's source needs a new
// revision. "go test ./backend/valkey -run TestLibraryRevision -update" gives it
// one.
func TestLibraryRevision(t *testing.T) {
	_, v := buildLibrary(libraryOptions{})
	revision, checksum := storedRevision()
	if v.checksum == checksum {
		return
	}
	if !*update {
		t.Fatalf("the library's source has changed (%s, was %s at revision %d); run: go test ./backend/valkey -run TestLibraryRevision -update",
			v.checksum, checksum, revision)
	}
	line := fmt.Sprintf("%d %s\n", revision+1, v.checksum)
	if err := os.WriteFile("lua/revision.txt", []byte(line), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLibrarySource(t *testing.T) {
	source, v := buildLibrary(libraryOptions{})
	if !strings.HasPrefix(source, "#!lua name=flowfabric\n") {
		t.Error("the first line does not name the library")
	}
	if strings.Contains(source, "@VERSION@") || !strings.Contains(source, v.String()) {
		t.Error("the version is not in the source")
	}
	if got, ok := parseLibraryVersion(v.String()); !ok || got != v {
		t.Errorf("version %s is read as %s, %v", v, got, ok)
	}
	for _, bad := range []string{"", "1", "1.2", "a.2.x", "1.b.x"} {
		if _, ok := parseLibraryVersion(bad); ok {
			t.Errorf("version %q is accepted", bad)
		}
	}
}

// Valkey 8.0 frees more than 64 functions in the background, on FUNCTION FLUSH and
// when a replica is loaded anew, while it goes on to run and load functions: it
// crashes then. No library may have more.
func TestLibraryHasFewFunctions(t *testing.T) {
	source, _ := buildLibrary(libraryOptions{})
	if n := strings.Count(source, "redis.register_function"); n > 64 {
		t.Errorf("%d functions", n)
	}
}
