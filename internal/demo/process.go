package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long a worker process may take to end after it was asked to.
const stopGrace = 4 * time.Second

// keeper starts the worker processes, all from one thread that lives as long as
// they do: the kernel kills a child when the thread that started it dies, so a
// parent that is killed leaves nobody behind. (Elsewhere than on Linux a child
// notices that its standard input ended.)
type keeper struct {
	requests chan func()
	closed   sync.WaitGroup
}

func newKeeper() *keeper {
	k := &keeper{requests: make(chan func())}
	k.closed.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the keeper
		for do := range k.requests {
			do()
		}
	})
	return k
}

// close ends the keeper; its processes must have ended before.
func (k *keeper) close() {
	close(k.requests)
	k.closed.Wait()
}

// process is one worker process.
type process struct {
	cmd   *exec.Cmd
	input io.WriteCloser
	// holds is closed when the process says that it holds its tasks.
	holds chan struct{}
	// done is closed when the process has ended and been waited for.
	done chan struct{}
	err  error // how it ended; to be read after done
	log  tail

	mu       sync.Mutex
	expected bool // somebody here ended it
}

// start runs command with input as its first line of standard input, which stays
// open for as long as the process is wanted.
func (k *keeper) start(command []string, env []string, input []byte) (*process, error) {
	p := &process{holds: make(chan struct{}), done: make(chan struct{})}
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = &p.log
	p.cmd.SysProcAttr = processAttributes()
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.input = stdin
	// A pipe of our own: Wait must not close the end we read from.
	output, outputWriter, err := os.Pipe()
	if err != nil {
		stdin.Close()
		return nil, err
	}
	p.cmd.Stdout = outputWriter
	started := make(chan error)
	k.requests <- func() { started <- p.cmd.Start() }
	err = <-started
	outputWriter.Close()
	if err != nil {
		stdin.Close()
		output.Close()
		return nil, fmt.Errorf("start a worker process: %w", err)
	}
	go p.listen(output)
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	stdin.Write(append(input, '\n')) // fails only when the process has ended, which done tells
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// expect tells that the process is about to be ended on purpose.
func (p *process) expect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = true
}

func (p *process) wasExpected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.expected
}

// kill is kill -9, and waits until the process is gone.
func (p *process) kill() error {
	p.expect()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// stop asks the process to end and waits for it, at most stopGrace or until ctx
// ends; then it is killed. Either way it is gone when stop returns.
func (p *process) stop(ctx context.Context) {
	select {
	case <-p.done: // by itself: nobody stopped it
		return
	default:
	}
	p.expect()
	p.cmd.Process.Signal(syscall.SIGTERM) // fails only when the process is gone or the system knows no signals
	p.input.Close()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-p.done:
		return
	case <-grace.C:
	case <-ctx.Done():
	}
	p.cmd.Process.Kill() // fails only when the process is gone
	<-p.done
}

// listen reads what the process says on standard output until it ends it.
func (p *process) listen(output io.ReadCloser) {
	defer output.Close()
	said := false
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if lines.Text() == holding && !said {
			said = true
			close(p.holds)
		}
	}
}

// tail keeps the last of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

const tailBytes = 4096

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - tailBytes; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.kept))
}
