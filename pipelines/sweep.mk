# Sweeps from Make: the program `sweep` with the settings, store and programs of this checkout. See docs/sweeps.md.

unexport SWEEP PLAN JOBS NIX SLURM MAX_MEMORY RETRIES

# `make -j 4 sweep` runs four members at a time; a make that does not say its number needs JOBS=4. MFLAGS is MAKEFLAGS without the
# variables of the command line.
jobs  = $(or $(call raw,JOBS),$(patsubst -j%,%,$(firstword $(filter -j%,$(MFLAGS)))))
# Variables for the makes of the members, if they were given.
pass  = $(foreach name,$(1),$(if $(call given,$(name)),--make=$(call quote,$(name)=$(call raw,$(name)))))

sweep-program = $(call quote,$(call path,BIN)/sweep) --store=$(call quoted-path,STORE) --build=$(call quoted-path,BUILD) \
                $(if $(call given,PIPELINE),--pipeline=$(call quoted,PIPELINE)) $(if $(call given,MODEL),--model=$(call quoted,MODEL)) \
                $(if $(jobs),--jobs=$(call quote,$(jobs))) $(call flagged,--max-memory,MAX_MEMORY) $(call flagged,--retries,RETRIES) $(set-flags) \
                --make=$(call quote,BIN=$(call raw,BIN)) $(call pass,BACKEND DATA MODEL_DIR MEMORY ENCODER LAUNCH SHARD_LAYERS) \
                $(sweep-only) -- $(call quoted,SWEEP)
sweep-only    = $(if $(call raw,PLAN),--plan) $(call flagged,--nix,NIX) $(call flagged,--slurm,SLURM)

.PHONY: sweep sweep-page

##@ Sweeps
# The page is written even if some runs failed.
sweep: build ## Run the pipeline for many settings: SWEEP=lr-rank [-j 4] [SET=…] (PLAN=1: what would run; NIX=FILE, SLURM=FILE)
	@$(call needs,SWEEP,SWEEP=lr-rank) $(if $(strip $(sweep-only)),$(sweep-program), \
	  code=0; $(sweep-program) >/dev/null || code=$$?; [ $$code -le 1 ] || exit $$code; \
	  $(sweep-page) || [ $$code -ne 0 ]; exit $$code)

sweep-page: build ## Make the page of a sweep again: SWEEP=lr-rank [OUT=build/sweeps/lr-rank/sweep.html]
	@$(call needs,SWEEP,SWEEP=lr-rank) $(sweep-page)

# The folder of a sweep is named after its file, which SWEEP names with or without a folder and `.toml`.
sweep-page = file=$(call quoted,SWEEP); name=$${file\#\#*/}; case $$file in */* | *.toml) name=$${name%.*} ;; esac; \
             $(call quote,$(call path,BIN)/report) sweep --store=$(call quoted-path,STORE) $(call flagged,--out,OUT) \
             -- $(call quote,$(call path,BUILD)/sweeps)/"$$name"/sweep.json
