package main

import (
	"context"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/remote"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/backend/valkey"
	"github.com/flowfabric/flowfabric/internal/config"
)

// openTarget opens a store in this process or a connection to a server.
func openTarget(ctx context.Context, t target) (flowfabric.Backend, error) {
	switch t.place.Kind {
	case config.PlaceRemote:
		var opts []remote.Option
		if t.token != "" {
			opts = append(opts, remote.WithToken(t.token))
		}
		return asBackend(remote.Open(ctx, t.place.URL, opts...))
	case config.PlaceMemory:
		return asBackend(sqlite.Open(ctx, sqlite.Config{}))
	case config.PlaceValkey:
		return asBackend(valkey.Open(ctx, t.valkey))
	}
	return asBackend(sqlite.Open(ctx, sqlite.Config{Path: t.path, WaitpointSecretHex: t.secret.Hex, WaitpointKID: t.kid}))
}

// asBackend keeps a nil pointer from becoming a non-nil interface.
func asBackend[B flowfabric.Backend](b B, err error) (flowfabric.Backend, error) {
	if err != nil {
		return nil, err
	}
	return b, nil
}
