package valkey

import (
	"strings"

	"github.com/flowfabric/flowfabric"
)

// A process tells those who wait in it of its own writes at once; what others
// write comes over the channels of the store.

// offered tells that an execution may be claimed. about is what the library
// answered: "<lane>\n<namespace>\n<capabilities>", empty when it is not offered.
func (s *Store) offered(id flowfabric.ExecutionID, about string) {
	if ev, ok := offerOf(id.Partition(), about); ok {
		s.emit(ev)
	}
}

func offerOf(part uint16, about string) (ev flowfabric.WakeEvent, ok bool) {
	lane, rest, ok := strings.Cut(about, "\n")
	namespace, caps, ok2 := strings.Cut(rest, "\n")
	if !ok || !ok2 {
		return ev, false
	}
	ev = flowfabric.WakeEvent{Kind: flowfabric.WakeEligible, Partition: part, LaneID: flowfabric.LaneID(lane),
		Namespace: flowfabric.Namespace(namespace), Count: 1}
	if caps != "" {
		ev.Required = strings.Split(caps, ",")
	}
	return ev, true
}

// settled tells that an execution has ended. v is the value of its completion
// event, empty when that is not known.
func (s *Store) settled(id flowfabric.ExecutionID, v string) {
	s.emit(append(s.feedEvents(make([]flowfabric.WakeEvent, 0, 3)), s.settledEvent(id, v))...)
}

func (s *Store) settledEvent(id flowfabric.ExecutionID, v string) flowfabric.WakeEvent {
	part := id.Partition()
	ev := flowfabric.WakeEvent{Kind: flowfabric.WakeSettled, Partition: part, ExecutionID: id}
	if v == "" {
		return ev
	}
	completion, err := decodeEvent(flowfabric.FeedCompletions, part, s.tag(part), 0, v)
	if err != nil {
		s.log.Error("a completion does not decode", "execution_id", id, "error", err)
		return ev
	}
	completion.EventID = "" // its number is not known here
	ev.Completion = &completion
	return ev
}

// feedEvents adds what tells that completions, and with them leases, have new
// events.
func (s *Store) feedEvents(events []flowfabric.WakeEvent) []flowfabric.WakeEvent {
	events = append(events, flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Feed: flowfabric.FeedCompletions})
	if s.feedOn(flowfabric.FeedLeases) {
		events = append(events, flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Feed: flowfabric.FeedLeases})
	}
	return events
}

// leasesChanged tells that the lease feed has new events.
func (s *Store) leasesChanged() {
	if s.feedOn(flowfabric.FeedLeases) {
		s.emit(flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Feed: flowfabric.FeedLeases})
	}
}
