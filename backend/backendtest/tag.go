package backendtest

import (
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// tagScenarios: specification 01, section 8.9.
func tagScenarios(r *runner) {
	r.scenario("01.38 set, add, remove", func(s *scene) {
		id := s.create()
		n, err := s.Backend.SetExecutionTags(s.ctx, id, tags("cairn.a", "1", "cairn.b", "2"))
		s.ok(err)
		s.equal("count", n, 2)
		n, err = s.Backend.SetExecutionTags(s.ctx, id, tags("cairn.c", "3"))
		s.ok(err)
		s.equal("count", n, 1)
		s.equal("tags", s.describe(id).Tags, tags("cairn.a", "1", "cairn.b", "2", "cairn.c", "3"))
		n, err = s.Backend.SetExecutionTags(s.ctx, id, tags("cairn.a", "one"))
		s.ok(err)
		s.equal("count of an upsert", n, 1)
		removed, err := s.Backend.RemoveExecutionTag(s.ctx, id, "cairn.c")
		s.ok(err)
		s.that(removed, "the tag was not removed")
		s.unchanged(id, func() {
			removed, err = s.Backend.RemoveExecutionTag(s.ctx, id, "cairn.c")
			s.ok(err)
			s.that(!removed, "removed twice")
		})
		got, err := s.Backend.GetExecutionTags(s.ctx, id)
		s.ok(err)
		s.equal("tags", got, tags("cairn.a", "one", "cairn.b", "2"))
	})

	r.scenario("01.38 malformed keys are refused whole", func(s *scene) {
		id := s.create(withTags("a.b", "c"))
		s.unchanged(id, func() {
			for _, key := range []string{"no_dot", "Cairn.x", "cairn.", "cairn..x", "a.b-c", ".x", "1a.b", "", "a." + strings.Repeat("x", 255)} {
				_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("ok.key", "v", key, "v"))
				s.that(err != nil, "key %q was accepted", key)
				s.assertCode(err, flowfabric.CodeInvalidTagKey)
				_, err = s.Backend.RemoveExecutionTag(s.ctx, id, key)
				s.that(err != nil, "key %q was accepted by the removal", key)
				s.assertCode(err, flowfabric.CodeInvalidTagKey)
				_, err = s.tryCreate(withTags(key, "v"))
				s.assertCode(err, flowfabric.CodeInvalidTagKey)
			}
			_, err := s.Backend.SetExecutionTags(s.ctx, id, nil)
			s.assertCode(err, flowfabric.CodeInvalidInput)
			_, err = s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", strings.Repeat("v", 4097)))
			s.assertCode(err, flowfabric.CodeInvalidInput)
			_, err = s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", "\xff"))
			s.assertCode(err, flowfabric.CodeInvalidInput)
		})
		_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a."+strings.Repeat("x", 254), strings.Repeat("v", 4096), "a_1.b.c_2", "é"))
		s.ok(err)
	})

	r.scenario("01.38 a missing execution has no tags and takes none", func(s *scene) {
		id := idOn(2)
		got, err := s.Backend.GetExecutionTags(s.ctx, id)
		s.ok(err)
		s.equal("tags", len(got), 0)
		_, err = s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", "c"))
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
		_, err = s.Backend.SetExecutionTags(s.ctx, id, tags("bad", "c"))
		s.assertCode(err, flowfabric.CodeInvalidTagKey)
	})

	r.scenario("01.8.9 at most 128 tags after the merge", func(s *scene) {
		many := make(map[string]string)
		for i := range 128 {
			many[fmt.Sprintf("a.k%d", i)] = "v"
		}
		id := s.create(func(a *flowfabric.CreateExecutionArgs) { a.Tags = many })
		s.unchanged(id, func() {
			_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a.one_more", "v"))
			s.assertCode(err, flowfabric.CodeInvalidInput)
		})
		_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a.k0", "again"))
		s.ok(err)
		many["a.k128"] = "v"
		_, err = s.tryCreate(func(a *flowfabric.CreateExecutionArgs) { a.Tags = many })
		s.assertCode(err, flowfabric.CodeInvalidInput)
	})

	r.scenario("01.8.9 tags may be set in every phase, and each write is a mutation", func(s *scene) {
		id, task := s.createClaimed(withTags("a.b", "c"))
		s.complete(task)
		v := s.vector(id)
		before := s.describe(id)
		s.advance(5)
		_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", "c"))
		s.ok(err)
		after := s.describe(id)
		s.equal("last_mutation_at", after.LastMutationAt, before.LastMutationAt+5)
		s.equal("last_transition_at", after.LastTransitionAt, before.LastTransitionAt)
		s.is(id, v)
	})
}
