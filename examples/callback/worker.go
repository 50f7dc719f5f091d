package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/flowfabric/flowfabric"
)

const (
	kind = "compress"
	// doneSignal is the name of the signal that the service is told to send, and
	// the key of the waitpoint it sends it to.
	doneSignal = "compressed"
	maxAsks    = 3
)

// Document is the input: what is to be compressed.
type Document struct {
	Name    string
	Content []byte
	Manner  string // how the service is to call back
}

// Compressed is the result.
type Compressed struct {
	Name        string
	Bytes, From int
	Asked       int // how often the service was asked
}

// Job is what the service gets: the document, and where and how to answer. The
// service needs no other access to the server, and gets none.
type Job struct {
	Document
	CallbackURL string
	Token       string
	SignalName  string
}

// press hands documents to the service.
type press struct {
	options
	http http.Client
}

// work runs a worker until it is told to stop.
func work(ctx context.Context, o options) error {
	backend, err := connect(ctx, o)
	if err != nil {
		return err
	}
	defer backend.Close()
	w, err := flowfabric.NewWorker(ctx, backend, flowfabric.WorkerConfig{WorkerID: "press", Lanes: []flowfabric.LaneID{"default"}, MaxConcurrentTasks: 4})
	if err != nil {
		return err
	}
	p := &press{options: o, http: http.Client{Timeout: 30 * time.Second}}
	if err := flowfabric.Handle(w, kind, p.compress); err != nil {
		return err
	}
	fmt.Println("working")
	return w.Run(ctx)
}

// compress is called from the top after every wait: first it looks whether the
// answer has come, and only then it asks. A worker that dies after it has asked
// makes the next attempt ask again, with another waitpoint; what comes for the
// dead one's is accepted and does nothing.
func (p *press) compress(ctx context.Context, t *flowfabric.Task, doc Document) (Compressed, error) {
	signals, err := t.ResumeSignals(ctx)
	if err != nil {
		return Compressed{}, err
	}
	asked, err := timesAsked(ctx, t)
	if err != nil {
		return Compressed{}, err
	}
	if len(signals) > 0 && !signals[0].TimedOut() {
		return check(doc, signals[0].Payload, asked)
	}
	if asked == maxAsks {
		return Compressed{}, flowfabric.Fail("no_answer", fmt.Errorf("no callback within %v, %d times", p.patience, asked))
	}
	return Compressed{}, p.ask(ctx, t, doc, asked+1)
}

// ask makes the waitpoint before it asks, so that an answer that comes before the
// task waits is kept for it, and returns the error that makes it wait.
func (p *press) ask(ctx context.Context, t *flowfabric.Task, doc Document, asked int) error {
	made, err := t.CreatePendingWaitpoint(ctx, doneSignal, p.patience+time.Minute)
	if err != nil {
		return err
	}
	job := Job{Document: doc, Token: made.Token.Reveal(), SignalName: doneSignal,
		CallbackURL: p.callbacks + "/v1/callbacks/" + url.PathEscape(string(t.ExecutionID())) + "/" + string(made.WaitpointID)}
	if err := p.post(ctx, job); err != nil {
		_, closing := t.CloseWaitpoint(ctx, made.WaitpointID, "the service refused the job")
		return errors.Join(err, closing)
	}
	return flowfabric.SuspendOn(flowfabric.SuspendOptions{
		Reason:       flowfabric.SuspendWaitingForCallback,
		Condition:    flowfabric.Single(doneSignal, flowfabric.ByName(doneSignal)),
		Timeout:      p.patience,
		Behavior:     flowfabric.TimeoutAutoResume,
		Continuation: strconv.Itoa(asked),
	}.OnPending(made))
}

func (p *press) post(ctx context.Context, job Job) error {
	body, err := json.Marshal(job)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.service+"/jobs", bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := p.http.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		return fmt.Errorf("the service answers %s", answer.Status)
	}
	return nil
}

// timesAsked is the note that the attempt left when it began to wait last.
func timesAsked(ctx context.Context, t *flowfabric.Task) (int, error) {
	last, err := t.LastSuspension(ctx)
	if err != nil || last == nil {
		return 0, err
	}
	return strconv.Atoi(last.ContinuationMetadataPointer)
}

// check takes an answer for what it is: something from outside. That its sender
// had the token says nothing about its content.
func check(doc Document, packed []byte, asked int) (Compressed, error) {
	bad := func(why string) error { return flowfabric.Fail("bad_answer", errors.New(doc.Name+": "+why)) }
	unpack, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return Compressed{}, bad("no compressed document: " + err.Error())
	}
	content, err := io.ReadAll(io.LimitReader(unpack, int64(len(doc.Content))+1))
	if err != nil {
		return Compressed{}, bad(err.Error())
	}
	if !bytes.Equal(content, doc.Content) {
		return Compressed{}, bad("the answer is another document")
	}
	return Compressed{Name: doc.Name, Bytes: len(packed), From: len(doc.Content), Asked: asked}, nil
}
