package valkeytest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// idleServers and idleClusters are how many a pool keeps for later tests.
	// In use are as many as tests run at a time.
	idleServers, idleClusters = 8, 2
	// pooledPrimaries is the size of a pool's cluster.
	pooledPrimaries = 3
	// closingLimit is how long connections of a test that has ended may take
	// to disappear from the server.
	closingLimit = 500 * time.Millisecond
)

// Pool lends running servers to tests, one after the other, and starts them as
// needed. The zero value is an empty pool.
//
// A server given back is emptied. One that the test stopped, reconfigured or
// left connections to is replaced instead.
type Pool struct {
	mu       sync.Mutex
	dir      *directory
	closed   bool
	servers  []*pooled
	clusters []*pooled
	// replicated are clusters whose primaries have a replica each.
	replicated []*pooled
	lent       int
}

// pooled is what a pool lends: a server, or the nodes of a cluster.
type pooled struct {
	nodes []*instance
	// state is what the nodes were like when they were new.
	state []string
}

var shared Pool

// Take lends an empty server of the package's pool until the test ends.
func Take(tb testing.TB) *Server {
	tb.Helper()
	return shared.Take(tb)
}

// TakeCluster lends an empty cluster of three primaries of the package's pool
// until the test ends.
func TakeCluster(tb testing.TB) *Cluster {
	tb.Helper()
	return shared.TakeCluster(tb)
}

// TakeReplicatedCluster lends an empty cluster of three primaries, each with a
// replica, of the package's pool until the test ends.
func TakeReplicatedCluster(tb testing.TB) *Cluster {
	tb.Helper()
	return shared.TakeReplicatedCluster(tb)
}

// Runner runs tests, as [testing.M] does.
type Runner interface{ Run() int }

// Main returns a runner that runs tests and then ends the servers of the
// package's pool. It can be given to goleak's VerifyTestMain as well.
func Main(m Runner) Runner { return mainRunner{m} }

type mainRunner struct{ tests Runner }

func (m mainRunner) Run() int {
	defer shared.Close()
	return m.tests.Run()
}

// Take lends an empty server until the test ends.
func (p *Pool) Take(tb testing.TB) *Server {
	tb.Helper()
	l := p.lend(tb, &p.servers, idleServers, func(path, dir string) ([]*instance, error) {
		n, err := launch(path, dir, Options{}, false)
		return []*instance{n}, err
	})
	return &Server{tb: tb, n: l.nodes[0]}
}

// TakeCluster lends an empty cluster of three primaries until the test ends.
func (p *Pool) TakeCluster(tb testing.TB) *Cluster {
	tb.Helper()
	return p.takeCluster(tb, &p.clusters, 0)
}

// TakeReplicatedCluster lends an empty cluster of three primaries with a replica
// each until the test ends.
func (p *Pool) TakeReplicatedCluster(tb testing.TB) *Cluster {
	tb.Helper()
	return p.takeCluster(tb, &p.replicated, 1)
}

func (p *Pool) takeCluster(tb testing.TB, idle *[]*pooled, replicasPer int) *Cluster {
	tb.Helper()
	l := p.lend(tb, idle, idleClusters, func(path, dir string) ([]*instance, error) {
		return launchCluster(path, dir, pooledPrimaries, replicasPer, Options{})
	})
	return newCluster(tb, l.nodes)
}

// Close ends the servers that are not lent, and those lent when they are given
// back.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, l := range slices.Concat(p.servers, p.clusters, p.replicated) {
		l.discard()
	}
	p.servers, p.clusters, p.replicated = nil, nil, nil
	p.removeUnused()
}

func (p *Pool) lend(tb testing.TB, idle *[]*pooled, most int, start func(path, dir string) ([]*instance, error)) *pooled {
	tb.Helper()
	path := Require(tb)
	l, dir, err := p.borrow(idle)
	if err == nil && l == nil {
		l, err = newPooled(path, dir, start)
	}
	if err != nil {
		p.giveBack(nil, idle, most)
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			l.show(tb)
		}
		if err := l.reset(); err != nil {
			tb.Logf("the server is not used again: %v", err)
			l.discard()
			l = nil
		}
		p.giveBack(l, idle, most)
	})
	return l
}

