#!/bin/sh
# Holds our files against transformers, peft, gguf and, where it is installed, llama.cpp. usage: run-full.sh PROGRAMS [CASE…]
#
# Everything goes into `.venv-full` at the root of the repository (some gigabytes), and stays there for the next time.
# llama.cpp is asked too after `.venv-full/bin/python -m pip install llama-cpp-python`, which compiles it.
set -eu
programs=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.."
wanted=tests/interop/requirements-full.txt
if ! cmp -s "$wanted" .venv-full/requirements.txt; then
    "${PYTHON:-python3}" -m venv .venv-full
    .venv-full/bin/python -m pip install --quiet --requirement "$wanted" >&2
    cp "$wanted" .venv-full/requirements.txt
fi
exec .venv-full/bin/python tests/interop/full.py "$programs" "$@"
