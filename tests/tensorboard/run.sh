#!/bin/sh
# Trains a tiny model and reads its event file with TensorBoard. usage: run.sh PROGRAMS
#
# TensorBoard is installed into the virtual environment `.venv-tensorboard` at the root of the repository (or
# TENSORBOARD_VENV) and reused.
set -eu
programs=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
venv=${TENSORBOARD_VENV:-.venv-tensorboard}
wanted=tests/tensorboard/requirements.txt
if ! cmp -s "$wanted" "$venv/requirements.txt"; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --requirement "$wanted" >&2
    cp "$wanted" "$venv/requirements.txt"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
row=0
while [ "$row" -lt 40 ]; do
    printf '{"prompt":"question %s","completion":"answer %s is %s"}\n' "$row" "$row" "$((row * row))"
    row=$((row + 1))
done >"$work/rows.jsonl"
model=tests/golden/llama
dataset=$("$programs/prepare-data" --store "$work/store" --data "$work/rows.jsonl" --tokenizer "$model" \
    --set max_tokens=64 --quiet)
trained=$("$programs/train" --store "$work/store" --model "$model" --dataset "$dataset" --quiet \
    --set steps=60 --set report_every=5 --set validation_every=20 --set rank=2)
exec "$venv/bin/python" tests/tensorboard/check.py "$trained"
