package demo

import "syscall"

// processAttributes puts a worker into a process group of its own, so that a
// Ctrl-C reaches the parent alone, which then stops the workers in order, and
// lets the kernel kill it when the parent dies.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
