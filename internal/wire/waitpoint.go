package wire

import (
	"net/url"

	"github.com/flowfabric/flowfabric"
)

// WaitpointRef is the optional copy, in a body, of the waitpoint in the path.
type WaitpointRef struct {
	WaitpointID *flowfabric.WaitpointID `json:"waitpoint_id,omitempty" doc:"Optional copy of the id in the path."`
}

// Check reports id_mismatch when the body names another waitpoint than the path.
func (r WaitpointRef) Check(id flowfabric.WaitpointID) error {
	if r.WaitpointID == nil {
		return nil
	}
	return match("waitpoint_id", string(*r.WaitpointID), string(id))
}

// CreateWaitpointRequest is the body of POST A/waitpoints.
type CreateWaitpointRequest struct {
	AttemptRef
	Fence        *Fence                  `json:"fence,omitempty" doc:"Required."`
	WaitpointKey string                  `json:"waitpoint_key" maxLength:"256" doc:"Names the waitpoint in conditions."`
	ExpiresInMs  int64                   `json:"expires_in_ms" minimum:"1" doc:"From the store's now."`
	WaitpointID  *flowfabric.WaitpointID `json:"waitpoint_id,omitempty" format:"uuid" doc:"Minted by the server when absent; given, the call is safe to repeat."`
}

// NewCreateWaitpointRequest makes the body of POST A/waitpoints. The arguments
// have their defaults filled in.
func NewCreateWaitpointRequest(a flowfabric.CreatePendingWaitpointArgs) CreateWaitpointRequest {
	return CreateWaitpointRequest{Fence: NewFence(a.Fence), WaitpointKey: a.WaitpointKey, ExpiresInMs: a.ExpiresInMs, WaitpointID: opt(a.WaitpointID)}
}

// Args returns the contract's arguments.
func (r CreateWaitpointRequest) Args(id flowfabric.ExecutionID, index uint32) (flowfabric.CreatePendingWaitpointArgs, error) {
	a := flowfabric.CreatePendingWaitpointArgs{ExecutionID: id, Fence: r.Fence.at(index), WaitpointID: val(r.WaitpointID),
		WaitpointKey: r.WaitpointKey, ExpiresInMs: r.ExpiresInMs}
	if err := r.Check(id, index); err != nil {
		return a, err
	}
	if err := emptyRefused("waitpoint_id", r.WaitpointID); err != nil {
		return a, err
	}
	return a, flowfabric.ValidateWaitpointKey(r.WaitpointKey)
}

// CreateWaitpointResponse is a pending waitpoint as its maker learns it.
type CreateWaitpointResponse struct {
	WaitpointID  flowfabric.WaitpointID `json:"waitpoint_id"`
	WaitpointKey string                 `json:"waitpoint_key"`
	Token        string                 `json:"token" doc:"The credential of the waitpoint's signals."`
	ExpiresAt    flowfabric.Millis      `json:"expires_at"`
}

// NewCreateWaitpointResponse makes the answer of POST A/waitpoints.
func NewCreateWaitpointResponse(w flowfabric.PendingWaitpoint) CreateWaitpointResponse {
	return CreateWaitpointResponse{WaitpointID: w.WaitpointID, WaitpointKey: w.WaitpointKey, Token: w.Token.Reveal(), ExpiresAt: w.ExpiresAt}
}

// Result returns the contract's result.
func (r CreateWaitpointResponse) Result() flowfabric.PendingWaitpoint {
	return flowfabric.PendingWaitpoint{WaitpointID: r.WaitpointID, WaitpointKey: r.WaitpointKey,
		Token: flowfabric.NewWaitpointToken(r.Token), ExpiresAt: r.ExpiresAt}
}

// CloseWaitpointRequest is the body of POST A/waitpoints/{waitpoint_id}/close.
type CloseWaitpointRequest struct {
	AttemptRef
	WaitpointID *flowfabric.WaitpointID `json:"waitpoint_id,omitempty" doc:"Optional copy of the id in the path."`
	Fence       *Fence                  `json:"fence,omitempty" doc:"Required."`
	Reason      *string                 `json:"reason,omitempty" maxLength:"256" default:"proactive_close"`
}

// NewCloseWaitpointRequest makes the body of a close by the lease holder.
func NewCloseWaitpointRequest(a flowfabric.CloseWaitpointArgs) CloseWaitpointRequest {
	return CloseWaitpointRequest{Fence: NewFence(a.Fence), Reason: opt(a.Reason)}
}

// Args returns the contract's arguments of the lease holder.
func (r CloseWaitpointRequest) Args(id flowfabric.ExecutionID, index uint32, waitpoint flowfabric.WaitpointID) (flowfabric.CloseWaitpointArgs, error) {
	a := flowfabric.CloseWaitpointArgs{ExecutionID: id, WaitpointID: waitpoint, Fence: r.Fence.at(index), Source: flowfabric.SourceLeaseHolder, Reason: val(r.Reason)}
	if err := r.Check(id, index); err != nil {
		return a, err
	}
	if err := (WaitpointRef{r.WaitpointID}).Check(waitpoint); err != nil {
		return a, err
	}
	return a, emptyRefused("reason", r.Reason)
}

