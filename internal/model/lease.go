package model

import (
	"cmp"
	"context"
	"slices"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// RenewLeases renews a batch, each item on its own.
func (m *Store) RenewLeases(ctx context.Context, items []flowfabric.RenewLeaseArgs) ([]flowfabric.Item[flowfabric.RenewLeaseResult], error) {
	if err := checkBatch(ctx, len(items)); err != nil {
		return nil, err
	}
	out := make([]flowfabric.Item[flowfabric.RenewLeaseResult], len(items))
	for i, a := range items {
		out[i].Result, out[i].Err = answer(ctx, m, a.ExecutionID, rules.ValidateRenew(a), func(st *rules.State, now flowfabric.Millis) (flowfabric.RenewLeaseResult, rules.Effects, error) {
			return rules.Renew(st, a, now)
		})
	}
	return out, nil
}

// RevokeLease takes a lease away without ending the execution.
func (m *Store) RevokeLease(ctx context.Context, a flowfabric.RevokeLeaseArgs) (flowfabric.RevokeLeaseResult, error) {
	return answer(ctx, m, a.ExecutionID, rules.ValidateRevoke(a), func(st *rules.State, now flowfabric.Millis) (flowfabric.RevokeLeaseResult, rules.Effects, error) {
		return rules.Revoke(st, a, now)
	})
}

// ReleaseReclaimHold reports whether a hold was there.
func (m *Store) ReleaseReclaimHold(ctx context.Context, id flowfabric.ExecutionID) (released bool, err error) {
	err = m.change(ctx, id, func(st *rules.State, now flowfabric.Millis) (fx rules.Effects, err error) {
		released, fx = rules.ReleaseHold(st, now)
		return fx, nil
	})
	return released, err
}

// GetLease returns the lease record.
func (m *Store) GetLease(ctx context.Context, id flowfabric.ExecutionID) (l *flowfabric.Lease, err error) {
	err = m.found(ctx, id, func(e *entry) (err error) {
		l, err = rules.GetLease(e.st, m.cfg.Clock())
		return err
	})
	return l, err
}

// GetLeaseHistory returns the retained lease events of an execution, oldest
// first.
func (m *Store) GetLeaseHistory(ctx context.Context, a flowfabric.LeaseHistoryArgs) (res flowfabric.LeaseHistoryResult, err error) {
	limit, err := limitOf(a.Limit, flowfabric.DefaultListLimit, flowfabric.MaxListLimit)
	if err != nil {
		return res, err
	}
	res.Events = []flowfabric.Event{}
	err = m.found(ctx, a.ExecutionID, func(*entry) error {
		log := m.logs[flowfabric.FeedLeases]
		if log == nil {
			return nil
		}
		for _, ev := range log.events {
			if ev.ExecutionID != a.ExecutionID || ev.Seq <= a.After || ev.Seq <= log.floor(ev.Partition) {
				continue
			}
			if len(res.Events) == limit {
				res.Next = res.Events[limit-1].Seq
				return nil
			}
			res.Events = append(res.Events, ev)
		}
		return nil
	})
	return res, err
}

// ListWorkerLeases lists what an instance holds now.
func (m *Store) ListWorkerLeases(ctx context.Context, a flowfabric.ListWorkerLeasesArgs) (res flowfabric.ListWorkerLeasesResult, err error) {
	if err := a.WorkerInstanceID.Validate(); err != nil {
		return res, err
	}
	limit, err := limitOf(a.Limit, flowfabric.DefaultListLimit, flowfabric.MaxListLimit)
	if err != nil {
		return res, err
	}
	if a.Cursor != "" {
		if _, err := flowfabric.ParseExecutionID(string(a.Cursor)); err != nil {
			return res, flowfabric.NewError(flowfabric.CodeInvalidCursor, "cursor is no execution id")
		}
	}
	res.Tasks = []flowfabric.ClaimedExecution{}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		held := m.all(func(e *entry) bool {
			return rules.Place(e.st, now).Holder == a.WorkerInstanceID && visible(e.st.Exec.Namespace, a.Namespace, a.Namespaces)
		}, byPlace)
		for _, e := range held {
			id := e.st.Exec.ExecutionID
			if a.Cursor != "" && cmp.Or(cmp.Compare(id.Partition(), a.Cursor.Partition()), cmp.Compare(id, a.Cursor)) <= 0 {
				continue
			}
			if len(res.Tasks) == limit {
				res.NextCursor = res.Tasks[limit-1].ExecutionID
				return nil
			}
			task := rules.Held(e.st)
			task.Payload, task.PayloadEncoding, task.StoreTime = append([]byte{}, e.input.Payload...), e.input.Encoding, now
			res.Tasks = append(res.Tasks, *task)
		}
		return nil
	})
	return res, err
}

