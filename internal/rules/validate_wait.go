package rules

import (
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// PrepareCreateWaitpoint fills in and checks the input of CreatePendingWaitpoint.
func PrepareCreateWaitpoint(a flowfabric.CreatePendingWaitpointArgs) (flowfabric.CreatePendingWaitpointArgs, error) {
	a = a.WithDefaults()
	if err := validateID(a.ExecutionID); err != nil {
		return a, err
	}
	if err := validateFence(a.Fence, false); err != nil {
		return a, err
	}
	if err := flowfabric.ValidateUUID("waitpoint_id", string(a.WaitpointID)); err != nil {
		return a, err
	}
	if err := flowfabric.ValidateWaitpointKey(a.WaitpointKey); err != nil {
		return a, err
	}
	if a.ExpiresInMs <= 0 {
		return a, flowfabric.InvalidInput("expires_in_ms", "is %d, must be above 0", a.ExpiresInMs).With("reason", "out_of_range")
	}
	return a, nil
}

// PrepareCloseWaitpoint fills in and checks the input of CloseWaitpoint.
func PrepareCloseWaitpoint(a flowfabric.CloseWaitpointArgs) (flowfabric.CloseWaitpointArgs, error) {
	if a.Reason == "" {
		a.Reason = flowfabric.DefaultCloseReason
	}
	if err := validateID(a.ExecutionID); err != nil {
		return a, err
	}
	if err := validateHolderSource(a.Source); err != nil {
		return a, err
	}
	if err := validateFence(a.Fence, a.Source == flowfabric.SourceOperatorOverride); err != nil {
		return a, err
	}
	if err := flowfabric.ValidateUUID("waitpoint_id", string(a.WaitpointID)); err != nil {
		return a, err
	}
	return a, validateLine("reason", a.Reason, 1, flowfabric.MaxCloseReasonBytes)
}

// PrepareSuspend fills in and checks the input of Suspend: step 2 of
// specification 03, section 4.2. The bindings of pending waitpoints get their
// keys only in the store, so that the keys of the condition are compared there.
func PrepareSuspend(a flowfabric.SuspendArgs) (flowfabric.SuspendArgs, error) {
	a = a.WithDefaults()
	if err := validateID(a.ExecutionID); err != nil {
		return a, err
	}
	if err := validateFence(a.Fence, false); err != nil {
		return a, err
	}
	if err := flowfabric.ValidateUUID("suspension_id", string(a.SuspensionID)); err != nil {
		return a, err
	}
	if err := validateBindings(a.Waitpoints); err != nil {
		return a, err
	}
	if err := validateReasons(&a); err != nil {
		return a, err
	}
	if err := validateTimeout(&a); err != nil {
		return a, err
	}
	if err := a.ResumeCondition.Validate(a.TimeoutMs != nil || a.TimeoutAt != 0); err != nil {
		return a, err
	}
	if err := validateResumePolicy(&a.ResumePolicy); err != nil {
		return a, err
	}
	if err := validateText("continuation_metadata_pointer", a.ContinuationMetadataPointer, 0, flowfabric.MaxContinuationBytes); err != nil {
		return a, err
	}
	if err := validateLine("idempotency_key", a.IdempotencyKey, 0, flowfabric.MaxSuspendIdempotencyBytes); err != nil {
		return a, err
	}
	if fresh := freshKeys(a.Waitpoints); len(fresh) == len(a.Waitpoints) {
		return a, KeysAgree(&a.ResumeCondition, fresh)
	}
	return a, nil
}

func freshKeys(bindings []flowfabric.WaitpointBinding) []string {
	keys := make([]string, 0, len(bindings))
	for i := range bindings {
		if !bindings[i].UsePending {
			keys = append(keys, bindings[i].WaitpointKey)
		}
	}
	return keys
}

func badBinding(reason, format string, args ...any) error {
	return flowfabric.NewError(flowfabric.CodeInvalidInput, reason+": "+format, args...).With("field", "waitpoints").With("reason", reason)
}

func validateBindings(bindings []flowfabric.WaitpointBinding) error {
	if len(bindings) == 0 {
		return badBinding("waitpoints_empty", "a suspension needs a waitpoint")
	}
	if len(bindings) > flowfabric.MaxWaitpointsPerSuspend {
		return badBinding("too_many_waitpoints", "%d waitpoints, limit %d", len(bindings), flowfabric.MaxWaitpointsPerSuspend)
	}
	ids, keys := make(map[flowfabric.WaitpointID]bool, len(bindings)), make(map[string]bool, len(bindings))
	for i := range bindings {
		b := &bindings[i]
		if err := flowfabric.ValidateUUID("waitpoint_id", string(b.WaitpointID)); err != nil {
			return err
		}
		if ids[b.WaitpointID] {
			return badBinding("duplicate_binding", "waitpoint %s is bound twice", b.WaitpointID)
		}
		ids[b.WaitpointID] = true
		if b.UsePending {
			if b.WaitpointKey != "" {
				return flowfabric.InvalidInput("waitpoint_key", "a pending waitpoint has its key already")
			}
			continue
		}
		if err := flowfabric.ValidateWaitpointKey(b.WaitpointKey); err != nil {
			return err
		}
		if keys[b.WaitpointKey] {
			return badBinding("duplicate_binding", "two waitpoints have the same key")
		}
		keys[b.WaitpointKey] = true
	}
	return nil
}

// KeysAgree checks, once all keys are known, that the bound keys are distinct
// and exactly those the condition refers to. (Step 8.)
func KeysAgree(c *flowfabric.ResumeCondition, bound []string) error {
	seen := make(map[string]bool, len(bound))
	for _, key := range bound {
		if seen[key] {
			return badBinding("duplicate_binding", "two waitpoints have the same key")
		}
		seen[key] = true
	}
	if c.Kind == flowfabric.ConditionOperatorOnly || c.Kind == flowfabric.ConditionTimeoutOnly {
		if len(bound) != 1 {
			return badBinding("waitpoint_key_mismatch", "%s takes exactly one waitpoint, not %d", c.Kind, len(bound))
		}
		return nil
	}
	keys := c.Keys()
	if len(keys) != len(bound) || slices.ContainsFunc(keys, func(k string) bool { return !seen[k] }) {
		return badBinding("waitpoint_key_mismatch", "the condition refers to other keys than the waitpoints have")
	}
	return nil
}

func validateReasons(a *flowfabric.SuspendArgs) error {
	switch {
	case a.ReasonCode == flowfabric.SuspendPausedByBudget:
		return flowfabric.InvalidInput("reason_code", "%q is the engine's own", string(a.ReasonCode))
	case a.ReasonCode.BlockingReason() == "":
		return flowfabric.InvalidInput("reason_code", "%q is no reason to suspend", Cut(string(a.ReasonCode), 80))
	}
	switch a.RequestedBy {
	case flowfabric.RequestedByWorker, flowfabric.RequestedByOperator, flowfabric.RequestedByPolicy, flowfabric.RequestedByTimeoutPolicy:
		return nil
	}
	return flowfabric.InvalidInput("requested_by", "%q is not known", Cut(string(a.RequestedBy), 80))
}

func validateTimeout(a *flowfabric.SuspendArgs) error {
	switch {
	case a.TimeoutMs != nil && a.TimeoutAt != 0:
		return flowfabric.InvalidInput("timeout_at", "is given beside timeout_ms")
	case a.TimeoutMs != nil && *a.TimeoutMs <= 0:
		return flowfabric.InvalidInput("timeout_ms", "is %d, must be above 0", *a.TimeoutMs).With("reason", "out_of_range")
	case a.TimeoutAt < 0 || a.TimeoutAt > flowfabric.MaxInstant:
		return flowfabric.InvalidInput("timeout_at", "is %d, must be 1..%d", a.TimeoutAt, flowfabric.MaxInstant).With("reason", "out_of_range")
	}
	switch a.TimeoutBehavior {
	case "", flowfabric.TimeoutFail, flowfabric.TimeoutCancel, flowfabric.TimeoutExpire, flowfabric.TimeoutAutoResume, flowfabric.TimeoutEscalate:
		return nil
	}
	return flowfabric.InvalidInput("timeout_behavior", "%q is not known", Cut(string(a.TimeoutBehavior), 80))
}

func validateResumePolicy(p *flowfabric.ResumePolicy) error {
	if p.ResumeTarget != flowfabric.ResumeTargetRunnable {
		return flowfabric.InvalidInput("resume_target", "%q, must be %q", Cut(p.ResumeTarget, 80), flowfabric.ResumeTargetRunnable)
	}
	return validateRange("resume_delay_ms", p.ResumeDelayMs, 0, int64(flowfabric.MaxInstant))
}

// PrepareDeliver fills in and checks the input of DeliverSignal: step 1 of
// specification 03, section 4.3.
func PrepareDeliver(a flowfabric.DeliverSignalArgs) (flowfabric.DeliverSignalArgs, error) {
	a.Signal = a.Signal.WithDefaults()
	if err := validateID(a.ExecutionID); err != nil {
		return a, err
	}
	if err := flowfabric.ValidateUUID("waitpoint_id", string(a.WaitpointID)); err != nil {
		return a, err
	}
	return a, validateSignal(&a.Signal)
}

// PrepareApproval fills in and checks the input of DeliverApprovalSignal.
func PrepareApproval(a flowfabric.DeliverApprovalSignalArgs) (flowfabric.DeliverSignalArgs, error) {
	var none flowfabric.DeliverSignalArgs
	if err := a.LaneID.Validate(); err != nil {
		return none, err
	}
	if err := validateLine("idempotency_suffix", a.IdempotencySuffix, 1, flowfabric.MaxIdempotencySuffix); err != nil {
		return none, err
	}
	if err := validateText("decided_by", a.DecidedBy, 1, flowfabric.MaxSourceIdentityBytes); err != nil {
		return none, err
	}
	// The key is made of name and suffix; its own limit is met by their sum.
	d := flowfabric.DeliverSignalArgs{ExecutionID: a.ExecutionID, WaitpointID: a.WaitpointID, Signal: a.Signal()}
	return PrepareDeliver(d)
}

func validateSignal(g *flowfabric.Signal) error {
	if len(g.Payload) > flowfabric.MaxSignalPayloadBytes {
		return flowfabric.NewError(flowfabric.CodePayloadTooLarge, "payload is %d bytes, limit %d", len(g.Payload), flowfabric.MaxSignalPayloadBytes).
			With("limit", flowfabric.MaxSignalPayloadBytes).With("actual", len(g.Payload)).With("field", "payload")
	}
	if err := flowfabric.ValidateUUID("signal_id", string(g.SignalID)); err != nil {
		return err
	}
	if err := validateText("signal_name", g.Name, 1, flowfabric.MaxSignalNameBytes); err != nil {
		return err
	}
	if strings.HasPrefix(g.Name, "__") {
		return flowfabric.InvalidInput("signal_name", "names that begin with __ are reserved").With("reason", "reserved")
	}
	if err := validateWord("signal_category", g.Category, flowfabric.SignalCategoryTimeout); err != nil {
		return err
	}
	if err := validateWord("source_type", g.SourceType, flowfabric.SourceTypeEngine); err != nil {
		return err
	}
	if err := validateText("source_identity", g.SourceIdentity, 1, flowfabric.MaxSourceIdentityBytes); err != nil {
		return err
	}
	if err := validateEncoding("payload_encoding", g.PayloadEncoding); err != nil {
		return err
	}
	if err := validateLine("correlation_id", g.CorrelationID, 0, flowfabric.MaxCorrelationIDBytes); err != nil {
		return err
	}
	if err := validateLine("idempotency_key", g.IdempotencyKey, 0, flowfabric.MaxIdempotencyKeyBytes); err != nil {
		return err
	}
	if g.CreatedAt < 0 {
		return flowfabric.InvalidInput("created_at", "is negative")
	}
	return validateRange("dedup_ttl_ms", g.DedupTTLMs, 1, flowfabric.MaxSignalDedupTTLMs)
}

// validateWord checks a category or source type: [a-z][a-z0-9_]*, 1..64 bytes,
// not the one the engine keeps for itself.
func validateWord(field, s, reserved string) error {
	if s == "" || len(s) > flowfabric.MaxSignalWordBytes {
		return flowfabric.InvalidInput(field, "is %d bytes, must be 1..%d", len(s), flowfabric.MaxSignalWordBytes)
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (i == 0 || (c < '0' || c > '9') && c != '_') {
			return flowfabric.InvalidInput(field, "must be [a-z][a-z0-9_]*")
		}
	}
	if s == reserved {
		return flowfabric.InvalidInput(field, "%q is the engine's own", s).With("reason", "reserved")
	}
	return nil
}

// PrepareResume fills in and checks the input of ResumeExecution. A reason is cut
// at 4096 bytes.
func PrepareResume(a flowfabric.ResumeExecutionArgs) (flowfabric.ResumeExecutionArgs, error) {
	if err := validateID(a.ExecutionID); err != nil {
		return a, err
	}
	if a.Trigger == "" {
		a.Trigger = flowfabric.ResumeTriggerOperator
	}
	if a.Trigger != flowfabric.ResumeTriggerOperator && a.Trigger != flowfabric.ResumeTriggerBudgetRecovered {
		return a, flowfabric.InvalidInput("trigger", "%q is not known", Cut(a.Trigger, 80))
	}
	a.Reason = cleanReason(a.Reason)
	if a.ResumeDelayMs != nil {
		return a, validateRange("resume_delay_ms", *a.ResumeDelayMs, 0, int64(flowfabric.MaxInstant))
	}
	return a, nil
}

// ValidateListWaitpoints checks a listing's input and returns its limit.
func ValidateListWaitpoints(a flowfabric.ListPendingWaitpointsArgs) (limit int, err error) {
	if err := validateID(a.ExecutionID); err != nil {
		return 0, err
	}
	if a.After != "" && flowfabric.ValidateUUID("cursor", string(a.After)) != nil {
		return 0, flowfabric.NewError(flowfabric.CodeInvalidCursor, "the cursor is no waitpoint id")
	}
	return waitLimit(a.Limit, flowfabric.DefaultWaitpointsLimit)
}

// ValidateObserveSignals checks the input of ObserveSignals, which needs of a
// fence the attempt alone.
func ValidateObserveSignals(a flowfabric.ObserveSignalsArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	return flowfabric.ValidateUUID("attempt_id", string(a.AttemptID))
}

// ValidateListSignals checks a listing's input and returns its limit.
func ValidateListSignals(a flowfabric.ListSignalsArgs) (limit int, err error) {
	if err := validateID(a.ExecutionID); err != nil {
		return 0, err
	}
	if err := validateOptionalUUID("waitpoint_id", string(a.WaitpointID)); err != nil {
		return 0, err
	}
	return waitLimit(a.Limit, flowfabric.DefaultListLimit)
}

// ValidateListSuspended checks a listing's input and returns its limit.
func ValidateListSuspended(a flowfabric.ListSuspendedArgs, parts flowfabric.PartitionConfig) (limit int, err error) {
	if a.Partition != nil && int(*a.Partition) >= parts.NumFlowPartitions {
		return 0, flowfabric.InvalidInput("partition", "%d is not below %d", *a.Partition, parts.NumFlowPartitions)
	}
	if a.Namespace != "" {
		if err := a.Namespace.Validate(); err != nil {
			return 0, err
		}
	}
	return waitLimit(a.Limit, flowfabric.DefaultSuspendedLimit)
}

func waitLimit(n, standard int) (int, error) {
	if n == 0 {
		return standard, nil
	}
	return n, validateRange("limit", int64(n), 1, flowfabric.MaxListLimit)
}
