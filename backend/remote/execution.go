package remote

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// CreateExecutions creates 1..100 executions. One goes to POST /v1/executions,
// several to the batch route, in as many requests as its body limit asks for.
func (b *Backend) CreateExecutions(ctx context.Context, items []flowfabric.CreateExecutionArgs) ([]flowfabric.Item[flowfabric.CreateExecutionResult], error) {
	if err := checkBatch("executions", len(items)); err != nil {
		return nil, err
	}
	out := make([]flowfabric.Item[flowfabric.CreateExecutionResult], len(items))
	batch := newBatch(wire.LimitBulk)
	for i, a := range items {
		if out[i].Err = rules.ValidateCreate(a); out[i].Err != nil {
			continue
		}
		text, err := json.Marshal(wire.NewCreateExecutionRequest(a))
		if err != nil {
			out[i].Err = flowfabric.InvalidInput("policy", "does not encode").Wrap(err)
			continue
		}
		batch.add(i, text, a.IdempotencyKey != "" || a.ExecutionID != "")
	}
	for _, part := range batch.parts {
		if err := b.createPart(ctx, part, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (b *Backend) createPart(ctx context.Context, part part, out []flowfabric.Item[flowfabric.CreateExecutionResult]) error {
	const op = "create_execution"
	if len(part.items) == 1 && len(part.items[0]) <= wire.LimitLarge {
		c := post(op, wire.RouteExecutions, part.items[0])
		c.repeat = part.idempotent
		var r wire.CreateExecutionResponse
		_, err := b.do(ctx, c, &r)
		if err != nil {
			return ownItem(err, &out[part.index[0]].Err)
		}
		out[part.index[0]].Result = r.Result()
		return nil
	}
	c := post(op, wire.RouteExecutionsBatch, part.body("executions"))
	c.repeat = part.idempotent
	var r wire.CreateExecutionsResponse
	if _, err := b.do(ctx, c, &r); err != nil {
		return err
	}
	return spread(c, r.Results(), part.index, out)
}

// CompleteExecutions ends 1..100 executions. One whose attempt's index is known
// goes to A/complete, an operator's override to E/complete, the others to
// the batch route.
func (b *Backend) CompleteExecutions(ctx context.Context, items []flowfabric.CompleteExecutionArgs) ([]flowfabric.Item[flowfabric.CompleteExecutionResult], error) {
	if err := checkBatch("items", len(items)); err != nil {
		return nil, err
	}
	out := make([]flowfabric.Item[flowfabric.CompleteExecutionResult], len(items))
	if len(items) == 1 {
		if index, ok := b.indexOf(items[0].Fence); ok {
			return out, b.completeOne(ctx, items[0], index, &out[0])
		}
	}
	batch := newBatch(wire.LimitBulk)
	for i, a := range items {
		if out[i].Err = rules.ValidateComplete(a); out[i].Err != nil {
			continue
		}
		if override(a.Source, a.Fence) {
			batch.end()
			batch.parts = append(batch.parts, part{index: []int{i}})
			continue
		}
		index, err := b.attemptIndex(ctx, a.ExecutionID, a.Fence)
		if err != nil {
			if err = ownItem(err, &out[i].Err); err != nil {
				return nil, err
			}
			continue
		}
		text, err := json.Marshal(wire.NewCompletionItem(a, index))
		if err != nil {
			return nil, flowfabric.InvalidInput("items", "do not encode").Wrap(err)
		}
		batch.add(i, text, true)
	}
	for _, part := range batch.parts {
		if err := b.completePart(ctx, items, part, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (b *Backend) completePart(ctx context.Context, items []flowfabric.CompleteExecutionArgs, part part, out []flowfabric.Item[flowfabric.CompleteExecutionResult]) error {
	if len(part.items) == 0 {
		i := part.index[0]
		return b.completeOne(ctx, items[i], 0, &out[i])
	}
	c := post("complete_execution", wire.Path(wire.RouteWorkerCompletions, batchWorker), part.body("items")).idempotent()
	var r wire.CompletionsResponse
	if _, err := b.do(ctx, c, &r); err != nil {
		return err
	}
	return spread(c, r.Results(), part.index, out)
}

func (b *Backend) completeOne(ctx context.Context, a flowfabric.CompleteExecutionArgs, index uint32, out *flowfabric.Item[flowfabric.CompleteExecutionResult]) error {
	if out.Err = rules.ValidateComplete(a); out.Err != nil {
		return nil
	}
	const op = "complete_execution"
	var c call
	if override(a.Source, a.Fence) {
		c = post(op, wire.Path(wire.RouteExecutionComplete, string(a.ExecutionID)), wire.NewOperatorCompleteRequest(a))
	} else {
		c = post(op, attemptPath(wire.RouteAttemptComplete, a.ExecutionID, index), wire.NewCompleteRequest(a)).idempotent()
	}
	var r wire.CompleteResponse
	if _, err := b.do(ctx, c, &r); err != nil {
		return ownItem(err, &out.Err)
	}
	out.Result = r.Result()
	return nil
}

// FailExecution ends the attempt with a failure.
func (b *Backend) FailExecution(ctx context.Context, a flowfabric.FailExecutionArgs) (flowfabric.FailExecutionResult, error) {
	if err := rules.ValidateFail(a); err != nil {
		return flowfabric.FailExecutionResult{}, err
	}
	const op = "fail_execution"
	a.Reason = shorten(a.Reason)
	var r wire.FailResponse
	if override(a.Source, a.Fence) {
		_, err := b.do(ctx, post(op, wire.Path(wire.RouteExecutionFail, string(a.ExecutionID)), wire.NewOperatorFailRequest(a)), &r)
		return r.Result(), err
	}
	path, err := b.attemptOf(ctx, wire.RouteAttemptFail, a.ExecutionID, a.Fence)
	if err != nil {
		return flowfabric.FailExecutionResult{}, err
	}
	_, err = b.do(ctx, post(op, path, wire.NewFailRequest(a)).idempotent(), &r)
	return r.Result(), err
}

// CancelExecution ends the execution, for the lease holder or, with any other
// source, for an operator.
func (b *Backend) CancelExecution(ctx context.Context, a flowfabric.CancelExecutionArgs) (flowfabric.CancelExecutionResult, error) {
	if err := rules.ValidateCancel(a); err != nil {
		return flowfabric.CancelExecutionResult{}, err
	}
	const op = "cancel_execution"
	a.Reason = shorten(a.Reason)
	var r wire.CancelResponse
	if a.Source != "" && a.Source != flowfabric.SourceLeaseHolder {
		if a.RequestedBy == "" && a.Source != flowfabric.SourceOperatorOverride {
			a.RequestedBy = string(a.Source)
		}
		_, err := b.do(ctx, post(op, wire.Path(wire.RouteExecutionCancel, string(a.ExecutionID)), wire.NewCancelRequest(a)), &r)
		return r.Result(), err
	}
	path, err := b.attemptOf(ctx, wire.RouteAttemptCancel, a.ExecutionID, a.Fence)
	if err != nil {
		return flowfabric.CancelExecutionResult{}, err
	}
	_, err = b.do(ctx, post(op, path, wire.NewAttemptCancelRequest(a)).idempotent(), &r)
	return r.Result(), err
}

// DelayExecution pauses the attempt until a later time.
func (b *Backend) DelayExecution(ctx context.Context, a flowfabric.DelayExecutionArgs) (flowfabric.DelayExecutionResult, error) {
	if err := rules.ValidateDelay(a); err != nil {
		return flowfabric.DelayExecutionResult{}, err
	}
	const op = "delay_execution"
	var r wire.DelayResponse
	if override(a.Source, a.Fence) {
		_, err := b.do(ctx, post(op, wire.Path(wire.RouteExecutionDelay, string(a.ExecutionID)), wire.NewOperatorDelayRequest(a)), &r)
		return r.Result(), err
	}
	path, err := b.attemptOf(ctx, wire.RouteAttemptDelay, a.ExecutionID, a.Fence)
	if err != nil {
		return flowfabric.DelayExecutionResult{}, err
	}
	_, err = b.do(ctx, post(op, path, wire.NewDelayRequest(a)).idempotent(), &r)
	return r.Result(), err
}

// UpdateProgress stores the attempt's progress.
func (b *Backend) UpdateProgress(ctx context.Context, a flowfabric.UpdateProgressArgs) error {
	if err := rules.ValidateUpdateProgress(a); err != nil {
		return err
	}
	path, err := b.attemptOf(ctx, wire.RouteAttemptProgress, a.ExecutionID, a.Fence)
	if err != nil {
		return err
	}
	_, err = b.do(ctx, post("update_progress", path, wire.NewProgressRequest(a)).idempotent(), nil)
	return err
}

// ReplayExecution makes an ended execution claimable again.
func (b *Backend) ReplayExecution(ctx context.Context, a flowfabric.ReplayExecutionArgs) (flowfabric.ReplayExecutionResult, error) {
	if err := rules.ValidateReplay(a); err != nil {
		return flowfabric.ReplayExecutionResult{}, err
	}
	c := post("replay_execution", wire.Path(wire.RouteExecutionReplay, string(a.ExecutionID)), wire.NewReplayRequest(a))
	c.repeat = a.ExpectedReplayCount != nil
	var r wire.ReplayResponse
	_, err := b.do(ctx, c, &r)
	return r.Result(), err
}

// ChangePriority changes the priority of a claimable execution.
func (b *Backend) ChangePriority(ctx context.Context, a flowfabric.ChangePriorityArgs) (flowfabric.ChangePriorityResult, error) {
	if err := rules.ValidateChangePriority(a); err != nil {
		return flowfabric.ChangePriorityResult{}, err
	}
	var r wire.PriorityResponse
	_, err := b.do(ctx, put("change_priority", wire.Path(wire.RouteExecutionPriority, string(a.ExecutionID)), wire.PriorityRequest{NewPriority: a.Priority}), &r)
	return r.Result(), err
}

// PauseExecution blocks a claimable execution until UnpauseExecution.
func (b *Backend) PauseExecution(ctx context.Context, a flowfabric.BlockExecutionArgs) (flowfabric.BlockExecutionResult, error) {
	return b.block(ctx, "pause_execution", wire.RouteExecutionPause, a)
}

// UnpauseExecution makes a paused execution claimable again.
func (b *Backend) UnpauseExecution(ctx context.Context, a flowfabric.BlockExecutionArgs) (flowfabric.BlockExecutionResult, error) {
	a.Detail = ""
	return b.block(ctx, "unpause_execution", wire.RouteExecutionUnpause, a)
}

func (b *Backend) block(ctx context.Context, op, route string, a flowfabric.BlockExecutionArgs) (flowfabric.BlockExecutionResult, error) {
	if err := rules.ValidatePause(a); err != nil {
		return flowfabric.BlockExecutionResult{}, err
	}
	body := wire.PauseRequest{}
	if a.Detail != "" {
		body.Detail = &a.Detail
	}
	var r wire.PauseResponse
	_, err := b.do(ctx, post(op, wire.Path(route, string(a.ExecutionID)), body), &r)
	return flowfabric.BlockExecutionResult{PublicState: r.PublicState}, err
}

// SetExecutionTags upserts tags and returns how many pairs were given.
func (b *Backend) SetExecutionTags(ctx context.Context, id flowfabric.ExecutionID, tags map[string]string) (int, error) {
	if err := checkID(id); err != nil {
		return 0, err
	}
	if err := rules.ValidateSetTags(tags); err != nil {
		return 0, err
	}
	var r wire.SetTagsResponse
	_, err := b.do(ctx, put("set_execution_tags", wire.Path(wire.RouteExecutionTags, string(id)), wire.SetTagsRequest{Tags: tags}).idempotent(), &r)
	return r.Count, err
}

// RemoveExecutionTag reports whether the tag was there.
func (b *Backend) RemoveExecutionTag(ctx context.Context, id flowfabric.ExecutionID, key string) (bool, error) {
	if err := checkID(id); err != nil {
		return false, err
	}
	if err := rules.ValidateTagKey(key); err != nil {
		return false, err
	}
	var r wire.RemoveTagResponse
	_, err := b.do(ctx, remove("remove_execution_tag", wire.Path(wire.RouteExecutionTag, string(id), key), nil), &r)
	return r.Outcome == "removed", err
}

// GetExecutionTags returns a map, empty when there is none or no execution.
func (b *Backend) GetExecutionTags(ctx context.Context, id flowfabric.ExecutionID) (map[string]string, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	var r wire.TagsResponse
	_, err := b.do(ctx, get("get_execution_tags", wire.Path(wire.RouteExecutionTags, string(id)), nil), &r)
	if err != nil && !isCode(err, flowfabric.CodeExecutionNotFound) {
		return nil, err
	}
	if r.Tags == nil {
		r.Tags = map[string]string{}
	}
	return r.Tags, nil
}

// batchWorker stands in the path of batched calls, whose contract names no
// worker: the fences are the authority.
const batchWorker = Family

// override reports an operator's call without a fence, which goes to a route of
// its own.
func override(s flowfabric.Source, f flowfabric.Fence) bool {
	return s == flowfabric.SourceOperatorOverride && f.Empty()
}

// shorten cuts a reason as the engine would, so that a long one fits the body.
func shorten(reason string) string {
	return rules.Cut(strings.ToValidUTF8(reason, "\uFFFD"), flowfabric.MaxReasonBytes)
}

// GetExecutionInput returns the input.
func (b *Backend) GetExecutionInput(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.ExecutionInput, error) {
	if err := checkID(id); err != nil {
		return flowfabric.ExecutionInput{}, err
	}
	payload, encoding, err := b.bytes(ctx, get("get_execution_input", wire.Path(wire.RouteExecutionInput, string(id)), nil))
	return flowfabric.ExecutionInput{Payload: payload, Encoding: encoding}, err
}

// GetExecutionResult never fails for want of a result.
func (b *Backend) GetExecutionResult(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.ExecutionResult, error) {
	if err := checkID(id); err != nil {
		return flowfabric.ExecutionResult{}, err
	}
	payload, encoding, err := b.bytes(ctx, get("get_execution_result", wire.Path(wire.RouteExecutionResult, string(id)), nil))
	if isCode(err, flowfabric.CodeResultNotFound, flowfabric.CodeExecutionNotFound) {
		return flowfabric.ExecutionResult{}, nil
	}
	return flowfabric.ExecutionResult{Present: err == nil, Payload: payload, Encoding: encoding}, err
}

// bytes reads an answer of raw bytes.
func (b *Backend) bytes(ctx context.Context, c call) (payload []byte, encoding string, err error) {
	a, err := b.take(ctx, c, func(status int, body []byte) error {
		if status != http.StatusOK {
			return c.fault("the server answered %d", status)
		}
		payload = append([]byte{}, body...)
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return payload, a.header.Get(wire.HeaderPayloadEncoding), nil
}
