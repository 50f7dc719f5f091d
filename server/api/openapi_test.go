package api

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
)

// bare is a backend that only tells what it is; every other call panics.
type bare struct{ flowfabric.Backend }

func (bare) Describe(context.Context) (flowfabric.BackendInfo, error) {
	return flowfabric.BackendInfo{Family: "bare", Version: "1"}, nil
}

func (bare) Ping(context.Context) error { return nil }

func bareAPI(t *testing.T, opt Options) *API {
	t.Helper()
	a, err := New(bare{}, opt)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func document(t *testing.T, a *API) []byte {
	t.Helper()
	doc, err := a.openapi()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestScenario40Routes: the document lists exactly the served routes.
func TestScenario40Routes(t *testing.T) {
	a := bareAPI(t, Options{})
	var doc struct {
		OpenAPI string                                `json:"openapi"`
		Paths   map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(document(t, a), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("openapi %q", doc.OpenAPI)
	}
	var listed, served []string
	for path, item := range doc.Paths {
		for method := range item {
			listed = append(listed, strings.ToUpper(method)+" "+path)
		}
	}
	for _, rt := range a.table {
		served = append(served, rt.method+" "+rt.pattern)
		// The table and the mux agree.
		r, err := http.NewRequest(rt.method, "http://x"+pathParam.ReplaceAllString(rt.pattern, "7"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, pattern := a.mux.Handler(r); pattern != rt.method+" "+rt.pattern && rt.pattern != "/v1/executions/{execution_id}" {
			t.Errorf("%s %s is served by %q", rt.method, rt.pattern, pattern)
		}
	}
	slices.Sort(listed)
	slices.Sort(served)
	if !slices.Equal(listed, served) {
		t.Errorf("listed %v\nserved %v", listed, served)
	}
}

// TestDocumentResults: every result with variants is a oneOf with outcome as
// discriminator, and every reference leads somewhere.
func TestDocumentResults(t *testing.T) {
	a := bareAPI(t, Options{})
	var doc struct {
		Components struct {
			Schemas map[string]map[string]any `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(document(t, a), &doc); err != nil {
		t.Fatal(err)
	}
	for _, rt := range a.table {
		if len(rt.variants) == 0 {
			// The outcome of a wait is the execution's, not the call's.
			if rt.result != nil && rt.result.Kind() == reflect.Struct && rt.id != "wait_execution" {
				if _, ok := rt.result.FieldByName("Outcome"); ok {
					t.Errorf("%s: the outcomes of %s are not in the table", rt.id, rt.result.Name())
				}
			}
			continue
		}
		name := rt.result.Name()
		if s := doc.Components.Schemas[camel(rt.id)+"Result"]; s != nil {
			name = camel(rt.id) + "Result"
		}
		s := doc.Components.Schemas[name]
		if list, _ := s["oneOf"].([]any); len(list) != len(rt.variants) {
			t.Errorf("%s: %s has %d variants in the document, %d in the table", rt.id, name, len(list), len(rt.variants))
		}
		if d, _ := s["discriminator"].(map[string]any); d["propertyName"] != "outcome" {
			t.Errorf("%s: %s has the discriminator %v", rt.id, name, d)
		}
	}
	for _, part := range strings.Split(string(document(t, a)), `"$ref":"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(part, `"`)
		if doc.Components.Schemas[name] == nil {
			t.Errorf("no schema %s", name)
		}
	}
}
