package valkeytest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// through connects to a server through a proxy.
func through(t *testing.T, p *Proxy) *Conn {
	t.Helper()
	c, err := dial(p.Addr(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestProxyFaults(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault    Fault
		executed bool
	}{
		"request lost": {LoseRequest, false},
		"reply lost":   {LoseReply, true},
		"cut":          {CutSent, true},
		"silence":      {Silence, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Take(t)
			p := NewProxy(t, s.Addr())
			injected := p.Inject(test.fault, 1, Contains("second"))
			c := through(t, p)
			// The commands before are answered, those after are not.
			for _, command := range [][]string{{"INCR", "first"}, {"INCR", "second"}} {
				if err := c.Send(command...); err != nil {
					t.Fatal(err)
				}
			}
			v, err := c.Receive()
			if test.fault == LoseReply && (v != int64(1) || err != nil) {
				t.Fatalf("the reply before was %v, %v", v, err)
			}
			if err == nil {
				c.limit = 100 * time.Millisecond
				v, err = c.Receive()
			}
			if err == nil {
				t.Errorf("the command was answered: %v", v)
			}
			if isTimeout(err) != (test.fault == Silence) {
				t.Errorf("the client was told %v", err)
			}
			<-injected.Hit()
			if n := injected.Hits(); n != 1 {
				t.Errorf("%d hits", n)
			}
			want := any(nil)
			if test.executed {
				want = "1"
			}
			err = until(time.Second, func() error {
				if got := s.Must("GET", "second"); got != want {
					return fmt.Errorf("second is %v, want %v", got, want)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			// The fault was made once.
			if v, err := through(t, p).Do("INCR", "second"); err != nil {
				t.Errorf("the next command returned %v, %v", v, err)
			}
			if n := p.Counts(); n.Faults != 1 || n.Connections != 2 || n.Commands != 3 {
				t.Errorf("counts %+v", n)
			}
		})
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func TestProxyRefuses(t *testing.T) {
	t.Parallel()
	s := Take(t)
	p := NewProxy(t, s.Addr())
	c := through(t, p)
	if _, err := c.Do("PING"); err != nil { // now the connection is accepted
		t.Fatal(err)
	}
	p.Refuse(true)
	if _, err := dial(p.Addr(), nil); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial returned %v", err)
	}
	if _, err := c.Do("PING"); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
	p.CutAll()
	if _, err := c.Do("PING"); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a cut connection returned %v", err)
	}
	p.Refuse(false)
	if _, err := through(t, p).Do("PING"); err != nil {
		t.Error(err)
	}
}

func TestProxyInjectionEnds(t *testing.T) {
	t.Parallel()
	s := Take(t)
	p := NewProxy(t, s.Addr())
	i := p.Inject(LoseReply, -1, nil)
	for range 3 {
		if _, err := through(t, p).Do("PING"); err == nil {
			t.Error("answered")
		}
	}
	i.Remove()
	if _, err := through(t, p).Do("PING"); err != nil || i.Hits() != 3 {
		t.Errorf("after %d hits: %v", i.Hits(), err)
	}
}

// TestProxyIsTransparent lets a client with RESP3, subscriptions, large values
// and pipelines work through a proxy.
func TestProxyIsTransparent(t *testing.T) {
	t.Parallel()
	s := Take(t)
	p := NewProxy(t, s.Addr())
	c := through(t, p)
	large := string(make([]byte, 1<<20))
	for _, command := range [][]string{{"HELLO", "3"}, {"SUBSCRIBE", "channel"}, {"SET", "large", large}, {"GET", "large"}} {
		if err := c.Send(command...); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 {
		v, err := c.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if i == 3 && v != large {
			t.Error("the large value came back changed")
		}
	}
	p.Inject(LoseReply, 1, Contains("first"))
	s.Must("PUBLISH", "channel", "hello")
	if v, err := c.Receive(); err != nil || fmt.Sprint(v) != "[message channel hello]" {
		t.Errorf("message %v, %v", v, err)
	}
	if v, err := c.Do("INCR", "first"); err == nil {
		t.Errorf("the reply was not lost: %v", v)
	}

	option := s.ClientOption()
	option.DialCtxFn = DialThrough(p)
	before := p.Counts().Connections
	client := newClient(t, option)
	b := client.B().Set().Key("k").Value("v").Build()
	if err := client.Do(t.Context(), b).Error(); err != nil || p.Counts().Connections == before {
		t.Errorf("a client through the proxy: %v", err)
	}
}

func TestProxyWithoutServer(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	p := NewProxy(t, s.Addr())
	s.Kill()
	if _, err := through(t, p).Do("PING"); err == nil {
		t.Error("answered")
	}
	s.Restart()
	if _, err := through(t, p).Do("PING"); err != nil {
		t.Error(err)
	}
	s.Pause()
	c := through(t, p)
	c.limit = 20 * time.Millisecond
	if _, err := c.Do("PING"); !isTimeout(err) {
		t.Errorf("a paused server: %v", err)
	}
}
