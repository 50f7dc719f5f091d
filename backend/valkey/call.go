package valkey

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"time"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
)

// Bounds of a call. (Specification 07, sections 4.2 and 12.)
const (
	maxTries       = 6 // a call and 5 repeats
	maxRetryTime   = 3 * time.Second
	firstBackoff   = 25 * time.Millisecond
	maxInFlight    = 10_000 // on one connection
	connsPerNode   = 2
	nodeInFlight   = maxInFlight * connsPerNode
	libraryBackoff = 100 * time.Millisecond
)

// request is one call of a library function.
type request struct {
	fn, tag  string
	args     []string
	readOnly bool
}

// answer is what a call came to: a message, or the error as callers get it.
type answer struct {
	msg vk.ValkeyMessage
	err error
}

// call calls a function of the library that may write. The routing key is "ff:"
// and the tag. The error is the refusal, or what went wrong on the way, with the
// function's name, less "ff_", as its operation.
func (s *Store) call(ctx context.Context, fn, tag string, args ...string) (vk.ValkeyMessage, error) {
	if s.durable != nil {
		a := s.calls(ctx, []request{{fn: fn, tag: tag, args: args}})
		return a[0].msg, a[0].err
	}
	return s.one(ctx, "FCALL", fn, tag, args)
}

// read calls a function that does not write.
func (s *Store) read(ctx context.Context, fn, tag string, args ...string) (vk.ValkeyMessage, error) {
	return s.one(ctx, "FCALL_RO", fn, tag, args)
}

func (s *Store) one(ctx context.Context, verb, fn, tag string, args []string) (vk.ValkeyMessage, error) {
	if err := s.admit(); err != nil {
		return vk.ValkeyMessage{}, named(err, fn)
	}
	key := s.routingKey(tag)
	slot := slotOf(key)
	n := s.nodes.of(slot)
	if n != nil && n.enter(1) {
		cmd := s.b.Arbitrary(verb, fn, "1").Keys(key).Args(args...).Build()
		res := n.client.Do(ctx, cmd)
		n.leave(1)
		msg, err := res.ToMessage()
		if err == nil || err == vk.Nil {
			return msg, nil
		}
		if text, ok := replyText(err); ok && strings.HasPrefix(text, refusalPrefix) {
			return vk.ValkeyMessage{}, refusalAt(operation(fn), tag, text[len(refusalPrefix):])
		}
		return s.again(ctx, fault{node: n, err: err}, verb, fn, tag, args)
	}
	if n != nil {
		return vk.ValkeyMessage{}, named(errOverloaded(n), fn)
	}
	return s.again(ctx, fault{err: errNoNode}, verb, fn, tag, args)
}

// again decides what becomes of a call that was not answered by its function:
// it repeats it while that helps and can do no harm.
func (s *Store) again(ctx context.Context, f fault, verb, fn, tag string, args []string) (vk.ValkeyMessage, error) {
	t := s.newTrial()
	req := request{fn: fn, tag: tag, args: args, readOnly: verb == "FCALL_RO"}
	for {
		if err := t.settle(ctx, f, req.readOnly); err != nil {
			return vk.ValkeyMessage{}, named(err, fn)
		}
		var a answer
		a, f = s.try(ctx, &req)
		if f.err == nil {
			return a.msg, a.err
		}
	}
}

// try makes one call, once.
func (s *Store) try(ctx context.Context, r *request) (answer, fault) {
	n := s.nodes.of(slotOf(keyPrefix + r.tag))
	if n == nil {
		return answer{}, fault{err: errNoNode}
	}
	if !n.enter(1) {
		return answer{err: named(errOverloaded(n), r.fn)}, fault{}
	}
	defer n.leave(1)
	return judge(r, n, n.client.Do(ctx, s.command(r)))
}

// command builds the command of a request.
func (s *Store) command(r *request) vk.Completed {
	verb := "FCALL"
	if r.readOnly {
		verb = "FCALL_RO"
	}
	return s.b.Arbitrary(verb, r.fn, "1").Keys(s.routingKey(r.tag)).Args(r.args...).Build()
}

// judge tells an answer of the function, refusals included, from a fault on the
// way.
func judge(r *request, n *node, res vk.ValkeyResult) (answer, fault) {
	msg, err := res.ToMessage()
	if err == nil || err == vk.Nil {
		return answer{msg: msg}, fault{}
	}
	if text, ok := replyText(err); ok && strings.HasPrefix(text, refusalPrefix) {
		return answer{err: refusalAt(operation(r.fn), r.tag, text[len(refusalPrefix):])}, fault{}
	}
	return answer{}, fault{node: n, err: err}
}

