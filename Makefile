# `make help` says what each target does.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Only what stands on make's own command line counts: a plain `make demo` must never touch the cluster that happens to be
# in the environment.
ifneq ($(origin KUBECONFIG),command line)
  override undefine KUBECONFIG
  unexport KUBECONFIG
endif
ifneq ($(origin REGISTRY),command line)
  override undefine REGISTRY
  unexport REGISTRY
endif

# One target for everything: the product is a static binary, and each dependency is compiled once.
export CARGO_BUILD_TARGET := x86_64-unknown-linux-musl
export HIGHWATER_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/highwater
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET_DIR)/$(CARGO_BUILD_TARGET)/debug
DEVCLUSTER := $(BIN)/devcluster

.PHONY: help
help: ## Say in one line what each target does
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.PHONY: demo
demo: build ## Tell the story on the dev cluster, or with KUBECONFIG=… REGISTRY=… on your own
	@scripts/demo $(if $(KUBECONFIG)$(REGISTRY),--kubeconfig '$(KUBECONFIG)' --registry '$(REGISTRY)')

.PHONY: demo-remove
demo-remove: build ## Remove the demo from your own cluster: KUBECONFIG=…
	@scripts/demo --kubeconfig '$(KUBECONFIG)' --remove

.PHONY: test
test: ## Everything that CI checks, with seconds per stage
	@scripts/test

.PHONY: lint
lint: tools ## Format, clippy, dependencies (bans, licenses, sources)
	@scripts/test lint

.PHONY: unit
unit: tools ## Tests that need no cluster: unit, golden, store contract, PostgreSQL 15 (some with 14 and 18), recovery
	@scripts/test unit

.PHONY: e2e
e2e: ## Scenarios on the dev cluster: flow, doors, ledger
	@scripts/test e2e

.PHONY: e2e-all
e2e-all: ## All scenarios, with the ledger on PostgreSQL 14 to 18
	@scripts/test e2e-all

.PHONY: bench-job
bench-job: build ## Measure backup, restore and memory on the dev cluster, against their limits
	@scripts/bench job

.PHONY: bench-backup
bench-backup: build ## Measure backups beside a bare script on the dev cluster; BENCH='--repeat 1 --only one,requests' tries a part
	@scripts/bench backup $(BENCH)

.PHONY: bench-restore
bench-restore: build ## Measure the planner at its limits, restores by size beside pgBackRest, and replay beside cp; BENCH='--repeat 1 --only planner' tries a part
	@scripts/bench restore $(BENCH)

.PHONY: bench-wal
bench-wal: tools ## Measure WAL push and fetch beside pgBackRest, WAL-RUS and barman; BENCH='--segments 8 --repeat 1' tries it
	@scripts/bench wal $(BENCH)

.PHONY: bench-database
bench-database: tools ## Measure what shipping WAL costs the database, how fast it is read, and recovery beside cp; BENCH='--rounds 1 --seconds 5' tries it
	@scripts/bench database $(BENCH)

.PHONY: sweep
sweep: ## Backups with controller and agent killed at each of their requests and statements, before and after, and with two controllers at once: every point (HIGHWATER_POINT='…' repeats one)
	@scripts/test sweep

.PHONY: torture-wal
torture-wal: ## The WAL shipper killed at a hundred random moments, three times (HIGHWATER_SEED=… repeats a run); database, volume and shipper at twenty for each transport; an outage of half an hour
	@scripts/test torture-wal

.PHONY: torture-backup
torture-backup: ## Backups for over an hour under load, with 200 kills of everything and 20 failovers; each is restored and compared (HIGHWATER_SEED=… repeats a run, HIGHWATER_TORTURE_MINUTES=…)
	@scripts/test torture-backup

.PHONY: wal-majors
wal-majors: ## PostgreSQL 14 to 18: each WAL record as pg_waldump reads it, all failures of a fetch; MAJORS='16 17' for some
	@scripts/test wal-majors $(MAJORS)

.PHONY: tools
tools: ## Install and build what is missing (cached)
	@scripts/tools

.PHONY: build
build: tools ## Build the programs
	@cargo build --workspace --bins

.PHONY: release
release: tools ## Build the static binary as it ships
	@cargo build --release -p highwater

.PHONY: cluster-up
cluster-up: build ## Start the dev cluster (does nothing if it runs)
	@$(DEVCLUSTER) up

.PHONY: cluster-down
cluster-down: ## Stop the dev cluster and leave nothing of it behind
	@cargo build -q -p highwater-e2e --bin devcluster && $(DEVCLUSTER) down

.PHONY: crds
crds: ## Write crds/ anew from the types
	@UPDATE_GOLDEN=1 cargo test -q -p highwater --test golden
