package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric/internal/config"
	"github.com/spf13/cobra"
)

// tokenScopes are the scopes a token may carry. (Specification 08, section 3.)
var tokenScopes = []string{"read", "submit", "signal", "work", "operate", "admin"}

// tokenEntry is one entry of the tokens file.
type tokenEntry struct {
	Name       string   `json:"name"`
	SHA256     string   `json:"sha256"`
	Scopes     []string `json:"scopes"`
	Namespaces []string `json:"namespaces"`
	ExpiresAt  int64    `json:"expires_at,omitempty"`
}

type tokenOptions struct {
	name       string
	scopes     []string
	namespaces []string
	expires    time.Duration
}

func (o *tokenOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "default", "who the token is for; appears in records and audit logs")
	f.StringSliceVar(&o.scopes, "scopes", []string{"read", "submit"}, "what it may do: "+strings.Join(tokenScopes, ", "))
	f.StringSliceVar(&o.namespaces, "namespaces", []string{"*"}, "namespaces it is limited to; * is all")
	f.DurationVar(&o.expires, "expires", 0, "how long it holds, for example 720h (default: for ever)")
}

func (c *cli) tokenCommand() *cobra.Command {
	return groupCommand("token", "Make and hash API tokens", c.tokenNewCommand(), c.tokenHashCommand())
}

func (c *cli) tokenNewCommand() *cobra.Command {
	var o tokenOptions
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Make an API token and its entry for the tokens file",
		Long: `Make a random API token, and the entry that admits it. The token is shown once
and kept nowhere; put the entry into the JSON array that FF_API_TOKENS_FILE names.`,
		Example: `  flowfabric token new --name mailer --scopes work --namespaces default
  flowfabric token new --name ci --scopes read,submit --expires 720h --output json`,
		Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			raw := make([]byte, 32)
			if _, err := rand.Read(raw); err != nil {
				return err
			}
			token := "ff_" + base64.RawURLEncoding.EncodeToString(raw)
			entry, err := c.entry(token, &o)
			if err != nil {
				return err
			}
			p := c.printer()
			if p.wantsJSON() {
				return p.json(map[string]any{"token": token, "entry": entry})
			}
			line, err := json.Marshal(entry)
			if err != nil {
				return err
			}
			return p.details([]field{{"token", p.bold(token)}, {"entry", string(line)}})
		},
	}
	o.flags(cmd)
	return cmd
}

func (c *cli) tokenHashCommand() *cobra.Command {
	var o tokenOptions
	cmd := &cobra.Command{
		Use:   "hash",
		Short: "Print the tokens file's entry for a token you have",
		Long: `Read a token from standard input, or from --token-file, and print its entry for
the JSON array that FF_API_TOKENS_FILE names.`,
		Example: `  flowfabric token hash --name ci --scopes submit < token.txt`,
		Args:    takes(),
		RunE: func(*cobra.Command, []string) error {
			path := "-"
			if c.options.tokenFile != "" {
				path = c.options.tokenFile
			}
			raw, err := c.readInput(path, 64<<10)
			if err != nil {
				return err
			}
			token := strings.TrimSpace(string(raw))
			if err := config.CheckToken(token); err != nil {
				return usagef("the token %s", err)
			}
			entry, err := c.entry(token, &o)
			if err != nil {
				return err
			}
			p := c.printer()
			if p.wantsJSON() {
				return p.json(entry)
			}
			return p.jsonLine(entry)
		},
	}
	o.flags(cmd)
	return cmd
}

func (c *cli) entry(token string, o *tokenOptions) (tokenEntry, error) {
	if o.name == "" {
		return tokenEntry{}, usagef("--name must not be empty")
	}
	for _, s := range o.scopes {
		if !slices.Contains(tokenScopes, s) {
			return tokenEntry{}, usagef("--scopes %q is no scope; they are %s", s, strings.Join(tokenScopes, ", "))
		}
	}
	if o.expires < 0 {
		return tokenEntry{}, usagef("--expires %s is negative", o.expires)
	}
	sum := sha256.Sum256([]byte(token))
	e := tokenEntry{Name: o.name, SHA256: hex.EncodeToString(sum[:]), Scopes: o.scopes, Namespaces: o.namespaces}
	if o.expires > 0 {
		e.ExpiresAt = c.now().Add(o.expires).UnixMilli()
	}
	return e, nil
}

func (c *cli) configCommand() *cobra.Command {
	return groupCommand("config", "Questions about the settings", c.configCheckCommand())
}

func (c *cli) configCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Validate the settings and print them, secrets redacted",
		Long: `Validate the settings as serve would read them, from flags, the environment
(FF_…), a YAML file and the defaults, in this order of precedence; and print what
holds and where it came from. Every refusal is one line; exits 2 when there is
one.`,
		Example: `  flowfabric config check
  FF_LISTEN_ADDR=0.0.0.0:9090 flowfabric config check
  flowfabric config check --config flowfabric.yaml --output json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := c.settings(cmd)
			if err == nil {
				_, err = loaded.FindSecret()
			}
			if refusals := config.Refusals(err); len(refusals) > 0 {
				for _, r := range refusals {
					fmt.Fprintln(c.err, "flowfabric: "+r.Error())
				}
				return &quietError{code: exitUsage}
			}
			if err != nil {
				return err
			}
			return c.printSettings(loaded)
		},
	}
	addSettingFlags(cmd)
	return cmd
}

func (c *cli) printSettings(loaded *config.Loaded) error {
	p := c.printer()
	for _, w := range loaded.Warnings {
		fmt.Fprintln(c.err, p.warn("warning: ")+w)
	}
	effective := loaded.Effective()
	if p.wantsJSON() {
		return p.json(map[string]any{"settings": effective, "warnings": append([]string{}, loaded.Warnings...)})
	}
	rows := make([][]string, len(effective))
	for i, e := range effective {
		source := e.Source
		if source == "default" {
			source = p.faint(source)
		}
		rows[i] = []string{e.Variable, clean(e.Value), source}
	}
	return p.table("", []string{"SETTING", "VALUE", "FROM"}, rows)
}
