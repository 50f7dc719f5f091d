package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// reader decodes the value at the decoder's place into v. It never sees null
// where that stands for "absent".
type reader func(d *decoder, v reflect.Value) *fault

var (
	readers        sync.Map // reflect.Type to reader
	rawMessageType = reflect.TypeFor[json.RawMessage]()
	stringMapType  = reflect.TypeFor[map[string]string]()
	unmarshalType  = reflect.TypeFor[json.Unmarshaler]()
)

// readerOf returns the reader of a type, made once. It panics for a type that
// has none, which a test of the request types finds.
func readerOf(t reflect.Type) reader {
	if r, ok := readers.Load(t); ok {
		return r.(reader)
	}
	r := newReader(t)
	readers.Store(t, r)
	return r
}

func newReader(t reflect.Type) reader {
	switch {
	case t == rawMessageType:
		return readRaw
	case t == stringMapType:
		return readStringMap
	case reflect.PointerTo(t).Implements(unmarshalType):
		return readUnmarshaler
	}
	switch t.Kind() {
	case reflect.String:
		return readString
	case reflect.Bool:
		return readBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return readInt
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return readUint
	case reflect.Float64:
		return readFloat
	case reflect.Pointer:
		return readPointer(readerOf(t.Elem()), t.Elem())
	case reflect.Struct:
		return newObject(t).read
	case reflect.Map:
		return readMap(t)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return readBytes
		}
		return readSlice(t)
	}
	panic("wire: no reader for " + t.String())
}

func readString(d *decoder, v reflect.Value) *fault {
	text, f := d.text()
	if f != nil {
		return f
	}
	v.SetString(string(text))
	return nil
}

func readBool(d *decoder, v reflect.Value) *fault {
	switch {
	case d.literal("true"):
		v.SetBool(true)
	case d.literal("false"):
		v.SetBool(false)
	default:
		return d.unexpected("true or false")
	}
	return nil
}

func readInt(d *decoder, v reflect.Value) *fault {
	n, f := d.integer()
	if f != nil {
		return f
	}
	if v.OverflowInt(n) {
		return d.fail("is outside the range of a %d bit integer", v.Type().Bits())
	}
	v.SetInt(n)
	return nil
}

func readUint(d *decoder, v reflect.Value) *fault {
	n, f := d.integer()
	if f != nil {
		return f
	}
	if n < 0 {
		return d.fail("must not be negative")
	}
	if v.OverflowUint(uint64(n)) {
		return d.fail("is too large")
	}
	v.SetUint(uint64(n))
	return nil
}

func readFloat(d *decoder, v reflect.Value) *fault {
	n, f := d.number()
	if f != nil {
		return f
	}
	x, err := strconv.ParseFloat(string(n.literal), 64)
	if err != nil {
		return d.fail("is out of range")
	}
	v.SetFloat(x)
	return nil
}

func readPointer(read reader, t reflect.Type) reader {
	return func(d *decoder, v reflect.Value) *fault {
		p := reflect.New(t)
		if f := read(d, p.Elem()); f != nil {
			return f
		}
		v.Set(p)
		return nil
	}
}

func readRaw(d *decoder, v reflect.Value) *fault {
	start := d.at
	if f := d.skip(); f != nil {
		return f
	}
	v.SetBytes(bytes.Clone(d.doc[start:d.at]))
	return nil
}

func readUnmarshaler(d *decoder, v reflect.Value) *fault {
	start := d.at
	if f := d.skip(); f != nil {
		return f
	}
	if err := v.Addr().Interface().(json.Unmarshaler).UnmarshalJSON(d.doc[start:d.at]); err != nil {
		return d.fail("does not decode")
	}
	return nil
}

var base64Strict = base64.StdEncoding.Strict()

func readBytes(d *decoder, v reflect.Value) *fault {
	if d.peek() != '"' {
		return d.unexpected("a base64 string")
	}
	if raw, ok := d.plainBase64(); ok {
		v.SetBytes(raw)
		return nil
	}
	text, f := d.text()
	if f != nil {
		return f
	}
	raw := make([]byte, base64Strict.DecodedLen(len(text)))
	n, err := base64Strict.Decode(raw, text)
	if err != nil || bytes.ContainsAny(text, "\r\n") {
		return d.fail("is not standard base64 with padding")
	}
	v.SetBytes(raw[:n])
	return nil
}

