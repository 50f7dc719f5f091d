package flowfabric_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
)

// TestSpec08_7_SecretsAreRedacted: the arguments of a rotation print, log and
// marshal without the secret, so that a middleware may note its calls.
// (Specification 08, section 7.)
func TestSpec08_7_SecretsAreRedacted(t *testing.T) {
	grace := int64(5)
	a := flowfabric.RotateWaitpointSecretArgs{NewKID: "k2", NewSecretHex: strings.Repeat("cd", 32), GraceMs: &grace}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+verb+"\n", a, &a)
	}
	for _, v := range []any{a, &a, []any{a}} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("rotate", "args", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("rotate", "args", v)
	}
	if text := out.String(); strings.Contains(text, "cdcd") || strings.Contains(text, "CDCD") || strings.Contains(text, "63646364") {
		t.Errorf("shows the secret: %s", text)
	}
	if text := fmt.Sprint(a); text != "{NewKID:k2 NewSecretHex:[redacted] GraceMs:5}" {
		t.Errorf("printed %s", text)
	}
	a.NewSecretHex, a.GraceMs = "", nil
	if text := fmt.Sprint(a); text != "{NewKID:k2 NewSecretHex: GraceMs:<nil>}" {
		t.Errorf("without a secret %s", text)
	}
}
