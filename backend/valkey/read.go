package valkey

import (
	"context"
	"strconv"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// execKey is the name of one of an execution's keys.
func execKey(id flowfabric.ExecutionID, what string) string {
	return "ff:exec:" + string(id) + ":" + what
}

// laneKey is the name of one of a lane's keys on a partition.
func laneKey(tag string, lane flowfabric.LaneID, what string) string {
	return "ff:idx:" + tag + ":lane:" + string(lane) + ":" + what
}

// elements reads an answer of the library, which is an array of strings and
// arrays.
type elements []vk.ValkeyMessage

// elementsOf returns the elements of an answer that must have at least n.
func elementsOf(fn string, msg *vk.ValkeyMessage, n int) (elements, error) {
	list, err := msg.ToArray()
	if err != nil || len(list) < n {
		return nil, badAnswer(fn)
	}
	return list, nil
}

// badAnswer says that the library answered in a form nobody here knows.
func badAnswer(fn string) *flowfabric.Error {
	e := flowfabric.NewError(flowfabric.CodeInternal, "%s answered in an unknown form", fn)
	e.Op = operation(fn)
	return e
}

// str is an element as a string, "" where there is none.
func (l elements) str(i int) string {
	if i >= len(l) {
		return ""
	}
	v, err := l[i].ToString()
	if err != nil {
		return ""
	}
	return v
}

// bytes is an element as bytes that nobody else uses.
func (l elements) bytes(i int) []byte {
	if i >= len(l) {
		return nil
	}
	b, err := l[i].AsBytes()
	if err != nil {
		return nil
	}
	return b
}

func (l elements) hash(i int) hash {
	if i >= len(l) {
		return nil
	}
	h, err := l[i].AsStrSlice()
	if err != nil {
		return nil
	}
	return h
}

func (l elements) ms(i int) flowfabric.Millis {
	return flowfabric.Millis(l.int(i))
}

// int is an element as a number, 0 where it is none.
func (l elements) int(i int) int64 {
	n, err := strconv.ParseInt(l.str(i), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// The parts of an execution beside core that a read may ask for.
const (
	partHeader   = "h" // the definition without the payload
	partWhole    = "d" // the definition with the payload
	partTags     = "t"
	partResult   = "r"
	partLabel    = "l" // the label of the bucket
	fnDescribe   = "ff_describe_execution"
	describeSize = 11
)

// view is an execution as one consistent read shows it.
type view struct {
	now       flowfabric.Millis
	st        *rules.State
	def       definition
	result    []byte
	hasResult bool
	label     rules.Label
}

// view reads an execution; nil when there is none.
func (s *Store) view(ctx context.Context, op string, id flowfabric.ExecutionID, parts string) (*view, error) {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return nil, err
	}
	msg, err := s.read(ctx, fnDescribe, tagOf(id), uuidOf(id), parts)
	if err != nil {
		return nil, err
	}
	return viewOf(op, id, &msg)
}

// mustView is view for operations on an execution that has to be there.
func (s *Store) mustView(ctx context.Context, op string, id flowfabric.ExecutionID, parts string) (*view, error) {
	v, err := s.view(ctx, op, id, parts)
	if err == nil && v == nil {
		err = notFound(id)
	}
	return v, err
}

// viewOf reads an answer of ff_describe_execution.
func viewOf(op string, id flowfabric.ExecutionID, msg *vk.ValkeyMessage) (*view, error) {
	list, err := elementsOf(fnDescribe, msg, 0)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	if len(list) < describeSize {
		return nil, badAnswer(fnDescribe)
	}
	v := &view{now: list.ms(0), label: rules.Label{UncoveredSince: list.ms(8), LastMismatchAt: list.ms(9)}}
	src := source{core: list.hash(1), text: list.hash(2), tags: list.hash(3)}
	if b := list.bytes(4); len(b) > 0 {
		if v.def, err = parseDef(op, b); err != nil {
			return nil, err
		}
	}
	src.def = v.def
	if list.str(10) == "1" {
		v.result, v.hasResult = list.bytes(6), true
	}
	v.st, err = decodeState(op, id, &src)
	return v, err
}

// needsDef reports corrupt_record when the definition was asked for and is gone.
func (v *view) needsDef(op string) error {
	if v.def.digest == "" {
		return corrupt(op, "definition", "missing")
	}
	return nil
}

// GetExecution returns the record.
func (s *Store) GetExecution(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Execution, error) {
	const op = "get_execution"
	v, err := s.mustView(ctx, op, id, partHeader+partLabel)
	if err == nil {
		err = v.needsDef(op)
	}
	if err != nil {
		return nil, err
	}
	return rules.Record(v.st, v.label), nil
}

// DescribeExecution returns a snapshot, nil when there is none.
func (s *Store) DescribeExecution(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.ExecutionSnapshot, error) {
	const op = "describe_execution"
	v, err := s.view(ctx, op, id, partTags+partHeader+partLabel)
	if err != nil || v == nil {
		return nil, err
	}
	if err := v.needsDef(op); err != nil {
		return nil, err
	}
	return rules.Describe(v.st, v.label), nil
}

// GetExecutionState returns the public state.
func (s *Store) GetExecutionState(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.PublicState, error) {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return "", err
	}
	list, err := s.fields(ctx, id, "public_state", "st")
	if err != nil {
		return "", err
	}
	state, st := list.str(0), list.str(1)
	if state == "" && st == "" {
		return "", notFound(id)
	}
	return checkState("get_execution_state", state, st)
}

// checkState holds a stored public state against the letters of the state.
func checkState(op, state, st string) (flowfabric.PublicState, error) {
	var v flowfabric.StateVector
	if !decodeVector(st, "", &v) {
		return "", corrupt(op, "lifecycle_phase", "state %q is none", rules.Cut(st, 20))
	}
	if string(v.PublicState) != state {
		return "", corrupt(op, "public_state", "%q is stored, the state is %s", rules.Cut(state, 40), v.PublicState)
	}
	return v.PublicState, nil
}

// fields reads a few fields of core as they are stored.
func (s *Store) fields(ctx context.Context, id flowfabric.ExecutionID, names ...string) (elements, error) {
	got := s.plain(ctx, s.b.Hmget().Key(execKey(id, "core")).Field(names...).Build())[0]
	if got.err != nil {
		return nil, got.err
	}
	list, err := got.msg.ToArray()
	return list, err
}

// GetExecutionResult returns the stored result of a completed execution.
func (s *Store) GetExecutionResult(ctx context.Context, id flowfabric.ExecutionID) (res flowfabric.ExecutionResult, err error) {
	const op = "get_execution_result"
	v, err := s.view(ctx, op, id, partResult)
	if err != nil || v == nil || v.st.Exec.PublicState != flowfabric.PublicCompleted || !v.hasResult {
		return res, err
	}
	for i, b := range v.result {
		if b == '\n' {
			return flowfabric.ExecutionResult{Present: true, Encoding: string(v.result[:i]), Payload: v.result[i+1:]}, nil
		}
	}
	return res, corrupt(op, "result_payload", "without an encoding")
}

// GetExecutionInput returns the stored input.
func (s *Store) GetExecutionInput(ctx context.Context, id flowfabric.ExecutionID) (in flowfabric.ExecutionInput, err error) {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return in, err
	}
	got := s.plain(ctx, s.b.Get().Key(execKey(id, "def")).Build())[0]
	if got.err != nil {
		return in, got.err
	}
	b, _ := got.msg.AsBytes()
	if len(b) == 0 {
		return in, notFound(id)
	}
	def, err := parseDef("get_execution_input", b)
	return flowfabric.ExecutionInput{Payload: def.payload, Encoding: def.encoding}, err
}

