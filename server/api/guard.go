package api

import (
	"net/http"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// Guard lets through whoever has scope read, everybody when on is false or
// authentication is off. It is for handlers outside the table of routes.
func Guard(tokens *Tokens, on bool, next http.Handler) http.Handler {
	if !on || !tokens.Enabled() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := bearer(r.Header.Get("Authorization"))
		who := tokens.lookup(token, time.Now())
		switch {
		case who == nil:
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeProblem(w, r, flowfabric.NewError(flowfabric.CodeUnauthenticated, "a valid bearer token is needed"))
		case who.Scopes&ScopeRead == 0:
			writeProblem(w, r, insufficientScope(ScopeRead, "the token lacks the scope of this operation"))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// writeProblem answers a request that is no call.
func writeProblem(w http.ResponseWriter, r *http.Request, e *flowfabric.Error) {
	h := w.Header()
	id := requestID(r)
	p := newProblem(e, r.URL.Path, id)
	setRetryAfter(h, p)
	h.Set(wire.HeaderRequestID, id)
	h["Content-Type"], h["X-Content-Type-Options"] = problemType, nosniff
	buf := getBuffer()
	defer putBuffer(buf)
	_ = encodeJSON(buf, p) // texts, numbers and lists of texts only
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(buf.Bytes()) // a client that has gone away is no fault
	}
}
