package valkeytest

import (
	"errors"
	"fmt"
)

// KillPrimary kills one of [Cluster.Primaries] and returns it. Its replica takes
// over once the nodes take it for dead; see [Cluster.WaitOK].
func (c *Cluster) KillPrimary(i int) *Server {
	c.tb.Helper()
	primaries := c.Primaries()
	if i >= len(primaries) {
		c.tb.Fatalf("the cluster has %d primaries", len(primaries))
	}
	primaries[i].Kill()
	return primaries[i]
}

// Failover makes a replica of one of [Cluster.Primaries] the primary in its
// place, in order and without a loss, and returns it when all nodes know.
func (c *Cluster) Failover(i int) *Server {
	c.tb.Helper()
	promoted, err := c.failover(i)
	if err != nil {
		c.tb.Errorf("failover: %v", err)
	}
	return promoted
}

func (c *Cluster) failover(i int) (*Server, error) {
	v, err := c.view()
	if err != nil {
		return nil, err
	}
	if i >= len(v.primaries) {
		return nil, fmt.Errorf("the cluster has %d primaries", len(v.primaries))
	}
	promoted, err := c.livingReplica(v, v.primaries[i])
	if err != nil {
		return nil, err
	}
	if _, err := promoted.CLI("CLUSTER", "FAILOVER"); err != nil {
		return nil, err
	}
	slot := v.ranges[0].first
	for _, r := range v.ranges {
		if r.primary == v.primaries[i] {
			slot = r.first
			break
		}
	}
	return promoted, until(formLimit, func() error {
		v, err := c.view()
		if err != nil {
			return err
		}
		if v.owner(slot) != promoted.n.id {
			return errors.New("the replica is not promoted")
		}
		return whole(c.instances())
	})
}

func (c *Cluster) livingReplica(v view, primary string) (*Server, error) {
	for _, id := range v.replicas[primary] {
		if s := c.byID(id); s.Running() {
			return s, nil
		}
	}
	return nil, errors.New("the primary has no living replica")
}
