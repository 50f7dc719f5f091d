package sqlstore

import (
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

func cursorStore() *Store {
	s := New(Config{})
	s.parts = flowfabric.PartitionConfig{NumFlowPartitions: 8, NumBudgetPartitions: 1, NumQuotaPartitions: 1}
	s.incarnation = strings.Repeat("i", 36)
	return s
}

func FuzzFeedCursor(f *testing.F) {
	s := cursorStore()
	f.Add(s.encodeCursor(&feedCursor{feed: flowfabric.FeedCompletions, pos: 17, seqs: map[uint16]uint64{0: 3, 7: 9}}))
	f.Add("")
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := s.decodeCursor(text, flowfabric.FeedCompletions, 0)
		if err != nil {
			if flowfabric.CodeOf(err) != flowfabric.CodeInvalidCursor {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		again, err := s.decodeCursor(s.encodeCursor(c), flowfabric.FeedCompletions, 0)
		if err != nil || again.pos != c.pos || len(again.seqs) != len(c.seqs) {
			t.Fatalf("%+v came back as %+v, %v", c, again, err)
		}
	})
}

func FuzzExpiredCursor(f *testing.F) {
	f.Add(rules.ExpiredCursor{First: 32, Span: 32, At: 1700, ID: "{fp:33}:550e8400-e29b-41d4-a716-446655440000"}.String())
	f.Add(rules.ExpiredCursor{First: 32, Span: 32}.String())
	f.Add("nonsense")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := rules.ParseExpiredCursor(text)
		if err != nil {
			return
		}
		if again, err := rules.ParseExpiredCursor(c.String()); err != nil || again != c {
			t.Fatalf("%+v came back as %+v, %v", c, again, err)
		}
	})
}
