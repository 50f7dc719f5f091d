package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/flowfabric/flowfabric/internal/demo"
	"github.com/spf13/cobra"
)

// workerCommandName is the hidden command a demo worker process runs.
const workerCommandName = "demo-worker"

// demoOptions are the flags of the demo.
type demoOptions struct {
	dataDir string
	workers int
	fresh   bool
}

func newDemoCommand() *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo [DIR]",
		Short: "See it work: every file of a directory through worker processes, one of them killed",
		Long: `Every file under DIR (default: the Go installation's src/net) becomes one
execution in an embedded engine. Worker processes compute size, lines, words,
SHA-256 and language of each over HTTP on loopback. In the middle one of them is
killed with kill -9 while it holds executions; their leases lapse and the others
take them over. At the end every result is checked against a direct computation,
and the last line must say that nothing was lost and nothing done twice; else the
exit code is 1.

Ctrl-C stops it cleanly and keeps what is done: the next start with the same
directory goes on from there.`,
		Example: "  flowfabric demo\n  flowfabric demo ~/src --workers 4\n  flowfabric demo . --fresh",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return &usageError{text: fmt.Sprintf("unexpected argument %q", args[1]), hint: "usage: " + cmd.UseLine()}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDemo(cmd, o, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.dataDir, "data-dir", "", "where the store and the run are kept (default: a directory of its own for every DIR, in the user's cache)")
	flags.IntVar(&o.workers, "workers", demo.DefaultWorkers, "worker processes")
	flags.BoolVar(&o.fresh, "fresh", false, "forget an unfinished run and begin anew")
	cmd.AddCommand(newDemoWorkerCommand())
	return cmd
}

// newDemoWorkerCommand is what the demo starts its worker processes with. It is
// no command for people and hidden from the help.
func newDemoWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    workerCommandName,
		Short:  "A worker process of the demo",
		Hidden: true,
		Args:   takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo.RunWorker(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

func runDemo(cmd *cobra.Command, o demoOptions, args []string) error {
	ctx := cmd.Context()
	for _, name := range []string{"server", "backend", "token-file"} {
		if flagText(cmd, name) != "" {
			return usagef("--%s means nothing to the demo, which starts an engine of its own", name)
		}
	}
	dir, err := demoDir(ctx, args)
	if err != nil {
		return err
	}
	root, err := demo.Resolve(dir)
	if err != nil {
		return usagef("%v", err)
	}
	if o.dataDir == "" {
		o.dataDir = demoDataDir(root)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	asJSON := flagText(cmd, "output") == string(outputJSON)
	out, events := cmd.OutOrStdout(), cmd.OutOrStdout()
	if asJSON {
		events = cmd.ErrOrStderr()
	}
	show := newBar(events)
	report, err := demo.Run(ctx, demo.Config{
		Dir: root, DataDir: o.dataDir, Fresh: o.fresh, Workers: o.workers,
		WorkerCommand: []string{self, "demo", workerCommandName}, Show: show,
	})
	show.End()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		fmt.Fprintf(events, "stopped; what is done is kept in %s, and the same command goes on from there\n", o.dataDir)
		return nil
	}
	if err != nil {
		return err
	}
	if err := printDemo(out, report, asJSON); err != nil {
		return err
	}
	if !report.OK() {
		return &quietError{code: exitFailed}
	}
	return nil
}

func printDemo(out io.Writer, report *demo.Report, asJSON bool) error {
	if !asJSON {
		return report.Print(out)
	}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(report)
}

// demoDir is the directory to look at: the argument, else the Go installation's
// src/net.
func demoDir(ctx context.Context, args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	dir := filepath.Join(strings.TrimSpace(string(out)), "src", "net")
	if err != nil || !filepath.IsAbs(dir) {
		return "", usagef("no Go installation to look at; name a directory: flowfabric demo DIR")
	}
	return dir, nil
}

// demoDataDir is the same directory for every start with the same root.
func demoDataDir(root string) string {
	sum := sha256.Sum256([]byte(root))
	name := strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f && !strings.ContainsRune(`/\:`, r) {
			return r
		}
		return '_'
	}, filepath.Base(root))
	name = name[:min(len(name), 40)] + "-" + hex.EncodeToString(sum[:4])
	if cache, err := os.UserCacheDir(); err == nil {
		return filepath.Join(cache, "flowfabric", "demo", name)
	}
	return filepath.Join("flowfabric-data", "demo", name)
}
