// Package flowfabric is the vocabulary of FlowFabric, a durable execution
// engine, and everything a Go program needs to use it: the contract every store
// keeps ([Backend]), the [Client] that submits and inspects executions, and the
// [Worker] that claims and runs them.
//
// An execution is one durable unit of work. A client creates it; a worker claims
// it under a lease, runs it, and ends it. Between those two moments the engine
// keeps the promises that ordinary code cannot: a crashed worker's work is
// reclaimed and its late writes are fenced off, a failure is retried with
// backoff, and at any instant the engine can say why something is not running.
//
// The package is split by primitive: execution.go, attempt.go, lease.go,
// claim.go, lane.go, registry.go, feed.go and upkeep.go each hold one
// primitive's records, the arguments and results of its operations, and its part
// of the contract. Stores live in backend/sqlite, backend/remote and their
// siblings; this package imports none of them.
//
// Times are [Millis], Unix milliseconds of the store's clock, which is the only
// clock that decides anything. A zero Millis means "absent".
package flowfabric
