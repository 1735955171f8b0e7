#!/bin/sh
# Downloads the libraries that the build of `mlx-sys` needs to DIR (default: .native at the workspace root):
#   DIR/mlx-c          the C interface's sources, from the published mlx-sys 0.7.0 crate
#   DIR/mlx-BACKEND    a prebuilt MLX (headers and libmlx), from the wheel that `requirements-BACKEND.txt` pins
# Both are pinned by checksum (`Cargo.lock`, `requirements-*.txt`). Does nothing if they are already there in that version.
#
# usage: fetch.sh [cpu|metal|cuda] [DIR]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
backend=${1:-cpu}
dir=${2:-$here/../../../.native}
requirements=$here/requirements-$backend.txt
[ -f "$requirements" ] || { echo "error: unknown backend \`$backend\`: use cpu, metal or cuda" >&2; exit 2; }
version=$(sed -n 's/^mlx[a-z0-9-]*==\([0-9.]*\).*/\1/p' "$requirements")
mkdir -p "$dir"

# Removes partial downloads on every exit.
scratch=$(mktemp -d "$dir/.fetch-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

if [ ! -d "$dir/mlx-c" ]; then
    echo "fetching mlx-c 0.7.0" >&2
    cp -r "$here/../mlx-c-source" "$scratch/mlx-c-source"
    (cd "$scratch/mlx-c-source" && cargo vendor --quiet --locked --versioned-dirs vendor >/dev/null)
    mv "$scratch/mlx-c-source/vendor/mlx-sys-0.7.0/src/mlx-c" "$dir/mlx-c"
fi

if ! [ -d "$dir/mlx-$backend/mlx" ] || ! ls -d "$dir/mlx-$backend"/mlx*-"$version".dist-info >/dev/null 2>&1; then
    echo "fetching MLX $version ($backend)" >&2
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --require-hashes --requirement "$requirements" --dest "$scratch" >&2 || {
        echo "error: the MLX wheel could not be downloaded" >&2
        echo "hint: put one named in $requirements into a folder and set PIP_FIND_LINKS to it" >&2
        exit 1
    }
    python3 -m zipfile -e "$scratch"/mlx_*.whl "$scratch/mlx"
    rm -rf "$dir/mlx-$backend"
    mv "$scratch/mlx" "$dir/mlx-$backend"
fi
