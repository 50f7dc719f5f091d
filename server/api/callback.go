package api

import (
	"net/http"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// Limits of callbacks. (Specification 08, section 7.)
const (
	// DefaultCallbackRate is how many callbacks a second one address may send.
	DefaultCallbackRate = 10
	// CallbacksPerWaitpoint is how many callbacks a minute one waitpoint gets.
	CallbacksPerWaitpoint = 60
)

func callbackRate(given float64) float64 {
	if given == 0 {
		return DefaultCallbackRate
	}
	return given
}

// callbackRoutes is the one route for untrusted parties. (Specification 08,
// section 4.4.)
func callbackRoutes() []*route {
	return []*route{{
		id: "deliver_callback", method: http.MethodPost, pattern: wire.RouteCallback, limit: wire.LimitMedium, untrusted: true, veiled: true,
		summary: "Delivers a signal from whoever has the waitpoint's token; no API token is asked for. The answer is the same whatever the signal did.",
		header:  []param{{name: wire.HeaderWaitpointToken, kind: "string", doc: "The waitpoint's token, unless the body has it."}},
		status:  http.StatusAccepted, codes: presented, variants: map[string][]string{"accepted": nil},
		endpoint: serves[wire.CallbackRequest, wire.CallbackResponse](deliverCallback),
	}}
}

// callbackListener is all that the separate listener for callbacks serves.
func (a *API) callbackListener() []*route {
	var table []*route
	if !a.opt.DisableCallbacks {
		table = callbackRoutes()
	}
	for _, rt := range probeRoutes() {
		if rt.pattern == wire.RouteLivez {
			table = append(table, rt)
		}
	}
	return table
}

// CallbackHandler returns the handler for a listener of callbacks alone: it
// serves the callback route and /livez, and nothing else. With callbacks disabled
// it serves /livez only. [Options.HideCallbacks] takes the route out of the API
// itself.
func (a *API) CallbackHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(&a.callbacks, w, r) })
}

// throttleCallback takes one callback out of the buckets of the address and of
// the waitpoint, whatever becomes of it: so does one with a wrong token.
func (c *call) throttleCallback() error {
	now := time.Now()
	addr := clientAddr(c.r, c.api.opt.TrustedProxies)
	if wait, ok := c.api.callers.allow(addr.String(), now); !ok {
		return rateLimited("over the rate of callbacks from one address", wait)
	}
	id, waitpoint, err := c.waitpoint()
	if err != nil {
		return nil //nolint:nilerr // the handler refuses it
	}
	if wait, ok := c.api.targets.allow(string(id)+" "+string(waitpoint), now); !ok {
		return rateLimited("over the rate of callbacks to one waitpoint", wait)
	}
	return nil
}

func deliverCallback(c *call) error {
	id, waitpoint, err := c.waitpoint()
	if err != nil {
		return err
	}
	var body wire.CallbackRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	token, err := callbackToken(c.r.Header)
	if err != nil {
		return err
	}
	args, err := body.Args(id, waitpoint, token)
	if err != nil {
		return err
	}
	if _, err := c.api.backend.DeliverSignal(c.ctx, args); err != nil {
		return veil(err)
	}
	return c.json(http.StatusAccepted, wire.CallbackResponse{Outcome: "accepted"})
}

// callbackToken returns the waitpoint's token of the header, "" without one.
func callbackToken(h http.Header) (string, error) {
	values := h.Values(wire.HeaderWaitpointToken)
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", flowfabric.InvalidInput(wire.HeaderWaitpointToken, "is given more than once")
}
