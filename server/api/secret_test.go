package api_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/server/api"
)

var (
	hexA = strings.Repeat("a1", 32)
	hexB = strings.Repeat("b2", 32)
)

func rotate(kid, secret, more string) string {
	return fmt.Sprintf(`{"new_kid":%q,"new_secret_hex":%q%s}`, kid, secret, more)
}

const rotateRoute = "/v1/admin/rotate-waitpoint-secret"

// TestSpec08_S29_Rotate: refusals of a rotation, repeats of it, and tokens within
// the grace; no secret is ever told.
func TestSpec08_S29_Rotate(t *testing.T) {
	grace := int64(5_000)
	file := "[" + named("ops", "ops-token-0123456789", "operate") + "}]"
	s := newSite(t, api.Options{Tokens: tokens(t, file), KeyGraceMs: &grace})
	s.token = apiToken
	x := s.running("default")
	token := s.suspended(x)
	s.call("POST", rotateRoute, rotate("a:b", hexA, "")).problem(400, flowfabric.CodeInvalidKid)
	s.call("POST", rotateRoute, rotate("k2", "zz", "")).problem(400, flowfabric.CodeInvalidSecretHex)
	s.call("POST", rotateRoute, rotate("k2", "", "")).problem(400, flowfabric.CodeInvalidSecretHex)
	s.call("POST", rotateRoute, rotate("k2", hexA, `,"grace_ms":-1`)).problem(400, flowfabric.CodeInvalidGraceMs)
	s.call("POST", rotateRoute, rotate("k2", hexA, `,"grace_ms":1.5`)).problem(400, flowfabric.CodeInvalidInput)
	s.call("POST", rotateRoute, `{}`).problem(400, flowfabric.CodeInvalidInput)
	if got := s.call("GET", "/v1/admin/waitpoint-secrets", "").want(200); strings.TrimSpace(string(got.body)) != `{"current_kid":"k1","verifying":[]}` {
		t.Errorf("before: %s", got.body)
	}
	r := s.call("POST", rotateRoute, rotate("k2", hexA, "")).want(200)
	if r.text("rotated") != "1" || r.text("failed") != "[]" || r.text("new_kid") != "k2" || r.text("copies", 0, "outcome") != "rotated" || r.text("copies", 0, "previous_kid") != "k1" {
		t.Errorf("rotated %s", r.body)
	}
	if again := s.call("POST", rotateRoute, rotate("k2", hexA, "")).want(200); again.text("rotated") != "1" || again.text("copies", 0, "outcome") != "noop" {
		t.Errorf("again %s", again.body)
	}
	s.call("POST", rotateRoute, rotate("k2", hexB, "")).problem(409, flowfabric.CodeRotationConflict)
	kids, err := s.store.ListWaitpointKIDs(context.Background())
	if err != nil || len(kids.Verifying) != 1 || kids.Verifying[0].ExpiresAt != s.store.Now()+5_000 {
		t.Errorf("the grace is not the configured one: %+v at %d, %v", kids, s.store.Now(), err)
	}
	s.call("POST", x.e("/signal"), signal(wp1, token, "ready", "")).want(200)
	s.call("POST", rotateRoute, `{"new_kid":"k3","grace_ms":0}`).want(200)
	if got := s.call("GET", "/v1/admin/waitpoint-secrets", "").want(200); got.text("current_kid") != "k3" {
		t.Errorf("after: %s", got.body)
	}
	for _, secret := range []string{hexA, hexB} {
		if strings.Contains(s.log.String(), secret) || strings.Contains(string(r.body), secret) {
			t.Errorf("%s is told", secret)
		}
	}
	if n := strings.Count(s.log.String(), `msg="waitpoint secret rotated" audit=true token=default`); n != 3 {
		t.Errorf("%d rotations are audited, want 3: %s", n, s.log)
	}
	s.token = "ops-token-0123456789"
	s.call("POST", rotateRoute, rotate("k4", hexA, "")).problem(403, flowfabric.CodeInsufficientScope)
	s.call("GET", "/v1/admin/waitpoint-secrets", "").problem(403, flowfabric.CodeInsufficientScope)
}

