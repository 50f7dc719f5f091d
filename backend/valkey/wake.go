package valkey

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
)

// Channels. (Specification 07, section 10.)
const (
	channelWake = "ff:wake:"
	channelDone = "ff:done:"
	channelFeed = "ff:feed:"
)

const (
	// listenPause is the least time between two attempts to listen at a node.
	listenPause = 100 * time.Millisecond
	// lingerFor is how long the endings of a partition are listened to after the
	// last wait for one of its executions.
	lingerFor = 30 * time.Second
	// listenCheck is how often the channels are compared with the cluster's map.
	listenCheck = 5 * time.Second
)

// wakes tells the engine of this process what others may wait for: what its own
// calls led to at once, and what other processes did by way of the store's
// channels. The zero value is ready.
type wakes struct {
	mu       sync.Mutex
	handlers map[int]func([]flowfabric.WakeEvent)
	next     int
	some     atomic.Bool

	listening sync.Mutex
	listeners map[*node]*listener
	// wanted counts the interest in the endings of a partition, by partition, and
	// in the leases feed of all.
	wanted map[uint16]int
	leases int
	idle   map[uint16]time.Time // when the last interest ended
}

// Watch calls handle with what others may wait for, until stop is called.
func (s *Store) Watch(handle func([]flowfabric.WakeEvent)) (stop func()) {
	w := &s.wakes
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.handlers == nil {
		w.handlers = make(map[int]func([]flowfabric.WakeEvent))
	}
	id := w.next
	w.next++
	w.handlers[id] = handle
	w.some.Store(true)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.handlers, id)
		w.some.Store(len(w.handlers) > 0)
	}
}

// emit hands events to whoever watches in this process.
func (s *Store) emit(events ...flowfabric.WakeEvent) {
	w := &s.wakes
	if len(events) == 0 || !w.some.Load() {
		return
	}
	w.mu.Lock()
	handlers := make([]func([]flowfabric.WakeEvent), 0, len(w.handlers))
	for _, h := range w.handlers {
		handlers = append(handlers, h)
	}
	w.mu.Unlock()
	for _, h := range handlers {
		h(events)
	}
}

// ExpectSettled makes sure that the end of an execution is heard of, whichever
// process brings it about, until done is called. It returns once the store
// listens, so that an end after that is not missed.
func (s *Store) ExpectSettled(ctx context.Context, id flowfabric.ExecutionID) (done func()) {
	part := id.Partition()
	w := &s.wakes
	w.listening.Lock()
	defer w.listening.Unlock()
	if w.wanted == nil {
		w.wanted, w.idle = make(map[uint16]int), make(map[uint16]time.Time)
	}
	w.wanted[part]++
	delete(w.idle, part)
	if n := s.nodes.of(slotOf(s.tag(part))); n != nil {
		if l := w.listeners[n]; l != nil {
			l.add(ctx, channelDone+s.tag(part))
		}
	}
	return func() {
		w.listening.Lock()
		defer w.listening.Unlock()
		if w.wanted[part]--; w.wanted[part] <= 0 {
			delete(w.wanted, part)
			w.idle[part] = time.Now()
		}
	}
}

// ExpectFeed makes sure that new events of a feed are heard of until done is
// called.
func (s *Store) ExpectFeed(ctx context.Context, feed flowfabric.Feed) (done func()) {
	w := &s.wakes
	if feed == flowfabric.FeedCompletions {
		all := make([]func(), 0, len(s.tags))
		for part := range s.tags {
			all = append(all, s.ExpectSettled(ctx, flowfabric.ExecutionID(s.tag(uint16(part))+":")))
		}
		return func() {
			for _, f := range all {
				f()
			}
		}
	}
	w.listening.Lock()
	defer w.listening.Unlock()
	w.leases++
	for n, l := range w.listeners {
		for part := range s.tags {
			if tag := s.tag(uint16(part)); s.nodes.of(slotOf(tag)) == n {
				l.add(ctx, channelFeed+tag, channelDone+tag) // an ending tells of the end of its lease too
			}
		}
	}
	return func() {
		w.listening.Lock()
		defer w.listening.Unlock()
		w.leases--
	}
}

