package backendtest

import (
	"slices"

	"github.com/flowfabric/flowfabric"
)

// column is one column of the transition table: how an execution gets there. The
// fence returned is the one a late caller would use; where a receipt would answer
// it, a strange one stands in its place.
type column struct {
	name  string
	reach func(s *scene) (flowfabric.ExecutionID, flowfabric.Fence)
}

func columns() []column {
	ended := func(end func(s *scene, id flowfabric.ExecutionID, task flowfabric.ClaimedExecution)) func(s *scene) (flowfabric.ExecutionID, flowfabric.Fence) {
		return func(s *scene) (flowfabric.ExecutionID, flowfabric.Fence) {
			id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":1000}}`))
			end(s, id, task)
			return id, strangeFence()
		}
	}
	return []column{
		{"W", func(s *scene) (flowfabric.ExecutionID, flowfabric.Fence) { return s.create(), strangeFence() }},
		{"W-paused", func(s *scene) (flowfabric.ExecutionID, flowfabric.Fence) {
			id, task := s.createClaimed()
			s.delay(task, 100)
			s.promote(id)
			return id, strangeFence()
		}},
		{"D", func(s *scene) (flowfabric.ExecutionID, flowfabric.Fence) {
			return s.create(withDelayUntil(s.now() + 3_600_000)), strangeFence()
		}},
		{"B", func(s *scene) (flowfabric.ExecutionID, flowfabric.Fence) {
			id := s.create()
			s.pause(id)
			return id, strangeFence()
		}},
		{"A", func(s *scene) (flowfabric.ExecutionID, flowfabric.Fence) {
			id, task := s.createClaimed()
			return id, task.Fence
		}},
		{"X-lapsed", func(s *scene) (flowfabric.ExecutionID, flowfabric.Fence) {
			id, task := s.createClaimed()
			s.lapse(task)
			return id, task.Fence
		}},
		{"X-revoked", func(s *scene) (flowfabric.ExecutionID, flowfabric.Fence) {
			id, task := s.createClaimed()
			s.revoke(id)
			return id, task.Fence
		}},
		{"S", func(s *scene) (flowfabric.ExecutionID, flowfabric.Fence) {
			id, task := s.createClaimed()
			s.suspendOn(task, flowfabric.OperatorOnly(), timesOut(3_600_000, flowfabric.TimeoutFail))
			return id, task.Fence
		}},
		{"T-success", ended(func(s *scene, _ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) { s.complete(task) })},
		{"T-failed", ended(func(s *scene, _ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) { s.fail(task, "") })},
		{"T-cancelled", ended(func(s *scene, id flowfabric.ExecutionID, _ flowfabric.ClaimedExecution) { s.operatorCancel(id) })},
		{"T-expired", ended(func(s *scene, id flowfabric.ExecutionID, _ flowfabric.ClaimedExecution) {
			s.advance(1000)
			s.tick()
		})},
	}
}

// row is one row of the transition table. An operation is either refused with a
// code, or accepted; an accepted one that changes nothing is a no-op.
type row struct {
	name string
	call func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence) error
	// refused gives the code per column; columns not named are accepted.
	refused map[string]flowfabric.Code
	// still are the accepting columns in which nothing may change.
	still []string
	// becomes gives the public state afterwards per accepting column.
	becomes map[string]flowfabric.PublicState
}

func every(code flowfabric.Code, except ...string) map[string]flowfabric.Code {
	m := make(map[string]flowfabric.Code)
	for _, c := range columns() {
		m[c.name] = code
	}
	for _, name := range except {
		delete(m, name)
	}
	return m
}

// everywhere names every column.
func everywhere() []string {
	var names []string
	for _, c := range columns() {
		names = append(names, c.name)
	}
	return names
}

func with(m map[string]flowfabric.Code, code flowfabric.Code, names ...string) map[string]flowfabric.Code {
	for _, n := range names {
		m[n] = code
	}
	return m
}

func all(state flowfabric.PublicState) map[string]flowfabric.PublicState {
	m := make(map[string]flowfabric.PublicState)
	for _, c := range columns() {
		m[c.name] = state
	}
	return m
}

