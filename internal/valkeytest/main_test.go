//go:build unix

package valkeytest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// childEnv makes the test binary a process that takes a server and then ends
// as the variable says.
const childEnv = "FF_VALKEYTEST_CHILD"

func TestMain(m *testing.M) {
	var ignored []goleak.Option
	for _, function := range LateGoroutines {
		ignored = append(ignored, goleak.IgnoreAnyFunction(function))
	}
	goleak.VerifyTestMain(Main(m), ignored...)
}

// TestChild is the process that TestServersEndWithTheProcess watches.
func TestChild(t *testing.T) {
	end := os.Getenv(childEnv)
	if end == "" {
		t.Skip("runs only in a process of its own")
	}
	s := Take(t)
	fmt.Printf("pid %s\n", s.Info("server")["process_id"])
	switch end {
	case "panic":
		go panic("as planned")
	case "exit":
		os.Exit(3)
	}
	select {}
}

func TestServersEndWithTheProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a server with the process that started it")
	}
	Require(t)
	for _, end := range []string{"panic", "exit", "kill"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
			cmd.Env = append(os.Environ(), childEnv+"="+end, "TMPDIR="+t.TempDir())
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			pid := 0
			for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
				_, _ = fmt.Sscanf(lines.Text(), "pid %d", &pid)
			}
			if end == "kill" {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait()
			if pid == 0 {
				t.Fatal("the process started no server")
			}
			err = until(5*time.Second, func() error {
				if alive(pid) {
					return fmt.Errorf("the server %d outlives its process", pid)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// alive tells whether a process runs: one that has ended and that nobody has
// waited for does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return err != nil || len(text) > 0
}
