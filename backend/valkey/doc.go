// Package valkey is the scaled-out store: FlowFabric on Valkey 7.2 or later, one
// node or a cluster. All state lives in Valkey; the process keeps only caches.
//
// Every change of state is one call of a function of the library "flowfabric"
// (the files of lua/, loaded by servers) on one hash slot, with one routing key
// and positional arguments. What a call is refused for comes back as an error
// reply that [Store] turns into the same *flowfabric.Error that the SQL stores
// give. docs/valkey-layout.md describes keys, fields and calls.
//
// A process opens the store as a server, which loads the library, makes the
// deployment and runs the duties, or as a worker, which does none of that. Any
// number of both may use one deployment, of which one server at least must run.
//
//	be, err := valkey.Open(ctx, valkey.Config{Addrs: []string{"localhost:6379"}, Role: valkey.RoleWorker})
//
// # Calls
//
// Calls of many goroutines share two connections to each primary; creates,
// completions and renewals of concurrent callers go together, one call for each
// partition, without a timer. At most 20,000 calls of a process are in flight to
// one primary, over which they are backend_overloaded. A batch has at most 100
// items (batch_too_large), a call at most 4 MiB of them.
//
// A call that was certainly not carried out (the partition moved, a failover, the
// store loading its files) is repeated up to 5 times within 3 s, then it is
// store_unavailable. A read whose answer is lost is repeated or store_timeout, a
// write outcome_unknown: it may have been carried out, and is safe to repeat with
// the same identifiers. At maxmemory every write is store_full. A library that
// went missing is loaded again by servers; workers wait for that, then give
// library_missing. When the store holds another deployment than the one opened,
// or none, all calls are store_replaced until the process opens it anew.
//
// # What an acknowledgement promises
//
// [Durability] says what a write has reached when it is answered: the primary's
// memory, that of replicas, or the disk.
//
// Instants are those of the store's clock. docs/operations.md tells how to run a
// store, docs/architecture.md how the package is built. (Specification 07.)
package valkey
