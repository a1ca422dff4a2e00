# Everything a developer runs. Debian 12 or newer, or Ubuntu; needs git, make and a Rust toolchain.
SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help
help: ## what can be done
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## the main job, told as a story on servers of its own
	@scripts/demo.sh

.PHONY: test
test: ## all tests, against PostgreSQL 14 to 18
	@scripts/test.sh

.PHONY: test-rabbitmq4
test-rabbitmq4: ## the end-to-end tests on RabbitMQ 4, in a root of its own
	@scripts/test-rabbitmq4.sh

.PHONY: test-stores
test-stores: ## the secret stores on servers that take minutes to build
	@scripts/stores.sh test

.PHONY: lint
lint: ## formatting, clippy, documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

.PHONY: fmt
fmt: ## formats the code
	cargo fmt --all

.PHONY: clean
clean: ## removes what was built and the prepared clusters
	cargo clean
	@. scripts/lib.sh && rm -rf "$$(cache_dir)/clusters"