// OperatorCloseWaitpointRequest is the body of POST
// E/waitpoints/{waitpoint_id}/close.
type OperatorCloseWaitpointRequest struct {
	ExecutionRef
	WaitpointID *flowfabric.WaitpointID `json:"waitpoint_id,omitempty" doc:"Optional copy of the id in the path."`
	Reason      *string                 `json:"reason,omitempty" maxLength:"256" default:"proactive_close"`
}

// NewOperatorCloseWaitpointRequest makes the body of a close by an operator.
func NewOperatorCloseWaitpointRequest(a flowfabric.CloseWaitpointArgs) OperatorCloseWaitpointRequest {
	return OperatorCloseWaitpointRequest{Reason: opt(a.Reason)}
}

// Args returns the contract's arguments of an operator.
func (r OperatorCloseWaitpointRequest) Args(id flowfabric.ExecutionID, waitpoint flowfabric.WaitpointID) (flowfabric.CloseWaitpointArgs, error) {
	a := flowfabric.CloseWaitpointArgs{ExecutionID: id, WaitpointID: waitpoint, Source: flowfabric.SourceOperatorOverride, Reason: val(r.Reason)}
	if err := r.Check(id); err != nil {
		return a, err
	}
	if err := (WaitpointRef{r.WaitpointID}).Check(waitpoint); err != nil {
		return a, err
	}
	return a, emptyRefused("reason", r.Reason)
}

// CloseWaitpointResponse is closed or already_closed.
type CloseWaitpointResponse struct {
	Outcome flowfabric.CloseWaitpointOutcome `json:"outcome" enum:"closed,already_closed"`
}

// NewCloseWaitpointResponse makes the answer to a close.
func NewCloseWaitpointResponse(o flowfabric.CloseWaitpointOutcome) CloseWaitpointResponse {
	return CloseWaitpointResponse{Outcome: o}
}

// TokenResponse is the answer of GET E/waitpoints/{waitpoint_id}/token.
type TokenResponse struct {
	Token string `json:"token"`
}

// NewTokenResponse makes the answer to an operator's read of a token.
func NewTokenResponse(t flowfabric.WaitpointToken) TokenResponse {
	return TokenResponse{Token: t.Reveal()}
}

// Result returns the token.
func (r TokenResponse) Result() flowfabric.WaitpointToken {
	return flowfabric.NewWaitpointToken(r.Token)
}

// ListWaitpointsQuery returns the parameters of GET E/pending-waitpoints.
func ListWaitpointsQuery(a flowfabric.ListPendingWaitpointsArgs) url.Values {
	q := url.Values{}
	setInt(q, "limit", a.Limit)
	if a.After != "" {
		q.Set("cursor", EncodeCursor(ListWaitpoints, string(a.ExecutionID), q, string(a.After)))
	}
	return q
}

// ParseListWaitpoints reads the parameters of GET E/pending-waitpoints.
func ParseListWaitpoints(id flowfabric.ExecutionID, q url.Values) (flowfabric.ListPendingWaitpointsArgs, error) {
	a := flowfabric.ListPendingWaitpointsArgs{ExecutionID: id}
	var err error
	if a.Limit, err = QueryLimit(q, flowfabric.MaxListLimit); err != nil {
		return a, err
	}
	text, err := QueryText(q, "cursor")
	if err != nil || text == "" {
		return a, err
	}
	position, err := DecodeCursor(ListWaitpoints, string(id), q, text)
	if err != nil {
		return a, err
	}
	if flowfabric.ValidateUUID("cursor", position) != nil {
		return a, invalidCursor("malformed")
	}
	a.After = flowfabric.WaitpointID(position)
	return a, nil
}

// NewWaitpointsPage makes the answer of GET E/pending-waitpoints. q is the
// request's query.
func NewWaitpointsPage(id flowfabric.ExecutionID, q url.Values, r flowfabric.ListPendingWaitpointsResult) Page[flowfabric.Waitpoint] {
	p := Page[flowfabric.Waitpoint]{Items: make([]flowfabric.Waitpoint, len(r.Waitpoints))}
	for i, w := range r.Waitpoints {
		w.RequiredSignalNames = nonNil(w.RequiredSignalNames)
		p.Items[i] = w
	}
	if r.NextCursor != "" {
		p.NextCursor = opt(EncodeCursor(ListWaitpoints, string(id), q, string(r.NextCursor)))
	}
	return p
}

// WaitpointsResult returns the contract's result of a page asked for with q.
func WaitpointsResult(id flowfabric.ExecutionID, q url.Values, p Page[flowfabric.Waitpoint]) (flowfabric.ListPendingWaitpointsResult, error) {
	r := flowfabric.ListPendingWaitpointsResult{Waitpoints: p.Items}
	if p.NextCursor == nil {
		return r, nil
	}
	position, err := DecodeCursor(ListWaitpoints, string(id), q, *p.NextCursor)
	r.NextCursor = flowfabric.WaitpointID(position)
	return r, err
}
