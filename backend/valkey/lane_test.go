package valkey

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
	vk "github.com/valkey-io/valkey-go"
)

func TestLaneComesIntoBeingOnce(t *testing.T) {
	r := openRouted(t)
	_, err := r.GetLane(r.ctx, "a b:c")
	r.code(err, flowfabric.CodeLaneNotFound)
	lanes := make(chan flowfabric.Lane, 20)
	for range cap(lanes) {
		go func() {
			l, _, err := r.lane(r.ctx, "a b:c")
			if err != nil {
				t.Error(err)
			}
			lanes <- l
		}()
	}
	for range cap(lanes) {
		equal(t, "lane", <-lanes, flowfabric.Lane{LaneID: "a b:c", State: flowfabric.LaneActive, SchedulingWeight: 1, Revision: 1, CreatedAt: testEpoch, UpdatedAt: testEpoch})
	}
	page, err := r.ListLanes(r.ctx, flowfabric.ListLanesArgs{})
	r.ok(err)
	equal(t, "lanes", len(page.Lanes), 1)
}

func TestStrictLanes(t *testing.T) {
	r := openRouted(t, func(c *Config) { c.StrictLanes, c.Lanes = true, []flowfabric.LaneID{"configured"} })
	_, _, err := r.lane(r.ctx, "configured")
	r.ok(err)
	_, _, err = r.lane(r.ctx, "a")
	r.code(err, flowfabric.CodeLaneNotFound)
	_, err = r.SetLaneState(r.ctx, flowfabric.SetLaneStateArgs{LaneID: "a", State: flowfabric.LanePaused})
	r.code(err, flowfabric.CodeLaneNotFound)
	_, err = r.UpdateLane(r.ctx, flowfabric.UpdateLaneArgs{LaneID: "a"})
	r.code(err, flowfabric.CodeLaneNotFound)
	r.ok(r.DeclareLanes(r.ctx, []flowfabric.LaneID{"b", "a"}))
	r.ok(r.DeclareLanes(r.ctx, []flowfabric.LaneID{"a", "b"}))
	l, named, err := r.lane(r.ctx, "a")
	r.ok(err)
	equal(t, "lane", fmt.Sprintf("%v %v %v", l.State, l.Revision, named), "active 1 false")
}

func TestConcurrentUpdatesOfALaneAreAllKept(t *testing.T) {
	r := openRouted(t)
	const n = 16
	errs := make(chan error, n)
	for i := range n {
		go func() {
			_, err := r.UpdateLane(r.ctx, flowfabric.UpdateLaneArgs{LaneID: "a", TenantWeights: map[flowfabric.Namespace]int{"x": i + 1}})
			errs <- err
		}()
	}
	for range n {
		r.ok(<-errs)
	}
	l, err := r.GetLane(r.ctx, "a")
	r.ok(err)
	equal(t, "revision", l.Revision, uint64(n+1))
	old := l.Revision - 1
	_, err = r.UpdateLane(r.ctx, flowfabric.UpdateLaneArgs{LaneID: "a", ExpectedRevision: &old})
	r.code(err, flowfabric.CodeRevisionConflict)
	equal(t, "events", r.events(), []string{"4 a   1"})
}

func TestLaneIsRememberedForASecondUnlessTold(t *testing.T) {
	server := valkeytest.Take(t)
	r := joinRouted(t, server)
	other := joinRouted(t, server)
	for _, s := range []*routed{r, other} {
		_, _, err := s.lane(s.ctx, "a")
		s.ok(err)
	}
	was, err := r.readLane(r.ctx, "a")
	r.ok(err)
	paused, _, err := rules.SetLaneState(was.Lane, flowfabric.SetLaneStateArgs{LaneID: "a", State: flowfabric.LanePaused}, r.now)
	r.ok(err)
	_, ok, err := r.putLane(r.ctx, was, paused) // nobody is told
	r.ok(err)
	equal(t, "written", ok, true)
	state := func() flowfabric.LaneState {
		l, _, err := other.lane(other.ctx, "a")
		other.ok(err)
		return l.State
	}
	mine, _, err := r.lane(r.ctx, "a")
	r.ok(err)
	equal(t, "one's own change", mine.State, flowfabric.LanePaused)
	equal(t, "another's before a second has passed", state(), flowfabric.LaneActive)
	other.advance(1000)
	equal(t, "after a second", state(), flowfabric.LanePaused)
	r.setLane("a", flowfabric.LaneActive)
	other.hears(flowfabric.WakeLane, "a")
	equal(t, "after the notice", state(), flowfabric.LaneActive)
	if !other.adminNotice("lane a") || !other.adminNotice("worker ns") || other.adminNotice("library") {
		t.Error("a notice is not told from others")
	}
}

