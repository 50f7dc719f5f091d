package api

import (
	"net/url"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// FuzzCursor: no text makes a list's cursor but those the list made, and what it
// made leads back to where it was.
func FuzzCursor(f *testing.F) {
	filters := url.Values{"lane_id": {"main"}, "tag": {"a.b:c", "a.d:e"}}
	f.Add(wire.EncodeCursor(wire.ListExecutions, "", filters, "7"), "7")
	f.Add(wire.EncodeCursor(wire.ListLanes, "", nil, "lane"), "a b")
	f.Add("1", "")
	f.Add("garbage", "\n")
	f.Fuzz(func(t *testing.T, text, position string) {
		for _, list := range []string{wire.ListExecutions, wire.ListAttempts, wire.ListLeaseHistory, wire.ListWorkers, wire.ListLanes} {
			got, err := wire.DecodeCursor(list, "s", filters, text)
			if err != nil && flowfabric.CodeOf(err) != flowfabric.CodeInvalidCursor {
				t.Fatalf("error %v", err)
			}
			if err == nil && text != "" && wire.EncodeCursor(list, "s", filters, got) != text {
				t.Fatalf("%q decodes to %q, which encodes otherwise", text, got)
			}
		}
		if position == "" || len(position) > 300 {
			return
		}
		cursor := wire.EncodeCursor(wire.ListLanes, "s", filters, position)
		if cursor != url.QueryEscape(cursor) || len(cursor) > wire.MaxCursorBytes {
			t.Fatalf("cursor %q", cursor)
		}
		if got, err := wire.DecodeCursor(wire.ListLanes, "s", filters, cursor); err != nil || got != position {
			t.Fatalf("%q came back as %q, %v", position, got, err)
		}
		for _, err := range []error{
			second(wire.DecodeCursor(wire.ListWorkers, "s", filters, cursor)),
			second(wire.DecodeCursor(wire.ListLanes, "x", filters, cursor)),
			second(wire.DecodeCursor(wire.ListLanes, "s", url.Values{"lane_id": {"other"}}, cursor)),
		} {
			if flowfabric.CodeOf(err) != flowfabric.CodeInvalidCursor {
				t.Fatalf("taken by another list: %v", err)
			}
		}
	})
}

func second(_ string, err error) error { return err }
