#!/bin/sh
# Checks the settings of a stage. usage: settings.sh PROGRAM ARGUMENT…
#
# The inputs are paths that do not exist. A stage reads its settings first: it exits with 2 if they are wrong, and otherwise with
# another code because an input is missing.
set -u
said=$("$@" --plan 2>&1 >/dev/null)
if [ $? -eq 2 ]; then
    printf '%s\n' "$said" >&2
    exit 2
fi