func TestChangesOfLanesArePublished(t *testing.T) {
	server := valkeytest.Take(t)
	r := joinRouted(t, server)
	got := make(chan string, 10)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	ready := make(chan struct{})
	client := server.Client()
	dedicated, release := client.Dedicate()
	defer release()
	_ = dedicated.SetPubSubHooks(vk.PubSubHooks{
		OnSubscription: func(vk.PubSubSubscription) { close(ready) },
		OnMessage:      func(m vk.PubSubMessage) { got <- m.Message },
	})
	r.ok(dedicated.Do(ctx, dedicated.B().Ssubscribe().Channel(channelAdmin).Build()).Error())
	<-ready
	r.setLane("a b", flowfabric.LanePaused)
	equal(t, "notice", <-got, "lane a b")
	r.register("ns", "i", []flowfabric.LaneID{"a b"})
	_, err := r.DeregisterWorker(r.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: "ns", WorkerInstanceID: "i", Reason: "bye"})
	r.ok(err)
	equal(t, "notice", <-got, "worker ns")
}

func TestLaneCountsAndDeletion(t *testing.T) {
	r := openRouted(t)
	for p := range uint16(testPartitions) {
		r.create(p, "a", "ns", "", 0)
		r.create(p, "a", "ns", "gpu", 3)
		r.advance(1)
		r.create(p, "b", "ns", "", 0)
	}
	for _, lane := range []flowfabric.LaneID{"a", "b"} {
		_, _, err := r.lane(r.ctx, lane)
		r.ok(err)
	}
	taken := r.claim(0, "a", "ns", "", "i")
	equal(t, "claimed", len(taken), 1)
	l, err := r.GetLane(r.ctx, "a")
	r.ok(err)
	equal(t, "states", len(l.Counts), len(flowfabric.PublicStates()))
	equal(t, "counts", fmt.Sprint(l.Counts[flowfabric.PublicWaiting], l.Counts[flowfabric.PublicActive]), "15 1")
	equal(t, "oldest", l.OldestEligibleAt, testEpoch) // by priority 3, whose members come first
	page, err := r.ListLanes(r.ctx, flowfabric.ListLanesArgs{After: "a"})
	r.ok(err)
	equal(t, "page", fmt.Sprintf("%v %v %v %v", page.Lanes[0].LaneID, page.Lanes[0].OldestEligibleAt-testEpoch, page.Lanes[0].Counts[flowfabric.PublicWaiting], page.More), "b 1 8 false")
	page, err = r.ListLanes(r.ctx, flowfabric.ListLanesArgs{Limit: 1})
	r.ok(err)
	equal(t, "page", fmt.Sprintf("%v %v", page.Lanes[0].LaneID, page.More), "a true")
	_, err = r.ListLanes(r.ctx, flowfabric.ListLanesArgs{Limit: -1})
	r.code(err, flowfabric.CodeInvalidInput)

	_, err = r.DeleteLane(r.ctx, "a")
	r.code(err, flowfabric.CodeLaneNotEmpty)
	r.setLane("a", flowfabric.LaneDisabled)
	_, err = r.DeleteLane(r.ctx, "a")
	equal(t, "live", r.code(err, flowfabric.CodeLaneNotEmpty).Details["live"], any(int64(16)))
	r.ok(r.DeclareLanes(r.ctx, []flowfabric.LaneID{"empty"}))
	r.setLane("empty", flowfabric.LaneDisabled)
	gone, err := r.DeleteLane(r.ctx, "empty")
	r.ok(err)
	equal(t, "gone", gone, true)
	gone, err = r.DeleteLane(r.ctx, "empty")
	r.ok(err)
	equal(t, "gone twice", gone, false)
	weights, err := r.LaneWeights(r.ctx)
	r.ok(err)
	equal(t, "lanes", len(weights), 2)
	_, _, err = r.lane(r.ctx, "empty")
	r.ok(err)
	weights, err = r.LaneWeights(r.ctx)
	r.ok(err)
	equal(t, "state of the lane made anew", weights["empty"].State, flowfabric.LaneActive)
}

