package rules

import (
	"slices"

	"github.com/flowfabric/flowfabric"
)

// maxDeadReasonBytes bounds the reason a worker is marked dead with.
const maxDeadReasonBytes = 256

// Alive reports whether a registration counts at now; one past its TTL is absent
// everywhere, swept or not.
func Alive(w *flowfabric.WorkerRegistration, now flowfabric.Millis) bool {
	return w != nil && now < w.ExpiresAt
}

// ValidateRegister checks a registration, fills in the default TTL, and brings
// lanes and capabilities into normal form.
func ValidateRegister(a *flowfabric.RegisterWorkerArgs) error {
	if err := a.Namespace.ValidateForWorker(); err != nil {
		return err
	}
	if err := validateWorker(a.WorkerID, a.WorkerInstanceID); err != nil {
		return err
	}
	lanes, err := NormalizeLanes(a.Lanes)
	if err != nil {
		return err
	}
	caps, err := NormalizeCapabilities(flowfabric.CapabilitiesOfWorker, a.Capabilities)
	if err != nil {
		return err
	}
	if a.LivenessTTLMs == 0 {
		a.LivenessTTLMs = flowfabric.DefaultLivenessTTLMs
	}
	if err := validateRange("liveness_ttl_ms", a.LivenessTTLMs, flowfabric.MinLivenessTTLMs, flowfabric.MaxLivenessTTLMs); err != nil {
		return err
	}
	if err := flowfabric.ValidateUUID("instance_nonce", a.InstanceNonce); err != nil {
		return err
	}
	a.Lanes, a.Capabilities = lanes, caps
	return nil
}

// NormalizeLanes checks a set of 1 to 64 lanes and returns it sorted, without
// duplicates.
func NormalizeLanes(lanes []flowfabric.LaneID) ([]flowfabric.LaneID, error) {
	if len(lanes) == 0 {
		return nil, flowfabric.InvalidInput("lanes", "at least one lane is needed").With("reason", "empty")
	}
	for _, l := range lanes {
		if err := l.Validate(); err != nil {
			return nil, err
		}
	}
	normal := slices.Clone(lanes)
	slices.Sort(normal)
	normal = slices.Compact(normal)
	if len(normal) > flowfabric.MaxLanesPerRequest {
		return nil, flowfabric.InvalidInput("lanes", "has %d lanes, limit %d", len(normal), flowfabric.MaxLanesPerRequest).
			With("reason", "too_many")
	}
	return normal, nil
}

// Register registers a worker or refreshes its registration. The arguments have
// passed ValidateRegister. (Specification 02, section 10.1.)
func Register(existing *flowfabric.WorkerRegistration, a flowfabric.RegisterWorkerArgs, now flowfabric.Millis) (flowfabric.WorkerRegistration, flowfabric.RegisterOutcome, error) {
	w := flowfabric.WorkerRegistration{
		Namespace: a.Namespace, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID, Lanes: a.Lanes,
		Capabilities: a.Capabilities, InstanceNonce: a.InstanceNonce, LivenessTTLMs: a.LivenessTTLMs,
		RegisteredAt: now, LastHeartbeatAt: now, ExpiresAt: now + flowfabric.Millis(a.LivenessTTLMs),
	}
	if !Alive(existing, now) {
		return w, flowfabric.WorkerRegistered, nil
	}
	if existing.WorkerID != a.WorkerID {
		return *existing, "", reassigned(existing)
	}
	if !existing.Implicit && existing.InstanceNonce != a.InstanceNonce {
		return *existing, "", flowfabric.NewError(flowfabric.CodeDuplicateWorkerInstance,
			"instance %s is registered by another process until %d", a.WorkerInstanceID, existing.ExpiresAt).
			With("worker_instance_id", string(a.WorkerInstanceID)).With("expires_at", int64(existing.ExpiresAt))
	}
	w.RegisteredAt = existing.RegisteredAt
	return w, flowfabric.WorkerRefreshed, nil
}

func reassigned(existing *flowfabric.WorkerRegistration) error {
	return flowfabric.NewError(flowfabric.CodeInstanceIDReassigned, "instance %s belongs to worker %s",
		existing.WorkerInstanceID, existing.WorkerID).
		With("worker_instance_id", string(existing.WorkerInstanceID)).With("worker_id", string(existing.WorkerID))
}

