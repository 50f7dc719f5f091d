package rules

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"sync"

	"github.com/flowfabric/flowfabric"
)

// PrepareCreate validates a create, mints the identifier when none is given,
// reads the policy, merged over the lane's default, and computes the spec digest
// over kind, lane, payload and the policy as given. (Specification 01, section
// 8.1.)
func PrepareCreate(args flowfabric.CreateExecutionArgs, parts flowfabric.PartitionConfig, laneDefault json.RawMessage) (*Prepared, error) {
	if err := validateCreate(&args, parts); err != nil {
		return nil, err
	}
	given, givenJSON, err := readPolicy(args.Policy)
	if err != nil {
		return nil, err
	}
	policy, policyJSON := given, givenJSON
	if len(laneDefault) > 0 {
		merged, err := flowfabric.MergePolicy(laneDefault, args.Policy)
		if err != nil {
			return nil, err
		}
		if policy, policyJSON, err = readPolicy(merged); err != nil {
			return nil, err
		}
	}
	fillCreate(&args, policy, parts)
	p := &Prepared{Args: args, PolicyJSON: policyJSON, DelayUntil: args.DelayUntil, DeadlineAt: args.ExecutionDeadlineAt}
	if args.IdempotencyKey != "" {
		p.DedupWindowMs = DedupWindowMs(policy)
	}
	p.DeadlineMs = ExecutionDeadlineMs(policy)
	if p.DeadlineAt != 0 && p.DeadlineMs != 0 {
		policy, p.PolicyJSON, p.DeadlineMs = displaceDeadline(policy)
	}
	p.State = State{Policy: policy, Tags: args.Tags, Exec: flowfabric.Execution{
		ExecutionID: args.ExecutionID, Namespace: args.Namespace, LaneID: args.LaneID, Kind: args.Kind,
		CreatorIdentity: args.CreatorIdentity, IdempotencyKey: args.IdempotencyKey,
		SpecDigest:           specDigest(&args, givenJSON),
		RequiredCapabilities: RequiredCapabilities(policy),
		BudgetIDs:            policy.BudgetIDs, QuotaPolicyIDs: policy.QuotaPolicyIDs, EstimatedUsage: policy.EstimatedUsage,
		Priority: *args.Priority,
	}}
	return p, nil
}

// ValidateCreate checks all of a create that needs neither partition
// configuration nor lane: identifiers, limits, tags, policy.
func ValidateCreate(args flowfabric.CreateExecutionArgs) error {
	any := flowfabric.PartitionConfig{NumFlowPartitions: 1 << 16, NumBudgetPartitions: 1, NumQuotaPartitions: 1}
	if args.FlowID != "" { // where the flow lies is known to the store alone
		if err := flowfabric.ValidateUUID("flow_id", string(args.FlowID)); err != nil {
			return err
		}
		args.FlowID = ""
	}
	if err := validateCreate(&args, any); err != nil {
		return err
	}
	_, _, err := readPolicy(args.Policy)
	return err
}

func validateCreate(a *flowfabric.CreateExecutionArgs, parts flowfabric.PartitionConfig) error {
	if err := validatePlace(a, parts); err != nil {
		return err
	}
	if err := a.Namespace.Validate(); err != nil {
		return err
	}
	if err := a.LaneID.Validate(); err != nil {
		return err
	}
	if err := validateKind(a.Kind); err != nil {
		return err
	}
	if err := validateText("creator_identity", a.CreatorIdentity, 1, flowfabric.MaxCreatorIdentityBytes); err != nil {
		return err
	}
	if err := validateLine("idempotency_key", a.IdempotencyKey, 0, flowfabric.MaxIdempotencyKeyBytes); err != nil {
		return err
	}
	if err := validateEncoding("payload_encoding", a.PayloadEncoding); err != nil {
		return err
	}
	if a.DelayUntil < 0 {
		return flowfabric.InvalidInput("delay_until", "must not be negative")
	}
	if a.ExecutionDeadlineAt < 0 {
		return flowfabric.InvalidInput("execution_deadline_at", "must not be negative")
	}
	if err := validateTags(a.Tags); err != nil {
		return err
	}
	if len(a.Tags) > flowfabric.MaxTags {
		return tooManyTags(len(a.Tags))
	}
	return validatePayload("payload", a.Payload)
}

