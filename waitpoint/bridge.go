// Package waitpoint brings signals from outside into FlowFabric: it serves the
// webhooks of a service that has routes of its own, without opening the engine's
// API to the public. (Specification 03, section 5.5.)
package waitpoint

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// Limits of a request to a [Bridge].
const (
	MaxBodyBytes    = 262_144
	MaxPayloadBytes = flowfabric.MaxSignalPayloadBytes
)

// Bridge is an [http.Handler] that turns requests into signals. It is for
// parties that are not trusted: who calls needs the waitpoint's token and
// nothing else, and learns nothing without it.
//
// It takes POST only, and bodies of up to 256 KiB with payloads of up to 64 KiB,
// else 413. A signal that is accepted, or was before, is answered with 202 and
// {"outcome":"accepted"}, whatever it did. Refusals are problem documents: 403
// missing_token without a token, 403 invalid_token for a wrong one and for an
// unknown target alike; with the right token token_expired, waitpoint_closed,
// target_not_signalable and signal_limit_exceeded as well.
type Bridge struct {
	// Client delivers. Required; its backend must let it read tokens.
	Client *flowfabric.Client
	// Decode reads a request: whom the signal is for, the token as it was
	// presented, and the signal. Reading over the limit of the body fails. An error
	// that is a [*flowfabric.Error] of class invalid_input is told to the caller,
	// another is only called invalid. The default is [DecodeCallback].
	Decode func(r *http.Request) (flowfabric.DeliverSignalArgs, error)
	// Logger is told what is refused, never a token or a payload. The default is
	// slog.Default().
	Logger *slog.Logger
}

// ServeHTTP delivers one signal.
func (b *Bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		b.refuse(w, r, flowfabric.NewError(flowfabric.CodeMethodNotAllowed, "only POST is taken"))
		return
	}
	args, err := b.decode(w, r)
	if err == nil {
		err = b.deliver(r, args)
	}
	if err != nil {
		b.log().Info("signal refused", "execution_id", string(args.ExecutionID), "waitpoint_id", string(args.WaitpointID),
			"code", string(flowfabric.CodeOf(err)))
		b.refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", wire.MediaJSON)
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write([]byte(`{"outcome":"accepted"}`))
}

// decode reads the request within its limits.
func (b *Bridge) decode(w http.ResponseWriter, r *http.Request) (flowfabric.DeliverSignalArgs, error) {
	if r.ContentLength > MaxBodyBytes {
		w.Header().Set("Connection", "close")
		return flowfabric.DeliverSignalArgs{}, bodyTooLarge()
	}
	r.Body = http.MaxBytesReader(w, r.Body, MaxBodyBytes)
	read := b.Decode
	if read == nil {
		read = DecodeCallback
	}
	args, err := read(r)
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return args, bodyTooLarge()
	case err != nil && !errors.Is(err, flowfabric.ClassInvalidInput):
		return args, flowfabric.NewError(flowfabric.CodeInvalidInput, "the request is not understood").Wrap(err)
	case err != nil:
		return args, err
	case len(args.Signal.Payload) > MaxPayloadBytes:
		return args, flowfabric.NewError(flowfabric.CodePayloadTooLarge, "the payload is over %d bytes", MaxPayloadBytes).
			With("limit_bytes", MaxPayloadBytes)
	}
	return args, nil
}

func bodyTooLarge() error {
	return flowfabric.NewError(flowfabric.CodePayloadTooLarge, "the body is over %d bytes", MaxBodyBytes).
		With("limit_bytes", MaxBodyBytes)
}

// deliver verifies and delivers. A sender that repeats the very signal that ended
// a wait finds the waitpoint closed and its token gone from the store's answers;
// the engine still knows the signal, and verifies the token by itself. What is
// wrong with the signal comes before all that, as it does in the engine, so that
// it is answered alike whether the waitpoint is there or not.
func (b *Bridge) deliver(r *http.Request, args flowfabric.DeliverSignalArgs) error {
	if err := checkSignal(args); err != nil {
		return err
	}
	if args.Token.IsZero() {
		return flowfabric.NewError(flowfabric.CodeMissingToken, "no waitpoint token was presented")
	}
	_, err := VerifyAndDeliver(r.Context(), b.Client, args.ExecutionID, args.WaitpointID, args.Token, args.Signal)
	if errors.Is(err, flowfabric.ErrUnknownWaitpoint) {
		_, err = b.Client.DeliverSignal(r.Context(), args.ExecutionID, args.WaitpointID, args.Token, args.Signal)
	}
	return err
}

// checkSignal makes the engine's checks of the input. A sender that is not named
// gets the client's name later.
func checkSignal(args flowfabric.DeliverSignalArgs) error {
	if args.Signal.SourceIdentity == "" {
		args.Signal.SourceIdentity = wire.CallbackSender
	}
	_, err := rules.PrepareDeliver(args)
	return err
}

// refuse answers with what an error may tell the public.
func (b *Bridge) refuse(w http.ResponseWriter, r *http.Request, err error) {
	told := public(err)
	p := wire.NewProblem(told)
	p.Instance = r.URL.Path
	if p.Status >= http.StatusInternalServerError {
		b.log().Error("signal not delivered", "error", err)
	}
	if seconds := p.RetryAfterSeconds(); seconds > 0 {
		w.Header().Set(wire.HeaderRetryAfter, strconv.FormatInt(seconds, 10))
	} else if p.Status == http.StatusServiceUnavailable {
		w.Header().Set(wire.HeaderRetryAfter, "1")
	}
	w.Header().Set("Content-Type", wire.MediaProblem)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// public returns what the public is told of an error: nothing of whether a
// target exists, of the service's own standing with the engine, or of the store.
func public(err error) *flowfabric.Error {
	e := flowfabric.AsError(err)
	if e == nil {
		return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "the signal could not be delivered")
	}
	switch e.Code {
	case flowfabric.CodeUnknownWaitpoint, flowfabric.CodeTokenMismatch, flowfabric.CodeInvalidToken:
		return flowfabric.NewError(flowfabric.CodeInvalidToken, "the token is not valid here")
	case flowfabric.CodeMissingToken, flowfabric.CodeTokenExpired, flowfabric.CodeWaitpointClosed, flowfabric.CodeTargetNotSignalable,
		flowfabric.CodeSignalLimitExceeded, flowfabric.CodeSignalIDConflict:
		info, _ := e.Code.Info()
		return flowfabric.NewError(e.Code, "%s", info.Title)
	}
	switch {
	case e.Class == flowfabric.ClassInvalidInput:
		told := flowfabric.NewError(e.Code, "%s", e.Message)
		for _, fact := range []string{"field", "limit_bytes", "limit", "reason"} {
			if v := e.Detail(fact); v != nil {
				told = told.With(fact, v)
			}
		}
		return told
	case e.Retryable:
		told := flowfabric.NewError(flowfabric.CodeStoreUnavailable, "the signal could not be delivered now")
		told.RetryAfter = e.RetryAfter
		return told
	}
	return flowfabric.NewError(flowfabric.CodeInternal, "the signal could not be delivered")
}

func (b *Bridge) log() *slog.Logger {
	if b.Logger == nil {
		return slog.Default()
	}
	return b.Logger
}
