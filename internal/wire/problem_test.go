package wire_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// TestEveryCodeCrossesTheWire sends an error of each code of the table and
// compares what arrives.
func TestEveryCodeCrossesTheWire(t *testing.T) {
	for code, info := range flowfabric.Codes() {
		e := flowfabric.NewError(code, "message of %s", code).With("field", "a.b[0]").With("n", int64(wire.MaxInteger)).WithKind("timeout").
			With("list", []string{"x"}).With("mixed", []any{"x", int64(1), 0.5, nil, true}).With("nested", map[string]any{"k": int64(-1)})
		e.RetryAfter = 1500 * time.Millisecond
		p := wire.NewProblem(e)
		if p.Type != "urn:flowfabric:error:"+string(code) || p.Title != info.Title || p.Title == "" || p.RetryAfterMs != 1500 || p.RetryAfterSeconds() != 2 {
			t.Errorf("%s: %+v", code, p)
		}
		if info.Status != 0 && p.Status != info.Status || p.Status < 400 || p.Status > 599 {
			t.Errorf("%s: status %d", code, p.Status)
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back wire.Problem
		if err := wire.UnmarshalResponse(text, &back); err != nil {
			t.Fatal(err)
		}
		got := back.Err()
		if got.Code != e.Code || got.Class != e.Class || got.Retryable != e.Retryable || got.Kind != e.Kind || got.RetryAfter != e.RetryAfter || got.Message != e.Message {
			t.Errorf("%s: got %#v", code, got)
		}
		if diff := cmp.Diff(e.Details, got.Details); diff != "" {
			t.Errorf("%s: %s", code, diff)
		}
		if !errors.Is(got, e) || !errors.Is(got, info.Class) {
			t.Errorf("%s: errors.Is fails", code)
		}
	}
}

func TestProblemsOfOtherErrors(t *testing.T) {
	for _, tc := range []struct {
		err    error
		code   flowfabric.Code
		status int
	}{
		{errors.New("sesame"), flowfabric.CodeInternal, 500},
		{context.DeadlineExceeded, flowfabric.CodeStoreTimeout, 504},
		{fmt.Errorf("sesame: %w", context.Canceled), flowfabric.CodeStoreUnavailable, 503},
		{fmt.Errorf("outer: %w", flowfabric.NewError(flowfabric.CodeStaleLease, "m").Wrap(errors.New("sesame"))), flowfabric.CodeStaleLease, 409},
		{&flowfabric.ConfigError{Context: "c", Field: "token", Message: "m"}, flowfabric.CodeInvalidInput, 400},
		{&flowfabric.Error{Code: "from_the_future", Class: flowfabric.ClassCapacity, Retryable: true}, "from_the_future", 429},
	} {
		p := wire.NewProblem(tc.err)
		if p.Code != tc.code || p.Status != tc.status || p.Title == "" {
			t.Errorf("%v: %+v", tc.err, p)
		}
		text, _ := json.Marshal(p)
		if strings.Contains(string(text), "sesame") {
			t.Errorf("the cause is shown: %s", text)
		}
	}
}

func TestProblemKeepsTheErrorsDetails(t *testing.T) {
	e := flowfabric.NewError(flowfabric.CodeInvalidInput, "m").With("field", "f")
	wire.NewProblem(e).Details["field"] = "other"
	if e.Detail("field") != "f" {
		t.Error("the document shares the error's details")
	}
	if got := wire.NewProblem(flowfabric.NewError(flowfabric.CodeInternal, "m")).Err(); got.Details != nil {
		t.Errorf("details %v out of nothing", got.Details)
	}
}

// TestProblemNamesFieldsOfTheBody: a record's name for a value is not always the
// one it was sent under.
func TestProblemNamesFieldsOfTheBody(t *testing.T) {
	for field, want := range map[string]string{"failure_category": "category", "result": "payload", "result_encoding": "payload_encoding", "reason": "reason"} {
		e := flowfabric.InvalidInput(field, "is wrong")
		if got := wire.NewProblem(e).Details["field"]; got != want || e.Detail("field") != field {
			t.Errorf("%s is called %v", field, got)
		}
	}
	wire.NewProblem(flowfabric.NewError(flowfabric.CodeInternal, "m").With("field", []string{"x"}))
}

func FuzzProblem(f *testing.F) {
	text, _ := json.Marshal(wire.NewProblem(flowfabric.InvalidInput("a", "b").With("n", 5).With("l", []string{"x"})))
	f.Add(text)
	f.Add([]byte(`{"code":"x","details":{"a":1e400,"b":[[1,"x"],{}]}}`))
	f.Add([]byte(`{"details":null,"retry_after_ms":-1}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		var p wire.Problem
		if wire.UnmarshalResponse(doc, &p) != nil {
			return
		}
		text, err := json.Marshal(&p)
		if err != nil {
			t.Fatal(err)
		}
		var again wire.Problem
		if err := wire.UnmarshalResponse(text, &again); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if again.Code != p.Code || again.Class != p.Class || again.Retryable != p.Retryable || again.RetryAfterMs != p.RetryAfterMs || len(again.Err().Details) != len(p.Err().Details) {
			t.Fatalf("%+v became %+v", p, again)
		}
	})
}
