package backendtest

import (
	"fmt"
	"slices"

	"github.com/flowfabric/flowfabric"
)

// listScenarios: specification 01, section 8.12.
func listScenarios(r *runner) {
	r.scenario("01.37 fifteen executions in pages of five", func(s *scene) {
		var want []flowfabric.ExecutionID
		for range 15 {
			want = append(want, s.create(onPartition(testPartition)))
		}
		slices.Sort(want)
		s.create(onPartition(testPartition + 1))
		var got []flowfabric.ExecutionID
		var cursors []bool
		var cursor flowfabric.ExecutionID
		for range 3 {
			page, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition, Limit: 5, Cursor: cursor})
			s.ok(err)
			s.equal("page size", len(page.Executions), 5)
			got = append(got, summaryIDs(page.Executions)...)
			cursor = page.NextCursor
			cursors = append(cursors, cursor != "")
		}
		s.equal("identifiers", got, want)
		s.equal("cursors", cursors, []bool{true, true, false})
		page, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition})
		s.ok(err)
		s.equal("default limit takes all", len(page.Executions), 15)
	})

	r.scenario("01.37 limits and cursors are refused, not clamped", func(s *scene) {
		for _, limit := range []int{-1, 1001} {
			_, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition, Limit: limit})
			s.assertField(err, "limit")
		}
		for _, cursor := range []flowfabric.ExecutionID{"nonsense", idOn(testPartition + 1)} {
			_, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition, Cursor: cursor})
			s.assertCode(err, flowfabric.CodeInvalidCursor)
		}
		_, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: 60_000})
		s.assertField(err, "partition")
	})

	r.scenario("01.8.12 the summary shows the record", func(s *scene) {
		id := s.create(onPartition(testPartition), withKind("k"), withPriority(9))
		s.operatorCancel(id)
		page, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition})
		s.ok(err)
		s.equal("rows", page.Executions, []flowfabric.ExecutionSummary{{
			ExecutionID: id, Namespace: testNamespace, LaneID: testLane, Kind: "k",
			PublicState: flowfabric.PublicCancelled, Priority: 9, CreatedAt: s.describe(id).CreatedAt,
		}})
	})

	r.scenario("01.8.12 all filters must hold", func(s *scene) {
		at := onPartition(testPartition)
		plainID := s.create(at)
		tagged := s.create(at, withTags("a.x", "1", "a.y", "2"))
		other := s.create(at, withNamespace("other"), withLane("other"), withKind("other"))
		done := s.create(at)
		s.operatorCancel(done)
		for name, c := range map[string]struct {
			args flowfabric.ListExecutionsArgs
			want []flowfabric.ExecutionID
		}{
			"namespace":      {flowfabric.ListExecutionsArgs{Namespace: "other"}, []flowfabric.ExecutionID{other}},
			"namespaces":     {flowfabric.ListExecutionsArgs{Namespaces: []flowfabric.Namespace{"other", "none"}}, []flowfabric.ExecutionID{other}},
			"no namespace":   {flowfabric.ListExecutionsArgs{Namespaces: []flowfabric.Namespace{}}, nil},
			"lane":           {flowfabric.ListExecutionsArgs{LaneID: "other"}, []flowfabric.ExecutionID{other}},
			"kind":           {flowfabric.ListExecutionsArgs{Kind: "other"}, []flowfabric.ExecutionID{other}},
			"state":          {flowfabric.ListExecutionsArgs{PublicStates: []flowfabric.PublicState{flowfabric.PublicCancelled}}, []flowfabric.ExecutionID{done}},
			"states":         {flowfabric.ListExecutionsArgs{PublicStates: []flowfabric.PublicState{flowfabric.PublicCancelled, flowfabric.PublicWaiting}}, []flowfabric.ExecutionID{plainID, tagged, other, done}},
			"flow":           {flowfabric.ListExecutionsArgs{FlowID: "0190f3c2-7b1a-7c3d-8e4f-0123456789ab"}, nil},
			"tag":            {flowfabric.ListExecutionsArgs{Tags: tags("a.x", "1")}, []flowfabric.ExecutionID{tagged}},
			"tags":           {flowfabric.ListExecutionsArgs{Tags: tags("a.x", "1", "a.y", "2")}, []flowfabric.ExecutionID{tagged}},
			"one tag of two": {flowfabric.ListExecutionsArgs{Tags: tags("a.x", "1", "a.y", "3")}, nil},
			"kind and state": {flowfabric.ListExecutionsArgs{Kind: "other", PublicStates: []flowfabric.PublicState{flowfabric.PublicCancelled}}, nil},
		} {
			if c.args.Namespaces != nil && s.Remote {
				continue // a token decides there
			}
			c.args.Partition = testPartition
			page, err := s.Backend.ListExecutions(s.ctx, c.args)
			s.ok(err)
			slices.Sort(c.want)
			s.equal("filter by "+name, summaryIDs(page.Executions), c.want)
			s.equal("cursor of "+name, page.NextCursor, flowfabric.ExecutionID(""))
		}
		_, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition, PublicStates: []flowfabric.PublicState{"nope"}})
		s.assertCode(err, flowfabric.CodeInvalidInput)
	})

	r.scenario("01.8.12 a filtered page goes on behind its cursor", func(s *scene) {
		var want []flowfabric.ExecutionID
		for i := range 12 {
			id := s.create(onPartition(testPartition), withKind([]string{"odd", "even"}[i%2]))
			if i%2 == 0 {
				want = append(want, id)
			}
		}
		slices.Sort(want)
		var got []flowfabric.ExecutionID
		args := flowfabric.ListExecutionsArgs{Partition: testPartition, Kind: "odd", Limit: 4}
		for range 12 {
			page, err := s.Backend.ListExecutions(s.ctx, args)
			s.ok(err)
			got = append(got, summaryIDs(page.Executions)...)
			if page.NextCursor == "" {
				break
			}
			args.Cursor = page.NextCursor
		}
		s.equal("identifiers", got, want)
	})

	r.scenario("01.8.12 forward only: created later, purged between pages", func(s *scene) {
		at := func(n int) flowfabric.ExecutionID {
			return flowfabric.ExecutionID(fmt.Sprintf("{fp:7}:%08d-0000-4000-8000-000000000000", n))
		}
		for _, n := range []int{10, 20, 30} {
			s.create(withID(at(n)), withPolicy(`{"retention_ms":0}`))
		}
		page, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: 7, Limit: 1})
		s.ok(err)
		s.equal("cursor", page.NextCursor, at(10))
		s.create(withID(at(5)))
		s.create(withID(at(15)))
		s.operatorCancel(at(20))
		_, err = s.store().Purge(s.ctx, at(20))
		s.ok(err)
		page, err = s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: 7, Cursor: page.NextCursor})
		s.ok(err)
		s.equal("the rest", summaryIDs(page.Executions), []flowfabric.ExecutionID{at(15), at(30)})
	})
}
