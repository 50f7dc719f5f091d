package crashtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/valkey"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// valkeyLoad is load on a Valkey store: clients and workers by way of a server
// and others that use the store directly.
type valkeyLoad struct {
	t       *testing.T
	url     string // of the store
	journal *journal
	server  *station
	acts    []Act
	maxWork int

	stop    chan struct{}
	clients sync.WaitGroup
	sender  *sender
	hands   []*hand
}

// plainActs are those of executions that nobody need wait for, allActs are all,
// and mildActs those that a store which loses something can't confuse.
var (
	plainActs = []Act{ActComplete, ActComplete, ActComplete, ActFail, ActRetry, ActDelay, ActLate}
	allActs   = slices.Concat(plainActs, waitActs)
	mildActs  = slices.Concat([]Act{ActComplete, ActRetry, ActDelay}, waitActs)
)

// startValkeyLoad starts a server on the store, and the load.
func startValkeyLoad(t *testing.T, url string, j *journal, acts []Act) *valkeyLoad {
	t.Helper()
	l := &valkeyLoad{t: t, url: url, journal: j, acts: acts, maxWork: 20, stop: make(chan struct{})}
	l.server = newStationOn(t, "--backend", url)
	l.server.start()
	flags := []string{"-lease-ttl", leaseTTL.String(), "-claim-wait", "10s", "-tasks", "8"}
	for name, place := range map[string]string{"remote": l.server.url(), "direct": url} {
		crew := newCrew(t, place, name, j, flags...)
		for range 2 {
			l.hands = append(l.hands, crew.hire())
		}
	}
	for _, h := range l.hands {
		h.awaitReady(t)
	}
	for n := range 4 {
		var b flowfabric.Backend
		if n%2 == 0 {
			b = l.server.connect()
		} else {
			b = l.direct()
		}
		c := &load{t: t, journal: j, station: l.server, backend: b, stop: l.stop, limit: 100, acts: acts, maxWork: l.maxWork, slow: 25}
		l.clients.Go(c.run)
	}
	l.sender = startSender(t, j, l.server.deaths.Load, l.server.connect(), l.direct())
	return l
}

// direct opens the store as a worker does.
func (l *valkeyLoad) direct() *valkey.Backend { return openDirect(l.t, l.url) }

