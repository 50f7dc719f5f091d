package flowfabric

import (
	"encoding/json"
	"unicode/utf8"
)

// jsonKind is the type of a parsed JSON value.
type jsonKind byte

const (
	jsonNull jsonKind = iota
	jsonBool
	jsonNumber
	jsonString
	jsonArray
	jsonObject
)

func (k jsonKind) String() string {
	return [...]string{"null", "boolean", "number", "string", "array", "object"}[k]
}

// jsonValue is one value of a document read by [parseJSON].
type jsonValue struct {
	kind jsonKind
	// text is the literal of a number or boolean, or the decoded string.
	text string
	// items are the elements of an array or the values of an object, whose names
	// are keys.
	items []jsonValue
	keys  []string
	// start and end delimit the value in the document.
	start, end int
}

// jsonFault says where and why a document is not acceptable JSON. path leads to
// the value that was being read.
type jsonFault struct {
	offset int
	what   string
	path   []string
}

// maxJSONDepth bounds nesting; a policy needs five levels.
const maxJSONDepth = 32

// parseJSON reads one document strictly: RFC 8259 to the letter, valid UTF-8, no
// duplicate names, nothing behind the value.
func parseJSON(doc []byte) (jsonValue, *jsonFault) {
	p := jsonParser{doc: doc}
	v, ok := p.value(0)
	if !ok {
		return v, &p.fault
	}
	p.space()
	if p.at < len(doc) {
		return v, &jsonFault{offset: p.at, what: "trailing data"}
	}
	return v, nil
}

type jsonParser struct {
	doc   []byte
	at    int
	fault jsonFault
	path  []string
}

func (p *jsonParser) fail(what string) bool {
	p.fault = jsonFault{offset: p.at, what: what, path: append([]string(nil), p.path...)}
	return false
}

func (p *jsonParser) space() {
	for p.at < len(p.doc) {
		switch p.doc[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *jsonParser) value(depth int) (v jsonValue, ok bool) {
	p.space()
	if p.at >= len(p.doc) {
		return v, p.fail("unexpected end")
	}
	if depth > maxJSONDepth {
		return v, p.fail("nested too deeply")
	}
	v.start = p.at
	switch c := p.doc[p.at]; {
	case c == '{':
		v.kind = jsonObject
		ok = p.object(&v, depth)
	case c == '[':
		v.kind = jsonArray
		ok = p.array(&v, depth)
	case c == '"':
		v.kind = jsonString
		v.text, ok = p.str()
	case c == '-' || c >= '0' && c <= '9':
		v.kind = jsonNumber
		ok = p.number()
		v.text = string(p.doc[v.start:p.at])
	default:
		v.kind, v.text, ok = p.literal()
	}
	v.end = p.at
	return v, ok
}

func (p *jsonParser) literal() (jsonKind, string, bool) {
	for _, l := range [...]struct {
		text string
		kind jsonKind
	}{{"null", jsonNull}, {"true", jsonBool}, {"false", jsonBool}} {
		if end := p.at + len(l.text); end <= len(p.doc) && string(p.doc[p.at:end]) == l.text {
			p.at = end
			return l.kind, l.text, true
		}
	}
	return jsonNull, "", p.fail("unexpected character")
}

func (p *jsonParser) object(v *jsonValue, depth int) bool {
	p.at++
	for {
		p.space()
		if p.at < len(p.doc) && p.doc[p.at] == '}' && len(v.keys) == 0 {
			p.at++
			return true
		}
		if p.at >= len(p.doc) || p.doc[p.at] != '"' {
			return p.fail("expected a field name")
		}
		key, ok := p.str()
		if !ok {
			return false
		}
		p.path = append(p.path, key)
		if v.has(key) {
			return p.fail("duplicate field")
		}
		p.space()
		if p.at >= len(p.doc) || p.doc[p.at] != ':' {
			return p.fail("expected ':'")
		}
		p.at++
		item, ok := p.value(depth + 1)
		if !ok {
			return false
		}
		p.path = p.path[:len(p.path)-1]
		v.keys = append(v.keys, key)
		v.items = append(v.items, item)
		if done, ok := p.separator('}'); done || !ok {
			return ok
		}
	}
}

func (p *jsonParser) array(v *jsonValue, depth int) bool {
	p.at++
	p.space()
	if p.at < len(p.doc) && p.doc[p.at] == ']' {
		p.at++
		return true
	}
	for {
		item, ok := p.value(depth + 1)
		if !ok {
			return false
		}
		v.items = append(v.items, item)
		if done, ok := p.separator(']'); done || !ok {
			return ok
		}
	}
}

// separator consumes ',' or the closing bracket.
func (p *jsonParser) separator(closing byte) (done, ok bool) {
	p.space()
	if p.at >= len(p.doc) {
		return false, p.fail("unexpected end")
	}
	switch p.doc[p.at] {
	case ',':
		p.at++
		return false, true
	case closing:
		p.at++
		return true, true
	}
	return false, p.fail("expected ',' or '" + string(closing) + "'")
}

func (p *jsonParser) str() (string, bool) {
	start := p.at
	escaped := false
	for p.at++; p.at < len(p.doc); p.at++ {
		switch c := p.doc[p.at]; {
		case c == '\\':
			escaped = true
			p.at++
		case c < 0x20:
			return "", p.fail("control character in a string")
		case c == '"':
			p.at++
			return p.unquote(p.doc[start:p.at], escaped)
		}
	}
	return "", p.fail("unexpected end of a string")
}

func (p *jsonParser) unquote(quoted []byte, escaped bool) (string, bool) {
	if !utf8.Valid(quoted) {
		return "", p.fail("string is not valid UTF-8")
	}
	if !escaped {
		return string(quoted[1 : len(quoted)-1]), true
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return "", p.fail("malformed escape in a string")
	}
	return s, true
}

func (p *jsonParser) number() bool {
	if p.doc[p.at] == '-' {
		p.at++
	}
	start := p.at
	if !p.digits() || p.doc[start] == '0' && p.at-start > 1 {
		return p.fail("malformed number")
	}
	if p.at < len(p.doc) && p.doc[p.at] == '.' {
		p.at++
		if !p.digits() {
			return p.fail("malformed number")
		}
	}
	if p.at < len(p.doc) && (p.doc[p.at] == 'e' || p.doc[p.at] == 'E') {
		p.at++
		if p.at < len(p.doc) && (p.doc[p.at] == '+' || p.doc[p.at] == '-') {
			p.at++
		}
		if !p.digits() {
			return p.fail("malformed number")
		}
	}
	return true
}

func (p *jsonParser) digits() bool {
	start := p.at
	for p.at < len(p.doc) && p.doc[p.at] >= '0' && p.doc[p.at] <= '9' {
		p.at++
	}
	return p.at > start
}

// has reports whether the object has a field of that name.
func (v *jsonValue) has(key string) bool {
	for _, k := range v.keys {
		if k == key {
			return true
		}
	}
	return false
}
