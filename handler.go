package flowfabric

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// The failure categories the worker's loop gives by itself. (Specification 08,
// section 5.6.)
const (
	CategoryHandlerError  = "handler_error"            // the handler returned an error
	CategoryHandlerPanic  = "handler_panic"            // the handler panicked
	CategoryNoHandler     = "runtime_no_handler"       // no handler for the execution kind
	CategoryPayloadDecode = "extractor_payload_decode" // the input is not what the handler takes
	CategoryMissingState  = "extractor_missing_state"  // Use found nothing provided
	CategorySuspendLoop   = "suspend_loop"             // SuspendOn was satisfied at once 100 times in a row

	handlerContext   = "handler"
	maxCategoryBytes = 64
	// maxSatisfiedAtOnce bounds how often in a row, within one claim, a handler is
	// called again because what it wants to wait for has come already.
	maxSatisfiedAtOnce = 100
)

// RawHandler runs a task: it takes the input and returns the result, both bytes
// as they are stored. A nil result stores none.
type RawHandler func(ctx context.Context, t *Task, payload []byte) ([]byte, error)

// Handle registers a handler for an execution kind, with JSON in and out. What
// it returns completes the execution; an error fails the attempt with category
// handler_error, a panic with handler_panic, an undecodable input with
// extractor_payload_decode. An empty input decodes as the zero value. [Fail],
// [DelayFor], [SuspendOn] and [CancelTask] make errors that end the attempt, or
// pause it, in other ways. A handler that ends the task itself has the last word, whatever it returns.
//
// Handlers are registered before Run. A kind registered twice, or after Run has
// begun, is a [*ConfigError], which Run returns as well, so that the result may
// be left unread. (Specification 08, section 5.6.)
func Handle[In, Out any](w *Worker, kind string, fn func(ctx context.Context, t *Task, in In) (Out, error)) error {
	if fn == nil {
		return w.addHandler(kind, nil)
	}
	return w.addHandler(kind, func(ctx context.Context, t *Task, payload []byte) ([]byte, error) {
		var in In
		if err := decodeInput(payload, &in); err != nil {
			return nil, Fail(CategoryPayloadDecode, err)
		}
		out, err := fn(ctx, t, in)
		if err != nil {
			return nil, err
		}
		result, err := json.Marshal(out)
		if err != nil {
			return nil, fmt.Errorf("encode result: %w", err)
		}
		return result, nil
	})
}

func decodeInput(payload []byte, in any) error {
	if len(payload) == 0 {
		return nil
	}
	return json.Unmarshal(payload, in)
}

// HandleRaw registers a handler that takes and returns bytes. See [Handle].
func HandleRaw(w *Worker, kind string, fn func(ctx context.Context, t *Task, payload []byte) ([]byte, error)) error {
	return w.addHandler(kind, fn)
}

// addHandler keeps one handler; the first refusal is kept for Run.
func (w *Worker) addHandler(kind string, handler RawHandler) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.checkRegistration(kind, handler)
	if err == nil {
		w.handlers[kind] = handler
		return nil
	}
	if w.misuse == nil {
		w.misuse = err
	}
	return err
}

func (w *Worker) checkRegistration(kind string, handler RawHandler) error {
	refuse := func(field, format string, args ...any) error {
		return &ConfigError{Context: handlerContext, Field: field, Message: fmt.Sprintf(format, args...)}
	}
	if !validKind(kind) {
		return refuse("execution_kind", "%q must be 1..%d bytes of printable ASCII without spaces", clip(kind, 40), MaxExecutionKindBytes)
	}
	if handler == nil {
		return refuse("handler", "the handler of %q is nil", kind)
	}
	if _, twice := w.handlers[kind]; twice {
		return refuse("execution_kind", "%q has a handler already", kind)
	}
	if w.started {
		return refuse("execution_kind", "%q is registered after Run has begun", kind)
	}
	return nil
}

func validKind(kind string) bool {
	if kind == "" || len(kind) > MaxExecutionKindBytes {
		return false
	}
	for i := range len(kind) {
		if kind[i] <= 0x20 || kind[i] > 0x7E {
			return false
		}
	}
	return true
}

// workerKey is the context key of a task's worker.
type workerKey struct{}

// Provide shares a value with all handlers of a worker, which get it by its type
// with [Use]. It is called before Run; a type provided twice is a
// [*ConfigError], which Run returns as well.
func Provide[T any](w *Worker, value T) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := reflect.TypeFor[T]()
	var err error
	if _, twice := w.state[key]; twice {
		err = &ConfigError{Context: handlerContext, Field: "state", Message: fmt.Sprintf("%v is provided already", key)}
	}
	if w.started {
		err = &ConfigError{Context: handlerContext, Field: "state", Message: fmt.Sprintf("%v is provided after Run has begun", key)}
	}
	if err == nil {
		w.state[key] = value
		return nil
	}
	if w.misuse == nil {
		w.misuse = err
	}
	return err
}

