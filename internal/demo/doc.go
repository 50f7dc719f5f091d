// Package demo is FlowFabric's main job on real input: every file of a directory
// tree becomes one execution, worker processes compute size, lines, words,
// SHA-256 and language of each, one of them is killed in the middle of its work,
// and at the end every result is checked against a direct computation.
//
// [Run] is the parent: it starts the embedded engine and an HTTP listener on
// loopback, starts the workers as processes of their own, submits, watches,
// kills, replaces and gathers. [RunWorker] is what a worker process runs.
package demo
