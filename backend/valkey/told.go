package valkey

import (
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// The store's channels tell every process of what was offered, of endings and of
// new events, as far as somebody waits for them. Those who wait in this process
// need not wait for the message where its own call says it all.

// offered tells that an execution may be claimed. offer is what the library
// answered: lane, namespace, capabilities, key of the order and UUID, a line each;
// empty when it may not.
func (s *Store) offered(id flowfabric.ExecutionID, offer string) {
	if ev, ok := s.readOffer(id.Partition(), offer); ok {
		s.emit(ev)
	}
}

// readOffer notes an offer where this process looks for work, and makes the event
// of it.
func (s *Store) readOffer(part uint16, offer string) (flowfabric.WakeEvent, bool) {
	lines := strings.Split(offer, "\n")
	if len(lines) != 5 {
		return flowfabric.WakeEvent{}, false
	}
	score, err := strconv.ParseInt(lines[3], 10, 64)
	if err != nil {
		return flowfabric.WakeEvent{}, false
	}
	ev := flowfabric.WakeEvent{Kind: flowfabric.WakeEligible, Partition: part, LaneID: flowfabric.LaneID(lines[0]),
		Namespace: flowfabric.Namespace(lines[1]), Required: splitList(lines[2]), Count: 1}
	s.ready.note(ev.LaneID, ev.Namespace, lines[2], offerPlace{score, part, lines[4]})
	return ev, true
}

// settled tells that executions have ended.
func (s *Store) settled(ids ...flowfabric.ExecutionID) {
	if !s.wakes.some.Load() {
		return
	}
	events := make([]flowfabric.WakeEvent, 0, len(ids)+2)
	for _, id := range ids {
		events = append(events, flowfabric.WakeEvent{Kind: flowfabric.WakeSettled, Partition: id.Partition(), ExecutionID: id})
	}
	events = append(events, flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Feed: flowfabric.FeedCompletions})
	if s.feedOn(flowfabric.FeedLeases) {
		events = append(events, flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Feed: flowfabric.FeedLeases})
	}
	s.emit(events...)
}

// leasesChanged tells that the lease feed has new events.
func (s *Store) leasesChanged() {
	if s.wakes.some.Load() && s.feedOn(flowfabric.FeedLeases) {
		s.emit(flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Feed: flowfabric.FeedLeases})
	}
}

// suspended tells that an execution waits: it is settled, though not ended.
func (s *Store) suspended(id flowfabric.ExecutionID) {
	s.emit(flowfabric.WakeEvent{Kind: flowfabric.WakeSettled, Partition: id.Partition(), ExecutionID: id})
	s.leasesChanged()
}

// signalsChanged tells that the feed of signals has new events.
func (s *Store) signalsChanged() {
	if s.wakes.some.Load() && s.feedOn(flowfabric.FeedSignals) {
		s.emit(flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Feed: flowfabric.FeedSignals})
	}
}
