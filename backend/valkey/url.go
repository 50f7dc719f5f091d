package valkey

import (
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
)

// schemes of a store's URL; true with TLS.
var schemes = map[string]bool{"valkey": false, "valkeys": true, "redis": false, "rediss": true}

// IsURL reports whether the text begins like the URL of such a store.
func IsURL(text string) bool {
	scheme, _, ok := strings.Cut(text, "://")
	_, known := schemes[scheme]
	return ok && known
}

// Parse reads the URL of a store:
//
//	valkey://[user[:password]@]host[:port][,host[:port]…][/0][?option=value&…]
//
// valkeys:// is with TLS; redis:// and rediss:// are other spellings of the two.
// A user without a password is a user name; a password alone is written
// ":password@". The options are cluster, durability (see [ParseDurability]),
// password_file, tls, ca_file, cert_file, key_file, server_name,
// insecure_skip_verify, connect_timeout, request_timeout, connect_wait,
// client_name, allow_redis, allow_library_upgrade, force_library_reload,
// boot_wait and library_wait, with the meaning of the fields of [Config]. No
// error shows the password.
func Parse(text string) (Config, error) {
	var c Config
	scheme, rest, ok := strings.Cut(text, "://")
	withTLS, known := schemes[scheme]
	if !ok || !known {
		return c, flowfabric.InvalidInput("url", "does not begin with valkey:// or valkeys://")
	}
	if end := strings.IndexAny(rest, "/?"); end >= 0 && strings.IndexByte(rest, '@') > end && !strings.Contains(rest[:end], "@") {
		// Most likely a password that is not escaped: nothing of it is shown.
		return c, flowfabric.InvalidInput("url", "has / or ? before @; in a user or password write them as %%2F and %%3F")
	}
	rest, query, _ := strings.Cut(rest, "?")
	rest, path, _ := strings.Cut(rest, "/")
	if path != "" && path != "0" {
		return c, flowfabric.InvalidInput("url", "names database %q; only 0 is served", path)
	}
	hosts := rest
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		hosts = rest[at+1:]
		user, password, _ := strings.Cut(rest[:at], ":")
		var err1, err2 error
		c.Username, err1 = url.PathUnescape(user)
		c.Password, err2 = url.PathUnescape(password)
		if err1 != nil || err2 != nil {
			return c, flowfabric.InvalidInput("url", "the user or password has a bad %%-escape")
		}
	}
	if withTLS {
		c.TLS = &TLS{}
	}
	for host := range strings.SplitSeq(hosts, ",") {
		addr, err := hostPort(host)
		if err != nil {
			return c, err
		}
		c.Addrs = append(c.Addrs, addr)
	}
	if err := c.parseOptions(query); err != nil {
		return c, err
	}
	check := c
	return c, check.complete()
}

// hostPort completes an address by the default port.
func hostPort(s string) (string, error) {
	if s == "" {
		return "", flowfabric.InvalidInput("url", "names no host")
	}
	if _, _, err := net.SplitHostPort(s); err != nil {
		s = net.JoinHostPort(strings.Trim(s, "[]"), "6379")
	}
	return s, checkAddr(s)
}

func (c *Config) parseOptions(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return flowfabric.InvalidInput("url", "the options do not parse")
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if len(values[name]) > 1 {
			return flowfabric.InvalidInput("url", "option %q is given twice", name)
		}
		if err := c.setOption(name, values[name][0]); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) setOption(name, value string) error {
	tls := func() *TLS {
		if c.TLS == nil {
			c.TLS = &TLS{}
		}
		return c.TLS
	}
	switch name {
	case "durability":
		d, err := ParseDurability(value)
		c.Durability = d
		return err
	case "password_file":
		c.PasswordFile = value
	case "client_name":
		c.ClientName = value
	case "ca_file":
		tls().CAFile = value
	case "cert_file":
		tls().CertFile = value
	case "key_file":
		tls().KeyFile = value
	case "server_name":
		tls().ServerName = value
	case "insecure_skip_verify":
		return setBool(name, value, &tls().SkipVerify)
	case "tls":
		on := c.TLS != nil
		if err := setBool(name, value, &on); err != nil {
			return err
		}
		if on {
			tls()
		} else if c.TLS != nil {
			return flowfabric.InvalidInput("url", "tls=%s contradicts the scheme or another option", value)
		}
	case "cluster":
		return setBool(name, value, &c.Cluster)
	case "allow_redis":
		return setBool(name, value, &c.AllowRedis)
	case "allow_library_upgrade":
		return setBool(name, value, &c.AllowLibraryUpgrade)
	case "force_library_reload":
		return setBool(name, value, &c.ForceLibraryReload)
	case "connect_timeout":
		return setDuration(name, value, &c.ConnectTimeout)
	case "request_timeout":
		return setDuration(name, value, &c.RequestTimeout)
	case "connect_wait":
		return setDuration(name, value, &c.ConnectWait)
	case "boot_wait":
		return setDuration(name, value, &c.BootWait)
	case "library_wait":
		return setDuration(name, value, &c.LibraryWait)
	default:
		return flowfabric.InvalidInput("url", "option %q is unknown", name)
	}
	return nil
}

func setBool(name, value string, to *bool) error {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return flowfabric.InvalidInput("url", "option %s is %q, must be true or false", name, value)
	}
	*to = b
	return nil
}

func setDuration(name, value string, to *time.Duration) error {
	d, err := time.ParseDuration(value)
	if err != nil {
		return flowfabric.InvalidInput("url", "option %s is %q, which is no duration such as 500ms", name, value)
	}
	*to = d
	return nil
}