// Use returns the value of type T that was given to [Provide], by the context of
// a task. The error, returned by a handler, fails the attempt with category
// extractor_missing_state.
func Use[T any](ctx context.Context) (T, error) {
	var none T
	w, ok := ctx.Value(workerKey{}).(*Worker)
	if !ok {
		return none, Fail(CategoryMissingState, errors.New("the context is not a task's"))
	}
	w.mu.Lock()
	value, ok := w.state[reflect.TypeFor[T]()]
	w.mu.Unlock()
	if !ok {
		return none, Fail(CategoryMissingState, fmt.Errorf("nothing of type %v is provided", reflect.TypeFor[T]()))
	}
	typed, _ := value.(T) // a nil interface value is the zero value
	return typed, nil
}

// verdict is an error by which a handler says how its attempt ends.
type verdict struct {
	kind     verdictKind
	category string        // of a failure
	cause    error         // of a failure
	delay    time.Duration // of a delay
	reason   string        // of a cancel
	suspend  SuspendOptions
}

type verdictKind uint8

const (
	verdictFail verdictKind = iota + 1
	verdictDelay
	verdictCancel
	verdictSuspend
)

func (v *verdict) Error() string {
	switch v.kind {
	case verdictDelay:
		return fmt.Sprintf("delay for %v", v.delay)
	case verdictCancel:
		return "cancel: " + v.reason
	case verdictSuspend:
		return "suspend"
	}
	if v.cause == nil {
		return v.category
	}
	return v.cause.Error()
}

func (v *verdict) Unwrap() error { return v.cause }

// Fail makes the error by which a handler fails its attempt with a category,
// [a-z0-9][a-z0-9_.-]{0,63}. The reason is the text of err and of its causes,
// cut at 4096 bytes. An invalid category counts as handler_error.
func Fail(category string, err error) error {
	return &verdict{kind: verdictFail, category: category, cause: err}
}

// DelayFor makes the error by which a handler gives its execution back for a
// while: the attempt pauses and is resumed later.
func DelayFor(d time.Duration) error { return &verdict{kind: verdictDelay, delay: d} }

// SuspendOn makes the error by which a handler waits: its execution is suspended
// and the permit given back. When the wait is over, some worker claims the
// execution and calls its handler from the top, for the same attempt, with
// [Task.ClaimKind] ClaimResume; [Task.ResumeSignals] tells what came, and
// [Task.LastSuspension] has the continuation pointer and why the wait ended: an
// operator may end it too, and then there are no signals.
//
// Signals that came before, on a pending waitpoint, may meet the condition
// already. Then nothing is suspended and the handler is called again at once
// with the same task, whose ResumeSignals has them. A handler therefore asks what
// came before it waits, whatever the kind of claim. After 100 such calls in a
// row the attempt fails with category suspend_loop.
//
// A suspend whose answer was lost is repeated as long as the lease is held, under
// an idempotency key of its own unless the options have one. One that is refused,
// such as for an invalid condition, fails the attempt with category handler_error.
func SuspendOn(o SuspendOptions) error { return &verdict{kind: verdictSuspend, suspend: o} }

// CancelTask makes the error by which a handler cancels its execution.
func CancelTask(reason string) error { return &verdict{kind: verdictCancel, reason: reason} }

// verdictOf finds out how a handler that returned err wants its attempt to end.
func verdictOf(err error) (v *verdict, explicit bool) {
	if errors.As(err, &v) {
		if v.kind == verdictSuspend {
			return v.repeatable(), true
		}
		if v.kind != verdictFail {
			return v, true
		}
		category := v.category
		if !validCategory(category) {
			category = CategoryHandlerError
		}
		reason := errorText(err)
		if v.cause == nil && err == error(v) {
			reason = category
		}
		return &verdict{kind: verdictFail, category: category, reason: reason}, true
	}
	return &verdict{kind: verdictFail, category: CategoryHandlerError, reason: errorText(err)}, false
}

// repeatable returns a suspend with an idempotency key. Each verdict has one of
// its own, so that the next suspend of the same claim is not taken for a repeat.
func (v *verdict) repeatable() *verdict {
	own := *v
	if own.suspend.IdempotencyKey == "" {
		own.suspend.IdempotencyKey = uuid.NewString()
	}
	return &own
}

// errorText is the text of an error, followed by that of every cause it does
// not mention, cut at 4096 bytes.
func errorText(err error) string {
	text := err.Error()
	for cause := errors.Unwrap(err); cause != nil && len(text) < MaxReasonBytes; cause = errors.Unwrap(cause) {
		if said := cause.Error(); !strings.Contains(text, said) {
			text += ": " + said
		}
	}
	return cutText(text, MaxReasonBytes)
}

// cutText makes s valid UTF-8 of at most n bytes, cut at a character boundary.
func cutText(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// validCategory reports whether c is [a-z0-9][a-z0-9_.-]{0,63}.
func validCategory(c string) bool {
	if c == "" || len(c) > maxCategoryBytes {
		return false
	}
	for i := range len(c) {
		b := c[i]
		if (b >= 'a' && b <= 'z') || (b >= '0' && b <= '9') {
			continue
		}
		if i == 0 || (b != '_' && b != '.' && b != '-') {
			return false
		}
	}
	return true
}
