package config

import (
	"net/url"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/valkey"
)

// PlaceKind says what kind of store, or server, a [Place] names.
type PlaceKind string

// The kinds of places.
const (
	PlaceEmbedded PlaceKind = "embedded" // a SQLite file
	PlaceMemory   PlaceKind = "memory"   // in this process, nothing on disk
	PlaceRemote   PlaceKind = "remote"   // a flowfabric server, over HTTP
	PlaceValkey   PlaceKind = "valkey"   // a Valkey store, one node or a cluster
)

// Available lists the forms of FF_BACKEND that this build serves.
const Available = "embedded, memory, valkey, sqlite:FILE, memory:, valkey://HOST:PORT"

// Place is a parsed FF_BACKEND or --backend: a kind of store and, where the text
// was a URL, where it is.
type Place struct {
	Kind PlaceKind
	// Path is the file of sqlite:FILE; empty for plain "embedded", which lives in
	// the data directory.
	Path string
	// URL is the base address of a remote server, without trailing slashes, or
	// the URL of a Valkey store, which may hold a password; it is empty for plain
	// "valkey", which the settings describe.
	URL string
	// text is what was given.
	text string
}

// String returns the place as given, passwords in URLs redacted.
func (p Place) String() string { return redactURL(p.text) }

// IsURL reports whether the text named kind and place at once.
func (p Place) IsURL() bool { return strings.Contains(p.text, ":") }

// ParsePlace parses FF_BACKEND: "embedded", "memory", "sqlite:FILE", "memory:",
// and for client commands "http://…" and "https://…". Kinds of stores that this
// build does not have are refused with a line that lists what it has.
func ParsePlace(s string) (Place, error) {
	p := Place{text: s}
	switch s {
	case "embedded":
		p.Kind = PlaceEmbedded
		return p, nil
	case "memory", "memory:":
		p.Kind = PlaceMemory
		return p, nil
	case "valkey":
		p.Kind = PlaceValkey
		return p, nil
	case "postgres":
		return p, lacking(s)
	case "remote":
		return p, badValue("names no server; write http://host:port")
	}
	scheme, rest, isURL := strings.Cut(s, ":")
	if !isURL {
		return p, badValue("is no backend; this build has %s", Available)
	}
	switch scheme {
	case "sqlite":
		return parseSQLitePlace(p, rest)
	case "http", "https":
		return parseRemotePlace(p)
	case "valkey", "valkeys", "redis", "rediss":
		return parseValkeyPlace(p)
	case "postgres", "postgresql":
		return p, lacking("postgres")
	case "memory":
		return p, badValue("takes nothing behind the colon; write memory:")
	}
	return p, badValue("is no backend; this build has %s", Available)
}

func lacking(kind string) error {
	return badValue("this build has no %s store; it has %s", kind, Available)
}

func parseSQLitePlace(p Place, rest string) (Place, error) {
	if trimmed, ok := strings.CutPrefix(rest, "//"); ok { // sqlite:///path and sqlite://path
		rest = trimmed
	}
	if rest == "" {
		return p, badValue("names no file; write sqlite:FILE")
	}
	if rest == ":memory:" {
		p.Kind = PlaceMemory
		return p, nil
	}
	if strings.HasSuffix(rest, "/") {
		return p, badValue("names a directory; write sqlite:FILE")
	}
	p.Kind, p.Path = PlaceEmbedded, rest
	return p, nil
}

func parseValkeyPlace(p Place) (Place, error) {
	if _, err := valkey.Parse(p.text); err != nil {
		if e := flowfabric.AsError(err); e != nil {
			return p, badValue("%s", e.Message)
		}
		return p, err
	}
	p.Kind, p.URL = PlaceValkey, p.text
	return p, nil
}

func parseRemotePlace(p Place) (Place, error) {
	base, err := ParseServerURL(p.text)
	if err != nil {
		return p, err
	}
	p.Kind, p.URL = PlaceRemote, base
	return p, nil
}

// ParseServerURL checks the base address of a server and trims trailing slashes.
func ParseServerURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return "", badValue("is no server address; write http://host:port")
	}
	if u.User != nil {
		return "", badValue("holds a user; give the token with --token-file")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return "", badValue("holds a query or fragment; write http://host:port")
	}
	return strings.TrimRight(s, "/"), nil
}

// redactURL replaces the password of a URL. One that holds a "/" or "?", which
// it should not, ends at the last "@" all the same.
func redactURL(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 || !strings.Contains(rest[:end], "@") && strings.Contains(rest[end:], "@") {
		end = len(rest)
	}
	at := strings.LastIndex(rest[:end], "@")
	if at < 0 {
		return s
	}
	user, _, hasPassword := strings.Cut(rest[:at], ":")
	if !hasPassword {
		return s
	}
	return scheme + "://" + user + ":" + Redacted + rest[at:]
}
