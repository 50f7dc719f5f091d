package wire_test

import (
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// TestBatchItemsAnswerForTheirValues: what is wrong with an item's values is that
// item's problem; a fault of the document's form is everybody's.
func TestBatchItemsAnswerForTheirValues(t *testing.T) {
	const good = `{"namespace":"n","lane_id":"l","execution_kind":"k","payload":""}`
	for item, field := range map[string]string{
		`{"lane_id":"l","execution_kind":"k","payload":""}`:                                                "namespace",
		`{"namespace":null,"lane_id":"l","execution_kind":"k","payload":""}`:                               "namespace",
		`{"namespace":"n","lane_id":"l","execution_kind":"k","payload":"?"}`:                               "payload",
		`{"namespace":"n","lane_id":"l","execution_kind":"k","payload":"","priority":1.5}`:                 "priority",
		`{"namespace":"n","lane_id":"l","execution_kind":"k","payload":"","tags":{"a.b":[1,{"c":2}]}}`:     "tags.a.b",
		`{"namespace":"n","lane_id":"l","execution_kind":"k","payload":"","delay_until":9007199254740992}`: "delay_until",
		`7`: "body",
	} {
		var r wire.CreateExecutionsRequest
		if err := wire.Unmarshal([]byte(`{"executions":[`+good+`,`+item+`, `+good+`]}`), &r); err != nil {
			t.Errorf("%s refuses all: %v", item, err)
			continue
		}
		if len(r.Executions) != 3 {
			t.Errorf("%s: %d items", item, len(r.Executions))
			continue
		}
		for i := range r.Executions {
			_, err := r.Executions[i].Args()
			if i != 1 && err != nil {
				t.Errorf("%s: item %d: %v", item, i, err)
			}
			if got := flowfabric.AsError(err); i == 1 && (got == nil || got.Code != flowfabric.CodeInvalidInput || got.Detail("field") != field) {
				t.Errorf("%s: %v, want the field %s", item, err, field)
			}
		}
	}
	for item, field := range map[string]string{
		`{"namespace":"n","lane_id":"l","execution_kind":"k","payload":"","now":1}`:                    "executions[1].now",
		`{"namespace":"n","lane_id":"l","execution_kind":"k","payload":"","payload":""}`:               "executions[1].payload",
		`{"namespace":"n","lane_id":"l","execution_kind":"k","payload":"","tags":{"a.b":"","a.b":""}}`: "executions[1].tags.a.b",
		`{"namespace":5,"lane_id":`: "executions[1].namespace",
		`null`:                      "executions[1]",
	} {
		var r wire.CreateExecutionsRequest
		err := wire.Unmarshal([]byte(`{"executions":[`+good+`,`+item+`]}`), &r)
		if got := flowfabric.AsError(err); got == nil || got.Code != flowfabric.CodeInvalidInput || got.Detail("field") != field {
			t.Errorf("%s: %v, want the field %s", item, err, field)
		}
	}
}

// TestCompletionItemNeedsItsAttempt: an item without attempt_index is refused
// alone, and its execution is named.
func TestCompletionItemNeedsItsAttempt(t *testing.T) {
	var r wire.CompletionsRequest
	const doc = `{"items":[{"execution_id":"` + string(id) + `","fence":{}},{"execution_id":"` + string(id) + `","attempt_index":0}]}`
	if err := wire.Unmarshal([]byte(doc), &r); err != nil {
		t.Fatal(err)
	}
	args, refused, err := r.Args("w")
	if err != nil || len(args) != 2 || args[0].ExecutionID != id || len(refused) != 2 || refused[1] != nil {
		t.Fatalf("%v %v %v", args, refused, err)
	}
	if got := flowfabric.AsError(refused[0]); got == nil || got.Detail("field") != "attempt_index" {
		t.Errorf("refused with %v", refused[0])
	}
}
