//go:build unix && !linux

package valkeytest

import "syscall"

// processAttributes has nothing that ends a server with a test process that
// was killed; in the same process group, it at least gets a Ctrl-C.
func processAttributes() *syscall.SysProcAttr { return nil }
