package server_test

import (
	"strings"
	"time"
)

// eventually asks again and again until the condition holds, 10 s at most. It is
// for what only the outside of a server shows.
func (f *fixture) eventually(what string, holds func() bool) {
	f.t.Helper()
	timeUp := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-timeUp:
			f.t.Fatalf("never: %s", what)
		}
	}
}

// metric returns the value of a series as /metrics shows it, "" when absent.
func (c *client) metric(series string) string {
	c.t.Helper()
	for line := range strings.Lines(string(c.call("GET", "/metrics", nil).body)) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}
