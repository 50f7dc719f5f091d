package config

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// SecretFile is the name of the generated waitpoint secret in the data
// directory.
const SecretFile = "waitpoint_secret"

// secretBytes is the size of a generated waitpoint secret.
const secretBytes = 32

// Secret is a waitpoint secret and where it came from. It prints redacted.
type Secret struct {
	Hex    string
	Origin SecretOrigin
	// Path is the secret file, empty unless Origin is SecretFromFile or
	// SecretGenerated with a data directory.
	Path string
}

// String returns the redaction mark.
func (Secret) String() string { return Redacted }

// GoString returns the redaction mark.
func (Secret) GoString() string { return Redacted }

// SecretOrigin says where a waitpoint secret came from.
type SecretOrigin string

// The origins of a waitpoint secret.
const (
	SecretConfigured SecretOrigin = "configured" // FF_WAITPOINT_HMAC_SECRET or its _FILE form
	SecretFromFile   SecretOrigin = "file"       // the data directory's secret file
	SecretGenerated  SecretOrigin = "generated"  // made by this start
	SecretNone       SecretOrigin = "none"       // nothing yet
	SecretStored     SecretOrigin = "stored"     // none here; the store holds keys of its own
)

// FindSecret returns the waitpoint secret that is there already: the configured
// one, else the one of the data directory's secret file; [SecretNone] when there
// is neither. A file that exists but can't be read, is malformed, or may be read
// by group or others is a *[Refusal], never a reason to make a new one: that
// would void every outstanding token. So is a shared store without a configured
// secret: all its servers must be given the same. (Specification 08, section 6.2.)
func (c *Config) FindSecret() (Secret, error) {
	if c.WaitpointSecret != "" {
		return Secret{Hex: c.WaitpointSecret, Origin: SecretConfigured}, nil
	}
	if c.Backend.Kind == PlaceValkey {
		return Secret{}, &Refusal{Variable: "FF_WAITPOINT_HMAC_SECRET",
			Reason: "is not set, and a shared store needs it, the same on every server; give it with FF_WAITPOINT_HMAC_SECRET_FILE (make one with: openssl rand -hex 32)"}
	}
	if c.DataDir == "" {
		return Secret{Origin: SecretNone}, nil
	}
	path := filepath.Join(c.DataDir, SecretFile)
	refuse := func(format string, args ...any) (Secret, error) {
		return Secret{}, &Refusal{Variable: path, Reason: fmt.Sprintf(format, args...) +
			"; restore it from a backup, or remove it: a store that holds keys goes on with them"}
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Secret{Origin: SecretNone}, nil
	}
	if err != nil {
		return refuse("can't be read: %s", plainFileError(err))
	}
	if !info.Mode().IsRegular() {
		return refuse("is no regular file")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return Secret{}, &Refusal{Variable: path, Reason: fmt.Sprintf("may be read by others (mode %04o); run: chmod 600 %s", mode, path)}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return refuse("can't be read: %s", plainFileError(err))
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	if err := checkSecret(text); err != nil {
		return refuse("holds a malformed secret: it %s", err)
	}
	return Secret{Hex: text, Origin: SecretFromFile, Path: path}, nil
}

// EnsureSecret is [Config.FindSecret], but generates 32 random bytes when there
// is no secret yet and the store holds no keys. With a data directory they are
// written to its secret file by create-exclusive, mode 0600, and synced, directory
// included, before this returns; the memory store gets a secret that no file
// keeps. A store that holds keys while there is no secret here goes on with them:
// [SecretStored], and nothing is written.
func (c *Config) EnsureSecret(storeHasKeys bool) (Secret, error) {
	s, err := c.FindSecret()
	if err != nil || s.Origin != SecretNone {
		return s, err
	}
	if storeHasKeys {
		return Secret{Origin: SecretStored}, nil
	}
	raw := make([]byte, secretBytes)
	if _, err := rand.Read(raw); err != nil {
		return Secret{}, fmt.Errorf("generate waitpoint secret: %w", err)
	}
	s = Secret{Hex: hex.EncodeToString(raw), Origin: SecretGenerated}
	if c.DataDir == "" {
		return s, nil
	}
	s.Path = filepath.Join(c.DataDir, SecretFile)
	err = createExclusive(s.Path, []byte(s.Hex+"\n"))
	if errors.Is(err, fs.ErrExist) { // another start was faster; its secret holds
		return c.FindSecret()
	}
	if err != nil {
		return Secret{}, fmt.Errorf("write waitpoint secret: %w", err)
	}
	return s, nil
}

// createExclusive makes a file that must not exist, mode 0600, and returns when
// file and directory are on disk. On an error no file is left.
func createExclusive(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
