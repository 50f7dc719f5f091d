package main

import (
	"context"
	"fmt"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/spf13/cobra"
)

func (c *cli) workerCommand() *cobra.Command {
	cmd := groupCommand("worker", "See the workers, and run one",
		c.workerListCommand(), c.workerLeasesCommand(), c.workerDrainCommand(), c.workerDeadCommand(), c.workerRunCommand())
	cmd.Aliases = []string{"workers"}
	return cmd
}

func (c *cli) workerListCommand() *cobra.Command {
	var namespace, lane string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the live workers",
		Example: `  flowfabric worker list
  flowfabric worker list --lane media --output json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				workers, err := allWorkers(cmd.Context(), b, flowfabric.Namespace(namespace), flowfabric.LaneID(lane))
				if err != nil {
					return err
				}
				return c.printWorkers(workers)
			})
		},
	}
	cmd.Flags().StringVar(&namespace, "namespace", "", "only this namespace")
	cmd.Flags().StringVar(&lane, "lane", "", "only workers that serve this lane")
	return cmd
}

// allWorkers follows the pages of the registry.
func allWorkers(ctx context.Context, b flowfabric.Backend, ns flowfabric.Namespace, lane flowfabric.LaneID) ([]flowfabric.WorkerRegistration, error) {
	args := flowfabric.ListWorkersArgs{Namespace: ns, LaneID: lane}
	var workers []flowfabric.WorkerRegistration
	for {
		res, err := b.ListWorkers(ctx, args)
		if err != nil {
			return nil, err
		}
		for _, w := range res.Workers {
			workers = append(workers, wire.NewWorker(w))
		}
		if !res.More || len(res.Workers) == 0 {
			return workers, nil
		}
		last := res.Workers[len(res.Workers)-1]
		args.AfterNamespace, args.AfterInstanceID = last.Namespace, last.WorkerInstanceID
	}
}

func (c *cli) printWorkers(workers []flowfabric.WorkerRegistration) error {
	p := c.printer()
	if p.wantsJSON() {
		return p.json(wire.NewPage(workers, ""))
	}
	rows := make([][]string, len(workers))
	for i, w := range workers {
		instance := clean(string(w.WorkerInstanceID))
		if w.Implicit {
			instance += p.faint(" (by claim)")
		}
		rows[i] = []string{instance, clean(string(w.WorkerID)), clean(string(w.Namespace)), joined(w.Lanes), joined(w.Capabilities),
			p.when(w.LastHeartbeatAt), p.when(w.RegisteredAt)}
	}
	return p.table("no live workers", []string{"WORKER", "POOL", "NAMESPACE", "LANES", "CAPABILITIES", "HEARTBEAT", "REGISTERED"}, rows)
}

// heldLease is one execution a worker holds, as programs get it. The fence is
// left out: it is the proof of ownership.
type heldLease struct {
	ExecutionID       flowfabric.ExecutionID `json:"execution_id"`
	Kind              string                 `json:"execution_kind"`
	LaneID            flowfabric.LaneID      `json:"lane_id"`
	Namespace         flowfabric.Namespace   `json:"namespace"`
	AttemptIndex      uint32                 `json:"attempt_index"`
	ClaimKind         string                 `json:"claim_kind"`
	LeaseEpoch        uint64                 `json:"lease_epoch"`
	LeaseExpiresAt    flowfabric.Millis      `json:"lease_expires_at"`
	LeaseReclaimCount uint32                 `json:"lease_reclaim_count"`
}

func (c *cli) workerLeasesCommand() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:     "leases INSTANCE",
		Short:   "List the executions a worker holds",
		Example: `  flowfabric worker leases mailer-7f3a`,
		Args:    takes("INSTANCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				held, err := leasesOf(cmd.Context(), b, flowfabric.Namespace(namespace), flowfabric.WorkerInstanceID(args[0]))
				if err != nil {
					return err
				}
				p := c.printer()
				if p.wantsJSON() {
					return p.json(wire.NewPage(held, ""))
				}
				rows := make([][]string, len(held))
				for i, h := range held {
					rows[i] = []string{string(h.ExecutionID), short(h.Kind, 40), clean(string(h.LaneID)), fmt.Sprint(h.AttemptIndex), h.ClaimKind,
						fmt.Sprint(h.LeaseEpoch), p.when(h.LeaseExpiresAt)}
				}
				return p.table("it holds nothing", []string{"EXECUTION", "KIND", "LANE", "ATTEMPT", "CLAIM", "EPOCH", "EXPIRES"}, rows)
			})
		},
	}
	cmd.Flags().StringVar(&namespace, "namespace", "", "only executions of this namespace")
	return cmd
}

func leasesOf(ctx context.Context, b flowfabric.Backend, ns flowfabric.Namespace, instance flowfabric.WorkerInstanceID) ([]heldLease, error) {
	args := flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: instance, Namespace: ns, Limit: flowfabric.MaxListLimit}
	var held []heldLease
	for {
		res, err := b.ListWorkerLeases(ctx, args)
		if err != nil {
			return nil, err
		}
		for _, t := range res.Tasks {
			held = append(held, heldLease{t.ExecutionID, t.Kind, t.LaneID, t.Namespace, t.AttemptIndex, t.ClaimKind.TaskLabel(),
				t.Fence.LeaseEpoch, t.LeaseExpiresAt, t.LeaseReclaimCount})
		}
		if res.NextCursor == "" {
			return held, nil
		}
		args.Cursor = res.NextCursor
	}
}

func (c *cli) workerDrainCommand() *cobra.Command {
	return c.markDeadCommand("drain INSTANCE", "Hand everything a worker holds to others",
		`Take a worker out of the registry and revoke every lease it holds, so that other
workers take its executions over at once. Stop its process first: a worker that
still runs registers again with its next claim.`, "drained by an operator", true)
}

func (c *cli) workerDeadCommand() *cobra.Command {
	return c.markDeadCommand("dead INSTANCE", "Mark a worker dead",
		`Take a worker out of the registry. Its leases run on until they lapse, unless
--revoke-leases takes them away now.`, "marked dead by an operator", false)
}

func (c *cli) markDeadCommand(use, short, long, reason string, revoke bool) *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:     use,
		Short:   short,
		Long:    long,
		Example: "  flowfabric worker " + use[:len(use)-len("INSTANCE")] + `mailer-7f3a --namespace default --reason "host is gone"`,
		Args:    takes("INSTANCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), func(b flowfabric.Backend) error {
				res, err := b.MarkWorkerDead(cmd.Context(), flowfabric.MarkWorkerDeadArgs{
					Namespace: flowfabric.Namespace(namespace), WorkerInstanceID: flowfabric.WorkerInstanceID(args[0]),
					Reason: reason, RevokeLeases: revoke})
				if err != nil {
					return err
				}
				outcome := "not_registered"
				if res.Marked {
					outcome = "marked"
				}
				p := c.printer()
				if p.wantsJSON() {
					return p.json(map[string]any{"outcome": outcome, "worker_instance_id": args[0], "revoked_leases": res.RevokedLeases})
				}
				return p.line("%s  %s, %s revoked", clean(args[0]), outcome, plural(res.RevokedLeases, "lease", "leases"))
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&namespace, "namespace", "default", "namespace the worker registered with")
	f.StringVar(&reason, "reason", reason, "why, 1..256 bytes")
	if !revoke {
		f.BoolVar(&revoke, "revoke-leases", false, "revoke the leases it holds")
	}
	return cmd
}