// leaseBound are the refusals of an operation that only a valid lease admits.
func leaseBound() map[string]flowfabric.Code {
	m := every(flowfabric.CodeExecutionNotActive, "A")
	m["X-lapsed"] = flowfabric.CodeLeaseExpired
	m["X-revoked"] = flowfabric.CodeLeaseRevoked
	return m
}

func transitionRows() []row {
	terminal := []string{"T-success", "T-failed", "T-cancelled", "T-expired"}
	rows := []row{
		{
			name: "IssueClaimGrant",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.store().IssueClaimGrant(s.ctx, grantArgs(id, workerA, 5000))
				return err
			},
			refused: every(flowfabric.CodeExecutionNotEligible, "W", "W-paused"),
			still:   []string{"W", "W-paused"}, // a grant changes nothing in the state vector
		},
		{
			name: "ClaimGranted without a grant",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.consume(flowfabric.Grant{ExecutionID: id, GrantID: "no-such-grant", LaneID: testLane}, workerA)
				return err
			},
			refused: every(flowfabric.CodeInvalidClaimGrant),
		},
		{
			name: "IssueGrantAndClaim",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.tryClaim(id, workerB)
				return err
			},
			refused: with(every(flowfabric.CodeExecutionNotEligible, "W", "W-paused", "X-lapsed", "X-revoked"), flowfabric.CodeLeaseConflict, "A"),
			becomes: all(flowfabric.PublicActive),
		},
		{
			name: "MarkLeaseExpiredIfDue",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.store().MarkLeaseExpiredIfDue(s.ctx, id)
				return err
			},
			still: everywhere(),
		},
		{
			name: "RevokeLease",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id})
				return err
			},
			refused: every(flowfabric.CodeExecutionNotActive, "A", "X-lapsed", "X-revoked"),
			still:   []string{"X-lapsed", "X-revoked"},
			becomes: all(flowfabric.PublicActive),
		},
		{
			name: "CancelExecution by an operator",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride})
				return err
			},
			refused: map[string]flowfabric.Code{
				"T-success": flowfabric.CodeExecutionNotActive, "T-failed": flowfabric.CodeExecutionNotActive, "T-expired": flowfabric.CodeExecutionNotActive,
			},
			still:   []string{"T-cancelled"},
			becomes: all(flowfabric.PublicCancelled),
		},
		{
			name: "PromoteDelayed",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.store().PromoteDelayed(s.ctx, id)
				return err
			},
			still: everywhere(),
		},
		{
			name: "PauseExecution",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.Backend.PauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
				return err
			},
			refused: with(every(flowfabric.CodeExecutionNotEligible, "W", "W-paused"), flowfabric.CodeExecutionNotActive, terminal...),
			becomes: all(flowfabric.PublicWaiting),
		},
		{
			name: "UnpauseExecution",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.Backend.UnpauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
				return err
			},
			refused: every(flowfabric.CodeExecutionNotEligible, "B"),
			becomes: all(flowfabric.PublicWaiting),
		},
		{
			name: "ExpireExecution, attempt timeout not due",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.store().ExpireExecution(s.ctx, id, flowfabric.ExpireAttemptTimeout)
				return err
			},
			still: everywhere(),
		},
		{
			name: "ExpireExecution, no deadline",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.store().ExpireExecution(s.ctx, id, flowfabric.ExpireExecutionDeadline)
				return err
			},
			still: everywhere(),
		},
		{
			name: "ReplayExecution",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.Backend.ReplayExecution(s.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: id})
				return err
			},
			refused: every(flowfabric.CodeExecutionNotTerminal, terminal...),
			becomes: all(flowfabric.PublicWaiting),
		},
		{
			name: "ChangePriority",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.Backend.ChangePriority(s.ctx, flowfabric.ChangePriorityArgs{ExecutionID: id, Priority: 77})
				return err
			},
			refused: every(flowfabric.CodeExecutionNotEligible, "W", "W-paused"),
			becomes: all(flowfabric.PublicWaiting),
		},
		{
			name: "ResumeExecution",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.tryResume(id, nil)
				return err
			},
			refused: every(flowfabric.CodeExecutionNotSuspended, "S"),
			becomes: all(flowfabric.PublicWaiting),
		},
		{
			name: "ExpireSuspension, timeout not due",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.store().ExpireSuspension(s.ctx, id)
				return err
			},
			still: everywhere(),
		},
		{
			name: "SuspendForBudget with another epoch",
			call: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence) error {
				f.LeaseEpoch = 99
				_, err := s.store().SuspendForBudget(s.ctx, flowfabric.SuspendForBudgetArgs{ExecutionID: id, Fence: f, BudgetID: "b", Detail: "d"})
				return err
			},
			still: everywhere(),
		},
		{
			name: "Purge before its time",
			call: func(s *scene, id flowfabric.ExecutionID, _ flowfabric.Fence) error {
				_, err := s.store().Purge(s.ctx, id)
				return err
			},
			still: everywhere(),
		},
	}
	leaseBoundState := map[string]flowfabric.PublicState{
		"complete": flowfabric.PublicCompleted, "fail": flowfabric.PublicFailed, "delay": flowfabric.PublicDelayed,
		"cancel": flowfabric.PublicCancelled, "progress": flowfabric.PublicActive, "renew": flowfabric.PublicActive,
		"suspend": flowfabric.PublicSuspended, "create waitpoint": flowfabric.PublicActive,
	}
	for _, op := range fencedOps() {
		refused := leaseBound()
		if op.name == "suspend" {
			refused["S"] = flowfabric.CodeAlreadySuspended
		}
		rows = append(rows, row{
			name: "lease-bound " + op.name,
			call: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence) error {
				return op.call(s, id, f, flowfabric.SourceLeaseHolder)
			},
			refused: refused,
			becomes: all(leaseBoundState[op.name]),
		})
	}
	return rows
}

