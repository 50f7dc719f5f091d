package valkey

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
)

const (
	// slotLapseMs is how long a slot is kept for a claim that has not told what
	// became of it.
	slotLapseMs = 10_000
	// outboxBatch is how many entries of an outbox are settled at a time.
	outboxBatch = 100
	outboxEvery = time.Second
	owedSlot    = "slot:"
)

func slotTag(lane flowfabric.LaneID) string { return "lane:" + string(lane) + ":slots" }

// slotMember names the holder of a slot: an execution with the identifier of the
// lease or the grant that core names in its field slot.
func slotMember(id flowfabric.ExecutionID, holder string) string { return string(id) + ":" + holder }

// slots is what a claim holds of a lane's max_concurrency until it is settled.
type slots struct {
	lane   flowfabric.LaneID
	tokens []string
}

// slotUse is what a slot came to be used for.
type slotUse struct {
	id flowfabric.ExecutionID
	// holder is the lease or the grant, as in core's field slot.
	holder string
	// lapsesAt is when the slot of a grant is free again by itself, zero for a
	// lease.
	lapsesAt flowfabric.Millis
}

// takeSlots takes up to n slots of a lane, as many as its bound leaves; all
// without a bound. A claim takes them before it claims, claims no more than it got,
// and then calls settleSlots, whatever it came to. Where it does not, they lapse.
// Fewer than n make the next slot that becomes free raise a lane event; what
// executions owe that have ended is settled before.
func (s *Store) takeSlots(ctx context.Context, lane flowfabric.LaneID, bound, n int) (slots, error) {
	held := slots{lane: lane}
	if n <= 0 {
		return held, nil
	}
	args := make([]string, 2, n+2)
	args[0], args[1] = strconv.Itoa(bound), strconv.Itoa(slotLapseMs)
	for range n {
		args = append(args, uuid.NewString())
	}
	for {
		got, err := s.callStrs(ctx, "ff_take_slots", slotTag(lane), args...)
		if err != nil {
			return held, err
		}
		took := 2 + int(toInt(got[0]))
		held.tokens = append(held.tokens, args[2:took]...)
		args = slices.Delete(args, 2, took)
		if len(args) == 2 {
			return held, nil
		}
		if settled, err := s.sweepOutbox(ctx); err != nil || settled.Rows == 0 {
			return held, err
		}
	}
}

// settleSlots gives slots to what was granted or claimed and frees the others. With
// no tokens it makes the uses holders beside all bounds: for a grant of the
// scheduler aimed at one execution, or a lease that a granted claim has become.
func (s *Store) settleSlots(ctx context.Context, held slots, used ...slotUse) error {
	if len(held.tokens)+len(used) == 0 {
		return nil
	}
	args := make([]string, 0, 1+len(held.tokens)+2*len(used))
	args = append(args, strconv.Itoa(len(held.tokens)))
	args = append(args, held.tokens...)
	for _, u := range used {
		lapses := ""
		if u.lapsesAt > 0 {
			lapses = strconv.FormatInt(int64(u.lapsesAt), 10)
		}
		args = append(args, slotMember(u.id, u.holder), lapses)
	}
	got, err := s.callStrs(ctx, "ff_settle_slots", slotTag(held.lane), args...)
	if err == nil && got[0] == "1" {
		s.tellLane(ctx, held.lane)
	}
	return err
}

// freeSlots frees the slots of holders, by lane. It returns the lanes for which
// that failed.
func (s *Store) freeSlots(ctx context.Context, members map[flowfabric.LaneID][]string) (failed map[flowfabric.LaneID]bool, err error) {
	var reqs []request
	var lanes []flowfabric.LaneID
	for lane, all := range members {
		for some := range slices.Chunk(all, outboxBatch) {
			reqs = append(reqs, request{fn: "ff_free_slots", tag: slotTag(lane), args: some})
			lanes = append(lanes, lane)
		}
	}
	for i, a := range s.callMany(ctx, reqs) {
		got, fault := strs(a)
		if fault != nil {
			if failed == nil {
				failed = make(map[flowfabric.LaneID]bool)
			}
			failed[lanes[i]], err = true, fault
			continue
		}
		if got[1] == "1" {
			s.tellLane(ctx, lanes[i])
		}
	}
	return failed, err
}

// owed is an entry of a partition's outbox.
type owed struct {
	part  uint16
	entry string
}

// slot takes apart the entry of a slot: "slot:<lane>:<uuid>:<holder>". A lane may
// hold colons, what follows it does not.
func (o owed) slot(tag string) (lane flowfabric.LaneID, member string, ok bool) {
	rest, ok := strings.CutPrefix(o.entry, owedSlot)
	holderAt := strings.LastIndexByte(rest, ':')
	if !ok || holderAt < 0 {
		return "", "", false
	}
	uuidAt := strings.LastIndexByte(rest[:holderAt], ':')
	if uuidAt < 0 {
		return "", "", false
	}
	return flowfabric.LaneID(rest[:uuidAt]), tag + rest[uuidAt:], true
}

