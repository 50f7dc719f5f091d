//go:build !unix

package valkeytest

import (
	"os"
	"syscall"
)

// There are no signals here but the kill: servers cannot be paused.
const (
	terminateSignal = syscall.SIGKILL
	pauseSignal     = syscall.SIGKILL
	resumeSignal    = syscall.SIGKILL
)

func processAttributes() *syscall.SysProcAttr { return nil }

// lock never reports that a file's owner is gone.
func lock(*os.File) bool { return false }
