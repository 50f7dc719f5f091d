package valkey

import (
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// refusalPrefix is the first word of every refusal, so that the server's error
// statistics have one entry for all of them.
const refusalPrefix = "FF "

// refusal turns "code|detail|detail…", as refuse of lua/helpers.lua writes it,
// into the error that internal/rules makes for the code: the same message and
// the same details. op names the operation. A code nobody knows is a bug and
// keeps the text.
func refusal(op, text string) *flowfabric.Error { return refusalAt(op, "", text) }

// refusalAt is refusal for a call on the partition with the tag, which completes
// the identifiers of executions.
func refusalAt(op, tag, text string) *flowfabric.Error {
	d := details{rest: text, tag: tag, op: op}
	code := flowfabric.Code(d.next())
	e := makeRefusal(code, &d)
	e.Op = op
	return e
}

// itemRefused returns the error of an item of a batch, whose answer is
// "!code|detail…"; ok is false when the item is no refusal.
func itemRefused(op, tag, item string) (err *flowfabric.Error, ok bool) {
	if len(item) == 0 || item[0] != '!' {
		return nil, false
	}
	return refusalAt(op, tag, item[1:]), true
}

// details reads the details of a refusal one after the other.
type details struct {
	rest, tag, op string
}

// next takes the next detail, "" when there is none left.
func (d *details) next() string {
	head, rest, _ := strings.Cut(d.rest, "|")
	d.rest = rest
	return head
}

// text takes all that is left, bars included.
func (d *details) text() string {
	rest := d.rest
	d.rest = ""
	return rest
}

func (d *details) int() int64 {
	n, _ := strconv.ParseInt(d.next(), 10, 64) // what is no number shows as 0
	return n
}

func (d *details) epoch() uint64 {
	n, _ := strconv.ParseUint(d.next(), 10, 64)
	return n
}

// execution completes the UUID of an execution by the partition's tag.
func (d *details) execution(uuid string) string {
	if d.tag == "" || strings.HasPrefix(uuid, "{") {
		return uuid
	}
	return d.tag + ":" + uuid
}

func makeRefusal(code flowfabric.Code, d *details) *flowfabric.Error {
	switch code {
	case flowfabric.CodeExecutionNotFound:
		if uuid := d.next(); uuid != "" {
			return notFound(flowfabric.ExecutionID(d.execution(uuid)))
		}
		return flowfabric.NewError(code, "no such execution")
	case flowfabric.CodeExecutionNotActive:
		e := flowfabric.NewError(code, "execution is %s", d.next())
		e = e.With("terminal_outcome", d.next()).With("lease_epoch", d.epoch())
		return e.With("lifecycle_phase", d.next()).With("attempt_id", d.next())
	case flowfabric.CodeLeaseExpired:
		e := flowfabric.NewError(code, "the lease expired at %d", d.int())
		return e.With("lease_epoch", d.epoch())
	case flowfabric.CodeLeaseRevoked:
		epoch := d.epoch()
		return flowfabric.NewError(code, "the lease was revoked: %s", d.text()).With("lease_epoch", epoch)
	case flowfabric.CodeStaleLease:
		return flowfabric.NewError(code, "the fence does not name the current lease and attempt").With("lease_epoch", d.epoch())
	case flowfabric.CodeExecutionNotEligible:
		state, eligibility := d.next(), d.next()
		return flowfabric.NewError(code, "execution is %s, %s", state, eligibility).
			With("public_state", state).With("eligibility_state", eligibility)
	case flowfabric.CodeExecutionNotLeaseable:
		state, outcome := d.next(), d.next()
		eligibility := d.next()
		if eligibility == "" {
			eligibility = eligibilityOf(flowfabric.PublicState(state))
		}
		return flowfabric.NewError(code, "execution is %s, %s", state, eligibility).
			With("public_state", state).With("terminal_outcome", outcome)
	case flowfabric.CodeExecutionNotReclaimable:
		state, ownership := d.next(), d.next()
		return flowfabric.NewError(code, "execution is %s, %s", state, ownership).
			With("public_state", state).With("ownership_state", ownership)
	case flowfabric.CodeLeaseConflict:
		return flowfabric.NewError(code, "the execution is leased until %d", d.int())
	case flowfabric.CodeActiveAttemptExists:
		return flowfabric.NewError(code, "execution %s has a running attempt without lease", d.execution(d.next()))
	case flowfabric.CodeExecutionNotTerminal:
		state := d.next()
		return flowfabric.NewError(code, "execution is %s", state).With("public_state", state)
	case flowfabric.CodeMaxReplaysExhausted:
		count, limit := uint32(d.int()), uint32(d.int())
		return flowfabric.NewError(code, "%d of %d replays used", count, limit).
			With("replay_count", count).With("max_replay_count", limit)
	}
	return makeClaimRefusal(code, d)
}

// makeClaimRefusal goes on with the refusals of grants, claims, lanes and the
// registry.
func makeClaimRefusal(code flowfabric.Code, d *details) *flowfabric.Error {
	switch code {
	case flowfabric.CodeGrantAlreadyExists:
		return flowfabric.NewError(code, "a live grant exists")
	case flowfabric.CodeCapabilityMismatch:
		missing := d.text()
		return flowfabric.NewError(code, "missing %s", missing).With("missing", strings.Split(missing, ","))
	case flowfabric.CodeInvalidClaimGrant:
		return flowfabric.NewError(code, "no such grant for this worker and lane")
	case flowfabric.CodeClaimGrantExpired:
		return flowfabric.NewError(code, "the grant expired at %d", d.int())
	case flowfabric.CodeUseClaimResumedExecution:
		return flowfabric.NewError(code, "the execution has a paused attempt")
	case flowfabric.CodeNotAResumedExecution:
		return flowfabric.NewError(code, "the execution has no paused attempt")
	case flowfabric.CodeReclaimCapExceeded:
		count, limit := uint32(d.int()), uint32(d.int())
		return flowfabric.NewError(code, "%d of %d reclaims used; the execution has ended", count, limit).
			With("reclaim_count", count).With("max_reclaim_count", limit)
	case flowfabric.CodeLaneIntakeClosed:
		lane, state := d.next(), d.next()
		return flowfabric.NewError(code, "lane %s is %s", lane, state).With("state", state).With("lane_id", lane)
	case flowfabric.CodeDuplicateWorkerInstance:
		instance, expires := d.next(), d.int()
		return flowfabric.NewError(code, "instance %s is registered by another process until %d", instance, expires).
			With("worker_instance_id", instance).With("expires_at", expires)
	case flowfabric.CodeInstanceIDReassigned:
		instance, worker := d.next(), d.next()
		return flowfabric.NewError(code, "instance %s belongs to worker %s", instance, worker).
			With("worker_instance_id", instance).With("worker_id", worker)
	case flowfabric.CodeInvariantViolation:
		rule := d.next()
		return flowfabric.NewError(code, "%s: %s", rule, d.text()).With("rule", rule)
	case flowfabric.CodeCorruptRecord:
		field := d.next()
		return flowfabric.NewError(code, "%s: %s: %s", d.op, field, d.text()).With("field", field).With("operation", d.op)
	case "expected_replay_count":
		want, stored := d.int(), d.int()
		return flowfabric.InvalidInput("expected_replay_count", "is %d, the execution was replayed %d times", want, stored)
	case "too_many_tags":
		n := int(d.int())
		return flowfabric.InvalidInput("tags", "has %d pairs, limit %d", n, flowfabric.MaxTags).
			With("limit", flowfabric.MaxTags).With("actual", n)
	}
	if e := makeWaitRefusal(code, d); e != nil {
		return e
	}
	text := d.text()
	if _, known := code.Info(); known {
		return flowfabric.NewError(code, "%s", strings.ReplaceAll(text, "|", " "))
	}
	return flowfabric.NewError(flowfabric.CodeInternal, "the library refused with %q", string(code)+"|"+text)
}

// eligibilityOf is the eligibility a public state goes with, for messages only.
func eligibilityOf(s flowfabric.PublicState) string {
	switch s {
	case flowfabric.PublicDelayed:
		return string(flowfabric.NotEligibleUntilTime)
	case flowfabric.PublicWaitingChildren:
		return string(flowfabric.BlockedByDependencies)
	case flowfabric.PublicWaiting, flowfabric.PublicRateLimited:
		return string(flowfabric.EligibleNow)
	}
	return string(flowfabric.EligibilityNotApplicable)
}

func notFound(id flowfabric.ExecutionID) *flowfabric.Error {
	return flowfabric.NewError(flowfabric.CodeExecutionNotFound, "no execution %s", id)
}