// validatePlace checks identifier and flow, and that they agree.
func validatePlace(a *flowfabric.CreateExecutionArgs, parts flowfabric.PartitionConfig) error {
	if a.ExecutionID != "" {
		if err := ValidateExecutionID(a.ExecutionID, parts); err != nil {
			return err
		}
	}
	if a.FlowID == "" {
		return nil
	}
	if err := flowfabric.ValidateUUID("flow_id", string(a.FlowID)); err != nil {
		return err
	}
	if a.ExecutionID == "" {
		return nil
	}
	return agree(a.ExecutionID, a.FlowID, parts)
}

func agree(id flowfabric.ExecutionID, flow flowfabric.FlowID, parts flowfabric.PartitionConfig) error {
	want := parts.FlowPartition(flow)
	if id.Partition() == want {
		return nil
	}
	return flowfabric.NewError(flowfabric.CodePartitionMismatch, "execution lies on partition %d, its flow on %d", id.Partition(), want).
		With("execution_partition", id.Partition()).With("flow_partition", want)
}

// fillCreate fills in the identifier, the encoding, and what the policy says
// where the arguments say nothing.
func fillCreate(a *flowfabric.CreateExecutionArgs, policy *flowfabric.Policy, parts flowfabric.PartitionConfig) {
	switch {
	case a.ExecutionID != "":
	case a.FlowID != "":
		a.ExecutionID = parts.NewFlowExecutionID(a.FlowID)
	default:
		a.ExecutionID = parts.NewExecutionID(a.LaneID)
	}
	if a.PayloadEncoding == "" {
		a.PayloadEncoding = defaultEncoding
	}
	priority := int64(0)
	switch {
	case a.Priority != nil:
		priority = int64(*a.Priority)
	case policy.Priority != nil:
		priority = *policy.Priority
	}
	clamped := clampPriority(priority)
	a.Priority = &clamped
	if a.DelayUntil == 0 && policy.DelayUntil != nil {
		a.DelayUntil = *policy.DelayUntil
	}
}

func clampPriority(n int64) int32 {
	return int32(min(max(n, 0), flowfabric.MaxPriority))
}

var emptyPolicyJSON = []byte("{}")

// readPolicy parses a policy and returns it with its canonical text. Both may be
// shared with other executions and are never written to.
func readPolicy(raw json.RawMessage) (*flowfabric.Policy, []byte, error) {
	if len(raw) == 0 || string(raw) == "{}" || string(raw) == "null" {
		return defaultPolicy, emptyPolicyJSON, nil
	}
	if known, ok := policies.find(raw); ok {
		return known.policy, known.text, nil
	}
	p, err := flowfabric.ParsePolicy(raw)
	if err != nil {
		return nil, nil, err
	}
	text := p.JSON()
	policies.keep(raw, parsedPolicy{p, text})
	return p, text, nil
}

// policies remembers policies read before: most creates of a deployment carry
// one of a few documents.
var policies policyCache

const (
	maxCachedPolicies    = 512
	maxCachedPolicyBytes = 4096
)

type parsedPolicy struct {
	policy *flowfabric.Policy
	text   []byte
}

// policyCache keeps parsed policies by the document as given. When it is full it
// starts anew.
type policyCache struct {
	mu    sync.RWMutex
	known map[string]parsedPolicy
}

func (c *policyCache) find(raw []byte) (parsedPolicy, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	p, ok := c.known[string(raw)]
	return p, ok
}

