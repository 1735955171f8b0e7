#!/bin/sh
# Compares our files with mlx-lm. usage: run.sh PROGRAMS [CASE…]
#
# mlx-lm is installed into `.venv` at the root of the repository and reused.
set -eu
programs=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.."
wanted=tests/interop/requirements.txt
if ! cmp -s "$wanted" .venv/requirements.txt; then
    "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install --quiet --requirement "$wanted" >&2
    cp "$wanted" .venv/requirements.txt
fi
# No downloads from here on.
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
exec .venv/bin/python tests/interop/interop.py "$programs" "$@"