// drainOutbox settles what a partition owes to others and returns how many entries
// that were. Whoever made a transition that owes something calls it at once; the
// duty sweepOutbox does for all partitions.
func (s *Store) drainOutbox(ctx context.Context, partition uint16) (int, error) {
	n := 0
	for {
		res, err := s.drain(ctx, partition)
		n += res.Rows
		if err != nil || !res.More {
			return n, err
		}
	}
}

// sweepOutbox settles what all partitions owe, up to outboxBatch entries of each.
func (s *Store) sweepOutbox(ctx context.Context) (flowfabric.SweepResult, error) {
	all := make([]uint16, len(s.tags))
	for p := range all {
		all[p] = uint16(p)
	}
	return s.drain(ctx, all...)
}

func (s *Store) drain(ctx context.Context, parts ...uint16) (res flowfabric.SweepResult, err error) {
	var due []owed
	outboxes, err := s.askParts(ctx, parts, "ff_outbox_due", strconv.Itoa(outboxBatch))
	for i, entries := range outboxes {
		res.More = res.More || len(entries) == outboxBatch
		for _, e := range entries {
			due = append(due, owed{parts[i], e})
		}
	}
	if len(due) == 0 {
		return res, err
	}
	members := make(map[flowfabric.LaneID][]string)
	for _, o := range due {
		if lane, member, ok := o.slot(s.tag(o.part)); ok {
			members[lane] = append(members[lane], member)
		}
	}
	unsettled, failed := s.freeSlots(ctx, members)
	err = cmp.Or(err, failed)
	acks := make(map[uint16][]string)
	for _, o := range due {
		// Other kinds name what admission holds elsewhere; nothing does so yet.
		if lane, _, ok := o.slot(s.tag(o.part)); ok && unsettled[lane] {
			continue
		}
		acks[o.part] = append(acks[o.part], o.entry)
	}
	var reqs []request
	for p, entries := range acks {
		reqs = append(reqs, request{fn: "ff_outbox_ack", tag: s.tag(p), args: entries})
	}
	for _, a := range s.callMany(ctx, reqs) {
		got, failed := strs(a)
		if failed != nil {
			err = failed
			continue
		}
		res.Rows += int(toInt(got[0]))
	}
	res.More = res.More && err == nil
	return res, err
}

// sweepSlots compares the slots of lanes with a bound with the leases that hold
// them: frees those of leases that are over, and puts back those that were lost
// between a claim and its confirmation.
func (s *Store) sweepSlots(ctx context.Context, lanes []laneView) (res flowfabric.SweepResult, err error) {
	for _, l := range lanes {
		if l.MaxConcurrency <= 0 {
			continue
		}
		n, failed := s.correctSlots(ctx, l.LaneID)
		res.Rows += n
		err = cmp.Or(err, failed)
	}
	return res, err
}

func (s *Store) correctSlots(ctx context.Context, lane flowfabric.LaneID) (int, error) {
	// Holders first, leases second: whoever held a slot then and a lease still is
	// seen with it.
	holders, err := s.slotHolders(ctx, lane)
	if err != nil {
		return 0, err
	}
	leased := make(map[string]slotUse)
	leases, err := s.askAll(ctx, "ff_lane_slots", string(lane))
	if err != nil {
		return 0, err
	}
	for p, rows := range leases {
		for row := range slices.Chunk(rows, 2) {
			u := slotUse{id: flowfabric.ExecutionID(s.tag(uint16(p)) + ":" + row[0]), holder: row[1]}
			leased[slotMember(u.id, u.holder)] = u
		}
	}
	var over []string
	for _, m := range holders {
		if _, ok := leased[m]; !ok {
			over = append(over, m)
		}
		delete(leased, m)
	}
	lost := slots{lane: lane}
	var used []slotUse
	for _, u := range leased {
		used = append(used, u)
	}
	if len(over) > 0 {
		_, err = s.freeSlots(ctx, map[flowfabric.LaneID][]string{lane: over})
	}
	for some := range slices.Chunk(used, outboxBatch) {
		err = cmp.Or(err, s.settleSlots(ctx, lost, some...))
	}
	return len(over) + len(used), err
}

// slotHolders lists the leases that hold slots of a lane.
func (s *Store) slotHolders(ctx context.Context, lane flowfabric.LaneID) ([]string, error) {
	var cmd vk.Completed = s.b.Zrangebyscore().Key(keyPrefix + slotTag(lane)).Min("+inf").Max("+inf").Build()
	return strs(s.plain(ctx, cmd)[0])
}
