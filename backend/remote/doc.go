// Package remote is the backend for workers and clients without access to a
// store: every operation of the contract is a call over HTTP to a flowfabric
// server. Results, errors and order are those of the server's own store.
// (Specification 08, sections 4 and 5.5.)
//
// What the wire does not carry differs in these ways:
//
//   - GetExecution builds the record from the snapshot (GET E), which leaves out
//     what only the engine needs: the lease_id and the other lease fields but
//     epoch, holder and expiry, receipts, lineage of pending attempts, creator,
//     idempotency key, digests, capabilities, budgets and quotas. A lapsed or
//     revoked lease shows no holder.
//   - GetExecutionPolicy is unsupported_operation: no route shows the policy.
//   - Sources flow_cascade and system_timeout belong to the engine; a cancel with
//     one of them is sent as an operator's whose requested_by defaults to the
//     source's name.
//   - A fence given together with SourceOperatorOverride is sent as the lease
//     holder's: the operator's routes take no fence.
//   - A list of allowed namespaces (field Namespaces), which servers derive from
//     tokens, is not sent: one namespace is sent as the filter; of several, lists
//     and feeds drop the rows of others here, and claims and ListExpiredLeases are
//     unsupported_operation.
//   - The id in the path of batched renewals and completions is "remote": it is
//     no authority, the fences are.
//   - ListEligible reads waiting executions, without looking at capabilities.
//   - ListSuspended takes a list of namespaces as ListExpiredLeases does, and its
//     cursor is the server's.
//   - ResumeExecution with the trigger budget_recovered is unsupported_operation:
//     the engine resumes so by itself.
//   - RotateWaitpointSecret without a grace takes the server's setting.
//
// Identifiers of leases and attempts are minted here when absent, so that a claim
// can be repeated. Idempotent calls are: reads, creates with an idempotency key
// or execution id, fenced calls, claims by grant, registrations and heartbeats,
// tags, replays with an expected count, suspends with an idempotency key, new
// waitpoints and their closing, signals. Identifiers of waitpoints and signals are
// minted here as well. They are repeated up to 3 times after a retryable error,
// after a pause of 100 ms doubling each time with full jitter, or of Retry-After
// if the server names one. ClaimForWorker, ClaimTasks and everything else is sent
// once.
package remote