// RegisterImplicit counts a claim request as registration: it makes an implicit
// record, renews one with the lanes and capabilities of this claim, or counts as
// the heartbeat of an explicit one. Lanes and caps are in normal form; an empty
// namespace means all. gained tells that the record came to cover more than it
// did: labels are to be lifted.
func RegisterImplicit(existing *flowfabric.WorkerRegistration, ns flowfabric.Namespace, worker flowfabric.WorkerID,
	instance flowfabric.WorkerInstanceID, lanes []flowfabric.LaneID, caps []string, waitMs int64, now flowfabric.Millis,
) (w flowfabric.WorkerRegistration, gained bool, err error) {
	if ns == "" {
		ns = flowfabric.AnyNamespace
	}
	ttl := flowfabric.DefaultLivenessTTLMs + waitMs
	w = flowfabric.WorkerRegistration{
		Namespace: ns, WorkerID: worker, WorkerInstanceID: instance, Lanes: lanes, Capabilities: caps, Implicit: true,
		LivenessTTLMs: ttl, RegisteredAt: now, LastHeartbeatAt: now, ExpiresAt: now + flowfabric.Millis(ttl),
	}
	if !Alive(existing, now) {
		return w, true, nil
	}
	if existing.WorkerID != worker {
		return *existing, false, reassigned(existing)
	}
	if !existing.Implicit {
		return beat(existing, now), false, nil
	}
	w.RegisteredAt = existing.RegisteredAt
	return w, !subset(lanes, existing.Lanes) || !subset(caps, existing.Capabilities), nil
}

// beat returns the registration as a heartbeat at now leaves it.
func beat(existing *flowfabric.WorkerRegistration, now flowfabric.Millis) flowfabric.WorkerRegistration {
	w := *existing
	w.LastHeartbeatAt = max(now, w.LastHeartbeatAt)
	w.ExpiresAt = w.LastHeartbeatAt + flowfabric.Millis(w.LivenessTTLMs)
	return w
}

// subset reports whether every member of the sorted set a is in the sorted set b.
func subset[T ~string](a, b []T) bool {
	for _, x := range a {
		if _, ok := slices.BinarySearch(b, x); !ok {
			return false
		}
	}
	return true
}

// ValidateHeartbeat checks the input of a heartbeat.
func ValidateHeartbeat(a flowfabric.HeartbeatWorkerArgs) error {
	if err := a.Namespace.ValidateForWorker(); err != nil {
		return err
	}
	if err := a.WorkerInstanceID.Validate(); err != nil {
		return err
	}
	return flowfabric.ValidateUUID("instance_nonce", a.InstanceNonce)
}

// Heartbeat keeps a live registration of the same process alive. It never
// revives: otherwise Registered is false and the caller registers anew.
// (Specification 02, section 10.2.)
func Heartbeat(existing *flowfabric.WorkerRegistration, a flowfabric.HeartbeatWorkerArgs, now flowfabric.Millis) (flowfabric.WorkerRegistration, flowfabric.HeartbeatWorkerResult) {
	if !Alive(existing, now) || existing.InstanceNonce != a.InstanceNonce {
		return flowfabric.WorkerRegistration{}, flowfabric.HeartbeatWorkerResult{}
	}
	w := beat(existing, now)
	return w, flowfabric.HeartbeatWorkerResult{Registered: true, NextExpiryAt: w.ExpiresAt}
}

// ValidateMarkWorkerDead checks the input of MarkWorkerDead and
// DeregisterWorker.
func ValidateMarkWorkerDead(a flowfabric.MarkWorkerDeadArgs) error {
	if err := a.Namespace.ValidateForWorker(); err != nil {
		return err
	}
	if err := a.WorkerInstanceID.Validate(); err != nil {
		return err
	}
	return validateLine("reason", a.Reason, 1, maxDeadReasonBytes)
}

// Covers reports whether one live registration alone can serve a bucket: lane
// among its lanes, namespace equal or "*", every required token. (Specification
// 02, section 8.)
func Covers(w flowfabric.WorkerRegistration, lane flowfabric.LaneID, ns flowfabric.Namespace, required []string, now flowfabric.Millis) bool {
	if !Alive(&w, now) || w.Namespace != flowfabric.AnyNamespace && w.Namespace != ns {
		return false
	}
	if _, ok := slices.BinarySearch(w.Lanes, lane); !ok {
		return false
	}
	return len(Missing(required, w.Capabilities)) == 0
}
