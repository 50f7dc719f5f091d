package sqlstore

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"

	"github.com/flowfabric/flowfabric"
)

// Records are stored as a sequence of fields, each a one-byte tag and a value:
// an unsigned varint, or a length-prefixed string. Absent fields take no room.
// Tags are part of the file format: never renumber one, never use one again.
// A UUID in canonical form takes length 0 and 16 bytes.

type encoder struct{ b []byte }

func (e *encoder) uint(tag byte, v uint64) {
	if v != 0 {
		e.b = append(e.b, tag)
		e.b = binary.AppendUvarint(e.b, v)
	}
}

func (e *encoder) ms(tag byte, v flowfabric.Millis) { e.uint(tag, uint64(v)) }

// opt stores an optional number as its value plus one.
func (e *encoder) opt(tag byte, v *uint32) {
	if v != nil {
		e.uint(tag, uint64(*v)+1)
	}
}

func (e *encoder) flag(tag byte, v bool) {
	if v {
		e.b = append(e.b, tag, 1)
	}
}

func (e *encoder) str(tag byte, v string) {
	if v != "" {
		e.b = append(e.b, tag)
		e.rawString(v)
	}
}

func (e *encoder) rawString(v string) {
	if len(v) == 36 {
		if u, ok := parseUUID(v); ok {
			e.b = append(e.b, 0)
			e.b = append(e.b, u[:]...)
			return
		}
	}
	e.b = binary.AppendUvarint(e.b, uint64(len(v))+1)
	e.b = append(e.b, v...)
}

func (e *encoder) strs(tag byte, list []string) {
	if len(list) == 0 {
		return
	}
	e.b = append(e.b, tag)
	e.b = binary.AppendUvarint(e.b, uint64(len(list)))
	for _, v := range list {
		e.rawString(v)
	}
}

// nested stores a record of its own.
func (e *encoder) nested(tag byte, body []byte) {
	e.b = append(e.b, tag)
	e.b = binary.AppendUvarint(e.b, uint64(len(body)))
	e.b = append(e.b, body...)
}

// decoder walks the fields of a record; the first fault sticks and names the
// field.
type decoder struct {
	b   []byte
	op  string
	err error
}

func (d *decoder) fail(field, format string, args ...any) {
	if d.err == nil {
		d.err = corrupt(d.op, field, fmt.Sprintf(format, args...))
	}
}

func corrupt(op, field, message string) *flowfabric.Error {
	return flowfabric.NewError(flowfabric.CodeCorruptRecord, "%s: %s: %s", op, field, message).
		With("field", field).With("operation", op)
}

func (d *decoder) next() (byte, bool) {
	if d.err != nil || len(d.b) == 0 {
		return 0, false
	}
	tag := d.b[0]
	d.b = d.b[1:]
	return tag, true
}

func (d *decoder) uint(field string) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail(field, "malformed number")
		d.b = nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint32(field string) uint32 {
	v := d.uint(field)
	if v > math.MaxUint32 {
		d.fail(field, "number %d out of range", v)
	}
	return uint32(v)
}

func (d *decoder) opt(field string) *uint32 {
	v := d.uint(field)
	if v == 0 || v-1 > math.MaxUint32 {
		d.fail(field, "number out of range")
		return nil
	}
	n := uint32(v - 1)
	return &n
}

func (d *decoder) ms(field string) flowfabric.Millis {
	v := d.uint(field)
	if v > math.MaxInt64 {
		d.fail(field, "instant out of range")
	}
	return flowfabric.Millis(v)
}

func (d *decoder) flag(field string) bool {
	v := d.uint(field)
	if v > 1 {
		d.fail(field, "%d is no boolean", v)
	}
	return v == 1
}

func (d *decoder) str(field string) string {
	n := d.uint(field)
	if d.err != nil {
		return ""
	}
	if n == 0 {
		if len(d.b) < 16 {
			d.fail(field, "truncated UUID")
			d.b = nil
			return ""
		}
		s := formatUUID(d.b[:16])
		d.b = d.b[16:]
		return s
	}
	n--
	if n > uint64(len(d.b)) {
		d.fail(field, "truncated text")
		d.b = nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) strs(field string) []string {
	n := d.uint(field)
	if n > uint64(len(d.b)) {
		d.fail(field, "truncated list")
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		list = append(list, d.str(field))
	}
	return list
}

func (d *decoder) nested(field string) []byte {
	n := d.uint(field)
	if n > uint64(len(d.b)) {
		d.fail(field, "truncated record")
		d.b = nil
		return nil
	}
	body := d.b[:n]
	d.b = d.b[n:]
	return body
}

// enum is a closed list of labels stored as its index.
type enum[T ~string] struct {
	name   string
	labels []T
	index  map[T]uint64
}

func newEnum[T ~string](name string, labels ...T) enum[T] {
	e := enum[T]{name: name, labels: labels, index: make(map[T]uint64, len(labels))}
	for i, l := range labels {
		e.index[l] = uint64(i)
	}
	return e
}

func (e *enum[T]) of(v T) uint64 {
	for i, l := range e.labels {
		if l == v {
			return uint64(i)
		}
	}
	return uint64(len(e.labels)) // decodes as corrupt
}

func (e *enum[T]) label(d *decoder, v uint64) T {
	if v >= uint64(len(e.labels)) {
		d.fail(e.name, "unknown value %d", v)
		var zero T
		return zero
	}
	return e.labels[v]
}

func parseUUID(s string) (u [16]byte, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, false
	}
	at := 0
	for i := 0; i < 16; i++ {
		if at == 8 || at == 13 || at == 18 || at == 23 {
			at++
		}
		hi, lo := unhex(s[at]), unhex(s[at+1])
		if hi > 15 || lo > 15 {
			return u, false
		}
		u[i] = hi<<4 | lo
		at += 2
	}
	return u, true
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

func formatUUID(b []byte) string {
	var out [36]byte
	hex.Encode(out[0:8], b[0:4])
	out[8] = '-'
	hex.Encode(out[9:13], b[4:6])
	out[13] = '-'
	hex.Encode(out[14:18], b[6:8])
	out[18] = '-'
	hex.Encode(out[19:23], b[8:10])
	out[23] = '-'
	hex.Encode(out[24:36], b[10:16])
	return string(out[:])
}
