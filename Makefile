# `make run` is all it takes: it installs what the build needs, builds, and starts the server.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# rustup puts cargo here; a shell that was open before does not know yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/candor
# Outside the clone: a clone stays small, and several share what llama.cpp took minutes to compile.
export CARGO_TARGET_DIR ?= $(CACHE)/target
CANDOR := $(CARGO_TARGET_DIR)/release/candor

# Flags for `candor serve`: make run ARGS="--port 8080"
ARGS ?=
# Flags for cargo: make run FEATURES="--features cuda"
FEATURES ?=

# A running server to measure: make bench URL=http://127.0.0.1:8000. Without it one is started.
URL ?=

# How long `make soak` goes on.
MINUTES ?= 20

# How long `make fuzz` looks at each target.
SECONDS_EACH ?= 60
FUZZ_TARGETS := request stop_search detokenise grammar config_file

.PHONY: help setup claim python build run test test-gemma test-examples test-clients test-web bench soak exactness overload fuzz documents docs audit lint dist clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what the build needs (Debian and its kin), if anything is missing.
	@scripts/setup.sh

claim: setup
	@scripts/claim.sh "$(CURDIR)"

# What is measured, and what other people's programs are tried with, is in Python.
python:
	@command -v python3 > /dev/null || { echo "There is no python3, which this needs, with venv. On Debian: apt-get install python3-venv"; exit 1; }

build: claim ## Build the server.
	cargo build --release --locked $(FEATURES)

# The shell outlives the Ctrl-C that the server answers, so that make ends with the server and not before it.
run: build ## Build, and serve on http://127.0.0.1:8000. Flags: make run ARGS="--port 8080"
	@trap : INT; $(CANDOR) serve $(ARGS)

test: build ## Run all tests; downloads the default model once.
	$(CANDOR) fetch default
	cargo test --release --locked $(FEATURES)

test-gemma: build ## Run all tests, with Gemma 3 270M as well (250 MB, downloaded once).
	$(CANDOR) fetch default
	CANDOR_TEST_GEMMA="$$(scripts/fetch-gemma.sh)" && export CANDOR_TEST_GEMMA && cargo test --release --locked $(FEATURES)

test-clients: python build ## Try real clients (OpenAI's, LangChain and others): make test-clients ARGS="--only python"
	$(CANDOR) fetch default
	tests/clients/run.py --candor $(CANDOR) $(if $(URL),--url $(URL)) $(ARGS)

test-web: python build ## Try the page in Chromium, and check its scripts' types: make test-web ARGS="-k fork"
	@scripts/setup.sh chromium
	$(CANDOR) fetch default
	tests/web/run.py --candor $(CANDOR) $(ARGS)

test-examples: python build ## Run the notebooks and scripts in examples/, and hold what they show against what is committed.
	$(CANDOR) fetch default
	examples/run.py --candor $(CANDOR) $(ARGS)

bench: python build ## Measure speed, beside others if given: make bench ARGS="llama-server=http://127.0.0.1:8080"
	$(CANDOR) fetch default
	scripts/bench.py $(if $(URL),candor=$(URL),--candor $(CANDOR)) $(ARGS)

soak: python build ## Let 32 clients loose on a server for some minutes: make soak MINUTES=20
	$(CANDOR) fetch default
	scripts/soak.py --candor $(CANDOR) --minutes $(MINUTES) $(ARGS)

exactness: python build ## Look for an answer whose bits depend on others: make exactness ARGS="--model MODEL --requests 2000"
	$(CANDOR) fetch default
	scripts/exactness.py --candor $(CANDOR) $(ARGS)

overload: python build ## Put 500 clients on 8 places for a minute.
	$(CANDOR) fetch default
	scripts/overload.py --candor $(CANDOR) $(ARGS)

docs: setup ## Make a site of the documentation: index.html, in a folder that is named at the end.
	@test -x $(CACHE)/tools/bin/mdbook || cargo install mdbook --locked --root $(CACHE)/tools
	@scripts/docs.sh $(CACHE)/tools/bin/mdbook $(CARGO_TARGET_DIR)/site
	@echo "the site: $(CARGO_TARGET_DIR)/site/book/index.html"

documents: build ## Hold every answer against /openapi.json, by requests that Schemathesis makes from it.
	scripts/schemathesis.sh $(CANDOR)

# What is known of the dependencies: holes, licences, where they come from. The data base of holes comes from GitHub; where
# that cannot be reached, the rest is checked.
audit: setup ## Hold the dependencies against deny.toml.
	@test -x $(CACHE)/tools/bin/cargo-deny || cargo install cargo-deny --locked --root $(CACHE)/tools
	@export PATH="$(CACHE)/tools/bin:$$PATH"; cargo deny check licenses bans sources && \
		if cargo deny fetch db > /dev/null 2>&1; then cargo deny check advisories; \
		else echo "audit: the data base of advisories cannot be reached; advisories were not checked"; fi

# cargo-fuzz needs switches of the compiler that only a nightly one has by name; RUSTC_BOOTSTRAP gives them to any.
# A build of its own: everything in it is instrumented. cargo-fuzz adds to RUSTFLAGS, which hides .cargo/config.toml.
# New inputs go into the cache, beside those that are kept in fuzz/; what fails is written to fuzz/artifacts.
fuzz: setup ## Fuzz each target: make fuzz SECONDS_EACH=60
	@test -x $(CACHE)/tools/bin/cargo-fuzz || cargo install cargo-fuzz --locked --root $(CACHE)/tools
	@export PATH="$(CACHE)/tools/bin:$$PATH" RUSTC_BOOTSTRAP=1 RUSTFLAGS="-C target-cpu=native" \
		CARGO_TARGET_DIR=$(CACHE)/fuzz-target; \
	for target in $(FUZZ_TARGETS); do \
		mkdir -p $(CACHE)/fuzz-corpus/$$target fuzz/regressions/$$target; \
		cargo fuzz run $$target $(CACHE)/fuzz-corpus/$$target fuzz/corpus/$$target fuzz/regressions/$$target -- \
			-max_total_time=$(SECONDS_EACH) -timeout=120 -print_final_stats=1 || exit 1; \
	done

lint: claim ## Check format, clippy and documentation; a warning is an error.
	cargo fmt --check
	cargo clippy --release --locked --all-targets $(FEATURES) -- -D warnings
	cargo clippy --release --locked --all-targets $(FEATURES) --features otel -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --document-private-items $(FEATURES)

# Its own build: for every CPU, in dist/ and $(CARGO_TARGET_DIR)/portable. FEATURES="otel": names of features alone.
dist: setup ## Make the archive of a release, for every CPU of this architecture: dist/candor-….tar.gz
	FEATURES="$(patsubst --features,,$(FEATURES))" scripts/dist.sh

clean: ## Remove what was built. Downloaded models stay.
	cargo clean
