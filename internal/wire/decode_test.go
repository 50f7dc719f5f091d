package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// sample has one field of every shape the wire knows.
type sample struct {
	sampleHead
	Name    string            `json:"name"`
	Count   int64             `json:"count,omitempty"`
	Small   int32             `json:"small,omitempty"`
	Index   *uint32           `json:"index,omitempty"`
	Epoch   uint64            `json:"epoch,omitempty"`
	Flag    *bool             `json:"flag,omitempty"`
	Payload *[]byte           `json:"payload,omitempty"`
	Data    []byte            `json:"data,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"`
	Weights map[string]int    `json:"weights,omitempty"`
	Items   []sampleItem      `json:"items,omitempty"`
	Words   []string          `json:"words,omitempty"`
	Policy  json.RawMessage   `json:"policy,omitempty"`
	Ratio   float64           `json:"ratio,omitempty"`
	Hidden  string            `json:"-"`
}

type sampleHead struct {
	ID *flowfabric.ExecutionID `json:"execution_id,omitempty"`
}

type sampleItem struct {
	Fence *wire.Fence `json:"fence,omitempty"`
	Key   string      `json:"key"`
}

func decode(t *testing.T, doc string) (sample, error) {
	t.Helper()
	var s sample
	err := wire.Decode(strings.NewReader(doc), wire.LimitControl, &s)
	return s, err
}

func TestDecodeAccepts(t *testing.T) {
	doc := ` { "items" : [ {"key":"a","fence":{"lease_id":"l","lease_epoch":3}} , {"key":"\u00e9\ud83d\ude00\n"} ],
		"execution_id":"{fp:1}:x", "name":"é", "count":-9007199254740991, "small":1e3, "index":4294967295, "epoch":9007199254740991,
		"flag":false, "payload":"", "data":"\u0041QI\/", "tags":{"a.b":"c"}, "weights":{"n":1}, "words":[], "policy":{"x":[1,{"y":null}]}, "ratio":-1.5e-3 } `
	got, err := decode(t, doc)
	if err != nil {
		t.Fatal(err)
	}
	id, index, flag, empty := flowfabric.ExecutionID("{fp:1}:x"), uint32(1<<32-1), false, []byte{}
	want := sample{
		sampleHead: sampleHead{ID: &id}, Name: "é", Count: -wire.MaxInteger, Small: 1000, Index: &index, Epoch: wire.MaxInteger, Flag: &flag,
		Payload: &empty, Data: []byte{1, 2, 63}, Tags: map[string]string{"a.b": "c"}, Weights: map[string]int{"n": 1},
		Items: []sampleItem{{Key: "a", Fence: &wire.Fence{LeaseID: "l", LeaseEpoch: 3}}, {Key: "é😀\n"}},
		Words: []string{}, Policy: json.RawMessage(`{"x":[1,{"y":null}]}`), Ratio: -1.5e-3,
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(sample{})); diff != "" {
		t.Fatal(diff)
	}
}

func TestDecodeNullIsAbsent(t *testing.T) {
	got, err := decode(t, `{"name":"n","count":null,"payload":null,"tags":null,"items":null,"policy":null,"execution_id":null}`)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample{Name: "n"}, got, cmp.AllowUnexported(sample{})); diff != "" {
		t.Fatal(diff)
	}
}

