package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// route is one row of the table that serves requests and makes the OpenAPI
// document.
type route struct {
	// id is the operation's name, in snake_case.
	id      string
	method  string
	pattern string
	summary string
	// scopes are those of which a caller needs one; 0 means none is needed.
	scopes Scopes
	// limit bounds the request's body, in bytes; 0 means control, 64 KiB.
	limit int
	// probe routes answer without a token, a rate limit, and while shutting down.
	probe bool
	// stream routes answer with an open connection; HEAD does not work on them.
	stream bool
	// untrusted routes ask for no API token and have rate limits of their own: the
	// waitpoint's token is all the caller has.
	untrusted bool
	// veiled routes answer of an unknown execution as of a wrong waitpoint token.
	veiled bool
	// query documents the parameters of the query string, header those that come
	// in headers.
	query, header []param
	// status is the answer's usual status; 0 means 200.
	status int
	// also are further statuses of success, with what they mean.
	also map[int]string
	// waited is the type of the answer when the route waits as well.
	waited reflect.Type
	// variants are the fields of each outcome of the result, where it has some.
	variants map[string][]string
	// codes are those the operation itself may answer, beside what every route
	// may.
	codes []flowfabric.Code
	endpoint
}

// endpoint is what a route does, with the types it reads and writes.
type endpoint struct {
	handle func(*call) error
	body   reflect.Type // nil: the route takes no fields
	result reflect.Type // nil: no JSON document
	media  string       // of a result that is no JSON document
}

// param documents one parameter of a query string.
type param struct {
	name     string
	kind     string // string, integer or boolean
	required bool
	repeated bool
	doc      string
}

// routes is the whole table, primitive by primitive.
func (a *API) routes() []*route {
	return slices.Concat(executionRoutes(), inputRoutes(), attemptRoutes(), leaseRoutes(), claimRoutes(), registryRoutes(), laneRoutes(),
		suspensionRoutes(), waitpointRoutes(), signalRoutes(), callbackRoutes(), feedRoutes(), adminRoutes(), secretRoutes(), probeRoutes())
}

// routing finds the route of a request.
type routing struct {
	mux, paths *http.ServeMux
	allow      map[string]string // pattern to the value of Allow
}

// mount makes the routing of the API, and that of the separate listener for
// callbacks.
func (a *API) mount() error {
	ids := make(map[string]bool)
	for _, rt := range a.routes() {
		if a.leftOut(rt) {
			continue
		}
		if ids[rt.id] {
			return fmt.Errorf("operation %s is in the table twice", rt.id)
		}
		ids[rt.id] = true
		a.table = append(a.table, rt)
	}
	a.routing = newRouting(a.table)
	a.callbacks = newRouting(a.callbackListener())
	return nil
}

// leftOut reports a route that the options take out of the API.
func (a *API) leftOut(rt *route) bool {
	return rt.pattern == wire.RouteMetrics && a.opt.HideMetrics ||
		rt.pattern == wire.RouteCallback && (a.opt.DisableCallbacks || a.opt.HideCallbacks)
}

// newRouting registers routes with a ServeMux, and every path, without method,
// with another, which tells a wrong method from an unknown path.
func newRouting(table []*route) routing {
	g := routing{mux: http.NewServeMux(), paths: http.NewServeMux()}
	methods := make(map[string][]string)
	for _, rt := range table {
		if rt.limit == 0 {
			rt.limit = wire.LimitControl
		}
		g.mux.HandleFunc(rt.method+" "+rt.pattern, func(w http.ResponseWriter, r *http.Request) {
			c := w.(*call)
			c.r, c.route = r, rt
			c.serve()
		})
		methods[rt.pattern] = append(methods[rt.pattern], rt.method)
		if rt.method == http.MethodGet && !rt.stream {
			methods[rt.pattern] = append(methods[rt.pattern], http.MethodHead)
		}
	}
	unrouted := func(w http.ResponseWriter, _ *http.Request) { w.(*call).unrouted() }
	g.allow = make(map[string]string, len(methods))
	for pattern, list := range methods {
		list = append(list, http.MethodOptions)
		slices.Sort(list)
		g.allow[pattern] = strings.Join(list, ", ")
		g.refuseOthers(pattern, list, unrouted)
		g.paths.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
	}
	g.mux.HandleFunc("/", unrouted)
	return g
}

// refuseOthers registers the methods a path does not know. Without it a literal
// path would be taken for the id of a path beside it: GET /v1/executions/batch
// for an execution called batch.
func (g *routing) refuseOthers(pattern string, known []string, unrouted http.HandlerFunc) {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		if !slices.Contains(known, method) {
			g.mux.HandleFunc(method+" "+pattern, unrouted)
		}
	}
}

