#!/bin/sh
# Measures our programs beside mlx-lm and PyTorch. usage: run.sh PROGRAMS
#
# Settings are variables: QUICK=1, PEERS="mlx-lm torch", WORKLOADS="W1 W6a", BACKEND=cpu|metal|cuda. The peers are installed into
# `.venv-bench` at the root of the repository, each in an environment of its own, and reused. BENCH_PYTHON names an interpreter that
# has everything already.
set -eu
programs=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
here=tests/bench
backend=${BACKEND:-cpu}
[ "$backend" = cpu ] && usual='mlx-lm torch' || usual=mlx-lm
peers=$(printf '%s' "${PEERS-$usual}" | tr ',' ' ')

fail() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

# Makes the environment NAME in `.venv-bench` with the packages of requirements-NAME.txt, unless it is there.
environment() {
    wanted=$here/requirements-$1.txt
    [ "$backend" = cuda ] && [ "$1" = mlx-lm ] && wanted=$here/requirements-mlx-lm-cuda.txt
    folder=.venv-bench/$1
    cmp -s "$wanted" "$folder/requirements.txt" && return
    echo "installing $wanted into $folder" >&2
    rm -rf "$folder"
    "${PYTHON:-python3}" -m venv "$folder" >&2 ||
        fail "Python could not make the virtual environment \`$folder\`" \
            'install python3 with its modules venv and pip, or set PYTHON to another interpreter'
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$wanted" >&2 || fail "$2" "$3"
    cp "$wanted" "$folder/requirements.txt"
}

"${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail 'the benchmark needs Python 3.10 or newer' 'set PYTHON to such an interpreter'
if [ -z "${BENCH_PYTHON-}" ]; then
    environment inputs "the packages in $here/requirements-inputs.txt could not be installed" \
        'the messages above are from pip; it needs a package index (PIP_INDEX_URL names a mirror)'
    case " $peers " in *" mlx-lm"*)
        environment mlx-lm 'the peer `mlx-lm` could not be installed' 'leave it out: PEERS=torch make bench (or PEERS=none)' ;;
    esac
    case " $peers " in *" torch"*)
        environment torch 'the peer `torch` could not be installed' 'leave it out: PEERS=mlx-lm make bench (or PEERS=none)' ;;
    esac
fi
export BACKEND="$backend" PEERS="$peers" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
# E1, the sentence encoder, is a program of its own beside PyTorch.
case " $(printf '%s' "${WORKLOADS-E1}" | tr ',' ' ') :$backend: $peers " in *" E1 "*":cpu:"*" torch"*)
    "${BENCH_PYTHON:-.venv-bench/torch/bin/python}" $here/encoder.py "$programs" ;;
esac
if [ -n "${WORKLOADS-}" ]; then
    others=
    for name in $(printf '%s' "$WORKLOADS" | tr ',' ' '); do [ "$name" = E1 ] || others="$others $name"; done
    [ -n "$others" ] || exit 0
    export WORKLOADS="$others"
fi
exec "${PYTHON:-python3}" $here/bench.py "$programs"
