package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/lipgloss/table"
	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/valkey"
	"github.com/flowfabric/flowfabric/internal/benchmark"
	"github.com/flowfabric/flowfabric/internal/config"
	"github.com/spf13/cobra"
)

// benchOptions are the flags of the benchmark.
type benchOptions struct {
	config     benchmark.Config
	namespace  string
	cpuProfile string
	memProfile string
}

func newBenchCommand() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a store or server with whole lifecycles",
		Long: `Creates executions, claims and completes them with the given backend, checks
that none was lost or done twice, and reports rates and latencies: how many
lifecycles a second, how long one call takes, how soon a submitted execution
starts on an idle system, what one execution costs in memory allocations and in
bytes of storage.

Scenarios:` + scenarioList(),
		Example: `  flowfabric bench --backend memory:
  flowfabric bench --backend sqlite:/tmp/bench.db --executions 100000
  flowfabric bench --backend valkey://127.0.0.1:6379
  flowfabric bench --backend http://127.0.0.1:9090 --token-file token --output json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runBench(cmd, o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.config.Scenario, "scenario", benchmark.DefaultScenario, "what to measure: "+benchmark.ScenarioNames())
	flags.IntVar(&o.config.Executions, "executions", benchmark.DefaultExecutions, "executions to measure")
	flags.IntVar(&o.config.Workers, "workers", benchmark.DefaultWorkers, "concurrent submitters, and then workers")
	flags.IntVar(&o.config.PayloadBytes, "payload", benchmark.DefaultPayload, "bytes of random payload an execution")
	flags.IntVar(&o.config.ResultBytes, "result", 0, "bytes of random result an execution; 0 stores none")
	flags.IntVar(&o.config.Batch, "batch", benchmark.DefaultBatch, "executions in one create, claim or completion, 1..100")
	flags.IntVar(&o.config.Retained, "retained", 0, "ended executions the store shall hold beforehand; those it holds already count")
	flags.IntVar(&o.config.RetainedPayloadBytes, "retained-payload", 256, "bytes of payload of those")
	flags.IntVar(&o.config.Parked, "parked", 0, "suspended executions the store holds for a second measurement (scenario suspend)")
	flags.IntVar(&o.config.StartSamples, "start-samples", benchmark.DefaultStartSamples, "single submissions that measure the start latency; negative for none")
	flags.StringVar(&o.namespace, "namespace", string(benchmark.DefaultNamespace), "namespace of the executions")
	flags.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile of this process to a file")
	flags.StringVar(&o.memProfile, "memprofile", "", "write an allocation profile of this process to a file")
	return cmd
}

func scenarioList() string {
	var b strings.Builder
	for _, s := range benchmark.Scenarios() {
		fmt.Fprintf(&b, "\n  %-12s %s", s.Name, s.Summary)
	}
	return b.String()
}

func runBench(cmd *cobra.Command, o benchOptions) (err error) {
	t, err := benchTarget(cmd)
	if err != nil {
		return err
	}
	show := newBar(cmd.ErrOrStderr())
	show.quiet = true
	o.config.Backend = benchName(t)
	o.config.Namespace = flowfabric.Namespace(o.namespace)
	o.config.Progress = show
	var opened flowfabric.Backend
	o.config.Open = func(ctx context.Context) (flowfabric.Backend, error) {
		b, err := openTarget(ctx, t)
		opened = b
		if err == nil && t.place.Kind == config.PlaceValkey && o.config.Scenario == "suspend" {
			err = seedForBench(ctx, b, t)
		}
		return b, explainUnreachable(err, t)
	}
	switch t.place.Kind {
	case config.PlaceEmbedded:
		o.config.Persistent = true
		o.config.Size = func() (int64, error) { return fileSizes(t.path, t.path+"-wal") }
	case config.PlaceMemory:
		o.config.Size = residentBytes
	case config.PlaceValkey:
		o.config.Size = func() (int64, error) { return usedMemory(cmd.Context(), opened) }
	}
	stop, err := o.profile()
	if err != nil {
		return err
	}
	report, err := benchmark.Run(cmd.Context(), o.config)
	show.End()
	if stopErr := stop(); err == nil {
		err = stopErr
	}
	if err != nil {
		return explainUnreachable(err, t)
	}
	if flagText(cmd, "output") == string(outputJSON) {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetEscapeHTML(false)
		return enc.Encode(report)
	}
	return printBench(cmd.OutOrStdout(), report)
}

// seedForBench gives a shared store without a waitpoint key the configured one,
// as a server does. It never makes one up: the store's servers would find it.
func seedForBench(ctx context.Context, b flowfabric.Backend, t target) error {
	kids, err := b.ListWaitpointKIDs(ctx)
	if err != nil || kids.CurrentKID != "" {
		return err
	}
	store, ok := b.(interface {
		SeedWaitpointSecret(ctx context.Context, kid, secretHex string) (flowfabric.SeedWaitpointSecretResult, error)
	})
	if !ok || t.secret.Hex == "" {
		return usagef("the store has no waitpoint key; give one with FF_WAITPOINT_HMAC_SECRET (openssl rand -hex 32), or start a server on it")
	}
	_, err = store.SeedWaitpointSecret(ctx, t.kid, t.secret.Hex)
	return err
}

// flagText is the value of a flag of this command or its parents.
func flagText(cmd *cobra.Command, name string) string {
	if f := cmd.Flags().Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

// benchTarget resolves --backend or --server. There is no default: what is
// measured is filled with executions.
func benchTarget(cmd *cobra.Command) (target, error) {
	text, server := flagText(cmd, "backend"), flagText(cmd, "server")
	switch {
	case text == "":
		text = server
	case server != "" && server != text:
		return target{}, usagef("--server %s and --backend %s contradict each other; give one of them", server, text)
	}
	if text == "" {
		return target{}, usagef("name what to measure: --backend sqlite:FILE, memory:, valkey://host:port or http://host:port")
	}
	place, err := config.ParsePlace(text)
	if err != nil {
		return target{}, usagef("--backend %q %v", place, err)
	}
	t := target{place: place, path: place.Path}
	if place.Kind == config.PlaceEmbedded && place.Path == "" {
		return target{}, usagef("--backend embedded names no file; write sqlite:FILE")
	}
	if place.Kind == config.PlaceValkey { // measured with a server of its own: this process
		t, err := valkeyTarget(place, text, systemEnvironment().environ)
		t.valkey.Role = valkey.RoleServer
		return t, err
	}
	if place.Kind != config.PlaceRemote {
		return t, nil
	}
	c := &cli{environment: systemEnvironment(), options: clientOptions{tokenFile: flagText(cmd, "token-file")}}
	t.token, err = c.token()
	return t, err
}

func benchName(t target) string {
	if t.place.Kind == config.PlaceMemory {
		return "memory:"
	}
	return t.place.String()
}

// usedMemory is what the primaries of a Valkey store occupy.
func usedMemory(ctx context.Context, b flowfabric.Backend) (int64, error) {
	store, ok := b.(*valkey.Backend)
	if !ok {
		return -1, nil
	}
	return store.UsedMemory(ctx)
}

// fileSizes adds up the files; one that is missing counts nothing.
func fileSizes(paths ...string) (int64, error) {
	total := int64(0)
	for _, path := range paths {
		info, err := os.Stat(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		total += info.Size()
	}
	return total, nil
}

// residentBytes is the memory this process occupies, -1 where the system does
// not tell.
func residentBytes() (int64, error) {
	debug.FreeOSMemory()
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return -1, nil
	}
	fields := strings.Fields(string(raw))
	if len(fields) < 2 {
		return -1, nil
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return -1, nil
	}
	return pages * int64(os.Getpagesize()), nil
}

// profile starts the profiles asked for; the returned function writes them.
func (o *benchOptions) profile() (stop func() error, err error) {
	var cpu *os.File
	if o.cpuProfile != "" {
		if cpu, err = os.Create(o.cpuProfile); err != nil {
			return nil, err
		}
		if err := pprof.StartCPUProfile(cpu); err != nil {
			cpu.Close()
			return nil, err
		}
	}
	return func() error {
		if cpu != nil {
			pprof.StopCPUProfile()
			if err := cpu.Close(); err != nil {
				return err
			}
		}
		if o.memProfile == "" {
			return nil
		}
		f, err := os.Create(o.memProfile)
		if err != nil {
			return err
		}
		runtime.GC()
		err = pprof.Lookup("allocs").WriteTo(f, 0)
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		return err
	}, nil
}

// printBench writes the report for a person.
func printBench(w io.Writer, r *benchmark.Report) error {
	style := lipgloss.NewRenderer(w)
	base := style.NewStyle().Padding(0, 1)
	draw := func(headers []string, rows [][]string) string {
		return table.New().Border(lipgloss.RoundedBorder()).BorderStyle(style.NewStyle().Faint(true)).
			Headers(headers...).Rows(rows...).StyleFunc(func(row, col int) lipgloss.Style {
			s := base
			if row == table.HeaderRow {
				s = s.Bold(true)
			}
			if col > 0 {
				s = s.Align(lipgloss.Right)
			}
			return s
		}).Render()
	}
	number := func(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }
	seconds := func(f float64) string { return strconv.FormatFloat(f, 'f', 2, 64) + " s" }
	latency := func(name string, p benchmark.Percentiles) []string {
		ms := func(f float64) string { return strconv.FormatFloat(f, 'f', 3, 64) }
		return []string{name, ms(p.P50), ms(p.P95), ms(p.P99), strconv.Itoa(p.Calls)}
	}
	if r.Suspend != nil {
		return printSuspendBench(w, r, draw, latency)
	}
	bytes := "unknown"
	if r.BytesPerExecution != nil {
		bytes = strconv.FormatFloat(*r.BytesPerExecution, 'f', 0, 64)
	}
	_, err := fmt.Fprintf(w, "%s on %s: %d executions, %d B payload, %d workers, batches of %d, %d retained\n%s, %s, %d CPUs\n\n%s\n%s\n\n"+
		"allocations per lifecycle  %s\nbytes per execution        %s\ncompleted %d, lost %d, duplicated %d\n",
		r.Scenario, r.Backend, r.Executions, r.PayloadBytes, r.Workers, r.Batch, r.Retained, r.GoVersion, r.Platform, r.CPUs,
		draw([]string{"phase", "per second", "time"}, [][]string{
			{"submit", number(r.SubmitPerSecond), seconds(r.SubmitSeconds)},
			{"drain", number(r.DrainPerSecond), seconds(r.DrainSeconds)},
			{"overall", number(r.OverallPerSecond), seconds(r.SubmitSeconds + r.DrainSeconds)},
		}),
		draw([]string{"latency, ms", "p50", "p95", "p99", "calls"}, [][]string{
			latency("create", r.LatencyMs["create"]), latency("claim", r.LatencyMs["claim"]),
			latency("complete", r.LatencyMs["complete"]), latency("submit to start", r.StartLatencyMs),
		}),
		number(r.AllocsPerLifecycle), bytes, r.Verified.Completed, r.Verified.Lost, r.Verified.Duplicated)
	return err
}

// printSuspendBench shows what the suspend scenario found.
func printSuspendBench(w io.Writer, r *benchmark.Report, draw func(headers []string, rows [][]string) string,
	latency func(name string, p benchmark.Percentiles) []string) error {
	s := r.Suspend
	rows := [][]string{latency("one at a time", s.RoundTripMs), latency(fmt.Sprintf("%d in flight", s.InFlight), s.InFlightMs)}
	if s.Parked > 0 {
		rows = append(rows, latency(fmt.Sprintf("beside %d parked", s.Parked), s.ParkedRoundTripMs))
	}
	_, err := fmt.Fprintf(w, "suspend, signal, resumed handler on %s: %d B payload\n%s, %s, %d CPUs\n\n%s\n\n"+
		"round trips per second       %.1f\nallocations per round trip   %.1f\n",
		r.Backend, r.PayloadBytes, r.GoVersion, r.Platform, r.CPUs,
		draw([]string{"round trip, ms", "p50", "p95", "p99", "calls"}, rows), s.RoundTripsPerSecond, r.AllocsPerLifecycle)
	return err
}
