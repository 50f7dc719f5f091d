// Approval puts a release into a directory once two different people have
// approved it. One rejection ends it, and so does the end of the hour; then the
// directory stays as it is.
//
// In one terminal, the server:
//
//	flowfabric serve
//
// In a second one, the worker that changes the directory:
//
//	go run ./examples/approval worker -dir /tmp/site
//
// In a third one, whoever wants the change:
//
//	go run ./examples/approval submit -dir /tmp/site index.html style.css
//
// It prints the commands by which people decide, flowfabric waitpoint approve
// and flowfabric waitpoint reject; they give their name with --by. Then
//
//	go run ./examples/approval status EXECUTION
//
// tells how far it is. A release that is in place is a completed execution, one
// that was rejected or ran out of time a cancelled one, with the reason. Who a
// person is, the server takes from whoever may operate it: --by is believed.
//
// The worker may be killed at any moment: the decisions are in the store, the
// hour is counted from the submission, and the change is made in one step that
// is harmless to repeat. While no worker runs people can still decide.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/remote"
)

const (
	kind          = "deploy"
	defaultServer = "http://127.0.0.1:9090"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "approval:", err)
		os.Exit(1)
	}
}

// options are the flags of all three commands; each reads those it needs.
type options struct {
	server string
	dir    string
	window time.Duration
	ttl    time.Duration
	args   []string
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("say worker, submit or status")
	}
	var o options
	f := flag.NewFlagSet(args[0], flag.ExitOnError)
	f.StringVar(&o.server, "server", defaultServer, "the server; a token for it is taken from FF_API_TOKEN")
	f.StringVar(&o.dir, "dir", "", "directory that is deployed to")
	f.DurationVar(&o.window, "window", time.Hour, "submit: how long people have to decide")
	f.DurationVar(&o.ttl, "lease-ttl", 30*time.Second, "worker: how soon another worker takes over from a dead one")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	o.args = f.Args()
	command := map[string]func(context.Context, *flowfabric.Client, options) error{"worker": work, "submit": submit, "status": status}[args[0]]
	if command == nil {
		return fmt.Errorf("there is no %q; say worker, submit or status", args[0])
	}
	var connect []remote.Option
	if token := os.Getenv("FF_API_TOKEN"); token != "" {
		connect = append(connect, remote.WithToken(token))
	}
	backend, err := remote.Open(ctx, o.server, connect...)
	if err != nil {
		return err
	}
	defer backend.Close()
	return command(ctx, flowfabric.NewClient(backend), o)
}

// submit asks for a release of the files, and prints what people type next.
func submit(ctx context.Context, client *flowfabric.Client, o options) error {
	if o.dir == "" || len(o.args) == 0 {
		return errors.New("submit needs -dir and the files of the release")
	}
	base, err := directory(o.dir).current()
	if err != nil {
		return err
	}
	release := Release{Base: base, Files: map[string][]byte{}, WindowMs: o.window.Milliseconds()}
	for _, path := range o.args {
		if release.Files[filepath.Base(path)], err = os.ReadFile(path); err != nil {
			return err
		}
	}
	retries := uint32(5) // an outage fails an attempt, not the deployment
	created, err := flowfabric.SubmitJSON(ctx, client, kind, release, flowfabric.WithPolicy(flowfabric.Policy{
		RetryPolicy: &flowfabric.RetryPolicy{MaxRetries: &retries}}))
	if err != nil {
		return err
	}
	where := ""
	if o.server != defaultServer {
		where = " --server " + o.server
	}
	id := created.ExecutionID
	fmt.Printf("submitted %s\nTwo people must approve within %s:\n", id, o.window)
	fmt.Printf("  flowfabric waitpoint list%s\n", where)
	fmt.Printf("  flowfabric waitpoint approve '%s' --by \"$USER\"%s\n", id, where)
	fmt.Printf("  flowfabric waitpoint reject '%s' --by \"$USER\"%s\n", id, where)
	return nil
}

// status prints how a deployment stands, and who has decided.
func status(ctx context.Context, client *flowfabric.Client, o options) error {
	if len(o.args) != 1 {
		return errors.New("status needs the execution")
	}
	id, err := flowfabric.ParseExecutionID(o.args[0])
	if err != nil {
		return err
	}
	x, err := client.Inspect(ctx, id)
	if err != nil {
		return err
	}
	if x == nil {
		return fmt.Errorf("there is no execution %s", id)
	}
	votes, err := tally(ctx, client, id, flowfabric.MaxInstant)
	if err != nil {
		return err
	}
	fmt.Println(strings.TrimSpace(fmt.Sprintf("%s %s%s", x.PublicState, x.CancellationReason, x.FailureReason)))
	fmt.Printf("approved by: %s\n", strings.Join(votes.approvedBy, ", "))
	if votes.rejectedBy != "" {
		fmt.Printf("rejected by: %s\n", votes.rejectedBy)
	}
	return nil
}
