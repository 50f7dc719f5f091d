package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// service compresses documents and calls back. It takes the URL and the token as
// it gets them and knows nothing of executions.
type service struct {
	http http.Client

	mu    sync.Mutex
	held  []func()       // calls to be made after the next document
	first map[string]Job // of manner late: the first request, by document
	last  Job            // the one before, whose token a forger has
}

// serve runs the service until it is told to stop.
func serve(ctx context.Context, o options) error {
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	s := &service{http: http.Client{Timeout: 30 * time.Second}, first: map[string]Job{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /jobs", s.take)
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		_ = web.Close()
	}()
	fmt.Printf("listening at http://%s\n", l.Addr())
	if err := web.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// take answers a request with 202, and calls back afterwards, or before.
func (s *service) take(w http.ResponseWriter, r *http.Request) {
	var job Job
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&job); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if job.Manner == "early" {
		s.finish(job)
	} else {
		go s.callBack(job)
	}
	w.WriteHeader(http.StatusAccepted)
}

// callBack calls back in the job's manner.
func (s *service) callBack(job Job) {
	s.mu.Lock()
	last := s.last
	s.last = job
	asked, again := s.first[job.Name]
	if job.Manner == "late" && !again {
		s.first[job.Name] = job
	}
	s.mu.Unlock()
	switch job.Manner {
	case "held":
		s.hold(job)
	case "forged":
		forged := job
		forged.Token = flipped(job.Token)
		s.send(forged, job.Content)
		forged.Token = last.Token // genuine, for another document
		s.send(forged, job.Content)
		s.hold(job)
	case "late":
		if again {
			s.send(asked, job.Content)
			s.finish(job)
		}
	case "twice":
		s.send(job, job.Content)
		s.send(job, job.Content)
	case "wrong":
		s.send(job, []byte("another document"))
	default:
		s.finish(job)
	}
}

// hold keeps a job until the next one is finished.
func (s *service) hold(job Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = append(s.held, func() { s.send(job, job.Content) })
}

// finish calls back for a job, then for those that are held.
func (s *service) finish(job Job) {
	s.send(job, job.Content)
	s.mu.Lock()
	held := s.held
	s.held = nil
	s.mu.Unlock()
	for _, send := range held {
		send()
	}
}

// send compresses a document and calls back. There is one answer to a request, so
// its idempotency key is always the same: a repeat changes nothing.
func (s *service) send(job Job, content []byte) {
	var packed bytes.Buffer
	pack := gzip.NewWriter(&packed)
	_, _ = pack.Write(content) // a buffer takes everything
	_ = pack.Close()
	body, err := json.Marshal(map[string]any{
		"signal_name": job.SignalName, "source_identity": "compressor", "idempotency_key": "answer",
		"payload": packed.Bytes(), "payload_encoding": "gzip",
	})
	if err != nil {
		fmt.Println(job.Name, job.Manner, err)
		return
	}
	for range maxCalls {
		answer, pause := s.call(job, body)
		if pause == 0 {
			fmt.Println(job.Name, job.Manner, answer)
			return
		}
		time.Sleep(pause)
	}
	fmt.Println(job.Name, job.Manner, "no answer")
}

// maxCalls is how often a call is made that gets no answer, or "later": a
// server holds callbacks back that come too fast, also a forger's.
const maxCalls = 10

// call makes one call. A pause says that it is to be made again, and when.
func (s *service) call(job Job, body []byte) (answer string, pause time.Duration) {
	req, err := http.NewRequest(http.MethodPost, job.CallbackURL, bytes.NewReader(body))
	if err != nil {
		return err.Error(), 0
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("FF-Waitpoint-Token", job.Token)
	res, err := s.http.Do(req)
	if err != nil {
		return "", time.Second
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= http.StatusInternalServerError {
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		return "", time.Duration(max(seconds, 1)) * time.Second
	}
	var said struct{ Outcome, Code string } // one of the two
	_ = json.NewDecoder(res.Body).Decode(&said)
	return fmt.Sprintf("%d %s%s", res.StatusCode, said.Outcome, said.Code), 0
}

// flipped changes the last character of a token.
func flipped(token string) string {
	if n := len(token) - 1; n >= 0 && token[n] != '0' {
		return token[:n] + "0"
	} else if n >= 0 {
		return token[:n] + "1"
	}
	return token
}
