// Package valkeytest runs Valkey servers for tests: single ones, clusters and
// proxies in front of them. Servers listen on free loopback ports, keep their
// files in temporary directories and are stopped by the process that was
// started, never by name.
//
// [Start] and [StartCluster] start servers for one test, configured as it
// likes, that it may kill, pause and restart. [Take] and [TakeCluster] lend an
// empty running server for the length of a test, which costs two
// milliseconds: what short tests use. A package that takes servers ends them
// with [Main]:
//
//	func TestMain(m *testing.M) { os.Exit(valkeytest.Main(m).Run()) }
//
// On Linux the servers also end when the test process ends in any other way.
//
// Without a Valkey server on the machine, tests are skipped with -short and
// fail otherwise.
package valkeytest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// ServerEnv names the environment variable with the path of the Valkey server
// to test with; without it, valkey-server is looked up in PATH.
const ServerEnv = "FF_VALKEY_SERVER"

// ErrNotInstalled reports that the machine has no Valkey server.
var ErrNotInstalled = errors.New("valkey-server is not installed: run scripts/install-test-deps, or set " + ServerEnv)

// LateGoroutines are the functions of goroutines that a valkey-go client of a
// cluster may leave for some seconds after it was closed: what goleak's
// IgnoreAnyFunction takes.
var LateGoroutines = []string{
	"github.com/valkey-io/valkey-go.(*call).DelayDo.func1",
	"github.com/valkey-io/valkey-go.(*clusterClient)._refresh.func2",
	"github.com/valkey-io/valkey-go.(*clusterClient).redirectOrNew.func1",
}

const (
	// startLimit bounds the start of a server.
	startLimit = 10 * time.Second
	// pollEvery is how often a condition is looked at that no event announces.
	pollEvery = 3 * time.Millisecond
)

// Find returns the path of the Valkey server to test with.
func Find() (path string, err error) {
	if named := os.Getenv(ServerEnv); named != "" {
		if path, err = exec.LookPath(named); err != nil {
			return "", fmt.Errorf("%s: %w", ServerEnv, err)
		}
		return path, nil
	}
	if path, err = exec.LookPath("valkey-server"); err != nil {
		return "", ErrNotInstalled
	}
	return path, nil
}

// Require ends a test on a machine without a Valkey server: with -short it is
// skipped, otherwise it fails. Whatever starts servers calls it.
func Require(tb testing.TB) (path string) {
	tb.Helper()
	path, err := Find()
	if err == nil {
		return path
	}
	if errors.Is(err, ErrNotInstalled) && testing.Short() {
		tb.Skip(err)
	}
	tb.Fatal(err)
	return ""
}

// until polls a condition until it holds or the time is over, when it returns
// what the condition complained of last.
func until(limit time.Duration, condition func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := condition()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(pollEvery)
	}
}
