package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/flowfabric/flowfabric"
)

// MaxDepth is how deep arrays and objects of a body may be nested.
const MaxDepth = 64

// maxFaultName is how much of a client's own field name an error repeats.
const maxFaultName = 128

// Decode reads one JSON document of at most limit bytes from r into the struct v
// points to, strictly: it refuses unknown fields (names are compared exactly),
// duplicate keys, null for a required field, an absent required field, numbers
// that are not integral or outside ±(2^53-1), invalid UTF-8, malformed base64,
// nesting deeper than [MaxDepth], and anything behind the document. Such a fault
// is invalid_input with the path of the field in the detail "field", "body" when
// it is of the document as a whole. A body over the limit is payload_too_large
// with the detail "limit_bytes". An empty body stands for {}. A field is
// required when its json tag lacks omitempty. (Specification 08, sections 2.1
// and 7.)
//
// Strings are taken as they are: identifiers are for the operation to check.
func Decode(r io.Reader, limit int64, v any) error {
	buf := buffers.Get().(*bytes.Buffer)
	defer release(buf)
	n, err := buf.ReadFrom(io.LimitReader(r, limit+1))
	if n > limit {
		return tooLarge(limit)
	}
	if err != nil {
		return readError(err)
	}
	return Unmarshal(buf.Bytes(), v)
}

// Unmarshal is [Decode] of a document in memory. v keeps nothing of doc.
func Unmarshal(doc []byte, v any) error {
	d := decoder{doc: doc}
	d.space()
	if d.at == len(doc) {
		d.doc, d.at = emptyObject, 0
	}
	return d.run(v)
}

// UnmarshalResponse reads a server's answer: unknown fields are skipped, null
// and absent fields leave the zero value.
func UnmarshalResponse(doc []byte, v any) error {
	d := decoder{doc: doc, lenient: true}
	return d.run(v)
}

var emptyObject = []byte("{}")

// maxPooledBuffer keeps rare large bodies from staying in memory.
const maxPooledBuffer = 4 << 20

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func release(buf *bytes.Buffer) {
	if buf.Cap() > maxPooledBuffer {
		return
	}
	buf.Reset()
	buffers.Put(buf)
}

func tooLarge(limit int64) error {
	return flowfabric.NewError(flowfabric.CodePayloadTooLarge, "the body is over %d bytes", limit).With("limit_bytes", limit)
}

func readError(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return tooLarge(large.Limit)
	}
	return flowfabric.InvalidInput("body", "can't be read to its end").Wrap(err)
}

// decoder is one pass over a document.
type decoder struct {
	doc     []byte
	at      int
	depth   int
	lenient bool
}

// fault says what is wrong and, step by step from the inside, where.
type fault struct {
	what string
	path []string
	// document is set for a fault of the document's form, an unknown or a repeated
	// field, which refuses all of a batch wherever it stands.
	document bool
}

func (d *decoder) fail(format string, args ...any) *fault {
	return &fault{what: fmt.Sprintf(format, args...)}
}

// ofDocument marks a fault of the document's form.
func (f *fault) ofDocument() *fault {
	f.document = true
	return f
}

func (f *fault) inField(name string) *fault {
	if name == "" {
		name = `""`
	}
	if len(name) > maxFaultName {
		name = strings.ToValidUTF8(name[:maxFaultName], "") + "…"
	}
	f.path = append(f.path, name)
	return f
}

func (f *fault) inItem(i int) *fault {
	f.path = append(f.path, "["+strconv.Itoa(i)+"]")
	return f
}

func (f *fault) error() error {
	var b strings.Builder
	for i := len(f.path) - 1; i >= 0; i-- {
		if b.Len() > 0 && f.path[i][0] != '[' {
			b.WriteByte('.')
		}
		b.WriteString(f.path[i])
	}
	if b.Len() == 0 {
		b.WriteString("body")
	}
	return flowfabric.InvalidInput(b.String(), "%s", f.what)
}

func (d *decoder) run(v any) error {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		panic("wire: decoding needs a pointer")
	}
	d.space()
	if f := readerOf(target.Type().Elem())(d, target.Elem()); f != nil {
		return f.error()
	}
	d.space()
	if d.at < len(d.doc) {
		return d.fail("has data behind the document").error()
	}
	return nil
}
