package sqlite

import (
	"fmt"

	zs "zombiezen.com/go/sqlite"

	"github.com/flowfabric/flowfabric/backend/internal/sqlstore"
)

// conn is one connection with its prepared statements, kept for its life.
type conn struct {
	c     *zs.Conn
	stmts map[*sqlstore.Query]*stmt
}

func newConn(c *zs.Conn) *conn { return &conn{c: c, stmts: make(map[*sqlstore.Query]*stmt)} }

// Stmt returns the prepared form of a query. A query that does not prepare is a
// fault of the build; the statement then fails at its first use.
func (c *conn) Stmt(q *sqlstore.Query) sqlstore.Stmt {
	if s := c.stmts[q]; s != nil {
		s.n = 0
		return s
	}
	st, rest, err := c.c.PrepareTransient(q.SQL)
	if err == nil && rest != 0 {
		err = fmt.Errorf("more than one statement in %q", q.SQL)
	}
	s := &stmt{c: c.c, s: st, err: err}
	if err == nil {
		c.stmts[q] = s
	}
	return s
}

func (c *conn) exec(sql string) error {
	st, _, err := c.c.PrepareTransient(sql)
	if err != nil {
		return err
	}
	defer st.Finalize()
	for {
		more, err := st.Step()
		if err != nil || !more {
			return err
		}
	}
}

func (c *conn) close() error {
	for _, s := range c.stmts {
		_ = s.s.Finalize()
	}
	clear(c.stmts)
	return c.c.Close()
}

type stmt struct {
	c   *zs.Conn
	s   *zs.Stmt
	n   int
	err error
}

func (s *stmt) Int(v int64) {
	s.n++
	if s.err == nil {
		s.s.BindInt64(s.n, v)
	}
}

func (s *stmt) Text(v string) {
	s.n++
	if s.err == nil {
		s.s.BindText(s.n, v)
	}
}

func (s *stmt) Blob(v []byte) {
	s.n++
	if s.err != nil {
		return
	}
	if len(v) == 0 {
		s.s.BindZeroBlob(s.n, 0)
		return
	}
	s.s.BindBytes(s.n, v)
}

func (s *stmt) Null() {
	s.n++
	if s.err == nil {
		s.s.BindNull(s.n)
	}
}

func (s *stmt) Exec() error {
	if s.err != nil {
		return s.err
	}
	s.n = 0
	for {
		more, err := s.s.Step()
		if err != nil {
			_ = s.s.Reset()
			return err
		}
		if !more {
			return s.s.Reset()
		}
	}
}

func (s *stmt) Changes() int64 { return int64(s.c.Changes()) }

func (s *stmt) Next() (bool, error) {
	if s.err != nil {
		return false, s.err
	}
	s.n = 0
	more, err := s.s.Step()
	if err != nil || !more {
		_ = s.s.Reset()
	}
	return more, err
}

func (s *stmt) Stop() {
	s.n = 0
	if s.err == nil {
		_ = s.s.Reset()
	}
}

func (s *stmt) ColInt(i int) int64   { return s.s.ColumnInt64(i) }
func (s *stmt) ColNull(i int) bool   { return s.s.ColumnIsNull(i) }
func (s *stmt) ColText(i int) string { return s.s.ColumnText(i) }

func (s *stmt) ColBlob(i int, buf []byte) []byte {
	n := s.s.ColumnLen(i)
	if n == 0 {
		return buf
	}
	at := len(buf)
	if cap(buf)-at < n {
		grown := make([]byte, at, at+n)
		copy(grown, buf)
		buf = grown
	}
	buf = buf[:at+n]
	s.s.ColumnBytes(i, buf[at:])
	return buf
}
