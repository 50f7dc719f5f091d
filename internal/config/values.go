package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// badValue is what a setter returns: why the value is refused. The loader adds
// the variable and the value.
func badValue(format string, args ...any) error { return fmt.Errorf(format, args...) }

func splitList(s string) []string {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	parts := strings.Split(s, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

func parseBool(s string) (bool, error) {
	switch s {
	case "1", "true":
		return true, nil
	case "0", "false":
		return false, nil
	}
	return false, badValue("must be 1, 0, true or false")
}

func boolTo(field func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, s string) error {
		v, err := parseBool(s)
		*field(c) = v
		return err
	}
}

func parseInt(s string, low, high int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, badValue("must be a whole number, %d..%d", low, high)
	}
	if n < low || n > high {
		return 0, badValue("must be %d..%d", low, high)
	}
	return n, nil
}

func intTo(field func(*Config) *int, low, high int) func(*Config, string) error {
	return func(c *Config, s string) error {
		v, err := parseInt(s, low, high)
		*field(c) = v
		return err
	}
}

func countTo(field func(*Config) *int) func(*Config, string) error {
	return func(c *Config, s string) error {
		if s == "auto" {
			*field(c) = 0
			return nil
		}
		v, err := parseInt(s, 1, 65535)
		*field(c) = v
		return err
	}
}

// parseDuration refuses a bare number: a duration carries its unit.
func parseDuration(s string, low, high time.Duration) (time.Duration, error) {
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return 0, badValue("lacks a unit; write %sms or %ss", s, s)
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, badValue("is no duration; write 1500ms or 45s")
	}
	if d < low || d > high {
		return 0, badValue("must be %s..%s", low, high)
	}
	return d, nil
}

func durationTo(field func(*Config) *time.Duration, low, high time.Duration) func(*Config, string) error {
	return func(c *Config, s string) error {
		v, err := parseDuration(s, low, high)
		*field(c) = v
		return err
	}
}

func addrTo(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, s string) error {
		_, port, err := net.SplitHostPort(s)
		if err != nil {
			return badValue("must be host:port")
		}
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			return badValue("has no port of 0..65535")
		}
		*field(c) = s
		return nil
	}
}

// loopback reports whether a listener on addr can be reached from this machine
// only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// portFits reports whether a port, which may be absent, is one: a URL takes any
// digits.
func portFits(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

func setOrigins(c *Config, s string) error {
	c.CORSOrigins = nil
	entries := splitList(s)
	if len(entries) == 0 {
		return badValue("is set but empty; unset it to switch CORS off")
	}
	for _, e := range entries {
		if e == "*" {
			if len(entries) > 1 {
				return badValue("names * beside others; * stands alone")
			}
			c.CORSOrigins = []string{"*"}
			return nil
		}
		u, err := url.Parse(e)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil ||
			u.Scheme+"://"+u.Host != e || !portFits(u.Port()) || strings.HasSuffix(u.Host, ":") || strings.Contains(u.Host, "*") {
			return badValue("%q is no origin; write scheme://host[:port] without a path", e)
		}
		c.CORSOrigins = append(c.CORSOrigins, e)
	}
	return nil
}

func setProxies(c *Config, s string) error {
	c.TrustedProxies = nil
	for _, e := range splitList(s) {
		p, err := netip.ParsePrefix(e)
		if err != nil {
			return badValue("%q is no network; write for example 10.0.0.0/8", e)
		}
		c.TrustedProxies = append(c.TrustedProxies, p.Masked())
	}
	return nil
}

// The bounds of the shared token's length. (Specification 08, section 3.)
const (
	MinAPITokenBytes = 16
	MaxAPITokenBytes = 4096
)

func setAPIToken(c *Config, s string) error {
	if strings.TrimSpace(s) == "" {
		return badValue("is set but empty")
	}
	if err := CheckToken(s); err != nil {
		return err
	}
	if len(s) < MinAPITokenBytes {
		return badValue("is shorter than %d bytes; make one with: flowfabric token new", MinAPITokenBytes)
	}
	if len(s) > MaxAPITokenBytes {
		return badValue("is longer than %d bytes", MaxAPITokenBytes)
	}
	c.APIToken = s
	return nil
}

// CheckToken reports why a bearer token can't travel in a header.
func CheckToken(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= 0x20 || s[i] > 0x7E {
			return badValue("holds a character that is illegal in a header, at byte %d", i)
		}
	}
	return nil
}

// Bounds of a waitpoint secret, in hexadecimal digits.
const (
	minSecretDigits = 64
	maxSecretDigits = 256
)

func checkSecret(s string) error {
	switch {
	case s == "":
		return badValue("is empty")
	case len(s)%2 != 0:
		return badValue("has an odd number of digits")
	case len(s) < minSecretDigits || len(s) > maxSecretDigits:
		return badValue("has %d digits, must have %d to %d", len(s), minSecretDigits, maxSecretDigits)
	}
	if _, err := hex.DecodeString(s); err != nil {
		return badValue("is not hexadecimal")
	}
	return nil
}

func setWaitpointSecret(c *Config, s string) error {
	c.WaitpointSecret = s
	return checkSecret(s)
}

func setWaitpointKID(c *Config, s string) error {
	if len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}) {
		return badValue("must be 1..64 of [A-Za-z0-9._-]")
	}
	c.WaitpointKID = s
	return nil
}

func setLogLevel(c *Config, s string) error {
	c.Log.Level, c.Log.Components = slog.LevelInfo, map[string]slog.Level{}
	for _, e := range splitList(s) {
		component, name, scoped := strings.Cut(e, "=")
		if !scoped {
			name = component
		}
		level, err := parseLevel(name)
		if err != nil {
			return err
		}
		if !scoped {
			c.Log.Level = level
			continue
		}
		if component == "" {
			return badValue("%q names no component", e)
		}
		c.Log.Components[component] = level
	}
	return nil
}

func parseLevel(name string) (slog.Level, error) {
	switch name {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, badValue("%q is no level; the levels are debug, info, warn, error", name)
}

func setLogFormat(c *Config, s string) error {
	if s != "json" && s != "text" {
		return badValue("must be json or text")
	}
	c.Log.Format = s
	return nil
}