// plainBase64 decodes a string without escapes, as nearly every client sends it,
// in one go. Nothing is taken when it does not decode.
func (d *decoder) plainBase64() ([]byte, bool) {
	start := d.at + 1
	n := bytes.IndexByte(d.doc[start:], '"')
	if n < 0 || n%4 != 0 {
		return nil, false
	}
	text := d.doc[start : start+n]
	raw := make([]byte, base64Strict.DecodedLen(n))
	m, err := base64Strict.Decode(raw, text)
	if err != nil || base64Strict.EncodedLen(m) != n { // the decoder passes over line ends
		return nil, false
	}
	d.at = start + n + 1
	return raw[:m], true
}

func readSlice(t reflect.Type) reader {
	read := readerOf(t.Elem())
	own := reflect.PointerTo(t.Elem()).Implements(independentType)
	return func(d *decoder, v reflect.Value) *fault {
		if f := d.enter('[', "an array"); f != nil {
			return f
		}
		v.Set(reflect.MakeSlice(t, 0, 0))
		for i := 0; ; i++ {
			end, f := d.next(']', i == 0)
			if end || f != nil {
				return f
			}
			if d.peek() == 'n' {
				return d.fail("must not be null").inItem(i)
			}
			v.Grow(1)
			v.SetLen(i + 1)
			v.Index(i).SetZero()
			start, depth := d.at, d.depth
			if f := read(d, v.Index(i)); f != nil {
				if !own || !d.ownFault(f, start, depth, v.Index(i)) {
					return f.inItem(i)
				}
			}
			d.space()
		}
	}
}

// independent is an item of a batch that answers for its own values: a fault in
// one is kept for the answer to that item, and the others are done.
type independent interface{ refuse(err error) }

var independentType = reflect.TypeFor[independent]()

// ownFault keeps a fault of an item's values in the item and steps over the rest
// of it. It reports false for a fault that is the whole document's: of its form,
// or when the item is not JSON to its end.
func (d *decoder) ownFault(f *fault, start, depth int, item reflect.Value) bool {
	if f.document {
		return false
	}
	d.at, d.depth = start, depth
	if d.skip() != nil {
		return false
	}
	item.Addr().Interface().(independent).refuse(f.error())
	return true
}

func readStringMap(d *decoder, v reflect.Value) *fault {
	if f := d.enter('{', "an object"); f != nil {
		return f
	}
	m := make(map[string]string)
	for first := true; ; first = false {
		end, f := d.next('}', first)
		if f != nil {
			return f
		}
		if end {
			v.Set(reflect.ValueOf(m))
			return nil
		}
		name, f := d.key()
		if f != nil {
			return f
		}
		key := string(name)
		if _, dup := m[key]; dup && !d.lenient {
			return d.fail("is given twice").ofDocument().inField(key)
		}
		text, f := d.text()
		if f != nil {
			return f.inField(key)
		}
		m[key] = string(text)
		d.space()
	}
}

func readMap(t reflect.Type) reader {
	if t.Key().Kind() != reflect.String {
		panic("wire: no reader for " + t.String())
	}
	read := readerOf(t.Elem())
	return func(d *decoder, v reflect.Value) *fault {
		if f := d.enter('{', "an object"); f != nil {
			return f
		}
		v.Set(reflect.MakeMap(t))
		for first := true; ; first = false {
			end, f := d.next('}', first)
			if end || f != nil {
				return f
			}
			name, f := d.key()
			if f != nil {
				return f
			}
			key := reflect.New(t.Key()).Elem()
			key.SetString(string(name))
			if v.MapIndex(key).IsValid() && !d.lenient {
				return d.fail("is given twice").ofDocument().inField(key.String())
			}
			if d.peek() == 'n' {
				return d.fail("must not be null").inField(key.String())
			}
			value := reflect.New(t.Elem()).Elem()
			if f := read(d, value); f != nil {
				return f.inField(key.String())
			}
			v.SetMapIndex(key, value)
			d.space()
		}
	}
}

