package valkey

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
)

// peeked is what a look found of one bucket on one partition.
type peeked struct {
	bucket    string
	namespace flowfabric.Namespace
	caps      string
	heads     []peekedHead
}

type peekedHead struct {
	score int64
	e     string
}

// peek looks at partitions of a lane, arms their wake-up, notes what it finds and
// tells of what was not known.
func (s *Store) peek(ctx context.Context, lane flowfabric.LaneID, parts []uint16) error {
	since := make([]uint32, len(parts))
	for i, p := range parts {
		since[i] = s.ready.change(lane, p)
	}
	found, err := s.look(ctx, lane, parts, true, peekDepth)
	if err != nil {
		return err
	}
	var events []flowfabric.WakeEvent
	for i, p := range parts {
		for _, f := range s.ready.saw(lane, p, since[i], found[i]) {
			events = append(events, flowfabric.WakeEvent{Kind: flowfabric.WakeEligible, Partition: p, LaneID: lane, Namespace: f.namespace,
				Required: splitList(f.caps), Count: len(f.heads)})
		}
	}
	s.emit(events...)
	return nil
}

// listenAgain keeps waiting claims from being deaf: a partition's wake-up goes off
// once, and what set it off may be nothing that those who still wait can take, so
// that none of them looks at it and arms it again.
func (s *Store) listenAgain() {
	s.running.Go(func() {
		timer := time.NewTimer(0)
		defer timer.Stop()
		<-timer.C
		pause := rearmAfter
		for {
			select {
			case <-s.stop:
				return
			case <-s.ready.deafened:
			}
			timer.Reset(pause) // most often a claim does it meanwhile
			select {
			case <-s.stop:
				return
			case <-timer.C:
			}
			begun := time.Now()
			ctx, cancel := s.untilStop()
			for _, lane := range s.ready.asked() {
				if parts := s.ready.deaf(lane); len(parts) > 0 {
					if err := s.peek(ctx, lane, parts); err != nil && !s.isStopping() {
						s.log.DebugContext(ctx, "a lane is not listened to until the next sweep", "lane_id", lane, "error", err)
					}
				}
			}
			cancel()
			pause = max(rearmAfter, rearmShare*time.Since(begun))
		}
	})
}

// look reads the heads of the buckets of a lane on the given partitions: one call
// for many partitions of one node, where the store is one node.
func (s *Store) look(ctx context.Context, lane flowfabric.LaneID, parts []uint16, arm bool, depth int) ([][]peeked, error) {
	armed := ""
	if arm {
		armed = "1"
	}
	out := make([][]peeked, 0, len(parts))
	reqs := make([]request, 0, len(parts))
	for _, tags := range s.bundles(parts) {
		args := append([]string{string(lane), armed, strconv.Itoa(depth)}, tags[1:]...)
		reqs = append(reqs, request{fn: "ff_peek_buckets", tag: tags[0], args: args, unconfirmed: true})
	}
	for _, a := range s.calls(ctx, reqs) {
		if a.err != nil {
			return nil, a.err
		}
		list, err := a.msg.ToArray()
		if err != nil {
			return nil, badAnswer("ff_peek_buckets")
		}
		for i := range list {
			fields, err := list[i].AsStrSlice()
			if err != nil {
				return nil, badAnswer("ff_peek_buckets")
			}
			found, err := parsePeeked(fields)
			if err != nil {
				return nil, err
			}
			out = append(out, found)
		}
	}
	if len(out) != len(parts) {
		return nil, badAnswer("ff_peek_buckets")
	}
	return out, nil
}

func parsePeeked(fields []string) ([]peeked, error) {
	var out []peeked
	for i := 0; i+4 <= len(fields); i += 4 {
		b, ok := parseBucket(fields[i], fields[i+1])
		if !ok {
			continue
		}
		p := peeked{bucket: b.name, namespace: b.namespace, caps: strings.Join(b.required, ",")}
		for head := range strings.SplitSeq(fields[i+3], ",") {
			score, e, ok := strings.Cut(head, " ")
			n, err := strconv.ParseInt(score, 10, 64)
			if !ok || err != nil {
				return nil, badAnswer("ff_peek_buckets")
			}
			p.heads = append(p.heads, peekedHead{n, e})
		}
		out = append(out, p)
	}
	return out, nil
}

// bundleSize is how many partitions one call looks at where the store is one node.
const bundleSize = 64

// bundles sorts the tags of partitions into calls: each of its own in a cluster,
// many to a call on one node. The order is kept.
func (s *Store) bundles(parts []uint16) [][]string {
	size := bundleSize
	if s.nodes.cluster {
		size = 1
	}
	out := make([][]string, 0, (len(parts)+size-1)/size)
	for chunk := range slices.Chunk(parts, size) {
		tags := make([]string, len(chunk))
		for i, p := range chunk {
			tags[i] = s.tag(p)
		}
		out = append(out, tags)
	}
	return out
}

// ListEligible returns candidates in claim order.
func (s *Store) ListEligible(ctx context.Context, a flowfabric.ListEligibleArgs) ([]flowfabric.ExecutionID, error) {
	if err := a.LaneID.Validate(); err != nil {
		return nil, err
	}
	caps, err := flowfabric.NormalizeCapabilities("worker", a.Capabilities)
	if err != nil {
		return nil, err
	}
	limit, err := listLimit(a.Limit, 1, flowfabric.MaxListLimit)
	if err != nil {
		return nil, err
	}
	views, err := s.peekLanes(ctx, a.LaneID)
	if err != nil || views[0].State == flowfabric.LaneDisabled {
		return nil, err
	}
	count := len(s.tags)
	if a.Partitions > 0 && a.Partitions < count {
		count = a.Partitions
	}
	parts := make([]uint16, count)
	for i := range parts {
		parts[i] = uint16((int(a.FirstPartition) + i) % len(s.tags))
	}
	found, err := s.look(ctx, a.LaneID, parts, false, limit)
	if err != nil {
		return nil, err
	}
	type entry struct {
		score int64
		id    flowfabric.ExecutionID
	}
	var all []entry
	for i, list := range found {
		for _, b := range list {
			if !s.ready.knows(a.LaneID, parts[i], b.bucket) {
				s.ready.unknown(a.LaneID, parts[i]) // the next claim looks there
			}
			if !visible(b.namespace, a.Namespace, nil) || len(flowfabric.MissingCapabilities(splitList(b.caps), caps)) > 0 {
				continue
			}
			for _, h := range b.heads {
				all = append(all, entry{h.score, flowfabric.ExecutionID(s.tag(parts[i]) + ":" + h.e)})
			}
		}
	}
	slices.SortFunc(all, func(x, y entry) int {
		return cmp.Or(cmp.Compare(x.score, y.score), cmp.Compare(x.id, y.id))
	})
	ids := make([]flowfabric.ExecutionID, 0, min(limit, len(all)))
	for _, e := range all[:min(limit, len(all))] {
		ids = append(ids, e.id)
	}
	return ids, nil
}

// sweepReady checks the map of every lane that was asked for, in case a notice was
// lost, and tells the waiters of what it finds.
func (s *Store) sweepReady(ctx context.Context) error {
	s.ready.drop(time.Now().Add(-readyKeptFor))
	parts := make([]uint16, len(s.tags))
	for i := range parts {
		parts[i] = uint16(i)
	}
	for _, lane := range s.ready.asked() {
		if err := s.peek(ctx, lane, parts); err != nil {
			return err
		}
	}
	return nil
}
