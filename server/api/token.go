package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Scopes is a set of scopes. (Specification 08, section 3.)
type Scopes uint8

// The scopes.
const (
	ScopeRead    Scopes = 1 << iota // lists, snapshots, results, streams, feeds
	ScopeSubmit                     // create, tags, priority
	ScopeSignal                     // deliver with a waitpoint token
	ScopeWork                       // worker routes; inputs, results and streams
	ScopeOperate                    // cancel, replay, revoke, ...; implies read
	ScopeAdmin                      // duties, drain; implies all

	// AllScopes is every scope.
	AllScopes = ScopeRead | ScopeSubmit | ScopeSignal | ScopeWork | ScopeOperate | ScopeAdmin
)

var scopeNames = []struct {
	name  string
	scope Scopes
}{
	{"read", ScopeRead}, {"submit", ScopeSubmit}, {"signal", ScopeSignal},
	{"work", ScopeWork}, {"operate", ScopeOperate}, {"admin", ScopeAdmin},
}

// Names returns the scopes of the set, in a fixed order.
func (s Scopes) Names() []string {
	names := []string{}
	for _, n := range scopeNames {
		if s&n.scope != 0 {
			names = append(names, n.name)
		}
	}
	return names
}

// implied returns the set with what its members imply.
func (s Scopes) implied() Scopes {
	if s&ScopeAdmin != 0 {
		return AllScopes
	}
	if s&ScopeOperate != 0 {
		s |= ScopeRead
	}
	return s
}

// Principal is whoever a request acts for.
type Principal struct {
	// Name is the token's name; "default" for the shared token, "anonymous" when
	// authentication is off.
	Name   string
	Scopes Scopes
	// Namespaces are those the token is limited to; nil means all.
	Namespaces []flowfabric.Namespace

	digest    [sha256.Size]byte
	expiresAt time.Time // zero: never
}

// anonymous is the caller when authentication is off.
var anonymous = &Principal{Name: "anonymous", Scopes: AllScopes}

// limited reports whether the principal sees only some namespaces.
func (p *Principal) limited() bool { return p.Namespaces != nil }

// sees reports whether the principal may see objects of the namespace.
func (p *Principal) sees(ns flowfabric.Namespace) bool {
	return p.Namespaces == nil || slices.Contains(p.Namespaces, ns)
}

// Limits of the shared token.
const (
	minTokenBytes = 16
	maxTokenBytes = 4096
)

// CheckToken reports why a bearer token is unacceptable as FF_API_TOKEN. The
// token itself never appears in the message.
func CheckToken(token string) error {
	if strings.TrimSpace(token) == "" {
		return flowfabric.InvalidInput("FF_API_TOKEN", "[redacted] is empty or blank")
	}
	if len(token) < minTokenBytes {
		return flowfabric.InvalidInput("FF_API_TOKEN", "[redacted] is %d bytes, must be at least %d", len(token), minTokenBytes)
	}
	if len(token) > maxTokenBytes {
		return flowfabric.InvalidInput("FF_API_TOKEN", "[redacted] is %d bytes, must be at most %d", len(token), maxTokenBytes)
	}
	for i := 0; i < len(token); i++ {
		if token[i] < 0x21 || token[i] > 0x7E {
			return flowfabric.InvalidInput("FF_API_TOKEN", "[redacted] has a byte at %d that is illegal in a header", i)
		}
	}
	return nil
}

// Tokens is the set of bearer tokens a server accepts. The zero value accepts
// none and reports authentication as off.
type Tokens struct {
	shared *Principal
	path   string
	named  atomic.Pointer[[]*Principal]
}

// NewTokens returns the set made of the shared token, when not empty, and of the
// tokens file, when a path is given. It fails with invalid_input naming the
// setting.
func NewTokens(shared, path string) (*Tokens, error) {
	t := &Tokens{path: path}
	if shared != "" {
		if err := CheckToken(shared); err != nil {
			return nil, err
		}
		t.shared = &Principal{Name: "default", Scopes: AllScopes, digest: sha256.Sum256([]byte(shared))}
	}
	return t, t.Reload()
}

// Enabled reports whether authentication is on.
func (t *Tokens) Enabled() bool { return t != nil && (t.shared != nil || t.path != "") }

// Reload reads the tokens file again. On failure the former set stays.
func (t *Tokens) Reload() error {
	if t == nil || t.path == "" {
		return nil
	}
	b, err := os.ReadFile(t.path)
	if err != nil {
		return flowfabric.InvalidInput("FF_API_TOKENS_FILE", "%q cannot be read", t.path).Wrap(err)
	}
	named, err := parseTokens(b)
	if err != nil {
		return flowfabric.InvalidInput("FF_API_TOKENS_FILE", "%q: %v", t.path, err)
	}
	t.named.Store(&named)
	return nil
}

