package api_test

import (
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric/server/api"
)

// TestSpec03_5_3_CauseOfInvalidToken: what was wrong with a token is counted, and
// told to nobody. (Specification 03, section 5.3.)
func TestSpec03_5_3_CauseOfInvalidToken(t *testing.T) {
	s := newSite(t, api.Options{CallbackRate: -1})
	x := s.running("default")
	token := s.suspended(x)
	for cause, sent := range map[string]struct{ waitpoint, token string }{
		"malformed":      {wp1, "no token"},
		"unknown_kid":    {wp1, "k9" + token[2:]},
		"unknown_target": {wp2, token},
		"mismatch":       {wp1, token[:len(token)-4] + "0000"},
	} {
		body := `{"waitpoint_id":"` + sent.waitpoint + `","waitpoint_token":"` + sent.token + `","signal_name":"ready"}`
		r := s.call("POST", x.e("/signal"), body)
		if r.want(403); strings.Contains(string(r.body), cause) {
			t.Errorf("%s is told: %s", cause, r.body)
		}
		metrics := string(s.call("GET", "/metrics", "").want(200).body)
		if !strings.Contains(metrics, `ff_invalid_tokens_total{cause="`+cause+`"} 1`) {
			t.Errorf("%s is not counted", cause)
		}
	}
}
