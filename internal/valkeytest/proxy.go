package valkeytest

import (
	"bytes"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Fault is what a [Proxy] does to a command.
type Fault int

// In all cases but LoseRequest the server executes the command, in none the
// client is told so.
const (
	// LoseRequest cuts the connection instead of passing the command on.
	LoseRequest Fault = iota + 1
	// LoseReply passes the command on, waits for the reply and cuts the
	// connection in its place.
	LoseReply
	// CutSent passes the command on and cuts the client's connection at once:
	// what the client does next may precede the command's execution.
	CutSent
	// Silence passes the command on, and never a reply from then on: the
	// connection stays open until the client gives up.
	Silence
)

// Injection is a fault that a proxy has been told to make.
type Injection struct {
	fault Fault
	match func(command []byte) bool
	hit   chan struct{}

	proxy *Proxy
	left  int // negative: without end
	hits  int
}

// Hits returns how many commands met the fault.
func (i *Injection) Hits() int {
	i.proxy.mu.Lock()
	defer i.proxy.mu.Unlock()
	return i.hits
}

// Hit is closed when the first command meets the fault.
func (i *Injection) Hit() <-chan struct{} { return i.hit }

// Remove ends the fault.
func (i *Injection) Remove() {
	i.proxy.mu.Lock()
	defer i.proxy.mu.Unlock()
	i.left = 0
}

// Contains matches commands by a part of their bytes.
func Contains(part string) func(command []byte) bool {
	return func(command []byte) bool { return bytes.Contains(command, []byte(part)) }
}

// Counts are what has passed a proxy.
type Counts struct {
	Connections int // accepted
	Open        int // accepted and not yet closed
	Commands    int // seen, whatever became of them
	Replies     int // passed on to clients
	Faults      int // made of commands
}

// Proxy stands between clients and a server and makes faults. It tells one
// command from the next and knows which reply belongs to it, so a fault meets
// exactly the command meant, also in a pipeline. It does not speak TLS, and
// subscriptions of the old protocol version, RESP2, confuse it.
type Proxy struct {
	tb      testing.TB
	target  string
	port    int
	running sync.WaitGroup

	mu         sync.Mutex
	listener   net.Listener // nil while connections are refused
	conns      map[net.Conn]bool
	closed     bool
	injections []*Injection
	counts     Counts
}

// NewProxy starts a proxy in front of an address. It ends with the test.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	p := &Proxy{tb: tb, target: target, conns: make(map[net.Conn]bool)}
	var err error
	if p.port, err = takePort(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.close)
	if err := p.listen(); err != nil {
		tb.Fatal(err)
	}
	return p
}

// Addr returns the address to connect to.
func (p *Proxy) Addr() string { return loopback(p.port) }

// Target returns the address of the server.
func (p *Proxy) Target() string { return p.target }

// Counts returns what has passed the proxy so far.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// Inject makes a fault of the next commands that match: of so many, or of all
// when times is negative. Without a condition, every command matches. Of many
// injections that match, the first is made.
func (p *Proxy) Inject(fault Fault, times int, match func(command []byte) bool) *Injection {
	i := &Injection{proxy: p, fault: fault, left: times, match: match, hit: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.injections = append(p.injections, i)
	return i
}

// CutAll cuts all connections there are.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Refuse makes the proxy refuse new connections, or accept them again. Those
// there are stay.
func (p *Proxy) Refuse(on bool) {
	p.tb.Helper()
	if on {
		p.deafen()
		return
	}
	if err := p.listen(); err != nil {
		p.tb.Errorf("proxy: %v", err)
	}
}

func (p *Proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil || p.closed {
		return nil
	}
	l, err := net.Listen("tcp4", p.Addr())
	if err != nil {
		return err
	}
	p.listener = l
	p.running.Go(func() { p.accept(l) })
	return nil
}

func (p *Proxy) deafen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
}

// close drops everything and waits for the goroutines.
func (p *Proxy) close() {
	p.deafen()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.CutAll()
	p.running.Wait()
	returnPorts(p.port)
}

func (p *Proxy) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		if !p.keep(client) {
			continue
		}
		p.count(func(c *Counts) { c.Connections++; c.Open++ })
		p.running.Go(func() {
			defer p.count(func(c *Counts) { c.Open-- })
			defer p.drop(client)
			server, err := net.DialTimeout("tcp4", p.target, 5*time.Second)
			if err != nil || !p.keep(server) {
				return
			}
			defer p.drop(server)
			newExchange(p, client, server).run()
		})
	}
}

// keep remembers a connection to cut it; it reports false after the end.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) count(change func(*Counts)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.counts)
}

// plan decides what becomes of a command.
func (p *Proxy) plan(command []byte) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Commands++
	p.injections = slices.DeleteFunc(p.injections, func(i *Injection) bool { return i.left == 0 })
	for _, i := range p.injections {
		if i.match != nil && !i.match(command) {
			continue
		}
		if i.hits++; i.hits == 1 {
			close(i.hit)
		}
		if i.left > 0 {
			i.left--
		}
		p.counts.Faults++
		return i.fault
	}
	return 0
}

// exchange is one client's connection and the server's to it.
type exchange struct {
	proxy          *Proxy
	client, server net.Conn

	mu sync.Mutex
	// due are the faults of the commands whose replies are yet to come, zero
	// for most.
	due []Fault
}

func newExchange(p *Proxy, client, server net.Conn) *exchange {
	return &exchange{proxy: p, client: client, server: server}
}

func (x *exchange) run() {
	var answering sync.WaitGroup
	answering.Go(x.replies)
	if x.requests() {
		// The server executes what it was sent and then closes, too.
		_ = x.server.(*net.TCPConn).CloseWrite()
	} else {
		x.cut()
	}
	answering.Wait()
}

func (x *exchange) cut() {
	_ = x.client.Close()
	_ = x.server.Close()
}

// requests passes commands on until the client closes or a fault cuts. It
// reports whether the server may finish what it was sent.
func (x *exchange) requests() bool {
	commands := newWire(x.client)
	for {
		words, err := commands.command()
		if err != nil {
			return true
		}
		fault := x.proxy.plan(commands.raw)
		if fault == LoseRequest {
			return false
		}
		if !answeredByPush(words) {
			x.mu.Lock()
			x.due = append(x.due, fault)
			x.mu.Unlock()
		}
		if _, err := x.server.Write(commands.raw); err != nil {
			return false
		}
		if fault == CutSent {
			_ = x.client.Close()
			return true
		}
	}
}

// replies passes replies on until the server closes or a fault cuts.
func (x *exchange) replies() {
	defer x.cut()
	values, silent := newWire(x.server), false
	for {
		_, kind, err := values.value()
		if err != nil {
			return
		}
		if kind != pushKind {
			switch x.next() {
			case LoseReply:
				return
			case CutSent, Silence:
				silent = true
			}
		}
		if silent {
			continue
		}
		if _, err := x.client.Write(values.raw); err != nil {
			silent = true // the client is gone, but its commands are executed
			continue
		}
		x.proxy.count(func(c *Counts) { c.Replies++ })
	}
}

// next returns the fault of the command whose reply has come.
func (x *exchange) next() Fault {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.due) == 0 {
		return 0
	}
	fault := x.due[0]
	x.due = x.due[1:]
	return fault
}

// answeredByPush tells commands that are answered by messages of their own kind
// instead of replies.
func answeredByPush(words []string) bool {
	return len(words) > 0 && strings.HasSuffix(strings.ToUpper(words[0]), "SUBSCRIBE")
}