// secretive keeps the answers of a route, which may hold a waitpoint's token, out
// of every cache.
func secretive(e endpoint) endpoint {
	handle := e.handle
	e.handle = func(c *call) error {
		c.uncached()
		return handle(c)
	}
	return e
}

// executionArgs is a body that turns into the arguments of an operation on one
// execution.
type executionArgs[A any] interface {
	Args(id flowfabric.ExecutionID) (A, error)
}

// onExecution is the endpoint of an operation on the execution in the path: body
// Q, operation, answer.
func onExecution[Q executionArgs[A], A, R, S any](op func(flowfabric.Backend, context.Context, A) (R, error), answer func(flowfabric.ExecutionID, R) S) endpoint {
	return endpoint{body: reflect.TypeFor[Q](), result: reflect.TypeFor[S](), handle: func(c *call) error {
		id, err := c.executionID()
		if err != nil {
			return err
		}
		var body Q
		if err := c.decode(&body); err != nil {
			return err
		}
		args, err := body.Args(id)
		if err != nil {
			return err
		}
		if err := c.admit(id); err != nil {
			return err
		}
		r, err := op(c.api.backend, c.ctx, args)
		if err != nil {
			return err
		}
		return c.ok(answer(id, r))
	}}
}

// attemptArgs is a body that turns into the arguments of an operation on one
// attempt.
type attemptArgs[A any] interface {
	Args(id flowfabric.ExecutionID, index uint32) (A, error)
}

// onAttempt is the endpoint of an operation on the attempt in the path.
func onAttempt[Q attemptArgs[A], A, R, S any](op func(flowfabric.Backend, context.Context, A) (R, error), answer func(flowfabric.ExecutionID, R) S) endpoint {
	return endpoint{body: reflect.TypeFor[Q](), result: reflect.TypeFor[S](), handle: func(c *call) error {
		id, index, err := c.attempt()
		if err != nil {
			return err
		}
		var body Q
		if err := c.decode(&body); err != nil {
			return err
		}
		args, err := body.Args(id, index)
		if err != nil {
			return err
		}
		if err := c.admit(id); err != nil {
			return err
		}
		r, err := op(c.api.backend, c.ctx, args)
		if err != nil {
			return err
		}
		return c.ok(answer(id, r))
	}}
}

// readExecution is the endpoint of a read of the execution in the path.
func readExecution[R, S any](op func(flowfabric.Backend, context.Context, flowfabric.ExecutionID) (R, error), answer func(flowfabric.ExecutionID, R) (S, error)) endpoint {
	return endpoint{result: reflect.TypeFor[S](), handle: func(c *call) error {
		id, err := c.executionID()
		if err != nil {
			return err
		}
		if err := c.admit(id); err != nil {
			return err
		}
		r, err := op(c.api.backend, c.ctx, id)
		if err != nil {
			return err
		}
		s, err := answer(id, r)
		if err != nil {
			return err
		}
		return c.ok(s)
	}}
}

// pageOfExecution is the endpoint of a listing about the execution in the path.
func pageOfExecution[A, R, T any](parse func(flowfabric.ExecutionID, url.Values) (A, error),
	op func(flowfabric.Backend, context.Context, A) (R, error), page func(flowfabric.ExecutionID, url.Values, R) wire.Page[T]) endpoint {
	return endpoint{result: reflect.TypeFor[wire.Page[T]](), handle: func(c *call) error {
		id, err := c.executionID()
		if err != nil {
			return err
		}
		query, err := c.query()
		if err != nil {
			return err
		}
		args, err := parse(id, query)
		if err != nil {
			return err
		}
		if err := c.admit(id); err != nil {
			return err
		}
		r, err := op(c.api.backend, c.ctx, args)
		if err != nil {
			return err
		}
		return c.ok(page(id, query, r))
	}}
}

// plain makes an answer that needs no id and cannot fail out of one that makes
// a wire form of a result.
func plain[R, S any](answer func(R) S) func(flowfabric.ExecutionID, R) S {
	return func(_ flowfabric.ExecutionID, r R) S { return answer(r) }
}

// shown is plain for reads.
func shown[R, S any](answer func(R) S) func(flowfabric.ExecutionID, R) (S, error) {
	return func(_ flowfabric.ExecutionID, r R) (S, error) { return answer(r), nil }
}

// serves is the endpoint of a handler of its own, with body Q and result S.
func serves[Q, S any](handle func(*call) error) endpoint {
	return endpoint{handle: handle, body: bodyType[Q](), result: bodyType[S]()}
}

// none stands for "no body" in serves.
type none struct{}

func bodyType[T any]() reflect.Type {
	if t := reflect.TypeFor[T](); t != reflect.TypeFor[none]() {
		return t
	}
	return nil
}
