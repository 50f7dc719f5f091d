package wire

import "github.com/flowfabric/flowfabric"

// RotateSecretRequest is the body of POST /v1/admin/rotate-waitpoint-secret.
// (Specification 08, section 4.7.)
type RotateSecretRequest struct {
	NewKID       string  `json:"new_kid" maxLength:"64" pattern:"^[A-Za-z0-9._-]{1,64}$"`
	NewSecretHex *string `json:"new_secret_hex,omitempty" minLength:"64" maxLength:"256" doc:"Made by the server when absent; never returned."`
	GraceMs      *int64  `json:"grace_ms,omitempty" minimum:"0" doc:"How long the former key still verifies; default the server's setting."`
}

// NewRotateSecretRequest makes the body of a rotation.
func NewRotateSecretRequest(a flowfabric.RotateWaitpointSecretArgs) RotateSecretRequest {
	return RotateSecretRequest{NewKID: a.NewKID, NewSecretHex: &a.NewSecretHex, GraceMs: a.GraceMs}
}

// Args returns the contract's arguments; the secret is "" when the server is to
// make it, which [RotateSecretRequest.SecretGiven] tells from an empty one.
func (r RotateSecretRequest) Args() flowfabric.RotateWaitpointSecretArgs {
	return flowfabric.RotateWaitpointSecretArgs{NewKID: r.NewKID, NewSecretHex: val(r.NewSecretHex), GraceMs: r.GraceMs}
}

// SecretGiven reports whether the body brings the secret.
func (r RotateSecretRequest) SecretGiven() bool { return r.NewSecretHex != nil }

// RotatedCopy tells what a rotation did to one copy of the key ring.
type RotatedCopy struct {
	Partition   uint16                   `json:"partition"`
	Outcome     flowfabric.RotateOutcome `json:"outcome,omitempty" enum:"rotated,noop"`
	PreviousKID string                   `json:"previous_kid,omitempty" doc:"The key that was current; absent when the ring was empty."`
	Removed     int                      `json:"removed,omitempty" doc:"How many keys past their grace went."`
	Problem     *Problem                 `json:"problem,omitempty"`
}

// RotateSecretResponse counts the copies of the key ring that have the new key
// now, by this call or before, and names the others.
type RotateSecretResponse struct {
	Rotated int           `json:"rotated" doc:"How many copies have the new key now."`
	Failed  []uint16      `json:"failed" doc:"The partitions whose copy could not be changed."`
	NewKID  string        `json:"new_kid"`
	Copies  []RotatedCopy `json:"copies" doc:"Every copy; a store with one ring has one, of partition 0."`
}

// NewRotateSecretResponse makes the answer to a rotation.
func NewRotateSecretResponse(r flowfabric.RotateWaitpointSecretResult) RotateSecretResponse {
	out := RotateSecretResponse{Failed: []uint16{}, NewKID: r.NewKID, Copies: make([]RotatedCopy, len(r.Copies))}
	for i, c := range r.Copies {
		out.Copies[i] = RotatedCopy{Partition: c.Partition, Outcome: c.Outcome, PreviousKID: c.PreviousKID, Removed: c.Removed, Problem: itemProblem(c.Err)}
		if c.Err != nil {
			out.Failed = append(out.Failed, c.Partition)
			continue
		}
		out.Rotated++
	}
	return out
}

// Result returns the contract's result.
func (r RotateSecretResponse) Result() flowfabric.RotateWaitpointSecretResult {
	out := flowfabric.RotateWaitpointSecretResult{NewKID: r.NewKID}
	if len(r.Copies) > 0 {
		out.Copies = make([]flowfabric.RotatedCopy, len(r.Copies))
	}
	for i, c := range r.Copies {
		out.Copies[i] = flowfabric.RotatedCopy{Partition: c.Partition, Outcome: c.Outcome, PreviousKID: c.PreviousKID, Removed: c.Removed, Err: itemError(c.Problem)}
	}
	return out
}

// KIDsResponse is the key ring without its secrets: the answer of GET
// /v1/admin/waitpoint-secrets.
type KIDsResponse struct {
	CurrentKID *string                   `json:"current_kid" doc:"null when the ring is empty."`
	Verifying  []flowfabric.VerifyingKey `json:"verifying" doc:"Former keys that are accepted now, by kid."`
}

// NewKIDsResponse makes the wire form of the key ring.
func NewKIDsResponse(k flowfabric.WaitpointKIDs) KIDsResponse {
	return KIDsResponse{CurrentKID: opt(k.CurrentKID), Verifying: nonNil(k.Verifying)}
}

// Result returns the contract's result.
func (r KIDsResponse) Result() flowfabric.WaitpointKIDs {
	return flowfabric.WaitpointKIDs{CurrentKID: val(r.CurrentKID), Verifying: r.Verifying}
}
