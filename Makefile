# The house of reconciler. `make` alone prints what there is.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
GO          := ./scripts/go
TAGS        := seccomp
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     := -X main.version=$(VERSION)
LINT        := $(GO) tool -modfile=tools/go.mod golangci-lint
FUZZTIME    ?= 10s
BENCHTIME   ?= 1s
CHAOS_SEED  ?= 0
CHAOS       ?= TestWalk TestKills TestRebootOffline TestManyUntouched TestSoak TestUpdatesUnderLoad TestCronEverySecond TestRestWritesNothing
# The packages whose tests are also run under the race detector: those with goroutines and without real containers.
RACE        := ./manifest/... ./reconcile/... ./runtime/fake/...
EXAMPLES    := examples/fleet examples/registry
# What needs no library of the server that it runs on.
STATIC      := -tags '$(TAGS) netgo osusergo' -ldflags '$(LDFLAGS) -s -w -linkmode external -extldflags "-static"'
# The packages whose tests also run on another kernel, the longest first.
VM          := runtime/linux runtime/supervisor runtime/image runtime/rootfs runtime/network
# What is copied to every server is one small file.
small = size=$$(stat -c %s $(1)); if ((size >= 40000000)); then echo "$(1): $$size bytes, want less than 40 MB" >&2; exit 1; fi; \
	echo "$(1): $$((size / 1000000)) MB"

.DEFAULT_GOAL := help
.PHONY: help deps build static check lint fmt vet examples schema test test-root test-static test-vm chaos race fuzz bench bench-parts cover demo clean

help: ## print this
	@awk 'BEGIN {FS = ":.*## "; print "usage: make TARGET\n"} /^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what building and testing need (Debian packages; as root)
	@./scripts/deps

build: deps ## build bin/reconciler
	$(GO) build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS) -s -w' -o bin/reconciler ./cmd/reconciler
	@$(call small,bin/reconciler)

static: deps ## build bin/reconciler-static, which needs no library of the server it runs on
	$(GO) build -trimpath $(STATIC) -o bin/reconciler-static ./cmd/reconciler
	@if ldd bin/reconciler-static >/dev/null 2>&1; then echo "bin/reconciler-static is not static" >&2; exit 1; fi
	@$(call small,bin/reconciler-static)
	@./bin/reconciler-static version >/dev/null

check: lint vet examples ## lint, vet, format, examples and schema: everything that runs no test

lint: deps
	$(LINT) run ./...
	$(LINT) run --build-tags '$(TAGS),failpoints' ./runtime/failpoint
	@for script in $$(find scripts -type f ! -name '*.go') .ci/run; do bash -n "$$script"; done

fmt: deps ## format the Go code as `make check` wants it
	$(LINT) fmt ./...

vet: deps
	$(GO) vet -tags '$(TAGS)' ./...

examples: build ## validate the examples, and that the kept JSON Schema is the decoder's
	@for dir in $(EXAMPLES); do ./bin/reconciler validate "$$dir"; done
	@diff -u docs/reconciler.schema.json <(./bin/reconciler schema) \
		|| { echo "docs/reconciler.schema.json is not what the decoder accepts: run 'make schema'" >&2; exit 1; }

schema: build ## write docs/reconciler.schema.json
	./bin/reconciler schema > docs/reconciler.schema.json

test: deps ## run all tests; as root those with real containers too
	$(GO) test -tags '$(TAGS)' -timeout 10m ./...
	@$(MAKE) --no-print-directory race

race: deps ## run the tests without containers under the race detector
	$(GO) test -race -tags '$(TAGS)' -timeout 10m -short $(RACE)

test-root: deps ## run the tests that make real containers (root only)
	@[[ $$(id -u) == 0 ]] || { echo "make test-root needs root: containers are made by the kernel for root only" >&2; exit 1; }
	$(GO) test -count=1 -tags '$(TAGS)' -timeout 10m ./runtime/... ./cmd/...

test-static: static ## run the static binary where nothing else is: in an empty root directory (root only)
	@./scripts/alone bin/reconciler-static

test-vm: static ## run the runtime's tests, and the program, in a virtual machine with another kernel and cgroup v2
	$(GO) test -c $(STATIC) -o bin/vm/tests/ $(addprefix ./,$(VM))
	@./scripts/test-vm $(VM)

# The walk first: what it finds is told with the place where it begins. CHAOS_SEED=N breaks the same things again.
chaos: deps ## break things for long: die at every failpoint, kill at random, soak (root only)
	@[[ $$(id -u) == 0 ]] || { echo "make chaos needs root: containers are made by the kernel for root only" >&2; exit 1; }
	@for test in $(CHAOS); do \
		$(GO) test -count=1 -tags '$(TAGS)' -timeout 3h -v -run "^$$test\$$" ./cmd/reconciler -chaos -chaos.seed=$(CHAOS_SEED); \
	done

# Without a bound on minimising, the first input whose coverage differs from run to run takes all the time there is.
fuzz: deps ## run each fuzzer for FUZZTIME (10s)
	@for pkg in $$($(GO) list -tags '$(TAGS)' ./...); do \
		for name in $$($(GO) test -tags '$(TAGS)' -list '^Fuzz' "$$pkg" | grep '^Fuzz' || true); do \
			echo "$$pkg $$name"; \
			$(GO) test -tags '$(TAGS)' -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x "$$pkg"; \
		done; \
	done

bench: build ## measure beside runc, podman, docker and compose, and write docs/benchmarks.md (root only; 30 min)
	@./scripts/bench/run

bench-parts: deps ## run the Go benchmarks of the parts; BASE=REV compares with another commit
	@BENCHTIME=$(BENCHTIME) ./scripts/bench/parts

cover: deps ## write cover.html, coverage of all packages by all tests
	$(GO) test -tags '$(TAGS)' -timeout 15m -coverpkg=./... -coverprofile=cover.out ./...
	$(GO) tool cover -html=cover.out -o cover.html
	@$(GO) tool cover -func=cover.out | tail -1

demo: build ## show it all on this machine: three agents, a push, a broken push, a kill, a registry (root only)
	@./scripts/demo

clean: ## remove what the build made
	rm -rf bin cover.out cover.html
