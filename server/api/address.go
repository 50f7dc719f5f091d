package api

import (
	"net/http"
	"net/netip"
	"strings"
)

// clientAddr returns the address a request counts for: the socket's, or, when
// the socket is a trusted proxy, the last address of X-Forwarded-For that is
// none.
func clientAddr(r *http.Request, trusted []netip.Prefix) netip.Addr {
	socket := parseAddr(r.RemoteAddr)
	if len(trusted) == 0 || !within(socket, trusted) {
		return socket
	}
	addr := socket
	forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(forwarded) - 1; i >= 0; i-- {
		hop := parseAddr(strings.TrimSpace(forwarded[i]))
		if !hop.IsValid() {
			return addr
		}
		addr = hop
		if !within(hop, trusted) {
			return addr
		}
	}
	return addr
}

func parseAddr(s string) netip.Addr {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap()
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap()
	}
	return netip.Addr{}
}

func within(addr netip.Addr, prefixes []netip.Prefix) bool {
	if !addr.IsValid() {
		return false
	}
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
