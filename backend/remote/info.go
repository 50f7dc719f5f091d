package remote

import (
	"context"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// Family is the name of this kind of backend.
const Family = "remote"

// pingTimeout bounds Ping: the server asks its store for a second at most.
const pingTimeout = 5 * time.Second

// Ping returns nil when the server and its store answer.
func (b *Backend) Ping(ctx context.Context) error {
	c := get("ping", wire.RouteHealthz, nil)
	c.limit = pingTimeout
	_, err := b.do(ctx, c, nil)
	return err
}

// PartitionConfig returns the server's published configuration.
func (b *Backend) PartitionConfig(ctx context.Context) (flowfabric.PartitionConfig, error) {
	var parts flowfabric.PartitionConfig
	if _, err := b.do(ctx, get("partition_config", wire.RoutePartitionConfig, nil), &parts); err != nil {
		return flowfabric.PartitionConfig{}, err
	}
	b.parts.Store(&parts)
	return parts, nil
}

// partitions is PartitionConfig, asked for once: a deployment's counts never
// change.
func (b *Backend) partitions(ctx context.Context) (flowfabric.PartitionConfig, error) {
	if parts := b.parts.Load(); parts != nil {
		return *parts, nil
	}
	return b.PartitionConfig(ctx)
}

// Describe returns the family "remote" with the server's version and the id of
// its deployment.
func (b *Backend) Describe(ctx context.Context) (flowfabric.BackendInfo, error) {
	r, err := b.Capabilities(ctx)
	if err != nil {
		return flowfabric.BackendInfo{}, err
	}
	return flowfabric.BackendInfo{Family: Family, Version: r.ServerVersion, DeploymentID: r.DeploymentID}, nil
}

// Capabilities is what a server tells about itself without a token.
type Capabilities = wire.CapabilitiesResponse

// Capabilities returns what the server and the store behind it are, and which
// operations and limits they have.
func (b *Backend) Capabilities(ctx context.Context) (Capabilities, error) {
	var r Capabilities
	_, err := b.do(ctx, get("capabilities", wire.RouteCapabilities, nil), &r)
	return r, err
}