// rotating is a store whose rotation ends as a test wants.
type rotating struct {
	*sqlite.Backend
	do func(context.Context, flowfabric.RotateWaitpointSecretArgs) (flowfabric.RotateWaitpointSecretResult, error)
}

func (r *rotating) RotateWaitpointSecret(ctx context.Context, a flowfabric.RotateWaitpointSecretArgs) (flowfabric.RotateWaitpointSecretResult, error) {
	return r.do(ctx, a)
}

// TestRotateCopies: one copy is enough for 200, none is an error; a secret made
// here has 32 bytes and differs every time.
func TestRotateCopies(t *testing.T) {
	s := newSite(t, api.Options{})
	down := flowfabric.NewError(flowfabric.CodeStoreUnavailable, "down").WithKind("transport")
	var seen []flowfabric.RotateWaitpointSecretArgs
	var copies []flowfabric.RotatedCopy
	var failed error
	store := &rotating{s.store, func(ctx context.Context, a flowfabric.RotateWaitpointSecretArgs) (flowfabric.RotateWaitpointSecretResult, error) {
		if _, limited := ctx.Deadline(); !limited {
			t.Error("the rotation has no limit of time")
		}
		seen = append(seen, a)
		return flowfabric.RotateWaitpointSecretResult{NewKID: a.NewKID, Copies: copies}, failed
	}}
	a, err := api.New(store, api.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.handler = a
	copies = []flowfabric.RotatedCopy{{Partition: 3, Outcome: flowfabric.RotateRotated, PreviousKID: "k1"}, {Partition: 9, Err: down}}
	r := s.call("POST", rotateRoute, `{"new_kid":"k2"}`).want(200)
	if r.text("rotated") != "1" || r.text("failed") != "[9]" || r.text("copies", 1, "problem", "code") != "store_unavailable" {
		t.Errorf("partly %s", r.body)
	}
	copies = copies[1:]
	s.call("POST", rotateRoute, `{"new_kid":"k2"}`).problem(503, flowfabric.CodeStoreUnavailable)
	copies, failed = nil, flowfabric.NewError(flowfabric.CodeResourceExhausted, "busy").With("pool", flowfabric.PoolAdminRotate)
	if d := s.call("POST", rotateRoute, `{"new_kid":"k2"}`).problem(429, flowfabric.CodeResourceExhausted); d["pool"] != "admin_rotate" {
		t.Errorf("busy: %v", d)
	}
	failed = context.DeadlineExceeded
	s.call("POST", rotateRoute, `{"new_kid":"k2"}`).problem(504, flowfabric.CodeStoreTimeout)
	if len(seen) != 4 || len(seen[0].NewSecretHex) != 64 || seen[0].NewSecretHex == seen[1].NewSecretHex || seen[0].GraceMs != nil {
		t.Errorf("asked for %d rotations, secrets of %d digits", len(seen), len(seen[0].NewSecretHex))
	}
}

// TestReadyNeedsKey: without a key for tokens the process takes no work.
func TestReadyNeedsKey(t *testing.T) {
	s := newSite(t, api.Options{})
	s.call("GET", "/readyz", "").want(200)
	for want, kids := range map[int]flowfabric.WaitpointKIDs{200: {CurrentKID: "k1"}, 503: {}} {
		a, err := api.New(&keyed{s.store, kids, nil}, api.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s.handler = a
		r := s.call("GET", "/readyz", "").want(want)
		if want == 503 && r.text("details", "checks", "waitpoint_key") != "failing" {
			t.Errorf("checks %s", r.body)
		}
	}
	for want, fault := range map[int]error{200: flowfabric.ErrUnsupportedOperation, 503: errors.New("down")} {
		a, err := api.New(&keyed{s.store, flowfabric.WaitpointKIDs{}, fault}, api.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s.handler = a
		s.call("GET", "/readyz", "").want(want)
	}
}

type keyed struct {
	*sqlite.Backend
	kids flowfabric.WaitpointKIDs
	err  error
}

func (k *keyed) ListWaitpointKIDs(context.Context) (flowfabric.WaitpointKIDs, error) {
	return k.kids, k.err
}
