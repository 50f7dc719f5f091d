package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

const schemaPrefix = "#/components/schemas/"

// document makes the OpenAPI 3.1 document from the table of routes.
func (a *API) document() (doc []byte, err error) {
	defer func() {
		if v := recover(); v != nil { // the schema registry panics on types it cannot name
			err = fmt.Errorf("openapi: %v", v)
		}
	}()
	d := &documenter{registry: huma.NewMapRegistry(schemaPrefix, huma.DefaultSchemaNamer), strict: make(map[string]bool), unions: make(map[string]*resultUnion)}
	spec := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title:       "FlowFabric",
			Version:     "v1",
			Description: "A durable execution engine. Every error is a problem document (RFC 9457) with a stable code; every result with variants names its outcome.",
		},
		Paths:      make(map[string]*huma.PathItem),
		Components: &huma.Components{Schemas: d.registry, SecuritySchemes: map[string]*huma.SecurityScheme{"bearer": {Type: "http", Scheme: "bearer"}}},
	}
	d.registry.Schema(reflect.TypeFor[wire.Problem](), true, "Problem")
	for _, rt := range a.table {
		item := spec.Paths[rt.pattern]
		if item == nil {
			item = &huma.PathItem{}
			spec.Paths[rt.pattern] = item
		}
		op := d.operation(rt)
		switch rt.method {
		case http.MethodGet:
			item.Get = op
		case http.MethodPost:
			item.Post = op
		case http.MethodPut:
			item.Put = op
		case http.MethodDelete:
			item.Delete = op
		default:
			return nil, fmt.Errorf("openapi: method %s of %s", rt.method, rt.id)
		}
	}
	d.openResponses()
	return json.Marshal(spec)
}

// documenter turns routes into operations.
type documenter struct {
	registry huma.Registry
	// strict are the schemas reachable from a request's body: unknown fields are
	// refused there, and only there.
	strict map[string]bool
	unions map[string]*resultUnion
}

var pathParam = regexp.MustCompile(`\{([a-z_]+)\}`)

func (d *documenter) operation(rt *route) *huma.Operation {
	op := &huma.Operation{
		OperationID: rt.id,
		Summary:     rt.summary,
		Tags:        []string{rt.tag()},
		Responses:   make(map[string]*huma.Response),
		Extensions: map[string]any{
			"x-ff-scopes":           rt.scopes.Names(),
			"x-ff-body-limit-bytes": rt.limit,
			"x-ff-codes":            rt.allCodes(),
		},
	}
	if rt.scopes != 0 {
		op.Security = []map[string][]string{{"bearer": {}}}
	}
	for _, m := range pathParam.FindAllStringSubmatch(rt.pattern, -1) {
		schema := &huma.Schema{Type: huma.TypeString}
		if m[1] == "attempt_index" {
			schema = &huma.Schema{Type: huma.TypeInteger, Format: "int64"}
		}
		op.Parameters = append(op.Parameters, &huma.Param{Name: m[1], In: "path", Required: true, Schema: schema})
	}
	for _, p := range rt.query {
		schema := &huma.Schema{Type: p.kind}
		if p.repeated {
			schema = &huma.Schema{Type: huma.TypeArray, Items: schema}
		}
		op.Parameters = append(op.Parameters, &huma.Param{Name: p.name, In: "query", Description: p.doc, Required: p.required, Schema: schema})
	}
	for _, p := range rt.header {
		op.Parameters = append(op.Parameters, &huma.Param{Name: p.name, In: "header", Description: p.doc, Required: p.required, Schema: &huma.Schema{Type: p.kind}})
	}
	if rt.body != nil {
		schema := d.registry.Schema(rt.body, true, "Body")
		d.markStrict(schema)
		op.RequestBody = &huma.RequestBody{Required: d.needsBody(schema), Content: map[string]*huma.MediaType{wire.MediaJSON: {Schema: schema}}}
	}
	d.responses(rt, op)
	return op
}

func (d *documenter) responses(rt *route, op *huma.Operation) {
	status := rt.status
	if status == 0 {
		status = http.StatusOK
	}
	success := &huma.Response{Description: "Success."}
	switch {
	case rt.result != nil:
		success.Content = map[string]*huma.MediaType{wire.MediaJSON: {Schema: d.result(rt)}}
	case rt.media != "":
		success.Content = map[string]*huma.MediaType{rt.media: {Schema: &huma.Schema{Type: huma.TypeString}}}
	}
	op.Responses[strconv.Itoa(status)] = success
	for code, what := range rt.also {
		r := &huma.Response{Description: what}
		switch {
		case code == http.StatusNoContent:
		case rt.waited != nil && code == http.StatusAccepted:
			r.Content = map[string]*huma.MediaType{wire.MediaJSON: {Schema: d.registry.Schema(rt.waited, true, "Waited")}}
		case rt.waited != nil:
			either := []*huma.Schema{d.result(rt), d.registry.Schema(rt.waited, true, "Waited")}
			r.Content = map[string]*huma.MediaType{wire.MediaJSON: {Schema: &huma.Schema{AnyOf: either}}}
		default:
			r.Content = success.Content
		}
		op.Responses[strconv.Itoa(code)] = r
	}
	byStatus := make(map[int][]string)
	for _, code := range rt.allCodes() {
		info, _ := code.Info()
		byStatus[info.Status] = append(byStatus[info.Status], string(code))
	}
	for status, codes := range byStatus {
		op.Responses[strconv.Itoa(status)] = &huma.Response{
			Description: strings.Join(codes, ", "),
			Content:     map[string]*huma.MediaType{wire.MediaProblem: {Schema: &huma.Schema{Ref: schemaPrefix + "Problem"}}},
		}
	}
}