func (c *policyCache) keep(raw []byte, p parsedPolicy) {
	if len(raw) > maxCachedPolicyBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) == maxCachedPolicies {
		c.known = make(map[string]parsedPolicy)
	}
	c.known[string(raw)] = p
}

// displaceDeadline takes the duration of the deadline out of the frozen policy
// when an absolute one was given, which wins. So a replay can tell an absolute
// deadline, which it keeps or drops, from a duration, which starts anew.
func displaceDeadline(policy *flowfabric.Policy) (*flowfabric.Policy, []byte, int64) {
	p := *policy
	timeouts := *policy.TimeoutPolicy
	timeouts.ExecutionDeadlineMs = nil
	p.TimeoutPolicy = &timeouts
	return &p, p.JSON(), 0
}

// specDigest is SHA-256 over kind, lane, payload and canonical policy, each
// preceded by its length.
func specDigest(a *flowfabric.CreateExecutionArgs, policyJSON []byte) string {
	var stack [1024]byte
	size := 4*8 + len(a.Kind) + len(a.LaneID) + len(a.Payload) + len(policyJSON)
	var sum [sha256.Size]byte
	if size <= len(stack) {
		buf := stack[:0]
		buf = appendSized(buf, a.Kind)
		buf = appendSized(buf, string(a.LaneID))
		buf = append(binary.BigEndian.AppendUint64(buf, uint64(len(a.Payload))), a.Payload...)
		buf = append(binary.BigEndian.AppendUint64(buf, uint64(len(policyJSON))), policyJSON...)
		sum = sha256.Sum256(buf)
	} else {
		h := sha256.New()
		h.Write(appendSized(nil, a.Kind))
		h.Write(appendSized(nil, string(a.LaneID)))
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(a.Payload))))
		h.Write(a.Payload)
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(policyJSON))))
		h.Write(policyJSON)
		h.Sum(sum[:0])
	}
	var text [2 * sha256.Size]byte
	hex.Encode(text[:], sum[:])
	return string(text[:])
}

func appendSized(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(len(s))), s...)
}

// SameSpec reports whether the create has the digest of the first.
func SameSpec(p *Prepared, storedDigest string) bool { return p.State.Exec.SpecDigest == storedDigest }

// Adopt makes the create use an identifier reserved by its idempotency key
// before. It fails with partition_mismatch when the flow of the create lies on
// another partition.
func (p *Prepared) Adopt(id flowfabric.ExecutionID, parts flowfabric.PartitionConfig) error {
	if p.Args.FlowID != "" {
		if err := agree(id, p.Args.FlowID, parts); err != nil {
			return err
		}
	}
	p.Args.ExecutionID, p.State.Exec.ExecutionID = id, id
	return nil
}

// Create makes the execution at now: eligible, or delayed when its delay lies in
// the future. It may be called again after a failed write; p is not changed.
func Create(p *Prepared, now flowfabric.Millis) (*State, Effects) {
	s := new(State)
	*s = p.State
	e := &s.Exec
	e.LifecyclePhase, e.OwnershipState = flowfabric.PhaseRunnable, flowfabric.OwnershipUnowned
	e.TerminalOutcome, e.AttemptState = flowfabric.OutcomeNone, flowfabric.AttemptPendingFirst
	e.CreatedAt, e.LastTransitionAt, e.LastMutationAt = now, now, now
	e.ExecutionDeadlineAt = p.DeadlineAt
	if p.DeadlineMs > 0 {
		e.ExecutionDeadlineAt = addMs(now, p.DeadlineMs)
	}
	t := step{s: s, now: now}
	if p.DelayUntil > now {
		t.makeDelayed(p.DelayUntil, flowfabric.ReasonWaitingForDelay, delayedDetail(p.DelayUntil))
	} else {
		t.makeEligible()
	}
	e.PublicState = PublicState(e.StateVector)
	t.fx.Changed = true
	return s, t.fx
}

func delayedDetail(until flowfabric.Millis) string {
	return "delayed until " + strconv.FormatInt(int64(until), 10)
}