// ListExpiredLeases pages over lapsed leases, one range of partitions a page.
func (m *Store) ListExpiredLeases(ctx context.Context, a flowfabric.ListExpiredLeasesArgs) (res flowfabric.ListExpiredLeasesResult, err error) {
	limit, err := limitOf(a.Limit, flowfabric.DefaultExpiredLeases, flowfabric.MaxExpiredLeasesLimit)
	if err != nil {
		return res, err
	}
	span := a.MaxPartitionsPerCall
	if span == 0 {
		span = flowfabric.DefaultExpiredLeaseSpan
	}
	if span < 1 || span > 65535 {
		return res, flowfabric.InvalidInput("max_partitions_per_call", "is %d, must be 1..65535", a.MaxPartitionsPerCall)
	}
	if a.AsOf < 0 {
		return res, flowfabric.InvalidInput("as_of", "is negative")
	}
	first, after := 0, flowfabric.ExpiredLease{}
	if a.Cursor != "" {
		var id string
		if !parseCursor(a.Cursor, &first, &span, &after.ExpiresAt, &id) || first < 0 || first >= m.cfg.Partitions.NumFlowPartitions || span < 1 {
			return res, flowfabric.NewError(flowfabric.CodeInvalidCursor, "malformed cursor")
		}
		if id != "-" {
			after.ExecutionID = flowfabric.ExecutionID(id)
		}
	}
	res.Leases = []flowfabric.ExpiredLease{}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		asOf := a.AsOf
		if asOf == 0 {
			asOf = now
		}
		for _, l := range m.expired(first, span, asOf, &a) {
			if after.ExecutionID != "" && byExpiry(l, after) <= 0 {
				continue
			}
			if len(res.Leases) == limit {
				last := res.Leases[limit-1]
				res.NextCursor = cursor(first, span, last.ExpiresAt, last.ExecutionID)
				return nil
			}
			res.Leases = append(res.Leases, l)
		}
		if next := first + span; next < m.cfg.Partitions.NumFlowPartitions {
			res.NextCursor = cursor(next, span, 0, "-")
		}
		return nil
	})
	return res, err
}

func (m *Store) expired(first, span int, asOf flowfabric.Millis, a *flowfabric.ListExpiredLeasesArgs) (out []flowfabric.ExpiredLease) {
	for _, e := range m.execs {
		x := &e.st.Exec
		part := int(x.ExecutionID.Partition())
		at := rules.Place(e.st, asOf).LeaseExpiresAt
		if part < first || part >= first+span || at == 0 || at > asOf || !visible(x.Namespace, a.Namespace, a.Namespaces) {
			continue
		}
		index, _ := x.CurrentAttemptIndex()
		out = append(out, flowfabric.ExpiredLease{ExecutionID: x.ExecutionID, LeaseID: x.CurrentLeaseID, LeaseEpoch: x.CurrentLeaseEpoch,
			AttemptIndex: index, WorkerInstanceID: x.CurrentWorkerInstanceID, ExpiresAt: at,
			Marked: x.OwnershipState == flowfabric.OwnershipLeaseExpired})
	}
	slices.SortFunc(out, byExpiry)
	return out
}

func byExpiry(a, b flowfabric.ExpiredLease) int {
	return cmp.Or(cmp.Compare(a.ExpiresAt, b.ExpiresAt), cmp.Compare(a.ExecutionID, b.ExecutionID))
}
