package valkeytest

import (
	"os"
	"os/exec"
	"runtime"
)

// process is a running server. A goroutine on a thread of its own starts it
// and waits for its end, since the kernel ends the server with the thread that
// started it.
type process struct {
	*os.Process
	// exited is closed when the process has ended and nothing of it remains.
	exited chan struct{}
}

// spawn starts a program with its output in a file.
func spawn(path string, args []string, dir string, output *os.File) (*process, error) {
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
	cmd.SysProcAttr = processAttributes()
	p := &process{exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		p.Process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait()
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// ended tells whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// destroy kills the process and waits for its end.
func (p *process) destroy() {
	_ = p.Kill()
	<-p.exited
}
