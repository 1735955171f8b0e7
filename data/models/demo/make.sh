#!/bin/sh
# Trains the demo model from nothing and puts it into data/models/demo. usage: make.sh PROGRAMS WORK
#
# The text is the Fornander collection without the stories that the haw-eng pipeline validates and tests on.
set -eu
programs=$1 work=$2
here=data/models/demo
export ASHLAR_STORE="$work/artifacts"
mkdir -p "$work"

# Any tokenizer will do here: it does not decide which story goes into which split.
split=$("$programs/prepare-data" --tokenizer tests/golden/gemma3_text --data data/haw-eng --config pipelines/haw-eng.toml)
cargo run --quiet --release --package dataset --example demo_corpus -- \
    data/haw-eng/fornander_aligned.jsonl "$split/data/rows" "$here/config.json" "$work"
dataset=$("$programs/prepare-data" --tokenizer "$work/seed" --data "$work/corpus.jsonl" --config pipelines/demo-base.toml)
run=$("$programs/train" --model "$work/seed" --dataset "$dataset" --config pipelines/demo-base.toml)

# With fine_tune_type = "full" and everything trained, the last checkpoint is the whole model.
last=$(ls "$run/data/checkpoints" | tail -n 1)
install -m 644 "$run/data/checkpoints/$last/adapters/adapters.safetensors" "$here/model.safetensors"
install -m 644 "$work/seed/tokenizer.json" "$work/seed/tokenizer_config.json" "$here/"
echo "$here" >&2
