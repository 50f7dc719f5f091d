// Callback hands work to another HTTP service and waits, without a worker's
// permit or lease, until that service calls back. The service here compresses
// documents; the worker checks what it gets by unpacking it.
//
// In one terminal, the server; the service calls it back:
//
//	flowfabric serve
//
// In a second one, the service, which knows nothing of FlowFabric:
//
//	go run ./examples/callback service
//
// In a third one, the worker:
//
//	go run ./examples/callback worker
//
// In a fourth one, the work:
//
//	go run ./examples/callback submit README.md
//	go run ./examples/callback submit -manner forged README.md
//
// The service calls back in the manner it is told to, and prints how each of its
// calls was answered:
//
//	prompt   some milliseconds later
//	early    before it has answered the request, when nobody waits yet
//	twice    a second time after the first, as a service does that lost the answer
//	late     not until it is asked again, and then for both requests
//	held     after the next document is done
//	forged   with a wrong token, and with that of another document; then as held
//	wrong    with the content of another document
//
// How long the worker waits before it asks again is its flag -patience. The
// server's address as the service sees it is its flag -callbacks.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/remote"
)

const defaultServer = "http://127.0.0.1:9090"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "callback:", err)
		os.Exit(1)
	}
}

// options are the flags of all three commands; each reads those it needs.
type options struct {
	server, callbacks, service, listen, manner string
	patience                                   time.Duration
	args                                       []string
}

func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, options) error{"worker": work, "submit": submit, "service": serve}
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("say service, worker or submit")
	}
	var o options
	f := flag.NewFlagSet(args[0], flag.ExitOnError)
	f.StringVar(&o.server, "server", defaultServer, "the server; a token for it is taken from FF_API_TOKEN")
	f.StringVar(&o.callbacks, "callbacks", "", "worker: where the service reaches the server (default: -server)")
	f.StringVar(&o.service, "service", "http://127.0.0.1:9191", "worker: the service")
	f.StringVar(&o.listen, "listen", "127.0.0.1:9191", "service: where it listens")
	f.StringVar(&o.manner, "manner", "prompt", "submit: how the service is to call back")
	f.DurationVar(&o.patience, "patience", 10*time.Minute, "worker: how long it waits before it asks again")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if o.args = f.Args(); o.callbacks == "" {
		o.callbacks = o.server
	}
	return commands[args[0]](ctx, o)
}

func connect(ctx context.Context, o options) (*remote.Backend, error) {
	if token := os.Getenv("FF_API_TOKEN"); token != "" {
		return remote.Open(ctx, o.server, remote.WithToken(token))
	}
	return remote.Open(ctx, o.server)
}

// submit has the documents compressed, and prints what came of it.
func submit(ctx context.Context, o options) error {
	backend, err := connect(ctx, o)
	if err != nil {
		return err
	}
	defer backend.Close()
	client := flowfabric.NewClient(backend)
	for _, path := range o.args {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		created, err := flowfabric.SubmitJSON(ctx, client, kind, Document{Name: path, Content: content, Manner: o.manner})
		if err != nil {
			return err
		}
		fmt.Println("submitted", created.ExecutionID)
		ended, err := client.Wait(ctx, created.ExecutionID)
		if err != nil {
			return err
		}
		fmt.Println(ended.PublicState, string(ended.Result)+ended.FailureReason)
	}
	return nil
}
