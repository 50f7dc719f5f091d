package wire

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// space skips white space.
func (d *decoder) space() {
	for d.at < len(d.doc) {
		switch d.doc[d.at] {
		case ' ', '\t', '\n', '\r':
			d.at++
		default:
			return
		}
	}
}

// peek returns the next byte, 0 at the end.
func (d *decoder) peek() byte {
	if d.at < len(d.doc) {
		return d.doc[d.at]
	}
	return 0
}

func (d *decoder) unexpected(want string) *fault {
	if d.at >= len(d.doc) {
		return d.fail("must be %s, but the document ends", want)
	}
	return d.fail("must be %s", want)
}

// literal takes a literal word, whose first byte has been seen.
func (d *decoder) literal(word string) bool {
	if len(d.doc)-d.at < len(word) || string(d.doc[d.at:d.at+len(word)]) != word {
		return false
	}
	d.at += len(word)
	return true
}

// enter opens an object or array.
func (d *decoder) enter(open byte, want string) *fault {
	if d.peek() != open {
		return d.unexpected(want)
	}
	if d.depth++; d.depth > MaxDepth {
		return d.fail("is nested deeper than %d", MaxDepth)
	}
	d.at++
	d.space()
	return nil
}

// next steps over what stands between two members: it reports whether the
// container ends. first is true before the first member.
func (d *decoder) next(closing byte, first bool) (end bool, f *fault) {
	switch c := d.peek(); {
	case c == closing:
		d.at++
		d.depth--
		return true, nil
	case first:
		return false, nil
	case c != ',':
		return false, d.fail("is broken: a comma or %q is missing", closing)
	}
	d.at++
	d.space()
	if d.peek() == closing {
		return false, d.fail("is broken: a comma stands before %q", closing)
	}
	return false, nil
}

// key reads a member's name and the colon. The bytes are valid until the next
// read.
func (d *decoder) key() ([]byte, *fault) {
	if d.peek() != '"' {
		return nil, d.fail("is broken: a field name is missing")
	}
	name, f := d.text()
	if f != nil {
		return nil, f
	}
	d.space()
	if d.peek() != ':' {
		return nil, d.fail("is broken: a colon is missing")
	}
	d.at++
	d.space()
	return name, nil
}

// text reads a string. The bytes are a part of the document when it has no
// escapes, else fresh.
func (d *decoder) text() ([]byte, *fault) {
	if d.peek() != '"' {
		return nil, d.unexpected("a string")
	}
	start := d.at + 1
	ascii := true
	for i := start; i < len(d.doc); i++ {
		switch c := d.doc[i]; {
		case c == '"':
			raw := d.doc[start:i]
			if !ascii && !utf8.Valid(raw) {
				return nil, d.fail("is not valid UTF-8")
			}
			d.at = i + 1
			return raw, nil
		case c == '\\':
			return d.escaped(start, i)
		case c < 0x20:
			return nil, d.fail("holds a control character that is not escaped")
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, d.fail("is a string without end")
}

// escaped reads the rest of a string whose first backslash stands at i.
func (d *decoder) escaped(start, i int) ([]byte, *fault) {
	end := bytes.IndexByte(d.doc[i:], '"')
	out := make([]byte, 0, i-start+max(end, 0)+32)
	out = append(out, d.doc[start:i]...)
	for i < len(d.doc) {
		switch c := d.doc[i]; {
		case c == '"':
			if !utf8.Valid(out) {
				return nil, d.fail("is not valid UTF-8")
			}
			d.at = i + 1
			return out, nil
		case c < 0x20:
			return nil, d.fail("holds a control character that is not escaped")
		case c != '\\':
			out = append(out, c)
			i++
		default:
			var ok bool
			if out, i, ok = d.escape(out, i+1); !ok {
				return nil, d.fail("holds a broken escape")
			}
		}
	}
	return nil, d.fail("is a string without end")
}

// escape appends what the escape behind the backslash at i-1 stands for.
func (d *decoder) escape(out []byte, i int) ([]byte, int, bool) {
	if i >= len(d.doc) {
		return out, i, false
	}
	switch c := d.doc[i]; c {
	case '"', '\\', '/':
		return append(out, c), i + 1, true
	case 'b':
		return append(out, '\b'), i + 1, true
	case 'f':
		return append(out, '\f'), i + 1, true
	case 'n':
		return append(out, '\n'), i + 1, true
	case 'r':
		return append(out, '\r'), i + 1, true
	case 't':
		return append(out, '\t'), i + 1, true
	case 'u':
	default:
		return out, i, false
	}
	r, ok := d.hex4(i + 1)
	if !ok {
		return out, i, false
	}
	i += 5
	if !utf16.IsSurrogate(r) {
		return utf8.AppendRune(out, r), i, true
	}
	if i+1 >= len(d.doc) || d.doc[i] != '\\' || d.doc[i+1] != 'u' {
		return out, i, false
	}
	low, ok := d.hex4(i + 2)
	if !ok {
		return out, i, false
	}
	pair := utf16.DecodeRune(r, low)
	if pair == utf8.RuneError {
		return out, i, false
	}
	return utf8.AppendRune(out, pair), i + 6, true
}

func (d *decoder) hex4(i int) (rune, bool) {
	if i+4 > len(d.doc) {
		return 0, false
	}
	var r rune
	for _, c := range d.doc[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// number is a JSON number in its parts.
type number struct {
	literal  []byte
	negative bool
	whole    []byte // digits before the point
	fraction []byte // digits behind it
	exponent int    // bounded: far beyond any range when it is large
}

const hugeExponent = 1 << 28

func (d *decoder) number() (n number, f *fault) {
	start := d.at
	if d.peek() == '-' {
		n.negative = true
		d.at++
	}
	n.whole = d.digits()
	if len(n.whole) == 0 {
		d.at = start
		return n, d.unexpected("a number")
	}
	if len(n.whole) > 1 && n.whole[0] == '0' {
		return n, d.fail("is a number with a leading zero")
	}
	if d.peek() == '.' {
		d.at++
		if n.fraction = d.digits(); len(n.fraction) == 0 {
			return n, d.fail("is a broken number")
		}
	}
	if c := d.peek(); c == 'e' || c == 'E' {
		if f := d.exponent(&n); f != nil {
			return n, f
		}
	}
	n.literal = d.doc[start:d.at]
	return n, nil
}

func (d *decoder) digits() []byte {
	start := d.at
	for d.at < len(d.doc) && d.doc[d.at] >= '0' && d.doc[d.at] <= '9' {
		d.at++
	}
	return d.doc[start:d.at]
}

func (d *decoder) exponent(n *number) *fault {
	d.at++
	sign := 1
	switch d.peek() {
	case '-':
		sign = -1
		d.at++
	case '+':
		d.at++
	}
	digits := d.digits()
	if len(digits) == 0 {
		return d.fail("is a broken number")
	}
	for _, c := range digits {
		n.exponent = min(n.exponent*10+int(c-'0'), hugeExponent)
	}
	n.exponent *= sign
	return nil
}

// integer returns the value of a number that is integral and lies within
// ±(2^53-1), however it is written.
func (d *decoder) integer() (int64, *fault) {
	n, f := d.number()
	if f != nil {
		return 0, f
	}
	var v int64
	if n.fraction == nil && n.exponent == 0 {
		if len(n.whole) > 16 {
			return 0, d.fail("is outside ±(2^53-1)")
		}
		for _, c := range n.whole {
			v = v*10 + int64(c-'0')
		}
	} else if v, f = d.shifted(n); f != nil {
		return 0, f
	}
	if v > MaxInteger {
		return 0, d.fail("is outside ±(2^53-1)")
	}
	if n.negative {
		v = -v
	}
	return v, nil
}

// shifted is the integral value of a number with a fraction or an exponent.
func (d *decoder) shifted(n number) (int64, *fault) {
	digits := append(bytes.Clone(n.whole), n.fraction...)
	shift := n.exponent - len(n.fraction)
	digits = bytes.TrimLeft(digits, "0")
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
		shift++
	}
	switch {
	case len(digits) == 0:
		return 0, nil
	case shift < 0:
		return 0, d.fail("must be an integer")
	case len(digits)+shift > 16:
		return 0, d.fail("is outside ±(2^53-1)")
	}
	v, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil {
		return 0, d.fail("is outside ±(2^53-1)")
	}
	for range shift {
		v *= 10
	}
	return v, nil
}

// skip checks and steps over any value.
func (d *decoder) skip() *fault {
	switch c := d.peek(); c {
	case '{':
		return d.skipObject()
	case '[':
		return d.skipArray()
	case '"':
		_, f := d.text()
		return f
	case 't':
		if d.literal("true") {
			return nil
		}
	case 'f':
		if d.literal("false") {
			return nil
		}
	case 'n':
		if d.literal("null") {
			return nil
		}
	default:
		if c == '-' || c >= '0' && c <= '9' {
			_, f := d.number()
			return f
		}
	}
	return d.unexpected("a JSON value")
}

func (d *decoder) skipObject() *fault {
	if f := d.enter('{', "an object"); f != nil {
		return f
	}
	for first := true; ; first = false {
		end, f := d.next('}', first)
		if end || f != nil {
			return f
		}
		name, f := d.key()
		if f != nil {
			return f
		}
		if f := d.skip(); f != nil {
			return f.inField(string(name))
		}
		d.space()
	}
}

func (d *decoder) skipArray() *fault {
	if f := d.enter('[', "an array"); f != nil {
		return f
	}
	for i := 0; ; i++ {
		end, f := d.next(']', i == 0)
		if end || f != nil {
			return f
		}
		if f := d.skip(); f != nil {
			return f.inItem(i)
		}
		d.space()
	}
}

// distinctNames refuses a document, already known to be JSON, in which an object
// has two fields of one name. field is where it stands in the body.
func distinctNames(field string, doc []byte) error {
	d := decoder{doc: doc}
	if f := d.distinct(); f != nil {
		return f.inField(field).error()
	}
	return nil
}

func (d *decoder) distinct() *fault {
	switch d.peek() {
	case '{':
		return d.distinctObject()
	case '[':
		return d.distinctArray()
	}
	return d.skip()
}

func (d *decoder) distinctObject() *fault {
	if f := d.enter('{', "an object"); f != nil {
		return f
	}
	seen := make(map[string]bool)
	for first := true; ; first = false {
		end, f := d.next('}', first)
		if end || f != nil {
			return f
		}
		text, f := d.key()
		if f != nil {
			return f
		}
		name := string(text)
		if seen[name] {
			return d.fail("is given twice").inField(name)
		}
		seen[name] = true
		if f := d.distinct(); f != nil {
			return f.inField(name)
		}
		d.space()
	}
}

func (d *decoder) distinctArray() *fault {
	if f := d.enter('[', "an array"); f != nil {
		return f
	}
	for i := 0; ; i++ {
		end, f := d.next(']', i == 0)
		if end || f != nil {
			return f
		}
		if f := d.distinct(); f != nil {
			return f.inItem(i)
		}
		d.space()
	}
}
