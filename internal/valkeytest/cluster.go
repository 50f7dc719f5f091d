package valkeytest

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"
)

const (
	slotCount = 16384
	// formLimit bounds the forming of a cluster, which takes three seconds on a
	// machine that is not busy.
	formLimit = time.Minute
)

// Cluster is a Valkey cluster of a test. Like those of a [Server], its methods
// may be called by any goroutine of the test.
type Cluster struct {
	tb    testing.TB
	nodes []*Server
}

// StartCluster starts a cluster that ends with the test, of so many primaries,
// each with so many replicas, and waits until every node takes it for whole.
func StartCluster(tb testing.TB, primaries, replicasPer int, o Options) *Cluster {
	tb.Helper()
	path, dir := Require(tb), o.Dir
	if dir == "" {
		dir = tb.TempDir()
	}
	nodes, err := launchCluster(path, dir, primaries, replicasPer, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { finish(tb, nodes...) })
	return newCluster(tb, nodes)
}

func newCluster(tb testing.TB, nodes []*instance) *Cluster {
	c := &Cluster{tb: tb}
	for _, n := range nodes {
		c.nodes = append(c.nodes, &Server{tb: tb, n: n})
	}
	return c
}

// Nodes returns all nodes: at first the primaries, in the order of their slots,
// then the replicas of the first primary, and so on.
func (c *Cluster) Nodes() []*Server { return slices.Clone(c.nodes) }

// Node returns one of [Cluster.Nodes].
func (c *Cluster) Node(i int) *Server { return c.nodes[i] }

// Addrs returns the addresses of all nodes.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for _, s := range c.nodes {
		addrs = append(addrs, s.Addr())
	}
	return addrs
}

// ClientOption returns the options of a client that may do everything.
func (c *Cluster) ClientOption() valkey.ClientOption { return clientOption(c.instances()...) }

// Client returns a client that may do everything and is closed with the test.
func (c *Cluster) Client() valkey.Client {
	c.tb.Helper()
	return newClient(c.tb, c.ClientOption())
}

// Primaries returns the nodes with slots, ordered by the lowest of them, as the
// first living node sees them.
func (c *Cluster) Primaries() []*Server {
	c.tb.Helper()
	v, err := c.view()
	if err != nil {
		c.tb.Errorf("primaries: %v", err)
		return nil
	}
	var primaries []*Server
	for _, id := range v.primaries {
		primaries = append(primaries, c.byID(id))
	}
	return primaries
}

// Replicas returns the replicas of a primary that are not taken for dead, as
// the first living node sees them.
func (c *Cluster) Replicas(primary *Server) []*Server {
	c.tb.Helper()
	v, err := c.view()
	if err != nil {
		c.tb.Errorf("replicas: %v", err)
		return nil
	}
	var replicas []*Server
	for _, id := range v.replicas[primary.n.id] {
		replicas = append(replicas, c.byID(id))
	}
	return replicas
}

// Slot returns the slot of a key.
func (c *Cluster) Slot(key string) int {
	c.tb.Helper()
	slot, err := c.ask("CLUSTER", "KEYSLOT", key)
	if err != nil {
		c.tb.Errorf("slot of %q: %v", key, err)
		return 0
	}
	number, _ := slot.(int64)
	return int(number)
}

// Owner returns the primary of a slot, as the first living node sees it.
func (c *Cluster) Owner(slot int) *Server {
	c.tb.Helper()
	v, err := c.view()
	if err != nil {
		c.tb.Errorf("owner of slot %d: %v", slot, err)
		return nil
	}
	return c.byID(v.owner(slot))
}

// WaitOK waits until all nodes that run agree that the cluster is whole: every
// slot has a living primary, and every replica is linked to its own. It returns
// what is missing when the time is over.
func (c *Cluster) WaitOK(timeout time.Duration) error {
	return until(timeout, func() error { return whole(c.instances()) })
}

func (c *Cluster) instances() []*instance {
	var nodes []*instance
	for _, s := range c.nodes {
		nodes = append(nodes, s.n)
	}
	return nodes
}

func (c *Cluster) byID(id string) *Server {
	for _, s := range c.nodes {
		if s.n.id == id {
			return s
		}
	}
	return nil
}

// ask executes a command on the first living node.
func (c *Cluster) ask(args ...string) (any, error) {
	n, err := c.firstLiving()
	if err != nil {
		return nil, err
	}
	return n.do(args...)
}

func (c *Cluster) view() (view, error) {
	n, err := c.firstLiving()
	if err != nil {
		return view{}, err
	}
	conn, err := n.dial()
	if err != nil {
		return view{}, err
	}
	defer func() { _ = conn.Close() }()
	return viewOf(conn)
}

func (c *Cluster) firstLiving() (*instance, error) {
	for _, s := range c.nodes {
		if s.n.living() {
			return s.n, nil
		}
	}
	return nil, errors.New("no node runs")
}

// launchCluster starts nodes and makes a cluster of them. When it fails,
// nothing runs.
func launchCluster(path, dir string, primaries, replicasPer int, o Options) ([]*instance, error) {
	nodes := make([]*instance, primaries*(1+replicasPer))
	errs := make([]error, len(nodes))
	var starting sync.WaitGroup
	for i := range nodes {
		starting.Go(func() {
			nodes[i], errs[i] = launch(path, filepath.Join(dir, strconv.Itoa(i)), o, true)
		})
	}
	starting.Wait()
	err := errors.Join(errs...)
	if err == nil {
		err = form(nodes, primaries)
	}
	if err == nil {
		return nodes, nil
	}
	for _, n := range nodes {
		if n != nil {
			err = fmt.Errorf("%w\n%s logged:\n%s", err, n.addr(), n.tail())
			n.discard()
		}
	}
	return nil, err
}

