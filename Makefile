# `make run` installs the build dependencies, builds, and starts the server.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# rustup puts cargo here; a shell that was already open does not have it in its path.
export PATH := $(PATH):$(HOME)/.cargo/bin

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/candor
# Outside the clone: clones stay small and share the build of llama.cpp, which takes minutes.
export CARGO_TARGET_DIR ?= $(CACHE)/target
CANDOR := $(CARGO_TARGET_DIR)/release/candor

# Flags for `candor serve`: make run ARGS="--port 8080"
ARGS ?=
# Flags for cargo: make run FEATURES="--features cuda"
FEATURES ?=

# A running server to measure: make bench URL=http://127.0.0.1:8000. The default is to start one.
URL ?=

# Duration of `make soak`.
MINUTES ?= 20

# Duration of `make fuzz` for each target.
SECONDS_EACH ?= 60
FUZZ_TARGETS := request stop_search detokenise grammar config_file

.PHONY: help setup claim python build run test test-models test-gpu test-examples test-clients test-web test-templates test-router test-ray kubernetes bench soak exactness overload fuzz documents docs audit lint dist wheel test-wheel clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install missing build dependencies (on Debian and derivatives).
	@FEATURES="$(FEATURES)" scripts/setup.sh

claim: setup
	@scripts/claim.sh "$(CURDIR)"

# Benchmarks, and tests with other programs, are in Python.
python:
	@command -v python3 > /dev/null || { echo "python3 with venv is required. On Debian: apt-get install python3-venv"; exit 1; }

build: claim ## Build the server.
	cargo build --release --locked $(FEATURES)

# The shell ignores Ctrl-C and leaves it to the server, so that make exits after the server and not before.
run: build ## Build and serve on http://127.0.0.1:8000. Flags: make run ARGS="--port 8080"
	@trap : INT; $(CANDOR) serve $(ARGS)

test: build ## Run all tests; downloads the default model once.
	$(CANDOR) fetch default
	cargo test --release --locked $(FEATURES)

test-models: python build ## Run all tests, also with larger models (1.9 GB, downloaded once): make test-models ARGS="qwen"
	$(CANDOR) fetch default
	CANDOR_TEST_MODELS="$$(scripts/prepare-test-models.py)" && export CANDOR_TEST_MODELS && \
		cargo test --release --locked $(FEATURES) -- $(ARGS)

test-gpu: build ## Run the tests of a GPU: make test-gpu FEATURES="--features vulkan"
	$(CANDOR) fetch default
	cargo test --release --locked $(FEATURES) --test it -- --nocapture --test-threads 1 gpu::

test-clients: python build ## Test with real clients (OpenAI's, LangChain and others): make test-clients ARGS="--only python"
	@scripts/setup.sh chromium
	$(CANDOR) fetch default
	tests/clients/run.py --candor $(CANDOR) $(if $(URL),--url $(URL)) $(ARGS)

test-web: python build ## Test the page in Chromium and type-check its scripts: make test-web ARGS="-k fork"
	@scripts/setup.sh chromium
	$(CANDOR) fetch default
	tests/web/run.py --candor $(CANDOR) $(ARGS)

test-templates: python build ## Compare prompts with those of transformers, for 150 chat templates (200 MB, downloaded once).
	scripts/templates.py --candor $(CANDOR) $(ARGS)

test-router: build ## Test behind HAProxy: kills, a stop with a drain, and streams.
	@scripts/setup.sh haproxy
	cargo test --release --locked $(FEATURES) --test it -- --nocapture router::

test-ray: python build ## Test the batch in examples/ray on two Ray nodes of this machine: make test-ray ARGS="-k engine"
	$(CANDOR) fetch default
	tests/ray/run.py --candor $(CANDOR) $(ARGS)

kubernetes: python build ## Check config/kubernetes against Kubernetes' schemas; needs kubectl or kustomize.
	scripts/kubernetes.py --candor $(CANDOR) $(ARGS)

test-examples: python build ## Run the notebooks and scripts in examples/ and compare their output with what is committed.
	$(CANDOR) fetch default
	examples/run.py --candor $(CANDOR) $(ARGS)

