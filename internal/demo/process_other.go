//go:build !unix

package demo

import "syscall"

func processAttributes() *syscall.SysProcAttr { return nil }
