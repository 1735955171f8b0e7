# Sweeps from Make: the program `sweep` with the settings, store and programs of this checkout. See docs/sweeps.md.

unexport SWEEP PLAN JOBS NIX SLURM MAX_MEMORY RETRIES

# `make -j 4 sweep` runs four members at a time; a make that does not say its number needs JOBS=4.
jobs  = $(or $(call raw,JOBS),$(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))))
# A variable for the makes of the members, if it was given.
given = $(if $(filter file default undefined,$(origin $(1))),,$(1))
pass  = $(foreach name,$(1),$(if $(call given,$(name)),--make $(call quote,$(name)=$(call raw,$(name)))))

sweep-program = $(call quote,$(call raw,BIN)/sweep) $(call quoted,SWEEP) --store $(call quoted,STORE) --build $(call quoted,BUILD) \
                $(if $(call given,PIPELINE),--pipeline $(call quoted,PIPELINE)) $(if $(call given,MODEL),--model $(call quoted,MODEL)) \
                $(if $(jobs),--jobs $(jobs)) $(call flagged,--max-memory,MAX_MEMORY) $(call flagged,--retries,RETRIES) $(set-flags) \
                --make $(call quote,BIN=$(call raw,BIN)) $(call pass,BACKEND DATA MODEL_DIR MEMORY ENCODER LAUNCH SHARD_LAYERS)
sweep-only    = $(if $(call raw,PLAN),--plan) $(call flagged,--nix,NIX) $(call flagged,--slurm,SLURM)
sweep-folder  = $(call raw,BUILD)/sweeps/$(basename $(notdir $(call raw,SWEEP)))

.PHONY: sweep sweep-page

##@ Sweeps
# The page is written even if some runs failed.
sweep: build ## Run the pipeline for many settings: SWEEP=lr-rank [-j 4] [SET=…] (PLAN=1: what would run; NIX=FILE, SLURM=FILE)
	@$(call needs,SWEEP,SWEEP=lr-rank) $(if $(strip $(sweep-only)),$(sweep-program) $(sweep-only), \
	  code=0; $(sweep-program) >/dev/null || code=$$?; [ $$code -le 1 ] || exit $$code; \
	  $(sweep-page) || [ $$code -ne 0 ]; exit $$code)

sweep-page: build ## Make the page of a sweep again: SWEEP=lr-rank [OUT=build/sweeps/lr-rank/sweep.html]
	@$(call needs,SWEEP,SWEEP=lr-rank) $(sweep-page)

sweep-page = $(call quote,$(call raw,BIN)/report) sweep $(call quote,$(sweep-folder)/sweep.json) --store $(call quoted,STORE) \
             $(call flagged,--out,OUT)
