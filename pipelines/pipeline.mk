# Which stage feeds which. Every stage runs each time and finds out by content whether there is anything to do;
# $(RUN)/STAGE.path points at its artifact and is moved only when it changes.

STAGES := import-model prepare-data train validate select-best fuse evaluate report
RUN    := $(BUILD)/$(PIPELINE)/$(MODEL)
DATA   ?= data/$(PIPELINE)

settings := --config pipelines/$(PIPELINE).toml --config pipelines/models/$(MODEL).toml --store '$(STORE)' \
            $(foreach setting,$(SET),--set '$(setting)')

# The artifact of an earlier stage; `plan` may ask before there is one.
of = "$$(cat '$(RUN)/$(1).path' 2>/dev/null)"

from_folder := $(if $(MODEL_DIR),--model-dir '$(MODEL_DIR)')
import-model-inputs = $(from_folder)
prepare-data-inputs = --tokenizer $(call of,import-model) --data '$(DATA)'
train-inputs        = --model $(call of,import-model) --dataset $(call of,prepare-data)
validate-inputs     = --model $(call of,import-model) --dataset $(call of,prepare-data) --train $(call of,train)
select-best-inputs  = --train $(call of,train) --validate $(call of,validate)
fuse-inputs         = --model $(call of,import-model) --adapters $(call of,select-best) --dataset $(call of,prepare-data)
evaluate-inputs     = --model base=$(call of,import-model) --model fused=$(call of,fuse) --dataset $(call of,prepare-data)
report-inputs       = $(foreach stage,$(filter-out report,$(STAGES)),--$(stage) $(call of,$(stage)))

.PHONY: pipeline plan $(STAGES)

##@ Pipeline
pipeline: report ## Run every stage that has something to do, and print the scores
	@cat $(call of,report)/data/summary.txt
	@echo "report: $$(cat '$(RUN)/report.path')/data/report.html"

import-model: build ## Take in the base model
prepare-data: import-model ## Make the dataset
train: prepare-data ## Fine-tune
validate: train ## Score every checkpoint on the validation split
select-best: validate ## Pick the best checkpoint
fuse: select-best ## Work its adapters into the base model
evaluate: fuse ## Score base and fused model on the test split
report: evaluate ## Write the report

$(STAGES):
	@mkdir -p '$(RUN)'
	@'$(BIN)/$@' $(settings) $($@-inputs) >'$(RUN)/$@.path.new' || { code=$$?; rm -f '$(RUN)/$@.path.new'; exit $$code; }
	@if cmp -s '$(RUN)/$@.path.new' '$(RUN)/$@.path'; then rm '$(RUN)/$@.path.new'; \
	  else mv '$(RUN)/$@.path.new' '$(RUN)/$@.path'; fi

# Once a stage would run, what follows cannot be looked up yet.
plan: build ## Tell which stages would run, and why
	@mkdir -p '$(RUN)'; rm -f '$(RUN)/waiting'; \
	$(foreach stage,$(STAGES),pipelines/plan.sh $(stage) '$(RUN)/waiting' '$(BIN)/$(stage)' $(settings) $($(stage)-inputs) &&) \
	rm -f '$(RUN)/waiting'
