package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func testBench(t *testing.T, program string) {
	store := "sqlite:" + filepath.Join(t.TempDir(), "bench.db")
	for _, backend := range []string{"memory:", store, store} {
		out, err := exec.Command(program, "bench", "--backend", backend, "--executions", "500", "--workers", "4", "--payload", "64",
			"--retained", "200", "--start-samples", "5", "--output", "json").Output()
		if err != nil {
			t.Fatalf("%s: %v", backend, err)
		}
		var report map[string]any
		if err := json.Unmarshal(out, &report); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		for _, key := range []string{"scenario", "backend", "executions", "workers", "payload_bytes", "submit_per_s", "drain_per_s",
			"overall_per_s", "latency_ms", "start_latency_ms", "allocs_per_lifecycle", "bytes_per_execution"} {
			if report[key] == nil {
				t.Errorf("%s: no %s in %s", backend, key, out)
			}
		}
		if report["executions"] != 500.0 || report["workers"] != 4.0 || report["payload_bytes"] != 64.0 || report["backend"] != backend {
			t.Errorf("%s: %s", backend, out)
		}
	}
	cpu := filepath.Join(t.TempDir(), "cpu.prof")
	out, err := exec.Command(program, "bench", "--backend", "memory:", "--executions", "100", "--start-samples", "-1", "--cpuprofile", cpu).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "completed 100, lost 0, duplicated 0") {
		t.Errorf("table: %v\n%s", err, out)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "name what to measure"},
		{[]string{"--backend", "nonsense:"}, "is no backend"},
		{[]string{"--backend", "memory:", "--scenario", "x"}, "lifecycle"},
		{[]string{"--backend", "memory:", "--batch", "1000"}, "1..100"},
		{[]string{"--backend", "http://127.0.0.1:1"}, "no server answers"},
	} {
		out, err := exec.Command(program, append([]string{"bench"}, test.args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%v: %v, %s", test.args, err, out)
		}
	}
}
