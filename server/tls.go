package server

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
)

// certificates is what a listener shows and asks for, reloadable while it serves.
// A nil *certificates is plain HTTP.
type certificates struct {
	certFile, keyFile, clientCAFile string

	config atomic.Pointer[tls.Config]
	seen   atomic.Pointer[[3]time.Time] // modification times at the last load
}

// newCertificates loads the files. None at all gives nil.
func newCertificates(certFile, keyFile, clientCAFile string) (*certificates, error) {
	if certFile == "" && keyFile == "" {
		if clientCAFile != "" {
			return nil, flowfabric.InvalidInput("FF_TLS_CLIENT_CA_FILE", "%q needs FF_TLS_CERT_FILE and FF_TLS_KEY_FILE", clientCAFile)
		}
		return nil, nil
	}
	if certFile == "" {
		return nil, flowfabric.InvalidInput("FF_TLS_CERT_FILE", "is not set, but FF_TLS_KEY_FILE is %q", keyFile)
	}
	if keyFile == "" {
		return nil, flowfabric.InvalidInput("FF_TLS_KEY_FILE", "is not set, but FF_TLS_CERT_FILE is %q", certFile)
	}
	c := &certificates{certFile: certFile, keyFile: keyFile, clientCAFile: clientCAFile}
	return c, c.load()
}

// load reads the files; on failure what was loaded before stays.
func (c *certificates) load() error {
	if c == nil {
		return nil
	}
	seen := c.times()
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return flowfabric.InvalidInput("FF_TLS_CERT_FILE", "%q and FF_TLS_KEY_FILE %q: %v", c.certFile, c.keyFile, err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if c.clientCAFile != "" {
		pem, err := os.ReadFile(c.clientCAFile)
		if err != nil {
			return flowfabric.InvalidInput("FF_TLS_CLIENT_CA_FILE", "%q cannot be read", c.clientCAFile).Wrap(err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return flowfabric.InvalidInput("FF_TLS_CLIENT_CA_FILE", "%q holds no certificate", c.clientCAFile)
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	c.config.Store(config)
	c.seen.Store(&seen)
	return nil
}

// changed reports whether a file is another than the one that was loaded.
func (c *certificates) changed() bool {
	return c != nil && c.times() != *c.seen.Load()
}

func (c *certificates) times() (t [3]time.Time) {
	for i, name := range []string{c.certFile, c.keyFile, c.clientCAFile} {
		if name == "" {
			continue
		}
		if info, err := os.Stat(name); err == nil {
			t[i] = info.ModTime()
		}
	}
	return t
}

// listen is the configuration of a listener: every connection gets what was
// loaded last.
func (c *certificates) listen() *tls.Config {
	config := c.config.Load().Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.config.Load(), nil }
	return config
}
