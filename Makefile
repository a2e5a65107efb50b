# make demo     see a cluster at work on this machine, in network namespaces (root)
# make test     everything that CI runs, in rings from the cheapest to the dearest
#
# The rings one by one: fmt clippy unit sim bpf host e2e. What each is for stands in docs/testing.md.

CARGO ?= cargo
# The lab and the packet filter need root; cargo, and so the build, does not.
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || { command -v sudo >/dev/null 2>&1 && echo sudo -E; })
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
# Programs that cargo starts for a test go through this.
RUNNER := CARGO_TARGET_$(shell echo '$(HOST)' | tr 'a-z-' 'A-Z_')_RUNNER
AS_ROOT := $(if $(SUDO),$(RUNNER)="$(SUDO)")

.PHONY: all setup build release install deb demo test fmt fmt-fix clippy unit sim model mutants cargo-mutants bpf host e2e bench docs doc clean
all: build

setup:
	@scripts/setup

build: setup
	$(CARGO) build --workspace

release: setup
	$(CARGO) build --release -p rudeld -p rudel -p rudel-lab
	$(CARGO) build --release -p rudeld --example pages

# Into PREFIX, /usr/local unless given, below DESTDIR. Builds nothing, so that it can be done as root: make release first.
install:
	@scripts/install $(TARGET_DIR)/release DESTDIR='$(DESTDIR)' PREFIX='$(or $(PREFIX),/usr/local)'

# A Debian package, below the target directory.
deb: release
	@scripts/deb $(TARGET_DIR)/release

demo: release
	@$(SUDO) $(TARGET_DIR)/release/rudel-lab demo

# In this order, and stopping at the first failure, whatever -j says.
test: setup
	@$(MAKE) --no-print-directory fmt
	@$(MAKE) --no-print-directory clippy
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory sim
	@$(MAKE) --no-print-directory bpf
	@$(MAKE) --no-print-directory host
	@$(MAKE) --no-print-directory e2e

fmt:
	$(CARGO) fmt --all --check

fmt-fix:
	$(CARGO) fmt --all

clippy: setup
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# Neither root nor namespaces. What is left out here has a ring of its own.
unit: setup
	$(CARGO) test --workspace --exclude rudel-sim --exclude rudel-model --exclude rudel-datapath --exclude rudel-lab --exclude rudeld
	$(CARGO) test -p rudel-lab --lib --bins

# The protocol in a world of its own, with every fault from a seed; and small clusters explored to the end.
# make sim SEEDS=10000 plays so many fresh worlds of 60 simulated seconds besides.
sim:
	$(CARGO) test -p rudel-sim
	$(CARGO) test -p rudel-model
ifdef SEEDS
	$(CARGO) run --release -p rudel-sim -- run --seeds $(SEEDS)
endif

# Larger models than a test can afford.
model:
	$(CARGO) run --release -p rudel-model -- --all

# Breaks the rules one by one: each must be noticed by the test that names it.
mutants:
	$(CARGO) run -p rudel-mutants

# Every small change to the machine that no test of its rules notices, as a report (cargo install --locked cargo-mutants).
# All of it takes hours; FILE=judge tries one file.
cargo-mutants:
	CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) mutants -p rudel-proto -f 'crates/proto/src/machine/$(or $(FILE),*).rs' \
		-o $(TARGET_DIR) --iterate --timeout 60 --cargo-arg=--lib \
		--cargo-arg=--config=profile.dev.package.rudel-proto.opt-level=1

# The packet filter as a function: verdicts of the kernel for a table of packets.
bpf: setup
	$(AS_ROOT) $(CARGO) test -p rudel-datapath -- --show-output

# What the daemon does to a host, one part at a time, in namespaces: addresses, settings, neighbours, heartbeats.
host: setup
	$(AS_ROOT) $(CARGO) test -p rudeld -- --show-output

# Real daemons, real servers, real traffic, in network namespaces; one lab at a time.
e2e: setup
	$(CARGO) build -p rudeld -p rudel
	$(CARGO) build -p rudeld --example pages
	$(AS_ROOT) $(CARGO) test -p rudel-lab --test '*' --no-fail-fast -- --test-threads=1

bench: release
	@$(SUDO) $(TARGET_DIR)/release/rudel-lab bench

# The parts of the manual that are made of the source; a test says that they are.
docs:
	$(CARGO) run -q -p rudel-api --example configuration -- docs/configuration.md

doc:
	$(CARGO) doc --workspace --no-deps

clean:
	$(CARGO) clean
