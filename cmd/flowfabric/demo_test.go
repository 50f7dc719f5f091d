package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/flowfabric/flowfabric/internal/demo"
)

// TestProcesses runs the built program as people do, with real processes and
// signals.
func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the program")
	}
	program := filepath.Join(t.TempDir(), "flowfabric")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	t.Cleanup(func() { checkNobodyRuns(t, program) })
	for name, test := range map[string]func(*testing.T, string){
		"demo":             testDemo,
		"demo interrupted": testDemoInterrupted,
		"demo killed":      testDemoKilled,
		"demo refusals":    testDemoRefusals,
		"bench":            testBench,
	} {
		t.Run(name, func(t *testing.T) { test(t, program) })
	}
}

// checkNobodyRuns fails when a process of the program is left.
func checkNobodyRuns(t *testing.T, program string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return
	}
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		exe, err := os.Readlink(link)
		if err == nil && strings.HasPrefix(exe, program) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			t.Errorf("process %d was left behind", pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func demoTree(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d.go", i)), bytes.Repeat([]byte("package p // words\n"), i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func goodLine(n int) string {
	return fmt.Sprintf("files %d, results %d, lost 0, duplicated 0\n", n, n)
}

func testDemo(t *testing.T, program string) {
	out, err := exec.Command(program, "demo", demoTree(t, 40), "--data-dir", t.TempDir(), "--workers", "2", "--output", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var report demo.Report
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if !report.OK() || report.Files != 40 || len(report.Reclaimed) == 0 || len(report.Workers) != 3 {
		t.Errorf("report %s", out)
	}
}

// startDemo starts the demo and returns once it has said something that matches.
func startDemo(t *testing.T, program, dir, data, said string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(program, "demo", dir, "--data-dir", data, "--workers", "2")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	out := bufio.NewReader(pipe)
	for want := regexp.MustCompile(said); ; {
		line, err := out.ReadString('\n')
		if err != nil {
			t.Fatalf("the demo ended before it said %q: %v", said, err)
		}
		if want.MatchString(line) {
			return cmd, out
		}
	}
}

func testDemoInterrupted(t *testing.T, program string) {
	dir, data := demoTree(t, 50), t.TempDir()
	cmd, out := startDemo(t, program, dir, data, "^kill -9") // some files are held for another second
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var rest bytes.Buffer
	rest.ReadFrom(out)
	if err := cmd.Wait(); err != nil || !strings.Contains(rest.String(), "goes on from there") {
		t.Errorf("interrupted: %v\n%s", err, rest.String())
	}
	checkNobodyRuns(t, program)

	again, err := exec.Command(program, "demo", dir, "--data-dir", data, "--workers", "2").CombinedOutput()
	if err != nil || !strings.HasSuffix(string(again), goodLine(50)) || !strings.Contains(string(again), "are complete already") {
		t.Errorf("the next start: %v\n%s", err, again)
	}
}

// testDemoKilled kills the parent itself: the kernel, or the end of their input,
// ends the workers, and the next start goes on.
func testDemoKilled(t *testing.T, program string) {
	dir, data := demoTree(t, 50), t.TempDir()
	cmd, out := startDemo(t, program, dir, data, "^kill -9")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	out.WriteTo(&bytes.Buffer{}) // ends when every process that could write has ended
	cmd.Wait()

	again, err := exec.Command(program, "demo", dir, "--data-dir", data, "--workers", "2").CombinedOutput()
	if err != nil || !strings.HasSuffix(string(again), goodLine(50)) {
		t.Errorf("the next start: %v\n%s", err, again)
	}
}

func testDemoRefusals(t *testing.T, program string) {
	empty := t.TempDir()
	file := filepath.Join(demoTree(t, 1), "000.go")
	for _, test := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{empty}, "holds no files", exitFailed},
		{[]string{filepath.Join(empty, "none")}, "does not exist", exitUsage},
		{[]string{file}, "is no directory", exitUsage},
		{[]string{filepath.Dir(file), "--workers", "-1"}, "workers", exitUsage},
		{[]string{filepath.Dir(file), "--server", "http://127.0.0.1:1"}, "means nothing to the demo", exitUsage},
		{[]string{"a", "b"}, `unexpected argument "b"`, exitUsage},
	} {
		cmd := exec.Command(program, append([]string{"demo", "--data-dir", filepath.Join(empty, "..", "data")}, test.args...)...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code == 0 || code != test.code || !strings.Contains(string(out), test.want) {
			t.Errorf("%v: exit code %d, %s", test.args, code, out)
		}
	}
}
