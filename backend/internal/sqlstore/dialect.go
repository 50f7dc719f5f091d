package sqlstore

import (
	"context"

	"github.com/flowfabric/flowfabric"
)

// Query is one SQL statement of the store. Parameters are written "?"; a dialect
// rewrites them. Statements are kept prepared by pointer identity.
type Query struct {
	SQL string
}

// Stmt is a prepared statement on one connection. Parameters are bound in order
// with Int, Text, Blob and Null; Exec runs it, or Next steps through its rows
// until it returns false. Either leaves the statement ready for the next use.
type Stmt interface {
	Int(v int64)
	Text(v string)
	Blob(v []byte)
	Null()

	Exec() error
	// Changes is the number of rows the last Exec changed.
	Changes() int64

	Next() (bool, error)
	// Stop ends an iteration early.
	Stop()
	ColInt(i int) int64
	ColNull(i int) bool
	ColText(i int) string
	// ColBlob appends the column's bytes to buf.
	ColBlob(i int, buf []byte) []byte
}

// Conn is a connection inside a transaction.
type Conn interface {
	Stmt(q *Query) Stmt
}

// DB runs transactions on one database. Everything the dialects differ in is
// behind it.
type DB interface {
	// Write runs op in a write transaction and returns once it is durable. op may
	// run again in a transaction of its own when another operation of its group
	// failed, so it assigns its results anew each time. An error of op undoes the
	// transaction; refusals are results, not errors of op. weight is about how
	// many rows op writes.
	Write(ctx context.Context, weight int, op func(tx *Tx) error) error
	// Read runs op on one consistent snapshot of what is committed.
	Read(ctx context.Context, op func(c Conn) error) error
	// Now is the store's clock.
	Now() flowfabric.Millis
}

// Hooks are the store's ends of a write transaction.
type Hooks struct {
	// Begin makes the transaction of a group.
	Begin func(c Conn, now flowfabric.Millis) *Tx
	// Flush writes what the group's operations left to be written once.
	Flush func(tx *Tx) error
	// Committed publishes the group's events.
	Committed func(tx *Tx)
	// RolledBack drops what was remembered of the group.
	RolledBack func(c Conn) error
}