// GetExecutionPolicy returns the frozen policy.
func (s *Store) GetExecutionPolicy(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Policy, error) {
	const op = "get_execution_policy"
	v, err := s.mustView(ctx, op, id, partHeader)
	if err == nil {
		err = v.needsDef(op)
	}
	if err != nil {
		return nil, err
	}
	return v.st.Policy, nil
}

// ReadExecutionContext returns what a worker needs beside its fence.
func (s *Store) ReadExecutionContext(ctx context.Context, id flowfabric.ExecutionID) (out flowfabric.ExecutionContext, err error) {
	const op = "read_execution_context"
	v, err := s.mustView(ctx, op, id, partTags+partWhole)
	if err == nil {
		err = v.needsDef(op)
	}
	if err != nil {
		return out, err
	}
	out = flowfabric.ExecutionContext{Payload: v.def.payload, PayloadEncoding: v.def.encoding, Kind: v.def.kind, Tags: orNoTags(v.st.Tags)}
	a, err := s.current(ctx, op, id, v.st)
	if err != nil || a == nil {
		return out, err
	}
	out.AttemptType, out.PolicySnapshot = a.AttemptType, &a.PolicySnapshot
	return out, nil
}

func orNoTags(tags map[string]string) map[string]string {
	if tags == nil {
		return map[string]string{}
	}
	return tags
}

// GetExecutionTags returns the tags, an empty map when there is none.
func (s *Store) GetExecutionTags(ctx context.Context, id flowfabric.ExecutionID) (map[string]string, error) {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return nil, err
	}
	got := s.plain(ctx, s.b.Hgetall().Key(execKey(id, "tags")).Build())[0]
	if got.err != nil {
		return nil, got.err
	}
	tags, err := got.msg.AsStrMap()
	return orNoTags(tags), err
}
