package server_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/server"
)

// FuzzRouter throws requests at a server: whatever comes, it neither panics nor
// answers with a fault of its own, and every refusal is a problem document.
func FuzzRouter(f *testing.F) {
	const id = "{fp:7}:00000000-0000-4000-8000-000000000000"
	for _, s := range []struct{ method, target, body string }{
		{"GET", "/v1/executions?limit=3&cursor=abc&tag=a:b&public_state=waiting", ""},
		{"POST", "/v1/executions?wait_ms=1", `{"namespace":"n","lane_id":"l","execution_kind":"k","payload":""}`},
		{"POST", "/v1/executions/batch", `{"executions":[{"namespace":"n","lane_id":"l","execution_kind":"k","payload":"","policy":{}}]}`},
		{"GET", "/v1/executions/" + id, ""},
		{"GET", "/v1/executions/%7Bfp:7%7D:00000000-0000-4000-8000-000000000000/wait?wait_ms=0", ""},
		{"POST", "/v1/executions/" + id + "/attempts/0/complete", `{"fence":{"lease_id":"x","lease_epoch":1,"attempt_id":"y"}}`},
		{"POST", "/v1/executions/" + id + "/claim", `{"grant":{"grant_id":"g","lane_id":"l"},"worker_id":"w","worker_instance_id":"i","lease_ttl_ms":1000}`},
		{"PUT", "/v1/executions/" + id + "/tags/a.b", `{"value":"v"}`},
		{"POST", "/v1/workers/w/tasks", `{"worker_instance_id":"i","lane_id":"l","lease_ttl_ms":1000,"max_tasks":3}`},
		{"POST", "/v1/workers/w/renewals", `{"items":[{"execution_id":"x","fence":{}}]}`},
		{"PUT", "/v1/worker-instances/i", `{"worker_id":"w","namespace":"*","lanes":["l"],"capabilities":["a"],"instance_nonce":"00000000-0000-4000-8000-000000000000"}`},
		{"DELETE", "/v1/worker-instances/i?namespace=n&reason=r&revoke_leases=true", ""},
		{"PUT", "/v1/lanes/l%2Fx", `{"scheduling_weight":3,"default_policy":{}}`},
		{"PUT", "/v1/lanes/l/state", `{"state":"paused","reason":""}`},
		{"GET", "/v1/feeds/completions?cursor=earliest&kinds=a,b&partition=3", ""},
		{"GET", "/v1/feeds/leases/sse", ""},
		{"GET", "/v1/leases/expired?as_of=1&max_partitions_per_call=7", ""},
		{"POST", "/v1/admin/reconcile", `{"partition":1}`},
		{"OPTIONS", "/v1//x", ""},
		{"HEAD", "/healthz", ""},
	} {
		f.Add(s.method, s.target, []byte(s.body))
	}
	store, err := sqlite.Open(context.Background(), sqlite.Config{})
	if err != nil {
		f.Fatal(err)
	}
	srv, err := server.New(store, server.Config{Logger: quiet(), CORSOrigins: []string{"https://a.example"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		_ = srv.Shutdown(context.Background())
		_ = store.Close()
	})
	f.Fuzz(func(t *testing.T, method, target string, body []byte) {
		u, err := url.ParseRequestURI(target)
		if err != nil || method == "" || strings.ContainsFunc(method, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Skip()
		}
		// A client that goes away ends what waits.
		ctx, gone := context.WithCancel(t.Context())
		defer gone()
		leave := time.AfterFunc(50*time.Millisecond, gone)
		defer leave.Stop()
		r := httptest.NewRequestWithContext(ctx, "GET", "/", strings.NewReader(string(body)))
		r.Method, r.URL, r.RequestURI = method, u, target
		if len(body) > 0 {
			r.Header.Set("Content-Type", "application/json")
		}
		w := httptest.NewRecorder()
		srv.ServeHTTP(w, r)
		if ctx.Err() != nil {
			return
		}
		checkRefusal(t, w)
	})
}

func checkRefusal(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Code < 400 || w.Body.Len() == 0 { // HEAD has no body
		return
	}
	if w.Code == http.StatusMovedPermanently {
		t.Fatal("redirected")
	}
	var p struct {
		Code   flowfabric.Code
		Status int
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code {
		t.Fatalf("status %d: %v: %s", w.Code, err, w.Body)
	}
	if w.Code >= 500 && p.Code != flowfabric.CodeUnsupportedOperation && p.Code != flowfabric.CodeNotReady {
		t.Fatalf("fault %s", w.Body)
	}
}
