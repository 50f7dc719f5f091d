package sqlstore

import (
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// FuzzDecode feeds arbitrary bytes to everything that reads stored records: they
// may be refused as corrupt, and never do more harm.
func FuzzDecode(f *testing.F) {
	index := uint32(3)
	size := int64(9)
	r := &row{hasPolicy: true, leaseEvent: 7, st: &rules.State{
		Exec: flowfabric.Execution{Kind: "k", CreatorIdentity: "c", SpecDigest: "00ff", BlockingDetail: "d", AdmissionRefs: []string{"a", "b"},
			CreatedAt: 1, LastMutationAt: 2, EstimatedUsage: map[string]int64{"total_tokens": 4},
			ReleaseReceipt: &flowfabric.ReleaseReceipt{Op: flowfabric.ReceiptFail, Source: flowfabric.SourceLeaseHolder, RetryScheduled: true}},
		Attempt: &flowfabric.Attempt{AttemptIndex: 3, AttemptState: flowfabric.AttemptStarted, PreviousAttemptIndex: &index},
		Grant:   &rules.Grant{GrantID: "g", Kind: flowfabric.ClaimNew},
		Lease:   rules.LeaseDetail{TTLMs: 5},
	}}
	f.Add(appendRecord(nil, r))
	f.Add(encodeAttempt(r.st.Attempt))
	f.Add(appendEvent(nil, &flowfabric.Event{Kind: "completed", ExecutionID: "{fp:1}:00000000-0000-4000-8000-000000000000",
		Tags: map[string]string{"a.b": "c"}, AttemptIndex: &index, ResultSize: &size}))
	f.Fuzz(func(t *testing.T, rec []byte) {
		into := &row{st: &rules.State{}}
		if err := decodeRecord("fuzz", rec, into); err == nil {
			rules.Describe(into.st, rules.Label{})
			_ = rules.Check(into.st)
			placeOf(into.st, 1)
		}
		_, _ = decodeAttempt("", rec)
		_, _ = decodeEvent(flowfabric.FeedLeases, 1, 1, 1, rec)
		_, _ = rules.ParseExpiredCursor(string(rec))
		s := &Store{parts: flowfabric.DefaultPartitionConfig()}
		_, _ = s.decodeCursor(string(rec), flowfabric.FeedLeases, 0)
	})
}