// calls makes many calls as one pipeline, or one for each node of a cluster, and
// answers them in order. A call that was refused or failed does not touch the
// others; those that were not carried out are repeated alone.
func (s *Store) calls(ctx context.Context, reqs []request) []answer {
	out := make([]answer, len(reqs))
	if len(reqs) == 0 {
		return out
	}
	if err := s.admit(); err != nil {
		for i := range reqs {
			out[i].err = named(err, reqs[i].fn)
		}
		return out
	}
	todo := make([]int, len(reqs))
	for i := range todo {
		todo[i] = i
	}
	t := s.newTrial()
	faults := make([]fault, len(reqs))
	for {
		s.pipeline(ctx, reqs, todo, out, faults)
		var worst fault
		rest := todo[:0]
		for _, i := range todo {
			f := faults[i]
			if f.err == nil {
				continue
			}
			faults[i] = fault{}
			if err := t.verdict(ctx, f, reqs[i].readOnly); err != nil {
				out[i].err = named(err, reqs[i].fn)
				continue
			}
			worst = f
			rest = append(rest, i)
		}
		if todo = rest; len(todo) == 0 {
			return out
		}
		if err := t.settle(ctx, worst, true); err != nil {
			for _, i := range todo {
				out[i].err = named(err, reqs[i].fn)
			}
			return out
		}
	}
}

// pipeline sends the requests named by todo to their nodes and fills in answers
// and faults.
func (s *Store) pipeline(ctx context.Context, reqs []request, todo []int, out []answer, faults []fault) {
	groups := s.group(reqs, todo, faults)
	if len(groups) == 1 {
		s.send(ctx, groups[0], reqs, out, faults)
		return
	}
	s.eachGroup(groups, func(g group) { s.send(ctx, g, reqs, out, faults) })
}

// group sorts requests by their nodes. Most often all have one.
func (s *Store) group(reqs []request, todo []int, faults []fault) []group {
	var groups []group
next:
	for _, i := range todo {
		n := s.nodes.of(slotOf(keyPrefix + reqs[i].tag))
		if n == nil {
			faults[i] = fault{err: errNoNode}
			continue
		}
		for j := range groups {
			if groups[j].node == n {
				groups[j].items = append(groups[j].items, i)
				continue next
			}
		}
		groups = append(groups, group{node: n, items: append(make([]int, 0, len(todo)), i)})
	}
	return groups
}

// group is the part of a pipeline that goes to one node.
type group struct {
	node  *node
	items []int
}

// send makes the calls of one group in one pipeline, and then, where durability
// asks for it, waits for its writes on the same connection.
func (s *Store) send(ctx context.Context, g group, reqs []request, out []answer, faults []fault) {
	if !g.node.enter(len(g.items)) {
		for _, i := range g.items {
			out[i].err = named(errOverloaded(g.node), reqs[i].fn)
		}
		return
	}
	defer g.node.leave(len(g.items))
	cmds := make(vk.Commands, 0, len(g.items)+1)
	writes := false
	for _, i := range g.items {
		writes = writes || !reqs[i].readOnly
		cmds = append(cmds, s.command(&reqs[i]))
	}
	if !writes || s.durable == nil {
		for j, res := range g.node.client.DoMulti(ctx, cmds...) {
			i := g.items[j]
			out[i], faults[i] = judge(&reqs[i], g.node, res)
		}
		return
	}
	s.sendDurable(ctx, g, cmds, reqs, out, faults)
}

// plain sends plain read commands, each to the node of its first key, as
// pipelines, and answers them in order. Commands are built with [Store.b].
func (s *Store) plain(ctx context.Context, cmds ...vk.Completed) []answer {
	out := make([]answer, len(cmds))
	if err := s.admit(); err != nil {
		for i := range out {
			out[i].err = err
		}
		return out
	}
	for i := range cmds {
		cmds[i] = cmds[i].Pin() // a repeat needs it again
	}
	todo := make([]int, len(cmds))
	for i := range todo {
		todo[i] = i
	}
	t := s.newTrial()
	for {
		faults := s.plainOnce(ctx, cmds, todo, out)
		var worst fault
		rest := todo[:0]
		for j, i := range todo {
			f := faults[j]
			if f.err == nil {
				continue
			}
			if err := t.verdict(ctx, f, true); err != nil {
				out[i].err = named(err, "read")
				continue
			}
			worst = f
			rest = append(rest, i)
		}
		if todo = rest; len(todo) == 0 {
			return out
		}
		if err := t.settle(ctx, worst, true); err != nil {
			for _, i := range todo {
				out[i].err = named(err, "read")
			}
			return out
		}
	}
}

