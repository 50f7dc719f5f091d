package api

import (
	"net/http"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// routeExecutionInputs is E/inputs.
const routeExecutionInputs = wire.RouteExecution + "/inputs"

// input is what an upstream handed to an execution along an edge.
type input struct {
	EdgeID              string                     `json:"edge_id"`
	Name                string                     `json:"name"`
	UpstreamExecutionID flowfabric.ExecutionID     `json:"upstream_execution_id"`
	UpstreamOutcome     flowfabric.TerminalOutcome `json:"upstream_outcome"`
	Payload             *[]byte                    `json:"payload,omitempty"`
	PayloadEncoding     string                     `json:"payload_encoding,omitempty"`
	DataPassingRef      string                     `json:"data_passing_ref,omitempty"`
}

func inputRoutes() []*route {
	return []*route{{
		id: "list_execution_inputs", method: http.MethodGet, pattern: routeExecutionInputs, scopes: ScopeRead | ScopeWork,
		summary: "What upstream executions handed over, by name, then edge; none for an execution without edges.",
		endpoint: readExecution(flowfabric.Backend.DescribeExecution, func(id flowfabric.ExecutionID, s *flowfabric.ExecutionSnapshot) (wire.Page[input], error) {
			if s == nil {
				return wire.Page[input]{}, executionNotFound(id)
			}
			return wire.NewPage[input](nil, ""), nil
		}),
	}}
}
