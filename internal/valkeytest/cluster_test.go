package valkeytest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"
)

func TestCluster(t *testing.T) {
	t.Parallel()
	began := time.Now()
	c := StartCluster(t, 3, 1, Options{})
	t.Logf("formed in %s", time.Since(began).Round(time.Millisecond))
	client := c.Client()
	write(t, client, "a")
	if n := len(c.Addrs()); n != 6 {
		t.Fatalf("%d addresses", n)
	}
	for i, p := range c.Primaries() {
		if p != c.Node(i) {
			t.Errorf("primary %d is not node %d", i, i)
		}
		if r := c.Replicas(p); len(r) != 1 || r[0] != c.Node(3+i) {
			t.Errorf("replicas of primary %d: %v", i, r)
		}
	}
	promoted := c.Failover(1)
	if got := c.Primaries()[1]; got != promoted || got != c.Node(4) {
		t.Errorf("after the failover, the primary is %s", got.Addr())
	}
	read(t, client, "a")

	killed := c.KillPrimary(0)
	if err := c.WaitOK(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if got := c.Primaries()[0]; got != c.Node(3) {
		t.Errorf("after the kill, the primary is %s", got.Addr())
	}
	read(t, client, "a")
	killed.Restart()
	if err := c.WaitOK(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if r := c.Replicas(c.Primaries()[0]); len(r) != 1 || r[0] != killed {
		t.Errorf("the killed primary is not a replica: %v", r)
	}
}

func TestClusterWithEverything(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 2, 1, Options{
		Users:       []string{"default off", "alice on >secret ~* &* +@all"},
		TLS:         NewTLS(t),
		NodeTimeout: time.Second,
	})
	client := c.Client()
	write(t, client, "a")
	p := c.Primaries()
	slot := c.Slot("a:1")
	from, to := c.Owner(slot), p[0]
	if from == to {
		to = p[1]
	}
	c.MoveSlots(from, to, slot)
	if got := to.Must("CLUSTER", "COUNTKEYSINSLOT", fmt.Sprint(slot)); got != int64(1) {
		t.Errorf("%v keys were moved", got)
	}
	read(t, client, "a")
}

// TestMoveSlots moves slots back and forth while a client counts in them.
func TestMoveSlots(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3, 1, Options{})
	client := c.Client()
	const key = "{counter}"
	slot := c.Slot(key)
	ctx, cancel := context.WithCancel(t.Context())
	var counting sync.WaitGroup
	counted := 0
	counting.Go(func() {
		for ctx.Err() == nil {
			if err := client.Do(context.Background(), client.B().Incr().Key(key).Build()).Error(); err != nil {
				t.Errorf("INCR: %v", err)
				return
			}
			counted++
		}
	})
	for range 3 {
		from := c.Owner(slot)
		to := c.Primaries()[0]
		if to == from {
			to = c.Primaries()[1]
		}
		c.MoveSlots(from, to, slot, (slot+1)%slotCount)
		if c.Owner(slot) != to {
			t.Errorf("slot %d was not moved", slot)
		}
		c.MoveSlots(to, from, slot, (slot+1)%slotCount)
	}
	cancel()
	counting.Wait()
	got, err := client.Do(t.Context(), client.B().Get().Key(key).Build()).AsInt64()
	if err != nil || int(got) != counted || counted == 0 {
		t.Errorf("counted %d, but the key has %d, %v", counted, got, err)
	}
}

func TestHalfMovedSlotRedirects(t *testing.T) {
	t.Parallel()
	c := TakeCluster(t)
	p := c.Primaries()
	slot := c.Slot("{x}")
	from, to := c.Owner(slot), p[0]
	if from == to {
		to = p[1]
	}
	from.Must("SET", "{x}1", "v")
	if err := c.BeginMove(from, to, slot); err != nil {
		t.Fatal(err)
	}
	if _, err := from.CLI("GET", "{x}2"); err == nil || !strings.HasPrefix(err.Error(), "ASK ") {
		t.Errorf("a key that is not there returned %v", err)
	}
	if moved, err := c.MoveKeys(from, to, slot, 10); moved != 1 || err != nil {
		t.Errorf("moved %d, %v", moved, err)
	}
	if err := c.FinishMove(from, to, slot); err != nil {
		t.Fatal(err)
	}
	if _, err := from.CLI("GET", "{x}1"); err == nil || !strings.HasPrefix(err.Error(), "MOVED ") {
		t.Errorf("a key that has moved returned %v", err)
	}
}

func TestNobodyLeft(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 1, 0, Options{})
	c.KillPrimary(0)
	if err := c.WaitOK(10 * time.Millisecond); err == nil {
		t.Error("a cluster without a node is whole")
	}
}

func write(t *testing.T, client valkey.Client, prefix string) {
	t.Helper()
	for i := range 100 {
		b := client.B().Set().Key(fmt.Sprintf("%s:%d", prefix, i)).Value(fmt.Sprint(i)).Build()
		if err := client.Do(t.Context(), b).Error(); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, client valkey.Client, prefix string) {
	t.Helper()
	for i := range 100 {
		b := client.B().Get().Key(fmt.Sprintf("%s:%d", prefix, i)).Build()
		if got, err := client.Do(t.Context(), b).AsInt64(); int(got) != i || err != nil {
			t.Fatalf("%s:%d is %d, %v", prefix, i, got, err)
		}
	}
}
