# The wiring for Make: which stage feeds which. Make starts every stage each time; a stage whose key is in the store only
# prints the path. $(RUN)/STAGE.path holds the path of the artifact and is replaced only when it changes.
#
# RUN is named by everything that was asked for, so pipelines with different settings never read each other's pointers. That includes
# the content of the settings files, so that they may be edited, and another pipeline started, while one runs. (Each stage reads them
# when it starts.) Beside RUN, $(LATEST)/STAGE.path names the artifact of the last run with any settings, for people; no stage reads it.

override STAGES := import-model prepare-data train validate select-best fuse evaluate report

override LATEST := $(call path,BUILD)/$(call raw,PIPELINE)/$(call raw,MODEL)
override ASKED := $(foreach name,BACKEND STORE DATA MODEL_DIR MEMORY ENCODER LAUNCH SHARD_LAYERS,$(call quoted,$(name))) $(call quote,$(call listed,SET))
# The settings files of a pipeline, and those in pipelines/, which presets include.
override PRESETS := $(call quote,pipelines/$(call raw,PIPELINE).toml) $(foreach name,MODEL ENCODER,$(call quote,pipelines/models/$(call raw,$(name)).toml)) \
           $(call quote,pipelines/memory/$(call raw,MEMORY).toml) pipelines/*.toml
# `tail` prints the name of each file before its content. An empty variable names a file that does not exist.
override RUN := $(LATEST)/$(shell { printf '%s\n' $(ASKED); tail -n +1 $(PRESETS) 2>/dev/null; } | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-12)

# The page with times, which no hash covers, says which artifacts were made before this moment.
export ASHLAR_PIPELINE_START := $(shell date -u +%Y-%m-%dT%H:%M:%SZ)

settings := --config=$(call quote,pipelines/$(call raw,PIPELINE).toml) \
            --config=$(call quote,pipelines/models/$(call raw,MODEL).toml) \
            $(if $(call raw,MEMORY),--config=$(call quote,pipelines/memory/$(call raw,MEMORY).toml)) \
            --store=$(call quoted-path,STORE) $(set-flags)

# The artifact of an earlier stage, named in the folder "$pointers"; empty in `plan` if that stage would run.
of = "$$(cat "$$pointers/$(1).path" 2>/dev/null)"
pointers = pointers=$(call quote,$(RUN))

from_folder := $(if $(call raw,MODEL_DIR),--model-dir=$(call quoted,MODEL_DIR))
import-model-inputs = $(from_folder)
prepare-data-inputs = --tokenizer=$(call of,import-model) --data=$(call quoted,DATA)
train-inputs        = --model=$(call of,import-model) --dataset=$(call of,prepare-data)
validate-inputs     = --model=$(call of,import-model) --dataset=$(call of,prepare-data) --train=$(call of,train)
select-best-inputs  = --model=$(call of,import-model) --train=$(call of,train) --validate=$(call of,validate)
fuse-inputs         = --model=$(call of,import-model) --adapters=$(call of,select-best) --dataset=$(call of,prepare-data)
# A failed gate does not keep the report from being written; `make gate` tells.
scored-models       = --model base=$(call of,import-model) --model fused=$(call of,fuse) --dataset=$(call of,prepare-data) \
                      $(if $(call raw,ENCODER),--encoder=$(call of,encoder))
evaluate-inputs     = $(scored-models) --gate note
report-inputs       = $(foreach stage,$(filter-out report,$(STAGES)),--$(stage)=$(call of,$(stage)))

.PHONY: pipeline preset check-settings pin plan gate evaluate-gguf encoder $(STAGES)

# The demo shows the way; its translations are no use.
real-model = $(if $(filter demo,$(call raw,MODEL)),$(if $(call raw,MODEL_DIR),,echo 'next, a pretrained language model (177 MB to download, 6 to 10 minutes): make pipeline MODEL=smollm2-135m' &&))

##@ Pipeline
pipeline: report ## Run all stages that are not up to date and print the scores
	@$(pointers); report=$(call of,report); cat "$$report/data/summary.txt" && page="$$report/telemetry/report.html" && \
	  { [ -e "$$page" ] || page="$$report/data/report.html"; } && \
	  $(real-model) printf 'report: %s\n' "$$page"

import-model: check-settings ## Import the base model
prepare-data: import-model ## Build the dataset
train: prepare-data ## Fine-tune
validate: train ## Score every checkpoint on the validation split
select-best: validate ## Pick the best checkpoint
fuse: select-best ## Fuse its adapters into the base model
evaluate: fuse $(if $(call raw,ENCODER),encoder) ## Score the base and the fused model on the test split
report: evaluate ## Write the report

# LAUNCH starts `train` on several ranks, such as `mpirun -n 2`; SHARD_LAYERS divides the blocks of the model among them.
$(STAGES):
	@$(pointers); sh pipelines/stage.sh "$$pointers" $(call quote,$(LATEST)) $@ $(and $(filter train,$@),$(call raw,LAUNCH)) $(call quote,$(call path,BIN)/$@) $(and $(filter train,$@),$(filter-out 0,$(call raw,SHARD_LAYERS)),--shard-layers) $(settings) $($@-inputs)

# The encoder is a model of its own, with its own preset.
encoder-import = $(call quote,$(call path,BIN)/import-model) --config=$(call quote,pipelines/models/$(call raw,ENCODER).toml) \
                 --store=$(call quoted-path,STORE)

encoder: build
	@$(pointers); sh pipelines/stage.sh "$$pointers" $(call quote,$(LATEST)) encoder $(encoder-import)

gate: report ## Run all stages; fail if the fused model does not pass [evaluate.gate] of the settings
	@$(pointers); $(call quote,$(call path,BIN)/evaluate) $(settings) $(scored-models) --gate fail >/dev/null

# A GGUF file is scored as an import of it: its folder, because a report accepts artifacts of one pipeline only. The pointers have other names than those of the stages, whose results stay as they are.
run-extra = sh pipelines/stage.sh "$$pointers" $(call quote,$(LATEST))
reported  = $(filter-out report evaluate,$(STAGES))

evaluate-gguf: fuse $(if $(call raw,ENCODER),encoder) ## Score the GGUF file of fuse too, and print the scores (SET="fuse.gguf=q8_0")
	@$(pointers); gguf=$(call of,fuse)/data/gguf; \
	if [ ! -d "$$gguf" ]; then \
	  printf '%s\n' 'error: fuse wrote no GGUF file' 'hint: choose a format, such as `make evaluate-gguf SET="fuse.gguf=q8_0"`' >&2; exit 2; \
	fi; \
	$(run-extra) gguf $(call quote,$(call path,BIN)/import-model) --model-dir="$$gguf" --store=$(call quoted-path,STORE) && \
	$(run-extra) evaluate-gguf $(call quote,$(call path,BIN)/evaluate) $(settings) $(scored-models) --model fused_gguf=$(call of,gguf)/data/model --gate note && \
	$(run-extra) report-gguf $(call quote,$(call path,BIN)/report) $(settings) \
	  $(foreach stage,$(reported),--$(stage)=$(call of,$(stage))) --evaluate=$(call of,evaluate-gguf) && \
	report=$(call of,report-gguf) && cat "$$report/data/summary.txt" && echo && \
	sed -n -e '/^## Exports/,/^## [^E]/{' -e 's/\\_/_/g' -e '/^|/p' -e '}' "$$report/data/report.md" && \
	printf 'report: %s\n' "$$report/data/report.html"

# Names all presets if MODEL is not one of them.
preset:
	@sh pipelines/preset.sh $(call quoted,MODEL)

pin: preset build ## Pin the model of MODEL: write its commit and the hash of every file into the preset
	@$(call quote,$(call path,BIN)/import-model) $(settings) --write-lock=$(call quote,pipelines/models/$(call raw,MODEL).toml)

# The settings of all stages, before any of them runs: a mistake in those of `evaluate` would otherwise show after a night of
# training. Those of import-model show at once.
check-settings: of = absent/$(1)
check-settings: preset build
	@$(foreach stage,$(filter-out import-model,$(STAGES)),sh pipelines/settings.sh $(call quote,$(call path,BIN)/$(stage)) $(settings) $($(stage)-inputs) &&) :

# After a stage that would run, later keys are not known yet.
plan: check-settings ## Show which stages would run, and why
	@pointers=$$(mktemp -d) || exit; trap 'rm -rf "$$pointers"' EXIT; \
	$(if $(call raw,ENCODER),sh pipelines/plan.sh "$$pointers" encoder $(encoder-import) &&) \
	$(foreach stage,$(STAGES),sh pipelines/plan.sh "$$pointers" $(stage) $(call quote,$(call path,BIN)/$(stage)) $(settings) $($(stage)-inputs) &&) :
