package backendtest

import (
	"fmt"

	"github.com/flowfabric/flowfabric"
)

// reviewScenarios are corners found by reading the stores against specification
// 01 and 02: bad records in the way of good ones, passes over many members, and
// repeats after the world has changed.
func reviewScenarios(r *runner) {
	r.scenario("01.9 a bad record at the head of the order hides nothing behind it", func(s *scene) {
		for range 3 {
			s.corrupt(s.create(onPartition(testPartition), withPriority(100)), "public_state")
		}
		first, second := s.create(onPartition(testPartition), withPriority(2)), s.create(onPartition(testPartition), withPriority(1))
		s.equal("task", taskIDs(s.takeTasks(workerA, 1)), []flowfabric.ExecutionID{first})
		g := s.ask(workerA)
		s.that(g != nil && g.ExecutionID == second, "granted %+v, want %s", g, second)
		s.equal("no more", len(s.takeTasks(workerA, 1)), 0)
	})

	r.scenario("02.9 a bad record stops neither the disabling nor the enabling of its lane", func(s *scene) {
		s.corrupt(s.create(withPriority(100)), "public_state")
		id := s.create()
		s.laneIs(testLane, flowfabric.LaneDisabled)
		s.sweepLanes()
		s.equal("eligibility", s.vector(id).EligibilityState, flowfabric.BlockedByLaneState)
		s.laneIs(testLane, flowfabric.LaneActive)
		s.sweepLanes()
		s.equal("eligibility", s.vector(id).EligibilityState, flowfabric.EligibleNow)
	})

	r.scenario("02.9 enabling finds its members behind any number of others that wait", func(s *scene) {
		paused := s.backlog(1100, func(int) []createOption { return []createOption{withPriority(10)} })
		for _, id := range paused {
			s.pause(id)
		}
		members := s.backlog(3, func(i int) []createOption { return []createOption{withPriority(int32(i))} })
		s.laneIs(testLane, flowfabric.LaneDisabled)
		s.sweepLanes()
		for _, id := range members {
			s.equal("eligibility", s.vector(id).EligibilityState, flowfabric.BlockedByLaneState)
		}
		s.laneIs(testLane, flowfabric.LaneActive)
		s.sweepLanes()
		for _, id := range members {
			s.equal("eligibility", s.vector(id).EligibilityState, flowfabric.EligibleNow)
		}
		s.equal("still paused", s.vector(paused[0]).EligibilityState, flowfabric.BlockedByOperator)
	})

	r.scenario("02.5.6 a repeated direct claim is answered although the lane was disabled", func(s *scene) {
		args := directArgs(s.create(), workerA)
		first, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
		s.ok(err)
		s.laneIs(testLane, flowfabric.LaneDisabled)
		s.settleLanes()
		again, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
		s.ok(err)
		s.that(again.Replayed, "not a replay")
		s.equal("fence", again.Fence, first.Fence)
	})

	r.scenario("01.8.9 more tags than an execution may have are refused before it is looked for", func(s *scene) {
		many := make(map[string]string)
		for i := range flowfabric.MaxTags + 1 {
			many[fmt.Sprintf("a.t%d", i)] = "v"
		}
		_, err := s.Backend.SetExecutionTags(s.ctx, idOn(1), many)
		s.assertField(err, "tags")
	})

	r.scenario("01.8.9 a bad record refuses only the writes that mean it", func(s *scene) {
		bad := s.create(onPartition(testPartition))
		s.corrupt(bad, "public_state")
		_, err := s.Backend.SetExecutionTags(s.ctx, bad, tags("a.b", "c"))
		s.assertCode(err, flowfabric.CodeCorruptRecord)
		_, err = s.tryClaim(bad, workerA)
		s.assertCode(err, flowfabric.CodeCorruptRecord)
		_, err = s.store().Purge(s.ctx, bad)
		s.assertCode(err, flowfabric.CodeCorruptRecord)
	})
}
