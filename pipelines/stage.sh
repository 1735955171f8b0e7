#!/bin/sh
# Runs a stage and keeps the path that it prints. usage: stage.sh POINTERS LATEST STAGE PROGRAM ARGUMENT…
#
# The path is written to POINTERS/STAGE.path and LATEST/STAGE.path. A pointer appears whole and only when it changes, whatever
# other runs do at the same time.
set -u
pointers=$1 latest=$2 stage=$3
shift 3
mkdir -p "$pointers" || exit
new=$pointers/.$stage.path.$$
trap 'rm -f "$new"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
"$@" >"$new" || exit
for pointer in "$latest/$stage.path" "$pointers/$stage.path"; do
    cmp -s "$new" "$pointer" && continue
    copy=$pointer.$$
    cp "$new" "$copy" && mv -f "$copy" "$pointer" || exit
done