// form introduces the nodes to each other, deals the slots to the first of them
// and makes the others their replicas.
func form(nodes []*instance, primaries int) error {
	conns := make([]*Conn, len(nodes))
	for i, n := range nodes {
		c, err := n.dial()
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		conns[i] = c
		if n.id, err = c.text("CLUSTER", "MYID"); err != nil {
			return err
		}
		if _, err = c.text("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1)); err != nil {
			return err
		}
		if i < primaries {
			first, last := i*slotCount/primaries, (i+1)*slotCount/primaries-1
			if _, err = c.text("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(last)); err != nil {
				return err
			}
		}
		for _, other := range nodes[:i] {
			if _, err = c.text("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(other.port), strconv.Itoa(other.busPort)); err != nil {
				return err
			}
		}
	}
	replicasPer := len(nodes)/primaries - 1
	for i := primaries; i < len(nodes); i++ {
		primary := nodes[(i-primaries)/replicasPer]
		err := until(formLimit, func() error { // the nodes are still being introduced
			_, err := conns[i].text("CLUSTER", "REPLICATE", primary.id)
			return err
		})
		if err != nil {
			return err
		}
	}
	return until(formLimit, func() error { return whole(nodes) })
}

// whole returns nil when all living nodes agree that the cluster is whole.
func whole(nodes []*instance) error {
	living := make(map[string]bool)
	for _, n := range nodes {
		if n.living() {
			living[n.id] = true
		}
	}
	if len(living) == 0 {
		return errors.New("no node runs")
	}
	agreed, first := "", ""
	for _, n := range nodes {
		if !living[n.id] {
			continue
		}
		v, err := n.wholeView(living)
		if err != nil {
			return fmt.Errorf("%s: %w", n.addr(), err)
		}
		if agreed == "" {
			agreed, first = v.text, n.addr()
		}
		if v.text != agreed {
			return fmt.Errorf("%s sees %s, but %s sees %s", n.addr(), v.text, first, agreed)
		}
	}
	return nil
}

// wholeView returns how a node sees the cluster, if it sees it whole and has its
// own place in it.
func (n *instance) wholeView(living map[string]bool) (view, error) {
	c, err := n.dial()
	if err != nil {
		return view{}, err
	}
	defer func() { _ = c.Close() }()
	c.limit = 5 * time.Second
	text, err := c.text("CLUSTER", "INFO")
	if err != nil {
		return view{}, err
	}
	if state := parseInfo(text)["cluster_state"]; state != "ok" {
		return view{}, fmt.Errorf("the cluster's state is %q", state)
	}
	v, err := viewOf(c)
	if err != nil {
		return view{}, err
	}
	if v.covered != slotCount {
		return view{}, fmt.Errorf("%d slots have a primary", v.covered)
	}
	for _, id := range v.primaries {
		if !living[id] {
			return view{}, fmt.Errorf("the primary %s does not run", id)
		}
	}
	replication, err := c.info("replication")
	if err != nil {
		return view{}, err
	}
	if replication["role"] == "master" {
		return v, nil
	}
	if link := replication["master_link_status"]; link != "up" {
		return view{}, fmt.Errorf("the link to the primary is %s", link)
	}
	for _, replicas := range v.replicas {
		if slices.Contains(replicas, n.id) {
			return v, nil
		}
	}
	return view{}, errors.New("nobody's replica")
}

// view is how a node sees who serves the slots.
type view struct {
	text      string   // the same for the same view
	primaries []string // by their lowest slot
	replicas  map[string][]string
	covered   int
	ranges    []slotRange
}

type slotRange struct {
	first, last int
	primary     string
}

// owner returns the primary of a slot.
func (v view) owner(slot int) string {
	for _, r := range v.ranges {
		if r.first <= slot && slot <= r.last {
			return r.primary
		}
	}
	return ""
}

// viewOf reads CLUSTER SLOTS: ranges of slots, each with the primary and its
// replicas as lists of host, port and id.
func viewOf(c *Conn) (view, error) {
	reply, err := c.Do("CLUSTER", "SLOTS")
	if err != nil {
		return view{}, err
	}
	v := view{replicas: make(map[string][]string)}
	ranges, _ := reply.([]any)
	for _, r := range ranges {
		fields, _ := r.([]any)
		if len(fields) < 3 {
			return view{}, fmt.Errorf("unexpected reply to CLUSTER SLOTS: %v", reply)
		}
		var ids []string
		for _, node := range fields[2:] {
			parts, _ := node.([]any)
			if len(parts) < 3 {
				return view{}, fmt.Errorf("unexpected reply to CLUSTER SLOTS: %v", reply)
			}
			id, _ := parts[2].(string)
			ids = append(ids, id)
		}
		first, _ := fields[0].(int64)
		last, _ := fields[1].(int64)
		slices.Sort(ids[1:])
		v.ranges = append(v.ranges, slotRange{first: int(first), last: int(last), primary: ids[0]})
		v.replicas[ids[0]] = ids[1:]
		v.covered += int(last-first) + 1
	}
	slices.SortFunc(v.ranges, func(a, b slotRange) int { return a.first - b.first })
	var text strings.Builder
	for _, r := range v.ranges {
		if !slices.Contains(v.primaries, r.primary) {
			v.primaries = append(v.primaries, r.primary)
		}
		fmt.Fprintf(&text, "%d-%d %s%v;", r.first, r.last, r.primary, v.replicas[r.primary])
	}
	v.text = text.String()
	return v, nil
}
