package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/server"
)

// serverStop is how long the server's shutdown may take; the workers are gone by
// then.
const serverStop = 5 * time.Second

// listener is the HTTP server for the demo's workers: on loopback, on a port of
// the system's choice, with a token of its own.
type listener struct {
	url, token string
	server     *server.Server
	served     chan error
}

func serve(backend flowfabric.Backend) (*listener, error) {
	l := &listener{token: rand.Text(), served: make(chan error, 1)}
	srv, err := server.New(backend, server.Config{APIToken: l.token, ShutdownTimeout: serverStop, Logger: quietLogger()})
	if err != nil {
		return nil, err
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the workers: %w", err)
	}
	l.server, l.url = srv, "http://"+socket.Addr().String()
	go func() { l.served <- srv.Serve(socket) }()
	return l, nil
}

func (l *listener) stop() error {
	err := l.server.Shutdown(context.Background()) // bounded by serverStop
	if served := <-l.served; err == nil {
		err = served
	}
	return err
}

// quietLogger is for parts whose log would disturb the demo's own telling.
func quietLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }
