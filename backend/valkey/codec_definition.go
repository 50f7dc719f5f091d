package valkey

import (
	"bytes"
	"strconv"
	"strings"
	"sync"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// definition is what an execution was created with and what never changes: the
// key def. The payload is there only where the whole of it was read.
type definition struct {
	digest, kind, creator string
	encoding, key         string
	policy                *flowfabric.Policy
	payload               []byte
}

const (
	digestBytes = 64
	// kindBytes is how much of def holds the kind for sure: digest, five
	// lengths, kind.
	kindBytes = digestBytes + 40 + flowfabric.MaxExecutionKindBytes
)

// encodeDef is the text of def: digest, the lengths of kind, creator, encoding,
// idempotency key and policy, those five, the payload.
func encodeDef(p *rules.Prepared) string {
	a, policy := &p.Args, p.PolicyJSON
	if len(policy) == 0 {
		policy = emptyPolicy
	}
	var lengths [64]byte
	head := lengths[:0]
	for i, n := range [...]int{len(a.Kind), len(a.CreatorIdentity), len(a.PayloadEncoding), len(a.IdempotencyKey), len(policy)} {
		if i > 0 {
			head = append(head, ' ')
		}
		head = strconv.AppendInt(head, int64(n), 10)
	}
	head = append(head, '\n')
	var b strings.Builder
	b.Grow(digestBytes + len(head) + len(a.Kind) + len(a.CreatorIdentity) + len(a.PayloadEncoding) + len(a.IdempotencyKey) + len(policy) +
		len(a.Payload))
	b.WriteString(p.State.Exec.SpecDigest)
	b.Write(head)
	b.WriteString(a.Kind)
	b.WriteString(a.CreatorIdentity)
	b.WriteString(a.PayloadEncoding)
	b.WriteString(a.IdempotencyKey)
	b.Write(policy)
	b.Write(a.Payload)
	return b.String()
}

var emptyPolicy = []byte("{}")

// noPolicy is the policy of every execution created without one. It is shared
// and never written to.
var noPolicy = &flowfabric.Policy{}

// parseDef reads a definition, whole or without its payload. The payload is a
// part of b.
func parseDef(op string, b []byte) (definition, error) {
	var def definition
	sizes, rest, ok := defHead(b)
	if !ok {
		return def, corrupt(op, "definition", "malformed header")
	}
	def.digest = string(b[:digestBytes])
	var policy []byte
	for i, to := range [...]*string{&def.kind, &def.creator, &def.encoding, &def.key, nil} {
		if len(rest) < sizes[i] {
			return def, corrupt(op, "definition", "truncated")
		}
		piece := rest[:sizes[i]]
		rest = rest[sizes[i]:]
		if to == nil {
			policy = piece
			continue
		}
		*to = string(piece)
	}
	p, err := policies.parse(policy)
	if err != nil {
		return def, corrupt(op, "policy", "%v", err)
	}
	def.policy, def.payload = p, rest[:len(rest):len(rest)]
	return def, nil
}

// defHead reads the five lengths and returns what follows them.
func defHead(b []byte) (sizes [5]int, rest []byte, ok bool) {
	if len(b) < digestBytes {
		return sizes, nil, false
	}
	rest = b[digestBytes:]
	for i := range sizes {
		end := byte(' ')
		if i == len(sizes)-1 {
			end = '\n'
		}
		digits := 0
		for digits < len(rest) && digits < 8 && rest[digits] >= '0' && rest[digits] <= '9' {
			sizes[i] = sizes[i]*10 + int(rest[digits]-'0')
			digits++
		}
		if digits == 0 || digits == len(rest) || rest[digits] != end {
			return sizes, nil, false
		}
		rest = rest[digits+1:]
	}
	return sizes, rest, true
}

// kindOf reads the kind from the first kindBytes of a definition.
func kindOf(op string, b []byte) (string, error) {
	sizes, rest, ok := defHead(b)
	if !ok || len(rest) < sizes[0] {
		return "", corrupt(op, "execution_kind", "malformed header")
	}
	return string(rest[:sizes[0]]), nil
}

// policies remembers the policies read before by their text: most executions of
// a deployment carry one of a few.
var policies policyCache

const (
	maxCachedPolicies    = 512
	maxCachedPolicyBytes = 4096
)

// policyCache keeps parsed policies, which nobody writes to. When it is full it
// starts anew.
type policyCache struct {
	mu    sync.RWMutex
	known map[string]*flowfabric.Policy
}

func (c *policyCache) parse(text []byte) (*flowfabric.Policy, error) {
	if len(text) == 0 || bytes.Equal(text, emptyPolicy) {
		return noPolicy, nil
	}
	c.mu.RLock()
	p := c.known[string(text)]
	c.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	p, err := flowfabric.ParsePolicy(text)
	if err != nil || len(text) > maxCachedPolicyBytes {
		return p, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) == maxCachedPolicies {
		c.known = make(map[string]*flowfabric.Policy)
	}
	c.known[string(text)] = p
	return p, nil
}
