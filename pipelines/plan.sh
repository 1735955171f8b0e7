#!/bin/sh
# Tells whether a stage would run. usage: plan.sh STAGE WAITING PROGRAM ARGUMENT…
#
# Once one stage of a pipeline would run, what follows cannot be looked up: whether it has to run depends on bytes that
# are not there yet. The file WAITING then names the first such stage.
set -u
stage=$1 waiting=$2
shift 2
if [ -f "$waiting" ]; then
    echo "$stage: waits for $(cat "$waiting")"
    exit 0
fi
"$@" --plan 2>&1 >/dev/null
code=$?
case $code in
    0) ;;
    10 | 11) echo "$stage" >"$waiting" ;;
    *) exit $code ;;
esac
