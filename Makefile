# plakar: every task of this project. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
export CARGO_TERM_COLOR ?= auto

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

.PHONY: demo
demo: system ## build, make a store, back up a real tree, mount it, copy back, compare, unmount
	@cargo build --quiet
	@scripts/demo target/debug/plakar

.PHONY: test
test: system nextest ## all tests, as CI runs them
	cargo build --quiet --all-targets
	cargo nextest run --workspace --features plakar-connectors/root-tests
	cargo test --quiet --workspace --doc

.PHONY: check
check: ## what must hold before a commit: format, lints, documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

.PHONY: bench
bench: system ## pieces of the engine, each beside the least that it could cost (BENCH_ARGS="index")
	cargo bench --quiet --bench engine -- $(BENCH_ARGS)

.PHONY: bench-peers
bench-peers: system ## beside the other backup programs that are installed, with what must be reached (BENCH_LINUX=DIR[,LATER] BENCH_VM=… BENCH_MILLION=… BENCH_ARGS="--json FILE")
	cargo build --release --quiet
	benches/peers target/release/plakar $(BENCH_ARGS)

.PHONY: bench-life
bench-life: system ## many snapshots, half of them removed, their room given back, beside other programs (BENCH_LIFE=DIR,LATER BENCH_ARGS="--snapshots 30")
	cargo build --release --quiet
	benches/life target/release/plakar --tree $(BENCH_LIFE) $(BENCH_ARGS)

.PHONY: bench-growth
bench-growth: system ## how cost grows, to 10^6 files and 10^4 snapshots: docs/growth.json, docs/growth.svg
	cargo build --release --quiet
	benches/growth target/release/plakar --json docs/growth.json $(BENCH_ARGS)
	benches/plot docs/growth.json >docs/growth.svg

.PHONY: bench-mount
bench-mount: system ## the mount beside the plain directory and other programs' mounts (BENCH_TREE=DIR, BENCH_ARGS="--latency 30 --bandwidth 50")
	cargo build --release --quiet --bins --example slow-store
	benches/mount target/release/plakar $(BENCH_ARGS)

# Cases by the thousand, of which `make test` takes a sample: some quarters of an hour each. PLAKAR_CASES=NUMBER takes so many of
# each matrix, PLAKAR_SEED=TEXT others than the last time.
.PHONY: matrix
matrix: system nextest ## every object of a store, and every file of the cache, damaged in every way, on every command
	PLAKAR_CASES=$${PLAKAR_CASES:-all} cargo nextest run --profile thorough --workspace --features plakar-connectors/root-tests --success-output final -E 'test(/^matrix::/)'

.PHONY: inject
inject: system nextest ## every system call of every command fails once with each error
	PLAKAR_CASES=$${PLAKAR_CASES:-all} cargo nextest run --profile thorough --workspace --features plakar-connectors/root-tests --success-output final -E 'test(/^inject::/)'

.PHONY: histories
histories: system nextest ## ten thousand steps of random histories of stores: backup, rm, undelete, maintenance, interruptions (PLAKAR_STEPS each of eight)
	PLAKAR_STEPS=$${PLAKAR_STEPS:-1250} cargo nextest run --profile thorough --workspace --features plakar-connectors/root-tests -E 'test(/maintenance::tests::(whatever|also)/)'

.PHONY: soak
soak: system ## random use of a mount for SOAK_MINUTES (60), as root; in the end it must hold what it held before
	cargo build --release --quiet --bins --example slow-store
	benches/soak target/release/plakar target/release/examples/slow-store $(or $(SOAK_MINUTES),60)

.PHONY: freeze
freeze: system nextest ## the stores of this format, for the tests of later versions (FREEZE=VERSION, as root)
	@PLAKAR_FREEZE=$(FREEZE) cargo nextest run --workspace --features plakar-connectors/root-tests --run-ignored only -E 'test(=frozen::freeze)'

.PHONY: fuzz
fuzz: ## five minutes of fuzzing every decoder of stored bytes
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet
	cd engine && RUSTC_BOOTSTRAP=1 cargo fuzz run decoders -- -max_total_time=300 -max_len=4096 -rss_limit_mb=512 -malloc_limit_mb=128

.PHONY: deny
deny: ## licences and advisories of dependencies; needs cargo-deny
	cargo deny check

.PHONY: install
install: ## into ~/.cargo/bin
	cargo install --path . --locked

# Where a package is put together, and where its files will lie.
DESTDIR ?=
PREFIX ?= /usr/local
.PHONY: install-system
install-system: ## for the whole machine: the program, its names for mount(8), the systemd unit; as root (PREFIX, DESTDIR)
	cargo build --release --locked
	install -D -m 755 "$${CARGO_TARGET_DIR:-target}/release/plakar" "$(DESTDIR)$(PREFIX)/bin/plakar"
	install -d "$(DESTDIR)/sbin" "$(DESTDIR)$(PREFIX)/lib/systemd/system"
	for name in mount.plakar mount.fuse.plakar; do ln -sfn "$(PREFIX)/bin/plakar" "$(DESTDIR)/sbin/$$name"; done
	sed 's:/usr/bin/:$(PREFIX)/bin/:' packaging/systemd/plakar-mount@.service \
		>"$(DESTDIR)$(PREFIX)/lib/systemd/system/plakar-mount@.service"

# System packages that building and testing need, on Debian and Ubuntu. Quiet and without effect when they are there.
PACKAGES := gcc fuse3 attr acl btrfs-progs e2fsprogs util-linux mount procps curl squashfs-tools squashfuse strace time xfsprogs zstd
.PHONY: system
system:
	@missing=(); for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing+=($$p); done; \
	if [ $${#missing[@]} -gt 0 ]; then \
		if ! command -v apt-get >/dev/null; then echo "please install: $${missing[*]}"; exit 1; fi; \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		echo "installing system packages: $${missing[*]}"; \
		$$sudo apt-get update -qq >/dev/null; \
		DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq "$${missing[@]}" >/dev/null; \
	fi
	@command -v cargo >/dev/null || { echo "Rust is needed: https://rustup.rs"; exit 1; }

.PHONY: nextest
nextest:
	@command -v cargo-nextest >/dev/null || cargo install cargo-nextest --locked --quiet