// lookup returns the principal of a presented token, nil when it is unknown or
// expired. Every configured digest is compared, each in constant time.
func (t *Tokens) lookup(presented string, now time.Time) *Principal {
	if presented == "" || len(presented) > maxTokenBytes {
		return nil
	}
	digest := sha256.Sum256([]byte(presented))
	var found *Principal
	match := func(p *Principal) {
		if subtle.ConstantTimeCompare(p.digest[:], digest[:]) == 1 {
			found = p
		}
	}
	if t.shared != nil {
		match(t.shared)
	}
	if named := t.named.Load(); named != nil {
		for _, p := range *named {
			match(p)
		}
	}
	if found == nil || (!found.expiresAt.IsZero() && !now.Before(found.expiresAt)) {
		return nil
	}
	return found
}

// tokenEntry is one element of the tokens file.
type tokenEntry struct {
	Name       string                 `json:"name"`
	SHA256     string                 `json:"sha256"`
	Scopes     []string               `json:"scopes"`
	Namespaces []flowfabric.Namespace `json:"namespaces"`
	ExpiresAt  *json.RawMessage       `json:"expires_at"`
}

func parseTokens(b []byte) ([]*Principal, error) {
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	var entries []tokenEntry
	if err := dec.Decode(&entries); err != nil {
		return nil, fmt.Errorf("is no JSON array of tokens: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF { //nolint:errorlint // the decoder returns it as it is
		return nil, fmt.Errorf("has data after the array")
	}
	if entries == nil {
		return nil, fmt.Errorf("is no JSON array of tokens")
	}
	names := make(map[string]bool, len(entries))
	digests := make(map[[sha256.Size]byte]bool, len(entries))
	tokens := make([]*Principal, 0, len(entries))
	for i, e := range entries {
		p, err := e.principal()
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		if names[p.Name] {
			return nil, fmt.Errorf("entry %d: name %q is there twice", i, p.Name)
		}
		if digests[p.digest] {
			return nil, fmt.Errorf("entry %d: sha256 is there twice", i)
		}
		names[p.Name], digests[p.digest] = true, true
		tokens = append(tokens, p)
	}
	return tokens, nil
}

func (e tokenEntry) principal() (*Principal, error) {
	p := &Principal{Name: e.Name}
	if e.Name == "" || len(e.Name) > flowfabric.MaxCreatorIdentityBytes {
		return nil, fmt.Errorf("name must be 1..%d bytes", flowfabric.MaxCreatorIdentityBytes)
	}
	if n, err := hex.Decode(p.digest[:], []byte(clipHex(e.SHA256))); err != nil || n != sha256.Size || len(e.SHA256) != 2*sha256.Size {
		return nil, fmt.Errorf("sha256 must be %d hexadecimal digits", 2*sha256.Size)
	}
	for _, name := range e.Scopes {
		i := slices.IndexFunc(scopeNames, func(n struct {
			name  string
			scope Scopes
		}) bool {
			return n.name == name
		})
		if i < 0 {
			return nil, fmt.Errorf("scope %q is unknown", name)
		}
		p.Scopes |= scopeNames[i].scope
	}
	if p.Scopes == 0 {
		return nil, fmt.Errorf("scopes must name at least one of read, submit, signal, work, operate, admin")
	}
	p.Scopes = p.Scopes.implied()
	if err := e.limit(p); err != nil {
		return nil, err
	}
	return p, e.expire(p)
}

// clipHex keeps a digest from overrunning its array.
func clipHex(s string) string { return s[:min(len(s), 2*sha256.Size)] }

// limit sets the namespaces: absent or ["*"] is all of them.
func (e tokenEntry) limit(p *Principal) error {
	if e.Namespaces == nil {
		return nil
	}
	if len(e.Namespaces) == 0 {
		return fmt.Errorf(`namespaces is empty; leave it out, or say ["*"], for all`)
	}
	if len(e.Namespaces) == 1 && e.Namespaces[0] == flowfabric.AnyNamespace {
		return nil
	}
	for _, ns := range e.Namespaces {
		if err := ns.Validate(); err != nil {
			return fmt.Errorf("namespaces: %q is no namespace", string(ns))
		}
	}
	p.Namespaces = e.Namespaces
	return nil
}

// expire sets the end of the token's life: Unix milliseconds or RFC 3339 text.
func (e tokenEntry) expire(p *Principal) error {
	if e.ExpiresAt == nil {
		return nil
	}
	var ms int64
	if err := json.Unmarshal(*e.ExpiresAt, &ms); err == nil && ms > 0 {
		p.expiresAt = time.UnixMilli(ms)
		return nil
	}
	var at time.Time
	if err := json.Unmarshal(*e.ExpiresAt, &at); err != nil {
		return fmt.Errorf("expires_at must be Unix milliseconds or an RFC 3339 instant")
	}
	p.expiresAt = at
	return nil
}

// bearer returns the token of an Authorization header, and whether the header
// names the bearer scheme at all. The scheme word is case-insensitive.
func bearer(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}