// object decodes a struct.
type object struct {
	fields []field
	byName map[string]int
	// required has the bit of every required field.
	required uint64
}

type field struct {
	name  string
	index []int
	read  reader
}

// newObject lists a struct's fields as encoding/json does: embedded structs are
// part of it, a shallower field hides a deeper one of the same name.
func newObject(t reflect.Type) *object {
	o := &object{byName: make(map[string]int)}
	o.add(t, nil)
	if len(o.fields) > 64 {
		panic("wire: more than 64 fields in " + t.String())
	}
	return o
}

func (o *object) add(t reflect.Type, index []int) {
	var embedded []int
	for i := range t.NumField() {
		f := t.Field(i)
		tag, tagged := f.Tag.Lookup("json")
		if f.Anonymous && !tagged {
			embedded = append(embedded, i)
			continue
		}
		if tag == "-" || !f.IsExported() {
			continue
		}
		o.addField(f, tag, append(append([]int(nil), index...), i))
	}
	for _, i := range embedded {
		o.add(t.Field(i).Type, append(append([]int(nil), index...), i))
	}
}

func (o *object) addField(f reflect.StructField, tag string, index []int) {
	name, options, _ := strings.Cut(tag, ",")
	if name == "" {
		name = f.Name
	}
	if _, hidden := o.byName[name]; hidden {
		return
	}
	if !strings.Contains(options, "omitempty") && f.Tag.Get("required") != "false" {
		o.required |= 1 << len(o.fields)
	}
	o.byName[name] = len(o.fields)
	o.fields = append(o.fields, field{name: name, index: index, read: readerOf(f.Type)})
}

// find returns the number of a field. Fields mostly come in the order of the
// struct, so the one behind the last is tried first.
func (o *object) find(name []byte, guess int) (int, bool) {
	if guess < len(o.fields) && o.fields[guess].name == string(name) {
		return guess, true
	}
	i, ok := o.byName[string(name)]
	return i, ok
}

func (o *object) read(d *decoder, v reflect.Value) *fault {
	if f := d.enter('{', "an object"); f != nil {
		return f
	}
	var seen, given uint64
	for n, first := 0, true; ; first = false {
		end, f := d.next('}', first)
		if f != nil {
			return f
		}
		if end {
			return o.missing(d, given)
		}
		name, f := d.key()
		if f != nil {
			return f
		}
		i, known := o.find(name, n)
		if !known {
			if f := d.unknown(name); f != nil {
				return f
			}
			continue
		}
		n = i + 1
		if seen&(1<<i) != 0 && !d.lenient {
			return d.fail("is given twice").ofDocument().inField(o.fields[i].name)
		}
		seen |= 1 << i
		present, f := o.readField(d, v, i)
		if f != nil {
			return f.inField(o.fields[i].name)
		}
		if present {
			given |= 1 << i
		}
		d.space()
	}
}

// readField reports whether the field was given a value other than null.
func (o *object) readField(d *decoder, v reflect.Value, i int) (bool, *fault) {
	if d.peek() == 'n' && d.literal("null") {
		if o.required&(1<<i) != 0 && !d.lenient {
			return false, d.fail("must not be null")
		}
		return false, nil
	}
	target := &o.fields[i]
	if len(target.index) == 1 {
		return true, target.read(d, v.Field(target.index[0]))
	}
	return true, target.read(d, v.FieldByIndex(target.index))
}

func (o *object) missing(d *decoder, given uint64) *fault {
	lacking := o.required &^ given
	if lacking == 0 || d.lenient {
		return nil
	}
	for i := range o.fields {
		if lacking&(1<<i) != 0 {
			return d.fail("is required").inField(o.fields[i].name)
		}
	}
	return nil
}

// unknown refuses a field that the object does not have, or skips it in an
// answer.
func (d *decoder) unknown(name []byte) *fault {
	if !d.lenient {
		return d.fail("is unknown").ofDocument().inField(string(name))
	}
	f := d.skip()
	d.space()
	return f
}
