package valkeytest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// takeTwice runs two tests one after the other on a pool of one server and
// tells whether they were lent the same.
func takeTwice(t *testing.T, first, second func(*testing.T, *Server)) (same bool) {
	t.Helper()
	var p Pool
	defer p.Close()
	pids := make([]string, 2)
	for i, f := range []func(*testing.T, *Server){first, second} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s := p.Take(t)
			pids[i] = s.Info("server")["process_id"]
			f(t, s)
		})
	}
	return pids[0] == pids[1]
}

func TestPoolEmptiesServers(t *testing.T) {
	t.Parallel()
	library := "#!lua name=lib\nserver.register_function('f', function() return 1 end)"
	same := takeTwice(t, func(_ *testing.T, s *Server) {
		s.Must("SET", "k", "v")
		s.Must("SELECT", "1")
		s.Must("FUNCTION", "LOAD", library)
		s.Must("SCRIPT", "LOAD", "return 1")
		s.Must("DEBUG", "SET-ACTIVE-EXPIRE", "0")
	}, func(t *testing.T, s *Server) {
		if got := s.Must("DBSIZE"); got != int64(0) {
			t.Errorf("%v keys are left", got)
		}
		if list, _ := s.Must("FUNCTION", "LIST").([]any); len(list) > 0 {
			t.Errorf("functions are left: %v", list)
		}
		if got := s.Info("memory")["number_of_cached_scripts"]; got != "0" {
			t.Errorf("%s scripts are left", got)
		}
		if got := s.Info("stats")["total_commands_processed"]; len(got) > 1 {
			t.Errorf("%s commands are counted", got)
		}
	})
	if !same {
		t.Error("the second test was not lent the first one's server")
	}
}

func TestPoolReplacesServers(t *testing.T) {
	t.Parallel()
	var leaked []*Conn // by the tests
	for name, spoil := range map[string]func(*testing.T, *Server){
		"killed":       func(_ *testing.T, s *Server) { s.Kill() },
		"restarted":    func(_ *testing.T, s *Server) { s.Restart() },
		"paused":       func(_ *testing.T, s *Server) { s.Pause() },
		"reconfigured": func(_ *testing.T, s *Server) { s.Must("CONFIG", "SET", "maxmemory", "100mb") },
		"new user":     func(_ *testing.T, s *Server) { s.Must("ACL", "SETUSER", "alice", "on") },
		"read only":    func(_ *testing.T, s *Server) { s.Must("REPLICAOF", "127.0.0.1", "1") },
		"shut down":    func(_ *testing.T, s *Server) { _, _ = s.CLI("SHUTDOWN", "NOSAVE") },
		"connected": func(t *testing.T, s *Server) {
			c, err := s.n.dial()
			if err != nil {
				t.Fatal(err)
			}
			leaked = append(leaked, c)
		},
	} {
		same := takeTwice(t, spoil, func(t *testing.T, s *Server) {
			if got := s.Must("SET", "k", "v"); got != "OK" {
				t.Errorf("SET returned %v", got)
			}
		})
		if same {
			t.Errorf("a server %s was lent again", name)
		}
	}
	for _, c := range leaked {
		_ = c.Close()
	}
}

func TestPoolReusesServers(t *testing.T) {
	t.Parallel()
	var p Pool
	defer p.Close()
	const tests = 100
	began := time.Now()
	t.Run("many", func(t *testing.T) {
		for i := range tests {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				s := p.Take(t)
				if got := s.Must("INCR", "k"); got != int64(1) {
					t.Errorf("the server was not empty: k is %v", got)
				}
			})
		}
	})
	if used, _ := filepath.Glob(filepath.Join(p.dir.path, "*", "server.log")); len(used) > 20 {
		t.Errorf("%d tests used %d servers", tests, len(used))
	} else {
		t.Logf("%d tests used %d servers in %s", tests, len(used), time.Since(began).Round(time.Millisecond))
	}
	dir := p.dir.path
	p.Close()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the pool's directory is left: %v", err)
	}
}

func TestPoolOfClusters(t *testing.T) {
	t.Parallel()
	ids := make(map[string]bool)
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			c := TakeCluster(t)
			ids[c.Primaries()[0].n.id] = true
			client := c.Client()
			for k := range 20 {
				b := client.B().Incr().Key(fmt.Sprint("k", k)).Build()
				if n, err := client.Do(t.Context(), b).AsInt64(); n != 1 || err != nil {
					t.Errorf("INCR: %d, %v, want an empty cluster", n, err)
				}
			}
			if i == 1 { // the third test needs another cluster
				p := c.Primaries()
				c.MoveSlots(p[0], p[1], 0)
			}
		})
	}
	if len(ids) != 2 {
		t.Errorf("three tests, of which one moved a slot, used %d clusters, want 2", len(ids))
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	d, err := newDirectory()
	if err != nil {
		t.Fatal(err)
	}
	defer d.remove()
	dead := filepath.Join(os.TempDir(), directoryPrefix+"dead")
	if err := os.MkdirAll(filepath.Join(dead, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead, directoryLock), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	removeLeftovers()
	if _, err := os.Stat(dead); err != nil {
		t.Errorf("a young directory was removed: %v", err)
	}
	old := time.Now().Add(-2 * leftoverAge)
	for _, path := range []string{dead, d.path} {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	removeLeftovers()
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("an abandoned directory is left: %v", err)
	}
	if _, err := os.Stat(d.path); err != nil {
		t.Errorf("a directory in use was removed: %v", err)
	}
}

func TestPoolOfReplicatedClusters(t *testing.T) {
	t.Parallel()
	var p Pool
	defer p.Close()
	ids := make(map[string]bool)
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			c := p.TakeReplicatedCluster(t)
			primary := c.Primaries()[0]
			ids[primary.n.id] = true
			if n := len(c.Replicas(primary)); n != 1 {
				t.Fatalf("%d replicas", n)
			}
			client := c.Client()
			key := "k"
			owner := c.Owner(c.Slot(key))
			b := client.B().Incr().Key(key).Build()
			if n, err := client.Do(t.Context(), b).AsInt64(); n != 1 || err != nil {
				t.Errorf("INCR: %d, %v, want an empty cluster", n, err)
			}
			if n := owner.Must("WAIT", "1", "5000"); n != int64(1) {
				t.Errorf("%v replicas follow", n)
			}
		})
	}
	if len(ids) != 1 {
		t.Errorf("three tests used %d clusters, want 1", len(ids))
	}
}
