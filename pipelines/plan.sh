#!/bin/sh
# Shows whether a stage would run. usage: plan.sh POINTERS STAGE PROGRAM ARGUMENT…
#
# The path of an artifact that is up to date goes to POINTERS/STAGE.path, for the stages after it. POINTERS/waiting names the
# first stage that would run: whether later stages run depends on its output, so they wait. ASHLAR_PLAN names a file to which
# the plan is added as JSON.
set -u
pointers=$1 stage=$2
shift 2
if [ -f "$pointers/waiting" ]; then
    echo "$stage: waits for $(cat "$pointers/waiting")"
    exit 0
fi
if [ -n "${ASHLAR_PLAN:-}" ]; then "$@" --plan --json >>"$ASHLAR_PLAN" 2>/dev/null; fi
text=$({ "$@" --plan 2>&1 >&3 3>&-; } 3>"$pointers/$stage.path")
code=$?
case $code in
    0) ;;
    10 | 11) echo "$stage" >"$pointers/waiting" ;;
    *)
        printf '%s\n' "$text" >&2
        exit $code
        ;;
esac
printf '%s\n' "$text"
