// Command flowfabric is server, operator's tool and demo in one binary.
//
//	flowfabric serve                  start a server, nothing to set up
//	flowfabric submit greet --wait    submit an execution and wait for its end
//	flowfabric doctor                 ask whether everything is well
//
// Every command exits 0 on success, 1 when the operation failed, 2 on wrong use
// or configuration, 3 when something was not found and 4 on a conflict.
// (Specification 08, section 6.4.)
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/config"
)

// The exit codes.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitConflict = 4
)

// main runs a command. The first interrupt ends it in good order, a second one at
// once, with exit code 1.
func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		stop()
		<-signals
		os.Exit(exitFailed)
	}()
	os.Exit(run(ctx, systemEnvironment(), os.Args[1:]))
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, env *environment, args []string) int {
	root := newRootCommand(env)
	root.SetArgs(args)
	root.SetIn(env.in)
	root.SetOut(env.out)
	root.SetErr(env.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var quiet *quietError
	if !errors.As(err, &quiet) {
		fmt.Fprintln(env.err, "flowfabric: "+errorLine(err))
	}
	return exitCode(err)
}

// usageError is a wrong use of the command line.
type usageError struct {
	text string
	hint string // how to do it right
}

func (e *usageError) Error() string {
	if e.hint == "" {
		return e.text
	}
	return e.text + " (" + e.hint + ")"
}

func usagef(format string, args ...any) error { return &usageError{text: fmt.Sprintf(format, args...)} }

// quietError ends the program with a code; what there is to say has been said.
type quietError struct{ code int }

func (e *quietError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// codeError gives an error another exit code than its class would.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

// exitCode translates an error: by what the command said, else by the class.
func exitCode(err error) int {
	var quiet *quietError
	var coded *codeError
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &quiet):
		return quiet.code
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &usage), len(config.Refusals(err)) > 0:
		return exitUsage
	}
	e := flowfabric.AsError(err)
	if e == nil {
		return exitFailed
	}
	switch e.Class {
	case flowfabric.ClassNotFound:
		return exitNotFound
	case flowfabric.ClassConflict, flowfabric.ClassStaleOwner, flowfabric.ClassAlreadyDone:
		return exitConflict
	case flowfabric.ClassInvalidInput:
		if e.Code == flowfabric.CodeUnsupportedOperation {
			return exitFailed
		}
		return exitUsage
	}
	return exitFailed
}

// errorLine is what a person reads of an error: one line.
func errorLine(err error) string {
	if refusals := config.Refusals(err); len(refusals) > 0 {
		line := refusals[0].Error()
		if more := len(refusals) - 1; more > 0 {
			line += fmt.Sprintf(" (and %d more; see: flowfabric config check)", more)
		}
		return line
	}
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	line := strings.TrimPrefix(strings.Join(strings.Fields(err.Error()), " "), "invalid_input: ")
	if e := flowfabric.AsError(err); e != nil && e.Code == flowfabric.CodeUnauthenticated {
		line += " (give the token with --token-file or FF_API_TOKEN)"
	}
	return line
}
