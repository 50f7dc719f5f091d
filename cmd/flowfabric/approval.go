package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

// decision is an operator's answer to a wait.
type decision struct {
	name    string
	by      string
	suffix  string
	payload signalPayload

	answers *bufio.Reader // what the person at the terminal types
}

func (c *cli) decideCommand(verb, short, name string) *cobra.Command {
	var o decision
	cmd := &cobra.Command{
		Use:   verb + " [EXECUTION [WAITPOINT]]",
		Short: short,
		Long: short + `, in your name and without the waitpoint's token.
Without a waitpoint it is the one the execution waits on; without an execution you
choose at the terminal from those that wait.

A repeat by the same person is harmless and prints what the first one did; two
persons are two signals, unless both give the same --suffix.`,
		Example: fmt.Sprintf(`  flowfabric waitpoint %[1]s
  flowfabric waitpoint %[1]s "$id" --by alice
  flowfabric waitpoint %[1]s "$id" "$waitpoint" --payload '{"note":"as agreed"}'`, verb),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 2 {
				return takes("EXECUTION", "WAITPOINT")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.by == "" {
				o.by = c.variable("USER")
			}
			if o.by == "" {
				return usagef("--by is missing: who decides?")
			}
			if o.suffix == "" {
				o.suffix = suffixOf(o.by)
			}
			o.answers = bufio.NewReader(c.in)
			return c.decideOn(cmd.Context(), &o, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", name, "name of the signal")
	f.StringVar(&o.by, "by", "", "who decides (default: the user)")
	f.StringVar(&o.suffix, "suffix", "", "what makes a repeat one: decisions of one name and suffix are the same (default: made of --by)")
	o.payload.flags(cmd)
	return cmd
}

// suffixOf makes a person's suffix, which may be shorter than a name.
func suffixOf(by string) string {
	if len(by) <= flowfabric.MaxIdempotencySuffix {
		return by
	}
	sum := sha256.Sum256([]byte(by))
	return hex.EncodeToString(sum[:])
}

// decideOn finds out what is decided on, and delivers the decision.
func (c *cli) decideOn(ctx context.Context, o *decision, args []string) error {
	d := flowfabric.DeliverApprovalSignalArgs{SignalID: flowfabric.NewSignalID(), SignalName: o.name, IdempotencySuffix: o.suffix, DecidedBy: o.by}
	var err error
	switch len(args) {
	case 1:
		d.ExecutionID, err = flowfabric.ParseExecutionID(args[0])
	case 2:
		d.ExecutionID, d.WaitpointID, err = parseWaitpoint(args[0], args[1])
	}
	if err != nil {
		return err
	}
	if o.payload.file == "-" && len(args) < 2 {
		return usagef("standard input can't be payload and answers at once; name execution and waitpoint")
	}
	if d.Payload, d.PayloadEncoding, err = o.payload.read(c); err != nil {
		return err
	}
	return c.with(ctx, func(b flowfabric.Backend) error {
		if d.ExecutionID == "" {
			if d.ExecutionID, err = c.chooseExecution(ctx, b, o); err != nil {
				return err
			}
		}
		s, err := describe(ctx, b, d.ExecutionID)
		if err != nil {
			return err
		}
		d.LaneID = s.LaneID
		if d.WaitpointID == "" {
			if d.WaitpointID, err = c.chooseWaitpoint(ctx, b, s, o); err != nil {
				return err
			}
		}
		res, err := b.DeliverApprovalSignal(ctx, d)
		if err != nil {
			return err
		}
		return c.printDelivery(d.ExecutionID, d.WaitpointID, res)
	})
}

// chooseExecution lists what waits and lets the person at the terminal choose.
// Where nobody sits there, the list is the answer and choosing was needed: exit
// code 2.
func (c *cli) chooseExecution(ctx context.Context, b flowfabric.Backend, o *decision) (flowfabric.ExecutionID, error) {
	items, next, err := waiting(ctx, b, &waitpointListOptions{limit: flowfabric.DefaultWaitpointsLimit})
	if err != nil {
		return "", err
	}
	if len(items) == 0 {
		return "", usagef("EXECUTION is missing, and no execution is suspended")
	}
	if p := c.printer(); p.wantsJSON() || !c.asks {
		show := func() error { return p.choices(items, next) }
		if p.wantsJSON() {
			show = func() error { return p.json(wire.NewPage(items, next)) }
		}
		return "", firstError(show(), usagef("EXECUTION is missing, and nobody is at a terminal to choose one"))
	}
	if err := newPrinter(c.err, outputTable, c.now()).choices(items, next); err != nil {
		return "", err
	}
	i, err := c.ask(ctx, o, "Which execution?", len(items))
	if err != nil {
		return "", err
	}
	return items[i].ExecutionID, nil
}

// choices prints what waits, numbered from 1.
func (p *printer) choices(items []waitingExecution, next string) error {
	rows := make([][]string, len(items))
	for i, e := range items {
		rows[i] = append([]string{strconv.Itoa(i + 1)}, p.waitingRow(e)...)
	}
	if err := p.table("no execution is suspended", append([]string{"#"}, waitingHeaders...), rows); err != nil || next == "" {
		return err
	}
	return p.line("%s", p.faint("there are more; see: flowfabric waitpoint list"))
}

// chooseWaitpoint finds the waitpoint of the execution that the decision is for:
// the one it waits on, or, while its worker still runs, the one made beforehand.
// Of several it takes the only one that asks for the signal's name.
func (c *cli) chooseWaitpoint(ctx context.Context, b flowfabric.Backend, s *flowfabric.ExecutionSnapshot, o *decision) (flowfabric.WaitpointID, error) {
	open, err := openWaitpoints(ctx, b, s.ExecutionID)
	if err != nil {
		return "", err
	}
	if len(open) == 0 {
		return "", flowfabric.NewError(flowfabric.CodeWaitpointNotFound, "execution %s is %s and has no open waitpoint", s.ExecutionID, s.PublicState)
	}
	if len(open) == 1 {
		return open[0].WaitpointID, nil
	}
	fitting := slices.DeleteFunc(slices.Clone(open), func(w flowfabric.Waitpoint) bool { return !slices.Contains(w.RequiredSignalNames, o.name) })
	if len(fitting) == 1 {
		return fitting[0].WaitpointID, nil
	}
	if !c.asks || c.options.output == outputJSON {
		ids := make([]string, len(open))
		for i, w := range open {
			ids[i] = fmt.Sprintf("%s (%s)", w.WaitpointID, short(w.WaitpointKey, 40))
		}
		return "", usagef("WAITPOINT is missing: the execution has %d: %s", len(open), short(strings.Join(ids, ", "), 400))
	}
	p := newPrinter(c.err, outputTable, c.now())
	rows := make([][]string, len(open))
	for i, w := range open {
		rows[i] = []string{strconv.Itoa(i + 1), string(w.WaitpointID), short(w.WaitpointKey, 50), namesText(&w)}
	}
	if err := p.table("", []string{"#", "WAITPOINT", "KEY", "AWAITS"}, rows); err != nil {
		return "", err
	}
	i, err := c.ask(ctx, o, "Which waitpoint?", len(open))
	if err != nil {
		return "", err
	}
	return open[i].WaitpointID, nil
}

// openWaitpoints returns the waitpoints the execution waits on, else those made
// beforehand.
func openWaitpoints(ctx context.Context, b flowfabric.Backend, id flowfabric.ExecutionID) ([]flowfabric.Waitpoint, error) {
	var active, pending []flowfabric.Waitpoint
	args := flowfabric.ListPendingWaitpointsArgs{ExecutionID: id, Limit: flowfabric.MaxListLimit}
	for {
		res, err := b.ListPendingWaitpoints(ctx, args)
		if err != nil {
			return nil, err
		}
		for _, w := range res.Waitpoints {
			if w.State == flowfabric.WaitpointActive {
				active = append(active, w)
			} else {
				pending = append(pending, w)
			}
		}
		if res.NextCursor == "" {
			break
		}
		args.After = res.NextCursor
	}
	if len(active) > 0 {
		return active, nil
	}
	return pending, nil
}

// ask lets the person at the terminal choose one of n, and returns its index. An
// empty answer, or the end of the input, chooses nothing.
func (c *cli) ask(ctx context.Context, o *decision, question string, n int) (int, error) {
	for {
		fmt.Fprintf(c.err, "%s [1..%d, empty for none] ", question, n)
		line, err := readLine(ctx, o.answers)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		line = strings.TrimSpace(line)
		if line == "" {
			return 0, usagef("nothing was chosen")
		}
		if i, bad := strconv.Atoi(line); bad == nil && i >= 1 && i <= n {
			return i - 1, nil
		}
		fmt.Fprintf(c.err, "%q is no number from 1 to %d\n", short(line, 40), n)
		if err != nil {
			return 0, usagef("nothing was chosen")
		}
	}
}

// readLine reads a line, or gives up when ctx ends; the reading goes on then until
// the process ends.
func readLine(ctx context.Context, r *bufio.Reader) (string, error) {
	type answer struct {
		line string
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		line, err := r.ReadString('\n')
		read <- answer{line, err}
	}()
	select {
	case a := <-read:
		return a.line, a.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
