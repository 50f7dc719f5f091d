//go:build unix

package valkeytest

import (
	"os"
	"syscall"
)

// The signals that end a server in order, stop it where it is, and let it go
// on.
const (
	terminateSignal = syscall.SIGTERM
	pauseSignal     = syscall.SIGSTOP
	resumeSignal    = syscall.SIGCONT
)

// lock takes the lock of an open file, which the process holds until it ends
// or closes it. It reports false when another process holds it.
func lock(f *os.File) bool {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}
