# The store from Make: the program `artifacts` with the store and pointers of this checkout.

$(call default,GRACE,14days)
unexport ARTIFACT STAGE GRACE REMOTE A B TO KEY FORMAT DELETE NO_POINTERS RUN_AGAIN

artifacts = $(call quote,$(call path,BIN)/artifacts) --store=$(call quoted-path,STORE)
# A variable as an argument, if it is set; and as the value of a flag. Arguments follow `--`, and values their flag and `=`, so that
# a value which begins with `-` is not taken for a flag.
optional  = $(if $(call raw,$(1)),$(call quoted,$(1)))
flagged   = $(if $(call raw,$(2)),$(1)=$(call quoted,$(2)))
# The folder of pointers, which need not exist if it is the usual one.
pointer-folder = $(if $(filter-out build,$(call raw,BUILD)),--pointers=$(call quoted,BUILD))
# Ends the recipe if a variable is not set.
needs     = $(if $(call raw,$(1)),,echo 'error: set $(1), such as `make $@ $(2)`' >&2; exit 2;)

.PHONY: ls show status why diff lineage verify gc keep push pull export reproduce

##@ Store
ls: build ## List artifacts
	@$(artifacts) ls

show: build ## Show one artifact: ARTIFACT=train (a stage, label, key or folder)
	@$(call needs,ARTIFACT,ARTIFACT=train) $(artifacts) show -- $(call quoted,ARTIFACT)

status: build ## Show what the store holds and what is left over in it
	@$(artifacts) status $(pointer-folder)

# Of a run that is only planned, explains the first stage that would run (or STAGE, if that is up to date).
why: build $(if $(call raw,ARTIFACT),,check-settings) ## Explain a key: ARTIFACT=…, or of a run that is only planned: SET="train.rank=4" [STAGE=train]
	@$(if $(call raw,ARTIFACT),$(artifacts) why -- $(call quoted,ARTIFACT),$(explain-plan))

explain-plan = stage=$(if $(call raw,STAGE),$(call quoted,STAGE),report); \
	case $$stage in $(subst $(space),|,$(STAGES))) ;; *) printf 'error: STAGE is `%s`, which is no stage of the pipeline\n' "$$stage" >&2; exit 2 ;; esac; \
	pointers=$$(mktemp -d) || exit; trap 'rm -rf "$$pointers"' EXIT; \
	$(if $(call raw,ENCODER),sh pipelines/plan.sh "$$pointers" encoder $(encoder-import) >/dev/null &&) \
	$(foreach stage,$(STAGES),sh pipelines/plan.sh "$$pointers" $(stage) $(program) $(settings) $($(stage)-inputs) >/dev/null &&) : || exit; \
	[ -s "$$pointers/$$stage.path" ] || stage=$$(cat "$$pointers/waiting"); \
	case $$stage in \
	$(foreach stage,$(STAGES),($(stage)) $(program) $(settings) $($(stage)-inputs) --plan --json | $(artifacts) why - ;;) esac
program = $(call quote,$(call path,BIN)/$(stage))

diff: build ## Compare two artifacts: A=… B=… [FORMAT=markdown]
	@$(call needs,A,A=1a5f B=77ab) $(call needs,B,A=1a5f B=77ab) \
	  $(artifacts) diff $(call flagged,--format,FORMAT) -- $(call quoted,A) $(call quoted,B)

lineage: build ## Show what an artifact was made from [ARTIFACT=report] [FORMAT=dot]
	@$(artifacts) lineage $(call flagged,--format,FORMAT) -- $(call optional,ARTIFACT)

verify: build ## Verify every byte of the store
	@$(artifacts) verify

# After `make clean`, no pipeline points at anything: DELETE=1 is refused without NO_POINTERS=1.
gc: build ## Show what nothing needs any more; remove it with DELETE=1 [GRACE=14days] [NO_POINTERS=1 after clean]
	@$(artifacts) gc --grace=$(call quoted,GRACE) $(if $(call raw,NO_POINTERS),--no-pointers,$(pointer-folder)) $(if $(call raw,DELETE),--delete)

keep: build ## Keep an artifact and all it was made from: ARTIFACT=report
	@$(artifacts) keep -- $(call optional,ARTIFACT)

push: build ## Copy to a folder or s3://BUCKET/PREFIX: REMOTE=… [ARTIFACT=report]
	@$(call needs,REMOTE,REMOTE=/mnt/backup) $(artifacts) push -- $(call quoted,REMOTE) $(call optional,ARTIFACT)

pull: build ## Copy from a folder or s3://BUCKET/PREFIX: REMOTE=… [ARTIFACT=STAGE/KEY]
	@$(call needs,REMOTE,REMOTE=/mnt/backup) $(artifacts) pull -- $(call quoted,REMOTE) $(call optional,ARTIFACT)

export: build ## Write a model, a run or a dataset in other formats: ARTIFACT=fuse TO=my-model [KEY=key.pem OUTPUT=gguf FORMAT=ro-crate]
	@$(call needs,ARTIFACT,ARTIFACT=fuse TO=my-model) $(call needs,TO,ARTIFACT=fuse TO=my-model) \
	  $(artifacts) export --to=$(call quoted,TO) $(call flagged,--key,KEY) $(call flagged,--format,FORMAT) \
	  $(if $(call given,OUTPUT),$(call flagged,--output,OUTPUT)) -- $(call quoted,ARTIFACT)

reproduce: build ## Print the commands that make an artifact again: ARTIFACT=report [RUN_AGAIN=1]
	@$(call needs,ARTIFACT,ARTIFACT=report) $(artifacts) reproduce --files=$(call quoted,DATA) \
	  --files=$(call quote,$(or $(call raw,MODEL_DIR),data/models/$(call raw,MODEL))) \
	  --bin=$(call quoted,BIN) $(if $(call raw,RUN_AGAIN),--run) -- $(call quoted,ARTIFACT)
