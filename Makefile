# sluice: `make demo` shows the main job, `make test` tests everything. Both need Go and nothing else; as root they
# work on real traffic in network namespaces, without root on memory rings and captures.

GO ?= go
PKGS = ./...

.PHONY: build deb demo test race fuzz bench nic-test generate profile check help
.DEFAULT_GOAL := build

build: ## the one binary, static, at bin/sluice
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/sluice ./cmd/sluice

# Who answers for the package: make deb MAINTAINER='Name <name@example.org>'. Else it is who builds, as git knows him, or who has signed
# the newest entry of its changelog.
MAINTAINER ?= $(shell git config user.email >/dev/null && echo "$$(git config user.name) <$$(git config user.email)>")
deb: export MAINTAINER := $(MAINTAINER)
deb: build ## a Debian package in bin (needs dpkg-deb): program, units, user, completion, manual page
	@deploy/debian/build bin/sluice bin

demo: build ## real traffic through AF_XDP as root; a capture through the same engine otherwise
	@bin/sluice demo

test: ## all tests; those that need root skip without it and say so
	$(GO) test -timeout 25m $(PKGS)

race: ## the tests under the race detector, with short transfers (needs a C compiler)
	$(GO) test -race -short -timeout 20m $(PKGS)

FUZZTIME ?= 60s
fuzz: ## every fuzz target for FUZZTIME each
	@for t in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | sort -u); do \
		for f in $$(grep -oE '^func Fuzz[A-Za-z0-9_]+' $$t | cut -c6-); do \
			echo "$$f in $$(dirname $$t)"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$(dirname $$t) || exit 1; \
		done; done

bench: ## micro-benchmarks: pipeline, look-ups
	$(GO) test -run '^$$' -bench . -benchtime 2s ./engine ./flow

nic-test: build ## sluice on real NIC drivers in an emulated machine (QEMU and apt; ten minutes at most)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/nictest ./cmd/nictest
	@bin/nictest

generate: ## the XDP program (needs clang and libbpf-dev: apt-get install clang llvm libbpf-dev)
	$(GO) generate ./rings

profile: build ## cmd/sluice/default.pgo, by which the compiler chooses what to inline; after larger changes of the packet path
	bin/sluice perf pipeline --connections 1k,1M,new --runs 1 --cpuprofile cmd/sluice/default.pgo

check: ## format, vet, staticcheck and the architecture rule
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt would change: $$out"; exit 1; }
	$(GO) vet $(PKGS)
	$(GO) tool staticcheck $(PKGS)
	$(GO) test -count=1 -run 'Architecture' ./flow

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12
