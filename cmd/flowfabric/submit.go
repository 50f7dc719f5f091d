package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

type submitOptions struct {
	payload        string
	payloadFile    string
	encoding       string
	lane           string
	namespace      string
	id             string
	priority       int32
	tags           []string
	policy         string
	idempotencyKey string
	delay          time.Duration
	wait           bool
	timeout        time.Duration
}

func (c *cli) submitCommand() *cobra.Command {
	var o submitOptions
	cmd := &cobra.Command{
		Use:   "submit KIND [-]",
		Short: "Submit an execution",
		Long: `Submit an execution of a kind; a worker that knows the kind will run it.

The payload is opaque to the engine: give it with --payload, from a file with
--payload-file, or from standard input with "-". Its encoding is noted as json
when it is JSON, else as text or binary.`,
		Example: `  flowfabric submit greet --payload '{"name":"Ada"}'
  flowfabric submit resize --payload-file photo.jpg --lane media --priority 10
  curl -s https://example.org/feed.json | flowfabric submit import - --wait
  flowfabric submit report --delay 10m --tag team.name=finance --idempotency-key report-2026-07
  flowfabric submit fetch --policy '{"retry_policy":{"max_retries":5}}'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && args[1] == "-" {
				return nil
			}
			return takes("KIND")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			create, err := c.createArgs(cmd, &o, args)
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), func(b flowfabric.Backend) error { return c.submit(cmd.Context(), b, create, &o) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.payload, "payload", "", "payload as text")
	f.StringVar(&o.payloadFile, "payload-file", "", "file that holds the payload; - is standard input")
	f.StringVar(&o.encoding, "encoding", "", "encoding noted with the payload (default: json, text or binary by its content)")
	f.StringVar(&o.lane, "lane", string(flowfabric.DefaultLane), "lane to submit to")
	f.StringVar(&o.namespace, "namespace", "default", "namespace the execution belongs to")
	f.StringVar(&o.id, "id", "", "execution id (default: a new one)")
	f.Int32Var(&o.priority, "priority", 0, "priority 0..9000; higher runs first")
	f.StringArrayVar(&o.tags, "tag", nil, "tag as `prefix.name=value`; repeatable")
	f.StringVar(&o.policy, "policy", "", "policy: a JSON document or a file that holds one; - is standard input")
	f.StringVar(&o.idempotencyKey, "idempotency-key", "", "key that makes a repeat of this submission harmless")
	f.DurationVar(&o.delay, "delay", 0, "not to run before this time has passed, for example 10m")
	f.BoolVar(&o.wait, "wait", false, "wait for the end and print the result")
	f.DurationVar(&o.timeout, "timeout", 0, "with --wait: give up waiting after this time (default: never)")
	return cmd
}

// createArgs turns the command line into the input of a create.
func (c *cli) createArgs(cmd *cobra.Command, o *submitOptions, args []string) (flowfabric.CreateExecutionArgs, error) {
	create := flowfabric.CreateExecutionArgs{
		ExecutionID:     flowfabric.ExecutionID(o.id),
		Namespace:       flowfabric.Namespace(o.namespace),
		LaneID:          flowfabric.LaneID(o.lane),
		Kind:            args[0],
		CreatorIdentity: c.identity(),
		IdempotencyKey:  o.idempotencyKey,
	}
	flags := cmd.Flags()
	if len(args) == 2 {
		if o.payloadFile != "" && o.payloadFile != "-" {
			return create, usagef("give the payload once: - or --payload-file %s", o.payloadFile)
		}
		o.payloadFile = "-"
	}
	if flags.Changed("payload") && o.payloadFile != "" {
		return create, usagef("give the payload once: with --payload or with --payload-file")
	}
	if o.payloadFile == "-" && o.policy == "-" {
		return create, usagef("standard input can't be payload and policy at once")
	}
	if o.id != "" {
		id, err := flowfabric.ParseExecutionID(o.id)
		if err != nil {
			return create, err
		}
		create.ExecutionID = id
	}
	if flags.Changed("priority") {
		create.Priority = &o.priority
	}
	if o.delay < 0 {
		return create, usagef("--delay %s is negative", o.delay)
	}
	if o.delay > 0 {
		create.DelayUntil = flowfabric.Millis(c.now().Add(o.delay).UnixMilli())
	}
	var err error
	if create.Tags, err = parseTags(o.tags); err != nil {
		return create, err
	}
	create.Payload = []byte(o.payload)
	if o.payloadFile != "" {
		if create.Payload, err = c.readInput(o.payloadFile, flowfabric.MaxPayloadBytes); err != nil {
			return create, err
		}
	}
	create.PayloadEncoding = o.encoding
	if o.encoding == "" {
		create.PayloadEncoding = encodingOf(create.Payload)
	}
	if create.Policy, err = c.readPolicy(o.policy); err != nil {
		return create, err
	}
	return create, nil
}

// identity names who acts, for the records.
func (c *cli) identity() string {
	if user := c.variable("USER"); user != "" && len(user) <= 200 {
		return "cli:" + user
	}
	return "cli"
}

// readInput reads a file, or standard input for "-", up to one byte over a
// limit, so that the store can refuse what is over it.
func (c *cli) readInput(path string, limit int64) ([]byte, error) {
	in := c.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usagef("%v", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, usagef("%s holds more than %d bytes", path, limit)
	}
	return b, nil
}

func (c *cli) readPolicy(text string) (json.RawMessage, error) {
	if text == "" {
		return nil, nil
	}
	raw := []byte(text)
	if !strings.HasPrefix(strings.TrimSpace(text), "{") {
		var err error
		if raw, err = c.readInput(text, 1<<20); err != nil {
			return nil, err
		}
	}
	if !json.Valid(raw) {
		return nil, usagef("--policy is no JSON document")
	}
	return raw, nil
}

func encodingOf(payload []byte) string {
	switch {
	case len(payload) == 0, json.Valid(payload):
		return "json"
	case utf8.Valid(payload):
		return "text"
	}
	return "binary"
}

// parseTags parses prefix.name=value pairs.
func parseTags(pairs []string) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	tags := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, usagef("tag %q has no value; write prefix.name=value", pair)
		}
		if _, twice := tags[key]; twice {
			return nil, usagef("tag %q is given twice", key)
		}
		tags[key] = value
	}
	return tags, nil
}

func (c *cli) submit(ctx context.Context, b flowfabric.Backend, args flowfabric.CreateExecutionArgs, o *submitOptions) error {
	created, err := flowfabric.CreateExecution(ctx, b, args)
	if err != nil {
		return err
	}
	p := c.printer()
	if !o.wait {
		if p.wantsJSON() {
			return p.json(wire.NewCreateExecutionResponse(created))
		}
		return p.line("%s", describeCreated(p, created))
	}
	if !p.wantsJSON() {
		// The result goes to standard output alone, so that it can be piped.
		fmt.Fprintln(c.err, describeCreated(p, created))
	}
	end, err := c.await(ctx, b, created.ExecutionID, flowfabric.UntilTerminal, o.timeout)
	if err != nil {
		return err
	}
	if p.wantsJSON() {
		return firstError(p.json(wire.NewSubmitAndWaitResponse(created, end)), waitVerdict(end, flowfabric.UntilTerminal))
	}
	return firstError(c.printEnding(p, created.ExecutionID, end), waitVerdict(end, flowfabric.UntilTerminal))
}

func describeCreated(p *printer, r flowfabric.CreateExecutionResult) string {
	switch {
	case r.Outcome == flowfabric.OutcomeCreated:
		return string(r.ExecutionID) + "  " + p.state(r.PublicState)
	case r.SameSpec:
		return string(r.ExecutionID) + "  submitted before"
	}
	return string(r.ExecutionID) + "  " + p.warn("submitted before, with another kind, lane, payload or policy; nothing was changed")
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