func TestCountsOfALargePartition(t *testing.T) {
	r := openRouted(t)
	for range 40 {
		for range 64 {
			r.create(3, "a", "ns", "", 0)
		}
	}
	c, err := r.countLanes(r.ctx)
	r.ok(err)
	equal(t, "counted", fmt.Sprint(c.live("a"), c.examined), "2560 2560")
}

// Of a store that is too large to be counted every time, gauges get the depths from
// the indexes, and the rest as of the last count. (Specification 08, section 8.)
func TestSamplesOfLanesComeFromTheIndexes(t *testing.T) {
	r := openRouted(t)
	var ids []flowfabric.ExecutionID
	for p := range uint16(testPartitions) {
		ids = append(ids, r.create(p, "a", "ns", "", 0), r.create(p, "a", "ns", "gpu", 3))
	}
	r.create(1, "b", "ns", "", 0)
	for _, lane := range []flowfabric.LaneID{"a", "b", "idle"} {
		_, _, err := r.lane(r.ctx, lane)
		r.ok(err)
	}
	taken := append(r.claim(0, "a", "ns", "", "i"), r.claim(2, "a", "ns", "", "i")...)
	r.advance(30_000)
	_, err := r.MarkLeaseExpiredIfDue(r.ctx, taken[1]) // offered again, and still active
	r.ok(err)
	_, err = r.PauseExecution(r.ctx, flowfabric.BlockExecutionArgs{ExecutionID: ids[8]})
	r.ok(err)
	exact, err := r.ListLanes(r.ctx, flowfabric.ListLanesArgs{})
	r.ok(err)
	fresh, err := r.SampleLanes(r.ctx)
	r.ok(err)
	equal(t, "sample of a small store", fresh, exact.Lanes)

	r.routing.lanes.counts = &laneCounts{at: r.readNow(), took: time.Hour, by: map[flowfabric.LaneID]map[flowfabric.PublicState]int64{
		"a": {flowfabric.PublicCompleted: 7, flowfabric.PublicWaiting: 99}, "b": {flowfabric.PublicActive: 99}}}
	sample, err := r.SampleLanes(r.ctx)
	r.ok(err)
	exact.Lanes[0].Counts[flowfabric.PublicCompleted] = 7
	equal(t, "sample of a large store", sample, exact.Lanes)
	equal(t, "waiting, active", fmt.Sprint(sample[0].Counts[flowfabric.PublicWaiting], sample[0].Counts[flowfabric.PublicActive]), "14 2")
}

func TestDisabledLaneIsSweptBothWays(t *testing.T) {
	r := openRouted(t)
	var ids []flowfabric.ExecutionID
	for i := range 450 {
		ids = append(ids, r.create(1, "a", "ns", []string{"", "gpu"}[i%2], 0))
	}
	lapsed := r.claim(1, "a", "ns", "", "i")[0]
	_, err := r.RevokeLease(r.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: lapsed, Reason: "r", RevokedBy: "operator"})
	r.ok(err)
	other := r.create(1, "b", "ns", "", 0)
	first := r.setLane("a", flowfabric.LaneDisabled)
	equal(t, "unchanged", first.Unchanged, false)
	count := func(letter string) (n int) {
		for _, id := range ids {
			if strings.HasPrefix(r.core(id, "st"), letter) {
				n++
			}
		}
		return n
	}
	equal(t, "blocked by the change itself", count("L"), sweepBatch)
	sweep := func() {
		for range 10 {
			res, err := r.SweepLanes(r.ctx)
			r.ok(err)
			if !res.More {
				return
			}
		}
		t.Error("the sweep never ends")
	}
	sweep()
	equal(t, "blocked", count("L"), 449)
	equal(t, "the revoked lease", r.core(lapsed, "st"), "Vi")
	equal(t, "another lane", r.core(other, "st"), "Wf")
	equal(t, "claimed", len(r.claim(1, "a", "ns", "gpu", "i")), 0)
	late := r.create(1, "a", "ns", "", 0)
	sweep()
	equal(t, "a later arrival", r.core(late, "st"), "Lf")
	r.events()
	r.setLane("a", flowfabric.LaneActive)
	sweep()
	equal(t, "blocked after enabling", count("L")+count("W"), 449)
	equal(t, "waiting after enabling", count("W"), 449)
	equal(t, "claimed", len(r.claim(1, "a", "ns", "gpu", "i")), 1)
	res, err := r.SweepLanes(r.ctx)
	r.ok(err)
	equal(t, "a second sweep", res, flowfabric.SweepResult{})
}
