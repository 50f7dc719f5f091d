package valkeytest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"
)

func TestFind(t *testing.T) {
	file := filepath.Join(t.TempDir(), "my-server")
	if err := os.WriteFile(file, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv(ServerEnv, file)
	if path, err := Find(); path != file || err != nil {
		t.Errorf("Find() = %q, %v, want the path of %s", path, err, ServerEnv)
	}
	t.Setenv(ServerEnv, file+"-missing")
	if path, err := Find(); err == nil || !strings.Contains(err.Error(), ServerEnv) {
		t.Errorf("Find() = %q, %v, want an error about %s", path, err, ServerEnv)
	}
	t.Setenv(ServerEnv, "")
	t.Setenv("PATH", t.TempDir())
	if path, err := Find(); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("Find() = %q, %v, want ErrNotInstalled", path, err)
	}
}

func TestStart(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Args: []string{"--maxmemory", "64mb", "--hz", "50"}})
	for name, want := range map[string]string{
		"save": "", "appendonly": "no", "maxmemory-policy": "noeviction", "bind": "127.0.0.1", "maxmemory": "67108864", "hz": "50",
	} {
		pair, _ := s.Must("CONFIG", "GET", name).([]any)
		if len(pair) != 2 || pair[1] != want {
			t.Errorf("%s is %q, want %q", name, pair, want)
		}
	}
	if _, err := s.CLI("DEBUG", "SLEEP", "0"); err != nil {
		t.Errorf("DEBUG: %v", err)
	}
	var failure Error
	if _, err := s.CLI("NO-SUCH-COMMAND"); !errors.As(err, &failure) || !strings.HasPrefix(err.Error(), "ERR") {
		t.Errorf("an unknown command returned %v", err)
	}
	c := s.Dial()
	for _, command := range [][]string{{"HELLO", "3"}, {"HSET", "h", "f", "v"}, {"HGETALL", "h"}, {"SISMEMBER", "s", "x"}, {"GET", "none"}} {
		if err := c.Send(command...); err != nil {
			t.Fatal(err)
		}
	}
	var replies []any
	for range 5 {
		v, err := c.Receive()
		if err != nil {
			t.Fatal(err)
		}
		replies = append(replies, v)
	}
	if pair, _ := replies[2].([]any); len(pair) != 2 || pair[1] != "v" || replies[1] != int64(1) || replies[3] != int64(0) || replies[4] != nil {
		t.Errorf("replies %v", replies[1:])
	}
}

func TestBadDirectiveIsReported(t *testing.T) {
	t.Parallel()
	_, err := launch(Require(t), t.TempDir(), Options{Args: []string{"--no-such-directive", "1"}}, false)
	if err == nil || !strings.Contains(err.Error(), "no-such-directive") {
		t.Errorf("launch returned %v, want what the server said", err)
	}
}

func TestPortTakenByAnother(t *testing.T) {
	t.Parallel()
	n, err := launch(Require(t), t.TempDir(), Options{}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer n.discard()
	n.kill()
	l, err := net.Listen("tcp4", n.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err := n.start(); !errors.Is(err, errAddressInUse) {
		t.Errorf("start returned %v, want errAddressInUse", err)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Args: []string{"--appendonly", "yes", "--appendfsync", "always"}})
	addr := s.Addr()
	s.Must("SET", "k", "1")
	s.Kill()
	if s.Running() {
		t.Error("a killed server runs")
	}
	if _, err := s.CLI("PING"); err == nil {
		t.Error("a killed server answers")
	}
	s.Restart()
	s.Must("INCR", "k")
	s.Stop()
	s.Restart()
	if got := s.Must("GET", "k"); got != "2" || s.Addr() != addr {
		t.Errorf("after two restarts %s has %v, want 2 at %s", s.Addr(), got, addr)
	}
	s.Restart()
	if got := s.Must("GET", "k"); got != "2" {
		t.Errorf("after a restart while it ran, it has %v", got)
	}
	s.Must("DEBUG", "LOG", "remark of the test")
	if !strings.Contains(s.Log(), "remark of the test") {
		t.Errorf("log without the remark: %s", s.Log())
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	c := s.Dial()
	s.Pause()
	if s.Running() {
		t.Error("a paused server runs")
	}
	c.limit = 50 * time.Millisecond
	var timeout net.Error
	if _, err := c.Do("PING"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a paused server returned %v", err)
	}
	s.Resume()
	if got := s.Must("PING"); got != "PONG" {
		t.Errorf("a resumed server answered %v", got)
	}
	s.Pause()
	s.Stop()
	if s.Running() {
		t.Error("a paused server was not stopped")
	}
}

func TestLogins(t *testing.T) {
	t.Parallel()
	authority := NewTLS(t)
	for name, o := range map[string]Options{
		"password": {Password: "a b\"c\\d'ü"},
		"users":    {Users: []string{"default off", "alice on >secret ~ff:* +@all -@dangerous"}},
		"TLS":      {TLS: authority, Password: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Start(t, o)
			c := s.Client()
			if err := c.Do(context.Background(), c.B().Set().Key("k").Value("v").Build()).Error(); err != nil {
				t.Fatal(err)
			}
			if got := s.Must("GET", "k"); got != "v" {
				t.Errorf("k is %v", got)
			}
			wrong := s.ClientOption()
			wrong.Username, wrong.Password, wrong.TLSConfig = "", "", nil
			if other, err := valkey.NewClient(wrong); err == nil {
				err = other.Do(context.Background(), other.B().Get().Key("k").Build()).Error()
				other.Close()
				if err == nil {
					t.Error("a client without a login reads")
				}
			}
		})
	}
	t.Run("alice", func(t *testing.T) {
		t.Parallel()
		s := Start(t, Options{Users: []string{"alice on >secret ~ff:* +@all -@dangerous"}})
		c := s.Dial()
		if _, err := c.Do("AUTH", "alice", "secret"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Do("SET", "ff:1", "v"); err != nil {
			t.Error(err)
		}
		if _, err := c.Do("SET", "other", "v"); err == nil || !strings.HasPrefix(err.Error(), "NOPERM") {
			t.Errorf("alice wrote beyond her keys: %v", err)
		}
	})
}

func TestDirStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	t.Run("first", func(t *testing.T) {
		s := Start(t, Options{Dir: dir})
		s.Must("SET", "k", "v")
		s.Must("SAVE")
	})
	s := Start(t, Options{Dir: dir})
	if got := s.Must("GET", "k"); got != "v" {
		t.Errorf("k is %v", got)
	}
}