bench: python build ## Measure speed, optionally of other servers too: make bench ARGS="llama-server=http://127.0.0.1:8080"
	$(CANDOR) fetch default
	scripts/bench.py $(if $(URL),candor=$(URL),--candor $(CANDOR)) $(ARGS)

soak: python build ## Run random traffic of 32 clients for some minutes: make soak MINUTES=20
	$(CANDOR) fetch default
	scripts/soak.py --candor $(CANDOR) --minutes $(MINUTES) $(ARGS)

exactness: python build ## Look for answers whose bits depend on other requests: make exactness ARGS="--model MODEL --requests 2000"
	$(CANDOR) fetch default
	scripts/exactness.py --candor $(CANDOR) $(ARGS)

overload: python build ## Run 500 clients on 8 slots for a minute.
	$(CANDOR) fetch default
	scripts/overload.py --candor $(CANDOR) $(ARGS)

docs: setup ## Build the documentation as a site, and print where it is.
	@test -x $(CACHE)/tools/bin/mdbook || cargo install mdbook --locked --root $(CACHE)/tools
	@scripts/docs.sh $(CACHE)/tools/bin/mdbook $(CARGO_TARGET_DIR)/site
	@echo "the site: $(CARGO_TARGET_DIR)/site/book/index.html"

documents: build ## Check every answer against /openapi.json, with requests generated by Schemathesis.
	scripts/schemathesis.sh $(CANDOR)

# Advisories, licences and sources of the dependencies. The advisory database comes from GitHub; without access to it, the
# rest is checked.
audit: setup ## Check the dependencies against deny.toml.
	@test -x $(CACHE)/tools/bin/cargo-deny || cargo install cargo-deny --locked --root $(CACHE)/tools
	@export PATH="$(CACHE)/tools/bin:$$PATH"; cargo deny check licenses bans sources && \
		if cargo deny fetch db > /dev/null 2>&1; then cargo deny check advisories; \
		else echo "audit: the advisory database cannot be reached; advisories were not checked"; fi

# cargo-fuzz needs compiler flags that officially only nightly accepts; RUSTC_BOOTSTRAP enables them on stable. This is a
# separate build, because everything in it is instrumented. cargo-fuzz adds to RUSTFLAGS, which hides .cargo/config.toml.
# New inputs go to the cache, in addition to those in fuzz/; failing inputs are written to fuzz/artifacts.
fuzz: setup ## Fuzz each target: make fuzz SECONDS_EACH=60
	@test -x $(CACHE)/tools/bin/cargo-fuzz || cargo install cargo-fuzz --locked --root $(CACHE)/tools
	@export PATH="$(CACHE)/tools/bin:$$PATH" RUSTC_BOOTSTRAP=1 RUSTFLAGS="-C target-cpu=native" \
		CARGO_TARGET_DIR=$(CACHE)/fuzz-target; \
	for target in $(FUZZ_TARGETS); do \
		mkdir -p $(CACHE)/fuzz-corpus/$$target fuzz/regressions/$$target; \
		cargo fuzz run $$target $(CACHE)/fuzz-corpus/$$target fuzz/corpus/$$target fuzz/regressions/$$target -- \
			-max_total_time=$(SECONDS_EACH) -timeout=120 -print_final_stats=1 || exit 1; \
	done

lint: claim ## Check formatting, clippy and documentation; warnings are errors.
	cargo fmt --check
	cargo clippy --release --locked --all-targets $(FEATURES) -- -D warnings
	cargo clippy --release --locked --all-targets $(FEATURES) --features otel -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --document-private-items $(FEATURES)

# A separate build, for every CPU, in dist/ and $(CARGO_TARGET_DIR)/portable. FEATURES="otel": only the features' names.
dist: setup ## Build the release archive, for every CPU of this architecture: dist/candor-….tar.gz
	FEATURES="$(patsubst --features,,$(FEATURES))" scripts/dist.sh

wheel: setup python ## Build a Python wheel with the program of `make dist`: dist/candor-….whl
	FEATURES="$(patsubst --features,,$(FEATURES))" scripts/wheel.py

test-wheel: ## Install the wheel in a bare Debian, without compiler or Rust, and run the server there. Needs root.
	scripts/test-wheel.sh

clean: ## Remove build output. Downloaded models are kept.
	cargo clean
