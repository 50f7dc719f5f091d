package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

// signalPayload is the flags of a signal's payload.
type signalPayload struct {
	text, file, encoding string
}

func (o *signalPayload) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.text, "payload", "", "payload as text, at most 64 KiB")
	f.StringVar(&o.file, "payload-file", "", "file that holds the payload; - is standard input")
	f.StringVar(&o.encoding, "encoding", "", "encoding noted with the payload (default: json, text or binary by its content)")
}

// read returns the payload and its encoding, both empty without one.
func (o *signalPayload) read(c *cli) (payload []byte, encoding string, err error) {
	payload = []byte(o.text)
	if o.file != "" {
		if o.text != "" {
			return nil, "", usagef("give the payload once: with --payload or with --payload-file")
		}
		if payload, err = c.readInput(o.file, flowfabric.MaxSignalPayloadBytes); err != nil {
			return nil, "", err
		}
	}
	switch {
	case len(payload) == 0:
		return nil, "", nil
	case o.encoding != "":
		return payload, o.encoding, nil
	}
	return payload, encodingOf(payload), nil
}

type signalOptions struct {
	signal      flowfabric.Signal
	id          string
	token       string
	tokenFile   string
	payload     signalPayload
	dedupPeriod time.Duration
}

func (c *cli) signalCommand() *cobra.Command {
	var o signalOptions
	cmd := &cobra.Command{
		Use:   "signal EXECUTION WAITPOINT",
		Short: "Send a signal to a waitpoint",
		Long: `Send a signal to a waitpoint, authenticated by the waitpoint's token, as an outside
party does. The token comes from a file, or from standard input with "-"; on the
command line other users of this machine could read it.

With --idempotency-key or --signal-id a repeat is harmless: it prints what the
first one did. To decide for a person without a token, use: flowfabric waitpoint
approve.`,
		Example: `  flowfabric signal "$id" "$waitpoint" --name approved --waitpoint-token-file token
  flowfabric waitpoint token "$id" "$waitpoint" | flowfabric signal "$id" "$waitpoint" --name done --waitpoint-token-file - --payload '{"ok":true}'`,
		Args: takes("EXECUTION", "WAITPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			deliver, err := c.deliverArgs(&o, args)
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				res, err := b.DeliverSignal(cmd.Context(), deliver)
				if err != nil {
					return err
				}
				return c.printDelivery(deliver.ExecutionID, deliver.WaitpointID, res)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.signal.Name, "name", "", "name of the signal, by which conditions match")
	f.StringVar(&o.tokenFile, "waitpoint-token-file", "", "file that holds the waitpoint's token; - is standard input")
	f.StringVar(&o.token, "waitpoint-token", "", "the waitpoint's token, seen by whoever lists processes")
	f.StringVar(&o.signal.Category, "category", "", "category (default custom)")
	f.StringVar(&o.signal.SourceType, "source-type", "", "what kind of sender (default external_api)")
	f.StringVar(&o.signal.SourceIdentity, "source-identity", "", "who sends it (default: cli and the user)")
	f.StringVar(&o.signal.CorrelationID, "correlation-id", "", "the sender's own reference")
	f.StringVar(&o.signal.IdempotencyKey, "idempotency-key", "", "key that makes a repeat of this signal harmless")
	f.DurationVar(&o.dedupPeriod, "dedup-ttl", flowfabric.DefaultSignalDedupTTLMs*time.Millisecond, "how long the key is remembered, at most 168h")
	f.StringVar(&o.id, "signal-id", "", "signal id (default: a new one)")
	o.payload.flags(cmd)
	requires(cmd, "name")
	return cmd
}

// deliverArgs turns the command line into the input of a delivery.
func (c *cli) deliverArgs(o *signalOptions, args []string) (d flowfabric.DeliverSignalArgs, err error) {
	if d.ExecutionID, d.WaitpointID, err = parseWaitpoint(args[0], args[1]); err != nil {
		return d, err
	}
	if o.id != "" {
		if err := flowfabric.ValidateUUID("signal_id", o.id); err != nil {
			return d, err
		}
	}
	if o.tokenFile == "-" && o.payload.file == "-" {
		return d, usagef("standard input can't be token and payload at once")
	}
	if d.Token, err = c.waitpointToken(o); err != nil {
		return d, err
	}
	d.Signal = o.signal
	d.Signal.SignalID = flowfabric.SignalID(o.id)
	if d.Signal.SourceIdentity == "" {
		d.Signal.SourceIdentity = c.identity()
	}
	if o.dedupPeriod < time.Millisecond {
		return d, usagef("--dedup-ttl %s must be at least 1ms", o.dedupPeriod)
	}
	d.Signal.DedupTTLMs = o.dedupPeriod.Milliseconds()
	d.Signal.Payload, d.Signal.PayloadEncoding, err = o.payload.read(c)
	return d, err
}

// waitpointToken reads the token of the waitpoint. What is wrong with it is the
// store's to say, without showing it.
func (c *cli) waitpointToken(o *signalOptions) (flowfabric.WaitpointToken, error) {
	none := flowfabric.WaitpointToken{}
	switch {
	case o.token != "" && o.tokenFile != "":
		return none, usagef("give the token once: with --waitpoint-token-file or with --waitpoint-token")
	case o.token != "":
		return flowfabric.NewWaitpointToken(o.token), nil
	case o.tokenFile == "":
		return none, usagef("--waitpoint-token-file is missing; - reads the token from standard input")
	}
	raw, err := c.readInput(o.tokenFile, 4096)
	if err != nil {
		return none, err
	}
	return flowfabric.NewWaitpointToken(strings.TrimSpace(string(raw))), nil
}

// parseWaitpoint parses the identifiers of a waitpoint.
func parseWaitpoint(execution, waitpoint string) (flowfabric.ExecutionID, flowfabric.WaitpointID, error) {
	id, err := flowfabric.ParseExecutionID(execution)
	if err != nil {
		return "", "", err
	}
	if err := flowfabric.ValidateUUID("waitpoint_id", waitpoint); err != nil {
		return "", "", err
	}
	return id, flowfabric.WaitpointID(waitpoint), nil
}

// delivery is what became of a signal, as programs get it.
type delivery struct {
	wire.SignalResponse
	ExecutionID flowfabric.ExecutionID `json:"execution_id"`
	WaitpointID flowfabric.WaitpointID `json:"waitpoint_id"`
}

func (c *cli) printDelivery(id flowfabric.ExecutionID, waitpoint flowfabric.WaitpointID, res flowfabric.DeliverSignalResult) error {
	p := c.printer()
	if p.wantsJSON() {
		return p.json(delivery{wire.NewSignalResponse(res), id, waitpoint})
	}
	text := p.effect(res.Effect)
	if res.Outcome == flowfabric.DeliverDuplicate {
		text = "sent before; that one: " + text
	}
	return p.line("%s  signal %s  %s", id, res.SignalID, text)
}

// effect says what a signal did.
func (p *printer) effect(e flowfabric.SignalEffect) string {
	switch e {
	case flowfabric.EffectResumed:
		return p.good("resumed the execution")
	case flowfabric.EffectAppended:
		return p.good("counted") + ", the execution waits for more"
	case flowfabric.EffectRepeated:
		return p.warn("recorded, but adds nothing to what has come before")
	case flowfabric.EffectMatcherFailed:
		return p.warn("recorded, but is not what the execution waits for")
	case flowfabric.EffectNotInCondition:
		return p.warn("recorded, but no signal on this waitpoint ends the wait; an operator can: flowfabric execution resume")
	case flowfabric.EffectBuffered:
		return p.warn("kept until the worker suspends; if it does not, the signal never acts")
	case flowfabric.EffectNoOp:
		return p.faint("recorded, but the wait is over")
	case flowfabric.EffectNeverActivated:
		return p.faint("never acted: the worker did not suspend")
	}
	return clean(string(e))
}

type signalListOptions struct {
	waitpoint      string
	unconsumedOnly bool
	after          uint64
	limit          int
}

func (c *cli) executionSignalsCommand() *cobra.Command {
	var o signalListOptions
	cmd := &cobra.Command{
		Use:   "signals ID [SIGNAL]",
		Short: "List the signals of an execution, or show one with its payload",
		Example: `  flowfabric execution signals "$id"
  flowfabric execution signals "$id" "$signal" --output json | jq -r .payload | base64 -d`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return nil
			}
			return takes("ID")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.onExecution(func(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) error {
				if len(args) == 2 {
					return c.showSignal(ctx, b, id, args[1])
				}
				return c.listSignals(ctx, b, id, &o)
			})(cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.waitpoint, "waitpoint", "", "only signals to this waitpoint")
	f.BoolVar(&o.unconsumedOnly, "unconsumed-only", false, "only signals that no wait has consumed")
	f.Uint64Var(&o.after, "after", 0, "go on behind this place")
	f.IntVar(&o.limit, "limit", flowfabric.DefaultListLimit, "how many to show, 1..1000")
	return cmd
}

func (c *cli) listSignals(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID, o *signalListOptions) error {
	if o.limit < 1 || o.limit > flowfabric.MaxListLimit {
		return usagef("--limit %d must be 1..%d", o.limit, flowfabric.MaxListLimit)
	}
	res, err := b.ListSignals(ctx, flowfabric.ListSignalsArgs{ExecutionID: id, WaitpointID: flowfabric.WaitpointID(o.waitpoint),
		UnconsumedOnly: o.unconsumedOnly, After: o.after, Limit: o.limit})
	if err != nil {
		return err
	}
	next := ""
	if res.Next != 0 {
		next = strconv.FormatUint(res.Next, 10)
	}
	p := c.printer()
	if p.wantsJSON() {
		return p.json(wire.NewPage(res.Signals, next))
	}
	rows := make([][]string, len(res.Signals))
	for i, s := range res.Signals {
		rows[i] = []string{strconv.FormatUint(s.Seq, 10), string(s.SignalID), short(s.SignalName, 40), short(s.SourceType+"/"+s.SourceIdentity, 40),
			p.when(s.AcceptedAt), short(s.WaitpointKey, 40), string(s.Effect)}
	}
	if err := p.table("no signals", []string{"SEQ", "SIGNAL", "NAME", "SENDER", "RECEIVED", "KEY", "EFFECT"}, rows); err != nil {
		return err
	}
	if next != "" {
		return p.line("%s", p.faint("there are more; go on with --after "+next))
	}
	return nil
}

func (c *cli) showSignal(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID, signal string) error {
	if err := flowfabric.ValidateUUID("signal_id", signal); err != nil {
		return err
	}
	s, err := b.GetSignal(ctx, id, flowfabric.SignalID(signal))
	if err == nil && s == nil {
		err = errors.New("the backend answers without a signal")
	}
	if err != nil {
		return err
	}
	p := c.printer()
	if p.wantsJSON() {
		return p.json(s)
	}
	return p.details([]field{
		{"signal", p.bold(string(s.SignalID))},
		{"execution", string(s.ExecutionID)},
		{"waitpoint", string(s.WaitpointID) + p.faint("  "+clean(s.WaitpointKey))},
		{"place", strconv.FormatUint(s.Seq, 10)},
		{"name", clean(s.SignalName)},
		{"category", clean(s.SignalCategory)},
		{"sender", clean(s.SourceType + "/" + s.SourceIdentity)},
		{"correlation", clean(s.CorrelationID)},
		{"idempotency key", clean(s.IdempotencyKey)},
		{"sent", p.instant(s.CreatedAt)},
		{"received", p.instant(s.AcceptedAt)},
		{"effect", string(s.Effect)},
		{"consumed", p.instant(s.ConsumedAt)},
		{"payload", payloadText(s.Payload, s.PayloadEncoding)},
	})
}

// payloadText is a payload for people, "" of none.
func payloadText(payload []byte, encoding string) string {
	switch {
	case len(payload) == 0:
		return ""
	case !utf8.Valid(payload):
		return fmt.Sprintf("%s of %s; see it with --output json", sizeOf(int64(len(payload))), clean(encoding))
	}
	return clean(string(payload))
}
