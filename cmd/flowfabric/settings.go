package main

import (
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric/internal/config"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// settingValue is a flag of the table of settings. It takes any text: the table
// validates it, with the same words whatever source it came from.
type settingValue struct {
	text string
	kind config.Kind
}

func (v *settingValue) String() string     { return v.text }
func (v *settingValue) Set(s string) error { v.text = s; return nil }
func (v *settingValue) Type() string       { return string(v.kind) }

// addSettingFlags gives a command one flag for each setting, and --config. The
// help lists them under the settings' headings.
func addSettingFlags(cmd *cobra.Command) {
	groups := map[string]*pflag.FlagSet{}
	var order []string
	add := func(group string, f *pflag.Flag) {
		if groups[group] == nil {
			groups[group] = pflag.NewFlagSet(group, pflag.ContinueOnError)
			groups[group].SortFlags = false
			order = append(order, group)
		}
		groups[group].AddFlag(f)
		cmd.Flags().AddFlag(f)
	}
	add("Settings file", &pflag.Flag{Name: "config", Value: &settingValue{kind: config.KindPath},
		Usage: "YAML file of settings, named as the variables in lower case without FF_ (env FF_CONFIG)"})
	for _, s := range config.Settings() {
		f := &pflag.Flag{Name: s.Flag(), Usage: s.Doc + " (env " + s.Variable() + ")",
			Value: &settingValue{text: s.Default, kind: s.Kind}, DefValue: s.Default}
		if s.Kind == config.KindBool {
			f.NoOptDefVal = "true"
		}
		add(s.Group, f)
		if s.Secret {
			add(s.Group, &pflag.Flag{Name: s.Flag() + "-file", Value: &settingValue{kind: config.KindPath},
				Usage: "file that holds it (env " + s.Variable() + "_FILE)"})
		}
	}
	cmd.SetUsageFunc(func(cmd *cobra.Command) error {
		var b strings.Builder
		fmt.Fprintf(&b, "Usage:\n  %s\n", cmd.UseLine())
		if cmd.Example != "" {
			fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
		}
		for _, group := range order {
			fmt.Fprintf(&b, "\n%s:\n%s", group, groups[group].FlagUsages())
		}
		own := pflag.NewFlagSet("own", pflag.ContinueOnError)
		cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
			if _, isSetting := f.Value.(*settingValue); !isSetting {
				own.AddFlag(f)
			}
		})
		fmt.Fprintf(&b, "\nFlags:\n%s", own.FlagUsages())
		if s := cmd.InheritedFlags().FlagUsages(); s != "" {
			fmt.Fprintf(&b, "\nGlobal Flags:\n%s", s)
		}
		_, err := fmt.Fprint(cmd.OutOrStderr(), b.String())
		return err
	})
}

// settings loads the settings of a command that has their flags.
func (c *cli) settings(cmd *cobra.Command) (*config.Loaded, error) {
	flags := given(cmd.Flags())
	return config.Load(config.Sources{Flags: flags, File: flags["config"], Environ: c.environ})
}
