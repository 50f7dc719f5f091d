package api

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// CORS says which origins may call from a browser. Nil means none.
type CORS struct {
	any     bool
	origins []string
}

// ParseCORS reads the value of FF_CORS_ORIGINS: the sole "*", or a comma list of
// scheme://host[:port]. It fails with invalid_input naming the offending entry.
func ParseCORS(value string) (*CORS, error) {
	if strings.TrimSpace(value) == "" {
		return nil, flowfabric.InvalidInput("FF_CORS_ORIGINS", "%q is set but empty", value)
	}
	c := &CORS{}
	for _, entry := range strings.Split(value, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "*" && strings.TrimSpace(value) == "*" {
			return &CORS{any: true}, nil
		}
		if !isOrigin(entry) {
			return nil, flowfabric.InvalidInput("FF_CORS_ORIGINS", "%q is neither scheme://host[:port] nor the sole *", entry)
		}
		c.origins = append(c.origins, entry)
	}
	return c, nil
}

func isOrigin(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Hostname() == "" || strings.ContainsAny(s, "*\\ ") {
		return false
	}
	return s == u.Scheme+"://"+u.Host && s == strings.ToLower(s) && !strings.HasSuffix(u.Host, ":")
}

const (
	corsMethods = "GET, POST, PUT, DELETE"
	corsHeaders = "content-type, idempotency-key, last-event-id, traceparent, x-request-id"
	// callbackCORSHeaders are those of a callback, which has no API token.
	callbackCORSHeaders = "content-type, ff-waitpoint-token, traceparent, x-request-id"

	corsExposed = "FF-Store-Time-Ms, FF-More-Candidates, FF-Payload-Encoding, Retry-After, X-Request-Id"
)

// allow sets the headers that let the request's origin read the response, and
// reports whether it may.
func (c *CORS) allow(h http.Header, origin string) bool {
	if c == nil {
		return false
	}
	if c.any {
		if origin == "" {
			return false
		}
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Expose-Headers", corsExposed)
		return true
	}
	h.Add("Vary", "Origin")
	if origin == "" || !slices.Contains(c.origins, origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", corsExposed)
	return true
}

// preflight adds what a preflight's answer holds besides.
func preflight(h http.Header, headers string) {
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", headers)
	h.Set("Access-Control-Max-Age", "600")
}
