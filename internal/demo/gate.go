package demo

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// holding is what a worker says when its gate holds a task for the first time.
const holding = "holding"

// gate lets a number of tasks finish and holds those behind them, with their
// work done but not reported, until their context ends. It makes sure that the
// worker to be killed has executions in hand at that moment.
type gate struct {
	mu   sync.Mutex
	left int // tasks that may still pass
	said bool
	out  io.Writer
}

// pass returns nil when the task may finish. Otherwise it holds the task and, at
// the end of ctx, returns its cause. A nil gate holds nobody.
func (g *gate) pass(ctx context.Context) error {
	if g == nil || g.admit() {
		return nil
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (g *gate) admit() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left > 0 {
		g.left--
		return true
	}
	if !g.said {
		g.said = true
		fmt.Fprintln(g.out, holding) // a parent that does not listen is gone
	}
	return false
}
