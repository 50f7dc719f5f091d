package crashtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// cut is what a proxy does to a request.
type cut int

const (
	cutNothing cut = iota
	// cutRequest passes half of the request on and drops both connections.
	cutRequest
	// cutBoth passes the request on and drops both connections, cutClient only
	// the client's: the server answers to nobody.
	cutBoth
	cutClient
	// cutAnswer drops both connections when the answer comes, cutMiddle in the
	// middle of it.
	cutAnswer
	cutMiddle
)

func (c cut) String() string {
	return [...]string{"passed", "request cut", "both dropped", "client dropped", "answer dropped", "answer cut"}[c]
}

// Which cuts a test makes.
var (
	allCuts    = []cut{cutRequest, cutBoth, cutClient, cutAnswer, cutMiddle}
	answerCuts = []cut{cutAnswer, cutMiddle}
)

// proxy stands between clients and a server, and cuts the connection of one in
// a few requests.
type proxy struct {
	t        *testing.T
	listener net.Listener
	target   string
	oneIn    int
	running  sync.WaitGroup

	mu     sync.Mutex
	cuts   []cut
	conns  map[net.Conn]bool
	closed bool
	counts map[cut]int
}

// newProxy starts a proxy in front of an address that makes the cuts, in one of
// so many requests.
func newProxy(t *testing.T, target string, oneIn int, cuts []cut) *proxy {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: l, target: target, cuts: cuts, oneIn: oneIn, conns: make(map[net.Conn]bool), counts: make(map[cut]int)}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) url() string { return "http://" + p.listener.Addr().String() }

// close drops everything and waits for its goroutines.
func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

// summary tells what was cut.
func (p *proxy) summary() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text, all := "", 0
	for c := cutNothing; c <= cutMiddle; c++ {
		all += p.counts[c]
		if c != cutNothing && p.counts[c] > 0 {
			text += fmt.Sprintf(", %d %s", p.counts[c], c)
		}
	}
	return fmt.Sprintf("%d requests%s", all, text)
}

// calm ends the cutting.
func (p *proxy) calm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts = nil
}

// plan decides what becomes of a request.
func (p *proxy) plan() cut {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := cutNothing
	if len(p.cuts) > 0 && rand.IntN(p.oneIn) == 0 {
		c = p.cuts[rand.IntN(len(p.cuts))]
	}
	p.counts[c]++
	return c
}

// keep remembers a connection for close; it reports false after it.
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *proxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.keep(client) {
			return
		}
		p.running.Go(func() {
			defer p.drop(client)
			server, err := net.Dial("tcp4", p.target)
			if err != nil || !p.keep(server) {
				return
			}
			defer p.drop(server)
			(&exchange{proxy: p, client: client, server: server, answered: true}).run()
		})
	}
}

// exchange is one pair of connections. HTTP/1.1 sends a request only after the
// answer to the one before, so what comes from the client after an answer begins
// a request.
type exchange struct {
	proxy          *proxy
	client, server net.Conn

	mu       sync.Mutex
	answered bool // the present request has at least the begin of an answer
	cut      cut  // of the present request
}

func (x *exchange) run() {
	var back sync.WaitGroup
	back.Go(x.answers)
	deaf := x.requests()
	if !deaf {
		_ = x.server.Close()
	}
	_ = x.client.Close()
	back.Wait()
}

// requests passes on what the client sends, until a cut or the client's end.
// Deaf is the server that is to answer to nobody.
func (x *exchange) requests() (deaf bool) {
	buf := make([]byte, 256<<10)
	for {
		n, err := x.client.Read(buf)
		if err != nil {
			return false
		}
		begins, what := x.begin()
		if begins && what == cutRequest {
			_, _ = x.server.Write(buf[:n/2])
			return false
		}
		if _, err := x.server.Write(buf[:n]); err != nil {
			return false
		}
		if begins && (what == cutBoth || what == cutClient) {
			return what == cutClient
		}
	}
}

// begin tells whether a request begins here, and what is to become of it.
func (x *exchange) begin() (bool, cut) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.answered {
		return false, x.cut
	}
	x.answered, x.cut = false, x.proxy.plan()
	return true, x.cut
}

// answers passes on what the server sends. To a client that is gone nothing is
// passed on, until the one answer that it waited for has come.
func (x *exchange) answers() {
	defer x.client.Close()
	defer x.server.Close()
	buf := make([]byte, 256<<10)
	for {
		n, err := x.server.Read(buf)
		if err != nil {
			return
		}
		x.mu.Lock()
		x.answered = true
		what := x.cut
		x.mu.Unlock()
		switch what {
		case cutNothing:
			if _, err := x.client.Write(buf[:n]); err != nil {
				return
			}
		case cutMiddle:
			_, _ = x.client.Write(buf[:n/2])
			return
		default:
			return
		}
	}
}
