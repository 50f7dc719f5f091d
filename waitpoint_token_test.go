package flowfabric_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
)

// TestSpec03_TokenShowsNothing: however a token is printed, its digest is not in
// it. (Specification 03, section 5.4.)
func TestSpec03_TokenShowsNothing(t *testing.T) {
	digest := strings.Repeat("0123456789abcdef", 4)
	token := flowfabric.NewWaitpointToken("k1:" + digest)
	malformed := flowfabric.NewWaitpointToken("k1:" + digest[:63])
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "token", token, "bad", malformed, "in", struct{ T flowfabric.WaitpointToken }{token})
	asJSON, err := json.Marshal(map[string]any{"token": token, "nested": []flowfabric.WaitpointToken{token, malformed}})
	if err != nil {
		t.Fatal(err)
	}
	bound := flowfabric.BoundWaitpoint{WaitpointID: "w", Token: token}
	for _, text := range []string{
		token.String(), token.GoString(), fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s %q %x %X %d", token, token, token, token, token, token, token, token),
		fmt.Sprintf("%v %+v %#v", bound, bound, &bound), fmt.Sprintf("%x", malformed), fmt.Sprint(malformed), logged.String(), string(asJSON),
	} {
		if strings.Contains(text, digest[:16]) || strings.Contains(text, fmt.Sprintf("%x", digest[:8])) {
			t.Errorf("the token is in %q", text)
		}
	}
	if got := token.String(); got != "k1:<REDACTED:len=64>" {
		t.Errorf("printed %q", got)
	}
	if got := malformed.String(); strings.Contains(got, "k1") {
		t.Errorf("a malformed token printed %q", got)
	}
	if token.Reveal() != "k1:"+digest || token.Fingerprint() != digest[:16] || token.KID() != "k1" {
		t.Errorf("reveal %q, fingerprint %q", token.Reveal(), token.Fingerprint())
	}
}

func TestTokenParts(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	for value, ok := range map[string]bool{
		"k1:" + digest:                         true,
		strings.Repeat("k", 64) + ":" + digest: true,
		"A.b_c-9:" + digest:                    true,
		"":                                     false,
		"k1":                                   false,
		":" + digest:                           false,
		strings.Repeat("k", 65) + ":" + digest: false,
		"k 1:" + digest:                        false,
		"k1:" + strings.ToUpper(digest):        false,
		"k1:" + digest[:63]:                    false,
		"k1:" + digest + "0":                   false,
		"k1:" + digest[:63] + "g":              false,
		"k1:k2:" + digest:                      false,
	} {
		if _, _, got := flowfabric.NewWaitpointToken(value).Parts(); got != ok {
			t.Errorf("%q well formed: %v", value, got)
		}
	}
}

// FuzzWaitpointToken: parsing never panics, and printing never shows more than
// the key identifier of a well-formed token.
func FuzzWaitpointToken(f *testing.F) {
	f.Add("k1:" + strings.Repeat("ab", 32))
	f.Add("k1:")
	f.Add(":::")
	f.Add("k\x00:" + strings.Repeat("0", 64))
	f.Fuzz(func(t *testing.T, value string) {
		token := flowfabric.NewWaitpointToken(value)
		kid, digest, ok := token.Parts()
		shown := fmt.Sprintf("%v|%#v|%s", token, token, token.LogValue())
		switch {
		case ok && (kid+":"+digest != value || !flowfabric.ValidKID(kid)):
			t.Fatalf("%q parsed as %q, %q", value, kid, digest)
		case ok && strings.Contains(shown, digest):
			t.Fatalf("%q shows its digest: %s", value, shown)
		case !ok && token.KID()+token.Fingerprint() != "":
			t.Fatalf("%q is malformed but has parts", value)
		case !ok && len(value) > 3 && strings.Contains(shown, value) && !strings.Contains("<malformed token>|<no token>", value):
			t.Fatalf("%q is shown: %s", value, shown)
		}
	})
}
