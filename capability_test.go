package flowfabric_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/flowfabric/flowfabric"
)

func TestSpec02_S41_NormalizeCapabilities(t *testing.T) {
	tokens := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("t%03d", i))
		}
		return out
	}
	sized := func(bytes int) []string {
		return []string{strings.Repeat("a", bytes/2), strings.Repeat("b", bytes-bytes/2-1)}
	}
	for _, tc := range []struct {
		name   string
		tokens []string
		reason string
		want   string
	}{
		{"nil", nil, "", ""},
		{"sorted and unique", []string{"gpu", "cpu", "gpu"}, "", "cpu,gpu"},
		{"sorted by bytes", []string{"é", "z", "Z"}, "", "Z,z,é"},
		{"other UTF-8", []string{"東京-gpu"}, "", "東京-gpu"},
		{"empty", []string{"a", ""}, "worker:empty_token", ""},
		{"comma", []string{"a,b"}, "worker:comma_in_token", ""},
		{"space", []string{"a b"}, "worker:control_or_whitespace", ""},
		{"tab", []string{"a\tb"}, "worker:control_or_whitespace", ""},
		{"delete", []string{"a\x7f"}, "worker:control_or_whitespace", ""},
		{"not UTF-8", []string{"a\xff"}, "worker:control_or_whitespace", ""},
		{"256 tokens", tokens(256), "", strings.Join(tokens(256), ",")},
		{"257 tokens", tokens(257), "worker:too_many_tokens", ""},
		{"257 tokens, 256 of them different", append(tokens(256), "t000"), "", strings.Join(tokens(256), ",")},
		{"4096 bytes", sized(4096), "", strings.Join(sized(4096), ",")},
		{"4097 bytes", sized(4097), "worker:too_many_bytes", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			given := slices.Clone(tc.tokens)
			got, err := flowfabric.NormalizeCapabilities("worker", tc.tokens)
			if !slices.Equal(given, tc.tokens) {
				t.Error("the argument was changed")
			}
			if tc.reason != "" {
				e := flowfabric.AsError(err)
				if e == nil || e.Code != flowfabric.CodeInvalidCapabilities || e.Detail("reason") != tc.reason {
					t.Errorf("error %v, want reason %s", err, tc.reason)
				}
				return
			}
			if err != nil || strings.Join(got, ",") != tc.want {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestCapabilityDigest(t *testing.T) {
	// FNV-1a 64 of the empty string is cbf29ce484222325, and that of "a" is
	// af63dc4c8601ec8c: upper and lower half XORed.
	for _, tc := range []struct {
		set  []string
		want string
	}{
		{nil, fmt.Sprintf("%08x", uint32(0xcbf29ce4^0x84222325))},
		{[]string{"a"}, fmt.Sprintf("%08x", uint32(0xaf63dc4c^0x8601ec8c))},
	} {
		if got := flowfabric.CapabilityDigest(tc.set); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.set, got, tc.want)
		}
	}
	if flowfabric.CapabilityDigest([]string{"a", "b"}) != flowfabric.CapabilityDigest([]string{"a,b"}) {
		t.Error("the digest is not that of the joined form")
	}
}

func TestMissingCapabilities(t *testing.T) {
	for _, tc := range []struct{ required, have, want string }{
		{"", "", ""}, {"", "a b", ""}, {"a", "", "a"}, {"a b c", "b", "a c"}, {"b", "a b c", ""}, {"GPU", "gpu", "GPU"}, {"a z", "a b", "z"},
	} {
		got := flowfabric.MissingCapabilities(strings.Fields(tc.required), strings.Fields(tc.have))
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%+v: missing %v", tc, got)
		}
	}
}

func FuzzNormalizeCapabilities(f *testing.F) {
	for _, s := range []string{"", "a|b", "gpu|gpu|cpu", "a,b", "x y", "東京|\xff", strings.Repeat("t|", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tokens := strings.Split(s, "|")
		normal, err := flowfabric.NormalizeCapabilities("required", tokens)
		if err != nil {
			if flowfabric.CodeOf(err) != flowfabric.CodeInvalidCapabilities {
				t.Fatal(err)
			}
			return
		}
		if !slices.IsSorted(normal) || len(normal) > flowfabric.MaxCapabilityTokens || len(strings.Join(normal, ",")) > flowfabric.MaxCapabilityBytes {
			t.Fatalf("not a normal form: %q", normal)
		}
		again, err := flowfabric.NormalizeCapabilities("required", normal)
		if err != nil || !slices.Equal(again, normal) {
			t.Fatalf("%q is not its own normal form: %q, %v", normal, again, err)
		}
		if missing := flowfabric.MissingCapabilities(normal, normal); missing != nil {
			t.Fatalf("a set lacks %q of itself", missing)
		}
		for _, token := range normal {
			if !utf8.ValidString(token) || !slices.Contains(tokens, token) {
				t.Fatalf("token %q", token)
			}
		}
	})
}

func FuzzParseExecutionID(f *testing.F) {
	for _, s := range []string{"{fp:7}:00000000-0000-0000-0000-000000000000", "{fp:x}:a", "{fp:65536}:", "{fp:1}:nope", "{fp:01}:", "{fp:", "", "}:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := flowfabric.ParseExecutionID(s)
		if err != nil {
			kind := flowfabric.AsError(err).Detail("kind")
			if flowfabric.CodeOf(err) != flowfabric.CodeInvalidExecutionID || kind != flowfabric.KindMissingTag &&
				kind != flowfabric.KindInvalidPartitionIndex && kind != flowfabric.KindInvalidUUID {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if string(id) != s || flowfabric.MakeExecutionID(id.Partition(), id.UUID()) != id {
			t.Fatalf("%q parses as partition %d, uuid %s", s, id.Partition(), id.UUID())
		}
	})
}