// result returns the schema of a route's answer: of a result with variants a
// oneOf with outcome as discriminator. Routes that share a type but not its
// outcomes have a union each, named for the operation.
func (d *documenter) result(rt *route) *huma.Schema {
	whole := d.registry.Schema(rt.result, true, "Result")
	if len(rt.variants) == 0 {
		return whole
	}
	name := strings.TrimPrefix(whole.Ref, schemaPrefix)
	schemas := d.registry.Map()
	outcomes := slices.Sorted(maps.Keys(rt.variants))
	union := d.unions[name]
	if union == nil {
		union = &resultUnion{flat: schemas[name], outcomes: outcomes}
		d.unions[name] = union
	}
	target := name
	if !slices.Equal(union.outcomes, outcomes) {
		target = camel(rt.id) + "Result"
	}
	one := &huma.Schema{Discriminator: &huma.Discriminator{PropertyName: "outcome", Mapping: make(map[string]string)}}
	for _, outcome := range outcomes {
		variant := target + camel(outcome)
		schemas[variant] = oneVariant(union.flat, outcome, rt.variants[outcome])
		one.OneOf = append(one.OneOf, &huma.Schema{Ref: schemaPrefix + variant})
		one.Discriminator.Mapping[outcome] = schemaPrefix + variant
	}
	schemas[target] = one
	return &huma.Schema{Ref: schemaPrefix + target}
}

// resultUnion is a type whose schema has become a oneOf.
type resultUnion struct {
	flat     *huma.Schema
	outcomes []string
}

// needsBody reports whether a body has a field that must be there.
func (d *documenter) needsBody(schema *huma.Schema) bool {
	if s := d.registry.SchemaFromRef(schema.Ref); s != nil {
		return len(s.Required) > 0
	}
	return false
}

// markStrict notes what is reachable from a request's body.
func (d *documenter) markStrict(s *huma.Schema) {
	if s == nil {
		return
	}
	if s.Ref != "" {
		name := strings.TrimPrefix(s.Ref, schemaPrefix)
		if d.strict[name] {
			return
		}
		d.strict[name] = true
		s = d.registry.SchemaFromRef(s.Ref)
	}
	for _, p := range s.Properties {
		d.markStrict(p)
	}
	d.markStrict(s.Items)
	if more, ok := s.AdditionalProperties.(*huma.Schema); ok {
		d.markStrict(more)
	}
}

// openResponses lets answers have fields that the document does not name:
// clients must ignore them.
func (d *documenter) openResponses() {
	for name, s := range d.registry.Map() {
		if no, ok := s.AdditionalProperties.(bool); ok && !no && !d.strict[name] {
			s.AdditionalProperties = nil
		}
		for _, p := range s.Properties {
			if p.Type == huma.TypeArray {
				p.Nullable = false // lists are never null in answers, and null is refused in bodies
			}
		}
	}
}

func camel(s string) string {
	var b strings.Builder
	for _, part := range strings.Split(s, "_") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}

// tag groups operations by their primitive: the first step of the path.
func (rt *route) tag() string {
	rest, ok := strings.CutPrefix(rt.pattern, "/v1/")
	if !ok {
		return "probes"
	}
	tag, _, _ := strings.Cut(rest, "/")
	return tag
}

// allCodes returns what the route may answer, sorted: its own codes and those of
// the checks before it.
func (rt *route) allCodes() []flowfabric.Code {
	codes := slices.Clone(rt.codes)
	codes = append(codes, flowfabric.CodeInternal, flowfabric.CodePayloadTooLarge, flowfabric.CodeUnsupportedMediaType)
	if !rt.probe {
		codes = append(codes, flowfabric.CodeClientRateLimited, flowfabric.CodeShuttingDown)
	}
	if rt.scopes != 0 {
		codes = append(codes, flowfabric.CodeUnauthenticated, flowfabric.CodeInsufficientScope)
	}
	if strings.HasPrefix(rt.pattern, "/v1/") && (rt.scopes != 0 || rt.untrusted) {
		codes = append(codes, flowfabric.CodeStoreUnavailable, flowfabric.CodeStoreTimeout, flowfabric.CodeStoreFault, flowfabric.CodeCorruptRecord)
	}
	if rt.body != nil || len(rt.query) > 0 || strings.Contains(rt.pattern, "{") {
		codes = append(codes, flowfabric.CodeInvalidInput)
	}
	if strings.Contains(rt.pattern, "{execution_id}") {
		codes = append(codes, flowfabric.CodeInvalidExecutionID)
		if !rt.veiled {
			codes = append(codes, flowfabric.CodeExecutionNotFound)
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// oneVariant cuts one outcome's fields out of a flat result.
func oneVariant(flat *huma.Schema, outcome string, fields []string) *huma.Schema {
	s := &huma.Schema{
		Type:       huma.TypeObject,
		Properties: map[string]*huma.Schema{"outcome": {Type: huma.TypeString, Enum: []any{outcome}}},
		Required:   []string{"outcome"},
	}
	for _, field := range fields {
		name, optional := strings.CutSuffix(field, "?")
		property, ok := flat.Properties[name]
		if !ok {
			panic("no field " + name + " in the result with outcome " + outcome)
		}
		s.Properties[name] = property
		if !optional {
			s.Required = append(s.Required, name)
		}
	}
	return s
}