// channels are those to listen to at a node now. w.listening is held.
func (s *Store) channels(n *node) []string {
	w := &s.wakes
	var list []string
	for part := range s.tags {
		tag := s.tag(uint16(part))
		if s.nodes.of(slotOf(tag)) != n {
			continue
		}
		list = append(list, channelWake+tag)
		if w.wanted[uint16(part)] > 0 || w.leases > 0 {
			list = append(list, channelDone+tag)
		}
		if w.leases > 0 {
			list = append(list, channelFeed+tag)
		}
	}
	if s.nodes.of(slotOf(channelAdmin)) == n {
		list = append(list, channelAdmin)
	}
	return list
}

// listener is one connection that listens at one node.
type listener struct {
	node *node
	conn vk.DedicatedClient
	stop func()
	down <-chan error

	mu   sync.Mutex
	have map[string]bool
}

// add listens to channels; those it has already cost nothing. An error shows in
// down as well.
func (l *listener) add(ctx context.Context, channels ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	var cmds vk.Commands
	for _, c := range channels {
		if !l.have[c] {
			l.have[c] = true
			cmds = append(cmds, l.conn.B().Ssubscribe().Channel(c).Build())
		}
	}
	if len(cmds) > 0 {
		for _, res := range l.conn.DoMulti(ctx, cmds...) {
			_ = res.Error()
		}
	}
	return len(cmds)
}

// remove stops listening to a channel.
func (l *listener) remove(ctx context.Context, channel string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.have[channel] {
		delete(l.have, channel)
		_ = l.conn.Do(ctx, l.conn.B().Sunsubscribe().Channel(channel).Build()).Error()
	}
}

// listen starts to listen at every node and goes on until Close. What may have
// been missed before is found by the looks that follow.
func (s *Store) listen() {
	w := &s.wakes
	w.listening.Lock()
	w.listeners = make(map[*node]*listener)
	for _, n := range s.nodes.primaries() {
		s.listenAt(n)
	}
	w.listening.Unlock()
	s.running.Go(func() {
		t := time.NewTicker(listenCheck)
		defer t.Stop()
		for {
			select {
			case <-s.stop:
				w.listening.Lock()
				for n, l := range w.listeners {
					l.stop()
					delete(w.listeners, n)
				}
				w.listening.Unlock()
				return
			case <-t.C:
				s.checkListeners()
			}
		}
	})
}

// listenAt opens a listener at a node. w.listening is held.
func (s *Store) listenAt(n *node) {
	w := &s.wakes
	conn, release := n.client.Dedicate()
	l := &listener{node: n, conn: conn, stop: release, have: make(map[string]bool)}
	l.down = conn.SetPubSubHooks(vk.PubSubHooks{OnMessage: s.heard, OnSubscription: func(sub vk.PubSubSubscription) {
		if sub.Kind == "sunsubscribe" {
			go s.unsubscribed(l, sub.Channel)
		}
	}})
	w.listeners[n] = l
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.RequestTimeout)
	defer cancel()
	l.add(ctx, s.channels(n)...)
	s.running.Go(func() { s.attend(l) })
}

// unsubscribed looks where a channel is now: its slot has moved, unless this process
// stopped listening to it.
func (s *Store) unsubscribed(l *listener, channel string) {
	l.mu.Lock()
	ours := !l.have[channel]
	delete(l.have, channel)
	l.mu.Unlock()
	if ours || s.isStopping() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.RequestTimeout)
	defer cancel()
	s.nodes.refresh(ctx, l.node)
	s.checkListeners()
}

// attend waits for the end of a listener's connection and opens another one. What
// was missed in between is looked for at once.
func (s *Store) attend(l *listener) {
	select {
	case <-s.stop:
		return
	case <-l.down:
	}
	l.stop()
	timer := time.NewTimer(listenPause)
	defer timer.Stop()
	select {
	case <-s.stop:
		return
	case <-timer.C:
	}
	w := &s.wakes
	w.listening.Lock()
	if w.listeners[l.node] == l {
		delete(w.listeners, l.node)
		if !s.isStopping() && s.serves(l.node) {
			s.listenAt(l.node)
		}
	}
	w.listening.Unlock()
	s.missed()
}

func (s *Store) serves(n *node) bool {
	for _, p := range s.nodes.primaries() {
		if p == n {
			return true
		}
	}
	return false
}

