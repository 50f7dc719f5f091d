# FlowFabric. `make` alone lists the targets.

GO      ?= go
# Packages are tested two at a time; the race detector is always on. The pointer
# checks that come with it are left out inside the translated C of SQLite alone,
# where they take half of the time and find nothing of ours.
TESTFLAGS ?= -race -count=1 -timeout 30m '-gcflags=modernc.org/...=-d=checkptr=0'

.PHONY: help test quick lint bench build fuzz

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/flowfabric
	$(GO) build -o bin/flowfabric ./cmd/flowfabric

test: ## install what the tests need, then run everything with the race detector
	@scripts/install-test-deps
	scripts/lint-lua
	$(GO) vet ./...
	$(GO) test $(TESTFLAGS) ./...

quick: ## what needs no server, in under a minute
	$(GO) test -short -count=1 ./...

lint: ## formatting, vet and static analysis, of Go and of Valkey's Lua
	@test -z "$$(gofmt -l .)" || { echo 'gofmt would change:'; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	@scripts/install-test-deps
	@scripts/lint-lua

bench: build ## the figures of the README: lifecycles and waits, embedded, on Valkey, over HTTP
	scripts/bench

fuzz: ## ten seconds of every fuzz target
	scripts/fuzz 10s
