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
// number of both may use one deployment. (Specification 07.)
package valkey
