package valkey

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
)

// node is one primary and the connections to it.
type node struct {
	addr     string
	client   vk.Client
	inFlight atomic.Int64
	retired  atomic.Bool // left the cluster; its connections are closed
}

// enter counts n calls in, or reports that the connections are full.
func (n *node) enter(calls int) bool {
	if n.inFlight.Add(int64(calls)) > nodeInFlight {
		n.inFlight.Add(int64(-calls))
		return false
	}
	return true
}

func (n *node) leave(calls int) { n.inFlight.Add(int64(-calls)) }

// nodes knows which node serves which slot. The client library could follow
// redirections itself, but it would also follow an ASK, and so run a function on
// a node that has only part of a partition's keys; hence the map is kept here.
type nodes struct {
	cluster bool
	seeds   []string
	connect func(addr string) (vk.Client, error)
	timeout time.Duration

	single *node // not in a cluster
	table  atomic.Pointer[slotTable]

	mu     sync.Mutex // held while the map is read anew
	known  map[string]*node
	closed bool
}

// slotTable is one reading of the cluster's map.
type slotTable struct {
	slots     [slotCount]*node
	primaries []*node
	replicas  []string
	read      time.Time
}

// minTableAge is how old a map is before it is read again on suspicion.
const minTableAge = 20 * time.Millisecond

// retireAfter is how long the connections to a node that has left stay open for
// the calls in flight there.
const retireAfter = 5 * time.Second

// of returns the node that serves a slot, nil when none is known to.
func (ns *nodes) of(slot uint16) *node {
	if ns.single != nil {
		return ns.single
	}
	if t := ns.table.Load(); t != nil {
		return t.slots[slot%slotCount]
	}
	return nil
}

// primaries returns the nodes that serve slots.
func (ns *nodes) primaries() []*node {
	if ns.single != nil {
		return []*node{ns.single}
	}
	if t := ns.table.Load(); t != nil {
		return t.primaries
	}
	return nil
}

// refresh reads the cluster's map anew, asking the node under suspicion last,
// and reports whether it has changed since that node was looked up. Several at
// once share one reading.
func (ns *nodes) refresh(ctx context.Context, suspect *node) bool {
	if !ns.cluster {
		return false
	}
	before := ns.table.Load()
	ns.mu.Lock()
	defer ns.mu.Unlock()
	now := ns.table.Load()
	if ns.closed {
		return false
	}
	if now != before {
		return true // somebody has just read it
	}
	if now != nil && time.Since(now.read) < minTableAge {
		return false
	}
	next, err := ns.readTable(ctx, suspect)
	if err != nil {
		return false
	}
	changed := now == nil || next.slots != now.slots
	ns.table.Store(next)
	return changed
}

