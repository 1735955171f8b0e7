#!/usr/bin/env bash
# Tests everything under nix/ with the real programs, in the full sandbox and a temporary store; the machine's own store
# and Nix settings are not touched. usage: run.sh PROGRAMS [GROUP…]
#
# PROGRAMS is the folder that cargo built into. Groups: evaluation flake pipeline resume store models sweep.
set -euo pipefail
cd "$(dirname "$0")/../.."
programs=$(cd "$1" && pwd)
shift
groups=${*:-evaluation flake pipeline resume store models sweep}

missing() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 1; }
[ "$(uname -s)" = Linux ] || missing 'these tests need the Linux sandbox' 'on macOS, run `nix flake check`'
command -v nix-build >/dev/null || missing 'Nix is not installed' 'on Debian: apt-get install nix-bin'
command -v busybox >/dev/null || missing 'busybox is not installed' 'on Debian: apt-get install busybox-static'

work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
store=$work/store
tools=$work/tools
mkdir -p "$work/conf" "$work/home" "$work/scratch"
cat >"$work/conf/nix.conf" <<CONF
experimental-features = nix-command flakes ca-derivations
store = $store
sandbox = true
sandbox-fallback = false
sandbox-paths = /var/tmp/ashlar-scratch=$work/scratch
build-users-group =
substituters =
connect-timeout = 1
max-jobs = 1
flake-registry =
warn-dirty = false
CONF
export CARGO_HOME=${CARGO_HOME:-$HOME/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
export NIX_CONF_DIR=$work/conf HOME=$work/home
unset NIX_PATH NIX_REMOTE ASHLAR_STORE ASHLAR_SCRATCH HF_HUB_CACHE HF_HOME MAKEFLAGS MFLAGS MAKEOVERRIDES DATA MODEL_DIR

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Fails unless two texts are the same.
same() { [ "$1" = "$2" ] || fail "$3: expected
$1
but found
$2"; }

# Where a store path is, in this store or in another.
in_store() { echo "${2:-$store}$1"; }

# The small pipeline; arguments are passed to nix-build.
small() { nix-build tests/nix/small.nix --arg tools "$tools" --no-out-link "$@"; }

# Runs a command and shows its log only if it fails.
quietly() { "$@" >"$work/out" 2>"$work/log" || { cat "$work/log" >&2; fail "$*"; }; }

# The names of derivations in a log or a plan of Nix, without helpers that only link.
names() { grep -o "/nix/store/[a-z0-9]*-[a-z0-9.-]*\.drv" | sed 's|.*/[a-z0-9]*-\(.*\)\.drv|\1|' | grep -v '^run-' | sort -u | tr '\n' ' '; }
built() { grep "^building '" "$work/log" | names || true; }
planned() { "$@" --dry-run 2>&1 | names || true; }

# A stage and those that follow it in the pipeline.
from_train='evaluate fuse report select-best train validate '
from_validate='evaluate fuse report select-best validate '
all='evaluate fuse import-model prepare-data report select-best train validate '

nix/host-tools.sh "$tools" "$programs"
for group in $groups; do
    say "$group"
    # shellcheck source=/dev/null
    . "tests/nix/$group.sh"
done
say 'all tests passed'
