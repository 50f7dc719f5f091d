package rules_test

import (
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// BenchmarkHotPath is what a store spends in the rules on one execution from its
// creation to its completion.
func BenchmarkHotPath(b *testing.B) {
	parts := flowfabric.DefaultPartitionConfig()
	args := flowfabric.CreateExecutionArgs{Namespace: "acme", LaneID: "default", Kind: "email.send",
		Payload: []byte(`{"to":"someone@example.com"}`), CreatorIdentity: "bench"}
	in := rules.ClaimInput{WorkerID: "w", WorkerInstanceID: "w-1", CapabilityHash: "cbf29ce4",
		LeaseID: flowfabric.NewLeaseID(), AttemptID: flowfabric.NewAttemptID(), LeaseTTLMs: 30_000, IssuedBy: flowfabric.IssuedByScheduler}

	b.Run("PrepareCreate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := rules.PrepareCreate(args, parts, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("PrepareCreateWithPolicy", func(b *testing.B) {
		withPolicy := args
		withPolicy.Policy = []byte(`{"retry_policy":{"max_retries":5,"backoff":{"type":"exponential","initial_delay_ms":1000,"max_delay_ms":60000,"multiplier":2,"jitter":true}},"timeout_policy":{"attempt_timeout_ms":60000}}`)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := rules.PrepareCreate(withPolicy, parts, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	p, err := rules.PrepareCreate(args, parts, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("Create", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			rules.Create(p, 1000)
		}
	})
	created, _ := rules.Create(p, 1000)
	b.Run("GrantAndClaim", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s := *created
			if _, _, err := rules.GrantAndClaim(&s, in, 2000); err != nil {
				b.Fatal(err)
			}
		}
	})
	claimed := *created
	done, _, err := rules.GrantAndClaim(&claimed, in, 2000)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("Renew", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s := claimed
			if _, _, err := rules.Renew(&s, flowfabric.RenewLeaseArgs{Fence: done.Task.Fence}, 3000); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Complete", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s := claimed
			if _, _, err := rules.Complete(&s, flowfabric.CompleteExecutionArgs{Fence: done.Task.Fence, Result: []byte("1")}, 3000); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Place", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			rules.Place(&claimed, 3000)
		}
	})
}