// missed tells everybody to look again: notices may have been lost.
func (s *Store) missed() {
	s.forgetRouting()
	s.ready.forget()
	s.emit(flowfabric.WakeEvent{Kind: flowfabric.WakeLane})
	for _, lane := range s.ready.asked() {
		s.emit(flowfabric.WakeEvent{Kind: flowfabric.WakeLane, LaneID: lane})
	}
	for _, feed := range []flowfabric.Feed{flowfabric.FeedCompletions, flowfabric.FeedLeases, flowfabric.FeedSignals} {
		s.emit(flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Feed: feed})
	}
}

// checkListeners brings the listeners in line with the cluster's map and the
// present interest.
func (s *Store) checkListeners() {
	if s.isStopping() {
		return
	}
	w := &s.wakes
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.RequestTimeout)
	defer cancel()
	w.listening.Lock()
	defer w.listening.Unlock()
	moved := false
	for n, l := range w.listeners {
		if !s.serves(n) {
			l.stop()
			delete(w.listeners, n)
			moved = true
		}
	}
	for _, n := range s.nodes.primaries() {
		l := w.listeners[n]
		if l == nil {
			s.listenAt(n)
			moved = true
			continue
		}
		want := s.channels(n)
		l.mu.Lock()
		fresh := make(map[string]bool, len(want))
		for _, c := range want {
			fresh[c] = true
		}
		var gone []string
		for c := range l.have {
			if !fresh[c] && !s.lingers(c) {
				gone = append(gone, c)
			}
		}
		l.mu.Unlock()
		added := l.add(ctx, want...)
		moved = moved || s.nodes.cluster && added > 0
		for _, c := range gone {
			l.remove(ctx, c)
		}
	}
	if moved {
		go s.missed()
	}
}

// lingers reports whether a channel of endings was in use a moment ago.
func (s *Store) lingers(channel string) bool {
	tag, ok := strings.CutPrefix(channel, channelDone)
	if !ok {
		return false
	}
	part, ok := partitionOf(tag)
	if !ok {
		return false
	}
	at, ok := s.wakes.idle[part]
	if ok && time.Since(at) > lingerFor {
		delete(s.wakes.idle, part)
		return false
	}
	return ok
}

// heard takes a message of any channel.
func (s *Store) heard(m vk.PubSubMessage) {
	switch {
	case strings.HasPrefix(m.Channel, channelWake):
		part, ok := partitionOf(m.Channel[len(channelWake):])
		if !ok {
			return
		}
		if ev, ok := s.readOffer(part, m.Message); ok {
			s.emit(ev)
		}
	case strings.HasPrefix(m.Channel, channelDone):
		part, ok := partitionOf(m.Channel[len(channelDone):])
		if !ok {
			return
		}
		s.heardEndings(part, m.Message)
	case strings.HasPrefix(m.Channel, channelFeed):
		s.emit(flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Feed: flowfabric.Feed(m.Message)})
	case m.Channel == channelAdmin:
		s.adminNotice(m.Message)
	}
}

// manyEndings stands before each of several events in one message.
const manyEndings = "\x1e"

// oneSuspended stands before the UUID of an execution that was suspended.
const oneSuspended = "\x1f"

// heardEndings takes a message of a channel of endings: the value of a completion
// event, or of several, or which execution was suspended.
func (s *Store) heardEndings(part uint16, message string) {
	if uuid, ok := strings.CutPrefix(message, oneSuspended); ok {
		s.suspended(flowfabric.ExecutionID(s.tag(part) + ":" + uuid))
		return
	}
	values := []string{message}
	if rest, ok := strings.CutPrefix(message, manyEndings); ok {
		values = strings.Split(rest, manyEndings)
	}
	events := make([]flowfabric.WakeEvent, 0, len(values)+1)
	for _, v := range values {
		ev, err := decodeEvent(flowfabric.FeedCompletions, part, s.tag(part), 0, v)
		if err != nil {
			s.log.Warn("a notice of an ending does not decode", "error", err)
			continue
		}
		events = append(events, flowfabric.WakeEvent{Kind: flowfabric.WakeSettled, Partition: part, LaneID: ev.LaneID,
			ExecutionID: ev.ExecutionID, Completion: &ev})
	}
	s.emit(append(events, flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Partition: part, Feed: flowfabric.FeedCompletions})...)
	s.leasesChanged()
}

func splitList(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}
