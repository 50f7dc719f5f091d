package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

func (c *cli) secretCommand() *cobra.Command {
	return groupCommand("secret", "Look at the waitpoint keys and rotate them", c.secretStatusCommand(), c.secretRotateCommand())
}

func (c *cli) secretStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show which key makes the waitpoints' tokens, and which still verify",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				kids, err := b.ListWaitpointKIDs(cmd.Context())
				if err != nil {
					return err
				}
				return c.printKIDs(kids)
			})
		},
	}
}

func (c *cli) printKIDs(kids flowfabric.WaitpointKIDs) error {
	p := c.printer()
	if p.wantsJSON() {
		return p.json(wire.NewKIDsResponse(kids))
	}
	if kids.CurrentKID == "" {
		return p.line("%s", p.warn("no key: no waitpoint can be made; a server installs one at its start"))
	}
	rows := [][]string{{clean(kids.CurrentKID), p.good("makes and verifies tokens"), ""}}
	for _, k := range kids.Verifying {
		rows = append(rows, []string{clean(k.KID), "still verifies", p.instant(k.ExpiresAt)})
	}
	return p.table("", []string{"KEY", "USE", "UNTIL"}, rows)
}

type rotateOptions struct {
	kid        string
	secretFile string
	generated  bool
	grace      time.Duration
}

func (c *cli) secretRotateCommand() *cobra.Command {
	var o rotateOptions
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new key the one that signs the waitpoints' tokens",
		Long: `Make a new key the current one, everywhere in the store. Tokens of the former key
still verify for the grace; after a leak give --grace 0s, which voids them at once.

The secret is 64 to 256 hexadecimal digits, read from a file or, with "-", from
standard input; --generated makes one that only the store ever holds. Servers keep
the store's key at their start, with a warning while their own setting is another.
A repeat with the same key and secret is harmless and completes what was left
undone; exits 1 when a part of the store could not be changed.`,
		Example: `  openssl rand -hex 32 > secret && flowfabric secret rotate --kid k2 --secret-file secret
  flowfabric secret rotate --kid k2 --generated --grace 0s`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			args, err := c.rotateArgs(cmd, &o)
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(b flowfabric.Backend) error { return c.rotate(cmd.Context(), b, args) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.kid, "kid", "", "name of the new key, 1..64 of [A-Za-z0-9._-]")
	f.StringVar(&o.secretFile, "secret-file", "", "file that holds the new secret; - is standard input")
	f.BoolVar(&o.generated, "generated", false, "make a random secret that is never shown")
	f.DurationVar(&o.grace, "grace", 0, "how long the former key still verifies (default: the server's FF_WAITPOINT_HMAC_GRACE, else 24h)")
	requires(cmd, "kid")
	return cmd
}

func (c *cli) rotateArgs(cmd *cobra.Command, o *rotateOptions) (args flowfabric.RotateWaitpointSecretArgs, err error) {
	args.NewKID = o.kid
	switch {
	case o.generated == (o.secretFile != ""):
		return args, usagef("give the secret once: --secret-file FILE or --generated")
	case o.generated:
		raw := make([]byte, 32)
		if _, err := rand.Read(raw); err != nil {
			return args, err
		}
		args.NewSecretHex = hex.EncodeToString(raw)
	default:
		raw, err := c.readInput(o.secretFile, 4096)
		if err != nil {
			return args, err
		}
		args.NewSecretHex = strings.TrimSpace(string(raw))
	}
	if cmd.Flags().Changed("grace") {
		if o.grace < 0 {
			return args, usagef("--grace %s is negative", o.grace)
		}
		ms := o.grace.Milliseconds()
		args.GraceMs = &ms
	}
	return args, nil
}

// rotateTries is how often a rotation is repeated while copies fail: with a
// generated secret nobody else can.
const rotateTries = 3

func failedCopies(res flowfabric.RotateWaitpointSecretResult) bool {
	return slices.ContainsFunc(res.Copies, func(one flowfabric.RotatedCopy) bool { return one.Err != nil })
}

func (c *cli) rotate(ctx context.Context, b flowfabric.Backend, args flowfabric.RotateWaitpointSecretArgs) error {
	res, err := b.RotateWaitpointSecret(ctx, args)
	for try := 1; err == nil && failedCopies(res) && try < rotateTries; try++ {
		res, err = b.RotateWaitpointSecret(ctx, args)
	}
	if err != nil {
		return err
	}
	return c.printRotation(res)
}

func (c *cli) printRotation(res flowfabric.RotateWaitpointSecretResult) error {
	answer := wire.NewRotateSecretResponse(res)
	var verdict error
	if len(answer.Failed) > 0 {
		verdict = &quietError{code: exitFailed}
	}
	p := c.printer()
	if p.wantsJSON() {
		return firstError(p.json(answer), verdict)
	}
	changed := false
	var cause error
	for _, one := range res.Copies {
		changed = changed || one.Outcome == flowfabric.RotateRotated
		cause = firstError(cause, one.Err)
	}
	if verdict != nil {
		fmt.Fprintf(c.err, "flowfabric: %s could not be changed, partition %d first: %s; repeat with the same key and secret, or after --generated rotate to another key\n",
			plural(len(answer.Failed), "copy of the keys", "copies of the keys"), answer.Failed[0], errorLine(cause))
	}
	text := p.good(clean(res.NewKID)) + " makes the tokens now"
	if !changed {
		text = clean(res.NewKID) + " is the current key already"
	}
	return firstError(p.line("%s", text), verdict)
}
