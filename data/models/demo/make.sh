#!/bin/sh
# Trains the demo model from scratch and copies it to data/models/demo. usage: make.sh PROGRAMS WORK
#
# The text is the Fornander collection without the stories in the validation and test splits of the haw-eng pipeline.
set -eu
programs=$1 work=$2
here=data/models/demo
export ASHLAR_STORE="$work/artifacts"
mkdir -p "$work"

# Any tokenizer works here: it does not affect which story goes to which split.
split=$("$programs/prepare-data" --tokenizer tests/golden/gemma3_text --data data/haw-eng --config pipelines/haw-eng.toml)
cargo run --quiet --release --package dataset --example demo_corpus -- \
    data/haw-eng/fornander_aligned.jsonl "$split/data/rows" "$here/config.json" "$work"
dataset=$("$programs/prepare-data" --tokenizer "$work/seed" --data "$work/corpus.jsonl" --config pipelines/demo-base.toml)
run=$("$programs/train" --model "$work/seed" --dataset "$dataset" --config pipelines/demo-base.toml)

# With fine_tune_type = "full" and all parameters trained, the last checkpoint is the whole model.
last=$(ls "$run/data/checkpoints" | tail -n 1)
install -m 644 "$run/data/checkpoints/$last/adapters/adapters.safetensors" "$here/model.safetensors"
install -m 644 "$work/seed/tokenizer.json" "$work/seed/tokenizer_config.json" "$here/"
echo "$here" >&2
