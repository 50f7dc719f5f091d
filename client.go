package flowfabric

import (
	"context"
	"encoding/json"
	"iter"
	"maps"
	"sync"
	"time"
)

const (
	clientContext = "client"
	// defaultCreator is the creator identity of executions that name none.
	defaultCreator = "client"
	// A wait that is answered early, as by a server that drains, is repeated
	// after a pause.
	waitBackoffFirst = 50 * time.Millisecond
	waitBackoffMax   = 2 * time.Second
)

// Client submits executions, waits for them and inspects them. It needs no
// closing and never closes its backend. All methods are safe for concurrent use.
// (Specification 08, section 5.5.)
type Client struct {
	backend   Backend
	clock     Clock
	namespace Namespace
	lane      LaneID
	creator   string
	creates   collector[CreateExecutionArgs, CreateExecutionResult]
	err       error // a refused option

	mu         sync.Mutex
	partitions *PartitionConfig
}

// ClientOption changes a default of a [Client].
type ClientOption func(*Client)

// WithNamespace sets the namespace of what the client submits and lists, default
// "default".
func WithNamespace(ns Namespace) ClientOption { return func(c *Client) { c.namespace = ns } }

// WithDefaultLane sets the lane of executions that name none, default "default".
func WithDefaultLane(lane LaneID) ClientOption { return func(c *Client) { c.lane = lane } }

// WithCreator sets the creator identity of what the client submits and the
// requester of what it cancels: 1..256 bytes, default "client".
func WithCreator(identity string) ClientOption { return func(c *Client) { c.creator = identity } }

// WithClientClock sets the clock of retries and waits, default the machine's.
func WithClientClock(clock Clock) ClientOption { return func(c *Client) { c.clock = clock } }

// WithClientMiddleware wraps the backend, the outermost first.
func WithClientMiddleware(layers ...Middleware) ClientOption {
	return func(c *Client) {
		for i := len(layers) - 1; i >= 0; i-- {
			c.backend = layers[i](c.backend)
		}
	}
}

// NewClient makes a client on a backend, which must not be nil. It makes no
// call. An unacceptable option makes every method that submits fail with a
// [*ConfigError]; so does a nil backend, on which no other method works.
func NewClient(backend Backend, options ...ClientOption) *Client {
	c := &Client{backend: backend, clock: systemClock{}, namespace: DefaultNamespace, lane: DefaultLane, creator: defaultCreator}
	for _, option := range options {
		option(c)
	}
	c.err = c.check()
	if c.backend != nil {
		c.creates.send = c.backend.CreateExecutions
	}
	c.creates.size = func(a CreateExecutionArgs) int { return len(a.Payload) + len(a.Policy) }
	return c
}

func (c *Client) check() error {
	if c.backend == nil {
		return &ConfigError{Context: clientContext, Field: "backend", Message: "must not be nil"}
	}
	if err := c.namespace.Validate(); err != nil {
		return configError(clientContext, "namespace", err)
	}
	if err := c.lane.Validate(); err != nil {
		return configError(clientContext, "lane_id", err)
	}
	if c.creator == "" || len(c.creator) > MaxCreatorIdentityBytes {
		return &ConfigError{Context: clientContext, Field: "creator_identity", Message: "must be 1..256 bytes"}
	}
	return nil
}

// Backend returns the backend every operation of the client goes through.
func (c *Client) Backend() Backend { return c.backend }

// Admin returns the operator's methods.
func (c *Client) Admin() *Admin {
	return &Admin{backend: c.backend, clock: c.clock, operator: c.creator}
}

