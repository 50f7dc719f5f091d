package valkey

import (
	"strings"

	"github.com/flowfabric/flowfabric"
)

// The store's channels tell every process of what was offered, of endings and of
// new events, as far as somebody waits for them. Those who wait in this process
// need not wait for the message where its own call says it all.

// offered tells that an execution may be claimed. offer is what the library
// answered: "<lane>\n<namespace>\n<capabilities>", empty when it may not.
func (s *Store) offered(id flowfabric.ExecutionID, offer string) {
	lane, rest, _ := strings.Cut(offer, "\n")
	namespace, caps, ok := strings.Cut(rest, "\n")
	if !ok {
		return
	}
	part := id.Partition()
	s.ready.note(flowfabric.LaneID(lane), part, flowfabric.Namespace(namespace), caps, unsureScore)
	s.emit(flowfabric.WakeEvent{Kind: flowfabric.WakeEligible, Partition: part, LaneID: flowfabric.LaneID(lane),
		Namespace: flowfabric.Namespace(namespace), Required: splitList(caps), Count: 1})
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
