package valkeytest

import "syscall"

// processAttributes lets the kernel kill a server when the test process dies,
// however it does.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
