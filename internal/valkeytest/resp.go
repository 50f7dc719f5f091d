package valkeytest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// Error is an error reply of a server, such as "MOVED 1 127.0.0.1:7000".
type Error string

// Error returns the reply without its leading dash.
func (e Error) Error() string { return string(e) }

// errProtocol reports bytes that are not RESP.
var errProtocol = errors.New("not RESP")

// pushKind begins messages that answer no command.
const pushKind = '>'

// wire reads RESP values of both versions, and keeps the bytes of the last one.
type wire struct {
	buf *bufio.Reader
	raw []byte
}

func newWire(r io.Reader) *wire { return &wire{buf: bufio.NewReaderSize(r, 16<<10)} }

// value reads the next value. Strings, doubles and big numbers become strings,
// integers int64, arrays, sets, pushes and maps []any, of keys and values in
// turn for maps, and errors [Error].
func (w *wire) value() (v any, kind byte, err error) {
	w.raw = w.raw[:0]
	return w.read()
}

func (w *wire) read() (v any, kind byte, err error) {
	line, err := w.line()
	if err != nil {
		return nil, 0, err
	}
	if len(line) == 0 {
		return nil, 0, errProtocol
	}
	kind, rest := line[0], string(line[1:])
	switch kind {
	case '+', ',', '(':
		return rest, kind, nil
	case '-':
		return Error(rest), kind, nil
	case '#':
		return rest == "t", kind, nil
	case '_':
		return nil, kind, nil
	case ':':
		n, err := strconv.ParseInt(rest, 10, 64)
		return n, kind, err
	}
	n, err := strconv.Atoi(rest)
	if err != nil {
		return nil, kind, fmt.Errorf("%w: %q", errProtocol, line)
	}
	switch kind {
	case '$', '=', '!':
		v, err = w.bulk(n)
		if text, ok := v.(string); ok && kind == '!' {
			v = Error(text)
		}
		return v, kind, err
	case '*', '~', pushKind:
		v, err = w.list(n)
		return v, kind, err
	case '%':
		v, err = w.list(2 * n)
		return v, kind, err
	case '|': // attributes, which precede the value they belong to
		if _, err = w.list(2 * n); err != nil {
			return nil, kind, err
		}
		return w.read()
	}
	return nil, kind, fmt.Errorf("%w: %q", errProtocol, line)
}

// command reads a command as a client sends it: an array of strings, or words
// on a line.
func (w *wire) command() (words []string, err error) {
	w.raw = w.raw[:0]
	first, err := w.buf.Peek(1)
	if err != nil {
		return nil, err
	}
	if first[0] != '*' {
		line, err := w.line()
		if err != nil {
			return nil, err
		}
		for _, word := range bytes.Fields(line) {
			words = append(words, string(word))
		}
		return words, nil
	}
	v, _, err := w.read()
	if err != nil {
		return nil, err
	}
	list, _ := v.([]any)
	for _, word := range list {
		text, _ := word.(string)
		words = append(words, text)
	}
	return words, nil
}

func (w *wire) line() ([]byte, error) {
	from := len(w.raw)
	for {
		part, err := w.buf.ReadSlice('\n')
		w.raw = append(w.raw, part...)
		if err == nil {
			return bytes.TrimRight(w.raw[from:], "\r\n"), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

func (w *wire) bulk(n int) (any, error) {
	if n < 0 {
		return nil, nil
	}
	from := len(w.raw)
	w.raw = append(w.raw, make([]byte, n+2)...)
	if _, err := io.ReadFull(w.buf, w.raw[from:]); err != nil {
		return nil, err
	}
	return string(w.raw[from : from+n]), nil
}

func (w *wire) list(n int) (any, error) {
	if n < 0 {
		return nil, nil
	}
	list := make([]any, n)
	for i := range list {
		var err error
		if list[i], _, err = w.read(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Conn is a plain connection to a server, without a client library between:
// one command at a time, or many with Send and Receive. It is not for
// concurrent use.
type Conn struct {
	net   net.Conn
	wire  *wire
	limit time.Duration
}

// replyLimit bounds the wait for a reply.
const replyLimit = 30 * time.Second

func dial(addr string, t *TLS) (*Conn, error) {
	c, err := net.DialTimeout("tcp4", addr, time.Second)
	if err != nil {
		return nil, err
	}
	if t != nil {
		c = tls.Client(c, t.Config())
	}
	return &Conn{net: c, wire: newWire(c), limit: replyLimit}, nil
}

// Do executes a command and returns its reply: a string, an int64, a bool, nil
// or a []any of those. An error reply is returned as an [Error].
func (c *Conn) Do(args ...string) (any, error) {
	if err := c.Send(args...); err != nil {
		return nil, err
	}
	return c.Receive()
}

// Send sends a command without waiting for its reply.
func (c *Conn) Send(args ...string) error {
	if err := c.net.SetDeadline(time.Now().Add(c.limit)); err != nil {
		return err
	}
	_, err := c.net.Write(encode(args...))
	return err
}

// Receive waits for the next reply, or for the next message pushed.
func (c *Conn) Receive() (any, error) {
	if err := c.net.SetDeadline(time.Now().Add(c.limit)); err != nil {
		return nil, err
	}
	v, _, err := c.wire.value()
	if err != nil {
		return nil, err
	}
	if failure, ok := v.(Error); ok {
		return nil, failure
	}
	return v, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.net.Close() }

// text executes a command whose reply is a string.
func (c *Conn) text(args ...string) (string, error) {
	v, err := c.Do(args...)
	if err != nil {
		return "", fmt.Errorf("%q: %w", args, err)
	}
	s, _ := v.(string)
	return s, nil
}

// info returns one section of INFO.
func (c *Conn) info(section string) (map[string]string, error) {
	text, err := c.text("INFO", section)
	if err != nil {
		return nil, err
	}
	return parseInfo(text), nil
}

// parseInfo reads lines of the form name:value.
func parseInfo(text string) map[string]string {
	fields := make(map[string]string)
	for line := range bytes.Lines([]byte(text)) {
		if name, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte(":")); ok {
			fields[string(name)] = string(value)
		}
	}
	return fields
}

// encode returns the bytes of a command.
func encode(args ...string) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, arg := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return b
}