func (s *Store) plainOnce(ctx context.Context, cmds []vk.Completed, todo []int, out []answer) []fault {
	faults := make([]fault, len(todo))
	var groups []group
next:
	for j, i := range todo {
		n := s.nodes.of(cmds[i].Slot() &^ (1 << 15))
		if n == nil {
			faults[j] = fault{err: errNoNode}
			continue
		}
		for k := range groups {
			if groups[k].node == n {
				groups[k].items = append(groups[k].items, j)
				continue next
			}
		}
		groups = append(groups, group{node: n, items: append(make([]int, 0, len(todo)), j)})
	}
	s.eachGroup(groups, func(g group) {
		if !g.node.enter(len(g.items)) {
			for _, j := range g.items {
				out[todo[j]].err = errOverloaded(g.node)
			}
			return
		}
		defer g.node.leave(len(g.items))
		batch := make([]vk.Completed, len(g.items))
		for k, j := range g.items {
			batch[k] = cmds[todo[j]]
		}
		for k, res := range g.node.client.DoMulti(ctx, batch...) {
			j := g.items[k]
			msg, err := res.ToMessage()
			if err == vk.Nil {
				err = nil
			}
			out[todo[j]].msg = msg
			if err != nil {
				faults[j] = fault{node: g.node, err: err}
			}
		}
	})
	return faults
}

// eachGroup runs f for all groups at once, the last one in this goroutine.
func (s *Store) eachGroup(groups []group, f func(group)) {
	if len(groups) == 0 {
		return
	}
	last := len(groups) - 1
	done := make(chan struct{}, last)
	for _, g := range groups[:last] {
		go func() {
			f(g)
			done <- struct{}{}
		}()
	}
	f(groups[last])
	for range last {
		<-done
	}
}

// fault is a call that its function did not answer.
type fault struct {
	node *node
	err  error
}

var errNoNode = errors.New("no node serves the slot")

// replyText returns the text of an error reply of the store, less "ERR ".
func replyText(err error) (string, bool) {
	var reply *vk.ValkeyError
	if errors.As(err, &reply) && !reply.IsNil() {
		return reply.Error(), true
	}
	return "", false
}

// reaction is what a fault asks for.
type reaction uint8

const (
	giveUp   reaction = iota
	wait              // not carried out; may be in a moment
	look              // not carried out; the cluster has changed
	load              // not carried out; the library is missing
	notSent           // not carried out; no connection
	withdraw          // not carried out; another caller's context ended the dialling
)

// react says what a fault asks for, and the error to give when nothing helps.
func react(f fault, readOnly bool) (reaction, *flowfabric.Error) {
	if f.err == errNoNode {
		return look, unavailable("cluster", "no node of the cluster serves the slot", nil)
	}
	if text, ok := replyText(f.err); ok {
		return reactToReply(text)
	}
	if e := flowfabric.AsError(f.err); e != nil { // of connecting: the credentials can't be read
		return giveUp, e
	}
	if errors.Is(f.err, context.Canceled) || errors.Is(f.err, context.DeadlineExceeded) {
		return withdraw, unavailable("transport", "the connection was given up by another caller", nil)
	}
	if errors.Is(f.err, vk.ErrClosing) {
		if f.node != nil && f.node.retired.Load() {
			return look, unavailable("cluster", "the node has left the cluster", nil)
		}
		return giveUp, errClosed()
	}
	var unreached *dialError
	if errors.As(f.err, &unreached) {
		return notSent, unavailable("transport", "not reachable", f.err)
	}
	timeout := errors.Is(f.err, os.ErrDeadlineExceeded)
	var nerr net.Error
	if errors.As(f.err, &nerr) && nerr.Timeout() {
		timeout = true
	}
	kind := "transport"
	if timeout {
		kind = "timeout"
	}
	switch {
	case !readOnly:
		return giveUp, flowfabric.NewError(flowfabric.CodeOutcomeUnknown, "the answer was lost; it may have been carried out").Wrap(f.err).WithKind(kind)
	case timeout:
		return giveUp, flowfabric.NewError(flowfabric.CodeStoreTimeout, "no answer in time").Wrap(f.err).WithKind(kind)
	}
	// A read may be repeated.
	return wait, flowfabric.NewError(flowfabric.CodeStoreTimeout, "the connection was lost before the answer").Wrap(f.err).WithKind(kind)
}

