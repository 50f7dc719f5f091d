package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/flowfabric/flowfabric"
)

// lookInterval is how often the parent looks at the leases of the worker it is
// about to kill.
const lookInterval = 10 * time.Millisecond

// maxReplacements bounds how many workers that ended by themselves are replaced.
const maxReplacements = 5

// member is one worker process with its place in the report.
type member struct {
	*process
	instance flowfabric.WorkerInstanceID
	killed   bool
}

// crew are the worker processes of one start.
type crew struct {
	*stage
	server *listener
	watch  *watch
	keeper *keeper
	// lost receives the name of a worker that ended by itself.
	lost chan *member

	mu      sync.Mutex
	members []*member
	waits   sync.WaitGroup
}

func newCrew(s *stage, server *listener, w *watch) *crew {
	return &crew{stage: s, server: server, watch: w, keeper: newKeeper(), lost: make(chan *member, MaxWorkers+maxReplacements+2)}
}

// hire starts one more worker process.
func (c *crew) hire(holdAfter *int) (*member, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &member{instance: c.run.instance(len(c.members) + 1)}
	input, err := json.Marshal(brief{
		Server: c.server.url, Token: c.server.token, Root: c.tree.Root, Lane: c.run.lane(),
		Instance: m.instance, Concurrency: c.Concurrency, LeaseTTL: c.LeaseTTL, HoldAfter: holdAfter,
	})
	if err != nil {
		return nil, err
	}
	if m.process, err = c.keeper.start(c.WorkerCommand, c.WorkerEnvironment, input); err != nil {
		return nil, err
	}
	c.members = append(c.members, m)
	c.waits.Go(func() {
		<-m.done
		if !m.wasExpected() {
			c.lost <- m
		}
	})
	return m, nil
}

// dismiss stops all workers by their process ids and returns when they are gone.
func (c *crew) dismiss(ctx context.Context) {
	c.mu.Lock()
	members := c.members
	c.mu.Unlock()
	var wg sync.WaitGroup
	for _, m := range members {
		wg.Go(func() { m.stop(context.WithoutCancel(ctx)) })
	}
	wg.Wait()
	c.waits.Wait()
	c.keeper.close()
}

// perform is the play: the worker that will be killed starts first, so that it
// has its share of the work; the others follow; in the middle it is killed and
// replaced. perform returns when every execution has ended.
func (c *crew) perform(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		if err := c.watch.follow(ctx); err != nil {
			cancel(err)
		}
	})
	wg.Go(func() { c.watch.followReclaims(ctx) })
	wg.Go(func() {
		if err := c.guard(ctx); err != nil {
			cancel(err)
		}
	})
	wg.Go(func() {
		if err := c.act(ctx); err != nil {
			cancel(err)
		}
	})
	select {
	case <-c.watch.finished:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// act starts the workers, kills one and replaces it.
func (c *crew) act(ctx context.Context) error {
	passes := (len(c.executions) - c.watch.done()) / (2 * c.Workers)
	victim, err := c.hire(&passes)
	if err != nil {
		return err
	}
	if !c.seesWork(ctx, victim) {
		return nil
	}
	for range c.Workers - 1 {
		if _, err := c.hire(nil); err != nil {
			return err
		}
	}
	c.Show.Say(fmt.Sprintf("%s, %s each at a time", plural(c.Workers, "worker process"), plural(c.Concurrency, "file")))
	if !c.isHolding(ctx, victim) {
		return nil
	}
	if err := c.killHolding(ctx, victim); err != nil {
		return err
	}
	successor, err := c.hire(nil)
	if err != nil {
		return err
	}
	c.Show.Say(fmt.Sprintf("%s (pid %d) takes its place", successor.instance, successor.pid()))
	return nil
}

// seesWork waits until the worker holds its first lease, and returns false when
// the work, or ctx, ends before.
func (c *crew) seesWork(ctx context.Context, m *member) bool {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		if held, err := c.leases(ctx, m); err == nil && len(held) > 0 {
			return true
		}
		select {
		case <-tick.C:
		case <-m.holds:
			return true
		case <-m.done: // the guard sees to it; the others shall work
			return true
		case <-c.watch.finished:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// isHolding waits until the worker says that it holds its tasks and the store
// shows their leases; false when it will not.
func (c *crew) isHolding(ctx context.Context, m *member) bool {
	select {
	case <-m.holds:
	case <-m.done:
		return false
	case <-c.watch.finished:
		return false
	case <-ctx.Done():
		return false
	}
	held, err := c.leases(ctx, m) // what is held is not completed, so its lease is there
	return err == nil && len(held) > 0
}

// killHolding kills the worker with signal 9 and tells what it held then.
func (c *crew) killHolding(ctx context.Context, m *member) error {
	pid := m.pid()
	m.killed = true
	if err := m.kill(); err != nil {
		return fmt.Errorf("kill %s (pid %d): %w", m.instance, pid, err)
	}
	held, err := c.leases(ctx, m) // a dead process gives nothing back: this is what it held
	if err != nil {
		return err
	}
	c.Show.Say(fmt.Sprintf("kill -9 %d: %s died after %d of %d files, holding %s; others take over when the leases lapse (%s)",
		pid, m.instance, c.watch.done(), len(c.executions), plural(len(held), "execution"), c.LeaseTTL))
	return nil
}

// leases lists the executions a worker holds, by the store.
func (c *crew) leases(ctx context.Context, m *member) ([]flowfabric.ClaimedExecution, error) {
	answer, err := c.backend.ListWorkerLeases(ctx, flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: m.instance, Limit: flowfabric.MaxListLimit})
	return answer.Tasks, err
}

// guard replaces workers that end by themselves. It gives up after a few: then
// what the last one said is the reason.
func (c *crew) guard(ctx context.Context) error {
	for range maxReplacements {
		select {
		case m := <-c.lost:
			successor, err := c.hire(nil)
			if err != nil {
				return err
			}
			c.Show.Say(fmt.Sprintf("%s (pid %d) ended by itself (%s); %s (pid %d) takes its place",
				m.instance, m.pid(), m.reason(), successor.instance, successor.pid()))
		case <-ctx.Done():
			return nil
		}
	}
	select {
	case m := <-c.lost:
		return fmt.Errorf("workers keep ending by themselves; the last one said: %s", m.reason())
	case <-ctx.Done():
		return nil
	}
}

// reason is why the process ended: how, and the last it said.
func (m *member) reason() string {
	<-m.done
	how := "exit status 0"
	if m.err != nil {
		how = m.err.Error()
	}
	if text := m.log.String(); text != "" {
		how += ": " + printable(text)
	}
	return how
}