// readTable asks one node after the other until one tells the map. ns.mu is
// held.
func (ns *nodes) readTable(ctx context.Context, suspect *node) (*slotTable, error) {
	var err error = unavailable("cluster", "no node of the cluster answers", nil)
	for _, addr := range ns.order(suspect) {
		n, e := ns.nodeAt(addr)
		if e != nil {
			err = e
			continue
		}
		ask, cancel := context.WithTimeout(ctx, ns.timeout)
		msg, e := n.client.Do(ask, n.client.B().ClusterSlots().Build()).ToMessage()
		cancel()
		if e == nil {
			var t *slotTable
			if t, e = ns.parse(msg, addr); e == nil {
				ns.retire(t)
				return t, nil
			}
		}
		if err = e; ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return nil, err
}

// order lists whom to ask: primaries in random order, then seeds, the suspect
// last.
func (ns *nodes) order(suspect *node) []string {
	var addrs []string
	if t := ns.table.Load(); t != nil {
		for _, n := range t.primaries {
			addrs = append(addrs, n.addr)
		}
		addrs = append(addrs, t.replicas...)
	}
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	for _, seed := range ns.seeds {
		if !slices.Contains(addrs, seed) {
			addrs = append(addrs, seed)
		}
	}
	if suspect != nil {
		if i := slices.Index(addrs, suspect.addr); i >= 0 {
			addrs = append(slices.Delete(addrs, i, i+1), suspect.addr)
		}
	}
	return addrs
}

// nodeAt returns the node with the address, connecting to it when it is new.
func (ns *nodes) nodeAt(addr string) (*node, error) {
	if n := ns.known[addr]; n != nil {
		return n, nil
	}
	client, err := ns.connect(addr)
	if client == nil {
		return nil, err
	}
	n := &node{addr: addr, client: client} // connects again by itself after an error
	ns.known[addr] = n
	return n, nil
}

// parse reads the answer to CLUSTER SLOTS. Nodes that do not know their own
// address are at the one that was asked.
func (ns *nodes) parse(msg vk.ValkeyMessage, asked string) (*slotTable, error) {
	ranges, err := msg.ToArray()
	if err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(asked)
	t := &slotTable{read: time.Now()}
	for _, r := range ranges {
		fields, err := r.ToArray()
		if err != nil || len(fields) < 3 {
			continue
		}
		from, _ := fields[0].AsInt64()
		to, _ := fields[1].AsInt64()
		primary := endpoint(&fields[2], host)
		if primary == "" || from < 0 || to >= slotCount {
			continue
		}
		n, err := ns.nodeAt(primary)
		if err != nil {
			return nil, err
		}
		for i := from; i <= to; i++ {
			t.slots[i] = n
		}
		if !slices.Contains(t.primaries, n) {
			t.primaries = append(t.primaries, n)
		}
		for i := 3; i < len(fields); i++ {
			if replica := endpoint(&fields[i], host); replica != "" && !slices.Contains(t.replicas, replica) {
				t.replicas = append(t.replicas, replica)
			}
		}
	}
	if len(t.primaries) == 0 {
		return nil, unavailable("cluster", asked+" knows of no node that serves slots", nil)
	}
	return t, nil
}

func endpoint(m *vk.ValkeyMessage, host string) string {
	parts, err := m.ToArray()
	if err != nil || len(parts) < 2 {
		return ""
	}
	name, _ := parts[0].ToString()
	port, err := parts[1].AsInt64()
	switch {
	case err != nil || name == "?":
		return ""
	case name == "":
		name = host
	}
	return net.JoinHostPort(name, strconv.FormatInt(port, 10))
}

// retire closes, after a while, the connections to nodes that serve nothing any
// more. ns.mu is held.
func (ns *nodes) retire(t *slotTable) {
	for addr, n := range ns.known {
		if slices.Contains(t.primaries, n) {
			continue
		}
		delete(ns.known, addr)
		time.AfterFunc(retireAfter, func() {
			n.retired.Store(true)
			n.client.Close()
		})
	}
}

// start connects: to the one node, or to a seed and all the nodes it knows.
func (ns *nodes) start(ctx context.Context) error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.known = make(map[string]*node)
	if !ns.cluster {
		client, err := ns.connect(ns.seeds[0])
		if err != nil {
			if client != nil {
				client.Close()
			}
			return err
		}
		ns.single = &node{addr: ns.seeds[0], client: client}
		return nil
	}
	t, err := ns.readTable(ctx, nil)
	if err != nil {
		return err
	}
	ns.table.Store(t)
	return nil
}

// close closes all connections.
func (ns *nodes) close() {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.closed = true
	if ns.single != nil {
		ns.single.client.Close()
	}
	for _, n := range ns.known {
		n.client.Close()
	}
}

// everyNode runs f for each primary at once and returns the first error.
func (s *Store) everyNode(ctx context.Context, f func(context.Context, *node) error) error {
	list := s.nodes.primaries()
	errs := make(chan error, len(list))
	for _, n := range list {
		go func() { errs <- f(ctx, n) }()
	}
	var first error
	for range list {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	if len(list) == 0 {
		first = flowfabric.NewError(flowfabric.CodeStoreUnavailable, "no node is known")
	}
	return first
}
