package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/flowfabric/flowfabric"
)

// shutdown follows specification 08, section 6.3. The cause, when not nil, is a
// listener's failure.
func (p *process) shutdown(cause error) error {
	p.log.Info("shutting down", "timeout", p.cfg.ShutdownTimeout.String())
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.ShutdownTimeout)
	defer cancel()
	p.control.close()
	errs := []error{cause, p.server.Shutdown(ctx)}
	p.serving.Wait()
	errs = append(errs, p.closeStore(ctx))
	err := errors.Join(errs...)
	if err == nil {
		p.log.Info("stopped")
		return nil
	}
	p.log.Error("stopped with errors", slog.String("error", err.Error()))
	return &codeError{code: exitFailed, err: err}
}

// closeStore closes the store and releases its lock, within what is left of the
// time.
func (p *process) closeStore(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- p.backend.Close() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(time.Second): // the process ends, and the lock with it
		return flowfabric.NewError(flowfabric.CodeShutdownTimeout, "the store was not closed in time")
	}
}