// borrow returns an idle server, or a directory for a new one.
func (p *Pool) borrow(idle *[]*pooled) (l *pooled, dir string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent++
	if last := len(*idle) - 1; last >= 0 {
		l, *idle = (*idle)[last], (*idle)[:last]
		return l, "", nil
	}
	if p.dir == nil {
		if p.dir, err = newDirectory(); err != nil {
			return nil, "", err
		}
	}
	dir, err = p.dir.sub()
	return nil, dir, err
}

// giveBack takes a server back, or learns that there is none to take.
func (p *Pool) giveBack(l *pooled, idle *[]*pooled, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent--
	switch {
	case l == nil:
	case p.closed || len(*idle) >= most:
		l.discard()
	default:
		*idle = append(*idle, l)
	}
	p.removeUnused()
}

func (p *Pool) removeUnused() {
	if p.closed && p.lent == 0 && p.dir != nil {
		p.dir.remove()
		p.dir = nil
	}
}

func newPooled(path, dir string, start func(path, dir string) ([]*instance, error)) (*pooled, error) {
	nodes, err := start(path, dir)
	if err != nil {
		return nil, err
	}
	l := &pooled{nodes: nodes}
	for _, n := range nodes {
		state, err := inspect(n)
		if err != nil {
			l.discard()
			return nil, err
		}
		l.state = append(l.state, state)
	}
	return l, nil
}

func (l *pooled) discard() {
	for _, n := range l.nodes {
		n.discard()
	}
}

func (l *pooled) show(tb testing.TB) {
	for _, n := range l.nodes {
		if text := n.tail(); text != "" {
			tb.Logf("server %s logged, for this test and others:\n%s", n.addr(), text)
		}
	}
}

// reset empties the servers. It fails if they cannot be made as good as new.
func (l *pooled) reset() error {
	for i, n := range l.nodes {
		if err := n.reset(l.state[i]); err != nil {
			return fmt.Errorf("%s: %w", n.addr(), err)
		}
	}
	return nil
}

func (n *instance) reset(want string) error {
	n.mu.Lock()
	disturbed := n.disturbed
	n.mu.Unlock()
	if disturbed {
		return errors.New("the test stopped it")
	}
	c, err := n.dial()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	c.limit = 5 * time.Second
	if err := until(closingLimit, func() error { return aloneOn(c) }); err != nil {
		return err
	}
	replication, err := c.info("replication")
	if err != nil {
		return err
	}
	commands := [][]string{{"DEBUG", "SET-ACTIVE-EXPIRE", "1"}, {"CONFIG", "RESETSTAT"}}
	if replication["role"] == "master" { // replicas follow
		commands = append([][]string{{"FLUSHALL", "SYNC"}, {"FUNCTION", "FLUSH", "SYNC"}}, commands...)
	}
	for _, command := range commands {
		if _, err := c.text(command...); err != nil {
			return err
		}
	}
	memory, err := c.info("memory")
	if err != nil {
		return err
	}
	if memory["number_of_cached_scripts"] != "0" { // it makes a new interpreter, which takes a while
		if _, err := c.text("SCRIPT", "FLUSH", "SYNC"); err != nil {
			return err
		}
	}
	got, err := inspect(n)
	if err != nil {
		return err
	}
	if got != want {
		return errors.New("the test left another configuration")
	}
	return nil
}

// aloneOn returns nil when nobody else is connected, but for primary and replicas.
func aloneOn(c *Conn) error {
	list, err := c.text("CLIENT", "LIST")
	if err != nil {
		return err
	}
	others := -1
	for line := range strings.Lines(list) {
		if !strings.Contains(line, " flags=S") && !strings.Contains(line, " flags=M") {
			others++
		}
	}
	if others > 0 {
		return fmt.Errorf("the test left %d connections", others)
	}
	return nil
}

// inspect returns what of a server's state a test may change and emptying does
// not restore: the configuration, the users and the slots.
func inspect(n *instance) (string, error) {
	c, err := n.dial()
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	config, err := c.Do("CONFIG", "GET", "*")
	if err != nil {
		return "", err
	}
	var lines []string
	list, _ := config.([]any)
	for pair := range slices.Chunk(list, 2) {
		lines = append(lines, fmt.Sprint(pair))
	}
	slices.Sort(lines)
	users, err := c.Do("ACL", "LIST")
	if err != nil {
		return "", err
	}
	slots := ""
	if n.cluster {
		v, err := viewOf(c)
		if err != nil {
			return "", err
		}
		slots = v.text
	}
	return fmt.Sprint(lines, users, slots), nil
}
