package api

import (
	"encoding/json"
	"net/http"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// Booting answers while there is no store yet: /livez is good, everything else is
// not_ready. (Specification 08, section 6.2.)
func Booting() http.Handler {
	return onlyLivez(func() *flowfabric.Error {
		return flowfabric.NewError(flowfabric.CodeNotReady, "the server is starting").With("checks", map[string]string{"store": "failing"})
	})
}

// Beside is what a listener for one purpose answers beside it: /livez is good,
// other paths are unknown.
func Beside() http.Handler {
	return onlyLivez(func() *flowfabric.Error {
		return flowfabric.NewError(flowfabric.CodeRouteNotFound, "no such path")
	})
}

// onlyLivez answers /livez, and everything else with an error.
func onlyLivez(otherwise func() *flowfabric.Error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != wire.RouteLivez {
			writeProblem(w, r, otherwise())
			return
		}
		h := w.Header()
		h.Set(wire.HeaderRequestID, requestID(r))
		h["Content-Type"], h["X-Content-Type-Options"] = jsonType, nosniff
		if r.Method != http.MethodHead {
			_ = json.NewEncoder(w).Encode(wire.ProbeResponse{Status: "ok"}) // a client that has gone away is no fault
		}
	})
}
