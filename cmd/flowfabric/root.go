package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The headings commands stand under in the help.
const (
	groupStart     = "start"
	groupExecution = "execution"
	groupOperate   = "operate"
	groupMaintain  = "maintain"
)

// clientOptions are the flags every command takes.
type clientOptions struct {
	server    string
	backend   string
	tokenFile string
	output    outputFormat
}

// outputFormat is table, for people, or json, for programs.
type outputFormat string

const (
	outputTable outputFormat = "table"
	outputJSON  outputFormat = "json"
)

func (o *outputFormat) String() string { return string(*o) }
func (o *outputFormat) Type() string   { return "table|json" }
func (o *outputFormat) Set(s string) error {
	switch f := outputFormat(s); f {
	case outputTable, outputJSON:
		*o = f
		return nil
	}
	return fmt.Errorf("must be table or json")
}

// cli is one command line in progress: the world and the flags every command
// takes.
type cli struct {
	*environment
	options clientOptions
}

func newRootCommand(env *environment) *cobra.Command {
	c := &cli{environment: env, options: clientOptions{output: outputTable}}
	root := &cobra.Command{
		Use:   "flowfabric",
		Short: "A durable execution engine: server, operator's tool and demo",
		Long: `FlowFabric runs durable executions: submit work, let workers claim it under a
lease, and never lose it to a crash.

Start a server with nothing to set up, submit an execution, watch it:

  flowfabric serve
  flowfabric submit greet --payload '{"name":"Ada"}'
  flowfabric execution list

Commands talk to the server at http://127.0.0.1:9090 unless --server names
another, or --backend a store to open directly (sqlite:FILE).`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{text: err.Error(), hint: "see: " + cmd.CommandPath() + " --help"}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&c.options.server, "server", "", "server to talk to (default http://127.0.0.1:9090)")
	flags.StringVar(&c.options.backend, "backend", "", "store to open directly: sqlite:FILE, memory: or valkey://HOST:PORT; or a server's http://… (env FF_BACKEND)")
	flags.StringVar(&c.options.tokenFile, "token-file", "", "file that holds the API token (else env FF_API_TOKEN, FF_API_TOKEN_FILE)")
	flags.Var(&c.options.output, "output", "how to print results: table or json")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{string(outputTable), string(outputJSON)}, cobra.ShellCompDirectiveNoFileComp))
	root.AddGroup(
		&cobra.Group{ID: groupStart, Title: "Start:"},
		&cobra.Group{ID: groupExecution, Title: "Work with executions:"},
		&cobra.Group{ID: groupOperate, Title: "Operate:"},
		&cobra.Group{ID: groupMaintain, Title: "Maintain:"},
	)
	root.SetHelpCommandGroupID(groupMaintain)
	root.SetCompletionCommandGroupID(groupMaintain)

	addTo(root, groupStart, c.serveCommand(), newDemoCommand(), newBenchCommand())
	addTo(root, groupExecution, c.submitCommand(), c.waitCommand(), c.resultCommand(), c.executionCommand(),
		c.waitpointCommand(), c.signalCommand())
	addTo(root, groupOperate, c.workerCommand(), c.laneCommand(), c.eventsCommand(), c.scannerCommand(), c.drainCommand(), c.doctorCommand())
	addTo(root, groupMaintain, c.migrateCommand(), c.backupCommand(), c.restoreCommand(), c.configCommand(), c.tokenCommand(), c.secretCommand(),
		c.partitionCommand(), c.versionCommand())
	return root
}

func addTo(parent *cobra.Command, group string, children ...*cobra.Command) {
	for _, child := range children {
		if child.GroupID == "" {
			child.GroupID = group
		}
		parent.AddCommand(child)
	}
}

// groupCommand returns a command that only holds others.
func groupCommand(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(children...)
	return cmd
}

// noSuchCommand refuses an argument where a command was expected, naming the
// nearest.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "see: " + cmd.CommandPath() + " --help"
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return &usageError{text: fmt.Sprintf("%q is no command of %q", args[0], cmd.CommandPath()), hint: hint}
}

// takes checks the number of arguments, naming them.
func takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		hint := "usage: " + cmd.UseLine()
		if len(args) < len(names) {
			return &usageError{text: names[len(args)] + " is missing", hint: hint}
		}
		return &usageError{text: fmt.Sprintf("unexpected argument %q", args[len(names)]), hint: hint}
	}
}

// given returns the flags that were set on the command line.
func given(flags *pflag.FlagSet) map[string]string {
	m := map[string]string{}
	flags.Visit(func(f *pflag.Flag) { m[f.Name] = f.Value.String() })
	return m
}

// requires makes a command refuse to run without the flags: that is wrong use, as
// a missing argument is.
func requires(cmd *cobra.Command, flags ...string) {
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range flags {
			if !cmd.Flags().Changed(name) {
				return &usageError{text: "--" + name + " is missing", hint: "usage: " + cmd.UseLine()}
			}
		}
		return nil
	}
}