func openDirect(t *testing.T, url string) *valkey.Backend {
	t.Helper()
	config, err := valkey.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	config.Role = valkey.RoleWorker
	b, err := valkey.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

// finish ends the load and wants everything ended, once, and the indexes clean.
func (l *valkeyLoad) finish() *auditor {
	l.t.Helper()
	last := time.Now()
	close(l.stop)
	l.clients.Wait()
	b := l.server.connect()
	awaitDrained(l.t, b, leaseTTL+longestDelay+settling)
	l.t.Logf("%s after the last mishap", time.Since(last).Round(time.Millisecond))
	l.sender.stop()
	for _, h := range l.hands {
		h.dismiss(l.t)
	}
	a := audit(l.t, b, l.journal)
	l.server.end()
	l.t.Log(a.summary())
	return a
}

// TestValkeyKilledUnderLoad kills Valkey and starts it again on its append-only
// file. With appendfsync always nothing that was acknowledged is lost; with
// everysec what is left is a state that was, and everything in it ends.
func TestValkeyKilledUnderLoad(t *testing.T) {
	for _, fsync := range []string{"always", "everysec"} {
		t.Run(fsync, func(t *testing.T) {
			v := valkeytest.Start(t, valkeytest.Options{Args: []string{"--appendonly", "yes", "--appendfsync", fsync}})
			j, acts, times := newJournal(t), allActs, 10
			if fsync == "everysec" {
				j.lossy, acts, times = true, mildActs, 4
			}
			if testing.Short() {
				times = 2
			}
			l := startValkeyLoad(t, "valkey://"+v.Addr(), j, acts)
			for range times {
				j.awaitAcks(1+rand.IntN(200), time.Duration(100+rand.IntN(400))*time.Millisecond)
				v.Kill()
				elapse(60 * time.Millisecond)
				v.Restart()
			}
			l.finish()
		})
	}
}

// clusterURL is the URL of a cluster.
func clusterURL(c *valkeytest.Cluster, options string) string {
	return "valkey://" + strings.Join(c.Addrs(), ",") + "?cluster=true" + options
}

// TestPrimaryKilledUnderLoad kills primaries of a cluster, one after the other.
// Their replicas take over, and the killed come back as replicas. Whatever a
// replica had confirmed is still there; without that promise something may be
// lost, but what is left fits together and ends.
func TestPrimaryKilledUnderLoad(t *testing.T) {
	for _, durability := range []string{"replicated:1:200ms", "async"} {
		t.Run(durability, func(t *testing.T) {
			c := valkeytest.StartCluster(t, 3, 1, valkeytest.Options{NodeTimeout: time.Second})
			j, acts, times := newJournal(t), allActs, 20
			if durability == "async" {
				j.lossy, acts, times = true, mildActs, 3
			}
			if testing.Short() {
				times = 1
			}
			l := startValkeyLoad(t, clusterURL(c, "&durability="+durability), j, acts)
			began := time.Now()
			for n := range times + times/5 {
				j.awaitAcks(1+rand.IntN(100), time.Duration(100+rand.IntN(400))*time.Millisecond)
				lost := c.Primaries()[rand.IntN(3)]
				back := lost.Restart
				if n%6 == 5 { // not dead: it comes back and takes itself for a primary still
					lost.Pause()
					back = lost.Resume
				} else {
					lost.Kill()
				}
				if err := c.WaitOK(patience); err != nil {
					t.Fatal(err)
				}
				back()
				if err := c.WaitOK(patience); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%d primaries killed, %d paused in %s", times, times/5, time.Since(began).Round(time.Millisecond))
			l.finish()
		})
	}
}

// TestStorePausedUnderLoad stops Valkey for longer than its users wait for an
// answer, and lets it go on with what it has got.
func TestStorePausedUnderLoad(t *testing.T) {
	v, j := valkeytest.Start(t, valkeytest.Options{}), newJournal(t)
	l := startValkeyLoad(t, "valkey://"+v.Addr()+"?request_timeout=300ms", j, allActs)
	times := 4
	if testing.Short() {
		times = 1
	}
	for range times {
		j.awaitAcks(1+rand.IntN(100), 500*time.Millisecond)
		v.Pause()
		<-time.After(300*time.Millisecond + rand.N(900*time.Millisecond))
		v.Resume()
	}
	l.finish()
}

// TestStoreConnectionsCutUnderLoad cuts connections between the store and all who
// use it: before a command, after it, and in place of its answer.
func TestStoreConnectionsCutUnderLoad(t *testing.T) {
	v, j := valkeytest.Start(t, valkeytest.Options{}), newJournal(t)
	p := valkeytest.NewProxy(t, v.Addr())
	l := startValkeyLoad(t, "valkey://"+p.Addr(), j, allActs)
	faults := []valkeytest.Fault{valkeytest.LoseRequest, valkeytest.LoseReply, valkeytest.CutSent}
	times := 200
	if testing.Short() {
		times = 60
	}
	for n := range times {
		lost := p.Inject(faults[n%len(faults)], 1, func(command []byte) bool {
			return rand.IntN(3) == 0 && bytes.Contains(command, []byte("FCALL\r\n"))
		})
		select {
		case <-lost.Hit():
		case <-time.After(patience):
			t.Fatal("nothing is called any more")
		}
		if n%50 == 49 {
			p.CutAll()
		}
	}
	l.finish()
	t.Logf("%+v", p.Counts())
}

// TestServersKilledUnderLoad kills servers on a store that lives, one after the
// other, of two. Workers that use the store directly do not mind.
func TestServersKilledUnderLoad(t *testing.T) {
	v, j := valkeytest.Start(t, valkeytest.Options{}), newJournal(t)
	url := "valkey://" + v.Addr()
	l := startValkeyLoad(t, url, j, allActs)
	second := newStationOn(t, "--backend", url)
	second.start()
	times := 12
	if testing.Short() {
		times = 2
	}
	for n := range times {
		j.awaitAcks(1+rand.IntN(100), time.Duration(50+rand.IntN(200))*time.Millisecond)
		s := []*station{l.server, second}[n%2]
		s.kill()
		s.start()
	}
	l.finish()
	second.end()
}

// TestSlotsMovedUnderLoad moves partitions from one primary to another, keys
// included, while they are used.
func TestSlotsMovedUnderLoad(t *testing.T) {
	c := valkeytest.StartCluster(t, 3, 0, valkeytest.Options{})
	j := newJournal(t)
	l := startValkeyLoad(t, clusterURL(c, ""), j, allActs)
	times := 24
	if testing.Short() {
		times = 5
	}
	primaries, moved := c.Primaries(), 0
	began := time.Now()
	for range times {
		slot := c.Slot(fmt.Sprintf("ff:{fp:%d}", rand.IntN(flowfabric.DefaultPartitionConfig().NumFlowPartitions)))
		from, to := c.Owner(slot), primaries[rand.IntN(3)]
		if from == to {
			continue
		}
		j.awaitAcks(1+rand.IntN(20), 50*time.Millisecond)
		c.MoveSlots(from, to, slot)
		moved++
	}
	t.Logf("%d slots moved in %s", moved, time.Since(began).Round(time.Millisecond))
	l.finish()
}
