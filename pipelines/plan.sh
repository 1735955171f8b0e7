#!/bin/sh
# Shows whether a stage would run. usage: plan.sh STAGE WAITING PROGRAM ARGUMENT…
#
# The file WAITING names the first stage that would run. Whether later stages run depends on its output, so they wait.
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
