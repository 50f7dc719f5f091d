package valkey

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
)

// defaultDurabilityTimeout is how long replicas or the disk are waited for.
const defaultDurabilityTimeout = time.Second

// ParseDurability reads "async", "replicated[:n[:timeout]]" or
// "fsync[:n[:timeout]]", for example "replicated:2:500ms". Without them n is 1
// and 0, the timeout 1 s; what does not parse or is out of range is
// invalid_input.
func ParseDurability(text string) (Durability, error) {
	parts := strings.Split(text, ":")
	d := Durability{Mode: DurabilityMode(parts[0])}
	if len(parts) > 3 || d.Mode == DurabilityAsync && len(parts) > 1 {
		return d, flowfabric.InvalidInput("durability", "%q is not async, replicated:n or fsync:n", text)
	}
	var err error
	if len(parts) > 1 {
		if d.Replicas, err = strconv.Atoi(parts[1]); err != nil {
			return d, flowfabric.InvalidInput("durability", "%q: the number of replicas is no number", text)
		}
		if d.Mode == DurabilityReplicated && d.Replicas == 0 {
			return d, flowfabric.InvalidInput("durability", "%q: replicated needs at least 1 replica", text)
		}
	}
	if len(parts) > 2 {
		if d.Timeout, err = time.ParseDuration(parts[2]); err != nil {
			return d, flowfabric.InvalidInput("durability", "%q: the timeout is no duration", text)
		}
	}
	return d, d.complete()
}

func (d *Durability) complete() error {
	if d.Mode == "" {
		d.Mode = DurabilityAsync
	}
	if d.Mode != DurabilityAsync && d.Mode != DurabilityReplicated && d.Mode != DurabilityFsync {
		return flowfabric.InvalidInput("durability", "%q is not async, replicated or fsync", string(d.Mode))
	}
	if d.Mode == DurabilityReplicated && d.Replicas == 0 {
		d.Replicas = 1
	}
	if d.Replicas < 0 || d.Replicas > 100 {
		return flowfabric.InvalidInput("durability", "%d replicas, must be 0..100", d.Replicas)
	}
	if d.Timeout == 0 {
		d.Timeout = defaultDurabilityTimeout
	}
	if d.Timeout < time.Millisecond || d.Timeout > time.Minute {
		return flowfabric.InvalidInput("durability", "timeout %v, must be 1ms..1m", d.Timeout)
	}
	return nil
}

// durability makes the command that waits for a confirmation.
type durability struct{ Durability }

func (d *durability) command(b vk.Builder) vk.Completed {
	if d.Mode == DurabilityFsync {
		return b.Waitaof().Numlocal(1).Numreplicas(int64(d.Replicas)).Timeout(d.Timeout.Milliseconds()).Build()
	}
	return b.Wait().Numreplicas(int64(d.Replicas)).Timeout(d.Timeout.Milliseconds()).Build()
}

// unrepeated are the functions that never repeat an earlier answer: those of the
// duties and of the scheduler, which are called all the time and most often write
// nothing. Their waits cost nothing then.
var unrepeated = map[string]bool{"ff_tick": true, "ff_claim_next": true, "ff_lapse_grants": true, "ff_peek_buckets": true,
	"ff_sweep_lane": true, "ff_sweep_workers": true, "ff_outbox_ack": true, "ff_take_slots": true, "ff_settle_slots": true,
	"ff_free_slots": true, "ff_audit_execution": true}

// confirmed reads the answer; mark is what went wrong with what was written for
// the wait.
func (d *durability) confirmed(mark error, res vk.ValkeyResult) error {
	if mark != nil {
		return d.unconfirmed("the wait failed").Wrap(mark)
	}
	if d.Mode == DurabilityFsync {
		got, err := res.AsIntSlice()
		switch {
		case err != nil:
			return d.unconfirmed("the wait failed").Wrap(err)
		case len(got) < 2 || got[0] < 1 || got[1] < int64(d.Replicas):
			return d.unconfirmed("not on disk everywhere in time")
		}
		return nil
	}
	got, err := res.AsInt64()
	switch {
	case err != nil:
		return d.unconfirmed("the wait failed").Wrap(err)
	case got < int64(d.Replicas):
		return d.unconfirmed(strconv.FormatInt(got, 10) + " of " + strconv.Itoa(d.Replicas) + " replicas confirmed in time")
	}
	return nil
}

func (d *durability) unconfirmed(text string) *flowfabric.Error {
	return flowfabric.NewError(flowfabric.CodeDurabilityUnconfirmed, "carried out, but %s", text)
}

// sendDurable makes the calls and then the wait, on a connection of their own:
// on a shared one the wait would hold up the calls of others.
func (s *Store) sendDurable(ctx context.Context, g group, cmds vk.Commands, reqs []request, out []answer, faults []fault) {
	limited, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout+s.durable.Timeout)
	defer cancel()
	// The store waits for what this connection wrote last. A call that only
	// repeats the answer of an earlier one writes nothing, so something is
	// written for it: then the wait covers whatever was written before.
	marks := slices.ContainsFunc(g.items, func(i int) bool { return !reqs[i].readOnly && !unrepeated[reqs[i].fn] })
	if marks {
		cmds = append(cmds, s.b.Set().Key(waitKey(reqs[g.items[0]].tag)).Value("").Build())
	}
	cmds = append(cmds, s.durable.command(s.b))
	results := g.node.client.DoMulti(limited, cmds...)
	waited, mark := results[len(results)-1], error(nil)
	if marks {
		mark = results[len(results)-2].Error()
	}
	var confirmed error
	asked := false
	for j, i := range g.items {
		a, f := judge(&reqs[i], g.node, results[j])
		if f.err != nil && ctx.Err() == nil && errors.Is(f.err, context.DeadlineExceeded) {
			f.err = os.ErrDeadlineExceeded // our own: it was sent
		}
		if a.err == nil && f.err == nil && !reqs[i].readOnly {
			if !asked {
				asked, confirmed = true, s.durable.confirmed(mark, waited)
			}
			if confirmed != nil {
				a = answer{err: named(confirmed, reqs[i].fn)}
			}
		}
		out[i], faults[i] = a, f
	}
}