// transitionScenarios: specification 01, section 4.5: every operation in every
// column; a refusal changes nothing.
func transitionScenarios(r *runner) {
	for _, row := range transitionRows() {
		r.scenario("01.4.5 "+row.name, func(s *scene) {
			for _, c := range columns() {
				id, f := c.reach(s)
				if code, refused := row.refused[c.name]; refused {
					s.unchanged(id, func() {
						err := row.call(s, id, f)
						if flowfabric.CodeOf(err) != code {
							s.t.Errorf("column %s: %v%s, want %s", c.name, err, details(err), code)
						}
					})
					continue
				}
				if slices.Contains(row.still, c.name) {
					s.unchanged(id, func() {
						if err := row.call(s, id, f); err != nil {
							s.t.Errorf("column %s: %v%s", c.name, err, details(err))
						}
					})
					continue
				}
				if err := row.call(s, id, f); err != nil {
					s.t.Errorf("column %s: %v%s", c.name, err, details(err))
					continue
				}
				if got := s.publicState(id); got != row.becomes[c.name] {
					s.t.Errorf("column %s: public state is %s, want %s", c.name, got, row.becomes[c.name])
				}
			}
		})
	}

	r.scenario("01.4.5 SetExecutionTags keeps the state everywhere", func(s *scene) {
		for _, c := range columns() {
			id, _ := c.reach(s)
			before := s.vector(id)
			_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", "c"))
			s.ok(err)
			s.is(id, before)
		}
	})

	r.scenario("01.4.5 IssueReclaimGrant takes lapsed, revoked and paused executions alone", func(s *scene) {
		want := map[string]flowfabric.ClaimKind{"X-lapsed": flowfabric.ClaimReclaim, "X-revoked": flowfabric.ClaimReclaim, "W-paused": flowfabric.ClaimResume}
		for _, c := range columns() {
			id, _ := c.reach(s)
			s.unchanged(id, func() {
				got, err := s.reclaimGrant(id, workerB)
				s.ok(err)
				if kind, ok := want[c.name]; ok {
					s.equal("outcome in "+c.name, got.Outcome, flowfabric.ReclaimGranted)
					s.equal("kind in "+c.name, got.Grant.Kind, kind)
					return
				}
				s.equal("outcome in "+c.name, got.Outcome, flowfabric.ReclaimNotReclaimable)
				s.equal("detail in "+c.name, got.Detail, "execution_not_reclaimable")
			})
		}
	})
}
