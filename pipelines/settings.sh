#!/bin/sh
# Checks the settings of a stage. usage: settings.sh PROGRAM ARGUMENT…
#
# Its inputs are paths at which nothing is. A stage reads its settings first: it ends with 2 if they are wrong, and otherwise for
# want of an input.
set -u
said=$("$@" --plan 2>&1 >/dev/null)
if [ $? -eq 2 ]; then
    printf '%s\n' "$said" >&2
    exit 2
fi