func TestDecodeIntegers(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "-0": 0, "0.0": 0, "0e999999999999": 0, "1.0": 1, "10e-1": 1, "1.5e1": 15, "90071992547409.91e2": wire.MaxInteger,
		"1000000000000000000000e-20": 10, "-12E+2": -1200,
	} {
		got, err := decode(t, `{"name":"n","count":`+text+`}`)
		if err != nil || got.Count != want {
			t.Errorf("%s: got %d, %v, want %d", text, got.Count, err, want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for doc, field := range map[string]string{
		`null`: "body", `[]`: "body", `"x"`: "body", `{`: "body", `{"name":"n"`: "body", `{"name":"n"} x`: "body", `{"name":"n"}{}`: "body",
		`{"name":"n",}`: "body", `{"name" "n"}`: "body", `{name:"n"}`: "body", `{"name":"n" "count":1}`: "body", "\ufeff{\"name\":\"n\"}": "body",
		``: "name", `  `: "name", `{}`: "name", `{"name":null}`: "name", `{"name":5}`: "name", `{"name":"a`: "name", "{\"name\":\"a\x01\"}": "name",
		"{\"name\":\"\xff\"}": "name", `{"name":"\ud800"}`: "name", `{"name":"\ud800\u0041"}`: "name", `{"name":"\udc00\ud800"}`: "name", `{"name":"\x"}`: "name", `{"name":"\u12g4"}`: "name",
		"{\"name\":\"\\n\xff\"}": "name",
		`{"Name":"n"}`:           "Name", `{"NAME":"n"}`: "NAME", `{"name":"n","now":1}`: "now", `{"name":"n","Hidden":"x"}`: "Hidden", `{"name":"n","name":"n"}`: "name",
		`{"name":"n","n\u0061me":"n"}`: "name", `{"name":"n","count":null,"count":1}`: "count",
		`{"name":"n","count":1.5}`: "count", `{"name":"n","count":1e-1}`: "count", `{"name":"n","count":9007199254740992}`: "count",
		`{"name":"n","count":-9007199254740992}`: "count", `{"name":"n","count":1e999999999}`: "count", `{"name":"n","count":"1"}`: "count", `{"name":"n","count":01}`: "count",
		`{"name":"n","count":1.}`: "count", `{"name":"n","count":1e}`: "count", `{"name":"n","count":-}`: "count", `{"name":"n","count":true}`: "count",
		`{"name":"n","small":2147483648}`: "small", `{"name":"n","index":-1}`: "index", `{"name":"n","index":4294967296}`: "index", `{"name":"n","flag":"true"}`: "flag", `{"name":"n","flag":tru}`: "flag",
		`{"name":"n","payload":"AQ"}`: "payload", `{"name":"n","payload":"AR=="}`: "payload", `{"name":"n","payload":"AQ==\n"}`: "payload", `{"name":"n","payload":"A-_="}`: "payload", `{"name":"n","payload":[1]}`: "payload",
		`{"name":"n","payload":"AQ= ="}`: "payload",
		`{"name":"n","tags":{"a":1}}`:    "tags.a", `{"name":"n","tags":{"a":null}}`: "tags.a", `{"name":"n","tags":{"a":"1","a":"2"}}`: "tags.a", `{"name":"n","weights":{"a":1,"a":2}}`: "weights.a", `{"name":"n","tags":{"":1}}`: `tags.""`,
		`{"name":"n","items":[{"key":"k"},{"key":"k","fence":{"lease_id":1}}]}`: "items[1].fence.lease_id", `{"name":"n","items":[{"key":"k"},null]}`: "items[1]",
		`{"name":"n","items":[{"key":"k","x":1}]}`: "items[0].x", `{"name":"n","items":[{}]}`: "items[0].key", `{"name":"n","words":["a",]}`: "words", `{"name":"n","words":["a"`: "words",
		`{"name":"n","policy":{"a":}}`: "policy.a", `{"name":"n","policy":{"a":[1,nul]}}`: "policy.a[1]", `{"name":"n","ratio":1e999}`: "ratio",
		`{"name":"n","policy":` + deep(64) + `}`: "policy" + strings.Repeat("[0]", 63),
	} {
		_, err := decode(t, doc)
		e := flowfabric.AsError(err)
		if e == nil || e.Code != flowfabric.CodeInvalidInput {
			t.Errorf("%s: got %v, want invalid_input", doc, err)
			continue
		}
		if got := e.Detail("field"); got != field {
			t.Errorf("%s: got field %v, want %s", doc, got, field)
		}
	}
	if _, err := decode(t, `{"name":"n","policy":`+deep(63)+`}`); err != nil {
		t.Errorf("depth 64: %v", err)
	}
}

func TestDecodeLimit(t *testing.T) {
	doc := `{"name":"` + strings.Repeat("x", 100) + `"}`
	var s sample
	if err := wire.Decode(strings.NewReader(doc), int64(len(doc)), &s); err != nil {
		t.Fatalf("at the limit: %v", err)
	}
	err := wire.Decode(strings.NewReader(doc), int64(len(doc)-1), &s)
	e := flowfabric.AsError(err)
	if e == nil || e.Code != flowfabric.CodePayloadTooLarge || e.Detail("limit_bytes") != int64(len(doc)-1) {
		t.Fatalf("over the limit: %v", err)
	}
	if err := wire.Decode(&brokenReader{}, 10, &s); flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput || !errors.Is(err, errBroken) {
		t.Fatalf("broken body: %v", err)
	}
}

var errBroken = errors.New("broken")

type brokenReader struct{}

func (*brokenReader) Read([]byte) (int, error) { return 0, errBroken }

func TestDecodeKeepsNothingOfTheBuffer(t *testing.T) {
	doc := []byte(`{"name":"abc","payload":"AQID","tags":{"k":"v"},"policy":{"a":1}}`)
	var s sample
	if err := wire.Unmarshal(doc, &s); err != nil {
		t.Fatal(err)
	}
	clear(doc)
	if s.Name != "abc" || !bytes.Equal(*s.Payload, []byte{1, 2, 3}) || s.Tags["k"] != "v" || string(s.Policy) != `{"a":1}` {
		t.Fatalf("%+v changed with the document", s)
	}
}

func TestUnmarshalResponseIsLenient(t *testing.T) {
	var s sample
	doc := `{"future":{"a":[1,"x"]},"count":3,"tags":null,"also":[[]],"name":null}`
	if err := wire.UnmarshalResponse([]byte(doc), &s); err != nil {
		t.Fatal(err)
	}
	if s.Count != 3 || s.Name != "" {
		t.Fatalf("%+v", s)
	}
	if err := wire.UnmarshalResponse([]byte(`<html>`), &s); err == nil {
		t.Fatal("a page was taken for an answer")
	}
	if err := wire.UnmarshalResponse(nil, &s); err == nil {
		t.Fatal("nothing was taken for an answer")
	}
}

// FuzzDecode compares the strict decoder with encoding/json: what it accepts,
// encoding/json accepts with the same value, and it decodes what it made again.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"name":"n"}`, `{"name":"\ud83d\ude00\/","count":1e2,"payload":"AQID","items":[{"key":"k","fence":{}}]}`,
		`{"name":"n","tags":{"a":"b"},"policy":[1,2.5,{"a":null}],"words":["x"],"weights":{"a":1}}`, `{"name":"n","index":0,"flag":true,"ratio":1.5,"data":""}`,
		`[`, `{"name":1}`, `{"name":"n"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		var got sample
		if err := wire.Unmarshal(doc, &got); err != nil {
			e := flowfabric.AsError(err)
			if e == nil || e.Code != flowfabric.CodeInvalidInput || e.Detail("field") == "" {
				t.Fatalf("a fault without field: %v", err)
			}
			return
		}
		if !json.Valid(doc) {
			t.Fatalf("accepted broken JSON %q", doc)
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatalf("%q decoded to what does not encode: %v", doc, err)
		}
		var again sample
		if err := wire.Unmarshal(text, &again); err != nil {
			t.Fatalf("%q became %q, which is refused: %v", doc, text, err)
		}
		text2, _ := json.Marshal(again)
		if !bytes.Equal(text, text2) {
			t.Fatalf("%q became %q, then %q", doc, text, text2)
		}
		var std sample
		if err := json.Unmarshal(text, &std); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", text, err)
		}
		if std.Name != again.Name || std.Count != again.Count || !reflect.DeepEqual(std.Tags, again.Tags) || !reflect.DeepEqual(std.Weights, again.Weights) {
			t.Fatalf("%q: encoding/json gives %+v, this %+v", text, std, again)
		}
	})
}

func BenchmarkDecodeCreate(b *testing.B) {
	body, _ := json.Marshal(wire.NewCreateExecutionRequest(flowfabric.CreateExecutionArgs{
		Namespace: "default", LaneID: "default", Kind: "send_receipt", Payload: []byte(strings.Repeat(`{"order":17}`, 20)), CreatorIdentity: "me",
		Tags: map[string]string{"app.order": "17"}, IdempotencyKey: "order-17",
	}))
	b.SetBytes(int64(len(body)))
	b.Run("strict", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var r wire.CreateExecutionRequest
			if err := wire.Unmarshal(body, &r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var r wire.CreateExecutionRequest
			if err := json.Unmarshal(body, &r); err != nil {
				b.Fatal(err)
			}
		}
	})
}
