package api

import (
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
)

func TestLimiterRefills(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newLimiter(2)
	for i := range 4 { // the burst is twice the rate
		if _, ok := l.allow("a", now); !ok {
			t.Fatalf("request %d refused", i)
		}
	}
	wait, ok := l.allow("a", now)
	if ok || wait != 500*time.Millisecond {
		t.Errorf("over the burst: %v, wait %v", ok, wait)
	}
	if _, ok := l.allow("b", now); !ok {
		t.Error("another client is refused")
	}
	if _, ok := l.allow("a", now.Add(wait)); !ok {
		t.Error("refused after the wait")
	}
	for i := range 2 * maxTracked {
		l.allow(strconv.Itoa(i), now)
	}
	if len(l.buckets) > maxTracked {
		t.Errorf("%d buckets", len(l.buckets))
	}
	if _, ok := newLimiter(0).allow("a", now); !ok {
		t.Error("no limit refuses")
	}
}

func TestFailuresExpire(t *testing.T) {
	now := time.Unix(1000, 0)
	addr := netip.MustParseAddr("192.0.2.1")
	var f failures
	for i := range maxAuthFailures {
		if f.blocked(addr, now) != 0 {
			t.Fatalf("blocked after %d", i)
		}
		f.note(addr, now)
	}
	if f.blocked(addr, now) != time.Minute || f.blocked(netip.MustParseAddr("192.0.2.2"), now) != 0 {
		t.Error("the wrong address is blocked")
	}
	if f.blocked(addr, now.Add(time.Minute)) != 0 {
		t.Error("blocked after a minute")
	}
	// Twenty spread over more than a minute do not count together.
	other := netip.MustParseAddr("192.0.2.3")
	for i := range 2 * maxAuthFailures {
		f.note(other, now.Add(time.Duration(i)*4*time.Second))
	}
	if f.blocked(other, now.Add(2*maxAuthFailures*4*time.Second)) != 0 {
		t.Error("slow failures block")
	}
}

func TestClientAddr(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, tc := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:5", "", "192.0.2.1"},
		{"192.0.2.1:5", "203.0.113.9", "192.0.2.1"}, // not a trusted proxy
		{"10.1.2.3:5", "203.0.113.9", "203.0.113.9"},
		{"10.1.2.3:5", "198.51.100.1, 203.0.113.9, 10.9.9.9", "203.0.113.9"},
		{"10.1.2.3:5", "10.9.9.9", "10.9.9.9"},
		{"10.1.2.3:5", "nonsense, 10.9.9.9", "10.9.9.9"},
		{"[::ffff:10.1.2.3]:5", "203.0.113.9:77", "203.0.113.9"},
		{"10.1.2.3:5", "", "10.1.2.3"},
	} {
		r := &http.Request{RemoteAddr: tc.remote, Header: http.Header{}}
		if tc.forwarded != "" {
			r.Header.Set("X-Forwarded-For", tc.forwarded)
		}
		if got := clientAddr(r, trusted); got.String() != tc.want {
			t.Errorf("%s via %q: %v, want %s", tc.remote, tc.forwarded, got, tc.want)
		}
	}
}

func TestLanesFoldIntoOther(t *testing.T) {
	m := NewMetrics()
	for i := range maxLaneLabels + 10 {
		m.lane(flowfabric.LaneID(strconv.Itoa(i)))
	}
	if got := m.lane("3"); got != "3" {
		t.Errorf("lane 3 is %q", got)
	}
	if got := m.lane(flowfabric.LaneID(strconv.Itoa(maxLaneLabels + 3))); got != "other" {
		t.Errorf("a lane over the bound is %q", got)
	}
}
