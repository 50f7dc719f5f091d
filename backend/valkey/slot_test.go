package valkey

import (
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/google/uuid"
)

func TestSlots(t *testing.T) {
	r := openRouted(t)
	take := func(n int) slots {
		t.Helper()
		got, err := r.takeSlots(r.ctx, "a b", 3, n)
		r.ok(err)
		return got
	}
	one := flowfabric.MakeExecutionID(1, uuid.New())
	first := take(2)
	equal(t, "first", len(first.tokens), 2)
	second := take(5)
	equal(t, "what is left", len(second.tokens), 1)
	equal(t, "above the bound", len(take(1).tokens), 0)
	r.events()
	r.ok(r.settleSlots(r.ctx, first, slotUse{id: one, holder: first.tokens[0]}, slotUse{id: one, holder: first.tokens[1], lapsesAt: r.now + 5000}))
	equal(t, "events where all are used", r.events(), nil)
	r.ok(r.settleSlots(r.ctx, second))
	equal(t, "events of a slot that somebody wanted", r.events(), []string{"4 a b   1"})
	equal(t, "freed", len(take(2).tokens), 1)
	r.advance(4999)
	equal(t, "before the grant lapses", len(take(1).tokens), 0)
	r.advance(1)
	equal(t, "when it has", len(take(1).tokens), 1)
	r.advance(slotLapseMs)
	equal(t, "slots of a claim that never told", len(take(5).tokens), 2)
	// Beside the bound: a grant aimed at one execution.
	r.ok(r.settleSlots(r.ctx, slots{lane: "a b"}, slotUse{id: one, holder: "aimed", lapsesAt: r.now + 5000}))
	r.advance(slotLapseMs)
	equal(t, "without a bound", len(must(r.takeSlots(r.ctx, "free", 0, 7))(r).tokens), 7)
	_, err := r.freeSlots(r.ctx, map[flowfabric.LaneID][]string{"a b": {slotMember(one, first.tokens[0])}})
	r.ok(err)
	equal(t, "all free", len(take(5).tokens), 3)
}

func must[T any](v T, err error) func(*routed) T {
	return func(r *routed) T {
		r.t.Helper()
		r.ok(err)
		return v
	}
}

func TestNeverMoreSlotsThanTheBound(t *testing.T) {
	r := openRouted(t)
	const claimers, bound = 20, 7
	counts := make(chan int, claimers)
	for range claimers {
		go func() {
			got, err := r.takeSlots(r.ctx, "a", bound, 2)
			if err != nil {
				t.Error(err)
			}
			counts <- len(got.tokens)
		}()
	}
	sum := 0
	for range claimers {
		sum += <-counts
	}
	equal(t, "taken", sum, bound)
}

func TestSlotsOfLeasesAreFreedByTheOutbox(t *testing.T) {
	r := openRouted(t)
	const lane = flowfabric.LaneID("a:b c")
	r.bound(lane, 2)
	for range 3 {
		r.create(4, lane, "ns", "", 0)
	}
	held, err := r.takeSlots(r.ctx, lane, 2, 5)
	r.ok(err)
	ids := r.claim(4, lane, "ns", "", "i", held.tokens...)
	equal(t, "claimed", len(ids), 2)
	var used []slotUse
	for _, id := range ids {
		used = append(used, slotUse{id: id, holder: r.core(id, "slot")})
	}
	r.ok(r.settleSlots(r.ctx, held, used...))
	r.events()
	_, err = r.RevokeLease(r.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: ids[0], Reason: "r", RevokedBy: "operator"})
	r.ok(err)
	n, err := r.drainOutbox(r.ctx, 4)
	r.ok(err)
	equal(t, "drained", n, 1)
	equal(t, "one is free", len(must(r.takeSlots(r.ctx, lane, 2, 2))(r).tokens), 1)
	r.events()
	_, err = r.RevokeLease(r.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: ids[1], Reason: "r", RevokedBy: "operator"})
	r.ok(err)
	res, err := r.sweepOutbox(r.ctx)
	r.ok(err)
	equal(t, "swept", res, flowfabric.SweepResult{Rows: 1})
	r.hears(flowfabric.WakeLane, lane)
	res, err = r.sweepOutbox(r.ctx)
	r.ok(err)
	equal(t, "swept again", res, flowfabric.SweepResult{})
	last, err := r.takeSlots(r.ctx, lane, 2, 1)
	r.ok(err)
	id := r.claim(4, lane, "ns", "", "i", last.tokens...)[0]
	r.ok(r.settleSlots(r.ctx, last, slotUse{id: id, holder: r.core(id, "slot")}))
	_, err = r.RevokeLease(r.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, Reason: "r", RevokedBy: "operator"})
	r.ok(err)
	equal(t, "taken at once, whoever drains", len(must(r.takeSlots(r.ctx, lane, 2, 5))(r).tokens), 1)
}

func TestSlotsHealThemselves(t *testing.T) {
	r := openRouted(t)
	r.bound("a", 2)
	r.create(4, "a", "ns", "", 0)
	// A claim whose process died before it told.
	held, err := r.takeSlots(r.ctx, "a", 2, 1)
	r.ok(err)
	ids := r.claim(4, "a", "ns", "", "i", held.tokens...)
	r.advance(slotLapseMs)
	// A holder whose lease has never been, and one that is a grant.
	ghost := flowfabric.MakeExecutionID(5, uuid.New())
	r.ok(r.settleSlots(r.ctx, slots{lane: "a"}, slotUse{id: ghost, holder: "x"}, slotUse{id: ghost, holder: "g", lapsesAt: r.now + 5000}))
	res, err := r.SweepLanes(r.ctx)
	r.ok(err)
	equal(t, "corrected", res, flowfabric.SweepResult{Rows: 2})
	holders, err := r.slotHolders(r.ctx, "a")
	r.ok(err)
	equal(t, "holders", holders, []string{slotMember(ids[0], held.tokens[0])})
	equal(t, "beside the lease and the grant", len(must(r.takeSlots(r.ctx, "a", 2, 1))(r).tokens), 0)
	res, err = r.SweepLanes(r.ctx)
	r.ok(err)
	equal(t, "corrected by a second sweep", res, flowfabric.SweepResult{})
}
