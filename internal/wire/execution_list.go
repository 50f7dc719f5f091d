package wire

import (
	"net/url"
	"strconv"

	"github.com/flowfabric/flowfabric"
)

// ListExecutionsQuery returns the parameters of GET /v1/executions for one
// partition.
func ListExecutionsQuery(a flowfabric.ListExecutionsArgs) url.Values {
	q := url.Values{"partition": {strconv.Itoa(int(a.Partition))}}
	setText(q, "namespace", a.Namespace)
	setText(q, "lane_id", a.LaneID)
	setText(q, "execution_kind", a.Kind)
	setText(q, "flow_id", a.FlowID)
	for _, s := range a.PublicStates {
		q.Add("public_state", string(s))
	}
	setTags(q, a.Tags)
	setInt(q, "limit", a.Limit)
	if a.Cursor != "" {
		q.Set("cursor", EncodeCursor(ListExecutions, "", q, string(a.Cursor)))
	}
	return q
}

// ExecutionsQuery is what GET /v1/executions asks for.
type ExecutionsQuery struct {
	// Args hold filters and limit, and Partition and Cursor when the walk begins
	// there.
	Args flowfabric.ListExecutionsArgs
	// AllPartitions is true when no partition is named: the list goes on over
	// all partitions from Args.Partition.
	AllPartitions bool
}

// ParseListExecutions reads the parameters of GET /v1/executions.
func ParseListExecutions(q url.Values) (ExecutionsQuery, error) {
	out := ExecutionsQuery{}
	partition, given, err := QueryInt(q, "partition", 0, 65535)
	if err != nil {
		return out, err
	}
	out.AllPartitions = !given
	a := &out.Args
	a.Partition = uint16(partition)
	if a.Limit, err = QueryLimit(q, flowfabric.MaxListLimit); err != nil {
		return out, err
	}
	for _, f := range []struct {
		name string
		set  func(string)
	}{
		{"namespace", func(s string) { a.Namespace = flowfabric.Namespace(s) }},
		{"lane_id", func(s string) { a.LaneID = flowfabric.LaneID(s) }},
		{"execution_kind", func(s string) { a.Kind = s }},
		{"flow_id", func(s string) { a.FlowID = flowfabric.FlowID(s) }},
	} {
		text, err := QueryFilter(q, f.name)
		if err != nil {
			return out, err
		}
		f.set(text)
	}
	for _, s := range q["public_state"] {
		a.PublicStates = append(a.PublicStates, flowfabric.PublicState(s))
	}
	if a.Tags, err = queryTags(q); err != nil {
		return out, err
	}
	return out, out.readCursor(q)
}

func (x *ExecutionsQuery) readCursor(q url.Values) error {
	text, err := QueryText(q, "cursor")
	if err != nil || text == "" {
		return err
	}
	position, err := DecodeCursor(ListExecutions, "", q, text)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(position, 10, 16); err == nil && x.AllPartitions {
		x.Args.Partition = uint16(n)
		return nil
	}
	id, err := flowfabric.ParseExecutionID(position)
	if err != nil {
		return invalidCursor("malformed")
	}
	x.Args.Cursor = id
	if x.AllPartitions {
		x.Args.Partition = id.Partition()
	}
	return nil
}

// ExecutionsCursor returns the cursor behind an execution.
func ExecutionsCursor(q url.Values, id flowfabric.ExecutionID) string {
	return EncodeCursor(ListExecutions, "", q, string(id))
}

// ExecutionsPartitionCursor returns the cursor at the begin of a partition, for a
// list over all partitions.
func ExecutionsPartitionCursor(q url.Values, partition uint16) string {
	return EncodeCursor(ListExecutions, "", q, strconv.Itoa(int(partition)))
}