// reactToReply does the same for an error reply.
func reactToReply(text string) (reaction, *flowfabric.Error) {
	word, _, _ := strings.Cut(text, " ")
	switch word {
	case "MOVED":
		return look, unavailable("cluster", "the partition has moved", nil)
	case "ASK", "TRYAGAIN":
		// Nothing is ever sent after an ASK: while a slot moves, its keys lie on
		// two nodes, and a function would see half of a partition. The routing key
		// never exists, so the old node refuses every call until the move is done.
		return look, unavailable("cluster", "the partition is being moved", nil)
	case "CLUSTERDOWN":
		return look, unavailable("cluster", text, nil)
	case "READONLY":
		return look, unavailable("cluster", "the node is a replica; a failover is under way", nil)
	case "MASTERDOWN", "LOADING", "BUSY", "NOREPLICAS":
		return wait, unavailable("busy_loading", text, nil)
	case "MISCONF":
		return giveUp, unavailable("other", text, nil)
	case "OOM":
		return giveUp, flowfabric.NewError(flowfabric.CodeStoreFull, "the store is at maxmemory")
	case "NOAUTH", "WRONGPASS", "NOPERM":
		return giveUp, flowfabric.NewError(flowfabric.CodeStoreFault, "%s", authText(word, text)).WithKind("auth")
	}
	if strings.HasPrefix(text, "Function not found") {
		return load, flowfabric.NewError(flowfabric.CodeLibraryMissing, "the function library is not in the store").WithKind("script_not_loaded")
	}
	kind := "other"
	if strings.HasPrefix(text, "max number of clients") {
		return notSent, unavailable("transport", text, nil)
	}
	if strings.Contains(text, "Protocol error") || word == "CROSSSLOT" || word == "WRONGTYPE" {
		kind = "protocol"
	}
	return giveUp, flowfabric.NewError(flowfabric.CodeStoreFault, "%s", text).WithKind(kind)
}

// authText explains a refusal of credentials without showing them.
func authText(word, text string) string {
	switch word {
	case "NOAUTH":
		return "the store wants a password"
	case "WRONGPASS":
		return "the store refuses the user name or password"
	}
	return text // names a command, key pattern or channel
}

func unavailable(kind, text string, cause error) *flowfabric.Error {
	e := flowfabric.NewError(flowfabric.CodeStoreUnavailable, "%s", text).WithKind(kind)
	if cause != nil {
		e = e.Wrap(cause)
	}
	return e
}

func errClosed() *flowfabric.Error {
	return flowfabric.NewError(flowfabric.CodeShuttingDown, "the store is closed")
}

func errOverloaded(n *node) *flowfabric.Error {
	return flowfabric.NewError(flowfabric.CodeBackendOverloaded, "%d calls are in flight to %s", nodeInFlight, n.addr)
}

// operation is the operation a function stands for.
func operation(fn string) string { return strings.TrimPrefix(fn, "ff_") }

// named sets the operation of an error made for this call; others pass.
func named(err error, fn string) error {
	e, ok := err.(*flowfabric.Error)
	if !ok || e.Op != "" {
		return err
	}
	copied := *e
	copied.Op = operation(fn)
	return &copied
}

// admit refuses calls of a store that is closed or has lost its deployment.
func (s *Store) admit() error {
	if e := s.gone.Load(); e != nil {
		return e
	}
	return nil
}

// trial bounds the repeats of a call or pipeline.
type trial struct {
	s       *Store
	begun   time.Time
	tries   int
	backoff time.Duration
	repairs uint64 // generation of the library that the call began with
	loaded  bool
}

func (s *Store) newTrial() *trial {
	return &trial{s: s, begun: time.Now(), tries: 1, backoff: firstBackoff, repairs: s.lib.generation.Load()}
}

// verdict is nil when a repeat may help, else the error of the call.
func (t *trial) verdict(ctx context.Context, f fault, readOnly bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	do, e := react(f, readOnly)
	switch {
	case do == giveUp:
		return e
	case do == load && t.loaded:
		return e
	case do == load:
		return nil
	case do == notSent && !t.s.nodes.cluster:
		return e // there is no other node; the caller's own patience decides
	case t.tries >= maxTries || time.Since(t.begun)+t.backoff > maxRetryTime:
		return e
	}
	return nil
}

// settle does what the fault asks for before a repeat, or returns the error of
// the call.
func (t *trial) settle(ctx context.Context, f fault, readOnly bool) error {
	if err := t.verdict(ctx, f, readOnly); err != nil {
		return err
	}
	do, _ := react(f, readOnly)
	if do == load {
		t.loaded = true
		return t.s.lib.repair(ctx, t.repairs)
	}
	t.tries++
	if do == withdraw {
		return nil
	}
	if do == look || do == notSent {
		if moved := t.s.nodes.refresh(ctx, f.node); moved && t.tries == 2 {
			return nil // at once, to the right node
		}
	}
	pause := t.backoff + rand.N(t.backoff/5+1)
	t.backoff *= 2
	return sleep(ctx, pause)
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
