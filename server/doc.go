// Package server is the embeddable server: the HTTP API over a backend, with
// listeners, TLS, the start-up refusals, the duties of a serving process, and an
// orderly shutdown. (Specification 08, sections 3 and 6.)
//
//	be, err := sqlite.Open(ctx, sqlite.Config{Path: "flow.db"})
//	srv, err := server.New(be, server.Config{APIToken: token})
//	go srv.Serve(listener)
//	...
//	err = srv.Shutdown(ctx)
//	err = be.Close()
//
// A [Server] is an http.Handler as well, to be mounted in a program's own server.
// It never closes the backend.
package server
