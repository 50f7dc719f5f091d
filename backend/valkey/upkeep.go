package valkey

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/flowfabric/flowfabric"
)

const (
	// defaultTick is how many due executions one tick looks at on one partition.
	defaultTick = 100
	// foreignEvery is how often a server looks at the partitions of others: in
	// every 4th cycle.
	foreignEvery = 4
)

// cycles counts the ticks of a process.
type cycles struct{ n atomic.Uint64 }

// Tick acts on what is due: on this server's share of the partitions in every
// call, on the others' in every 4th.
func (s *Store) Tick(ctx context.Context, a flowfabric.TickArgs) (flowfabric.TickResult, error) {
	res := flowfabric.TickResult{Duties: make(map[string]int)}
	limit := a.Limit
	if limit <= 0 {
		limit = defaultTick
	}
	var reqs []request
	for _, tags := range s.bundles(s.shareOf(s.ticks.n.Add(1))) {
		args := append([]string{strconv.Itoa(limit), strconv.FormatFloat(rand.Float64(), 'f', 6, 64)}, tags[1:]...)
		reqs = append(reqs, request{fn: "ff_tick", tag: tags[0], args: args, unconfirmed: true})
	}
	var first error
	var told []flowfabric.WakeEvent
	for _, ans := range s.calls(ctx, reqs) {
		err := ans.err
		if err == nil {
			var list []string
			if list, err = ans.msg.AsStrSlice(); err == nil {
				told, err = s.readTick(list, &res, told)
			}
		}
		if err != nil && first == nil {
			first = err
		}
	}
	s.emit(told...)
	return res, first
}

// shareOf lists the partitions of a cycle.
func (s *Store) shareOf(cycle uint64) []uint16 {
	parts := make([]uint16, 0, len(s.tags))
	for i := range s.tags {
		if cycle%foreignEvery == 0 || s.mine(uint16(i)) {
			parts = append(parts, uint16(i))
		}
	}
	return parts
}

// readTick adds the answer of one call to the result.
func (s *Store) readTick(list []string, res *flowfabric.TickResult, told []flowfabric.WakeEvent) ([]flowfabric.WakeEvent, error) {
	if len(list) < 5 {
		return told, badAnswer("ff_tick")
	}
	examined, _ := strconv.Atoi(list[0])
	errs, _ := strconv.Atoi(list[1])
	res.Examined += examined
	res.Errors += errs
	res.More = res.More || list[2] == "1"
	if at, err := strconv.ParseInt(list[3], 10, 64); err == nil && (res.NextDue == 0 || flowfabric.Millis(at) < res.NextDue) {
		res.NextDue = flowfabric.Millis(at)
	}
	n, _ := strconv.Atoi(list[4])
	rest := list[5:]
	if len(rest) < 2*n {
		return told, badAnswer("ff_tick")
	}
	for i := 0; i < 2*n; i += 2 {
		count, _ := strconv.Atoi(rest[i+1])
		res.Duties[rest[i]] += count
	}
	for _, line := range rest[2*n:] {
		if ev, ok := s.readTold(line); ok {
			told = append(told, ev)
		}
	}
	return told, nil
}

// readTold reads what a step of a tick led to. The completion itself comes by the
// channel of endings.
func (s *Store) readTold(line string) (flowfabric.WakeEvent, bool) {
	if line == "" {
		return flowfabric.WakeEvent{}, false
	}
	tag, rest, ok := strings.Cut(line[1:], " ")
	part, valid := partitionOf(tag)
	if !ok || !valid {
		return flowfabric.WakeEvent{}, false
	}
	if line[0] == 's' {
		return flowfabric.WakeEvent{Kind: flowfabric.WakeSettled, Partition: part, ExecutionID: flowfabric.ExecutionID(tag + ":" + rest)}, true
	}
	return s.readOffer(part, rest)
}

// partitionOf reads the number of a tag "{fp:N}".
func partitionOf(tag string) (uint16, bool) {
	digits, ok := strings.CutPrefix(tag, "{fp:")
	if !ok {
		return 0, false
	}
	digits, ok = strings.CutSuffix(digits, "}")
	n, err := strconv.ParseUint(digits, 10, 16)
	return uint16(n), ok && err == nil
}

// Reconcile compares a part of a partition with its indexes and repairs them.
func (s *Store) Reconcile(ctx context.Context, a flowfabric.ReconcileArgs) (flowfabric.ReconcileResult, error) {
	var res flowfabric.ReconcileResult
	if int(a.Partition) >= len(s.tags) {
		return res, flowfabric.InvalidInput("partition", "is %d, the deployment has %d", a.Partition, len(s.tags))
	}
	limit := a.Limit
	if limit <= 0 {
		limit = 100
	}
	tag := s.tag(a.Partition)
	page, next, err := s.auditPage(ctx, a.Partition, a.Cursor, limit)
	if err != nil {
		return res, err
	}
	res.Examined, res.Next = len(page), next
	if a.Cursor == "" {
		strays, err := s.strays(ctx, tag, limit)
		if err != nil {
			return res, err
		}
		page = append(page, strays...)
	}
	for chunk := range slices.Chunk(page, 100) {
		msg, err := s.call(ctx, "ff_audit_execution", tag, chunk...)
		if err != nil {
			return res, err
		}
		list, err := msg.AsStrSlice()
		if err != nil || len(list) != len(chunk) {
			return res, badAnswer("ff_audit_execution")
		}
		for i, line := range list {
			id := flowfabric.ExecutionID(tag + ":" + chunk[i])
			count, what, _ := strings.Cut(line, " ")
			switch n, _ := strconv.Atoi(count); {
			case what == "gone":
				res.Removed += n
			case n > 0:
				res.Repaired++
			}
			if refused, ok := strings.CutPrefix(what, "!"); ok {
				res.Violations = append(res.Violations, string(id)+": "+refusal("reconcile", refused).Error())
			}
		}
	}
	if res.Repaired > 0 {
		s.ready.forget()
	}
	return res, nil
}

// auditPage returns the next executions of a partition in the order of their
// identifiers.
func (s *Store) auditPage(ctx context.Context, part uint16, cursor flowfabric.ExecutionID, limit int) ([]string, flowfabric.ExecutionID, error) {
	members, err := s.members(ctx, part, cursor != "")
	if err != nil {
		return nil, "", err
	}
	from := 0
	if cursor != "" {
		var found bool
		if from, found = slices.BinarySearch(members, uuidOf(cursor)); found {
			from++
		}
	}
	members = members[from:]
	if len(members) <= limit {
		return slices.Clone(members), "", nil
	}
	return slices.Clone(members[:limit]), flowfabric.ExecutionID(s.tag(part) + ":" + members[limit-1]), nil
}

// strays returns members of indexes that the partition does not know.
func (s *Store) strays(ctx context.Context, tag string, limit int) ([]string, error) {
	msg, err := s.read(ctx, "ff_audit_strays", tag, strconv.Itoa(limit))
	if err != nil {
		return nil, err
	}
	list, err := msg.AsStrSlice()
	if err != nil {
		return nil, badAnswer("ff_audit_strays")
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}
