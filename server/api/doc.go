// Package api is FlowFabric over HTTP: the routes of specification 08, section 4,
// one file per primitive, with everything that stands around them: the order of
// checks, bearer tokens and scopes, problem documents, cursors, limits, pools,
// server-sent events, metrics and the OpenAPI document, which is made from the
// same table that serves requests.
//
// Package server wires an [API] to listeners, duties and signals; a program that
// wants the handler alone uses [New].
package api