// PartitionConfig returns the partitioning of the deployment, which minting an
// identifier needs. It is read once.
func (c *Client) PartitionConfig(ctx context.Context) (PartitionConfig, error) {
	c.mu.Lock()
	known := c.partitions
	c.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	read, err := retry(ctx, c.clock, c.backend.PartitionConfig)
	if err != nil {
		return PartitionConfig{}, err
	}
	if err := read.Validate(); err != nil {
		return PartitionConfig{}, NewError(CodePartitionConfigCorrupt, "the published partition configuration is invalid").Wrap(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partitions = &read
	return read, nil
}

// complete fills in what the client knows better than its caller.
func (c *Client) complete(args *CreateExecutionArgs) {
	if args.Namespace == "" {
		args.Namespace = c.namespace
	}
	if args.LaneID == "" {
		args.LaneID = c.lane
	}
	if args.CreatorIdentity == "" {
		args.CreatorIdentity = c.creator
	}
}

// Submit creates an execution; namespace, lane and creator identity default to
// the client's. Submissions made while one is on its way to the store go
// together in the next call. One with an idempotency key or an identifier is
// repeated up to three times after a transport error; another is not, because
// it might be created twice. When ctx ends first, the execution may have been
// created. (Specification 01, section 8.1.)
func (c *Client) Submit(ctx context.Context, args CreateExecutionArgs) (CreateExecutionResult, error) {
	if c.err != nil {
		return CreateExecutionResult{}, c.err
	}
	c.complete(&args)
	result, err := c.creates.do(ctx, args)
	if autoRetryable(err) && args.keyed() {
		return c.submitAgain(ctx, args, err)
	}
	return result, err
}

// keyed reports whether creating twice gives one execution.
func (a *CreateExecutionArgs) keyed() bool { return a.IdempotencyKey != "" || a.ExecutionID != "" }

// submitAgain makes the automatic retries of a keyed submission.
func (c *Client) submitAgain(ctx context.Context, args CreateExecutionArgs, err error) (CreateExecutionResult, error) {
	return retryAfter(ctx, c.clock, err, func(ctx context.Context) (CreateExecutionResult, error) {
		return c.creates.do(ctx, args)
	})
}

// SubmitBatch creates any number of executions, each independent of the others,
// in calls of up to 100, and returns one answer per item, in order. The error is
// that of the first call that failed as a whole; its items and those after it
// then carry it too, and nothing tells whether its own were created.
func (c *Client) SubmitBatch(ctx context.Context, items []CreateExecutionArgs) ([]Item[CreateExecutionResult], error) {
	if c.err != nil {
		return nil, c.err
	}
	answers := make([]Item[CreateExecutionResult], 0, len(items))
	for len(items) > 0 {
		batch := c.chunk(items)
		part, err := c.createBatch(ctx, batch)
		if err != nil {
			for range items {
				answers = append(answers, Item[CreateExecutionResult]{Err: err})
			}
			return answers, err
		}
		answers = append(answers, part...)
		items = items[len(batch):]
	}
	return answers, nil
}

// chunk copies the longest head of items that fits one call.
func (c *Client) chunk(items []CreateExecutionArgs) []CreateExecutionArgs {
	var chunk []CreateExecutionArgs
	bytes := 0
	for _, args := range items[:min(len(items), MaxBatchItems)] {
		bytes += c.creates.size(args)
		if bytes > maxCallBytes && len(chunk) > 0 {
			break
		}
		c.complete(&args)
		chunk = append(chunk, args)
	}
	return chunk
}

func (c *Client) createBatch(ctx context.Context, batch []CreateExecutionArgs) ([]Item[CreateExecutionResult], error) {
	create := func(ctx context.Context) ([]Item[CreateExecutionResult], error) {
		answers, err := c.backend.CreateExecutions(ctx, batch)
		if err == nil && len(answers) != len(batch) {
			err = NewError(CodeInternal, "batch of %d answered with %d items", len(batch), len(answers))
		}
		return answers, err
	}
	for i := range batch {
		if !batch[i].keyed() {
			return create(ctx)
		}
	}
	return retry(ctx, c.clock, create)
}

// SubmitAndWait submits an execution and waits until it has ended. A duplicate
// waits for the first one. An error while waiting never undoes the creation,
// whose result is then returned beside it.
func (c *Client) SubmitAndWait(ctx context.Context, args CreateExecutionArgs) (CreateExecutionResult, WaitExecutionResult, error) {
	created, err := c.Submit(ctx, args)
	if err != nil {
		return created, WaitExecutionResult{}, err
	}
	ended, err := c.Wait(ctx, created.ExecutionID)
	return created, ended, err
}

// Wait waits until the execution has ended, however long that takes: only ctx
// limits it. An execution that failed, expired or was cancelled or skipped is an
// ordinary result. Errors: execution_not_found, also when it is purged while
// waiting. (Specification 04, section 6.1.)
func (c *Client) Wait(ctx context.Context, id ExecutionID) (WaitExecutionResult, error) {
	return c.wait(ctx, id, UntilTerminal)
}

// WaitSettled is [Client.Wait] that is content with a suspended execution as
// well: then the result is not Terminal.
func (c *Client) WaitSettled(ctx context.Context, id ExecutionID) (WaitExecutionResult, error) {
	return c.wait(ctx, id, UntilSettled)
}

func (c *Client) wait(ctx context.Context, id ExecutionID, until WaitUntil) (WaitExecutionResult, error) {
	args := WaitExecutionArgs{ExecutionID: id, WaitMs: MaxWaitMs, Until: until}
	wait := backoff{initial: waitBackoffFirst, max: waitBackoffMax}
	for {
		asked := c.clock.Now()
		result, err := retry(ctx, c.clock, func(ctx context.Context) (WaitExecutionResult, error) {
			return c.backend.WaitExecution(ctx, args)
		})
		if err != nil || result.Terminal || !result.TimedOut {
			return result, err
		}
		if c.clock.Now().Sub(asked) >= MaxWaitMs*time.Millisecond/2 {
			wait.reset()
			continue
		}
		if err := pause(ctx, c.clock, wait.next(nil)); err != nil {
			return result, err
		}
	}
}

// Cancel cancels an execution as an operator does, without a fence. An execution
// that is cancelled already keeps its first reason; one that ended otherwise is
// execution_not_active.
func (c *Client) Cancel(ctx context.Context, id ExecutionID, reason string) (CancelExecutionResult, error) {
	return c.Admin().Cancel(ctx, id, reason)
}

// Inspect returns a snapshot, nil and no error when no execution exists at the
// identifier.
func (c *Client) Inspect(ctx context.Context, id ExecutionID) (*ExecutionSnapshot, error) {
	return describe(ctx, c.backend, c.clock, id)
}

// Result returns the stored result, nil when the execution has not completed, or
// completed without one.
func (c *Client) Result(ctx context.Context, id ExecutionID) (*ExecutionResult, error) {
	result, err := retry(ctx, c.clock, func(ctx context.Context) (ExecutionResult, error) {
		return c.backend.GetExecutionResult(ctx, id)
	})
	if err != nil || !result.Present {
		return nil, err
	}
	return &result, nil
}

// ReadContext returns the input, kind, tags and, once claimed, the frozen policy
// of an execution, else execution_not_found.
func (c *Client) ReadContext(ctx context.Context, id ExecutionID) (ExecutionContext, error) {
	return retry(ctx, c.clock, func(ctx context.Context) (ExecutionContext, error) {
		return c.backend.ReadExecutionContext(ctx, id)
	})
}

// ListExecutions returns one page of executions ordered by partition and
// identifier. A query without a namespace means the client's.
func (c *Client) ListExecutions(ctx context.Context, query ExecutionQuery) (*Page[ExecutionSummary], error) {
	partitions, err := c.PartitionConfig(ctx)
	if err != nil {
		return nil, err
	}
	return listExecutions(ctx, c.backend, c.clock, partitions, query.within(c.namespace))
}

// Executions yields the executions of a query to its end. An error is the last
// element.
func (c *Client) Executions(ctx context.Context, query ExecutionQuery) iter.Seq2[ExecutionSummary, error] {
	return func(yield func(ExecutionSummary, error) bool) {
		partitions, err := c.PartitionConfig(ctx)
		if err != nil {
			yield(ExecutionSummary{}, err)
			return
		}
		allExecutions(ctx, c.backend, c.clock, partitions, query.within(c.namespace))(yield)
	}
}

// ListLanes returns one page of lanes ordered by identifier.
func (c *Client) ListLanes(ctx context.Context, query LaneQuery) (*Page[LaneStatus], error) {
	return listLanes(ctx, c.backend, c.clock, query)
}

// Lanes yields all lanes ordered by identifier. An error is the last element.
func (c *Client) Lanes(ctx context.Context) iter.Seq2[LaneStatus, error] {
	return allLanes(ctx, c.backend, c.clock)
}

// ListAttempts returns attempts of an execution from an index on.
func (c *Client) ListAttempts(ctx context.Context, args ListAttemptsArgs) (ListAttemptsResult, error) {
	return retry(ctx, c.clock, func(ctx context.Context) (ListAttemptsResult, error) {
		return c.backend.ListAttempts(ctx, args)
	})
}

// Tags returns the tags of an execution, empty when there is none.
func (c *Client) Tags(ctx context.Context, id ExecutionID) (map[string]string, error) {
	return retry(ctx, c.clock, func(ctx context.Context) (map[string]string, error) {
		return c.backend.GetExecutionTags(ctx, id)
	})
}

// SubmitOption sets a field of a submission. Any func of this type will do.
type SubmitOption func(*CreateExecutionArgs)

// OnLane sets the lane.
func OnLane(lane LaneID) SubmitOption { return func(a *CreateExecutionArgs) { a.LaneID = lane } }

// InNamespace sets the namespace.
func InNamespace(ns Namespace) SubmitOption { return func(a *CreateExecutionArgs) { a.Namespace = ns } }

// WithPriority sets the priority, 0..9000; higher runs first.
func WithPriority(p int32) SubmitOption { return func(a *CreateExecutionArgs) { a.Priority = &p } }

// WithIdempotencyKey makes a repeat within the policy's window a duplicate.
func WithIdempotencyKey(key string) SubmitOption {
	return func(a *CreateExecutionArgs) { a.IdempotencyKey = key }
}

// WithPolicy sets the policy.
func WithPolicy(p Policy) SubmitOption { return func(a *CreateExecutionArgs) { a.Policy = p.JSON() } }

// WithTags adds tags.
func WithTags(tags map[string]string) SubmitOption {
	return func(a *CreateExecutionArgs) {
		all := maps.Clone(a.Tags)
		if all == nil {
			all = make(map[string]string, len(tags))
		}
		maps.Copy(all, tags)
		a.Tags = all
	}
}

// NotBefore keeps the execution from being claimed before an instant.
func NotBefore(at time.Time) SubmitOption {
	return func(a *CreateExecutionArgs) { a.DelayUntil = Millis(at.UnixMilli()) }
}

// DeadlineAt ends the execution as expired unless it has ended by an instant.
func DeadlineAt(at time.Time) SubmitOption {
	return func(a *CreateExecutionArgs) { a.ExecutionDeadlineAt = Millis(at.UnixMilli()) }
}

// SubmitJSON submits an execution of a kind with an input in JSON.
func SubmitJSON[T any](ctx context.Context, c *Client, kind string, in T, options ...SubmitOption) (CreateExecutionResult, error) {
	payload, err := json.Marshal(in)
	if err != nil {
		return CreateExecutionResult{}, InvalidInput("payload", "cannot be encoded").Wrap(err)
	}
	args := CreateExecutionArgs{Kind: kind, Payload: payload, PayloadEncoding: "json"}
	for _, option := range options {
		option(&args)
	}
	return c.Submit(ctx, args)
}

// ResultJSON returns the stored result decoded from JSON, nil when the execution
// has not completed, or completed without one. A result that does not decode is
// an error of package encoding/json.
func ResultJSON[T any](ctx context.Context, c *Client, id ExecutionID) (*T, error) {
	result, err := c.Result(ctx, id)
	if err != nil || result == nil {
		return nil, err
	}
	var out T
	if err := json.Unmarshal(result.Payload, &out); err != nil {
		return nil, err
	}
	return &out, nil
}
