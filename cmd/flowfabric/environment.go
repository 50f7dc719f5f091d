package main

import (
	"context"
	"io"
	"os"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
	"golang.org/x/term"
)

// environment is the world a command acts in; tests replace parts of it.
type environment struct {
	in       io.Reader
	out, err io.Writer
	// asks tells that a person sits at the input, who can be asked.
	asks    bool
	environ []string
	now     func() time.Time
	// open opens what a client command talks to.
	open func(ctx context.Context, t target) (flowfabric.Backend, error)
	// ready, when not nil, is told the address a server listens on once it is
	// ready.
	ready func(address string)
}

func systemEnvironment() *environment {
	return &environment{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		asks:    isTerminal(os.Stdin),
		environ: os.Environ(),
		now:     time.Now,
		open:    openTarget,
	}
}

// variable returns an environment variable, "" when unset.
func (env *environment) variable(name string) string {
	value := ""
	for _, entry := range env.environ {
		if n, v, ok := strings.Cut(entry, "="); ok && n == name {
			value = v
		}
	}
	return value
}

// isTerminal reports whether v is a stream that a person sits at.
func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
