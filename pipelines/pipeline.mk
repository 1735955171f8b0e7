# The wiring for Make: which stage feeds which. Make starts every stage each time; a stage whose key is in the store only
# prints the path. $(RUN)/STAGE.path holds the path of the artifact and is replaced only when it changes.

STAGES := import-model prepare-data train validate select-best fuse evaluate report
RUN    := $(BUILD)/$(PIPELINE)/$(MODEL)
DATA   ?= data/$(PIPELINE)

settings := --config pipelines/$(PIPELINE).toml --config pipelines/models/$(MODEL).toml --store '$(STORE)' \
            $(foreach setting,$(SET),--set '$(setting)')

# The artifact of an earlier stage; empty in `plan` before that stage has run.
of = "$$(cat '$(RUN)/$(1).path' 2>/dev/null)"

from_folder := $(if $(MODEL_DIR),--model-dir '$(MODEL_DIR)')
import-model-inputs = $(from_folder)
prepare-data-inputs = --tokenizer $(call of,import-model) --data '$(DATA)'
train-inputs        = --model $(call of,import-model) --dataset $(call of,prepare-data)
validate-inputs     = --model $(call of,import-model) --dataset $(call of,prepare-data) --train $(call of,train)
select-best-inputs  = --train $(call of,train) --validate $(call of,validate)
fuse-inputs         = --model $(call of,import-model) --adapters $(call of,select-best) --dataset $(call of,prepare-data)
# A failed gate does not keep the report from being written; `make gate` tells.
scored-models       = --model base=$(call of,import-model) --model fused=$(call of,fuse) --dataset $(call of,prepare-data) \
                      $(if $(ENCODER),--encoder $(call of,encoder))
evaluate-inputs     = $(scored-models) --gate note
report-inputs       = $(foreach stage,$(filter-out report,$(STAGES)),--$(stage) $(call of,$(stage)))

.PHONY: pipeline plan gate encoder $(STAGES)

##@ Pipeline
pipeline: report ## Run all stages that are not up to date and print the scores
	@cat $(call of,report)/data/summary.txt
	@echo "report: $$(cat '$(RUN)/report.path')/data/report.html"

import-model: build ## Import the base model
prepare-data: import-model ## Build the dataset
train: prepare-data ## Fine-tune
validate: train ## Score every checkpoint on the validation split
select-best: validate ## Pick the best checkpoint
fuse: select-best ## Fuse its adapters into the base model
evaluate: fuse $(if $(ENCODER),encoder) ## Score the base and the fused model on the test split
report: evaluate ## Write the report

$(STAGES):
	@mkdir -p '$(RUN)'
	@'$(BIN)/$@' $(settings) $($@-inputs) >'$(RUN)/$@.path.new' || { code=$$?; rm -f '$(RUN)/$@.path.new'; exit $$code; }
	@if cmp -s '$(RUN)/$@.path.new' '$(RUN)/$@.path'; then rm '$(RUN)/$@.path.new'; \
	  else mv '$(RUN)/$@.path.new' '$(RUN)/$@.path'; fi

# The encoder is a model of its own, with its own preset.
encoder-import = '$(BIN)/import-model' --config 'pipelines/models/$(ENCODER).toml' --store '$(STORE)'

encoder: build
	@mkdir -p '$(RUN)'
	@$(encoder-import) >'$(RUN)/encoder.path.new' || { code=$$?; rm -f '$(RUN)/encoder.path.new'; exit $$code; }
	@mv '$(RUN)/encoder.path.new' '$(RUN)/encoder.path'

gate: report ## Run all stages; fail if the fused model does not pass [evaluate.gate] of the settings
	@'$(BIN)/evaluate' $(settings) $(scored-models) --gate fail >/dev/null

# After a stage that would run, later keys are not known yet.
plan: build ## Show which stages would run, and why
	@mkdir -p '$(RUN)'; rm -f '$(RUN)/waiting'; \
	$(if $(ENCODER),pipelines/plan.sh encoder '$(RUN)/waiting' $(encoder-import) &&) \
	$(foreach stage,$(STAGES),pipelines/plan.sh $(stage) '$(RUN)/waiting' '$(BIN)/$(stage)' $(settings) $($(stage)-inputs) &&) \
	rm -f '$(RUN)/waiting'
